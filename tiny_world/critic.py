"""The critic: a second pair of eyes, which sees whether a figure is whole.

    python -m tiny_world.critic                 its examination, on drawings it has never seen
    python -m tiny_world.critic --train         trains it again

The judge (judge.py) reads what a picture shows, and a teapot without its spout is still a teapot to it. The critic learned from
damaged drawings (damage.py) to see that. It also gives each picture an identity vector, as the judge does, but it is another network
from another seed, trained on other individuals: the base model may learn from the judge's features (pretrain.py), and whoever is
learned from must not be the one who marks.
"""
import argparse
import json
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from checkpoint import UserError, load_state, load_tensors, resumable, save_state, save_tensors
from stable_diffusion import TINY, StableDiffusion, run
from tiny_world.damage import KINDS, UNSEEN, damaged
from tiny_world.draw import draw_all
from tiny_world.judge import Block, as_input, contrastive, equal_error_rate, individuals, through_the_vae
from tiny_world.world import CLASSES, HELD_OUT

FILE = Path(__file__).parent / "critic.safetensors"
PEOPLE, VIEWS = 400, 4    # individuals of each class that it learns to tell apart, and photos of each
EMBEDDING = 64


class Critic(nn.Module):
    """(b, 3, 64, 64) in [-1, 1] -> the class (b, 16) and whether the figure is whole (b,), as logits, and an identity vector (b, 64)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 5, padding=2)
        self.blocks = nn.Sequential(Block(40, 64), Block(64, 112), Block(112, 192), Block(192, 256))
        self.cls, self.whole = nn.Linear(512, len(CLASSES)), nn.Linear(512, 1)
        self.identity = nn.Linear(512, EMBEDDING)

    def features(self, x):  # (b, 3, 64, 64) -> (b, 512)
        h = self.blocks(F.relu(self.stem(x)))
        return torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1)

    def forward(self, x):
        h = self.features(x)
        return self.cls(h), self.whole(h)[:, 0], F.normalize(self.identity(h), dim=1)

    @torch.no_grad()
    def look(self, pictures):
        """(pictures, 64, 64, 3) bytes -> features (pictures, 512), the probability of being whole (pictures,), identity vectors
        (pictures, 64); each the mean over the picture and its mirror image."""
        found = []
        for part in np.array_split(pictures, len(pictures) // 256 + 1):
            x = as_input(part)
            h, mirrored = self.features(x), self.features(x.flip(3))
            whole = (self.whole(h) + self.whole(mirrored))[:, 0] / 2
            vectors = F.normalize(self.identity(h), dim=1) + F.normalize(self.identity(mirrored), dim=1)
            found.append(((h + mirrored) / 2, whole.sigmoid(), F.normalize(vectors, dim=1)))
        return [torch.cat(parts) for parts in zip(*found)]

    @classmethod
    def load(cls, path=FILE):
        if not path.exists():
            raise UserError(f"{path} is not there: python -m tiny_world.critic --train makes it")
        critic = cls()
        critic.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in load_tensors(path)[0].items()})
        return critic.eval()


# === training =========================================================================================================

def damage_bytes(job):
    return np.asarray(damaged(*job))


def damage_all(scenes, kinds, seed, others):
    """The same scenes with damaged figures, kinds in turn, drawn on all cores: (scenes, 64, 64, 3) bytes."""
    jobs = [(scene, kinds[i % len(kinds)], [seed, i], others) for i, scene in enumerate(scenes)]
    with multiprocessing.Pool() as pool:
        return np.stack(pool.map(damage_bytes, jobs, chunksize=32))


def material(work, vae):
    """{"whole", "whole_vae", "damaged", "damaged_vae"}: (pictures, 64, 64, 3) bytes each, the same scenes in the same order."""
    scenes = individuals(21, 5 * HELD_OUT, PEOPLE, VIEWS, twins=True)
    path, about = work / "pictures.npz", f"{len(scenes)} drawings, scale {vae.config.scaling_factor}"
    if not path.exists() or str(np.load(path)["about"]) != about:
        drawn = {"whole": np.stack([*draw_all(scenes)]), "damaged": damage_all(scenes, KINDS, 22, 6 * HELD_OUT)}
        np.savez(work / "partial.npz", about=about, **drawn, **{name + "_vae": through_the_vae(drawn[name], vae) for name in drawn})
        os.replace(work / "partial.npz", path)
    return dict(np.load(path))


def train(steps, work, out, resume):
    work.mkdir(parents=True, exist_ok=True)
    pictures = material(work, StableDiffusion.from_pretrained(TINY).vae)
    torch.manual_seed(1)
    critic = Critic().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
    weights = {"live": list(critic.state_dict().values())}
    state, start, last_save, mean, settings = work / "state.safetensors", time.time(), time.time(), {}, {"steps": steps}
    saved = resumable(state, settings) if resume else {}
    if saved:
        load_state(state, weights, optimizer)
    for step in range(saved.get("step", 0), steps):
        rng = np.random.default_rng([23, step])
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 300, 1.5 * (steps - step) / steps)
        through = "_vae" if rng.random() < 0.6 else ""
        # 16 individuals of one class, neighbours (twins) included, in 3 photos each; then any 48, each whole and damaged
        cls = rng.integers(len(CLASSES))
        who = (rng.integers(PEOPLE, size=8)[:, None] // 2 * 2 + np.arange(2)).ravel() + cls * PEOPLE
        same = (who[:, None] * VIEWS + rng.permuted(np.tile(np.arange(VIEWS), (16, 1)), axis=1)[:, :3]).ravel()
        pairs = rng.integers(len(pictures["whole"]), size=48)
        x = torch.cat([as_input(pictures["whole" + through][same]), as_input(pictures["whole" + through][pairs]),
                       as_input(pictures["damaged" + through][pairs])])
        x = torch.where(torch.from_numpy(rng.random((len(x), 1, 1, 1)) < 0.5), x.flip(3), x)
        if rng.random() < 0.4:  # generated pictures are a little soft or grainy, and that alone is no damage
            x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "replicate"), 3, 1) * 0.5 + x * 0.5 if rng.random() < 0.5 else \
                (x + 0.06 * torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))).clamp(-1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            cls_logits, whole, vectors = critic(x.to(memory_format=torch.channels_last))
        truth = torch.cat([torch.ones(len(same) + len(pairs)), torch.zeros(len(pairs))])
        classes = torch.from_numpy(np.concatenate([same, pairs, pairs]) // (PEOPLE * VIEWS))
        persons = torch.from_numpy(np.unique(np.repeat(who, 3), return_inverse=True)[1])
        losses = {"class": F.cross_entropy(cls_logits.float(), classes), "whole": F.binary_cross_entropy_with_logits(whole.float(), truth),
                  "identity": contrastive(vectors[:len(same)].float(), persons)}
        optimizer.zero_grad()
        (losses["class"] + 2 * losses["whole"] + losses["identity"]).backward()
        optimizer.step()
        mean = {q: 0.99 * mean.get(q, loss.item()) + 0.01 * loss.item() for q, loss in losses.items()}
        if (step + 1) % 200 == 0:
            print(f"step {step + 1:6d}/{steps}  " + "  ".join(f"{q} {v:.3f}" for q, v in mean.items()) + f"  {(time.time() - start) / 60:.0f} min",
                  flush=True)
        if time.time() - last_save > 120 or step + 1 == steps:
            save_state(state, weights, optimizer, step=step + 1, settings=settings)
            last_save = time.time()
    save_tensors({n: t.half() if t.is_floating_point() else t for n, t in critic.state_dict().items()}, out)
    return critic.eval()


# === its examination ==================================================================================================

def examine(critic, vae):
    """Shares of right answers in percent, on individuals it has never seen, through the VAE as all it will ever mark: whole figures, each
    kind of damage, a kind it was not trained on; and the equal error rate of identity, by class and in the mean."""
    scenes = [replace(one, finish="", accessory="") for one in individuals(31, 2000, 60, 1)]
    seen = lambda pictures: critic.look(through_the_vae(pictures, vae))
    report = {"whole": 100 * (seen(np.stack([*draw_all(scenes)]))[1] > 0.5).float().mean().item()}
    for i, kind in enumerate((*KINDS, UNSEEN)):
        report[kind] = 100 * (seen(damage_all(scenes, (kind,), 32 + i, 0))[1] < 0.5).float().mean().item()
    for name, twins in (("identity EER", False), ("identity EER, twins", True)):
        vectors = seen(np.stack([*draw_all(individuals(41, 7000, 40, 4, twins=twins))]))[2]
        rates = [equal_error_rate(vectors[a:a + 160], torch.arange(160) // 4) for a in range(0, len(vectors), 160)]
        report[name] = 100 * sum(rates) / len(rates)
    return report


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", action="store_true")
    p.add_argument("--steps", type=int, default=10_000)
    p.add_argument("--resume", action="store_true", help="go on with a training that was interrupted")
    p.add_argument("--work", default="runs/critic", help="pictures and the state to resume from")
    p.add_argument("--out", default="runs/critic/critic.safetensors", help="what the training writes; the shipped one is tiny_world/critic.safetensors")
    p.add_argument("--json", help="write the examination to this file too")
    a = p.parse_args()
    critic = train(a.steps, Path(a.work), Path(a.out), a.resume) if a.train else Critic.load()
    report = examine(critic, StableDiffusion.from_pretrained(TINY).vae)
    for name, value in report.items():
        print(f"{name:22s}{value:8.2f}%")
    if a.json:
        Path(a.json).write_text(json.dumps(report, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    run(main)
