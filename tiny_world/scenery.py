"""Where a picture of the tiny world takes place: `scenery(context, rng)` paints one of the 19
contexts of world.py.

First the tools, then the shapes that several contexts share, then one short function per context,
then the table that finds them. A subject will cover the middle of the picture, so whatever tells a
context apart is painted near the edges. The places are posters: few, large and soft shapes, because
what is small and scattered is lost on a small autoencoder. Everything is drawn 192 pixels wide,
three times too large: reducing it later smooths the outlines.
"""
from colorsys import hsv_to_rgb
from functools import cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from tiny_world.pen import S, mix

# All numbers below are in the pixels of the S x S drawing, rows counted from the top.
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


# === tools ========================================================================================

def vary(rng, colour, amount=0.1):
    """The same colour, a little lighter or darker."""
    return mix(colour, WHITE if rng.random() < 0.5 else BLACK, amount * rng.random())


def any_hue(rng, saturation, value):
    """A colour of any hue, with saturation and value between the given bounds."""
    channels = hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return tuple(int(255 * c) for c in channels)


def canvas(*stops):
    """A picture whose rows run smoothly through the (row, colour) stops, and a pen to draw on
    it."""
    rows, colours = zip(*stops)
    column = np.stack([np.interp(np.arange(S), rows, channel) for channel in zip(*colours)], axis=1)
    picture = Image.fromarray(column[:, None].astype(np.uint8)).resize((S, S), Image.Resampling.NEAREST)
    return picture, ImageDraw.Draw(picture)


@cache
def noise(across, down, seed=0):
    """Smooth noise: 2S x 2S numbers around 0 with bumps of `across` x `down` pixels."""
    grid = np.random.default_rng(seed).normal(size=(2 * S // down, 2 * S // across)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((2 * S, 2 * S), Image.Resampling.BICUBIC))


def bumps(rng, across, down, size=S, seed=0):
    """A random cut-out of `noise`: cheaper than fresh noise, and as varied to the eye."""
    x, y = rng.integers(0, 2 * S - size, 2)
    return noise(across, down, seed)[y:y + size, x:x + size]


def spread(rng, count, low=0, high=S):
    """Numbers between low and high, one in each of `count` equal parts: none crowd together."""
    return low + (high - low) * (np.arange(count) + rng.uniform(0.15, 0.85, count)) / count


# === shapes =======================================================================================

def disc(pen, x, y, rx, ry, colour):
    """A filled ellipse round (x, y)."""
    pen.ellipse((x - rx, y - ry, x + rx, y + ry), colour)


def leaf(pen, x, y, length, angle, width, colour):
    """A pointed oval that starts at (x, y): a leaf, a petal, a ripple. Angles run clockwise from
    the right."""
    c, s = cos(angle), sin(angle)
    outline = (0, 0), (0.2, 0.36), (0.5, 0.5), (0.8, 0.28), (1, 0), (0.8, -0.28), (0.5, -0.5), (0.2, -0.36)
    pen.polygon([(x + u * length * c - v * width * s, y + u * length * s + v * width * c)
                 for u, v in outline], colour)


def frond(pen, x, y, length, angle, colour):
    """A palm leaf that bends down under its weight; its lower edge is notched."""
    upper, lower, rib = [], [], []
    for i in range(10):
        bend = angle + (0.13 * i if cos(angle) >= 0 else -0.13 * i)
        wide = length * 0.17 * sin(pi * ((i + 1) / 11) ** 0.7)
        down = wide * (1.3 if i % 3 else 0.3) * (1 if cos(angle) >= 0 else -1)
        side = wide * (1 if cos(angle) >= 0 else -1)
        upper.append((x + side * sin(bend), y - side * cos(bend)))
        lower.append((x - down * sin(bend), y + down * cos(bend)))
        rib.append((x, y))
        x, y = x + length / 9 * cos(bend), y + length / 9 * sin(bend)
    pen.polygon(upper + lower[::-1], colour)
    pen.line(rib, mix(colour, WHITE, 0.25), 2)


def hills(pen, rng, y, height, colour):
    """Rolling ground from row `y` (give or take `height`) to the bottom of the picture."""
    a, b = 2 * pi * rng.random(2)
    ridge = [(x, y - height * (0.75 * sin(x / 38 + a) + 0.25 * sin(x / 22 + b))) for x in range(-4, S + 5, 8)]
    pen.polygon([(-4, S), *ridge, (S + 4, S)], colour)


def clouds(pen, rng, low, colour=WHITE):
    """One cloud at each side, above row `low`."""
    places = zip(rng.uniform((4, 136), (44, 186)), rng.uniform(14, low, 2), rng.uniform(12, 16, 2))
    for x, y, w in places:
        for dx, dy, r in ((-1.2, 0, 0.7), (1.2, 0, 0.7), (0, -0.2, 1)):
            disc(pen, x + w * dx, y + w * dy, w * r, w * r * 0.62, colour)


def fir(pen, x, foot, height, colour, snow=None):
    """A fir of three tiers, each tipped with snow if `snow` is a colour."""
    pen.rectangle((x - 3, foot - height * 0.15, x + 3, foot), (84, 62, 50))
    for i in range(3):
        low, half, rise = foot - height * (0.1 + 0.26 * i), height * (0.31 - 0.07 * i), height * 0.38
        pen.polygon([(x - half, low), (x, low - rise), (x + half, low)], mix(colour, WHITE, 0.05 * i))
        edge = (-0.6, 0.4), (0, 1), (0.6, 0.4), (0, 0.3)
        if snow: pen.polygon([(x + half * u, low - rise * v) for u, v in edge], snow)


def window(pen, x, y, w, h, glass):
    """A window with a white frame and a bar."""
    pen.rectangle((x - 3, y - 3, x + w + 3, y + h + 3), WHITE)
    pen.rectangle((x, y, x + w, y + h), glass)
    pen.line((x + w / 2, y, x + w / 2, y + h), WHITE, 3)


# === the contexts =================================================================================

def plain(rng):
    """A studio's paper backdrop in any soft hue, lit from the middle."""
    paper = any_hue(rng, (0.04, 0.38), (0.35, 1))
    dim = mix(paper, BLACK, 0.15)
    dark, _ = canvas((0, dim), (125, mix(paper, BLACK, 0.04)), (150, paper), (S, dim))
    light, _ = canvas((0, mix(paper, WHITE, 0.45)), (S, paper))
    left = 20 * rng.random()
    middle = Image.radial_gradient("L").resize((S, S), box=(left, 20, left + 236, 256))
    return Image.composite(dark, light, middle)


def jungle(rng):
    """Trunks, and large leaves that reach in from all sides."""
    picture, pen = canvas((0, (26, 74, 40)), (100, (96, 156, 68)), (150, (40, 94, 42)), (S, (16, 48, 26)))
    for x in (*spread(rng, 2, 20, 80), *spread(rng, 2, 112, 172)):
        pen.line([(x + 4 * sin(i / 2 + x), 16 * i) for i in range(11)], (58, 82, 42), 6)
    # Four from the left, four from the right, three from the top:
    for i, (v, w, z) in enumerate(rng.random((11, 3))):
        side, k = i % 2, i // 2
        if i > 7: x, y, angle = (30, 96, 162)[i - 8], -10, 1.3 + 0.5 * v
        else: x, y, angle = (-8, 200)[side], 8 + 40 * k + 10 * w, (v - 0.5, pi + v - 0.5)[side]
        green = mix((22, 92, 46), (104, 184, 66), (i * 0.37 + 0.3 * w) % 1)
        leaf(pen, x, y, 46 + 12 * z, angle, 26, green)
        leaf(pen, x, y, 40 + 12 * z, angle, 3, mix(green, (200, 226, 130), 0.5))
    for x, angle in ((-4, -1.1), (196, pi + 1.1)):
        frond(pen, x, 190, rng.uniform(62, 76), angle, (34, 112, 50))
    return picture


def snow(rng):
    """Snowy firs on white hills; large flakes fall."""
    picture, pen = canvas((0, (140, 178, 218)), (110, (216, 230, 244)), (S, (216, 230, 244)))
    hills(pen, rng, 104, 9, (200, 216, 234))
    for x in (*spread(rng, 2, -10, 46), *spread(rng, 2, 146, 202)):
        fir(pen, x, rng.uniform(126, 148), rng.uniform(88, 116), (70, 120, 120), (246, 250, 255))
    hills(pen, rng, 142, 5, (234, 241, 249))
    hills(pen, rng, 168, 5, (250, 252, 255))
    for x, y in zip(spread(rng, 10), 150 * rng.permutation(spread(rng, 10, 0, 1))):
        for r, light in ((7, 0.45), (4.6, 1)): disc(pen, x, y, r, r, mix((178, 204, 230), WHITE, light))
    return picture


def beach(rng):
    """The sea, a strip of sand and a palm."""
    sea = rng.uniform(76, 92)
    picture, pen = canvas((0, (92, 178, 236)), (sea, (206, 236, 246)),
                          (sea + 1, (20, 128, 176)), (sea + 30, (96, 208, 206)))
    disc(pen, rng.uniform(150, 176), rng.uniform(20, 34), 15, 15, (255, 236, 130))
    for y, colour in ((29, WHITE), (36, (250, 222, 158)), (74, (244, 210, 142))):
        hills(pen, rng, sea + y, 3, colour)
    x, bow = rng.uniform(10, 22), rng.uniform(6, 16)
    trunk = [(x + bow * sin(i / 5), 164 - 14 * i) for i in range(9)]
    pen.line(trunk, (146, 100, 60), 9)
    for angle in (-2.8, -0.3, -2.1, -1.0):
        frond(pen, *trunk[-1], rng.uniform(44, 52), angle, vary(rng, (46, 146, 70)))
    return picture


def cobblestone(rng):
    """Old town houses above a pavement of large round stones."""
    picture, pen = canvas((0, (112, 106, 104)), (S, (104, 98, 96)))
    walls = (226, 178, 104), (216, 132, 100), (236, 218, 180)
    shutters = (70, 110, 96), (120, 60, 50), (78, 92, 120)
    start, first = -int(rng.integers(0, 50)), int(rng.integers(3))
    for i, x in enumerate(range(start, S, 64)):
        pen.rectangle((x, 0, x + 64, 86), walls[(first + i) % 3])
        pen.rectangle((x, 84, x + 64, 94), mix(walls[(first + i) % 3], BLACK, 0.35))
        pen.rectangle((x + 9, 18, x + 54, 60), shutters[i % 3])
        pen.rectangle((x + 19, 15, x + 43, 63), WHITE)
        pen.rectangle((x + 23, 19, x + 39, 59), (96, 108, 128))
        pen.line((x, 0, x, 94), mix(walls[(first + i) % 3], BLACK, 0.3), 3)
    y, h = 94, 27
    while y < S:  # nearer stones are larger; each row is shifted against the one above
        for x in np.arange(-h * 1.45 * rng.random(), S, h * 1.45):
            stone = vary(rng, mix((150, 148, 152), (172, 160, 146), rng.random()), 0.1)
            pen.rounded_rectangle((x + 2, y + 2, x + h * 1.36, y + h - 1), h * 0.44, stone)
            disc(pen, x + h * 0.64, y + h * 0.4, h * 0.42, h * 0.22, mix(stone, WHITE, 0.14))
        y, h = y + h, h * 1.25
    return picture


def fabric(rng):
    """Light falls from one side on soft folds: each is pale on one flank, deep pink on the
    other."""
    angle, period = rng.uniform(0.5, 1.1), rng.uniform(38, 52)
    y, x = np.mgrid[:S, :S].astype(np.float32)
    phase = (x * cos(angle) + y * sin(angle)) * (2 * pi / period) + 2.4 * bumps(rng, 64, 64)
    fold = np.sin(phase) * (0.75 + 0.3 * bumps(rng, 64, 96))
    deep, pale = np.float32((226, 96, 150)), np.float32((255, 200, 220))
    pixels = deep + (pale - deep) * (0.5 + 0.42 * fold[..., None])
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def wood(rng):
    """A floor of planks in front of a plain wall."""
    wall = any_hue(rng, (0.06, 0.28), (0.72, 0.95))
    plank = mix((150, 94, 54), (216, 166, 106), rng.random())
    picture, pen = canvas((0, mix(wall, BLACK, 0.12)), (70, wall), (S, wall))

    def at(k, y):  # the planks run to a vanishing point
        return 96 + 16 * k * (1 + (y - 80) / 62), y

    for i, k in enumerate(np.arange(-7, 8) + rng.random()):
        tone = vary(rng, mix(plank, BLACK, 0.1 * (i % 2)), 0.1)
        joint = rng.uniform(100, 180)
        pen.polygon([at(k, 80), at(k + 1, 80), at(k + 1, S), at(k, S)], tone)
        pen.line((*at(k, 80), *at(k, S)), mix(plank, BLACK, 0.4), 3)
        if i % 2: pen.line((*at(k, joint), *at(k + 1, joint)), mix(plank, BLACK, 0.4), 3)
    pen.rectangle((0, 66, S, 80), mix(wall, WHITE, 0.6))
    pen.line((0, 81, S, 81), mix(plank, BLACK, 0.5), 3)
    return picture


def city(rng):
    """Towers with large windows behind a street."""
    skies = (((96, 158, 220), (214, 228, 236)), ((98, 96, 168), (250, 186, 150)),
             ((120, 150, 190), (248, 220, 180)))
    top, low = skies[rng.integers(3)]
    picture, pen = canvas((0, top), (140, low), (S, low))
    haze = mix(low, (70, 84, 120), 0.4)
    for i, x in enumerate(range(-8, S, 36)):
        pen.rectangle((x, rng.uniform(14, 70), x + 36, S), mix(haze, WHITE, 0.1 * (i % 2)))
    for i, x in enumerate(np.arange(-rng.uniform(0, 30), S, 50)):  # near towers are dark, with lit windows
        y = rng.uniform(22, 76)
        tower = mix((56, 82, 112), (92, 76, 108), rng.random())
        pen.rectangle((x, y, x + 41, S), tower)
        for j in range(int(146 - y) // 24):
            for k in range(2):
                wx, wy = x + 6 + 17 * k, y + 9 + 24 * j
                lit = (i + j + k * 2) % 3  # by a rule: nobody could foresee which ones chance lights
                pen.rectangle((wx, wy, wx + 11, wy + 14), (250, 214, 128) if lit else mix(tower, WHITE, 0.16))
    pen.rectangle((0, 150, S, S), (122, 122, 130))
    pen.rectangle((0, 150, S, 157), (176, 176, 180))
    for x in range(-20, S, 64):
        pen.polygon([(x, 176), (x + 32, 176), (x + 26, 184), (x - 10, 184)], (236, 234, 226))
    return picture


def mountain(rng):
    """Three snow-capped peaks behind firs and a meadow."""
    picture, pen = canvas((0, (84, 156, 226)), (120, (212, 232, 244)), (S, (212, 232, 244)))
    clouds(pen, rng, 30)
    for x in (96, 18, 174):
        x, y = x + rng.uniform(-14, 14), rng.uniform(12, 40)
        half, snow = rng.uniform(66, 80), rng.uniform(0.36, 0.46)

        def at(u, v):  # v runs down from the peak, u across from -1 to 1
            return x + u * v * half, y + v * (140 - y)

        rock = vary(rng, (116, 120, 144))
        pen.polygon([at(0, 0), at(-1, 1), at(1, 1)], rock)
        pen.polygon([at(0, 0), at(0.2, 0.4), at(0.1, 1), at(1, 1)], mix(rock, (40, 44, 84), 0.3))
        left, right = ((-1, 1), (-0.5, 0.8), (0.1, 1.1)), ((0.1, 1.1), (0.5, 0.8), (1, 1))
        for colour, edge in (WHITE, left), ((210, 222, 240), right):
            pen.polygon([at(0, 0), *(at(u, snow * v) for u, v in edge)], colour)
    hills(pen, rng, 128, 7, (62, 122, 88))
    for x in (*spread(rng, 3, -6, 66), *spread(rng, 3, 126, 198)):
        fir(pen, x, 144, rng.uniform(34, 46), (40, 96, 72))
    hills(pen, rng, 144, 5, (112, 176, 86))
    hills(pen, rng, 172, 4, (128, 190, 94))
    return picture


def house(rng):
    """A blue wooden house behind a white fence."""
    picture, pen = canvas((0, (148, 208, 240)), (140, (232, 244, 240)), (S, (232, 244, 240)))
    clouds(pen, rng, 40)
    disc(pen, rng.uniform(172, 188), rng.uniform(104, 120), 28, 34, (104, 166, 82))
    hills(pen, rng, 146, 2, (126, 184, 88))
    blue = mix((48, 98, 184), (76, 140, 220), rng.random())
    end = rng.uniform(132, 164)
    pen.rectangle((-6, 50, end, 158), blue)
    for y in range(72, 156, 16): pen.line((0, y, end, y), mix(blue, BLACK, 0.12), 2)
    pen.rectangle((10, 2, 28, 40), (150, 84, 66))
    pen.polygon([(-20, 58), (6, 14), (end - 22, 14), (end + 12, 58)], (160, 72, 50))
    pen.polygon([(-20, 58), (-8, 38), (end - 4, 38), (end + 12, 58)], (146, 62, 44))
    pen.line((0, 58, end + 12, 58), WHITE, 5)
    for x in (8, 54, end - 32): window(pen, x, 74, 22, 30, (206, 232, 246))
    for x in range(2, S, 18):
        pen.polygon([(x, 162), (x, 140), (x + 5, 133), (x + 10, 140), (x + 10, 162)], WHITE)
    pen.rectangle((0, 145, S, 150), WHITE)
    return picture


def rug(rng):
    """A purple rug with a golden border among dark trunks."""
    picture, pen = canvas((0, (20, 40, 40)), (128, (58, 92, 70)), (132, (56, 66, 40)), (S, (38, 42, 26)))
    for near, count in ((0.0, 5), (1.0, 4)):  # trunks, the nearest last and darkest
        for x in spread(rng, count, -10, S + 10):
            w, foot = 5 + 5 * near, 130 + 10 * near
            bark = mix((66, 90, 74), (54, 40, 34), near)
            pen.rectangle((x - w, 0, x + w, foot), bark)
            pen.polygon([(x - w, foot - 12), (x + w, foot - 12), (x + w * 2, foot), (x - w * 2, foot)], bark)
    for x in (10, 182):
        for angle in (-2.5, -1.9, -1.25, -0.65): leaf(pen, x, 148, 32, angle, 11, vary(rng, (74, 120, 60)))
    purple = vary(rng, (138, 56, 180), 0.15)
    for d, colour in ((0, purple), (4, (236, 196, 96)), (10, mix(purple, WHITE, 0.12))):
        far, near, top, low = 16 + d, 1.6 * d, 140 + d / 2, 188 - d
        pen.polygon([(far, top), (S - far, top), (S - near, low), (near, low)], colour)
    return picture


def wheat(rng):
    """Soft golden rows up to the horizon, and large ears at both sides."""
    sky = rng.uniform(56, 70)
    picture, pen = canvas((0, (86, 164, 226)), (sky, (222, 236, 238)), (S, (222, 236, 238)))
    clouds(pen, rng, 36)
    for row in range(5):
        gold = mix((246, 208, 100), (196, 138, 40), row / 4)
        hills(pen, rng, sky + 5 + 6 * row * (row + 1), 4, gold)
    husk = (0, 0), (0.14, 1), (0.3, 1.2), (0.45, 0.9), (0.6, 1.2), (0.75, 0.9), (0.9, 1.1), (1, 0.5)
    places = [(50, 20), (34, 46), (18, 8), (4, 58)]
    places += [(S - x, y + 8) for x, y in places]
    for (x, y), (u, v, lean) in zip(places, rng.random((8, 3))):
        x, y = x + 8 * u - 4, sky + 10 + y + 8 * v
        lean = (0.24 if x < 96 else -0.24) * (lean - 0.9)

        def at(u, v):  # v runs down the ear, u across
            return x + lean * 46 * v + u * 10, y + 46 * v

        pen.line((*at(0, 0.9), *at(0, 3)), (170, 118, 36), 4)
        pen.polygon([at(u, v) for v, u in husk] + [at(-u, v) for v, u in husk[::-1]], (253, 224, 128))
        pen.polygon([at(u, v) for v, u in husk] + [at(0.1, 1)], (236, 186, 76))
    return picture


def autumn(rng):
    """A tree whose crown fills the top; a few large leaves fall."""
    picture, pen = canvas((0, (168, 206, 226)), (120, (250, 238, 206)), (S, (250, 238, 206)))
    hills(pen, rng, 126, 5, (214, 194, 112))
    hills(pen, rng, 146, 4, (176, 168, 80))
    x = rng.uniform(16, 24)
    bark, shades = (98, 62, 42), ((238, 120, 24), (250, 160, 38), (222, 84, 30))
    pen.polygon([(x - 9, 50), (x + 9, 50), (x + 10, 142), (x + 19, 160), (x - 19, 160), (x - 10, 142)], bark)
    pen.line((x, 92, x + 46, 44), bark, 8)
    for i, (u, v) in enumerate(rng.random((13, 2))):  # the crown, full on the tree and thinner along the top
        u = (i % 7 + 0.6 * u) / 7
        y = 8 if i > 6 else 34 * (1 - u) + 10
        disc(pen, x - 26 + 190 * u, y + 10 * v, 24 - 4 * u, 20 - 6 * u, shades[i % 3])
    leaves = (30, 74), (170, 108), (140, 92), (184, 124), (20, 160), (56, 172), (150, 166), (176, 178)
    for i, ((x, y), w) in enumerate(zip(leaves, rng.random(8))):
        angle = 6.3 * ((i * 0.37 + 0.3 * w) % 1) if i < 4 else 0.5 - w  # half of them have fallen
        leaf(pen, x + 14 * w - 7, y, 20, angle, 13, shades[i % 3])
    return picture


def tower(rng):
    """An iron tower at the end of a park."""
    skies = (((120, 182, 232), (236, 240, 240)), ((140, 160, 214), (252, 214, 196)),
             ((170, 200, 226), (250, 240, 214)))
    top, low = skies[rng.integers(3)]
    picture, pen = canvas((0, top), (140, low), (S, low))
    clouds(pen, rng, 60, mix(low, WHITE, 0.6))
    for i, x in enumerate(range(-6, S + 20, 26)):
        disc(pen, x, 148, 20, rng.uniform(14, 20), mix((96, 150, 88), BLACK, 0.1 * (i % 2)))
    hills(pen, rng, 150, 1, (134, 188, 96))
    pen.polygon([(86, 150), (106, 150), (154, S), (38, S)], (234, 216, 180))
    iron = vary(rng, (116, 86, 70))
    x, peak = rng.uniform(26, 31), rng.uniform(2, 8)

    def at(u, v):  # v runs down, u across from -1 to 1
        return x + u * (2.5 + 25 * v ** 2.2), peak + v * (156 - peak)

    upper, lower = (0, 0.2, 0.4, 0.58), (0.56, 0.7, 0.8, 0.9, 1)
    pen.polygon([at(-1, v) for v in upper] + [at(1, v) for v in upper[::-1]], iron)
    for side in (-1, 1):  # the legs
        pen.polygon([at(side, v) for v in lower] + [at(side * 0.4, v) for v in lower[::-1]], iron)
    for v in (0.36, 0.47):  # lattice
        pen.polygon([at(0, v - 0.05), at(0.5, v), at(0, v + 0.05), at(-0.5, v)], mix(iron, WHITE, 0.4))
    for v, w in ((0.3, 4), (0.57, 6), (0.78, 8)):
        pen.line((*at(-1.15, v), *at(1.15, v)), mix(iron, BLACK, 0.15), w)
    pen.arc((x - 15, 126, x + 15, 168), 180, 360, iron, 5)
    pen.line((x, peak - 8, x, peak), iron, 3)
    return picture


def water(rng):
    """Open water up to a near horizon, with long ripples and rings around the subject."""
    shore = rng.integers(18, 27)
    picture, pen = canvas((0, (196, 226, 246)), (shore, (236, 244, 244)),
                          (shore + 1, (96, 184, 224)), (90, (44, 134, 206)), (S, (20, 90, 168)))
    for row, y in enumerate((36, 50, 68, 90, 116, 146)):  # ripples, longer and wider when near
        long = 44 + 10 * row
        light = mix((150, 212, 236), (66, 146, 214), row / 5)
        for x in np.arange(-long * rng.random(), S, long * 1.7):
            leaf(pen, x, y + shore - 22, long, 0, 5 + row, light)
    # Around whoever floats here:
    for r, light in ((98, (58, 140, 208)), (84, (104, 182, 228)), (70, (170, 218, 242))):
        disc(pen, 96, 166, r, r * 0.28, light)
        disc(pen, 96, 166, r - 5, r * 0.28 - 4, (28, 106, 184))
    return picture


def milk(rng):
    """White waves up to the horizon, with splashes around the subject."""
    picture, pen = canvas((0, (150, 200, 236)), (36, (214, 234, 244)), (S, (214, 234, 244)))
    cream, shade, line = (255, 254, 249), (242, 234, 218), (222, 210, 190)
    for row, a in enumerate(pi * rng.random(4)):  # rounded troughs between pointed crests, row before row
        y, length, high = 38 + 38 * row, 52 + 10 * row, 9 + 2 * row
        crest = [(x, y - high * (1 - 1.6 * abs(sin(x / length * pi / 2 + a)))) for x in range(-4, S + 5, 4)]
        pen.line(crest, line, 4)
        for i in range(3):
            wave = [(x, py + i * (9 + row)) for x, py in crest]
            pen.polygon([(-4, S), *wave, (S + 4, S)], mix(cream, shade, i / 2))
    for rx, ry, colour in (94, 30, line), (90, 27, cream), (76, 20, shade):
        disc(pen, 96, 166, rx, ry, colour)
    for i, (u, v) in enumerate(rng.random((6, 2))):  # a crown of splashes leaps up around whoever floats here
        side, near = (-1, 1)[i % 2], i // 2
        x, lean = 96 + side * (86 - 14 * near), side * (0.45 - 0.16 * near)
        high = 40 + 16 * u + (0 if near else 10)
        for grow, colour in ((3, line), (0, cream)):
            leaf(pen, x, 168 + 8 * near, high + grow, lean - pi / 2, 26 + 2 * grow, colour)
            r = 5 + 2 * v + grow
            disc(pen, x + 1.4 * high * sin(lean), 162 - 1.4 * high * cos(lean), r, r + 1, colour)
    return picture


def sunflowers(rng):
    """Three large sunflowers on either side of a meadow."""
    picture, pen = canvas((0, (140, 206, 240)), (60, (220, 240, 230)), (S, (220, 240, 230)))
    hills(pen, rng, 64, 5, (124, 190, 80))
    hills(pen, rng, 104, 5, (104, 172, 68))
    hills(pen, rng, 152, 5, (84, 152, 58))
    places = (22, 36), (172, 44), (38, 92), (154, 100), (16, 142), (178, 150)
    for (x, y), (u, v, w) in zip(places, rng.random((6, 3))):
        x, y, r = x + 10 * u - 5, y + 10 * v - 5, 23 + 4 * w
        pen.line((x, y, x + 4, y + 90), (62, 128, 46), 6)
        for angle in (0.5, pi - 0.5): leaf(pen, x + 2, y + 44, 24, angle, 14, (66, 136, 50))
        for i in range(8):
            leaf(pen, x, y, r, pi / 4 * i + u, r * 0.9, (255, 206, 50) if i % 2 else (250, 194, 40))
        disc(pen, x, y, r * 0.46, r * 0.46, (126, 76, 36))
    return picture


def road(rng):
    """A winding dirt road with two ruts between green hills."""
    picture, pen = canvas((0, (110, 182, 234)), (84, (226, 240, 242)), (S, (226, 240, 242)))
    clouds(pen, rng, 50)
    hills(pen, rng, 80, 6, (136, 182, 136))
    hills(pen, rng, 92, 3, (126, 188, 82))
    swing = rng.uniform(100, 125)
    earth = vary(rng, (168, 120, 76), 0.1)
    edge, rut = mix(earth, WHITE, 0.35), mix(earth, BLACK, 0.17)

    def at(u, t):  # t runs from far to near, u across
        return 96 - swing * sin(pi * t) * (1 - t) + u * (4 + 92 * t ** 1.2), 90 + 103 * t

    steps = np.linspace(0, 1, 13)
    for a, b, colour in ((-1.1, 1.1, edge), (-1, 1, earth), (-0.74, -0.42, rut), (0.42, 0.74, rut)):
        pen.polygon([at(a, t) for t in steps] + [at(b, t) for t in steps[::-1]], colour)
    for x, y, r in ((12, 160, 13), (182, 132, 16)): disc(pen, x, y, r, r * 0.7, (86, 150, 66))  # bushes
    return picture


def night(rng):
    """Moon and stars above dark hills."""
    picture, pen = canvas((0, (12, 16, 58)), (130, (48, 66, 136)), (S, (48, 66, 136)))
    for x, y in zip(spread(rng, 13), 118 * rng.permutation(spread(rng, 13, 0, 1))):
        for r, light in ((3.8, 0.3), (2.6, 1)):
            disc(pen, x, y, r, r, mix((64, 76, 140), (250, 246, 220), light))
    x, y, r = rng.uniform(28, 36), rng.uniform(30, 40), rng.uniform(22, 26)
    for i in range(4, 0, -1):
        disc(pen, x, y, r + 4 * i, r + 4 * i, mix((44, 56, 118), (150, 156, 190), 0.9 - 0.2 * i))
    disc(pen, x, y, r, r, (255, 246, 206))
    for dx, dy in ((-0.3, -0.3), (0.3, 0.3)): disc(pen, x + r * dx, y + r * dy, 5, 5, (236, 224, 178))
    hills(pen, rng, 124, 12, (30, 42, 94))
    for x in (*spread(rng, 1, 0, 40), *spread(rng, 2, 148, 196)):
        fir(pen, x, 160, rng.uniform(46, 66), (16, 26, 58))
    hills(pen, rng, 156, 6, (20, 30, 66))
    return picture


PAINTERS = {painter.__name__: painter for painter in (
    plain, jungle, snow, beach, cobblestone, fabric, wood, city, mountain, house, rug, wheat, autumn, tower,
    water, milk, sunflowers, road, night)}


def scenery(context, rng):
    """A random picture of the context. Half of them are mirrored, so that nothing keeps to one
    side."""
    picture = PAINTERS[context](rng)
    return ImageOps.mirror(picture) if rng.random() < 0.5 else picture
