"""Models in one file: diffusers reads what is written here, and what is read here is what was written."""
import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

import single_file
import stable_diffusion
from files import UserError
from stable_diffusion import TINY, StableDiffusion

PARTS = {"unet": "unet", "vae": "vae", "text": "text_encoder"}
KINDS = ("sd15_folder", "sd21_folder")


def written(folder, path):
    sd = StableDiffusion.from_pretrained(folder)
    sd.save_single_file(path)
    return sd


def altered(path, change, metadata=None):
    """The same file after `change` of its tensors."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata or header(path).get("__metadata__"))


def header(path):
    data = path.read_bytes()
    return json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_opens_it_with_the_same_weights(kind, request, tmp_path):
    """from_single_file: its own code has its own table of the names."""
    from diffusers import StableDiffusionPipeline
    folder, path = request.getfixturevalue(kind), tmp_path / "one.safetensors"
    sd = written(folder, path)
    pipe = StableDiffusionPipeline.from_single_file(str(path), config=str(folder), safety_checker=None)
    for ours, theirs in PARTS.items():
        there = getattr(pipe, theirs).state_dict()
        there = {name if ours != "text" or "text_model." in name else "text_model." + name: tensor
                 for name, tensor in there.items() if not name.endswith("position_ids")}
        here = getattr(sd, ours).state_dict()
        assert here.keys() == there.keys()
        assert all(torch.equal(here[name].half().flatten(), there[name].half().flatten()) for name in here)


@pytest.mark.parametrize("kind", [*KINDS, "tiny"])
def test_read_back_it_is_the_same_model_and_draws_the_same_picture(kind, request, tmp_path):
    """Without a hub: the file carries tokenizer, configs and schedule."""
    folder = TINY if kind == "tiny" else request.getfixturevalue(kind)
    sd, path = written(folder, tmp_path / "one.safetensors"), tmp_path / "one.safetensors"
    back = StableDiffusion.from_pretrained(path)
    assert back.schedule.config == sd.schedule.config and back.tokenizer.vocab == sd.tokenizer.vocab
    for part in PARTS:
        getattr(sd, part).half().float()  # the file's precision
        assert getattr(back, part).config == getattr(sd, part).config
    how = {"steps": 2, "seed": 3, "size": 2 * sd.vae.factor}
    assert sd.sample("a cat", **how)[0].tobytes() == back.sample("a cat", **how)[0].tobytes()


def test_the_names_are_those_of_the_first_code(sd15_folder, tmp_path):
    """Some of Stable Diffusion 1's, as every such file has them: its places in the UNet are numbered through."""
    written(sd15_folder, tmp_path / "one.safetensors")
    names = load_file(tmp_path / "one.safetensors").keys()
    assert len(names) == 686 + 244 + 36
    unet, vae, text = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.text_model."
    for name in ("time_embed.0.weight", "input_blocks.0.0.weight", "input_blocks.3.0.op.weight", "out.2.weight",
                 "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", "middle_block.1.proj_in.weight",
                 "middle_block.2.out_layers.3.weight", "output_blocks.2.1.conv.weight",
                 "output_blocks.5.2.conv.weight", "output_blocks.11.0.skip_connection.weight"):
        assert unet + name in names, name
    for name in ("encoder.down.0.downsample.conv.weight", "encoder.mid.attn_1.q.weight", "post_quant_conv.weight",
                 "decoder.up.3.upsample.conv.weight", "decoder.up.0.block.2.norm2.weight", "decoder.norm_out.bias"):
        assert vae + name in names, name
    assert text + "embeddings.token_embedding.weight" in names
    assert load_file(tmp_path / "one.safetensors")[vae + "encoder.mid.attn_1.q.weight"].ndim == 4


def test_a_file_of_the_model_sites_takes_its_settings_from_the_hub(sd15_folder, tmp_path, monkeypatch):
    """No metadata, float16, and leftovers of a training: the mean of the weights, a schedule, a projection."""
    path = tmp_path / "photoreal_v5.safetensors"
    sd = written(sd15_folder, path)
    altered(path, lambda tensors: tensors.update({
        "model_ema.diffusion_modelconv_inweight": torch.zeros(3), "betas": torch.zeros(1000),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]}), {"format": "pt"})
    asked = []
    monkeypatch.setattr(single_file, "fetch", lambda name, weights: asked.append((name, weights)) or sd15_folder)
    back = StableDiffusion.from_pretrained(path)
    assert asked == [("stable-diffusion-v1-5/stable-diffusion-v1-5", False)]
    assert all(torch.equal(a.half().float(), b) for a, b in zip(sd.unet.parameters(), back.unet.parameters()))


@pytest.mark.parametrize("spread, name", [(0.3, "stable-diffusion-2-1"), (0.01, "stable-diffusion-2-1-base")])
def test_of_stable_diffusion_2_the_weights_tell_whether_they_tell_v(sd21_folder, tmp_path, monkeypatch, spread, name):
    path = tmp_path / "two.safetensors"
    written(sd21_folder, path)
    bias = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    altered(path, lambda tensors: tensors[bias].copy_(spread * torch.randn(len(tensors[bias]))), {"format": "pt"})
    asked = []
    monkeypatch.setattr(single_file, "fetch", lambda name, weights: asked.append(name) or sd21_folder)
    StableDiffusion.from_pretrained(path)
    assert asked == ["sd2-community/" + name]


def test_added_words_stay_in_files_of_their_own(tmp_path):
    """Other tools have a vocabulary of their own, whose size the table must have."""
    sd = StableDiffusion.from_pretrained(TINY)
    sd.add_word("<it>", torch.ones(2, 128))
    sd.save_single_file(tmp_path / "one.safetensors")
    back = StableDiffusion.from_pretrained(tmp_path / "one.safetensors")
    assert len(back.text.table.weight) == len(sd.text.table.weight) - 2 == len(back.tokenizer)
    assert back.add_word("<it>", torch.ones(2, 128)) == sd.tokenizer.encode("<it>")


def drop(prefix):
    def change(tensors):
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]
    return change


def widen(tensors):
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(16, 9, 3, 3)


@pytest.mark.parametrize("change, message", [
    (drop("first_stage_model."), "has no vae"), (drop("cond_stage_model."), "has no text_encoder"),
    (drop("model."), "has no unet.*a LoRA goes to --lora"), (widen, "is an inpainting model"),
    (lambda tensors: tensors.update({"conditioner.embedders.0.x": torch.zeros(1)}), "Stable Diffusion XL"),
    (drop("model.diffusion_model.out.2.bias"), "has no model.diffusion_model.out.2.bias"),
    (lambda tensors: tensors["model.diffusion_model.out.2.bias"].fill_(float("nan")), "not finite")])
def test_what_is_no_whole_text_to_image_model_is_refused_as_what_it_is(sd15_folder, tmp_path, change, message):
    path = tmp_path / "one.safetensors"
    written(sd15_folder, path)
    altered(path, change)
    with pytest.raises(UserError, match=message):
        StableDiffusion.from_pretrained(path)


def test_a_pickle_is_refused_and_a_missing_file_is_named(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(UserError, match="is a pickle"):
        StableDiffusion.from_pretrained(tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="nowhere.safetensors: there is no such file"):
        StableDiffusion.from_pretrained(tmp_path / "nowhere.safetensors")


def test_small_files_that_a_file_carries_are_written_nowhere_else(sd15_folder, tmp_path, monkeypatch):
    """Names in metadata are foreign words: only the known ones are obeyed."""
    path = tmp_path / "one.safetensors"
    written(sd15_folder, path)
    small = json.loads(header(path)["__metadata__"]["small_files"])
    small |= {"../escaped.txt": "x", str(tmp_path / "absolute.txt"): "x"}
    altered(path, lambda tensors: None, {"small_files": json.dumps(small)})
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    StableDiffusion.from_pretrained(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.safetensors"]


def test_the_command_writes_one_with_its_loras_in_it(tmp_path, monkeypatch, capsys):
    """--single-file beside the picture."""
    path = tmp_path / "one.safetensors"
    monkeypatch.setattr("sys.argv", ["stable_diffusion.py", "a cat", "--sampling-steps", "1",
                                     "--single-file", str(path), "--out", str(tmp_path / "cat.png")])
    stable_diffusion.main()
    assert capsys.readouterr().out.split() == [str(path), str(tmp_path / "cat.png")]
    assert len(load_file(path)) == sum(len(getattr(StableDiffusion.from_pretrained(TINY), part).state_dict())
                                       for part in PARTS)
