"""What makes a script a command: flags from a Config, refusals in one line, states that an interrupted run goes on
from."""
import errno
import json
from dataclasses import dataclass, replace

import pytest
import torch

from command import (UserError, check_finite, check_resume, check_state, fill_in, load_metadata, load_tensors,
                     parse_flags, progress, read_numbers, read_state, resumed_numbers, run, save_state, save_tensors,
                     watch, write_state)


@dataclass
class Config:
    """What the flags below come from."""
    out: str = "runs/x"        # where it goes
    lr: float = None           # None: what the table has; a long comment goes on
                               # in the line below, at 100 %
    steps: int = 3
    fast: bool = False         # sooner, and worse
    resume: bool = False


# === flags ============================================================================================================

def parsed(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["script.py", *arguments])
    return parse_flags(Config, "Does this and that.")


def test_every_field_is_a_flag_of_its_type(monkeypatch):
    assert parsed(monkeypatch) == Config()
    given = parsed(monkeypatch, "--out", "a b", "--lr", "1e-3", "--steps", "7", "--fast")
    assert given == Config(out="a b", lr=1e-3, steps=7, fast=True)
    assert parsed(monkeypatch, "--no-fast") == Config(fast=False)


def test_a_flag_is_explained_by_its_fields_comment_and_default(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        parsed(monkeypatch, "-h")
    told = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "Does this and that." in told
    assert "where it goes (default: 'runs/x')" in told and "--steps STEPS (default: 3)" in told
    long = "what the table has; a long comment goes on in the line below, at 100 %"
    assert f"{long} (default: by the model's size)" in told


@pytest.mark.parametrize("arguments", [("--steps", "x"), ("--moon", "full"), ("--lr",)], ids=str)
def test_a_flag_that_is_wrong_is_named(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        parsed(monkeypatch, *arguments)
    assert ended.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_what_was_left_open_is_filled_in_by_the_models_size_and_what_was_given_stays():
    table = {"lr": (1.0, 2.0), "steps": (10, 20)}
    cfg = replace(Config(), steps=None, resume=None)
    assert fill_in(cfg, table, large=False, resume=True) == Config(lr=1.0, steps=10, resume=True)
    assert fill_in(cfg, table, large=True, resume=True) == Config(lr=2.0, steps=20, resume=True)
    given = replace(cfg, lr=0.5, steps=0)
    assert fill_in(given, table, large=True, resume=True) == Config(lr=0.5, steps=0, resume=True)


# === refusals =========================================================================================================

def ended_by(error, capsys):
    """The status and the stderr of a main that raises this."""
    def main():
        raise error
    with pytest.raises(SystemExit) as end:
        run(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("error, said", [
    (UserError("--size 7: a multiple of 8"), "error: --size 7: a multiple of 8\n"),
    (OSError(errno.ENOSPC, "No space left on device", "x.png"), "error: x.png: No space left on device\n"),
    (OSError(errno.ENOSPC, "No space left on device"), "error: the disk: No space left on device\n")], ids=repr)
def test_what_the_user_can_put_right_is_one_line_and_status_2(capsys, error, said):
    assert ended_by(error, capsys) == (2, said)


def test_a_full_gpu_is_one_line_that_says_what_to_do(capsys):
    status, said = ended_by(torch.OutOfMemoryError("CUDA out of memory, a page of numbers"), capsys)
    assert status == 2 and said.count("\n") == 1 and "--batch-size" in said and "--dtype bfloat16" in said


def test_an_interrupt_says_nothing(capsys):
    """Status 130, as the shell has it for Ctrl-C."""
    assert ended_by(KeyboardInterrupt(), capsys) == (130, "")


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "Input/output error")], ids=repr)
def test_what_nobody_expected_keeps_its_traceback(error):
    def main():
        raise error
    with pytest.raises(type(error)):
        run(main)


def test_a_main_gets_its_arguments():
    got = []
    run(lambda *arguments: got.append(arguments), 1, "b")
    assert got == [(1, "b")]


@pytest.mark.parametrize("loss, norm", [("nan", "1"), ("inf", "1"), ("1", "nan"), ("1", "inf")])
def test_neither_a_loss_nor_a_gradient_may_be_endless(loss, norm):
    """Steps are counted from 1."""
    check_finite(torch.tensor(3e38), torch.tensor(3e38), 4)
    with pytest.raises(UserError, match="step 5: try a lower --lr"):
        check_finite(torch.tensor(float(loss)), torch.tensor(float(norm)), 4)


# === files ============================================================================================================

def test_tensors_and_what_is_said_beside_them_come_back(tmp_path):
    path = tmp_path / "deep" / "a.safetensors"
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.ones(2, dtype=torch.float16)}
    save_tensors(tensors, path, {"about": "numbers"})
    back = load_tensors(path)
    assert list(back) == ["a", "b"] and all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert load_metadata(path)["about"] == "numbers" and [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("name, said", [
    ("a.pt", "is a pickle"), ("a.ckpt", "is a pickle"), ("none.safetensors", "no such file"),
    ("cut.safetensors", "damaged or cut short.*: fetch it again")])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, said):
    (tmp_path / "a.pt").write_bytes(b"\x80\x02}q\x00.")
    (tmp_path / "cut.safetensors").write_bytes(b"\x80\x00\x00")
    for read in (load_tensors, load_metadata):
        with pytest.raises(UserError, match=f"{name}.*{said}"):
            read(tmp_path / name, ": fetch it again")


# === states ===========================================================================================================

def a_training(steps, weights=None, optimizer=None):
    """Some weights and their optimizer, after so many steps."""
    weights = weights or [torch.ones(3).requires_grad_(True), torch.full((2, 2), 2.0).requires_grad_(True)]
    optimizer = optimizer or torch.optim.AdamW(weights, lr=0.1)
    for _ in range(steps):
        sum((weight ** 3).sum() for weight in weights).backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights, optimizer


def test_a_training_goes_on_from_its_state_as_if_it_had_never_stopped(tmp_path):
    """Weights, the optimizer's moments, and numbers."""
    path = tmp_path / "state.safetensors"
    write_state(path, {"lr": 0.1}, *a_training(3), step=3, history=[[1, 0.5], [3, 0.25]])
    resumed = a_training(0)
    assert read_state(path, *resumed) == {"step": 3, "history": [[1, 0.5], [3, 0.25]]} == read_numbers(path)
    a_training(4, *resumed)
    assert all(torch.equal(a, b) for a, b in zip(a_training(7)[0], resumed[0]))


def test_the_state_of_another_model_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    write_state(path, {}, *a_training(1), step=1)
    for shapes in ([(3,)], [(3,), (2, 3)], [(3,), (2, 2), (1,)]):
        weights = [torch.ones(shape) for shape in shapes]
        with pytest.raises(UserError, match="the state of another model"):
            read_state(path, weights, torch.optim.AdamW(weights))


def test_a_state_of_other_settings_is_refused_by_their_names(tmp_path):
    """Those that differ, those that are new and those that are gone."""
    path = tmp_path / "state.safetensors"
    write_state(path, {"lr": 0.1, "steps": 5, "places": [1, 2]}, *a_training(1), step=1)
    check_state(path, {"lr": 0.1, "steps": 5, "places": [1, 2]})
    with pytest.raises(UserError, match=r"other settings \(lr, seed, steps\)"):
        check_state(path, {"lr": 0.2, "places": [1, 2], "seed": 0})


class Photo:
    def __init__(self, pixels):
        self.pixels = pixels

    def tobytes(self):
        return self.pixels


def test_a_methods_state_is_only_for_the_same_settings_and_the_same_photos(tmp_path):
    """Where the result goes and how often it is saved are no part of it."""
    cfg, photos = Config(out=str(tmp_path), lr=0.1, resume=True), [Photo(b"one"), Photo(b"two")]
    save_state(cfg, photos, *a_training(1), step=1)
    check_resume(cfg, photos)
    assert resumed_numbers(cfg) == {"step": 1} and resumed_numbers(replace(cfg, resume=False)) == {}
    check_resume(replace(cfg, lr=9.0, resume=False), [])
    for changed, shown, name in ((replace(cfg, lr=9.0), photos, "lr"), (cfg, photos[::-1], "photos"),
                                 (cfg, photos[:1], "photos")):
        with pytest.raises(UserError, match=rf"other settings \({name}\)"):
            check_resume(changed, shown)


def test_where_there_is_no_state_a_run_begins_and_says_so(tmp_path, capsys):
    cfg = Config(out=str(tmp_path), resume=True)
    check_resume(cfg, [])
    assert resumed_numbers(cfg) == {}
    assert capsys.readouterr().err == f"nothing to resume in {tmp_path}: from the beginning\n"


# === what is shown ====================================================================================================

def test_a_training_is_told_in_six_lines_and_its_last_step(capsys):
    """With the mean of the last steps: what a single one says is mostly chance."""
    logs = [{"step": step, "loss": 1.0 if step < 5 else 0.0} for step in range(1, 21)]
    assert list(watch(iter(logs), 20)) == logs
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/20" for step in (3, 6, 9, 12, 15, 18, 20)]
    means = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert means == sorted(means, reverse=True) and means[0] == 1 and 0 < means[-1] < 0.6


def test_where_there_is_no_terminal_progress_is_one_line_at_the_end(capsys):
    seen = progress([5, 6, 7], "pictures")
    assert next(seen) == 5 and capsys.readouterr().out == ""
    assert list(seen) == [6, 7]
    out, err = capsys.readouterr()
    assert out.startswith("pictures: 3 in ") and out.count("\n") == 1 and err == ""


def test_a_state_is_json_beside_tensors(tmp_path):
    """What another tool would see in it: no pickle, nothing that runs."""
    path = tmp_path / "state.safetensors"
    write_state(path, {"lr": 0.1}, *a_training(1), step=1)
    moments = {f"adam.{i}.{moment}" for i in (0, 1) for moment in ("step", "exp_avg", "exp_avg_sq")}
    assert set(load_tensors(path)) == {"weight.0", "weight.1"} | moments
    assert json.loads(load_metadata(path)["settings"]) == {"lr": 0.1}
