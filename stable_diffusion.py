"""Stable Diffusion: the chapters put together.

    python stable_diffusion.py "a photo of a red teapot on the beach" --seed 0 --out teapot.png

A prompt becomes vectors (clip_text.py); a sampler (ddpm.py) walks from noise to a clean latent,
asking the UNet (tiny_unet.py) at each step; the autoencoder (vae.py) paints the latent. Guidance
asks the UNet twice, with the prompt and with the negative one, and overshoots the difference:

    output = output(negative) + guidance * (output(prompt) - output(negative))
                                                 (Ho & Salimans 2022, eq. 6, w = guidance - 1)

A model is a folder in the layout of diffusers, or its name on the Hugging Face hub; with no --model
it is the tiny world's, which lies beside this file. The same prompt, seed, steps, guidance and
sampler give the picture that diffusers gives.

Letters in the shape comments, the same in every file: see tiny_unet.py.
Not here: safety checker, image-to-image, inpainting, schedulers beyond ddpm.py's.
"""
import argparse
import hashlib
import math
import re
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from checkpoint import read_model, save_model
from single_file import read_single_file, write_single_file
from command import pick_device, pick_dtype, run
from files import UserError, load_weights, shown
from lora_file import kohya_name, read_lora
from ddpm import SAMPLERS, Schedule, ScheduleConfig
from pictures import save_picture, to_images, to_tensor

TINY = str(Path(__file__).parent / "tiny_world" / "model")    # the embedded default
SUBJECTS = Path(__file__).parent / "tiny_world" / "subjects"  # a folder of photos for each subject


class StableDiffusion:
    """A tokenizer, three networks and a noise schedule.

        sd = StableDiffusion.from_pretrained("tiny_world/model")
        sd.sample("a photo of a cat in the snow")[0].save("cat.png")

    """

    def __init__(self, tokenizer, text, unet, vae, schedule_config=ScheduleConfig()):
        self.tokenizer, self.text, self.unet, self.vae = tokenizer, text, unet, vae
        self.schedule = Schedule(schedule_config)
        self.mark = ""  # the fingerprint, once `place` has rounded the weights

    # --- a prompt to a picture --------------------------------------------------------------------

    def read(self, prompts):
        """Prompts (a list) to vectors (b, l, d). Warns when the end of one is lost."""
        for prompt in prompts:
            if lost := self.tokenizer.cut(prompt):
                print(f"the prompt is longer than {self.tokenizer.length - 2} tokens; lost: "
                      f'"{lost}"', file=sys.stderr)
        tokens = self.tokenizer(prompts).to(self.text.table.weight.device)
        return self.text(tokens).to(self.device)

    def denoise(self, z, t, words, guidance):
        """The UNet's output for latents z (b, c, y, x) at one t, guided. words: the prompts'
        vectors (b, l, d); with guidance above 1 the negative prompts', then the prompts', (2b, l,
        d)."""
        z, words = z.to(self.unet.conv_in.weight), words.to(self.unet.conv_in.weight)
        if guidance <= 1:  # the prompt alone: nothing to overshoot, and the negative is not asked
            return self.unet(z, torch.full((len(z),), t, device=z.device), words).float()
        z = torch.cat([z, z])
        output = self.unet(z, torch.full((len(z),), t, device=z.device), words).float()
        negative, prompt = output.chunk(2)
        return negative + guidance * (prompt - negative)

    @torch.no_grad()
    def walk(self, prompts, negative="", images=1, steps=50, guidance=None, sampler="ddim", seed=0,
             size=None):
        """The sampler step by step: yields (t, z, z_0) for `images` pictures of each prompt, prompt
        by prompt in the batch. seed: one from which every prompt starts, so that prompts are
        compared and not chance, or a list with one for each prompt; its pictures do not depend on
        the other prompts. size: a side in pixels, or (height, width)."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        guidance = self.guidance if guidance is None else guidance
        size = self.size if size is None else size
        height, width = (size, size) if isinstance(size, int) else size
        seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
        self.check_walk(prompts, images, steps, guidance, sampler, seeds, height, width)

        words = self.read(prompts).repeat_interleave(images, dim=0)                 # (b, l, d)
        if guidance > 1:
            without = self.read([negative]).expand(len(words), -1, -1)
            words = torch.cat([without, words])                                     # (2b, l, d)
        # Noise comes from the CPU, so that it is the same on every device, and in float32.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        f = self.vae.factor
        shape = (images, self.unet.config.in_channels, height // f, width // f)

        def randn():                                                                # (b, c, y, x)
            return torch.cat([torch.randn(shape, generator=g) for g in generators]).to(self.device)

        def denoise(z, t):
            return self.denoise(z, t, words, guidance)

        yield from SAMPLERS[sampler](self.schedule, denoise, randn(), steps, randn)

    def sample(self, prompts, bar=False, **how):
        """Pictures for a prompt or a list of prompts, as a list of PIL images; see `walk` for the
        keywords."""
        total = how.get("steps", 50)
        for t, z, z_0 in tqdm(self.walk(prompts, **how), total=total, disable=not bar, leave=False):
            pass
        with torch.no_grad():  # one by one: large pictures need the room
            x = torch.cat([self.decode(one[None]) for one in z])
        if not x.isfinite().all():  # it would be black
            raise UserError("the picture is not finite: weights are broken, or too large for "
                            "float16 (bfloat16 and float32 have room)")
        return to_images(x)

    # --- pictures and latents ---------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, pictures):
        """Pictures (PIL) of one size -> mean and std of q(z|x), (b, c, y, x) each, as
        `draw_latents` wants them: on the CPU, where all random numbers are drawn, so that they are
        the same on every device. One by one: large ones need the room."""
        both = []
        for picture in pictures:
            x = to_tensor(picture)[None].to(self.vae.quant_conv.weight)
            both.append(torch.stack(self.vae.encode(x)))
        mean, std = torch.cat(both, dim=1).float().cpu()
        return mean, std

    def draw_latents(self, mean, std, generator):
        """One draw from q(z|x) for each mean and std (b, c, y, x), scaled to a variance of about 1
        as the UNet wants it."""
        eps = torch.randn(mean.shape, generator=generator)
        return (mean + std * eps) * self.vae.config.scaling_factor

    def decode(self, z):
        """Scaled latents (b, c, y, x) -> pictures (b, 3, y*f, x*f), about [-1, 1]; f is the
        autoencoder's factor, 8 in Stable Diffusion."""
        latents = (z / self.vae.config.scaling_factor).to(self.vae.post_quant_conv.weight)
        return self.vae.decode(latents).to(z.device)

    @torch.no_grad()
    def loss_by_noise(self, pictures, prompt):
        """The model's loss on pictures (PIL) with a prompt, as text: the means at little, middle
        and much noise. (A single training step's loss says most of all which t was drawn.)"""
        (mean, _), words = self.encode(pictures), self.read([prompt])
        losses = []
        for t in (self.schedule.T // 6, self.schedule.T // 2, self.schedule.T * 5 // 6):
            generator = torch.Generator().manual_seed(0)  # the same noise before and after training
            times, errors = torch.tensor([t]), []
            for z in mean[:, None] * self.vae.config.scaling_factor:                # (1, c, y, x)
                eps = torch.randn(z.shape, generator=generator)
                x_t = self.schedule.add_noise(z, eps, times).to(self.device)
                output = self.denoise(x_t, t, words, guidance=1).cpu()
                errors.append(F.mse_loss(output, self.schedule.target(z, eps, times)).item())
            losses.append(sum(errors) / len(errors))
        return " ".join(f"{loss:.3f}" for loss in losses)

    def fingerprint(self):
        """A few characters that tell this model from every other one: of some of each weight, in
        half precision, so that they are the same for a file of either; and of the model as it was
        before `place` rounded it."""
        if self.mark:
            return self.mark
        weights = [*self.unet.parameters(), *self.text.parameters()]
        some = torch.cat([weight.detach().flatten()[:16].half().cpu() for weight in weights])
        described = some.numpy().tobytes() + repr(self.schedule.config).encode()
        return hashlib.sha256(described).hexdigest()[:16]

    # --- new words and changed layers -------------------------------------------------------------

    def add_word(self, token, vectors):
        """Makes `token` a word of the vocabulary with vectors (n, d) of its own, n of them. Returns
        its ids."""
        if vectors.shape[1] != self.text.config.hidden_size:
            raise UserError(f"{token} is a word for text encoders of width {vectors.shape[1]}; "
                            f"this one's is {self.text.config.hidden_size}")
        try:
            ids = self.tokenizer.add(token, len(vectors))
        except ValueError as error:  # the word, or <it>_1 for the second vector of <it>
            raise UserError(f"{token}: {error}; choose another name") from error
        self.text.append(vectors, ids[0])
        return ids

    def read_with(self, tokens, ids, v):
        """Tokens (b, l) to vectors (b, l, d), with v (n, d) in place of the table's rows `ids`: so
        gradients reach these words, and the rest of the table needs none."""
        looked_up = self.text.table(tokens)                                     # (b, l, d)
        for i, row in zip(ids, v):
            looked_up = torch.where((tokens == i)[..., None], row, looked_up)
        return self.text(tokens, looked_up)

    def load_embeds(self, path):
        """Adds the word that a textual inversion learned, and returns it. A safetensors file with
        one tensor (n, d) or (d,), named by its word; or, as kohya and others write, by "emb_params"
        or "clip_l": then the word is the file's name. A1111's own .pt files are pickles and are
        refused."""
        tensors = load_weights(path)
        if len(tensors) != 1:
            kind = "a word for Stable Diffusion XL" if "clip_g" in tensors else "no single word"
            raise UserError(f"{path} has {len(tensors)} tensors: it is {kind}")
        [(token, vectors)] = tensors.items()
        token = Path(path).stem if token in ("emb_params", "clip_l") else token
        rows = vectors[None] if vectors.ndim == 1 else vectors                  # (n, d)
        if rows.ndim != 2 or not 1 <= len(rows) <= self.tokenizer.length - 2:
            raise UserError(f"{path}: a word is one vector or a few, (n, width), and this is "
                            f"{tuple(vectors.shape)}")
        self.add_word(token, rows)
        return token

    def load_lora(self, path, strength=1.0):
        """Adds the low-rank changes of a LoRA file to the weights: W += strength * alpha / r * up @
        down. Read are the names of kohya (lora_unet_down_blocks_0_..., also A1111's and ComfyUI's),
        of peft, and of diffusers before that."""
        layers = {}
        for part, network in (("unet", self.unet), ("text_encoder", self.text)):
            for name, layer in network.named_modules():
                if hasattr(layer, "weight"):
                    layers[kohya_name(part, name)] = layer
        if Path(path).is_dir():
            path = Path(path) / "pytorch_lora_weights.safetensors"
        changes = read_lora(path, layers)  # all of them, before the first layer is changed
        for name, (down, up, scale) in changes.items():
            weight = layers[name].weight
            change = strength * scale * up @ down                                   # (d_out, d_in)
            weight.data += change.view(weight.shape).to(weight)

    # --- the whole --------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name, device="cpu", dtype=torch.float32, revision="", variant=""):
        """`name`: a folder, a single file, or a model on the hub; `revision`: a branch or commit
        there; `variant`: fp16 for the files of that name. Weights are `dtype` on `device`."""
        if str(name).endswith((".safetensors", ".ckpt")):
            tokenizer, networks, schedule = read_single_file(name)
        else:
            tokenizer, networks, schedule = read_model(name, revision, variant)
        for network in networks.values():
            network.to(device=device, dtype=dtype).eval()
        return cls(tokenizer, networks["text_encoder"], networks["unet"], networks["vae"], schedule)

    def save(self, folder, half=False):
        """The whole model in the public layout, which diffusers opens too; whole or not there.
        half: weights in fp16."""
        save_model(folder, self.tokenizer, self.networks, self.schedule.config, half)

    def save_single_file(self, path):
        """The whole model in one file, in fp16, as A1111 and ComfyUI open it; without the words
        that were added."""
        write_single_file(path, self.tokenizer, self.networks, self.schedule.config)

    def freeze(self):
        """No weight of any part is trained; a method says which are."""
        for network in self.networks.values():
            network.requires_grad_(False)

    def set_aside(self, *networks):
        """Networks that are not needed for a while wait on the CPU, and leave the GPU's memory to
        the others. What is asked of them meanwhile is computed there."""
        for network in networks:
            network.to("cpu")

    def take_back(self):
        self.place(self.device)

    def place(self, device, dtype=None):
        """Moves all networks to a device. With a dtype, by its name, the UNet becomes that first:
        the device may have no room for it in float32."""
        if dtype not in (None, "float32"):
            self.mark = self.fingerprint()
            self.unet.to(getattr(torch, dtype))
        for network in self.networks.values():
            network.to(device)

    @property
    def networks(self):
        """{part: network}, by the names of the public folders."""
        return {"unet": self.unet, "vae": self.vae, "text_encoder": self.text}

    @property
    def device(self):
        return self.unet.conv_in.weight.device

    def autocast(self, dtype):
        """The context in which the networks compute in `dtype`, by its name; the weights stay as
        they are."""
        return torch.autocast(self.device.type, getattr(torch, dtype), dtype != "float32",
                              cache_enabled=False)

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
        """What pictures are usually drawn with: 7.5, as everybody does with Stable Diffusion. The
        tiny world's model needs less."""
        return 7.5 if self.large else 3.0

    def check_walk(self, prompts, images, steps, guidance, sampler, seeds, height, width):
        """Refuses what no picture can be drawn by."""
        factor = self.vae.factor
        if not prompts or images < 1:
            raise UserError(f"{len(prompts)} prompts, {images} images of each: at least one "
                            "prompt, and at least one of its images")
        if len(seeds) != len(prompts):
            raise UserError(f"{len(seeds)} seeds for {len(prompts)} prompts")
        for seed in seeds:
            if not -2 ** 63 <= seed < 2 ** 64:
                raise UserError(f"--seed {seed} does not fit into 64 bits")
        if not math.isfinite(guidance):
            raise UserError(f"--guidance {guidance}: a number")
        if not 1 <= steps <= self.schedule.T:
            raise UserError(f"sampling steps must be 1 to {self.schedule.T}, not {steps}")
        if sampler not in SAMPLERS:
            raise UserError(f'there is no sampler "{sampler}": {", ".join(SAMPLERS)}')
        if height % factor or width % factor or min(height, width) < factor * 2:
            raise UserError(f"size {height} x {width}: both sides must be multiples of {factor}, "
                            f"and {factor * 2} or more")


# === the command ==================================================================================

def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("prompt", nargs="?", default="a photo of a red teapot on the beach")
    p.add_argument("--model", default=TINY,
                   help="a folder as diffusers saves it, a single file, or a name on the hub "
                        "(default: the tiny world's)")
    p.add_argument("--revision", default="", help="branch or commit of a model on the hub")
    p.add_argument("--variant", default="", help="fp16: the weights' files of that name")
    p.add_argument("--embeds", action="append", default=[],
                   help="a learned word (learned_embeds.safetensors); may be repeated")
    p.add_argument("--lora", action="append", default=[],
                   help="a LoRA (pytorch_lora_weights.safetensors), or at six tenths of its "
                        "strength FILE:0.6; may be repeated")
    p.add_argument("--negative", default="", help="what the picture should be unlike")
    p.add_argument("--sampler", default="ddim", choices=SAMPLERS)
    p.add_argument("--sampling-steps", type=int, default=50)
    p.add_argument("--guidance", type=float,
                   help="1 or less: the prompt alone, in half the time (default: the model's)")
    p.add_argument("--images", type=int, default=1, help="pictures of the prompt")
    p.add_argument("--size", help="side in pixels, or WIDTHxHEIGHT (default: the model's)")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="auto")
    p.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"),
                   help="auto: on a GPU half of the memory and twice as fast; float32 is exact")
    p.add_argument("--single-file", default="", metavar="FILE",
                   help="write the model, with its LoRAs, as one .safetensors file too, for A1111 "
                        "and ComfyUI; words stay in files of their own")
    p.add_argument("--out", default="picture.png",
                   help="several pictures are numbered: picture-1.png, ...")
    return p.parse_args()


def parse_size(text):
    """512, or 512x768, a width and a height -> (height, width), as `walk` has it."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not match:
        raise UserError(f"--size {text}: a number of pixels, or two as in 512x768")
    width, height = int(match[1]), int(match[2] or match[1])
    return height, width


def split_strength(text):
    """FILE:0.6 -> the file and how much of it is added; without a number all of it."""
    path, colon, strength = text.rpartition(":")
    try:
        strength = float(strength)
    except ValueError:
        return text, 1.0
    if not colon or not math.isfinite(strength):
        return text, 1.0
    return path, strength


def check_out(out):
    """The picture's file, before minutes of drawing: of a kind that Pillow writes, and in a folder
    that can be made."""
    kind = Image.registered_extensions().get(out.suffix.lower())
    if kind not in Image.SAVE:  # Pillow reads more kinds than it writes
        raise UserError(f"--out {out}: the name should end in .png or .jpg")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror}") from None


def main():
    a = parse_arguments()
    out = Path(a.out)
    if a.images < 1:
        raise UserError(f"--images {a.images}: at least 1")
    check_out(out)
    if a.single_file and not a.single_file.endswith(".safetensors"):
        raise UserError(f"--single-file {a.single_file}: the name should end in .safetensors")
    device = pick_device(a.device)
    dtype = "float32" if a.dtype == "auto" and a.single_file else a.dtype  # all digits are written
    dtype = getattr(torch, pick_dtype(dtype, device))
    size = parse_size(a.size)
    sd = StableDiffusion.from_pretrained(a.model, device, dtype, a.revision, a.variant)
    for path in a.embeds:
        print(f"a new word: {shown(sd.load_embeds(path))}", file=sys.stderr)
    for path in a.lora:
        sd.load_lora(*split_strength(path))
    for word in re.findall(r"<[^<>\s]+>", a.prompt):
        if word not in sd.tokenizer.vocab:
            print(f"the model does not know the word {word}: --embeds FILE adds a learned one",
                  file=sys.stderr)
    if a.single_file:
        sd.save_single_file(a.single_file)
        print(a.single_file)
    pictures = sd.sample(a.prompt, bar=True, negative=a.negative, images=a.images,
                         steps=a.sampling_steps, guidance=a.guidance, sampler=a.sampler,
                         seed=a.seed, size=size)
    for i, picture in enumerate(pictures, 1):
        path = out if len(pictures) == 1 else out.with_name(f"{out.stem}-{i}{out.suffix}")
        save_picture(picture, path)
        print(path)


if __name__ == "__main__":
    run(main)
