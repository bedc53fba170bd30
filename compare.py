"""Methods side by side, on subjects whose truth is known: how alike, how obedient, how fast.

    python compare.py                  12 subjects, an hour or more; after an interruption: --resume
    python compare.py --faces 20       HyperDreamBooth: 20 strangers' faces, one picture each
    python compare.py --subjects cat3 --only DreamBooth

Every method learns each subject with its defaults, which were chosen on other subjects (TUNED), and
a seed of the subject's own. Then it draws the same prompts with the same seeds, and the judge looks
(measure.py has what likeness and obedience are):

    product     of likeness and obedience, for each subject (a likeness below 0 counts as 0): a copy
                of the photos and an obedient stranger are both worth nothing
    seconds     from loading the model to the last step, with DreamBooth's class pictures

With --faces all of this is also measured on the way, on one picture a prompt instead of two, in 10
sampling steps instead of 25. The last table is a race: the seconds until the mean likeness reaches
where HyperDreamBooth ends and where DreamBooth does (between two looks the line is straight).
"""
import argparse
import json
import shutil
from pathlib import Path

import attn_dreambooth
import dreambooth
import hyperdreambooth
import lora_dreambooth
import textual_inversion
from command import run
from files import UserError, claim, read_json, save_text
from measure import draw_stranger, learn_subject, make_scale, measure, questions, shipped_subject
from pictures import load_pictures, save_picture, sheet
from tables import LOOKS, results_after, table, table_of_race, table_on_the_way
from tiny_world.judge import Judge
from tiny_world.subjects import WHO

# What the methods' settings for the tiny world were chosen on, and what they are judged on.
TUNED = ("cat", "dog2", "face", "teapot", "robot2", "vase2")
REPORTED = ("cat2", "cat3", "dog", "dog3", "bear", "duck2", "robot", "teapot2", "boot2", "sneaker",
            "backpack2", "clock")

# name: (script, what differs from its defaults, how it calls the subject)
EXPERIMENTS = {
    "the class word": (None, {}, "{cls}"),
    "Textual Inversion": (textual_inversion, {}, "<it>"),
    "DreamBooth": (dreambooth, {}, "sks {cls}"),
    "LoRA DreamBooth": (lora_dreambooth, {}, "sks {cls}"),
    "AttnDreamBooth": (attn_dreambooth, {}, "<it> {cls}"),
}
ABLATIONS = {  # by --only
    "DreamBooth without the prior": (dreambooth, {"prior_weight": 0.0}, "sks {cls}"),
    "DreamBooth, thrifty": (dreambooth, {"memory": "thrifty"}, "sks {cls}"),
    "DreamBooth, lean": (dreambooth, {"memory": "lean"}, "sks {cls}"),
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


def compare_subject(judge, subject, scales, experiments, out, on_the_way):
    """All experiments with one subject: {experiment: result}, and the rows of its sheet of
    pictures."""
    asked = questions(subject.who).values()
    asked = [question if right is True else right for question, right in asked]
    title = f"{subject.name}: the photos; below as it is, then {', '.join(asked)}"
    rows, results = [(title, load_pictures(subject.photos))], {}
    for experiment, (script, change, noun) in experiments.items():
        noun, looks = noun.format(cls=subject.who.cls), []
        shutil.rmtree(out / "work", ignore_errors=True)  # class pictures of a run that was stopped
        for step, seconds, sd in learn_subject(script, change, subject, str(out / "work")):
            if on_the_way and step in LOOKS:
                look, _ = measure(judge, sd, noun, subject, scales, images=1, steps=10)
                looks.append(look | {"step": step, "seconds": seconds})
        result, drawn = measure(judge, sd, noun, subject, scales)
        looks.append(result | {"step": step, "seconds": seconds})
        results[experiment] = looks[-1] | {"looks": looks, "people": len(scales)}
        values = "  ".join(f"{axis} {value:.2f}" for axis, value in result.items())
        print(f"{subject.name:10s} {experiment:27s} {values}  {seconds:4.0f} s", flush=True)
        rows.append((f"{experiment}: {values}", [pictures[0] for pictures in drawn.values()]))
    return results, rows


def print_tables(results, experiments, of_faces):
    print(table(results, "HyperDreamBooth" if of_faces else "DreamBooth"))
    if not of_faces:
        return
    longest = max(result["step"] for result in next(iter(results.values())).values())
    for step in LOOKS:
        if 0 < step < longest:
            print(f"\nafter {step} steps:")
            print(table(results_after(results, step), "HyperDreamBooth"))
    print("\n" + table_on_the_way(results))
    if {"DreamBooth", "HyperDreamBooth"} <= set(experiments):
        print("\n" + table_of_race(results))


def parse_arguments():
    """The arguments, and the experiments that they ask for."""
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--subjects", nargs="+", choices=list(WHO), default=REPORTED, metavar="NAME",
                   help="of tiny_world/subjects")
    p.add_argument("--faces", type=int, default=0, metavar="COUNT",
                   help="so many strangers' faces instead, of one picture each")
    p.add_argument("--hypernetwork", nargs="+", default=[], metavar="FILE",
                   help="with --faces: others beside the shipped one")
    p.add_argument("--only", nargs="+", metavar="METHOD",
                   help="; ".join(EXPERIMENTS | ABLATIONS | OF_FACES))
    p.add_argument("--resume", action="store_true",
                   help="keep the subjects that results.json has already")
    p.add_argument("--out", help="results.json and the pictures; default: runs/compare, or for "
                                 "faces runs/compare_COUNT_faces")
    a = p.parse_args()
    if a.faces < 0 or (a.hypernetwork and not a.faces):
        p.error("--faces COUNT is 1 or more, and --hypernetwork goes with it")
    known, default = EXPERIMENTS | ABLATIONS, EXPERIMENTS
    if a.faces:
        known = default = dict(OF_FACES)
        for file in a.hypernetwork:
            known[f"HyperDreamBooth, {file}"] = hyperdreambooth, {"hypernetwork": file}, "sks {cls}"
    asked = a.only or list(default)
    if unknown := set(asked) - set(known):
        p.error(f"--only {', '.join(unknown)}: some of {'; '.join(known)}")
    a.out = Path(a.out or (f"runs/compare_{a.faces}_faces" if a.faces else "runs/compare"))
    if (a.out / "results.json").exists() and not a.resume:
        p.error(f"{a.out / 'results.json'} is there: --resume goes on with it, another --out "
                "begins anew")
    return a, {name: experiment for name, experiment in known.items() if name in asked}


def read_results(file, people):
    """{subject: {experiment: result}} of an earlier run, in which everybody was told apart from as
    many people."""
    done = read_json(file)
    for results in done.values():
        if not isinstance(results, dict) or not all(
                isinstance(one, dict) and "likeness" in one for one in results.values()):
            raise UserError(f"{file} holds no results: delete it, or take another --out")
        if {result.get("people") for result in results.values()} - {people}:
            raise UserError(f"{file}: people were told apart from another number of others; take "
                            "another --out")
    return done


def main():
    a, experiments = parse_arguments()
    claim(a.out)
    file = a.out / "results.json"
    done = read_results(file, max(1, a.faces)) if file.exists() else {}
    judge = Judge.load()
    if a.faces:
        subjects = [draw_stranger(100 + i, a.out / "photos") for i in range(a.faces)]
    else:
        subjects = [shipped_subject(name) for name in a.subjects]
    scales = {subject.name: make_scale(judge, subject.who) for subject in subjects}
    for subject in subjects:
        if set(experiments) <= set(done.get(subject.name, {})):
            continue
        compared_with = scales if a.faces else {subject.name: scales[subject.name]}
        results, rows = compare_subject(judge, subject, compared_with, experiments, a.out,
                                        on_the_way=bool(a.faces))
        save_picture(sheet(rows), a.out / f"{subject.name.replace(' ', '')}.png")
        done[subject.name] = done.get(subject.name, {}) | results
        save_text(json.dumps(done, indent=1), file)
    results = {}
    for subject in subjects:
        results[subject.name] = {name: done[subject.name][name] for name in experiments}
    print_tables(results, experiments, bool(a.faces))


if __name__ == "__main__":
    run(main)
