"""Methods side by side, on subjects whose truth is known: how alike, how obedient, how fast.

    python compare.py                                    12 subjects, half an hour or more; --resume goes on after an interruption
    python compare.py --subjects cat3 --only DreamBooth  one of each

Every method learns each subject with its defaults, which were chosen on other subjects (TUNED), and a seed of the subject's own. Then
it draws the same prompts with the same seeds, and tiny_world's judge, which knows this world, reads the pictures:

    likeness    of "a photo of a sks cat" and of the cat in new places to fresh drawings of the subject, by the judge's identity
                vectors, on a scale where 0 is another individual of the class and 1 is the subject itself, drawn once more
    obedience   the share of prompts for a place, an accessory, a colour, a style or a shape whose picture has it, and
                shows a cat
    product     of the two, for each subject (a likeness below 0 counts as 0): a copy of the photos and an obedient
                stranger are both worth nothing
    seconds     from loading the model to the last step, with DreamBooth's class pictures

The intervals are over subjects: 95 of 100 sets of subjects, drawn from these with replacement, have their mean inside. All methods
learn the same subjects, so two methods are compared by the differences of each subject.
Not here: HyperDreamBooth, which learns from one picture, and faces only.
"""
import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

import attn_dreambooth
import dreambooth
import textual_inversion
from stable_diffusion import TINY, StableDiffusion, load_pictures, run
from tiny_world import SUBJECTS, sheet
from tiny_world.draw import draw
from tiny_world.judge import Judge
from tiny_world.subjects import PLACES, WHO, scenes
from tiny_world.world import LIVE, Scene, random_identity, random_pose

TUNED = ("cat", "dog2", "face", "teapot", "robot2", "vase2")  # what the methods' settings for the tiny world were chosen on
REPORTED = ("cat2", "cat3", "dog", "dog3", "bear", "duck2", "robot", "teapot2", "boot2", "sneaker", "backpack2", "clock")

# name: (script, what differs from its defaults, how it calls the subject)
EXPERIMENTS = {
    "the class word": (None, {}, "{cls}"),
    "Textual Inversion": (textual_inversion, {}, "<it>"),
    "DreamBooth": (dreambooth, {}, "sks {cls}"),
    "DreamBooth, no prior": (dreambooth, {"prior_weight": 0.0}, "sks {cls}"),
    "AttnDreamBooth": (attn_dreambooth, {}, "<it> {cls}"),
}

PLAIN = ("a photo of a {}",)
NEW_PLACES = {"snow": "a {} in the snow", "night": "a {} under the moon at night", "water": "a {} floating on top of water",
              "rug": "a {} on top of a purple rug in a forest"}  # where no subject's photos are


def questions(name):
    """{prompt: (what the judge is asked, the right answer)}, for a subject."""
    cls, who = WHO[name][0], scenes(name)[0].identity
    asked = {prompt: ("context", place) for place, prompt in NEW_PLACES.items()}
    asked |= {f"a {colour} {{}}": ("colour", colour) for colour in ("purple", "green", "red") if colour not in (who.colour, who.second)}
    asked |= {f"a {style} of a {{}}": ("style", style) for style in ("watercolour painting", "pencil sketch")} | {"a cube shaped {}": ("cube", True)}
    if cls in LIVE:
        asked |= {f"a {{}} wearing {words}": ("accessory", words.removeprefix("a ")) for words in ("a santa hat", "a black top hat", "pink glasses")}
    return asked


def mean_product(a, b):
    return (a @ b.T).mean().item()


def scale(judge, name):
    """The scale of likeness for a subject: the vectors of 24 fresh drawings of it, and what the judge makes of them beside 96 others of
    the class (0) and beside one another (1)."""
    rng, who = np.random.default_rng(8), scenes(name)[0].identity
    fresh = lambda identity, i: draw(Scene(identity, str(rng.choice(PLACES)), pose=random_pose(rng), seed=i))
    v = judge.vectors([fresh(who, i) for i in range(24)])
    others = judge.vectors([fresh(random_identity(500 + i, who.cls), i) for i in range(96)])
    return v, mean_product(v, others), (v @ v.T)[~torch.eye(len(v), dtype=torch.bool)].mean().item()


def learned(script, change, name, out):
    """The model after a method has learned the subject, and the seconds it took."""
    if script is None:
        return StableDiffusion.from_pretrained(TINY), 0.0
    start = time.time()
    for sd, _ in script.train(script.Config(images=str(SUBJECTS / name), class_name=WHO[name][0], seed=[*WHO].index(name), out=out, **change)):
        pass
    return sd, time.time() - start


def measure(judge, sd, noun, name, truth, other, same, images=2):
    """likeness, on the subject's `scale`, obedience, and the pictures {prompt: [...]}."""
    asked, cls = questions(name), WHO[name][0]
    prompts = [*PLAIN, *asked]
    drawn = sd.sample([p.format(noun) for p in prompts], images=images, steps=25, sampler="dpm++", seed=1000 + [*WHO].index(name))
    drawn = {prompt: drawn[i * images:(i + 1) * images] for i, prompt in enumerate(prompts)}
    alike = mean_product(judge.vectors([p for prompt in (*PLAIN, *NEW_PLACES.values()) for p in drawn[prompt]]), truth)
    obeyed = [read["drawing"] and read["cls"] == cls and read[question] == right
              for prompt, (question, right) in asked.items() for read in judge.read(drawn[prompt])]
    return (alike - other) / (same - other), sum(obeyed) / len(obeyed), drawn


def interval(values, rng):
    """Mean over subjects and the 95 % bootstrap interval."""
    values = np.asarray(values)
    means = values[rng.integers(len(values), size=(10_000, len(values)))].mean(1)
    return values.mean(), *np.percentile(means, [2.5, 97.5])


AXES = {"likeness": lambda r: r["likeness"], "obedience": lambda r: r["obedience"], "product": lambda r: max(0, r["likeness"]) * r["obedience"]}


def table(results):
    """results {subject: {experiment: {...}}} as Markdown: the means, then what each method has over DreamBooth, subject by subject."""
    rng = np.random.default_rng(0)
    rows = {experiment: [r[experiment] for r in results.values()] for experiment in next(iter(results.values()))}

    def cell(values, sign=""):
        mean, low, high = interval(values, rng)
        return f"{mean:{sign}.2f}" + f" ({low:{sign}.2f} to {high:{sign}.2f})" * (len(values) > 4)  # of fewer it would say nothing

    lines = [f"| {len(results)} subjects | {' | '.join(AXES)} | seconds |", "|---|---|---|---|---|"]
    for experiment, found in rows.items():
        cells = [cell([axis(r) for r in found]) for axis in AXES.values()]
        lines.append(f"| {experiment} | {' | '.join(cells)} | {np.mean([r['seconds'] for r in found]):.0f} |")
    if reference := rows.pop("DreamBooth", None):
        lines += ["", f"| the difference | {' | '.join(AXES)} |", "|---|---|---|---|"] if rows else []
        for experiment, found in rows.items():
            cells = [cell([axis(a) - axis(b) for a, b in zip(found, reference)], "+") for axis in AXES.values()]
            lines.append(f"| {experiment} - DreamBooth | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--subjects", nargs="+", choices=[*WHO], default=REPORTED, metavar="NAME", help="of tiny_world/subjects")
    p.add_argument("--only", nargs="+", choices=[*EXPERIMENTS], default=[*EXPERIMENTS], metavar="METHOD", help=", ".join(EXPERIMENTS))
    p.add_argument("--resume", action="store_true", help="keep the subjects that results.json has already")
    p.add_argument("--out", default="runs/compare", help="results.json and the pictures")
    a = p.parse_args()
    out, judge = Path(a.out), Judge.load()
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    done = json.loads(file.read_text("utf-8")) if a.resume and file.exists() else {}
    for name in a.subjects:
        if {*a.only} <= {*done.get(name, {})}:
            continue
        prompts = ", ".join(prompt.format("...") for prompt in (*PLAIN, *questions(name)))
        rows, found = [(f"{name}: the photos; below, {prompts}", load_pictures(SUBJECTS / name))], {}
        ends = scale(judge, name)
        for experiment in a.only:
            script, change, noun = EXPERIMENTS[experiment]
            sd, seconds = learned(script, change, name, str(out / "work"))
            likeness, obedience, drawn = measure(judge, sd, noun.format(cls=WHO[name][0]), name, *ends)
            found[experiment] = {"likeness": likeness, "obedience": obedience, "seconds": seconds}
            print(f"{name:10s} {experiment:22s} likeness {likeness:5.2f}  obedience {obedience:.2f}  {seconds:4.0f} s", flush=True)
            rows.append((f"{experiment}: likeness {likeness:.2f}, obedience {obedience:.2f}", [pictures[0] for pictures in drawn.values()]))
        sheet(rows).save(out / f"{name}.png")
        done[name] = done.get(name, {}) | found
        file.with_suffix(".partial").write_text(json.dumps(done, indent=1), "utf-8")
        os.replace(file.with_suffix(".partial"), file)
    print(table({name: {experiment: done[name][experiment] for experiment in a.only} for name in a.subjects}))


if __name__ == "__main__":
    run(main)
