"""The five styles of the tiny world: `stylise(picture, style, rng)` turns a large picture into a
small one in a style.

What does not depend on the picture (hatching, where a brush touches) is made once and kept, so that
a style costs a few array operations; and it is coarse, because a small autoencoder loses what is
finer than two or three pixels. Inside the filters pictures are float arrays of rows x columns x 3,
from 0 to 1.
"""
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from tiny_world.pen import S  # width and height of the pictures that come in
from tiny_world.scenery import bumps, noise


def to_array(picture):
    """A picture as numbers from 0 to 1."""
    return np.asarray(picture, np.float32) / 255


def to_picture(array):
    """The way back."""
    return Image.fromarray((array.clip(0, 1) * 255).astype(np.uint8))


def photo(picture, rng, size):
    """Nothing but the reduction."""
    return picture.reduce(S // size)


# A pencil has no use for what is dark already: brightened first, things stand out at night too.
BRIGHTER = [int(255 * (v / 255) ** 0.7) for v in range(256)] * 3


@cache
def hatching(size):
    """Slanted pencil strokes, 0 .. 1, always the same ones."""
    y, x = np.mgrid[:size, :size] * (64 / size)
    return (0.5 + 0.5 * np.sin((x + y) * (2 * np.pi / 7))).astype(np.float32)


def pencil_sketch(picture, rng, size):
    """Thick grey lines where colours change, a tone where it is dark and light hatching on it."""
    picture = picture.filter(ImageFilter.BoxBlur(1)).point(BRIGHTER)
    pixels = np.asarray(picture, np.int16)
    # Steps over five pixels give lines two final pixels wide. The strongest channel counts: red on
    # green needs one too.
    lines = np.zeros((S, S), np.float32)
    lines[:, 2:-3] = np.abs(pixels[:, 5:] - pixels[:, :-5]).max(2)
    lines[2:-3] = np.maximum(lines[2:-3], np.abs(pixels[5:] - pixels[:-5]).max(2))
    line = to_array(Image.fromarray(lines).reduce(S // size))
    dark = 1 - to_array(picture.reduce(S // size).convert("L"))
    grey = 0.98 - 0.22 * dark - 0.14 * dark * hatching(size) - (1.8 * line - 0.18).clip(0, 0.58)
    return to_picture(grey.clip(0.1, 1)).convert("RGB")


@cache
def dabs(length, width, seed):
    """Where a brush touches: each pixel's row and column of its dab's centre, and how the ridges of
    paint shine."""
    rng = np.random.default_rng(seed)
    number = Image.new("I", (S, S))
    pen = ImageDraw.Draw(number)
    centres = rng.integers(0, S, (6 * S * S // (length * width), 2))
    for i, (row, column) in enumerate(centres):
        angle = 1.6 * noise(60, 60, seed)[row, column] + 0.3 * rng.normal()
        dx, dy = length / 2 * np.cos(angle), length / 2 * np.sin(angle)
        pen.line((column - dx, row - dy, column + dx, row + dy), i, width)
    number = np.asarray(number)
    shine = 0.03 * rng.normal(size=len(centres)).astype(np.float32)[number]
    return *centres[number].transpose(2, 0, 1), shine[..., None]


def oil_painting(picture, rng, size):
    """Dabs of a large and a small brush; along the edges of things none."""
    picture = ImageEnhance.Color(picture).enhance(1.5)
    painted = to_array(picture)
    layout = rng.integers(4)
    # A painter takes the next smaller brush only where the large one would miss something, and
    # stays off the edges. A dab has the mean colour of its surroundings: that of a single point
    # would be a matter of chance.
    for length, width, blur, missed in (9, 5, 1, 0.25), (30, 13, 4, 0.14):
        row, column, shine = dabs(length, width, layout)
        brush = to_array(picture.filter(ImageFilter.BoxBlur(blur)))[row, column] + shine
        painted = np.where(np.abs(brush - painted).max(2, keepdims=True) > missed, painted, brush)
    return to_picture(painted).reduce(S // size)


def pixel_art(picture, rng, size):
    """Half the pixels, sharp, in about twenty colours."""
    cells = ImageEnhance.Color(picture.reduce(2 * S // size)).enhance(1.2)
    cells = ImageEnhance.Sharpness(cells).enhance(1.5)
    # Of Pillow's palettes only this one keeps colours that are rare in the picture, as eyes and
    # noses are.
    cells = cells.quantize(int(rng.integers(18, 25)), Image.Quantize.MAXCOVERAGE, kmeans=1)
    return cells.convert("RGB").resize((size, size), Image.Resampling.NEAREST)


def watercolour_painting(picture, rng, size):
    """Pale, smooth washes that run a little, darker where they end, on white paper with a soft
    edge."""
    half = S // 2  # washes are soft: half the pixels will do
    pixels = to_array(picture.reduce(2).filter(ImageFilter.MedianFilter(3)))
    y, x = np.mgrid[:half, :half]
    flow = [(place + 0.5 + 1.3 * bumps(rng, 24, 24, half, seed)).astype(int)
            for seed, place in enumerate((y, x))]
    wash = pixels[*np.clip(flow, 0, half - 1)]
    pooled = np.abs(wash - to_array(to_picture(wash).filter(ImageFilter.BoxBlur(3)))).max(2)
    border = np.minimum(np.minimum(x, half - 1 - x), np.minimum(y, half - 1 - y))
    border = border + 1.5 * bumps(rng, 24, 24, half)
    # Pigment gathers where a wash ends.
    density = (0.8 + 0.06 * bumps(rng, 32, 32, half) + 0.8 * pooled).clip(0.3, 1)
    density *= ((border - 1.5) / 4).clip(0, 1)
    paper = np.float32((0.99, 0.98, 0.955))
    painted = to_picture(paper * (1 - density[..., None] * (1 - wash)))
    return painted.resize((size, size), Image.Resampling.BOX)


FILTERS = {f.__name__.replace("_", " "): f
           for f in (photo, pencil_sketch, oil_painting, pixel_art, watercolour_painting)}


def stylise(picture, style, rng, size=64):
    """The S x S picture in one of world.STYLES, reduced to size x size."""
    return FILTERS[style](picture, rng, size)
