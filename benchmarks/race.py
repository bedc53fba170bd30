"""Time to the same quality: diffusers' own scripts and these learn the same subjects, and the judge
looks at both on the way.

    git clone --depth 1 https://github.com/huggingface/diffusers runs/diffusers
    pip install diffusers accelerate tensorboard torchvision     (what their scripts need)
    python benchmarks/race.py runs/diffusers/examples
    python benchmarks/race.py runs/diffusers/examples --only dreambooth --subjects cat3

Ours run with their defaults. Theirs run as their README says: DreamBooth with a photo and a class
picture a step, 800 steps; Textual Inversion with 4 photos a step, 3000 steps; what it leaves open
is the scripts' default, as 100 class pictures are. Only their learning rates are chosen for the
tiny world, as those for a network 50 times as large teach this one nothing. Several may be given,
and the one that ends best counts.

Quality is the product of likeness and obedience (measure.py), the mean over subjects, and between
two looks the line is straight. Seconds are a process's, from its start on, Python's imports
included, without the judge's looks. Run it when nothing else runs.
"""
import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import dreambooth  # noqa: E402 (found through the line above)
import textual_inversion  # noqa: E402
from command import run  # noqa: E402
from files import UserError, save_text  # noqa: E402
from measure import learn_subject, make_scale, measure, shipped_subject  # noqa: E402
from stable_diffusion import TINY, StableDiffusion  # noqa: E402
from tables import AXES, header, time_to_reach  # noqa: E402
from tiny_world.judge import Judge  # noqa: E402
from tiny_world.subjects import WHO  # noqa: E402

RATES = {"dreambooth": (4e-4,), "textual_inversion": (3e-2,)}  # of theirs
LOOKS = 8  # at a run, in equal steps
NOUNS = {"dreambooth": "sks {cls}", "textual_inversion": "<it>"}
OURS = {"dreambooth": dreambooth, "textual_inversion": textual_inversion}
THEIRS = {  # the script, its steps, what it saves after some of them, and its options
    "dreambooth": ("dreambooth/train_dreambooth.py", 800, "checkpoint-{step}", """
        --instance_data_dir={photos} --instance_prompt=a photo of a sks {cls}
        --class_data_dir={out}/class --class_prompt=a photo of a {cls}
        --with_prior_preservation --prior_loss_weight=1.0 --num_class_images=100
        --train_text_encoder --train_batch_size=1 --checkpointing_steps={every}"""),
    "textual_inversion": ("textual_inversion/textual_inversion.py", 3000,
                          "learned_embeds-steps-{step}.safetensors", """
        --train_data_dir={photos} --placeholder_token=<it> --initializer_token={cls}
        --learnable_property=object --train_batch_size=4 --save_steps={every}
        --checkpointing_steps=1000000"""),
}


def python(*arguments):
    """Runs a process of Python; when it began, and how long it took."""
    start = time.time()
    ended = subprocess.run([sys.executable, "-W", "ignore", *arguments], cwd=ROOT, text=True,
                           capture_output=True)
    if ended.returncode:
        raise UserError(f"{' '.join(arguments)}\n{ended.stderr[-2000:]}")
    return start, time.time() - start


# === one run: rows (seconds, quality) =============================================================

def our_curve(method, subject, look):
    """The script's training, in this process; the imports of one of its own count."""
    _, imports = python("-c", f"import {method}")
    script, curve = OURS[method], []
    steps = script.SETTINGS["steps"][0]
    with tempfile.TemporaryDirectory() as out:
        for step, seconds, sd in learn_subject([(script, {})], subject, out):
            if step * LOOKS % steps < LOOKS:  # the first step of each eighth, or past it
                curve.append((imports + seconds if step else 0.0, look(sd, subject)))
    return curve


def their_curve(method, subject, look, examples, lr):
    """Their script as a process; what it left on the way tells by its date when it was ready."""
    script, steps, saved, options = THEIRS[method]
    with tempfile.TemporaryDirectory() as out:
        before = StableDiffusion.from_pretrained(TINY)
        before.save(model := f"{out}/model")
        every = steps // LOOKS
        names = {"photos": subject.photos, "cls": subject.who.cls, "out": out, "every": every}
        asked = [f"--{option.strip()}" for option in options.format(**names).split("--")[1:]]
        start, _ = python(
            str(examples / script), f"--pretrained_model_name_or_path={model}",
            f"--output_dir={out}", f"--max_train_steps={steps}", f"--learning_rate={lr}",
            "--lr_scheduler=constant", "--lr_warmup_steps=0", f"--resolution={before.size}",
            f"--seed={subject.seed}", *asked)
        curve = [(0.0, look(before, subject))]
        for step in range(every, steps + 1, every):
            left = Path(out) / saved.format(step=step)
            curve.append((left.stat().st_mtime - start, look(open_theirs(model, left), subject)))
    return curve


def open_theirs(model, left):
    """The model with what their script left: a word, or a UNet and a text encoder."""
    if left.is_dir():
        for part in ("unet", "text_encoder"):
            shutil.copytree(left / part, f"{model}/{part}", dirs_exist_ok=True)
    sd = StableDiffusion.from_pretrained(model)
    if left.is_file():
        sd.load_embeds(left)
    return sd


# === the race =====================================================================================

def race(method, subjects, examples, rates):
    """{"ours", "theirs": curves, means over subjects; "lr": of theirs; "quality" where theirs ends;
    "seconds" until ours and theirs are there (None: never); "ends" of theirs by learning rate}"""
    judge = Judge.load()
    scales = {subject.name: make_scale(judge, subject.who) for subject in subjects}

    def look(sd, subject):
        noun, scale = NOUNS[method].format(cls=subject.who.cls), scales[subject.name]
        result, _ = measure(judge, sd, noun, subject, {subject.name: scale}, images=1, steps=10)
        return AXES["product"](result)

    def mean(curve, *how):
        return np.mean([curve(method, subject, look, *how) for subject in subjects], 0).tolist()

    ours = mean(our_curve)
    theirs = {lr: mean(their_curve, examples, lr) for lr in rates}
    ends = {lr: curve[-1][1] for lr, curve in theirs.items()}
    lr = max(ends, key=ends.get)
    return {"ours": ours, "theirs": theirs[lr], "lr": lr, "ends": ends, "quality": ends[lr],
            "seconds": [time_to_reach(curve, ends[lr]) for curve in (ours, theirs[lr])]}


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("examples", type=Path, help="the folder examples/ of a checkout of diffusers")
    p.add_argument("--subjects", nargs="+", choices=list(WHO), default=("cat3", "robot", "clock"),
                   metavar="NAME", help="of tiny_world/subjects")
    p.add_argument("--only", nargs="+", choices=list(OURS), default=list(OURS))
    p.add_argument("--lr", nargs="+", type=float, help="of theirs, instead of what suits the tiny "
                                                       "world")
    p.add_argument("--json", help="write it all to this file too")
    a = p.parse_args()
    for script, *_ in [THEIRS[method] for method in a.only]:
        if not (a.examples / script).is_file():
            raise UserError(f"{a.examples} has no {script}: it should be diffusers' examples/")
    subjects, report = [shipped_subject(name) for name in a.subjects], {}
    print("\n".join(header(["", "their quality in the end", "theirs, seconds", "ours until then",
                            "ratio"])))
    for method in a.only:
        one = report[method] = race(method, subjects, a.examples.resolve(), a.lr or RATES[method])
        ours, theirs = one["seconds"]
        until = "never" if ours is None else f"{ours:.0f}"
        ratio = f"{ours / theirs:.2f}" if ours and theirs else "-"  # 0: nothing was learned
        print(f"| {method} | {one['quality']:.2f} | {theirs:.0f} | {until} | {ratio} |", flush=True)
    if a.json:
        save_text(json.dumps(report, indent=1), Path(a.json))


if __name__ == "__main__":
    run(main)
