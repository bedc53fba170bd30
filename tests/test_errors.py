"""Bad input. What only the user can put right ends in one line that says what, where and what to do; nothing half done.

And input that merely looks odd: the spellings that public checkpoints have for one and the same model.
"""
import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import NOISE, failing_open, pixels
from PIL import Image
from safetensors.torch import load_file, save_file

import stable_diffusion
from checkpoint import read_config
from clip_text import BYTES, END, START
from command import pick_device, run
from ddpm import ScheduleConfig
from files import UserError
from stable_diffusion import TINY, StableDiffusion, parse_size, split_strength
from tiny_unet import UNetConfig

UNET, VAE, TEXT = ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
                   "text_encoder/model.safetensors")


def message(folder):
    """What from_pretrained has to say against a folder; one line."""
    with pytest.raises(UserError) as error:
        StableDiffusion.from_pretrained(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(path, change):
    tensors = change(load_file(path))
    path.unlink()
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, {"format": "pt"})


def difference(a, b):
    """The largest difference between the weights of two models."""
    pairs = [(m.state_dict(), n.state_dict()) for m, n in ((a.unet, b.unet), (a.vae, b.vae), (a.text, b.text))]
    assert all(x.keys() == y.keys() for x, y in pairs)
    return max((x[n] - y[n]).abs().max() for x, y in pairs for n in x)


@pytest.fixture(scope="module")
def sd(sd15_folder):
    return StableDiffusion.from_pretrained(sd15_folder)


# === a folder that is no model ========================================================================================

@pytest.mark.parametrize("name", ["nowhere", "./nowhere/model", "/nowhere/model", "a/b/c", "~/nowhere", Path("nowhere"),
                                  Path("/nowhere/model")], ids=repr)
def test_a_folder_that_does_not_exist_is_named(name):
    assert f"--model {name}: there is no such folder" in message(name)


def test_a_folder_that_is_no_model_is_told_what_is_missing(tmp_path):
    assert f"{tmp_path / 'unet' / 'config.json'}: there is no such file" in message(tmp_path)


@pytest.mark.parametrize("name, said", [
    ("FluxPipeline", "is a FluxPipeline, and this code knows Stable Diffusion only"),
    ("StableDiffusionXLPipeline", "is a Stable Diffusion XL model"),
    ("StableDiffusion3Pipeline", "is a Stable Diffusion 3 model"),
    ("StableDiffusionInpaintPipeline", "is an inpainting model"),
    ("StableDiffusionInstructPix2PixPipeline", "is an InstructPix2Pix model"),
    ("StableDiffusionUpscalePipeline", "is an upscaling model"),
    ("StableDiffusionDepth2ImgPipeline", "is a depth-to-image model"),
    ("StableDiffusionControlNetPipeline", "is a ControlNet model"), ("a\nb" * 500, r"is a a\\nb")])
def test_a_model_of_another_kind_is_refused_as_what_it_is(sd15_folder, altered, name, said):
    """Before its weights are read, which for most of them are larger than Stable Diffusion's."""
    folder = altered(sd15_folder, "unet")
    (folder / "unet" / "config.json").unlink()
    (folder / "model_index.json").unlink()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    text = message(folder)
    assert re.search(said, text) and len(text) < 300 + len(str(folder))


@pytest.mark.parametrize("name", [None, "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"])
def test_a_model_that_is_for_text_to_image_too_is_read(sd15_folder, altered, sd, name):
    """Or whose folder does not say what it is."""
    folder = altered(sd15_folder, "unet")
    (folder / "model_index.json").unlink()
    if name:
        (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    assert difference(StableDiffusion.from_pretrained(folder), sd) == 0


@pytest.mark.parametrize("part, values, said", [
    ("unet", {"in_channels": 9}, "is an inpainting model's"), ("unet", {"in_channels": 7}, "is an upscaling model's"),
    ("unet", {"in_channels": 5}, "is a depth-to-image model's"),
    ("unet", {"out_channels": 4}, "8 channels in and 4 out"),
    ("unet", {"in_channels": 6, "out_channels": 6}, "6 channels in and 6 out, a latent of the autoencoder has 8"),
    ("vae", {"in_channels": 1}, "for 1 channels, not for RGB"),
    ("unet", {"attention_head_dim": 6}, "does not fall into 6 heads"),
    ("text_encoder", {"num_attention_heads": 5}, "128 does not fall into 5 heads"),
    ("text_encoder", {"hidden_size": 64}, "words of width 128, the text encoder's have 64"),
    ("text_encoder", {"max_position_embeddings": 20}, "have 32 tokens, the text encoder places for 20"),
    ("text_encoder", {"vocab_size": 1000}, "has 1664 tokens, the text encoder rows for 1000")], ids=str)
def test_parts_that_do_not_fit_one_another_are_refused(altered, part, values, said):
    """Each by itself may be fine: what does not fit is said, and not where the sampler broke. Of the tiny world's
    model."""
    folder = altered(Path(TINY), part)
    change_json(folder / part / "config.json", **values)
    text = message(folder)
    assert text.startswith(f"{folder}: ") and said in text


def test_missing_weights_are_named_with_what_is_there(sd15_folder, altered):
    folder = altered(sd15_folder, "unet")
    (folder / UNET).unlink()
    assert f"{folder / 'unet'} has no diffusion_pytorch_model.safetensors; there is config.json" in message(folder)


class Bomb:
    """A pickle that does something when it is loaded: any .bin or .ckpt file can."""

    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "diffusion_pytorch_model.ckpt"])
def test_a_pickle_is_never_loaded(sd15_folder, altered, tmp_path, monkeypatch, name):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    folder = altered(sd15_folder, "unet")
    (folder / UNET).unlink()
    torch.save(Bomb(), folder / "unet" / name)
    assert f"{name} (.bin and .ckpt files are pickles and are not loaded)" in message(folder)
    assert not (tmp_path / "exploded").exists()
    torch.load(folder / "unet" / name, weights_only=False)
    assert (tmp_path / "exploded").exists(), "it would have"


@pytest.mark.parametrize("size", [0, 4, 1000, 5_000_000])
def test_a_truncated_file_is_named(sd15_folder, altered, size):
    """The usual end of a download by hand."""
    folder = altered(sd15_folder, "unet")
    os.truncate(folder / UNET, size)
    text = message(folder)
    assert f"{folder / UNET} is damaged or cut short" in text and "fetch it again" in text


def test_a_missing_an_unexpected_and_a_misshapen_tensor_are_named(sd15_folder, altered):
    folder = altered(sd15_folder, "unet")

    def change(tensors):
        del tensors["conv_out.bias"]
        return tensors | {"conv_in.weight": torch.zeros(16, 5, 3, 3), "lora.weight": torch.zeros(1)}
    change_tensors(folder / UNET, change)
    text = message(folder)
    assert str(folder / "unet") in text and "does not fit its config.json" in text
    assert "conv_out.bias is missing" in text and "lora.weight is unexpected" in text
    assert "conv_in.weight is [16, 5, 3, 3] and should be [16, 4, 3, 3]" in text


@pytest.mark.parametrize("value, said", [
    (torch.full((4,), float("nan")), "conv_out.bias has numbers that are not finite"),
    (torch.zeros(4, dtype=torch.int64), "conv_out.bias holds torch.int64")], ids=["nan", "int64"])
def test_weights_that_are_no_numbers_are_named(sd15_folder, altered, value, said):
    """A training that went wrong, and was saved all the same: its pictures would be black."""
    folder = altered(sd15_folder, "unet")
    change_tensors(folder / UNET, lambda tensors: tensors | {"conv_out.bias": value})
    assert f"{folder / 'unet'}: {said}" in message(folder)


def test_many_misfits_are_counted_and_not_listed(sd15_folder, altered):
    """An SD 2 text encoder beside an SD 1 config: one line all the same."""
    folder = altered(sd15_folder, "text_encoder")
    change_tensors(folder / TEXT, lambda tensors: {n: t.repeat(*[2] * t.ndim) for n, t in tensors.items()})
    text = message(folder)
    assert "and 33 more" in text and len(text) < 500 + 2 * len(str(folder))


# === config.json ======================================================================================================

@pytest.mark.parametrize("part, key, value", [
    ("unet", "moon_phase", "full"), ("unet", "act_fn", "gelu"), ("unet", "class_embed_type", "timestep"),
    ("unet", "down_block_types", ["AttnDownBlock2D"] * 4), ("unet", "mid_block_type", "UNetMidBlock2D"),
    ("unet", "addition_embed_type", "text_time"), ("unet", "transformer_layers_per_block", [1, 2, 10, 1]),
    ("vae", "use_quant_conv", False), ("vae", "shift_factor", 0.1), ("vae", "moon_phase", None),
    ("text_encoder", "hidden_act", "relu"), ("text_encoder", "model_type", "t5"), ("text_encoder", "dropout", 0.1)])
def test_a_setting_that_we_would_not_obey_is_refused_by_name(sd15_folder, altered, part, key, value):
    """A setting passed over in silence is a picture that is wrong in silence."""
    folder = altered(sd15_folder, part)
    change_json(folder / part / "config.json", **{key: value})
    text = message(folder)
    assert str(folder / part / "config.json") in text and f'"{key}"' in text
    shown = value[-2] if isinstance(value, list) else value
    assert str(shown) in text or json.dumps(shown) in text


@pytest.mark.parametrize("key, value", [
    ("prediction_type", "sample"), ("beta_schedule", "squaredcos_cap_v2"), ("thresholding", True),
    ("moon_phase", "full"), ("rescale_betas_zero_snr", True), ("timestep_spacing", "odd"), ("trained_betas", [0.1]),
    ("predict_x0", False), ("use_flow_sigmas", True), ("num_train_timesteps", 1), ("num_train_timesteps", 10 ** 9),
    ("beta_start", "small"), ("beta_start", -1.0), ("beta_end", 5.0), ("beta_end", float("nan"))])
def test_a_schedule_that_we_would_not_obey_is_refused_by_name(sd15_folder, tmp_path, key, value):
    path = tmp_path / "scheduler_config.json"
    shutil.copy(sd15_folder / "scheduler" / path.name, path)
    assert read_config(ScheduleConfig, path).beta_start == 0.00085, "which we would obey"
    change_json(path, **{key: value})
    with pytest.raises(UserError) as error:
        read_config(ScheduleConfig, path)
    text = str(error.value)
    assert str(path) in text and f'"{key}"' in text and (str(value) in text or json.dumps(value) in text)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_schedule_is_the_same_whatever_sampler_a_file_was_saved_with(tmp_path):
    """All that diffusers has for Stable Diffusion: how they walk is no part of what the noise is. (Where they begin and
    end may be, timestep_spacing.)"""
    from diffusers import PNDMScheduler
    first, read = PNDMScheduler.from_config(NOISE), {}
    for kind in first.compatibles:
        if kind.__name__ == "EDMEulerScheduler":  # other noise
            continue
        try:
            kind.from_config(first.config).save_pretrained(tmp_path)
            found = read_config(ScheduleConfig, tmp_path / "scheduler_config.json")
            read[kind.__name__] = found.beta_start, found.beta_end, found.beta_schedule, found.prediction_type
        except UserError as error:
            read[kind.__name__] = str(error)
        except ImportError:  # it needs a package that is not there
            continue
    wrong = {name: found for name, found in read.items() if found != (0.00085, 0.012, "scaled_linear", "epsilon")}
    assert len(read) > 8 and wrong == {}


@pytest.mark.parametrize("values", [
    {"clip_sample": True, "clip_sample_range": 2.0}, {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
    {"solver_order": 3, "variance_type": "learned_range", "lower_order_final": False},
    {"eta": 0.5, "rho": 5.0, "lambda_min_clipped": -float("inf")}], ids=str)
def test_what_only_another_sampler_would_do_changes_nothing(tmp_path, values):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(NOISE | values))
    expected = ScheduleConfig(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False,
                              steps_offset=1)
    assert read_config(ScheduleConfig, tmp_path / "scheduler_config.json") == expected


@pytest.mark.parametrize("values", [{}, {"steps_offset": 0}, {"steps_offset": 1}, {"steps_offset": 7}], ids=str)
def test_the_first_step_is_one_later_whatever_a_file_says(tmp_path, values):
    """As diffusers' pipeline has it: the first files say 0."""
    (tmp_path / "scheduler_config.json").write_text(json.dumps(values))
    assert read_config(ScheduleConfig, tmp_path / "scheduler_config.json").steps_offset == 1


@pytest.mark.parametrize("text", ["", "{", '{"sample_size": 8', "not json", "[1, 2]", "null", '"text"'], ids=repr)
@pytest.mark.parametrize("path", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_broken_json_is_named(sd15_folder, altered, path, text):
    folder = altered(sd15_folder, path.split("/")[0])
    (folder / path).write_text(text)
    assert str(folder / path) in message(folder)


@pytest.mark.parametrize("part, key, value", [
    ("unet", "sample_size", "64"), ("unet", "sample_size", None), ("unet", "block_out_channels", 320),
    ("unet", "norm_num_groups", 5), ("unet", "norm_num_groups", 0), ("unet", "block_out_channels", []),
    ("vae", "block_out_channels", "wide"), ("vae", "scaling_factor", None), ("text_encoder", "hidden_size", None),
    ("text_encoder", "num_hidden_layers", "two"), ("unet", "attention_head_dim", [8, 8]), ("unet", "sample_size", True),
    ("unet", "layers_per_block", 10 ** 9), ("unet", "in_channels", -4), ("unet", "block_out_channels", [16] * 17),
    ("unet", "use_linear_projection", 1), ("text_encoder", "num_hidden_layers", 10 ** 6), ("vae", "scaling_factor", 0),
    ("text_encoder", "vocab_size", 10 ** 9), ("unet", "block_out_channels", [16, "32", 64, 64]),
    ("unet", "block_out_channels", [16, None, 64, 64]), ("unet", "attention_head_dim", [8, "8", 8, 8]),
    ("unet", "norm_eps", float("nan")), ("vae", "scaling_factor", float("inf"))], ids=str)
def test_a_setting_of_the_wrong_kind_is_an_error_and_no_traceback(sd15_folder, altered, part, key, value):
    folder = altered(sd15_folder, part)
    change_json(folder / part / "config.json", **{key: value})
    assert str(folder / part) in message(folder)


@pytest.mark.parametrize("change, expected", [
    (lambda folder: shutil.rmtree(folder), "neither is here"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), "cannot be used"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot be used"),
    (lambda folder: (folder / "tokenizer.json").write_text("[]"), "cannot be used"),
    (lambda folder: (folder / "tokenizer.json").write_text("[" * 100_000), "cannot be used"),
    (lambda folder: (folder / "tokenizer.json").write_bytes(b"\xff\xfe"), "cannot be used")])
def test_a_tokenizer_that_cannot_be_read_is_named(sd15_folder, altered, change, expected):
    folder = altered(sd15_folder, "tokenizer")
    change(folder / "tokenizer")
    text = message(folder)
    assert str(folder / "tokenizer") in text and expected in text


def change_vocab(change):
    return lambda vocab, merges, settings: change(vocab)


LETTER = BYTES["é".encode()[0]]


@pytest.mark.parametrize("change, said", [
    (change_vocab(lambda vocab: vocab.pop(START)), "lacks <|startoftext|>"),
    (change_vocab(lambda vocab: vocab.pop(END)), "lacks <|endoftext|>"),
    (change_vocab(lambda vocab: vocab.pop(LETTER)), f"lacks {LETTER}, one of 1 "),
    (change_vocab(lambda vocab: vocab.pop("a</w>")), "lacks a</w>"),
    (change_vocab(lambda vocab: vocab.pop("cat</w>")), "lacks cat</w>"), (change_vocab(dict.clear), "lacks"),
    (change_vocab(lambda vocab: vocab.update(x="7")), "whole numbers"),
    (change_vocab(lambda vocab: vocab.update(x=7.0)), "whole numbers"),
    (change_vocab(lambda vocab: vocab.update(x=True)), "whole numbers"),
    (change_vocab(lambda vocab: vocab.update(x=-1)), "whole numbers"),
    (change_vocab(lambda vocab: vocab.update(x=10 ** 12)), "whole numbers"),
    (change_vocab(lambda vocab: vocab.update(x=2000)), "has 2001 tokens, the text encoder rows for 1664"),
    (lambda vocab, merges, settings: merges.append("a b c"), "a merge is of two tokens, unlike ('a', 'b', 'c')"),
    (lambda vocab, merges, settings: merges.append("x"), "a merge is of two tokens, unlike ('x',)"),
    (lambda vocab, merges, settings: merges.append("x q"), "lacks xq"),
    (lambda vocab, merges, settings: settings.update(model_max_length=2), "length of a prompt is 2"),
    (lambda vocab, merges, settings: settings.update(model_max_length=0), "length of a prompt is 0"),
    (lambda vocab, merges, settings: settings.update(model_max_length="32"), "cannot be used"),
    (lambda vocab, merges, settings: settings.update(model_max_length=31.5), "length of a prompt is 31.5"),
    (lambda vocab, merges, settings: settings.update(pad_token="<pad>"), "lacks <pad>")])
def test_a_tokenizer_that_cannot_spell_every_prompt_is_refused(altered, change, said):
    """Here, and not at the first prompt with an é in it. Of the tiny world's model, changed in one place."""
    folder = altered(Path(TINY), "tokenizer")
    place = folder / "tokenizer"
    (place / "special_tokens_map.json").unlink()
    vocab = json.loads((place / "vocab.json").read_text("utf-8"))
    settings = json.loads((place / "tokenizer_config.json").read_text("utf-8"))
    merges = (place / "merges.txt").read_text("utf-8").splitlines()
    change(vocab, merges, settings)
    (place / "vocab.json").write_text(json.dumps(vocab))
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    (place / "merges.txt").write_text("\n".join(merges), "utf-8")
    text = message(folder)
    assert str(folder) in text and said in text


def test_a_tokenizer_without_a_limit_has_that_of_clip(sd15_folder, altered):
    """transformers writes 10^30 for none."""
    folder = altered(sd15_folder, "tokenizer")
    change_json(folder / "tokenizer" / "tokenizer_config.json", model_max_length=int(1e30))
    assert StableDiffusion.from_pretrained(folder).tokenizer("a cat").shape == (1, 77)


# === spellings of one and the same model ==============================================================================

def test_shards_with_an_index_load(sd15_folder, altered, sd):
    folder = altered(sd15_folder, "unet")
    tensors = load_file(folder / UNET)
    names = {n: f"diffusion_pytorch_model-0000{i % 2 + 1}-of-00002.safetensors" for i, n in enumerate(sorted(tensors))}
    (folder / UNET).unlink()
    for name in set(names.values()):
        save_file({n: t for n, t in tensors.items() if names[n] == name}, folder / "unet" / name)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    assert difference(StableDiffusion.from_pretrained(folder), sd) == 0
    (folder / "unet" / name).unlink()
    assert name in message(folder), "a shard that is missing is named"
    for says in ({}, {"weight_map": {}}, {"weight_map": [name]}, {"weight_map": {"conv_in.bias": 5}}):
        index.write_text(json.dumps(says))
        assert str(index) in message(folder), "so is an index that says nothing"
    for name in ("../vae/diffusion_pytorch_model.safetensors", "/etc/passwd"):
        index.write_text(json.dumps({"weight_map": {"conv_in.bias": name}}))
        assert f"{index} names a file elsewhere, {name}: it is not read" in message(folder)


def test_a_folder_with_fp16_weights_only_loads_in_fp32(sd15_folder, tmp_path, sd):
    folder = tmp_path / "half"
    shutil.copytree(sd15_folder, folder)
    for path in (UNET, VAE, TEXT):
        change_tensors(folder / path, lambda tensors: {n: t.half() for n, t in tensors.items()})
        (folder / path).rename(folder / path.replace(".safetensors", ".fp16.safetensors"))
    loaded = StableDiffusion.from_pretrained(folder)
    assert loaded.unet.conv_in.weight.dtype == torch.float32
    assert 0 < difference(loaded, sd) < 1e-2
    assert (loaded.unet.conv_in.weight - sd.unet.conv_in.weight.half().float()).abs().max() == 0


def test_of_two_precisions_the_variant_that_is_named_is_read(sd15_folder, tmp_path, sd):
    """And no other: where a part lacks it, that is said."""
    folder = tmp_path / "both"
    shutil.copytree(sd15_folder, folder)
    for path in (UNET, VAE, TEXT):
        half = folder / path.replace(".safetensors", ".fp16.safetensors")
        save_file({n: t.half() for n, t in load_file(folder / path).items()}, half, {"format": "pt"})
    assert difference(StableDiffusion.from_pretrained(folder), sd) == 0
    assert 0 < difference(StableDiffusion.from_pretrained(folder, variant="fp16"), sd) < 1e-2
    (folder / VAE.replace(".safetensors", ".fp16.safetensors")).unlink()
    with pytest.raises(UserError, match="vae has no diffusion_pytorch_model.fp16.safetensors; there is config"):
        StableDiffusion.from_pretrained(folder, variant="fp16")


@pytest.mark.parametrize("convolution", [False, True])
def test_the_vaes_attention_loads_under_its_old_names(sd15_folder, altered, sd, convolution):
    """diffusers renamed it in 2023; SD 1.5's file still has the old names. Older still, it was a 1x1 convolution."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def change(tensors):
        renamed = {}
        for name, tensor in tensors.items():
            for new in old if "mid_block.attentions" in name else ():
                if f".{new}." in name:
                    name = name.replace(f".{new}.", f".{old[new]}.")
                    tensor = tensor[:, :, None, None] if convolution and tensor.ndim == 2 else tensor
            renamed[name] = tensor
        assert len(renamed.keys() - tensors.keys()) == 16
        return renamed
    folder = altered(sd15_folder, "vae")
    change_tensors(folder / VAE, change)
    assert difference(StableDiffusion.from_pretrained(folder), sd) == 0


@pytest.mark.parametrize("prefix", ["", "text_model."])
@pytest.mark.parametrize("positions", [False, True])
def test_the_text_encoder_loads_with_and_without_prefix_and_position_ids(sd15_folder, altered, sd, prefix, positions):
    def change(tensors):
        tensors = {prefix + n.removeprefix("text_model."): t for n, t in tensors.items()}
        return tensors | ({prefix + "embeddings.position_ids": torch.arange(77)[None]} if positions else {})
    folder = altered(sd15_folder, "text_encoder")
    change_tensors(folder / TEXT, change)
    assert difference(StableDiffusion.from_pretrained(folder), sd) == 0


@pytest.mark.parametrize("kind", ["sd15_folder", "sd21_folder"])
def test_a_tokenizer_in_one_file_encodes_as_the_one_in_several_and_as_transformers(kind, request, altered):
    """Whatever fills SD 2's prompts, "!", is one token of its own wherever it stands in a prompt."""
    from transformers import CLIPTokenizer
    source = request.getfixturevalue(kind)
    folder = altered(source, "tokenizer")
    reference = CLIPTokenizer.from_pretrained(source / "tokenizer")
    one = StableDiffusion.from_pretrained(source).tokenizer
    assert (source / "tokenizer" / "tokenizer.json").exists() and not (source / "tokenizer" / "vocab.json").exists()
    shutil.rmtree(folder / "tokenizer")
    one.save(folder / "tokenizer")
    several = StableDiffusion.from_pretrained(folder).tokenizer
    for prompt in ("a photo of a cat", "", "Zürich's 3 teapots, 100%", "wow! a cat!!", "日本 🙂", "x " * 90):
        expected = reference(prompt, padding="max_length", max_length=77, truncation=True).input_ids
        assert one(prompt)[0].tolist() == expected and several(prompt)[0].tolist() == expected, prompt


@pytest.mark.parametrize("kind", ["sd15_folder", "sd21_folder"])
def test_a_transformers_ends_may_be_convolutions_or_linear_layers(kind, request, altered):
    """SD 1's file has [c, c, 1, 1], SD 2's [c, c]: the same numbers, in a file of either model."""
    source = request.getfixturevalue(kind)
    folder = altered(source, "unet")

    def change(tensors):
        return {n: t.reshape(t.shape[:2] if t.ndim == 4 else [*t.shape, 1, 1])
                if n.endswith(("proj_in.weight", "proj_out.weight")) else t for n, t in tensors.items()}
    before = load_file(folder / UNET)
    change_tensors(folder / UNET, change)
    assert sum(t.shape != before[n].shape for n, t in load_file(folder / UNET).items()) == 32
    assert difference(StableDiffusion.from_pretrained(folder), StableDiffusion.from_pretrained(source)) == 0


@pytest.mark.parametrize("version, expected", [("0.2.2", 64), ("0.6.0", 64), ("0.8.1", 64), (None, 64), ("0.9.0", 32),
                                               ("0.10.0.dev0", 32), ("1.0.0", 32), (5, 32), ("new", 64)])
def test_a_sample_size_of_32_in_an_old_config_means_64(tmp_path, version, expected):
    """The first files were saved with 32 in them by mistake; diffusers takes it for 64, or 512 pixels, and so do we."""
    values = {"sample_size": 32} | ({"_diffusers_version": version} if version else {})
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(UNetConfig, tmp_path / "config.json").sample_size == expected


# === a request that cannot be met =====================================================================================

def test_a_prompt_that_is_too_long_is_drawn_and_the_user_told_what_was_lost(sd, capsys):
    pictures = sd.sample("cat " * 75 + "on a red house", steps=1, size=16)
    assert capsys.readouterr().err == 'the prompt is longer than 75 tokens; lost: "on a red house"\n'
    assert pictures[0].size == (16, 16)
    sd.sample("cat " * 75, steps=1, size=16)
    assert capsys.readouterr().err == "", "75 is not too long"


@pytest.mark.parametrize("how, expected", [
    (dict(size=20), "multiples of 8"), (dict(size=(64, 20)), "multiples of 8"), (dict(size=8), "16 or more"),
    (dict(size=0), "16 or more"), (dict(size=-64), "16 or more"), (dict(sampler="euler"), 'no sampler "euler"'),
    (dict(steps=0), "1 to 1000, not 0"), (dict(steps=-1), "1 to 1000, not -1"), (dict(steps=1001), "not 1001"),
    (dict(images=0), "images"), (dict(prompts=[]), "prompt"),
    (dict(seed=[1, 2]), "2 seeds for 1 prompts"), (dict(guidance=float("nan")), "--guidance nan"),
    (dict(guidance=float("inf")), "--guidance inf")], ids=str)
def test_a_picture_that_cannot_be_drawn_is_refused_before_any_work(sd, how, expected):
    with pytest.raises(UserError) as error:
        sd.sample(**{"prompts": "x", "steps": 1, "size": 16} | how)
    assert expected in str(error.value)


def test_a_size_is_a_side_or_a_width_and_a_height():
    assert [parse_size(text) for text in (None, "512", "512x768")] == [None, (512, 512), (768, 512)]
    for text in ("", "x", "512x", "x512", "512X768", "512 x 768", "-64", "6.5", "512x768x3", "1e3", "9" * 6):
        with pytest.raises(UserError, match="--size .*: a number of pixels, or two as in 512x768"):
            parse_size(text)


@pytest.mark.parametrize("text, path, strength", [
    ("a.safetensors", "a.safetensors", 1.0), ("a.safetensors:0.6", "a.safetensors", 0.6), ("a:b:-1", "a:b", -1.0),
    ("C:\\lora\\a.safetensors", "C:\\lora\\a.safetensors", 1.0), ("C:\\a.safetensors:2", "C:\\a.safetensors", 2.0),
    ("0.5", "0.5", 1.0), ("a.safetensors:nan", "a.safetensors:nan", 1.0), ("a.safetensors:", "a.safetensors:", 1.0)])
def test_behind_a_loras_file_its_strength_may_stand(text, path, strength):
    assert split_strength(text) == (path, strength)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu():
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    with pytest.raises(UserError, match="--device cuda is not there.*cpu always is"):
        pick_device("cuda")


@pytest.mark.parametrize("name", ["nonsense", "", "cuda:99", "cpu:x", "meta"])
def test_a_device_that_is_none_is_refused(name):
    with pytest.raises(UserError, match=f"--device {name}"):
        pick_device(name)


# === the command ======================================================================================================

def left(tmp_path):
    return sorted(p.name for p in (tmp_path / "place").rglob("*"))


def test_a_refusal_is_one_line_and_status_2_and_leaves_nothing(command, refused, tmp_path):
    assert refused(command("x", "--model", "nowhere")) == "error: --model nowhere: there is no such folder"
    assert left(tmp_path) == []


@pytest.fixture
def main(sd15_folder, tmp_path, monkeypatch, capsys):
    """main("--size", 20): the command in this process, with a small model and one step; its status and what is left on
    the lines of the terminal (a progress bar wipes itself off before anything else is written)."""
    def typed(*arguments, prompt=("x",)):
        (tmp_path / "place").mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / "place")
        small = [*prompt, "--model", sd15_folder, "--sampling-steps", 1, "--size", 16, "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["stable_diffusion.py", *map(str, small), *map(str, arguments)])
        status = 0
        try:
            run(stable_diffusion.main)
        except SystemExit as end:
            status = end.code
        lines = [line.split("\r")[-1] for line in capsys.readouterr().err.split("\n") if line.split("\r")[-1]]
        return status, lines
    return typed


@pytest.mark.parametrize("arguments, expected", [
    (("--size", 20), "multiples of 8"), (("--size", 0), "16 or more"), (("--sampling-steps", 0), "1 to 1000"),
    (("--device", "nonsense"), "--device nonsense"), (("--images", 0), "--images 0"), (("--seed", 2 ** 64), "--seed"),
    (("--out", "x"), "--out x"), (("--out", "x.docx"), "--out x.docx"), (("--out", "x.psd"), "--out x.psd"),
    (("--out", ""), "--out"), (("--model", "model.ckpt"), "is a pickle"), (("--size", "16x20"), "multiples of 8"),
    (("--size", "large"), "--size large"), (("--guidance", "nan"), "--guidance nan"),
    (("--variant", "bf16"), "no diffusion_pytorch_model.bf16.safetensors"),
    (("--lora", "nowhere.safetensors:0.5"), "nowhere.safetensors: there is no such file")], ids=str)
def test_bad_arguments_are_one_line_and_status_2_and_leave_nothing(main, tmp_path, arguments, expected):
    """.psd: Pillow can read it but not write it."""
    status, lines = main(*arguments)
    assert status == 2 and len(lines) == 1 and lines[0].startswith("error: ") and expected in lines[0]
    assert left(tmp_path) == []


def test_a_word_that_is_added_is_named_and_one_that_nobody_added_too(main, tmp_path, sd):
    """So that "<it>" in a prompt is no word of five letters for want of the right spelling."""
    save_file({"<it>\n": torch.randn(2, 32)}, tmp_path / "word.safetensors")
    assert main("a <cat> and a dog", "--embeds", tmp_path / "word.safetensors", prompt=()) == (0, [
        r"a new word: <it>\n", "the model does not know the word <cat>: --embeds FILE adds a learned one"])


def test_a_lora_is_added_as_strongly_as_is_said(main, tmp_path, sd):
    """Twice a half is once the whole, up to rounding."""
    torch.manual_seed(0)
    K = "unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0"
    save_file({f"{K}.lora_A.weight": torch.randn(2, 16), f"{K}.lora_B.weight": torch.randn(16, 2)},
              tmp_path / "lora.safetensors")

    def drawn(*strengths):
        loras = [word for strength in strengths for word in ("--lora", f"{tmp_path / 'lora.safetensors'}{strength}")]
        assert main(*loras, "--out", "x.png") == (0, [])
        return Image.open(tmp_path / "place" / "x.png").convert("RGB")
    whole = drawn("")
    assert pixels(whole, drawn(":0.5", ":0.5")) <= 1 < pixels(whole, drawn())


@pytest.mark.parametrize("arguments", [("--sampler", "euler"), ("--sampling-steps", "x"), ("--dtype", "int8")], ids=str)
def test_what_argparse_refuses_is_named(main, tmp_path, arguments):
    status, lines = main(*arguments)
    assert status == 2 and arguments[0] in lines[-1] and arguments[1] in lines[-1] and left(tmp_path) == []


def test_the_small_model_draws(main, tmp_path):
    """So that the refusals above are refusals of what they name."""
    assert main("--images", 2, "--out", "deep/er/x.jpg") == (0, [])
    assert left(tmp_path) == ["deep", "er", "x-1.jpg", "x-2.jpg"]
    assert Image.open(tmp_path / "place" / "deep" / "er" / "x-1.jpg").size == (16, 16)
    assert main("--size", "32x16", "--out", "wide.png") == (0, [])
    assert Image.open(tmp_path / "place" / "wide.png").size == (32, 16)


@pytest.mark.parametrize("out", ["file/x.png", "file/deeper/x.png", "folder.png"])
def test_an_out_that_cannot_be_written_is_one_line(main, tmp_path, out):
    """(A folder without write permission would be the usual case, but for root there is none.)"""
    place = tmp_path / "place"
    (place / "folder.png").mkdir(parents=True)
    (place / "file").write_text("no folder")
    status, lines = main("--out", out)
    assert status == 2 and len(lines) == 1 and lines[0].startswith("error: ") and out.split("/")[0] in lines[0]
    assert left(tmp_path) == ["file", "folder.png"] and (place / "file").read_text() == "no folder"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(main, tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "x.png").write_text("yesterday's")
    (tmp_path / "place" / "x.partial.png").symlink_to("/dev/full")
    status, lines = main("--out", "x.png")
    assert status == 2 and len(lines) == 1 and lines[0].startswith("error: ") and "No space left" in lines[0]
    assert left(tmp_path) == ["x.png"] and (tmp_path / "place" / "x.png").read_text() == "yesterday's"


# === half-written results =============================================================================================

FULL = OSError(errno.ENOSPC, "No space left on device"), UserError, "could not be written.*No space left"
CTRL_C = KeyboardInterrupt(), KeyboardInterrupt, None


@pytest.mark.parametrize("call, how", [(1, FULL), (2, CTRL_C), (3, FULL)])
def test_a_save_that_fails_leaves_the_earlier_save_whole(sd, tmp_path, monkeypatch, call, how):
    """The disk fills up in the middle of a checkpoint, at three in the morning: yesterday's must still be there."""
    error, seen, said = how
    sd.save(tmp_path / "model")
    for name in ("model", "other"):
        monkeypatch.setattr("files.open", failing_open(call, error), raising=False)
        with pytest.raises(seen, match=said):
            sd.save(tmp_path / name)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert difference(StableDiffusion.from_pretrained(tmp_path / "model"), sd) == 0
    assert list(tmp_path.rglob("*.partial*")) == []


BUSY = OSError(errno.EBUSY, "Device or resource busy")


@pytest.mark.parametrize("call, error", [(4, KeyboardInterrupt()), (5, BUSY), (5, KeyboardInterrupt())], ids=repr)
def test_a_save_that_fails_at_its_last_step_leaves_the_earlier_save_whole(sd, tmp_path, monkeypatch, call, error):
    """Three renames write the weights, the fourth moves the old folder away, the fifth puts the new one there."""
    sd.save(tmp_path / "model")
    replace, calls = os.replace, []

    def failing(*places):
        calls.append(places)
        if len(calls) == call:
            raise error
        replace(*places)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises((UserError, KeyboardInterrupt)):
            sd.save(tmp_path / "model")
    assert len(calls) >= call and [p.name for p in tmp_path.iterdir()] == ["model"]
    assert difference(StableDiffusion.from_pretrained(tmp_path / "model"), sd) == 0


def test_a_model_whose_weights_are_no_numbers_any_more_does_not_replace_a_good_one(sd, tmp_path, monkeypatch):
    sd.save(tmp_path / "model")
    monkeypatch.setattr(sd.unet.conv_out.bias, "data", torch.full((4,), float("nan")))
    with pytest.raises(UserError, match="conv_out.bias is not finite.*lower --lr"):
        sd.save(tmp_path / "model")
    monkeypatch.undo()
    assert difference(StableDiffusion.from_pretrained(tmp_path / "model"), sd) == 0


def test_a_save_into_an_impossible_place_is_one_line(sd, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="model could not be written"):
        sd.save(tmp_path / "file" / "model")
    assert (tmp_path / "file").read_text() == "no folder"
