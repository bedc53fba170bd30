"""Makes the notebooks from their plain sources and runs them: python notebooks/build.py [05_dreambooth ...]

The .py files beside this one are what is edited; the .ipynb files are made, with their outputs, and committed."""
import base64
import io
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
SOURCES = sorted(HERE.glob("[0-9]*.py"))
if unknown := set(sys.argv[1:]) - {source.stem for source in SOURCES}:
    sys.exit(f"no such notebook: {', '.join(unknown)}; there are {', '.join(source.stem for source in SOURCES)}")


def smaller(data):
    """Large pictures and those that are there both ways as JPEG: noise does not compress as PNG, and a notebook should stay small."""
    if len(data.get("image/png", "")) > 40_000 or {"image/png", "image/jpeg"} <= {*data}:
        picture, file = Image.open(io.BytesIO(base64.b64decode(data.pop("image/png")))), io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=60)
        data["image/jpeg"] = base64.b64encode(file.getvalue()).decode()


for source in SOURCES:
    if sys.argv[1:] and source.stem not in sys.argv[1:]:
        continue
    book = jupytext.read(source)
    NotebookClient(book, timeout=900, kernel_name="python3", resources={"metadata": {"path": HERE}}).execute()
    for i, cell in enumerate(book.cells):  # names and times that would differ from run to run
        cell["id"] = f"cell-{i}"
        cell.metadata.pop("execution", None)
        if "outputs" in cell:  # without what libraries remark on this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.get("outputs", ()):
            smaller(output.get("data", {}))
    book.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(book, source.with_suffix(".ipynb"))
    print(source.with_suffix(".ipynb"), f"{source.with_suffix('.ipynb').stat().st_size / 1000:.0f} KB")
