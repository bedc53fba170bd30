"""What makes a script a command: flags, refusals in one line, and the state from which it goes on.

Nobody came to read this, so it stands here once. A script's Config is the one place where its
options are written down: each field is a flag, and the field's comment is what -h says of it. What
only the user can put right is a UserError (files.py), which ends in one line and status 2.
"""
import argparse
import hashlib
import inspect
import json
import math
import os
import re
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from tqdm import tqdm

from files import UserError, load_tensors, read_metadata, save_tensors, shown


# === flags ========================================================================================

def flag(name):
    return "--" + name.replace("_", "-")


def field_comments(config_class):
    """{field: its comment} of a dataclass, from the source; a comment may go on in the lines
    below."""
    comments, name = {}, None
    for line in inspect.getsource(config_class).splitlines():
        code, _, comment = line.partition("  # ")
        if field := re.match(r"    (\w+): ", code):
            name = field[1]
            comments[name] = comment
        elif name and comment and not code.strip():
            comments[name] += " " + comment.strip()
    return comments


def parse_flags(config_class, description, settings={}):
    """The command line as a Config: every field is a flag with its type, its default and its
    comment. settings: as `fill_in` has them."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    comments = field_comments(config_class)
    for field in fields(config_class):
        kind = {"type": field.type}
        if field.type is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        default = f"(default: {field.default!r})"
        if field.name in settings:
            default = "(default: {}; Stable Diffusion: {})".format(*settings[field.name])
        elif field.default is None:
            default = ""  # the comment says what then
        text = f"{comments[field.name]} {default}".strip().replace("%", "%%")
        parser.add_argument(flag(field.name), default=field.default, help=text, **kind)
    return config_class(**vars(parser.parse_args()))


def prepare_streams():
    """Services run without an error stream, and terminals may not know the letters of a prompt:
    what is printed there must not end a run."""
    for number in (0, 1, 2):  # else the next file that is opened would be taken for the stream
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
        else:
            getattr(sys, name).reconfigure(errors="backslashreplace")


def what_takes_less():
    """The flags of the script that is running by which it would take less memory."""
    config = getattr(sys.modules["__main__"], "Config", None)
    flags = {"memory": "--memory lean", "train_text_encoder": "--no-train-text-encoder",
             "batch_size": "a smaller --batch-size", "size": "a smaller --size"}
    some = [text for name, text in flags.items() if config and hasattr(config, name)]
    return f": {' or '.join(some)} takes less" if some else ""


def run(main, *arguments):
    """Runs a script's main: a user's mistake, and what the machine refuses, end in one line and
    status 2, an interrupt in none and 130."""
    def refuse(message):
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)

    prepare_streams()
    try:
        main(*arguments)
    except UserError as error:
        refuse(error)
    except BrokenPipeError:  # python dreambooth.py | head: nobody listens any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except OSError as error:  # a full disk, a folder that vanished, a quota
        refuse(f"{error.filename or 'the disk'}: {error.strerror or error}")
    except RuntimeError as error:  # a GPU's memory is full: not all say it by an OutOfMemoryError
        if not re.search("out of memory|ALLOC_FAILED", str(error)):
            raise
        refuse("the memory is full" + what_takes_less())
    except KeyboardInterrupt:
        sys.exit(130)


# === what a Config may say ========================================================================

def fill_in(cfg, settings, large, **more):
    """A Config with what was left open, None, taken from a table {field: (for a tiny model, for
    Stable Diffusion)}, or from `more`."""
    values = more
    for name, (for_tiny, for_large) in settings.items():
        values[name] = for_large if large else for_tiny
    open_fields = [name for name in values if getattr(cfg, name) is None]
    return replace(cfg, **{name: values[name] for name in open_fields})


def check_subject(cfg):
    """--images and --class-name: both, or neither for the subject that ships with the project."""
    if bool(cfg.images) != bool(cfg.class_name):
        raise UserError("--images and --class-name go together, for example --images my_dog "
                        "--class-name dog")


def check_at_least(cfg, least, *names):
    """Whole numbers that were given must not be smaller than `least`."""
    for name in names:
        if getattr(cfg, name) is not None and getattr(cfg, name) < least:
            raise UserError(f"{flag(name)} {getattr(cfg, name)}: at least {least}")


def check_positive(cfg, *names):
    """Numbers that were given must be above 0, and finite."""
    for name in names:
        if getattr(cfg, name) is not None and not 0 < getattr(cfg, name) < float("inf"):
            raise UserError(f"{flag(name)} {getattr(cfg, name)}: a number above 0")


def check_not_negative(cfg, *names):
    for name in names:
        if not 0 <= getattr(cfg, name) < float("inf"):
            raise UserError(f"{flag(name)} {getattr(cfg, name)}: a number, 0 or more")


def check_machine(cfg):
    """--seed and --dtype, which are the same for all methods, and --memory where there is one."""
    if not 0 <= cfg.seed < 2 ** 32:
        raise UserError(f"--seed {cfg.seed}: 0 to {2 ** 32 - 1}")
    if cfg.dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise UserError(f"--dtype {cfg.dtype}: auto, float32, bfloat16 or float16")
    memory = getattr(cfg, "memory", None)
    if memory not in (None, "plain", "thrifty", "lean"):
        raise UserError(f"--memory {memory}: plain, thrifty or lean")
    if memory == "lean" and cfg.dtype not in ("auto", "bfloat16"):
        raise UserError(f"--memory lean keeps the weights in bfloat16, and computes in it: leave "
                        f"out --dtype {cfg.dtype}")


def check_words(cfg, tokenizer, *names):
    """What is said of a subject must have a word in it."""
    for name in names:
        if not tokenizer.encode(getattr(cfg, name)):
            raise UserError(f'{flag(name)} "{getattr(cfg, name)}" has no word in it')


def check_size(size, unit, least):
    """The side of the pictures in pixels: a multiple of what one position of the network stands
    for."""
    if size % unit or size < least:
        raise UserError(f"--size {size}: a multiple of {unit}, {least} or more, please")


def works(device):
    """Whether numbers can be put on a device and brought back: "meta" is one, but has none."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError):
        return False
    return True


def pick_device(name):
    """"auto": the GPU if there is one that works, NVIDIA's or AMD's (cuda), Intel's (xpu), Apple's
    (mps)."""
    if name == "auto":
        name = next(device for device in ("cuda", "xpu", "mps", "cpu") if works(device))
    elif not works(name):
        raise UserError(f"--device {name} is not there on this machine; cpu always is")
    if name.startswith("cuda"):  # TF32 where float32 is asked for, as convolutions have it anyway
        torch.set_float32_matmul_precision("high")
    return name


def pick_dtype(name, device, memory=None):
    """"auto": on NVIDIA's cards bfloat16, or float16 where the card has no bfloat16 of its own
    (before 2020: the T4, which is often the free one); float32 elsewhere."""
    native = not device.startswith("cuda") or torch.cuda.get_device_capability(device) >= (8, 0)
    if name == "auto" and memory == "lean":
        name = "bfloat16"
    if name == "auto":
        name = ("bfloat16" if native else "float16") if device.startswith("cuda") else "float32"
    if name == "bfloat16" and not native:
        print("this card computes bfloat16 by detours, slowly: --dtype float16 is what it is good "
              "at", file=sys.stderr)
    return name


# === an interrupted run ===========================================================================

def check_state(path, settings):
    """Refuses a state that was made with other settings."""
    then = read_metadata(path, "settings", ": leave out --resume")
    if changed := [name for name in settings | then if then.get(name) != settings.get(name)]:
        raise UserError(f"{path} was made with other settings ({shown(', '.join(changed))}): give "
                        "the same ones, or leave out --resume")


def write_state(path, settings, weights, optimizer, **numbers):
    """All that a later start needs to go on: weights (a list of tensors), the optimizer's moments,
    numbers such as the step."""
    tensors = {f"weight.{i}": tensor for i, tensor in enumerate(weights)}
    for i, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{name}": tensor for name, tensor in moments.items()}
    if hasattr(optimizer, "scaler"):
        numbers["scale"] = optimizer.scaler.get_scale()
    about = {"settings": json.dumps(settings), "numbers": json.dumps(numbers)}
    save_tensors(tensors, path, about)


def read_numbers(path):
    """The numbers of a state, the step among them."""
    numbers = read_metadata(path, "numbers", ": leave out --resume")
    if type(numbers.get("step")) is not int:
        raise UserError(f"{path} does not say which step it is of: leave out --resume")
    return numbers


def read_state(path, weights, optimizer, steps):
    """Puts a state back in place, and returns its numbers. One of a later step than `steps` is
    refused."""
    numbers, tensors, moments = read_numbers(path), load_tensors(path), {}
    if not 0 < numbers["step"] <= steps:
        raise UserError(f"{path} is of step {numbers['step']} of {steps}: leave out --resume")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = {f"weight.{i}": weight.shape for i, weight in enumerate(weights)}
    for name in [name for name in tensors if name.startswith("adam.")]:
        _, i, moment = name.split(".")
        moments.setdefault(int(i), {})[moment] = tensors[name]
        if moment != "step":
            shapes[name] = params[int(i)].shape if int(i) < len(params) else None
        else:
            shapes[name] = torch.Size()
    if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
        raise UserError(f"{path} is the state of another model: leave out --resume")
    for i, weight in enumerate(weights):
        weight.data.copy_(tensors[f"weight.{i}"])
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    if hasattr(optimizer, "scaler") and numbers.get("scale", 0) > 0:
        scaler = optimizer.scaler
        scaler.load_state_dict(scaler.state_dict() | {"scale": numbers["scale"]})
    return numbers


# The same for a method's script, whose Config says where the state is and whether to go on from it.

NO_PART_OF_THE_RESULT = ("out", "resume", "save_every", "device")


def run_settings(cfg, photos):
    """All that the result depends on: the Config, and the photos themselves, as a folder may hold
    others the next day."""
    pixels = hashlib.sha256(b"".join(photo.tobytes() for photo in photos)).hexdigest()[:16]
    settings = asdict(cfg) | {"photos": pixels}
    return {name: settings[name] for name in settings if name not in NO_PART_OF_THE_RESULT}


def state_path(cfg):
    return Path(cfg.out) / "state.safetensors"


def resumes(cfg):
    return cfg.resume and state_path(cfg).exists()


def check_resume(cfg, photos):
    """With --resume: refuses a state that was made with other settings, before anything is done."""
    if resumes(cfg):
        check_state(state_path(cfg), run_settings(cfg, photos))
    elif cfg.resume:
        print(f"nothing to resume in {cfg.out}: from the beginning", file=sys.stderr)


def resumed_numbers(cfg):
    """With --resume: the numbers that were saved; {} if there is no state."""
    return read_numbers(state_path(cfg)) if resumes(cfg) else {}


def load_state(cfg, weights, optimizer, steps=None):
    """With --resume: puts a state back in place, and returns its numbers; {} if there is none. One
    of a later step than `steps`, or than the Config's, is refused."""
    if not resumes(cfg):
        return {}
    return read_state(state_path(cfg), weights, optimizer, steps or cfg.steps)


def save_state(cfg, photos, weights, optimizer, **numbers):
    write_state(state_path(cfg), run_settings(cfg, photos), weights, optimizer, **numbers)


def read_log(cfg, step, norm, **log):
    """What is said of a step, {name: a tensor with one number}, as numbers, in one look at the
    device: each has to wait for it. Refuses what is not finite; the optimizer has passed over it.
    In float16 a norm may be infinite: then the loss was scaled up too far, and the next is not."""
    values = torch.stack([norm, *log.values()]).tolist()
    norm, log = values[0], dict(zip(log, values[1:]))
    checked = [*log.values()] if cfg.dtype == "float16" else values
    if not all(map(math.isfinite, checked)):
        raise UserError(f"the loss, {log['loss']}, or its gradient is not finite at step {step}: "
                        "start again with a lower --lr")
    return {"step": step} | log


# === what is shown ================================================================================

def progress(steps, title, total=None):
    """Goes through `steps` with a bar on a terminal; where the output is a file, with one line at
    the end."""
    start, count, terminal = time.time(), 0, sys.stderr.isatty()
    for step in tqdm(steps, title, total, disable=not terminal, leave=False):
        yield step
        count += 1
    if not terminal:
        print(f"{title}: {count} in {time.time() - start:.1f} s", flush=True)


def watch(logs, steps):
    """Goes through a training, log by log: a bar on a terminal, and six lines with the means of
    about the last 20 steps."""
    mean = {}
    bar = tqdm(total=steps, disable=not sys.stderr.isatty(), leave=False)
    for count, log in enumerate(logs):
        if count == 0:  # what comes before the first step, class pictures say, is none
            start = time.time()
        step = log["step"]
        for name, value in log.items():
            if isinstance(value, float):
                mean[name] = 0.95 * mean.get(name, value) + 0.05 * value
        bar.update(step - bar.n)
        if step * 6 // steps > (step - 1) * 6 // steps:
            values = "  ".join(f"{name} {value:.4g}" for name, value in mean.items())
            pace = f"  {1000 * (time.time() - start) / count:.0f} ms a step" if count else ""
            tqdm.write(f"step {step:4d}/{steps}  {values}{pace}")
        yield log
    bar.close()
