"""Examines the base model: python -m tiny_world.pretrain --examine. Does it draw what the prompt
says?

512 prompts that are no caption of the training that the flags describe (its captions are made again
to be sure), each with several things asked at once; one picture each by 30 DDIM steps; the judge
reads what is in it. Real drawings of the same prompts stand beside the model's: what the judge
makes of those is the ceiling. Do the unused identifiers mean nothing, and how much does the
autoencoder lose? And are the figures as they should be (the critic, below)?
"""
import time
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from pictures import sheet
from tiny_world.critic import Critic
from tiny_world.draw import draw, draw_all
from tiny_world.judge import Judge, as_input, mean_cosine_among, through_the_vae
from tiny_world.world import (ACCESSORIES, CLASSES, COLOURS, CONTEXTS, IDENTIFIERS, LIVE, STYLES,
                              Scene, article, choose, random_identity, random_pose,
                              random_scene, wearing)

NAMES = {  # of the questions: here, and as the judge has them
    "class": "cls", "context": "context", "colour": "colour", "accessory": "accessory",
    "style": "style", "shape": "cube",
}


# === does it draw what the prompt says? ===========================================================

def draw_question(rng, cls):
    """(prompt, {question: right answer}) of a class; a question is only asked if the prompt answers
    it."""
    u = rng.random(4)
    colour = choose(rng, tuple(COLOURS)) if u[0] < 0.6 and cls != "face" else ""
    accessory = choose(rng, ACCESSORIES) if u[1] < 0.5 and cls in LIVE else ""
    style = "photo"
    if u[2] >= 0.6:  # a pencil sketch shows no colour
        style = choose(rng, [style for style in STYLES[1:]
                             if style != "pencil sketch" or not colour])
    cube = bool(u[3] < 0.2)
    context = choose(rng, tuple(CONTEXTS))

    right = {"class": cls, "context": context, "style": style, "shape": cube}
    noun = cls
    if cube:
        noun = f"cube shaped {noun}"
    if colour:
        noun = f"{colour} {noun}"
        right["colour"] = colour
    prompt = f"{article(style)} of {article(noun)}"
    if accessory:
        prompt += " " + wearing(accessory)
        right["accessory"] = accessory
    return f"{prompt} {choose(rng, CONTEXTS[context])}", right


def draw_who(rng, cls, colour):
    """An individual that pretraining never saw, of that colour if there is one."""
    people = (random_identity(int(seed), cls) for seed in rng.integers(1000, 10_000, size=999))
    return next(who for who in people if not colour or who.colour == colour)


def exam(count, seen=()):
    """[(prompt, {question: right answer}, a scene that fits), ...], no prompt of `seen` among
    them."""
    rng = np.random.default_rng(21)
    questions = []
    while len(questions) < count:
        cls = CLASSES[len(questions) % len(CLASSES)]
        prompt, right = draw_question(rng, cls)
        if prompt in seen:
            continue
        who = draw_who(rng, cls, right.get("colour"))
        scene = Scene(who, right["context"], right.get("accessory", ""), right["style"],
                      cube=right["shape"], pose=random_pose(rng), seed=int(rng.integers(2**31)))
        questions.append((prompt, right, scene))
    return questions


def marks(judge, pictures, asked):
    """The share of right answers to each question, and of pictures with all answers right. asked:
    of each picture {question: right answer}."""
    right = {question: [] for question in [*NAMES, "all"]}
    for read, answers in zip(judge.read(pictures), asked):
        marked = {question: read["drawing"] and read[NAMES[question]] == answer
                  for question, answer in answers.items()}
        for question, is_right in marked.items():
            right[question].append(is_right)
        right["all"].append(all(marked.values()))
    return {question: sum(marked) / len(marked) for question, marked in right.items()}


def spread(judge, pictures):
    """How different a set of pictures is: the mean of 1 - the cosine of two identity vectors, over
    all pairs."""
    return 1 - mean_cosine_among(judge.vectors(pictures))


def mean_spread(judge, sd, prompts):
    """Of 24 pictures of each prompt."""
    spreads = []
    for prompt in prompts:
        pictures = sd.sample(prompt, images=24, steps=30, sampler="ddim", seed=5)
        spreads.append(spread(judge, pictures))
    return sum(spreads) / len(spreads)


@torch.no_grad()
def measure_vae(vae, pictures):
    """How near to pictures (n, 64, 64, 3) the autoencoder brings them back, in dB."""
    x = as_input(pictures)
    y = torch.cat([vae.decode(vae.encode(part)[0]) for part in x.split(64)])
    error = ((y.clamp(-1, 1) - x) ** 2).mean().item()
    return 10 * float(np.log10(4 / error))


def draw_each(sd, prompts, together, **how):
    """A picture of each prompt, so many at a time. Each starts from noise of its own: pictures that
    share it are alike, and would be measured as those of a model that draws few things."""
    pictures = []
    for i in tqdm(range(0, len(prompts), together), "pictures", disable=None):
        part = prompts[i:i + together]
        pictures += sd.sample(part, seed=range(i, i + len(part)), **how)
    return pictures


def examine(sd, seen=(), count=512):
    """The whole report (shares are between 0 and 1) and the pictures that were drawn for it."""
    judge = Judge.load()
    prompts, asked, scenes = zip(*exam(count, seen))
    start = time.time()
    drawn = draw_each(sd, prompts, 16, steps=30, sampler="ddim")
    seconds = (time.time() - start) / (count / 16)
    real = [draw(scene) for scene in scenes]
    classes = CLASSES[::3]
    marked = [f"a {token} {cls}" for cls, token in zip(classes, IDENTIFIERS)]
    report = {
        "model": marks(judge, drawn, asked),
        "real": marks(judge, real, asked),
        "prompts": count,
        "guidance": sd.guidance,
        "seconds for 16 pictures": seconds,
        "spread of a class": mean_spread(judge, sd, [f"a {cls}" for cls in classes]),
        "spread of a class with an identifier": mean_spread(judge, sd, marked),
        "vae psnr, dB": measure_vae(sd.vae, np.stack([np.asarray(picture) for picture in real])),
    }
    return report, drawn


# === are the figures right? =======================================================================
# The questions above are answered by a judge who knows what a teapot shows, not what it must have:
# to it a teapot without a spout is a teapot. So the figures are looked at by the critic, on plain
# photos of the figure alone:
#
#     well formed   the share of pictures whose identity vector is as near to some individual of the
#                   class (the nearest of 400) as those of 95 % of real drawings are
#     told apart    how often a linear classifier tells the model's pictures from real drawings by
#                   the critic's features; 0.5 is best
#     frechet       the Frechet distance of the identity vectors to those of real drawings, x 1000
#     whole         the share whose figure the critic calls whole
#
# Real drawings, but for the 400, have gone through the autoencoder: what it loses is not the
# diffusion's fault.

def portraits(first, count, seed):
    """Scenes of `count` individuals of each class, plain photos of the figure alone, one after the
    other."""
    rng = np.random.default_rng(seed)
    scenes = []
    for cls in CLASSES:
        for i in range(count):
            scene = random_scene(rng, random_identity(first + i, cls))
            scenes.append(replace(scene, accessory="", style="photo", finish="", cube=False))
    return scenes


def frechet_distance(a, b):
    """Between two sets of vectors (n, d), (m, d), each taken for a Gaussian of mean m and
    covariance C (Heusel et al. 2017), times 1000:

        |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))

    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    both = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()  # a root's trace
    means = (a.mean(0) - b.mean(0)).square().sum()
    return 1000 * (means + cov_a.trace() + cov_b.trace() - 2 * both).item()


def told_apart(a, b, folds=5, decay=0.05):
    """How often a linear classifier that has seen four fifths of two sets of features (n, d),
    (m, d) tells of the rest from which set they are: logistic regression with weight decay."""
    x = torch.cat([a, b])
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    y = torch.cat([torch.ones(len(a)), torch.zeros(len(b))])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    right = 0
    for fold in order.chunk(folds):
        rest = torch.ones(len(x), dtype=torch.bool)
        rest[fold] = False
        w = torch.zeros(x.shape[1], requires_grad=True)
        bias = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS([w, bias], max_iter=100, line_search_fn="strong_wolfe")

        def closure():
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(x[rest] @ w + bias, y[rest])
            loss = loss + decay * w.square().sum()
            loss.backward()
            return loss
        optimizer.step(closure)
        right += ((x[fold] @ w + bias > 0) == (y[fold] > 0.5)).sum().item()
    return right / len(x)


class Figures:
    """The critic, with what it compares with. `count` pictures of each class are drawn and
    judged."""

    def __init__(self, vae, count=32, gallery=400):
        self.critic = Critic.load()
        self.count = count
        self.scenes = portraits(3000, count, 52)
        self.drawings = through_the_vae(np.stack([*draw_all(self.scenes)]), vae)
        self.real = self.critic.look(self.drawings)
        _, _, vectors = self.critic.look(np.stack([*draw_all(portraits(1000, gallery, 51))]))
        self.gallery = vectors.view(len(CLASSES), gallery, -1)                   # (classes, n, 64)
        others = through_the_vae(np.stack([*draw_all(portraits(5000, 100, 54))]), vae)
        _, _, vectors = self.critic.look(others)
        self.near_enough = self.nearness(vectors).quantile(0.05, dim=1)        # (classes,)

    def nearness(self, vectors):
        """How like the most similar known individual of its class each is, (classes, n), of
        identity vectors (classes * n, 64)."""
        by_class = vectors.view(len(CLASSES), -1, vectors.shape[1])
        return (by_class @ self.gallery.mT).amax(2)

    def measure(self, pictures):
        """The measures of pictures (n, 64, 64, 3) bytes, as many of each class, and {class: the
        share that is well formed}."""
        features, whole, vectors = self.critic.look(pictures)
        real_features, real_whole, real_vectors = self.real
        well = (self.nearness(vectors) >= self.near_enough[:, None]).float().mean(1)
        measures = {"well formed": well.mean().item(),
                    "told apart": told_apart(features, real_features),
                    "frechet": frechet_distance(vectors, real_vectors),
                    "whole": (whole > 0.5).float().mean().item(),
                    "whole, of drawings": (real_whole > 0.5).float().mean().item()}
        return measures, dict(zip(CLASSES, well.tolist()))

    def draw(self, sd):
        """The model's pictures, (n, 64, 64, 3) bytes, of what the real portraits show, in words:
        class and place."""
        prompts = [f"a photo of {article(scene.identity.cls)} {CONTEXTS[scene.context][0]}"
                   for scene in self.scenes]
        drawn = draw_each(sd, prompts, 32, steps=25, sampler="dpm++")
        return np.stack([np.asarray(picture) for picture in drawn])

    def beside_drawings(self, pictures):
        """A sheet of 64 of the model's pictures, the first four of each class, beside 64
        drawings."""
        rows = []
        for first in range(0, len(pictures), 2 * self.count):  # of two classes
            eight = [*range(first, first + 4), *range(first + self.count, first + self.count + 4)]
            drawn, real = [[Image.fromarray(which[i]) for i in eight]
                           for which in (pictures, self.drawings)]
            title = "" if rows else "the model's pictures  |  drawings"
            rows.append((title, [*drawn, None, *real]))
        return sheet(rows, 64)
