"""Examines the base model: python -m tiny_world.pretrain --examine. Does it draw what the prompt says?

512 prompts that were never a caption of its training (all captions are made again to be sure), each with several things asked
at once; one picture each by 30 DDIM steps; the judge reads what is in it. Real drawings of the same prompts stand beside the
model's: what the judge makes of those is the ceiling. Two more questions: do the unused identifiers mean nothing, and how much
does the autoencoder lose?
"""
import time

import numpy as np
import torch
from tqdm import tqdm

from tiny_world.draw import draw
from tiny_world.judge import Judge, as_input
from tiny_world.world import (ACCESSORIES, CLASSES, COLOURS, CONTEXTS, IDENTIFIERS, LIVE, STYLES, Scene, article, caption,
                              random_identity, random_pose)

NAMES = {"class": "cls", "context": "context", "colour": "colour", "accessory": "accessory", "style": "style", "shape": "cube"}


def training_captions(cfg, scenes, steps):
    """Every caption that the training had, as a set: each step's chance is its own, so they can be said again."""
    seen = set()
    for step in range(steps):
        rng = np.random.default_rng([cfg.seed, 2, step])
        rows = rng.integers(len(scenes), size=cfg.batch)
        seen |= {caption(scenes[i], rng) for i in rows if not rng.random() < cfg.empty}
    return seen


def exam(count, seen=()):
    """[(prompt, {question: right answer}, a scene that fits), ...]; a question is only asked if the prompt answers it."""
    rng, made = np.random.default_rng(21), []
    pick = lambda options: options[rng.integers(len(options))]
    while len(made) < count:
        cls, u = CLASSES[len(made) % len(CLASSES)], rng.random(4)
        colour = pick(tuple(COLOURS)) if u[0] < 0.6 and cls != "face" else ""
        accessory = pick(ACCESSORIES) if u[1] < 0.5 and cls in LIVE else ""
        style = "photo" if u[2] < 0.6 else pick([s for s in STYLES[1:] if not (colour and s == "pencil sketch")])
        cube, context = bool(u[3] < 0.2), pick(tuple(CONTEXTS))
        prompt = f"{article(style)} of {article(' '.join(filter(None, [colour, 'cube shaped' * cube, cls])))}"
        if accessory:
            prompt += " wearing " + (accessory if accessory.endswith("glasses") else article(accessory))
        prompt += " " + pick(CONTEXTS[context])
        if prompt in seen:
            continue
        right = {"class": cls, "context": context, "style": style, "shape": cube}
        right |= ({"colour": colour} if colour else {}) | ({"accessory": accessory} if accessory else {})
        who = next(w for w in (random_identity(int(s), cls) for s in rng.integers(1000, 10_000, size=999)) if not colour or w.colour == colour)
        made.append((prompt, right, Scene(who, context, accessory, style, "", cube, random_pose(rng), int(rng.integers(2 ** 31)))))
    return made


def marks(judge, pictures, asked):
    """The share of right answers to each question, and of pictures with all answers right."""
    right = {question: [] for question in [*NAMES, "all"]}
    for read, answers in zip(judge.read(pictures), asked):
        good = {q: read["drawing"] and read[NAMES[q]] == a for q, a in answers.items()}
        for q, ok in good.items():
            right[q].append(ok)
        right["all"].append(all(good.values()))
    return {q: sum(oks) / len(oks) for q, oks in right.items()}


def spread(judge, pictures):
    """How different a set of pictures is: the mean of 1 - the product of two identity vectors, over all pairs."""
    v = judge.vectors(pictures)
    return (1 - (v @ v.T)[~torch.eye(len(v), dtype=torch.bool)].mean()).item()


def examine(sd, seen=(), count=512):
    """The whole report (shares are between 0 and 1) and the pictures that were drawn for it."""
    judge, questions, drawn = Judge.load(), exam(count, seen), []
    prompts = [prompt for prompt, _, _ in questions]
    start = time.time()
    for i in tqdm(range(0, count, 16), "pictures"):
        drawn += sd.sample(prompts[i:i + 16], steps=30, sampler="ddim", seed=i)
    seconds = (time.time() - start) / (count / 16)
    asked = [answers for _, answers, _ in questions]
    report = {"model": marks(judge, drawn, asked), "real": marks(judge, [draw(scene) for _, _, scene in questions], asked),
              "prompts": count, "guidance": sd.guidance, "seconds for 16 pictures": seconds}
    how = dict(images=24, steps=30, sampler="ddim", seed=5)
    words = {cls: spread(judge, sd.sample(f"a {cls}", **how)) for cls in CLASSES[::3]}
    marked = {cls: spread(judge, sd.sample(f"a {token} {cls}", **how)) for cls, token in zip(words, IDENTIFIERS)}
    report["spread of a class"] = sum(words.values()) / len(words)
    report["spread of a class with an identifier"] = sum(marked.values()) / len(marked)
    x = as_input(np.stack([np.asarray(draw(scene)) for _, _, scene in questions]))
    with torch.no_grad():
        y = torch.cat([sd.vae.decode(sd.vae.encode(part)[0]) for part in x.split(64)])
    report["vae psnr, dB"] = 10 * float(np.log10(4 / ((y.clamp(-1, 1) - x) ** 2).mean().item()))
    return report, drawn
