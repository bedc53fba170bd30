"""The critic: a second pair of eyes, which sees whether a figure is whole.

    python -m tiny_world.critic                 its examination, on drawings it has never seen
    python -m tiny_world.critic --train         trains it again

The judge (judge.py) reads what a picture shows, and a teapot without its spout is still a teapot to
it. The critic learned from damaged drawings (damage.py) to see that. It also gives each picture an
identity vector, as the judge does, but it is another network from another seed, trained on other
individuals: the base model may learn from the judge's features (pretrain.py), and whoever is
learned from must not be the one who marks.
"""
import argparse
import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from command import check_state, read_state, run, write_state
from files import UserError, load_tensors, save_tensors, save_text
from stable_diffusion import TINY, StableDiffusion
from tiny_world.damage import CLEAR, KINDS, UNSEEN, damaged
from tiny_world.draw import draw_all
from tiny_world.judge import (HALF_IS_FAST, Block, as_input, augment, contrastive, convert,
                              draw_photos, individuals, is_kept, keep_pictures, mean_error_rate,
                              through_the_vae)
from tiny_world.world import CLASSES, HELD_OUT

FILE = Path(__file__).parent / "critic.safetensors"
PEOPLE = 800    # individuals of each class that it learns to tell apart,
VIEWS = 3       # and photos of each
EMBEDDING = 64


class Critic(nn.Module):
    """(b, 3, 64, 64) in [-1, 1] -> the class (b, 16) and whether the figure is whole (b,), as
    logits, and an identity vector (b, 64)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(12, 64, 3, padding=1)
        self.blocks = nn.Sequential(Block(64, 112), Block(112, 192), Block(192, 256))
        self.cls = nn.Linear(512, len(CLASSES))
        self.whole = nn.Linear(512, 1)
        self.identity = nn.Linear(512, EMBEDDING)

    def features(self, x):  # (b, 3, 64, 64) -> (b, 512)
        x = F.pixel_unshuffle(x, 2)  # (b, 12, 32, 32): four pixels are one place, half the time
        h = self.blocks(F.relu(self.stem(x)))
        return torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1)

    def forward(self, x):
        h = self.features(x)
        return self.cls(h), self.whole(h)[:, 0], F.normalize(self.identity(h), dim=1)

    @torch.no_grad()
    def look(self, pictures):
        """(pictures, 64, 64, 3) bytes -> features (pictures, 512), the probability of being whole
        (pictures,), identity vectors (pictures, 64); each the mean over the picture and its mirror
        image."""
        features, whole, vectors = [], [], []
        for part in np.array_split(pictures, len(pictures) // 256 + 1):
            x = as_input(part)
            h, mirrored = self.features(x), self.features(x.flip(3))
            features.append((h + mirrored) / 2)
            whole.append(((self.whole(h) + self.whole(mirrored))[:, 0] / 2).sigmoid())
            vector = F.normalize(self.identity(h), dim=1)
            mirrored_vector = F.normalize(self.identity(mirrored), dim=1)
            vectors.append(F.normalize(vector + mirrored_vector, dim=1))
        return [torch.cat(features), torch.cat(whole), torch.cat(vectors)]

    @classmethod
    def load(cls, path=FILE):
        if not path.exists():
            raise UserError(f"{path} is not there; it is made by: python -m tiny_world.critic "
                            f"--train --out {path}")
        critic = cls()
        critic.load_state_dict(convert(load_tensors(path), torch.float32))
        return critic.eval()


# === what it learns from ==========================================================================

def damage_bytes(job):
    return np.asarray(damaged(*job))


def damage_all(scenes, kinds, seed, others):
    """The same scenes with damaged figures, kinds in turn, drawn on all cores: (scenes, 64, 64, 3)
    bytes."""
    jobs = [(scene, kinds[i % len(kinds)], [seed, i], others) for i, scene in enumerate(scenes)]
    with multiprocessing.Pool() as pool:
        return np.stack(pool.map(damage_bytes, jobs, chunksize=32))


def bare(scenes):
    """The same without hats, and neither wet nor shiny: all that it will ever mark."""
    return [replace(scene, finish="", accessory="") for scene in scenes]


def material(work, vae):
    """{"whole", "damaged"}: (pictures, 64, 64, 3) bytes each, the same scenes in the same order,
    through the VAE, as all it will ever mark."""
    scenes = bare(individuals(21, 5 * HELD_OUT, PEOPLE, VIEWS, twins=True))
    path = work / "pictures.npz"
    about = f"{len(scenes)} drawings, damage {CLEAR}, scale {vae.config.scaling_factor}"
    if not is_kept(path, about):
        whole = np.stack([*draw_all(scenes)])
        broken = damage_all(scenes, KINDS, 22, 6 * HELD_OUT)
        keep_pictures(path, about, {"whole": through_the_vae(whole, vae),
                                    "damaged": through_the_vae(broken, vae)})
    return dict(np.load(path))


# === training =====================================================================================

def moved_and_recoloured(x, rng):
    """Pictures (b, 3, 64, 64), all of them up to 4 pixels elsewhere and, half the time, with red,
    green and blue exchanged: a figure is whole or broken in any place and colour."""
    dx, dy = rng.integers(9, size=2)
    x = F.pad(x, (4, 4, 4, 4), "replicate")[:, :, dy:dy + 64, dx:dx + 64]
    return x[:, rng.permutation(3)] if rng.random() < 0.5 else x


def draw_batch(step, pictures):
    """A step's pictures (b, 3, 64, 64): 48 photos of 16 individuals, any 48 whole ones, and those
    damaged; and their numbers: (48,) of the first, (48,) of the others."""
    rng = np.random.default_rng([23, step])
    photos = draw_photos(rng, PEOPLE, VIEWS, 3)
    pairs = rng.integers(len(pictures["whole"]), size=48)
    x = torch.cat([as_input(pictures["whole"][photos]), as_input(pictures["whole"][pairs]),
                   as_input(pictures["damaged"][pairs])])
    x = augment(x, rng, 0.4)  # soft or grainy alone is no damage
    return moved_and_recoloured(x, rng), photos, pairs


def critic_losses(critic, x, photos, pairs):
    """{name: loss}; the arguments are a batch."""
    with torch.autocast("cpu", torch.bfloat16, enabled=HALF_IS_FAST):
        cls, whole, vectors = critic(x.to(memory_format=torch.channels_last))
    right_cls = torch.from_numpy(np.concatenate([photos, pairs, pairs]) // (PEOPLE * VIEWS))
    right_whole = torch.cat([torch.ones(len(photos) + len(pairs)), torch.zeros(len(pairs))])
    who = torch.from_numpy(photos // VIEWS)
    return {"class": F.cross_entropy(cls.float(), right_cls),
            "whole": F.binary_cross_entropy_with_logits(whole.float(), right_whole),
            "identity": contrastive(vectors[:len(photos)].float(), who)}


def train(steps, work, out, resume):
    work.mkdir(parents=True, exist_ok=True)
    pictures = material(work, StableDiffusion.from_pretrained(TINY).vae)
    torch.manual_seed(1)
    critic = Critic().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
    weights = list(critic.state_dict().values())

    state = work / "state.safetensors"
    settings = {"steps": steps, "pictures": str(pictures["about"])}
    first = 0
    if resume and state.exists():
        check_state(state, settings)
        first = read_state(state, weights, optimizer, steps)["step"]

    start = last_save = time.time()
    mean = {}
    for step in range(first, steps):
        for group in optimizer.param_groups:  # level, then down over two thirds
            group["lr"] = 2e-3 * min(1, (step + 1) / 300, 1.5 * (steps - step) / steps)
        losses = critic_losses(critic, *draw_batch(step, pictures))
        optimizer.zero_grad()
        (losses["class"] + 2 * losses["whole"] + losses["identity"]).backward()
        optimizer.step()
        for name, loss in losses.items():
            mean[name] = 0.99 * mean.get(name, loss.item()) + 0.01 * loss.item()
        if (step + 1) % 200 == 0:
            values = "  ".join(f"{name} {value:.3f}" for name, value in mean.items())
            minutes = (time.time() - start) / 60
            print(f"step {step + 1:6d}/{steps}  {values}  {minutes:.0f} min", flush=True)
        if time.time() - last_save > 120 or step + 1 == steps:
            write_state(state, settings, weights, optimizer, step=step + 1)
            last_save = time.time()
    save_tensors(convert(critic.state_dict(), torch.float16), out)
    return critic.eval()


# === its examination ==============================================================================

def examine(critic, vae):
    """Shares of right answers in percent, on individuals it has never seen, through the VAE as all
    it will ever mark: whole figures, each kind of damage, a kind it was not trained on; and the
    equal error rate of identity, the classes' mean."""
    scenes = bare(individuals(31, 2000, 60, 1))
    pictures = np.stack([*draw_all(scenes)])
    _, whole, _ = critic.look(through_the_vae(pictures, vae))
    report = {"whole": 100 * (whole > 0.5).float().mean().item()}
    for i, kind in enumerate((*KINDS, UNSEEN)):
        pictures = damage_all(scenes, (kind,), 32 + i, 0)
        _, whole, _ = critic.look(through_the_vae(pictures, vae))
        report[kind] = 100 * (whole < 0.5).float().mean().item()
    for name, twins in (("identity EER", False), ("identity EER, twins", True)):
        photos = np.stack([*draw_all(bare(individuals(41, 7000, 40, 4, twins)))])
        _, _, vectors = critic.look(through_the_vae(photos, vae))
        report[name] = mean_error_rate(vectors, 40, 4)
    return report


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", action="store_true")
    p.add_argument("--steps", type=int, default=4000)
    p.add_argument("--resume", action="store_true",
                   help="go on with a training that was interrupted")
    p.add_argument("--work", default="runs/critic", help="pictures and the state to resume from")
    p.add_argument("--out", default="runs/critic/critic.safetensors",
                   help="what the training writes; the shipped one is "
                        "tiny_world/critic.safetensors")
    p.add_argument("--json", help="write the examination to this file too")
    a = p.parse_args()
    if a.train:
        critic = train(a.steps, Path(a.work), Path(a.out), a.resume)
    else:
        critic = Critic.load()
    report = examine(critic, StableDiffusion.from_pretrained(TINY).vae)
    for name, value in report.items():
        print(f"{name:22s}{value:8.2f}%")
    if a.json:
        save_text(json.dumps(report, indent=2), Path(a.json))


if __name__ == "__main__":
    run(main)
