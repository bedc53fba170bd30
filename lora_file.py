"""LoRA files, read and written: each tool has names of its own for one and the same thing.

A LoRA is for each of some layers two thin matrices, down (r, d_in) and up (d_out, r):

    W += strength * alpha / r * up @ down                   W (d_out, d_in), as torch has it

(So they are A and B of lora_dreambooth.py, where a layer is x W, transposed.) Tools agree on that
and spell the layer's name each in its own way. Of up_blocks.0.attn.to_q in the UNet:

    kohya, A1111, ComfyUI  lora_unet_up_blocks_0_attn_to_q.lora_down.weight  .lora_up.weight  .alpha
    peft, diffusers        unet.up_blocks.0.attn.to_q.lora_A.weight          .lora_B.weight
    diffusers before peft  unet.up_blocks.0.attn.to_q.lora.down.weight       .lora.up.weight
    peft's own files       base_model.model.up_blocks.0.attn.to_q.lora_A.weight

All of them are read, each renamed to kohya's; kohya's are written, since every tool reads them.
"""
import math
import re
from pathlib import Path

import torch

from files import (UserError, check_weights, load_tensors, read_json, read_metadata, save_tensors,
                   shown)

PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
LORA_NAME = re.compile(r"(.+?)\.(?:lora_|lora\.|lora_linear_layer\.)?(down|up|A|B|alpha)"
                       r"(?:\.weight)?")


# Relatives whose matrices mean something else, and those of larger models.
OTHER_LORAS = {
    "hada_": "a LoHa", "lokr_": "a LoKr", "lora_mid": "a LoCon with a middle (CP)",
    "dora_scale": "a DoRA", "lora_magnitude": "a DoRA", "oft_": "an OFT",
    "on_input": "an (IA)^3", "glora_": "a GLoRA",
    "lora_te2_": "for Stable Diffusion XL", "lora_unet_input_blocks": "for Stable Diffusion XL",
    "text_encoder_2.": "for Stable Diffusion XL", "lora_transformer_": "for another model",
}


def kohya_name(part, layer):
    """unet, up_blocks.0.attn.to_q -> lora_unet_up_blocks_0_attn_to_q."""
    return PREFIXES[part] + layer.replace(".", "_")


def split_lora_name(name):
    """A tensor's name in any spelling -> (the layer by kohya's name, "down", "up" or "alpha"); None
    for what is no LoRA's."""
    name = name.removeprefix("base_model.model.")  # peft's own files; they are the UNet's
    # diffusers' attention processors: attn1.processor.to_q_lora.down
    name = re.sub(r"\.processor\.(to_\w+)_lora\.", r".\1.lora.", name)
    name = name.replace(".to_out.lora.", ".to_out.0.lora.")
    match = LORA_NAME.fullmatch(name)
    if not match:
        return None
    layer, role = match.groups()
    if not layer.startswith(("unet.", "text_encoder.", *PREFIXES.values())):
        layer = "unet." + layer  # peft, and diffusers before April 2023, when a LoRA was the UNet's
    for part, prefix in PREFIXES.items():
        layer = layer.replace(part + ".", prefix, 1)
    layer = layer.replace(".", "_")
    # transformers 5 leaves out text_model.
    layer = layer.replace("lora_te_encoder_", "lora_te_text_model_encoder_")
    return layer, {"A": "down", "B": "up"}.get(role, role)


def sort_tensors(path, tensors, layers):
    """{"down", "up", "alpha": {layer by kohya's name: tensor}}; what belongs to no layer is
    refused."""
    roles = {"down": {}, "up": {}, "alpha": {}}
    for name, tensor in tensors.items():
        for sign, kind in OTHER_LORAS.items():
            if sign in name:
                raise UserError(f"{path} is {kind} ({shown(name)}); this code knows plain LoRA")
        layer, role = split_lora_name(name) or (None, None)
        if layer not in layers:
            raise UserError(f"{path}: {shown(name)} belongs to no layer of this model")
        if role != "alpha":  # that may be a whole number
            check_weights({name: tensor}, path)
        roles[role][layer] = tensor.float()
    return roles


def read_adapter_settings(path, tensors):
    """What peft and diffusers say beside the tensors: {"lora_alpha", "unet.lora_alpha", ...}."""
    settings = read_metadata(path, "lora_adapter_metadata")
    if any(name.startswith("base_model.") for name in tensors):  # peft, in a file beside
        settings = read_json(Path(path).with_name("adapter_config.json"))
    for key, value in settings.items():
        if value and key.endswith(("rank_pattern", "alpha_pattern", "use_dora", "use_rslora")):
            raise UserError(f"{path}: a rank or alpha for each layer, dora and rslora are not "
                            "known to this code")
    return settings


def read_lora(path, layers):
    """{layer by kohya's name: (down (r, d_in), up (d_out, r), alpha / r)} from a LoRA file.
    `layers` {name: layer} of the model that it is for: what does not fit one is refused."""
    tensors, changes = load_tensors(path), {}
    roles = sort_tensors(path, tensors, layers)
    settings = read_adapter_settings(path, tensors)
    for layer in roles["down"] | roles["up"]:
        down, up, weight = roles["down"].get(layer), roles["up"].get(layer), layers[layer].weight
        fits = down is not None and up is not None and min(down.ndim, up.ndim) >= 2
        fits = fits and len(down) == up[0].numel() > 0
        if not fits or (len(up), down[0].numel()) != (len(weight), weight[0].numel()):
            raise UserError(f"{path}: {layer} does not fit this model's layer of "
                            f"{list(weight.shape)}")
        r, part = len(down), "unet" if layer.startswith(PREFIXES["unet"]) else "text_encoder"
        of_all = settings.get("lora_alpha", settings.get(f"{part}.lora_alpha", r))
        try:
            alpha = float(roles["alpha"].get(layer, of_all))
        except (RuntimeError, TypeError, ValueError):  # of several numbers, of none
            alpha = math.nan
        if not math.isfinite(alpha):
            raise UserError(f"{path}: the alpha of {layer} is no number")
        changes[layer] = down.flatten(1), up.flatten(1), alpha / r
    return changes


def save_lora(path, changes, alpha=None):
    """changes {layer by kohya's name: (down (r, d_in), up (d_out, r))}; without an alpha it is
    r."""
    tensors = {}
    for layer, (down, up) in changes.items():
        tensors[f"{layer}.lora_down.weight"] = down
        tensors[f"{layer}.lora_up.weight"] = up
        tensors[f"{layer}.alpha"] = torch.tensor(float(alpha or len(down)))
    save_tensors(tensors, path)
