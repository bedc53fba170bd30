"""The small form of benchmarks/faults.py: runs that are killed, files that are spoiled, what is in the way."""
import random
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import faults  # noqa: E402 (found through the line above)


@pytest.mark.parametrize("method", ["attn_dreambooth", "learn_hypernetwork"])
def test_a_run_that_is_killed_ends_in_the_same_bytes(method):
    """And with nothing more in its folder. Those two have the most files on the way."""
    assert [case for case in faults.kills(1, 3, [method]) if case[1]] == []


def test_files_that_are_spoiled_at_random_are_read_or_refused_in_one_line():
    cases = list(faults.mutations(60, 5))
    assert len(cases) == 60 and [case for case in cases if case[1]] == []


@pytest.mark.parametrize("name", ["a file may have 100 kB", "nobody listens", "no streams at all", "two in one folder"])
def test_what_is_in_the_way_ends_in_one_line(name):
    assert list(faults.surroundings([name])) == [(name, "")]


# === and what would be found ==========================================================================================

def refuse(error):
    def read(path):
        raise error
    return read


def test_a_traceback_a_hang_and_a_foreign_file_would_be_found(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    assert "KeyError" in faults.read_spoiled(path, refuse(KeyError("x")), tmp_path)
    assert "no line" in faults.read_spoiled(path, refuse(faults.UserError("two\nlines")), tmp_path)
    assert faults.read_spoiled(path, refuse(faults.UserError("one line")), tmp_path) == ""
    assert "opened" in faults.read_spoiled(path, lambda path: open("/etc/hostname").close(), tmp_path)
    with pytest.raises(faults.Late):
        with faults.bounds(1, 2 ** 31):
            while True:
                pass


def test_a_result_that_differs_would_be_found(tmp_path, monkeypatch):
    """A method whose resumed run writes something else than a whole one."""
    (tmp_path / "writes.py").write_text(
        "import pathlib, sys, time\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\nout.mkdir(exist_ok=True)\n"
        "time.sleep(0.5)\n(out / 'result').write_text('resumed' if '--resume' in sys.argv else 'whole')\n")
    monkeypatch.setattr(faults, "ROOT", tmp_path)
    monkeypatch.setitem(faults.RUNS, "writes", [])
    wrong = faults.kill_and_resume("writes", {"result": b"whole"}, 0.5, tmp_path / "out", tmp_path, random.Random(0))
    assert wrong == "other files than of a whole run: ['result']"
    right = faults.kill_and_resume("writes", {"result": b"resumed"}, 0.5, tmp_path / "out", tmp_path, random.Random(0))
    assert right == ""
