"""HyperDreamBooth (Ruiz et al., CVPR 2024, arXiv 2307.06949): a network that looks at one photo and
writes the weights.

    python hyperdreambooth.py                the tiny world's face, from one picture
    python hyperdreambooth.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --images me.png --class-name face --hypernetwork FILE   (of learn_hypernetwork.py; or none)

The idea: DreamBooth starts every subject from nothing. But faces are alike, and so are the changes
that teach a model a face: after a thousand of them a network can guess the next one. Three parts,
in the order of this file:

1. LiDB ("lightweight DreamBooth"), a change so small that a network can write it. Beside a layer
   x W stands a product of rank 1,

       x W  becomes  x W + x A B,       A = A_aux A_train,          B = B_train B_aux
                                      (d_in, a) (a, 1)             (1, b) (b, d_out)

   where A_aux and B_aux are random, orthogonal and frozen: nothing of them has to be kept. With
   a = 100 and b = 50 a layer has 150 trained numbers, theta, and Stable Diffusion's 192 layers
   28,800 (115 kB) where DreamBooth trains 859,520,964.

2. The hypernetwork H: from one photo to theta. An encoder turns the photo into a vector f, once; a
   decoder T, which has a token for each layer, looks at it and at its own last guess, k times:
   theta_i = theta_i-1 + T(f, theta_i-1) / k. It was learned once from many people, by
   learn_hypernetwork.py.

3. Fast finetuning: theta is right in the large and wrong in the small. So a LoRA of a higher rank
   ("rank-relaxed") is put beside it, and that is trained for 40 steps (30 in the tiny world) on the
   one photo, by the ordinary loss of the model:

       loss = E |eps - eps_theta(x_t, t, "a sks face")|^2

    trained   the LoRA, A (d_in, r) and B (r, d_out) of every LiDB layer
    frozen    everything else, the hypernetwork too
    letters   as in tiny_unet.py, and: a, b  as above    r  rank    j  layers    w  width of the
              hypernetwork    q  a + b    p  pictures of a batch, as b is the paper's here

Follows the paper: a, b, rank 1, several guesses from one look at the photo, a decoder of 2 layers,
a head for each layer, 40 steps. Not given in what can be read of it, and chosen here: which layers
(those of lora_dreambooth.py), 4 guesses, the LoRA's rank, all learning rates. A_train starts as a
constant and theta is the change from there: were A and B both zero, neither would receive a
gradient.
Different: theta's change stands beside the weights (a hook), where the paper adds it to them; the
sums are the same. The heads are used in every round, as the next one looks at the numbers, and a
round changes them by 1 / k of what it says; in the paper only tokens go round. f is added to all
tokens, where the paper sets it before them, and comes from a small transformer on the VAE's latent,
trained along, instead of a ViT-H: no second download.
(Of the two public ports one, MFaceTech's, lets the decoder look at all vectors of a frozen ViT; the
other, HyperKohaku, has a = 96, b = 48 and no finetuning.)
Not here: finding the face in a photo and cropping it, a frozen image encoder.
"""
import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from command import (check_at_least, check_machine, check_positive, check_size, check_subject,
                     check_words, fill_in, parse_flags, pick_device, pick_dtype, progress, read_log,
                     run, watch)
from files import (UserError, claim, load_metadata, load_weights, read_metadata, save_tensors,
                   shown)
from lora_dreambooth import adapted_layers, start_lora
from lora_file import save_lora
from optimizer import AdamW
from pictures import load_pictures, open_picture, save_picture, sheet, square, warn_of_small
from stable_diffusion import SUBJECTS, TINY, StableDiffusion


@dataclass
class Config:
    model: str = TINY                 # a diffusers folder, a .safetensors file, or a hub name
    revision: str = ""                # branch or commit of a model on the hub
    variant: str = ""                 # fp16: the weights' files of that name
    images: str = ""                  # a picture, or a folder whose first one is taken; "": the
                                      # tiny world's face
    class_name: str = ""              # what the hypernetwork was trained on
    token: str = "sks"                # the identifier, the same one for all
    hypernetwork: str = ""            # its file, or its guess for someone, lidb.safetensors; "":
                                      # the tiny world's; "none": neither
    steps: int = None                 # of the finetuning; 0: the guess alone
    lr: float = None                  # 10 times more: a copy of the photo; 10 times less: the guess
                                      # stays as it is
    batch_size: int = None            # noise levels of the one photo in a step
    rank: int = 4                     # of the LoRA; 1 is too stiff for details
    a: int = 100                      # width of A_train, as the hypernetwork was trained with
    b: int = 50                       # width of B_train, the same
    size: int = None                  # side of the pictures in pixels; None: the model's own
    sampling_steps: int = None        # for the pictures before and after
    guidance: float = None            # the model's
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"               # float32, bfloat16 or float16, in which a GPU computes
                                      # faster; theta and the LoRA stay
                                      # float32
    out: str = "runs/hyperdreambooth"


SETTINGS = {  # for None: the tiny world's, Stable Diffusion's (from 100 million parameters on)
    "steps":            (30,         40),
    "lr":               (2e-3,       1e-4),
    "batch_size":       (8,          1),
    "sampling_steps":   (10,         25),
}
HYPERNETWORK = Path(__file__).parent / "tiny_world" / "hypernetwork.safetensors"  # for its faces

# What the result must be able to do: another place, another style, an accessory.
PROMPTS = ("a {} in the snow", "a watercolour painting of a {}", "a {} wearing a santa hat")


# === the method: LiDB =============================================================================

def orthogonal(rows, columns, generator):
    """Random columns of length 1 at right angles to each other. Computed in float64: rounded to
    float32 they are the same on every machine."""
    matrix = torch.empty(rows, columns, dtype=torch.float64)
    return nn.init.orthogonal_(matrix, generator=generator).float()


class LiDB:
    """The layers that change, their frozen directions, and what is added to their outputs at the
    moment.

    `added` is a list of {layer: (A, B)}: a layer's output gets x A B for each, with A (d_in, r) and
    B (r, d_out), or A (p, d_in, r) and B (p, r, d_out) to give every picture of the batch its
    own."""

    def __init__(self, sd, a=100, b=50):
        self.a, self.b, self.layers, self.added = a, b, adapted_layers(sd), []
        narrowest_in = min(layer.in_features for layer in self.layers.values())
        narrowest_out = min(layer.out_features for layer in self.layers.values())
        if a > narrowest_in or b > narrowest_out:
            raise UserError(f"--a {a} --b {b}: at most {narrowest_in} and {narrowest_out}, the "
                            "width of the model's narrowest layers")
        generator, self.aux = torch.Generator().manual_seed(0), {}  # the same for everyone, always
        for name, layer in self.layers.items():
            A_aux = orthogonal(layer.in_features, a, generator)                # (d_in, a)
            B_aux = orthogonal(layer.out_features, b, generator).T             # (b, d_out)
            self.aux[name] = A_aux.to(sd.device), B_aux.to(sd.device)
            layer.register_forward_hook(partial(self.add_products, name))

    def add_products(self, name, layer, inputs, output):
        [x] = inputs                                                 # (p, l, d_in)
        for factors in self.added:
            A, B = (factor.to(x.dtype) for factor in factors[name])  # (d_in, r), (r, d_out)
            output = output + x @ A @ B                              # (p, l, d_out)
        return output

    def factors(self, theta):
        """theta (j, a + b), or (p, j, a + b) for p pictures -> {layer: (A, B)}. theta = 0 is
        A_train = 1 / sqrt(a), B_train = 0: it changes nothing, and has a gradient."""
        A_train = theta[..., :self.a, None] + self.a ** -0.5         # (j, a, 1)
        B_train = theta[..., None, self.a:]                          # (j, 1, b)
        factors = {}
        for i, (name, (A_aux, B_aux)) in enumerate(self.aux.items()):
            factors[name] = A_aux @ A_train[..., i, :, :], B_train[..., i, :, :] @ B_aux
        return factors


# === the method: the hypernetwork =================================================================

class Hypernetwork(nn.Module):
    """One picture's latent to theta, a row of a + b numbers (the payload) for each of j layers. The
    latent is cut into a grid of 8 x 8 patches. Inside, all is measured from `mean` and in units of
    `scale`: 0 and 0.05, or the mean and the standard deviation of the thetas that it learns from
    (learn_hypernetwork.py, --beta)."""

    def __init__(self, layers, payload, channels, side, width=128, iterations=4):
        super().__init__()
        if not 1 <= iterations <= 64:
            raise ValueError(f"{iterations} iterations")
        self.config = {"layers": layers, "payload": payload, "channels": channels, "side": side,
                       "width": width, "iterations": iterations}
        self.patch_embed = nn.Conv2d(channels, width, side // 8, stride=side // 8)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(64, width))
        self.encoder = self.transformer(width, depth=2)
        self.to_face = nn.Sequential(nn.Linear(width, width // 4), nn.Flatten(),
                                     nn.Linear(64 * (width // 4), width))
        self.weight_embed = nn.Linear(payload, width)
        self.layer_embed = nn.Parameter(0.02 * torch.randn(layers, width))
        self.decoder = self.transformer(width, depth=2)  # the paper's word; it has no mask
        self.heads = nn.Parameter(0.1 * torch.randn(layers, width, payload))   # one a layer
        self.register_buffer("mean", torch.zeros(layers, payload))
        self.register_buffer("scale", torch.tensor(0.05))

    @staticmethod
    def transformer(width, depth):
        block = nn.TransformerEncoderLayer(width, width // 32, 2 * width, 0.0, "gelu",
                                           batch_first=True, norm_first=True)
        return nn.TransformerEncoder(block, depth, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, z):  # (p, c, y, x) -> (p, j, a+b)
        patches = self.patch_embed(z).flatten(2).transpose(1, 2)               # (p, 64, w)
        f = self.to_face(self.encoder(patches + self.pos_embed))[:, None]      # (p, 1, w), once
        theta = torch.zeros(len(z), *self.mean.shape, device=z.device)         # (p, j, a+b)
        for _ in range(self.config["iterations"]):  # theta_i = theta_i-1 + T(f, theta_i-1) / k
            tokens = self.decoder(f + self.layer_embed + self.weight_embed(theta))  # (p, j, w)
            change = torch.einsum("pjw,jwq->pjq", tokens, self.heads) * tokens.shape[-1] ** -0.5
            theta = theta + change / self.config["iterations"]  # as far in k rounds as in one
        return self.mean + self.scale * theta


def purpose(sd, cfg):
    """What a theta is for: of another model, sentence or LiDB it means nothing."""
    return {"model": sd.fingerprint(), "layers": len(sd.lidb.layers), "a": cfg.a, "b": cfg.b,
            "class_name": cfg.class_name, "token": cfg.token}


def check_purpose(path, sd, cfg):
    """Refuses a file of thetas, or of a network that writes them, that is for something else."""
    then, now = read_metadata(path, "purpose"), purpose(sd, cfg)
    if wrong := [f"{name} {shown(then.get(name))}, and this is {now[name]}" for name in now
                 if then.get(name) != now[name]]:
        raise UserError(f"{path} is for {'; '.join(wrong)}: this needs another one")


def load_hypernetwork(path, sd, cfg):
    check_purpose(path, sd, cfg)
    settings, tensors = read_metadata(path, "network"), load_weights(path)
    try:
        with torch.device("meta"):  # no memory yet: the file's own tensors will be the weights
            network = Hypernetwork(**settings)
        network.load_state_dict(tensors, assign=True)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"{path} holds no network that can be built ({shown(error)})") from None
    return network.float().to(sd.device).eval()


@torch.no_grad()
def predict_theta(sd, cfg, photo):
    """theta (j, a + b): what the hypernetwork guesses for a photo; what it guessed before, from a
    person's own file; or 0 without either."""
    path, shape = Path(cfg.hypernetwork or HYPERNETWORK), (len(sd.lidb.layers), cfg.a + cfg.b)
    if cfg.hypernetwork == "none":
        return torch.zeros(shape, device=sd.device)
    if "network" not in load_metadata(path):
        guess = load_weights(path)
        if "theta" not in guess or guess["theta"].shape != shape:
            raise UserError(f"{path} holds no hypernetwork, and no guess of one")
        check_purpose(path, sd, cfg)
        return guess["theta"].to(sd.device)
    network = load_hypernetwork(path, sd, cfg)
    with sd.autocast(cfg.dtype):
        mean, _ = sd.encode([square(photo, cfg.size)])
    if network.config["side"] != mean.shape[-1]:
        raise UserError(f"{path} looks at pictures of {network.config['side'] * sd.vae.factor} "
                        f"pixels, not --size {cfg.size}")
    return network(mean.to(sd.device) * sd.vae.config.scaling_factor)[0]


# === the method: fast finetuning ==================================================================

def noise_loss(sd, z, words, generator, lowest_t=0):
    """The ordinary loss, for t from lowest_t on. z: latents of pictures (p, c, y, x); words:
    prompts' vectors (p, l, d)."""
    eps = torch.randn(z.shape, generator=generator)                   # noise it
    t = torch.randint(lowest_t, sd.schedule.T, (len(z),), generator=generator)
    x_t, target = sd.schedule.add_noise(z, eps, t), sd.schedule.target(z, eps, t)
    x_t, target = torch.stack([x_t, target]).to(sd.device)            # to a GPU in one copy
    output = sd.unet(x_t, t.to(sd.device), words)                     # predict
    return F.mse_loss(output.float(), target)                         # compare


# === before training ==============================================================================

def prepare(cfg):
    """Everything that can be refused is refused here, and what needs no model before one is loaded.
    Returns the model, with a LiDB beside its layers that holds the hypernetwork's guess (sd.lidb),
    the Config with nothing left open, and the one photo in a list."""
    check_subject(cfg)
    check_at_least(cfg, 0, "steps")
    check_at_least(cfg, 1, "batch_size", "rank", "a", "b", "sampling_steps")
    check_positive(cfg, "lr")
    check_machine(cfg)
    if not cfg.images:
        cfg = replace(cfg, images=str(SUBJECTS / "face"), class_name="face")
    images = Path(cfg.images)
    photos = load_pictures(images, most=1) if images.is_dir() else [open_picture(images)]
    if not cfg.hypernetwork and Path(cfg.model).resolve() != Path(TINY).resolve():
        raise UserError("--hypernetwork is missing: learn_hypernetwork.py makes one; "
                        "--hypernetwork none goes without")
    if cfg.hypernetwork not in ("", "none"):
        load_metadata(cfg.hypernetwork)
    claim(cfg.out)
    device = pick_device(cfg.device)
    sd = StableDiffusion.from_pretrained(cfg.model, revision=cfg.revision, variant=cfg.variant)
    cfg = fill_in(cfg, SETTINGS, sd.large, size=sd.size, guidance=sd.guidance)
    cfg = replace(cfg, dtype=pick_dtype(cfg.dtype, device))
    check_size(cfg.size, sd.vae.factor, 2 * sd.vae.factor)
    warn_of_small(photos, cfg.size)
    check_words(cfg, sd.tokenizer, "class_name", "token")
    sd.freeze()
    sd.place(device, cfg.dtype)  # what is not trained lies as it is computed with
    sd.lidb = LiDB(sd, cfg.a, cfg.b)
    sd.lidb.theta = predict_theta(sd, cfg, photos[0])
    sd.lidb.added = [sd.lidb.factors(sd.lidb.theta)]
    return sd, cfg, photos


# === training =====================================================================================

def train(sd, cfg, photos):
    """Fast finetuning: puts a LoRA beside theta, trains it, and yields {step, loss} after each
    step. sd draws as the model is at that moment, though the changes stand beside its weights."""
    generator = torch.Generator().manual_seed(cfg.seed)
    lora = start_lora(sd.lidb.layers, cfg.rank, generator)
    sd.lidb.added.append(lora)
    with sd.autocast(cfg.dtype):
        mean, std = sd.encode([square(photos[0], cfg.size)])                   # (1, c, y, x) each
        mean = mean.expand(cfg.batch_size, -1, -1, -1)                         # (p, c, y, x)
    tokens = sd.tokenizer([f"a {cfg.token} {cfg.class_name}"]).to(sd.device)   # (1, l)

    trained = [factor for factors in lora.values() for factor in factors]
    optimizer = AdamW(trained, cfg.lr, dtype=cfg.dtype)
    sd.unet.checkpointing = sd.large
    sd.set_aside(sd.vae)
    for step in range(cfg.steps):
        z = sd.draw_latents(mean, std, generator)                              # (p, c, y, x)
        with sd.autocast(cfg.dtype):
            words = sd.text(tokens)                                            # (1, l, d)
            loss = noise_loss(sd, z, words.expand(cfg.batch_size, -1, -1), generator)
        optimizer.backward(loss)
        yield read_log(cfg, step + 1, optimizer.step(), loss=loss)
    sd.unet.checkpointing = False
    sd.take_back()


# === the command ==================================================================================

def merge_factors(added):
    """All that is added to a layer as one LoRA, {layer: (down (r, d_in), up (d_out, r))}: ranks add
    up."""
    merged = {}
    for name in added[0]:
        down = torch.cat([factors[name][0].T for factors in added])
        up = torch.cat([factors[name][1].T for factors in added], dim=1)
        merged[name] = down, up
    return merged


def draw_prompts(sd, cfg):
    """{prompt: pictures}: the questions of PROMPTS about the person, then the person by itself."""
    person = f"{cfg.token} {cfg.class_name}"
    prompts = [prompt.format(person) for prompt in PROMPTS] + [f"a {person}"]
    how = {"sampler": "dpm++", "steps": cfg.sampling_steps, "guidance": cfg.guidance,
           "seed": cfg.seed, "size": cfg.size, "images": 2 if cfg.size < 256 else 1}
    with sd.autocast(cfg.dtype):
        return {prompt: sd.sample(prompt, **how) for prompt in progress(prompts, "prompts drawn")}


def main(cfg):
    sd, cfg, photos = prepare(cfg)
    lidb, out, drawn = sd.lidb, Path(cfg.out), {}
    print(f"hyperdreambooth: one picture of a {cfg.class_name} | theta: {lidb.theta.numel():,} "
          f"numbers | training a LoRA of rank {cfg.rank} | {sd.device}", flush=True)

    squares, sentence = [square(photos[0], cfg.size)], f"a {cfg.token} {cfg.class_name}"
    guess, lidb.added = lidb.added, []
    drawn["before"], noise_before = draw_prompts(sd, cfg), sd.loss_by_noise(squares, sentence)
    lidb.added = guess
    if cfg.hypernetwork != "none":
        drawn["the hypernetwork alone"] = draw_prompts(sd, cfg)
    for log in watch(train(sd, cfg, photos), cfg.steps):
        pass
    about = {"purpose": json.dumps(purpose(sd, cfg))}
    save_tensors({"theta": lidb.theta}, out / "lidb.safetensors", about)
    save_lora(out / "pytorch_lora_weights.safetensors", merge_factors(lidb.added))
    if cfg.steps:
        drawn[f"{cfg.steps} steps of finetuning"] = draw_prompts(sd, cfg)

    rows = [("the picture", squares)]
    for prompt in drawn["before"]:
        row = [one for pictures in drawn.values() for one in (*pictures[prompt], None)]
        rows.append((f'"{prompt}"     {"  |  ".join(drawn)}', row))
    save_picture(sheet(rows), out / "before_after.png")
    noise_after = sd.loss_by_noise(squares, sentence)
    print(f"loss at little, middle and much noise: {noise_before} before, {noise_after} after")
    print(f"the weights: {out / 'pytorch_lora_weights.safetensors'}\n"
          f"the picture: {out / 'before_after.png'}")


if __name__ == "__main__":
    run(lambda: main(parse_flags(Config, __doc__, SETTINGS)))
