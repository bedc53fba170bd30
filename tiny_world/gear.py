"""What one goes out with in the tiny world, from boot to car; the names are those of objects.py."""
import numpy as np

from tiny_world.objects import emblem
from tiny_world.pen import (CREAM, DARK, GOLD, GREY, STEEL, WHITE, bright, edging, hoop, ink, mirrored, mix,
                            oval, pad, pick, smooth, star, stroke)

TYRE, LAMP = (44, 44, 52), (255, 240, 170)


def boot(p, t):
    """A boot, its toe to the left."""
    # part: heel; eyes: eyelets and number of buckles; detail: pull tab; trim: sole colour; stance:
    # toe length; marking: toe cap; width, height: shaft
    kind = pick(t.kind, ("rain", "laced", "fur", "buckled"))
    sole = pick(t.trim, ((70, 52, 44), (226, 206, 170), (60, 60, 68), p.part or CREAM))
    lace = GREY if p.who.colour == "white" else WHITE
    inside = mix(p.first, DARK, 0.75)
    if p.cube:
        x, y, w = p.box()
        p.hole(0.78, inside)
        p.body(edging(p.side[3], p.side[2], 0.2), colour=sole, lit=0.85, puff=0.3)
        cap = [(x + 0.1, -0.9), (x + 0.14, -0.45), (x - 0.3, -0.34), (x - w - 0.1, -0.5),
               (x - w - 0.16, -0.9)]
        p.body(smooth(cap), colour=p.part if t.marking > 0.6 else None)
        p.body(pad(x - w - 0.2, -1.0, x + w, -0.8, power=8), colour=sole)
        top, front = y + w, x + 0.02 + 0.1 * p.turn
    else:
        x, w, top = 0.3, 0.38 + 0.08 * t.width, 0.6 + 0.24 * t.height
        toe, heel = -0.62 - 0.2 * t.stance, 0.1 + 0.14 * t.part
        if t.detail > 0.4:
            tab = [(x + w - 0.06, top - 0.05), (x + w + 0.1, top + 0.1), (x + w - 0.16, top + 0.1)]
            p.body(stroke(tab, 0.05), colour=p.second)
        p.body(pad(x + w - 0.52, -1.0, x + w + 0.06, -0.7, power=6), colour=sole)
        p.body(pad(toe - 0.06, -1.0 + heel * 0.5, x + w + 0.05, -0.72, power=5), colour=sole)
        p.body(smooth([(x - w, top), (x - w * 0.9, -0.05), (x - w - 0.1, -0.24), (toe + 0.2, -0.36),
                       (toe, -0.6), (toe, -0.8), (toe + 0.3, -0.82), (x, -0.82), (x + w, -0.82),
                       (x + w + 0.03, -0.5), (x + w * 0.9, -0.1), (x + w, top), (x, top + 0.03)]))
        if t.marking > 0.6:
            p.body(smooth([(toe + 0.36, -0.4), (toe + 0.16, -0.38), (toe, -0.6), (toe, -0.8),
                           (toe + 0.4, -0.81), (toe + 0.46, -0.6)]), colour=p.part)
        p.flat(oval(x, top, w * 0.96, 0.08), inside, edge=p.ink)
        front = x - 0.5 * w + 0.1 * p.turn
    if kind == "rain": p.paint(hoop(x, top - 0.04, w, 0.07, 0.18))
    elif kind == "laced":
        for k in range(3):
            y = top - 0.24 - 0.26 * k
            p.rope([(front - 0.2, y - 0.06), (front + 0.2, y + 0.06)], lace, 0.08)
            p.flat(oval(front + 0.22, y + 0.07, 0.045 + 0.03 * t.eyes), GOLD)
    elif kind == "fur":
        places = [(x + k * w * 0.95, top - 0.02 + 0.03 * (k * 4 % 2)) for k in (-1, -0.5, 0, 0.5, 1)]
        p.body(*[oval(*place, 0.17) for place in places], colour=(240, 232, 216))
    else:
        for down in ((0.3,) if t.eyes < 0.5 else (0.25, 0.6)):
            y = top - down
            p.body(pad(x - w * 1.02, y - 0.09, x + w * 1.02, y + 0.09), colour=mix(p.sign, DARK, 0.3))
            p.line(pad(front - 0.12, y - 0.1, front + 0.12, y + 0.1), GOLD, closed=True)


def sneaker(p, t):
    """A sneaker, its toe to the left."""
    # part: sole thickness; kind: sign on its side; eyes: number of laces; detail: toe cap; trim:
    # sole colour; stance: low or high top; marking: heel patch; width: toe bulk; height: of the
    # shoe
    sole = pick(t.trim, (WHITE, (226, 206, 170), (222, 224, 230), p.part or WHITE))
    white = p.who.colour == "white"  # on which white parts would be lost
    cap, lace = (STEEL, GREY) if white else (WHITE, WHITE)
    if p.cube:
        x, y, w = p.box()
        p.hole(0.72, mix(p.first, DARK, 0.75))
        p.body(edging(p.side[3], p.side[2], 0.2), colour=sole, lit=0.88, puff=0.3)
        if t.detail > 0.3: p.body(smooth(mirrored(x, (0.4, -0.85), (0.36, -0.46), (0, -0.36))), colour=cap)
        p.body(pad(x - w - 0.05, -1.0, x + w, -0.78, power=8), colour=sole)
        p.body(pad(x - 0.24, y + w - 0.3, x + 0.24, y + w + 0.24, power=3), lit=0.9)
        for k in range(3):
            b = y + w - 0.1 - 0.17 * k
            for s in (-1, 1): p.rope([(x - s * 0.3, b + 0.07), (x + s * 0.3, b - 0.07)], lace, 0.07)
        return p.paint(star(*p.side.mean(0), 0.18))
    toe = -0.88
    high = 0.1 + (0.24 if t.stance > 0.5 else 0) + 0.12 * t.height
    thick, bulk, px = 0.12 + 0.1 * t.part, 0.1 * t.width, 0.06 * p.turn
    p.body(stroke([(0.02, high - 0.06), (-0.08, high + 0.2)], 0.14), lit=0.88)
    p.body(smooth([(0.06, high), (-0.1, high - 0.12), (-0.38, -0.38), (-0.66, -0.46 + bulk),
                   (toe, -0.62 + bulk), (toe + 0.02, -0.86), (0, -0.88), (0.8, -0.86), (0.86, -0.5),
                   (0.78, high - 0.12), (0.84, high + 0.12), (0.7, high + 0.1), (0.4, high - 0.08)]))
    p.flat(smooth([(0.1, high - 0.02), (0.4, high - 0.1), (0.72, high + 0.04), (0.4, high - 0.02)]),
           mix(p.first, DARK, 0.7))
    if t.detail > 0.3:
        p.body(smooth([(-0.62, -0.46 + bulk), (toe, -0.6 + bulk), (toe + 0.01, -0.86), (-0.5, -0.87),
                       (-0.48, -0.66)]), colour=cap)
    if t.marking > 0.5:
        p.body(smooth([(0.6, -0.86), (0.62, -0.5), (0.76, -0.4), (0.86, -0.5), (0.82, -0.86)]),
               colour=p.part, lit=0.9)
    p.body(smooth([(toe - 0.03, -1 + thick * 1.5), (toe + 0.02, -0.98), (0, -1.0), (0.86, -0.98),
                   (0.93, -1 + thick), (0.9, -1 + 1.7 * thick), (0.3, -1 + 1.3 * thick),
                   (-0.4, -1 + 1.3 * thick)]), colour=sole)
    seam = p.second if t.trim < 0.75 else WHITE
    if abs(bright(seam) - bright(sole)) < 30: seam = GREY
    p.line([(toe + 0.06, -1 + 0.7 * thick), (0.86, -1 + 0.7 * thick)], seam, 0.06)
    kind = pick(t.kind, ("swoosh", "stripes", "star", "bolt"))
    if kind == "swoosh":
        swoosh = smooth([(-0.24, -0.02), (0, -0.22), (0.66, 0.26), (0.04, -0.03), (-0.14, -0.02)])
        p.paint((px, -0.46) + swoosh)
    elif kind == "stripes":
        stripe = np.array([(-0.06, -0.24), (0.07, -0.24), (-0.06, 0.2), (-0.18, 0.2)])
        for k in (0, 0.22, 0.44): p.paint(stripe + (k + px + 0.1, -0.46))
    elif kind == "star": p.paint(star(0.3 + px, -0.46, 0.22))
    else:
        bolt = np.array([(0, 0.24), (-0.22, -0.04), (-0.02, 0), (-0.14, -0.24), (0.16, 0.06), (0, 0.04)])
        p.paint(bolt + (0.32 + px, -0.46))
    laces = 2 + int(t.eyes * 3)
    for k in range(laces):
        u = (k + 0.3) / laces
        a = np.array((-0.04 - 0.4 * u, high - 0.1 - u * (high + 0.3)))
        p.rope([a + (-0.07, 0.08), a + (0.16, -0.08)], lace, 0.08)


def backpack(p, t):
    """A backpack with a pocket on its front."""
    # part: pocket height; eyes: emblem size; detail: side pockets; trim: the straps' colour;
    # stance: corners square to round; marking: emblem on the pocket; width, height: of the bag
    kind = pick(t.kind, ("flap", "zip", "buckled flap", "roll top"))
    strap = p.part if p.part and t.trim > 0.35 else mix(p.first, DARK, 0.35)
    base = -0.96
    if p.cube:
        x, y, w = p.box()
        top = y + w
        grip = [(-0.24, -0.02), (-0.2, 0.3), (0.2, 0.3), (0.24, -0.02)]
        side = [(-0.12, -0.02), (0.2, -0.3), (0.1, -0.85), (-0.1, -1.0)]
        p.body(stroke(p.top(0.5, 0.5) + grip, 0.07), colour=strap)
        p.body(stroke(p.side[1] + side, 0.07), colour=strap)
        f = x
    else:
        x, w, top, f = 0.0, 0.5 + 0.16 * t.width, 0.42 + 0.26 * t.height, 0.1 * p.turn
        p.body(stroke(mirrored(0, (0.22, top - 0.06), (0.18, top + 0.28)), 0.075), colour=strap)
        side = np.array([(w * 0.7, top - 0.1), (w + 0.16, top - 0.42), (w + 0.14, -0.6), (w * 0.8, -0.8)])
        for s in (-1, 1): p.body(stroke(side * (s, 1), 0.085), colour=strap)
        if t.detail > 0.5:
            for s in (-1, 1):
                px = s * (w + 0.02)
                p.body(pad(px - 0.15, -0.86, px + 0.15, -0.36, power=3), lit=0.84)
        p.body(oval(0, (top + base) / 2, w, (top - base) / 2, power=5.5 - 2.7 * t.stance))
    if kind in ("flap", "buckled flap"):
        p.body(smooth([(x - w * 0.92, top - 0.44), (x - w * 0.96, top - 0.1), (x - w * 0.8, top + 0.02),
                       (x + w * 0.8, top + 0.02), (x + w * 0.96, top - 0.1), (x + w * 0.92, top - 0.44),
                       (x if p.cube else f * 0.5, top - 0.56)], steps=5), lit=1.06)
        for k in ((f,) if kind == "flap" else (f - 0.28, f + 0.28)):
            p.body(pad(k - 0.06, top - 0.78, k + 0.06, top - 0.36), colour=strap)
            p.flat(pad(k - 0.08, top - 0.66, k + 0.08, top - 0.54), GOLD, edge=ink(GOLD))
    elif kind == "zip":
        arch = oval(f, top - 0.5, w * 0.76, 0.36, power=3)[:19]
        p.rope(arch, STEEL, 0.04, edge=p.ink)
        tx, ty = arch[4]
        p.flat(pad(tx - 0.04, ty - 0.2, tx + 0.04, ty), GOLD, edge=p.ink)
    else:
        p.body(pad(x - w * 0.98, top - 0.18, x + w * 0.98, top + 0.06, power=4), colour=p.part, lit=1.1)
        p.line([(x - w * 0.9, top - 0.06), (x + w * 0.9, top - 0.06)], ink(p.second), 0.035)
    pocket = -0.38 + 0.12 * t.part
    p.body(pad(f - w * 0.7, base + 0.06, f + w * 0.7, pocket, power=3.4), lit=0.96)
    p.line([(f - w * 0.6, pocket - 0.1), (f + w * 0.6, pocket - 0.1)], p.ink, 0.05)
    emblem(p, f, (base + pocket) / 2 - 0.02, 0.15 + 0.06 * t.eyes, 0.2 + 0.8 * t.marking)


def cabin_of_car(p, kind, w, low, deck, roof):
    """Draws the body; returns its window."""
    if kind == "beetle":
        p.body(smooth([(-w, low), (-w, deck - 0.18), (-w * 0.66, deck), (-w * 0.4, roof - 0.1),
                       (0.05, roof + 0.02), (w * 0.55, roof - 0.12), (w * 0.9, deck - 0.04),
                       (w, low + 0.12), (w * 0.9, low)]))
        return smooth([(-w * 0.4, deck + 0.02), (-w * 0.26, roof - 0.16), (0.04, roof - 0.1),
                       (w * 0.44, roof - 0.18), (w * 0.58, deck + 0.02)], steps=4)
    if kind == "saloon":
        p.body(smooth([(-w, low), (-w, deck - 0.08), (-w * 0.56, deck), (-w * 0.3, roof), (w * 0.4, roof),
                       (w * 0.64, deck + 0.02), (w * 0.98, deck - 0.04), (w, low)], steps=5))
        return [(-w * 0.4, deck + 0.02), (-w * 0.22, roof - 0.1), (w * 0.32, roof - 0.1),
                (w * 0.5, deck + 0.02)]
    if kind == "van":
        p.body(smooth([(-w, low), (-w, deck), (-w * 0.8, roof + 0.04), (-w * 0.4, roof + 0.1),
                       (w * 0.9, roof + 0.1), (w, roof - 0.1), (w, low), (0, low)], steps=5))
        return [(-w * 0.8, deck + 0.06), (-w * 0.66, roof - 0.04), (w * 0.82, roof - 0.04),
                (w * 0.82, deck + 0.06)]
    p.body([(-w, low), (-w, deck - 0.1), (-w * 0.9, deck), (-w * 0.5, deck + 0.02), (-w * 0.32, roof),
            (w * 0.2, roof), (w * 0.24, deck), (w, deck), (w, low)])  # pick-up
    return [(-w * 0.38, deck + 0.04), (-w * 0.24, roof - 0.1), (w * 0.1, roof - 0.1), (w * 0.1, deck + 0.04)]


def car(p, t):
    """A car that drives to the left."""
    # part: wheel size; eyes: headlight size; detail: window split; trim: bumper and hubs; stance:
    # ride height; marking: emblem on the door or racing line; width, height: body and cabin
    metal = pick(t.trim, (STEEL, GOLD, p.second))
    glass = (176, 218, 240)
    if p.cube:
        x, y, w = p.box()
        p.flat(pad(x - w * 0.82, y + 0.04, x + w * 0.82, y + w - 0.1), glass, edge=p.ink)
        b, c = p.side[:2]
        p.flat([b + (0.05, -0.1), c + (-0.05, -0.08), c + (-0.05, -0.48), b + (0.05, -0.52)],
               mix(glass, DARK, 0.16), edge=p.ink)
        p.line([(x - 0.3, y + 0.1), (x - 0.1, y + w - 0.16)], WHITE, 0.08)
        for k in (-0.36, 0.36): p.flat(oval(x + k, y - 0.18, 0.12 + 0.05 * t.eyes), LAMP, edge=p.ink)
        p.flat(pad(x - w, y - 0.5, x + w, y - 0.36), metal, edge=ink(metal))
        for k in (-0.4, 0.4): p.body(pad(x + k - 0.15, -1.0, x + k + 0.15, -0.86, power=4), colour=TYRE)
        wheel = 0.5 * (p.side[2] + p.side[3]) + (0, 0.03)
        p.body(oval(*wheel, 0.15, 0.2), colour=TYRE)
        return p.flat(oval(*wheel, 0.07, 0.1), metal)
    kind = pick(t.kind, ("beetle", "saloon", "van", "pick-up"))
    r, w, px = 0.27 + 0.06 * t.part, 0.92 + 0.08 * t.width, 0.05 * p.turn
    low = -1 + r * 0.8 + 0.08 * t.stance
    deck, roof = low + 0.68, low + 1.3 + 0.14 * t.height  # where the windows and the roof begin
    window = cabin_of_car(p, kind, w, low, deck, roof)
    window = np.array(window) + (px, 0)
    p.flat(window, glass, edge=p.ink)
    (x0, y0), (x1, y1) = window.min(0), window.max(0)
    for u in ((0.5,) if t.detail < 0.5 else (0.36, 0.68)):
        x = x0 + u * (x1 - x0)
        p.line([(x, y0), (x, y1)], p.first if bright(p.first) > 66 else p.ink, 0.07)
    reflection = [(x0 + 0.26 * (x1 - x0), y0 + 0.06), (x0 + 0.34 * (x1 - x0), y1 - 0.08)]
    p.line(reflection, WHITE, 0.05)
    for x in (-w + 0.04, w - 0.04): p.body(pad(x - 0.1, low - 0.02, x + 0.1, low + 0.1), colour=metal)
    p.flat(oval(-w + 0.12, low + 0.38, 0.11, 0.1 + 0.05 * t.eyes), LAMP, edge=p.ink)
    p.flat(oval(w - 0.06, low + 0.38, 0.06, 0.11), (226, 50, 50), edge=p.ink)
    if t.marking > 0.75: p.paint(pad(-w * 0.78, low + 0.3, w * 0.84, low + 0.46, power=20))
    else: emblem(p, 0.06 + px, low + 0.36, 0.2, t.marking / 0.75)
    for k in (-0.55, 0.55):
        p.body(oval(k * w, -1 + r, r * 1.05), colour=TYRE)
        p.flat(oval(k * w, -1 + r, r * 0.52), metal, edge=DARK)
        p.flat(oval(k * w, -1 + r, r * 0.18), DARK)
