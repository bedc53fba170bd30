"""From the same folder, prompt, seed, steps, guidance and sampler: the picture that diffusers gives, to one grey
level."""
import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from pictures import to_tensor
from stable_diffusion import TINY, StableDiffusion

REFERENCE = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}


def levels(ours, reference):
    """The largest difference between two lists of pictures, in grey levels."""
    return max(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in zip(ours, reference, strict=True))


def draw_both(folder, sampler, steps=6, guidance=7.5, negative="", images=1, size=None,
              prompt="a photo of a red teapot"):
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = REFERENCE[sampler].from_config(pipe.scheduler.config)
    how = {} if size is None else {"height": size[0], "width": size[1]}
    reference = pipe(prompt, negative_prompt=negative, num_inference_steps=steps, guidance_scale=guidance,
                     num_images_per_prompt=images, generator=torch.Generator().manual_seed(3), **how).images
    sd = StableDiffusion.from_pretrained(str(folder))
    ours = sd.sample(prompt, steps=steps, guidance=guidance, negative=negative, images=images, sampler=sampler,
                     seed=3, size=size)
    assert len({picture.tobytes() for picture in ours}) == images  # different pictures, none of them flat
    assert all(np.asarray(picture).std() > 3 for picture in ours)
    return ours, reference


@pytest.mark.parametrize("sampler", REFERENCE)
@pytest.mark.parametrize("how", [dict(guidance=1.0), dict(guidance=7.5), dict(guidance=7.5, negative="blurry"),
                                 dict(images=3)], ids=str)
def test_sd15(sd15_folder, sampler, how):
    assert levels(*draw_both(sd15_folder, sampler, **how)) <= 1


@pytest.mark.parametrize("sampler", REFERENCE)
@pytest.mark.parametrize("how", [dict(guidance=7.5, negative="blurry", images=2), dict(guidance=1.0)], ids=str)
def test_sd21_with_v_prediction_and_its_own_padding(sd21_folder, sampler, how):
    assert levels(*draw_both(sd21_folder, sampler, **how)) <= 1


def test_sizes_other_than_square(sd15_folder):
    assert levels(*draw_both(sd15_folder, "ddim", size=(96, 160))) <= 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_schedule_of_the_first_files_draws_as_in_diffusers(sd15_folder, altered):
    """It says clip_sample and no steps_offset, which no Stable Diffusion was trained or drawn with: diffusers' pipeline
    knows better, and so do we."""
    folder = altered(sd15_folder, "scheduler")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clip_sample": True, "steps_offset": 0}))
    assert levels(*draw_both(folder, "ddim")) <= 1


def test_a_prompt_longer_than_77_tokens_is_cut_at_the_same_place(sd15_folder, capsys):
    assert levels(*draw_both(sd15_folder, "ddim", prompt="a very long story " * 40)) <= 1
    assert "longer than 75 tokens" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["sd15_folder", "sd21_folder"])
def test_what_we_save_diffusers_opens_and_draws_the_same(folder, request, tmp_path):
    ours = StableDiffusion.from_pretrained(str(request.getfixturevalue(folder)))
    ours.add_word("<cat-toy>", torch.randn(2, ours.text.config.hidden_size))
    ours.save(tmp_path / "saved")
    assert levels(*draw_both(tmp_path / "saved", "ddim", prompt="a <cat-toy> on the beach")) <= 1
    plain = StableDiffusion.from_pretrained(str(tmp_path / "saved")).sample("a cat-toy on the beach", steps=6, seed=3)
    named = StableDiffusion.from_pretrained(str(tmp_path / "saved")).sample("a <cat-toy> on the beach", steps=6, seed=3)
    assert levels(plain, named) > 1  # the added word is a token of its own, and does something


@pytest.mark.parametrize("model", ["shipped", "saved by us"])
def test_a_folder_in_half_precision_opens_in_diffusers_without_a_word_about_it(sd15_folder, tmp_path, model):
    """As theirs do: it computes in float32, whatever the files are stored in. Else transformers would take the text
    encoder for a half, and its words would not fit the UNet."""
    folder = TINY
    if model == "saved by us":
        folder = tmp_path / "half"
        StableDiffusion.from_pretrained(str(sd15_folder)).save(folder, half=True)
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    assert {part.dtype for part in (pipe.text_encoder, pipe.unet, pipe.vae)} == {torch.float32}
    assert pipe.text_encoder.config.bos_token_id == pipe.tokenizer.bos_token_id
    assert pipe.text_encoder.config.eos_token_id == pipe.tokenizer.eos_token_id
    pipe.set_progress_bar_config(disable=True)
    how = {"num_inference_steps": 2, "guidance_scale": 4.0, "generator": torch.Generator().manual_seed(3)}
    [theirs] = pipe("a photo of a red teapot", height=64, width=64, **how).images
    sd = StableDiffusion.from_pretrained(folder)
    ours = sd.sample("a photo of a red teapot", steps=2, guidance=4.0, seed=3, size=64)
    assert theirs.size == (64, 64) and levels(ours, [theirs]) <= 1


def test_a_batch_of_prompts_gives_each_the_picture_it_gets_alone(sd15_folder):
    sd = StableDiffusion.from_pretrained(str(sd15_folder))
    together = sd.sample(["a cat", "a dog"], images=2, steps=4, sampler="ddpm", seed=5)
    cats, dogs = [sd.sample(prompt, images=2, steps=4, sampler="ddpm", seed=5) for prompt in ("a cat", "a dog")]
    assert levels(together, cats + dogs) <= 1


def test_an_encoded_picture_is_that_of_diffusers(sd15_folder):
    """The Gaussian's mean and deviation, and a draw from it, scaled."""
    pipe = StableDiffusionPipeline.from_pretrained(sd15_folder)
    sd = StableDiffusion.from_pretrained(str(sd15_folder))
    pictures = [Image.effect_noise((96, 64), 60).convert("RGB") for _ in range(2)]
    mean, std = sd.encode(pictures)
    z = sd.draw_latents(mean, std, torch.Generator().manual_seed(0))
    with torch.no_grad():
        q = pipe.vae.encode(torch.stack([to_tensor(picture) for picture in pictures])).latent_dist
        eps = torch.randn(q.mean.shape, generator=torch.Generator().manual_seed(0))
        reference = (q.mean + q.std * eps) * 0.18215
    assert (mean - q.mean).abs().max() < 1e-5 and (std - q.std).abs().max() < 1e-5
    assert (z - reference).abs().max() < 1e-5 and z.shape == (2, 4, 8, 12)
