"""What the five scripts have in common before they train: a folder of their own, the model that is named, a word about
photos that are small."""
import importlib

import pytest
from conftest import locked
from PIL import Image

from files import UserError

WITH_A_MODEL = ("dreambooth", "attn_dreambooth")  # which they leave in --out
SCRIPTS = (*WITH_A_MODEL, "textual_inversion", "hyperdreambooth", "learn_hypernetwork")


def prepared(script, photos, out, **how):
    """A script's prepare, with photos of a dog."""
    module = importlib.import_module(script)
    if script == "hyperdreambooth":
        how = {"hypernetwork": "none", "a": 8, "b": 6} | how
    return module.prepare(module.Config(images=str(photos), class_name="dog", out=str(out), **how))


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_runs_in_one_folder_are_refused_before_a_model_is_loaded(script, photos, tmp_path):
    """Each would take the other's state for its own. What the first one is writing stays."""
    other = locked(tmp_path / "out")
    (tmp_path / "out" / "state.partial.safetensors").touch()
    with pytest.raises(UserError, match="--out .*: another run is at work there"):
        prepared(script, photos, tmp_path / "out", model="no/model/here")
    assert (tmp_path / "out" / "state.partial.safetensors").exists()
    other.close()


@pytest.mark.parametrize("script", WITH_A_MODEL)
def test_what_is_no_model_is_not_replaced_by_one(script, photos, tmp_path):
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / "thesis.txt").write_text("three years")
    with pytest.raises(UserError, match="model is there and is no model: move it away"):
        prepared(script, photos, tmp_path / "out", model="no/model/here")
    assert (tmp_path / "out" / "model" / "thesis.txt").read_text() == "three years"


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_revision_and_the_variant_that_are_named_are_fetched(script, photos, tmp_path, monkeypatch):
    asked = []

    def fetch(*what):
        asked.append(what)
        raise UserError("enough")
    monkeypatch.setattr("checkpoint.fetch", fetch)
    for how, expected in (({}, ("", "")), ({"revision": "refs/pr/9", "variant": "fp16"}, ("refs/pr/9", "fp16"))):
        with pytest.raises(UserError, match="enough"):
            prepared(script, photos, tmp_path / "out", model="org/name", **how)
        assert asked.pop() == ("org/name", *expected)


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "learn_hypernetwork"])
def test_photos_that_must_be_enlarged_are_said(script, sd15_folder, photos, tmp_path, capsys):
    """Of the three here one has a shorter side of 64, two of 60. (hyperdreambooth.py takes the first one.)"""
    prepared(script, photos, tmp_path / "out", model=str(sd15_folder), size=64)
    of_them = "1 of 1 photos are" if script == "hyperdreambooth" else "2 of 3 photos are"
    assert f"{of_them} smaller than 64 pixels, the smallest 60" in capsys.readouterr().err
    for photo in photos.iterdir():
        Image.open(photo).resize((64, 90)).save(photo)
    prepared(script, photos, tmp_path / "out", model=str(sd15_folder), size=64)
    assert "photos" not in capsys.readouterr().err
