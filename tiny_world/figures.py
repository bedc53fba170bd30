"""The subject of a picture: one of the 16 classes, what it wears and how it shines.

`figure(scene)` returns it on a transparent layer. What makes an individual comes from its
`Identity`, what changes from picture to picture from its `Pose`, and nothing from anywhere else.
Read pen.py, live.py, objects.py and gear.py first.
"""
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tiny_world.gear import backpack, boot, car, sneaker
from tiny_world.live import YELLOW, bear, cat, dog, duck, face, robot, shirt
from tiny_world.objects import bowl, can, candle, clock, teapot, vase
from tiny_world.pen import (DARK, GOLD, WHITE, Pen, S, edging, hoop, mirrored, oval, pad, rectangle,
                            relief, smooth, star)


# === accessories ==================================================================================

RAINBOW = ((222, 40, 44), (248, 146, 30), (250, 222, 60), (62, 168, 76), (50, 110, 220), (136, 60, 178))


def scarf(p, x, y, w, drop=0.42, h=0.11):
    """A rainbow scarf around a neck of half width w, one end hanging down by `drop`."""
    end = x + 0.45 * w
    p.body(pad(end - 0.13, y - drop, end + 0.13, y, power=8), colour=RAINBOW[0])
    for k, colour in enumerate(RAINBOW):
        p.flat(rectangle(end - 0.13, y - drop * k / 6, end + 0.13, y - drop * (k + 1) / 6), colour)
    u = np.linspace(-1, 1, 13)
    low = np.stack([x + w * u, y - h + 0.12 * u ** 2], 1)
    high = np.stack([x + w * u, y + h + 0.10 * u ** 2], 1)
    p.body(np.concatenate([low, high[::-1]]), colour=RAINBOW[4])
    for k in range(12): p.flat([low[k], low[k + 1], high[k + 1], high[k]], RAINBOW[k % 6])


def red_hat(p, x, y, w):
    """A hat with a round crown, a ribbon and a brim, on a head of half width w that ends at
    (x, y)."""
    p.body(oval(x, y, 1.36 * w, 0.145), colour=(206, 26, 34))
    p.body(smooth(mirrored(x, (0, y - 0.08), (0.78 * w, y), (0.72 * w, y + 0.32), (0.3 * w, y + 0.5))),
           colour=(222, 36, 42))
    p.flat(hoop(x, y + 0.13, 0.77 * w, 0.09, 0.1), (120, 10, 24))


def santa_hat(p, x, y, w):
    """A pointed hat whose tip hangs down to the right."""
    p.body(smooth([(x - 0.86 * w, y), (x - 0.55 * w, y + 0.36), (x + 0.1 * w, y + 0.66),
                   (x + 0.75 * w, y + 0.52), (x + 1.12 * w, y + 0.22), (x + 0.74 * w, y + 0.3),
                   (x + 0.86 * w, y), (x, y - 0.06)]), colour=(214, 28, 38))
    p.body(pad(x - 1.04 * w, y - 0.13, x + 1.04 * w, y + 0.1, power=3), colour=WHITE)
    p.body(oval(x + 1.14 * w, y + 0.2, 0.15), colour=WHITE)


def top_hat(p, x, y, w, eye, r):
    """A black top hat, and the monocle that goes with it."""
    black, edge = (40, 38, 46), (128, 128, 142)
    crown = mirrored(x, (0, y - 0.07), (0.7 * w, y + 0.02), (0.74 * w, y + 0.56), (0, y + 0.6))
    p.body(oval(x, y, 1.2 * w, 0.13), colour=black, edge=edge)
    p.body(smooth(crown, steps=4), colour=black, edge=edge)
    p.flat(mirrored(x, (0, y), (0.68 * w, y + 0.06), (0.69 * w, y + 0.2)), (150, 30, 50))
    ex, ey = eye
    p.line(oval(ex, ey, r), GOLD, 0.05, closed=True)
    p.line([(ex + 0.8 * r, ey - 0.6 * r), (ex + r, ey - 2.2 * r)], GOLD, 0.035)


def pink_glasses(p, x, w, eyes, r):
    """Glasses of radius r, unless the eyes are too close together for that; the arms end at the
    sides of the head."""
    (ax, ay), (bx, by) = eyes
    r = min(r, 0.5 * (bx - ax) - 0.02)
    arms = [[(ax - r, ay), (x - 0.98 * w, ay + 0.05)], [(bx + r, by), (x + 0.98 * w, by + 0.05)],
            [(ax + r, ay + 0.03), (bx - r, by + 0.03)]]
    for colour, wide in ((DARK, 0.15), ((255, 62, 160), 0.095)):
        for arm in arms: p.line(arm, colour, wide)
        for ex, ey in eyes: p.line(oval(ex, ey, r, power=2.6), colour, wide, closed=True)


def dress(p, fit):
    """What is worn on top, where the figure's `fit` says or, on a cube, where the box says."""
    neck, head = fit.neck, fit.head
    if p.cube:
        x, y = p.front.mean(0)
        w = 0.6
        neck = (x, y - 0.72 * w, w + 0.05, 0.24)
        head = (*p.top(0.5, 0.45), 0.85 * w)
        if p.worn == "yellow shirt":  # other figures have it on already, below their heads and arms
            p.body(edging(p.side[3], p.side[2], 0.45), colour=YELLOW, lit=0.85, puff=0.3)
            shirt(p, rectangle(x - w, y - w, x + w, y - w + 0.45), collar=(x, y - w + 0.45, 0.25))
    if p.worn == "rainbow scarf": scarf(p, *neck)
    if p.worn == "red hat": red_hat(p, *head)
    if p.worn == "santa hat": santa_hat(p, *head)
    if p.worn == "black top hat": top_hat(p, *head, fit.eyes[1], fit.glasses)
    if p.worn == "pink glasses": pink_glasses(p, head[0], head[2], fit.eyes, fit.glasses)


# === finishes =====================================================================================

def shiny(layer, rng):
    """Hard white highlights along the edges that face the light, and four sparkles."""
    alpha = layer.getchannel("A")
    lit = relief(alpha, 4)[1]
    inside = np.asarray(alpha.reduce(3).filter(ImageFilter.MinFilter(5)), np.float32) / 255
    streaks = Image.fromarray((255 * np.clip((lit - 0.3) * 4, 0, 0.9) * inside).astype(np.uint8))
    rgb = layer.convert("RGB")
    rgb.paste((255, 255, 255), (0, 0), streaks.resize((S, S), Image.BILINEAR))
    layer = Image.merge("RGBA", (*rgb.split(), alpha))
    ctx = ImageDraw.Draw(layer)
    x0, y0, x1, y1 = alpha.getbbox()
    for u, v, r in ((0.26, 0.26, 22), (0.8, 0.16, 15), (0.72, 0.66, 17), (0.12, 0.72, 12)):
        x = x0 + (x1 - x0) * (u + 0.1 * rng.random())
        y = y0 + (y1 - y0) * (v + 0.1 * rng.random())
        for size, colour in ((r, (255, 214, 90, 255)), (r * 0.8, (255, 255, 255, 255))):
            ctx.polygon(star(x, y, size, 4, 0.22).ravel().tolist(), fill=colour)
    return layer


def wet(layer, rng):
    """Darker, with drops on it and below it, and a puddle to stand in."""
    r, g, b, alpha = layer.split()
    r = r.point([int(v * 0.74) for v in range(256)])
    g = g.point([int(v * 0.78) for v in range(256)])
    b = b.point([int(v * 0.84 + 6) for v in range(256)])
    x0, _, x1, y1 = alpha.getbbox()
    under = Image.new("RGBA", (S, S), (110, 170, 220, 0))
    ctx = ImageDraw.Draw(under)
    grow = 0.1 * (x1 - x0)
    ctx.ellipse((x0 - grow, y1 - 15, x1 + grow, min(y1 + 9, S - 1)), fill=(96, 158, 214, 235))
    ctx.ellipse((x0 + grow, y1 - 5, x0 + 4 * grow, y1 + 2), fill=(214, 236, 250, 255))
    layer = Image.alpha_composite(under, Image.merge("RGBA", (r, g, b, alpha)))
    ctx = ImageDraw.Draw(layer)
    solid = np.asarray(alpha.filter(ImageFilter.MinFilter(9)))
    ys, xs = np.nonzero(solid[:y1 - 12])
    for k in rng.integers(len(xs), size=8) if len(xs) else ():  # a rope alone holds no drops
        x, y, s = int(xs[k]), int(ys[k]), 4.6 + 2 * rng.random()
        drop = [(x, y - 2.6 * s), (x + s, y - 0.2 * s), (x + 0.7 * s, y + 0.8 * s), (x, y + 1.1 * s),
                (x - 0.7 * s, y + 0.8 * s), (x - s, y - 0.2 * s)]
        ctx.polygon(drop, fill=(150, 208, 246, 255), outline=(38, 84, 140, 255))
        ctx.ellipse((x - 0.55 * s, y - 0.5 * s, x + 0.1 * s, y + 0.3 * s), fill=(255, 255, 255, 255))
    return layer


# === the whole ====================================================================================

DRAW = {draw.__name__: draw for draw in (cat, dog, face, bear, duck, robot, teapot, vase, bowl, can,
                                         candle, clock, boot, sneaker, backpack, car)}


def figure(scene, pen=None):
    """The subject of a scene on a transparent layer; `pen`: another one than a plain Pen(scene)."""
    pen = pen or Pen(scene)
    fit = DRAW[scene.identity.cls](pen, pen.traits)
    if fit: dress(pen, fit)  # objects wear nothing
    rng = np.random.default_rng([scene.seed, 1])
    if scene.finish and pen.layer.getbbox():  # nothing is there if all was left out (damage.py)
        return {"shiny": shiny, "wet": wet}[scene.finish](pen.layer, rng)
    return pen.layer
