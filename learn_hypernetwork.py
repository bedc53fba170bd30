"""Learns the hypernetwork of hyperdreambooth.py, once, from pictures of many people.

    python -m tiny_world.subjects --crowd runs/faces                 people, four pictures of each
    python learn_hypernetwork.py --images runs/faces --class-name face

The hypernetwork H looks at one picture of a person and writes theta, a LiDB's numbers. It is good
if the model with theta knows the person's other pictures; and it may be told what to write, a theta
that was found for each person alone (thetas.py; section 4.2). With theta^ = H(photo),

    loss = E |eps - eps_theta^(x_t, t, "a sks face")|^2
         + beta mean (theta^ - theta)^2 / var         (var of all the people's thetas, one number)

    trained   the hypernetwork; before that, if beta > 0, theta of each person who has none yet
    frozen    the model
    letters   as in hyperdreambooth.py

Follows the paper: the two-term loss, rank-1 LiDB in UNet and text encoder, one sentence for all.
Different: beta is 0 unless it is given, as the noise loss alone learns more (measured: RESULTS.md).
With it, the distance is divided by that variance: who always guesses the mean theta has 1, however
large the thetas are; and H starts from the mean of all, the paper's from zero. Where a person has
several pictures, H looks at one and others are denoised: so theta holds the person, not the
picture. On the tiny world t is drawn from its noisier half only: with less noise the photo shows by
itself who it is, and a guess makes no difference.
Not here: training on several GPUs.
"""
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from command import (check_at_least, check_machine, check_not_negative, check_positive,
                     check_resume, check_size, check_state, check_words, fill_in, load_state,
                     parse_flags, pick_device, pick_dtype, progress, read_log, run, run_settings,
                     save_state, state_path, watch)
from files import UserError, claim, save_tensors
from hyperdreambooth import Hypernetwork, LiDB, purpose
from optimizer import AdamW
from pictures import open_picture, square
from stable_diffusion import TINY, StableDiffusion
from thetas import find_thetas, loss_with_theta


@dataclass
class Config:
    images: str = ""                  # of people: of each a picture, or a folder of pictures
    class_name: str = ""              # what they are
    model: str = TINY                 # a diffusers folder, a .safetensors file, or a hub name
    revision: str = ""                # branch or commit of a model on the hub
    variant: str = ""                 # fp16: the weights' files of that name
    token: str = "sks"                # the identifier, the same one for all
    steps: int = None                 # of training
    lr: float = None                  # 3 times more: it forgets faster than it learns
    batch_size: int = None            # people in a step, with two pictures of each
    a: int = 100                      # width of A_train
    b: int = 50                       # width of B_train
    lowest_t: int = None              # t is drawn from here on: with less noise a picture shows by
                                      # itself who it is, and a step there teaches nothing
    iterations: int = 4               # how often the hypernetwork looks at its own guess
    width: int = None                 # of the hypernetwork
    beta: float = 0.0                 # weight of the distance to theta; 0 needs no thetas
    theta_steps: int = None           # with beta: steps of finding a person's theta,
    theta_lr: float = None            # their learning rate,
    theta_batch: int = None           # and how many people at a time
    size: int = None                  # side of the pictures in pixels; None: the model's own
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"               # float32, bfloat16 or float16, in which a GPU computes
                                      # faster; the hypernetwork stays float32
    out: str = "runs/learn_hypernetwork"
    save_every: int = 500             # steps between two states to resume from, and two looks at
                                      # people kept aside
    resume: bool = False              # go on from what is in `out`


SETTINGS = {  # for None: the tiny world's, Stable Diffusion's (from 100 million parameters on)
    "steps":            (2_000,      100_000),
    "lr":               (1e-3,       1e-4),
    "batch_size":       (16,         4),
    "width":            (128,        512),
    "lowest_t":         (500,        0),
    "theta_steps":      (100,        300),
    "theta_lr":         (1e-2,       1e-3),
    "theta_batch":      (32,         4),
}


# === the method: the two-term loss ================================================================

def draw_people(z, people, chosen, generator):
    """Of each chosen person three pictures in an order by chance: (p, c, y, x) for H to look at,
    and (2p, c, y, x) to be denoised. Of two pictures both are denoised, and one alone twice."""
    seen, hidden = [], []
    for rows in (people[i] for i in chosen):
        order = [rows[k] for k in torch.randperm(len(rows), generator=generator)]
        seen.append(order[0])
        hidden += [order[1 % len(order)], order[2 % len(order)]]
    return z[seen], z[hidden]


def hypernetwork_loss(sd, cfg, network, seen, hidden, theta, generator):
    """seen (p, c, y, x), hidden (2p, c, y, x): latents; theta (p, j, a + b): what was found for the
    people, or None. Returns the noise loss and the distance, in units of the thetas' variance."""
    guess = network(seen)                                                      # (p, j, a + b)
    twice = guess.repeat_interleave(2, 0)                                      # (2p, j, a + b)
    mse = loss_with_theta(sd, cfg, twice, hidden, generator, cfg.lowest_t)
    if theta is None:
        return mse, torch.zeros_like(mse)
    return mse, F.mse_loss(guess, theta) / network.scale ** 2


# === before training ==============================================================================

def read_people(sd, cfg):
    """A folder of people, each of them a picture or a folder of pictures -> scaled latents
    (pictures, c, y, x), the means, on the CPU, and {person: [the numbers of their pictures]}."""
    latents, people, folder = [], {}, Path(cfg.images)
    paths = sorted([*folder.glob("[!.]*"), *folder.glob("[!.]*/[!.]*")])
    for file in progress([path for path in paths if path.is_file()], "pictures read"):
        try:
            picture = square(open_picture(file), cfg.size)
        except UserError as error:
            print(f"passed over: {error}", file=sys.stderr)
            continue
        with sd.autocast(cfg.dtype):
            mean, _ = sd.encode([picture])
        person = file.stem if file.parent == folder else file.parent.name
        people.setdefault(person, []).append(len(latents))
        latents.append(mean * sd.vae.config.scaling_factor)
    if len(people) < 3:
        raise UserError(f"--images {folder}: {len(latents)} pictures of {len(people)} people; a "
                        "folder of many is needed, with a picture or a folder of pictures of each")
    print(f"learn_hypernetwork: {len(latents)} pictures of {len(people)} people", flush=True)
    return torch.cat(latents), people


def people_bytes(people):
    """What of the people a resumed run must find again: the latents, and who is who."""
    latents, rows = people
    return [latents.numpy(), memoryview(json.dumps(rows).encode())]


def prepare(cfg):
    """Everything that can be refused is refused here, and what needs no model before one is loaded.
    Returns the model, with a LiDB beside its layers, the Config with nothing left open, and the
    people: their latents, and which are whose."""
    if not cfg.images or not cfg.class_name:
        raise UserError("--images FOLDER with pictures of many people, and --class-name with what "
                        "they are, for example face")
    check_at_least(cfg, 1, "steps", "batch_size", "a", "b", "iterations", "width", "theta_steps",
                   "theta_batch", "save_every")
    check_positive(cfg, "lr", "theta_lr")
    check_not_negative(cfg, "beta")
    check_machine(cfg)
    if cfg.width is not None and cfg.width % 32:
        raise UserError(f"--width {cfg.width}: a multiple of 32, please")
    if not Path(cfg.images).is_dir():
        raise UserError(f"--images {cfg.images} is no folder")
    claim(cfg.out)
    result, state = Path(cfg.out) / "hypernetwork.safetensors", state_path(cfg)
    if not cfg.resume and (state.exists() or result.exists()):
        raise UserError(f"{cfg.out} has a hypernetwork already, or the state of one: --resume goes "
                        "on, another --out begins anew")
    device = pick_device(cfg.device)
    sd = StableDiffusion.from_pretrained(cfg.model, revision=cfg.revision, variant=cfg.variant)
    cfg = fill_in(cfg, SETTINGS, sd.large, size=sd.size)
    cfg = replace(cfg, dtype=pick_dtype(cfg.dtype, device))
    if not 0 <= cfg.lowest_t < sd.schedule.T:
        raise UserError(f"--lowest-t {cfg.lowest_t}: from 0 to {sd.schedule.T - 1}")
    check_size(cfg.size, 8 * sd.vae.factor, 8 * sd.vae.factor)  # a latent is cut into 8 x 8 patches
    check_words(cfg, sd.tokenizer, "class_name", "token")
    sd.place(device, cfg.dtype)  # what is not trained lies as it is computed with
    people = read_people(sd, cfg)
    check_resume(cfg, people_bytes(people))
    sd.freeze()
    sd.lidb = LiDB(sd, cfg.a, cfg.b)
    return sd, cfg, people


# === training =====================================================================================

@torch.no_grad()
def look_at_strangers(sd, cfg, network, z, strangers, theta):
    """How well the hypernetwork does for people it does not learn from: the noise loss of one
    picture with its guess for another; that over the loss with the theta that it starts from, at
    the same noise; the distance to their own thetas, if there are any. If it starts from a theta of
    all people together (beta > 0), both of the last are below 1 only if it knows the person."""
    noise = noise_at_start = distance = 0.0
    for i in range(0, len(strangers), cfg.batch_size):
        some = strangers[i:i + cfg.batch_size]
        guess = network(z[[rows[0] for rows in some]].to(sd.device))
        hidden = z[[rows[-1] for rows in some]]
        losses = [loss_with_theta(sd, cfg, one, hidden, torch.Generator().manual_seed(i)).item()
                  for one in (guess, network.mean)]
        noise += len(some) * losses[0]
        noise_at_start += len(some) * losses[1]
        if theta is not None:
            own = theta[i:i + cfg.batch_size].to(guess)
            distance += F.mse_loss(guess, own, reduction="sum").item()
    spread = len(strangers) * network.mean.numel() * network.scale.item() ** 2
    return noise / len(strangers), noise / noise_at_start, distance / spread


def train(sd, cfg, people):
    """Learns from everyone but the last twentieth (100 at most), and yields {step, loss, noise,
    distance} after each step. The file that it leaves has the history of its training beside the
    weights: rows of step, the means of both terms since the row before, and what look_at_strangers
    found."""
    z, pictures_of = people
    kept = min(100, max(1, len(pictures_of) // 20))
    learned, strangers = [*pictures_of.values()][:-kept], [*pictures_of.values()][-kept:]
    sd.unet.checkpointing = sd.large
    theta = find_thetas(sd, cfg, z, pictures_of) if cfg.beta else None
    torch.manual_seed(cfg.seed)
    network = Hypernetwork(len(sd.lidb.layers), cfg.a + cfg.b, channels=z.shape[1], side=z.shape[2],
                           width=cfg.width, iterations=cfg.iterations).to(sd.device)
    if cfg.beta:
        network.mean.copy_(theta[:-kept].mean(0))
        network.scale.copy_((theta[:-kept] - network.mean.cpu()).std())
    weights = list(network.parameters())
    optimizer = AdamW(weights, cfg.lr, clip=1.0, dtype=cfg.dtype)
    sd.set_aside(sd.vae)
    numbers = load_state(cfg, weights, optimizer)
    history, terms = numbers.get("history", []), []

    for step in range(numbers.get("step", 0), cfg.steps):
        # Each step seeds a generator of its own: a resumed run needs only the step's number.
        generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
        chosen = torch.randint(len(learned), (cfg.batch_size,), generator=generator).tolist()
        seen, hidden = draw_people(z, learned, chosen, generator)
        own = theta[chosen].to(sd.device) if cfg.beta else None
        seen = seen.to(sd.device)
        mse, distance = hypernetwork_loss(sd, cfg, network, seen, hidden, own, generator)
        loss = mse + cfg.beta * distance
        optimizer.backward(loss)
        # The rate rises over 100 steps, stays, and falls to 0 over the second half.
        rise, fall = (step + 1) / 100, 2 * (cfg.steps - step) / cfg.steps
        optimizer.param_groups[0]["lr"] = cfg.lr * min(1, rise, fall)
        log = read_log(cfg, step + 1, optimizer.step(), loss=loss, noise=mse, distance=distance)
        terms.append([log["noise"], log["distance"]])
        if (step + 1) % cfg.save_every == 0 or step + 1 == cfg.steps:
            own = theta[-kept:] if cfg.beta else None
            theirs, of_start, apart = look_at_strangers(sd, cfg, network, z, strangers, own)
            means = torch.tensor(terms).mean(0).tolist()
            history.append([step + 1, *means, theirs, of_start, apart])
            terms = []
            print(f"step {step + 1:6d}  {len(strangers)} strangers: noise loss {theirs:.4f}, "
                  f"{of_start:.4f} of the start's, distance {apart:.3f}", flush=True)
            if step + 1 < cfg.steps:
                save_state(cfg, people_bytes(people), weights, optimizer, step=step + 1,
                           history=history)
        yield log
    sd.unet.checkpointing = False
    sd.take_back()
    about = {"network": network.config, "purpose": purpose(sd, cfg), "history": history,
             "settings": run_settings(cfg, people_bytes(people))}
    about = {name: json.dumps(value) for name, value in about.items()}
    tensors = {name: tensor.half() for name, tensor in network.state_dict().items()}
    save_tensors(tensors, Path(cfg.out) / "hypernetwork.safetensors", about)


# === the command ==================================================================================

def main(cfg):
    result = Path(cfg.out) / "hypernetwork.safetensors"
    sd, cfg, people = prepare(cfg)
    if result.exists() and not state_path(cfg).exists():  # with --resume: it is finished
        check_state(result, run_settings(cfg, people_bytes(people)))
        print(f"the hypernetwork, which is finished: {result}")
        return
    for log in watch(train(sd, cfg, people), cfg.steps):
        pass
    state_path(cfg).unlink(missing_ok=True)
    print(f"the hypernetwork: {result}")


if __name__ == "__main__":
    run(lambda: main(parse_flags(Config, __doc__, SETTINGS)))
