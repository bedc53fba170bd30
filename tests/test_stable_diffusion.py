"""What a method asks of the model beside pictures: its latents, whatever their channels, its losses, its
fingerprint."""
from dataclasses import replace

import pytest
import torch
from conftest import clip_tokenizer, pixels
from PIL import Image

from clip_text import CLIPText, CLIPTextConfig
from ddpm import ScheduleConfig
from stable_diffusion import SUBJECTS, TINY, StableDiffusion
from pictures import load_pictures
from tiny_unet import UNet, UNetConfig
from vae import VAE, VAEConfig


@pytest.fixture
def six():
    """A small random model whose latents have six channels and are half as large as its pictures."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
              "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    unet = UNet(UNetConfig(sample_size=12, in_channels=6, out_channels=6, block_out_channels=(16, 32),
                           layers_per_block=1, attention_head_dim=2, cross_attention_dim=24, norm_num_groups=8,
                           **blocks))
    vae = VAE(VAEConfig(latent_channels=6, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4))
    text = CLIPText(CLIPTextConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=3))
    schedule = ScheduleConfig(beta_schedule="scaled_linear", steps_offset=1)
    return StableDiffusion(clip_tokenizer(), text, unet, vae, schedule)


def noisy(*size):
    return Image.effect_noise(size, 60).convert("RGB")


# === latents ==========================================================================================================

def test_latents_may_have_any_number_of_channels(six, tmp_path):
    """The tiny world's have eight. A picture is drawn, encoded and decoded, and the model is saved and loaded."""
    assert six.size == 24
    *_, (_, z, z_0) = six.walk(["a cat", "a dog"], images=2, steps=2, size=(32, 20))
    assert z.shape == z_0.shape == (4, 6, 16, 10)
    assert [picture.size for picture in six.sample("a cat", steps=1, images=2)] == [(24, 24)] * 2
    mean, std = six.encode([noisy(20, 32)] * 3)
    z = six.draw_latents(mean, std, torch.Generator())
    assert mean.shape == std.shape == z.shape == (3, 6, 16, 10)
    assert six.decode(z).shape == (3, 3, 32, 20)
    six.save(tmp_path / "six")
    again = StableDiffusion.from_pretrained(str(tmp_path / "six"))
    assert again.sample("a cat", steps=2)[0].tobytes() == six.sample("a cat", steps=2)[0].tobytes()


def test_prompts_share_a_seed_or_have_one_each_and_are_drawn_as_when_alone(six):
    three, four = (six.sample("a cat", steps=2, seed=seed)[0] for seed in (3, 4))
    shared, own = (six.sample(["a cat"] * 2, steps=2, seed=seed) for seed in (3, [3, 4]))
    for picture, expected in zip([*shared, *own], [three, three, three, four], strict=True):
        assert pixels(picture, expected) <= 1 < pixels(three, four)


def test_draws_from_a_gaussian_have_its_mean_and_deviation_scaled(six):
    six.vae.config = replace(six.vae.config, scaling_factor=0.5)
    mean, std = torch.full((1, 6, 64, 64), 3.0), torch.full((1, 6, 64, 64), 0.2)
    z = six.draw_latents(mean, std, torch.Generator().manual_seed(0))
    assert z.mean().item() == pytest.approx(1.5, abs=0.01) and z.std().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(z, six.draw_latents(mean, std, torch.Generator().manual_seed(0)))


def test_decoding_undoes_the_scaling(six, monkeypatch):
    """The autoencoder itself knows nothing of it."""
    monkeypatch.setattr(six.vae, "decode", lambda z: z)
    z = torch.randn(1, 6, 4, 4)
    assert torch.allclose(six.decode(z * six.vae.config.scaling_factor), z)


# === what is trained, and where =======================================================================================

def test_a_frozen_model_trains_nothing(six):
    six.unet.requires_grad_(True)
    six.freeze()
    assert not any(weight.requires_grad for part in (six.unet, six.text, six.vae) for weight in part.parameters())


def test_bfloat16_is_what_is_computed_and_not_what_is_kept(six):
    z, words = torch.randn(1, 6, 12, 12), six.read(["a cat"])
    for dtype, expected in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        with six.autocast(dtype):
            assert six.unet(z, torch.tensor([5]), words).dtype == expected
    assert six.device == torch.device("cpu") and six.unet.conv_in.weight.dtype == torch.float32


# === losses and fingerprints ==========================================================================================

def test_the_loss_at_three_noise_levels_tells_the_right_prompt():
    """At little noise the picture itself says what it is; the more noise, the more the words matter. No chance is
    left in it."""
    sd, cats = StableDiffusion.from_pretrained(TINY), load_pictures(SUBJECTS / "cat")
    right, wrong = [sd.loss_by_noise(cats, prompt) for prompt in ("a photo of a cat", "a photo of a teapot")]
    assert right == sd.loss_by_noise(cats, "a photo of a cat")
    losses = [[float(loss) for loss in text.split()] for text in (right, wrong)]
    assert [len(three) for three in losses] == [3, 3]
    assert losses[0][1] < losses[1][1] and losses[0][2] < losses[1][2], (right, wrong)


def test_a_network_that_says_nothing_has_a_loss_of_one(six):
    """At every noise level: it is wrong by all of the noise, whose variance is 1."""
    six.unet.conv_out.weight.data.zero_()
    six.unet.conv_out.bias.data.zero_()
    losses = six.loss_by_noise([noisy(24, 24), noisy(24, 24)], "a cat").split()
    assert [float(loss) for loss in losses] == pytest.approx([1] * 3, abs=0.1)


def test_a_fingerprint_is_the_models_in_either_precision_and_no_other_models(six, tmp_path):
    """It is what keeps a theta, or class pictures, from being taken for another model's."""
    own = six.fingerprint()
    for half in (False, True):
        six.save(tmp_path / f"{half}", half=half)
        assert StableDiffusion.from_pretrained(str(tmp_path / f"{half}")).fingerprint() == own
    for weight in (six.unet.conv_out.bias, six.text.table.weight, next(six.unet.mid_block.parameters())):
        kept = weight.data.clone()
        weight.data.view(-1)[0] += 0.1
        assert six.fingerprint() != own
        weight.data.copy_(kept)
    assert six.fingerprint() == own
