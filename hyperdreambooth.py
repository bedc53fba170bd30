"""HyperDreamBooth (Ruiz et al., CVPR 2024, arXiv 2307.06949): a network that looks at one photo and writes the weights.

    python hyperdreambooth.py                                                            the tiny world's face, from one picture
    python hyperdreambooth.py --images me.png --class-name face --hypernetwork FILE      someone else, with another hypernetwork

    python -m tiny_world.subjects --crowd runs/faces                                     pictures of many people, four of each
    python hyperdreambooth.py --task learn --images runs/faces --class-name face         a hypernetwork, from those
    python hyperdreambooth.py --task optimise --images runs/faces --class-name face      theta of each, for the second term of the loss

The idea: DreamBooth starts every subject from nothing. But faces are alike, and so are the changes that teach a model a face: after
a thousand of them a network can guess the next one. Three parts, in the order of this file:

1. LiDB ("lightweight DreamBooth"), a change so small that a network can write it. Beside a layer x W (n inputs, m outputs) stands a
   product of rank 1,

       x W  becomes  x W + x A B,       A = A_aux A_train,       B = B_train B_aux
                                      (n x a)(a x 1)           (1 x b)(b x m)

   where A_aux and B_aux are random, orthogonal and frozen: a seed is all there is to keep of them. With a = 100 and b = 50 a layer
   has 150 trained numbers, and Stable Diffusion's 192 layers 28,800 (115 kB) where DreamBooth trains 859,520,964.

2. The hypernetwork H: from one photo to theta, the A_train and B_train of all layers. An encoder turns the photo into a vector f,
   once; a decoder T, which has a token for each layer, looks at it and at its own last guess, k times:
   theta_i = theta_i-1 + T(f, theta_i-1). It learns from many people, by the noise of their pictures and, if beta > 0, by a theta that was
   found for each of them alone (--task optimise):

       loss = E |eps - eps^(x_t, t, "a sks face"; theta^)|^2 + beta |theta^ - theta|^2 / |theta - mean|^2,    theta^ = H(photo)

3. Fast finetuning: theta^ is right in the large and wrong in the small. So it is added to the weights, a LoRA of a higher rank is
   put beside it ("rank-relaxed"), and that is trained for 40 steps (30 in the tiny world) on the one photo.

    trained   1: theta of each person   2: the hypernetwork   3: a LoRA; each time everything else is frozen
    letters   p pictures or people   l tokens   n, m inputs and outputs of a layer   r rank   j layers   w the hypernetwork's width
              c what it writes for a layer, a + b

Follows the paper: a, b, rank 1, the two-term loss, k guesses from one look at the photo, a decoder of 2 layers, a head for each layer,
40 steps. Not given in what can be read of it, and chosen here: which layers (those whose count fits its figure), k = 4 (1 does as
well: README), beta (with the noise loss at 1), the LoRA's rank, all learning rates. A_train starts as a constant and theta is the
change from there: were both A and B zero, neither would receive a gradient from their product.
Different: beta is 0 unless it is given, as the noise loss alone learns more (measured: README). Else the distance is in units of the
thetas' variance, so beta means the same at every size and 1 is as far as the mean person; everyone's theta starts from one that was
trained on all people together, and H from the mean of all, the paper's from zero: what is left is what sets a person apart. The heads
are used in every round, as the next one looks at the numbers; in the paper only tokens go round, and the heads come last. f is added
to all tokens, where the paper sets it before them as one more, and comes from a small transformer on the VAE's latent, trained along,
instead of a ViT-H: no second download. Where a person has several pictures, H looks at one and others are denoised: so theta holds
the person, not the picture.
Not here: finding the face in a photo and cropping it, a frozen image encoder, training on several GPUs.
"""
import argparse
import hashlib
import json
import sys
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from tqdm import tqdm

from checkpoint import UserError, load_state, load_tensors, resumable, save_state, save_tensors
from stable_diffusion import TINY, StableDiffusion, load_pictures, open_picture, pick_device, run, to_tensor
from tiny_world import SUBJECTS, sheet


@dataclass
class Config:
    task: str = "personalise"         # or "optimise": a theta for each of many people; "learn": the hypernetwork
    model: str = TINY                 # a folder as diffusers saves it, or a name on the hub
    images: str = ""                  # a picture, or a folder whose first one is taken; "": the tiny world's face. For the other
                                      # tasks a folder of people, a picture or a folder of pictures of each
    class_name: str = ""              # what the hypernetwork was trained on
    token: str = "sks"                # the identifier, the same one for all
    hypernetwork: str = ""            # its file, or its guess for someone, lidb.safetensors; "": the tiny world's; "none": neither
    steps: int = None                 # None, here and below: what TASKS has; of finetuning 0: the hypernetwork alone
    lr: float = None
    batch_size: int = None            # people at a time (to learn, with two pictures of each); in finetuning, noise levels
    rank: int = 4                     # of the LoRA in fast finetuning
    a: int = 100                      # width of A_train
    b: int = 50                       # width of B_train
    iterations: int = 4               # k, how often the hypernetwork looks at its own guess
    width: int = None                 # of the hypernetwork
    beta: float = 0.0                 # weight of the distance to theta; 0: the noise loss alone, which needs no thetas
    size: int = None                  # side of the pictures in pixels; None: what the model was trained on
    sampling_steps: int = None        # for the pictures before and after
    guidance: float = None            # the model's
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"            # bfloat16 computes faster where the machine has it; the weights stay float32
    out: str = "runs/hyperdreambooth"
    save_every: int = 500             # in --task learn: steps between two states to resume from, and two looks at people kept aside
    resume: bool = False              # of the two long tasks: go on from what is in `out`


TASKS = {  # steps, learning rate, batch size: tiny world, Stable Diffusion (from 100 million UNet parameters on)
    "optimise":    ((100, 1e-2, 32),      (300, 1e-3, 4)),
    "learn":       ((4_000, 1e-3, 16),    (100_000, 1e-4, 4)),
    "personalise": ((30, 2e-3, 8),        (40, 1e-4, 1)),
}
SETTINGS = {  # the same two
    "width":            (128,        512),
    "sampling_steps":   (10,         25),
}
HYPERNETWORK = Path(__file__).parent / "tiny_world" / "hypernetwork.safetensors"  # for the tiny world's faces

# What the result must be able to do: another place, another style, an accessory.
PROMPTS = ("a {} in the snow", "a watercolour painting of a {}", "a {} wearing a santa hat")


def settle(cfg, sd):
    """Fills in what was left open, by the size of the model, and refuses what cannot work."""
    if cfg.task not in TASKS:
        raise UserError(f"--task {cfg.task}: one of {', '.join(TASKS)}")
    found = {k: v[sd.large] for k, v in SETTINGS.items()} | {"size": sd.size}
    found |= dict(zip(("steps", "lr", "batch_size"), TASKS[cfg.task][sd.large]))
    cfg = replace(cfg, **{k: v for k, v in found.items() if getattr(cfg, k) is None})
    if not cfg.images and cfg.task != "personalise":
        raise UserError(f"--task {cfg.task} wants --images FOLDER with pictures of many people")
    if bool(cfg.images) != bool(cfg.class_name):
        raise UserError("--images and --class-name go together, for example --images me.png --class-name face")
    if not cfg.images:
        cfg = replace(cfg, images=str(SUBJECTS / "face"), class_name="face")
    for name in ("class_name", "token"):
        if not sd.tokenizer.encode(getattr(cfg, name)):
            raise UserError(f'--{name.replace("_", "-")} "{getattr(cfg, name)}" has no word in it')
    if cfg.width % 32:
        raise UserError(f"--width {cfg.width}: a multiple of 32, please")
    if not cfg.lr > 0 or not cfg.beta >= 0:
        raise UserError(f"--lr {cfg.lr} --beta {cfg.beta}: the first must be above 0, the second not below")
    for name in ("batch_size", "rank", "a", "b", "iterations", "width", "sampling_steps", "save_every"):
        if getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: at least 1")
    if cfg.steps < (cfg.task != "personalise"):
        raise UserError(f"--steps {cfg.steps}: at least {int(cfg.task != 'personalise')}")
    unit = sd.vae.factor * (8 if cfg.task != "personalise" else 1)  # the hypernetwork cuts a latent into 8 x 8 patches
    if cfg.size % unit or cfg.size < 2 * sd.vae.factor:
        raise UserError(f"--size {cfg.size}: a multiple of {unit}, please")
    if not 0 <= cfg.seed < 2 ** 32:
        raise UserError(f"--seed {cfg.seed}: 0 to {2 ** 32 - 1}")
    if cfg.dtype not in ("float32", "bfloat16"):
        raise UserError(f"--dtype {cfg.dtype}: float32 or bfloat16 (gradients of float16 underflow)")
    return cfg


def settings(cfg):
    """All of a Config that the result depends on: a run can only be resumed with the same."""
    return {k: v for k, v in asdict(cfg).items() if k not in ("out", "resume", "save_every", "device")}


def precision(sd, cfg):
    """The context in which the networks compute in bfloat16, if that is wanted."""
    return torch.autocast(sd.unet.conv_in.weight.device.type, torch.bfloat16, enabled=cfg.dtype == "bfloat16")


# === the data =========================================================================================================

def square(photo, size):
    """Shorter side to `size`, then the square in the middle."""
    scale = size / min(photo.size)
    photo = photo.resize([max(size, round(side * scale)) for side in photo.size], Image.Resampling.LANCZOS)
    x, y = [(side - size) // 2 for side in photo.size]
    return photo.crop((x, y, x + size, y + size))


@torch.no_grad()
def encode(sd, cfg, squares):
    """Squares to latents, one by one (large ones need the room): mean and std of q(z|x), (b, 4, y, x) each."""
    with precision(sd, cfg):
        latents = [sd.vae.encode(to_tensor(one)[None].to(sd.unet.conv_in.weight.device)) for one in squares]
    return [torch.cat(part).float() for part in zip(*latents)]


def people(sd, cfg):
    """A folder of people, each of them a picture or a folder of pictures -> scaled latents (pictures, 4, y, x), the means, on the CPU,
    and {person: [the numbers of their pictures]}."""
    z, rows, folder = [], {}, Path(cfg.images)
    files = sorted(p for p in (*folder.glob("[!.]*"), *folder.glob("[!.]*/[!.]*")) if p.is_file())
    for file in tqdm(files, "latents", disable=not sys.stderr.isatty(), leave=False):
        try:
            z.append(encode(sd, cfg, [square(open_picture(file), cfg.size)])[0].cpu() * sd.vae.config.scaling_factor)
            rows.setdefault(file.stem if file.parent == folder else file.parent.name, []).append(len(z) - 1)
        except UserError as error:
            print(f"passed over: {error}", file=sys.stderr)
    if len(rows) < 2:
        raise UserError(f"--images {folder}: {len(z)} pictures of {len(rows)} people; a folder of many is needed, with a picture or a "
                        "folder of pictures of each")
    print(f"{cfg.task}: {len(z)} pictures of {len(rows)} people in {folder}", flush=True)
    return torch.cat(z), rows


def purpose(cfg, lidb):
    """What a theta is for: of another model, sentence or LiDB it means nothing."""
    return {"model": lidb.model, "layers": len(lidb.layers), "a": lidb.a, "b": lidb.b, "seed": lidb.seed,
            "class_name": cfg.class_name, "token": cfg.token}


def check_purpose(path, about, cfg, lidb):
    known = json.loads(about.get("purpose", "{}"))
    if wrong := [f"{k} {known.get(k)}, and this is {v}" for k, v in purpose(cfg, lidb).items() if known.get(k) != v]:
        raise UserError(f"{path} is for {'; '.join(wrong)}: this needs another one")


# === 1. LiDB ==========================================================================================================

def orthogonal(n, k, generator):
    """Random columns of length 1 at right angles to each other, (n, k). Computed in float64: rounded to float32 they are the same on
    every machine."""
    return nn.init.orthogonal_(torch.empty(n, k, dtype=torch.float64), generator=generator).float()


def adapted(sd):
    """{name: layer}, the linear layers that LiDB touches: every attention's four in UNet and text encoder, and the UNet's GEGLUs. For
    Stable Diffusion 1 that is 192. The paper's text names the attentions only; with the GEGLUs the size fits its figure's 386k numbers
    of rank 1, without them it is 273k."""
    ends = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj")
    return ({f"unet.{name}": layer for name, layer in sd.unet.named_modules() if name.endswith(ends)}
            | {f"text_encoder.{name}": layer for name, layer in sd.text.named_modules() if name.endswith("_proj")})


class LiDB:
    """The layers that change, their frozen directions, and what they add at the moment.

    `added` is a list of {layer: (A, B)}: a layer's output gets x A B for each, with A (n, r) and B (r, m), or A (p, n, r) and
    B (p, r, m) to give every picture of the batch its own."""

    def __init__(self, sd, a=100, b=50, seed=0):
        self.a, self.b, self.seed, self.layers, self.added = a, b, seed, adapted(sd), []
        if a > min(layer.in_features for layer in self.layers.values()) or b > min(layer.out_features for layer in self.layers.values()):
            raise UserError(f"--a {a} --b {b}: more directions than the model's layers have")
        generator, device = torch.Generator().manual_seed(seed), sd.unet.conv_in.weight.device
        self.aux = [(orthogonal(layer.in_features, a, generator).to(device), orthogonal(layer.out_features, b, generator).T.to(device))
                    for layer in self.layers.values()]                                     # [(n, a), (b, m)], one a layer
        some = torch.stack([layer.weight.detach()[0, :16].half().cpu() for layer in self.layers.values()])
        self.model = hashlib.sha256(some.numpy().tobytes()).hexdigest()[:16]  # which model; half: the same in a file of either precision
        for name, layer in self.layers.items():
            layer.register_forward_hook(partial(self.add, name))

    def add(self, name, layer, inputs, output):
        for factors in self.added:
            A, B = factors[name]
            output = output + inputs[0] @ A @ B                                            # (p, l, n) (n, r) (r, m)
        return output

    def factors(self, theta):
        """theta (layers, a + b), or (p, layers, a + b) for p pictures -> {layer: (A, B)}. theta = 0 is A_train = 1 / sqrt(a), B_train = 0:
        it changes nothing, and has a gradient."""
        A_train, B_train = theta[..., :self.a, None] + self.a ** -0.5, theta[..., None, self.a:]
        return {name: (A_aux @ A_train[..., i, :, :], B_train[..., i, :, :] @ B_aux)
                for i, (name, (A_aux, B_aux)) in enumerate(zip(self.layers, self.aux))}


def noise_loss(sd, z, words, generator):
    """The ordinary loss of the model. z: latents of pictures (p, 4, y, x); words: the prompts' vectors (p, l, d)."""
    eps = torch.randn(z.shape, generator=generator).to(z)                              # noise it
    t = torch.randint(sd.schedule.T, (len(z),), generator=generator).to(z.device)
    output = sd.unet(sd.schedule.add_noise(z, eps, t), t, words)                       # predict
    return F.mse_loss(output.float(), sd.schedule.target(z, eps, t))                   # compare


def noise_with(sd, cfg, lidb, theta, z, generator):
    """The noise loss of z (p, 4, y, x) with theta beside the weights: (p, layers, a + b), or (layers, a + b) for all of them."""
    lidb.added = [lidb.factors(theta)]
    with precision(sd, cfg):
        return noise_loss(sd, z.to(theta), sd.read([f"a {cfg.token} {cfg.class_name}"] * len(z)), generator)


EVERYONE = "all people together"


def fit(sd, cfg, lidb, z, rows, theta, chance):
    """Trains theta in place and yields the loss of each step. theta (p, layers, a + b): one for each of the p people in rows; or
    (1, layers, a + b): one for all of them together."""
    optimizer = torch.optim.Adam([theta.requires_grad_(True)], lr=cfg.lr)
    for step in range(cfg.steps):
        some = rows if len(theta) == len(rows) else [rows[i] for i in torch.randperm(len(rows), generator=chance)[:cfg.batch_size]]
        i = [row[torch.randint(len(row), (1,), generator=chance)] for row in some]          # a picture of each
        loss = noise_with(sd, cfg, lidb, theta.expand(len(some), -1, -1), z[i], chance)
        (loss * len(some)).backward()  # the loss is the batch's mean, and would give each person 1 / len(some) of their gradient
        if not (loss.isfinite() and theta.grad.isfinite().all()):
            raise UserError(f"the loss, {loss.item()}, or its gradient is not finite: start again with a lower --lr")
        optimizer.param_groups[0]["lr"] = cfg.lr * (1 - step / cfg.steps)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def optimise(sd, cfg):
    """First one theta of all people together, theta/start.safetensors, then from there one of each person, many at once: the batch is
    people, and each has weights of its own. They are written in blocks, theta/000000.safetensors, ... Yields (sd, log) after each step."""
    if not cfg.resume and any((Path(cfg.out) / "theta").glob("*.safetensors")):
        raise UserError(f"{cfg.out}/theta has some already: --resume finds the rest, another --out begins anew")
    (z, rows), lidb, device, folder = people(sd, cfg), LiDB(sd, cfg.a, cfg.b), sd.unet.conv_in.weight.device, Path(cfg.out) / "theta"
    about = {"settings": json.dumps(settings(cfg)), "purpose": json.dumps(purpose(cfg, lidb))}
    names, start, done = list(rows), torch.zeros(len(lidb.layers), cfg.a + cfg.b, device=device), 0
    blocks = {"start": [EVERYONE]} | {f"{i:06d}": names[i:i + cfg.batch_size] for i in range(0, len(names), cfg.batch_size)}
    for title, block in blocks.items():
        path, theta = folder / f"{title}.safetensors", start.repeat(len(block), 1, 1)
        if cfg.resume and path.exists():
            tensors, known = load_tensors(path, ": leave out --resume")
            if list(tensors) != sorted(block) or known.get("settings") != about["settings"]:
                raise UserError(f"{path} is of other people or other settings: give the same ones, or leave out --resume")
            start, done = tensors.get(EVERYONE, start).float().to(device), done + cfg.steps
            continue
        who = [*rows.values()] if title == "start" else [rows[name] for name in block]
        chance = torch.Generator().manual_seed(cfg.seed * 1_000_003 + list(blocks).index(title))  # a block's own: resuming needs no more
        for loss in fit(sd, cfg, lidb, z, who, theta, chance):
            yield sd, {"step": (done := done + 1), "of": len(blocks) * cfg.steps, "loss": loss}
        save_tensors({name: t.half() for name, t in zip(block, theta)}, path, about)
        start = theta[0].detach().half().float() if title == "start" else start              # as it is read back


def found_thetas(cfg, lidb, names):
    """What --task optimise found for these people, (p, layers, a + b), on the CPU."""
    thetas = {}
    for path in sorted((Path(cfg.out) / "theta").glob("*.safetensors")):
        tensors, about = load_tensors(path)
        check_purpose(path, about, cfg, lidb)
        thetas |= tensors
    if missing := [name for name in names if name not in thetas]:
        raise UserError(f"{cfg.out}/theta has none for {len(missing)} people ({missing[0]}, ...): --task optimise --resume finds them; "
                        "--beta 0 learns without")
    return torch.stack([thetas[name] for name in names]).float()


# === 2. the hypernetwork ==============================================================================================

class Hypernetwork(nn.Module):
    """One picture's latent to theta, a row of c = a + b numbers for each of j layers. The latent is cut into 8 x 8 patches. Inside, all
    is measured from `start` and in units of `scale`: the mean and the spread of the thetas that were found, where it learns with those."""

    def __init__(self, layers, payload, channels, side, width=128, iterations=4):
        super().__init__()
        self.config = {"layers": layers, "payload": payload, "channels": channels, "side": side, "width": width, "iterations": iterations}

        def transformer(depth):
            block = nn.TransformerEncoderLayer(width, width // 32, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            return nn.TransformerEncoder(block, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.patches = nn.Conv2d(channels, width, side // 8, stride=side // 8)
        self.where = nn.Parameter(0.02 * torch.randn(64, width))                       # in the picture
        self.encoder = transformer(2)
        self.face = nn.Sequential(nn.Linear(width, width // 4), nn.Flatten(), nn.Linear(64 * (width // 4), width))
        self.guess = nn.Linear(payload, width)
        self.which = nn.Parameter(0.02 * torch.randn(layers, width))                   # layer of the model
        self.decoder = transformer(2)
        self.heads = nn.Parameter(0.1 * torch.randn(layers, width, payload))           # one a layer
        self.register_buffer("start", torch.zeros(layers, payload))
        self.register_buffer("scale", torch.tensor(0.05))

    def forward(self, z):  # (p, 4, y, x) -> (p, j, c)
        patches, k = self.patches(z).flatten(2).transpose(1, 2) + self.where, self.config["iterations"]  # (p, 64, w)
        f = self.face(self.encoder(patches))[:, None]                                  # (p, 1, w), once
        change = torch.zeros(len(z), *self.start.shape, device=z.device)               # (p, j, c)
        for _ in range(k):                                                             # theta_i = theta_i-1 + T(f, theta_i-1)
            h = self.decoder(f + self.which + self.guess(change))
            change = change + torch.einsum("pjw,jwc->pjc", h, self.heads) * h.shape[-1] ** -0.5 / k
        return self.start + self.scale * change

    def save(self, path, cfg, lidb, history):
        about = {"network": json.dumps(self.config), "purpose": json.dumps(purpose(cfg, lidb)), "history": json.dumps(history)}
        save_tensors({name: t.half() for name, t in self.state_dict().items()}, path, about)

    @classmethod
    def load(cls, path, cfg, lidb):
        """Refuses a file that is for another model, another sentence or another LiDB."""
        tensors, about = load_tensors(path)
        check_purpose(path, about, cfg, lidb)
        if "network" not in about:
            raise UserError(f"{path} holds no hypernetwork")
        network = cls(**json.loads(about["network"]))
        network.load_state_dict({name: t.float() for name, t in tensors.items()})
        return network.eval()


@torch.no_grad()
def of_strangers(sd, cfg, lidb, network, z, seen, drawn, theta):
    """How well the hypernetwork does for people it does not learn from: the noise loss of the pictures `drawn` with its guesses for the
    pictures `seen`; that over the loss with the theta that it starts from, at the same noise; the distance to their own thetas, if there
    are any. If it starts from a theta of all people together (beta > 0), both of the last are below 1 only if it knows the person."""
    noise, distance = {"guess": 0.0, "start": 0.0}, 0.0
    for i in range(0, len(seen), cfg.batch_size):
        part = slice(i, i + cfg.batch_size)
        guess = network(z[seen[part]].to(network.start))
        distance += ((guess - theta[part].to(guess)) ** 2).sum().item() if theta is not None else 0.0
        for name, these in (("guess", guess), ("start", network.start)):
            noise[name] += noise_with(sd, cfg, lidb, these, z[drawn[part]], torch.Generator().manual_seed(i)).item() * len(guess)
    return noise["guess"] / len(seen), noise["guess"] / noise["start"], distance / (len(seen) * network.start.numel() * network.scale.item() ** 2)


def learn(sd, cfg):
    """The hypernetwork, on everyone in the folder but the last twentieth (100 at most). Yields (sd, log) after each step; log has the
    loss and its two terms. H sees one picture of a person, and two others are denoised with its guess; of two pictures both are, and one
    alone twice. The file has the history of its training beside the weights: rows of step, the means of both terms since the row before,
    and what of_strangers found."""
    state, result = Path(cfg.out) / "state.safetensors", Path(cfg.out) / "hypernetwork.safetensors"
    if not cfg.resume and (state.exists() or result.exists()):
        raise UserError(f"{cfg.out} has a hypernetwork already, or the state of one: --resume goes on, another --out begins anew")
    if cfg.resume and result.exists() and not state.exists():
        return
    saved = resumable(state, settings(cfg)) if cfg.resume else {}
    (z, rows), lidb, device = people(sd, cfg), LiDB(sd, cfg.a, cfg.b), sd.unet.conv_in.weight.device
    torch.manual_seed(cfg.seed)
    kept = min(100, max(1, len(rows) // 20))
    everyone, strangers = [*rows.values()][:-kept], [*rows.values()][-kept:]
    network, theta = Hypernetwork(len(lidb.layers), cfg.a + cfg.b, z.shape[1], z.shape[2], cfg.width, cfg.iterations).to(device), None
    if cfg.beta:
        if len(everyone) < 2:
            raise UserError(f"--beta {cfg.beta}: the distance is measured by how far people are apart, and of {len(rows)} only "
                            f"{len(everyone)} is learned from")
        theta = found_thetas(cfg, lidb, rows)
        network.start.copy_(theta[:-kept].mean(0))
        network.scale.copy_((theta[:-kept] - network.start.cpu()).std())
    weights = {"hypernetwork": [*network.parameters()]}
    optimizer = torch.optim.AdamW(weights["hypernetwork"], lr=cfg.lr, weight_decay=0.01, fused=True)
    if saved:
        load_state(state, weights, optimizer)
    history, terms = saved.get("history", []), []
    for step in range(saved.get("step", 0), cfg.steps):
        chance = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)  # a step's chance is its own: resuming needs no more
        who = torch.randint(len(everyone), (cfg.batch_size,), generator=chance).tolist()
        views = [[everyone[i][j] for j in torch.randperm(len(everyone[i]), generator=chance)] for i in who]
        guess = network(z[[own[0] for own in views]].to(device))
        drawn = z[[own[view % len(own)] for own in views for view in (1, 2)]]
        noise = noise_with(sd, cfg, lidb, guess.repeat_interleave(2, 0), drawn, chance)
        distance = F.mse_loss(guess, theta[who].to(guess)) / network.scale ** 2 if cfg.beta else torch.zeros(())
        loss = noise + cfg.beta * distance
        loss.backward()
        norm = nn.utils.clip_grad_norm_(weights["hypernetwork"], 1.0)
        if not (loss.isfinite() and norm.isfinite()):
            raise UserError(f"the loss, {loss.item()}, or its gradient is not finite at step {step + 1}: start again with a lower --lr")
        for group in optimizer.param_groups:  # up over the first 100 steps, down over the second half
            group["lr"] = cfg.lr * min(1, (step + 1) / 100, 2 * (cfg.steps - step) / cfg.steps)
        optimizer.step()
        optimizer.zero_grad()
        terms.append((noise.item(), distance.item()))
        if (step + 1) % cfg.save_every == 0 or step + 1 == cfg.steps:
            found = of_strangers(sd, cfg, lidb, network, z, [own[0] for own in strangers], [own[-1] for own in strangers],
                                 theta[-kept:] if cfg.beta else None)
            history.append([step + 1, *(sum(term) / len(terms) for term in zip(*terms)), *found])
            terms = []
            if step + 1 < cfg.steps:
                save_state(state, weights, optimizer, step=step + 1, settings=settings(cfg), history=history)
            print(f"{step + 1:7d}/{cfg.steps}  {len(strangers)} strangers: noise loss {found[0]:.4f}, {found[1]:.4f} of the start's"
                  f"{f', distance {found[2]:.3f}' if cfg.beta else ''}", flush=True)
        yield sd, {"step": step + 1, "of": cfg.steps, "loss": loss.item(), "noise": noise.item(), "distance": distance.item()}
    network.save(result, cfg, lidb, history)
    state.unlink(missing_ok=True)


# === 3. one person ====================================================================================================

def predicted(sd, cfg, lidb, photo):
    """theta of the hypernetwork for one picture, (layers, a + b); from a person's own file; or 0 without either."""
    device, path = sd.unet.conv_in.weight.device, Path(cfg.hypernetwork or HYPERNETWORK)
    if cfg.hypernetwork == "none":
        return torch.zeros(len(lidb.layers), cfg.a + cfg.b, device=device)
    if not cfg.hypernetwork and (not path.exists() or Path(cfg.model).resolve() != Path(TINY).resolve()):
        raise UserError("--hypernetwork is missing: train one (--task learn), or go without: --hypernetwork none")
    tensors, about = load_tensors(path)
    if "theta" in tensors:
        check_purpose(path, about, cfg, lidb)
        return tensors["theta"].to(device)
    network, z = Hypernetwork.load(path, cfg, lidb).to(device), encode(sd, cfg, [square(photo, cfg.size)])[0]
    if network.config["side"] != z.shape[-1]:
        raise UserError(f"{path} looks at pictures of {network.config['side'] * sd.vae.factor} pixels, not --size {cfg.size}")
    with torch.no_grad():
        return network(z * sd.vae.config.scaling_factor)[0]


def train(cfg):
    """Fast finetuning. Yields (sd, log), first with the hypernetwork's weights alone, then after every step. sd draws as the model does
    at that moment, though the changes stand beside its weights; log has the step and the loss; the first one has the settled Config,
    the photo, the LiDB, theta and the LoRA."""
    device = pick_device(cfg.device)
    sd = StableDiffusion.from_pretrained(cfg.model, device)
    cfg = settle(cfg, sd)
    path = Path(cfg.images)
    photo = load_pictures(path, most=1)[0] if path.is_dir() else open_picture(path)
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    for part in (sd.unet, sd.text, sd.vae):
        part.requires_grad_(False)
    lidb = LiDB(sd, cfg.a, cfg.b)
    theta = predicted(sd, cfg, lidb, photo)
    chance = torch.Generator().manual_seed(cfg.seed)
    lora = {name: (torch.randn(layer.in_features, cfg.rank, generator=chance).div(layer.in_features ** 0.5).to(device).requires_grad_(True),
                   torch.zeros(cfg.rank, layer.out_features, device=device, requires_grad=True)) for name, layer in lidb.layers.items()}
    lidb.added = [lidb.factors(theta), lora]
    yield sd, {"step": 0, "cfg": cfg, "photo": photo, "lidb": lidb, "theta": theta, "lora": lora}

    mean, std = encode(sd, cfg, [square(photo, cfg.size)])                                 # (1, 4, y, x) each
    trained = [factor for pair in lora.values() for factor in pair]
    optimizer = torch.optim.AdamW(trained, lr=cfg.lr)
    sd.unet.checkpointing = sd.large
    for step in range(cfg.steps):
        z = (mean + std * torch.randn(cfg.batch_size, *mean.shape[1:], generator=chance).to(mean)) * sd.vae.config.scaling_factor
        with precision(sd, cfg):
            words = sd.read([f"a {cfg.token} {cfg.class_name}"]).expand(cfg.batch_size, -1, -1)
            loss = noise_loss(sd, z, words, chance)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, float("inf"))
        if not (loss.isfinite() and norm.isfinite()):  # before the step: nothing has been touched by it
            raise UserError(f"the loss, {loss.item()}, or its gradient is not finite at step {step + 1}: try a lower --lr")
        optimizer.step()
        optimizer.zero_grad()
        yield sd, {"step": step + 1, "loss": loss.item()}
    sd.unet.checkpointing = False


# === the result =======================================================================================================

def save_lora(added, path):
    """All that is added to the layers as one LoRA file, in kohya's names, which A1111, ComfyUI and diffusers read."""
    tensors = {}
    for name in added[0]:
        stem = name.replace("unet.", "lora_unet_", 1).replace("text_encoder.", "lora_te_", 1).replace(".", "_")
        down = torch.cat([factors[name][0].T for factors in added])                        # (r, n)
        up = torch.cat([factors[name][1].T for factors in added], dim=1)                   # (m, r)
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(float(len(down)))}
    save_tensors(tensors, path)


def pictures(sd, cfg):
    """{prompt: pictures}: the questions of PROMPTS about the person, then the person by itself."""
    prompts = [*(p.format(f"{cfg.token} {cfg.class_name}") for p in PROMPTS), f"a {cfg.token} {cfg.class_name}"]
    images = 2 if cfg.size < 256 else 1
    how = dict(images=images, steps=cfg.sampling_steps, guidance=cfg.guidance, sampler="dpm++", seed=cfg.seed, size=cfg.size)
    drawn = [sd.sample(prompt, **how) for prompt in tqdm(prompts, "pictures", disable=not sys.stderr.isatty(), leave=False)]
    return dict(zip(prompts, drawn))


def personalise(cfg):
    for sd, log in train(cfg):
        if log["step"] == 0:
            cfg, photo, lidb, theta = log["cfg"], log["photo"], log["lidb"], log["theta"]
            print(f"hyperdreambooth: one picture of {cfg.images}, a {cfg.class_name} | LiDB: {theta.numel():,} numbers in {len(lidb.layers)} layers, "
                  f"hypernetwork: {cfg.hypernetwork or HYPERNETWORK.name} | finetuning a LoRA of rank {cfg.rank} | {theta.device}",
                  flush=True)
            everything, lidb.added = lidb.added, []
            with precision(sd, cfg):
                drawn = {"before": pictures(sd, cfg)}
                lidb.added = everything
                if theta.any():
                    drawn["the hypernetwork alone"] = pictures(sd, cfg)
        elif log["step"] % 10 == 0:
            print(f"step {log['step']:3d}/{cfg.steps}  loss {log['loss']:.4f}", flush=True)
    out = Path(cfg.out)
    save_tensors({"theta": theta}, out / "lidb.safetensors", {"purpose": json.dumps(purpose(cfg, lidb))})
    save_lora(lidb.added, out / "pytorch_lora_weights.safetensors")
    if cfg.steps:
        with precision(sd, cfg):
            drawn[f"{cfg.steps} steps of finetuning"] = pictures(sd, cfg)
    rows = [("the picture", [square(photo, cfg.size)])]
    for prompt in drawn["before"]:
        rows.append((f'"{prompt}"     {"  |  ".join(drawn)}', [one for of in drawn.values() for one in (*of[prompt], None)]))
    sheet(rows).save(out / "before_after.png")
    print(f"the weights: {out / 'pytorch_lora_weights.safetensors'}\nthe picture: {out / 'before_after.png'}")


def main(cfg):
    if cfg.task == "personalise":
        return personalise(cfg)
    sd = StableDiffusion.from_pretrained(cfg.model, pick_device(cfg.device))
    cfg, mean, result = settle(cfg, sd), {}, {"optimise": "theta", "learn": "hypernetwork.safetensors"}[cfg.task]
    for part in (sd.unet, sd.text, sd.vae):
        part.requires_grad_(False)
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    sd.unet.checkpointing = sd.large
    for i, (_, log) in enumerate({"optimise": optimise, "learn": learn}[cfg.task](sd, cfg)):
        mean = {k: 0.99 * mean.get(k, v) + 0.01 * v for k, v in log.items()}
        if i % 100 == 99:
            print(f"{log['step']:7d}/{log['of']}  " + "  ".join(f"{k} {mean[k]:.4f}" for k in mean if k not in ("step", "of")), flush=True)
    print(f"done: {Path(cfg.out) / result}")


# --- the same in every method script (tests/test_truth.py) ------------------------------------------------------------

def parse_config():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(Config):  # every field of Config is a flag with its type and default
        kind = dict(action=argparse.BooleanOptionalAction) if f.type is bool else dict(type=f.type)
        text = "by the model's size" if f.default is None else str(f.default)
        p.add_argument("--" + f.name.replace("_", "-"), default=f.default, help=f"default: {text}", **kind)
    return Config(**vars(p.parse_args()))


if __name__ == "__main__":
    run(lambda: main(parse_config()))
