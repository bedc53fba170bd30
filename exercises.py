"""Empties the functions of a step of EXERCISES.md, for you to write again: python exercises.py 1"""
import ast
import re
import subprocess
import sys
from pathlib import Path

from command import run
from files import UserError, save_text

ROOT = Path(__file__).parent


def read_steps():
    """[(file, its functions, tests), ...] of EXERCISES.md, in order."""
    steps = []
    for section in (ROOT / "EXERCISES.md").read_text("utf-8").split("\n## ")[1:]:
        said = {line.split()[0]: re.findall(r"`(.+?)`", line) for line in section.split("\n")
                if line.startswith(("Write ", "Test "))}
        file, *functions = said["Write"]
        steps.append((file, functions, said["Test"]))
    return steps


def emptied(text, functions):
    """A file's text in which these functions say NotImplementedError after their docstring."""
    lines, found = text.split("\n"), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{method.name}": method for method in node.body
                      if isinstance(method, ast.FunctionDef)}
    for node in sorted((found[name] for name in functions), key=lambda node: -node.lineno):
        body = node.body[1:] if ast.get_docstring(node) else node.body
        indent = " " * node.body[0].col_offset
        lines[body[0].lineno - 1:node.end_lineno] = [f"{indent}raise NotImplementedError"]
    return "\n".join(lines)


def main():
    steps = read_steps()
    number = sys.argv[1] if len(sys.argv) == 2 else ""
    if not number.isdigit() or not 1 <= int(number) <= len(steps):
        raise UserError(f"python exercises.py 1, or another number up to {len(steps)}")
    file, functions, tests = steps[int(number) - 1]
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", file], cwd=ROOT).returncode
    if changed > 1:
        raise UserError("this is no clone by git: what is emptied could not be brought back")
    if changed:
        raise UserError(f"{file} has changes that would be lost: git commit, or git checkout it")
    save_text(emptied((ROOT / file).read_text("utf-8"), functions), ROOT / file)
    print(f"{file}: {', '.join(functions)} are yours now. Red, and green in the end:\n"
          f"    {sys.executable} -m pytest -x {' '.join(tests)}")


if __name__ == "__main__":
    run(main)
