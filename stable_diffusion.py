"""Stable Diffusion: the chapters put together.

    python stable_diffusion.py "a photo of a red teapot on the beach" --seed 0 --out teapot.png

A prompt becomes vectors (clip_text.py); a sampler (ddpm.py) walks from noise to a clean latent, asking the UNet
(tiny_unet.py) at each step; the autoencoder (vae.py) paints the latent. Guidance asks the UNet twice, with the prompt and
with the negative one, and overshoots the difference:

    output = output(negative) + guidance * (output(prompt) - output(negative))      (Ho & Salimans 2022, eq. 6, w = guidance - 1)

A model is a folder in the layout of diffusers, or its name on the Hugging Face hub; with no --model it is the tiny world's,
which lies beside this file. The same prompt, seed, steps, guidance and sampler give the picture that diffusers gives.

Not here: safety checker, image-to-image, inpainting, schedulers beyond ddpm.py's.
"""
import argparse
import errno
import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from checkpoint import UserError, load_tensors, read_model, save_model
from ddpm import SAMPLERS, Schedule, ScheduleConfig

TINY = str(Path(__file__).parent / "tiny_world" / "model")


# === pictures =========================================================================================================

def open_picture(path):
    """One picture as people have them (rotated by EXIF, transparent, palette, grey, CMYK, 16 bits) as an upright RGB image."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            image.load()
    except UnidentifiedImageError:
        what = "HEIC: save it as JPEG first" if Path(path).suffix.lower() in (".heic", ".heif") else "not a picture Pillow can read"
        raise UserError(f"{path} is {what}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: Pillow's word for a broken PNG
        raise UserError(f"{path} cannot be read: {error}") from None
    if image.mode.startswith("I") or image.mode == "F":  # 16 or 32 bits of grey: Pillow's own conversion would clip them
        grey = np.asarray(image).astype("float32")
        white = 65535 if image.mode.startswith("I;16") or grey.max() > 255 else 255
        image = Image.fromarray((grey * (255 / white)).round().clip(0, 255).astype("uint8"))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def load_pictures(folder, most=None):
    """All pictures of a folder by name, or the first `most`. A file that is none is named on stderr and passed over; no picture at all is an error."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"--images {folder} is no folder")
    pictures = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        if len(pictures) == most:
            break
        try:
            pictures.append(open_picture(path))
        except UserError as error:
            print(f"passed over: {error}", file=sys.stderr)
    if not pictures:
        raise UserError(f"no pictures in {folder}: put photos of the subject there")
    return pictures


def to_tensor(image):
    """PIL RGB -> (3, y, x) in [-1, 1]."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1).float() / 127.5 - 1


def to_images(x):
    """(b, 3, y, x), about [-1, 1] -> list of PIL RGB."""
    x = ((x.float() / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return [Image.fromarray(a) for a in x]


# === the model ========================================================================================================

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
        tokenizer, networks, schedule = read_model(name, revision)
        text, unet, vae = [networks[part].to(device=device, dtype=dtype).eval() for part in ("text_encoder", "unet", "vae")]
        return cls(tokenizer, text, unet, vae, schedule)

    def save(self, folder, half=False):
        """The whole model in the public layout, which diffusers opens too; whole or not there. half: weights in fp16."""
        networks = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text}
        save_model(folder, self.tokenizer, networks, self.schedule.config, half)

    # --- new words ----------------------------------------------------------------------------------------------------

    def add_word(self, token, vectors):
        """Makes `token` a word of the vocabulary with vectors (n, d) of its own, n of them. Returns its ids."""
        if vectors.shape[1] != self.text.config.hidden_size:
            raise UserError(f"{token} is a word for text encoders of width {vectors.shape[1]}; this one's is {self.text.config.hidden_size}")
        try:
            ids = self.tokenizer.add(token, len(vectors))
        except ValueError as error:  # the word, or <it>_1 for the second vector of <it>
            raise UserError(f"{token}: {error}; choose another name") from error
        self.text.append(vectors, ids[0])
        return ids

    def load_embeds(self, path):
        """Adds the word that a textual inversion learned, and returns it. A safetensors file with one tensor (n, d) or (d,),
        named by its word; or, as kohya writes and A1111 reads it, by "emb_params": then the word is the file's name. A1111's own
        .pt files are pickles and are refused."""
        tensors, _ = load_tensors(path)
        if len(tensors) != 1:
            raise UserError(f"{path} has {len(tensors)} tensors; a learned word is one")
        [(token, vectors)] = tensors.items()
        token = Path(path).stem if token == "emb_params" else token
        if vectors.ndim not in (1, 2) or not vectors.numel():
            raise UserError(f"{path}: a word is one vector or a few, (n, width), and this is {tuple(vectors.shape)}")
        self.add_word(token, vectors.view(-1, vectors.shape[-1]))
        return token

    def load_lora(self, path, strength=1.0):
        """Adds the low-rank changes of a LoRA file to the weights: W += strength * alpha / r * up @ down. Read are the names of kohya
        (lora_unet_down_blocks_0_..., also A1111's and ComfyUI's), of peft, and of diffusers before that."""
        layers = {f"{prefix}{name}".replace(".", "_"): layer for prefix, network in (("lora_unet_", self.unet), ("lora_te_", self.text))
                  for name, layer in network.named_modules() if hasattr(layer, "weight")}
        spelling = re.compile(r"(.+?)\.(?:lora_|lora\.|lora_linear_layer\.)?(down|up|A|B|alpha)(?:\.weight)?")
        tensors, about = load_tensors(path)
        peft, parts = json.loads(about.get("lora_adapter_metadata", "{}")), {"down": {}, "up": {}, "alpha": {}}
        if any(value for key, value in peft.items() if key.endswith(("_pattern", "use_dora", "use_rslora"))):
            raise UserError(f"{path}: a rank or alpha for each layer, dora and rslora are not known to this code")
        for name, tensor in tensors.items():
            plain = re.sub(r"\.processor\.(to_\w+)_lora\.", r".\1.lora.", name).replace(".to_out.lora.", ".to_out.0.lora.")
            found = spelling.fullmatch(plain)
            stem = found[1].replace("text_encoder.", "lora_te_", 1).replace("unet.", "lora_unet_", 1).replace(".", "_") if found else ""
            stem = stem.replace("lora_te_encoder_", "lora_te_text_model_encoder_")             # as transformers 5 has it
            if stem not in layers:
                raise UserError(f"{path}: {name} belongs to no layer of this model")
            parts[{"A": "down", "B": "up"}.get(found[2], found[2])][stem] = tensor.float()
        down, up, alpha = parts.values()
        for stem in down | up:  # all of them before the first is changed
            a, b, weight = down.get(stem), up.get(stem), layers[stem].weight
            if a is None or b is None or a.shape[0] != b.shape[1] or b.shape[0] != weight.shape[0] or a[0].numel() != weight[0].numel():
                raise UserError(f"{path}: {stem} does not fit this model's layer of {list(weight.shape)}")
        for stem in up:
            r, weight = up[stem].shape[1], layers[stem].weight
            scale = strength * float(alpha.get(stem, peft.get("unet.lora_alpha" if "unet" in stem else "text_encoder.lora_alpha", r))) / r
            weight.data += (scale * up[stem].flatten(1) @ down[stem].flatten(1)).view(weight.shape).to(weight)     # (m, r) (r, n)

    # --- pictures and latents -----------------------------------------------------------------------------------------

    @property
    def size(self):
        """Side of the pictures that the model was trained on, in pixels."""
        return self.unet.config.sample_size * self.vae.factor

    @property
    def large(self):
        """Stable Diffusion, or a small model like the tiny world's?"""
        return sum(p.numel() for p in self.unet.parameters()) >= 100e6

    @property
    def guidance(self):
        """What pictures are usually drawn with: 7.5, as everybody does with Stable Diffusion. The tiny world's model needs less."""
        return 7.5 if self.large else 4.0

    def encode(self, x, generator=None):
        """(b, 3, y, x) in [-1, 1] -> scaled latents (b, 4, y/f, x/f), one draw from q(z|x)."""
        mean, std = self.vae.encode(x)
        eps = torch.randn(mean.shape, generator=generator).to(mean)
        return (mean + std * eps) * self.vae.config.scaling_factor

    def decode(self, z):
        """Scaled latents -> (b, 3, y, x), about [-1, 1]."""
        return self.vae.decode((z / self.vae.config.scaling_factor).to(self.vae.post_quant_conv.weight))

    # --- a prompt to a picture ----------------------------------------------------------------------------------------

    def read(self, prompts):
        """Prompts (a list) to vectors (b, l, d). Warns when the end of one is lost."""
        for prompt in prompts:
            if lost := self.tokenizer.cut(prompt):
                print(f'the prompt is longer than {self.tokenizer.length - 2} tokens; lost: "{lost}"', file=sys.stderr)
        return self.text(self.tokenizer(prompts).to(self.text.table.weight.device))

    @torch.no_grad()
    def walk(self, prompts, negative="", images=1, steps=50, guidance=None, sampler="ddim", seed=0, size=None):
        """The sampler step by step: yields (t, z, z_0) for `images` pictures of each prompt, prompt by prompt in the batch.
        Every prompt starts from the same seed, so that its pictures do not depend on what else is in the batch."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        guidance = self.guidance if guidance is None else guidance
        size = self.size if size is None else size
        height, width = (size, size) if isinstance(size, int) else size
        if not prompts or images < 1:
            raise UserError(f"{len(prompts)} prompts, {images} images of each: at least one prompt, and at least one of its images")
        if not -2 ** 63 <= seed < 2 ** 64:
            raise UserError(f"--seed {seed} does not fit into 64 bits")
        if not 1 <= steps <= self.schedule.T:
            raise UserError(f"sampling steps must be 1 to {self.schedule.T}, not {steps}")
        if sampler not in SAMPLERS:
            raise UserError(f'there is no sampler "{sampler}": {", ".join(SAMPLERS)}')
        factor = self.vae.factor
        if height % factor or width % factor or min(height, width) < factor * 2:
            raise UserError(f"size {height} x {width}: both sides must be multiples of {factor}, and {factor * 2} or more")
        weight = self.unet.conv_in.weight  # where and in what precision the networks run; the sampler itself is float32
        words = self.read(prompts).repeat_interleave(images, dim=0)                            # (b, l, d)
        if guidance > 1:
            words = torch.cat([self.read([negative]).expand(len(words), -1, -1), words])       # (2b, l, d)
        generators = [torch.Generator().manual_seed(seed) for _ in prompts]  # on the CPU: the same noise on every device

        def randn():
            shape = (images, self.unet.config.in_channels, height // factor, width // factor)
            return torch.cat([torch.randn(shape, generator=g) for g in generators]).to(weight.device)

        def denoise(z, t):
            z = z.to(weight).repeat(len(words) // len(z), 1, 1, 1)                             # doubled with guidance
            output = self.unet(z, torch.full((len(z),), t, device=z.device), words).float()
            if guidance <= 1:
                return output
            unlike, like = output.chunk(2)
            return unlike + guidance * (like - unlike)

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
        torch.zeros(1, device=name).item()  # item: the device "meta" exists, but has no numbers
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
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise
        sys.exit(print(f"error: {error.filename or 'the disk'}: {error.strerror}", file=sys.stderr) or 2)
    except torch.OutOfMemoryError:
        sys.exit(print("error: the GPU's memory is full: a smaller --size or --batch-size, or --dtype bfloat16, needs less", file=sys.stderr) or 2)
    except KeyboardInterrupt:
        sys.exit(130)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("prompt", nargs="?", default="a photo of a red teapot on the beach")
    p.add_argument("--model", default=TINY, help="a folder as diffusers saves it, or a name on the hub (default: the tiny world's)")
    p.add_argument("--revision", help="branch or commit of a model on the hub")
    p.add_argument("--embeds", action="append", default=[], help="a learned word (learned_embeds.safetensors); may be repeated")
    p.add_argument("--lora", action="append", default=[], help="a LoRA (pytorch_lora_weights.safetensors); may be repeated")
    p.add_argument("--negative", default="", help="what the picture should be unlike")
    p.add_argument("--sampler", default="ddim", choices=SAMPLERS)
    p.add_argument("--sampling-steps", type=int, default=50)
    p.add_argument("--guidance", type=float, help="1 turns it off and halves the time (default: the model's)")
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
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:  # Pillow reads more kinds than it writes
        raise UserError(f"--out {a.out}: the name should end in .png or .jpg")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of drawing
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error}") from None
    sd = StableDiffusion.from_pretrained(a.model, pick_device(a.device), getattr(torch, a.dtype), a.revision)
    for path in a.embeds:
        sd.load_embeds(path)
    for path in a.lora:
        sd.load_lora(path)
    for word in re.findall(r"<[^<>\s]+>", a.prompt):
        if word not in sd.tokenizer.vocab:
            print(f"the model does not know the word {word}: --embeds FILE adds one that was learned", file=sys.stderr)
    pictures = sd.sample(a.prompt, bar=True, negative=a.negative, images=a.images, steps=a.sampling_steps, guidance=a.guidance,
                         sampler=a.sampler, seed=a.seed, size=a.size)
    for i, picture in enumerate(pictures, 1):
        path = out if len(pictures) == 1 else out.with_name(f"{out.stem}-{i}{out.suffix}")
        try:
            picture.save(path)
        except OSError as error:
            raise UserError(f"--out {path} could not be written: {error}") from None
        print(path)


if __name__ == "__main__":
    run(main)
