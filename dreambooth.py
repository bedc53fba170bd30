"""DreamBooth (Ruiz et al., CVPR 2023, arXiv 2208.12242): teach a model one new subject from a few photos.

    python dreambooth.py                                                     the tiny world's cat, about a minute on a laptop
    python dreambooth.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 --images my_dog --class-name dog --size 512

The idea: find a word that means nothing (`sks`), and fine-tune the whole UNet until "a photo of a sks dog" draws *this* dog.
That alone would make every dog this dog, since all photos are of one. So the model is also shown what it already knew:
pictures of "a photo of a dog" that it drew itself before training. With x the subject's photos and x_pr those pictures,

    loss = E |eps - eps_theta(x_t, t, "a photo of a sks dog")|^2                          the subject
         + lambda * E |eps' - eps_theta(x_pr_t', t', "a photo of a dog")|^2               prior preservation   (eq. 2)

    trained   the UNet (Stable Diffusion: 859,520,964 numbers; tiny world: 6 million) and, if wanted, the text encoder, as by
              default on the tiny world
    frozen    the VAE

Follows the paper: all UNet weights; a rare identifier before the class noun; lambda = 1; class pictures by the ancestral
sampler (ddpm) from the frozen model, with their own noise and t. Simplified: eps (or v) in place of the paper's x, as
everyone does on Stable Diffusion; weight w_t = 1; one fixed prompt; 200 class pictures of 25 sampling steps, where the paper has
about 1000; 800 steps at 2e-6, where it has 1000 at 5e-6 on Stable Diffusion; gradients are clipped at 1.
On Stable Diffusion weights, gradients and moments take 15 GB, and a step some more.
Not here: 8-bit optimizers, several subjects at once, your own class photos, LoRA.
"""
import argparse
import json
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from checkpoint import UserError, load_state, load_tensors, resumable, save_state, save_tensors
from stable_diffusion import TINY, StableDiffusion, load_pictures, pick_device, run, to_tensor
from tiny_world import SUBJECTS, sheet


@dataclass
class Config:
    model: str = TINY                 # a folder as diffusers saves it, or a name on the hub
    images: str = ""                  # folder with 3 to 6 photos of the subject; "": the tiny world's cat
    class_name: str = ""              # what the subject is; the wrong noun costs two fifths of the likeness, no noun three (DINO, table 4)
    token: str = "sks"                # the identifier: a rare word of the vocabulary, or <name> for a new one
    steps: int = None                 # None, here and below: what SETTINGS has for a model of this size
    lr: float = None                  # 10 times more: noise and copies of the photos; 10 times less: nothing is learned
    batch_size: int = None            # subject pictures a step; as many class pictures come on top
    prior_weight: float = 1.0         # lambda of eq. 2; 0 turns prior preservation off, and every dog becomes this dog
    class_images: int = None          # drawn before training, never more than the steps can use
    train_text_encoder: bool = None   # more likeness, above all in new places; more memory, easier to overdo
    random_crop: bool = False         # another crop each step in place of the middle; latents cannot be kept then
    size: int = None                  # side of the pictures in pixels; None: what the model was trained on
    sampling_steps: int = None        # for the class pictures and those before and after
    guidance: float = None            # the model's
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"            # bfloat16 computes faster where the machine has it; the weights stay float32
    out: str = "runs/dreambooth"
    save_every: int = None            # steps between two states to resume from (Stable Diffusion: 10 GB each)
    resume: bool = False              # go on from the state in `out`


SETTINGS = {  # tiny world, Stable Diffusion (from 100 million UNet parameters on)
    "steps":               (300,    800),
    "lr":                  (4e-4,   2e-6),
    "train_text_encoder":  (True,   False),
    "batch_size":          (4,      1),
    "class_images":        (64,     200),
    "sampling_steps":      (25,     25),
    "save_every":          (100,    400),
}

# What the result must be able to do: another place, another property, an accessory. Three prompts of the paper's benchmark.
PROMPTS = ("a {} in the snow", "a purple {}", "a {} wearing a santa hat")


def settle(cfg, sd):
    """Fills in what was left open, by the size of the model, and refuses what cannot work."""
    found = {k: v[sd.large] for k, v in SETTINGS.items()} | {"size": sd.size}
    cfg = replace(cfg, **{k: v for k, v in found.items() if getattr(cfg, k) is None})
    if bool(cfg.images) != bool(cfg.class_name):
        raise UserError("--images and --class-name go together, for example --images my_dog --class-name dog")
    if not cfg.images:
        cfg = replace(cfg, images=str(SUBJECTS / "cat"), class_name="cat")
    for name in ("class_name", "token"):
        if not sd.tokenizer.encode(getattr(cfg, name)):
            raise UserError(f'--{name.replace("_", "-")} "{getattr(cfg, name)}" has no word in it')
    for name in ("steps", "batch_size", "class_images", "sampling_steps", "save_every"):
        if getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: at least 1")
    if not cfg.lr > 0 or not cfg.prior_weight >= 0:
        raise UserError(f"--lr {cfg.lr} --prior-weight {cfg.prior_weight}: the first must be above 0, the second not below")
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

def square(photo, size, generator=None):
    """Shorter side to `size`, then the square in the middle, or with a generator a square anywhere."""
    scale = size / min(photo.size)
    photo = photo.resize([max(size, round(side * scale)) for side in photo.size], Image.Resampling.LANCZOS)
    room = [side - size for side in photo.size]
    x, y = [int(torch.randint(r + 1, (1,), generator=generator)) if generator else r // 2 for r in room]
    return photo.crop((x, y, x + size, y + size))


@torch.no_grad()
def encode(sd, cfg, squares):
    """Squares to latents, one by one (large ones need the room): mean and std of q(z|x), (b, 4, y, x) each."""
    with precision(sd, cfg):
        latents = [sd.vae.encode(to_tensor(one)[None].to(sd.unet.conv_in.weight.device)) for one in squares]
    return [torch.cat(part).float() for part in zip(*latents)]


def bind_token(sd, token):
    """The identifier must be one token: `sks` is in the vocabulary; <name> is added to it, with a vector like any other's."""
    if token.startswith("<"):
        table, noise = sd.text.table.weight.data, torch.Generator().manual_seed(0)
        sd.add_word(token, table.mean(0) + table.std(0) * torch.randn(1, table.shape[1], generator=noise).to(table))
    elif (n := len(sd.tokenizer.encode(token))) != 1:
        print(f'--token {token} is {n} tokens, each with a meaning of its own; a rare one such as "sks", or a new one such as '
              '"<it>", binds better', file=sys.stderr)


def class_latents(sd, cfg):
    """x_pr of eq. 2: latents of class pictures, drawn by the model as it is before training. They are kept in `out`, since
    drawing them takes a large model longer than the training."""
    path, count = Path(cfg.out) / "class_latents.safetensors", min(cfg.class_images, cfg.steps * cfg.batch_size)
    if cfg.resume and path.exists():
        tensors, about = load_tensors(path, ": leave out --resume")
        if json.loads(about["settings"]) == settings(cfg):
            return tensors["z"]
    together, drawn = 16 if cfg.size < 256 else 1, []
    for i in tqdm(range(0, count, together), desc="class pictures", disable=not sys.stderr.isatty(), leave=False):
        for _, z, _ in sd.walk(f"a photo of a {cfg.class_name}", images=min(together, count - i), sampler="ddpm",
                               steps=cfg.sampling_steps, guidance=cfg.guidance, seed=cfg.seed + i, size=cfg.size):
            pass
        drawn.append(z.cpu())
    save_tensors({"z": torch.cat(drawn)}, path, {"settings": json.dumps(settings(cfg))})
    return torch.cat(drawn)


# === the method =======================================================================================================

def dreambooth_loss(sd, z, words, generator, prior_weight):
    """Eq. 2. z: latents (b, 4, y, x), the subject's, then as many of the class; words: their prompts' vectors (b, l, d).
    Without a prior all of z is the subject's. Returns the loss and its two parts."""
    eps = torch.randn(z.shape, generator=generator).to(z)                              # noise it: each with its own eps and t
    t = torch.randint(sd.schedule.T, (len(z),), generator=generator).to(z.device)
    output = sd.unet(sd.schedule.add_noise(z, eps, t), t, words)                       # predict
    error = (output.float() - sd.schedule.target(z, eps, t)) ** 2                      # compare
    if not prior_weight:
        return error.mean(), error.mean(), torch.zeros(())
    subject, prior = error.chunk(2)
    return subject.mean() + prior_weight * prior.mean(), subject.mean(), prior.mean()


def train(cfg):
    """Yields (sd, log), once before training and then after every step. sd is the model as it is at that moment; log has the
    step, the loss and its parts; the first one has the settled Config and the photos."""
    device = pick_device(cfg.device)
    sd = StableDiffusion.from_pretrained(cfg.model, device)
    cfg = settle(cfg, sd)
    photos = load_pictures(cfg.images)
    bind_token(sd, cfg.token)
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    state = Path(cfg.out) / "state.safetensors"
    saved = resumable(state, settings(cfg)) if cfg.resume else {}
    for part in (sd.unet, sd.text, sd.vae):
        part.requires_grad_(False)
    yield sd, {"step": 0, "cfg": cfg, "photos": photos}

    prompts = [f"a photo of a {cfg.token} {cfg.class_name}"] * cfg.batch_size
    if not cfg.random_crop:  # the same squares at every step: the VAE has to look at them only once
        all_mean, all_std = encode(sd, cfg, [square(photo, cfg.size) for photo in photos])
    with torch.no_grad(), precision(sd, cfg):
        if cfg.prior_weight:
            prior = class_latents(sd, cfg).to(device)                                       # (class pictures, 4, y, x)
            prompts += [f"a photo of a {cfg.class_name}"] * cfg.batch_size
        words = sd.read(prompts)

    trained = [*sd.unet.parameters(), *(sd.text.parameters() if cfg.train_text_encoder else ())]
    for p in trained:
        p.requires_grad_(True)
    sd.unet.checkpointing = sd.large
    optimizer = torch.optim.AdamW(trained, lr=cfg.lr, fused=True)
    if saved:
        load_state(state, {"trained": trained}, optimizer)

    for step in range(saved.get("step", 0), cfg.steps):
        chance = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)  # a step's chance is its own: resuming needs no more
        with torch.no_grad():
            i = torch.randint(len(photos), (cfg.batch_size,), generator=chance)
            mean, std = encode(sd, cfg, [square(photos[k], cfg.size, chance) for k in i]) if cfg.random_crop else (all_mean[i], all_std[i])
            z = (mean + std * torch.randn(mean.shape, generator=chance).to(mean)) * sd.vae.config.scaling_factor
            if cfg.prior_weight:
                z = torch.cat([z, prior[torch.randint(len(prior), (cfg.batch_size,), generator=chance)]])
        with precision(sd, cfg):
            if cfg.train_text_encoder:
                words = sd.read(prompts)
            loss, subject, of_prior = dreambooth_loss(sd, z, words, chance, cfg.prior_weight)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        if not (loss.isfinite() and norm.isfinite()):  # before the step: no weight has been touched by it
            raise UserError(f"the loss, {loss.item()}, or its gradient is not finite at step {step + 1}: try a lower --lr")
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            save_state(state, {"trained": trained}, optimizer, step=step + 1, settings=settings(cfg))
        yield sd, {"step": step + 1, "loss": loss.item(), "subject": subject.item(), "prior": of_prior.item()}
    sd.unet.checkpointing = False


# === the result =======================================================================================================

def pictures(sd, cfg):
    """{prompt: pictures}: the questions of PROMPTS about the subject, then the class by itself, which should stay as it was."""
    subject = f"{cfg.token} {cfg.class_name}"
    prompts = [*(p.format(subject) for p in PROMPTS), f"a photo of a {subject}", f"a photo of a {cfg.class_name}"]
    images = 3 if cfg.size < 256 else 1
    how = dict(images=images, steps=cfg.sampling_steps, guidance=cfg.guidance, sampler="dpm++", seed=cfg.seed, size=cfg.size)
    drawn = [sd.sample(prompt, **how) for prompt in tqdm(prompts, "pictures", disable=not sys.stderr.isatty(), leave=False)]
    return dict(zip(prompts, drawn))


def main(cfg):
    bar, mean = None, {}
    for sd, log in train(cfg):
        if log["step"] == 0:
            cfg, photos = log["cfg"], log["photos"]
            count = sum(p.numel() for part in (sd.unet, sd.text)[:1 + cfg.train_text_encoder] for p in part.parameters())
            print(f"dreambooth: {len(photos)} pictures of a {cfg.class_name} | training {count:,} numbers of the UNet"
                  f"{' and the text encoder' * cfg.train_text_encoder} | {sd.unet.conv_in.weight.device}", flush=True)
            with precision(sd, cfg):
                before = pictures(sd, cfg)
            bar = tqdm(total=cfg.steps, disable=not sys.stderr.isatty(), leave=False)
            continue
        mean = {k: 0.95 * mean.get(k, v) + 0.05 * v for k, v in log.items()}  # of about the last 20 steps
        bar.update(log["step"] - bar.n)
        if log["step"] % max(1, cfg.steps // 6) == 0:
            tqdm.write(f"step {log['step']:4d}/{cfg.steps}  loss {mean['loss']:.4f}  subject {mean['subject']:.4f}  "
                       f"prior {mean['prior']:.4f}")
    bar.close()
    out = Path(cfg.out)
    sd.save(out / "model")
    with precision(sd, cfg):
        after = pictures(sd, cfg)
    rows = [("the subject", [square(photo, cfg.size) for photo in photos])]
    rows += [(f'"{prompt}"     before  |  after', before[prompt] + [None] + after[prompt]) for prompt in before]
    sheet(rows).save(out / "before_after.png")
    (out / "state.safetensors").unlink(missing_ok=True)  # all is saved: there is nothing left to resume
    print(f"the model: {out / 'model'}\nthe picture: {out / 'before_after.png'}")


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
