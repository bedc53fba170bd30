"""Files that are whole or not there, and the one kind of error that only the user can put right.

Nobody came to read this (see command.py). Everything is written beside its place and then renamed,
so that a run that is killed at any moment leaves the old file or the new one. Tensors are
safetensors files, never pickles, which can run anything when they are opened. What is read from
outside is checked once, here, where it enters.
"""
import json
import os
import re
import shutil
import struct
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

try:
    import fcntl
except ImportError:  # Windows has none; there two runs in one folder are not told apart
    fcntl = None


class UserError(Exception):
    """Something only the user can put right. The message says what, where and what to do, in one
    line."""


def shown(text, most=80):
    """Foreign text, fit for a message: a name in a file may be a megabyte of control characters."""
    text = str(text)
    letters = [c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most]]
    return "".join(letters) + ("..." if len(text) > most else "")


# === writing ======================================================================================

@contextmanager
def beside(path):
    """A place beside `path` to write to, which takes path's place at the end, if there is no
    error."""
    path = Path(path)
    place = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield place
        os.replace(place, path)
    except (OSError, ValueError) as error:  # ValueError: of a picture that its file cannot hold
        raise UserError(f"{path} could not be written: {error}") from None
    finally:  # after Ctrl-C too
        with suppress(OSError):
            place.unlink()


def save_text(text, path):
    with beside(path) as place:
        place.write_text(text, "utf-8")


DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
          torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"}


def save_tensors(tensors, path, metadata=None, half=False):
    """A safetensors file. Written tensor by tensor, since a state of Stable Diffusion is 10 GB, and
    a second copy in memory is more than many machines have. half: in float16."""
    kinds = {name: torch.float16 if half and tensor.is_floating_point() else tensor.dtype
             for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.to(kinds[name]).isfinite().all():
            raise UserError(f"{path} was not written: {shown(name)} is not finite any more; start "
                            "again with a lower --lr")
    # The widest numbers first: so each tensor begins at a multiple of its numbers' size.
    order = sorted(tensors, key=lambda name: -kinds[name].itemsize)
    header, end = {"__metadata__": {"format": "pt"} | (metadata or {})}, 0
    for name in order:
        size = tensors[name].numel() * kinds[name].itemsize
        header[name] = {"dtype": DTYPES[kinds[name]], "shape": list(tensors[name].shape),
                        "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with beside(path) as place, open(place, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            flat = tensors[name].detach().to("cpu", kinds[name]).contiguous().view(-1)
            file.write(memoryview(flat.view(torch.uint8).numpy()))


def file_name(word):
    """<my cat!> -> my_cat_: a word as the name of a file, by which A1111 and ComfyUI call it."""
    return re.sub(r"[^\w-]", "_", word.strip("<>"))


# === reading ======================================================================================

def check_file(path):
    """A regular file, not a folder, and not a pipe, which would be waited for forever."""
    if not Path(path).exists():
        raise UserError(f"{path}: there is no such file")
    if not Path(path).is_file():
        raise UserError(f"{path} is no file")


def read_json(path):
    """A JSON file with settings: a dictionary."""
    check_file(path)
    try:
        values = json.loads(Path(path).read_text("utf-8-sig"))  # -sig: as Notepad saves it
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, bad UTF-8, too long
        raise UserError(f"{path} is no valid JSON ({shown(error)}): fetch it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no settings but {shown(json.dumps(values))}: fetch it again")
    return values


@contextmanager
def open_tensors(path, advice):
    """A safetensors file, open; what goes wrong with it is a UserError that ends in `advice`."""
    if Path(path).suffix in (".pt", ".bin", ".ckpt"):
        raise UserError(f"{path} is a pickle, which can run anything when it is opened; convert it "
                        "to safetensors first")
    check_file(path)
    with open(path, "rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise UserError(f"{path} is git's pointer to the file: git lfs pull fetches it")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError, RuntimeError) as error:
        raise UserError(f"{path} is damaged or cut short ({shown(error)}){advice}") from None


def load_metadata(path, advice=""):
    """{name: text}, what was said beside the tensors."""
    with open_tensors(path, advice) as file:
        return file.metadata() or {}


def load_tensors(path, advice=""):
    """{name: tensor}, on the CPU."""
    with open_tensors(path, advice) as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def read_metadata(path, name, advice=""):
    """What was said beside the tensors under this name, a JSON dictionary; {} if nothing was."""
    try:
        said = json.loads(load_metadata(path, advice).get(name, "{}"))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise UserError(f"{path} says {name} in a way that cannot be read{advice}")
    return said


def check_weights(tensors, where):
    """Numbers that a network can have: floating point, and finite."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UserError(f"{where}: {shown(name)} holds {tensor.dtype}, and weights are "
                            "floating point")
        if not tensor.isfinite().all():
            raise UserError(f"{where}: {shown(name)} has numbers that are not finite")


def load_weights(path, advice=""):
    """{name: tensor}, on the CPU, of what a network can have."""
    tensors = load_tensors(path, advice)
    check_weights(tensors, path)
    return tensors


# === folders ======================================================================================

claimed = {}  # folders of this process, with the open files that lock them


def claim(folder):
    """This run's folder. A second run in it is refused while the first one lives, and what an
    earlier one left half written when it was killed is cleared away."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder} cannot be made: {error.strerror}") from None
    place = folder.resolve()
    if place in claimed or fcntl is None:
        return
    known = (place / ".lock").exists()  # else the folder is somebody's, who may have such names
    try:
        lock = open(place / ".lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it goes with the process in any case
    except BlockingIOError:
        raise UserError(f"--out {folder}: another run is at work there; wait, or take another "
                        "--out") from None
    except OSError as error:
        raise UserError(f"--out {folder} cannot be written: {error.strerror}") from None
    claimed[place] = lock
    if not known:
        return
    for leftover in list(place.rglob("*.partial*")):
        remove(leftover)
    for old in place.glob("*.replaced"):  # killed between the two renames of replace_folder
        if not old.with_suffix("").exists():
            os.replace(old, old.with_suffix(""))


def check_place(folder):
    """A place for a model, which will replace what is there: nothing, or a model of an earlier
    run."""
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} is there and is no model: move it away, or take another --out")


def remove(path):
    """A file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replace_folder(folder):
    """An empty folder beside, which takes the place of `folder` at the end, if there is no error;
    the earlier one stays until then. Behind a link the folder itself is replaced, not the link."""
    folder = Path(folder).resolve()
    new = folder.with_name(folder.name + ".partial")
    old = folder.with_name(folder.name + ".replaced")
    try:
        remove(new)
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            remove(old)
            os.replace(folder, old)
        os.replace(new, folder)
        remove(old)
    except OSError as error:
        raise UserError(f"{folder} could not be written: {error}") from None
    finally:
        with suppress(OSError):
            if old.exists() and not folder.exists():
                os.replace(old, folder)
            remove(new)
