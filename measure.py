"""How well a method has learned a subject of the tiny world: the judge, who knows this world, looks
at what the model draws.

    likeness    of "a photo of a sks cat" and of the cat in new places to fresh drawings of the
                subject, by the judge's identity vectors, on a scale where 0 is another individual
                of the class and 1 is the subject itself, drawn once more
    obedience   the share of prompts for a place, an accessory, a colour, a style or a shape whose
                picture has it, and shows a cat
    named       the share of the pictures for likeness that are nearer to the right one than to any
                other of several individuals
    pres, div   DreamBooth's PRES and DIV, with the judge's vectors in the place of DINO's and
                LPIPS: the likeness, on the same scale, of "a photo of a cat" to the subject, which
                should stay 0; and 1 - the cosine of two pictures of one prompt

compare.py does this for all methods and many subjects, the notebooks for one.
"""
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from stable_diffusion import SUBJECTS, TINY, StableDiffusion
from tiny_world.draw import draw
from tiny_world.judge import mean_cosine_among
from tiny_world.subjects import PLACES, WHO, scenes
from tiny_world.world import LIVE, Identity, Scene, random_identity, random_pose

PLAIN = ("a photo of a {}",)
NEW_PLACES = {  # where no subject's photos are
    "snow": "a {} in the snow", "night": "a {} under the moon at night",
    "water": "a {} floating on top of water", "rug": "a {} on top of a purple rug in a forest",
}
ALIKE = (*PLAIN, *NEW_PLACES.values())  # the prompts that likeness is measured on
WORN = ("a santa hat", "a black top hat", "pink glasses")


# === subjects =====================================================================================

@dataclass(frozen=True)
class Subject:
    name: str
    who: Identity    # its truth
    photos: Path     # the folder that a method learns it from
    seed: int


def shipped_subject(name):
    return Subject(name, scenes(name)[0].identity, SUBJECTS / name, list(WHO).index(name))


def draw_snapshot(who, rng, seed):
    """The individual in a pose and one of the places that subjects' photos have, both by chance."""
    return draw(Scene(who, str(rng.choice(PLACES)), pose=random_pose(rng), seed=seed))


def draw_stranger(number, folder):
    """Face `number` of those that neither the model nor the hypernetwork has seen, in one picture,
    drawn into a folder of its own."""
    who, rng = random_identity(number, "face"), np.random.default_rng([1_618, number])
    photos = folder / f"face{number}"
    photos.mkdir(parents=True, exist_ok=True)
    draw_snapshot(who, rng, number).save(photos / "00.png")
    return Subject(f"face {number}", who, photos, number)


def draw_photos(subject, count, folder):
    """So many photos of a subject as its own are, none of them among those: a folder."""
    rng, photos = np.random.default_rng([271, subject.seed]), folder / f"{subject.name}_{count}"
    photos.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        draw_snapshot(subject.who, rng, i).save(photos / f"{i:02d}.png")
    return photos


def questions(who):
    """{prompt: (what the judge is asked, the right answer)}, for a subject."""
    asked = {prompt: ("context", place) for place, prompt in NEW_PLACES.items()}
    for colour in ("purple", "green", "red"):
        if colour not in (who.colour, who.second):
            asked[f"a {colour} {{}}"] = "colour", colour
    for style in ("watercolour painting", "pencil sketch"):
        asked[f"a {style} of a {{}}"] = "style", style
    asked["a cube shaped {}"] = "cube", True
    if who.cls in LIVE:
        for words in WORN:
            asked[f"a {{}} wearing {words}"] = "accessory", words.removeprefix("a ")
    return asked


# === likeness =====================================================================================

def mean_cosine(a, b):
    """Of all pairs of vectors (n, d) and (m, d), which have length 1."""
    return (a @ b.T).mean().item()


@dataclass(frozen=True)
class Scale:
    """Of likeness to one subject, by mean cosines of the judge's vectors."""
    truth: torch.Tensor  # (24, d), of fresh drawings of the subject
    other: float         # they and drawings of 96 others of the class: likeness 0
    same: float          # they among one another: likeness 1

    def likeness(self, vectors):
        return (mean_cosine(vectors, self.truth) - self.other) / (self.same - self.other)


def make_scale(judge, who):
    rng = np.random.default_rng(8)
    truth = judge.vectors([draw_snapshot(who, rng, i) for i in range(24)])
    others = [random_identity(500 + i, who.cls) for i in range(96)]
    others = judge.vectors([draw_snapshot(other, rng, i) for i, other in enumerate(others)])
    return Scale(truth, mean_cosine(truth, others), mean_cosine_among(truth))


# === a method and a subject =======================================================================

def learn_subject(stages, subject, out):
    """The subject is learned by the methods of the stages, each a script and what differs from its
    defaults, each with the model that the one before leaves. Yields (step, seconds since the start,
    the model) before training and after each step; without a stage only the model as it is."""
    start, step, model = time.time(), 0, TINY
    if not stages:
        yield 0, 0.0, StableDiffusion.from_pretrained(model)
    for i, (script, change) in enumerate(stages):
        settings = {"images": str(subject.photos), "class_name": subject.who.cls, "out": out,
                    "model": model, "seed": subject.seed}
        sd, cfg, photos = script.prepare(script.Config(**settings | change))
        before, logs, done = [{"step": 0}], script.train(sd, cfg, photos), step
        for log in chain(before, logs):
            step, seconds = done + log["step"], time.time() - start
            yield step, seconds, sd
            start = time.time() - seconds  # a look at the model does not count
        if i + 1 < len(stages):
            model = f"{out}/model_before"
            sd.save(model)


def measure(judge, sd, noun, subject, scales, images=2, steps=25):
    """{likeness, obedience}, with several images {pres, div}, of a learned word {length}, that of
    its vectors, where scales has other people too {named}; and the pictures {prompt: [...]}. scales
    {name: Scale}."""
    asked, cls = questions(subject.who), subject.who.cls
    prompts = [*PLAIN, *asked]
    how = {"steps": steps, "sampler": "dpm++", "seed": 1000 + subject.seed}
    pictures = sd.sample([prompt.format(noun) for prompt in prompts], images=images, **how)
    drawn = {prompt: pictures[i * images:(i + 1) * images] for i, prompt in enumerate(prompts)}
    vectors = judge.vectors([picture for prompt in ALIKE for picture in drawn[prompt]])
    obeyed = []
    for prompt, (question, right) in asked.items():
        for read in judge.read(drawn[prompt]):
            obeyed.append(read["drawing"] and read["cls"] == cls and read[question] == right)
    result = {"likeness": scales[subject.name].likeness(vectors),
              "obedience": sum(obeyed) / len(obeyed)}
    if images > 1:  # not in a quick look on the way
        of_class = judge.vectors(sd.sample(PLAIN[0].format(cls), images=4 * images, **how))
        result["pres"] = scales[subject.name].likeness(of_class)
        result["div"] = 1 - mean_cosine_among(vectors.unflatten(0, (len(ALIKE), images)))
    if noun.startswith("<it>") and "<it>" in sd.tokenizer.vocab:
        learned = sd.text.table.weight[sd.tokenizer.encode("<it>")]              # (n, d)
        result["length"] = learned.norm(dim=1).mean().item()
    if len(scales) > 1:
        products = [(vectors @ scale.truth.T).mean(1) for scale in scales.values()]
        nearest = torch.stack(products).argmax(0)
        result["named"] = (nearest == list(scales).index(subject.name)).float().mean().item()
    return result, drawn
