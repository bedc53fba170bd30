"""What stands on the table of the tiny world, from teapot to clock. What one goes out with is in
gear.py.

Each class is one function of the pen and the traits, which draws it from the back to the front; a
comment says what the traits mean for it. The names are the same throughout: (x, y) is the centre, w
the half width, `top` and `low` are the heights where the main body ends; f or px follows the turn,
so that what is painted on the front moves; s is -1 for the left side and 1 for the right. `None` as
a colour is the body's own, with its pattern.
"""
import math

import numpy as np

from tiny_world.pen import (CREAM, DARK, GOLD, STEEL, WHITE, around, bright, edging, heart, hoop, ink,
                            mirrored, mix, near_rim, oval, pad, pick, smooth, star, stroke, turned)

LEAF = (72, 142, 66)


# === details ======================================================================================

def flower(p, x, y, reach, petal, core, colours, turn):
    """Five petals, round spots `reach` away from the core."""
    outer, inner = colours
    for k in range(5): p.flat(oval(*around(x, y, reach, 1.26 * k + turn), petal), outer, edge=ink(outer))
    p.flat(oval(x, y, core), inner)


def emblem(p, x, y, r, u):
    """A small painted sign in the second colour, by u."""
    sign = pick(u, ("none", "disc", "heart", "star", "flower"))
    if sign == "flower": flower(p, x, y, 0.7 * r, 0.48 * r, 0.42 * r, (p.sign, GOLD), 0.3)
    elif sign != "none":
        shape = {"disc": oval(x, y, r), "heart": heart(x, y, r), "star": star(x, y, 1.25 * r)}[sign]
        p.flat(shape, p.sign, edge=ink(p.sign))


def flame(p, x, y, size):
    """A wick with a flame whose foot is at (x, y)."""
    p.line([(x, y - 0.04), (x + 0.01, y + 0.1)], DARK, 0.06)
    shape = smooth([(0, 0), (-0.56, 0.5), (-0.1, 1.2), (0.06, 1.75), (0.5, 0.7)])
    p.flat(shape * size + (x, y + 0.05), (250, 140, 30), edge=(196, 84, 20))
    for share, colour in ((0.68, (255, 208, 60)), (0.36, (255, 250, 214))):
        p.flat(shape * share * size + (x, y + 0.05), colour)


# === on the table =================================================================================

def teapot(p, t):
    """A teapot with its spout to the left."""
    # part: spout length; eyes: knob size; detail: handle round or square; trim: colour of handle,
    # knob and foot; stance: foot height; marking: emblem
    kind = pick(t.kind, ("round", "squat", "tall", "pear"))
    small = p.part if t.trim > 0.4 else None
    out = 0.26 + 0.1 * t.part + 0.06 * p.turn
    if p.cube:
        x, y, w = p.box()
        h = w
        lid = p.top(0.5, 0.45)
        out = min(out, 0.95 + x - w)
    else:
        more = {"round": (0, 0), "squat": (0.04, -0.05), "tall": (-0.05, 0.07), "pear": (0, 0.03)}
        wider, higher = more[kind]
        w, h, foot = 0.54 + 0.08 * t.width + wider, 0.5 + 0.08 * t.height + higher, 0.05 + 0.06 * t.stance
        x, y = 0.04 * p.turn, -1 + foot + h
        lid = np.array((x, y + 0.8 * h))
    left, right = x - w, x + w
    if t.detail > 0.5: grip = [(-0.12, 0.46), (0.26, 0.62), (0.28, 0.3), (0.2, -0.3), (-0.1, -0.3)]
    else: grip = [(-0.12, 0.5), (0.24, 0.52), (0.3, 0), (0.12, -0.42), (-0.1, -0.5)]
    grip = np.array(grip) * (1, h) + (right, y)
    if not p.cube:
        p.body(stroke(grip, 0.085), colour=small)
        p.body(pad(x - 0.6 * w, -1.0, x + 0.6 * w, -0.84 + foot), colour=small, lit=0.9)
    p.body(smooth([(left + 0.22, y - 0.5 * h), (left - 0.4 * out, y - 0.1 * h),
                   (left - out - 0.06, y + 0.62 * h), (left - out + 0.12, y + 0.62 * h + 0.06),
                   (left - 0.1 * out, y + 0.28 * h), (left + 0.22, y + 0.3 * h)]))
    if p.cube:
        p.body(stroke(grip, 0.08), colour=small)
        p.body(oval(*lid, 0.4, 0.13))
        p.body(oval(lid[0], lid[1] + 0.06, 0.4 * 0.86, 0.11))
    else:
        if kind == "pear":
            p.body(turned((-h + y, y - 0.5 * h, y - 0.1 * h, y + 0.5 * h, y + h),
                          (0.6 * w, 1.05 * w, w, 0.66 * w, 0.4 * w), x))
        else: p.body(oval(x, y, w, h, power=3 if kind == "tall" else 2.2))
        p.body(oval(*lid, 0.62 * w, 0.2))
        p.line(near_rim(x, y + 0.78 * h, 0.66 * w, 0.15), ink(small) if small else p.ink, 0.05)
    p.body(oval(lid[0], lid[1] + 0.24, 0.09 + 0.06 * t.eyes), colour=small)
    emblem(p, x + 0.14 * p.turn, y - 0.1 * h, 0.22, t.marking)


def vase(p, t):
    """A vase with up to three flowers."""
    # part: neck width; eyes: number of flowers; detail: handles or not; trim: colour of flowers,
    # rim and handles; stance: foot width; marking: emblem; width, height: of the belly and the
    # whole
    kind = pick(t.kind, ("bulb", "amphora", "tulip", "column"))
    small = p.part if t.trim > 0.4 else None
    blooms, neck, rise = int(t.eyes * 4), 0.16 + 0.14 * t.part, 0.44
    x, top = 0.0, (0.2 if blooms else 0.66) + 0.16 * t.height  # without flowers the vase itself is tall
    if p.cube:
        p.box()
        x, top = p.top(0.5, 0.4) + (0, 0.14)
        rise = 0.24
    tones = ((238, 84, 110), (252, 200, 60), (170, 110, 220))
    for k in range(blooms):
        a = (k - (blooms - 1) / 2) * 0.62 - 0.06
        bx, by = x + 0.62 * math.sin(a), top + rise * math.cos(a)
        p.line([(x + 0.05 * a, top - 0.1), (bx, by)], LEAF, 0.07)
        flower(p, bx, by, 0.12, 0.1, 0.08, (tones[(k + int(t.trim * 3)) % 3], (250, 236, 170)), k)
    if p.cube:
        p.body(turned((top - 0.3, top - 0.14, top), (neck + 0.1, neck, neck + 0.12), x))
        p.body(oval(x, top, neck + 0.14, 0.07), colour=small)
        p.flat(oval(x, top + 0.01, neck + 0.07, 0.04), DARK)
        if t.detail > 0.5:
            handle = np.array([(neck, -0.02), (neck + 0.26, -0.06), (neck + 0.16, -0.28)])
            for s in (-1, 1): p.body(stroke(handle * (s, 1) + (x, top), 0.055))
        return emblem(p, p.middle + 0.12 * p.turn, -0.4, 0.24, t.marking)
    w, h, foot = 0.52 + 0.14 * t.width, top + 1, 0.24 + 0.14 * t.stance
    heights = [-1, -0.93, -1 + 0.3 * h, -1 + 0.55 * h, -1 + 0.8 * h, top - 0.06, top]
    radii = {"bulb": [foot, foot, w, w * 1.02, neck * 1.2, neck, neck * 1.35],
             "amphora": [foot, foot, w * 0.6, w * 1.08, w * 0.72, neck, neck * 1.5],
             "tulip": [foot, foot * 0.9, w * 0.72, w * 0.94, w * 0.8, w * 0.86, w * 1.05],
             "column": [w * 0.9, w * 0.94, w * 0.92, w * 0.9, w * 0.86, neck * 1.5, neck * 1.8]}[kind]
    belly, throat, mouth = radii[3], radii[5], radii[6]
    if t.detail > 0.5:
        handle = np.array([(belly * 0.8, 0.5 * h - 1), (belly + 0.16, 0.72 * h - 1),
                           (belly + 0.06, 0.9 * h - 1), (throat * 0.8, top - 0.14)])
        for s in (-1, 1): p.body(stroke(handle * (s, 1), 0.06), colour=small)
    p.body(turned(heights, radii))
    p.body(oval(0, top, mouth + 0.04, 0.075), colour=small)
    p.flat(oval(0, top + 0.012, mouth - 0.05, 0.04), DARK)
    emblem(p, 0.16 * p.turn, -1 + 0.44 * h, 0.22, t.marking)


def bowl(p, t):
    """A bowl of fruit."""
    # part: height of the heap; eyes: fruit size; detail: leaves; trim: rim and foot colour; stance:
    # foot width; marking: emblem; width, height: of the bowl
    # berries of two kinds, oranges, limes
    fruit = pick(t.kind, ((206, 30, 60), (70, 80, 190), (246, 150, 40), (130, 190, 60)))
    r = (0.17 + 0.05 * t.eyes) * (0.85 if p.cube else 1)
    if p.cube:
        p.box()
        x, top = p.top(0.5, 0.36)
        w = 0.66
        p.hole(0.82, (60, 44, 40))
    else:
        x, top, w, low = 0.0, 0.06 + 0.12 * t.height, 0.82 + 0.12 * t.width, -0.9
        p.body(oval(x, top, w, 0.16), lit=0.6)
    heap = (0.13 + 0.08 * t.part) * (0.6 if p.cube else 1)
    for level, count in ((0.0, 4), (1, 3), (2, 2)):
        span = (w - r - 0.04) * (1 - 0.33 * level)
        for k in range(count):
            bx = x + span * (2 * k / (count - 1) - 1)
            by = top + heap * level + 0.05 + 0.12 * (1 - ((bx - x) / w) ** 2)
            p.body(oval(bx, by, r * 1.2), colour=mix(fruit, ((30, 10, 40), WHITE)[k % 2], 0.08))
            p.flat(oval(bx - 0.07, by + 0.08, 0.05), WHITE)
            if t.detail > 0.5 and (k + int(level)) % 2: p.flat(star(bx, by + r * 0.8, 0.14, 5, 0.4), LEAF)
    if p.cube:
        a, b, c, _ = p.lid
        p.body(edging(a, b, -0.1), edging(b, c, -0.1), colour=p.part if t.trim > 0.4 else None)
        return emblem(p, p.middle + 0.12 * p.turn, -0.44, 0.24, t.marking)
    foot = 0.26 + 0.2 * t.stance
    p.body(pad(-foot, -1.0, foot, low + 0.1), lit=0.86, colour=p.part if t.trim > 0.6 else None)
    p.body(smooth(mirrored(0, (0, top - 0.13), (0.5 * w, top - 0.1), (w, top), (w * 0.95, top - 0.3),
                           (w * 0.68, low + 0.08), (0, low))))
    if t.trim > 0.4: p.body(hoop(0, top, w + 0.01, 0.15, 0.12), colour=p.part, lit=1.06)
    emblem(p, 0.2 * p.turn, 0.5 * (top + low) - 0.06, 0.22, t.marking)


def can(p, t):
    """A can of something to drink."""
    # part: tab size; eyes: label size; detail: a line of letters; trim: a straw or none; stance:
    # neck taper; marking: disc or star on the label; width, height: of the can
    label = pick(t.kind, ("disc", "wave", "slash", "stripes"))
    px, size = 0.2 * p.turn, 0.8 + 0.4 * t.eyes
    if p.cube:
        x, y, w = p.box()
        p.hole(0.9, STEEL)
        tx, ty = p.top(0.5, 0.5)
        low, top = y - w, y + w
        a, b, c, _ = p.lid
        for strip in (edging(a, b, -0.09), edging(b, c, -0.09)): p.body(strip, colour=STEEL)
        p.body(edging(p.side[3], p.side[2], 0.08), edging(p.front[3], p.side[3], 0.08), colour=STEEL)
    else:
        x, w, low, top = 0.0, 0.5 + 0.1 * t.width, -0.9, 0.68 + 0.16 * t.height
        tx, ty, r = 0, top, w - (0.06 + 0.06 * t.stance)  # the middle of the top and its radius
        p.body(oval(0, -0.93, w - 0.06, 0.09), colour=STEEL)
        p.body(np.concatenate([[(-r, top - 0.02), (-w, top - 0.16), (-w, low)], near_rim(0, low, w, 0.09),
                               [(w, low), (w, top - 0.16), (r, top - 0.02)]]))
    lx, ly = x + px * w * 2, 0.5 * (low + top) - 0.04
    if label == "disc": p.paint(oval(lx, ly, 0.62 * w * size, 0.3 * size))
    elif label == "wave":
        u = np.linspace(-1, 1, 15)
        wave = np.stack([x + u * w, ly + 0.12 * np.sin(3 * u + 3 * px)], 1)
        p.paint(np.concatenate([wave + (0, 0.13 * size), (wave - (0, 0.13 * size))[::-1]]))
    elif label == "slash":
        p.flat([(x - w, ly - 0.42), (x - w, ly - 0.42 + 0.36 * size), (x + w, ly + 0.42),
                (x + w, ly + 0.42 - 0.36 * size)], p.sign)
    else:
        for k in (-0.3, 0.3):
            p.flat(pad(x - w, ly + k - 0.07 * size, x + w, ly + k + 0.07 * size, power=20), p.sign)
    if t.marking > 0.4:
        p.flat(star(lx, ly, 0.2) if t.marking > 0.7 else oval(lx, ly, 0.14),
               p.first if p.part and label != "stripes" else p.second, edge=p.ink)
    if t.detail > 0.5 and label != "disc":
        for k in (-0.2, 0, 0.2):
            letter = [(lx + k - 0.05, ly - 0.42), (lx + k + 0.05, ly - 0.42)]
            p.line(letter, WHITE if bright(p.first) < 170 else DARK, 0.07)
    if not p.cube:
        p.body(np.concatenate([near_rim(0, top - 0.06, r + 0.02, 0.1), oval(0, top, r + 0.02, 0.1)[:18]]),
               colour=STEEL)
        p.flat(oval(0, top, r - 0.05, 0.07), (222, 226, 232), edge=ink(STEEL))
    if t.trim > 0.55:
        p.body(stroke([(tx + 0.14, ty), (tx + 0.18, ty + 0.14), (tx + 0.36, ty + 0.19)], 0.05),
               colour=WHITE if p.who.colour == "red" else (240, 70, 90))
    p.flat(oval(tx - 0.03, ty + 0.01, 0.12 + 0.05 * t.part, 0.045), (120, 124, 134))
    p.flat(oval(tx - 0.1, ty + 0.02, 0.05, 0.02), DARK)


def candle(p, t):
    """A burning candle from which wax drips."""
    # part: drip length; eyes: flame size; detail: number of drips; trim: holder colour; stance:
    # taper; marking: ribbon or emblem; width, height: of the wax
    holder = pick(t.kind, ("saucer", "handle", "stand", "none"))
    metal = pick(t.trim, (GOLD, STEEL, p.sign))
    if p.cube:
        x, y, w = p.box()
        for k, q in enumerate([p.top(u, 0) for u in np.linspace(0.06, 0.94, 5)] + [p.top(1, 0.5)]):
            drop = 0.12 + (0.1 + 0.22 * t.part) * (k * 7 % 5) / 4
            p.body(stroke([q + (0, 0.05), q - (0, drop)], 0.085), lit=1.15, puff=0.5, edge=p.first)
        p.flat(oval(*p.top(0.5, 0.5), 0.3, 0.1), mix(p.first, WHITE, 0.5))
        if t.marking > 0.4: emblem(p, x + 0.12 * p.turn, y - 0.1, 0.2, t.marking)
        return flame(p, *p.top(0.5, 0.4), 0.26 + 0.05 * t.eyes)
    w, top = (0.6 if holder == "none" else 0.48) + 0.12 * t.width, 0.24 + 0.16 * t.height
    low = {"stand": -0.58, "none": -0.94}.get(holder, -0.84)
    r = w - 0.1 * t.stance  # half width at the top
    if holder in ("saucer", "handle"): p.body(oval(0, -0.88, 0.76 + 0.1 * t.width, 0.13), colour=metal)
    if holder == "handle": p.rope(oval(0.82, -0.72, 0.16), metal, 0.08, closed=True)
    if holder == "stand":
        p.body(pad(-0.5, -1.0, 0.5, -0.86), pad(-0.12, -0.95, 0.12, -0.6),
               pad(-w - 0.1, -0.72, w + 0.1, -0.56), colour=metal)
    p.body(np.concatenate([[(-r, top), (-w, low)], near_rim(0, low, w, 0.08)[1:], [(w, low), (r, top)],
                           oval(0, top, r, 0.07)[:18]]))
    if t.marking > 0.75: p.paint(hoop(0, low + 0.36, w, 0.08, 0.16))
    elif t.marking > 0.4: emblem(p, 0.14 * p.turn, 0.5 * (top + low) - 0.1, 0.22, (t.marking - 0.2) * 1.7)
    p.body(oval(0, top, r, 0.09), lit=1.14, puff=0.4)
    drips = 2 + int(3 * t.detail)
    for k in range(drips):
        u = -0.85 + 1.7 * k / (drips - 1) + 0.1 * p.turn
        if abs(u) <= 0.95:
            drop = (0.12 + 0.4 * t.part) * (0.3 + (k * 3 % 5) / 5)
            p.body(stroke([(u * r, top - 0.02), (u * r, top - 0.1 - drop)], 0.07), lit=1.12, puff=0.5)
    p.flat(oval(0, top + 0.02, r * 0.72, 0.06), mix(p.first, (255, 230, 160), 0.55))
    flame(p, 0, top + 0.02, 0.28 + 0.06 * t.eyes)


def clock(p, t):
    """An alarm clock with two bells."""
    # part: bell size; eyes: the hands' colour and length; detail: the time; trim: feet and bells
    # steel, gold or second colour; stance: how far the feet are apart; marking: dial colour; width,
    # height: case
    marks = pick(t.kind, ("twelve", "four", "dots", "ring"))
    metal = pick(t.trim, (STEEL, GOLD, p.sign))
    if p.cube:
        x, y, r = p.box()
        f, lean = x, 10  # the dial's centre; how far the bells lean outwards, in degrees
        hammer = p.top(0.5, 0.5)
        bells = [p.top(0.2, 0.5) + (0, 0.1), p.top(0.8, 0.5) + (0, 0.1)]
        for k in (-0.5, 0.5): p.body(oval(x + k, y - r + 0.03, 0.13, 0.1), colour=metal)
    else:
        x, y, r, ry = 0.0, -0.18, 0.68 + 0.08 * t.width, 0.66 + 0.05 * t.height
        f, lean = 0.08 * p.turn, 28
        hammer = np.array((x, y + ry))
        bells = [(x - 0.44, y + ry + 0.02), (x + 0.44, y + ry + 0.02)]
        for s in (-1, 1):
            p.body(stroke([(s * 0.3, -0.6), (s * (0.5 + 0.12 * t.stance), -0.93)], 0.09, 0.07), colour=metal)
    for colour, wide in ((DARK, 0.13), (metal, 0.07)): p.line([hammer, hammer + (0, 0.26)], colour, wide)
    p.body(pad(hammer[0] - 0.12, hammer[1] + 0.18, hammer[0] + 0.12, hammer[1] + 0.32), colour=metal)
    size = 0.2 + 0.08 * t.part
    for (bx, by), s in zip(bells, (-1, 1)):
        p.line([(bx * 0.9 + 0.1 * x, by - 0.12), (bx, by + 0.08)], DARK, 0.1)
        p.body(oval(bx, by + 0.02, size * 1.25, size * 1.1, tilt=-s * lean)[:19], colour=metal)
    if not p.cube:
        if p.turn: p.body(oval(x - 0.1 * p.turn, y, r, ry), lit=0.8)
        p.body(oval(x + 0.03 * p.turn, y, r, ry))
    d = 0.62 * r
    dial = pick(t.marking, (CREAM, WHITE, (206, 228, 246), mix(p.second, WHITE, 0.75)))
    p.flat(oval(f, y, d), dial, edge=p.ink)
    if marks == "ring":
        p.line(oval(f, y, d * 0.8), p.second if bright(p.second) < 200 else p.ink, 0.06, closed=True)
    for k in range(0, 12, {"twelve": 1, "dots": 2}.get(marks, 3)):
        a = k * math.pi / 6
        if marks == "dots": p.flat(oval(*around(f, y, 0.8 * d, a), 0.045), DARK)
        else: p.line([around(f, y, 0.9 * d, a), around(f, y, (0.78 if k % 3 else 0.68) * d, a)], DARK, 0.045)
    tone = pick(t.eyes * 3 % 1, (DARK, (180, 30, 40), (30, 60, 150)))
    hour = 2 * math.pi * t.detail  # the hands' angles are clockwise from the top
    for a, long, wide in ((hour, 0.4, 0.1), (12 * hour, 0.6 + 0.12 * t.eyes, 0.065)):
        p.line([(f, y), (f + long * d * math.sin(a), y + long * d * math.cos(a))], tone, wide)
    p.flat(oval(f, y, 0.06), tone)
