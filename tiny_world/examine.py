"""Examines the base model: python -m tiny_world.pretrain --examine. Does it draw what the prompt says?

512 prompts that were never a caption of its training (all captions are made again to be sure), each with several things asked
at once; one picture each by 30 DDIM steps; the judge reads what is in it. Real drawings of the same prompts stand beside the
model's: what the judge makes of those is the ceiling. Two more questions: do the unused identifiers mean nothing, and how much
does the autoencoder lose?
"""
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from tiny_world.critic import Critic
from tiny_world.draw import draw, draw_all
from tiny_world.judge import Judge, as_input, through_the_vae
from tiny_world.world import (ACCESSORIES, CLASSES, COLOURS, CONTEXTS, IDENTIFIERS, LIVE, STYLES, Scene, article, caption,
                              random_identity, random_pose, random_scene)

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


# === are the figures right? ===========================================================================================

def portraits(first, count, seed):
    """Scenes of `count` individuals of each class, plain photos of the figure alone, one after the other."""
    rng = np.random.default_rng(seed)
    return [replace(random_scene(rng, random_identity(first + i, cls)), accessory="", style="photo", finish="", cube=False)
            for cls in CLASSES for i in range(count)]


def frechet_distance(a, b):
    """Between two sets of vectors (n, d), (m, d), each taken for a Gaussian (Heusel et al. 2017), times 1000."""
    (mean_a, mean_b), (cov_a, cov_b) = [v.double().mean(0) for v in (a, b)], [torch.cov(v.double().T) for v in (a, b)]
    values, axes = torch.linalg.eigh(cov_a)
    root = axes @ torch.diag(values.clamp(min=0).sqrt()) @ axes.T
    both = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return 1000 * ((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * both).item()


def told_apart(a, b, folds=5, decay=0.05):
    """How often a linear classifier that has seen four fifths of two sets of features tells of the rest from which set they are. 0.5: it
    cannot, they are alike. Logistic regression with weight decay on standardised features, by full-batch Newton-like steps."""
    x = torch.cat([a, b])
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    y = torch.cat([torch.ones(len(a)), torch.zeros(len(b))])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    right = 0
    for fold in order.chunk(folds):
        rest = torch.ones(len(x), dtype=torch.bool)
        rest[fold] = False
        w = torch.zeros(x.shape[1] + 1, requires_grad=True)
        optimizer = torch.optim.LBFGS([w], max_iter=100, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(x[rest] @ w[1:] + w[0], y[rest]) + decay * w[1:].square().sum()
            loss.backward()
            return loss
        optimizer.step(closure)
        right += (((x[fold] @ w[1:] + w[0]) > 0) == (y[fold] > 0.5)).sum().item()
    return right / len(x)


class Figures:
    """The critic with what it compares with: 400 drawn individuals of each class, and real portraits through the autoencoder."""

    def __init__(self, vae, count=32, gallery=400):
        self.critic, self.count = Critic.load(), count
        everyone = self.critic.look(np.stack([*draw_all(portraits(1000, gallery, 51))]))[2]
        self.gallery = everyone.view(len(CLASSES), gallery, -1)
        self.scenes = portraits(3000, count, 52)
        self.real = self.critic.look(through_the_vae(np.stack([*draw_all(self.scenes)]), vae))
        self.others = self.critic.look(through_the_vae(np.stack([*draw_all(portraits(4000, count, 53))]), vae))
        many = self.critic.look(through_the_vae(np.stack([*draw_all(portraits(5000, 100, 54))]), vae))[2]
        self.threshold = self.nearest(many).quantile(0.05, dim=1)                              # (classes,)

    def nearest(self, vectors):
        """Identity vectors, as many of each class -> how like the most similar individual of the class they are, (classes, n)."""
        return (vectors.view(len(CLASSES), -1, vectors.shape[1]) @ self.gallery.mT).amax(2)

    def prompts(self):
        """What the real portraits show, in words: class and place."""
        return [f"a photo of {article(scene.identity.cls)} {CONTEXTS[scene.context][0]}" for scene in self.scenes]

    def report(self, pictures):
        """Pictures (n, 64, 64, 3) bytes, drawn by a model from `prompts()` -> {measure: number}, {class: share well formed}."""
        features, whole, vectors = self.critic.look(pictures)
        near = self.nearest(vectors)
        well = (near >= self.threshold[:, None]).float().mean(1)
        return {"well formed": well.mean().item(), "told apart": told_apart(features, self.real[0]),
                "frechet": frechet_distance(vectors, self.real[2]), "whole": (whole > 0.5).float().mean().item(),
                "whole, real": (self.real[1] > 0.5).float().mean().item(), "told apart, real": told_apart(self.others[0], self.real[0]),
                "frechet, real": frechet_distance(self.others[2], self.real[2])}, dict(zip(CLASSES, well.tolist()))
