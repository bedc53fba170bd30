"""benchmarks/memory.py: what is counted on tensors without numbers is what torch gives out for real ones."""
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image

import dreambooth
from stable_diffusion import TINY

sys.path.insert(0, str(ROOT / "benchmarks"))
memory = importlib.import_module("memory")


def allocated(how, tmp_path):
    """The most that two real steps of DreamBooth have allocated at any moment, in bytes, with the model's weights."""
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    cfg = dreambooth.Config(images=str(tmp_path), class_name="cat", out=str(tmp_path / "out"), sampling_steps=1,
                            class_images=4, **how)
    sd, cfg, photos = dreambooth.prepare(cfg)
    weights = sum(p.nbytes for network in sd.networks.values() for p in network.parameters())
    dreambooth.draw_class_latents(sd, cfg)
    steps = dreambooth.train(sd, cfg, photos)
    with torch.profiler.profile(profile_memory=True) as profile:
        next(steps), next(steps)
    now = peak = weights
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("mode", ["plain", "thrifty"])
def test_the_count_is_what_torch_allocates(mode, tmp_path, monkeypatch):
    """On the tiny model, where nothing waits on the CPU, since it is there already."""
    monkeypatch.setattr("stable_diffusion.StableDiffusion.set_aside", lambda sd, *networks: None)
    counted = memory.count(f"dreambooth, {mode}", "tiny", 64, "float32", aside=False)
    real = allocated({"memory": mode}, tmp_path)
    assert counted["peak"] == pytest.approx(real, rel=0.03)
    assert counted["peak"] == sum(size for part, size in counted.items() if part != "peak")


def test_less_memory_is_taken_where_less_is_promised():
    """Of the tiny model in bfloat16: moments of half the size, weights too. (Its activations are most of it, and are
    gone when the gradients come.)"""
    plain, thrifty, lean = [memory.count(f"dreambooth, {mode}", "tiny", 64, "bfloat16")
                            for mode in ("plain", "thrifty", "lean")]
    assert thrifty["optimizer"] == pytest.approx(plain["optimizer"] / 2, rel=0.01)
    assert lean["weights"] < 0.7 * thrifty["weights"] and lean["peak"] < thrifty["peak"] < plain["peak"]


def write_table(tmp_path, *arguments):
    """The row of a table that has one."""
    ended = subprocess.run([sys.executable, "benchmarks/memory.py", "--model", "tiny", "--size", "64",
                            *arguments, "--json", str(tmp_path / "memory.json")],
                           cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    [row] = json.loads((tmp_path / "memory.json").read_text()).items()
    return row


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_a_process_really_takes_what_was_counted(tmp_path):
    """And some megabytes for itself."""
    _, row = write_table(tmp_path, "--process", "--only", "dreambooth, plain")
    assert row["process"] == pytest.approx(row["peak"], rel=0.25)


def test_the_table_is_written_as_json(tmp_path):
    name, row = write_table(tmp_path, "--only", "a picture")
    assert name == "a picture" and list(row) == ["peak", "weights", "gradients", "optimizer", "rest"]
    assert row["weights"] >= sum(p.numel() for p in memory.StableDiffusion.from_pretrained(TINY).unet.parameters()) * 2
