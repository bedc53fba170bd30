"""Methods side by side, on subjects whose truth is known: how alike, how obedient, how fast.

    python compare.py                                    12 subjects, an hour or more; --resume goes on after an interruption
    python compare.py --subjects cat3 --only DreamBooth  one of each
    python compare.py --faces 20                         HyperDreamBooth: 20 strangers' faces, one picture each

Every method learns each subject with its defaults, which were chosen on other subjects (TUNED), and a seed of the subject's own. Then
it draws the same prompts with the same seeds, and tiny_world's judge, which knows this world, reads the pictures:

    likeness    of "a photo of a sks cat" and of the cat in new places to fresh drawings of the subject, by the judge's identity
                vectors, on a scale where 0 is another individual of the class and 1 is the subject itself, drawn once more
    obedience   the share of prompts for a place, an accessory, a colour, a style or a shape whose picture has it, and
                shows a cat
    product     of the two, for each subject (a likeness below 0 counts as 0): a copy of the photos and an obedient
                stranger are both worth nothing
    named       of faces: the share of those pictures that are nearer to the right person than to any other of the run
    seconds     from loading the model to the last step, with DreamBooth's class pictures

The intervals are over subjects: 95 of 100 sets of subjects, drawn from these with replacement, have their mean inside. All methods
learn the same subjects, so two methods are compared by the differences of each subject.
With --faces all of this is also measured on the way, on one picture a prompt instead of two, in 10 sampling steps instead of 25. The last
table is a race: the seconds until the mean likeness reaches where HyperDreamBooth ends and where DreamBooth does (between two looks the
line is straight).
"""
import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import attn_dreambooth
import dreambooth
import hyperdreambooth
import textual_inversion
from stable_diffusion import TINY, StableDiffusion, load_pictures, run
from tiny_world import SUBJECTS, sheet
from tiny_world.draw import draw
from tiny_world.judge import Judge
from tiny_world.subjects import PLACES, WHO, scenes
from tiny_world.world import LIVE, Identity, Scene, random_identity, random_pose

TUNED = ("cat", "dog2", "face", "teapot", "robot2", "vase2")  # what the methods' settings for the tiny world were chosen on
REPORTED = ("cat2", "cat3", "dog", "dog3", "bear", "duck2", "robot", "teapot2", "boot2", "sneaker", "backpack2", "clock")

# name: (script, what differs from its defaults, how it calls the subject)
EXPERIMENTS = {
    "the class word": (None, {}, "{cls}"),
    "Textual Inversion": (textual_inversion, {}, "<it>"),
    "DreamBooth": (dreambooth, {}, "sks {cls}"),
    "AttnDreamBooth": (attn_dreambooth, {}, "<it> {cls}"),
}
ABLATIONS = {  # by --only
    "DreamBooth without the prior": (dreambooth, {"prior_weight": 0.0}, "sks {cls}"),
    "AttnDreamBooth without the penalty": (attn_dreambooth, {"attn_weight": 0.0}, "<it> {cls}"),
    "AttnDreamBooth without stage 1": (attn_dreambooth, {"stages": "23"}, "<it> {cls}"),
    "AttnDreamBooth without stage 2": (attn_dreambooth, {"stages": "13"}, "<it> {cls}"),
    "AttnDreamBooth without stage 3": (attn_dreambooth, {"stages": "12"}, "<it> {cls}"),
    "AttnDreamBooth, the fast variant": (attn_dreambooth, {"fast": True}, "<it> {cls}"),
}
OF_FACES = {
    "Textual Inversion": (textual_inversion, {}, "<it>"),
    "DreamBooth": (dreambooth, {}, "sks {cls}"),
    "hypernetwork alone": (hyperdreambooth, {"steps": 0}, "sks {cls}"),
    "finetuning alone": (hyperdreambooth, {"hypernetwork": "none"}, "sks {cls}"),
    "HyperDreamBooth": (hyperdreambooth, {}, "sks {cls}"),
    "HyperDreamBooth, 100 steps": (hyperdreambooth, {"steps": 100}, "sks {cls}"),
}
LOOKS = (0, 10, 20, 50, 100, 200)  # with --faces: the steps after which all is measured on the way

PLAIN = ("a photo of a {}",)
NEW_PLACES = {"snow": "a {} in the snow", "night": "a {} under the moon at night", "water": "a {} floating on top of water",
              "rug": "a {} on top of a purple rug in a forest"}  # where no subject's photos are
ALIKE = (*PLAIN, *NEW_PLACES.values())  # the prompts that likeness is measured on


@dataclass(frozen=True)
class Subject:
    name: str
    who: Identity    # its truth
    photos: Path     # the folder that a method learns it from
    seed: int


def shipped(name):
    return Subject(name, scenes(name)[0].identity, SUBJECTS / name, [*WHO].index(name))


def snapshot(who, rng, seed):
    """The individual in a pose and one of the places that subjects' photos have, both by chance."""
    return draw(Scene(who, str(rng.choice(PLACES)), pose=random_pose(rng), seed=seed))


def stranger(number, folder):
    """Face `number` of those that neither the model nor the hypernetwork has seen, in one picture, drawn into a folder of its own."""
    who, rng, photos = random_identity(number, "face"), np.random.default_rng([1_618, number]), folder / f"face{number}"
    photos.mkdir(parents=True, exist_ok=True)
    snapshot(who, rng, number).save(photos / "00.png")
    return Subject(f"face {number}", who, photos, number)


def questions(who):
    """{prompt: (what the judge is asked, the right answer)}, for a subject."""
    asked = {prompt: ("context", place) for place, prompt in NEW_PLACES.items()}
    asked |= {f"a {colour} {{}}": ("colour", colour) for colour in ("purple", "green", "red") if colour not in (who.colour, who.second)}
    asked |= {f"a {style} of a {{}}": ("style", style) for style in ("watercolour painting", "pencil sketch")} | {"a cube shaped {}": ("cube", True)}
    if who.cls in LIVE:
        asked |= {f"a {{}} wearing {words}": ("accessory", words.removeprefix("a ")) for words in ("a santa hat", "a black top hat", "pink glasses")}
    return asked


def mean_product(a, b):
    return (a @ b.T).mean().item()


@dataclass(frozen=True)
class Scale:
    """Of likeness to one subject: the vectors of 24 fresh drawings of it, and what the judge makes of them beside 96 others of the class
    (0) and beside one another (1)."""
    truth: torch.Tensor
    other: float
    same: float

    def __call__(self, vectors):
        return (mean_product(vectors, self.truth) - self.other) / (self.same - self.other)


def scale(judge, who):
    rng = np.random.default_rng(8)
    v = judge.vectors([snapshot(who, rng, i) for i in range(24)])
    others = judge.vectors([snapshot(random_identity(500 + i, who.cls), rng, i) for i in range(96)])
    return Scale(v, mean_product(v, others), (v @ v.T)[~torch.eye(len(v), dtype=torch.bool)].mean().item())


def learn(script, change, subject, out):
    """A method learns the subject. Yields (step, seconds since the start, the model) after each; without a script only the model."""
    if script is None:
        yield 0, 0.0, StableDiffusion.from_pretrained(TINY)
        return
    start = time.time()
    cfg = script.Config(images=str(subject.photos), class_name=subject.who.cls, seed=subject.seed, out=out, **change)
    for step, (sd, _) in enumerate(script.train(cfg)):
        seconds = time.time() - start
        yield step, seconds, sd
        start = time.time() - seconds  # a look at the model does not count


def measure(judge, sd, noun, subject, scales, images=2, steps=25):
    """{likeness, obedience} and, where scales has other people too, {named}; and the pictures {prompt: [...]}. scales {name: Scale}."""
    asked, cls = questions(subject.who), subject.who.cls
    prompts = [*PLAIN, *asked]
    drawn = sd.sample([p.format(noun) for p in prompts], images=images, steps=steps, sampler="dpm++", seed=1000 + subject.seed)
    drawn = {prompt: drawn[i * images:(i + 1) * images] for i, prompt in enumerate(prompts)}
    vectors = judge.vectors([p for prompt in ALIKE for p in drawn[prompt]])
    obeyed = [read["drawing"] and read["cls"] == cls and read[question] == right
              for prompt, (question, right) in asked.items() for read in judge.read(drawn[prompt])]
    found = {"likeness": scales[subject.name](vectors), "obedience": sum(obeyed) / len(obeyed)}
    if len(scales) > 1:
        nearest = torch.stack([(vectors @ one.truth.T).mean(1) for one in scales.values()]).argmax(0)
        found["named"] = (nearest == [*scales].index(subject.name)).float().mean().item()
    return found, drawn


def interval(values, rng):
    """Mean over subjects and the 95 % bootstrap interval."""
    values = np.asarray(values)
    means = values[rng.integers(len(values), size=(10_000, len(values)))].mean(1)
    return values.mean(), *np.percentile(means, [2.5, 97.5])


AXES = {"likeness": lambda r: r["likeness"], "obedience": lambda r: r["obedience"], "product": lambda r: max(0, r["likeness"]) * r["obedience"]}
NAMED = {"named": lambda r: r["named"]}


def table(results, reference):
    """results {subject: {experiment: {...}}} as Markdown: the means, then what each method has over the reference, subject by subject."""
    rng = np.random.default_rng(0)
    rows = {experiment: [r[experiment] for r in results.values()] for experiment in next(iter(results.values()))}
    axes = AXES | (NAMED if all("named" in r for found in rows.values() for r in found) else {})

    def cell(values, sign=""):
        mean, low, high = interval(values, rng)
        return f"{mean:{sign}.2f}" + f" ({low:{sign}.2f} to {high:{sign}.2f})" * (len(values) > 4)  # of fewer it would say nothing

    lines = [f"| {len(results)} subjects | {' | '.join(axes)} | seconds |", "|---|" + "---|" * (len(axes) + 1)]
    for experiment, found in rows.items():
        cells = [cell([axis(r) for r in found]) for axis in axes.values()]
        lines.append(f"| {experiment} | {' | '.join(cells)} | {np.mean([r['seconds'] for r in found]):.0f} |")
    if base := rows.pop(reference, None):
        lines += ["", f"| the difference | {' | '.join(axes)} |", "|---|" + "---|" * len(axes)] if rows else []
        for experiment, found in rows.items():
            cells = [cell([axis(a) - axis(b) for a, b in zip(found, base)], "+") for axis in axes.values()]
            lines.append(f"| {experiment} - {reference} | {' | '.join(cells)} |")
    return "\n".join(lines)


def time_to_reach(looks, level):
    """looks: rows (seconds, likeness) from the start on. Seconds at which the straight lines between them first reach the level; None
    if they never do."""
    if looks[0][1] >= level:
        return looks[0][0]
    for (s, low), (t, high) in zip(looks, looks[1:]):
        if high >= level:
            return s + (t - s) * (level - low) / (high - low)


def after(results, step):
    """results as they were after so many steps; a method that has ended by then is as it ended."""
    return {name: {experiment: [look for look in r["looks"] if look["step"] <= step][-1] for experiment, r in of.items()}
            for name, of in results.items()}


def curves(results):
    """{experiment: rows (seconds, likeness)}, the means over all subjects, of each look on the way and of the end."""
    return {experiment: np.mean([[(look["seconds"], look["likeness"]) for look in of[experiment]["looks"]] for of in results.values()], axis=0).tolist()
            for experiment in next(iter(results.values()))}


def on_the_way(results):
    """As Markdown: the mean likeness after so many steps, and at the end."""
    means = curves(results)
    steps = LOOKS[:max(len(curve) for curve in means.values()) - 1]
    lines = ["| likeness after | " + " | ".join(f"{step} steps" for step in steps) + " | all |", "|---|" + "---|" * (len(steps) + 1)]
    for experiment, curve in means.items():
        cells = [f"{likeness:.2f}" for _, likeness in curve]
        lines.append(f"| {experiment} | {' | '.join([*cells[:-1], *[''] * (len(steps) + 1 - len(cells)), cells[-1]])} |")
    return "\n".join(lines)


def race(results):
    """As Markdown: when the mean likeness of each method reaches where HyperDreamBooth ends and where DreamBooth does."""
    means = curves(results)
    goals = {name: means[name][-1][1] for name in ("HyperDreamBooth", "DreamBooth")}
    lines = ["| seconds until | " + " | ".join(f"{name}'s likeness, {level:.2f}" for name, level in goals.items()) + " |", "|---|---|---|"]
    for experiment, curve in means.items():
        reached = [time_to_reach(curve, level) for level in goals.values()]
        lines.append(f"| {experiment} | {' | '.join('never' if seconds is None else f'{seconds:.1f}' for seconds in reached)} |")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--subjects", nargs="+", choices=[*WHO], default=REPORTED, metavar="NAME", help="of tiny_world/subjects")
    p.add_argument("--faces", type=int, default=0, metavar="COUNT", help="so many strangers' faces instead, of one picture each")
    p.add_argument("--hypernetwork", nargs="+", default=[], metavar="FILE", help="with --faces: others beside the shipped one")
    p.add_argument("--only", nargs="+", metavar="METHOD", help="; ".join(EXPERIMENTS | ABLATIONS | OF_FACES))
    p.add_argument("--resume", action="store_true", help="keep the subjects that results.json has already")
    p.add_argument("--out", help="results.json and the pictures; default: runs/compare, or for faces runs/compare_COUNT_faces")
    a = p.parse_args()
    if a.faces < 0 or a.hypernetwork and not a.faces:
        p.error("--faces COUNT is 1 or more, and --hypernetwork goes with it")
    known, asked = EXPERIMENTS | ABLATIONS, a.only or [*EXPERIMENTS]
    if a.faces:
        known = OF_FACES | {f"HyperDreamBooth, {file}": (hyperdreambooth, {"hypernetwork": file}, "sks {cls}") for file in a.hypernetwork}
        asked = a.only or [*known]
    if unknown := {*asked} - {*known}:
        p.error(f"--only {', '.join(unknown)}: some of {'; '.join(known)}")
    experiments = {name: how for name, how in known.items() if name in asked}
    out, judge = Path(a.out or (f"runs/compare_{a.faces}_faces" if a.faces else "runs/compare")), Judge.load()
    file = out / "results.json"
    if file.exists() and not a.resume:
        p.error(f"{file} is there: --resume goes on with it, another --out begins anew")
    done = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if any(found.get("people") != max(1, a.faces) for of in done.values() for found in of.values()):
        p.error(f"--resume: in {file} people were told apart from another number of others")
    out.mkdir(parents=True, exist_ok=True)
    subjects = [stranger(100 + i, out / "photos") for i in range(a.faces)] or [shipped(name) for name in a.subjects]
    scales = {subject.name: scale(judge, subject.who) for subject in subjects}
    for subject in subjects:
        if {*experiments} <= {*done.get(subject.name, {})}:
            continue
        name, mine = subject.name, scales if a.faces else {subject.name: scales[subject.name]}
        asked = ", ".join(question if right is True else right for question, right in questions(subject.who).values())
        rows, found = [(f"{name}: the photos; below as it is, then {asked}", load_pictures(subject.photos))], {}
        for experiment, (script, change, noun) in experiments.items():
            noun, looks = noun.format(cls=subject.who.cls), []
            for step, seconds, sd in learn(script, change, subject, str(out / "work")):
                if a.faces and step in LOOKS:
                    looks.append(measure(judge, sd, noun, subject, mine, images=1, steps=10)[0] | {"step": step, "seconds": seconds})
            result, drawn = measure(judge, sd, noun, subject, mine)
            looks.append(result | {"step": step, "seconds": seconds})
            found[experiment] = looks[-1] | {"looks": looks, "people": len(mine)}
            said = "  ".join(f"{axis} {value:.2f}" for axis, value in result.items())
            print(f"{name:10s} {experiment:27s} {said}  {seconds:4.0f} s", flush=True)
            rows.append((f"{experiment}: {said}", [pictures[0] for pictures in drawn.values()]))
        sheet(rows).save(out / f"{name.replace(' ', '')}.png")
        done[name] = done.get(name, {}) | found
        file.with_suffix(".partial").write_text(json.dumps(done, indent=1), "utf-8")
        os.replace(file.with_suffix(".partial"), file)
    results = {subject.name: {experiment: done[subject.name][experiment] for experiment in experiments} for subject in subjects}
    print(table(results, "HyperDreamBooth" if a.faces else "DreamBooth"))
    if not a.faces:
        return
    longest = max(found["step"] for found in results[subjects[0].name].values())
    for step in LOOKS:
        if 0 < step < longest:
            print(f"\nafter {step} steps:\n{table(after(results, step), 'HyperDreamBooth')}")
    print("\n" + on_the_way(results))
    if {"DreamBooth", "HyperDreamBooth"} <= {*experiments}:
        print("\n" + race(results))


if __name__ == "__main__":
    run(main)
