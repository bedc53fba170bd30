"""A theta for each person, found by training it alone: what the second term of a hypernetwork's
loss tells it to write (HyperDreamBooth, section 4.2; the rest is in learn_hypernetwork.py).

theta is a LiDB's numbers, a row for each layer; trained by the ordinary loss of the model, with the
changes that theta stands for beside the weights. Everyone's starts from one that was trained on all
people together: what is left is what sets a person apart.

Letters as in hyperdreambooth.py.
"""
import json
from pathlib import Path

import torch

from command import check_state, progress, read_log, run_settings
from files import UserError, load_tensors, save_tensors
from hyperdreambooth import noise_loss, purpose
from optimizer import AdamW


def loss_with_theta(sd, cfg, theta, z, generator, lowest_t=0):
    """The noise loss of latents z (p, c, y, x) with theta beside the weights: (p, j, a + b), or (j,
    a + b) for all of them."""
    sd.lidb.added = [sd.lidb.factors(theta)]
    with sd.autocast(cfg.dtype):
        words = sd.read([f"a {cfg.token} {cfg.class_name}"] * len(z))          # (p, l, d)
        return noise_loss(sd, z, words, generator, lowest_t)


def fit_thetas(sd, cfg, z, people, theta, generator):
    """Trains theta in place. theta (p, j, a + b): one for each of the p people; or (1, j, a + b):
    one for all of them together, of whom each step sees some."""
    optimizer = AdamW([theta.requires_grad_(True)], cfg.theta_lr, 0.0, dtype=cfg.dtype)
    for step in range(cfg.theta_steps):
        shown = people
        if len(theta) != len(people):
            some = torch.randperm(len(people), generator=generator)[:cfg.theta_batch]
            shown = [people[i] for i in some]
        pictures = [rows[torch.randint(len(rows), (1,), generator=generator)] for rows in shown]
        loss = loss_with_theta(sd, cfg, theta.expand(len(shown), -1, -1), z[pictures], generator)
        # The sum over people, not their mean: what Adam's eps makes of someone's gradient must not
        # depend on how many others there are.
        optimizer.backward(loss * len(shown))
        optimizer.param_groups[0]["lr"] = cfg.theta_lr * (1 - step / cfg.theta_steps)
        read_log(cfg, step + 1, optimizer.step(), loss=loss)


def find_thetas(sd, cfg, z, people):
    """theta of everyone, (people, j, a + b), on the CPU: first one of all together, then from there
    one of each, many at once, since a batch may have other weights for each picture. They are kept
    in out/theta, in blocks, and only those that lack are found."""
    folder, names, everyone = Path(cfg.out) / "theta", list(people), "all people together"
    settings = purpose(sd, cfg) | {"pictures": run_settings(cfg, [z.numpy()])["photos"]}
    for name in ("theta_steps", "theta_lr", "theta_batch", "size", "seed", "dtype"):
        settings[name] = getattr(cfg, name)
    blocks = {"start": [everyone]}
    for first in range(0, len(names), cfg.theta_batch):
        blocks[f"{first:06d}"] = names[first:first + cfg.theta_batch]
    start, found = torch.zeros(len(sd.lidb.layers), cfg.a + cfg.b), {}
    named = progress(blocks.items(), "thetas, blocks of people")
    for number, (title, block) in enumerate(named):
        path = folder / f"{title}.safetensors"
        if not path.exists():
            theta = start.to(sd.device).repeat(len(block), 1, 1)
            # A generator for each block: it does not matter which are there already.
            generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + number)
            shown = list(people.values()) if title == "start" else [people[name] for name in block]
            fit_thetas(sd, cfg, z, shown, theta, generator)
            tensors = {name: one.half() for name, one in zip(block, theta)}
            save_tensors(tensors, path, {"settings": json.dumps(settings)})
        check_state(path, settings)
        tensors = load_tensors(path)
        if set(tensors) != set(block):
            raise UserError(f"{path} is of other people: give the same --images, or another --out")
        found |= {name: theta.float() for name, theta in tensors.items()}
        start = found[everyone]
    return torch.stack([found[name] for name in names])
