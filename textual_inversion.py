"""Textual Inversion (Gal et al., ICLR 2023, arXiv 2208.01618): find the word for a subject.

    python textual_inversion.py              the tiny world's cat
    python textual_inversion.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --images my_dog --class-name dog --size 512

The idea: a frozen model can already draw this very dog, if only someone found the right word. A
word is a vector, one row of the text encoder's table. So add a row for a new word `<it>`, start it
at a copy of the row of "dog", and move that one vector until "a photo of <it>" draws the photos:

    v* = argmin_v  E |eps - eps_theta(x_t, t, text(y(v)))|^2                              (eq. 2)

with x the photos and y a neutral sentence with <it> in it, another one each time, so that the
vector holds what the photos have in common and not what one sentence says. Nothing else changes.

    trained   v (Stable Diffusion 1: 768 numbers; tiny world: 128), or n of them with --vectors n
    frozen    the UNet, the text encoder and all the other words, the VAE

Follows the paper: initialised from a coarse word of one token; its code's kind of sentences;
mirrored photos; AdamW with weight decay 0.01 on v. The learning rate is the knob between likeness
and obedience to the prompt. The paper's grows with the pictures of a step (batch size x GPUs x
accumulated batches): 0.005 for each and 5000 steps, on LDM. On Stable Diffusion 0.0005 for each and
3000 steps is usual (diffusers); SETTINGS has that for its 4 (with another --batch-size give --lr).
Simplified: photos are cut to a square, not squashed; the word gets a row of its own in the table,
where the paper's code borrows that of "*".
Not here: a penalty for leaving the coarse word (0 in the paper's code), an extra word for each
photo, vectors added one by one.
"""
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import ImageOps

from command import (check_at_least, check_machine, check_positive, check_resume, check_size,
                     check_subject, fill_in, load_state, parse_flags, pick_device, pick_dtype,
                     progress, read_log, run, save_state, state_path, watch)
from files import UserError, claim, file_name, save_tensors
from optimizer import AdamW
from pictures import load_pictures, save_picture, sheet, square, warn_of_small
from stable_diffusion import SUBJECTS, TINY, StableDiffusion


@dataclass
class Config:
    model: str = TINY                 # a diffusers folder, a .safetensors file, or a hub name
    revision: str = ""                # branch or commit of a model on the hub
    variant: str = ""                 # fp16: the weights' files of that name
    images: str = ""                  # folder with 3 to 6 photos; "": the tiny world's cat
    class_name: str = ""              # the coarse word to start from, one token
    token: str = "<it>"               # the new word
    vectors: int = 1                  # more hold more detail and obey prompts less
    style: bool = False               # the photos share a style, not a subject: other templates
    steps: int = None                 # of training
    lr: float = None                  # the knob between likeness (more) and obedience (less)
    batch_size: int = None            # photos in a step
    size: int = None                  # side of the pictures in pixels; None: the model's own
    sampling_steps: int = None        # for the pictures before and after
    guidance: float = None            # the model's
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"               # float32, bfloat16 or float16, in which a GPU computes
                                      # faster; the vectors stay
                                      # float32
    out: str = "runs/textual_inversion"
    save_every: int = None            # steps between two states to resume from
    resume: bool = False              # go on from the state in `out`


SETTINGS = {  # for None: the tiny world's, Stable Diffusion's (from 100 million parameters on)
    "steps":               (300,    3000),
    "lr":                  (3e-2,   2e-3),  # Stable Diffusion: 5e-4 times the batch size
    "batch_size":          (8,      4),
    "sampling_steps":      (25,     25),
    "save_every":          (100,    500),
}

# What the result must be able to do: another place, another property, an accessory. Three prompts
# of DreamBooth's benchmark.
PROMPTS = ("a {} in the snow", "a purple {}", "a {} wearing a santa hat")
STYLE_PROMPTS = ("a cat in the style of {}", "a teapot in the style of {}",
                 "a boot on the beach in the style of {}")


# === the method ===================================================================================

def inversion_loss(sd, z, words, generator):
    """Eq. 2: the ordinary loss of the model. z: latents of photos (b, c, y, x); words: vectors of
    the sentences (b, l, d)."""
    eps = torch.randn(z.shape, generator=generator)                   # noise it
    t = torch.randint(sd.schedule.T, (len(z),), generator=generator)
    x_t, target = sd.schedule.add_noise(z, eps, t), sd.schedule.target(z, eps, t)
    x_t, target = torch.stack([x_t, target]).to(sd.device)            # to a GPU in one copy
    output = sd.unet(x_t, t.to(sd.device), words)                     # predict
    return F.mse_loss(output.float(), target)                         # compare


@torch.no_grad()
def nearest_words(sd, ids, count=5):
    """For each of the ids the whole words of the vocabulary whose vectors point most nearly the
    same way: [(word, cosine), ...]."""
    table = F.normalize(sd.text.table.weight.float(), dim=1)
    whole = [name for name in sd.tokenizer.vocab if name.endswith("</w>") and name.isascii()]
    rows, nearest = [sd.tokenizer.vocab[name] for name in whole], []
    for i in ids:
        cosines, best = (table[rows] @ table[i]).topk(count)
        words = [whole[j].removesuffix("</w>") for j in best.tolist()]
        nearest.append(list(zip(words, cosines.tolist())))
    return nearest


# === the sentences ================================================================================

# The sentences for subjects, diffusers' 27 of the 57 that the paper's code has, and the code's for
# styles.
TEMPLATES = (
    "a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}",
    "a photo of a clean {}", "a photo of a dirty {}", "a dark photo of the {}", "a photo of my {}",
    "a photo of the cool {}", "a close-up photo of a {}", "a bright photo of the {}",
    "a cropped photo of a {}", "a photo of the {}", "a good photo of the {}", "a photo of one {}",
    "a close-up photo of the {}", "a rendition of the {}", "a photo of the clean {}",
    "a rendition of a {}", "a photo of a nice {}", "a good photo of a {}", "a photo of the nice {}",
    "a photo of the small {}", "a photo of the weird {}", "a photo of the large {}",
    "a photo of a cool {}", "a photo of a small {}")
STYLE_TEMPLATES = tuple(f"{what} in the style of {{}}" for what in (
    "a painting", "a rendering", "a cropped painting", "the painting", "a clean painting",
    "a dirty painting", "a dark painting", "a picture", "a cool painting", "a close-up painting",
    "a bright painting", "a cropped painting", "a good painting", "a close-up painting",
    "a rendition", "a nice painting", "a small painting", "a weird painting", "a large painting"))


# === before training ==============================================================================

def prepare(cfg):
    """Everything that can be refused is refused here, and what needs no model before one is loaded.
    Returns the model with its new word, the Config with nothing left open, and the photos."""
    check_subject(cfg)
    check_at_least(cfg, 1, "vectors", "steps", "batch_size", "sampling_steps", "save_every")
    check_positive(cfg, "lr")
    check_machine(cfg)
    if not re.fullmatch(r"<[^<>\s]+>", cfg.token):
        raise UserError(f"--token {cfg.token}: the new word is written in angle brackets, "
                        "<like-this>")
    if not cfg.images:
        cfg = replace(cfg, images=str(SUBJECTS / "cat"), class_name="cat")
    photos = load_pictures(cfg.images)
    claim(cfg.out)
    device = pick_device(cfg.device)
    sd = StableDiffusion.from_pretrained(cfg.model, revision=cfg.revision, variant=cfg.variant)
    cfg = fill_in(cfg, SETTINGS, sd.large, size=sd.size, guidance=sd.guidance)
    cfg = replace(cfg, dtype=pick_dtype(cfg.dtype, device))
    check_size(cfg.size, sd.vae.factor, 2 * sd.vae.factor)
    warn_of_small(photos, cfg.size)
    coarse = sd.tokenizer.encode(cfg.class_name)
    if len(coarse) != 1:
        raise UserError(f'--class-name "{cfg.class_name}" is {len(coarse)} tokens; the new word '
                        "starts as a copy of one: choose a plainer word")
    sentences = [sentence.format(cfg.class_name) for sentence in TEMPLATES + STYLE_TEMPLATES]
    longest = max(len(sd.tokenizer.encode(sentence)) for sentence in sentences)
    room = sd.tokenizer.length - 2 - longest + 1
    if room < cfg.vectors:
        raise UserError(f"--vectors {cfg.vectors}: beside the longest sentence there is room for "
                        f"{room}")
    check_resume(cfg, photos)
    sd.add_word(cfg.token, sd.text.table.weight.data[coarse].repeat(cfg.vectors, 1))
    sd.place(device, cfg.dtype)  # what is not trained lies as it is computed with
    return sd, cfg, photos


# === training =====================================================================================

def train(sd, cfg, photos):
    """Finds the vectors of the new word, and yields {step, loss, length} after each step, length
    the mean |v|; sd is the model as it is at that moment."""
    sd.freeze()
    squares = [square(photo, cfg.size) for photo in photos]
    squares += [ImageOps.mirror(one) for one in squares]
    with sd.autocast(cfg.dtype):
        mean, std = sd.encode(squares)                                         # (squares, c, y, x)
    templates = STYLE_TEMPLATES if cfg.style else TEMPLATES
    sentences = sd.tokenizer([template.format(cfg.token) for template in templates])
    sentences = sentences.to(sd.device)                                        # (sentences, l)

    ids = sd.tokenizer.encode(cfg.token)
    v = sd.text.table.weight.data[ids].clone().requires_grad_(True)            # (n, d)
    optimizer = AdamW([v], cfg.lr, dtype=cfg.dtype)
    sd.unet.checkpointing = sd.large
    sd.set_aside(sd.vae)
    first = load_state(cfg, [v], optimizer).get("step", 0)

    for step in range(first, cfg.steps):
        # Each step seeds a generator of its own: a resumed run needs only the step's number.
        generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
        some = torch.randint(len(mean), (cfg.batch_size,), generator=generator)
        z = sd.draw_latents(mean[some], std[some], generator)                  # (b, c, y, x)
        said = torch.randint(len(sentences), (cfg.batch_size,), generator=generator)
        with sd.autocast(cfg.dtype):
            words = sd.read_with(torch.stack([sentences[i] for i in said]), ids, v)
            loss = inversion_loss(sd, z, words, generator)
        optimizer.backward(loss)
        norm = optimizer.step()
        for i, row in zip(ids, v.data):
            sd.text.table.weight.data[i] = row
        log = read_log(cfg, step + 1, norm, loss=loss, length=v.detach().norm(dim=1).mean())
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            save_state(cfg, photos, [v], optimizer, step=step + 1)
        yield log
    sd.unet.checkpointing = False
    sd.take_back()


# === the command ==================================================================================

def draw_prompts(sd, cfg):
    """{prompt: pictures}: the questions of PROMPTS about the subject, then the class by itself,
    which cannot have changed."""
    prompts = [prompt.format(cfg.token) for prompt in (STYLE_PROMPTS if cfg.style else PROMPTS)]
    prompts += [f"a photo of a {cfg.token}", f"a photo of a {cfg.class_name}"]
    how = {"sampler": "dpm++", "steps": cfg.sampling_steps, "guidance": cfg.guidance,
           "seed": cfg.seed, "size": cfg.size, "images": 3 if cfg.size < 256 else 1}
    with sd.autocast(cfg.dtype):
        return {prompt: sd.sample(prompt, **how) for prompt in progress(prompts, "prompts drawn")}


def main(cfg):
    sd, cfg, photos = prepare(cfg)
    ids, lengths = sd.tokenizer.encode(cfg.token), sd.text.table.weight.norm(dim=1)
    low, high = lengths.quantile(0.05), lengths.quantile(0.95)
    print(f"textual inversion: {len(photos)} pictures of a {cfg.class_name} | training "
          f"{cfg.vectors} x {sd.text.config.hidden_size} numbers, the word {cfg.token} (the length "
          f"of most words is {low:.2f} to {high:.2f}) | {sd.device}", flush=True)

    out, squares = Path(cfg.out), [square(photo, cfg.size) for photo in photos]
    sentence = f"a photo of a {cfg.token}"
    before, noise_before = draw_prompts(sd, cfg), sd.loss_by_noise(squares, sentence)
    for log in watch(train(sd, cfg, photos), cfg.steps):
        pass
    word = {cfg.token: sd.text.table.weight[ids]}
    save_tensors(word, out / "learned_embeds.safetensors")  # for diffusers
    save_tensors(word, out / f"{file_name(cfg.token)}.safetensors")  # for A1111, ComfyUI: its name
    after, noise_after = draw_prompts(sd, cfg), sd.loss_by_noise(squares, sentence)

    rows = [("the subject", squares)]
    for prompt in before:
        rows.append((f'"{prompt}"     before  |  after', [*before[prompt], None, *after[prompt]]))
    save_picture(sheet(rows), out / "before_after.png")
    state_path(cfg).unlink(missing_ok=True)  # all is saved: there is nothing left to resume
    for i, words in enumerate(nearest_words(sd, ids), 1):
        words = ", ".join(f"{word} {cosine:.2f}" for word, cosine in words)
        print(f"nearest to vector {i}: {words}")
    print(f"loss at little, middle and much noise: {noise_before} before, {noise_after} after")
    print(f"the word: {out / 'learned_embeds.safetensors'}\n"
          f"the picture: {out / 'before_after.png'}")


if __name__ == "__main__":
    run(lambda: main(parse_flags(Config, __doc__, SETTINGS)))
