"""The judge: reads from a picture what is in it, and tells individuals apart.

    python -m tiny_world.judge                 its examination, on drawings it has never seen
    python -m tiny_world.judge --train         trains it again

On real photos nobody knows the truth, and fidelity is a guess by networks that were trained for
something else. Here every training picture is drawn from a known scene, so a small network can
learn to read the scene back, and be examined before it may judge. It reads class, context,
accessory, colour, style, finish and shape, and gives each picture a vector in which photos of one
individual lie close together and those of two individuals of the same class far apart.

What is no drawing of the world (noise, blanks, blends of two pictures) it must refuse: `drawing` is
whether a picture is one, and if not, no other answer counts. It learns by the sum of each
question's cross entropy, where the picture has an answer, and a contrastive loss of the vectors.
"""
import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from command import check_state, read_state, run, write_state
from files import UserError, beside, load_tensors, save_tensors, save_text
from pictures import to_tensor
from stable_diffusion import TINY, StableDiffusion
from tiny_world.draw import draw_all
from tiny_world.world import (ACCESSORIES, CLASSES, COLOURS, CONTEXTS, FINISHES, HELD_OUT, STYLES,
                              random_identity, random_scene)

FILE = Path(__file__).parent / "judge.safetensors"

# What can be read, and the answers there are. "" is nothing: no accessory, no finish, no cube.
ANSWERS = {
    "cls":         CLASSES,
    "context":     tuple(CONTEXTS),
    "accessory":   ("", *ACCESSORIES),
    "colour":      (*COLOURS, "skin"),
    "style":       STYLES,
    "finish":      ("", *FINISHES),
    "cube":        (False, True),
    "drawing":     (False, True),
}
# Networks compute in bfloat16 where the processor has instructions for it: twice as fast as in
# float32 with them, twenty times slower without.
HALF_IS_FAST = "AVX512" in torch.backends.cpu.get_cpu_capability()
EMBEDDING = 64
PEOPLE = 640    # individuals of each class that it learns to tell apart,
VIEWS = 6       # and photos of each


class Block(nn.Module):
    """Two 3x3 convolutions past which the input goes too; the first halves the map."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.past = nn.Conv2d(c_in, c_out, 1, stride=2, bias=False)

    def forward(self, x):  # (b, c_in, y, x) -> (b, c_out, y/2, x/2)
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.past(x))


def convert(tensors, dtype):
    """A network's numbers in another precision; what BatchNorm counts stays whole."""
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()}


class Judge(nn.Module):
    """(b, 3, 64, 64) in [-1, 1] -> {question: (b, answers)} logits and an identity vector (b, 64)
    of length 1."""

    def __init__(self):
        super().__init__()
        width = 2 * 224
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.Sequential(Block(32, 48), Block(48, 96), Block(96, 160), Block(160, 224))
        self.heads = nn.ModuleDict({question: nn.Linear(width, len(choices))
                                    for question, choices in ANSWERS.items()})
        self.identity = nn.Linear(width, EMBEDDING)

    def forward(self, x):
        h = self.blocks(F.relu(self.stem(x)))                      # (b, 224, 4, 4)
        # what there is overall, and what there is somewhere
        h = torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1)     # (b, 2*224)
        logits = {question: head(h) for question, head in self.heads.items()}
        return logits, F.normalize(self.identity(h), dim=1)

    @torch.no_grad()
    def look(self, x):
        """As forward, but at the pictures and at their mirror images, which show the same: the mean
        of both."""
        logits, vectors = self(x)
        mirrored_logits, mirrored_vectors = self(x.flip(3))
        mean = {question: (logits[question] + mirrored_logits[question]) / 2 for question in logits}
        return mean, F.normalize(vectors + mirrored_vectors, dim=1)

    @classmethod
    def load(cls, path=FILE):
        if not path.exists():
            raise UserError(f"{path} is not there; it is made by: python -m tiny_world.judge "
                            f"--train --out {path}")
        judge = cls()
        judge.load_state_dict(convert(load_tensors(path), torch.float32))
        return judge.eval()

    def read(self, pictures):
        """PIL pictures (64 x 64) -> a list of {question: answer}; `drawing` is False for what is no
        picture of this world."""
        logits, _ = self.look(torch.stack([to_tensor(picture) for picture in pictures]))
        read = [{} for _ in pictures]
        for question, rows in logits.items():
            for scene, best in zip(read, rows.argmax(1).tolist()):
                scene[question] = ANSWERS[question][best]
        return read

    def vectors(self, pictures):
        """PIL pictures -> identity vectors (pictures, 64); the product of two is 1 for the same
        individual at best."""
        _, vectors = self.look(torch.stack([to_tensor(picture) for picture in pictures]))
        return vectors


def answers(scene):
    """The right answers for a scene, as indices; -1 where the picture does not show it."""
    who = scene.identity
    right = {"cls": who.cls, "context": scene.context, "accessory": scene.accessory,
             "colour": who.colour, "style": scene.style, "finish": scene.finish,
             "cube": scene.cube, "drawing": True}
    indices = {question: ANSWERS[question].index(answer) for question, answer in right.items()}
    if scene.style == "pencil sketch":
        indices["colour"] = -1
    return [indices[question] for question in ANSWERS]


# === what it learns from ==========================================================================

def anything(seed, first, count):
    """`count` scenes of all kinds, of individuals with seeds from `first` on."""
    rng = np.random.default_rng(seed)
    scenes = []
    for i in range(count):
        cls = CLASSES[i % len(CLASSES)]
        rare = bool(rng.random() < 0.1) and cls != "face"
        scenes.append(random_scene(rng, random_identity(first + i, cls, rare)))
    return scenes


def individuals(seed, first, count, views, twins=False):
    """`count` identities of every class, each in `views` photos, one after the other. With twins,
    every second one has the colours of the one before it and only its other numbers are its own."""
    rng = np.random.default_rng(seed)
    scenes, colour, second = [], "", ""
    for cls in CLASSES:
        for i in range(count):
            rare = bool(rng.random() < 0.2) and cls != "face"
            who = random_identity(first + i, cls, rare)
            if twins and i % 2:
                who = replace(who, colour=colour, second=second)
            colour, second = who.colour, who.second
            for _ in range(views):
                scenes.append(replace(random_scene(rng, who), style="photo", cube=False))
    return scenes


def shuffle_tiles(x, order):
    """Each picture's 4 x 4 tiles in another order. x (b, 3, 64, 64)."""
    tiles = x.unflatten(2, (4, 16)).unflatten(4, (4, 16))                 # (b, 3, 4, 16, 4, 16)
    tiles = tiles.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)[:, order]       # (b, 16, 3, 16, 16)
    tiles = tiles.unflatten(1, (4, 4)).permute(0, 3, 1, 4, 2, 5)          # (b, 3, 4, 16, 4, 16)
    return tiles.reshape(x.shape)


def spoiled(x, rng):
    """Pictures that are no drawing of the world, made of some that are, x (b, 3, 64, 64): noise,
    one colour, blends, tiles out of order."""
    ways = rng.integers(4, size=len(x))
    noise = torch.from_numpy(rng.standard_normal((len(x), 3, 64, 64)).astype(np.float32))
    size = int(2 ** rng.integers(1, 5))
    coarse = F.avg_pool2d(noise, size) * size * 0.7
    clouds = F.interpolate(coarse, scale_factor=size, mode="bilinear")
    tiles = shuffle_tiles(x, torch.from_numpy(rng.permutation(16)))
    share = torch.from_numpy(rng.uniform(0.35, 0.65, (len(x), 1, 1, 1)).astype(np.float32))
    blends = share * x + (1 - share) * x.roll(1, 0)
    colours = torch.from_numpy(rng.uniform(-1, 1, (len(x), 3, 1, 1)).astype(np.float32))
    rough = torch.from_numpy(rng.random((len(x), 1, 1, 1)) < 0.5)
    noise = torch.where(rough, noise, clouds).clamp(-1, 1)
    made = [noise, colours.expand_as(x), blends, tiles]
    return torch.stack([made[way][i] for i, way in enumerate(ways)])


def as_input(pictures):
    """(b, 64, 64, 3) bytes -> (b, 3, 64, 64) in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def through_the_vae(pictures, vae):
    """(pictures, 64, 64, 3) bytes, encoded and decoded again: what the best possible generated
    picture looks like."""
    decoded, device = [], vae.quant_conv.weight.device
    for part in np.array_split(pictures, len(pictures) // 200 + 1):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=HALF_IS_FAST):
            mean, _ = vae.encode(as_input(part).to(device))
            decoded.append(vae.decode(mean).float().cpu())
    pixels = ((torch.cat(decoded) + 1) * 127.5).round().clamp(0, 255).byte()
    return pixels.permute(0, 2, 3, 1).numpy()


def is_kept(path, about):
    """Whether the file has the pictures that `about` describes, from an earlier start."""
    return path.exists() and str(np.load(path)["about"]) == about


def keep_pictures(path, about, pictures):
    """{name: (pictures, 64, 64, 3) bytes} into one file, which is whole or not there."""
    with beside(path) as place, open(place, "wb") as file:
        np.savez(file, about=about, **pictures)


def material(work, vae):
    """64,000 drawings of all kinds, and 10,240 individuals in 6 photos each, all of them
    individuals that neither the shipped subjects nor the examination has. Returns
    {"kinds", "views", "kinds_vae", "views_vae"}: (pictures, 64, 64, 3) bytes; {"kinds", "views"}:
    the right answers (pictures, questions); and what a state of the training must agree with."""
    kinds = anything(1, HELD_OUT, 64_000)
    views = individuals(2, 3 * HELD_OUT, PEOPLE, VIEWS, twins=True)
    path = work / "pictures.npz"
    about = f"{len(kinds)} and {len(views)} drawings, scale {vae.config.scaling_factor}"
    if not is_kept(path, about):
        drawn = {"kinds": np.stack([*draw_all(kinds)]), "views": np.stack([*draw_all(views)])}
        keep_pictures(path, about, drawn | {name + "_vae": through_the_vae(pictures, vae)
                                            for name, pictures in drawn.items()})
    truth = {"kinds": torch.tensor([answers(scene) for scene in kinds]),
             "views": torch.tensor([answers(scene) for scene in views])}
    return dict(np.load(path)), truth, about


# === training =====================================================================================

ALL_KINDS, SPOILED = 48, 16    # in a batch, before and behind the photos of individuals


def contrastive(vectors, who, temperature=0.1):
    """Supervised contrastive loss (Khosla et al. 2020, eq. 2): each picture should pick out those
    of its own individual. With z the vectors and P(i) the other pictures of i's individual,

        mean over i, and over p in P(i), of  -log(exp(z_i z_p / 0.1) / sum_a!=i exp(z_i z_a / 0.1))

    """
    itself = torch.eye(len(who), dtype=torch.bool)
    similar = (vectors @ vectors.T / temperature).masked_fill(itself, -1e9)
    same = (who[:, None] == who[None]) & ~itself
    return -(similar.log_softmax(1) * same).sum(1).div(same.sum(1)).mean()


def draw_photos(rng, people, views, count):
    """The numbers of `count` photos of each of 16 individuals of one class, (16 * count,). There
    are `views` of each of `people`. Neighbours come together: near twins are what has to be told
    apart."""
    cls = rng.integers(len(CLASSES))
    pairs = rng.integers(people, size=8)[:, None] // 2 * 2 + np.arange(2)     # (8, 2)
    who = cls * people + pairs.ravel()                                        # (16,)
    order = rng.permuted(np.tile(np.arange(views), (len(who), 1)), axis=1)    # (16, views)
    return (who[:, None] * views + order[:, :count]).ravel()


def augment(x, rng, chance):
    """Half of the pictures mirrored, and by that chance all of them a little soft or grainy, as
    generated pictures are. x (b, 3, 64, 64)."""
    mirrored = torch.from_numpy(rng.random((len(x), 1, 1, 1)) < 0.5)
    x = torch.where(mirrored, x.flip(3), x)
    if rng.random() >= chance:
        return x
    if rng.random() < 0.5:
        return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), "replicate"), 3, 1) * 0.5 + x * 0.5
    grain = torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))
    return (x + 0.06 * grain).clamp(-1, 1)


def draw_batch(step, pictures, truth):
    """A step's pictures (b, 3, 64, 64): of all kinds, 64 photos of 16 individuals, and spoiled
    ones; the right answers (b, questions); and of whom the photos are, (64,)."""
    rng = np.random.default_rng([3, step])
    vae = "_vae" if rng.random() < 0.5 else ""
    kinds = rng.integers(len(truth["kinds"]), size=ALL_KINDS)
    views = draw_photos(rng, PEOPLE, VIEWS, 4)
    x = torch.cat([as_input(pictures["kinds" + vae][kinds]),
                   as_input(pictures["views" + vae][views])])
    x = augment(x, rng, 0.3)
    x = torch.cat([x, spoiled(x[:SPOILED], rng)])
    refused = torch.full((SPOILED, len(ANSWERS)), -1)
    refused[:, -1] = 0  # no drawing, and nothing else is asked
    right = torch.cat([truth["kinds"][kinds], truth["views"][views], refused])
    return x, right, torch.from_numpy(views // VIEWS)


def judge_losses(judge, x, right, who):
    """{question: cross entropy}, and that of the identity vectors; the arguments are a batch."""
    with torch.autocast("cpu", torch.bfloat16, enabled=HALF_IS_FAST):
        logits, vectors = judge(x.to(memory_format=torch.channels_last))
    losses = {}
    for k, question in enumerate(ANSWERS):
        losses[question] = F.cross_entropy(logits[question].float(), right[:, k], ignore_index=-1)
    losses["identity"] = contrastive(vectors[ALL_KINDS:-SPOILED].float(), who)
    return losses


def train(steps, work, out, resume):
    """Learns from the material, half of it through the VAE, and from spoiled pictures."""
    work.mkdir(parents=True, exist_ok=True)
    pictures, truth, about = material(work, StableDiffusion.from_pretrained(TINY).vae)
    torch.manual_seed(0)
    judge = Judge().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.05, fused=True)
    weights = list(judge.state_dict().values())

    state = work / "state.safetensors"
    settings = {"steps": steps, "pictures": about}
    first = 0
    if resume and state.exists():
        check_state(state, settings)
        first = read_state(state, weights, optimizer, steps)["step"]

    start = last_save = time.time()
    mean = {}
    for step in range(first, steps):
        for group in optimizer.param_groups:  # level, then down over the second half
            group["lr"] = 2e-3 * min(1, (step + 1) / 300, 2 * (steps - step) / steps)
        losses = judge_losses(judge, *draw_batch(step, pictures, truth))
        optimizer.zero_grad()
        sum(losses.values()).backward()
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
    save_tensors(convert(judge.state_dict(), torch.float16), out)
    return judge.eval()


# === the examination ==============================================================================

def look_at_all(judge, pictures):
    """All logits and identity vectors for (pictures, 64, 64, 3) bytes."""
    logits, vectors = {question: [] for question in ANSWERS}, []
    for part in np.array_split(pictures, len(pictures) // 256 + 1):
        logits_of_part, vectors_of_part = judge.look(as_input(part))
        for question, rows in logits_of_part.items():
            logits[question].append(rows)
        vectors.append(vectors_of_part)
    return {question: torch.cat(rows) for question, rows in logits.items()}, torch.cat(vectors)


def mean_cosine_among(vectors):
    """Of all pairs of two among vectors (..., n, d) of length 1."""
    between = ~torch.eye(vectors.shape[-2], dtype=torch.bool)
    return (vectors @ vectors.mT)[..., between].mean().item()


def equal_error_rate(vectors, who):
    """Two photos: one individual, or two? At the threshold where both mistakes are equally
    frequent, how frequent are they?"""
    similar = vectors @ vectors.T
    pairs = torch.triu(torch.ones_like(similar, dtype=torch.bool), diagonal=1)
    same = (who[:, None] == who[None])[pairs]
    genuine = similar[pairs][same].sort().values
    impostors = similar[pairs][~same].sort().values
    thresholds = torch.linspace(-1, 1, 2001)
    false_reject = torch.searchsorted(genuine, thresholds) / len(genuine)
    false_accept = 1 - torch.searchsorted(impostors, thresholds) / len(impostors)
    best = (false_reject - false_accept).abs().argmin()
    return (0.5 * (false_reject[best] + false_accept[best])).item()


def mean_error_rate(vectors, people, views):
    """The classes' mean equal error rate in percent, of vectors of so many `individuals` in so many
    views."""
    who = torch.arange(people * views) // views
    rates = [equal_error_rate(of_one_class, who) for of_one_class in vectors.split(len(who))]
    return 100 * sum(rates) / len(rates)


def mark_answers(judge, pictures, right):
    """{question: the share of right answers in percent}, where there is one. pictures
    (n, 64, 64, 3) bytes, right (n, questions)."""
    logits, _ = look_at_all(judge, pictures)
    shares = {}
    for question, index in zip(ANSWERS, right.T):
        shown = index >= 0
        correct = logits[question].argmax(1) == index
        shares[question] = 100 * correct[shown].float().mean().item()
    return shares


def mark_refusals(judge, pictures):
    """The share in percent of what is made of the pictures and no drawing that the judge
    refuses."""
    rng = np.random.default_rng(14)
    refused = []
    for i in range(0, len(pictures), 256):
        logits, _ = judge.look(spoiled(as_input(pictures[i:i + 256]), rng))
        refused.append(logits["drawing"].argmax(1) == 0)
    return 100 * torch.cat(refused).float().mean().item()


def examine(judge, vae):
    """The judge's own figures, in percent, on fresh drawings: as drawn, and through the VAE."""
    scenes = anything(11, 1000, 5120)
    right = torch.tensor([answers(scene) for scene in scenes])
    pictures = np.stack([*draw_all(scenes)])
    crowd = {"identity EER": individuals(12, 7000, 40, 4),
             "identity EER, twins": individuals(13, 7000, 40, 4, twins=True)}
    photos = {name: np.stack([*draw_all(scenes)]) for name, scenes in crowd.items()}

    report = {"drawings": mark_answers(judge, pictures, right),
              "through the VAE": mark_answers(judge, through_the_vae(pictures, vae), right)}
    for name, views in photos.items():
        _, vectors = look_at_all(judge, views)
        report["drawings"][name] = mean_error_rate(vectors, 40, 4)
        _, vectors = look_at_all(judge, through_the_vae(views, vae))
        report["through the VAE"][name] = mean_error_rate(vectors, 40, 4)
    report["refused of what is no drawing"] = mark_refusals(judge, pictures)
    return report


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", action="store_true")
    p.add_argument("--steps", type=int, default=14_000)
    p.add_argument("--resume", action="store_true",
                   help="go on with a training that was interrupted")
    p.add_argument("--work", default="runs/judge", help="pictures and the state to resume from")
    p.add_argument("--out", default="runs/judge/judge.safetensors",
                   help="what the training writes; the shipped one is "
                        "tiny_world/judge.safetensors")
    p.add_argument("--json", help="write the examination to this file too")
    a = p.parse_args()
    if a.train:
        judge = train(a.steps, Path(a.work), Path(a.out), a.resume)
    else:
        judge = Judge.load()
    report = examine(judge, StableDiffusion.from_pretrained(TINY).vae)
    print(f"{'':22s}{'drawings':>10s}{'through the VAE':>18s}")
    for name, share in report["drawings"].items():
        print(f"{name:22s}{share:9.2f}%{report['through the VAE'][name]:17.2f}%")
    print(f"of what is no drawing, refused: {report['refused of what is no drawing']:.2f}%")
    if a.json:
        save_text(json.dumps(report, indent=2), Path(a.json))


if __name__ == "__main__":
    run(main)
