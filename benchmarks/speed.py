"""How fast this is beside diffusers: the same weights, the same work, on this machine.

    python benchmarks/speed.py                      the tiny world's model
    python benchmarks/speed.py --model sd15         Stable Diffusion 1.5's size, random weights
    python benchmarks/speed.py --only "unet forward" --json speed.json

Each row is one piece of work, done by both in turns, so that whatever else the machine does meets
both alike; what is printed are the medians, and ours over theirs: below 1 we are faster. Run it
when nothing else runs.

A step of training is one with gradients, from given latents to the changed weights. diffusers has
no function for that: theirs is written out here as its example scripts do it (train_dreambooth.py,
textual_inversion.py, with their defaults), on its networks. Ours is the method's own, with its log.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import dreambooth  # noqa: E402 (found through the line above)
import textual_inversion  # noqa: E402
from command import run  # noqa: E402
from files import save_text  # noqa: E402
from memory import build, read_configs  # noqa: E402
from stable_diffusion import TINY, StableDiffusion  # noqa: E402

SUBJECT, CLASS = "a photo of a sks cat", "a photo of a cat"


# === both, with the same weights ==================================================================

def open_pipeline(folder):
    import diffusers
    import transformers
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, safety_checker=None, requires_safety_checker=False)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def their_dreambooth(pipeline, z, lr, batch_size):
    """Steps of train_dreambooth.py with prior preservation and --train_text_encoder."""
    unet, text = pipeline.unet.train(), pipeline.text_encoder.train()
    trained = [*unet.parameters(), *text.parameters()]
    for weight in trained:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr)
    prompts = [SUBJECT] * batch_size + [CLASS] * batch_size
    tokens = pipeline.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    while True:
        loss = their_loss(pipeline, z, text(tokens)[0], halves=2)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def their_textual_inversion(pipeline, z, lr, batch_size):
    """Steps of textual_inversion.py: AdamW on the whole table, and all rows but one put back."""
    pipeline.unet.requires_grad_(False)
    text = pipeline.text_encoder.train().requires_grad_(False)
    table = text.get_input_embeddings().weight.requires_grad_(True)
    optimizer, before = torch.optim.AdamW([table], lr), table.detach().clone()
    tokens = pipeline.tokenizer([SUBJECT] * batch_size, padding="max_length",
                                return_tensors="pt").input_ids
    others = torch.ones(len(table), dtype=torch.bool)
    others[pipeline.tokenizer.convert_tokens_to_ids("sks</w>")] = False
    while True:
        loss = their_loss(pipeline, z[:batch_size], text(tokens)[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            table[others] = before[others]
        yield loss.item()


def their_loss(pipeline, z, words, halves=1):
    eps, t = torch.randn_like(z), torch.randint(1000, (len(z),))
    x_t = pipeline.scheduler.add_noise(z, eps, t)
    target = eps
    if pipeline.scheduler.config.prediction_type == "v_prediction":
        target = pipeline.scheduler.get_velocity(z, eps, t)
    output = pipeline.unet(x_t, t, words).sample
    return sum(F.mse_loss(a, b) for a, b in zip(output.chunk(halves), target.chunk(halves)))


def our_steps(method, sd, z, **how):
    """The method's own training, of latents that are there."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = method.Config(class_name="cat", device="cpu", dtype="float32", out=folder,
                            steps=1_000_000, save_every=1_000_000, **how)
        cfg = method.fill_in(cfg, method.SETTINGS, sd.large, size=sd.size, guidance=sd.guidance)
        sd.encode = lambda pictures: (z[:len(pictures)], torch.zeros_like(z[:len(pictures)]))
        photos = [Image.new("RGB", (sd.size, sd.size))] * len(z)
        with patch.object(method, "draw_class_latents", lambda sd, cfg: z, create=True):
            yield from method.train(sd, cfg, photos)


# === the rows =====================================================================================

def rows(folder, small):
    """{name: (ours, theirs)}, functions without arguments."""
    torch.manual_seed(0)
    sd, pipeline = StableDiffusion.from_pretrained(folder), open_pipeline(folder)
    c, side = sd.unet.config.in_channels, sd.unet.config.sample_size
    words = sd.read([SUBJECT]).detach()
    many, steps = (16, 10) if small else (1, 2)
    x, t = torch.randn(many, c, side, side), torch.full((many,), 500)
    tokens = sd.tokenizer([SUBJECT] * many)
    pictures = torch.rand(min(4, many), 3, sd.size, sd.size) * 2 - 1

    def both(ours, theirs, *inputs, gradients=False):
        def compute(network):
            with torch.set_grad_enabled(gradients):
                output = network(*inputs)
                if gradients:
                    output.square().mean().backward()
        return lambda: compute(ours), lambda: compute(theirs)

    def unet(*inputs):
        return pipeline.unet(*inputs).sample

    table = {"unet forward": both(sd.unet, unet, x[:1], t[:1], words)}
    if small:
        spread = words.expand(many, -1, -1)
        table["unet forward, 16"] = both(sd.unet, unet, x, t, spread)
        table["unet forward + backward, 16"] = both(sd.unet, unet, x, t, spread, gradients=True)
    else:
        table["unet forward + backward"] = both(sd.unet, unet, x, t, words, gradients=True)
    table |= {
        "text encoder": both(sd.text, lambda tokens: pipeline.text_encoder(tokens)[0], tokens),
        "vae encode": both(lambda x: sd.vae.encode(x)[0],
                           lambda x: pipeline.vae.encode(x).latent_dist.mean, pictures),
        "vae decode": both(sd.vae.decode, lambda z: pipeline.vae.decode(z).sample,
                           x[:len(pictures)]),
    }

    def ours(n):
        sd.sample(CLASS, images=n, steps=steps, guidance=sd.guidance, size=sd.size)

    def theirs(n):
        pipeline(CLASS, num_images_per_prompt=n, num_inference_steps=steps,
                 guidance_scale=sd.guidance, height=sd.size, width=sd.size)

    for n in (1, 16) if small else (1,):
        table[f"{n} pictures, {steps} steps"] = lambda n=n: ours(n), lambda n=n: theirs(n)
    table["loading"] = (lambda: StableDiffusion.from_pretrained(folder),
                        lambda: open_pipeline(folder))
    table["import"] = (lambda: python("import stable_diffusion"),
                       lambda: python("from diffusers import StableDiffusionPipeline"))
    if small:
        table |= steps_of_training(folder, c, side)
    return table


def steps_of_training(folder, c, side):
    """A step changes the weights, so each has networks of its own."""
    table, z = {}, torch.randn(8, c, side, side)
    for name, method, their_steps in (("dreambooth", dreambooth, their_dreambooth),
                                      ("textual inversion", textual_inversion,
                                       their_textual_inversion)):
        sd = StableDiffusion.from_pretrained(folder)
        if method is textual_inversion:
            sd.add_word("<it>", sd.text.table.weight.data[:1])
        ours = our_steps(method, sd, z, batch_size=4)
        theirs = their_steps(open_pipeline(folder), z, 1e-5, 4)
        table[f"{name} step"] = lambda ours=ours: next(ours), lambda theirs=theirs: next(theirs)
    return table


def python(line):
    subprocess.run([sys.executable, "-W", "ignore", "-c", line], cwd=ROOT, check=True)


# === the command ==================================================================================

def measure(ours, theirs, times):
    """Medians of seconds, taken in turns after one round that does not count."""
    seconds = {ours: [], theirs: []}
    for i in range(times + 1):
        for work in (ours, theirs) if i % 2 else (theirs, ours):
            start = time.perf_counter()
            work()
            if i:
                seconds[work].append(time.perf_counter() - start)
    return [statistics.median(seconds[work]) for work in (ours, theirs)]


def peak(folder, ours):
    """Megabytes (10^6) of a process that opens the model and draws a picture."""
    line = (f"from stable_diffusion import StableDiffusion as SD; SD.from_pretrained({folder!r})"
            ".sample('a cat', steps=2)" if ours else
            f"from speed import open_pipeline; open_pipeline({folder!r})('a cat', "
            "num_inference_steps=2)")
    line = (f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'benchmarks')!r}]\n{line}\n"
            "print(*[line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line])")
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", line], check=True,
                           capture_output=True, text=True)
    return 1024 * int(ended.stdout.split()[-1]) / 1e6


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=("tiny", "sd15", "sd21"), default="tiny")
    p.add_argument("--times", type=int, help="of each row (tiny: 15, large: 3)")
    p.add_argument("--only", nargs="+", metavar="ROW")
    p.add_argument("--json", help="write the table to this file too")
    a = p.parse_args()
    small, report = a.model == "tiny", {}
    with tempfile.TemporaryDirectory() as folder:
        if small:
            folder = TINY
        else:
            build(read_configs(a.model)).save(folder := f"{folder}/model")
        print(f"{a.model}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
              f"{torch.backends.cpu.get_cpu_capability()}: seconds, and ours over theirs")
        table = rows(folder, small)
        if unknown := set(a.only or ()) - set(table):
            p.error(f"--only {', '.join(unknown)}: some of {'; '.join(table)}")
        for name, (ours, theirs) in table.items():
            if a.only and name not in a.only:
                continue
            pair = measure(ours, theirs, a.times or (15 if small else 3))
            report[name] = {"ours": pair[0], "theirs": pair[1], "ratio": pair[0] / pair[1]}
            print(f"{name:30s}{pair[0]:9.4f}{pair[1]:9.4f}{pair[0] / pair[1]:7.2f}", flush=True)
        if not a.only and Path("/proc/self/status").exists():
            pair = peak(folder, True), peak(folder, False)
            report["peak, MB"] = {"ours": pair[0], "theirs": pair[1], "ratio": pair[0] / pair[1]}
            print(f"{'peak of a picture, MB':30s}{pair[0]:9.0f}{pair[1]:9.0f}"
                  f"{pair[0] / pair[1]:7.2f}")
    if a.json:
        save_text(json.dumps(report, indent=1), Path(a.json))


if __name__ == "__main__":
    run(main)
