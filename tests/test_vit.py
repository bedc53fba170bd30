"""The vision transformers are those of transformers, at the sizes of the public files, and see the same pictures."""
import json

import numpy as np
import pytest
import torch
from conftest import clip_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, ViTModel
from transformers import ViTConfig as ReferenceConfig

from files import UserError
from vit import AS_CLIP, AS_DINO, SAFE_COPIES, load_clip, load_dino, look, preprocess

# config.json of facebook/dino-vits16, of openai/clip-vit-base-patch32, of openai/clip-vit-large-patch14
S_16 = dict(hidden_size=384, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=6, image_size=224,
            patch_size=16, hidden_act="gelu", layer_norm_eps=1e-12)
B_32 = dict(projection_dim=512,
            text_config=dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8,
                             eos_token_id=2),
            vision_config=dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                               image_size=224, patch_size=32))
L_14 = dict(projection_dim=768,
            text_config=dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                             eos_token_id=2),
            vision_config=dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
                               image_size=224, patch_size=14))
SMALL = dict(projection_dim=16,
             text_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2),
             vision_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                                image_size=224, patch_size=56))
TEXTS = ["a dog in the jungle", "a cube shaped teapot on top of a purple rug in a forest"]


def stirred(model):
    """Biases, norms and the class token are 0 or 1 at first, where a mistake would not be seen."""
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=chance)
    return model.eval()


def near(a, b):
    return (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.fixture
def dino(tmp_path):
    """DINO's ViT-S/16 with random weights, as transformers has it, and its folder."""
    torch.manual_seed(0)
    reference = stirred(ViTModel(ReferenceConfig(**S_16), add_pooling_layer=False))
    reference.save_pretrained(tmp_path / "dino")
    return reference, tmp_path / "dino"


def clip(config, folder):
    torch.manual_seed(0)
    reference = stirred(CLIPModel(CLIPConfig(**config)))
    reference.save_pretrained(folder)
    clip_tokenizer().save(folder)
    return reference


def test_dino_is_that_of_transformers(dino):
    reference, folder = dino
    ours, x = load_dino(folder), torch.randn(2, 3, 224, 224)
    assert sum(p.numel() for p in ours.parameters()) == 21_665_664
    with torch.no_grad():
        assert near(ours(x), reference(x).last_hidden_state[:, 0])


def test_its_file_in_the_names_of_timm_is_read(dino, tmp_path):
    reference, folder = dino
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for new, old in {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
                         "patch_embed.proj": "embeddings.patch_embeddings.projection", "blocks.": "encoder.layer.",
                         "attn.proj": "attention.output.dense", "norm1": "layernorm_before", "norm2": "layernorm_after",
                         "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense", "norm.": "layernorm."}.items():
            name = name.replace(old, new)
        tensors[name] = tensor
    for i in range(12):
        for kind in ("weight", "bias"):
            three = [tensors.pop(f"blocks.{i}.attention.attention.{part}.{kind}") for part in ("query", "key", "value")]
            tensors[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(three)
    save_file(tensors, (tmp_path / "model.safetensors"))
    about = {"architecture": "vit_small_patch16_224", "num_classes": 0, "num_features": 384, "global_pool": "token"}
    (tmp_path / "config.json").write_text(json.dumps(about))
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():  # timm's normalisations add 1e-6 and not 1e-12
        assert (load_dino(tmp_path)(x) - load_dino(folder)(x)).abs().max() < 1e-3


@pytest.mark.parametrize("config, count", [(B_32, 151_277_313), (L_14, 427_616_513)], ids=["B/32", "L/14"])
def test_both_towers_of_clip_are_those_of_transformers(config, count, tmp_path):
    reference = clip(config, tmp_path)
    ours, tokenizer = load_clip(tmp_path)
    assert sum(p.numel() for p in ours.parameters()) == count
    x, ids = torch.randn(2, 3, 224, 224), tokenizer(TEXTS)
    with torch.no_grad():
        want = reference(pixel_values=x, input_ids=ids)
        assert near(torch.nn.functional.normalize(ours.encode_image(x)), want.image_embeds)
        assert near(torch.nn.functional.normalize(ours.encode_text(ids)), want.text_embeds)


def test_a_config_that_leaves_out_what_is_usual_is_read(tmp_path):
    """As re-saved files of ViT-B/32 have it: only what differs from the defaults."""
    clip(B_32, tmp_path)
    whole, _ = load_clip(tmp_path)
    short = {"model_type": "clip", "projection_dim": 512, "text_config": {"eos_token_id": 2, "dropout": 0.0},
             "vision_config": {"dropout": 0.0}}
    (tmp_path / "config.json").write_text(json.dumps(short))
    ours, _ = load_clip(tmp_path)
    assert ours.config == whole.config and ours.vision_model.config == whole.vision_model.config


@pytest.mark.parametrize("size", [(224, 224), (640, 427), (301, 500), (64, 64), (225, 1000)])
@pytest.mark.parametrize("how", [AS_DINO, AS_CLIP], ids=["dino", "clip"])
def test_pictures_are_prepared_as_transformers_does(how, size):
    """With the settings that the paper's figures need; the class is CLIP's, the settings are given."""
    from transformers import CLIPImageProcessorPil
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    processor = CLIPImageProcessorPil(size={"shortest_edge": how["side"]}, crop_size=224, resample=3,
                                      image_mean=how["mean"], image_std=how["std"])
    want = torch.as_tensor(np.asarray(processor(picture, return_tensors="np")["pixel_values"][0]))
    assert (preprocess(picture, **how) - want).abs().max() < 1e-5


def test_a_picture_looks_like_itself(tmp_path):
    clip(SMALL, tmp_path)
    ours, _ = load_clip(tmp_path)
    pictures = [Image.effect_noise((80 + i, 70), 60).convert("RGB") for i in range(5)]
    vectors = look(ours.encode_image, pictures, AS_CLIP, batch=2)
    assert vectors.shape == (5, 16) and torch.allclose(vectors.norm(dim=1), torch.ones(5))
    assert torch.allclose(look(ours.encode_image, pictures[3:4], AS_CLIP), vectors[3:4], atol=1e-6)


# === refused ==========================================================================================================

@pytest.mark.parametrize("name, copy", SAFE_COPIES.items())
def test_a_pickle_is_refused_and_the_safe_copy_named(name, copy, tmp_path, monkeypatch):
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"pickles are not loaded: {copy}"):
        (load_clip if "clip" in name else load_dino)(name)


def test_what_is_no_vision_transformer_is_refused(dino, tmp_path):
    _, folder = dino
    with pytest.raises(UserError, match="is no CLIP: its config.json says vit"):
        load_clip(folder)
    clip(SMALL, tmp_path / "clip")
    with pytest.raises(UserError, match="is no ViT that this code knows: its config.json says clip"):
        load_dino(tmp_path / "clip")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"patch_size": "16"}))
    with pytest.raises(UserError, match='"patch_size" is 16'):
        load_dino(folder)
    (folder / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 11}))
    with pytest.raises(UserError, match="does not fit its config.json"):
        load_dino(folder)
