"""Models by their name on the Hugging Face hub, against a server on this machine that speaks the hub's protocol.

huggingface_hub reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE once, when it is imported. So every load happens in a
process of its own: a fork of one that has imported stable_diffusion (and torch, the slow part), never huggingface_hub.
"""
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
import safetensors.torch
from conftest import ROOT, clean_environment

import checkpoint

UNET = "unet/diffusion_pytorch_model.safetensors"
NEEDED = [
    "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "unet/config.json", UNET, "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors"]
NOT_NEEDED = [
    ".gitattributes", "README.md", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "flax_model.msgpack",
    "feature_extractor/preprocessor_config.json", "safety_checker/config.json", "safety_checker/model.safetensors",
    "text_encoder/model.fp16.safetensors", "text_encoder/pytorch_model.bin", "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.non_ema.safetensors",
    "vae/diffusion_pytorch_model.bin"]


# === a hub ============================================================================================================

class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.log.append((self.command, path, self.headers.get("Range")))
        match = (re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path)
                 or re.fullmatch(r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path))
        repo = match and self.server.repos.get(match[1])
        if not repo:
            return self.answer(404, b'{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
        commit = repo["branches"].get(match[3] or "main", match[3])
        if commit not in repo["commits"]:
            return self.answer(404, b'{"error": "Invalid rev id"}', X_Error_Code="RevisionNotFound")
        files = repo["commits"][commit]
        if match[2] == "tree":
            tree = [{"type": "file", "path": p, "size": len(b), "oid": hashlib.sha1(b).hexdigest()}
                    for p, b in files.items()]
            return self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        if match[2] != "resolve":
            info = {"id": match[1], "sha": commit, "siblings": [{"rfilename": p} for p in files], "private": False}
            return self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
        if match[4] not in files:
            return self.answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        self.file(match[4], files[match[4]], commit)

    do_HEAD = do_GET

    def file(self, path, body, commit):
        """The bytes that were asked for; or, if the server is told to `fail` on this file, what it is told to do."""
        first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, whole = int(first[1]) if first else 0, len(body)
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X_Repo_Commit": commit, "X_Linked_Size": whole,
                   "Accept_Ranges": "bytes", "Content_Type": "application/octet-stream"}
        if first:
            headers["Content_Range"] = f"bytes {start}-{whole - 1}/{whole}"
        if self.command == "GET" and (fail := self.server.fail.pop(path, None)):
            return fail(self, body, headers)
        self.answer(206 if first else 200, body[start:], **headers)


def drop(request, body, headers):
    """Half of the file, then the connection ends."""
    request.answer(200, body[:len(body) // 2], **headers, Content_Length=len(body))
    request.close_connection = True


def shorten(request, body, headers):
    """Half of the file, as if that were all."""
    request.answer(200, body[:len(body) // 2], **headers)


@pytest.fixture
def hub():
    """A server with hub.add(name, {path: bytes}) and hub.got(), the paths of the files that were fetched."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
    server.handle_error = Request.log_message = lambda *_: None  # a user who hangs up is no error here
    server.daemon_threads, server.repos, server.log, server.fail = True, {}, [], {}
    server.url = f"http://127.0.0.1:{server.server_port}"

    def add(name, files, branch="main"):
        repo = server.repos.setdefault(name, {"branches": {}, "commits": {}})
        commit = hashlib.sha1(f"{name} {branch}".encode()).hexdigest()
        repo["branches"][branch], repo["commits"][commit] = commit, files
        return commit

    def got():
        return sorted(path.split("/", 5)[5] for kind, path, _ in server.log if kind == "GET" and "/resolve/" in path)

    server.add, server.got = add, got
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


# === a user of it =====================================================================================================

FORKS = """
import json, os, sys, traceback
import torch
import command
import files
import stable_diffusion
with torch.device("meta"):
    torch.nn.Embedding(1, 1)          # its start values make torch import its compiler, for a second; here, only once
assert "huggingface_hub" not in sys.modules
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        status = 0
        os.environ.update(job["environment"])
        os.dup2(os.open(job["stderr"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 2)
        try:
            exec(job["code"])
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stderr.flush()
        os._exit(status)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

LOAD = """
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 2 ** 16      # written to the disk in this many bytes; otherwise 10 MB
def load():
    sd = stable_diffusion.StableDiffusion.from_pretrained({name!r}, revision={revision!r}, variant={variant!r})
    parts = {{"unet": sd.unet, "vae": sd.vae, "text_encoder": sd.text}}
    tensors = {{f"{{p}} {{n}}": t for p, m in parts.items() for n, t in m.state_dict().items()}}
    files.save_tensors(tensors, {out!r})
command.run(load)
"""


@pytest.fixture(scope="module")
def forks():
    process = subprocess.Popen([sys.executable, "-c", FORKS], cwd=ROOT, env=clean_environment(), text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.stdin.close()
    process.wait(20)


@pytest.fixture
def load(forks, hub, tmp_path):
    """load(name): from_pretrained(name) elsewhere; the tensors it ended up with, its stderr and its exit status."""
    def run(name, revision="", variant="", meanwhile=None, **environment):
        out = tmp_path / "loaded.safetensors"
        out.unlink(missing_ok=True)
        code = LOAD.format(name=name, revision=revision, variant=variant, out=str(out))
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")} | environment
        job = {"code": code, "environment": environment, "stderr": str(tmp_path / "stderr")}
        forks.stdin.write(json.dumps(job) + "\n")
        forks.stdin.flush()
        pid = int(forks.stdout.readline())
        if meanwhile:
            meanwhile(pid)
        status = int(forks.stdout.readline())
        tensors = safetensors.torch.load_file(out) if out.exists() else None
        stderr = (tmp_path / "stderr").read_text()
        return SimpleNamespace(tensors=tensors, stderr=stderr, stdout="", returncode=status)
    return run


@pytest.fixture(scope="session")
def files(sd15_folder):
    """The files of a small model as a repository has them."""
    return {str(p.relative_to(sd15_folder)): p.read_bytes() for p in sorted(sd15_folder.rglob("*")) if p.is_file()}


def weights(files, change=lambda tensor: tensor):
    """The tensors in a repository's files, under the names that `load` gives them."""
    found = {}
    for path in (UNET, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        for name, tensor in checkpoint.public_names(safetensors.torch.load(files[path])).items():
            found[f"{path.split('/')[0]} {name}"] = change(tensor)
    return found


def difference(a, b):
    assert a.keys() == b.keys()
    return max((a[n] - b[n]).abs().max() for n in a)


def edited(body, change):
    """A safetensors file's bytes with its tensors changed."""
    return safetensors.torch.save(change(safetensors.torch.load(body)))


# === tests ============================================================================================================

def test_of_a_repository_only_the_needed_files_are_fetched(hub, load, files):
    """A repository holds the same weights in five formats, 30 GB in all; a student should wait for 4 GB of them."""
    assert sorted(files) == NEEDED
    hub.add("org/name", files | dict.fromkeys(NOT_NEEDED, b"not needed"))
    ended = load("org/name")
    assert ended.returncode == 0, ended.stderr
    assert difference(ended.tensors, weights(files)) == 0
    assert hub.got() == NEEDED


def test_a_revision_is_honoured(hub, load, files):
    other = edited(files[UNET], lambda tensors: tensors | {"conv_out.bias": tensors["conv_out.bias"] * 2})
    hub.add("org/name", files)
    commit = hub.add("org/name", files | {UNET: other}, branch="second")
    expected = weights(files)
    for revision in ("second", commit):
        ended = load("org/name", revision)
        assert ended.returncode == 0, ended.stderr
        assert (ended.tensors["unet conv_out.bias"] - 2 * expected["unet conv_out.bias"]).abs().max() == 0
    assert difference(load("org/name").tensors, expected) == 0
    assert hub.got().count(UNET) == 2, "the second revision's, then main's"


def test_a_dropped_connection_is_resumed_where_it_broke_off(hub, load, files):
    """Three hours into a slow download nothing is lost: the next request asks for the bytes that are still missing."""
    hub.add("org/name", files)
    hub.fail[UNET] = drop
    ended = load("org/name")
    assert ended.returncode == 0, ended.stderr
    first, second = [r for method, path, r in hub.log if method == "GET" and path.endswith(UNET)]
    assert first is None and 0 < int(re.fullmatch(r"bytes=(\d+)-", second)[1]) <= len(files[UNET]) // 2
    assert difference(ended.tensors, weights(files)) == 0


def test_after_a_killed_download_no_finished_file_is_fetched_again(hub, load, files, tmp_path):
    """A power cut: huggingface_hub 2 starts the file anew that it was in the middle of, but keeps what was complete."""
    killed = threading.Event()

    def stall(request, body, headers):
        drop(request, body, headers)
        killed.wait(20)

    def kill_when_only_the_unet_is_missing(pid):
        finished = tmp_path / "hf" / "hub" / "models--org--name" / "snapshots"
        while len([p for p in finished.rglob("*") if p.is_file()]) < len(NEEDED) - 1:
            time.sleep(0.05)
        os.kill(pid, signal.SIGKILL)
    hub.add("org/name", files)
    hub.fail[UNET] = stall
    ended = load("org/name", meanwhile=kill_when_only_the_unet_is_missing)
    assert ended.returncode == -signal.SIGKILL and ended.tensors is None
    killed.set()
    hub.log.clear()
    assert difference(load("org/name").tensors, weights(files)) == 0
    assert hub.got() == [UNET]


def test_a_file_of_the_wrong_length_is_refused(hub, load, files, refused):
    hub.add("org/name", files)
    hub.fail[UNET] = shorten
    ended = load("org/name", HF_HUB_DISABLE_PROGRESS_BARS="1")
    assert "org/name" in refused(ended)


def test_what_was_fetched_once_loads_offline(hub, load, files):
    """HF_HUB_OFFLINE=1, as on the nodes of a cluster: no request at all. The repository has more weights."""
    hub.add("org/name", files | dict.fromkeys(NOT_NEEDED, b"not needed"))
    assert load("org/name").returncode == 0
    hub.log.clear()
    ended = load("org/name", HF_HUB_OFFLINE="1")
    assert ended.returncode == 0, ended.stderr
    assert difference(ended.tensors, weights(files)) == 0
    assert hub.log == []


def test_what_was_fetched_once_loads_when_the_hub_is_down(hub, load, files):
    """As in a train: nobody set HF_HUB_OFFLINE, there is just no connection. To find that out should not take long."""
    hub.add("org/name", files | dict.fromkeys(NOT_NEEDED, b"not needed"))
    assert load("org/name").returncode == 0
    hub.shutdown()
    hub.server_close()
    ended = load("org/name")
    assert ended.returncode == 0, ended.stderr
    assert difference(ended.tensors, weights(files)) == 0
    assert "Retrying" not in ended.stderr, "each of these waits doubles the one before: 23 seconds in all"


def test_a_cached_revision_loads_offline(hub, load, files):
    hub.add("org/name", files | dict.fromkeys(NOT_NEEDED, b"not needed"), branch="second")
    assert load("org/name", "second").returncode == 0
    ended = load("org/name", "second", HF_HUB_OFFLINE="1")
    assert ended.returncode == 0, ended.stderr
    assert "org/name is not on this machine" in load("org/name", HF_HUB_OFFLINE="1").stderr, "main was never fetched"


def test_offline_without_a_cache_is_one_clear_line(command, refused, hub):
    line = refused(command("x", "--model", "org/name", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1"))
    assert "org/name is not on this machine" in line and "HF_HUB_OFFLINE" in line
    assert hub.log == []


def test_no_connection_and_no_cache_is_one_clear_line(load, refused, hub):
    hub.shutdown()
    hub.server_close()
    line = refused(load("org/name"))
    assert "org/name is not on this machine" in line and "connection" in line


def test_a_repository_that_does_not_exist_is_one_clear_line(command, refused, hub):
    line = refused(command("x", "--model", "org/nmae", HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="0"))
    assert "--model org/nmae is neither a folder here nor a model that the hub will give" in line


def test_a_revision_that_does_not_exist_is_named(load, refused, hub, files):
    hub.add("org/name", files)
    line = refused(load("org/name", "secnod"))
    assert "org/name" in line and "secnod" in line


def test_a_repository_with_pickles_only_says_so(load, refused, hub, files):
    """A .bin file can run any code when it is loaded, so it is not even fetched."""
    stem = "diffusion_pytorch_model"
    pickles = {p.replace(f"{stem}.safetensors", f"{stem}.bin"): b for p, b in files.items()}
    hub.add("org/name", pickles)
    line = refused(load("org/name"))
    assert "unet/diffusion_pytorch_model.safetensors" in line and "unet/diffusion_pytorch_model.bin" in line
    assert hub.got() == []


def test_a_repository_with_fp16_weights_only_loads_them(hub, load, files):
    def halve(tensors):
        return {n: t.half() for n, t in tensors.items()}
    half = {p.replace(".safetensors", ".fp16.safetensors"): edited(b, halve) if p.endswith(".safetensors") else b
            for p, b in files.items()}
    hub.add("org/name", half)
    ended = load("org/name")
    assert ended.returncode == 0, ended.stderr
    assert hub.got() == sorted(half)
    assert difference(ended.tensors, weights(files, lambda t: t.half().float())) == 0


def test_a_variant_is_honoured(hub, load, files, refused):
    """Half of the bytes of Stable Diffusion, and no others; offline too. Where there is none, that is said."""
    def halve(tensors):
        return {n: t.half() for n, t in tensors.items()}
    half = {p.replace(".safetensors", ".fp16.safetensors"): edited(b, halve) for p, b in files.items()
            if p.endswith(".safetensors")}
    hub.add("org/name", files | half)
    ended = load("org/name", variant="fp16")
    assert ended.returncode == 0, ended.stderr
    assert hub.got() == sorted(half | {p: b for p, b in files.items() if not p.endswith(".safetensors")})
    assert difference(ended.tensors, weights(files, lambda t: t.half().float())) == 0
    ended = load("org/name", variant="fp16", HF_HUB_OFFLINE="1")
    assert difference(ended.tensors, weights(files, lambda t: t.half().float())) == 0
    line = refused(load("org/name", variant="bf16"))
    assert "org/name on the hub has no unet/diffusion_pytorch_model.bf16.safetensors" in line


def test_of_shards_in_two_precisions_one_set_is_fetched(hub, load, files):
    """A large UNet comes in shards with an index that says where each tensor is."""
    stem, repository, wanted = "unet/diffusion_pytorch_model", {p: b for p, b in files.items() if p != UNET}, set()
    names = sorted(safetensors.torch.load(files[UNET]))
    shards = {1: set(names[::2]), 2: set(names[1::2])}
    for variant in ("", ".fp16"):
        paths = {i: f"{stem}{variant}-0000{i}-of-00002.safetensors" for i in shards}
        index = {"weight_map": {n: paths[i].split("/")[1] for i in shards for n in shards[i]}}
        new = {f"{stem}.safetensors.index{variant}.json": json.dumps(index).encode()}
        for i, path in paths.items():
            new[path] = edited(files[UNET], lambda tensors: {n: tensors[n] for n in shards[i]})
        repository |= new
        wanted |= new.keys() if not variant else set()
    hub.add("org/name", repository)
    ended = load("org/name")
    assert ended.returncode == 0, ended.stderr
    assert difference(ended.tensors, weights(files)) == 0
    assert hub.got() == sorted(wanted | (set(NEEDED) - {UNET}))


def test_a_model_that_moved_is_fetched_under_its_new_name(hub, load, files):
    """Every tutorial says runwayml/stable-diffusion-v1-5, which has been gone from the hub since 2024."""
    old = "runwayml/stable-diffusion-v1-5"
    hub.add(checkpoint.MOVED[old], files)
    ended = load(old)
    assert ended.returncode == 0, ended.stderr
    assert f"{old} has left the hub; taking {checkpoint.MOVED[old]}" in ended.stderr.splitlines()
    assert not [path for _, path, _ in hub.log if "runwayml" in path]
