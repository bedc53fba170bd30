"""How good is it? The papers' own figures for a subject of real photos, beside the papers' own.

    python fidelity.py --images my_dog --class-name dog --prompts prompts.txt \\
        --model runs/dreambooth/model --drawn runs/fidelity

--prompts has one prompt a line, with {} where the subject stands: "a {} in the jungle". With
--model each is drawn four times ("a sks dog in the jungle"; with --embeds and --token "<it>" "a
<it> in the jungle"), as runs/fidelity/01-1.png and so on, and so are some pictures of the class
alone, runs/fidelity/class/1.png; what is there already stays. Without it the pictures may come from
anywhere, under these names. Then (DreamBooth, section 4.1):

    DINO     likeness: the mean cosine of a drawn picture and a photo, by DINO's ViT-S/16
    CLIP-I   likeness by CLIP, which is content with the same kind of dog
    CLIP-T   obedience: the cosine of a picture and its prompt with the bare noun, without "sks"
    PRES     what happened to the class: DINO between its pictures and the photos; lower is better
    DIV      how different the pictures of one prompt are; higher is better

DIV is 1 - the mean cosine by DINO here; the paper's is LPIPS, another network's distance, so only
compare it with itself. The intervals are 95 % bootstraps over prompts (of PRES over pictures, of
the photos over their pairs, with --benchmark over subjects). The figures go up to the photos' own
among one another; above it a picture copies a photo.

    python fidelity.py --benchmark dreambooth --drawn runs/benchmark

for the 30 subjects of the paper: --benchmark is a clone of github.com/google/dreambooth, and each
subject's pictures are in a folder of its name. Both networks come from the hub, 700 MB, once.
"""
import argparse
import hashlib
import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import torch

from command import pick_device, pick_dtype, progress, run
from files import UserError, read_json, save_text
from pictures import load_pictures, open_picture, save_picture
from stable_diffusion import StableDiffusion, split_strength
from tables import interval
from vit import AS_CLIP, AS_DINO, load_clip, load_dino, look

FIGURES = ("DINO", "CLIP-I", "CLIP-T", "PRES", "DIV")
PAPER = {  # DreamBooth, tables 1 and 3: means of 30 subjects, 25 prompts, 4 pictures of each
    "photos among one another": (0.774, 0.885, None, None, None),
    "DreamBooth, Stable Diffusion": (0.668, 0.803, 0.305, None, None),
    "DreamBooth, Imagen": (0.696, 0.812, 0.306, 0.493, None),
    "Textual Inversion": (0.569, 0.780, 0.255, None, None),
}
LIVE = ("cat", "dog")  # the classes of the benchmark that have prompts of their own


# === prompts ======================================================================================

def read_prompts(path):
    """One prompt a line, {} for the subject."""
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--prompts {path} cannot be read: {error}") from None
    prompts = [line for line in lines if line and not line.startswith("#")]
    if bad := [prompt for prompt in prompts if prompt.count("{}") != 1]:
        raise UserError(f'--prompts {path}: "{bad[0]}" should have {{}} once, where the subject is')
    if not prompts:
        raise UserError(f"--prompts {path} has no prompts")
    return prompts


def read_benchmark(folder):
    """{subject: (its photos' folder, class, prompts)} of prompts_and_classes.txt."""
    path = Path(folder) / "dataset" / "prompts_and_classes.txt"
    if not path.exists():
        raise UserError(f"--benchmark {folder} has no dataset/prompts_and_classes.txt: it should "
                        "be a clone of github.com/google/dreambooth")
    classes, _, prompts = path.read_text("utf-8").partition("Prompts")
    objects, _, live = prompts.partition("Live Subject Prompts")
    lists = [[prompt.replace("{0} {1}", "{}") for prompt in re.findall(r"'(.*)'\.format\(", part)]
             for part in (objects, live)]
    subjects = {}
    for line in classes.splitlines():
        name, comma, cls = line.partition(",")
        if comma and name != "subject_name":
            subjects[name] = Path(folder) / "dataset" / name, cls, lists[cls in LIVE]
    return subjects


# === pictures =====================================================================================

def check_drawn(a, sd, subject, prompts):
    """Pictures that are there stay, so they must be of the same model and prompts."""
    words = [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in a.embeds]
    asked = {"model": sd.fingerprint(), "words": words, "subject": subject, "prompts": prompts,
             "sampling steps": a.sampling_steps}
    file = a.drawn / "drawn.json"
    then = read_json(file) if file.exists() else asked
    if wrong := [name for name in asked if then.get(name) != asked[name]]:
        raise UserError(f"--drawn {a.drawn} has pictures of other {', '.join(wrong)}: take another "
                        "folder")
    save_text(json.dumps(asked, indent=1), file)


def draw(a, prompts):
    """What is not there yet, into a.drawn."""
    device = pick_device("auto")
    dtype = getattr(torch, pick_dtype("auto", device))
    sd = StableDiffusion.from_pretrained(a.model, device, dtype)
    for path in a.embeds:
        sd.load_embeds(path)
    for path in a.lora:
        sd.load_lora(*split_strength(path))
    # A word that was found by Textual Inversion stands for the noun too.
    subject = a.token if a.embeds else f"{a.token} {a.class_name}".strip()
    if sd.tokenizer.added and a.token not in sd.tokenizer.added:
        raise UserError(f"the model has learned {', '.join(sd.tokenizer.added)}, and --token "
                        f"{a.token} is none of these")
    check_drawn(a, sd, subject, prompts)
    jobs = [(f"{i:02d}-{n}.png", prompt.format(subject), 1000 * i + n)
            for i, prompt in enumerate(prompts, 1) for n in range(1, a.each + 1)]
    jobs += [(f"class/{n}.png", f"a photo of a {a.class_name}", n)
             for n in range(1, a.class_images + 1)]
    (a.drawn / "class").mkdir(parents=True, exist_ok=True)
    for name, prompt, seed in progress(jobs, "pictures"):
        if not (a.drawn / name).exists():
            [picture] = sd.sample(prompt, seed=seed, sampler="dpm++", steps=a.sampling_steps)
            save_picture(picture, a.drawn / name)


def find_drawn(folder, prompts):
    """[[pictures of a prompt], ...], and those of the class."""
    drawn = []
    for i, prompt in enumerate(prompts, 1):
        paths = [path for path in sorted(folder.glob("*-*"))
                 if re.fullmatch(rf"0*{i}-\d+\.(png|jpg|jpeg|webp)", path.name)]
        if not paths:
            raise UserError(f'{folder} has no picture of prompt {i}, "{prompt}": it would be '
                            f"{i:02d}-1.png")
        drawn.append([open_picture(path) for path in paths])
    of_class = [open_picture(path) for path in sorted((folder / "class").glob("[!.]*"))]
    return drawn, of_class


# === the figures ==================================================================================

def mean_cosine(a, b):
    """Of all pairs of vectors (n, d) and (m, d), which have length 1."""
    return (a @ b.T).mean().item()


def pairwise_cosines(vectors):
    """Of each pair among vectors (n, d), a list; empty for one."""
    i, j = torch.triu_indices(len(vectors), len(vectors), 1)
    return (vectors @ vectors.T)[i, j].tolist()


def measure(networks, photos, cls, prompts, drawn, of_class):
    """{figure: its value for each prompt, or picture}, and the same of the photos among one
    another."""
    as_dino, as_clip, read = networks
    photo, photo_clip = as_dino(photos), as_clip(photos)
    words = read([prompt.format(cls) for prompt in prompts])
    values = {name: [] for name in FIGURES}
    for pictures, word in zip(drawn, words):
        seen, seen_clip = as_dino(pictures), as_clip(pictures)
        values["DINO"].append(mean_cosine(seen, photo))
        values["CLIP-I"].append(mean_cosine(seen_clip, photo_clip))
        values["CLIP-T"].append(mean_cosine(seen_clip, word[None]))
        if len(pictures) > 1:
            values["DIV"].append(1 - np.mean(pairwise_cosines(seen)))
    if of_class:
        values["PRES"] = (as_dino(of_class) @ photo.T).mean(1).tolist()
    return values, {"DINO": pairwise_cosines(photo), "CLIP-I": pairwise_cosines(photo_clip)}


def load_networks(a):
    """Pictures to DINO's vectors, to CLIP's, and texts to CLIP's: all of length 1."""
    dino, (clip, tokenizer) = load_dino(a.dino), load_clip(a.clip)

    @torch.no_grad()
    def read(texts):
        return torch.nn.functional.normalize(clip.encode_text(tokenizer(texts)), dim=1)
    return partial(look, dino, how=AS_DINO), partial(look, clip.encode_image, how=AS_CLIP), read


def line(name, values):
    """A row of the table; values {figure: [...]}, or a tuple of the paper's."""
    rng, cells = np.random.default_rng(0), []
    for i, figure in enumerate(FIGURES):
        if isinstance(values, tuple):
            cells.append("" if values[i] is None else f"{values[i]:.3f}")
        elif of_figure := values.get(figure):
            mean, low, high = interval(of_figure, rng)
            cells.append(f"{mean:.3f} ({low:.3f} to {high:.3f})")
        else:
            cells.append("")
    return f"{name:30s}" + "".join(f"{cell:24s}" for cell in cells).rstrip()


# === the command ==================================================================================

def parse_arguments():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--drawn", type=Path, required=True, help="folder of the drawn pictures")
    p.add_argument("--images", help="folder of the subject's photos")
    p.add_argument("--class-name", help="what the subject is")
    p.add_argument("--prompts", help="a file with one prompt a line, {} for the subject")
    p.add_argument("--benchmark", help="a clone of github.com/google/dreambooth, in their place")
    p.add_argument("--model", help="draws what is not there yet: a folder, or a name on the hub")
    p.add_argument("--embeds", action="append", default=[], help="a learned word for the model")
    p.add_argument("--lora", action="append", default=[], help="a LoRA for the model")
    p.add_argument("--token", default="sks", help="the identifier: sks, or <it>")
    p.add_argument("--each", type=int, default=4, help="pictures of each prompt")
    p.add_argument("--class-images", type=int, default=50, help="pictures of the class alone")
    p.add_argument("--sampling-steps", type=int, default=50)
    p.add_argument("--dino", default="timm/vit_small_patch16_224.dino",
                   help="a folder, or a name on the hub")
    p.add_argument("--clip", default="sentence-transformers/clip-ViT-B-32/0_CLIPModel",
                   help="a folder, or a name on the hub; openai/clip-vit-large-patch14 is larger")
    p.add_argument("--json", help="write all values to this file too")
    a = p.parse_args()
    if not a.benchmark and not (a.images and a.class_name and a.prompts):
        raise UserError("--images, --class-name and --prompts, or --benchmark")
    if a.benchmark and a.model:
        raise UserError("--model draws one subject, and --benchmark has thirty, each of which "
                        "needs a model of its own: draw them one by one")
    return a


def measure_benchmark(a):
    """The means of each subject that has pictures: {figure: a value for each}."""
    subjects = {name: about for name, about in read_benchmark(a.benchmark).items()
                if (a.drawn / name).is_dir()}
    if not subjects:
        raise UserError(f"--drawn {a.drawn} has no folder of a subject, such as backpack")
    networks, values = load_networks(a), {name: [] for name in FIGURES}
    for name, (folder, cls, prompts) in subjects.items():
        drawn, of_class = find_drawn(a.drawn / name, prompts)
        of_subject, _ = measure(networks, load_pictures(folder), cls, prompts, drawn, of_class)
        print(line(name, of_subject), flush=True)
        for figure, of_figure in of_subject.items():
            if of_figure:
                values[figure].append(float(np.mean(of_figure)))
    return {f"the mean of {len(subjects)} subjects": values}


def measure_subject(a):
    photos, prompts = load_pictures(a.images), read_prompts(a.prompts)
    networks = load_networks(a)  # before hours of drawing: can they be had?
    if a.model:
        draw(a, prompts)
    drawn, of_class = find_drawn(a.drawn, prompts)
    values, among = measure(networks, photos, a.class_name, prompts, drawn, of_class)
    return {"drawn": values, "your photos among themselves": among}


def main():
    a = parse_arguments()
    print(" " * 30 + "".join(f"{figure:24s}" for figure in FIGURES).rstrip(), flush=True)
    rows = measure_benchmark(a) if a.benchmark else measure_subject(a)
    for name, values in (rows | PAPER).items():
        print(line(name, values))
    if a.json:
        save_text(json.dumps(rows, indent=1), Path(a.json))


if __name__ == "__main__":
    run(main)
