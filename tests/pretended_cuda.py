"""A GPU where there is none: tensors that say they are on "cuda:0", keep their numbers in the CPU's memory, and refuse
what CUDA refuses. What breaks on it breaks on a GPU too; and it notes each time that the two wait for each other.

    with PretendedCUDA() as device:
        sd = StableDiffusion.from_pretrained(TINY, "cuda")
        sd.sample("a cat")
    print(device.reads)     where the CPU waited for a number: ["pictures.py:133 _to_copy", ...]
    print(device.writes)    where numbers were copied to the device

Three layers. Torch's engine is in C++, and asks there for streams, even for a backward pass: GUARD answers it. Every
operation, from the forward pass to the optimizer, comes to PretendedCUDA as one call; it checks what CUDA would check,
computes on the CPU, and says of the result that it is on the device. And torch.cuda says that there is a GPU.

What it cannot tell: speed, memory, how CUDA rounds. Not here: pickles, torch.compile, several GPUs, streams; and
moving a network while it has gradients.
"""
import ctypes
import hashlib
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
import torchgen
from torch.utils._foreach_utils import _foreach_supported_types
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

# === what C++ asks of a GPU ===========================================================================================

GUARD = """
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <new>

struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::kCUDA> {  // one device with one stream, where all is done at once
  c10::Device getDevice() const override { return {c10::kCUDA, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, getDevice());
  }
};
static c10::impl::DeviceGuardImplRegistrar registrar(c10::kCUDA, new Guard());

struct Chance : at::CPUGeneratorImpl {  // from the same seed other numbers than the CPU's
  Chance() { device_ = {c10::kCUDA, 0}; set_current_seed(c10::default_rng_seed_val); }
  void set_current_seed(uint64_t seed) override { CPUGeneratorImpl::set_current_seed(seed + 1000003); }
};

struct Hooks : at::CUDAHooksInterface {
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  void init() const override {}
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Chance>(); }
};

// Torch made its own hooks when it was imported, and asks these ever after: others are put in their place.
extern "C" void pretend(bool yes) {
  void* hooks = const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks());
  if (yes) new (hooks) Hooks(); else new (hooks) at::CUDAHooksInterface();
}
"""


@lru_cache
def load_guard():
    """Compiled once for each torch. To be called before the first backward pass of a process: then the engine counts
    the devices, and never again. Raises OSError or CalledProcessError where nothing can be compiled."""
    name = hashlib.sha256((GUARD + torch.__version__ + torch.__file__).encode()).hexdigest()[:16]
    path, package = Path(__file__).parent / "__pycache__" / f"{name}.so", Path(torch.__file__).parent
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        subprocess.run(["g++", "-x", "c++", "-", "-std=c++20", "-shared", "-fPIC", f"-I{package / 'include'}",
                        f"-L{package / 'lib'}", "-lc10", "-ltorch_cpu", "-o", partial],
                       input=GUARD, text=True, capture_output=True, check=True)
        partial.replace(path)
    return ctypes.CDLL(str(path))


# === tensors that are there ===========================================================================================

class CUDATensor(torch.Tensor):
    """Says that it is on a GPU. `inner` is its numbers, on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, inner.stride(), inner.storage_offset(),
                                                   dtype=inner.dtype, device="cuda:0")

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} for a tensor of a pretended device that is not there any more")

    # What torch does without an operation, or for its own class alone.

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
                        "memory first.")

    def tolist(self):
        return self.cpu().tolist()

    def untyped_storage(self):  # by its address safetensors tells tensors apart
        return self.inner.untyped_storage()

    def __format__(self, how):
        return format(self.item(), how) if self.ndim == 0 else object.__format__(self, how)

    def __repr__(self, **_):
        return repr(self.inner)[:-1] + ", device='cuda:0')"


def set_data(tensor, value):
    """tensor.data = value, by which Module.to moves a weight that stays the same object: but of another class."""
    if isinstance(tensor, CUDATensor) != isinstance(value, CUDATensor):
        weight = isinstance(tensor, torch.nn.Parameter)
        value = torch.nn.Parameter(value, tensor.requires_grad) if weight else value.detach()
        torch.utils.swap_tensors(tensor, value)
        return
    torch._C.TensorBase.data.__set__(tensor, value)
    if isinstance(tensor, CUDATensor):
        tensor.inner = value.inner


def is_there(thing):
    """Of a tensor or a generator."""
    return isinstance(thing, (torch.Tensor, torch.Generator)) and thing.device.type == "cuda"


def tensors_in(values):
    """Those among an operation's arguments, and in the lists among them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(value)


def exchange(value, kind, made):
    """What an operation is given or gives, with made(tensor) in place of each tensor of a kind."""
    if isinstance(value, kind):
        return made(value)
    return type(value)(exchange(one, kind, made) for one in value) if isinstance(value, (list, tuple)) else value


# === what CUDA's operations refuse ====================================================================================

COPIES = ("_to_copy", "copy_", "_foreach_copy_")                              # from anywhere to anywhere
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")          # of a tensor by tensors
WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}    # what comes out hangs on the numbers


@lru_cache
def unchecked():
    """The operations of which torch's own table says that their arguments need not all be on one device. These look
    by themselves, and take a number from the CPU."""
    table = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = table.read_text().split("\n- func: ")
    return {re.match(r"[\w.]+", entry)[0] for entry in entries if "\n  device_check: NoCheck" in entry}


def two_devices(operation, argument):
    return RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
                        f" ({argument} of {operation})")


def check_devices(func, args, kwargs):
    """All on the GPU, but for numbers, tensors without an axis, where the operation takes one."""
    operation = func.name().removeprefix("aten::")
    for i, argument in enumerate(func._schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        for tensor in tensors_in([value]):
            if not is_there(tensor) and (tensor.ndim or written or operation not in unchecked()):
                raise two_devices(operation, argument.name)


def check_generator(generator, on_device):
    if generator is not None and is_there(generator) != on_device:
        expected, found = ("cuda", "cpu") if on_device else ("cpu", "cuda")
        raise RuntimeError(f"Expected a '{expected}' device type for generator but found '{found}'")


HALVES = (torch.float16, torch.bfloat16)
MATRICES = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")


def compute(func, name, args, kwargs):
    """On the CPU, which has not all that CUDA has: a softmax that makes float32 of float16, and products of halves
    that are added up in float32 (many processors have them, but twenty times slower)."""
    if name in ("_softmax", "_log_softmax") and args[2]:
        return func(args[0].float(), args[1], False)
    if name in ("_softmax_backward_data", "_log_softmax_backward_data") and args[0].dtype != args[3]:
        return func(*args[:3], args[0].dtype).to(args[3])
    if name in MATRICES and args[0].dtype in HALVES:
        out = func(*exchange(args, torch.Tensor, torch.Tensor.float), **kwargs)
        return exchange(out, torch.Tensor, lambda tensor: tensor.to(args[0].dtype))
    return func(*args, **kwargs)


def place():
    """The line that asks: the innermost one that is not torch's."""
    frame = sys._getframe()
    while frame and (frame.f_code.co_filename == __file__ or "site-packages" in frame.f_code.co_filename):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "the backward pass"


# === the device =======================================================================================================

class PretendedCUDA(TorchDispatchMode):
    """The device, while it is there. reads: where the CPU waited for it; writes: where it was given numbers."""

    def __init__(self, capability=(8, 0), memory=16 * 2 ** 30):
        super().__init__()
        self.capability, self.memory, self.reads, self.writes = capability, memory, [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        if name == "is_pinned":
            return getattr(args[0], "pinned", False)
        if name == "_pin_memory" or kwargs.get("pin_memory"):
            pinned = args[0].clone() if name == "_pin_memory" else func(*args, **kwargs | {"pin_memory": False})
            pinned.pinned = True
            return pinned
        tensors = list(tensors_in((*args, *kwargs.values())))
        target, generator = kwargs.get("device"), kwargs.get("generator")
        if target is not None:
            on_device = target.type == "cuda"
        else:  # what indexing and copying write to says where; all else is on one device
            on_device = any(map(is_there, tensors[:1] if name in COPIES + INDEXING else tensors))
        if not on_device and not any(map(is_there, (*tensors, generator))):
            return func(*args, **kwargs)

        check_generator(generator, on_device)
        if name in COPIES:
            self.note_copies(name, args, kwargs, on_device)
        elif name in INDEXING:
            self.note_indices(name, *args, **kwargs)
        elif target is None and not all(map(is_there, tensors)):  # with a target only a shape is taken from them
            check_devices(func, args, kwargs)
        if WAITS & {*func.tags} and name != "index":
            self.note("reads", name)

        inner_args = exchange(args, CUDATensor, lambda tensor: tensor.inner)
        inner_kwargs = {name: exchange(value, CUDATensor, lambda tensor: tensor.inner)
                        for name, value in kwargs.items()}
        if target is not None:
            inner_kwargs["device"] = torch.device("cpu")
        if on_device and torch.Tag.nondeterministic_seeded in func.tags:
            out = self.throw_dice(func, inner_args, inner_kwargs, generator or self.chance)
        else:
            out = compute(func, name, inner_args, inner_kwargs)
        if not on_device:
            return out
        return return_and_correct_aliasing(func, args, kwargs, exchange(out, torch.Tensor, CUDATensor))

    def throw_dice(self, func, args, kwargs, generator):
        """With the device's generator in place of the CPU's own."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator.get_state())
            out = func(*args, **{name: value if name != "generator" else None for name, value in kwargs.items()})
            generator.set_state(torch.get_rng_state())
        return out

    def note(self, kind, name):
        getattr(self, kind).append(f"{place()} {name}")

    def note_copies(self, name, args, kwargs, on_device):
        """They block, even if they should not, unless the CPU's side is pinned memory. What `to` makes there is."""
        if name == "_to_copy":
            pairs = [(on_device, args[0], args[0] if on_device else None)]
        else:
            pairs = [(is_there(to), source, source if is_there(to) else to)
                     for to, source in zip(tensors_in(args[:1]), tensors_in(args[1:2]))]
        asked = kwargs.get("non_blocking") or any(args[2:])
        for to_device, source, at_home in pairs:
            free = asked and (at_home is None or getattr(at_home, "pinned", False))
            if to_device != is_there(source) and not free:
                self.note("writes" if to_device else "reads", name)

    def note_indices(self, name, x, indices, values=None, *_, **__):
        """CUDA takes indices from the CPU and copies them. Of a mask it must know how many places it chooses, unless
        one and the same number is put there."""
        indices = [index for index in indices if index is not None]
        if not is_there(x) and any(map(is_there, indices)):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        masks = [index for index in indices if is_there(index) and index.dtype in (torch.bool, torch.uint8)]
        if values is not None and is_there(values) != is_there(x):
            if values.ndim:
                raise two_devices(name, "values")
            if len(masks) == len(indices) == 1:
                return
            self.note("writes" if is_there(x) else "reads", name)
        for index in indices:
            if is_there(x) and not is_there(index):
                self.note("writes", name)
        if masks:
            self.note("reads", f"{name} by a mask")

    # --- torch.cuda -------------------------------------------------------------------------------------------------

    def __enter__(self):
        self.stack, (major, minor) = ExitStack(), self.capability
        load_guard().pretend(True)
        self.stack.callback(load_guard().pretend, False)
        self.chance = torch.Generator("cuda")  # for operations that are given no generator
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor([1], device="cuda") is made here, and then copied
        self.stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        _foreach_supported_types.append(CUDATensor)
        self.stack.callback(_foreach_supported_types.remove, CUDATensor)

        properties = SimpleNamespace(name="a pretended GPU", major=major, minor=minor, total_memory=self.memory)
        answers = {"is_available": True, "device_count": 1, "current_device": 0, "_lazy_init": None,
                   "get_device_name": properties.name, "get_device_capability": self.capability,
                   "get_device_properties": properties, "mem_get_info": (self.memory, self.memory),
                   "reset_peak_memory_stats": None}
        changes = {name: lambda *_, answer=answer, **__: answer for name, answer in answers.items()}
        changes["synchronize"] = lambda *_: self.note("reads", "synchronize")
        for name in ("manual_seed", "manual_seed_all"):
            changes[name] = lambda seed: self.chance.manual_seed(seed) and None
        self.stack.enter_context(patch.multiple(torch.cuda, **changes))
        data = property(torch._C.TensorBase.data.__get__, set_data)
        self.stack.enter_context(patch.object(torch.Tensor, "data", data))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.stack.close()
