"""How much of a GPU's memory each method takes, counted without one.

    python benchmarks/memory.py                             Stable Diffusion 1.5, 512 pixels
    python benchmarks/memory.py --model sd21 --size 768
    python benchmarks/memory.py --only "dreambooth, lean" --json memory.json
    python benchmarks/memory.py --process --size 256 --only "dreambooth, thrifty"

Two steps of the method's own training run on tensors that hold no numbers: torch only keeps their
shapes (FakeTensorMode). Each operation's results are counted when they come and discounted when
they go. At the highest moment it is counted whose they are:

    weights     of the networks that are on the device
    gradients   of what is trained
    optimizer   what AdamW keeps: its moments
    rest        activations, and all that is only there for a moment

Not counted: what CUDA itself takes (about half a gigabyte), and what its allocator loses between
the blocks. With --process the same two steps are also taken for real, on this machine's CPU (Linux;
minutes): the count, with all networks in one memory, beside what the process took of it.
"""
import argparse
import json
import sys
import tempfile
import weakref
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import attn_dreambooth  # noqa: E402 (found through the line above)
import dreambooth  # noqa: E402
import hyperdreambooth  # noqa: E402
import lora_dreambooth  # noqa: E402
import textual_inversion  # noqa: E402
from clip_text import CLIPText, CLIPTextConfig, Tokenizer  # noqa: E402
from command import run  # noqa: E402
from files import save_text  # noqa: E402
from stable_diffusion import TINY, StableDiffusion  # noqa: E402
from tiny_unet import UNet, UNetConfig  # noqa: E402
from vae import VAE, VAEConfig  # noqa: E402

MODELS = {  # UNet, text encoder
    "sd15": (UNetConfig(), CLIPTextConfig()),
    "sd21": (UNetConfig(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
                        use_linear_projection=True),
             CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
                            num_attention_heads=16, hidden_act="gelu")),
}

# name: (script, what differs from its defaults)
ROWS = {
    "dreambooth, plain": (dreambooth, {"memory": "plain"}),
    "dreambooth, thrifty": (dreambooth, {"memory": "thrifty"}),
    "dreambooth, lean": (dreambooth, {"memory": "lean"}),
    "attn_dreambooth, plain": (attn_dreambooth, {"memory": "plain", "stages": "3"}),
    "attn_dreambooth, thrifty": (attn_dreambooth, {"memory": "thrifty", "stages": "3"}),
    "attn_dreambooth, lean": (attn_dreambooth, {"memory": "lean", "stages": "3"}),
    "lora_dreambooth": (lora_dreambooth, {}),
    "textual_inversion": (textual_inversion, {}),
    "hyperdreambooth": (hyperdreambooth, {"hypernetwork": "none"}),
    "a picture": (None, {}),
}


# === the counter ==================================================================================

class Counter(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, for as long as they live. `whose()`
    is asked at each new peak, {name: bytes}."""

    def __init__(self, whose=dict):
        super().__init__()
        self.whose, self.now, self.peak, self.parts = whose, 0, 0, {}
        self.sizes = {}

    def add(self, tensor):
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self.remove, key)

    def remove(self, key):
        self.now -= self.sizes.pop(key, 0)

    def size_of(self, tensors):
        """The bytes of tensors, each storage once, without those that are set aside."""
        keys = {tensor.untyped_storage()._cdata for tensor in tensors if tensor is not None}
        return sum(self.sizes.get(key, 0) for key in keys)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten._local_scalar_dense.default:
            return 1.0  # somebody looks at a number: there are none
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        if self.now > 1.002 * self.peak:
            self.peak, self.parts = self.now, self.whose()
        return result


# === what is run ==================================================================================

def converted(network, kind=None, dtype=None, **_):
    """In place of Module.to, which swaps tensors where those without numbers cannot be swapped."""
    for module in network.modules():
        for name, weight in module.named_parameters(recurse=False):
            new = weight.detach().to(dtype or kind)
            setattr(module, name, torch.nn.Parameter(new, weight.requires_grad))
    return network


def read_configs(name):
    """Of a model of a public size, or of the tiny world's: the UNet's, text encoder's, VAE's."""
    if name != "tiny":
        return *MODELS[name], VAEConfig()
    sd = StableDiffusion.from_pretrained(TINY)
    return sd.unet.config, sd.text.config, sd.vae.config


def build(configs):
    tokenizer = Tokenizer.load(Path(TINY) / "tokenizer")
    tokenizer.length = configs[1].max_position_embeddings
    unet, text, vae = configs
    return StableDiffusion(tokenizer, CLIPText(text), UNet(unet), VAE(vae))


@contextmanager
def training(script, change, sd, size, dtype):
    """Within it: the method's own training of sd, a generator of steps. Its photos are black, its
    class pictures noise."""
    side = size // sd.vae.factor
    z = torch.randn(2, sd.unet.config.in_channels, side, side)
    with tempfile.TemporaryDirectory() as folder, \
            patch.object(StableDiffusion, "from_pretrained", lambda *a, **k: sd), \
            patch.object(StableDiffusion, "fingerprint", lambda sd: ""), \
            patch.object(script, "draw_class_latents", lambda sd, cfg: z, create=True):
        for i in range(2):  # without numbers, a choice by chance is always photo 1
            Image.new("RGB", (size, size)).save(Path(folder) / f"{i}.png")
        cfg = script.Config(images=folder, class_name="cat", size=size, dtype=dtype, device="cpu",
                            out=str(Path(folder) / "out"), **change)
        yield script.train(*script.prepare(cfg))


def memory_of_process(what):
    """In bytes, as Linux keeps it: "VmRSS" now, "VmHWM" the most since it was set back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return 1024 * int(line.split()[1])


def measure_process(name, model, size):
    """What this process really takes of the CPU's memory during the second step, in float32."""
    (script, change), before = ROWS[name], memory_of_process("VmRSS")
    sd = build(read_configs(model))
    with training(script, change, sd, size, "float32") as steps:
        next(steps)
        Path("/proc/self/clear_refs").write_text("5")  # sets the highest mark back
        next(steps)
        return memory_of_process("VmHWM") - before


def count(name, model, size, dtype, aside=True):
    """{"peak", "weights", "gradients", "optimizer", "rest"} in bytes. aside: what waits on the CPU
    is left out, as on a GPU."""
    (script, change), configs = ROWS[name], read_configs(model)
    with FakeTensorMode(allow_non_fake_inputs=True), Counter() as counter, \
            patch.object(torch.nn.Module, "to", converted):
        sd = build(configs)
        if script is None:
            return count_picture(sd, size, dtype, counter)

        def set_aside(sd, *networks):
            for network in networks if aside else ():
                for weight in network.parameters():
                    counter.remove(weight.untyped_storage()._cdata)
        with training(script, change, sd, size, dtype) as steps, \
                patch.object(StableDiffusion, "set_aside", set_aside):

            def whose():
                # train's own variables, while it waits at its yield. textual_inversion has no
                # `trained`: its one vector counts as rest.
                names = steps.gi_frame.f_locals if steps.gi_frame else {}
                trained, optimizer = names.get("trained", []), names.get("optimizer")
                states = optimizer.state_dict()["state"].values() if optimizer else []
                weights = [p for network in sd.networks.values() for p in network.parameters()]
                return {"weights": counter.size_of([*weights, *trained]),
                        "gradients": counter.size_of(weight.grad for weight in trained),
                        "optimizer": counter.size_of(t for state in states for t in state.values())}
            counter.whose, counter.peak = whose, 0
            next(steps)
            next(steps)
    return report(counter)


def count_picture(sd, size, dtype, counter):
    for network in sd.networks.values():
        network.to(getattr(torch, dtype))
    weights = [p for network in sd.networks.values() for p in network.parameters()]
    counter.whose, counter.peak = lambda: {"weights": counter.size_of(weights)}, 0
    with torch.no_grad():
        for _, z, _ in sd.walk("a cat", steps=2, sampler="dpm++", size=size):
            pass
        sd.decode(z)
    return report(counter)


def report(counter):
    parts = {name: counter.parts.get(name, 0) for name in ("weights", "gradients", "optimizer")}
    return {"peak": counter.peak} | parts | {"rest": counter.peak - sum(parts.values())}


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", choices=("sd15", "sd21", "tiny"), default="sd15")
    p.add_argument("--size", type=int, default=512)
    p.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    p.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    p.add_argument("--process", action="store_true",
                   help="take the steps for real too, in float32 on the CPU")
    p.add_argument("--json", help="write the table to this file too")
    a = p.parse_args()
    if a.process and (len(a.only) > 1 or a.only == ["a picture"]):
        p.error("--process is about one training: --only names it")  # a second takes what is left
    if a.process:
        a.dtype = "float32"
    table = {}
    print(f"{a.model}, {a.size} pixels, {a.dtype}, in GB (10^9 bytes)")
    for name in a.only:
        table[name] = count(name, a.model, a.size, a.dtype, aside=not a.process)
        if a.process:
            table[name]["process"] = measure_process(name, a.model, a.size)
        values = "".join(f"{part} {size / 1e9:6.2f}   " for part, size in table[name].items())
        print(f"{name:26s}{values}", flush=True)
    if a.json:
        save_text(json.dumps(table, indent=1), Path(a.json))


if __name__ == "__main__":
    run(main)
