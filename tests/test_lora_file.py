"""LoRA files: every tool's spelling means what it means to that tool, and what is no plain LoRA is refused as what it
is."""
import json

import pytest
import torch
from conftest import diffusers_pipeline, pixels, same, weights
from safetensors.torch import load_file, save_file

from files import UserError
from lora_file import kohya_name, save_lora, split_lora_name
from stable_diffusion import StableDiffusion

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
K = "unet." + LAYER
KOHYA = "lora_unet_" + LAYER.replace(".", "_")


@pytest.fixture(scope="module")
def shared(sd15_folder):
    return StableDiffusion.from_pretrained(sd15_folder)


@pytest.fixture
def sd(shared):
    """A model whose LAYER may be changed; the next test has the weights of before."""
    before = weight(shared.unet)
    yield shared
    shared.unet.get_submodule(LAYER).weight.data.copy_(before)


def weight(network):
    """The weight that the files below change."""
    return network.get_submodule(LAYER).weight.detach().clone()


def matrices(rank=2):
    g = torch.Generator().manual_seed(0)
    return torch.randn(rank, 32, generator=g), torch.randn(64, rank, generator=g)


# === spellings ========================================================================================================

def test_loras_that_peft_made_are_read(sd15_folder, tmp_path):
    """Peft's names as diffusers writes them, with the text encoder, against the picture that diffusers makes with
    them."""
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict
    torch.manual_seed(0)
    pipe = diffusers_pipeline(sd15_folder)
    pipe.unet.add_adapter(LoraConfig(r=3, lora_alpha=3, init_lora_weights="gaussian",
                                     target_modules=["to_q", "to_out.0", "conv1", "proj_in"]))
    pipe.text_encoder.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "fc1"]))
    for name, p in [*pipe.unet.named_parameters(), *pipe.text_encoder.named_parameters()]:
        if "lora" in name:
            p.data = 0.1 * torch.randn(p.shape)
    StableDiffusionPipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(pipe.unet),
                                              get_peft_model_state_dict(pipe.text_encoder))
    theirs = pipe("a cat", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    sd = StableDiffusion.from_pretrained(sd15_folder)
    assert pixels(sd.sample("a cat", steps=4, guidance=7.5)[0], theirs) > 1
    sd.load_lora(tmp_path / "pytorch_lora_weights.safetensors")
    assert pixels(sd.sample("a cat", steps=4, guidance=7.5)[0], theirs) <= 1


@pytest.mark.parametrize("alpha", [2, 4])
def test_pefts_own_files_are_read(sd15_folder, tmp_path, alpha):
    """adapter_model.safetensors, base_model.model.*, as PeftModel.save_pretrained writes it for a UNet by itself;
    their alpha stands in adapter_config.json beside it."""
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(0)
    peft = get_peft_model(diffusers_pipeline(sd15_folder).unet,
                          LoraConfig(r=2, lora_alpha=alpha, target_modules=["to_k", "conv1"], init_lora_weights=False))
    peft.save_pretrained(tmp_path)
    assert all(name.startswith("base_model.model.") for name in load_file(tmp_path / "adapter_model.safetensors"))
    theirs, sd = dict(peft.merge_and_unload().named_parameters()), StableDiffusion.from_pretrained(sd15_folder)
    before = weight(sd.unet)
    sd.load_lora(tmp_path / "adapter_model.safetensors")
    assert max((p - theirs[name]).abs().max() for name, p in sd.unet.named_parameters()) < 1e-5
    assert (weight(sd.unet) - before).abs().max() > 0.01


@pytest.mark.parametrize("names, about", [
    ((f"{KOHYA}.lora_down.weight", f"{KOHYA}.lora_up.weight", f"{KOHYA}.alpha"), {}),
    ((f"{K}.lora.down.weight", f"{K}.lora.up.weight"), {}),
    ((K.replace(".to_k", ".processor.to_k_lora.down.weight"),
      K.replace(".to_k", ".processor.to_k_lora.up.weight")), {}),
    ((f"{K}.lora_A.weight", f"{K}.lora_B.weight"),
     {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 1, "unet.target_modules": ["attn2.to_k"]}'})])
def test_every_spelling_means_what_it_means_to_diffusers(sd15_folder, tmp_path, names, about):
    """One layer, rank 2; alpha is 1 where the file can say so, else as good as 2."""
    tensors = dict(zip(names, (*matrices(), torch.tensor(1.0))))
    save_file(tensors, tmp_path / "lora.safetensors", {"format": "pt"} | about)
    pipe, sd = diffusers_pipeline(sd15_folder), StableDiffusion.from_pretrained(sd15_folder)
    plain = weight(sd.unet)
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    pipe.fuse_lora()
    sd.load_lora(tmp_path / "lora.safetensors")
    assert torch.allclose(weight(sd.unet), pipe.unet.get_submodule(LAYER).base_layer.weight, atol=1e-6)
    assert not torch.allclose(weight(sd.unet), plain, atol=0.1)


@pytest.mark.parametrize("layer, expected", [
    (LAYER, KOHYA), ("base_model.model." + LAYER, KOHYA), (K, KOHYA), (KOHYA, KOHYA),
    ("text_encoder.text_model.encoder.layers.0.mlp.fc1", "lora_te_text_model_encoder_layers_0_mlp_fc1"),
    ("text_encoder.encoder.layers.0.mlp.fc1", "lora_te_text_model_encoder_layers_0_mlp_fc1"),
    ("lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te_text_model_encoder_layers_0_mlp_fc1")])
def test_a_name_in_any_spelling_is_brought_to_kohyas(layer, expected):
    """Files without `unet.` are the UNet's: diffusers' of early 2023, and peft's own. transformers 5 has no
    text_model."""
    for down, up in ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight"),
                     (".lora_down.weight", ".lora_up.weight"), (".lora_linear_layer.down.weight",
                                                                ".lora_linear_layer.up.weight")):
        assert split_lora_name(layer + down) == (expected, "down")
        assert split_lora_name(layer + up) == (expected, "up")
    assert split_lora_name(layer + ".alpha") == (expected, "alpha")
    assert split_lora_name(layer + ".weight") is None and split_lora_name("emb_params") is None


@pytest.mark.parametrize("to", ["to_q", "to_k", "to_v", "to_out"])
def test_diffusers_first_names_lead_to_the_layers_of_today(to):
    """attn1.processor.to_out_lora was the way out, which is to_out.0 now."""
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    ours = f"lora_unet_{block.replace('.', '_')}_{to}" + ("_0" if to == "to_out" else "")
    for start in ("unet.", ""):
        assert split_lora_name(f"{start}{block}.processor.{to}_lora.down.weight") == (ours, "down")
        assert split_lora_name(f"{start}{block}.processor.{to}_lora.up.weight") == (ours, "up")


def test_kohyas_name_is_the_layers_with_lines_for_dots():
    assert kohya_name("unet", LAYER) == KOHYA
    name = kohya_name("text_encoder", "text_model.encoder.layers.0.mlp.fc1")
    assert name == "lora_te_text_model_encoder_layers_0_mlp_fc1"


def added(sd, path):
    """What a file adds to the layer's weight."""
    before = weight(sd.unet)
    sd.load_lora(path)
    return weight(sd.unet) - before


@pytest.mark.parametrize("alpha, scale", [(torch.tensor(4.0), 2), (torch.tensor([1.0], dtype=torch.float16), 0.5),
                                          (torch.tensor(0.0), 0), (torch.tensor(4), 2), (None, 1)], ids=str)
def test_what_is_added_is_up_times_down_times_alpha_over_rank(sd, tmp_path, alpha, scale):
    """Some tools write alpha as a whole number, or with an axis; without one it is the rank."""
    down, up = matrices()
    tensors = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up, f"{KOHYA}.alpha": alpha}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, tmp_path / "lora.safetensors")
    assert torch.allclose(added(sd, tmp_path / "lora.safetensors"), scale * up @ down, atol=1e-5)


def test_what_is_written_is_read_back(sd, tmp_path):
    down, up = matrices()
    save_lora(tmp_path / "lora.safetensors", {KOHYA: (down, up)})
    assert load_file(tmp_path / "lora.safetensors")[f"{KOHYA}.alpha"] == 2
    assert torch.allclose(added(sd, tmp_path / "lora.safetensors"), up @ down, atol=1e-5)


def test_the_folder_that_diffusers_saves_is_as_good_as_its_file(sd, tmp_path):
    down, up = matrices()
    with pytest.raises(UserError, match="pytorch_lora_weights.safetensors: there is no such file"):
        added(sd, tmp_path)
    save_file({f"{K}.lora_A.weight": down, f"{K}.lora_B.weight": up}, tmp_path / "pytorch_lora_weights.safetensors")
    assert torch.allclose(added(sd, tmp_path), up @ down, atol=1e-5)


# === what is refused ==================================================================================================

@pytest.mark.parametrize("name, kind", [
    ("hada_w1_a", "a LoHa"), ("lokr_w1", "a LoKr"), ("lokr_w2_a", "a LoKr"),
    ("lora_mid.weight", "a LoCon with a middle"), ("dora_scale", "a DoRA"),
    ("lora_magnitude_vector.weight", "a DoRA"), ("oft_blocks", "an OFT"),
    ("on_input", r"an \(IA\)\^3")])
def test_a_relative_of_lora_is_refused_as_what_it_is(sd, tmp_path, name, kind):
    """Read as a LoRA it would be a picture that is wrong in silence, or complain of a layer that is there."""
    down, up = matrices()
    save_file({f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up, f"{KOHYA}.{name}": torch.ones(4)},
              tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match=f"lora.safetensors is {kind}.*{name[:14]}.*plain LoRA"):
        sd.load_lora(tmp_path / "lora.safetensors")


GOOD = dict(zip((f"{K}.lora_A.weight", f"{K}.lora_B.weight"), matrices()))
OTHER = K.replace("to_k", "to_v")


@pytest.mark.parametrize("more, message", [
    ({f"{OTHER}.lora_A.weight": torch.ones(2, 32)}, "does not fit"),
    ({f"{OTHER}.lora_B.weight": torch.ones(64, 2)}, "does not fit"),
    ({f"{OTHER}.lora_A.weight": torch.ones(2, 32), f"{OTHER}.lora_B.weight": torch.ones(64, 3)}, "does not fit"),
    ({f"{OTHER}.lora_A.weight": torch.ones(2, 31), f"{OTHER}.lora_B.weight": torch.ones(64, 2)}, "does not fit"),
    ({f"{OTHER}.lora_A.weight": torch.ones(0, 32), f"{OTHER}.lora_B.weight": torch.ones(64, 0)}, "does not fit"),
    ({f"{OTHER}.lora_A.weight": torch.ones(32), f"{OTHER}.lora_B.weight": torch.ones(64)}, "does not fit"),
    ({"unet.nothing.lora_A.weight": torch.ones(2, 32)}, "no layer"),
    ({"conv_in.weight": torch.ones(2, 32)}, "no layer"), ({"emb_params": torch.ones(1, 32)}, "no layer"),
    ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 32)}, "no layer"),
    ({f"{K}.alpha": torch.ones(2)}, "alpha of .* is no number"),
    ({f"{K}.alpha": torch.tensor(float("nan"))}, "(not finite|is no number)"),
    ({f"{OTHER}.lora_A.weight": torch.full((2, 32), float("inf"))}, "not finite"),
    ({f"{OTHER}.lora_A.weight": torch.ones(2, 32, dtype=torch.int64)}, "floating point")],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else value)
def test_a_lora_that_does_not_fit_changes_nothing(sd, tmp_path, more, message):
    """Not even the layers that it does fit."""
    before = weights(sd)
    save_file(GOOD | more, tmp_path / "lora.safetensors")
    with pytest.raises(UserError, match=f"lora.safetensors.*{message}") as error:
        sd.load_lora(tmp_path / "lora.safetensors")
    assert "\n" not in str(error.value) and same(before, weights(sd))


@pytest.mark.parametrize("said, message", [
    ({"unet.lora_alpha": "much"}, "is no number"), ({"unet.lora_alpha": [2]}, "is no number"),
    ({"unet.lora_alpha": None}, "is no number"), ({"unet.lora_alpha": float("nan")}, "is no number"),
    ({"unet.lora_alpha": float("inf")}, "is no number"), ({"unet.use_dora": True}, "not known"),
    ({"unet.use_rslora": True}, "not known"), ({"unet.rank_pattern": {"to_k": 8}}, "not known"),
    ({"unet.alpha_pattern": {"to_k": 8}}, "not known"), ([1], "lora.safetensors"), (5, "lora.safetensors")], ids=str)
def test_what_peft_says_beside_a_lora_and_this_code_would_not_obey_is_refused(sd, tmp_path, said, message):
    before = weights(sd)
    save_file(GOOD, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    with pytest.raises(UserError, match=f"lora.safetensors.*{message}" if message[0] != "l" else message):
        sd.load_lora(tmp_path / "lora.safetensors")
    assert same(before, weights(sd))


def test_what_peft_says_in_vain_changes_nothing(sd, tmp_path):
    said = {"unet.r": 2, "unet.lora_alpha": 2, "unet.use_dora": False, "unet.rank_pattern": {},
            "unet.alpha_pattern": {}, "unet.layers_pattern": None, "unet.lora_dropout": 0.5, "unet.use_rslora": False}
    save_file(GOOD, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    down, up = GOOD.values()
    assert torch.allclose(added(sd, tmp_path / "lora.safetensors"), up @ down, atol=1e-5)
