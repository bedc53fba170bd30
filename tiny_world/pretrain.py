"""Trains the tiny world's base model from nothing: python -m tiny_world.pretrain

    tokenizer    byte-pair merges from the world's captions and a page of English        seconds
    pictures     drawn once, kept in runs/pretrain                                       minutes
    vae          pictures <-> latents                                                    an hour
    diffusion    text encoder and UNet together, with EMA, from random weights           many hours
                 or from those of another model, which may be narrower (--start)

With means over all numbers, y a picture x after encoder and decoder, and v, x_t as in ddpm.py,

    vae          loss = (y - x)^2 + 0.1 |y - x| + 1e-4 KL,   KL = (mean^2 + std^2 - 1) / 2 - log std
    diffusion    loss = (v - v_theta(x_t, t, words))^2 - align * `alignment` with the judge
    EMA          shadow <- keep * shadow + (1 - keep) * weights,  keep = 0.999 but for the beginning

Every random choice of a step comes from (seed, step), and the state is saved every few minutes by
writing beside and renaming: with --resume a run that was killed at any moment ends in the same bits
as one that was not. Every hour and at the end the model, a grid of samples and what the critic says
are written. The result is a folder in the public layout, as the chapters load it:
runs/pretrain/model. What the one that is shipped, tiny_world/model, came from, what it cost and how
it does is in tiny_world/README.md.
"""
import collections
import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from clip_text import BYTES, END, START, CLIPText, CLIPTextConfig, Tokenizer, words
from command import check_state, parse_flags, read_state, run, write_state
from files import UserError, beside, save_text
from ddpm import ScheduleConfig
from pictures import sheet
from stable_diffusion import TINY, StableDiffusion
from tiny_unet import Attention, UNet, UNetConfig
from tiny_world.draw import draw, draw_all
from tiny_world.examine import Figures, examine
from tiny_world.judge import HALF_IS_FAST, Judge, as_input
from tiny_world.widen import Widening
from tiny_world.world import CLASSES, FILLERS, IDENTIFIERS, caption, random_scene
from vae import VAE, VAEConfig

HERE = Path(__file__).parent


@dataclass
class Config:
    work: str = "runs/pretrain"    # pictures, latents, the state to resume from, sample grids
    out: str = ""                  # the checkpoint, in the public layout; "": model in `work`
    vae: str = ""                  # a model whose tokenizer and autoencoder are taken; "": new ones
    start: str = ""                # a model that training goes on from, widened if it is narrower
    pictures: int = 300_000        # drawn once and used several times, each with a new caption
    vae_steps: int = 20_000
    vae_batch: int = 8             # many small steps: a picture has thousands of pixels
    vae_lr: float = 2e-3
    steps: int = 32_000
    batch: int = 64
    lr: float = 2e-3               # of the diffusion stage, whose optimizer is Muon
    align: float = 0.5             # weight of `alignment` with the judge; 0: without
    align_steps: int = 8_000       # steps with `alignment`; it helps at first
    warmup: int = 500
    decay: float = 0.25            # share of the steps that bring the learning rate down to zero
    ema: float = 0.999
    empty: float = 0.1             # captions replaced by "": guidance needs pictures without words
    save_minutes: float = 10.0
    device: str = "cpu"            # cuda: a larger --batch fills it
    dtype: str = "auto"            # bfloat16 where that is fast, or float32
    seed: int = 0
    resume: bool = False           # go on from the state in `work`
    examine: bool = False          # train nothing; examine the model in `out`, or the shipped one
    json: str = ""                 # write the examination to this file too


VAE_CONFIG = VAEConfig(block_out_channels=(24, 64, 64), latent_channels=8, layers_per_block=1,
                       norm_num_groups=8)
TEXT_CONFIG = CLIPTextConfig(hidden_size=128, intermediate_size=384, num_hidden_layers=4,
                             num_attention_heads=4, max_position_embeddings=32)
UNET_CONFIG = UNetConfig(
    sample_size=16, in_channels=8, out_channels=8, block_out_channels=(96, 160, 224),
    layers_per_block=1, attention_head_dim=4, cross_attention_dim=128, norm_num_groups=16,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))
# The schedule ends in nothing but noise, from which no eps tells x_0: so v, and samplers that begin
# at T - 1 ("trailing").
SCHEDULE_CONFIG = ScheduleConfig(
    beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
    prediction_type="v_prediction", set_alpha_to_one=False, steps_offset=1,
    timestep_spacing="trailing", rescale_betas_zero_snr=True)


def scene(cfg, i):
    """Training picture number i: always the same."""
    return random_scene(np.random.default_rng([cfg.seed, i]))


# === tokenizer ====================================================================================

def learn_merges(text, n):
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1): n times, merge the most frequent pair
    of neighbours."""
    counts = collections.Counter(words(text))
    parts = {w: [BYTES[b] for b in w.encode()] for w in counts}
    for p in parts.values():
        p[-1] += "</w>"
    merges = []
    for _ in range(n):
        pairs = collections.Counter()
        for w, p in parts.items():
            for pair in zip(p, p[1:]):
                pairs[pair] += counts[w]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))  # ties by the alphabet
        merges.append(best)
        for w, p in parts.items():
            i = 0
            while i < len(p) - 1:
                if (p[i], p[i + 1]) == best:
                    p[i:i + 2] = ["".join(best)]
                i += 1
    return merges


def make_tokenizer(cfg):
    """Whole words for what captions say and for common English; the identifiers are single tokens
    too, so that a method can bind one, though no caption has any."""
    rng = np.random.default_rng(cfg.seed)
    captions = [caption(scene(cfg, i), rng) for i in range(3000)]
    english = (HERE / "english.txt").read_text("utf-8")
    merges = learn_merges(" ".join([english] * 10 + captions + list(IDENTIFIERS) * 50), 1150)
    alphabet = list(BYTES.values())
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    tokens += ["".join(pair) for pair in merges] + [START, END]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return Tokenizer(vocabulary, merges, TEXT_CONFIG.max_position_embeddings)


# === pictures =====================================================================================

def make_pictures(cfg, work):
    """(pictures, 64, 64, 3) bytes, drawn on all cores."""
    path = work / "pictures.npy"
    if path.exists() and are_of(cfg, np.load(path, mmap_mode="r")):
        return np.load(path, mmap_mode="r")
    start, shape = time.time(), (cfg.pictures, 64, 64, 3)
    with beside(path) as place:
        pictures = np.lib.format.open_memmap(place, "w+", np.uint8, shape)
        for i, picture in enumerate(draw_all(scene(cfg, i) for i in range(cfg.pictures))):
            pictures[i] = picture
        pictures.flush()
    print(f"pictures: {cfg.pictures} drawn in {time.time() - start:.0f} s", flush=True)
    return np.load(path, mmap_mode="r")


def are_of(cfg, pictures):
    """Are pictures that were drawn before of the same scenes, and drawn by the same code?"""
    some = range(0, cfg.pictures, cfg.pictures // 20 + 1)
    return len(pictures) == cfg.pictures and all(
        np.array_equal(pictures[i], draw(scene(cfg, i))) for i in some)


# === what both stages share =======================================================================

def autocast(cfg):
    """The context in which networks compute in bfloat16, if that is what the Config says."""
    return torch.autocast(cfg.device, torch.bfloat16, enabled=cfg.dtype == "bfloat16")


def settings(cfg, names):
    """What a stage's result depends on: it can only be resumed with the same."""
    return {name: getattr(cfg, name) for name in ("pictures", "warmup", "decay", "seed", *names)}


def learning_rate(cfg, step, steps, peak):
    """Up over `warmup` steps, level, and down to zero over the last `decay` of them."""
    return peak * min(1.0, (step + 1) / cfg.warmup, (steps - step) / (cfg.decay * steps))


def resume(cfg, state, about, weights, optimizer, steps):
    """The numbers of an earlier start's state, whose weights are put in place."""
    if not (cfg.resume and state.exists()):
        return {"step": 0, "seconds": 0.0}
    check_state(state, about)
    return read_state(state, weights, optimizer, steps)


# === the autoencoder ==============================================================================

def train_vae(cfg, work, pictures):
    torch.manual_seed(cfg.seed)
    vae, state = VAE(VAE_CONFIG).to(cfg.device), work / "vae.safetensors"
    weights = list(vae.parameters())
    optimizer = torch.optim.AdamW(weights, lr=cfg.vae_lr, weight_decay=1e-4, fused=True)
    about = settings(cfg, ("vae_steps", "vae_batch", "vae_lr"))
    numbers = resume(cfg, state, about, weights, optimizer, cfg.vae_steps)
    begin, mean_error, last_save = time.time() - numbers["seconds"], None, time.time()
    for step in range(numbers["step"], cfg.vae_steps):
        rng = np.random.default_rng([cfg.seed, 1, step])
        noise = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
        optimizer.param_groups[0]["lr"] = learning_rate(cfg, step, cfg.vae_steps, cfg.vae_lr)
        rows = np.sort(rng.integers(len(pictures), size=cfg.vae_batch))
        x = as_input(pictures[rows]).to(cfg.device)
        with autocast(cfg):
            mean, std = vae.encode(x)
            mean, std = mean.float(), std.float()
            y = vae.decode(mean + std * torch.randn(std.shape, generator=noise).to(std)).float()
        kl = 0.5 * (mean ** 2 + std ** 2 - 1 - 2 * std.log()).mean()
        error = F.mse_loss(y, x)
        loss = error + 0.1 * F.l1_loss(y, x) + 1e-4 * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        mean_error = 0.99 * (mean_error or error.item()) + 0.01 * error.item()
        if (step + 1) % 200 == 0:
            print(f"vae step {step + 1:5d}/{cfg.vae_steps}  mse {mean_error:.5f}  psnr "
                  f"{10 * np.log10(4 / mean_error):.1f} dB  kl {kl.item():.1f}  "
                  f"{(time.time() - begin) / 60:.0f} min", flush=True)
        if time.time() - last_save > 60 * cfg.save_minutes or step + 1 == cfg.vae_steps:
            write_state(state, about, weights, optimizer, step=step + 1,
                        seconds=time.time() - begin)
            last_save = time.time()
    return vae.eval()


@torch.no_grad()
def encode_all(cfg, work, vae, pictures):
    """All latents' means, fp16 (pictures, 8, 16, 16), and the factor that brings them to unit
    variance."""
    path = work / "latents.npy"
    if not (cfg.resume and path.exists() and len(np.load(path, mmap_mode="r")) == len(pictures)):
        vae, latents = vae.to(cfg.device), []
        for i in range(0, len(pictures), 250):
            with autocast(cfg):
                mean, _ = vae.encode(as_input(pictures[i:i + 250]).to(cfg.device))
            latents.append(mean.half().cpu().numpy())
        with beside(path) as place, open(place, "wb") as file:
            np.save(file, np.concatenate(latents))
    latents = torch.from_numpy(np.load(path))
    return latents, 1 / latents[:5000].float().std().item()


# === diffusion: the optimizer =====================================================================

def attention(q, k, v):
    """Written out: on a CPU in bfloat16 torch's own kernel takes a third of the whole step, this
    one a twentieth (torch 2.13)."""
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v


class Muon(torch.optim.AdamW):
    """AdamW, but matrices (groups with muon=True) step along the nearest orthogonal matrix to their
    momentum (Jordan et al. 2024; the factor makes a step as long as Adam's: Liu et al. 2025):

        M <- 0.95 M + 0.05 G                             G the gradient, (rows <= columns)
        O  = orthogonal(0.95 M + 0.05 G)                 U V^T of the decomposition U S V^T
        W <- (1 - lr * decay) W - lr * 0.2 sqrt(columns) O

    All singular values of a step are about 1: it is as long in the directions that gradients seldom
    have as in those that they always have. Here it learns in half the pictures."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = collections.defaultdict(list)  # one batched product for all of a shape
            for p in group["params"] if group["muon"] else ():
                if p.grad is None:  # of what is no longer trained
                    continue
                if not self.state[p]:  # AdamW looks for "step" in all states
                    self.state[p] = {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}
                momentum = self.state[p]["momentum"].lerp_(p.grad, 0.05)
                m = p.grad.lerp(momentum, 0.95).flatten(1)     # a convolution: (c_out, c_in*3*3)
                p.grad = None                                  # AdamW passes over p
                lying = m.T if m.shape[0] > m.shape[1] else m  # rows <= columns
                by_shape[lying.shape].append((p, lying))
            for (rows, columns), same in by_shape.items():
                x = self.orthogonal(torch.stack([lying for _, lying in same]))
                x = x * (-0.2 * columns ** 0.5 * group["lr"])
                for (p, _), change in zip(same, x):
                    if p.flatten(1).shape != change.shape:
                        change = change.T
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(change.reshape(p.shape))
        super().step()

    @staticmethod
    def orthogonal(x):  # (matrices, rows, columns), rows <= columns
        """Newton-Schulz: five times x <- p(S) x with S = x x^T, p(S) = 3.4445 - 4.775 S + 2.0315
        S^2, which pulls every singular value to about 1. S is smaller than x and tells how it goes
        on, so x is multiplied once, by all five."""
        x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
        square, one = x @ x.mT, torch.eye(x.shape[1], device=x.device)
        total = one
        for _ in range(5):
            p = 3.4445 * one - 4.7750 * square + 2.0315 * square @ square
            total, square = p @ total, p @ square @ p
        return total @ x


@torch.no_grad()
def loudness(sd, word):
    """How far a word (one token) before a noun takes what is read of the noun from what fillers
    make of it, as a share of what a colour does; the mean over all classes."""
    def nouns(word):
        return sd.read([f"a photo of a {word} {cls}" for cls in CLASSES])[:, 6]     # (classes, d)
    silent = torch.stack([nouns(filler) for filler in FILLERS]).mean(0)
    moved, by_colour = [(nouns(x) - silent).norm(dim=1).mean() for x in (word, "red")]
    return (moved / by_colour).item()


@torch.no_grad()
def quieten(sd, untouched):
    """Words that no caption had, `sks` among them, still have their first, very short vectors. Such
    a vector is read as a name, and all pictures of "a sks teapot" look alike. In the direction of
    the words that say nothing ("nice", "new") it is silent from some length on, and the longer, the
    longer it stays so, whatever a method does to it. So each identifier is made as short as it can
    be and say next to nothing (tiny_world/README.md)."""
    table, tokenizer = sd.text.table.weight.data, sd.tokenizer
    fillers = table[[i for word in FILLERS if len(ids := tokenizer.encode(word)) == 1 for i in ids]]
    eps = torch.randn(table.shape, generator=torch.Generator().manual_seed(0)).to(table)
    direction = F.normalize(fillers.mean(0) + fillers.std(0) * eps)
    table[untouched] = 0.9 * direction[untouched]
    for word in IDENTIFIERS:
        [i] = tokenizer.encode(word)
        for length in torch.arange(0.9, 0.5, -0.02):
            before, table[i] = table[i].clone(), length * direction[i]
            if loudness(sd, word) > 0.15:
                table[i] = before
                break


# === diffusion: the training ======================================================================

def distribution_of_t(T):
    """P(t' <= t) for each t, (T,). Most are in the middle, where it is decided what the picture
    shows: with u = t / T, four fifths logit-normal (Esser et al. 2024), one fifth uniform."""
    u = (torch.arange(T) + 0.5) / T
    density = torch.exp(-0.5 * torch.log(u / (1 - u)) ** 2) / (u * (1 - u))
    return torch.cumsum(0.8 * density / density.sum() + 0.2 / T, dim=0)


def start_networks(cfg, tokenizer, vae, scale):
    """The model with untrained text encoder and UNet, and the head that the judge's map is told
    from (see `alignment`)."""
    torch.manual_seed(cfg.seed)
    unet, text = UNet(UNET_CONFIG), CLIPText(replace(TEXT_CONFIG, vocab_size=len(tokenizer)))
    for name, p in text.named_parameters():
        if "embedding" in name:
            torch.nn.init.normal_(p, std=0.02)
    last = ("conv2.weight", "conv2.bias", "proj_out.weight", "proj_out.bias")
    for name, p in unet.named_parameters():
        if name.endswith(last) or name.startswith("conv_out"):
            torch.nn.init.zeros_(p)  # a residual step starts as nothing: faster and steadier
    if cfg.start:
        begun = StableDiffusion.from_pretrained(cfg.start)
        text.load_state_dict(begun.text.state_dict())
        Widening(begun.unet, unet, cfg.seed)  # of the same width: a copy, but for its time layers
    if cfg.device == "cpu" and cfg.dtype == "bfloat16":
        for module in unet.modules():
            if isinstance(module, Attention):
                module.kernel = attention
    width = UNET_CONFIG.block_out_channels[1]
    head = torch.nn.Sequential(
        torch.nn.Conv2d(width, 256, 1), torch.nn.SiLU(), torch.nn.Conv2d(256, 160, 1))
    own_vae = VAE(replace(vae.config, scaling_factor=scale))
    own_vae.load_state_dict(vae.state_dict())
    sd = StableDiffusion(tokenizer, text, unet, own_vae, SCHEDULE_CONFIG)
    for network in (unet, text, own_vae, head):
        network.to(cfg.device)
    return sd, head


def make_optimizer(cfg, sd, head):
    live = [*sd.unet.parameters(), *sd.text.parameters(), *head.parameters()]
    edges = {sd.unet.conv_in.weight, sd.unet.conv_out.weight, sd.text.table.weight,
             sd.text.text_model.embeddings.position_embedding.weight}  # what goes in and comes out
    matrices = [p for p in live if p.ndim > 1 and p not in edges]
    others = [p for p in live if p.ndim == 1 or p in edges]
    # No weight decay on the table: it would pull words that are rare, and identifiers that never
    # occur, towards zero.
    return Muon([{"params": matrices, "muon": True, "weight_decay": 0.05},
                 {"params": others, "muon": False, "weight_decay": 0.0}],
                lr=cfg.lr, betas=(0.9, 0.99), fused=True)


def choose_pictures(cfg, step, scenes):
    """The numbers of a step's pictures, and their captions."""
    rng = np.random.default_rng([cfg.seed, 2, step])
    rows = np.sort(rng.integers(len(scenes), size=cfg.batch))
    return rows, ["" if rng.random() < cfg.empty else caption(scenes[i], rng) for i in rows]


def draw_noise(cfg, step, latents, cdf):
    """x_0 of a step's latents, eps, t: (b, c, y, x) twice, (b,), on the device."""
    noise = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
    # One t from each of b equally likely slices, whose order is random: every batch sees all noise
    # levels, and the loss is less noisy.
    slices = torch.rand(1, generator=noise) + torch.randperm(cfg.batch, generator=noise) / cfg.batch
    t = torch.searchsorted(cdf, slices % 1).clamp(max=len(cdf) - 1)
    x_0 = latents.float()
    eps = torch.randn(x_0.shape, generator=noise)
    return x_0.to(cfg.device), eps.to(cfg.device), t.to(cfg.device)


def predict(cfg, sd, captions, x_t, t):
    """The UNet's output (b, 8, 16, 16), and its feature map (b, 160, 8, 8) where the second level
    of the way down ends."""
    seen = []
    hook = sd.unet.down_blocks[1].attentions[-1].register_forward_hook(
        lambda module, inputs, output: seen.append(output))
    context = sd.text(sd.tokenizer(captions).to(cfg.device))  # in float32: small, and faster so
    with autocast(cfg):
        output = sd.unet(x_t, t, context)
    hook.remove()
    return output.float(), seen[0]


def alignment(cfg, head, judge, features, pictures):
    """The mean cosine of the judge's feature map of the clean picture and what `head` makes of the
    UNet's, position by position (REPA: Yu et al. 2024). The judge has seen what ears and spouts
    are; a denoiser finds that out late, and sooner if it is asked. features (b, 160, 8, 8),
    pictures (b, 64, 64, 3) bytes."""
    with autocast(cfg):
        with torch.no_grad():
            stem = F.relu(judge.stem(as_input(pictures).to(cfg.device)))
            truth = judge.blocks[:3](stem)                                      # (b, 160, 8, 8)
        guess = head(features)
    return F.cosine_similarity(guess.float(), truth.float(), dim=1).mean()


def train_diffusion(cfg, work, tokenizer, vae, pictures, latents, scale):
    sd, head = start_networks(cfg, tokenizer, vae, scale)
    optimizer, born = make_optimizer(cfg, sd, head), sd.text.table.weight.detach().clone()
    sampled = [*sd.unet.parameters(), *sd.text.parameters()]
    shadow = [p.detach().clone() for p in sampled]  # the weights' exponential mean: the result
    live, state = [*sampled, *head.parameters()], work / "diffusion.safetensors"
    about = settings(cfg, ("vae_steps", "vae_batch", "vae_lr", "batch", "lr", "ema", "empty",
                           "align", "align_steps", "vae", "start"))
    numbers = resume(cfg, state, about, [*live, *shadow], optimizer, cfg.steps)
    planned = numbers.get("steps", cfg.steps)
    if planned != cfg.steps and numbers["step"] > (1 - cfg.decay) * min(cfg.steps, planned):
        raise UserError(f"--steps {cfg.steps}: after step {numbers['step']} of {planned} the "
                        "learning rate was falling already")
    judge = Judge.load().to(cfg.device) if cfg.align else None
    scenes, cdf = [scene(cfg, i) for i in range(cfg.pictures)], distribution_of_t(sd.schedule.T)
    figures = Figures(sd.vae)
    sizes = [sum(p.numel() for p in network.parameters()) for network in (sd.unet, sd.text)]
    print(f"diffusion: unet {sizes[0]:,} + text {sizes[1]:,} parameters, from step "
          f"{numbers['step']}", flush=True)

    begin, last_save, mean_loss = time.time() - numbers["seconds"], time.time(), None
    hours = numbers["seconds"] // 3600
    for step in range(numbers["step"], cfg.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(cfg, step, cfg.steps, cfg.lr)
        rows, captions = choose_pictures(cfg, step, scenes)
        x_0, eps, t = draw_noise(cfg, step, latents[rows], cdf)
        x_0 = x_0 * scale
        output, features = predict(cfg, sd, captions, sd.schedule.add_noise(x_0, eps, t), t)
        loss = F.mse_loss(output, sd.schedule.target(x_0, eps, t))
        aligned = torch.zeros(())
        if cfg.align and step < cfg.align_steps:
            aligned = alignment(cfg, head, judge, features, pictures[rows])
        optimizer.zero_grad()
        (loss - cfg.align * aligned).backward()
        torch.nn.utils.clip_grad_norm_(live, 1.0)
        optimizer.step()
        keep = min(cfg.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(shadow, [p.data for p in sampled], 1 - keep)

        seconds, done = time.time() - begin, step + 1
        mean_loss = 0.99 * (mean_loss or loss.item()) + 0.01 * loss.item()
        if done % 100 == 0:
            print(f"step {done:6d}/{cfg.steps}  loss {mean_loss:.4f}  aligned {aligned:.3f}  "
                  f"pictures {done * cfg.batch:,}  {seconds / 60:.0f} min", flush=True)
        if time.time() - last_save > 60 * cfg.save_minutes or done == cfg.steps:
            write_state(state, about, [*live, *shadow], optimizer, step=done, steps=cfg.steps,
                        seconds=seconds)
            last_save = time.time()
        if seconds // 3600 > hours or done == cfg.steps:
            hours = seconds // 3600
            with weights_swapped(sampled, shadow):
                quieten(sd, (sd.text.table.weight == born).all(1))
                look(cfg, sd, figures, work, done)


@contextmanager
def weights_swapped(weights, others):
    """Within it the weights have the others' numbers."""
    now = [p.data.clone() for p in weights]
    torch._foreach_copy_([p.data for p in weights], others)
    yield
    torch._foreach_copy_([p.data for p in weights], now)


def look(cfg, sd, figures, work, step):
    """Every hour, and at the end: the model in its folder, a grid, the critic's numbers."""
    sd.save(cfg.out or work / "model", half=True)
    grid(sd, work / f"samples_{step:06d}.png")
    report, _ = figures.measure(figures.draw(sd))
    print(f"step {step:6d}  " + "  ".join(f"{name} {value:.3f}" for name, value in report.items()),
          flush=True)


PROMPTS = (
    "a photo of a cat", "a photo of a red cat in the snow",
    "a dog wearing a santa hat on the beach", "a photo of a face",
    "a blue teapot on top of a wooden floor", "a robot with a city in the background",
    "a green vase on top of pink fabric", "a duck floating on top of water",
    "a cube shaped bear in the jungle", "a pencil sketch of a boot",
    "a watercolour painting of a clock", "a yellow car on a cobblestone street",
    "a purple backpack with the eiffel tower in the background", "a sks teapot",
    "a face wearing pink glasses", "a candle under the moon at night")


def grid(sd, path):
    """Three pictures of each of the 16 prompts, for the eye."""
    sd.unet.eval(), sd.text.eval()
    pictures, rows = sd.sample(list(PROMPTS), images=3, steps=20, sampler="dpm++"), []
    for i in range(0, len(PROMPTS), 2):
        left, right = pictures[3 * i:3 * i + 3], pictures[3 * i + 3:3 * i + 6]
        rows.append(("   |   ".join(PROMPTS[i:i + 2]), [*left, None, *right]))
    sheet(rows).save(path)


# === the examination ==============================================================================

def print_examination(cfg):
    sd = StableDiffusion.from_pretrained(cfg.out or TINY)
    scenes = [scene(cfg, i) for i in range(cfg.pictures)]
    seen = {text for step in range(cfg.steps) for text in choose_pictures(cfg, step, scenes)[1]}
    report, pictures = examine(sd, seen)
    print(f"{report['prompts']} prompts that are none of {len(seen):,} captions of the training, "
          f"30 DDIM steps, guidance {report['guidance']}")
    print(f"{'':12s}{'model':>8s}{'drawings':>10s}")
    for question, share in report["model"].items():
        print(f"{question:12s}{100 * share:7.1f}%{100 * report['real'][question]:9.1f}%")
    for name, value in report.items():
        if name not in ("model", "real", "prompts", "guidance"):
            print(f"{name}: {value:.2f}")

    figures = Figures(sd.vae)
    drawn = figures.draw(sd)
    report["figures"], by_class = figures.measure(drawn)
    for name, value in report["figures"].items():
        print(f"{name}: {value:.3f}")
    print("well formed: " + ", ".join(f"{cls} {share:.2f}" for cls, share in by_class.items()))
    report["figures"]["by class"] = by_class

    work = Path(cfg.work)
    work.mkdir(parents=True, exist_ok=True)
    sheet([("", pictures[i:i + 16]) for i in range(0, 256, 16)], 64).save(work / "examination.png")
    figures.beside_drawings(drawn).save(work / "figures.png")
    if cfg.json:
        save_text(json.dumps(report, indent=2), Path(cfg.json))


def main(cfg):
    for name in ("pictures", "vae_steps", "vae_batch", "steps", "batch", "warmup"):
        if getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: at least 1")
    if not 0 < cfg.decay <= 1:
        raise UserError(f"--decay {cfg.decay}: a share of the steps, above 0 and up to 1")
    if cfg.dtype not in ("auto", "float32", "bfloat16"):
        raise UserError(f"--dtype {cfg.dtype}: auto, float32 or bfloat16")
    if cfg.dtype == "auto":
        half = HALF_IS_FAST or cfg.device != "cpu"
        cfg = replace(cfg, dtype="bfloat16" if half else "float32")
    if cfg.examine:
        return print_examination(cfg)
    work = Path(cfg.work)
    if not cfg.resume and [*work.glob("*.safetensors")]:
        raise UserError(f"{work} has the state of an earlier training: go on with --resume, or "
                        "take another --work")
    work.mkdir(parents=True, exist_ok=True)
    pictures = make_pictures(cfg, work)
    if given := cfg.start or cfg.vae:
        sd = StableDiffusion.from_pretrained(given)
        tokenizer, vae = sd.tokenizer, sd.vae
    else:
        tokenizer, vae = make_tokenizer(cfg), train_vae(cfg, work, pictures)
    latents, scale = encode_all(cfg, work, vae, pictures)
    scale = vae.config.scaling_factor if given else scale
    train_diffusion(cfg, work, tokenizer, vae, pictures, latents, scale)


if __name__ == "__main__":
    run(lambda: main(parse_flags(Config, __doc__)))
