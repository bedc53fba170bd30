"""Textual Inversion (Gal et al., ICLR 2023, arXiv 2208.01618): find the word for a subject; change nothing else.

    python textual_inversion.py                                                     the tiny world's cat
    python textual_inversion.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 --images my_dog --class-name dog --size 512

The idea: a frozen model can already draw this very dog, if only someone found the right word. A word is a vector, one row of the
text encoder's table. So add a row for a new word `<it>`, start it at a copy of the row of "dog", and move that one vector until
"a photo of <it>" draws the photos:

    v* = argmin_v  E |eps - eps_theta(x_t, t, text(y(v)))|^2                                                      (eq. 2)

with x the photos and y a neutral sentence with <it> in it, another one each time, so that the vector holds what the photos have in
common and not what one sentence says.

    trained   v (Stable Diffusion 1: 768 numbers; tiny world: 128), or n of them with --vectors n
    frozen    the UNet, the text encoder and all the other words, the VAE

Follows the paper: initialised from a coarse word of one token; its code's kind of sentences; mirrored photos; AdamW with weight
decay 0.01 on v. The learning rate is the knob between likeness and obedience to the prompt. The paper's, on LDM, is 0.005 times the
batch size times the number of GPUs, for 5000 steps; on Stable Diffusion 0.0005 times the batch size for 3000 steps, as
diffusers does, is usual, and that is what SETTINGS has for its batch size (with another --batch-size give --lr too).
Simplified: photos are cut to a square, not squashed; the word gets a row of its own in the table, where the paper's code borrows
that of "*".
Not here: a penalty for leaving the coarse word (0 in the paper's code), an extra word for each photo, vectors added one by one.
"""
import argparse
import re
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from tqdm import tqdm

from checkpoint import UserError, load_state, resumable, save_state, save_tensors
from stable_diffusion import TINY, StableDiffusion, load_pictures, pick_device, run, to_tensor
from tiny_world import SUBJECTS, sheet


@dataclass
class Config:
    model: str = TINY                 # a folder as diffusers saves it, or a name on the hub
    images: str = ""                  # folder with 3 to 6 photos of the subject; "": the tiny world's cat
    class_name: str = ""              # the coarse word to start from, one token
    token: str = "<it>"               # the new word
    vectors: int = 1                  # how many vectors it has; more hold more detail and obey prompts less
    style: bool = False               # the photos share a style, not a subject: other templates
    steps: int = None                 # None, here and below: what SETTINGS has for a model of this size
    lr: float = None                  # the knob between likeness (more) and obedience to the prompt (less)
    batch_size: int = None
    size: int = None                  # side of the pictures in pixels; None: what the model was trained on
    sampling_steps: int = None        # for the pictures before and after
    guidance: float = None            # the model's
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"            # bfloat16 computes faster where the machine has it; the vectors stay float32
    out: str = "runs/textual_inversion"
    save_every: int = None            # steps between two states to resume from
    resume: bool = False              # go on from the state in `out`


SETTINGS = {  # tiny world, Stable Diffusion (from 100 million UNet parameters on)
    "steps":            (300,        3000),
    "lr":               (3e-2,       2e-3),      # Stable Diffusion: 5e-4 times the batch size; the paper, on LDM, 5e-3 times it
    "batch_size":       (8,          4),
    "sampling_steps":   (25,         25),
    "save_every":       (100,        500),
}

# The sentences for subjects, diffusers' 27 of the 57 that the paper's code has, and the code's for styles.
TEMPLATES = (
    "a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}", "a photo of a clean {}",
    "a photo of a dirty {}", "a dark photo of the {}", "a photo of my {}", "a photo of the cool {}", "a close-up photo of a {}",
    "a bright photo of the {}", "a cropped photo of a {}", "a photo of the {}", "a good photo of the {}", "a photo of one {}",
    "a close-up photo of the {}", "a rendition of the {}", "a photo of the clean {}", "a rendition of a {}", "a photo of a nice {}",
    "a good photo of a {}", "a photo of the nice {}", "a photo of the small {}", "a photo of the weird {}",
    "a photo of the large {}", "a photo of a cool {}", "a photo of a small {}")
STYLE_TEMPLATES = tuple(f"{what} in the style of {{}}" for what in (
    "a painting", "a rendering", "a cropped painting", "the painting", "a clean painting", "a dirty painting", "a dark painting",
    "a picture", "a cool painting", "a close-up painting", "a bright painting", "a cropped painting", "a good painting",
    "a close-up painting", "a rendition", "a nice painting", "a small painting", "a weird painting", "a large painting"))

# What the result must be able to do: another place, another property, an accessory. Three prompts of DreamBooth's benchmark.
PROMPTS = ("a {} in the snow", "a purple {}", "a {} wearing a santa hat")
STYLE_PROMPTS = ("a cat in the style of {}", "a teapot in the style of {}", "a boot on the beach in the style of {}")


def settle(cfg, sd):
    """Fills in what was left open, by the size of the model, and refuses what cannot work."""
    found = {k: v[sd.large] for k, v in SETTINGS.items()} | {"size": sd.size}
    cfg = replace(cfg, **{k: v for k, v in found.items() if getattr(cfg, k) is None})
    if bool(cfg.images) != bool(cfg.class_name):
        raise UserError("--images and --class-name go together, for example --images my_dog --class-name dog")
    if not cfg.images:
        cfg = replace(cfg, images=str(SUBJECTS / "cat"), class_name="cat")
    if not re.fullmatch(r"<[^<>\s]+>", cfg.token):
        raise UserError(f"--token {cfg.token}: the new word is written in angle brackets, <like-this>")
    if (n := len(sd.tokenizer.encode(cfg.class_name))) != 1:
        raise UserError(f'--class-name "{cfg.class_name}" is {n} tokens; the new word starts as a copy of one: choose a plainer word')
    for name in ("vectors", "steps", "batch_size", "sampling_steps", "save_every"):
        if getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: at least 1")
    longest = max(len(sd.tokenizer.encode(sentence.format(cfg.class_name))) for sentence in TEMPLATES + STYLE_TEMPLATES)
    if (room := sd.tokenizer.length - 2 - longest + 1) < cfg.vectors:
        raise UserError(f"--vectors {cfg.vectors}: beside the longest sentence there is room for {room}")
    if not cfg.lr > 0:
        raise UserError(f"--lr {cfg.lr}: above 0")
    if cfg.size % sd.vae.factor or cfg.size < 2 * sd.vae.factor:
        raise UserError(f"--size {cfg.size}: a multiple of {sd.vae.factor}, please")
    if not 0 <= cfg.seed < 2 ** 32:
        raise UserError(f"--seed {cfg.seed}: 0 to {2 ** 32 - 1}")
    if cfg.dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype {cfg.dtype}: float32 or bfloat16 (gradients of float16 underflow)")
    return cfg


def settings(cfg):
    """All of a Config that the result depends on: a run can only be resumed with the same."""
    return {k: v for k, v in asdict(cfg).items() if k not in ("out", "resume", "save_every", "device")}


def precision(sd, cfg):
    """The context in which the networks compute in bfloat16, if that is wanted."""
    return torch.autocast(sd.unet.conv_in.weight.device.type, torch.bfloat16, enabled=cfg.dtype == "bfloat16")


# === the data =========================================================================================================

def square(photo, size):
    """Shorter side to `size`, then the square in the middle."""
    scale = size / min(photo.size)
    photo = photo.resize([max(size, round(side * scale)) for side in photo.size], Image.Resampling.LANCZOS)
    x, y = [(side - size) // 2 for side in photo.size]
    return photo.crop((x, y, x + size, y + size))


@torch.no_grad()
def encode(sd, cfg, squares):
    """Squares to latents, one by one (large ones need the room): mean and std of q(z|x), (b, 4, y, x) each."""
    with precision(sd, cfg):
        latents = [sd.vae.encode(to_tensor(one)[None].to(sd.unet.conv_in.weight.device)) for one in squares]
    return [torch.cat(part).float() for part in zip(*latents)]


# === the method =======================================================================================================

def read_with(sd, prompts, ids, v):
    """Prompts to vectors (b, l, d), with v (n, d) in place of the table's rows `ids`: the one thing that gradients reach."""
    tokens = sd.tokenizer(prompts).to(v.device)                                        # (b, l)
    looked_up = sd.text.table(tokens)                                                  # (b, l, d)
    for i, row in zip(ids, v):
        looked_up = torch.where((tokens == i)[..., None], row, looked_up)
    return sd.text(tokens, looked_up)


def inversion_loss(sd, z, words, generator):
    """Eq. 2: the ordinary loss of the model. z: latents of photos (b, 4, y, x); words: vectors of the sentences (b, l, d)."""
    eps = torch.randn(z.shape, generator=generator).to(z)                              # noise it
    t = torch.randint(sd.schedule.T, (len(z),), generator=generator).to(z.device)
    output = sd.unet(sd.schedule.add_noise(z, eps, t), t, words)                       # predict
    return F.mse_loss(output.float(), sd.schedule.target(z, eps, t))                   # compare


@torch.no_grad()
def nearest_words(sd, ids, count=5):
    """For each of the ids the whole words of the vocabulary whose vectors point most nearly the same way: [(word, cosine), ...]."""
    table = F.normalize(sd.text.table.weight.float(), dim=1)
    whole = {name.removesuffix("</w>"): i for name, i in sd.tokenizer.vocab.items() if name.endswith("</w>") and name.isascii()}
    found = []
    for i in ids:
        best = (table[list(whole.values())] @ table[i]).topk(count)
        found.append([(list(whole)[j], cosine) for cosine, j in zip(*map(torch.Tensor.tolist, best))])
    return found


def train(cfg):
    """Yields (sd, log), once before training and then after every step. sd is the model as it is at that moment; log has the
    step, the loss and the mean length of v; the first one has the settled Config, the photos and the new word's ids."""
    device = pick_device(cfg.device)
    sd = StableDiffusion.from_pretrained(cfg.model, device)
    cfg = settle(cfg, sd)
    photos = load_pictures(cfg.images)
    coarse = sd.text.table.weight.data[sd.tokenizer.encode(cfg.class_name)]           # (1, d)
    ids = sd.add_word(cfg.token, coarse.repeat(cfg.vectors, 1))
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    state = Path(cfg.out) / "state.safetensors"
    saved = resumable(state, settings(cfg)) if cfg.resume else {}
    for part in (sd.unet, sd.text, sd.vae):
        part.requires_grad_(False)
    yield sd, {"step": 0, "cfg": cfg, "photos": photos, "ids": ids}

    squares = [square(photo, cfg.size) for photo in photos]
    mean, std = encode(sd, cfg, squares + [ImageOps.mirror(one) for one in squares])   # (2 * photos, 4, y, x) each

    templates = STYLE_TEMPLATES if cfg.style else TEMPLATES
    v = sd.text.table.weight.data[ids].clone().requires_grad_(True)                    # (n, d)
    sd.unet.checkpointing = sd.large
    optimizer = torch.optim.AdamW([v], lr=cfg.lr, weight_decay=0.01)
    if saved:
        load_state(state, {"v": [v]}, optimizer)

    for step in range(saved.get("step", 0), cfg.steps):
        chance = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)  # a step's chance is its own: resuming needs no more
        i = torch.randint(len(mean), (cfg.batch_size,), generator=chance)
        z = (mean[i] + std[i] * torch.randn(mean[i].shape, generator=chance).to(mean)) * sd.vae.config.scaling_factor
        k = torch.randint(len(templates), (cfg.batch_size,), generator=chance)
        with precision(sd, cfg):
            words = read_with(sd, [templates[j].format(cfg.token) for j in k], ids, v)
            loss = inversion_loss(sd, z, words, chance)
        loss.backward()
        if not (loss.isfinite() and v.grad.isfinite().all()):  # before the step: the vector has not been touched by it
            raise UserError(f"the loss, {loss.item()}, or its gradient is not finite at step {step + 1}: try a lower --lr")
        optimizer.step()
        optimizer.zero_grad()
        sd.text.table.weight.data[ids] = v.data
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            save_state(state, {"v": [v]}, optimizer, step=step + 1, settings=settings(cfg))
        yield sd, {"step": step + 1, "loss": loss.item(), "norm": v.detach().norm(dim=1).mean().item()}
    sd.unet.checkpointing = False


# === the result =======================================================================================================

def pictures(sd, cfg):
    """{prompt: pictures}: the questions of PROMPTS about the subject, then the class by itself, which cannot have changed."""
    prompts = [p.format(cfg.token) for p in (STYLE_PROMPTS if cfg.style else PROMPTS)]
    prompts += [f"a photo of a {cfg.token}", f"a photo of a {cfg.class_name}"]
    images = 3 if cfg.size < 256 else 1
    how = dict(images=images, steps=cfg.sampling_steps, guidance=cfg.guidance, sampler="dpm++", seed=cfg.seed, size=cfg.size)
    drawn = [sd.sample(prompt, **how) for prompt in tqdm(prompts, "pictures", disable=not sys.stderr.isatty(), leave=False)]
    return dict(zip(prompts, drawn))


def main(cfg):
    bar, mean = None, {}
    for sd, log in train(cfg):
        if log["step"] == 0:
            cfg, photos, ids = log["cfg"], log["photos"], log["ids"]
            lengths = sd.text.table.weight.norm(dim=1)
            print(f"textual inversion: {len(photos)} pictures of a {cfg.class_name} | training {cfg.vectors} x {sd.text.config.hidden_size} "
                  f"numbers, the word {cfg.token} | {sd.unet.conv_in.weight.device}", flush=True)
            with precision(sd, cfg):
                before = pictures(sd, cfg)
            bar = tqdm(total=cfg.steps, disable=not sys.stderr.isatty(), leave=False)
            continue
        mean = {k: 0.95 * mean.get(k, v) + 0.05 * v for k, v in log.items()}  # of about the last 20 steps
        bar.update(log["step"] - bar.n)
        if log["step"] % max(1, cfg.steps // 6) == 0:
            tqdm.write(f"step {log['step']:4d}/{cfg.steps}  loss {mean['loss']:.4f}  |v| {log['norm']:.2f} (words: "
                       f"{lengths.quantile(0.05):.2f} to {lengths.quantile(0.95):.2f})")
    bar.close()
    out = Path(cfg.out)
    save_tensors({cfg.token: sd.text.table.weight[ids]}, out / "learned_embeds.safetensors")
    with precision(sd, cfg):
        after = pictures(sd, cfg)
    rows = [("the subject", [square(photo, cfg.size) for photo in photos])]
    rows += [(f'"{prompt}"     before  |  after', before[prompt] + [None] + after[prompt]) for prompt in before]
    sheet(rows).save(out / "before_after.png")
    (out / "state.safetensors").unlink(missing_ok=True)  # all is saved: there is nothing left to resume
    for i, words in enumerate(nearest_words(sd, ids)):
        print(f"nearest to vector {i + 1}: " + ", ".join(f"{word} {cosine:.2f}" for word, cosine in words))
    print(f"the word: {out / 'learned_embeds.safetensors'}\nthe picture: {out / 'before_after.png'}")


# --- the same in every method script (tests/test_truth.py) ------------------------------------------------------------

def parse_config():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(Config):  # every field of Config is a flag with its type and default
        kind = dict(action=argparse.BooleanOptionalAction) if f.type is bool else dict(type=f.type)
        text = "by the model's size" if f.default is None else str(f.default)
        p.add_argument("--" + f.name.replace("_", "-"), default=f.default, help=f"default: {text}", **kind)
    return Config(**vars(p.parse_args()))


if __name__ == "__main__":
    run(lambda: main(parse_config()))
