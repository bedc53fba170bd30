"""benchmarks/speed.py: both do the same work, and what is printed is what was measured. No time is asserted."""
import json
import sys
from itertools import islice

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import speed  # noqa: E402 (found through the line above)
from stable_diffusion import TINY, StableDiffusion  # noqa: E402


def test_the_command_measures_a_row(tmp_path, monkeypatch, capsys):
    out = tmp_path / "speed.json"
    monkeypatch.setattr(sys, "argv", ["speed.py", "--only", "text encoder", "--times", "2", "--json", str(out)])
    speed.main()
    [row] = json.loads(out.read_text()).values()
    assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"]) and row["ours"] > 0
    assert f"{row['ratio']:.2f}" in capsys.readouterr().out.split("\n")[1]


def test_turns_are_taken_and_the_first_does_not_count(monkeypatch):
    clock, turns = [0.0], []

    def work(name, seconds):
        def done():
            turns.append(name)
            clock[0] += seconds[turns.count(name) - 1]
        return done
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    assert speed.measure(work("ours", [9, 1, 3, 2]), work("theirs", [9, 4, 4, 7]), 3) == [2, 4]
    assert turns == ["theirs", "ours", "ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_a_step_of_theirs_trains_what_ours_trains():
    """And begins with a loss of the same size, on the same weights and latents."""
    z = torch.randn(8, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    pipeline, sd = speed.open_pipeline(TINY), StableDiffusion.from_pretrained(TINY)
    before = {n: w.clone() for n, w in pipeline.unet.state_dict().items()}
    theirs = list(islice(speed.their_dreambooth(pipeline, z, 1e-4, 4), 2))
    assert all(not torch.equal(before[n], w) for n, w in pipeline.unet.state_dict().items())
    ours = [log["loss"] for log in islice(speed.our_steps(speed.dreambooth, sd, z, batch_size=4), 2)]
    assert ours == pytest.approx(theirs, rel=0.3)

    pipeline = speed.open_pipeline(TINY)
    table = pipeline.text_encoder.get_input_embeddings().weight.detach().clone()
    list(islice(speed.their_textual_inversion(pipeline, z, 1e-2, 4), 2))
    changed = (pipeline.text_encoder.get_input_embeddings().weight != table).any(1)
    assert changed.nonzero().flatten().tolist() == sd.tokenizer.encode("sks")
