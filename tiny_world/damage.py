"""Broken figures on purpose: drawings whose figure is known to be wrong, so that a network can
learn to see it.

    python -m tiny_world.damage --out damage.png      a sheet: each kind of damage, in all classes

A base model that is not good yet draws a teapot without its spout, a face with one eye, a clock
that is a heap, and a judge that only ever saw whole figures calls them a teapot, a face and a
clock. Here the drawing code itself does such things:

    left out    a large part, or an eye, is not drawn
    moved       parts, or an eye, are drawn where they do not belong
    doubled     parts are drawn twice
    warped      the figure is bent, as in a bad mirror
    blended     two individuals of the class, seen through one another
    eaten       pieces of the figure are missing
    swirled     the figure is stirred at one point; only for the examination: no network is
                trained on it

Each is checked on the finished picture: damage that shows less than CLEAR is done again, since a
pot whose handle is a little lower is a pot.
"""
import argparse
from dataclasses import replace
from functools import lru_cache

import numpy as np
from PIL import Image

from pictures import sheet
from tiny_world.draw import compose, draw
from tiny_world.figures import figure
from tiny_world.pen import Pen, S
from tiny_world.world import CLASSES, Scene, random_identity

KINDS = ("left out", "moved", "doubled", "warped", "blended", "eaten")
UNSEEN = "swirled"
CLEAR = 150  # in pixels from black to white (`visible`); a figure has about a thousand
MAY_LACK = {"bowl": 0.3, "vase": 0.3}  # smaller parts, a rim or handles, not every individual has


def area(polygon):
    """By the shoelace formula, in local units."""
    x, y = polygon.T
    return 0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1))


def area_of_eye(r):
    """An eye counts for ten times its size: nothing is looked at more."""
    return 10 * np.pi * r * r


class CarelessPen(Pen):
    """A Pen that does to the parts numbered in `places` what is said there: it draws them at each
    of the given shifts, (0, 0) for where they belong, and not at all if there is none. A part is a
    call of `body` or `rope`, or one eye."""

    def __init__(self, scene, places=()):
        super().__init__(scene)
        self.places = dict(places)
        self.parts = []  # how large each is, and whether every individual has it

    def next_shifts(self, size, needed=True):
        self.parts.append((size, needed))
        return self.places.get(len(self.parts) - 1, [(0.0, 0.0)])

    def body(self, *shapes, colour=None, **how):
        shapes = [np.asarray(shape, float) for shape in shapes]
        needed = colour is None  # what has a colour of its own, a collar say, may be absent
        for shift in self.next_shifts(sum(map(area, shapes)), needed):
            super().body(*[shape + shift for shape in shapes], colour=colour, **how)

    def rope(self, points, *how, **more):
        for shift in self.next_shifts(0.0):  # too thin to be missed
            super().rope(np.asarray(points, float) + shift, *how, **more)

    def eye(self, x, y, r, *how):
        for dx, dy in self.next_shifts(area_of_eye(r)):
            super().eye(x + dx, y + dy, r, *how)

    def almond(self, x, y, r, *how):
        for dx, dy in self.next_shifts(area_of_eye(r)):
            super().almond(x + dx, y + dy, r, *how)

    def lamp(self, x, y, r, *how):
        for dx, dy in self.next_shifts(area_of_eye(r)):
            super().lamp(x + dx, y + dy, r, *how)


def somewhere(rng, near, far):
    """A shift in any direction, `near` to `far` long, in local units."""
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(near, far)
    return length * np.cos(angle), length * np.sin(angle)


def choose_shifts(kind, rng):
    """Where a part is drawn that is left out, moved or doubled."""
    if kind == "left out":
        return []
    elsewhere = somewhere(rng, 0.3, 0.7)
    return [elsewhere] if kind == "moved" else [(0.0, 0.0), elsewhere]


@lru_cache(maxsize=1)  # asked again at each try
def parts_of(scene):
    """How large each part of the figure is, and whether every individual has it."""
    whole = CarelessPen(scene)
    figure(scene, whole)
    return whole.parts


def careless(scene, kind, rng):
    """The figure with parts left out, moved or doubled."""
    large = []
    for i, (size, needed) in enumerate(parts_of(scene)):
        must_be = needed and size > MAY_LACK.get(scene.identity.cls, 0.0)
        if size > 0.1 and (must_be or kind != "left out"):
            large.append(i)
    chosen = rng.permutation(large)[:1 + rng.integers(2)]
    places = {int(i): choose_shifts(kind, rng) for i in chosen}
    return figure(scene, CarelessPen(scene, places))


def soft_hills(rng, n, cells):
    """Soft hills, n layers (n, S, S): random numbers at cells x cells points, smooth between
    them."""
    layers = []
    for coarse in rng.standard_normal((n, cells, cells)).astype(np.float32):
        layers.append(np.asarray(Image.fromarray(coarse).resize((S, S), Image.BICUBIC)))
    return np.stack(layers)


def pulled(layer, dx, dy):
    """Each pixel taken from (dx, dy) further on."""
    y, x = np.mgrid[:S, :S]
    y = (y + dy).round().astype(int).clip(0, S - 1)
    x = (x + dx).round().astype(int).clip(0, S - 1)
    return Image.fromarray(np.asarray(layer)[y, x])


def warped(layer, rng):
    dx, dy = soft_hills(rng, 2, rng.integers(5, 10)) * rng.uniform(6, 13)
    return pulled(layer, dx, dy)


def swirled(layer, rng):
    """Turned round a point somewhere in its middle, and less further away from it."""
    x0, y0, x1, y1 = layer.getchannel("A").getbbox()
    u, v = rng.uniform(0.3, 0.7, 2)
    y, x = np.mgrid[:S, :S]
    x, y = x - (x0 + u * (x1 - x0)), y - (y0 + v * (y1 - y0))
    most = rng.choice((-1, 1)) * rng.uniform(1.5, 3)
    angle = most * np.clip(1 - np.hypot(x, y) / rng.uniform(45, 75), 0, 1)
    dx = x * np.cos(angle) - y * np.sin(angle) - x
    dy = x * np.sin(angle) + y * np.cos(angle) - y
    return pulled(layer, dx, dy)


def eaten(layer, rng):
    """Soft holes where the hills are highest; through them the scenery is seen."""
    [height] = soft_hills(rng, 1, rng.integers(5, 9))
    alpha = np.asarray(layer.getchannel("A"), np.float32)
    level = np.quantile(height[alpha > 128], rng.uniform(0.6, 0.8))
    left = alpha * np.clip(1 - 3 * (height - level), 0, 1)
    layer = layer.copy()
    layer.putalpha(Image.fromarray(left.astype(np.uint8)))
    return layer


def blended(layer, other, rng):
    """Everywhere as much of the one as anywhere else: half a dog beside half another is a dog of
    two colours, and whole."""
    return Image.blend(other, layer, rng.uniform(0.35, 0.65))


def visible(picture, whole):
    """How much is clearly other than in the whole drawing, as if so many pixels had turned from
    black to white."""
    apart = np.abs(np.asarray(picture, int) - np.asarray(whole, int)).max(-1)
    return apart[apart > 48].sum() / 255


def damaged(scene, kind, seed, others=0):
    """The picture of a scene whose figure has that kind of damage, visible by CLEAR or more; or of
    thirty the one that shows most, since little is seen to be wrong with a black dog at night. The
    same arguments always give the same one. `others`: from which number on individuals are blended
    in."""
    rng = np.random.default_rng(seed)
    layer = figure(scene)
    whole, most, clearest = compose(scene, layer), -1, None
    for _ in range(30):
        resembled = [whole]
        if kind in ("left out", "moved", "doubled"):
            broken = careless(scene, kind, rng)
        elif kind == "blended":
            other = random_identity(others + int(rng.integers(5000)), scene.identity.cls)
            other = figure(replace(scene, identity=other))
            broken = blended(layer, other, rng)
            resembled.append(compose(scene, other))  # it must be neither of the two
        else:
            broken = {"warped": warped, "eaten": eaten, "swirled": swirled}[kind](layer, rng)
        if not broken.getbbox():  # a place alone is not broken
            continue
        picture = compose(scene, broken)
        seen = min(visible(picture, one) for one in resembled)
        if seen > most:
            most, clearest = seen, picture
        if most >= CLEAR:
            break
    return clearest


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default="damage.png")
    a = p.parse_args()
    rows = []
    for cls in CLASSES:
        scenes = [Scene(random_identity(i, cls)) for i in range(2)]
        broken = []
        for kind in (*KINDS, UNSEEN):
            broken += [damaged(scene, kind, i) for i, scene in enumerate(scenes)]
        title = "" if rows else f"whole, then {', '.join((*KINDS, UNSEEN))}"
        rows.append((title, [*map(draw, scenes), None, *broken]))
    sheet(rows, 64).save(a.out)
    print(a.out)


if __name__ == "__main__":
    main()
