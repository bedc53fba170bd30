"""--device cuda where there is none, on a pretended GPU (pretended_cuda.py). First the device itself, as nobody would
see what it lets pass by mistake; then every script and every notebook on it."""
import copy
import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jupytext
import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, pixels
from PIL import Image
from pretended_cuda import CUDATensor, PretendedCUDA, load_guard, unchecked
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

import stable_diffusion
from clip_text import CLIPText, CLIPTextConfig, Tokenizer
from ddpm import ScheduleConfig
from lora_dreambooth import adapted_layers, start_lora
from lora_file import save_lora
from stable_diffusion import SUBJECTS, TINY, StableDiffusion
from tiny_unet import UNet, UNetConfig
from vae import VAE, VAEConfig

try:
    load_guard()
except (OSError, subprocess.CalledProcessError) as error:
    pytest.skip(f"there is no pretended GPU here: {error}", allow_module_level=True)


@pytest.fixture
def device():
    precision = torch.get_float32_matmul_precision()  # the scripts change it on a GPU
    with PretendedCUDA() as device:
        yield device
    torch.set_float32_matmul_precision(precision)


# === the device: what it refuses ======================================================================================

def here(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def there(*shape):
    return here(*shape).to("cuda")


TWO_DEVICES = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
REFUSED = {  # what CUDA says to it
    "a sum": (lambda: there(3) + here(3), TWO_DEVICES),
    "a number there, more here": (lambda: there(1)[0] + here(3), TWO_DEVICES),
    "a number here that changes": (lambda: torch.tensor(1.0).add_(there(1)[0]), TWO_DEVICES),
    "a matrix": (lambda: here(2, 3) @ there(3, 2), TWO_DEVICES),
    "a layer": (lambda: nn.Linear(3, 2).to("cuda")(here(4, 3)), TWO_DEVICES),
    "a convolution": (lambda: F.conv2d(there(1, 2, 4, 4), here(2, 2, 3, 3)), TWO_DEVICES),
    "pieces": (lambda: torch.cat([there(3), here(3)]), TWO_DEVICES),
    "a stack": (lambda: torch.stack([here(3), there(3)]), TWO_DEVICES),
    "a loss": (lambda: F.mse_loss(there(3), here(3)), TWO_DEVICES),
    "a choice": (lambda: torch.where(here(3) > 0, there(3), there(3)), TWO_DEVICES),
    "a limit": (lambda: there(3).clamp(min=torch.tensor(0.0)), TWO_DEVICES),  # of another kind than a sum
    "an embedding": (lambda: nn.Embedding(5, 2).to("cuda")(torch.tensor([1])), TWO_DEVICES),
    "gather": (lambda: there(3).gather(0, torch.tensor([1])), TWO_DEVICES),
    "index_select": (lambda: there(3).index_select(0, torch.tensor([1])), TWO_DEVICES),
    "values to be put": (lambda: there(3).index_put_((torch.tensor([1]),), here(1)), TWO_DEVICES),
    "are they equal": (lambda: torch.equal(there(3), here(3)), TWO_DEVICES),
    "an index there": (lambda: here(3)[torch.tensor([1], device="cuda")], "indices should be either on cpu or on the"),
    "a mask there": (lambda: here(3)[there(3) > 0], "indices should be either on cpu or on the same device"),
    "a generator here": (lambda: torch.randn(3, generator=torch.Generator(), device="cuda"),
                         "Expected a 'cuda' device type for generator but found 'cpu'"),
    "a generator here, in place": (lambda: there(3).normal_(generator=torch.Generator()),
                                   "Expected a 'cuda' device type for generator but found 'cpu'"),
    "a generator there": (lambda: torch.randn(3, generator=torch.Generator("cuda")),
                          "Expected a 'cpu' device type for generator but found 'cuda'"),
    "numpy": (lambda: there(3).numpy(), "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu"),
    "numpy by itself": (lambda: np.asarray(there(3)), "can't convert cuda:0 device type tensor to numpy"),
    "a picture": (lambda: Image.fromarray(there(3, 3).byte()), ""),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cuda_refuses(what, device):
    ask, message = REFUSED[what]
    with pytest.raises((RuntimeError, TypeError, AttributeError)) as error:
        ask()
    assert message in str(error.value)


ALLOWED = {
    "a number from here": lambda: there(3) + torch.tensor(1.0),
    "on the left": lambda: torch.tensor(2.0) * there(3),
    "a choice of numbers": lambda: torch.where(there(3) > 0, there(3), torch.tensor(0.0)),
    "masked by a number": lambda: there(3).masked_fill(there(3) > 0, torch.tensor(0.0)),
    "an index from here": lambda: there(3)[torch.tensor([1])],
    "a mask from here": lambda: there(3)[here(3) > 0],
    "a copy": lambda: there(3).copy_(here(3)),
    "like one here": lambda: torch.zeros_like(here(3), device="cuda"),
    "a generator there": lambda: torch.randn(3, generator=torch.Generator("cuda"), device="cuda"),
    "without a generator": lambda: torch.randn(3, device="cuda"),
    "a list": lambda: torch.tensor([1.0, 2.0], device="cuda"),
    "from numpy, moved": lambda: torch.from_numpy(np.zeros(3)).cuda(),
}


@pytest.mark.parametrize("what", ALLOWED)
def test_what_cuda_allows(what, device):
    result = ALLOWED[what]()
    assert isinstance(result, CUDATensor) and result.is_cuda and str(result.device) == "cuda:0"


def test_of_which_operations_take_a_number_from_here_torchs_own_table_says():
    """It is the table of which CUDA's checks are generated."""
    assert {"add.Tensor", "where.self", "index.Tensor", "masked_fill_.Tensor"} <= unchecked()
    assert not {"mm", "cat", "gather", "index_select", "convolution", "clamp.Tensor", "embedding"} & unchecked()


def test_numbers_by_chance_are_others_there(device):
    """As from a real GPU: who wants the same numbers everywhere draws them on the CPU."""
    torch.manual_seed(0)
    first, again = torch.randn(3, device="cuda"), torch.randn(3)
    torch.manual_seed(0)
    assert torch.equal(first, torch.randn(3, device="cuda")) and torch.equal(again, torch.randn(3))
    assert not torch.equal(first.cpu(), again)
    seeds = [torch.Generator(place).manual_seed(5) for place in ("cuda", "cuda", "cpu")]
    one, other = [torch.randn(3, generator=seed, device="cuda") for seed in seeds[:2]]
    assert torch.equal(one, other) and not torch.equal(one.cpu(), torch.randn(3, generator=seeds[2]))


def test_float16_weights_have_no_place_under_a_scaler(device):
    net, scaler = nn.Linear(3, 2).to("cuda", torch.float16), torch.amp.GradScaler("cuda")
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    scaler.scale(net(there(4, 3).half()).sum()).backward()
    with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
        scaler.unscale_(optimizer)


def test_it_is_gone_afterwards():
    with PretendedCUDA((7, 5), memory=2 ** 34) as device:
        assert torch.cuda.is_available() and torch.cuda.get_device_capability() == (7, 5)
        assert torch.cuda.get_device_properties(0).total_memory == torch.cuda.mem_get_info()[1] == 2 ** 34
        assert torch.cuda.is_bf16_supported() and not torch.cuda.is_bf16_supported(including_emulation=False)
        left = torch.ones(2, device="cuda")
    assert not torch.cuda.is_available() and torch.accelerator.current_accelerator() is None and device.reads == []
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")
    with pytest.raises(RuntimeError, match="not there any more"):
        left + 1


# === the device: what it counts =======================================================================================

def fill(x, *indices, value=0.0):
    x[indices] = value


def pinned(*shape):
    return here(*shape).pin_memory()


COUNTED = {  # reads, writes
    "item": (lambda x: x[0, 0].item(), 1, 0),
    "float": (lambda x: float(x[0, 0]), 1, 0),
    "if": (lambda x: bool((x > 0).all()), 1, 0),
    "text": (lambda x: f"{x[0, 0]:.2f}", 1, 0),
    "tolist": (lambda x: x.tolist(), 1, 0),
    "cpu": (lambda x: x.cpu(), 1, 0),
    "nonzero": (lambda x: x.nonzero(), 1, 0),
    "equal": (lambda x: torch.equal(x, x), 1, 0),
    "allclose": (lambda x: torch.allclose(x, x), 1, 0),
    "by a mask": (lambda x: x[x > 0], 1, 0),
    "by a number there": (lambda x: x[torch.zeros((), dtype=int, device="cuda")], 1, 0),
    "by indices there": (lambda x: x[torch.zeros(1, dtype=int, device="cuda")], 0, 0),
    "by indices here": (lambda x: x[torch.tensor([0])], 0, 1),
    "by two indices here": (lambda x: x[torch.tensor([0]), torch.tensor([1])], 0, 2),
    "numbers by a mask": (lambda x: fill(x, x > 0, value=x[x > 0]), 2, 0),
    "a number by a mask": (lambda x: fill(x, x > 0), 0, 0),
    "a number by a slice": (lambda x: fill(x, slice(1, 2)), 0, 0),
    "copy_ there": (lambda x: x.copy_(here(3, 4)), 0, 1),
    "copy_ here": (lambda x: here(3, 4).copy_(x), 1, 0),
    "to": (lambda x: here(3).to("cuda"), 0, 1),
    "to, not waiting": (lambda x: here(3).to("cuda", non_blocking=True), 0, 1),  # but it waits
    "to, pinned": (lambda x: pinned(3).to("cuda"), 0, 1),
    "to, pinned and not waiting": (lambda x: pinned(3).to("cuda", non_blocking=True), 0, 0),
    "from, not waiting": (lambda x: x.to("cpu", non_blocking=True), 0, 0),
    "a list": (lambda x: torch.tensor([1.0], device="cuda"), 0, 1),
    "made there": (lambda x: torch.full((2,), 1.0, device="cuda"), 0, 0),
    "a number from here": (lambda x: x * torch.tensor(2.0), 0, 0),
    "another kind of number": (lambda x: x.half(), 0, 0),
    "synchronize": (lambda x: torch.cuda.synchronize(), 1, 0),
    "the CPU's own": (lambda x: here(3)[here(3) > 0].tolist(), 0, 0),
}


@pytest.mark.parametrize("what", COUNTED)
def test_what_it_counts(what, device):
    ask, reads, writes = COUNTED[what]
    x = there(3, 4)
    device.writes.clear()
    ask(x)
    assert (len(device.reads), len(device.writes)) == (reads, writes), (device.reads, device.writes)
    assert all(line.startswith("test_pretended_cuda.py:") for line in device.reads + device.writes)


# === the device: torch on it ==========================================================================================

def test_a_network_moves_there_and_back(device):
    """Its weights stay the same objects, as an optimizer that was made before knows them."""
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    weight, numbers = net[0].weight, net[0].weight.detach().clone()
    net.to("cuda")
    assert weight is net[0].weight and isinstance(weight, nn.Parameter) and weight.is_cuda and weight.requires_grad
    twin = copy.deepcopy(net)
    twin[0].weight.data += 1
    assert torch.equal(weight.cpu(), numbers) and torch.equal(twin[0].weight.cpu(), numbers + 1)
    net.load_state_dict(twin.state_dict())
    twin.load_state_dict({name: tensor.cpu() - 1 for name, tensor in net.state_dict().items()})
    assert torch.equal(twin[0].weight.cpu(), weight.cpu() - 1)
    net.to("cpu")
    assert weight is net[0].weight and type(weight) is nn.Parameter and weight.requires_grad
    assert torch.equal(weight, numbers + 1) and net(here(2, 3)).device.type == "cpu"


def test_the_same_files(device, tmp_path):
    tensors = {"a": there(3, 4), "b": there(2).half(), "view": there(3, 4)[1:]}
    save_file(tensors, tmp_path / "there.safetensors")
    back, straight = load_file(tmp_path / "there.safetensors"), load_file(tmp_path / "there.safetensors", "cuda")
    assert all(torch.equal(back[name], tensors[name].cpu()) and straight[name].is_cuda for name in tensors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_cuda(device, dtype):
    """Layers and attention compute in half, a softmax and a norm of a layer do not."""
    x, net = there(2, 4, 8), nn.Linear(8, 8).to("cuda")
    with torch.autocast("cuda", dtype):
        assert net(x).dtype == F.scaled_dot_product_attention(x, x, x).dtype == dtype
        assert F.conv2d(there(1, 2, 4, 4), there(2, 2, 3, 3)).dtype == dtype
        assert net(x).softmax(-1).dtype == F.layer_norm(net(x), (8,)).dtype == torch.float32
        assert nn.Linear(8, 8)(here(2, 8)).dtype == torch.float32, "on the CPU there is none"
    net(x).sum().backward()
    assert net.weight.grad.dtype == torch.float32 and net.weight.grad.is_cuda


def test_a_checkpointed_attention_has_the_same_gradient(device):
    def attend(x):
        return F.scaled_dot_product_attention(x, x, x.sin(), is_causal=True)
    q = here(1, 2, 5, 4).requires_grad_()
    attend(q).sum().backward()
    for again in (False, True):
        x = there(1, 2, 5, 4).requires_grad_()
        (checkpoint(attend, x, use_reentrant=False) if again else attend(x)).sum().backward()
        assert torch.allclose(x.grad.cpu(), q.grad, atol=1e-6)


def small_unet():
    torch.manual_seed(0)
    return UNet(UNetConfig(8, 4, 4, (16, 32), ("DownBlock2D", "CrossAttnDownBlock2D"),
                           ("CrossAttnUpBlock2D", "UpBlock2D"), mid_block_type=None, layers_per_block=1,
                           attention_head_dim=2, cross_attention_dim=32, norm_num_groups=8))


@pytest.mark.parametrize("how", [{"fused": True}, {"foreach": True}], ids=str)
def test_training_steps_of_a_unet_are_the_cpus(device, how):
    """Forward, backward, clipped, AdamW: twice, and nothing is waited for."""
    after, start = {}, dict(small_unet().named_parameters())
    for place in ("cpu", "cuda"):
        unet = small_unet().to(place)
        optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3, **how)
        z, words, t = here(2, 4, 8, 8).to(place), here(2, 7, 32).to(place), torch.tensor([3, 700], device=place)
        device.reads.clear(), device.writes.clear()
        for _ in range(2):
            unet(z, t, words).square().mean().backward()
            nn.utils.clip_grad_norm_(unet.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
        assert device.reads == device.writes == []
        after[place] = {name: weight.detach().cpu() for name, weight in unet.named_parameters()}
    assert apart(after["cuda"], after["cpu"]) < 0.01 * apart(after["cpu"], start)


def apart(a, b):
    """The mean distance of the numbers of two {name: tensor}."""
    assert a.keys() == b.keys()
    distances = [(a[name].float() - b[name].float()).abs().flatten() for name in a]
    return torch.cat(distances).mean().item()


# === the scripts ======================================================================================================

@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of two levels, of the tiny world's kind: a step takes a fraction of a second. It predicts v, as that
    does: from a random network's eps a sampler concludes latents of several hundred, whose last digits differ."""
    tokenizer = Tokenizer.load(f"{TINY}/tokenizer")
    unet, text = small_unet(), CLIPText(CLIPTextConfig(len(tokenizer), 32, 64, 1, 2, tokenizer.length))
    vae, schedule = VAE(VAEConfig(3, 3, 4, (8, 16), 1, 8)), ScheduleConfig(prediction_type="v_prediction")
    sd = StableDiffusion(tokenizer, text, unet, vae, schedule)
    folder = tmp_path_factory.mktemp("small") / "model"
    sd.save(folder)
    return folder


@pytest.fixture
def crowd(tmp_path):
    """Three people, one of them in two pictures."""
    (tmp_path / "crowd" / "anna").mkdir(parents=True)
    for name in ("anna/1", "anna/2", "ben", "cleo"):
        Image.effect_noise((20, 18), 60).convert("RGB").save(tmp_path / "crowd" / f"{name}.png")
    return tmp_path / "crowd"


FURTHER = {  # what a script wants beside what all want
    "dreambooth": {"sampling_steps": 1, "save_every": 1, "class_images": 2, "train_text_encoder": True},
    "lora_dreambooth": {"sampling_steps": 1, "save_every": 1, "class_images": 2, "train_text_encoder": True},
    "textual_inversion": {"sampling_steps": 1, "save_every": 1},
    "attn_dreambooth": {"sampling_steps": 1, "save_every": 2, "augment": False},
    "hyperdreambooth": {"sampling_steps": 1, "a": 8, "b": 6, "hypernetwork": "none"},
    "learn_hypernetwork": {"steps": 4, "save_every": 3, "a": 8, "b": 6, "width": 32, "beta": 0.1, "theta_steps": 1,
                           "theta_batch": 3},
}
LAST = {"attn_dreambooth": 3, "learn_hypernetwork": 4}  # the step after which it is killed; all others: the second

# How often a step waits for the device, and gives it numbers: once for its log; x_t with its target, and t. A
# hypernetwork learns from other people at every step: their pictures, thetas and tokens too.
WAITS, GIFTS = 1, {"learn_hypernetwork": 5}


@pytest.fixture
def config(model, photos, crowd, tmp_path):
    """config(script, device): its module, and a Config of a few steps on the small model."""
    def make(script, device, **how):
        module = importlib.import_module(script)
        how = {"model": str(model), "class_name": "dog", "size": 16, "batch_size": 2, "lr": 1e-3, "steps": 2,
               "dtype": "float32", "device": device, "out": str(tmp_path / script / device)} | FURTHER[script] | how
        images = {"learn_hypernetwork": crowd, "hyperdreambooth": photos / "0.png"}.get(script, photos)
        return module, module.Config(images=str(images), **how)
    return make


@pytest.mark.parametrize("script", FURTHER)
def test_a_script_does_there_what_it_does_here(script, config, device, monkeypatch):
    """All of it, from the command to its files. There it is stopped at a step, as if killed, and then resumed."""
    (module, cfg), (_, cfg_there) = config(script, "cpu"), config(script, "cuda")
    monkeypatch.setattr(module, "watch", lambda training, steps: logs.append(list(training)) or logs[-1])
    monkeypatch.setattr(module, "PROMPTS", ("a {} in the snow",), raising=False)
    logs, killed, waits = [], [], []
    module.main(cfg)
    sd, settled, photos = module.prepare(cfg_there)
    for log in module.train(sd, settled, photos):
        killed.append(log)
        waits.append((len(device.reads), len(device.writes)))
        if log["step"] == LAST.get(script, 2):
            break
    if hasattr(cfg_there, "resume"):
        cfg_there = replace(cfg_there, resume=True)
    module.main(cfg_there)

    (reads, writes), (reads_then, writes_then) = waits[:2]
    assert reads_then - reads <= WAITS, device.reads[reads:reads_then]
    assert writes_then - writes <= GIFTS.get(script, 2), device.writes[writes:writes_then]
    here, resumed = logs
    assert len(resumed) < len(here) or script == "hyperdreambooth"
    for log in killed + resumed:
        assert log == pytest.approx(here[log["step"] - 1], rel=1e-3, abs=1e-6)
    files = [path.relative_to(cfg.out) for path in Path(cfg.out).rglob("*.safetensors")]
    assert files
    for file in files:
        assert apart(load_file(Path(cfg.out) / file), load_file(Path(cfg_there.out) / file)) < 1e-6, file


@pytest.mark.parametrize("capability, memory, dtypes", [
    ((8, 0), "plain", ("bfloat16", torch.float32)), ((8, 0), "lean", ("bfloat16", torch.bfloat16)),
    ((7, 5), "plain", ("float16", torch.float32)), ((7, 5), "thrifty", ("float16", torch.float32))], ids=str)
def test_left_open_it_is_the_gpu_and_what_it_computes_well(capability, memory, dtypes, config):
    """--device auto and --dtype auto; weights in what --memory says; losses near those of float32 here."""
    how = ("cpu", "plain", "float32"), ("auto", memory, "auto")
    (module, here), (_, there) = (config("dreambooth", place, memory=memory, dtype=dtype, train_text_encoder=False)
                                  for place, memory, dtype in how)
    _, _, here = run(module, here)
    with PretendedCUDA(capability):
        sd, settled, there = run(module, there)
        assert sd.device.type == "cuda" and (settled.dtype, sd.unet.conv_in.weight.dtype) == dtypes
    assert len(here) == len(there) == 2
    for log, expected in zip(there, here):
        assert log == pytest.approx(expected, rel=0.02)


def run(method, cfg):
    """The model, the Config with nothing left open, and the logs of its training."""
    sd, cfg, photos = method.prepare(cfg)
    return sd, cfg, list(method.train(sd, cfg, photos))


# === pictures =========================================================================================================

def draw(place, out, monkeypatch, *more):
    """The picture of the command."""
    arguments = ["a dog", "--device", place, "--dtype", "float32", "--out", out / f"{place}.png", *more]
    monkeypatch.setattr(sys, "argv", ["stable_diffusion.py", *map(str, arguments)])
    stable_diffusion.main()
    return Image.open(out / f"{place}.png")


@pytest.mark.parametrize("how, most", [((), 1), (("--sampler", "ddpm"), 1), (("--sampler", "dpm++"), 1),
                                       (("--dtype", "float16"), 8), (("--dtype", "bfloat16"), 40),
                                       (("--dtype", "auto"), 40)], ids=str)
def test_a_picture_there_is_the_picture_here(how, most, model, device, tmp_path, monkeypatch):
    how = "--model", model, "--sampling-steps", 3, *how
    here, there = [draw(place, tmp_path, monkeypatch, *how) for place in ("cpu", "cuda")]
    assert pixels(here, there) <= most


def test_words_and_loras_are_taken_there(model, device, tmp_path, monkeypatch):
    """And the model with them leaves it as one file."""
    sd, chance = StableDiffusion.from_pretrained(model), torch.Generator().manual_seed(0)
    lora = start_lora(adapted_layers(sd), 2, chance)
    changes = {name: (A.detach().T, torch.randn(B.T.shape, generator=chance)) for name, (A, B) in lora.items()}
    save_lora(tmp_path / "lora.safetensors", changes)
    save_file({"<it>": 9 * torch.randn(2, 32, generator=chance)}, tmp_path / "word.safetensors")
    how = "--model", model, "--sampling-steps", 2, "--lora", f"{tmp_path / 'lora.safetensors'}:0.5"
    how += "--embeds", tmp_path / "word.safetensors"
    here, there = [draw(place, tmp_path, monkeypatch, *how, "--single-file", tmp_path / f"{place}.safetensors")
                   for place in ("cpu", "cuda")]
    without = draw("cuda", tmp_path, monkeypatch, *how[:4])
    assert pixels(here, there) <= 1 < pixels(there, without)
    assert apart(load_file(tmp_path / "cuda.safetensors"), load_file(tmp_path / "cpu.safetensors")) < 1e-6


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_a_walk_is_not_held_up(sampler, model, device):
    """A picture is waited for twice, however many steps its sampler makes: is it finite, and what is it?"""
    sd, reads = StableDiffusion.from_pretrained(model, "cuda"), []
    for steps in (2, 4):
        device.reads.clear()
        sd.sample("a dog", steps=steps, sampler=sampler)
        reads.append(device.reads[:])
    assert reads[0] == reads[1] and len(reads[0]) == 2


# === the notebooks ====================================================================================================

@pytest.mark.slow
@pytest.mark.parametrize("source", sorted(ROOT.glob("notebooks/[0-9]*.py")), ids=lambda path: path.stem)
def test_a_notebook_runs_there(source, device, tmp_path, monkeypatch):
    """In its fast form, every line of it; without a kernel of its own, which would know nothing of the device."""
    matplotlib.use("Agg")
    monkeypatch.setenv("FAST", "1")
    monkeypatch.setenv("MODEL", TINY)  # where a GPU is there, one of the notebooks takes Stable Diffusion
    monkeypatch.setenv("PHOTOS", str(SUBJECTS / "dog"))
    monkeypatch.chdir(source.parent)
    names = {}
    with torch.enable_grad():  # what a notebook turns off is on again after it
        for i, cell in enumerate(jupytext.read(source).cells):
            if cell.cell_type == "code":
                code = cell.source.replace("../runs/notebook", str(tmp_path))
                exec(compile(code, f"{source.name}, cell {i}", "exec"), names)
