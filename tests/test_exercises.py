"""EXERCISES.md: each step takes something out that its tests miss, and nothing else."""
import ast
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, clean_environment

from exercises import emptied, read_steps

STEPS = read_steps()


def test_there_are_ten_steps_from_the_noise_to_the_cat():
    assert len(STEPS) == 10 and STEPS[0][0] == "ddpm.py" and STEPS[-1][0] == "dreambooth.py"


@pytest.mark.parametrize("file, functions, tests", STEPS, ids=range(1, 11))
def test_a_step_empties_its_functions_and_leaves_the_rest(file, functions, tests):
    """Docstrings, names and everything that is not named stay."""
    before = (ROOT / file).read_text("utf-8")
    after = emptied(before, functions)
    kept, lost = set(after.split("\n")), set(before.split("\n"))
    assert kept - lost <= {" " * 4 + "raise NotImplementedError", " " * 8 + "raise NotImplementedError"}

    def bodies(text):
        tree = ast.parse(text)
        outer = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        inner = {f"{name}.{node.name}": node for name, parent in outer.items() for node in parent.body
                 if isinstance(parent, ast.ClassDef) and isinstance(node, ast.FunctionDef)}
        return {name: node for name, node in (outer | inner).items() if isinstance(node, ast.FunctionDef)}
    old, new = bodies(before), bodies(after)
    assert old.keys() == new.keys()
    assert {name for name in old if ast.dump(old[name]) != ast.dump(new[name])} == set(functions)
    for name in functions:
        assert ast.get_docstring(old[name]) == ast.get_docstring(new[name])
        assert ast.unparse(new[name].body[-1]) == "raise NotImplementedError"
    for test in tests:
        path, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text("utf-8")


@pytest.fixture
def copy(tmp_path):
    """The repository in a place where it may be spoiled, as a commit."""
    place = tmp_path / "copy"
    place.mkdir()
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.md"), ROOT / "pytest.ini"]:
        shutil.copy(path, place)
    for folder in ("tests", "tiny_world"):
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__"))
    someone = ["-c", "user.name=someone", "-c", "user.email=someone"]
    for line in (["init", "-q"], ["add", "-A"], [*someone, "commit", "-qm", "as it is"]):
        subprocess.run(["git", *line], cwd=place, check=True)
    return place


def python(place, *arguments):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=place, text=True, capture_output=True,
                          env=clean_environment(PYTHONPATH=str(place)))


def test_own_work_is_not_taken_away(copy):
    first = python(copy, "exercises.py", 1)
    assert first.returncode == 0 and "tests/test_ddpm.py::test_noise" in first.stdout
    written = (copy / "ddpm.py").read_text("utf-8")
    again = python(copy, "exercises.py", 2)
    assert again.returncode == 2 and "ddpm.py has changes that would be lost" in again.stderr
    assert (copy / "ddpm.py").read_text("utf-8") == written
    assert "another number up to 10" in python(copy, "exercises.py", 11).stderr


@pytest.mark.slow
@pytest.mark.parametrize("step", range(1, 11))
def test_it_is_red_before_and_green_after(step, copy):
    file, _, tests = STEPS[step - 1]
    assert python(copy, "exercises.py", step).returncode == 0
    for test in tests:
        assert python(copy, "-m", "pytest", "-q", "-x", test).returncode == 1, f"{test} does not miss it"
    subprocess.run(["git", "checkout", "-q", file], cwd=copy, check=True)
    green = python(copy, "-m", "pytest", "-q", "-x", *tests)
    assert green.returncode == 0, green.stdout
