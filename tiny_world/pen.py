"""What the figures are drawn with: colours, shapes, patterns and the `Pen`.

Figures are drawn in local coordinates, x to the right and y up, standing on y = -1 and reaching to
about y = 1. The `Pen` carries them through a scene's pose onto a transparent layer, three times the
size of the finished picture, so that the later reduction smooths every edge.
"""
import math
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tiny_world.world import COLOURS, SKIN, TRAITS

S = 192      # width and height of a large picture or layer in pixels
UNIT = 76    # pixels per local unit at scale 1: a figure 2 units high fills 79 % of the picture

# How each class is put into the frame: widened by, heightened by, and the local point that comes to
# the picture's middle. A large subject has a readable pattern.
FRAME = {
    "cat": (1.12, 1.02, 0.15, 0.01), "dog": (1.0, 1.0, -0.05, -0.02), "face": (1.32, 1.32, 0.0, 0.13),
    "bear": (1.1, 1.0, 0.0, 0.0), "duck": (1.18, 1.02, 0.06, -0.02), "robot": (1.15, 0.95, 0.0, 0.03),
    "teapot": (1.06, 1.25, -0.03, -0.18), "vase": (1.15, 0.98, 0.0, 0.0), "bowl": (1.1, 1.06, 0.0, -0.02),
    "can": (1.3, 1.0, 0.0, 0.0), "candle": (1.1, 1.0, 0.03, 0.0), "clock": (1.08, 1.08, 0.0, -0.02),
    "boot": (1.17, 1.04, 0.0, -0.06), "sneaker": (1.04, 1.15, 0.0, -0.14),
    "backpack": (1.08, 1.0, 0.0, -0.04), "car": (0.96, 1.0, 0.0, -0.14),
}
CUBE = (1.12, 1.12, 0.0, -0.08)


# === colours ======================================================================================

WHITE, DARK, GREY = (250, 250, 248), (34, 30, 36), (160, 164, 174)
STEEL, CREAM, GOLD = (190, 194, 202), (250, 240, 216), (240, 190, 60)
SHADE = (20, 10, 20)  # what darkens a colour


def mix(a, b, u):
    """The colour a fraction `u` of the way from a to b."""
    return tuple(int(p + (q - p) * u) for p, q in zip(a, b))


def bright(colour):
    """How bright a colour looks, 0 to 255."""
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def ink(colour):
    """The outline's colour: darker, but lighter than black, so that a black boot stands out at
    night."""
    return mix(colour, (190, 190, 208), 0.36) if bright(colour) < 66 else mix(colour, (20, 12, 24), 0.48)


def pick(u, options):
    """A trait u in [0, 1] read as a choice."""
    return options[min(int(u * len(options)), len(options) - 1)]


# === shapes: arrays of points =====================================================================

ANGLES = np.linspace(0, 2 * np.pi, 37)[:-1]
COS, SIN = np.cos(ANGLES), np.sin(ANGLES)


def oval(x, y, rx, ry=None, tilt=0.0, power=2.0):
    """An ellipse of 36 points from the right over the top; a higher power fills its corners (5 is a
    rounded box)."""
    c, s = COS * rx, SIN * (rx if ry is None else ry)
    if power != 2:
        c, s = c * np.abs(COS) ** (2 / power - 1 + 1e-9), s * (np.abs(SIN) + 1e-9) ** (2 / power - 1)
    a = math.radians(tilt)
    return np.stack([x + c * math.cos(a) - s * math.sin(a), y + c * math.sin(a) + s * math.cos(a)], 1)


def near_rim(x, y, rx, ry):
    """The lower half of an ellipse, from left to right: the nearer side of a round rim."""
    return oval(x, y, rx, ry)[18:]


def hoop(x, y, rx, ry, high):
    """The near half of a ring round something upright, from the rim at y to `high` below it."""
    return np.concatenate([near_rim(x, y, rx, ry), near_rim(x, y - high, rx, ry)[::-1]])


def rectangle(x0, y0, x1, y1):
    """A box with sharp corners."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def pad(x0, y0, x1, y1, power=5):
    """A box with rounded corners."""
    return oval((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2, abs(y1 - y0) / 2, power=power)


def edging(a, b, rise):
    """A strip along the cube's edge from a to b, as high as `rise`."""
    return [a, b, b + (0, rise), a + (0, rise)]


def smooth(points, closed=True, steps=6):
    """A Catmull-Rom curve through the points."""
    p = np.asarray(points, float)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    u = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    curve = 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u ** 2
                   + (3 * b - a - 3 * c + d) * u ** 3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-2:-1]])


def mirrored(x, *half):
    """The points (distance to the left of x, y) and then, backwards, their mirror images; distance
    0 counts once."""
    return [(x - d, y) for d, y in half] + [(x + d, y) for d, y in half[::-1] if d]


def turned(heights, radii, x=0.0):
    """The smooth outline of a body turned on a lathe: half widths at heights, from the bottom."""
    right = smooth(list(zip(radii, heights)), closed=False)
    return np.concatenate([right + (x, 0), (right * (-1, 1) + (x, 0))[::-1]])


def stroke(points, w0, w1=None):
    """A thick curve through the points, w0 to either side at its start and w1 at its end."""
    p = smooth(points, closed=False)
    t = np.gradient(p, axis=0)
    t /= np.linalg.norm(t, axis=1, keepdims=True) + 1e-9
    n = np.stack([-t[:, 1], t[:, 0]], 1) * np.linspace(w0, w0 if w1 is None else w1, len(p))[:, None]
    a = np.linspace(0, np.pi, 7)[1:-1, None]

    def cap(i, m, d):  # a half circle round point i: m across the curve, d along it
        return p[i] + m * np.cos(a) + d * np.linalg.norm(m) * np.sin(a)

    return np.concatenate([p + n, cap(-1, n[-1], t[-1]), (p - n)[::-1], cap(0, -n[0], -t[0])])


def heart(x, y, r):
    """A heart of half width r."""
    return smooth(mirrored(x, (0, y - r), (r, y + 0.1 * r), (0.5 * r, y + 0.85 * r), (0, y + 0.4 * r)))


def star(x, y, r, points=5, waist=0.45, turn=0.0):
    """A star whose inner corners are at `waist` of its radius."""
    a = np.pi / 2 + turn + np.arange(2 * points) * np.pi / points
    r = np.where(np.arange(2 * points) % 2, r * waist, r)
    return np.stack([x + r * np.cos(a), y + r * np.sin(a)], 1)


def around(x, y, r, angle, ry=None):
    """The point of a circle (or ellipse) at an angle, counter-clockwise from the right."""
    return x + r * math.cos(angle), y + (r if ry is None else ry) * math.sin(angle)


# === patterns =====================================================================================

def pattern_shapes(name, size, period, rng):
    """The shapes that make up a pattern, upright; more of them than the body will show."""
    row = range(-4, 5)
    if name == "stripes":
        for k in row: yield rectangle(-2, (k - 0.135) * period, 2, (k + 0.135) * period)
    elif name == "band": yield rectangle(-2, -0.34, 2, -0.06 + 0.1 * size)
    elif name == "zigzag":
        for k in row:
            top = [(j * period * 0.5, (k + 0.5 * (j % 2)) * period * 1.1) for j in range(-9, 10)]
            yield top + [(x, y - 0.34 * period) for x, y in top[::-1]]
    elif name == "patches":
        for j in (-1, 0, 1):
            for k in (-1, 0, 1):
                r = (0.19 + 0.06 * size) * (0.8 + 0.4 * rng.random(8))
                x, y = np.array([j, k]) * 0.74 + (rng.random(2) - 0.5) * 0.3 + (0.37 * (k % 2), 0)
                yield smooth(np.stack([x + r * COS[::5], y + r * SIN[::5]], 1))
    else:
        for j in row:
            for k in row:  # every other row of spots and stars is shifted by half a period
                if name == "spots": yield oval((j + k % 2 / 2) * period, k * period * 0.87, period * 0.27)
                if name == "stars": yield star((j + k % 2 / 2) * period * 1.15, k * period, period * 0.46)
                if name == "checks" and (j + k) % 2:
                    yield (rectangle(0, 0, 0.84, 0.84) + (j, k)) * period * 0.72


@lru_cache(512)
def pattern_mask(name, size, angle):
    """The pattern as a picture of local coordinates -1.5 .. 1.5, so that it moves, tilts and flips
    with the body."""
    rng = np.random.default_rng(int(size * 1e6) + int(angle * 1e6) * 7)
    image = Image.new("L", (144, 144), 0)
    a = (angle - 0.5) * math.pi
    turn = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    ctx = ImageDraw.Draw(image)
    for shape in pattern_shapes(name, size, 0.5 + 0.22 * size, rng):
        ctx.polygon((np.asarray(shape) @ turn * (48, -48) + 72).ravel().tolist(), fill=255)
    return image


# === the pen ======================================================================================

def relief(mask, blur):
    """The blurred mask at a third of its size, and how steeply it rises away from the light at the
    upper left."""
    g = np.asarray(mask.reduce(3).filter(ImageFilter.BoxBlur(blur)), np.float32) / 255
    d = blur - 1
    slope = np.zeros_like(g)
    slope[d:-d, d:-d] = g[2 * d:, 2 * d:] - g[:-2 * d, :-2 * d]
    return g, slope


class Pen:
    """Draws local coordinates through the pose onto a transparent layer.

    What the figures ask of it: `worn`, `cube` and `turn` as in the scene, the identity `who` and
    its `traits` by name, and the colours `first` (of the body), `second`, `ink` (of outlines),
    `part`, `sign`, `pale` and `mark`.
    """

    def __init__(self, scene):
        self.who = scene.identity
        self.worn = scene.accessory
        self.cube = scene.cube
        self.turn = scene.pose.turn
        names = [name.replace(" ", "_") for name in TRAITS[self.who.cls]]
        self.traits = SimpleNamespace(**dict(zip(names, self.who.traits)))
        self.choose_colours()
        self.take_place(scene.pose)
        self.layer = Image.new("RGBA", (S, S), (*self.first, 0))
        self.ctx = ImageDraw.Draw(self.layer)
        self.skin = self.make_skin()

    def choose_colours(self):
        who = self.who
        if who.colour == "skin":
            u = self.traits.skin * (len(SKIN) - 1.001)
            self.first = mix(SKIN[int(u)], SKIN[int(u) + 1], u % 1)
        else:
            u = 0.24 * (getattr(self.traits, "shade", 0.5) - 0.5)  # faces have no shade
            self.first = mix(COLOURS[who.colour], WHITE if u > 0 else SHADE, abs(u))
        self.ink = ink(self.first)
        self.second = COLOURS[who.second]
        apart = max(abs(a - b) for a, b in zip(self.first, self.second))
        if apart < 100:  # too alike for a pattern: set them apart
            lighter = bright(self.second) > bright(self.first)
            self.second = mix(self.second, WHITE if lighter else SHADE, 0.25)
        self.pale = mix(self.first, WHITE, 0.72 if bright(self.first) < 215 else 0.9)  # muzzles and bellies
        if who.pattern == "plain":
            self.part = self.sign = self.mark = self.second
        else:
            # On a patterned body the first colour must dominate, so small parts keep it.
            self.part = None        # painted with the skin
            self.sign = self.first
            self.mark = self.pale   # masks and socks

    def take_place(self, pose):
        """Sets what carries local coordinates to the layer: matrix and centre."""
        hat = 0.86 if self.worn.endswith("hat") else 1.0  # it needs head room; the feet stay where they are
        wide, high, x, y = CUBE if self.cube else FRAME[self.who.cls]
        unit, a, side = UNIT * pose.scale, math.radians(pose.tilt), -1 if pose.flip else 1
        self.unit = unit * hat * high
        turn = np.array([[side * math.cos(a), -math.sin(a)], [-side * math.sin(a), -math.cos(a)]])
        self.matrix = unit * hat * turn * (wide, high)
        half = S // 2
        middle = (half + half * pose.x, half - half * pose.y + unit * high * (1 + y) * (1 - hat))
        self.centre = middle - self.matrix @ (x, y)

    def make_skin(self):
        """The body's colour with its pattern, over the whole layer."""
        who = self.who
        skin = Image.new("RGB", (S, S), self.first)
        if who.pattern == "plain":
            return skin
        grid = np.linalg.inv(self.matrix) * np.array([[48], [-48]])
        shift = -grid @ self.centre + 72 + np.array([-6.0 * self.turn, 0])
        mask = pattern_mask(who.pattern, who.trait("pattern size"), who.trait("pattern angle"))
        numbers = (*grid[0], shift[0], *grid[1], shift[1])
        skin.paste(self.second, (0, 0), mask.transform((S, S), Image.AFFINE, numbers, Image.BILINEAR))
        return skin

    def xy(self, points):
        """Local points on the layer, as the flat list that Pillow is quickest with."""
        return (np.asarray(points, float) @ self.matrix.T + self.centre).ravel().tolist()

    def flat(self, points, colour, edge=None):
        """A plain filled shape, outlined if `edge` is a colour."""
        p = self.xy(points)
        if edge: self.ctx.line(p + p[:4], fill=(*edge, 255), width=5)
        self.ctx.polygon(p, fill=(*colour, 255))

    def paint(self, points):
        """A sign painted on the figure: an outlined shape in the sign's colour."""
        self.flat(points, self.sign, edge=self.ink)

    def line(self, points, colour, width=0.06, closed=False):
        """A line of the given width, in local units, with round ends."""
        p, w = self.xy(points), max(2, round(width * self.unit))
        self.ctx.line(p + p[:4] if closed else p, fill=(*colour, 255), width=w)
        if w > 3 and not closed:
            for x, y in (p[:2], p[-2:]):
                self.ctx.ellipse((x - w / 2, y - w / 2, x + w / 2 - 1, y + w / 2 - 1), fill=(*colour, 255))

    def rope(self, points, colour, width=0.06, closed=False, edge=None):
        """A line with an outline."""
        self.line(points, edge or ink(colour), width + 0.05, closed)
        self.line(points, colour, width, closed)

    def body(self, *shapes, colour=None, lit=1.0, puff=1.0, edge=None):
        """Shapes joined to one solid thing: outline, colour (the patterned skin unless one is
        given), soft shading."""
        polygons = [self.xy(shape) for shape in shapes]
        edge = edge or (ink(colour) if colour else self.ink)
        for p in polygons: self.ctx.line(p + p[:4], fill=(*edge, 255), width=6)
        # The work is done in the smallest box of whole 3 x 3 blocks that leaves room for the blur.
        points = np.concatenate(polygons).reshape(-1, 2)
        x0, y0 = ((points.min(0).astype(int) // 3 - 3) * 3).tolist()
        x1, y1 = ((points.max(0).astype(int) // 3 + 4) * 3).tolist()
        box, size = (x0, y0, x1, y1), (x1 - x0, y1 - y0)
        mask = Image.new("L", size, 0)
        ctx = ImageDraw.Draw(mask)
        for p in polygons: ctx.polygon([v - (y0 if i % 2 else x0) for i, v in enumerate(p)], fill=255)
        g, slope = relief(mask, 3)
        down, right = (np.linspace(1, -1, n, dtype=np.float32) for n in g.shape)
        light = lit * (1 + puff * (0.20 * slope + 0.07 * (down[:, None] + right) - 0.16 * (1 - g))) - 1
        solid = Image.new("RGB", size, colour) if colour else self.skin.crop(box)
        # Shade multiplies, light mixes with white: dark things show their form by light alone.
        for tone, strength in (((0, 0, 0), -255), (WHITE, 200)):
            amount = Image.fromarray((light * strength).clip(0, 255).astype(np.uint8))
            solid.paste(tone, (0, 0), amount.resize(size, Image.BILINEAR))
        self.layer.paste(solid, box, mask)

    def eyes(self, places, r, *how):
        """Two round ones."""
        for (x, y), side in zip(places, (-1, 1)): self.eye(x, y, r, side, *how)

    def eye(self, x, y, r, side, iris, pupil=0.66, tall=1.0):
        """A round eye with a highlight; on the far side of a turned head it is narrower."""
        rx = r * (1 - 0.22 * max(0.0, side * self.turn))
        self.flat(oval(x, y, rx, r * tall), iris, edge=DARK)
        self.flat(oval(x, y, rx * pupil, r * pupil * tall), DARK)
        self.flat(oval(x - 0.3 * rx, y + 0.36 * r, 0.38 * r), WHITE)

    def almond(self, x, y, r, iris):
        """An eye of a person, which looks where the head does."""
        self.flat(oval(x, y, r * 1.25, r), WHITE, edge=DARK)
        self.flat(oval(x + 0.25 * r * self.turn, y, r * 0.78), iris)
        self.flat(oval(x + 0.25 * r * self.turn, y, r * 0.45), DARK)
        self.flat(oval(x - 0.25 * r, y + 0.35 * r, r * 0.3), WHITE)

    def lamp(self, x, y, r, glow):
        """An eye of a robot."""
        self.flat(oval(x, y, r), glow)
        self.flat(oval(x - 0.03, y + 0.04, r * 0.4), WHITE)

    def box(self):
        """The cube: draws side, top (`lid`) and front; returns the front's centre (x also as
        `middle`) and half width."""
        half = 0.6
        back = np.array([0.36 + 0.1 * self.turn, 0.27])  # how far it is shifted from the front
        x, y = -0.5 * back[0], -0.4
        self.front = rectangle(x - half, y + half, x + half, y - half)
        a, b, c, _ = self.front
        self.lid = np.array([a, b, b + back, a + back])
        self.side = np.array([b, b + back, c + back, c])
        lit = 0.84 if bright(self.first) > 200 else 0.74  # a pale one would look grey
        self.body(self.side, lit=lit, puff=0.3)
        self.body(self.lid, lit=1.16, puff=0.3)
        self.body(self.front, puff=0.7)
        self.middle = x
        return x, y, half

    def top(self, u, v):
        """A point on the cube's top face: u from left to right, v from front to back."""
        a, b, _, d = self.lid
        return a + (b - a) * u + (d - a) * v

    def hole(self, share, colour):
        """An opening in the cube's top face."""
        middle = self.lid.mean(0)
        self.flat(middle + (self.lid - middle) * share, colour, edge=self.ink)
