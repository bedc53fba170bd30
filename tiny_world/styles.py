"""The five styles of the tiny world: `stylise(picture, style, rng)` turns a large picture into a small one in a style.

What does not depend on the picture (paper, hatching, where a brush touches) is made once and kept, so that a style
costs a few array operations. Inside the filters pictures are float arrays of rows x columns x 3, from 0 to 1.
"""
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from tiny_world.pen import S  # width and height of the pictures that come in


def to_array(picture):
    """A picture as numbers from 0 to 1."""
    return np.asarray(picture, np.float32) / 255


def to_picture(array):
    """The way back."""
    return Image.fromarray((array.clip(0, 1) * 255).astype(np.uint8))


@cache
def noise(cell, seed=0):
    """Smooth chance around 0: 2S x 2S numbers with bumps of `cell` pixels."""
    grid = np.random.default_rng(seed).normal(size=(2 * S // cell,) * 2).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((2 * S, 2 * S), Image.Resampling.BICUBIC))


def bumps(rng, size, cell, seed=0):
    """A random piece of `noise`, so that no two papers are the same."""
    x, y = rng.integers(0, 2 * S - size, 2)
    return noise(cell, seed)[y:y + size, x:x + size]


def photo(picture, rng, size):
    """Nothing but the reduction."""
    return picture.reduce(S // size)


@cache
def hatching(size, slant):
    """Slanted pencil strokes, 0 .. 1, that waver and now and then fade as a hand's do."""
    y, x = np.mgrid[:size, :size]
    strokes = 0.5 + 0.5 * np.sin((slant * x + y + 1.5 * noise(12)[:size, :size]) * 1.5)
    return strokes * (0.75 + 0.25 * noise(5)[:size, :size])


def pencil_sketch(picture, rng, size):
    """Grey lines where colours change, and hatching where it is dark."""
    pixels = np.asarray(picture, np.int16)
    # Steps over three pixels give lines one final pixel wide. The strongest channel counts: red on green needs one too.
    lines = np.zeros((S, S), np.float32)
    lines[:, 1:-2] = np.abs(pixels[:, 3:] - pixels[:, :-3]).max(2)
    lines[1:-2] = np.maximum(lines[1:-2], np.abs(pixels[3:] - pixels[:-3]).max(2))
    line = to_array(Image.fromarray(lines).reduce(S // size))
    dark = 1 - to_array(picture.reduce(S // size).convert("L"))
    grey = (0.97 + 0.015 * bumps(rng, size, 2) - 0.14 * dark - 0.34 * dark * hatching(size, 1)
            - 0.7 * (dark - 0.5).clip(0) * hatching(size, -0.8) - (1.6 * line - 0.06).clip(0, 0.68))
    return to_picture(grey.clip(0.12, 1)).convert("RGB")


@cache
def dabs(length, width, seed):
    """Where a brush touches: each pixel's row and column of its dab's centre, and how the ridges of paint shine."""
    rng = np.random.default_rng(seed)
    number = Image.new("I", (S, S))
    pen, centres = ImageDraw.Draw(number), rng.integers(0, S, (5 * S * S // (length * width), 2))
    for i, (row, column) in enumerate(centres):
        angle = 1.6 * noise(60, seed)[row, column] + 0.3 * rng.normal()
        dx, dy = length / 2 * np.cos(angle), length / 2 * np.sin(angle)
        pen.line((column - dx, row - dy, column + dx, row + dy), i, width)
    number = np.asarray(number)
    height = rng.normal(size=len(centres)).astype(np.float32)[number]
    shine = 0.035 * (2 * height - np.roll(height, (2, 2), (0, 1)))
    return *centres[number].transpose(2, 0, 1), shine[..., None]


def oil_painting(picture, rng, size):
    """Dabs of a large and a small brush."""
    pixels = to_array(ImageEnhance.Color(picture.filter(ImageFilter.BoxBlur(1))).enhance(1.45))
    layout = rng.integers(4)
    coarse, fine = (pixels[row, column] + shine for row, column, shine in (dabs(20, 8, layout), dabs(8, 3, layout)))
    # A painter takes the small brush only where the large one has missed something.
    missed = np.abs(coarse - pixels).max(2, keepdims=True) > 0.15
    return to_picture(0.5 + 1.12 * (np.where(missed, fine, coarse) - 0.5)).reduce(S // size)


def pixel_art(picture, rng, size):
    """Half the pixels, sharp, in about twenty colours."""
    cells = ImageEnhance.Color(picture.reduce(2 * S // size)).enhance(1.2)
    cells = ImageEnhance.Sharpness(cells).enhance(1.5)
    # Of Pillow's palettes only this one keeps colours that are rare in the picture, as eyes and noses are.
    cells = cells.quantize(int(rng.integers(18, 25)), Image.Quantize.MAXCOVERAGE, kmeans=1)
    return cells.convert("RGB").resize((size, size), Image.Resampling.NEAREST)


def watercolour_painting(picture, rng, size):
    """Washes that run and pool on white paper."""
    half = S // 2  # washes are soft: half the pixels will do
    pixels = to_array(picture.reduce(2).filter(ImageFilter.MedianFilter(3)))
    y, x = np.mgrid[:half, :half]
    flow = [(place + 0.5 + 1.4 * bumps(rng, half, 12, seed)).astype(int) for seed, place in enumerate((y, x))]
    wash = pixels[*np.clip(flow, 0, half - 1)]
    pooled = np.abs(wash - to_array(to_picture(wash).filter(ImageFilter.BoxBlur(3)))).max(2)
    border = np.minimum(np.minimum(x, half - 1 - x), np.minimum(y, half - 1 - y)) + 2.2 * bumps(rng, half, 8)
    density = (0.74 + 0.09 * bumps(rng, half, 14) + 0.9 * pooled).clip(0.3, 1)  # pigment gathers where a wash ends
    density *= ((border - 2.5) / 2).clip(0, 1)
    paper = np.float32((0.985, 0.975, 0.95)) + 0.025 * bumps(rng, half, 2)[..., None]
    return to_picture(paper * (1 - density[..., None] * (1 - wash))).resize((size, size), Image.Resampling.BOX)


FILTERS = {f.__name__.replace("_", " "): f
           for f in (photo, pencil_sketch, oil_painting, pixel_art, watercolour_painting)}


def stylise(picture, style, rng, size=64):
    """The S x S picture in one of world.STYLES, reduced to size x size."""
    return FILTERS[style](picture, rng, size)
