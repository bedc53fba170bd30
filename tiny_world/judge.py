"""The judge: reads from a picture what is in it, and tells individuals apart.

    python -m tiny_world.judge                 its examination, on drawings it has never seen
    python -m tiny_world.judge --train         trains it again

On real photos nobody knows the truth, and fidelity is a guess by networks that were trained for something else. Here every
training picture is drawn from a known scene, so a small network can learn to read the scene back, and be examined before it may
judge. It reads class, context, accessory, colour, style, finish and shape, and gives each picture a vector in which photos of one
individual lie close together and those of two individuals of the same class far apart.

What is no drawing of the world (noise, blanks, blends of two pictures) it must refuse: `drawing` is the probability that a
picture is one, and below one half no other answer counts.
"""
import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from checkpoint import UserError, load_state, load_tensors, resumable, save_state, save_tensors
from stable_diffusion import TINY, StableDiffusion, run, to_tensor
from tiny_world.draw import draw_all
from tiny_world.world import (ACCESSORIES, CLASSES, COLOURS, CONTEXTS, FINISHES, HELD_OUT, STYLES, random_identity,
                              random_scene)

FILE = Path(__file__).parent / "judge.safetensors"

# What can be read, and the answers there are. "" is nothing: no accessory, no finish, no cube.
ANSWERS = {
    "cls": CLASSES, "context": tuple(CONTEXTS), "accessory": ("", *ACCESSORIES), "colour": (*COLOURS, "skin"), "style": STYLES,
    "finish": ("", *FINISHES), "cube": (False, True), "drawing": (False, True),
}
EMBEDDING = 64
PEOPLE, VIEWS = 640, 6  # individuals of each class that it learns to tell apart, and photos of each


class Block(nn.Module):
    """Two 3x3 convolutions past which the input goes too; the first halves the map."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.norm2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out)
        self.past = nn.Conv2d(c_in, c_out, 1, stride=2, bias=False)

    def forward(self, x):  # (b, c_in, y, x) -> (b, c_out, y/2, x/2)
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.past(x))


class Judge(nn.Module):
    """(b, 3, 64, 64) in [-1, 1] -> {question: (b, answers)} logits and an identity vector (b, 64) of length 1."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.Sequential(Block(32, 48), Block(48, 96), Block(96, 160), Block(160, 224))
        self.heads = nn.ModuleDict({question: nn.Linear(2 * 224, len(answers)) for question, answers in ANSWERS.items()})
        self.identity = nn.Linear(2 * 224, EMBEDDING)

    def forward(self, x):
        h = self.blocks(F.relu(self.stem(x)))
        h = torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1)  # what there is overall, and what there is somewhere
        return {question: head(h) for question, head in self.heads.items()}, F.normalize(self.identity(h), dim=1)

    @torch.no_grad()
    def look(self, x):
        """As forward, but at the pictures and at their mirror images, which show the same: the mean of both."""
        (logits, vectors), (mirrored, others) = self(x), self(x.flip(3))
        return {question: (logits[question] + mirrored[question]) / 2 for question in logits}, F.normalize(vectors + others, dim=1)

    @classmethod
    def load(cls, path=FILE):
        if not path.exists():
            raise UserError(f"{path} is not there: python -m tiny_world.judge --train makes it")
        judge = cls()
        judge.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in load_tensors(path)[0].items()})
        return judge.eval()

    def read(self, pictures):
        """PIL pictures (64 x 64) -> a list of {question: answer}; `drawing` is False for what is no picture of this world."""
        logits, _ = self.look(torch.stack([to_tensor(p) for p in pictures]))
        best = {question: rows.argmax(1).tolist() for question, rows in logits.items()}
        return [{question: ANSWERS[question][best[question][i]] for question in ANSWERS} for i in range(len(pictures))]

    def vectors(self, pictures):
        """PIL pictures -> identity vectors (pictures, 64); the product of two is 1 for the same individual at best."""
        return self.look(torch.stack([to_tensor(p) for p in pictures]))[1]


def answers(scene):
    """The right answers for a scene, as indices; -1 where the picture does not show it."""
    right = {"cls": scene.identity.cls, "context": scene.context, "accessory": scene.accessory, "colour": scene.identity.colour,
             "style": scene.style, "finish": scene.finish, "cube": scene.cube, "drawing": True}
    index = {question: ANSWERS[question].index(answer) for question, answer in right.items()}
    if scene.style == "pencil sketch":
        index["colour"] = -1
    return [index[question] for question in ANSWERS]


# === training =========================================================================================================

def anything(seed, first, count):
    """`count` scenes of all kinds, of individuals with seeds from `first` on."""
    rng, scenes = np.random.default_rng(seed), []
    for i in range(count):
        cls = CLASSES[i % len(CLASSES)]
        scenes.append(random_scene(rng, random_identity(first + i, cls, rare=bool(rng.random() < 0.1) and cls != "face")))
    return scenes


def individuals(seed, first, count, views, twins=False):
    """`count` identities of every class, each in `views` photos, one after the other. With twins, every second one has the
    colours of the one before it and only its other numbers are its own."""
    rng, scenes = np.random.default_rng(seed), []
    for cls in CLASSES:
        for i in range(count):
            who = random_identity(first + i, cls, rare=bool(rng.random() < 0.2) and cls != "face")
            if twins and i % 2:
                who = replace(who, colour=last.colour, second=last.second)
            last = who
            scenes += [replace(random_scene(rng, who), style="photo", cube=False) for _ in range(views)]
    return scenes


def spoiled(x, rng):
    """Pictures that are no drawing of the world, made of some that are: noise, one colour, blends, tiles out of order."""
    kind = rng.integers(4, size=len(x))
    noise = torch.from_numpy(rng.standard_normal((len(x), 3, 64, 64)).astype(np.float32))
    size = int(2 ** rng.integers(1, 5))  # of the clouds
    smooth = F.interpolate(F.avg_pool2d(noise, size) * size * 0.7, scale_factor=size, mode="bilinear")
    tiles = x.unflatten(2, (4, 16)).unflatten(4, (4, 16))                        # (b, 3, 4, 16, 4, 16)
    order = torch.from_numpy(rng.permutation(16))
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)[:, order].unflatten(1, (4, 4)).permute(0, 3, 1, 4, 2, 5)
    share = torch.from_numpy(rng.uniform(0.35, 0.65, (len(x), 1, 1, 1)).astype(np.float32))
    blends = share * x + (1 - share) * x.roll(1, 0)
    blank = torch.from_numpy(rng.uniform(-1, 1, (len(x), 3, 1, 1)).astype(np.float32)).expand_as(x)
    rough = torch.from_numpy(rng.random((len(x), 1, 1, 1)) < 0.5)
    options = [torch.where(rough, noise, smooth).clamp(-1, 1), blank, blends, tiles.reshape(x.shape)]
    return torch.stack([options[k][i] for i, k in enumerate(kind)])


def contrastive(vectors, who, temperature=0.1):
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2): each picture should pick out those of its own individual."""
    itself = torch.eye(len(who), dtype=torch.bool)
    similar = (vectors @ vectors.T / temperature).masked_fill(itself, -1e9)
    same = (who[:, None] == who[None]) & ~itself
    return -(similar.log_softmax(1) * same).sum(1).div(same.sum(1)).mean()


def as_input(pictures):
    """(b, 64, 64, 3) bytes -> (b, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def through_the_vae(pictures, vae):
    """(pictures, 64, 64, 3) bytes, encoded and decoded again: what the best possible generated picture looks like."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        parts = [vae.decode(vae.encode(as_input(part))[0]).float() for part in np.array_split(pictures, len(pictures) // 200 + 1)]
    return ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def train(steps, work, out, resume):
    """Learns from 64,000 drawings of all kinds and 10,240 individuals in 6 photos each, half of them through the VAE, and from
    spoiled ones. All are of individuals that neither the shipped subjects nor the examination has."""
    work.mkdir(parents=True, exist_ok=True)
    vae = StableDiffusion.from_pretrained(TINY).vae
    kinds, views = anything(1, HELD_OUT, 64_000), individuals(2, 3 * HELD_OUT, PEOPLE, VIEWS, twins=True)
    path, about = work / "pictures.npz", f"{len(kinds)} and {len(views)} drawings, scale {vae.config.scaling_factor}"
    if not path.exists() or str(np.load(path)["about"]) != about:
        drawn = {"kinds": np.stack([*draw_all(kinds)]), "views": np.stack([*draw_all(views)])}
        np.savez(work / "partial.npz", about=about, **drawn, **{name + "_vae": through_the_vae(drawn[name], vae) for name in drawn})
        os.replace(work / "partial.npz", path)
    pictures = dict(np.load(path))
    right = {"kinds": torch.tensor([answers(s) for s in kinds]), "views": torch.tensor([answers(s) for s in views])}

    torch.manual_seed(0)
    judge = Judge().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
    weights = {"live": list(judge.state_dict().values())}
    state, start, last_save, mean, settings = work / "state.safetensors", time.time(), time.time(), {}, {"steps": steps, "pictures": about}
    saved = resumable(state, settings) if resume else {}
    if saved:
        load_state(state, weights, optimizer)
    for step in range(saved.get("step", 0), steps):
        rng = np.random.default_rng([3, step])
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 300, 2 * (steps - step) / steps)  # level, then down over the second half
        through = "_vae" if rng.random() < 0.5 else ""
        i = rng.integers(len(kinds), size=48)
        # 16 individuals of one class in 4 photos each, neighbours included: near twins are what has to be told apart
        who = rng.integers(len(CLASSES)) * PEOPLE + (rng.integers(PEOPLE, size=8)[:, None] // 2 * 2 + np.arange(2)).ravel()
        j = (who[:, None] * VIEWS + rng.permuted(np.tile(np.arange(VIEWS), (len(who), 1)), axis=1)[:, :4]).ravel()
        x = torch.cat([as_input(pictures["kinds" + through][i]), as_input(pictures["views" + through][j])])
        x = torch.where(torch.from_numpy(rng.random((len(x), 1, 1, 1)) < 0.5), x.flip(3), x)
        if rng.random() < 0.3:  # generated pictures are a little soft or grainy
            x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "replicate"), 3, 1) * 0.5 + x * 0.5 if rng.random() < 0.5 else \
                (x + 0.06 * torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))).clamp(-1, 1)
        x = torch.cat([x, spoiled(x[:16], rng)])
        truth = torch.cat([right["kinds"][i], right["views"][j], torch.full((16, len(ANSWERS)), -1)])
        truth[-16:, -1] = 0  # spoiled: no drawing, and nothing else is asked
        with torch.autocast("cpu", torch.bfloat16):
            logits, vectors = judge(x.to(memory_format=torch.channels_last))
        losses = {q: F.cross_entropy(logits[q].float(), truth[:, k], ignore_index=-1) for k, q in enumerate(ANSWERS)}
        losses["identity"] = contrastive(vectors[len(i):-16].float(), torch.from_numpy(np.unique(np.repeat(who, 4), return_inverse=True)[1]))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        mean = {q: 0.99 * mean.get(q, loss.item()) + 0.01 * loss.item() for q, loss in losses.items()}
        if (step + 1) % 200 == 0:
            print(f"step {step + 1:6d}/{steps}  " + "  ".join(f"{q} {v:.3f}" for q, v in mean.items()) + f"  {(time.time() - start) / 60:.0f} min",
                  flush=True)
        if time.time() - last_save > 120 or step + 1 == steps:
            save_state(state, weights, optimizer, step=step + 1, settings=settings)
            last_save = time.time()
    save_tensors({n: t.half() if t.is_floating_point() else t for n, t in judge.state_dict().items()}, out)
    return judge.eval()


# === the examination ==================================================================================================

def asked(judge, pictures):
    """All logits and identity vectors for (pictures, 64, 64, 3) bytes."""
    parts = [judge.look(as_input(part)) for part in np.array_split(pictures, len(pictures) // 256 + 1)]
    return {q: torch.cat([logits[q] for logits, _ in parts]) for q in ANSWERS}, torch.cat([vectors for _, vectors in parts])


def equal_error_rate(vectors, who):
    """Two photos: one individual, or two? At the threshold where both mistakes are equally frequent, how frequent are they?"""
    similar = vectors @ vectors.T
    pairs = torch.triu(torch.ones_like(similar, dtype=torch.bool), diagonal=1)
    same = (who[:, None] == who[None])[pairs]
    genuine, others = similar[pairs][same].sort().values, similar[pairs][~same].sort().values
    thresholds = torch.linspace(-1, 1, 2001)
    missed = torch.searchsorted(genuine, thresholds) / len(genuine)
    fooled = 1 - torch.searchsorted(others, thresholds) / len(others)
    best = (missed - fooled).abs().argmin()
    return (0.5 * (missed[best] + fooled[best])).item()


def examine(judge, vae):
    """The judge's own figures, in percent, on fresh drawings: as drawn, and through the VAE."""
    scenes, report = anything(11, 1000, 5120), {}
    pictures, right = np.stack([*draw_all(scenes)]), torch.tensor([answers(s) for s in scenes])
    crowd, twins = individuals(12, 7000, 40, 4), individuals(13, 7000, 40, 4, twins=True)
    photos = {"identity EER": np.stack([*draw_all(crowd)]), "identity EER, twins": np.stack([*draw_all(twins)])}
    for kind, change in (("drawings", lambda p: p), ("through the VAE", lambda p: through_the_vae(p, vae))):
        logits, _ = asked(judge, change(pictures))
        row = {}
        for k, q in enumerate(ANSWERS):
            known = right[:, k] >= 0
            row[q] = 100 * (logits[q].argmax(1) == right[:, k])[known].float().mean().item()
        for name, views in photos.items():
            _, vectors = asked(judge, change(views))
            rates = [equal_error_rate(vectors[a:a + 160], torch.arange(160) // 4) for a in range(0, len(vectors), 160)]
            row[name] = 100 * sum(rates) / len(rates)
        report[kind] = row
    rng, refused = np.random.default_rng(14), []
    for a in range(0, 5120, 256):
        bad = spoiled(as_input(pictures[a:a + 256]), rng)
        refused.append(judge.look(bad)[0]["drawing"].argmax(1) == 0)
    report["refused of what is no drawing"] = 100 * torch.cat(refused).float().mean().item()
    return report


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", action="store_true")
    p.add_argument("--steps", type=int, default=14_000)
    p.add_argument("--resume", action="store_true", help="go on with a training that was interrupted")
    p.add_argument("--work", default="runs/judge", help="pictures and the state to resume from")
    p.add_argument("--out", default="runs/judge/judge.safetensors", help="what the training writes; the shipped one is tiny_world/judge.safetensors")
    p.add_argument("--json", help="write the examination to this file too")
    a = p.parse_args()
    judge = train(a.steps, Path(a.work), Path(a.out), a.resume) if a.train else Judge.load()
    report = examine(judge, StableDiffusion.from_pretrained(TINY).vae)
    print(f"{'':22s}{'drawings':>10s}{'through the VAE':>18s}")
    for q in report["drawings"]:
        print(f"{q:22s}{report['drawings'][q]:9.2f}%{report['through the VAE'][q]:17.2f}%")
    print(f"of what is no drawing, refused: {report['refused of what is no drawing']:.2f}%")
    if a.json:
        Path(a.json).write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    run(main)
