"""What makes a script a command: flags from a Config, refusals in one line, states that an interrupted run goes on
from."""
import errno
import importlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from command import (check_resume, check_state, fill_in, parse_flags, progress, read_log, read_numbers, read_state,
                     resumed_numbers, run, save_state, watch, write_state)
from files import UserError, load_metadata, load_tensors


@dataclass
class Config:
    """What the flags below come from."""
    out: str = "runs/x"        # where it goes
    lr: float = None           # None: what the table has; a long comment goes on
                               # in the line below, at 100 %
    steps: int = 3
    size: int = None           # the model's own
    fast: bool = False         # sooner, and worse
    resume: bool = False


# === flags ============================================================================================================

def parsed(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["script.py", *arguments])
    return parse_flags(Config, "Does this and that.", {"lr": (1e-2, 1e-5)})


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
    assert f"{long} (default: 0.01; Stable Diffusion: 1e-05)" in told
    assert "--size SIZE the model's own --" in told, "no default that would say nothing"


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
    (OSError(errno.ENOSPC, "No space left on device"), "error: the disk: No space left on device\n"),
    (OSError(errno.EIO, "Input/output error", "photo.png"), "error: photo.png: Input/output error\n"),
    (OSError("cannot write"), "error: the disk: cannot write\n")], ids=repr)
def test_what_the_user_or_the_machine_can_put_right_is_one_line_and_status_2(capsys, error, said):
    assert ended_by(error, capsys) == (2, said)


def test_a_full_gpu_is_one_line_that_says_what_to_do(capsys):
    status, said = ended_by(torch.OutOfMemoryError("CUDA out of memory, a page of numbers"), capsys)
    assert (status, said) == (2, "error: the memory is full\n")
    for error in ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                  "MPS backend out of memory (MPS allocated: 5 GB)"):
        assert ended_by(RuntimeError(error), capsys) == (2, said)
    with pytest.raises(RuntimeError, match="another mistake"):
        ended_by(RuntimeError("another mistake"), capsys)


@pytest.mark.parametrize("script, advice", [
    ("dreambooth", "--memory lean or --no-train-text-encoder or a smaller --batch-size or a smaller --size"),
    ("textual_inversion", "a smaller --batch-size or a smaller --size")])
def test_what_takes_less_memory_is_said_of_this_script(script, advice, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", importlib.import_module(script))
    said = f"error: the memory is full: {advice} takes less\n"
    assert ended_by(torch.OutOfMemoryError("CUDA out of memory"), capsys) == (2, said)


def test_an_interrupt_says_nothing(capsys):
    """Status 130, as the shell has it for Ctrl-C."""
    assert ended_by(KeyboardInterrupt(), capsys) == (130, "")


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), RuntimeError("a bug")], ids=repr)
def test_what_nobody_expected_keeps_its_traceback(error):
    def main():
        raise error
    with pytest.raises(type(error)):
        run(main)


def test_a_main_gets_its_arguments():
    got = []
    run(lambda *arguments: got.append(arguments), 1, "b")
    assert got == [(1, "b")]


def script(body):
    """The code of a script whose main is this; "ready" is printed before it."""
    return f"import os, sys, command\nprint('ready', flush=True)\ndef main():\n    {body}\ncommand.run(main)"


def test_where_nobody_listens_any_more_a_run_ends_without_a_word():
    """python dreambooth.py | head: status 141, as the shell has it for a broken pipe."""
    body = "[print('x' * 1000, flush=True) for _ in range(1000)]"
    process = subprocess.Popen([sys.executable, "-c", script(body)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 141


def test_what_is_printed_neither_ends_a_run_nor_gets_into_its_files(tmp_path):
    """A service without an error stream, and a terminal that knows ASCII only. The file that is opened next would be
    number 2, the error stream's, if that number were free."""
    body = (f"file = open({str(tmp_path / 'result')!r}, 'w'); print('caf\\u00e9', file=sys.stderr); "
            "os.write(2, b'a warning of some library'); print('caf\\u00e9')")
    closed = "import os, sys; os.close(0); os.close(2); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    ended = subprocess.run([sys.executable, "-c", closed, "-c", script(body)], cwd=ROOT, capture_output=True, text=True,
                           env={"PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stdout) == (0, "ready\ncaf\\xe9\n")
    assert (tmp_path / "result").read_text() == ""


@pytest.mark.parametrize("loss, norm", [("nan", "1"), ("inf", "1"), ("1", "nan"), ("1", "inf")])
def test_neither_a_loss_nor_a_gradient_may_be_endless(loss, norm):
    """What is refused in float16 is the loss alone: a norm without end means that it was scaled up too far."""
    def read(loss, norm, dtype="float32"):
        return read_log(SimpleNamespace(dtype=dtype), 5, torch.tensor(float(norm)), loss=torch.tensor(float(loss)))
    assert read(3e38, 3e38) == {"step": 5, "loss": pytest.approx(3e38)}
    for dtype in ("float32", "bfloat16", "float16"):
        if dtype == "float16" and loss == "1":
            assert read(loss, norm, dtype) == {"step": 5, "loss": 1.0}
            continue
        with pytest.raises(UserError, match="step 5: start again with a lower --lr"):
            read(loss, norm, dtype)


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
    assert read_state(path, *resumed, 7) == {"step": 3, "history": [[1, 0.5], [3, 0.25]]} == read_numbers(path)
    a_training(4, *resumed)
    assert all(torch.equal(a, b) for a, b in zip(a_training(7)[0], resumed[0]))


def test_the_state_of_another_model_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    write_state(path, {}, *a_training(1), step=1)
    for shapes in ([(3,)], [(3,), (2, 3)], [(3,), (2, 2), (1,)]):
        weights = [torch.ones(shape) for shape in shapes]
        with pytest.raises(UserError, match="the state of another model"):
            read_state(path, weights, torch.optim.AdamW(weights), 1)


@pytest.mark.parametrize("step", [0, -1, 8])
def test_a_state_of_a_step_that_this_training_does_not_have_is_refused(tmp_path, step):
    """Else the last picture would be drawn, and said to be that of step 7."""
    path = tmp_path / "state.safetensors"
    write_state(path, {}, *a_training(1), step=step)
    with pytest.raises(UserError, match=f"is of step {step} of 7: leave out --resume"):
        read_state(path, *a_training(0), 7)


@pytest.mark.parametrize("about", [{}, {"numbers": "{}"}, {"numbers": '{"step": "3"}'}, {"numbers": '{"step": true}'},
                                   {"numbers": '{"step": 3.5}'}, {"numbers": "[3]"}, {"numbers": "{"},
                                   {"numbers": "[" * 100_000}], ids=str)
def test_a_file_that_is_no_state_is_refused(tmp_path, about):
    """Whatever it says of itself: one line, and what to do."""
    save_file({"weight.0": torch.zeros(3)}, tmp_path / "state.safetensors", about)
    with pytest.raises(UserError, match="state.safetensors.*: leave out --resume") as error:
        read_state(tmp_path / "state.safetensors", *a_training(0), 7)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("settings", ["null", "[1]", '"lr"'])
def test_a_state_whose_settings_are_none_is_refused(tmp_path, settings):
    save_file({"weight.0": torch.zeros(3)}, tmp_path / "state.safetensors", {"settings": settings})
    with pytest.raises(UserError, match="says settings in a way that cannot be read"):
        check_state(tmp_path / "state.safetensors", {"lr": 0.1})


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

def test_a_training_is_told_in_six_lines_of_which_the_last_is_its_end(capsys):
    """With the mean of the last steps: what a single one says is mostly chance."""
    logs = [{"step": step, "loss": 1.0 if step < 5 else 0.0} for step in range(1, 21)]
    assert list(watch(iter(logs), 20)) == logs
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(line.endswith("ms a step") for line in lines)
    assert [line.split()[1] for line in lines] == [f"{step}/20" for step in (4, 7, 10, 14, 17, 20)]
    means = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert means == sorted(means, reverse=True) and means[0] == 1 and 0 < means[-1] < 0.6


def test_where_there_is_no_terminal_progress_is_one_line_at_the_end(capsys):
    seen = progress([5, 6, 7], "pictures")
    assert next(seen) == 5 and capsys.readouterr().out == ""
    assert list(seen) == [6, 7]
    out, err = capsys.readouterr()
    assert out.startswith("pictures: 3 in ") and out.count("\n") == 1 and err == ""


def test_a_state_is_json_beside_tensors(tmp_path):
    """What another tool would see in it: no pickle, nothing that runs. A number may have the name of a setting."""
    path = tmp_path / "state.safetensors"
    write_state(path, {"lr": 0.1, "step": 9}, *a_training(1), step=1, seconds=2.5)
    moments = {f"adam.{i}.{moment}" for i in (0, 1) for moment in ("step", "exp_avg", "exp_avg_sq")}
    assert set(load_tensors(path)) == {"weight.0", "weight.1"} | moments
    said = load_metadata(path)
    assert json.loads(said["settings"]) == {"lr": 0.1, "step": 9}
    assert json.loads(said["numbers"]) == {"step": 1, "seconds": 2.5}
