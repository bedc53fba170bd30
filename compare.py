"""Methods side by side, on subjects whose truth is known: how alike, how obedient, how fast.

    python compare.py                  12 subjects, an hour or more; after an interruption: --resume
    python compare.py --faces 20       HyperDreamBooth: 20 strangers' faces, one picture each
    python compare.py --claims         each claim of the papers and its verdict, into RESULTS.md,
                                       and all that was measured, into RESULTS.json: a day; --quick:
                                       some claims on two subjects, a quarter of an hour, which
                                       decides little
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
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch

import attn_dreambooth
import dreambooth
import hyperdreambooth
import lora_dreambooth
import textual_inversion
from claims import CLAIMS, CLAIMS_OF_FACES, table_of_claims
from clip_text import CLIPText
from command import run
from files import UserError, claim, read_json, save_text
from measure import (draw_photos, draw_stranger, learn_subject, make_scale, measure, questions,
                     shipped_subject)
from pictures import load_pictures, save_picture, sheet
from tables import LOOKS, results_after, table, table_of_race, table_on_the_way
from tiny_unet import UNet
from tiny_world.judge import Judge
from tiny_world.subjects import WHO
from tiny_world.world import CLASSES

# What the methods' settings for the tiny world were chosen on, and what they are judged on.
TUNED = ("cat", "dog2", "face", "teapot", "robot2", "vase2")
REPORTED = ("cat2", "cat3", "dog", "dog3", "bear", "duck2", "robot", "teapot2", "boot2", "sneaker",
            "backpack2", "clock")

# name: (how it calls the subject, then a script and what differs from its defaults, or several of
# both one after the other)
EXPERIMENTS = {
    "the class word": ("{cls}",),
    "Textual Inversion": ("<it>", (textual_inversion, {})),
    "DreamBooth": ("sks {cls}", (dreambooth, {})),
    "LoRA DreamBooth": ("sks {cls}", (lora_dreambooth, {})),
    "AttnDreamBooth": ("<it> {cls}", (attn_dreambooth, {})),
}
ABLATIONS = {  # by --only, or as --claims asks for them; {other}: another class
    "DreamBooth, 100 steps": ("sks {cls}", (dreambooth, {"steps": 100})),
    "DreamBooth, 900 steps": ("sks {cls}", (dreambooth, {"steps": 900})),
    "DreamBooth without the prior": ("sks {cls}", (dreambooth, {"prior_weight": 0.0})),
    "DreamBooth, another class's noun": ("sks {other}", (dreambooth, {"class_name": "{other}"})),
    "DreamBooth, a noun that means nothing": ("sks zwx", (dreambooth, {"class_name": "zwx"})),
    "DreamBooth, cross-attention alone": (
        "sks {cls}", (dreambooth, {"layers": "cross-attention"})),
    "DreamBooth without the text encoder": (
        "sks {cls}", (dreambooth, {"train_text_encoder": False})),
    "DreamBooth, a common word": ("white {cls}", (dreambooth, {"token": "white"})),
    "DreamBooth, thrifty": ("sks {cls}", (dreambooth, {"memory": "thrifty"})),
    "DreamBooth, lean": ("sks {cls}", (dreambooth, {"memory": "lean"})),
    "LoRA DreamBooth, rank 1": ("sks {cls}", (lora_dreambooth, {"rank": 1})),
    "LoRA DreamBooth, rank 16": ("sks {cls}", (lora_dreambooth, {"rank": 16})),
    "Textual Inversion, a tenth of the rate": ("<it>", (textual_inversion, {"lr": 3e-3})),
    "Textual Inversion, a third of the rate": ("<it>", (textual_inversion, {"lr": 1e-2})),
    "Textual Inversion, 4 vectors": ("<it>", (textual_inversion, {"vectors": 4})),
    "Textual Inversion, 1 photo": ("<it>", (textual_inversion, {"photos": 1})),
    "Textual Inversion, 5 photos": ("<it>", (textual_inversion, {"photos": 5})),
    "Textual Inversion, 16 photos": ("<it>", (textual_inversion, {"photos": 16})),
    "Textual Inversion, then DreamBooth": (
        "<it> {cls}", (textual_inversion, {}), (dreambooth, {"token": "<it>"})),
    "AttnDreamBooth without the penalty": ("<it> {cls}", (attn_dreambooth, {"attn_weight": 0.0})),
    "AttnDreamBooth without stage 1": ("<it> {cls}", (attn_dreambooth, {"stages": "23"})),
    "AttnDreamBooth without stage 2": ("<it> {cls}", (attn_dreambooth, {"stages": "13"})),
    "AttnDreamBooth without stage 3": ("<it> {cls}", (attn_dreambooth, {"stages": "12"})),
    "AttnDreamBooth, the fast variant": ("<it> {cls}", (attn_dreambooth, {"fast": True})),
}
OF_FACES = {
    "Textual Inversion": ("<it>", (textual_inversion, {})),
    "DreamBooth": ("sks {cls}", (dreambooth, {})),
    "hypernetwork alone": ("sks {cls}", (hyperdreambooth, {"steps": 0})),
    "finetuning alone": ("sks {cls}", (hyperdreambooth, {"hypernetwork": "none"})),
    "HyperDreamBooth": ("sks {cls}", (hyperdreambooth, {})),
    "HyperDreamBooth, 100 steps": ("sks {cls}", (hyperdreambooth, {"steps": 100})),
    "HyperDreamBooth, rank 1": ("sks {cls}", (hyperdreambooth, {"rank": 1})),
    "LoRA DreamBooth": ("sks {cls}", (lora_dreambooth, {})),
}
LEARNED = {  # of faces too, by --only or --claims, after learn_hypernetwork.py as in RESULTS.md
    f"hypernetwork alone, {name}": ("sks {cls}", (hyperdreambooth, {
        "steps": 0, "hypernetwork": f"runs/{folder}/hypernetwork.safetensors"}))
    for name, folder in (("one guess", "one_guess"), ("1,024 people, one term", "one_term"),
                         ("1,024 people, two terms", "two_terms"))
}


def fit_to(subject, noun, stages, folder):
    """An experiment for this subject: {cls} and {other} filled in, and with "photos" so many new
    photos of it in the place of its own."""
    cls = subject.who.cls
    other = CLASSES[(CLASSES.index(cls) + 1) % len(CLASSES)]
    fitted = []
    for script, change in stages:
        change = dict(change)
        if "photos" in change:
            subject = replace(subject, photos=draw_photos(subject, change.pop("photos"), folder))
        if "class_name" in change:
            change["class_name"] = change["class_name"].format(other=other)
        fitted.append((script, change))
    return subject, noun.format(cls=cls, other=other), fitted


def nearness_of_attention(sd, subject):
    """-|log(attention to [V] / attention to its category)|: 0 if the photos look at both alike,
    lower the more they differ."""
    cfg = attn_dreambooth.Config(class_name=subject.who.cls, size=sd.size, seed=subject.seed)
    shares = [attn_dreambooth.measure_gaze(sd, cfg, photo).mean((1, 2))
              for photo in load_pictures(subject.photos)]
    of_word, of_category = torch.stack(shares).mean(0)
    return -(of_word / of_category).log().abs().item()


def compare_subject(judge, subject, scales, experiments, out, on_the_way):
    """All experiments with one subject: {experiment: result}, and the rows of its sheet of
    pictures."""
    asked = questions(subject.who).values()
    asked = [question if right is True else right for question, right in asked]
    title = f"{subject.name}: the photos; below as it is, then {', '.join(asked)}"
    rows, results = [(title, load_pictures(subject.photos))], {}
    for experiment, (noun, *stages) in experiments.items():
        looks = []
        shutil.rmtree(out / "work", ignore_errors=True)  # class pictures of a run that was stopped
        learned, noun, stages = fit_to(subject, noun, stages, out / "photos")
        for step, seconds, sd in learn_subject(stages, learned, str(out / "work")):
            if on_the_way and step in LOOKS:
                look, _ = measure(judge, sd, noun, subject, scales, images=1, steps=10)
                looks.append(look | {"step": step, "seconds": seconds})
        result, drawn = measure(judge, sd, noun, subject, scales)
        if any(script is attn_dreambooth for script, _ in stages):
            result["attention"] = nearness_of_attention(sd, subject)
        looks.append(result | {"step": step, "seconds": seconds})
        results[experiment] = looks[-1] | {"looks": looks, "people": len(scales)}
        values = "  ".join(f"{axis} {result[axis]:.2f}" for axis in ("likeness", "obedience"))
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


def measure_all(judge, subjects, experiments, out, of_faces):
    """{subject: {experiment: result}}, kept in out/results.json; what is there already stays."""
    file, done = out / "results.json", {}
    if file.exists():
        done = read_results(file, len(subjects) if of_faces else 1)
    scales = {subject.name: make_scale(judge, subject.who) for subject in subjects}
    for subject in subjects:
        known = done.setdefault(subject.name, {})
        missing = {name: one for name, one in experiments.items() if name not in known}
        if not missing:
            continue
        compared_with = scales if of_faces else {subject.name: scales[subject.name]}
        results, rows = compare_subject(judge, subject, compared_with, missing, out, of_faces)
        more = "_more" if known else ""  # a sheet that is there has other methods
        save_picture(sheet(rows), out / f"{subject.name.replace(' ', '')}{more}.png")
        known |= results
        save_text(json.dumps(done, indent=1), file)
    return {subject.name: {name: done[subject.name][name] for name in experiments}
            for subject in subjects}


# === the claims ===================================================================================

QUICK = {"DreamBooth", "DreamBooth without the prior", "Textual Inversion", "AttnDreamBooth",
         "HyperDreamBooth", "hypernetwork alone", "finetuning alone"}
RESULTS = Path(__file__).parent / "RESULTS.md"
BEGIN, END = "<!-- written by compare.py --claims -->", "<!-- so far -->"


def is_learned(experiment):
    """Its hypernetwork's file is there, if it has one of its own."""
    files = [change.get("hypernetwork", "none") for _, change in experiment[1:]]
    return all(file == "none" or Path(file).exists() for file in files)


def claim_of_sizes():
    """The one claim that needs no subject: how much each method trains of Stable Diffusion 1.5,
    counted on its shapes. Its row of the table, and the same as table_of_claims reports it."""
    with torch.device("meta"):
        sd = SimpleNamespace(unet=UNet(), text=CLIPText())
    unet = sum(weight.numel() for weight in sd.unet.parameters())
    cfg = hyperdreambooth.Config
    lidb = len(lora_dreambooth.adapted_layers(sd)) * (cfg.a + cfg.b)
    one = {"paper": "HyperDreamBooth, abstract", "says": "10,000 times smaller than DreamBooth",
           "times": unet / lidb, "verdict": ("not " if unet < 10_000 * lidb else "") + "reproduced"}
    row = (f"| {one['paper']} | {one['says']} | numbers trained of Stable Diffusion 1.5, counted: "
           f"{unet:,} / {lidb:,} | {one['times']:,.0f} times | **{one['verdict']}** | |")
    return row, one


def decide_claims(a):
    """Measures all experiments (quick: those of some claims), and prints and writes the tables of
    claims, and all results in a file beside them."""
    judge, texts, report, found = Judge.load(), [], [], {}
    strangers = [draw_stranger(100 + i, a.out / "photos") for i in range(2 if a.quick else 20)]
    shipped = [shipped_subject(name) for name in REPORTED[:2 if a.quick else None]]
    for claims, subjects, known, folder in (
            (CLAIMS, shipped, EXPERIMENTS | ABLATIONS, "subjects"),
            (CLAIMS_OF_FACES, strangers, OF_FACES | LEARNED, "faces")):
        ready = {name: one for name, one in known.items()
                 if is_learned(one) and (name in QUICK or not a.quick)}
        asked = [claim for claim in claims if {claim.first, claim.second} <= {*ready}]
        if not a.quick:
            for left in [claim for claim in claims if claim not in asked]:
                print(f"left out, as its hypernetwork is not there: {left.says}")
        out = a.out / folder
        out.mkdir(exist_ok=True)
        measured = json.dumps(measure_all(judge, subjects, ready, out, folder == "faces"))
        # As RESULTS.json has them, so that whoever reads it comes to the same tables.
        found[folder] = json.loads(measured, parse_float=lambda number: round(float(number), 3))
        text, rows = table_of_claims(asked, found[folder])
        texts.append(text)
        report += rows
    row, counted = claim_of_sizes()
    texts[-1] += "\n" + row
    counts = Counter(row["verdict"] for row in [*report, counted])
    texts.append(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    print("\n\n".join(texts))
    if a.json:
        save_text(json.dumps([*report, counted], indent=1), Path(a.json))
    if not a.quick:
        before, _, rest = RESULTS.read_text("utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        save_text("\n\n".join([before + BEGIN, *texts, END + after]), RESULTS)
        save_text(json.dumps(found), RESULTS.with_suffix(".json"))


def parse_arguments():
    """The arguments, and the experiments that they ask for."""
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--subjects", nargs="+", choices=list(WHO), default=REPORTED, metavar="NAME",
                   help="of tiny_world/subjects")
    p.add_argument("--faces", type=int, default=0, metavar="COUNT",
                   help="so many strangers' faces instead, of one picture each")
    p.add_argument("--claims", action="store_true", help="the papers' claims instead")
    p.add_argument("--quick", action="store_true", help="with --claims: some, on two subjects")
    p.add_argument("--json", metavar="FILE", help="with --claims: the verdicts in a file too")
    p.add_argument("--hypernetwork", nargs="+", default=[], metavar="FILE",
                   help="with --faces: others beside the shipped one")
    p.add_argument("--only", nargs="+", metavar="METHOD",
                   help="; ".join(EXPERIMENTS | ABLATIONS | OF_FACES | LEARNED))
    p.add_argument("--resume", action="store_true",
                   help="keep what results.json has already")
    p.add_argument("--out", help="results.json and the pictures; default: runs/compare, for faces "
                                 "runs/compare_COUNT_faces, for claims runs/claims")
    a = p.parse_args()
    if a.faces < 0 or (a.hypernetwork and not a.faces):
        p.error("--faces COUNT is 1 or more, and --hypernetwork goes with it")
    known, default = EXPERIMENTS | ABLATIONS, EXPERIMENTS
    if a.faces:
        default = dict(OF_FACES)
        for file in a.hypernetwork:
            default[f"HyperDreamBooth, {file}"] = (
                "sks {cls}", (hyperdreambooth, {"hypernetwork": file}))
        known = default | LEARNED
    asked = a.only or list(default)
    if unknown := set(asked) - set(known):
        p.error(f"--only {', '.join(unknown)}: some of {'; '.join(known)}")
    if a.claims and (a.faces or a.only):
        p.error("--claims knows its subjects and methods: leave out --faces and --only")
    if (a.quick or a.json) and not a.claims:
        p.error("--quick and --json go with --claims")
    folder = f"compare_{a.faces}_faces" if a.faces else "compare"
    a.out = Path(a.out or f"runs/{'claims' if a.claims else folder}")
    if [*a.out.glob("**/results.json")] and not a.resume:
        p.error(f"{a.out} has a results.json: --resume goes on with it, another --out begins anew")
    return a, {name: experiment for name, experiment in known.items() if name in asked}


def main():
    a, experiments = parse_arguments()
    claim(a.out)
    if a.claims:
        return decide_claims(a)
    if a.faces:
        subjects = [draw_stranger(100 + i, a.out / "photos") for i in range(a.faces)]
    else:
        subjects = [shipped_subject(name) for name in a.subjects]
    results = measure_all(Judge.load(), subjects, experiments, a.out, bool(a.faces))
    print_tables(results, experiments, bool(a.faces))


if __name__ == "__main__":
    run(main)
