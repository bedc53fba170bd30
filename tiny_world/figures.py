"""The 16 classes of the tiny world drawn as figures: who is in the picture, what it wears, how it shines.

`figure(scene)` returns a transparent 192 x 192 layer, three times the size of the finished picture, so that the later
reduction smooths every edge. Figures are drawn in local coordinates, x to the right and y up, standing on y = -1 and
reaching to about y = 1; the `Pen` carries them through the pose onto the layer. What makes an individual comes from its
`Identity`, what changes from picture to picture from its `Pose`, and nothing from anywhere else.

Reading order: shapes, patterns, Pen, accessories, the live classes, the objects, finishes, `figure`.
"""
import math
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .world import COLOURS, SKIN, TRAITS

LAYER = 192   # width of the layer in pixels
UNIT = 68     # pixels per local unit at scale 1: the figure is 2 units high
MIDDLE = 99  # the row of y = 0, low enough that the figure stands on the ground
WHITE, DARK, STEEL, CREAM, GOLD = (250, 250, 248), (34, 30, 36), (190, 194, 202), (250, 240, 216), (240, 190, 60)
EYES = ((88, 176, 84), (240, 186, 50), (86, 160, 236), (150, 92, 44))
LEAF, PINK, BLUSH = (72, 142, 66), (255, 62, 160), (244, 150, 160)


def mix(a, b, u):
    """The colour `u` of the way from a to b."""
    return tuple(int(p + (q - p) * u) for p, q in zip(a, b))


def bright(c):
    return 0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2]


def ink(c):
    """Outline colour: darker than c, but lighter than black, so that a black boot stands out at night."""
    return mix(c, (190, 190, 208), 0.42) if bright(c) < 66 else mix(c, (20, 12, 24), 0.58)


def pick(u, options):
    """A trait read as a choice."""
    return options[min(int(u * len(options)), len(options) - 1)]


# --- shapes: arrays of points -----------------------------------------------------------------------------------------

_A = np.linspace(0, 2 * np.pi, 37)[:-1]
_COS, _SIN = np.cos(_A), np.sin(_A)


def oval(x, y, rx, ry=None, tilt=0.0, power=2.0):
    """An ellipse; with a higher power its corners fill out (5 is a rounded box)."""
    c, s = _COS * rx, _SIN * (rx if ry is None else ry)
    if power != 2:
        c, s = c * np.abs(_COS) ** (2 / power - 1 + 1e-9), s * (np.abs(_SIN) + 1e-9) ** (2 / power - 1)
    a = math.radians(tilt)
    return np.stack([x + c * math.cos(a) - s * math.sin(a), y + c * math.sin(a) + s * math.cos(a)], 1)


def pad(x0, y0, x1, y1, power=5):
    """A rounded box between two corners."""
    return oval((x0 + x1) / 2, (y0 + y1) / 2, abs(x1 - x0) / 2, abs(y1 - y0) / 2, power=power)


def smooth(points, closed=True, steps=6):
    """A Catmull-Rom curve through the points."""
    p = np.asarray(points, float)
    p = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    u = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    curve = 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u ** 2 + (3 * b - a - 3 * c + d) * u ** 3)
    return curve.reshape(-1, 2) if closed else np.concatenate([curve.reshape(-1, 2), p[-2:-1]])


def stroke(points, w0, w1=None):
    """The outline of a thick curve through the points, half as wide as w0 (at its start) and w1 (at its end) say."""
    p = smooth(points, closed=False)
    t = np.gradient(p, axis=0)
    t /= np.linalg.norm(t, axis=1, keepdims=True) + 1e-9
    n = np.stack([-t[:, 1], t[:, 0]], 1) * np.linspace(w0, w0 if w1 is None else w1, len(p))[:, None]
    a = np.linspace(0, np.pi, 7)[1:-1, None]
    cap = lambda i, m, d: p[i] + m * np.cos(a) + d * np.linalg.norm(m) * np.sin(a)
    return np.concatenate([p + n, cap(-1, n[-1], t[-1]), (p - n)[::-1], cap(0, -n[0], -t[0])])


def heart(x, y, r):
    return smooth([(x, y - r), (x - r, y + 0.1 * r), (x - 0.5 * r, y + 0.85 * r), (x, y + 0.4 * r),
                   (x + 0.5 * r, y + 0.85 * r), (x + r, y + 0.1 * r)])


def hoop(x, y, rx, ry, high):
    """The near half of a ring round something upright: between the front of an ellipse at y and of one `high` lower."""
    return np.concatenate([oval(x, y, rx, ry)[18:], oval(x, y - high, rx, ry)[18:][::-1]])


def star(x, y, r, points=5, waist=0.45, turn=0.0):
    a = np.pi / 2 + turn + np.arange(2 * points) * np.pi / points
    r = np.where(np.arange(2 * points) % 2, r * waist, r)
    return np.stack([x + r * np.cos(a), y + r * np.sin(a)], 1)


@lru_cache(512)
def pattern_mask(who):
    """The pattern as a picture of local coordinates -1.5 .. 1.5, so that it moves, tilts and flips with the body."""
    size, angle = (0.5, 0.5) if who.cls == "face" else (who.trait("pattern size"), who.trait("pattern angle"))
    rng = np.random.default_rng(int(size * 1e6) + int(angle * 1e6) * 7)
    image = Image.new("L", (144, 144), 0)
    pen, period, a = ImageDraw.Draw(image), 0.42 + 0.28 * size, (angle - 0.5) * math.pi
    turn = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    fill = lambda points: pen.polygon([tuple(q) for q in (np.asarray(points) @ turn * (48, -48) + 72).tolist()],
                                      fill=255)
    row = range(-5, 6)
    if who.pattern == "stripes":
        for k in row:
            fill([(-2, (k - 0.16) * period), (2, (k - 0.16) * period), (2, (k + 0.16) * period),
                  (-2, (k + 0.16) * period)])
    elif who.pattern == "spots":
        for j in row:
            for k in row: fill(oval((j + k % 2 / 2) * period, k * period * 0.87, period * 0.27))
    elif who.pattern == "patches":
        for j in (-1, 0, 1):
            for k in (-1, 0, 1):
                r = (0.17 + 0.11 * size) * (0.75 + 0.5 * rng.random(8))
                x, y = np.array([j, k]) * 0.72 + (rng.random(2) - 0.5) * 0.4 + (0.36 * (k % 2), 0)
                fill(smooth(np.stack([x + r * _COS[::5], y + r * _SIN[::5]], 1)))
    elif who.pattern == "band":
        fill([(-2, -0.34), (2, -0.34), (2, -0.06 + 0.1 * size), (-2, -0.06 + 0.1 * size)])
    elif who.pattern == "checks":
        for j in row:
            for k in row:
                if (j + k) % 2: fill((np.array([(0, 0), (0.84, 0), (0.84, 0.84), (0, 0.84)]) + (j, k)) * period * 0.72)
    elif who.pattern == "zigzag":
        for k in row:
            top = [(j * period * 0.5, (k + 0.5 * (j % 2)) * period * 1.1) for j in range(-9, 10)]
            fill(top + [(x, y - 0.34 * period) for x, y in top[::-1]])
    elif who.pattern == "stars":
        for j in row:
            for k in row: fill(star((j + k % 2 / 2) * period * 1.15, k * period, period * 0.46))
    return image


# --- the pen ----------------------------------------------------------------------------------------------------------

class Pen:
    """Draws local coordinates through the pose onto a transparent layer."""

    def __init__(self, scene):
        who, pose = scene.identity, scene.pose
        self.worn, self.cube, self.turn, self.who = scene.accessory, scene.cube, pose.turn, who
        t = self.t = SimpleNamespace(**{n.replace(" ", "_"): u for n, u in zip(TRAITS[who.cls], who.traits)})
        if who.colour == "skin":
            u = t.skin * (len(SKIN) - 1.001)
            self.first = mix(SKIN[int(u)], SKIN[int(u) + 1], u % 1)
        else:
            u = 0.24 * (getattr(t, "shade", 0.5) - 0.5)
            self.first = mix(COLOURS[who.colour], WHITE if u > 0 else (20, 10, 20), abs(u))
        self.second, self.ink = COLOURS[who.second], ink(self.first)
        # On a patterned body the larger small parts keep the first colour, which must dominate: None paints
        # with the skin.
        plain = who.pattern == "plain"
        self.part, self.sign = (self.second, self.second) if plain else (None, self.first)
        self.pale = mix(self.first, WHITE, 0.72 if bright(self.first) < 215 else 0.9)  # muzzles and bellies
        self.mark = self.second if plain else self.pale  # masks and socks
        hat = 0.84 if self.worn.endswith("hat") else 1.0  # a hat needs head room; the feet stay where they are
        self.unit, a, side = UNIT * pose.scale * hat, math.radians(pose.tilt), -1 if pose.flip else 1
        self.matrix = self.unit * np.array([[side * math.cos(a), -math.sin(a)], [-side * math.sin(a), -math.cos(a)]])
        self.centre = np.array([96 + 96 * pose.x, MIDDLE - 96 * pose.y + UNIT * pose.scale * (1 - hat)])
        self.layer = Image.new("RGBA", (LAYER, LAYER), (*self.first, 0))
        self.ctx = ImageDraw.Draw(self.layer)
        self.skin = Image.new("RGB", (LAYER, LAYER), self.first)
        if who.pattern != "plain":
            inverse = np.linalg.inv(self.matrix)
            grid = inverse * np.array([[48], [-48]])
            at = -grid @ self.centre + 72 + np.array([-6.0 * self.turn, 0])
            mask = pattern_mask(who).transform((LAYER, LAYER), Image.AFFINE, (*grid[0], at[0], *grid[1], at[1]),
                                               Image.BILINEAR)
            self.skin.paste(self.second, (0, 0), mask)

    def xy(self, points):
        """Local points on the layer, as the flat list that Pillow is quickest with."""
        return (np.asarray(points, float) @ self.matrix.T + self.centre).ravel().tolist()

    def flat(self, points, colour, edge=None):
        """A plain filled shape, outlined if `edge` is a colour."""
        p = self.xy(points)
        if edge: self.ctx.line(p + p[:4], fill=(*edge, 255), width=5)
        self.ctx.polygon(p, fill=(*colour, 255))

    def line(self, points, colour, width=0.06, closed=False):
        """A line of the given width, in local units, with round ends."""
        p, w = self.xy(points), max(2, round(width * self.unit))
        self.ctx.line(p + p[:4] if closed else p, fill=(*colour, 255), width=w)
        if w > 3 and not closed:
            for x, y in (p[:2], p[-2:]):
                self.ctx.ellipse((x - w / 2, y - w / 2, x + w / 2 - 1, y + w / 2 - 1), fill=(*colour, 255))

    def body(self, *shapes, colour=None, lit=1.0, puff=1.0, edge=None):
        """Shapes joined to one solid thing: outline, colour (the patterned skin unless one is given), soft shading."""
        polygons = [self.xy(s) for s in shapes]
        edge = edge or (ink(colour) if colour else self.ink)
        for p in polygons: self.ctx.line(p + p[:4], fill=(*edge, 255), width=6)
        xs, ys = [v for p in polygons for v in p[::2]], [v for p in polygons for v in p[1::2]]
        x0, y0 = (int(min(xs)) // 3 - 3) * 3, (int(min(ys)) // 3 - 3) * 3
        wide, high = (int(max(xs)) // 3 + 4) * 3 - x0, (int(max(ys)) // 3 + 4) * 3 - y0
        mask = Image.new("L", (wide, high), 0)
        ctx = ImageDraw.Draw(mask)
        for p in polygons: ctx.polygon([v - (y0 if i % 2 else x0) for i, v in enumerate(p)], fill=255)
        # Light from the upper left: where the blurred mask rises towards the lower right, the surface faces the light.
        g = np.asarray(mask.reduce(3).filter(ImageFilter.BoxBlur(3)), np.float32) / 255
        slope = np.zeros_like(g)
        slope[2:-2, 2:-2] = g[4:, 4:] - g[:-4, :-4]
        down, right = (np.linspace(1, -1, n, dtype=np.float32) for n in g.shape)
        ramp = down[:, None] + right
        light = lit * (1 + puff * (0.20 * slope + 0.07 * ramp - 0.16 * (1 - g)))
        light = Image.fromarray((light * 128).clip(0, 255).astype(np.uint8)).resize((wide, high), Image.BILINEAR)
        light = np.asarray(light, np.float32)[..., None] / 128
        box = (x0, y0, x0 + wide, y0 + high)
        base = np.float32(colour) if colour else np.asarray(self.skin.crop(box), np.float32)
        # dark things show their form by light alone
        lift = 40 * (light - 1) if bright(colour or self.first) < 90 else 0
        solid = Image.fromarray((base * light + lift).clip(0, 255).astype(np.uint8))
        self.layer.paste(solid, box, mask)

    def rope(self, points, colour, width=0.06, closed=False):
        """A line with an outline."""
        self.line(points, ink(colour), width + 0.05, closed)
        self.line(points, colour, width, closed)

    def eye(self, x, y, r, iris, pupil=0.66, tall=1.0):
        """A round eye with a highlight; narrower on the side that is turned away."""
        rx = r * (1 - 0.22 * max(0.0, -self.turn * np.sign(x - self.turn * 0.01)))
        self.flat(oval(x, y, rx, r * tall), iris, edge=DARK)
        self.flat(oval(x, y, rx * pupil, r * pupil * tall), DARK)
        self.flat(oval(x - 0.32 * rx, y + 0.36 * r, 0.36 * r), WHITE)

    def box(self):
        """The cube: draws front, top (`lid`) and side, returns centre and half width of the front."""
        d, e, f = 0.36 + 0.1 * self.turn, 0.27, 0.6
        x, y = -0.5 * d, -0.4
        a, b, c = np.array([x - f, y + f]), np.array([x + f, y + f]), np.array([x + f, y - f])
        back = np.array([d, e])
        self.front, self.lid, self.side = (np.array(q) for q in ([a, b, c, (x - f, y - f)], [a, b, b + back, a + back],
                [b, b + back, c + back, c]))
        self.body(self.side, lit=0.74, puff=0.3)
        self.body(self.lid, lit=1.16, puff=0.3)
        if bright(self.first) > 200: self.body(self.side, lit=0.8, puff=0.3)
        self.body(self.front, puff=0.7)
        return x, y, f

    def hole(self, share, colour):
        """An opening in the cube's top face."""
        middle = self.lid.mean(0)
        self.flat(middle + (self.lid - middle) * share, colour, edge=self.ink)

    def top(self, u, v):
        """A point on the cube's top face: u from left to right, v from front to back."""
        a, b, _, d = self.lid
        return a + (b - a) * u + (d - a) * v


# --- accessories ------------------------------------------------------------------------------------------------------

RAINBOW = ((222, 40, 44), (248, 146, 30), (250, 222, 60), (62, 168, 76), (50, 110, 220), (136, 60, 178))
YELLOW = (250, 214, 40)


def shirt(p, *torso, collar=None):
    """A yellow shirt in the shape of the torso, with a white collar and buttons at `collar`."""
    if p.worn != "yellow shirt": return
    p.body(*torso, colour=YELLOW)
    if collar:
        x, y, w = collar
        for s in (-1, 1):
            p.flat([(x, y), (x + s * w, y + 0.02), (x + s * w * 0.75, y - 0.22), (x, y - 0.1)], WHITE, edge=ink(YELLOW))
        for k in (0.24, 0.42): p.flat(oval(x, y - k, 0.035), ink(YELLOW))


def scarf(p, x, y, w, h=0.11, drop=0.5):
    """A rainbow scarf around a neck of half width w, one end hanging down."""
    if p.worn != "rainbow scarf": return
    end = x + 0.45 * w
    p.body(pad(end - 0.13, y - drop, end + 0.13, y, power=8), colour=RAINBOW[0])
    for k, c in enumerate(RAINBOW):
        a, b = y - drop * k / 6, y - drop * (k + 1) / 6
        p.flat([(end - 0.13, a), (end + 0.13, a), (end + 0.13, b), (end - 0.13, b)], c)
    u = np.linspace(-1, 1, 13)
    low = np.stack([x + w * u, y - h + 0.12 * u ** 2], 1)
    high = np.stack([x + w * u, y + h + 0.10 * u ** 2], 1)
    p.body(np.concatenate([low, high[::-1]]), colour=RAINBOW[4])
    for k in range(12):
        p.flat([low[k], low[k + 1], high[k + 1], high[k]], RAINBOW[k % 6])


def headwear(p, x, y, w, eyes=None, r=0.2):
    """Hats rest on a head of half width w at height y; glasses sit on the two eyes ((x, y), (x, y))."""
    if p.worn == "red hat":
        p.body(oval(x, y, 1.36 * w, 0.145), colour=(206, 26, 34))
        p.body(smooth([(x - 0.78 * w, y), (x - 0.72 * w, y + 0.32), (x - 0.3 * w, y + 0.5), (x + 0.3 * w, y + 0.5),
                       (x + 0.72 * w, y + 0.32), (x + 0.78 * w, y), (x, y - 0.08)]), colour=(222, 36, 42))
        p.flat(hoop(x, y + 0.13, 0.77 * w, 0.09, 0.1), (120, 10, 24))
    elif p.worn == "santa hat":
        p.body(smooth([(x - 0.86 * w, y), (x - 0.55 * w, y + 0.36), (x + 0.1 * w, y + 0.66), (x + 0.75 * w, y + 0.52),
                       (x + 1.12 * w, y + 0.22), (x + 0.74 * w, y + 0.3), (x + 0.86 * w, y),
                       (x, y - 0.06)]), colour=(214, 28, 38))
        p.body(pad(x - 1.04 * w, y - 0.13, x + 1.04 * w, y + 0.1, power=3), colour=WHITE)
        p.body(oval(x + 1.14 * w, y + 0.2, 0.15), colour=WHITE)
    elif p.worn == "black top hat":
        black = (40, 38, 46)
        p.body(oval(x, y, 1.2 * w, 0.13), colour=black, edge=(128, 128, 142))
        p.body(smooth([(x - 0.7 * w, y + 0.02), (x - 0.74 * w, y + 0.56), (x, y + 0.6), (x + 0.74 * w, y + 0.56),
                       (x + 0.7 * w, y + 0.02), (x, y - 0.07)], steps=4), colour=black, edge=(128, 128, 142))
        p.flat([(x - 0.69 * w, y + 0.2), (x + 0.69 * w, y + 0.2), (x + 0.68 * w, y + 0.06), (x, y),
                (x - 0.68 * w, y + 0.06)], (150, 30, 50))
        if eyes:
            ex, ey = eyes[1]
            p.line(oval(ex, ey, r), GOLD, 0.05, closed=True)
            p.line([(ex + 0.8 * r, ey - 0.6 * r), (ex + r, ey - 2.2 * r)], GOLD, 0.035)
    elif p.worn == "pink glasses" and eyes:
        (ax, ay), (bx, by) = eyes
        r = min(r, 0.5 * (bx - ax) - 0.02)
        arms = [[(ax - r, ay), (x - 0.98 * w, ay + 0.05)], [(bx + r, by), (x + 0.98 * w, by + 0.05)],
                [(ax + r, ay + 0.03), (bx - r, by + 0.03)]]
        for colour, wide in ((DARK, 0.15), (PINK, 0.095)):
            for arm in arms: p.line(arm, colour, wide)
            for ex, ey in eyes: p.line(oval(ex, ey, r, power=2.6), colour, wide, closed=True)


def cube_wear(p, x, y, w, eyes, r):
    """All of it on a cube whose front is centred on (x, y)."""
    if p.worn == "yellow shirt":
        a, b = np.array(p.side[2]), np.array(p.side[3])
        p.body([b, a, a + (0, 0.45), b + (0, 0.45)], colour=YELLOW, lit=0.85, puff=0.3)
        shirt(p, [(x - w, y - w), (x + w, y - w), (x + w, y - w + 0.45), (x - w, y - w + 0.45)],
              collar=(x, y - w + 0.45, 0.25))
    scarf(p, x, y - 0.72 * w, w + 0.05, drop=0.24)
    headwear(p, *p.top(0.5, 0.45), 0.85 * w, eyes, r)


# --- the live ---------------------------------------------------------------------------------------------------------

def cat(p, t):
    # part: ear size; kind: pointed, wide, folded or tufted ears; eyes: size and colour; detail: muzzle and
    # whiskers; trim: none or a collar; stance: sits low or tall; marking: none, mask, socks or belly; width,
    # height: head and body
    if p.cube:
        x, y, w = p.box()
        h, mid = w, y + 0.08
        tip = p.side[1] + (0, -0.5)
        p.body(stroke([tip, tip + (0.3, 0.02), tip + (0.2, 0.42)], 0.09, 0.07))
    else:
        w, h, x, y = 0.5 + 0.13 * t.width, 0.4 + 0.08 * t.height, 0.08 * p.turn, 0.06 + 0.2 * t.stance
        b, mid = 0.36 + 0.16 * t.width, y
        tail = [[(b - 0.1, -0.8), (b + 0.3, -0.75), (b + 0.36, -0.35), (b + 0.14, -0.1)],
                [(b - 0.1, -0.85), (b + 0.3, -0.85), (b + 0.42, -0.6)]][int(t.part * 6) % 2]
        p.body(stroke(tail, 0.1, 0.09 + 0.06 * t.detail))
        torso = smooth([(-b * 0.62, y - 0.15), (-b, -0.6), (-b * 0.95, -0.98), (b * 0.95, -0.98), (b, -0.6),
                        (b * 0.62, y - 0.15)])
        p.body(torso)
        if t.marking > 0.75: p.flat(oval(0, -0.6, b * 0.5, 0.3), p.pale)
        shirt(p, smooth([(-b * 0.66, y - 0.1), (-b * 1.04, -0.5), (-b, -0.78), (b, -0.78), (b * 1.04, -0.5),
                         (b * 0.66, y - 0.1)]),
              collar=(0.6 * x, y - h + 0.02, 0.26))
        for s in (-1, 1):
            p.body(oval(s * b * 0.42, -0.86, 0.17, 0.14))
            if 0.5 < t.marking <= 0.75: p.flat(oval(s * b * 0.42, -0.88, 0.16, 0.11), p.mark, edge=ink(p.mark))
    size, top, kind = 0.22 + 0.14 * t.part, y + h, int(t.kind * 4)
    ears = []
    for s in (-1, 1):
        ex, ey = x + s * w * (0.78 if kind == 1 else 0.6), top - (0.16 if not p.cube else -0.08)
        if kind == 2:
            outer = smooth([(ex - s * 0.2, ey), (ex - s * 0.02, ey + 0.7 * size), (ex + s * 0.2, ey + 0.1),
                            (ex + s * 0.06, ey - 0.1)])
        elif kind == 1:
            outer = smooth([(ex - s * 0.22, ey + 0.02), (ex - s * 0.02, ey + size), (ex + s * 0.12, ey + size),
                            (ex + s * 0.2, ey - 0.18)])
        else: outer = np.array([(ex - s * 0.26, ey), (ex + s * 0.1, ey + size * 1.25), (ex + s * 0.26, ey - 0.2)])
        ears.append((outer, (ex, ey), s))
    for outer, (ex, ey), s in ears:
        p.body(outer)
        middle = outer.mean(0)
        if kind != 2: p.flat(middle + (outer - middle) * 0.55 + (0, -0.02), mix(BLUSH, p.first, 0.2))
        if kind == 3: p.line([(ex + s * 0.1, ey + size * 1.2), (ex + s * 0.16, ey + size * 1.25 + 0.14)], p.ink, 0.07)
    if not p.cube:
        p.body(smooth([(x - w, y), (x - w * 0.82, y + h * 0.68), (x, y + h), (x + w * 0.82, y + h * 0.68), (x + w, y),
                       (x + w * 0.6, y - h * 0.84), (x, y - h), (x - w * 0.6, y - h * 0.84)]))
    f, r = x + 0.2 * p.turn * w, 0.105 + 0.05 * t.eyes
    gap, ey = w * 0.46, mid + 0.04
    if 0.25 < t.marking <= 0.5:
        for s in (-1, 1): p.flat(oval(f + s * gap, ey + 0.02, r * 1.75, r * 1.6), p.mark)
    for s in (-1, 1): p.eye(f + s * gap, ey, r, pick(t.eyes * 4 % 1, EYES), 0.6, 1.12)
    m = 0.13 + 0.06 * t.detail
    for s in (-1, 1): p.flat(oval(f + s * m * 0.8, ey - 0.27, m, m * 0.8), p.pale)
    for s in (-1, 1):
        for k in (-0.06, 0.05):
            p.line([(f + s * 0.2, ey - 0.25 + k), (f + s * (0.36 + 0.26 * t.detail), ey - 0.25 + 2.4 * k)], p.ink, 0.03)
    p.flat([(f - 0.075, ey - 0.15), (f + 0.075, ey - 0.15), (f, ey - 0.24)], (226, 96, 116), edge=DARK)
    p.line(smooth([(f - 0.12, ey - 0.31), (f - 0.05, ey - 0.34), (f, ey - 0.24), (f + 0.05, ey - 0.34),
                   (f + 0.12, ey - 0.31)], False), DARK, 0.035)
    if t.trim > 0.4 and not p.cube and p.worn not in ("rainbow scarf", "yellow shirt"):
        c = pick((t.trim - 0.4) / 0.6, ((206, 44, 50), (52, 110, 210), (70, 160, 90)))
        p.body(stroke([(-0.55 * w + x, y - h * 0.93), (x, y - h * 1.1), (x + 0.55 * w, y - h * 0.93)], 0.05), colour=c)
        p.flat(oval(x, y - h * 1.16, 0.085), GOLD, edge=ink(GOLD))
    eyes = [(f - gap, ey), (f + gap, ey)]
    if p.cube: return cube_wear(p, x, y, w, eyes, r + 0.08)
    scarf(p, x, y - h * 0.98, 0.7 * w, drop=0.42)
    headwear(p, x, top - 0.02, 0.66 * w, eyes, r + 0.08)


def dog(p, t):
    # part: ear length; kind: hanging, wide, half-folded or one-up ears; eyes: size and colour; detail: snout;
    # trim: collar; stance: leg length; marking: none, eye patch, socks or blaze; width: body length; height: head
    legs = 0.2 + 0.22 * t.stance
    if p.cube:
        x, y, w = p.box()
        h, top, mid = w, y + w, y + 0.12
        p.body(stroke([p.side[1] + (0, -0.6), p.side[1] + (0.2, -0.5), p.side[1] + (0.3, -0.1)], 0.09, 0.05))
    else:
        w, h, x = 0.42 + 0.1 * t.width, 0.44 + 0.06 * t.height, -0.22 + 0.08 * p.turn
        y = -0.1 + legs
        top, mid, back = y + h, y, 0.52 + 0.22 * t.width
        p.body(stroke([(back - 0.1, legs - 0.6), (back + 0.16, legs - 0.42), (back + 0.2, legs - 0.02)], 0.1, 0.055))
        for q in (-0.18, back - 0.28): p.body(pad(q, -0.93, q + 0.24, -0.4), lit=0.8)
        p.body(pad(-0.5, legs - 1.05, back, legs - 0.33, power=2.8))
        for q in (-0.47, back - 0.12):
            p.body(stroke([(q + 0.03, legs - 0.75), (q + 0.02, -0.88)], 0.14), oval(q - 0.02, -0.9, 0.18, 0.1))
            if 0.5 < t.marking <= 0.75: p.flat(oval(q - 0.02, -0.9, 0.17, 0.11), p.mark, edge=ink(p.mark))
        shirt(p, pad(-0.53, legs - 1.0, back - 0.12, legs - 0.3, power=2.8),
              stroke([(-0.44, legs - 0.8), (-0.45, -0.72)], 0.17),
              collar=(x, y - h + 0.02, 0.28))
        if t.trim > 0.4 and p.worn not in ("rainbow scarf", "yellow shirt"):
            c = pick((t.trim - 0.4) / 0.6, ((206, 44, 50), (52, 110, 210), (70, 160, 90)))
            p.body(stroke([(x - 0.7 * w, y - h * 0.8), (x, y - h * 1.08), (x + 0.7 * w, y - h * 0.8)], 0.075), colour=c)
    kind, long = int(t.kind * 4), 0.34 + 0.3 * t.part
    if not p.cube: p.body(oval(x, y, w, h, power=2.3))
    f, r = x + 0.2 * p.turn * w, 0.085 + 0.045 * t.eyes
    gap, ey = w * 0.42, mid + 0.14
    eyes = [(f - gap, ey), (f + gap, ey)]
    if t.marking > 0.75: p.flat(oval(f, ey + 0.08, 0.1, 0.3), p.pale)
    if 0.25 < t.marking <= 0.5: p.flat(oval(f + gap, ey + 0.02, r * 2, r * 2.2), p.mark)
    for s in (-1, 1):
        ex, ey0 = x + s * w * 0.86, top - 0.2 * h
        if kind == 3 and s > 0 or kind == 2:
            ear = [(ex - s * 0.28, ey0 + 0.06), (ex + s * 0.02, ey0 + 0.42), (ex + s * 0.2, ey0 + 0.34 - long * 0.5),
                   (ex + s * 0.1, ey0 - 0.1)]
            p.body(smooth(ear), colour=None, lit=0.86)
        else:
            out = 0.26 if kind == 1 else 0.1
            ear = stroke([(ex - s * 0.12, ey0 + 0.08), (ex + s * out, ey0 - 0.06), (ex + s * (out + 0.02), ey0 - long)],
                         0.1, 0.17)
            second = t.marking > 0.7 and p.part
            p.body(ear, colour=p.part if second else None, lit=1.0 if second else 0.78)
    for ex, ey in eyes: p.eye(ex, ey, r, mix(pick(t.eyes * 4 % 1, EYES), WHITE, 0.25), 0.7)
    m, sy = 0.2 + 0.08 * t.detail, mid - 0.2
    p.flat(oval(f, sy - 0.2, 0.09, 0.15), (236, 96, 116), edge=DARK)
    p.body(oval(f - 0.5 * m, sy - 0.02, 0.62 * m, 0.75 * m), oval(f + 0.5 * m, sy - 0.02, 0.62 * m, 0.75 * m),
           colour=p.pale, edge=p.ink)
    p.line([(f, sy + 0.06), (f, sy - 0.1)], DARK, 0.035)
    p.flat(oval(f, sy + 0.12, 0.13, 0.095, power=2.4), DARK)
    p.flat(oval(f - 0.04, sy + 0.15, 0.04, 0.022), (200, 200, 206))
    if p.cube: return cube_wear(p, x, y, w, eyes, r + 0.08)
    scarf(p, x + 0.02, y - h * 0.96, 0.8 * w, drop=0.42)
    headwear(p, x, top - 0.03, 0.8 * w, eyes, r + 0.09)


def face(p, t):
    # skin: natural tone; hair cut: bald, short, bob, long, curls, bun, spikes; brows: thickness and slant; mouth:
    # width and smile, or open; jaw: round to square; beard: none (below 0.5), moustache, goatee, full; extras:
    # none, freckles, glasses, earrings
    hair, cut, dark = p.second, int(t.hair_cut * 7), ink(p.first)
    hair_ink = ink(hair)
    w, h, x, y = 0.46 + 0.14 * t.width, 0.62, 0.05 * p.turn, 0.12
    if p.cube:
        x, y, w = p.box()
        h, y0 = w, y
        p.body(p.lid if cut else [p.top(0, 0)] * 3, colour=hair if cut else p.first, puff=0.3)
        if cut in (2, 3):
            p.body([p.side[0], p.side[1], p.side[2] + (0, 0.3), p.side[3] + (0, 0.3)], colour=hair, lit=0.8, puff=0.3)
        if cut == 5: p.body(oval(*(p.top(0.5, 0.5) + (0, 0.2)), 0.24), colour=hair)
        if cut:
            p.body([p.front[0], p.front[1], p.front[1] - (0, 0.2), (x, y + h - 0.28), p.front[0] - (0, 0.2)],
                   colour=hair)
    else:
        if cut == 2: p.body(pad(x - w - 0.14, -0.42, x + w + 0.14, y + h + 0.12, power=3), colour=hair)
        if cut == 3: p.body(pad(x - w - 0.13, -0.92, x + w + 0.13, y + h + 0.12, power=3), colour=hair)
        if cut == 5: p.body(oval(x, y + h + 0.14, 0.24), colour=hair)
        if cut == 4:
            p.body(*[oval(x + (w + 0.06) * math.cos(a), y + 0.12 + (h + 0.02) * math.sin(a), 0.24)
                     for a in np.linspace(-0.45, 3.6, 8)], colour=hair)
        if cut == 6: p.body(star(x, y + 0.2, h + 0.28, 11, 0.7, 0.28), colour=hair)
        top = pick(t.jaw * 3 % 1, ((70, 128, 138), (96, 104, 122), (226, 226, 220), (72, 84, 140)))
        p.body(pad(x - 0.17, -0.9, x + 0.17, -0.3), lit=0.86)
        torso = smooth([(-0.8, -0.98), (-0.74, -0.78), (-0.3, -0.64), (0, -0.74), (0.3, -0.64), (0.74, -0.78),
                        (0.8, -0.98), (0, -1.0)])
        p.body(torso, colour=YELLOW if p.worn == "yellow shirt" else top)
        shirt(p, torso, collar=(0, -0.7, 0.3))
        for s in (-1, 1): p.body(oval(x + s * w, y - 0.04, 0.11, 0.15))
        square = 0.68 + 0.24 * t.jaw
        p.body(smooth([(x - w, y + 0.1), (x - w * 0.8, y + h * 0.78), (x, y + h), (x + w * 0.8, y + h * 0.78),
                       (x + w, y + 0.1), (x + w * square, y - h * 0.62), (x + 0.4 * w, y - h), (x - 0.4 * w, y - h),
                       (x - w * square, y - h * 0.62)]))
        if cut in (1, 6):
            cap = [(-1.03, 0.16), (-1.0, 0.62), (-0.5, 1.06), (0.2, 1.12), (0.9, 0.8), (1.03, 0.16), (0.8, 0.5),
                   (0.1, 0.62), (-0.7, 0.52)]
        elif cut in (2, 5):
            cap = [(-1.04, 0.0), (-1.0, 0.7), (0, 1.12), (1.0, 0.7), (1.04, 0.0), (0.84, 0.4), (0, 0.46), (-0.84, 0.4)]
        else:
            cap = [(-1.06, -0.2), (-1.0, 0.7), (0, 1.14), (1.0, 0.7), (1.06, -0.2), (0.9, 0.36), (0.2, 0.76),
                   (-0.5, 0.64), (-0.9, 0.3)]
        if cut: p.body(smooth([(x + a * w, y + b * h) for a, b in cap]), colour=hair)
        y0 = y
    f, r, gap = x + 0.22 * p.turn * w, 0.095 + 0.055 * t.eye_size, w * (0.36 + 0.16 * t.eye_gap)
    iris, ey = pick(t.eye_colour, ((76, 150, 84), (70, 140, 220), (122, 76, 42), (120, 128, 140))), y0 + 0.06
    eyes = [(f - gap, ey), (f + gap, ey)]
    if t.beard > 0.84:
        p.body(smooth([(x - w * 0.94, y0 - 0.16), (f - 0.2, y0 - 0.3), (f + 0.2, y0 - 0.3), (x + w * 0.94, y0 - 0.16),
                       (x + w * 0.72, y0 - h * 0.9), (x, y0 - h * (1.12 - 0.1 * p.cube)),
                       (x - w * 0.72, y0 - h * 0.9)]),
               colour=hair, edge=hair_ink)
    for (ex, ey), s in zip(eyes, (-1, 1)):
        p.flat(oval(ex, ey, r * 1.25, r), WHITE, edge=DARK)
        p.flat(oval(ex + 0.25 * r * p.turn, ey, r * 0.78), iris)
        p.flat(oval(ex + 0.25 * r * p.turn, ey, r * 0.45), DARK)
        p.flat(oval(ex - 0.25 * r, ey + 0.35 * r, r * 0.3), WHITE)
        slant, by = 0.22 * (t.brows * 3 % 1 - 0.5), ey + r + 0.08
        p.line([(ex - 0.14, by - s * slant), (ex + 0.14, by + s * slant)], hair_ink if bright(hair) > 60 else DARK,
               0.045 + 0.07 * t.brows)
    if 0.33 < t.extras <= 0.55:
        for s in (-1, 1):
            for dx, dy in ((0, 0), (0.09, 0.04), (0.05, -0.07)):
                p.flat(oval(f + s * (gap + dx - 0.04), ey - 0.22 + dy, 0.026), mix(p.first, (150, 60, 20), 0.6))
    n = 0.07 + 0.08 * t.nose
    p.body(oval(f + 0.05 * p.turn, y0 - 0.14, n, 0.6 * n + 0.05), colour=mix(p.first, (200, 60, 40), 0.12), lit=1.05,
           edge=mix(p.first, dark, 0.6))
    m, my, smile = 0.14 + 0.14 * t.mouth, y0 - 0.36, 0.1 * (t.mouth * 4 % 1) - 0.02
    if t.mouth > 0.6:
        p.flat(smooth([(f - m, my + 0.04), (f, my + 0.01), (f + m, my + 0.04), (f, my - 0.17)]), (120, 24, 36),
               edge=dark)
    else:
        p.line(smooth([(f - m, my + smile), (f, my - smile), (f + m, my + smile)], False), (150, 40, 48)
               if bright(p.first) > 90 else (226, 130, 130), 0.065)
    if t.mouth > 0.6:
        p.flat([(f - m * 0.8, my + 0.03), (f + m * 0.8, my + 0.03), (f + m * 0.5, my - 0.03),
                (f - m * 0.5, my - 0.03)], WHITE)
    if 0.5 < t.beard <= 0.67 or t.beard > 0.84:
        p.body(smooth([(f - 0.28, my + 0.02), (f - 0.1, my + 0.14), (f, my + 0.1), (f + 0.1, my + 0.14),
                       (f + 0.28, my + 0.02), (f, my + 0.06)]), colour=hair)
    elif 0.67 < t.beard <= 0.84: p.body(oval(f, y0 - h + 0.02, 0.15, 0.14), colour=hair)
    if 0.55 < t.extras <= 0.8:
        for ex, ey in eyes: p.line(oval(ex, ey, min(r + 0.09, gap - 0.02)), (30, 30, 40), 0.06, closed=True)
        p.line([(eyes[0][0] + r + 0.07, ey), (eyes[1][0] - r - 0.07, ey)], (30, 30, 40), 0.06)
    elif t.extras > 0.8:
        for s in (-1, 1):
            p.flat(oval(x + s * (w + (0.02 if not p.cube else -0.06)), y0 - 0.28, 0.075), GOLD, edge=ink(GOLD))
    if p.cube: return cube_wear(p, x, y, w, eyes, r + 0.1)
    scarf(p, x * 0.5, -0.66, 0.52, h=0.14, drop=0.34)
    headwear(p, x, y + h * 0.78, w * 0.98, eyes, r + 0.12)


def bear(p, t):
    # part: ear size; kind: ears round, high, wide or flat; eyes: size; detail: muzzle; trim: bow tie, and its
    # colour; stance: arms down to spread; marking: belly none, pale, heart or second; width, height: body and
    # head
    x, f = 0.06 * p.turn, 0.1 * p.turn
    w, h, y = 0.46 + 0.12 * t.width, 0.4 + 0.07 * t.height, 0.3
    b = 0.42 + 0.14 * t.width
    if p.cube:
        x, y, w = p.box()
        h, f, b = w, x + 0.08 * p.turn, 0.5
    size, kind = 0.15 + 0.09 * t.part, int(t.kind * 4)
    a = (0.8, 1.05, 0.6, 0.8)[kind]
    ears = [(x + s * math.cos(a) * (w + 0.05), y + math.sin(a) * (h + 0.05)) if not p.cube else p.top(0.5 + 0.4 * s,
            0.4) + (0, 0.5 * size) for s in (-1, 1)]
    for ex, ey in ears:
        p.body(oval(ex, ey, size, size * (0.72 if kind == 3 else 1)))
        p.flat(oval(ex, ey - 0.02, size * 0.55, size * (0.38 if kind == 3 else 0.55)), p.mark)
    if not p.cube:
        torso = oval(0, -0.46, b, 0.46)
        p.body(torso)
        if t.marking > 0.3: p.flat(oval(f * 0.5, -0.48, b * 0.62, 0.3), p.pale if t.marking < 0.75 else p.mark)
        shirt(p, smooth([(-b * 0.8, -0.05), (-b * 1.06, -0.45), (-b * 0.9, -0.8), (b * 0.9, -0.8), (b * 1.06, -0.45),
                         (b * 0.8, -0.05)]),
              collar=(0.5 * x, y - h + 0.02, 0.26))
        for s in (-1, 1):
            arm = [(s * b * 0.72, -0.2), (s * (b + 0.12), -0.38 + 0.2 * t.stance), (s * (b + 0.14 + 0.1 * t.stance),
                    -0.62 + 0.62 * t.stance)]
            p.body(stroke(arm, 0.14, 0.13))
            if p.worn == "yellow shirt": p.body(stroke(arm[:2], 0.16, 0.16), colour=YELLOW)
    for s in (-1, 1):
        lx, ly = s * b * 0.86 + (x if p.cube else 0), -0.82
        p.body(oval(lx, ly, 0.22, 0.2))
        p.flat(oval(lx, ly, 0.13, 0.12), p.pale if t.marking < 0.75 else p.mark)
    if not p.cube:
        p.body(oval(x, y, w, h, power=2.2))
        if t.trim > 0.45 and p.worn not in ("rainbow scarf", "yellow shirt"):
            c = pick((t.trim - 0.45) / 0.55, ((206, 44, 50), (52, 110, 210), (70, 160, 90)))
            for s in (-1, 1):
                p.body(smooth([(0, y - h - 0.03), (s * 0.22, y - h + 0.1), (s * 0.22, y - h - 0.16)]), colour=c)
            p.flat(oval(0, y - h - 0.03, 0.06), mix(c, WHITE, 0.3), edge=ink(c))
    if 0.5 < t.marking < 0.75 and not p.cube and p.worn != "yellow shirt":
        p.flat(heart(f, -0.46, 0.2), (222, 60, 80))
    f = x + 0.2 * p.turn * w
    m, my, r = 0.2 + 0.06 * t.detail, y - 0.15, 0.075 + 0.05 * t.eyes
    p.body(oval(f, my, m, m * 0.8), colour=p.pale, edge=p.ink)
    eyes = [(f - 0.42 * w, y + 0.1), (f + 0.42 * w, y + 0.1)]
    for ex, ey in eyes: p.eye(ex, ey, r, mix(p.pale, WHITE, 0.5) if bright(p.first) < 100 else (80, 48, 30), 0.8)
    p.flat(oval(f, my + m * 0.36, 0.1, 0.075), DARK)
    p.line(smooth([(f - 0.12, my - 0.06), (f - 0.06, my - 0.1), (f, my - 0.02), (f + 0.06, my - 0.1),
                   (f + 0.12, my - 0.06)], False), DARK, 0.035)
    p.line([(f, my), (f, my + m * 0.3)], DARK, 0.035)
    if p.cube: return cube_wear(p, x, y, w, eyes, r + 0.1)
    scarf(p, x, y - h * 0.98, 0.72 * w, drop=0.42)
    headwear(p, x, y + h - 0.02, 0.8 * w, eyes, r + 0.1)


def duck(p, t):
    # part: bill length; kind: tuft none, curl, mohawk or crest; eyes: size; detail: wing size; trim: bill colour;
    # stance: head forward to back; marking: none, cheek, neck ring or wing colour; width: length; height: neck
    clear = {"orange": (252, 222, 80), "yellow": (236, 84, 30), "red": (250, 206, 52)}  # a bill that can be told apart
    bill = clear.get(p.who.colour) or pick(t.trim, ((248, 146, 28), (252, 196, 40), (236, 96, 40)))
    w, r = 0.7 + 0.14 * t.width, 0.36 + 0.08 * t.height
    if p.cube:
        x, y, r = p.box()
        hx, hy, f = x, y + 0.15, x + 0.12 * p.turn
        tail = p.side[1]
        p.body(smooth([tail + (-0.05, -0.35), tail + (0.3, -0.12), tail + (0.22, -0.5), tail + (-0.05, -0.62)]))
        wing = oval(*(np.mean(p.side, 0) - (0, 0.12)), 0.14, 0.22)
    else:
        hx, hy = -0.3 + 0.24 * t.stance + 0.06 * p.turn, 0.26 + 0.16 * t.height
        torso = smooth([(-w * 0.98, -0.42), (-w * 0.7, -0.9), (0, -0.99), (w * 0.72, -0.88), (w, -0.4),
                        (w * 1.16, 0.02), (w * 0.7, -0.16), (0.1, -0.16), (-w * 0.62, -0.08)])
        p.body(torso)
        shirt(p, smooth([(-w * 0.98, -0.44), (-w * 0.7, -0.86), (0, -0.96), (w * 0.5, -0.9), (w * 0.6, -0.5),
                         (w * 0.5, -0.16), (0.1, -0.14), (-w * 0.7, -0.1)]),
              collar=(hx - 0.06, min(hy - r + 0.02, -0.08), 0.26))
        f = hx - 0.1 + 0.1 * p.turn
        wing = smooth([(0.28 - 0.3 * t.detail, -0.42), (0.34, -0.3), (w * 0.66, -0.32), (w * 0.82, -0.18),
                       (w * 0.74, -0.56), (0.4, -0.74), (0.12 - 0.1 * t.detail, -0.62)])
    p.body(wing, colour=p.part if t.marking > 0.6 else None, lit=0.88)
    kind, crown = int(t.kind * 4), (hx, hy + r) if not p.cube else p.top(0.5, 0.5)
    crown = np.array(crown)
    if kind == 1: p.body(stroke([crown - (0, 0.06), crown + (0.0, 0.14), crown + (0.16, 0.18)], 0.06, 0.04))
    if kind == 2:
        p.body(*[stroke([crown - (0, 0.1), crown + (0.1 * k, 0.18 - 0.03 * abs(k))], 0.07, 0.03) for k in (-1, 0, 1)],
               colour=p.second)
    if kind == 3:
        p.body(smooth([crown + (-0.1, -0.08), crown + (0.1, 0.1), crown + (0.36, 0.06), crown + (0.22, -0.16)]))
    if not p.cube:
        p.body(oval(hx, hy, r, r * 0.98))
        if 0.4 < t.marking <= 0.6 and p.worn not in ("rainbow scarf", "yellow shirt"):
            p.body(stroke([(hx - r * 0.66, hy - r * 0.78), (hx, hy - r * 1.06), (hx + r * 0.72, hy - r * 0.74)], 0.06),
                   colour=p.second)
    long, by, e = 0.24 + 0.16 * t.part, hy - 0.12, 0.095 + 0.045 * t.eyes
    gap = 0.34 * r + 0.06
    eyes = [(f - gap, hy + 0.14), (f + gap, hy + 0.14)]
    if 0.2 < t.marking <= 0.4:
        for s in (-1, 1): p.flat(oval(f + s * (gap + 0.1), by, 0.11, 0.08), BLUSH)
    for ex, ey in eyes: p.eye(ex, ey, e, WHITE, 0.68, 1.15)
    f -= 0.06 - 0.1 * p.turn
    p.body(smooth([(f - long, by - 0.06), (f, by - 0.16), (f + long, by - 0.06), (f, by + 0.02)]),
           colour=mix(bill, (120, 30, 10), 0.3))
    p.body(smooth([(f - long, by - 0.02), (f - long * 0.6, by + 0.08), (f, by + 0.13), (f + long * 0.6, by + 0.08),
                   (f + long, by - 0.02), (f, by - 0.08)]), colour=bill)
    if p.cube: return cube_wear(p, x, y, r, eyes, e + 0.08)
    scarf(p, hx, hy - r * 0.98, 0.86 * r, drop=0.36)
    headwear(p, hx, hy + r - 0.01, 0.86 * r, eyes, e + 0.08)


def robot(p, t):
    # part: antenna length; kind: one ball, two, dish, bulb; eyes: size and glow; detail: chest gauge, buttons or
    # heart; trim: mouth grille, smile or slot; stance: legs, tracks or wheel; marking: ear bolts, hands; width,
    # height: head and torso
    x, steel = 0.06 * p.turn, STEEL if p.who.colour not in ("grey", "white") else (110, 116, 128)
    w, h, b = 0.4 + 0.16 * t.width, 0.3 + 0.07 * t.height, 0.36 + 0.14 * t.width
    y = 0.3
    if p.cube:
        x, y, w = p.box()
        h, mid = w, y + 0.1
    else:
        mid, low, kind = y, -0.62, int(t.stance * 3)
        if kind == 0:
            for s in (-1, 1):
                p.body(pad(s * 0.22 - 0.1, -0.9, s * 0.22 + 0.1, -0.55), colour=steel)
                p.body(pad(s * 0.24 - 0.19, -1.0, s * 0.24 + 0.19, -0.84), colour=p.part)
        elif kind == 1:
            p.body(pad(-b - 0.1, -1.0, b + 0.1, -0.66, power=3), colour=(74, 76, 86))
            for k in (-0.8, -0.27, 0.27, 0.8): p.flat(oval(k * b, -0.83, 0.1), steel)
        else:
            p.body(pad(-0.1, -0.8, 0.1, -0.5), colour=steel)
            p.body(oval(0, -0.8, 0.22, 0.2), colour=(74, 76, 86))
            p.flat(oval(0, -0.8, 0.09), p.second)
        for s in (-1, 1):
            arm = [(s * b, -0.16), (s * (b + 0.2), -0.26), (s * (b + 0.2), -0.5)]
            p.body(stroke(arm, 0.09))
            p.body(oval(s * (b + 0.2), -0.56, 0.13), colour=p.part if t.marking > 0.5 else steel)
            if p.worn == "yellow shirt": p.body(stroke(arm[:2], 0.13), colour=YELLOW)
        p.body(pad(-0.14, -0.2, 0.14, 0.1), colour=steel)
        p.body(pad(-b, -0.66, b, -0.04, power=7))
        px = 0.1 * p.turn
        p.flat(pad(px - 0.25, -0.52, px + 0.25, -0.18), mix(steel, WHITE, 0.3), edge=p.ink)
        chest = pick(t.detail, "gauge buttons heart".split())
        if chest == "gauge":
            p.flat(oval(px, -0.35, 0.14), WHITE, edge=DARK)
            p.line([(px, -0.38), (px + 0.08, -0.27)], (210, 30, 30), 0.05)
        elif chest == "buttons":
            for k, c in ((-0.17, (220, 50, 50)), (0, (250, 200, 50)), (0.17, (60, 170, 80))):
                p.flat(oval(px + k, -0.35, 0.075), c, edge=DARK)
        else: p.flat(heart(px, -0.36, 0.15), (222, 60, 80))
        shirt(p, pad(-b - 0.03, -0.62, b + 0.03, -0.02, power=7), collar=(0, -0.05, 0.24))
    crown = np.array((x, y + h)) if not p.cube else p.top(0.5, 0.5)
    kind, long = int(t.kind * 4), 0.12 + 0.16 * t.part
    for k in ((-0.5, 0.5) if kind == 1 else (0,)):
        tip = crown + (k * w * 1.3, long)
        p.line([crown + (k * w, -0.05), tip], DARK, 0.11)
        p.line([crown + (k * w, -0.05), tip], steel, 0.06)
        if kind == 2:
            p.body(smooth([tip + (-0.2, 0.06), tip + (0, -0.04), tip + (0.2, 0.06), tip + (0, 0.02)]), colour=p.second)
        else: p.body(oval(*tip, 0.09 if kind != 3 else 0.13), colour=p.second if kind != 3 else (255, 226, 90))
    for s in (-1, 1):
        if not p.cube:
            p.body(pad(x + s * (w + 0.02) - 0.1, y - 0.14, x + s * (w + 0.02) + 0.1, y + 0.12), colour=p.part
                   if t.marking % 0.5 > 0.25 else steel)
    if not p.cube: p.body(pad(x - w, y - h, x + w, y + h, power=6))
    f = x + 0.18 * p.turn * w
    p.flat(pad(f - w * 0.76, mid - 0.06, f + w * 0.76, mid + h * 0.3 + 0.1, power=4), (40, 44, 58), edge=p.ink)
    glow, r = pick(t.eyes * 3 % 1, ((90, 230, 250), (255, 226, 90), (130, 250, 130))), 0.09 + 0.045 * t.eyes
    eyes = [(f - 0.4 * w, mid + 0.1), (f + 0.4 * w, mid + 0.1)]
    for ex, ey in eyes:
        p.flat(oval(ex, ey, r), glow)
        p.flat(oval(ex - 0.03, ey + 0.04, r * 0.4), WHITE)
    my, mouth = mid - 0.2, int(t.trim * 3)
    if mouth == 0:
        p.flat(pad(f - 0.22, my - 0.05, f + 0.22, my + 0.05), WHITE, edge=DARK)
        for k in (-0.11, 0, 0.11): p.line([(f + k, my - 0.05), (f + k, my + 0.05)], DARK, 0.035)
    elif mouth == 1: p.line(smooth([(f - 0.2, my + 0.05), (f, my - 0.05), (f + 0.2, my + 0.05)], False), p.ink, 0.07)
    else: p.flat(pad(f - 0.16, my - 0.035, f + 0.16, my + 0.035), p.ink)
    if p.cube:
        p.flat(oval(*np.mean(p.side, 0), 0.1, 0.14), steel, edge=p.ink)
        return cube_wear(p, x, y, w, eyes, r + 0.08)
    scarf(p, 0, -0.04, b * 0.94, drop=0.4)
    headwear(p, x, y + h + 0.09, 0.86 * w, eyes, r + 0.08)


# --- the objects ------------------------------------------------------------------------------------------------------

def emblem(p, x, y, r, u):
    """A small painted sign in the second colour: none, disc, heart, star or flower, by u."""
    kind, edge = int(u * 5), ink(p.sign)
    if kind == 1: p.flat(oval(x, y, r), p.sign, edge=edge)
    elif kind == 2: p.flat(heart(x, y, r), p.sign, edge=edge)
    elif kind == 3: p.flat(star(x, y, 1.25 * r), p.sign, edge=edge)
    elif kind == 4:
        for k in range(5):
            p.flat(oval(x + 0.7 * r * math.cos(1.26 * k + 0.3), y + 0.7 * r * math.sin(1.26 * k + 0.3), 0.48 * r),
                   p.sign, edge=edge)
        p.flat(oval(x, y, 0.42 * r), GOLD)


def profile(heights, radii, x=0.0):
    """A turned body: half widths at heights, from the bottom up, smoothed."""
    line = smooth([(r, y) for r, y in zip(radii, heights)], closed=False)
    return np.concatenate([line * (1, 1) + (x, 0), (line * (-1, 1) + (x, 0))[::-1]])


def teapot(p, t):
    # part: spout length; kind: belly round, squat, tall or pear; eyes: lid knob size; detail: handle round or
    # square; trim: knob and foot colour; stance: foot height; marking: emblem
    x, small = 0.04 * p.turn, p.part if t.trim > 0.4 else None
    w, h = 0.48 + 0.1 * t.width, 0.42 + 0.12 * t.height
    kind = int(t.kind * 4)
    w, h = ((w, h), (w + 0.06, h - 0.06), (w - 0.08, h + 0.1), (w, h + 0.04))[kind]
    foot = 0.05 + 0.1 * t.stance
    y = -1 + foot + h
    if p.cube:
        x, y, f = p.box()
        w = h = f
    left, right, out = x - w, x + w, 0.26 + 0.12 * t.part + 0.06 * p.turn
    if p.cube: right = x + w + 0.3
    out = min(out, 0.95 + left) if p.cube else out
    grip = [(right - 0.12, y + 0.5 * h), (right + 0.24, y + 0.52 * h), (right + 0.3, y), (right + 0.12, y - 0.42 * h),
            (right - 0.1, y - 0.5 * h)]
    if t.detail > 0.5:
        grip = [(right - 0.12, y + 0.46 * h), (right + 0.26, y + 0.62 * h), (right + 0.28, y + 0.3 * h),
                (right + 0.2, y - 0.3 * h), (right - 0.1, y - 0.3 * h)]
    if not p.cube:
        p.body(stroke(grip, 0.085), colour=small)
        p.body(pad(x - 0.6 * w, -1.0, x + 0.6 * w, -0.84 + foot), colour=small, lit=0.9)
    tip = (left - out, y + 0.62 * h)
    p.body(smooth([(left + 0.22, y - 0.5 * h), (left - 0.4 * out, y - 0.1 * h), (tip[0] - 0.06, tip[1]),
                   (tip[0] + 0.12, tip[1] + 0.06),
                   (left - 0.1 * out, y + 0.28 * h), (left + 0.22, y + 0.3 * h)]))
    if p.cube:
        p.body(stroke([q + (-0.3, 0) for q in np.array(grip)], 0.08), colour=small)
        ly, r = p.top(0.5, 0.45), 0.4
        p.body(oval(*ly, r, 0.13))
        p.body(oval(ly[0], ly[1] + 0.06, r * 0.86, 0.11))
        knob = ly + (0, 0.24)
    else:
        p.body(oval(x, y, w, h, power=2.2 + 0.8 * (kind == 2)) if kind != 3
               else profile((-h + y, y - 0.5 * h, y - 0.1 * h, y + 0.5 * h, y + h),
                            (0.6 * w, 1.05 * w, w, 0.66 * w, 0.4 * w), x))
        lid = oval(x, y + 0.8 * h, 0.62 * w, 0.2)
        p.body(lid)
        p.line(oval(x, y + 0.78 * h, 0.66 * w, 0.15)[18:], small and ink(small) or p.ink, 0.05)
        knob = np.array((x, y + 0.8 * h + 0.24))
    p.body(oval(*knob, 0.09 + 0.06 * t.eyes), colour=small)
    emblem(p, x + 0.14 * p.turn, y - 0.1 * h, 0.2, t.marking)


def vase(p, t):
    # part: neck; kind: bulb, amphora, tulip or column; eyes: number of flowers; detail: handles or not; trim:
    # rim; stance: foot; marking: neck ring, emblem
    x, w, kind = 0.0, 0.44 + 0.2 * t.width, int(t.kind * 4)
    top, n = 0.2 + 0.24 * t.height, 0.14 + 0.14 * t.part
    if p.cube:
        x, y, f = p.box()
        x, top = p.top(0.5, 0.5) + (0, 0.26)
        mouth, my = x, top
    blooms = int(t.eyes * 4)
    tones = ((238, 84, 110), (252, 200, 60), (170, 110, 220))
    for k in range(blooms):
        a = (k - (blooms - 1) / 2) * 0.5 - 0.1
        bx, by = x + 0.62 * math.sin(a), top + (0.46 if not p.cube else 0.24)  * math.cos(a)
        p.line([(x + 0.05 * a, top - 0.1), (bx, by)], LEAF, 0.07)
        for j in range(5):
            p.flat(oval(bx + 0.1 * math.cos(1.26 * j + k), by + 0.1 * math.sin(1.26 * j + k), 0.085),
                   tones[(k + int(t.trim * 3)) % 3], edge=ink(tones[(k + int(t.trim * 3)) % 3]))
        p.flat(oval(bx, by, 0.07), (250, 236, 170))
    if p.cube:
        p.body(profile((top - 0.3, top - 0.14, top), (n + 0.1, n, n + 0.12), x))
        p.body(oval(x, top, n + 0.14, 0.07), colour=p.part if t.trim > 0.4 else None)
        p.flat(oval(x, top + 0.01, n + 0.07, 0.04), DARK)
        for s in (-1, 1): 
            if t.detail > 0.5:
                p.body(stroke([(x + s * n, top - 0.02), (x + s * (n + 0.26), top - 0.06),
                               (x + s * (n + 0.16), top - 0.28)], 0.055))
        return emblem(p, x - 0.18 + 0.14 * p.turn, -0.4, 0.22, t.marking)
    foot = 0.2 + 0.16 * t.stance
    h = top + 1
    ys = [-1, -0.93, -1 + 0.3 * h, -1 + 0.55 * h, -1 + 0.8 * h, top - 0.06, top]
    rs = ([foot, foot, w, w * 1.02, n * 1.2, n, n * 1.35], [foot, foot, w * 0.6, w * 1.08, w * 0.72, n, n * 1.5],
          [foot, foot * 0.9, w * 0.72, w * 0.94, w * 0.8, w * 0.86, w * 1.05], [w * 0.8, w * 0.82, w * 0.78, w * 0.74,
                  w * 0.7, n * 1.5, n * 1.8])[kind]
    if t.detail > 0.5:
        for s in (-1, 1):
            p.body(stroke([(s * rs[3] * 0.8, -1 + 0.5 * h), (s * (rs[3] + 0.24), -1 + 0.72 * h),
                           (s * (rs[3] + 0.1), -1 + 0.9 * h), (s * rs[5] * 0.8, top - 0.14)], 0.06), colour=p.part
                    if t.trim > 0.4 else None)
    p.body(profile(ys, rs))
    p.body(oval(0, top, rs[-1] + 0.04, 0.075), colour=p.part if t.trim > 0.4 else None)
    p.flat(oval(0, top + 0.012, rs[-1] - 0.05, 0.04), DARK)
    emblem(p, 0.16 * p.turn, -1 + 0.44 * h, 0.2, t.marking)


FRUIT = ((206, 30, 60), (70, 80, 190), (246, 150, 40), (130, 190, 60))


def bowl(p, t):
    # part: height of the heap; kind: berries red, blue, oranges or limes; eyes: fruit size; detail: leaves; trim:
    # rim colour; stance: foot; marking: emblem; width, height: of the bowl
    x, w, top, low = 0.0, 0.78 + 0.16 * t.width, -0.1 + 0.18 * t.height, -0.88
    r, rng = 0.13 + 0.08 * t.eyes, np.random.default_rng(int(t.part * 1e6))
    deep = 1.0
    if p.cube:
        x, y, f = p.box()
        x, top = p.top(0.5, 0.4)
        w, deep = 0.66, 0.8
    fruit = pick(t.kind, FRUIT)
    if p.cube: p.hole(0.82, (60, 44, 40))
    else: p.body(oval(x, top, w, 0.16), lit=0.6)
    heap = (0.2 + 0.18 * t.part) * deep
    for level, count in ((0.0, 5), (0.6, 4), (1.2, 3)):
        span = (w - r - 0.04) * (1 - 0.42 * level) * (0.9 if p.cube else 1)
        for k in range(count):
            bx = x + span * (2 * k / (count - 1) - 1) + 0.04 * (rng.random() - 0.5)
            by = top + heap * level + 0.05 + (0.12 * (1 - ((bx - x) / w) ** 2))
            tone = mix(fruit, ((30, 10, 40), WHITE)[k % 2], 0.14 * rng.random())
            p.body(oval(bx, by, r * 1.1), colour=tone)
            p.flat(oval(bx - 0.05, by + 0.06, 0.035), WHITE)
            if t.detail > 0.5 and (k + int(level * 2)) % 2: p.flat(star(bx, by + r * 0.8, 0.11, 5, 0.4), LEAF)
    if p.cube: 
        p.body(*[[a, b, b - (0, 0.1), a - (0, 0.1)] for a, b in ((p.lid[0], p.lid[1]), (p.lid[1], p.lid[2]))],
               colour=p.part if t.trim > 0.4 else None)
        return emblem(p, x - 0.18 + 0.14 * p.turn, -0.42, 0.22, t.marking)
    foot = 0.26 + 0.2 * t.stance
    p.body(pad(-foot, -1.0, foot, low + 0.1), lit=0.86, colour=p.part if t.trim > 0.6 else None)
    p.body(smooth([(-w, top), (-w * 0.95, top - 0.3), (-w * 0.68, low + 0.08), (0, low), (w * 0.68, low + 0.08),
                   (w * 0.95, top - 0.3), (w, top), (0.5 * w, top - 0.1), (0, top - 0.13), (-0.5 * w, top - 0.1)]))
    if t.trim > 0.4: p.body(hoop(0, top, w + 0.01, 0.15, 0.12), colour=p.part, lit=1.06)
    emblem(p, 0.2 * p.turn, 0.5 * (top + low) - 0.06, 0.17, t.marking)


def can(p, t):
    # part: tab size and angle; kind: label disc, wave, slash or stripe pair; eyes: label size; detail: drops of
    # letters; trim: straw or none; stance: neck taper; marking: emblem on the label; width, height: of the can
    w, top, x = 0.42 + 0.16 * t.width, 0.56 + 0.3 * t.height, 0.0
    px, size = 0.2 * p.turn, 0.8 + 0.4 * t.eyes
    if p.cube:
        x, y, f = p.box()
        p.hole(0.9, STEEL)
        lx, ly, w, low, top = *p.top(0.5, 0.5), f, y - f, y + f
        for a, b in ((p.lid[0], p.lid[1]), (p.lid[1], p.lid[2])):
            p.body([a, b, b - (0, 0.09), a - (0, 0.09)], colour=STEEL)
        p.body(*[[a, b, b + (0, 0.08), a + (0, 0.08)] for a, b in ((p.side[3], p.side[2]), (p.front[3], p.side[3]))],
               colour=STEEL)
    else:
        low, lx, ly, taper = -0.9, 0, top, 0.06 + 0.06 * t.stance
        p.body(oval(0, -0.93, w - 0.06, 0.09), colour=STEEL)
        p.body(np.concatenate([[(-w + taper, top - 0.02), (-w, top - 0.16), (-w, low)], oval(0, low, w, 0.09)[18:],
                               [(w, low), (w, top - 0.16), (w - taper, top - 0.02)]]))
    label = (x + px * w * 2, 0.5 * (low + top) - 0.04)
    kind = int(t.kind * 4)
    if kind == 0: p.flat(oval(*label, 0.62 * w * size, 0.3 * size), p.sign, edge=p.ink)
    elif kind == 1:
        u = np.linspace(-1, 1, 15)
        wave = np.stack([x + u * w, label[1] + 0.12 * np.sin(3 * u + 3 * px)], 1)
        p.flat(np.concatenate([wave + (0, 0.13 * size), (wave - (0, 0.13 * size))[::-1]]), p.sign, edge=p.ink)
    elif kind == 2:
        p.flat([(x - w, label[1] - 0.42), (x - w, label[1] - 0.42 + 0.36 * size), (x + w, label[1] + 0.42),
                (x + w, label[1] + 0.42 - 0.36 * size)], p.sign)
    else:
        for k in (-0.3, 0.3):
            p.flat(pad(x - w, label[1] + k - 0.07 * size, x + w, label[1] + k + 0.07 * size, power=20), p.sign)
    if t.marking > 0.4:
        p.flat(star(*label, 0.2) if t.marking > 0.7 else oval(*label, 0.14), (p.first if kind != 3 else p.second)
               if p.part else p.second, edge=p.ink)
    if t.detail > 0.5 and kind:
        for k in (-0.2, 0, 0.2):
            p.line([(label[0] + k - 0.05, label[1] - 0.42), (label[0] + k + 0.05, label[1] - 0.42)], WHITE
                   if bright(p.first) < 170 else DARK, 0.07)
    if not p.cube:
        r = w - taper
        p.body(np.concatenate([oval(0, top - 0.06, r + 0.02, 0.1)[18:], oval(0, top + 0.0, r + 0.02, 0.1)[:18]]),
               colour=STEEL)
        p.flat(oval(0, top, r - 0.05, 0.07), (222, 226, 232), edge=ink(STEEL))
    if t.trim > 0.55:
        p.body(stroke([(lx + 0.14, ly), (lx + 0.2, ly + 0.22), (lx + 0.42, ly + 0.28)], 0.05), colour=(240, 70, 90)
               if p.who.colour != "red" else WHITE)
    p.flat(oval(lx - 0.03, ly + 0.01, 0.12 + 0.05 * t.part, 0.045), (120, 124, 134))
    p.flat(oval(lx - 0.1, ly + 0.02, 0.05, 0.02), DARK)


def flame(p, x, y, size):
    """A wick with a flame whose foot is at (x, y)."""
    p.line([(x, y - 0.04), (x + 0.01, y + 0.1)], DARK, 0.06)
    for k, c in ((1.0, (250, 140, 30)), (0.68, (255, 208, 60)), (0.36, (255, 250, 214))):
        q = k * size
        p.flat(smooth([(x, y + 0.05), (x - 0.56 * q, y + 0.05 + 0.5 * q), (x - 0.1 * q, y + 0.05 + 1.2 * q),
                       (x + 0.06 * q, y + 0.05 + 1.75 * q), (x + 0.5 * q, y + 0.05 + 0.7 * q)]), c, edge=(196, 84, 20)
                if k == 1 else None)


def candle(p, t):
    # part: drip length; kind: holder saucer, saucer with ring handle, stand or none; eyes: flame; detail: number
    # of drips; trim: holder colour; stance: taper; marking: ribbon or emblem; width, height: of the wax
    w, top, kind, x = 0.36 + 0.18 * t.width, 0.08 + 0.3 * t.height, int(t.kind * 4), 0.0
    metal = pick(t.trim, (GOLD, STEEL, p.sign))
    if p.cube:
        x, y, w = p.box()
        edge = [p.lid[0] + (p.lid[1] - p.lid[0]) * u for u in np.linspace(0.06, 0.94,
                5)] + [p.lid[1] + (p.lid[2] - p.lid[1]) * 0.5]
        for k, q in enumerate(edge):
            p.body(stroke([q + (0, 0.05), q - (0, 0.12 + (0.1 + 0.22 * t.part) * (k * 7 % 5) / 4)], 0.085), lit=1.15,
                   puff=0.5, edge=p.first)
        p.flat(oval(*p.top(0.5, 0.5), 0.3, 0.1), mix(p.first, WHITE, 0.5))
        if t.marking > 0.4: emblem(p, x + 0.12 * p.turn, y - 0.1, 0.2, t.marking)
        return flame(p, *p.top(0.5, 0.5), 0.26 + 0.08 * t.eyes)
    low = -0.84 if kind < 3 else -0.94
    if kind < 2: p.body(oval(0, -0.88, 0.7 + 0.12 * t.width, 0.13), colour=metal)
    if kind == 1: p.rope(oval(0.78, -0.72, 0.15), metal, 0.06, closed=True)
    if kind == 2:
        p.body(pad(-0.44, -1.0, 0.44, -0.86), pad(-0.12, -0.95, 0.12, -0.6), pad(-w - 0.1, -0.72, w + 0.1, -0.56),
               colour=metal)
        low = -0.58
    taper = 0.1 * t.stance
    p.body(np.concatenate([[(-w + taper, top), (-w, low)], oval(0, low, w, 0.08)[19:], [(w, low), (w - taper, top)],
                           oval(0, top, w - taper, 0.07)[:18]]))
    r = w - taper
    if t.marking > 0.75: p.flat(hoop(0, low + 0.36, w, 0.08, 0.16), p.sign, edge=p.ink)
    elif t.marking > 0.4: emblem(p, 0.14 * p.turn, 0.5 * (top + low) - 0.06, 0.17, (t.marking - 0.2) * 1.7)
    p.body(oval(0, top, r, 0.09), lit=1.14, puff=0.4)
    for k in range(2 + int(3 * t.detail)):
        u = -0.85 + 1.7 * k / (1 + int(3 * t.detail)) + 0.1 * p.turn
        if abs(u) <= 0.95:
            p.body(stroke([(u * r, top - 0.02), (u * r, top - 0.1 - (0.12 + 0.4 * t.part) * (0.3 + (k * 3 % 5) / 5))],
                          0.07), lit=1.12, puff=0.5)
    p.flat(oval(0, top + 0.02, r * 0.72, 0.06), mix(p.first, (255, 230, 160), 0.55))
    flame(p, 0, top + 0.02, 0.28 + 0.08 * t.eyes)


def clock(p, t):
    # part: bell size; kind: marks 12, 4, dots or double ring; eyes: hands' length and tone; detail: the time;
    # trim: bells steel, gold or second; stance: feet length and spread; marking: dial cream, white, pale blue or
    # second; width, height: case
    metal = pick(t.trim, (STEEL, GOLD, p.sign))
    r, ry, x, y = 0.62 + 0.1 * t.width, 0.62 + 0.06 * t.height, 0.0, -0.2
    f = 0.08 * p.turn
    b = 0.2 + 0.08 * t.part
    if p.cube:
        x, y, r = p.box()
        f, spots = x, [p.top(0.2, 0.5) + (0, 0.1), p.top(0.8, 0.5) + (0, 0.1)]
        for q in (-0.5, 0.5): p.body(oval(x + q, y - r, 0.13, 0.1), colour=metal)
        hammer = p.top(0.5, 0.5)
    else:
        for s in (-1, 1):
            p.body(stroke([(s * 0.3, -0.6), (s * (0.5 + 0.12 * t.stance), -0.93)], 0.09, 0.07), colour=metal)
        spots, hammer = [(x - 0.44, y + ry + 0.02), (x + 0.44, y + ry + 0.02)], np.array((x, y + ry))
    p.line([hammer, hammer + (0, 0.3)], DARK, 0.13)
    p.line([hammer, hammer + (0, 0.3)], metal, 0.07)
    p.body(pad(hammer[0] - 0.12, hammer[1] + 0.22, hammer[0] + 0.12, hammer[1] + 0.36), colour=metal)
    for (bx, by), s in zip(spots, (-1, 1)):
        a = -s * (28 if not p.cube else 10)
        dome = oval(0, 0, b * 1.25, b * 1.1)[:19] @ np.array([[math.cos(math.radians(a)), math.sin(math.radians(a))],
                [-math.sin(math.radians(a)), math.cos(math.radians(a))]])
        p.line([(bx * 0.9 + 0.1 * x, by - 0.12), (bx, by + 0.08)], DARK, 0.1)
        p.body(dome + (bx, by + 0.02), colour=metal)
    if not p.cube:
        if p.turn: p.body(oval(x - 0.1 * p.turn, y, r, ry), lit=0.8)
        p.body(oval(x + 0.03 * p.turn, y, r, ry))
    face = pick(t.marking, (CREAM, WHITE, (206, 228, 246), mix(p.second, WHITE, 0.62)))
    d, mark = 0.66 * r, int(t.kind * 4)
    p.flat(oval(f, y, d, d), face, edge=p.ink)
    if mark == 3: p.line(oval(f, y, d * 0.8), p.second if bright(p.second) < 200 else p.ink, 0.06, closed=True)
    for k in range(0, 12, 1 if mark in (0, 2) else 3):
        c, s = math.cos(k * math.pi / 6), math.sin(k * math.pi / 6)
        if mark == 2: p.flat(oval(f + 0.82 * d * c, y + 0.82 * d * s, 0.04), DARK)
        else:
            p.line([(f + 0.9 * d * c, y + 0.9 * d * s), (f + (0.78 if k % 3 else 0.68) * d * c,
                                                         y + (0.78 if k % 3 else 0.68) * d * s)], DARK, 0.045)
    hour = 2 * math.pi * t.detail
    tone = pick(t.eyes * 3 % 1, (DARK, (180, 30, 40), (30, 60, 150)))
    for a, long, wide in ((hour, 0.4, 0.1), (12 * hour % (2 * math.pi), 0.6 + 0.12 * t.eyes, 0.065)):
        p.line([(f, y), (f + long * d * math.sin(a), y + long * d * math.cos(a))], tone, wide)
    p.flat(oval(f, y, 0.06), tone)


def boot(p, t):
    # part: heel; kind: rain boot, laced, fur-topped or buckled; eyes: eyelets and buckle size; detail: pull tab;
    # trim: sole colour; stance: toe length; marking: toe cap; width: shaft; height: shaft
    w, top, toe = 0.34 + 0.1 * t.width, 0.46 + 0.4 * t.height, -0.56 - 0.28 * t.stance
    kind, sole = int(t.kind * 4), pick(t.trim, ((70, 52, 44), (226, 206, 170), (60, 60, 68), p.part or CREAM))
    x = 0.3
    if p.cube:
        cx, cy, f = p.box()
        p.hole(0.78, mix(p.first, DARK, 0.75))
        p.body([p.side[3], p.side[2], p.side[2] + (0, 0.2), p.side[3] + (0, 0.2)], colour=sole, lit=0.85, puff=0.3)
        p.body(smooth([(cx + 0.1, -0.9), (cx + 0.14, -0.45), (cx - 0.3, -0.34), (cx - f - 0.1, -0.5),
                       (cx - f - 0.16, -0.9)]), colour=p.part if t.marking > 0.6 else None)
        p.body(pad(cx - f - 0.2, -1.0, cx + f, -0.8, power=8), colour=sole)
        x, w, top, lx = cx, f, cy + f, cx + 0.02 + 0.1 * p.turn
    else:
        heel = 0.1 + 0.14 * t.part
        p.body(stroke([(x + w - 0.06, top - 0.05), (x + w + 0.1, top + 0.1), (x + w - 0.16, top + 0.1)], 0.05),
               colour=p.second) if t.detail > 0.4 else None
        p.body(pad(x + w - 0.52, -1.0, x + w + 0.06, -0.7, power=6), colour=sole)
        p.body(pad(toe - 0.06, -1.0 + heel * 0.5, x + w + 0.05, -0.72, power=5), colour=sole)
        p.body(smooth([(x - w, top), (x - w * 0.9, -0.05), (x - w - 0.1, -0.24), (toe + 0.2, -0.36), (toe, -0.6),
                       (toe, -0.8), (toe + 0.3, -0.82),
                       (x, -0.82), (x + w, -0.82), (x + w + 0.03, -0.5), (x + w * 0.9, -0.1), (x + w, top),
                       (x, top + 0.03)]))
        if t.marking > 0.6:
            p.body(smooth([(toe + 0.36, -0.4), (toe + 0.16, -0.38), (toe, -0.6), (toe, -0.8), (toe + 0.4, -0.81),
                           (toe + 0.46, -0.6)]), colour=p.part)
        p.flat(oval(x, top, w * 0.96, 0.08), mix(p.first, DARK, 0.75), edge=p.ink)
        lx = x - 0.5 * w + 0.1 * p.turn
    if kind == 0: p.flat(hoop(x, top - 0.04, w, 0.07, 0.18), p.sign, edge=p.ink)
    elif kind == 1:
        for k in range(4):
            y = top - 0.2 - 0.2 * k
            p.rope([(lx - 0.2, y - 0.06), (lx + 0.2, y + 0.06)], WHITE, 0.06)
            p.flat(oval(lx + 0.22, y + 0.07, 0.035 + 0.03 * t.eyes), GOLD)
    elif kind == 2:
        p.body(*[oval(x + k * w * 0.95, top - 0.02 + 0.03 * (k * 4 % 2), 0.17) for k in (-1, -0.5, 0, 0.5, 1)],
               colour=(240, 232, 216))
    else:
        for y in ((top - 0.3,) if t.eyes < 0.5 else (top - 0.25, top - 0.6)):
            p.body(pad(x - w * 1.02, y - 0.09, x + w * 1.02, y + 0.09), colour=mix(p.sign, DARK, 0.3))
            p.line(pad(lx - 0.12, y - 0.1, lx + 0.12, y + 0.1), GOLD, 0.06, closed=True)


def sneaker(p, t):
    # part: sole thickness; kind: side sign swoosh, stripes, star or bolt; eyes: lace number; detail: toe cap;
    # trim: sole tone; stance: low or high top; marking: heel patch; width: toe bulk; height: of the shoe
    sole = pick(t.trim, (WHITE, (226, 206, 170), (222, 224, 230), p.part or WHITE))
    high, toe = 0.02 + 0.3 * (t.stance > 0.5) + 0.2 * t.height, -0.88
    s, bulk, px = 0.12 + 0.1 * t.part, 0.1 * t.width, 0.06 * p.turn
    if p.cube:
        x, y, f = p.box()
        p.hole(0.72, mix(p.first, DARK, 0.75))
        p.body([p.side[3], p.side[2], p.side[2] + (0, 0.2), p.side[3] + (0, 0.2)], colour=sole, lit=0.88, puff=0.3)
        if t.detail > 0.3:
            p.body(smooth([(x - 0.4, -0.85), (x - 0.36, -0.46), (x, -0.36), (x + 0.36, -0.46), (x + 0.4, -0.85)]),
                   colour=WHITE if p.who.colour != "white" else STEEL)
        p.body(pad(x - f - 0.05, -1.0, x + f, -0.78, power=8), colour=sole)
        p.body(pad(x - 0.24, y + f - 0.3, x + 0.24, y + f + 0.24, power=3), lit=0.9)
        for k in range(3):
            b = y + f - 0.1 - 0.17 * k
            for q in (-1, 1): p.rope([(x - q * 0.3, b + 0.07), (x + q * 0.3, b - 0.07)], WHITE, 0.07)
        return p.flat(star(*np.mean(p.side, 0), 0.18), p.sign, edge=p.ink)
    p.body(stroke([(0.02, high - 0.06), (-0.08, high + 0.2)], 0.14), lit=0.88)
    p.body(smooth([(0.06, high), (-0.1, high - 0.12), (-0.38, -0.38), (-0.66, -0.46 + bulk), (toe, -0.62 + bulk),
                   (toe + 0.02, -0.86), (0, -0.88),
                   (0.8, -0.86), (0.86, -0.5), (0.78, high - 0.12), (0.84, high + 0.12), (0.7, high + 0.1),
                   (0.4, high - 0.08)]))
    p.flat(smooth([(0.1, high - 0.02), (0.4, high - 0.1), (0.72, high + 0.04), (0.4, high - 0.02)]),
           mix(p.first, DARK, 0.7))
    if t.detail > 0.3:
        p.body(smooth([(-0.62, -0.46 + bulk), (toe, -0.6 + bulk), (toe + 0.01, -0.86), (-0.5, -0.87), (-0.48, -0.66)]),
               colour=WHITE if p.who.colour != "white" else STEEL)
    if t.marking > 0.5:
        p.body(smooth([(0.6, -0.86), (0.62, -0.5), (0.76, -0.4), (0.86, -0.5), (0.82, -0.86)]), colour=p.part, lit=0.9)
    p.body(smooth([(toe - 0.03, -1 + s * 1.5), (toe + 0.02, -0.98), (0, -1.0), (0.86, -0.98), (0.93, -1 + s),
                   (0.9, -1 + 1.7 * s), (0.3, -1 + 1.3 * s), (-0.4, -1 + 1.3 * s)]), colour=sole)
    p.line([(toe + 0.06, -1 + 0.7 * s), (0.86, -1 + 0.7 * s)], p.second if t.trim < 0.75 else WHITE, 0.05)
    kind, y = int(t.kind * 4), -0.46
    if kind == 0:
        p.flat(smooth([(-0.24 + px, y - 0.02), (0.0 + px, y - 0.22), (0.66 + px, y + 0.26), (0.04 + px, y - 0.03),
                       (-0.14 + px, y - 0.02)]), p.sign, edge=p.ink)
    elif kind == 1:
        for k in (0, 0.22, 0.44):
            p.flat(np.array([(-0.06, -0.24), (0.07, -0.24), (-0.06, 0.2), (-0.18, 0.2)]) + (k + px + 0.1, y), p.sign,
                   edge=p.ink)
    elif kind == 2: p.flat(star(0.3 + px, y, 0.22), p.sign, edge=p.ink)
    else:
        p.flat(np.array([(0, 0.24), (-0.22, -0.04), (-0.02, 0.0), (-0.14, -0.24), (0.16, 0.06),
                         (0.0, 0.04)]) + (0.32 + px, y), p.sign, edge=p.ink)
    n = 2 + int(t.eyes * 3)
    for k in range(n):
        u = (k + 0.3) / n
        a = np.array((-0.04 - 0.4 * u, high - 0.1 - u * (high + 0.3)))
        p.rope([a + (-0.07, 0.08), a + (0.16, -0.08)], WHITE if p.who.colour != "white" else p.second, 0.08)


def backpack(p, t):
    # part: pocket height; kind: flap, zip arch, buckled flap or roll top; eyes: badge size; detail: side pockets;
    # trim: straps' colour; stance: corners square to round; marking: emblem on the pocket; width, height: of the
    # bag
    w, top, f = 0.5 + 0.16 * t.width, 0.42 + 0.26 * t.height, 0.1 * p.turn
    strap = p.part if p.part and t.trim > 0.35 else mix(p.first, DARK, 0.35)
    kind, x, base = int(t.kind * 4), 0.0, -0.96
    if p.cube:
        x, y, w = p.box()
        hx, hy = p.top(0.5, 0.5)
        p.body(stroke([(hx - 0.24, hy - 0.02), (hx - 0.2, hy + 0.3), (hx + 0.2, hy + 0.3), (hx + 0.24, hy - 0.02)],
                      0.07), colour=strap)
        q = p.side[1]
        p.body(stroke([q + (-0.12, -0.02), q + (0.2, -0.3), q + (0.1, -0.85), q + (-0.1, -1.0)], 0.07), colour=strap)
        top, f = y + w, x
    else:
        p.body(stroke([(-0.22, top - 0.06), (-0.18, top + 0.28), (0.18, top + 0.28), (0.22, top - 0.06)], 0.075),
               colour=strap)
        for s in (-1, 1):
            p.body(stroke([(s * w * 0.7, top - 0.1), (s * (w + 0.16), top - 0.42), (s * (w + 0.14), -0.6),
                           (s * w * 0.8, -0.8)], 0.085), colour=strap)
        if t.detail > 0.5:
            for s in (-1, 1): p.body(pad(s * (w + 0.02) - 0.15, -0.86, s * (w + 0.02) + 0.15, -0.36, power=3), lit=0.84)
        p.body(oval(0, (top + base) / 2, w, (top - base) / 2, power=5.5 - 2.7 * t.stance))
    line, pocket = p.ink, -0.42 + 0.16 * t.part
    if kind in (0, 2): 
        p.body(smooth([(x - w * 0.96, top - 0.1), (x - w * 0.8, top + 0.02), (x + w * 0.8, top + 0.02),
                       (x + w * 0.96, top - 0.1), (x + w * 0.92, top - 0.44), (f * 0.5 + x * (not f), top - 0.56),
                (x - w * 0.92, top - 0.44)], steps=5), lit=1.06)
        for k in ((0,) if kind == 0 else (-0.28, 0.28)):
            p.body(pad(f + k - 0.06, top - 0.78, f + k + 0.06, top - 0.36), colour=strap)
            p.flat(pad(f + k - 0.08, top - 0.66, f + k + 0.08, top - 0.54), GOLD, edge=ink(GOLD))
    elif kind == 1:
        arch = oval(x + f * (not p.cube), top - 0.5, w * 0.76, 0.36, power=3)[:19]
        p.line(arch, line, 0.09)
        p.line(arch, STEEL, 0.04)
        p.flat(pad(arch[4][0] - 0.04, arch[4][1] - 0.2, arch[4][0] + 0.04, arch[4][1]), GOLD, edge=line)
    else:
        p.body(pad(x - w * 0.98, top - 0.18, x + w * 0.98, top + 0.06, power=4), colour=p.part, lit=1.1)
        p.line([(x - w * 0.9, top - 0.06), (x + w * 0.9, top - 0.06)], ink(p.second), 0.035)
    p.body(pad(f - w * 0.7, base + 0.06, f + w * 0.7, pocket, power=3.4), lit=0.96)
    p.line([(f - w * 0.6, pocket - 0.1), (f + w * 0.6, pocket - 0.1)], line, 0.05)
    emblem(p, f, (base + pocket) / 2 - 0.02, 0.12 + 0.06 * t.eyes, 0.2 + 0.8 * t.marking)


def car(p, t):
    # part: wheel size; kind: beetle, saloon, van or pick-up; eyes: headlight size; detail: window split; trim:
    # bumper and hubs; stance: ride height; marking: emblem or racing line on the door; width, height: body and
    # cabin
    r, w = 0.2 + 0.07 * t.part, 0.82 + 0.1 * t.width
    low = -1 + r * 0.8 + 0.08 * t.stance
    deck, roof, kind, px = low + 0.5, low + 0.86 + 0.22 * t.height, int(t.kind * 4), 0.05 * p.turn
    metal, glass = pick(t.trim, (STEEL, GOLD, p.second)), (176, 218, 240)
    if p.cube:
        x, y, f = p.box()
        a, b, c, d = np.array(p.front[0]), np.array(p.front[1]), *map(np.array, p.side[1:3])
        p.flat(pad(x - f * 0.82, y + 0.04, x + f * 0.82, y + f - 0.1), glass, edge=p.ink)
        p.flat([b + (0.05, -0.1), c + (-0.05, -0.08), c + (-0.05, -0.48), b + (0.05, -0.52)], mix(glass, DARK, 0.16),
               edge=p.ink)
        p.line([(x - 0.3, y + 0.1), (x - 0.1, y + f - 0.16)], WHITE, 0.08)
        for q in (-0.36, 0.36): p.flat(oval(x + q, y - 0.18, 0.12 + 0.05 * t.eyes), (255, 240, 170), edge=p.ink)
        p.flat(pad(x - f, y - 0.5, x + f, y - 0.36), metal, edge=ink(metal))
        for q in (-0.4, 0.4): p.body(pad(x + q - 0.15, -1.0, x + q + 0.15, -0.86, power=4), colour=(44, 44, 52))
        wheel = np.array(p.side[3]) + (0.5 * (p.side[2] - np.array(p.side[3]))) + (0, 0.03)
        p.body(oval(*wheel, 0.15, 0.2), colour=(44, 44, 52))
        p.flat(oval(*wheel, 0.07, 0.1), metal)
        return
    if kind == 0:
        shape = smooth([(-w, low), (-w, deck - 0.18), (-w * 0.66, deck), (-w * 0.4, roof - 0.1), (0.05, roof + 0.02),
                        (w * 0.55, roof - 0.12), (w * 0.9, deck - 0.04), (w, low + 0.12), (w * 0.9, low)])
        window = smooth([(-w * 0.4, deck + 0.02), (-w * 0.26, roof - 0.16), (0.04, roof - 0.1),
                         (w * 0.44, roof - 0.18), (w * 0.58, deck + 0.02)], steps=4)
    elif kind == 1:
        shape = smooth([(-w, low), (-w, deck - 0.08), (-w * 0.56, deck), (-w * 0.3, roof), (w * 0.4, roof),
                        (w * 0.64, deck + 0.02), (w * 0.98, deck - 0.04), (w, low)], steps=5)
        window = np.array([(-w * 0.4, deck + 0.02), (-w * 0.22, roof - 0.1), (w * 0.32, roof - 0.1),
                           (w * 0.5, deck + 0.02)])
    elif kind == 2:
        shape = smooth([(-w, low), (-w, deck), (-w * 0.8, roof + 0.04), (-w * 0.4, roof + 0.1), (w * 0.9, roof + 0.1),
                        (w, roof - 0.1), (w, low), (0, low)], steps=5)
        window = np.array([(-w * 0.8, deck + 0.06), (-w * 0.66, roof - 0.04), (w * 0.82, roof - 0.04),
                           (w * 0.82, deck + 0.06)])
    else:
        shape = np.array([(-w, low), (-w, deck - 0.1), (-w * 0.9, deck), (-w * 0.5, deck + 0.02), (-w * 0.32, roof),
                          (w * 0.2, roof), (w * 0.24, deck), (w, deck), (w, low)])
        window = np.array([(-w * 0.38, deck + 0.04), (-w * 0.24, roof - 0.1), (w * 0.1, roof - 0.1),
                           (w * 0.1, deck + 0.04)])
    p.body(shape)
    p.flat(window + (px, 0), glass, edge=p.ink)
    lo, hi = window.min(0), window.max(0)
    for u in ((0.5,) if t.detail < 0.5 else (0.36, 0.68)):
        p.line([(lo[0] + u * (hi[0] - lo[0]) + px, lo[1]), (lo[0] + u * (hi[0] - lo[0]) + px, hi[1])], p.first
               if bright(p.first) > 66 else p.ink, 0.07)
    p.line([(lo[0] + 0.26 * (hi[0] - lo[0]) + px, lo[1] + 0.06), (lo[0] + 0.34 * (hi[0] - lo[0]) + px, hi[1] - 0.08)],
           WHITE, 0.05)
    p.body(pad(-w - 0.06, low - 0.02, -w + 0.14, low + 0.1), colour=metal)
    p.body(pad(w - 0.14, low - 0.02, w + 0.06, low + 0.1), colour=metal)
    p.flat(oval(-w + 0.1, low + 0.26, 0.09, 0.08 + 0.05 * t.eyes), (255, 240, 170), edge=p.ink)
    p.flat(oval(w - 0.05, low + 0.27, 0.05, 0.08), (226, 50, 50), edge=p.ink)
    if t.marking > 0.75: p.flat(pad(-w * 0.8, low + 0.2, w * 0.84, low + 0.32, power=20), p.sign, edge=p.ink)
    else: emblem(p, 0.06 + px, low + 0.24, 0.15, t.marking / 0.75)
    for q in (-0.55, 0.55):
        p.body(oval(q * w, -1 + r, r * 1.05), colour=(44, 44, 52))
        p.flat(oval(q * w, -1 + r, r * 0.52), metal, edge=DARK)
        p.flat(oval(q * w, -1 + r, r * 0.18), DARK)


# --- finishes and the whole -------------------------------------------------------------------------------------------

def shiny(layer, rng):
    """Hard white highlights along the edges that face the light, and a few sparkle stars."""
    alpha = layer.getchannel("A")
    g = np.asarray(alpha.reduce(3).filter(ImageFilter.BoxBlur(4)), np.float32) / 255
    lit = np.zeros_like(g)
    lit[3:-3, 3:-3] = g[6:, 6:] - g[:-6, :-6]
    inside = np.asarray(alpha.reduce(3).filter(ImageFilter.MinFilter(5)), np.float32) / 255
    streak = Image.fromarray((255 * np.clip((lit - 0.3) * 4, 0, 0.9) * inside).astype(np.uint8)).resize((LAYER, LAYER),
            Image.BILINEAR)
    rgb = layer.convert("RGB")
    rgb.paste((255, 255, 255), (0, 0), streak)
    layer = Image.merge("RGBA", (*rgb.split(), alpha))
    ctx = ImageDraw.Draw(layer)
    x0, y0, x1, y1 = alpha.getbbox()
    for u, v, r in ((0.26, 0.26, 22), (0.8, 0.16, 15), (0.72, 0.66, 17), (0.12, 0.72, 12)):
        x, y = x0 + (x1 - x0) * (u + 0.1 * rng.random()), y0 + (y1 - y0) * (v + 0.1 * rng.random())
        for size, colour in ((r, (255, 214, 90, 255)), (r * 0.8, (255, 255, 255, 255))):
            ctx.polygon([tuple(q) for q in star(x, y, size, 4, 0.22).tolist()], fill=colour)
    return layer


def wet(layer, rng):
    """Darker, with drops on it and below it, and a puddle to stand in."""
    r, g, b, alpha = layer.split()
    r, g, b = r.point(lambda v: int(v * 0.74)), g.point(lambda v: int(v * 0.78)), b.point(lambda v: int(v * 0.84 + 6))
    x0, y0, x1, y1 = alpha.getbbox()
    under = Image.new("RGBA", (LAYER, LAYER), (110, 170, 220, 0))
    ctx, grow = ImageDraw.Draw(under), 0.1 * (x1 - x0)
    ctx.ellipse((x0 - grow, y1 - 15, x1 + grow, min(y1 + 9, LAYER - 1)), fill=(96, 158, 214, 235))
    ctx.ellipse((x0 + grow, y1 - 5, x0 + 4 * grow, y1 + 2), fill=(214, 236, 250, 255))
    layer = Image.alpha_composite(under, Image.merge("RGBA", (r, g, b, alpha)))
    ctx, solid = ImageDraw.Draw(layer), np.asarray(alpha.filter(ImageFilter.MinFilter(9)))
    ys, xs = np.nonzero(solid[:y1 - 12])
    for k in rng.integers(len(xs), size=11):
        x, y, s = int(xs[k]), int(ys[k]), 3.6 + 2.2 * rng.random()
        drop = [(x, y - 2.6 * s), (x + s, y - 0.2 * s), (x + 0.7 * s, y + 0.8 * s), (x, y + 1.1 * s),
                (x - 0.7 * s, y + 0.8 * s), (x - s, y - 0.2 * s)]
        ctx.polygon(drop, fill=(150, 208, 246, 255), outline=(38, 84, 140, 255))
        ctx.ellipse((x - 0.55 * s, y - 0.5 * s, x + 0.1 * s, y + 0.3 * s), fill=(255, 255, 255, 255))
    return layer


DRAW = {f.__name__: f for f in (cat, dog, face, bear, duck, robot, teapot, vase, bowl, can, candle, clock, boot,
                                sneaker, backpack, car)}


def figure(scene):
    """The subject of a scene on a transparent layer."""
    pen = Pen(scene)
    DRAW[scene.identity.cls](pen, pen.t)
    rng = np.random.default_rng([scene.seed, 1])
    if scene.finish == "shiny": return shiny(pen.layer, rng)
    if scene.finish == "wet": return wet(pen.layer, rng)
    return pen.layer
