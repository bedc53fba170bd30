"""The notebooks run from top to bottom, and what is committed is their source with its outputs."""
import jupytext
import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

SOURCES = sorted(ROOT.glob("notebooks/[0-9]*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_cell_of_the_source_runs(source, monkeypatch):
    """In the fast form: a few steps, nothing worth looking at, but every line executed."""
    monkeypatch.setenv("FAST", "1")
    book = jupytext.read(source)
    place = {"metadata": {"path": ROOT / "notebooks"}}
    NotebookClient(book, timeout=300, kernel_name="python3", resources=place).execute()
    assert all(cell.outputs for cell in book.cells if cell.cell_type == "code")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_what_is_committed_is_the_source_with_its_outputs(source):
    committed, cells = nbformat.read(source.with_suffix(".ipynb"), 4).cells, jupytext.read(source).cells
    assert [(c.cell_type, c.source) for c in committed] == [(c.cell_type, c.source) for c in cells]
    code = [c for c in committed if c.cell_type == "code"]
    assert all(c.outputs and c.execution_count for c in code)
    assert not any(o.output_type == "error" for c in code for o in c.outputs)
    assert source.with_suffix(".ipynb").stat().st_size < 400_000
    assert all(len(c.source.splitlines()) <= 18 for c in code)
