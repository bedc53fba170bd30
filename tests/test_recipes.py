"""RECIPES.md: each change applies to the script as it is, in at most ten lines, runs, and changes what is learned."""
import importlib.util
import re
import shutil
import subprocess

import pytest
import torch
from conftest import ROOT, trained, weights

import dreambooth

TEXT = (ROOT / "RECIPES.md").read_text("utf-8")
RECIPES = dict(re.findall(r"## (.+?)\n.+?```diff\n(.+?\n)```", TEXT, re.DOTALL))
BARE = {"Another regulariser", "Two subjects at once"}  # without class pictures, as their text says


def changed(name, place):
    """dreambooth.py with a change, as a module."""
    shutil.copy(ROOT / "dreambooth.py", place)
    subprocess.run(["git", "apply", "-"], input=RECIPES[name], cwd=place, text=True, check=True)
    spec = importlib.util.spec_from_file_location("changed", place / "dreambooth.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def cfg(sd15_folder, photos, tmp_path):
    def make(script, name, **how):
        how = {"prior_weight": 0.0 if name in BARE else 1.0, "steps": 5, "out": str(tmp_path / script.__name__)} | how
        return script.Config(model=str(sd15_folder), images=str(photos), class_name="dog", batch_size=2, lr=1e-4,
                             class_images=2, sampling_steps=2, size=64, train_text_encoder=False, **how)
    return make


def test_there_is_a_recipe_for_each_section():
    assert len(RECIPES) == TEXT.count("\n## ") == 9


@pytest.mark.parametrize("name", RECIPES)
def test_a_change_is_small_and_has_an_effect(name, cfg, tmp_path, monkeypatch):
    lines = [line for line in RECIPES[name].split("\n") if re.match(r"[+-](?![+-])", line)]
    assert 1 <= len(lines) <= 10 and all(len(line) <= 101 for line in lines)
    monkeypatch.syspath_prepend(str(ROOT))
    script = changed(name, tmp_path)
    after = weights(trained(script, cfg(script, name)))
    before = weights(trained(dreambooth, cfg(dreambooth, name)))
    moved = [n for n in before if not torch.equal(before[n], after[n])]
    if name == "A picture every 50 steps":
        assert not moved, "looking is not touching"
        script.main(cfg(script, name, steps=50, out=str(tmp_path / "looked")))
        assert (tmp_path / "looked" / "step_0050.png").exists()
    else:
        assert moved and all(n.startswith("unet.") for n in moved)
