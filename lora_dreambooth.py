"""DreamBooth with LoRA (Hu et al., ICLR 2022, arXiv 2106.09685): a new subject in a small file.

    python lora_dreambooth.py                the tiny world's cat, two minutes on a laptop
    python lora_dreambooth.py --model stable-diffusion-v1-5/stable-diffusion-v1-5 \\
        --images my_dog --class-name dog --size 512

The idea: a large model learns a small thing by a small change. So the layers' weights W stay as
they are, and beside each stands a product of two thin matrices, of rank r:

    x W  becomes  x W + (alpha / r) x A B     W (d_in, d_out), A (d_in, r) random, B (r, d_out) zero
                                              at first (LoRA, eq. 3; alpha: section 4.1)

All else is DreamBooth, its loss too (dreambooth.py, eq. 2): read that first, and then `diff`. What
differs is what is trained, what is saved, and a far higher learning rate.

    trained   A and B of the UNet's attentions and GEGLUs (Stable Diffusion: 311,616 numbers times
              the rank, where DreamBooth trains 859,520,964), perhaps the text encoder's attentions'

Follows LoRA's paper: A random, B zero, alpha/r. Chosen here: rank, steps, learning rates. Rank 1
with the text encoder is 385,344 numbers: HyperDreamBooth's paper says 386k of its baseline.
Not here: LoRA of convolutions, dropout, a rank for each layer.
"""
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from command import (check_at_least, check_machine, check_not_negative, check_positive,
                     check_resume, check_size, check_subject, check_words, fill_in, load_state,
                     parse_flags, pick_device, pick_dtype, read_log, run, save_state, state_path,
                     watch)
from dreambooth import bind_token, draw_class_latents, draw_prompts, dreambooth_loss
from files import UserError, claim
from lora_file import kohya_name, save_lora
from optimizer import AdamW
from pictures import load_pictures, save_picture, sheet, square, warn_of_small
from stable_diffusion import SUBJECTS, TINY, StableDiffusion


@dataclass
class Config:
    model: str = TINY                 # a diffusers folder, a .safetensors file, or a hub name
    revision: str = ""                # branch or commit of a model on the hub
    variant: str = ""                 # fp16: the weights' files of that name
    images: str = ""                  # folder with 3 to 6 photos; "": the tiny world's cat
    class_name: str = ""              # what the subject is
    token: str = "sks"                # the identifier: a rare word of the vocabulary
    rank: int = 8                     # r; more hold more detail, in a larger file
    alpha: float = 0.0                # A B counts alpha / rank; 0: alpha is the rank
    steps: int = None                 # of training
    lr: float = None                  # far higher than for whole weights
    batch_size: int = None            # subject pictures a step; as many class pictures come on top
    prior_weight: float = 1.0         # lambda of eq. 2; 0: every dog becomes this dog
    class_images: int = None          # drawn before training, never more than the steps can use
    train_text_encoder: bool = None   # more likeness, above all in new places
    size: int = None                  # side of the pictures in pixels; None: the model's own
    sampling_steps: int = None        # for the class pictures and those before and after
    guidance: float = None            # the model's
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"               # float32, bfloat16 or float16; A and B stay float32
    out: str = "runs/lora_dreambooth"
    save_every: int = None            # steps between two states to resume from
    resume: bool = False              # go on from the state in `out`


SETTINGS = {  # for None: the tiny world's, Stable Diffusion's (from 100 million parameters on)
    "steps":               (300,    800),
    "lr":                  (2e-3,   1e-4),
    "train_text_encoder":  (True,   False),
    "batch_size":          (2,      1),
    "class_images":        (32,     200),
    "sampling_steps":      (12,     25),
    "save_every":          (100,    400),
}


# === the method ===================================================================================

def adapted_layers(sd, text_encoder=True):
    """{kohya's name: layer}: the linear layers of every attention in UNet and text encoder, and the
    UNet's GEGLUs."""
    layers, ends = {}, (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj")
    for name, layer in sd.unet.named_modules():
        if name.endswith(ends):
            layers[kohya_name("unet", name)] = layer
    for name, layer in sd.text.named_modules():
        if name.endswith("_proj") and text_encoder:
            layers[kohya_name("text_encoder", name)] = layer
    return layers


def start_lora(layers, rank, generator):
    """{layer: (A (d_in, r), B (r, d_out))}, A random and B zero: it changes nothing yet."""
    lora = {}
    for name, layer in layers.items():
        A = torch.randn(layer.in_features, rank, generator=generator) / layer.in_features ** 0.5
        B = torch.zeros(rank, layer.out_features)
        lora[name] = [factor.to(layer.weight.device).requires_grad_() for factor in (A, B)]
    return lora


def put_beside(layers, lora, scale):
    """From now on each layer's output is x W + scale x A B (LoRA, eq. 3)."""
    def add_product(A, B, layer, inputs, output):
        [x] = inputs                                                           # (b, l, d_in)
        return output + scale * (x @ A.to(x.dtype) @ B.to(x.dtype))            # (b, l, d_out)

    for name, layer in layers.items():
        layer.register_forward_hook(partial(add_product, *lora[name]))


# === before training ==============================================================================

def prepare(cfg):
    """Everything that can be refused is refused here, and what needs no model before one is loaded.
    Returns the model, the Config with nothing left open, and the photos."""
    check_subject(cfg)
    check_at_least(cfg, 1, "rank", "steps", "batch_size", "class_images", "sampling_steps",
                   "save_every")
    check_positive(cfg, "lr")
    check_not_negative(cfg, "alpha", "prior_weight")
    check_machine(cfg)
    if cfg.token.startswith("<"):
        raise UserError(f"--token {cfg.token}: a new word has no place in a LoRA's file; a rare "
                        'one, such as "sks"')
    if not cfg.images:
        cfg = replace(cfg, images=str(SUBJECTS / "cat"), class_name="cat")
    photos = load_pictures(cfg.images)
    claim(cfg.out)
    device = pick_device(cfg.device)
    sd = StableDiffusion.from_pretrained(cfg.model, revision=cfg.revision, variant=cfg.variant)
    cfg = fill_in(cfg, SETTINGS, sd.large, size=sd.size, guidance=sd.guidance)
    cfg = replace(cfg, dtype=pick_dtype(cfg.dtype, device), alpha=cfg.alpha or float(cfg.rank))
    check_size(cfg.size, sd.vae.factor, 2 * sd.vae.factor)
    warn_of_small(photos, cfg.size)
    check_words(cfg, sd.tokenizer, "class_name", "token")
    check_resume(cfg, photos)
    bind_token(sd, cfg.token)
    sd.place(device, cfg.dtype)  # what is not trained lies as it is computed with
    return sd, cfg, photos


# === training =====================================================================================

def train(sd, cfg, photos):
    """Trains a LoRA beside the layers, sd.lora; yields {step, loss, subject, prior} each step."""
    sd.freeze()
    prompts = [f"a photo of a {cfg.token} {cfg.class_name}"]
    if cfg.prior_weight:
        prompts += [f"a photo of a {cfg.class_name}"]
        class_latents = draw_class_latents(sd, cfg)                            # (count, c, y, x)
    with sd.autocast(cfg.dtype):
        words = sd.read(prompts)                                               # (2, l, d)
        mean, std = sd.encode([square(photo, cfg.size) for photo in photos])   # (photos, c, y, x)
    tokens = sd.tokenizer(prompts).to(sd.device)                               # (2, l)

    sd.set_aside(sd.vae)
    if not cfg.train_text_encoder:
        sd.set_aside(sd.text)  # words do not change
    layers = adapted_layers(sd, cfg.train_text_encoder)
    sd.lora = start_lora(layers, cfg.rank, torch.Generator().manual_seed(cfg.seed))
    put_beside(layers, sd.lora, cfg.alpha / cfg.rank)
    trained = [factor for factors in sd.lora.values() for factor in factors]
    optimizer = AdamW(trained, cfg.lr, clip=1.0, dtype=cfg.dtype)
    sd.unet.checkpointing = sd.large
    first = load_state(cfg, trained, optimizer).get("step", 0)

    for step in range(first, cfg.steps):
        # Each step seeds a generator of its own: a resumed run needs only the step's number.
        generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
        some = torch.randint(len(photos), (cfg.batch_size,), generator=generator)
        with sd.autocast(cfg.dtype):
            z = sd.draw_latents(mean[some], std[some], generator)              # (b, c, y, x)
            if cfg.prior_weight:
                some = torch.randint(len(class_latents), (cfg.batch_size,), generator=generator)
                z = torch.cat([z, class_latents[some]])                        # (2b, c, y, x)
            if cfg.train_text_encoder:
                words = sd.text(tokens)
            loss, subject, prior = dreambooth_loss(
                sd, z, words.repeat_interleave(cfg.batch_size, 0), generator, cfg.prior_weight)
        optimizer.backward(loss)
        norm = optimizer.step()
        log = read_log(cfg, step + 1, norm, loss=loss, subject=subject, prior=prior)
        if (step + 1) % cfg.save_every == 0 and step + 1 < cfg.steps:
            save_state(cfg, photos, trained, optimizer, step=step + 1)
        yield log
    sd.unet.checkpointing = False
    sd.take_back()


# === the command ==================================================================================

def main(cfg):
    sd, cfg, photos = prepare(cfg)
    print(f"lora_dreambooth: {len(photos)} pictures of a {cfg.class_name} | rank {cfg.rank} | "
          f"{sd.device}", flush=True)

    out, squares = Path(cfg.out), [square(photo, cfg.size) for photo in photos]
    sentence = f"a photo of a {cfg.token} {cfg.class_name}"
    before, noise_before = draw_prompts(sd, cfg), sd.loss_by_noise(squares, sentence)
    for log in watch(train(sd, cfg, photos), cfg.steps):
        pass
    changes = {name: (A.detach().T, B.detach().T) for name, (A, B) in sd.lora.items()}
    save_lora(out / "pytorch_lora_weights.safetensors", changes, cfg.alpha)
    after, noise_after = draw_prompts(sd, cfg), sd.loss_by_noise(squares, sentence)

    rows = [("the subject", squares)]
    for prompt in before:
        rows.append((f'"{prompt}"     before  |  after', [*before[prompt], None, *after[prompt]]))
    save_picture(sheet(rows), out / "before_after.png")
    state_path(cfg).unlink(missing_ok=True)  # all is saved: there is nothing left to resume
    print(f"loss at little, middle and much noise: {noise_before} before, {noise_after} after")
    print(f"the LoRA: {out / 'pytorch_lora_weights.safetensors'}\n"
          f"the picture: {out / 'before_after.png'}")


if __name__ == "__main__":
    run(lambda: main(parse_flags(Config, __doc__, SETTINGS)))
