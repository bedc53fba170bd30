"""DreamBooth (Ruiz et al., CVPR 2023, arXiv 2208.12242): teach a model one new subject from photos.

    python dreambooth.py                     the tiny world's cat, two minutes on a laptop
    python dreambooth.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --images my_dog --class-name dog --size 512

The idea: find a word that means nothing (`sks`), and fine-tune the whole UNet until "a photo of a
sks dog" draws *this* dog. That alone would make every dog this dog, since all photos are of one. So
the model is also shown what it already knew: pictures of "a photo of a dog" that it drew itself
before training. With x the subject's photos and x_pr those pictures,

    loss = E |eps - eps_theta(x_t, t, "a photo of a sks dog")|^2              the subject
         + lambda * E |eps' - eps_theta(x_pr_t', t', "a photo of a dog")|^2   prior preservation
                                                                              (eq. 2)

    trained   the UNet (Stable Diffusion: 859,520,964 numbers; tiny world: 16 million) and, if
              wanted, the text encoder, as by default on the tiny world
    frozen    the VAE

Follows the paper: all UNet weights; a rare identifier before the class noun; lambda = 1; class
pictures from the frozen model, with their own noise and t.
Simplified: eps (or v) in place of the paper's x, as everyone does on Stable Diffusion; weight
w_t = 1; one fixed prompt; 200 class pictures, by dpm++ in 25 steps, where the paper has about 1000
by the ancestral sampler, which needs more steps to be as sharp; 800 steps at 2e-6, where it has
1000 at 5e-6 on Stable Diffusion; gradients are clipped at 1 with --memory plain, which takes 14 GB
there at 512 pixels; with thrifty, the default there (7.4 GB), and lean (5.5 GB) they are not
(optimizer.py).
Different: where the text encoder is trained, the identifier's vector has a learning rate of its own
and other words' vectors stay (token_lr).
Not here: 8-bit optimizers, several subjects at once (RECIPES.md), your own class photos, LoRA
(lora_dreambooth.py).
"""
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from command import (check_at_least, check_machine, check_not_negative, check_positive,
                     check_resume, check_size, check_subject, check_words, fill_in, load_state,
                     parse_flags, pick_device, pick_dtype, progress, read_log, run, save_state,
                     state_path, watch)
from files import UserError, check_place, claim, load_tensors, read_metadata, save_tensors
from optimizer import make_optimizer
from pictures import load_pictures, save_picture, sheet, square, warn_of_small
from stable_diffusion import SUBJECTS, TINY, StableDiffusion


@dataclass
class Config:
    model: str = TINY                 # a diffusers folder, a .safetensors file, or a hub name
    revision: str = ""                # branch or commit of a model on the hub
    variant: str = ""                 # fp16: the weights' files of that name
    images: str = ""                  # folder with 3 to 6 photos; "": the tiny world's cat
    class_name: str = ""              # what the subject is; the wrong noun costs two fifths of the
                                      # likeness, no noun three (DINO, table 4)
    token: str = "sks"                # the identifier: a rare word, or <name> for a new one
    steps: int = None                 # of training
    lr: float = None                  # 10 times more: noise and copies of the photos; 10 times
                                      # less: nothing is learned
    batch_size: int = None            # subject pictures a step; as many class pictures come on top
    prior_weight: float = 1.0         # lambda of eq. 2; 0 turns prior preservation off, and every
                                      # dog becomes this dog
    class_images: int = None          # drawn before training, never more than the steps can use
    train_text_encoder: bool = None   # more likeness, above all in new places; more memory, easier
                                      # to overdo
    token_lr: float = None            # then that of the identifier's vector: what it says, the
                                      # networks need not learn
    layers: str = "all"               # of the UNet; "cross-attention": those that look at words,
                                      # less alike
    random_crop: bool = False         # another crop each step; latents cannot be kept then
    size: int = None                  # side of the pictures in pixels; None: the model's own
    sampling_steps: int = None        # for the class pictures and those before and after
    guidance: float = None            # the model's
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"               # float32, bfloat16 or float16, in which a GPU computes
                                      # faster; the weights stay
                                      # float32, unless --memory lean
    out: str = "runs/dreambooth"
    memory: str = None                # plain, thrifty or lean (optimizer.py): Stable Diffusion, 512
                                      # pixels: 14, 7.4, 5.5 GB, for cards of 24, 12, 8
    save_every: int = None            # steps between two states to resume from (Stable Diffusion:
                                      # 10 GB each plain, 7 thrifty, 5 lean)
    resume: bool = False              # go on from the state in `out`


SETTINGS = {  # for None: the tiny world's, Stable Diffusion's (from 100 million parameters on)
    "steps":               (300,    800),
    "lr":                  (1e-4,   2e-6),
    "train_text_encoder":  (True,   False),
    "token_lr":            (3e-2,   2e-6),
    "batch_size":          (1,      1),
    "class_images":        (32,     200),
    "sampling_steps":      (12,     25),
    "memory":              ("plain", "thrifty"),
    "save_every":          (100,    400),
}

# What the result must be able to do: another place, another property, an accessory. Three prompts
# of the paper's benchmark.
PROMPTS = ("a {} in the snow", "a purple {}", "a {} wearing a santa hat")


# === the method ===================================================================================

def dreambooth_loss(sd, z, words, generator, prior_weight):
    """Eq. 2. z: latents (b, c, y, x), the subject's, then as many of the class; words: their
    prompts' vectors (b, l, d). Without a prior all of z is the subject's. Returns the loss and its
    two parts."""
    eps = torch.randn(z.shape, generator=generator)                   # noise each by its own t
    t = torch.randint(sd.schedule.T, (len(z),), generator=generator)
    x_t, target = sd.schedule.add_noise(z, eps, t), sd.schedule.target(z, eps, t)
    x_t, target = torch.stack([x_t, target]).to(sd.device)            # to a GPU in one copy
    output = sd.unet(x_t, t.to(sd.device), words)                     # predict
    error = (output.float() - target) ** 2                            # compare
    if not prior_weight:
        return error.mean(), error.mean(), torch.zeros_like(error.mean())
    subject, prior = error.chunk(2)
    return subject.mean() + prior_weight * prior.mean(), subject.mean(), prior.mean()


def draw_class_latents(sd, cfg):
    """x_pr of eq. 2: latents (n, c, y, x) of class pictures, drawn by the model as it is before
    training. They are kept in `out`, as drawing them takes a large model longer than the training,
    and used again by a run that would draw the same ones."""
    path = Path(cfg.out) / "class_latents.safetensors"
    prompt = f"a photo of a {cfg.class_name}"
    count = min(cfg.class_images, cfg.steps * cfg.batch_size)
    how = {"sampler": "dpm++", "steps": cfg.sampling_steps, "guidance": cfg.guidance,
           "size": cfg.size}
    asked = {"model": sd.fingerprint(), "prompt": prompt, "count": count, "seed": cfg.seed,
             "dtype": cfg.dtype, **how}
    if path.exists() and read_metadata(path, "asked", ": delete it") == asked:
        return load_tensors(path)["z"]
    together, drawn = 16 if cfg.size < 256 else 1, []
    for i in progress(range(0, count, together), f"class pictures, {together} at a time"):
        images = min(together, count - i)
        with sd.autocast(cfg.dtype):
            for _, z, _ in sd.walk(prompt, images=images, seed=cfg.seed + i, **how):
                pass  # z: the last step's
        drawn.append(z.cpu())
    save_tensors({"z": torch.cat(drawn)}, path, {"asked": json.dumps(asked)})
    return torch.cat(drawn)


def bind_token(sd, token):
    """The identifier should be one token: `sks` is in the vocabulary; <name> is added to it, with a
    vector like any other's, unless the model has learned it before."""
    if token in sd.tokenizer.added:
        return
    if token.startswith("<"):
        table, generator = sd.text.table.weight.data, torch.Generator().manual_seed(0)
        noise = torch.randn(1, table.shape[1], generator=generator).to(table)
        sd.add_word(token, table.mean(0) + table.std(0) * noise)
    elif (n := len(sd.tokenizer.encode(token))) != 1:
        print(f"--token {token} is {n} tokens, each with a meaning of its own; a rare one such as "
              '"sks", or a new one such as "<it>", binds better', file=sys.stderr)


# === before training ==============================================================================

def prepare(cfg):
    """Everything that can be refused is refused here, and what needs no model before one is loaded.
    Returns the model with its new word, the Config with nothing left open, and the photos."""
    check_subject(cfg)
    check_at_least(cfg, 1, "steps", "batch_size", "class_images", "sampling_steps", "save_every")
    check_positive(cfg, "lr", "token_lr")
    check_not_negative(cfg, "prior_weight")
    check_machine(cfg)
    if cfg.layers not in ("all", "cross-attention"):
        raise UserError(f"--layers {cfg.layers}: all or cross-attention")
    if not cfg.images:
        cfg = replace(cfg, images=str(SUBJECTS / "cat"), class_name="cat")
    photos = load_pictures(cfg.images)
    claim(cfg.out)
    check_place(Path(cfg.out) / "model")
    device = pick_device(cfg.device)
    sd = StableDiffusion.from_pretrained(cfg.model, revision=cfg.revision, variant=cfg.variant)
    cfg = fill_in(cfg, SETTINGS, sd.large, size=sd.size, guidance=sd.guidance)
    cfg = replace(cfg, dtype=pick_dtype(cfg.dtype, device, cfg.memory))
    check_size(cfg.size, sd.vae.factor, 2 * sd.vae.factor)
    warn_of_small(photos, cfg.size)
    check_words(cfg, sd.tokenizer, "class_name", "token")
    check_resume(cfg, photos)
    bind_token(sd, cfg.token)
    sd.place(device, cfg.dtype if cfg.memory == "lean" else None)
    return sd, cfg, photos


# === training =====================================================================================

def chosen_weights(sd, cfg):
    """What is trained of the networks."""
    weights = [weight for name, weight in sd.unet.named_parameters()
               if cfg.layers == "all" or ".attn2." in name]
    if cfg.train_text_encoder:  # of its table only the identifier's vector, which is another matter
        weights += [weight for weight in sd.text.parameters() if weight is not sd.text.table.weight]
    return weights


def train(sd, cfg, photos):
    """Teaches sd the subject, and yields {step, loss, subject, prior} after each step; sd is the
    model as it is at that moment."""
    sd.freeze()
    prompts = [f"a photo of a {cfg.token} {cfg.class_name}"]
    if cfg.prior_weight:
        prompts += [f"a photo of a {cfg.class_name}"]
        class_latents = draw_class_latents(sd, cfg)                            # (count, c, y, x)
    with sd.autocast(cfg.dtype):
        words = sd.read(prompts)                                               # (2, l, d)
        mean, std = sd.encode([square(photo, cfg.size) for photo in photos])   # (photos, c, y, x)
    tokens = sd.tokenizer(prompts).to(sd.device)                               # (2, l)

    if not cfg.random_crop:
        sd.set_aside(sd.vae)   # mean and std are all that it is needed for
    if not cfg.train_text_encoder:
        sd.set_aside(sd.text)  # words do not change
    groups = [{"params": chosen_weights(sd, cfg)}]
    if cfg.train_text_encoder:
        ids = sorted(set(sd.tokenizer.encode(cfg.token)))                      # one, as a rule
        v = sd.text.table.weight.data[ids].clone()                             # (n, d)
        # Adam moves each number by about its rate a step. The identifier's vector has a long way to
        # go, and networks that go as far forget how to draw.
        groups += [{"params": [v], "lr": cfg.token_lr, "weight_decay": 0.0}]
    trained = [weight for group in groups for weight in group["params"]]
    for weight in trained:
        weight.requires_grad_(True)
    optimizer = make_optimizer(cfg.memory, groups, cfg.lr, clip=1.0, dtype=cfg.dtype)
    sd.unet.checkpointing = sd.large
    first = load_state(cfg, trained, optimizer).get("step", 0)

    for step in range(first, cfg.steps):
        # Each step seeds a generator of its own: a resumed run needs only the step's number.
        generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
        some = torch.randint(len(photos), (cfg.batch_size,), generator=generator)
        with sd.autocast(cfg.dtype):
            if cfg.random_crop:  # other squares at every step
                crops = sd.encode([square(photos[i], cfg.size, generator) for i in some])
                z = sd.draw_latents(*crops, generator)                         # (b, c, y, x)
            else:
                z = sd.draw_latents(mean[some], std[some], generator)          # (b, c, y, x)
            if cfg.prior_weight:
                some = torch.randint(len(class_latents), (cfg.batch_size,), generator=generator)
                z = torch.cat([z, class_latents[some]])                        # (2b, c, y, x)
            if cfg.train_text_encoder:
                words = sd.read_with(tokens, ids, v)                           # (2, l, d)
            loss, subject, prior = dreambooth_loss(
                sd, z, words.repeat_interleave(cfg.batch_size, 0), generator, cfg.prior_weight)
        optimizer.backward(loss)
        norm = optimizer.step()
        if cfg.train_text_encoder:
            for i, row in zip(ids, v.data):
                sd.text.table.weight.data[i] = row
        log = read_log(cfg, step + 1, norm, loss=loss, subject=subject, prior=prior)
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            save_state(cfg, photos, trained, optimizer, step=step + 1)
        yield log
    sd.unet.checkpointing = False
    sd.take_back()


# === the command ==================================================================================

def draw_prompts(sd, cfg):
    """{prompt: pictures}: the questions of PROMPTS about the subject, then the class by itself,
    which should stay as it was."""
    subject = f"{cfg.token} {cfg.class_name}"
    prompts = [prompt.format(subject) for prompt in PROMPTS]
    prompts += [f"a photo of a {subject}", f"a photo of a {cfg.class_name}"]
    how = {"sampler": "dpm++", "steps": cfg.sampling_steps, "guidance": cfg.guidance,
           "seed": cfg.seed, "size": cfg.size, "images": 3 if cfg.size < 256 else 1}
    with sd.autocast(cfg.dtype):
        return {prompt: sd.sample(prompt, **how) for prompt in progress(prompts, "prompts drawn")}


def main(cfg):
    sd, cfg, photos = prepare(cfg)
    count = sum(weight.numel() for weight in chosen_weights(sd, cfg))
    print(f"dreambooth: {len(photos)} pictures of a {cfg.class_name} | training {count:,} numbers "
          f"| {sd.device}", flush=True)

    out, squares = Path(cfg.out), [square(photo, cfg.size) for photo in photos]
    sentence = f"a photo of a {cfg.token} {cfg.class_name}"
    before, noise_before = draw_prompts(sd, cfg), sd.loss_by_noise(squares, sentence)
    for log in watch(train(sd, cfg, photos), cfg.steps):
        pass
    sd.save(out / "model", half=cfg.memory == "lean")  # float16 holds more digits than bfloat16
    after, noise_after = draw_prompts(sd, cfg), sd.loss_by_noise(squares, sentence)

    rows = [("the subject", squares)]
    for prompt in before:
        rows.append((f'"{prompt}"     before  |  after', [*before[prompt], None, *after[prompt]]))
    save_picture(sheet(rows), out / "before_after.png")
    state_path(cfg).unlink(missing_ok=True)  # all is saved: there is nothing left to resume
    print(f"loss at little, middle and much noise: {noise_before} before, {noise_after} after")
    print(f"the model: {out / 'model'}\nthe picture: {out / 'before_after.png'}")


if __name__ == "__main__":
    run(lambda: main(parse_flags(Config, __doc__, SETTINGS)))
