"""Pretraining in miniature: every stage runs, a killed run ends in the same bits, and the result is a model like any
other."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import same, weights

from command import write_state
from files import UserError
from stable_diffusion import TINY, StableDiffusion
from tiny_unet import UNet, UNetConfig
from tiny_world import pretrain, world
from tiny_world.examine import spread
from tiny_world.judge import Judge
from tiny_world.pretrain import Config, Muon, loudness
from tiny_world.widen import Widening
from tiny_world.world import IDENTIFIERS, caption


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """Without what looks at the model on the way: thousands of drawings, and pictures of noise."""
    monkeypatch.setattr(pretrain, "Figures", lambda vae: None)
    monkeypatch.setattr(pretrain, "look", lambda cfg, sd, *more: sd.save(cfg.out, half=True))
    return Config(out=str(tmp_path / "model"), work=str(tmp_path / "work"), pictures=24, vae_steps=3, vae_batch=2,
                  steps=3, batch=4, warmup=1, save_minutes=0, align_steps=2)


class Killed(Exception):
    pass


def killed_after(name, step):
    """write_state, and then the end."""
    def write(path, *state, **numbers):
        write_state(path, *state, **numbers)
        if (path.name, numbers["step"]) == (name, step):
            raise Killed
    return write


def test_a_killed_run_resumes_to_the_same_bits(cfg, tmp_path, monkeypatch):
    """Killed when the first step of the VAE was saved, and again in the diffusion stage after the second, the last in
    which the middle of the UNet is asked what the judge sees."""
    pretrain.main(cfg)
    whole = weights(StableDiffusion.from_pretrained(cfg.out))
    other = replace(cfg, out=str(tmp_path / "model2"), work=str(tmp_path / "work2"))
    monkeypatch.setattr(pretrain, "write_state", killed_after("vae.safetensors", 1))
    with pytest.raises(Killed):
        pretrain.main(other)
    monkeypatch.setattr(pretrain, "write_state", killed_after("diffusion.safetensors", 2))
    with pytest.raises(Killed):
        pretrain.main(replace(other, resume=True))
    monkeypatch.setattr(pretrain, "write_state", write_state)
    pretrain.main(replace(other, resume=True))
    assert same(whole, weights(StableDiffusion.from_pretrained(other.out)))
    with pytest.raises(UserError, match="go on with --resume"):
        pretrain.main(other)
    with pytest.raises(UserError, match=r"other settings \(lr\)"):
        pretrain.main(replace(other, resume=True, lr=1.0))


@pytest.mark.parametrize("given", ["vae", "start"])
def test_the_tokenizer_and_the_autoencoder_of_a_model_are_taken_as_they_are(cfg, tmp_path, given):
    """With --vae and with --start: none is trained, the text encoder has as many words, and latents are scaled as that
    model's."""
    pretrain.main(replace(cfg, steps=1, align=0.0, **{given: TINY}))
    made, given = StableDiffusion.from_pretrained(cfg.out), StableDiffusion.from_pretrained(TINY)
    assert made.tokenizer.vocab == given.tokenizer.vocab and made.vae.config == given.vae.config
    kept = {name: tensor.half().float() for name, tensor in given.vae.state_dict().items()}
    assert same(made.vae.state_dict(), kept) and not (tmp_path / "work" / "vae.safetensors").exists()


# === from a narrower model ============================================================================================

def small_unet(widths, linear=False):
    blocks = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
              "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    return UNet(UNetConfig(block_out_channels=widths, layers_per_block=2, attention_head_dim=4, cross_attention_dim=24,
                           norm_num_groups=8, use_linear_projection=linear, **blocks))


def outputs(*unets):
    """Of the same latents, noise levels and words."""
    x, words = torch.randn(3, 4, 8, 12), torch.randn(3, 7, 24)
    with torch.no_grad():
        return [unet(x, torch.tensor([0, 400, 999]), words) for unet in unets]


@pytest.mark.parametrize("widths, linear", [((16, 32), True), ((32, 64), False), ((48, 96), True)])
def test_a_unet_whose_channels_all_have_equally_many_copies_computes_the_same(widths, linear):
    torch.manual_seed(0)
    narrow, wide = small_unet((16, 32), linear), small_unet(widths, linear)
    Widening(narrow, wide)
    expected, found = outputs(narrow, wide)
    assert (found - expected).abs().max() < 1e-3 < 0.1 * expected.std()


@pytest.mark.parametrize("widths", [(24, 48), (24, 40), (40, 72), (16, 64)])
def test_a_unet_whose_channels_have_more_copies_and_fewer_computes_nearly_the_same(widths):
    """(16, 64) is uneven too, where two maps are read as one. One that starts anew computes something else."""
    torch.manual_seed(0)
    narrow, wide, other = small_unet((16, 32)), small_unet(widths), small_unet(widths)
    Widening(narrow, wide)
    expected, found, anew = outputs(narrow, wide, other)
    assert 1e-3 < (found - expected).norm() < 0.4 * expected.norm() < 0.4 * (anew - expected).norm()


def test_copies_of_a_channel_get_different_gradients():
    """Else they would stay copies for ever, and the wide network would learn no more than the narrow one could."""
    torch.manual_seed(0)
    narrow, wide = small_unet((16, 32)), small_unet((32, 64))
    Widening(narrow, wide)
    wide(torch.randn(3, 4, 8, 12), torch.tensor([0, 400, 999]), torch.randn(3, 7, 24)).square().sum().backward()
    for layer in (wide.conv_in, wide.mid_block.resnets[0].conv1, wide.down_blocks[1].attentions[0].proj_in):
        first, second = layer.weight[:2], layer.weight.grad[:2]
        assert torch.equal(first[0], first[1]) and (second[0] - second[1]).norm() > 0.05 * second[0].norm()


def test_training_goes_on_from_a_model_that_is_widened(cfg, monkeypatch):
    """With --start: before the first step it draws what that model draws, and reads as it reads."""
    begun = StableDiffusion.from_pretrained(TINY)
    twice = tuple(2 * width for width in begun.unet.config.block_out_channels)
    monkeypatch.setattr(pretrain, "UNET_CONFIG", replace(begun.unet.config, block_out_channels=twice))
    scale = begun.vae.config.scaling_factor
    sd, _ = pretrain.start_networks(replace(cfg, start=TINY), begun.tokenizer, begun.vae, scale)
    words = begun.read(["a photo of a cat", "a red teapot in the snow"])
    assert torch.equal(sd.read(["a photo of a cat", "a red teapot in the snow"]), words)
    x, t = torch.randn(2, 8, 16, 16), torch.tensor([200, 700])
    with torch.no_grad():
        assert (sd.unet(x, t, words) - begun.unet(x, t, words)).abs().max() < 1e-3
    assert sd.unet.conv_in.out_channels == 2 * begun.unet.conv_in.out_channels


# === what it is trained on ============================================================================================

def test_most_steps_are_at_the_noise_levels_in_the_middle_and_none_is_left_out():
    """A fifth of them evenly; of the rest as many below the middle as above."""
    share = torch.diff(pretrain.distribution_of_t(1000), prepend=torch.zeros(1))
    assert share.sum() == pytest.approx(1, abs=1e-5) and share.min() > 1.99e-4
    assert torch.allclose(share, share.flip(0), atol=1e-6)
    assert share[400:600].sum() > 2 * (share[:100].sum() + share[900:].sum())


@pytest.mark.parametrize("change, message", [
    (dict(pictures=0), "--pictures 0"), (dict(warmup=0), "--warmup 0"), (dict(decay=0.0), "--decay 0"),
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
    monkeypatch.setattr(world, "HELD_OUT", 2 ** 31 - 5)  # nearly all: what is drawn from all would be found
    monkeypatch.setattr(world, "random_identity", lambda seed, cls: seeds.append(seed) or original(seed, cls))
    for i in range(300):
        assert not set(caption(pretrain.scene(Config(), i), np.random.default_rng(i)).split()) & set(IDENTIFIERS)
    assert len(seeds) == 300 and min(seeds) >= 2 ** 31 - 5


def test_words_that_no_caption_had_say_nothing():
    """On the shipped model: a noun is read as after a filler, where a colour or a name before it moves it far; and
    pictures of it are as varied with an unused identifier as without, where a name's are alike."""
    sd, judge = StableDiffusion.from_pretrained(TINY), Judge.load()
    assert max(loudness(sd, word) for word in IDENTIFIERS) < 0.2 and loudness(sd, "blue") > 0.7
    rows = torch.stack([sd.text.table.weight[sd.tokenizer.encode(word)[0]] for word in IDENTIFIERS])
    assert torch.nn.functional.cosine_similarity(rows[0], rows[1], dim=0) < 0.99, "each its own"

    def varied(prompt):
        return spread(judge, sd.sample(prompt, images=8, steps=6, sampler="dpm++", seed=5))
    plain = varied("a photo of a teapot")
    for word in ("sks", "qvl"):
        assert varied(f"a photo of a {word} teapot") > 0.95 * plain, word
    assert varied("a photo of a balme teapot") < 0.8 * plain


def test_muon_steps_along_the_nearest_orthogonal_matrix():
    """Its first step is U V^T of the gradient's singular value decomposition, times a length; its singular values are
    near one."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.zeros(6, 4, 3, 3))
    p.grad = torch.randn(6, 4, 3, 3)
    u, _, vt = torch.linalg.svd(p.grad.flatten(1), full_matrices=False)
    Muon([{"params": [p], "muon": True, "weight_decay": 0.0}], lr=0.1).step()
    step = -p.data.flatten(1) / (0.2 * 36 ** 0.5 * 0.1)
    assert torch.linalg.svdvals(step).min() > 0.6 and torch.linalg.svdvals(step).max() < 1.3
    assert torch.nn.functional.cosine_similarity(step.flatten(), (u @ vt).flatten(), dim=0) > 0.97
