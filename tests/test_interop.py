"""What is written here, in diffusers; what diffusers writes, here."""
import json
import warnings

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (AutoPipelineForText2Image, DDIMScheduler, StableDiffusionImg2ImgPipeline,
                       StableDiffusionPipeline)

from checkpoint import read_config
from conftest import NOISE
from ddpm import ScheduleConfig
from files import UserError
from lora_file import kohya_name, save_lora
from stable_diffusion import TINY, StableDiffusion

SCHEDULERS = [DDIMScheduler, *DDIMScheduler.from_config(NOISE).compatibles]  # those of Stable Diffusion's pipelines
SCHEDULERS = {cls.__name__: cls for cls in SCHEDULERS}
NEED_MORE = ("DPMSolverSDEScheduler", "LMSDiscreteScheduler")  # packages: torchsde, scipy


@pytest.fixture(scope="module")
def learned():
    """The tiny model with a word of three vectors, as a method leaves it."""
    sd = StableDiffusion.from_pretrained(TINY)
    sd.add_word("<it>", sd.text.table.weight[[300, 400, 500]])
    return sd


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe, prompt="a photo of a <it> cat", **how):
    how = {"num_inference_steps": 3, "height": 64, "width": 64} | how
    return np.asarray(pipe(prompt, generator=torch.Generator().manual_seed(3), **how).images[0]).astype(int)


def tensors_of(sd):
    return [tensor for network in (sd.unet, sd.vae, sd.text) for tensor in network.state_dict().values()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - {*NEED_MORE, "EDMEulerScheduler"}))
def test_a_plain_model_loads_whatever_scheduler_its_file_names(name, tmp_path):
    """Every class that fits diffusers' pipeline, from Stable Diffusion's noise, saved by its own save_pretrained."""
    SCHEDULERS[name].from_config(NOISE).save_pretrained(tmp_path)
    config = read_config(ScheduleConfig, tmp_path / "scheduler_config.json")
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert config.prediction_type == "epsilon" and config.num_train_timesteps == 1000


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_a_scheduler_of_another_noise_is_refused_by_a_name_in_it(name, tmp_path):
    getattr(diffusers, name)().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is not known to this code|this code only knows"):
        read_config(ScheduleConfig, tmp_path / "scheduler_config.json")


@pytest.mark.parametrize("name, options", [
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "deis", "solver_type": "logrho"}),
    ("DEISMultistepScheduler", {"algorithm_type": "deis", "solver_type": "logrho"}),
    ("EulerDiscreteScheduler", {"sigma_max": None, "timestep_type": "discrete", "use_karras_sigmas": True}),
    ("DDIMScheduler", {"clip_sample": True, "steps_offset": 0})])
def test_how_a_sampler_walks_is_no_matter_of_the_model(name, options, tmp_path):
    values = NOISE | options
    (tmp_path / "scheduler_config.json").write_text(
        json.dumps(values | {"_class_name": name}), "utf-8")
    config = read_config(ScheduleConfig, tmp_path / "scheduler_config.json")
    assert config.beta_end == 0.012 and config.steps_offset == 1


@pytest.mark.parametrize("key, value", [("rescale_betas_zero_snr", True), ("trained_betas", [0.1, 0.2]),
                                        ("beta_schedule", "squaredcos_cap_v2"), ("prediction_type", "sample")])
def test_another_noise_is_refused_by_name(key, value, tmp_path):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(NOISE | {key: value}), "utf-8")
    with pytest.raises(UserError, match=key):
        read_config(ScheduleConfig, tmp_path / "scheduler_config.json")


def test_a_result_opens_as_any_pipeline_of_stable_diffusion(learned, tmp_path):
    """Text to image by the automatic class, image to image; the word's three vectors are read as one word."""
    learned.save(tmp_path / "model")
    text = quiet(AutoPipelineForText2Image.from_pretrained(tmp_path / "model"))
    assert type(text) is StableDiffusionPipeline
    drawn = picture(text)
    ours = learned.sample("a photo of a <it> cat", steps=3, seed=3, guidance=7.5, size=64)
    assert np.abs(drawn - np.asarray(ours[0])).max() <= 1
    image = quiet(StableDiffusionImg2ImgPipeline(**text.components))
    again = image("a cat", image=ours[0], strength=0.5, num_inference_steps=4,
                  generator=torch.Generator().manual_seed(3)).images[0]
    assert np.asarray(again).std() > 3 and again.size == (64, 64)


@pytest.mark.parametrize("how", [{"variant": "fp16"}, {"max_shard_size": "400KB"}], ids=str)
def test_what_diffusers_saves_of_it_comes_back(learned, tmp_path, how):
    """A round trip: our folder, their save_pretrained in half precision or in shards, ours again; the word is still
    there with its three vectors."""
    learned.save(tmp_path / "ours", half=True)
    half = {"torch_dtype": torch.float16} if "variant" in how else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        StableDiffusionPipeline.from_pretrained(tmp_path / "ours", **half).save_pretrained(tmp_path / "theirs", **how)
    files = {path.name for path in (tmp_path / "theirs" / "unet").iterdir()}
    assert any("fp16" in name if "variant" in how else "-of-" in name for name in files), files
    back = StableDiffusion.from_pretrained(tmp_path / "theirs", variant=how.get("variant", ""))
    assert back.tokenizer.encode("a <it> cat") == learned.tokenizer.encode("a <it> cat")
    assert all(torch.equal(a.half(), b.half()) for a, b in zip(tensors_of(learned), tensors_of(back), strict=True))


def test_a_lora_at_half_its_strength_is_fused_and_taken_off_as_here(tmp_path):
    """In diffusers as an adapter at 0.5, fused into the weights, unfused and unloaded."""
    sd, chance = StableDiffusion.from_pretrained(TINY), torch.Generator().manual_seed(0)
    changes = {}
    for part, network in (("unet", sd.unet), ("text_encoder", sd.text)):
        for name, layer in network.named_modules():
            if name.endswith((".to_q", ".to_v", "q_proj", "out_proj")):
                changes[kohya_name(part, name)] = (torch.randn(2, layer.weight.shape[1], generator=chance) / 8,
                                                   torch.randn(layer.weight.shape[0], 2, generator=chance) / 8)
    save_lora(tmp_path / "pytorch_lora_weights.safetensors", changes)
    pipe = quiet(StableDiffusionPipeline.from_pretrained(TINY))
    plain = picture(pipe, "a cat")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe.load_lora_weights(tmp_path, adapter_name="it")
        pipe.set_adapters(["it"], [0.5])
        beside = picture(pipe, "a cat")
        pipe.fuse_lora(lora_scale=1.0)
        fused = picture(pipe, "a cat")
        pipe.unfuse_lora()
        pipe.unload_lora_weights()
    sd.load_lora(tmp_path / "pytorch_lora_weights.safetensors", 0.5)
    ours = np.asarray(sd.sample("a cat", steps=3, seed=3, guidance=7.5, size=64)[0]).astype(int)
    assert np.abs(beside - ours).max() <= 1 and np.abs(fused - ours).max() <= 1
    assert np.abs(plain - ours).max() > 20  # it does change something
    assert np.abs(picture(pipe, "a cat") - plain).max() <= 1
