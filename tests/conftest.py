"""What the tests share: small random Stable Diffusions in folders that diffusers and transformers wrote themselves."""
import fcntl
import gzip
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import clip_text  # noqa: E402 (found through the line above)
from pictures import square  # noqa: E402


# === small models in the public layout ================================================================================

def clip_tokenizer(pad=clip_text.END):
    """CLIP's real tokenizer, from the list of merges that OpenAI published: package openai-clip ships it."""
    package = Path(importlib.util.find_spec("clip").origin).parent
    lines = gzip.open(package / "bpe_simple_vocab_16e6.txt.gz").read().decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1:49_152 - 256 - 2 + 1]]
    letters = list(clip_text.BYTES.values())
    tokens = letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges] + [clip_text.START, clip_text.END]
    return clip_text.Tokenizer({token: i for i, token in enumerate(tokens)}, merges, pad=pad)


def build(folder, unet, text, scheduler, pad):
    """A StableDiffusionPipeline with random weights, saved by its own save_pretrained."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    torch.manual_seed(0)
    clip_tokenizer(pad).save(folder.with_name(folder.name + "_tokenizer"))
    levels = 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = StableDiffusionPipeline(
            unet=UNet2DConditionModel(sample_size=8, block_out_channels=(16, 32, 64, 64), layers_per_block=2,
                                      cross_attention_dim=32, norm_num_groups=8, **unet),
            vae=AutoencoderKL(block_out_channels=(8, 16, 16, 16), layers_per_block=2, norm_num_groups=8, sample_size=64,
                              down_block_types=("DownEncoderBlock2D",) * levels, latent_channels=4,
                              up_block_types=("UpDecoderBlock2D",) * levels),
            text_encoder=CLIPTextModel(CLIPTextConfig(
                vocab_size=49_408, hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1, **text)),
            tokenizer=CLIPTokenizer.from_pretrained(folder.with_name(folder.name + "_tokenizer")),
            scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        pipeline.save_pretrained(folder)
    return folder


NOISE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
         "trained_betas": None, "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False,
         "skip_prk_steps": True}


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory):
    """Small, but of SD 1.5's kind: convolutions around the transformers, 8 heads everywhere, quick_gelu, epsilon."""
    from diffusers import PNDMScheduler
    return build(tmp_path_factory.mktemp("sd15") / "model", {"attention_head_dim": 8}, {"hidden_act": "quick_gelu"},
                 PNDMScheduler.from_config(NOISE), clip_text.END)


@pytest.fixture(scope="session")
def sd21_folder(tmp_path_factory):
    """Small, but of SD 2.1's kind: linear layers around the transformers, heads by level, gelu, v, padded with "!"."""
    from diffusers import DDIMScheduler
    return build(tmp_path_factory.mktemp("sd21") / "model",
                 {"attention_head_dim": [2, 4, 8, 8], "use_linear_projection": True}, {"hidden_act": "gelu"},
                 DDIMScheduler.from_config(NOISE | {"prediction_type": "v_prediction"}), "!")


@pytest.fixture
def altered(tmp_path):
    """altered(folder, part): a copy of a model whose `part` may be changed; the rest of it are links."""
    def copy(folder, part):
        new = tmp_path / f"{folder.name}-{len(list(tmp_path.iterdir()))}"
        new.mkdir()
        for path in folder.iterdir():
            if path.name == part:
                shutil.copytree(path, new / part)
            else:
                (new / path.name).symlink_to(path)
        return new
    return copy


def diffusers_pipeline(folder):
    """The same folder in diffusers, with the sampler that ours has by default."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return pipe


def pixels(a, b):
    """The largest difference of two pictures, in grey levels."""
    return max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes()))


def failing_open(call, error):
    """For files.open: the `call`-th file of tensors that is written gets its first ten bytes, and then there is this
    error."""
    written = []

    class Half(io.FileIO):
        def write(self, data):
            super().write(bytes(data)[:10])
            raise error

    def opened(path, mode="r"):
        written.extend([path] if mode == "wb" else [])
        return Half(path, mode) if mode == "wb" and len(written) == call else open(path, mode)
    return opened


def locked(folder):
    """Another run at work in this folder: it has the lock while its file is open."""
    folder.mkdir(exist_ok=True)
    lock = open(folder / ".lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


# === training a small model ===========================================================================================

@pytest.fixture
def photos(tmp_path):
    """A folder with three pictures of different shapes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, size in enumerate([(80, 60), (64, 64), (60, 90)]):
        Image.effect_noise(size, 60).convert("RGB").save(folder / f"{i}.png")
    return folder


def weights(sd):
    """A copy of every number of a model, by part and name."""
    return {f"{part}.{n}": p.detach().clone() for part in ("unet", "text", "vae")
            for n, p in getattr(sd, part).named_parameters()}


def same(a, b):
    """Are two such copies the same to the bit?"""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def trained(method, cfg, steps=None):
    """The model of a method's script at its end, or stopped after so many of its steps."""
    sd, cfg, photos = method.prepare(cfg)
    for count, _ in enumerate(method.train(sd, cfg, photos), 1):
        if count == steps:
            break
    return sd


def latents(sd, photos, seed=0):
    """The middles of some photos (PIL) as a model sees them: scaled latents (photos, c, y, x)."""
    squares = [square(photo, sd.size) for photo in photos]
    return sd.draw_latents(*sd.encode(squares), torch.Generator().manual_seed(seed))


@torch.no_grad()
def held_out_error(sd, z, prompt):
    """The model's squared error on latents z, told the prompt, at 20 noise levels, on noise that no training step has
    seen."""
    g = torch.Generator().manual_seed(99)
    t = torch.arange(25, 1000, 50).repeat_interleave(len(z))
    z = z.repeat(20, 1, 1, 1)
    eps = torch.randn(z.shape, generator=g)
    output = sd.unet(sd.schedule.add_noise(z, eps, t), t, sd.read([prompt]).expand(len(t), -1, -1))
    return ((output - sd.schedule.target(z, eps, t)) ** 2).mean().item()


# === the command as a user types it ===================================================================================

def clean_environment(**more):
    """This process's environment without what would send a test to the real hub or through a proxy."""
    keep = {k: v for k, v in os.environ.items()
            if not k.startswith(("HF_", "TRANSFORMERS_")) and not k.lower().endswith("_proxy")}
    return keep | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
                   "PYTHONPATH": str(ROOT)} | more


@pytest.fixture
def command(tmp_path):
    """command("a cat", "--seed", 1, HF_HOME="x"): stable_diffusion.py in a folder of its own, once it has ended."""
    def run(*arguments, **environment):
        place = tmp_path / "place"
        place.mkdir(exist_ok=True)
        environment = clean_environment(**({"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")} | environment))
        return subprocess.run([sys.executable, ROOT / "stable_diffusion.py", *map(str, arguments)], cwd=place,
                              env=environment, capture_output=True, text=True, timeout=100)
    return run


@pytest.fixture
def refused():
    """refused(ended): the one line that a user sees whose request cannot be met; the fixture asserts that it is one."""
    def check(ended):
        lines = ended.stderr.splitlines()
        assert "Traceback" not in ended.stderr
        assert len(lines) == 1 and lines[0].startswith("error: "), ended.stderr
        assert ended.returncode == 2 and ended.stdout == ""
        return lines[0]
    return check
