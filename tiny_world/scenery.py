"""Where a picture of the tiny world takes place: `scenery(context, rng)` paints one of the 19 contexts of world.py.

First the tools, then the shapes that several contexts share, then one short function per context, then the table that
finds them. A subject will cover the middle of the picture, so whatever tells a context apart is painted near the edges.
Everything is drawn 192 pixels wide, three times too large: reducing it later smooths the outlines.
"""
from colorsys import hsv_to_rgb
from functools import cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from tiny_world.pen import S, mix

# All numbers below are in the pixels of the S x S drawing, rows counted from the top.
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


# --- tools ------------------------------------------------------------------------------------------------------------

def vary(rng, colour, amount=0.1):
    """The same colour, a little lighter or darker."""
    return mix(colour, WHITE if rng.random() < 0.5 else BLACK, amount * rng.random())


def any_hue(rng, saturation, value):
    """A colour of any hue, with saturation and value between the given bounds."""
    return tuple(int(255 * c) for c in hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))


def canvas(*stops):
    """A picture whose rows run smoothly through the (row, colour) stops, and a pen to draw on it."""
    rows, colours = zip(*stops)
    column = np.stack([np.interp(np.arange(S), rows, channel) for channel in zip(*colours)], axis=1)
    picture = Image.fromarray(column[:, None].astype(np.uint8)).resize((S, S), Image.Resampling.NEAREST)
    return picture, ImageDraw.Draw(picture)


@cache
def noise(across, down):
    """Smooth chance for textures: 2S x 2S numbers around 0 with bumps of `across` x `down` pixels."""
    grid = np.random.default_rng(0).normal(size=(2 * S // down, 2 * S // across)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((2 * S, 2 * S), Image.Resampling.BICUBIC))


def bumps(rng, across, down, rows=S):
    """A random cut-out of `noise`: cheaper than fresh noise, and as varied to the eye."""
    x, y = rng.integers(0, S, 2)
    return noise(across, down)[y:y + rows, x:x + S]


def texture(picture, rng, across, down, strength, top=0):
    """Lightens and darkens everything below row `top` in bumps."""
    part = np.asarray(picture)[top:] + strength * bumps(rng, across, down, S - top)[..., None]
    picture.paste(Image.fromarray(part.clip(0, 255).astype(np.uint8)), (0, top))


# --- shapes -----------------------------------------------------------------------------------------------------------

def disc(pen, x, y, rx, ry, colour):
    """A filled ellipse round (x, y)."""
    pen.ellipse((x - rx, y - ry, x + rx, y + ry), colour)


def leaf(pen, x, y, length, angle, width, colour):
    """A pointed oval that starts at (x, y): a leaf, a petal, a blade. Angles run clockwise from the right."""
    c, s = cos(angle), sin(angle)
    outline = (0, 0), (0.2, 0.36), (0.5, 0.5), (0.8, 0.28), (1, 0), (0.8, -0.28), (0.5, -0.5), (0.2, -0.36)
    pen.polygon([(x + u * length * c - v * width * s, y + u * length * s + v * width * c) for u, v in outline], colour)


def frond(pen, x, y, length, angle, colour):
    """A palm leaf: leaflets on both sides of a rib that bends down under its weight."""
    for i in range(9):
        bend = angle + (0.09 * i if cos(angle) >= 0 else -0.09 * i)
        x, y = x + length / 9 * cos(bend), y + length / 9 * sin(bend)
        for side in (-1, 1):
            shade = mix(colour, BLACK, 0.1 + 0.1 * side)
            leaf(pen, x, y, length * (0.42 - 0.028 * i), bend + side * 0.9, length * 0.09, shade)


def hills(pen, rng, y, height, colour):
    """Rolling ground from row `y` (give or take `height`) to the bottom of the picture."""
    a, b = 2 * pi * rng.random(2)
    ridge = [(x, y - height * (0.7 * sin(x / 38 + a) + 0.3 * sin(x / 17 + b))) for x in range(-4, S + 5, 6)]
    pen.polygon([(-4, S), *ridge, (S + 4, S)], colour)


def clouds(pen, rng, low, colour=WHITE):
    """One cloud at each side, above row `low`."""
    for x, y, w in zip(rng.uniform((0, 130), (50, 190)), rng.uniform(14, low, 2), rng.uniform(9, 14, 2)):
        for dx, dy, r in ((-1.3, 0, 0.7), (1.3, 0, 0.7), (-0.5, -0.35, 0.9), (0.6, -0.2, 0.8), (0, 0.1, 0.7)):
            disc(pen, x + w * dx, y + w * dy, w * r, w * r * 0.62, colour)


def fir(pen, x, foot, height, colour, snow=None):
    """A fir of four tiers, each tipped with snow if `snow` is a colour."""
    pen.rectangle((x - 2, foot - height * 0.15, x + 2, foot), (84, 62, 50))
    for i in range(4):
        low, half, rise = foot - height * (0.1 + 0.21 * i), height * (0.3 - 0.058 * i), height * 0.34
        pen.polygon([(x - half, low), (x, low - rise), (x + half, low)], mix(colour, WHITE, 0.04 * i))
        if snow:
            edge = (-0.75, 0.22), (0, 1), (0.75, 0.22), (0.3, 0.4), (0, 0.2), (-0.3, 0.4)
            pen.polygon([(x + half * u, low - rise * v) for u, v in edge], snow)


def window(pen, x, y, w, h, glass):
    """A window with a white frame and a cross bar."""
    pen.rectangle((x - 2, y - 2, x + w + 2, y + h + 2), WHITE)
    pen.rectangle((x, y, x + w, y + h), glass)
    pen.line((x + w / 2, y, x + w / 2, y + h), WHITE, 2)
    pen.line((x, y + h / 2, x + w, y + h / 2), WHITE, 2)


# --- the contexts -----------------------------------------------------------------------------------------------------

def plain(rng):
    """A studio's paper backdrop in any soft hue, lit from the middle."""
    paper = any_hue(rng, (0.04, 0.38), (0.35, 1))
    dim = mix(paper, BLACK, 0.15)
    dark, _ = canvas((0, dim), (125, mix(paper, BLACK, 0.04)), (150, paper), (S, dim))
    light, _ = canvas((0, mix(paper, WHITE, 0.45)), (S, paper))
    left = 20 * rng.random()
    return Image.composite(dark, light, Image.radial_gradient("L").resize((S, S), box=(left, 20, left + 236, 256)))


def jungle(rng):
    """Trunks and lianas; leaves reach in from all sides."""
    picture, pen = canvas((0, (22, 66, 36)), (100, (88, 146, 62)), (150, (34, 84, 38)), (S, (14, 42, 22)))
    texture(picture, rng, 16, 20, 9)
    for x in (*rng.uniform(0, S, 4), *rng.uniform(4, 40, 2), *rng.uniform(152, 188, 2)):  # trunks and lianas
        pen.line([(x + 4 * sin(i / 2 + x), 16 * i) for i in range(10)], (66, 74, 40), 3)
    for i, (u, v, w, z) in enumerate(rng.random((24, 4))):  # leaves reach in from the left, the right and the top
        x, y, angle = ((-6, 190 * u, v - 0.5), (198, 190 * u, pi + v - 0.5), (190 * u, -8, 1 + 1.1 * v))[i % 3]
        green, length = mix((16, 78, 40), (92, 170, 58), w), 26 + 24 * z
        leaf(pen, x, y, length, angle, 15 + 9 * z, green)
        leaf(pen, x, y, length * 0.9, angle, 3, mix(green, (190, 220, 120), 0.5))
    for x, angle in ((-4, -0.9), (14, -1.25), (196, pi + 0.9), (178, pi + 1.25)):
        frond(pen, x, 196, rng.uniform(55, 85), angle, vary(rng, (30, 104, 44), 0.25))
    return picture


def snow(rng):
    """Snowy firs on white hills while it snows."""
    picture, pen = canvas((0, (158, 188, 220)), (110, (228, 236, 244)), (S, (228, 236, 244)))
    hills(pen, rng, 104, 9, (206, 220, 236))
    for x in (*rng.uniform(-4, 40, 3), *rng.uniform(152, 196, 3)):
        fir(pen, x, rng.uniform(122, 150), rng.uniform(70, 112), vary(rng, (44, 92, 88), 0.15), (250, 252, 255))
    hills(pen, rng, 138, 5, (238, 244, 250))
    hills(pen, rng, 164, 6, (250, 252, 255))
    for x, y, r in rng.random((60, 3)): disc(pen, S * x, S * y, 1.2 + 1.6 * r, 1.2 + 1.6 * r, WHITE)
    return picture


def beach(rng):
    """The sea, a strip of sand and a palm."""
    sea = rng.uniform(76, 92)
    picture, pen = canvas((0, (92, 178, 236)), (sea, (206, 236, 246)),
                          (sea + 1, (20, 128, 176)), (sea + 30, (96, 208, 206)))
    disc(pen, rng.uniform(150, 180), rng.uniform(16, 34), 12, 12, (255, 240, 150))
    for y, colour in ((30, WHITE), (35, (222, 188, 126)), (38, (250, 222, 158))): hills(pen, rng, sea + y, 3, colour)
    texture(picture, rng, 3, 3, 4, int(sea) + 42)
    x, bow = rng.uniform(10, 24), rng.uniform(6, 16)
    trunk = [(x + bow * sin(i / 5), 158 - 14 * i) for i in range(9)]
    pen.line(trunk, (146, 100, 60), 7)
    for angle in (-2.9, -2.2, -1.5, -0.7, 0):
        frond(pen, *trunk[-1], rng.uniform(38, 50), angle, vary(rng, (52, 150, 70)))
    return picture


def cobblestone(rng):
    """Old town houses above a pavement of round stones."""
    picture, pen = canvas((0, (96, 88, 82)), (S, (74, 70, 70)))
    walls = (226, 178, 104), (216, 132, 100), (236, 218, 180), (188, 96, 78), (206, 190, 150)
    shutters = (70, 110, 96), (120, 60, 50), (78, 92, 120)
    for x in range(-int(rng.integers(0, 40)), S, 54):  # a row of old town houses with shutters
        wall, shutter = vary(rng, walls[rng.integers(5)]), shutters[rng.integers(3)]
        pen.rectangle((x, 0, x + 51, 80), wall)
        pen.rectangle((x, 80, x + 53, 90), mix(wall, BLACK, 0.4))
        for wx, wy in ((x + 11, 6), (x + 33, 6), (x + 11, 46), (x + 33, 46)):
            pen.rectangle((wx - 7, wy - 2, wx + 16, wy + 24), shutter)
            window(pen, wx, wy, 9, 22, (84, 92, 104))
    y, h = 90, 10
    while y < S:  # nearer stones are larger
        for x in np.arange(-h * 1.5 * rng.random(), S, h * 1.5):
            w, stone = h * rng.uniform(1.3, 1.5), vary(rng, mix((138, 138, 144), (172, 158, 142), rng.random()), 0.18)
            pen.rounded_rectangle((x + 1, y + 1, x + w, y + h), h * 0.42, stone)
            disc(pen, x + w * 0.45, y + h * 0.38, w * 0.26, h * 0.18, mix(stone, WHITE, 0.3))
        y, h = y + h, h * 1.2
    return picture


def fabric(rng):
    """Light falls from one side on soft folds, so each is pale on one flank and deep pink on the other."""
    angle, period = rng.uniform(0.5, 1.1), rng.uniform(30, 44)
    y, x = np.mgrid[:S, :S].astype(np.float32)
    phase = (x * cos(angle) + y * sin(angle)) * (2 * pi / period) + 2.4 * bumps(rng, 64, 64)
    fold = (np.sin(phase) + 0.45 * bumps(rng, 24, 24)) * (0.65 + 0.35 * bumps(rng, 64, 96))
    deep, pale = np.float32((226, 96, 150)), np.float32((255, 200, 220))
    return Image.fromarray((deep + (pale - deep) * (0.5 + 0.42 * fold[..., None])).clip(0, 255).astype(np.uint8))


def wood(rng):
    """A floor of planks in front of a plain wall."""
    wall, plank = any_hue(rng, (0.06, 0.28), (0.72, 0.95)), mix((140, 84, 48), (216, 166, 106), rng.random())
    picture, pen = canvas((0, mix(wall, BLACK, 0.12)), (70, wall), (S, wall))
    at = lambda k, y: (96 + 11 * k * (1 + (y - 80) / 58), y)  # the planks run to a vanishing point
    for k in np.arange(-10, 11) + rng.random():
        tone, joint = vary(rng, plank, 0.22), rng.uniform(84, S)
        pen.polygon([at(k, 80), at(k + 1, 80), at(k + 1, S), at(k, S)], tone)
        for u in rng.random(3): pen.line((*at(k + u, 80), *at(k + u, S)), mix(tone, BLACK, 0.1))
        pen.line((*at(k, 80), *at(k, S)), mix(plank, BLACK, 0.5), 2)
        pen.line((*at(k, joint), *at(k + 1, joint)), mix(plank, BLACK, 0.5), 2)
    texture(picture, rng, 4, 24, 5, 80)
    pen.rectangle((0, 69, S, 80), mix(wall, WHITE, 0.6))
    pen.line((0, 81, S, 81), mix(plank, BLACK, 0.6), 3)
    return picture


def city(rng):
    """Towers with lit windows behind a street."""
    skies = ((96, 158, 220), (214, 228, 236)), ((98, 96, 168), (250, 186, 150)), ((120, 150, 190), (248, 220, 180))
    top, low = skies[rng.integers(3)]
    picture, pen = canvas((0, top), (140, low), (S, low))
    haze = mix(low, (70, 84, 120), 0.42)
    for x in range(-8, S, 20): pen.rectangle((x, rng.uniform(20, 80), x + 18, S), vary(rng, haze))
    for x in np.arange(-rng.uniform(0, 16), S, 34):  # near towers are dark, with lit windows
        y, columns = rng.uniform(24, 84), int(rng.integers(3, 5))
        tower = vary(rng, mix((56, 82, 108), (92, 76, 104), rng.random()), 0.15)
        pen.rectangle((x, y, x + 8 * columns + 2, S), tower)
        pen.line((x + 13, y - 14 * rng.random(), x + 13, y), tower, 3)
        for (i, j), u in np.ndenumerate(rng.random((int(144 - y) // 10, columns))):
            wx, wy = x + 3 + 8 * j, y + 6 + 10 * i
            pen.rectangle((wx, wy, wx + 4, wy + 5), (255, 222, 120) if u < 0.6 else mix(tower, WHITE, 0.3))
    pen.rectangle((0, 150, S, S), (122, 122, 130))
    pen.rectangle((0, 150, S, 156), (176, 176, 180))
    for x in range(-40, S, 32): pen.polygon([(x, 176), (x + 16, 176), (x + 12, 183), (x - 6, 183)], (240, 238, 228))
    return picture


def mountain(rng):
    """Three snow-capped peaks behind firs and a meadow."""
    picture, pen = canvas((0, (84, 156, 226)), (120, (212, 232, 244)), (S, (212, 232, 244)))
    clouds(pen, rng, 30)
    for x in (96, 18, 174):
        x, y, half, snow = x + rng.uniform(-14, 14), rng.uniform(12, 44), rng.uniform(62, 78), rng.uniform(0.34, 0.46)
        at = lambda u, v: (x + u * v * half, y + v * (140 - y))  # v runs down from the peak, u across from -1 to 1
        rock = vary(rng, (112, 116, 138))
        pen.polygon([at(0, 0), at(-1, 1), at(1, 1)], rock)
        pen.polygon([at(0, 0), at(0.2, 0.4), at(-0.1, 0.7), at(0.1, 1), at(1, 1)], mix(rock, (40, 44, 84), 0.35))
        for colour, zigzag in ((WHITE, ((-1, 1), (-0.6, 0.8), (-0.3, 1.25), (0.1, 0.9))),
                               ((206, 218, 238), ((0.1, 0.9), (0.45, 1.2), (0.7, 0.8), (1, 1)))):
            pen.polygon([at(0, 0), *(at(u, snow * v) for u, v in zigzag)], colour)
    hills(pen, rng, 128, 7, (58, 112, 84))
    for x in rng.uniform(0, S, 12): fir(pen, x, rng.uniform(134, 142), rng.uniform(18, 28), (40, 92, 70))
    hills(pen, rng, 144, 5, (112, 172, 84))
    texture(picture, rng, 6, 3, 5, 140)
    return picture


def house(rng):
    """A blue wooden house behind a white fence."""
    picture, pen = canvas((0, (148, 208, 240)), (140, (232, 244, 240)), (S, (232, 244, 240)))
    clouds(pen, rng, 40)
    for x in rng.uniform(165, 192, 2): disc(pen, x, rng.uniform(100, 124), 22, 26, vary(rng, (104, 166, 82)))
    hills(pen, rng, 146, 2, (126, 184, 88))
    blue, end = mix((48, 98, 184), (84, 148, 224), rng.random()), rng.uniform(128, 166)
    pen.rectangle((-6, 50, end, 156), blue)
    for y in range(64, 156, 8): pen.line((0, y, end, y), mix(blue, BLACK, 0.12))
    pen.rectangle((12, 6, 26, 40), (150, 84, 66))
    pen.polygon([(-20, 56), (6, 16), (end - 22, 16), (end + 10, 56)], (152, 66, 46))
    for y in range(24, 56, 8): pen.line((0, y, end - 35 + 0.8 * y, y), (124, 50, 36), 2)
    pen.line((0, 57, end + 10, 57), WHITE, 4)
    for x in (8, 44, 80, end - 24): window(pen, x, 68, 17, 22, (206, 232, 246))
    pen.rectangle((5, 104, 29, 157), (152, 66, 46), WHITE, 3)
    for x in range(40, S, 10): pen.polygon([(x, 158), (x, 142), (x + 3, 138), (x + 6, 142), (x + 6, 158)], WHITE)
    pen.rectangle((40, 146, S, 149), WHITE)
    texture(picture, rng, 4, 4, 5, 159)
    return picture


def rug(rng):
    """A purple rug with golden borders among dark trunks."""
    picture, pen = canvas((0, (18, 34, 34)), (128, (52, 82, 62)), (132, (52, 60, 36)), (S, (38, 40, 24)))
    for near, xs in zip((0.0, 0.4, 1.0), rng.uniform(-4, S + 4, (3, 6))):  # trunks, the nearest last and darkest
        for x in xs:
            w, foot, bark = 3 + 5 * near, 128 + 12 * near, mix((58, 78, 64), (52, 36, 28), near)
            pen.rectangle((x - w, 0, x + w, foot - 4), bark)
            pen.polygon([(x - w, foot - 10), (x + w, foot - 10), (x + w * 2, foot), (x - w * 2, foot)], bark)
            pen.line((x - w / 2, 0, x - w / 2, foot), mix(bark, (170, 180, 130), 0.22), 2)
    for x in (*rng.uniform(0, 40, 3), *rng.uniform(152, 192, 3)):
        for angle in (-2.4, -1.9, -1.3, -0.8): leaf(pen, x, 146, 20, angle, 5, (66, 104, 52))
    purple = vary(rng, (132, 52, 172), 0.18)
    for x in range(3, S, 7): pen.line((x, 180, x - 1, 189), (226, 196, 232), 3)
    for d, colour in ((0, purple), (4, (236, 196, 96)), (7, mix(purple, BLACK, 0.25)), (11, mix(purple, WHITE, 0.12))):
        far, near, top, low = 20 + d, 2 + 1.6 * d, 144 + d / 2, 180 - d
        pen.polygon([(far, top), (S - far, top), (S - near, low), (near, low)], colour)
    return picture


def wheat(rng):
    """Ears of wheat up to the horizon."""
    sky = rng.uniform(56, 70)
    picture, pen = canvas((0, (86, 164, 226)), (sky, (222, 236, 238)), (sky + 1, (232, 186, 80)), (S, (142, 88, 20)))
    clouds(pen, rng, 36)
    hills(pen, rng, sky + 4, 4, (238, 196, 88))
    texture(picture, rng, 3, 12, 12, int(sky) + 10)
    husk = (0, 0), (0.2, 1), (0.28, 0.6), (0.45, 1.3), (0.53, 0.7), (0.7, 1.4), (0.78, 0.7), (1, 0.6)
    for row in range(5):  # the nearest ears are the largest
        h, xs = 12 + 8 * row, np.arange(-6, S + 6, 9 + 7 * row)
        for x, y, lean, light in zip(xs + rng.uniform(-4, 4), *rng.random((3, len(xs)))):
            y, lean, gold = sky + 2 + 19 * row + 14 * y, 0.5 * lean - 0.25, mix((222, 166, 52), (252, 222, 124), light)
            at = lambda u, v: (x + lean * h * v + u * h * 0.18, y + h * v)
            pen.line((*at(0, 1), *at(0, 3)), (176, 124, 40), 2)
            pen.polygon([at(u, v) for v, u in husk] + [at(-u, v) for v, u in husk[::-1]], gold)
            pen.line((*at(0, -0.4), *at(0, 1)), mix(gold, (140, 84, 16), 0.6))
    return picture


def autumn(rng):
    """A tree whose crown fills the top; its leaves fall."""
    picture, pen = canvas((0, (168, 206, 226)), (120, (250, 238, 206)), (S, (250, 238, 206)))
    hills(pen, rng, 126, 5, (206, 186, 104))
    hills(pen, rng, 142, 4, (160, 162, 72))
    x, bark, shades = rng.uniform(14, 24), (98, 62, 42), ((238, 120, 24), (250, 160, 38), (214, 72, 28), (252, 196, 64))
    pen.polygon([(x - 8, 60), (x + 8, 60), (x + 9, 140), (x + 17, 158), (x - 17, 158), (x - 9, 140)], bark)
    pen.line((x, 92, x + 46, 44), bark, 6)
    for u, v, w in rng.random((70, 3)):  # the crown, full on the tree and thinning out along the top
        disc(pen, x - 24 + 150 * u * u, 70 * v * (1 - 0.7 * u * u) - 2, 7 + 6 * w, 6 + 5 * w, shades[int(4 * w)])
    for i, (u, v, w) in enumerate(rng.random((75, 3))):  # two thirds of the leaves lie on the ground, the rest fall
        leaf(pen, S * u, 146 + 46 * v if i < 50 else 40 + 110 * v, 8 + 4 * w, 30 * v, 5.5, shades[int(4 * w)])
    return picture


def tower(rng):
    """An iron tower at the end of a park."""
    skies = ((120, 182, 232), (236, 240, 240)), ((140, 160, 214), (252, 214, 196)), ((170, 200, 226), (250, 240, 214))
    top, low = skies[rng.integers(3)]
    picture, pen = canvas((0, top), (140, low), (S, low))
    clouds(pen, rng, 60, mix(low, WHITE, 0.6))
    for x in range(-6, S, 13): disc(pen, x, 146, 12, rng.uniform(9, 15), vary(rng, (86, 138, 80), 0.15))
    hills(pen, rng, 150, 1, (128, 182, 92))
    pen.polygon([(88, 150), (104, 150), (150, S), (42, S)], (234, 216, 180))
    iron, x, peak = vary(rng, (112, 82, 66)), rng.uniform(24, 30), rng.uniform(4, 12)
    at = lambda u, v: (x + u * (2 + 25 * v ** 2.3), peak + v * (154 - peak))  # v runs down, u across from -1 to 1
    pen.polygon([at(u, v) for u, vs in ((-1, (0, 0.2, 0.4, 0.6)), (1, (0.6, 0.4, 0.2, 0))) for v in vs], iron)
    for side in (-1, 1):
        legs = (1, (0.6, 0.7, 0.8, 0.9, 1)), (0.42, (1, 0.9, 0.8, 0.7, 0.6))
        pen.polygon([at(side * u, v) for u, vs in legs for v in vs], iron)
        for v in np.arange(0.22, 0.98, 0.08):  # lattice
            pen.line((*at(side * 0.9, v), *at(side * 0.5, v + 0.07)), mix(iron, WHITE, 0.4))
    for v, w in ((0.3, 3), (0.55, 4), (0.78, 6)): pen.line((*at(-1.15, v), *at(1.15, v)), mix(iron, BLACK, 0.15), w)
    pen.arc((x - 15, 124, x + 15, 164), 180, 360, iron, 4)
    pen.line((x, peak - 8, x, peak), iron, 2)
    return picture


def water(rng):
    """Open water up to a near horizon, with rings around the subject."""
    shore = rng.integers(18, 27)
    picture, pen = canvas((0, (186, 220, 244)), (shore, (232, 242, 244)),
                          (shore + 1, (92, 178, 220)), (90, (40, 128, 200)), (S, (18, 84, 160)))
    texture(picture, rng, 48, 6, 9, shore + 1)
    for u, v, w in rng.random((70, 3)):  # wavelets, wider when near
        x, y, half = S * u, 32 + 160 * v, 4 + 16 * v * (0.5 + w)
        pen.arc((x - half, y - half / 4, x + half, y + half / 3), 200, 340, mix((60, 150, 214), (214, 240, 250), w), 2)
    for r in (54, 68, 83, 99):  # rings around whoever floats here
        for start, end in (20, 160), (190, 345):
            turn, light = rng.uniform(-14, 14), mix((232, 246, 252), (80, 160, 216), (r - 54) / 70)
            pen.arc((96 - r, 160 - r * 0.3, 96 + r, 160 + r * 0.3), start + turn, end + turn, light, 3)
    return picture


def milk(rng):
    """White waves up to the horizon, with splashes around the subject."""
    picture, pen = canvas((0, (150, 200, 236)), (36, (214, 234, 244)), (S, (214, 234, 244)))
    cream, shade, line = (255, 254, 249), (240, 231, 213), (210, 195, 172)
    for row, a in enumerate(2 * pi * rng.random(5)):  # rounded troughs between pointed crests, row before row
        y, length, high = 36 + 30 * row, 40 + 8 * row, 8 + 2 * row
        crest = [(x, y - high * (1 - 1.6 * abs(sin(x / length * pi / 2 + a)))) for x in range(-4, S + 5, 4)]
        pen.line(crest, line, 3)
        for i in range(4):
            pen.polygon([(-4, S), *((x, py + i * (5 + row)) for x, py in crest), (S + 4, S)], mix(cream, shade, i / 3))
    pools = (92, 30, line), (88, 27, cream), (72, 20, shade), (66, 17, cream)
    for rx, ry, colour in pools: disc(pen, 96, 164, rx, ry, colour)
    for i, (u, v) in enumerate(rng.random((10, 2))):  # a crown of splashes leaps up around whoever floats here
        out = (-1, 1)[i % 2] * (54 + 26 * u)
        x, y, tip, r = 96 + out, 164, 96 + out * 1.14, 3 + 3 * v
        top = y - 24 - 44 * v * u
        for grow, colour in ((2, line), (0, cream)):
            pen.polygon([(x - 11 - grow, y), (tip - r - grow, top), (tip + r + grow, top), (x + 11 + grow, y)], colour)
            disc(pen, tip, top, r + grow, r + grow, colour)
            disc(pen, tip + out * 0.06, top - 16 - 8 * u, r * 0.8 + grow, r + grow, colour)
    return picture


def sunflowers(rng):
    """Sunflowers left and right of a meadow."""
    picture, pen = canvas((0, (140, 206, 240)), (60, (220, 240, 230)), (61, (112, 180, 70)), (S, (54, 128, 44)))
    hills(pen, rng, 64, 5, (120, 186, 76))
    texture(picture, rng, 4, 14, 9, 76)
    for x, y, w in rng.random((60, 3)):
        leaf(pen, S * x, 110 + 90 * y, 16 + 12 * y, -pi / 2 + w - 0.5, 4, mix((48, 122, 40), (140, 200, 84), w))
    places = (12, 34), (180, 46), (30, 78), (166, 92), (8, 120), (184, 138), (28, 160), (162, 172)
    for (x, y), (u, v, w) in zip(places, rng.random((8, 3))):
        x, y, r = x + 12 * u - 6, y + 16 * v - 8, 14 + 5 * w
        pen.line((x, y, x + 4, y + 80), (62, 128, 46), 4)
        for angle in (0.5, pi - 0.5): leaf(pen, x + 2, y + 36, 18, angle, 10, (74, 148, 54))
        for i in range(12): leaf(pen, x, y, r, pi / 6 * i + u, r * 0.5, (255, 206, 36) if i % 2 else (244, 178, 20))
        disc(pen, x, y, r * 0.46, r * 0.46, (100, 60, 28))
    return picture


def road(rng):
    """A winding dirt road with two ruts between green hills."""
    picture, pen = canvas((0, (110, 182, 234)), (84, (226, 240, 242)), (S, (226, 240, 242)))
    clouds(pen, rng, 50)
    hills(pen, rng, 80, 6, (132, 178, 130))
    hills(pen, rng, 90, 2, (126, 188, 82))
    texture(picture, rng, 8, 4, 5, 94)
    swing, earth = rng.uniform(100, 125), vary(rng, (164, 116, 72), 0.12)
    at = lambda u, t: (96 - swing * sin(pi * t) * (1 - t) + u * (3 + 90 * t ** 1.3), 90 + 103 * t)  # t: far to near
    steps, rut = np.linspace(0, 1, 15), mix(earth, BLACK, 0.2)
    for a, b, colour in ((-1.06, 1.06, mix(earth, WHITE, 0.3)), (-1, 1, earth), (-0.7, -0.42, rut), (0.42, 0.7, rut)):
        pen.polygon([at(a, t) for t in steps] + [at(b, t) for t in steps[::-1]], colour)
    for u, v, w in rng.random((30, 3)):
        disc(pen, *at(2 * u - 1, 0.3 + 0.7 * v), 1 + 2 * v, 1 + v, mix(earth, WHITE if w < 0.5 else BLACK, 0.3))
    for x, y, h in ((156, 104, 14), (166, 112, 18), (182, 126, 24)): pen.line((x, y - h, x, y), (120, 90, 64), 3)
    return picture


def night(rng):
    """Moon and stars above dark hills."""
    picture, pen = canvas((0, (10, 14, 52)), (130, (44, 62, 130)), (S, (44, 62, 130)))
    for x, y, r in rng.random((55, 3)): disc(pen, S * x, 130 * y, 0.8 + r, 0.8 + r, mix((150, 160, 220), WHITE, r))
    x, y, r = rng.uniform(26, 36), rng.uniform(28, 40), rng.uniform(20, 25)
    for i in range(5, 0, -1): disc(pen, x, y, r + 3 * i, r + 3 * i, mix((40, 52, 112), (150, 156, 190), 0.9 - 0.17 * i))
    disc(pen, x, y, r, r, (255, 246, 206))
    for dx, dy in ((-0.3, -0.3), (0.35, 0.1), (-0.1, 0.45)): disc(pen, x + r * dx, y + r * dy, 4, 4, (232, 218, 170))
    hills(pen, rng, 124, 12, (28, 38, 88))
    for x in (*rng.uniform(0, 40, 2), *rng.uniform(152, 192, 3)): fir(pen, x, 158, rng.uniform(30, 54), (14, 22, 52))
    hills(pen, rng, 154, 6, (18, 28, 62))
    return picture


PAINTERS = {painter.__name__: painter for painter in (
    plain, jungle, snow, beach, cobblestone, fabric, wood, city, mountain, house, rug, wheat, autumn, tower, water,
    milk, sunflowers, road, night)}


def scenery(context, rng):
    """A random picture of the context. Half of them are mirrored, so that nothing keeps to one side."""
    picture = PAINTERS[context](rng)
    return ImageOps.mirror(picture) if rng.random() < 0.5 else picture
