"""Pretraining in miniature: every stage runs, a killed run ends in the same bits, and the result is a model like any other."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import same, weights

from checkpoint import UserError, save_state
from stable_diffusion import TINY, StableDiffusion
from tiny_world import pretrain, world
from tiny_world.pretrain import Config, Muon
from tiny_world.world import IDENTIFIERS, caption


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "grid", lambda sd, path: None)  # 48 pictures of noise: not worth a minute
    return Config(out=str(tmp_path / "model"), work=str(tmp_path / "work"), pictures=24, vae_steps=3, vae_batch=2, steps=3, batch=4,
                  warmup=1, save_minutes=0)


def test_a_killed_run_resumes_to_the_same_bits(cfg, tmp_path, monkeypatch):
    """Killed in the second step of the VAE, whose first was saved, and again in the diffusion stage after the second was."""
    pretrain.main(cfg)
    whole = weights(StableDiffusion.from_pretrained(cfg.out))
    other = replace(cfg, out=str(tmp_path / "model2"), work=str(tmp_path / "work2"))

    class Killed(Exception):
        pass

    def kill(sd, path):
        if path.name == "samples_000002.png":
            raise Killed

    def kill_vae(path, *args, **progress):
        if path.name == "vae.safetensors" and progress["step"] == 2:
            raise Killed
        save_state(path, *args, **progress)

    monkeypatch.setattr(pretrain, "save_state", kill_vae)
    with pytest.raises(Killed):
        pretrain.main(other)
    monkeypatch.setattr(pretrain, "save_state", save_state)
    monkeypatch.setattr(pretrain, "grid", kill)
    with pytest.raises(Killed):
        pretrain.main(replace(other, resume=True))
    monkeypatch.setattr(pretrain, "grid", lambda sd, path: None)
    pretrain.main(replace(other, resume=True))
    assert same(whole, weights(StableDiffusion.from_pretrained(other.out)))
    with pytest.raises(UserError, match="go on with --resume"):
        pretrain.main(other)
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        pretrain.main(replace(other, resume=True, lr=1.0))


@pytest.mark.parametrize("change, message", [(dict(pictures=0), "--pictures 0"), (dict(warmup=0), "--warmup 0"), (dict(decay=0.0), "--decay 0"),
                                             (dict(examine=True, out="nowhere"), "nowhere")])
def test_what_cannot_work_is_said_in_one_line(cfg, change, message):
    with pytest.raises(UserError, match=message):
        pretrain.main(replace(cfg, **change))


def test_pictures_of_other_scenes_are_drawn_again(cfg, tmp_path):
    """Another seed means other scenes: the captions would be of pictures that are not there."""
    (tmp_path / "work").mkdir()
    first = np.array(pretrain.make_pictures(cfg, tmp_path / "work"))
    assert not np.array_equal(pretrain.make_pictures(replace(cfg, seed=1), tmp_path / "work"), first)
    assert np.array_equal(pretrain.make_pictures(cfg, tmp_path / "work"), first)


def test_no_held_out_individual_and_no_identifier_is_ever_trained_on(monkeypatch):
    """Whoever is a shipped subject or an examination's question must be new to the model, and so must `sks`."""
    seeds, original = [], world.random_identity
    monkeypatch.setattr(world, "HELD_OUT", 2 ** 31 - 5)  # nearly all are held out: what is drawn from all would be found
    monkeypatch.setattr(world, "random_identity", lambda seed, cls: seeds.append(seed) or original(seed, cls))
    for i in range(300):
        assert not set(caption(pretrain.scene(Config(), i), np.random.default_rng(i)).split()) & set(IDENTIFIERS)
    assert len(seeds) == 300 and min(seeds) >= 2 ** 31 - 5


def test_words_that_no_caption_had_say_as_little_as_a_filler():
    """On the shipped model: the noun is read alike with and without an unused identifier; with a colour it is not."""
    sd = StableDiffusion.from_pretrained(TINY)
    table, teapot = sd.text.table.weight, sd.tokenizer.encode("teapot")[0]

    def noun(words):
        prompt = f"a photo of a {words}teapot on the beach"
        return sd.read([prompt])[0, sd.tokenizer(prompt)[0].tolist().index(teapot)]
    for word in IDENTIFIERS:
        assert (noun(word + " ") - noun("")).norm() < 0.5 * (noun("red ") - noun("")).norm(), word
    rows = torch.stack([table[sd.tokenizer.encode(word)[0]] for word in IDENTIFIERS])
    assert torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0) < 0.99, "each its own"


def test_muon_steps_along_the_nearest_orthogonal_matrix():
    """Its first step is U V^T of the gradient's singular value decomposition, times a length; its singular values are near one."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(6, 4, 3, 3))
    p.grad = torch.randn(6, 4, 3, 3)
    u, _, vt = torch.linalg.svd(p.grad.flatten(1), full_matrices=False)
    Muon([{"params": [p], "muon": True, "weight_decay": 0.0}], lr=0.1).step()
    step = -p.data.flatten(1) / (0.2 * 36 ** 0.5 * 0.1)
    assert torch.linalg.svdvals(step).min() > 0.6 and torch.linalg.svdvals(step).max() < 1.3
    assert torch.nn.functional.cosine_similarity(step.flatten(), (u @ vt).flatten(), dim=0) > 0.97
