"""Trains the tiny world's base model from nothing: python -m tiny_world.pretrain

    tokenizer     byte-pair merges from the world's captions and a page of plain English          seconds
    pictures      drawn once, kept in runs/pretrain                                               minutes, both cores
    vae           pictures <-> latents, squared error and a light pull towards N(0, 1)            tens of minutes
    diffusion     text encoder and UNet together, from random weights, with EMA                   hours

Every random choice of a step comes from (seed, step), and the state is saved every few minutes by writing beside and
renaming: with --resume a run that was killed at any moment ends in the same bits as one that was not. A grid of samples
is written each time. The result is a folder in the public layout, as the chapters load it: runs/pretrain/model. What the one that is
shipped, tiny_world/model, came from, what it cost and how it does is in tiny_world/README.md.
"""
import argparse
import collections
import json
import os
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from checkpoint import UserError, load_state, resumable, save_state
from clip_text import BYTES, END, START, CLIPText, CLIPTextConfig, Tokenizer, words
from ddpm import ScheduleConfig
from stable_diffusion import TINY, StableDiffusion, run
from tiny_unet import Attention, UNet, UNetConfig
from tiny_world import sheet
from tiny_world.draw import draw, draw_all
from tiny_world.examine import examine, training_captions
from tiny_world.judge import Judge, as_input
from tiny_world.world import FILLERS, IDENTIFIERS, caption, random_scene
from vae import VAE, VAEConfig

HERE = Path(__file__).parent


@dataclass
class Config:
    work: str = "runs/pretrain"    # pictures, latents, the state to resume from, sample grids
    out: str = ""                  # the checkpoint, in the public layout; "": model in `work`
    vae: str = ""                  # a model whose tokenizer and autoencoder are taken as they are; "": new ones are made
    pictures: int = 300_000        # drawn once and used again and again, each time with a new caption
    vae_steps: int = 20_000
    vae_batch: int = 8             # many small steps: each picture has thousands of pixels to learn from
    vae_lr: float = 2e-3
    steps: int = 32_000
    batch: int = 64
    lr: float = 2e-3               # of the diffusion stage, whose optimizer is Muon
    align: float = 0.5             # weight of the likeness of the UNet's middle to the judge's map; 0: without
    align_steps: int = 8_000       # so long; it helps at first
    warmup: int = 500
    decay: float = 0.25            # the last quarter of the steps brings the learning rate down to zero
    ema: float = 0.999
    empty: float = 0.1             # captions replaced by "": guidance needs to know what a picture is without words
    save_minutes: float = 10.0
    device: str = "cpu"            # cuda: a larger --batch fills it
    seed: int = 0
    resume: bool = False           # go on from the state in `work`
    examine: bool = False          # train nothing; examine the checkpoint in `out`, or the shipped one (tiny_world/examine.py)
    json: str = ""                 # write the examination to this file too


VAE_CONFIG = VAEConfig(block_out_channels=(24, 64, 64), latent_channels=8, layers_per_block=1, norm_num_groups=8)
TEXT_CONFIG = CLIPTextConfig(hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
                             max_position_embeddings=32)
UNET_CONFIG = UNetConfig(sample_size=16, in_channels=8, out_channels=8, block_out_channels=(96, 160, 224), layers_per_block=1, attention_head_dim=4,
                         cross_attention_dim=128, norm_num_groups=16,
                         down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                         up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))
SCHEDULE_CONFIG = ScheduleConfig(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                 prediction_type="v_prediction", set_alpha_to_one=False, steps_offset=1)


def scene(cfg, i):
    """Training picture number i: always the same."""
    return random_scene(np.random.default_rng([cfg.seed, i]))


# === tokenizer ========================================================================================================

def learn_merges(text, n):
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1): n times, merge the most frequent pair of neighbours."""
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
        best = max(pairs, key=lambda pair: (pairs[pair], pair))  # ties by the alphabet, so that the result is one
        merges.append(best)
        for w, p in parts.items():
            i = 0
            while i < len(p) - 1:
                if (p[i], p[i + 1]) == best:
                    p[i:i + 2] = ["".join(best)]
                i += 1
    return merges


def make_tokenizer(cfg):
    """Whole words for what captions say and for common English; the identifiers are single tokens too, so that a method can
    bind one, though no caption has any."""
    rng = np.random.default_rng(cfg.seed)
    captions = [caption(scene(cfg, i), rng) for i in range(3000)]
    text = " ".join([(HERE / "english.txt").read_text("utf-8")] * 10 + captions + list(IDENTIFIERS) * 50)
    merges = learn_merges(text, 1150)
    alphabet = list(BYTES.values())
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(m) for m in merges] + [START, END]
    return Tokenizer({t: i for i, t in enumerate(tokens)}, merges, TEXT_CONFIG.max_position_embeddings)


# === pictures =========================================================================================================

def make_pictures(cfg, work):
    """(pictures, 64, 64, 3) bytes, drawn on all cores."""
    path = work / "pictures.npy"
    if path.exists():
        pictures = np.load(path, mmap_mode="r")
        some = range(0, cfg.pictures, cfg.pictures // 20 + 1)  # are they of the same scenes, drawn by the same code?
        if len(pictures) == cfg.pictures and all(np.array_equal(pictures[i], draw(scene(cfg, i))) for i in some):
            return pictures
    start = time.time()
    pictures = np.lib.format.open_memmap(work / "pictures.tmp", "w+", np.uint8, (cfg.pictures, 64, 64, 3))
    for i, picture in enumerate(draw_all(scene(cfg, i) for i in range(cfg.pictures))):
        pictures[i] = picture
    pictures.flush()
    os.replace(work / "pictures.tmp", path)
    print(f"pictures: {cfg.pictures} drawn in {time.time() - start:.0f} s", flush=True)
    return np.load(path, mmap_mode="r")


# === the two training stages ==========================================================================================

def settings(cfg, names):
    """What a stage's result depends on: it can only be resumed with the same."""
    return {name: getattr(cfg, name) for name in ("pictures", "warmup", "decay", "seed", *names)}


def learning_rate(cfg, step, steps, peak):
    """Up over `warmup` steps, level, and down to zero over the last `decay` of them."""
    return peak * min(1.0, (step + 1) / cfg.warmup, (steps - step) / (cfg.decay * steps))


def train_vae(cfg, work, pictures):
    torch.manual_seed(cfg.seed)
    vae = VAE(VAE_CONFIG)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=cfg.vae_lr, weight_decay=1e-4, fused=True)
    state, start, weights = work / "vae.safetensors", time.time(), {"live": list(vae.parameters())}
    about = settings(cfg, ("vae_steps", "vae_batch", "vae_lr"))
    saved = resumable(state, about) if cfg.resume else {}
    if saved:
        load_state(state, weights, optimizer)
    first, seconds = saved.get("step", 0), saved.get("seconds", 0.0)
    mean_loss, last_save = None, time.time()
    for step in range(first, cfg.vae_steps):
        rng = np.random.default_rng([cfg.seed, 1, step])
        noise = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(cfg, step, cfg.vae_steps, cfg.vae_lr)
        x = as_input(pictures[np.sort(rng.integers(len(pictures), size=cfg.vae_batch))])
        with torch.autocast("cpu", torch.bfloat16):
            mean, std = vae.encode(x)
            mean, std = mean.float(), std.float()
            y = vae.decode(mean + std * torch.randn(std.shape, generator=noise)).float()
        kl = 0.5 * (mean ** 2 + std ** 2 - 1 - 2 * std.log()).mean()
        error = F.mse_loss(y, x)
        loss = error + 0.1 * F.l1_loss(y, x) + 1e-4 * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        mean_loss = error.item() if mean_loss is None else 0.99 * mean_loss + 0.01 * error.item()
        if (step + 1) % 200 == 0:
            print(f"vae step {step + 1:5d}/{cfg.vae_steps}  mse {mean_loss:.5f}  psnr {10 * np.log10(4 / mean_loss):.1f} dB"
                  f"  kl {kl.item():.1f}  {(time.time() - start + seconds) / 60:.0f} min", flush=True)
        if time.time() - last_save > 60 * cfg.save_minutes or step + 1 == cfg.vae_steps:
            save_state(state, weights, optimizer, step=step + 1, seconds=seconds + time.time() - start, settings=about)
            last_save = time.time()
    return vae.eval()


@torch.no_grad()
def encode_all(cfg, work, vae, pictures):
    """All latents' means, fp16 (pictures, 8, 16, 16), and the factor that brings them to unit variance."""
    path = work / "latents.npy"
    if not (cfg.resume and path.exists()):
        with torch.autocast("cpu", torch.bfloat16):
            latents = np.concatenate([vae.encode(as_input(pictures[i:i + 250]))[0].float().half().numpy()
                                      for i in range(0, len(pictures), 250)])
        np.save(work / "latents.tmp.npy", latents)
        os.replace(work / "latents.tmp.npy", path)
    latents = torch.from_numpy(np.load(path))
    return latents, 1 / latents[:5000].float().std().item()


def attention(q, k, v):
    """Written out: on a CPU in bfloat16 torch's own kernel takes a third of the whole step, this one a twentieth (torch 2.13)."""
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v


class Muon(torch.optim.AdamW):
    """AdamW, but matrices (groups with muon=True) step along the nearest orthogonal matrix to their momentum, so that a step
    is as long in the directions that gradients seldom have as in those that they always have (Jordan et al. 2024; the
    factor 0.2 sqrt(columns) makes a step as long as Adam's: Liu et al. 2025). Here it learns in half the pictures."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            same_shape = collections.defaultdict(list)  # one batched product for all matrices of a shape
            for p in group["params"] if group["muon"] else ():
                if not self.state[p]:
                    self.state[p] = {"step": torch.zeros(()), "momentum": torch.zeros_like(p)}  # AdamW looks for "step" in all
                momentum = self.state[p]["momentum"].lerp_(p.grad, 0.05)
                m = p.grad.lerp(momentum, 0.95).flatten(1)               # a convolution: (c_out, c_in*3*3)
                tall = m.shape[0] > m.shape[1]
                same_shape[tuple(sorted(m.shape))].append((p, tall, m.T if tall else m))
                p.grad = None                                            # AdamW passes over what has no gradient
            for (rows, columns), found in same_shape.items():
                x = torch.stack([m for _, _, m in found]).bfloat16()     # (matrices, rows, columns), rows <= columns
                x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
                for _ in range(5):  # Newton-Schulz: pulls every singular value towards 1
                    a = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                for (p, tall, _), o in zip(found, x.float() * (-0.2 * columns ** 0.5 * group["lr"])):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_((o.T if tall else o).reshape(p.shape))
        super().step()


@torch.no_grad()
def quieten(tokenizer, table, untouched):
    """Words that no caption had, `sks` among them, still have their first, very short vectors, and such a word is no silent one: all
    pictures of "a sks teapot" look alike. So they get vectors near those of the words that say nothing ("nice", "new"), each its
    own, and shorter: then "a sks teapot" is any teapot, and a method can turn the word to something in a few steps."""
    fillers = table[[i for word in FILLERS if len(ids := tokenizer.encode(word)) == 1 for i in ids]]
    chance = torch.randn(len(table), table.shape[1], generator=torch.Generator().manual_seed(0))
    table[untouched] = 0.3 * (fillers.mean(0) + fillers.std(0) * chance)[untouched]


def how_often(T):
    """Of each t up to T, how often it or a smaller one is trained on, (T,): most in the middle, where it is decided what the picture shows
    (logit-normal, Esser et al. 2024), but a tenth of all steps evenly."""
    u = (torch.arange(T) + 0.5) / T
    density = torch.exp(-0.5 * torch.log(u / (1 - u)) ** 2) / (u * (1 - u))
    return torch.cumsum(0.9 * density / density.sum() + 0.1 / T, dim=0)


def alignment(judge, pictures):
    """What the middle of the UNet is asked to know while it learns (Yu et al. 2024, REPA): the judge's map of the clean picture,
    (b, 64, 64, 3) bytes -> (b, 160, 8, 8). The judge has seen what ears and spouts are; a denoiser finds that out late."""
    with torch.no_grad(), torch.autocast(judge.stem.weight.device.type, torch.bfloat16):
        x = as_input(pictures).to(judge.stem.weight.device)
        return judge.blocks[:3](F.relu(judge.stem(x))).float()


def train_diffusion(cfg, work, tokenizer, vae, pictures, latents, scale):
    torch.manual_seed(cfg.seed)
    unet, text = UNet(UNET_CONFIG), CLIPText(replace(TEXT_CONFIG, vocab_size=len(tokenizer)))
    for name, p in text.named_parameters():
        if "embedding" in name:
            torch.nn.init.normal_(p, std=0.02)
    for name, p in unet.named_parameters():  # a residual step starts as nothing: faster and steadier from scratch
        if name.endswith(("conv2.weight", "conv2.bias", "proj_out.weight", "proj_out.bias")) or name.startswith("conv_out"):
            torch.nn.init.zeros_(p)
    # The middle of the UNet, 8 x 8, to the judge's map: thrown away when the training ends.
    head = torch.nn.Sequential(torch.nn.Conv2d(UNET_CONFIG.block_out_channels[1], 256, 1), torch.nn.SiLU(), torch.nn.Conv2d(256, 160, 1))
    for network in (unet, text, head):
        network.to(cfg.device)
    table = text.table.weight.detach().clone()
    middle = {}
    unet.down_blocks[1].attentions[-1].register_forward_hook(lambda module, inputs, output: middle.update(map=output))
    if cfg.device == "cpu":
        for module in unet.modules():
            if isinstance(module, Attention):
                module.kernel = attention
    sampled = [*unet.parameters(), *text.parameters()]
    live = [*sampled, *head.parameters()]
    edges = [unet.conv_in.weight, unet.conv_out.weight, text.table.weight, text.text_model.embeddings.position_embedding.weight]
    matrices = [p for p in live if p.ndim > 1 and not any(p is e for e in edges)]
    others = [p for p in live if not any(p is m for m in matrices)]
    # No weight decay on the table: it would pull words that are rare, and identifiers that never occur, towards zero.
    optimizer = Muon([{"params": matrices, "muon": True, "weight_decay": 0.05}, {"params": others, "muon": False, "weight_decay": 0.0}],
                     lr=cfg.lr, betas=(0.9, 0.99), fused=True)
    shadow = [p.detach().clone() for p in sampled]  # the exponential mean of the weights: what is sampled and shipped
    sd = StableDiffusion(tokenizer, text, unet, VAE(replace(vae.config, scaling_factor=scale)).to(cfg.device), SCHEDULE_CONFIG)
    sd.vae.load_state_dict(vae.state_dict())
    judge = Judge.load().to(cfg.device) if cfg.align else None
    scenes, levels = [scene(cfg, i) for i in range(cfg.pictures)], how_often(sd.schedule.T)
    state, start, weights = work / "diffusion.safetensors", time.time(), {"live": live, "shadow": shadow}
    about = settings(cfg, ("vae_steps", "vae_batch", "vae_lr", "batch", "lr", "ema", "empty", "align", "align_steps"))
    saved = resumable(state, about) if cfg.resume else {}
    if saved:
        load_state(state, weights, optimizer)
        if cfg.steps != saved["steps"] and saved["step"] > (1 - cfg.decay) * min(cfg.steps, saved["steps"]):
            raise UserError(f"--steps {cfg.steps}: after step {saved['step']} of {saved['steps']} the learning rate was falling already")
    first, seconds = saved.get("step", 0), saved.get("seconds", 0.0)
    count = lambda m: sum(p.numel() for p in m.parameters())
    print(f"diffusion: unet {count(unet):,} + text {count(text):,} parameters, from step {first}", flush=True)

    mean_loss, last_save, last_look = None, time.time(), seconds // 3600
    for step in range(first, cfg.steps):
        rng = np.random.default_rng([cfg.seed, 2, step])
        noise = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(cfg, step, cfg.steps, cfg.lr)
        rows = np.sort(rng.integers(len(latents), size=cfg.batch))
        captions = ["" if rng.random() < cfg.empty else caption(scenes[i], rng) for i in rows]
        x_0 = latents[rows].float() * scale
        # t from equal slices, one a picture: every batch sees all noise levels, so the loss is less noisy
        slices = (torch.rand(1, generator=noise) + torch.randperm(cfg.batch, generator=noise) / cfg.batch) % 1
        t = torch.searchsorted(levels, slices).clamp(max=sd.schedule.T - 1)
        eps = torch.randn(x_0.shape, generator=noise)
        x_0, eps, t = x_0.to(cfg.device), eps.to(cfg.device), t.to(cfg.device)
        x_t = sd.schedule.add_noise(x_0, eps, t)
        context = text(tokenizer(captions).to(cfg.device))  # (b, l, d), in float32: small, and its masked attention is faster so
        with torch.autocast(cfg.device, torch.bfloat16):
            output = unet(x_t, t, context)
        loss = F.mse_loss(output.float(), sd.schedule.target(x_0, eps, t))
        likeness = torch.zeros(())
        if cfg.align and step < cfg.align_steps:
            with torch.autocast(cfg.device, torch.bfloat16):
                guess = head(middle["map"])
            likeness = F.cosine_similarity(guess.float(), alignment(judge, pictures[rows]), dim=1).mean()
        optimizer.zero_grad()
        (loss - cfg.align * likeness).backward()
        norm = torch.nn.utils.clip_grad_norm_(live, 1.0)
        optimizer.step()
        torch._foreach_lerp_(shadow, [p.data for p in sampled], 1 - min(cfg.ema, (1 + step) / (10 + step)))
        mean_loss = loss.item() if mean_loss is None else 0.99 * mean_loss + 0.01 * loss.item()
        if (step + 1) % 100 == 0:
            minutes = (time.time() - start + seconds) / 60
            print(f"step {step + 1:6d}/{cfg.steps}  loss {mean_loss:.4f}  aligned {likeness:.3f}  grad {norm:.2f}  "
                  f"pictures {(step + 1) * cfg.batch:,}  {minutes:.0f} min", flush=True)
        if time.time() - last_save > 60 * cfg.save_minutes or step + 1 == cfg.steps:
            spent = seconds + time.time() - start
            save_state(state, weights, optimizer, step=step + 1, steps=cfg.steps, seconds=spent, settings=about)
            last_save = time.time()
            if spent // 3600 > last_look or step + 1 == cfg.steps:  # every hour, and at the end
                last_look = spent // 3600
                now = [p.data.clone() for p in sampled]
                torch._foreach_copy_([p.data for p in sampled], shadow)
                quieten(tokenizer, text.table.weight.data, (text.table.weight == table).all(1))
                grid(sd, work / f"samples_{step + 1:06d}.png")
                sd.save(cfg.out or work / "model", half=True)
                torch._foreach_copy_([p.data for p in sampled], now)
    return sd


PROMPTS = ("a photo of a cat", "a photo of a red cat in the snow", "a dog wearing a santa hat on the beach",
           "a photo of a face", "a blue teapot on top of a wooden floor", "a robot with a city in the background",
           "a green vase on top of pink fabric", "a duck floating on top of water", "a cube shaped bear in the jungle",
           "a pencil sketch of a boot", "a watercolour painting of a clock", "a yellow car on a cobblestone street",
           "a purple backpack with the eiffel tower in the background", "a sks teapot", "a face wearing pink glasses",
           "a candle under the moon at night")


def grid(sd, path):
    """Three pictures of each of the 16 prompts, for the eye."""
    sd.unet.eval(), sd.text.eval()
    pictures = sd.sample(list(PROMPTS), images=3, steps=20, sampler="dpm++")
    rows = []
    for i in range(0, len(PROMPTS), 2):
        rows.append(("   |   ".join(PROMPTS[i:i + 2]), pictures[3 * i:3 * i + 3] + [None] + pictures[3 * i + 3:3 * i + 6]))
    sheet(rows).save(path)


def print_examination(cfg):
    sd = StableDiffusion.from_pretrained(cfg.out or TINY)
    seen = training_captions(cfg, [scene(cfg, i) for i in range(cfg.pictures)], cfg.steps)
    report, pictures = examine(sd, seen)
    print(f"{report['prompts']} prompts that are none of {len(seen):,} captions of the training, 30 DDIM steps, guidance {report['guidance']}")
    print(f"{'':12s}{'model':>8s}{'drawings':>10s}")
    for question, share in report["model"].items():
        print(f"{question:12s}{100 * share:7.1f}%{100 * report['real'][question]:9.1f}%")
    for name, value in report.items():
        if name not in ("model", "real", "prompts", "guidance"):
            print(f"{name}: {value:.2f}")
    rows = [("", pictures[i:i + 16]) for i in range(0, 256, 16)]
    Path(cfg.work).mkdir(parents=True, exist_ok=True)
    sheet(rows, 64).save(Path(cfg.work) / "examination.png")
    if cfg.json:
        Path(cfg.json).write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def main(cfg):
    for name in ("pictures", "vae_steps", "vae_batch", "steps", "batch", "warmup"):
        if getattr(cfg, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(cfg, name)}: at least 1")
    if not 0 < cfg.decay <= 1:
        raise UserError(f"--decay {cfg.decay}: a share of the steps, above 0 and up to 1")
    if cfg.examine:
        return print_examination(cfg)
    work = Path(cfg.work)
    if not cfg.resume and [*work.glob("*.safetensors")]:
        raise UserError(f"{work} has the state of an earlier training: go on with --resume, or take another --work")
    work.mkdir(parents=True, exist_ok=True)
    pictures = make_pictures(cfg, work)
    if cfg.vae:
        sd = StableDiffusion.from_pretrained(cfg.vae)
        tokenizer, vae = sd.tokenizer, sd.vae
    else:
        tokenizer, vae = make_tokenizer(cfg), train_vae(cfg, work, pictures)
    latents, scale = encode_all(cfg, work, vae, pictures)
    train_diffusion(cfg, work, tokenizer, vae, pictures, latents, vae.config.scaling_factor if cfg.vae else scale)


def parse_config():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for f in fields(Config):
        kind = dict(action=argparse.BooleanOptionalAction) if f.type is bool else dict(type=f.type)
        p.add_argument("--" + f.name.replace("_", "-"), default=f.default, **kind)
    return Config(**vars(p.parse_args()))


if __name__ == "__main__":
    run(lambda: main(parse_config()))
