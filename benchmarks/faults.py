"""What machines and files do to a run, done on purpose.

    python benchmarks/faults.py                  an hour: 20 kills a method, 1,000 spoiled files
    python benchmarks/faults.py --kills 2 --mutations 50

kills        kill -9 at a random moment, inside a save too, then --resume: the result must be the
             same bytes as those of a run that nobody killed, and nothing more may lie in --out
mutations    a file of each kind, spoiled at random: it must be read, or refused in one line
surroundings a full disk, a vanished folder, a closed pipe, no error stream: one line, status 2

Every case that fell short is named with its seed; the last line counts them, and so does the exit
status.
"""
import argparse
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image, ImageCms

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import command  # noqa: E402 (found through the line above)
import hyperdreambooth  # noqa: E402
from files import UserError, save_tensors  # noqa: E402
from pictures import open_picture  # noqa: E402
from stable_diffusion import SUBJECTS, TINY, StableDiffusion  # noqa: E402


# === kills ========================================================================================

SHORT = ["--sampling-steps", "1", "--save-every", "2"]
RUNS = {  # seconds each, with several states and several pictures
    "dreambooth": ["--steps", "8", "--batch-size", "1", "--class-images", "2", *SHORT],
    "lora_dreambooth": ["--steps", "8", "--batch-size", "1", "--class-images", "2", *SHORT],
    "textual_inversion": ["--steps", "8", "--batch-size", "1", *SHORT],
    "attn_dreambooth": ["--steps", "4", "--batch-size", "1", *SHORT],
    "hyperdreambooth": ["--steps", "4", "--batch-size", "1", "--sampling-steps", "1"],
    "learn_hypernetwork": ["--images", "PEOPLE", "--class-name", "face", "--steps", "8",
                           "--batch-size", "2", "--width", "32", "--iterations", "1",
                           "--save-every", "2", "--beta", "0.1", "--theta-steps", "2",
                           "--theta-batch", "3"],
}


def start(method, out, people, *more):
    arguments = [str(people) if word == "PEOPLE" else word for word in RUNS[method]]
    line = [sys.executable, ROOT / f"{method}.py", *arguments, "--out", out, *more]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def make_people(folder):
    """Six photos of the shipped subjects, as six people."""
    folder.mkdir()
    for i, subject in enumerate(sorted(path for path in SUBJECTS.iterdir() if path.is_dir())[:6]):
        shutil.copy(sorted(subject.glob("*.png"))[0], folder / f"{i}.png")


def results(out):
    """{name: bytes} of all files in a folder but the lock."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*"))
            if path.is_file() and path.name != ".lock"}


def kill_and_resume(method, whole, seconds, out, people, rng):
    """One run that is killed once or twice and then goes on. What fell short, or ""."""
    for _ in range(rng.choice((1, 1, 2))):
        process = start(method, out, people, *(["--resume"] if resumable(method) else []))
        try:
            process.communicate(timeout=rng.uniform(0.2, 1.02) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    process = start(method, out, people, *(["--resume"] if resumable(method) else []))
    said = process.communicate()[0]
    if process.returncode:
        return f"status {process.returncode}: {said.splitlines()[-1:]}"
    now = results(out)
    wrong = [name for name in whole | now if whole.get(name) != now.get(name)]
    return f"other files than of a whole run: {wrong[:5]}" if wrong else ""


def resumable(method):
    return method != "hyperdreambooth"  # its seconds are not worth a state


def kills(count, seed, methods=tuple(RUNS)):
    """Yields (what was tried, what fell short)."""
    with TemporaryDirectory() as work:
        people = Path(work) / "people"
        make_people(people)
        for method in methods:
            before = time.time()
            process = start(method, Path(work) / method, people)
            said = process.communicate()[0]
            assert process.returncode == 0, said
            whole, seconds = results(Path(work) / method), time.time() - before
            for i in range(count):
                out = Path(work) / f"{method}_{i}"
                yield (f"kill {method} {i}", kill_and_resume(
                    method, whole, seconds, out, people, random.Random(f"{seed} {method} {i}")))
                shutil.rmtree(out, ignore_errors=True)


# === mutations ====================================================================================

WEIRD = (None, True, -1, 0, 1, 3, 10 ** 9, 10 ** 30, 1e308, -0.5, "", "x", "\x1b[2J" * 9, [], {},
         [0], [1] * 40, [[1]], {"a": 1}, "../" * 9 + "etc/passwd", "/dev/zero", "y" * 1_000_000)


def places(value, path=()):
    """The paths to all values inside a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in pairs:
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*path, key))


def spoil_json(value, rng):
    """Another value in place of one, or a key too few, or one too many."""
    everywhere = list(places(value))
    *path, last = rng.choice(everywhere[:2000]) if everywhere else ("new",)
    inner = value
    for key in path:
        inner = inner[key]
    how = rng.random()
    if how < 0.7:
        inner[last] = rng.choice(WEIRD)
    elif how < 0.85:
        del inner[last]
    elif isinstance(inner, dict):
        inner[rng.choice(("new", "\x00", "k" * 1_000_000))] = rng.choice(WEIRD)
    return value


def spoil_bytes(data, rng):
    how = rng.randrange(6)
    if how == 0:
        return data[:rng.randrange(len(data) + 1)]
    if how == 1:
        return b""
    if how == 2:
        return b"[" * 100_000
    if how == 3:
        return data + rng.randbytes(rng.randrange(1, 100))
    data = bytearray(data)
    for _ in range(rng.randrange(1, 20)):
        data[rng.randrange(min(len(data), 4000))] = rng.randrange(256)
    return bytes(data)


def spoil_tensors(data, rng):
    """A safetensors file: 8 bytes of length, a JSON header, the numbers."""
    length = struct.unpack("<Q", data[:8])[0]
    header, numbers = json.loads(data[8:8 + length]), data[8 + length:]
    how = rng.random()
    if how < 0.2:
        return spoil_bytes(data, rng)
    if how < 0.3:
        return struct.pack("<Q", rng.choice((0, 1, 2 ** 40, 2 ** 63, 2 ** 64 - 1))) + data[8:]
    if how < 0.45:  # numbers that are none
        numbers = bytearray(numbers)
        at = rng.randrange(len(numbers) // 2) * 2
        numbers[at:at + 40] = rng.choice((b"\xff\x7f", b"\x00\x7c", b"\xff\xff")) * 20
    elif how < 0.6 and len(header) > 2:
        names = [name for name in header if name != "__metadata__"]
        one, other = rng.sample(names, 2) if len(names) > 1 else names * 2
        header[one], header[other] = header[other], header[one]
    else:
        header = spoil_json(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(numbers)


def spoil(path, rng):
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        data = spoil_tensors(data, rng)
    elif path.suffix == ".json" and rng.random() < 0.75:
        data = json.dumps(spoil_json(json.loads(data), rng)).encode()
    else:
        data = spoil_bytes(data, rng)
    path.write_bytes(data)


class Late(Exception):
    pass


@contextmanager
def bounds(seconds, room):
    """No more than so many seconds, and so many bytes of memory above what the process has."""
    def late(*_):
        raise Late(f"not done after {seconds} s")

    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (has + room, hard))
    earlier = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


opened = []
sys.addaudithook(lambda event, about: opened.append(about[0]) if event == "open" else None)


def opened_elsewhere(work):
    """The files that were opened since the list was emptied, but for Python's own, the project's
    and those in `work`."""
    mine = (str(work), str(ROOT), sys.prefix, sys.base_prefix, "/dev/null", "/proc/", "/sys/")
    names = [os.path.abspath(os.fsdecode(name)) for name in opened
             if isinstance(name, (str, bytes))]
    return [name for name in names if not name.startswith(mine)]


def examples(work):
    """{kind: (the file to spoil, what reads it)}; what reads it also draws, where it is drawn
    with."""
    model, sd = work / "model", StableDiffusion.from_pretrained(TINY)
    shutil.copytree(TINY, model)
    sd.save_single_file(work / "one.safetensors")
    save_tensors({"<it>": sd.text.table.weight[:3]}, work / "word.safetensors")
    cfg = hyperdreambooth.Config(steps=0, out=str(work / "person"))
    hyper, cfg, _ = hyperdreambooth.prepare(cfg)
    hyperdreambooth.save_lora(work / "lora.safetensors",
                              hyperdreambooth.merge_factors(hyper.lidb.added))
    about = {"purpose": json.dumps(hyperdreambooth.purpose(hyper, cfg))}
    save_tensors({"theta": hyper.lidb.theta}, work / "lidb.safetensors", about)
    shutil.copy(hyperdreambooth.HYPERNETWORK, work / "hypernetwork.safetensors")
    weights = [torch.ones(3, 4, requires_grad=True), torch.ones(5, requires_grad=True)]
    optimizer = torch.optim.AdamW(weights)
    sum(weight.sum() for weight in weights).backward()
    optimizer.step()
    command.write_state(work / "state.safetensors", {"lr": 1.0}, weights, optimizer, step=2)

    def draw(sd):
        sd.sample("a cat", steps=1, size=2 * sd.vae.factor)

    def read_whole(path):
        draw(StableDiffusion.from_pretrained(path))

    def read_with(path, load):
        sd = StableDiffusion.from_pretrained(TINY)
        load(sd, path)
        draw(sd)

    def read_person(path):
        hyperdreambooth.prepare(hyperdreambooth.Config(
            hypernetwork=str(path), out=str(work / "person")))

    def read_state(path):
        command.check_state(path, {"lr": 1.0})
        command.read_state(path, weights, optimizer, 5)

    kinds = {path.relative_to(model).as_posix(): (path, lambda path: read_whole(model))
             for path in sorted(model.rglob("*")) if path.is_file()}
    with Image.open(sorted((SUBJECTS / "cat").glob("*.png"))[0]) as photo:
        rotated, profile = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        rotated[0x0112] = 6
        for kind in ("jpg", "png", "webp", "tif", "gif", "avif"):
            about = {} if kind == "gif" else {"exif": rotated, "icc_profile": profile.tobytes()}
            photo.convert("RGB").save(work / f"photo.{kind}", **about)
            kinds[f"photo.{kind}"] = work / f"photo.{kind}", open_picture
    kinds["a single file"] = work / "one.safetensors", read_whole
    kinds["a word"] = (work / "word.safetensors",
                       lambda path: read_with(path, StableDiffusion.load_embeds))
    kinds["a LoRA"] = (work / "lora.safetensors",
                       lambda path: read_with(path, StableDiffusion.load_lora))
    kinds["a guess"] = work / "lidb.safetensors", read_person
    kinds["a hypernetwork"] = work / "hypernetwork.safetensors", read_person
    kinds["a state"] = work / "state.safetensors", read_state
    return kinds


def read_spoiled(path, read, work):
    """What fell short, or ""."""
    opened.clear()
    try:
        tempfile.tempdir = str(work)  # a single file's settings are unpacked there
        with bounds(60, 2 ** 31):
            read(path)
    except UserError as error:
        line = str(error)
        if "\n" in line or len(line) > 1200 or not line.isprintable():
            return f"no line to read: {line[:300]!r}"
    except BaseException as error:  # whatever else it is, it is what this looks for
        return f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        tempfile.tempdir = None
    if elsewhere := opened_elsewhere(work):
        return f"opened {elsewhere[:3]}"
    return ""


def mutations(count, seed):
    """Yields (what was tried, what fell short)."""
    with TemporaryDirectory() as work:
        work = Path(work)
        kinds = examples(work)
        for i in range(count):
            rng = random.Random(f"{seed} {i}")
            kind = rng.choice(list(kinds))
            path, read = kinds[kind]
            whole = path.read_bytes()
            spoil(path, rng)
            yield f"mutation {i} of {kind}", read_spoiled(path, read, work)
            path.write_bytes(whole)


# === surroundings =================================================================================

def ends_well(command_line, out, status=(2,), **how):
    """Runs a shell's line; it must end in one line and one of these states, and leave nothing half
    written."""
    process = subprocess.run(["bash", "-c", command_line], capture_output=True, text=True, cwd=ROOT,
                             **how)
    said = process.stderr.strip().splitlines()
    if process.returncode not in status:
        return f"status {process.returncode}: {said[-1:]}"
    if "Traceback" in process.stderr:
        return f"a traceback: {said[-1:]}"
    leftovers = [str(path) for path in out.rglob("*partial*")] if out.exists() else []
    return f"left {leftovers}" if leftovers else ""


def surroundings(only=()):
    """All cases, or `only` those whose names are given."""
    python = f"{sys.executable} -W ignore"
    with TemporaryDirectory() as work:
        out = Path(work) / "out"
        short = f"--out {out} {' '.join(RUNS['dreambooth'])}"
        picture = f"{python} stable_diffusion.py --sampling-steps 1 --out {out}/a.png"
        cases = {
            "a file may have 100 kB": (f"ulimit -f 100; {python} dreambooth.py {short}", (2,)),
            "--out is a file": (f"touch {out}; {python} dreambooth.py {short}", (2,)),
            "--out below a file": (f"touch {out}; {picture}", (2,)),
            "--out in /proc": (f"{python} dreambooth.py --out /proc/none", (2,)),
            "--out vanishes": (f"(sleep 6; rm -r {out}) & {python} dreambooth.py {short} "
                               "--steps 400", (0, 2)),
            "nobody listens": (f"{picture} | true; exit ${{PIPESTATUS[0]}}", (0, 141)),
            "no error stream": (f"{picture} 2>&-", (0,)),
            "no streams at all": (f"{picture} >&- 2>&- <&-", (0,)),
            "ASCII only": (f"PYTHONIOENCODING=ascii LC_ALL=C {picture} 'ein Bär 熊'", (0,)),
            "a proxy nobody knows": ("ALL_PROXY=socks5://localhost:1 "
                                     "HF_ENDPOINT=http://localhost:1 "
                                     f"{picture} --model some/model", (2,)),
            "a model that is a pipe": (f"mkdir -p {out}/m; mkfifo {out}/m/model_index.json; "
                                       f"timeout 60 {picture} --model {out}/m", (2,)),
            "a vocabulary that is a pipe": (f"mkdir {out}; cp -r {TINY} {out}/m; "
                                            f"rm {out}/m/tokenizer/vocab.json; "
                                            f"mkfifo {out}/m/tokenizer/vocab.json; "
                                            f"timeout 60 {picture} --model {out}/m", (2,)),
            "two in one folder": (f"{python} dreambooth.py {short} --steps 60 & sleep 5; "
                                  f"{python} dreambooth.py {short}; s=$?; wait; exit $s", (2,)),
            "Ctrl-C": (f"timeout -s INT 5 {python} dreambooth.py {short} --steps 400", (124, 130)),
        }
        for name in only or cases:
            line, status = cases[name]
            yield name, ends_well(line, out, status)
            shutil.rmtree(out, ignore_errors=True)
            out.unlink(missing_ok=True)


# === the soak =====================================================================================

def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each method (default: 20)")
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.set_num_threads(1)
    tried, fell_short = Counter(), Counter()
    for cases in (surroundings(), mutations(a.mutations, a.seed), kills(a.kills, a.seed)):
        for name, wrong in cases:
            kind = name.split()[0] if name.split()[0] in ("kill", "mutation") else "surroundings"
            tried[kind] += 1
            if wrong:
                fell_short[kind] += 1
                print(f"{name}: {wrong}", flush=True)
    for kind in tried:
        print(f"{kind}: {tried[kind]} tried, {fell_short[kind]} fell short")
    return sum(fell_short.values()) > 0


if __name__ == "__main__":
    sys.exit(main())
