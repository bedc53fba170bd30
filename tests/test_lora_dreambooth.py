"""LoRA DreamBooth: what moves and what stays, where the products stand, the file that others open, and that it
learns."""
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import lora_dreambooth
from conftest import ROOT, diffusers_pipeline, held_out_error, latents, pixels, same, trained, weights
from dreambooth import draw_class_latents
from files import UserError
from lora_dreambooth import Config, adapted_layers, prepare, put_beside, start_lora, train
from stable_diffusion import StableDiffusion


@pytest.fixture
def cfg(sd15_folder, photos, tmp_path):
    return Config(model=str(sd15_folder), images=str(photos), class_name="dog", steps=3, lr=1e-2, batch_size=2, rank=3,
                  class_images=2, sampling_steps=2, save_every=2, size=64, out=str(tmp_path / "out"))


def factors(sd):
    return {f"{name}.{which}": factor.detach().clone() for name, pair in sd.lora.items()
            for which, factor in zip("AB", pair)}


# === what is trained ==================================================================================================

@pytest.mark.parametrize("train_text_encoder", [False, True])
def test_the_model_stays_and_all_that_stands_beside_it_moves(cfg, train_text_encoder):
    cfg = replace(cfg, train_text_encoder=train_text_encoder)
    sd = trained(lora_dreambooth, cfg)
    assert same(weights(sd), weights(StableDiffusion.from_pretrained(cfg.model)))
    before = start_lora(adapted_layers(sd, train_text_encoder), 3, torch.Generator().manual_seed(0))
    for name, (A, B) in sd.lora.items():
        assert not torch.equal(A, before[name][0]) and B.abs().max() > 0, name
    of_text = sum(name.startswith("lora_te_") for name in sd.lora)
    assert of_text == (2 * 4 if train_text_encoder else 0)
    assert len(sd.lora) - of_text == 16 * (2 * 4 + 1)  # transformers, their attentions and the GEGLU


def test_before_the_first_step_nothing_has_changed_and_then_it_is_equation_3(cfg):
    """B is zero; and with any other A and B the model is the one whose weights are W + alpha/r (A B)^T."""
    sd, plain = [StableDiffusion.from_pretrained(cfg.model) for _ in range(2)]
    layers = adapted_layers(sd)
    lora = start_lora(layers, 3, torch.Generator().manual_seed(1))
    put_beside(layers, lora, 0.5)
    z, t, words = torch.randn(2, 4, 8, 8), torch.tensor([5, 900]), torch.randn(2, 77, 32)
    with torch.no_grad():
        assert torch.equal(sd.unet(z, t, words), plain.unet(z, t, words))
        assert torch.equal(sd.read(["a dog"]), plain.read(["a dog"]))
        for name, layer in adapted_layers(plain).items():
            A, B = lora[name]
            B.copy_(0.3 * torch.randn(B.shape))
            layer.weight += 0.5 * (A @ B).T
        assert torch.allclose(sd.unet(z, t, words), plain.unet(z, t, words), atol=1e-4)
        assert torch.allclose(sd.read(["a dog"]), plain.read(["a dog"]), atol=1e-4)


def test_the_numbers_of_rank_1_are_those_of_hyperdreambooths_paper():
    """386k on Stable Diffusion 1: 311,616 of the UNet's layers, and with the text encoder's 385,344."""
    from clip_text import CLIPText, CLIPTextConfig
    from tiny_unet import UNet
    from vae import VAE
    with torch.device("meta"):
        sd = StableDiffusion(None, CLIPText(CLIPTextConfig()), UNet(), VAE())
    for text_encoder, count in ((False, 311_616), (True, 385_344)):
        layers = adapted_layers(sd, text_encoder).values()
        assert sum(layer.in_features + layer.out_features for layer in layers) == count


def test_alpha_over_rank_is_how_much_it_counts(cfg):
    """The first step is as long whatever alpha is (AdamW), so what it changes is in proportion to alpha."""
    def change(alpha):
        sd = trained(lora_dreambooth, replace(cfg, alpha=alpha, prior_weight=0.0), steps=1)
        name, (A, B) = next(iter(sd.lora.items()))
        x = torch.ones(1, 1, len(A))
        layer = adapted_layers(sd)[name]
        return (layer(x) - x @ layer.weight.T).detach()
    assert torch.allclose(change(6.0), 2 * change(3.0), rtol=1e-2, atol=1e-5)
    assert torch.equal(change(0.0), change(3.0))  # the rank


def test_a_killed_run_resumes_to_the_same_bits(cfg, tmp_path):
    cfg = replace(cfg, steps=4)
    whole = factors(trained(lora_dreambooth, cfg))
    other = replace(cfg, out=str(tmp_path / "killed"))
    trained(lora_dreambooth, other, steps=3)
    sd, settled, photos = prepare(replace(other, resume=True))
    assert [log["step"] for log in train(sd, settled, photos)] == [3, 4]
    assert same(whole, factors(sd))
    with pytest.raises(UserError, match=r"other settings \(rank, alpha\)"):
        prepare(replace(other, resume=True, rank=2))


@pytest.mark.parametrize("change, message", [
    (dict(token="<it>"), "--token <it>: a new word has no place in a LoRA's file"), (dict(rank=0), "--rank 0"),
    (dict(alpha=-1.0), "--alpha -1"), (dict(steps=0), "--steps 0"), (dict(images="nowhere"), "nowhere"),
    (dict(prior_weight=-1.0), "--prior-weight -1")])
def test_what_cannot_work_is_said_before_a_model_is_loaded(cfg, change, message):
    with pytest.raises(UserError, match=message):
        prepare(replace(cfg, model="no/model/here", **change))


# === what is saved ====================================================================================================

def test_the_command_leaves_a_file_that_diffusers_opens_and_draws_alike(cfg, tmp_path):
    ended = subprocess.run([sys.executable, "lora_dreambooth.py", "--model", cfg.model, "--images", cfg.images,
                            "--class-name", "dog", "--rank", "3", "--alpha", "6", "--lr", "0.1", "--steps", "2",
                            "--class-images", "1", "--sampling-steps", "2", "--train-text-encoder", "--out", cfg.out],
                           cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    out = tmp_path / "out"
    left = sorted(path.name for path in out.iterdir())
    assert left == [".lock", "before_after.png", "class_latents.safetensors", "pytorch_lora_weights.safetensors"]
    file = out / "pytorch_lora_weights.safetensors"
    tensors = load_file(file)
    assert {tensor.item() for name, tensor in tensors.items() if name.endswith(".alpha")} == {6.0}
    assert tensors["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"].shape == (3, 64)
    assert tensors["lora_te_text_model_encoder_layers_1_self_attn_out_proj.lora_up.weight"].shape == (32, 3)

    how = {"num_inference_steps": 4}
    pipe = diffusers_pipeline(cfg.model)
    plain = pipe("a sks dog", generator=torch.Generator().manual_seed(0), **how).images[0]
    pipe.load_lora_weights(file)
    theirs = pipe("a sks dog", generator=torch.Generator().manual_seed(0), **how).images[0]
    sd = StableDiffusion.from_pretrained(cfg.model)
    sd.load_lora(file)
    assert pixels(sd.sample("a sks dog", steps=4, guidance=7.5)[0], theirs) <= 1 < pixels(plain, theirs)


def test_what_was_trained_is_what_is_saved(cfg, tmp_path):
    """The model with products beside its layers draws what a fresh one draws with the file."""
    sd, settled, photos = prepare(replace(cfg, lr=0.1, alpha=6.0, train_text_encoder=True))
    for log in train(sd, settled, photos):
        pass
    changes = {name: (A.detach().T, B.detach().T) for name, (A, B) in sd.lora.items()}
    lora_dreambooth.save_lora(tmp_path / "lora.safetensors", changes, settled.alpha)
    other = StableDiffusion.from_pretrained(cfg.model)
    plain = other.sample("a sks dog", steps=3)[0]
    other.load_lora(tmp_path / "lora.safetensors")
    ours = sd.sample("a sks dog", steps=3)[0]
    assert pixels(ours, other.sample("a sks dog", steps=3)[0]) <= 1 < pixels(ours, plain)


# === that it learns ===================================================================================================

def test_it_learns_the_subject_and_keeps_the_class(tmp_path):
    """On the tiny world, 60 steps: the subject's error falls clearly, that of the class's pictures does not rise."""
    cfg = Config(steps=60, lr=4e-3, batch_size=4, class_images=8, sampling_steps=8, out=str(tmp_path))
    sd, settled, photos = prepare(cfg)
    subject, cats = latents(sd, photos), draw_class_latents(sd, settled)

    def errors():
        subjects = held_out_error(sd, subject, "a photo of a sks cat")
        return subjects, held_out_error(sd, cats, "a photo of a cat")
    before = errors()
    for log in train(sd, settled, photos):
        pass
    after = errors()
    assert after[0] < 0.95 * before[0] and after[1] < 1.02 * before[1]
