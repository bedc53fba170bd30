"""The embedded default: a small drawn world whose truth is known. See README.md beside this file."""
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SUBJECTS = Path(__file__).parent / "subjects"  # a folder of pictures for each subject that ships with the world


def sheet(rows, cell=None):
    """Rows of pictures with a line of text above each, as one picture. rows: (text, [PIL image or None, ...]); None leaves
    half a cell free. cell: side of a picture on the sheet; small pictures are doubled, large ones reduced."""
    side = max(picture.width for _, pictures in rows for picture in pictures if picture)
    cell = cell or (2 * side if side <= 96 else min(side, 256))
    font, gap = ImageFont.load_default(max(11, cell // 9)), max(2, cell // 32)
    line = font.getbbox("Ag")[3] + 2 * gap
    places, width, y = [], 0, gap
    for text, pictures in rows:
        places.append(((gap, y), text))
        x, y = gap, y + (line if text else 0)
        for picture in pictures:
            if picture:
                places.append(((x, y), picture.resize((cell, cell), Image.Resampling.LANCZOS)))
            x += cell + gap if picture else cell // 2
        width, y = max(width, x), y + cell + gap
    paper = Image.new("RGB", (width, y), "white")
    for place, thing in places:
        if isinstance(thing, str):
            ImageDraw.Draw(paper).text(place, thing, "black", font)
        else:
            paper.paste(thing, place)
    return paper
