"""The live classes of the tiny world, from cat to robot.

Each class is one function of the pen and the traits, which draws it from the back to the front and
returns its `Fit`; a comment says what the traits mean for it. The names are the same throughout: a
head has its centre at (x, y), half width w and half height h; f is the x of the features, which
move when the head turns; b is a body's half width; ex, ey belong to an eye or ear; s is -1 for the
left side and 1 for the right. A cube has no body: its front is the head.
"""
import math
from collections import namedtuple

import numpy as np

from tiny_world.pen import (DARK, GOLD, STEEL, WHITE, around, bright, heart, ink, mirrored, mix, oval, pad,
                            pick, smooth, star, stroke)

EYES = ((88, 176, 84), (240, 186, 50), (86, 160, 236), (150, 92, 44))
BLUSH, RED = (244, 150, 160), (222, 60, 80)
YELLOW = (250, 214, 40)
RUBBER = (74, 76, 86)

# Where things are worn: a neck (x, y, half width, and what else `scarf` wants to know), a head's
# top (x, y, half width), the two eyes and the radius of glasses.
Fit = namedtuple("Fit", "neck head eyes glasses")


def shirt(p, *torso, collar=None):
    """A yellow shirt in the shape of the torso; `collar`: place and half width of a collar with
    buttons below."""
    if p.worn != "yellow shirt": return
    p.body(*torso, colour=YELLOW)
    if collar:
        x, y, w = collar
        for s in (-1, 1):
            wing = [(x, y), (x + s * w, y + 0.02), (x + s * w * 0.75, y - 0.22), (x, y - 0.1)]
            p.flat(wing, WHITE, edge=ink(YELLOW))
        for down in (0.24, 0.42): p.flat(oval(x, y - down, 0.035), ink(YELLOW))


def bare_neck(p):
    """Whether there is room for what belongs to the individual itself, a collar say."""
    return not p.cube and p.worn not in ("rainbow scarf", "yellow shirt")


def collar_colour(trim, least):
    """The colour of a collar or a bow tie, which those have whose trim is above `least`."""
    return pick((trim - least) / (1 - least), ((206, 44, 50), (52, 110, 210), (70, 160, 90)))


# === animals ======================================================================================

def cat(p, t):
    """A cat that sits facing us."""
    # part: ear size and which way the tail curls; eyes: size and colour; detail: muzzle, whiskers
    # and tail; trim: none or a collar; stance: sits low or tall; width, height: head and body
    ears = pick(t.kind, ("pointed", "wide", "folded", "tufted"))
    marking = pick(t.marking, ("none", "mask", "socks", "belly"))
    if p.cube:
        x, y, w = p.box()
        h, mid = w, y + 0.08
        tip = p.side[1] + (0, -0.5)
        p.body(stroke([tip, tip + (0.16, 0.04), tip + (0.1, 0.42)], 0.09, 0.07))
    else:
        w, h, x, y = 0.56 + 0.1 * t.width, 0.44 + 0.06 * t.height, 0.08 * p.turn, 0.1 + 0.12 * t.stance
        b, mid = 0.4 + 0.14 * t.width, y
        tail = [[(b - 0.1, -0.8), (b + 0.3, -0.75), (b + 0.36, -0.35), (b + 0.14, -0.1)],
                [(b - 0.1, -0.85), (b + 0.3, -0.85), (b + 0.42, -0.6)]][int(t.part * 6) % 2]
        p.body(stroke(tail, 0.1, 0.09 + 0.06 * t.detail))
        p.body(smooth(mirrored(0, (b * 0.62, y - 0.15), (b, -0.6), (b * 0.95, -0.98))))
        if marking == "belly": p.flat(oval(0, -0.6, b * 0.5, 0.3), p.pale)
        shirt(p, smooth(mirrored(0, (b * 0.66, y - 0.1), (b * 1.04, -0.5), (b, -0.78))),
              collar=(0.6 * x, y - h + 0.02, 0.26))
        for s in (-1, 1):
            p.body(oval(s * b * 0.42, -0.86, 0.17, 0.14))
            if marking == "socks": p.flat(oval(s * b * 0.42, -0.88, 0.16, 0.11), p.mark, edge=ink(p.mark))
    size, top = 0.25 + 0.1 * t.part, y + h
    if ears == "folded": shape = smooth([(-0.2, 0), (-0.02, 0.7 * size), (0.2, 0.1), (0.06, -0.1)])
    elif ears == "wide": shape = smooth([(-0.22, 0.02), (-0.02, size), (0.12, size), (0.2, -0.18)])
    else: shape = np.array([(-0.26, 0), (0.1, size * 1.25), (0.26, -0.2)])
    for s in (-1, 1):
        ex, ey = x + s * w * (0.78 if ears == "wide" else 0.6), top + (0.08 if p.cube else -0.16)
        ear = (ex, ey) + shape * (s, 1)
        p.body(ear)
        middle = ear.mean(0)
        if ears != "folded": p.flat(middle + (ear - middle) * 0.55 + (0, -0.02), mix(BLUSH, p.first, 0.2))
        if ears == "tufted":
            p.line([(ex + s * 0.1, ey + size * 1.2), (ex + s * 0.16, ey + size * 1.25 + 0.14)], p.ink, 0.07)
    if not p.cube:
        p.body(smooth(mirrored(x, (0, y - h), (w * 0.6, y - h * 0.84), (w, y), (w * 0.82, y + h * 0.68),
                               (0, y + h))))
    f, r, gap, ey = x + 0.2 * p.turn * w, 0.135 + 0.04 * t.eyes, w * 0.46, mid + 0.04
    eyes = [(f - gap, ey), (f + gap, ey)]
    if marking == "mask":
        for ex, ey in eyes: p.flat(oval(ex, ey + 0.02, r * 1.75, r * 1.6), p.mark)
    p.eyes(eyes, r, pick(t.eyes * 4 % 1, EYES), 0.6, 1.12)
    muzzle = 0.13 + 0.06 * t.detail
    for s in (-1, 1): p.flat(oval(f + s * muzzle * 0.8, ey - 0.27, muzzle, muzzle * 0.8), p.pale)
    for s in (-1, 1):
        for k in (-0.06, 0.05):  # whiskers
            end = (f + s * (0.36 + 0.26 * t.detail), ey - 0.25 + 2.4 * k)
            p.line([(f + s * 0.2, ey - 0.25 + k), end], p.ink, 0.03)
    p.flat(mirrored(f, (0.075, ey - 0.15), (0, ey - 0.24)), (226, 96, 116), edge=DARK)
    mouth = mirrored(f, (0.12, ey - 0.31), (0.05, ey - 0.34), (0, ey - 0.24))
    p.line(smooth(mouth, closed=False), DARK, 0.035)
    if t.trim > 0.4 and bare_neck(p):
        neck = mirrored(x, (0.55 * w, y - h * 0.93), (0, y - h * 1.1))
        p.body(stroke(neck, 0.05), colour=collar_colour(t.trim, 0.4))
        p.flat(oval(x, y - h * 1.16, 0.085), GOLD, edge=ink(GOLD))
    return Fit((x, y - h * 0.98, 0.7 * w), (x, top - 0.02, 0.66 * w), eyes, r + 0.08)


def dog(p, t):
    """A dog that stands with its head to the left and looks at us."""
    # part: ear length; eyes: size and colour; detail: snout; trim: none or a collar; stance: leg
    # length; marking: see below, and ears in the second colour above 0.7; width: head and body
    # length; height: head
    ears = pick(t.kind, ("hanging", "wide", "folded", "one up"))
    marking = pick(t.marking, ("none", "eye patch", "socks", "blaze"))
    if p.cube:
        x, y, w = p.box()
        h, mid = w, y + 0.12
        p.body(stroke(p.side[1] + [(0, -0.6), (0.12, -0.5), (0.16, -0.1)], 0.09, 0.06))
    else:
        legs, back = 0.22 + 0.14 * t.stance, 0.56 + 0.16 * t.width
        w, h, x, y = 0.48 + 0.08 * t.width, 0.48 + 0.05 * t.height, -0.22 + 0.08 * p.turn, -0.1 + legs
        mid = y
        tail = [(back - 0.1, legs - 0.6), (back + 0.16, legs - 0.42), (back + 0.2, legs - 0.02)]
        p.body(stroke(tail, 0.1, 0.055))
        for leg in (-0.18, back - 0.28): p.body(pad(leg, -0.93, leg + 0.24, -0.4), lit=0.8)
        p.body(pad(-0.5, legs - 1.05, back, legs - 0.33, power=2.8))
        for leg in (-0.47, back - 0.12):
            p.body(stroke([(leg + 0.03, legs - 0.75), (leg + 0.02, -0.88)], 0.14),
                   oval(leg - 0.02, -0.9, 0.18, 0.1))
            if marking == "socks": p.flat(oval(leg - 0.02, -0.9, 0.17, 0.11), p.mark, edge=ink(p.mark))
        shirt(p, pad(-0.53, legs - 1.0, back - 0.12, legs - 0.3, power=2.8),
              stroke([(-0.44, legs - 0.8), (-0.45, -0.72)], 0.17), collar=(x, y - h + 0.02, 0.28))
        if t.trim > 0.4 and bare_neck(p):
            neck = mirrored(x, (0.7 * w, y - h * 0.8), (0, y - h * 1.08))
            p.body(stroke(neck, 0.075), colour=collar_colour(t.trim, 0.4))
        p.body(oval(x, y, w, h, power=2.3))
    f, r, gap = x + 0.2 * p.turn * w, 0.115 + 0.035 * t.eyes, w * 0.42
    ey, top, long = mid + 0.15, y + h, 0.36 + 0.26 * t.part
    eyes = [(f - gap, ey), (f + gap, ey)]
    if marking == "blaze": p.flat(oval(f, ey + 0.08, 0.1, 0.3), p.pale)
    if marking == "eye patch": p.flat(oval(f + gap, ey + 0.02, r * 2, r * 2.2), p.mark)
    for s in (-1, 1):
        root = np.array((x + s * w * (0.74 if p.cube else 0.86), top - 0.2 * h))
        if ears == "folded" or ears == "one up" and s > 0:
            ear = np.array([(-0.3, 0.04), (0.0, 0.34), (0.2, 0.3 - long * 0.5), (0.1, -0.1)])
            p.body(smooth(root + ear * (s, 1)), lit=0.86)
        else:
            out = 0.26 if ears == "wide" else 0.1
            ear = np.array([(-0.12, 0.08), (out, -0.06), (out + 0.02, -long)])
            ear = stroke(root + ear * (s, 1), 0.1, 0.17)
            if t.marking > 0.7 and p.part: p.body(ear, colour=p.part)
            else: p.body(ear, lit=0.78)
    p.eyes(eyes, r, mix(pick(t.eyes * 4 % 1, EYES), WHITE, 0.25), 0.7)
    m, sy = 0.2 + 0.08 * t.detail, mid - 0.2  # snout
    p.flat(oval(f, sy - 0.2, 0.09, 0.15), (236, 96, 116), edge=DARK)
    p.body(*[oval(f + s * 0.5 * m, sy - 0.02, 0.62 * m, 0.75 * m) for s in (-1, 1)],
           colour=p.pale, edge=p.ink)
    p.line([(f, sy + 0.06), (f, sy - 0.1)], DARK, 0.035)
    p.flat(oval(f, sy + 0.12, 0.13, 0.095, power=2.4), DARK)
    p.flat(oval(f - 0.04, sy + 0.15, 0.04, 0.022), (200, 200, 206))
    return Fit((x + 0.02, y - h * 0.96, 0.8 * w), (x, top - 0.03, 0.8 * w), eyes,
               r + (0.08 if p.cube else 0.09))


def bear(p, t):
    """A bear that sits facing us."""
    # part: ear size; eyes: size; detail: muzzle; trim: none or a bow tie; stance: arms down to
    # spread; marking: belly none, pale, pale with a heart, or second colour; width, height: body
    # and head
    ears = pick(t.kind, ("round", "high", "wide", "flat"))
    patch = p.pale if t.marking < 0.75 else p.mark  # on the belly and under the feet
    if p.cube:
        x, y, w = p.box()
        h, b = w, 0.5
    else:
        w, h, x, y = 0.52 + 0.09 * t.width, 0.44 + 0.05 * t.height, 0.06 * p.turn, 0.3
        b = 0.46 + 0.1 * t.width
    size = 0.15 + 0.09 * t.part
    flat = ears == "flat"
    angle = {"round": 0.8, "high": 1.05, "wide": 0.6, "flat": 0.8}[ears]
    for s in (-1, 1):
        if p.cube: ex, ey = p.top(0.5 + 0.4 * s, 0.4) + (0, 0.5 * size)
        else: ex, ey = x + s * math.cos(angle) * (w + 0.05), y + math.sin(angle) * (h + 0.05)
        p.body(oval(ex, ey, size, size * (0.72 if flat else 1)))
        p.flat(oval(ex, ey - 0.02, size * 0.55, size * (0.38 if flat else 0.55)), p.mark)
    if not p.cube:
        p.body(oval(0, -0.46, b, 0.46))
        if t.marking > 0.3: p.flat(oval(0.05 * p.turn, -0.48, b * 0.62, 0.3), patch)
        shirt(p, smooth(mirrored(0, (b * 0.8, -0.05), (b * 1.06, -0.45), (b * 0.9, -0.8))),
              collar=(0.5 * x, y - h + 0.02, 0.26))
        for s in (-1, 1):
            arm = [(s * b * 0.72, -0.2), (s * (b + 0.12), -0.38 + 0.2 * t.stance),
                   (s * (b + 0.14 + 0.1 * t.stance), -0.62 + 0.62 * t.stance)]
            p.body(stroke(arm, 0.14, 0.13))
            shirt(p, stroke(arm[:2], 0.16))
    for s in (-1, 1):  # feet
        fx = s * b * 0.86 + (x if p.cube else 0)
        p.body(oval(fx, -0.82, 0.22, 0.2))
        p.flat(oval(fx, -0.82, 0.13, 0.12), patch)
    if not p.cube:
        p.body(oval(x, y, w, h, power=2.2))
        if t.trim > 0.45 and bare_neck(p):
            c = collar_colour(t.trim, 0.45)
            ty = y - h - 0.03
            for s in (-1, 1):
                p.body(smooth([(0, ty), (s * 0.22, y - h + 0.1), (s * 0.22, y - h - 0.16)]), colour=c)
            p.flat(oval(0, ty, 0.06), mix(c, WHITE, 0.3), edge=ink(c))
        if 0.5 < t.marking < 0.75 and p.worn != "yellow shirt": p.flat(heart(0.1 * p.turn, -0.46, 0.2), RED)
    f, m, my, r = x + 0.2 * p.turn * w, 0.2 + 0.06 * t.detail, y - 0.15, 0.1 + 0.04 * t.eyes
    p.body(oval(f, my, m, m * 0.8), colour=p.pale, edge=p.ink)
    eyes = [(f - 0.42 * w, y + 0.1), (f + 0.42 * w, y + 0.1)]
    p.eyes(eyes, r, mix(p.pale, WHITE, 0.5) if bright(p.first) < 100 else (80, 48, 30), 0.8)
    p.flat(oval(f, my + m * 0.36, 0.1, 0.075), DARK)
    mouth = mirrored(f, (0.12, my - 0.06), (0.06, my - 0.1), (0, my - 0.02))
    p.line(smooth(mouth, closed=False), DARK, 0.035)
    p.line([(f, my), (f, my + m * 0.3)], DARK, 0.035)
    return Fit((x, y - h * 0.98, 0.72 * w), (x, y + h - 0.02, 0.8 * w), eyes, r + 0.1)


def duck(p, t):
    """A duck that swims to the left; its head is round, of radius r."""
    # part: bill length; eyes: size; detail: wing size; trim: bill colour; stance: head forward to
    # back; width: length; height: neck
    tuft = pick(t.kind, ("none", "curl", "mohawk", "crest"))
    marking = pick(t.marking, ("none", "cheeks", "ring", "wing", "wing"))
    # a bill that can be told apart:
    clear = {"orange": (252, 222, 80), "yellow": (236, 84, 30), "red": (250, 206, 52)}
    bill = clear.get(p.who.colour) or pick(t.trim, ((248, 146, 28), (252, 196, 40), (236, 96, 40)))
    if p.cube:
        x, y, r = p.box()
        hx, hy, f = x, y + 0.15, x + 0.12 * p.turn
        tail = p.side[1]
        p.body(smooth(tail + [(-0.05, -0.35), (0.3, -0.12), (0.22, -0.5), (-0.05, -0.62)]))
        wing = oval(*(p.side.mean(0) - (0, 0.12)), 0.14, 0.22)
        crown = p.top(0.5, 0.5)
    else:
        w, r = 0.72 + 0.1 * t.width, 0.42 + 0.06 * t.height
        hx, hy = -0.3 + 0.2 * t.stance + 0.06 * p.turn, 0.3 + 0.1 * t.height
        p.body(smooth([(-w * 0.98, -0.42), (-w * 0.7, -0.9), (0, -0.99), (w * 0.72, -0.88), (w, -0.4),
                       (w * 1.16, 0.02), (w * 0.7, -0.16), (0.1, -0.16), (-w * 0.62, -0.08)]))
        shirt(p, smooth([(-w * 0.98, -0.44), (-w * 0.7, -0.86), (0, -0.96), (w * 0.5, -0.9), (w * 0.6, -0.5),
                         (w * 0.5, -0.16), (0.1, -0.14), (-w * 0.7, -0.1)]),
              collar=(hx - 0.06, min(hy - r + 0.02, -0.08), 0.26))
        f = hx - 0.1 + 0.1 * p.turn
        wing = smooth([(0.28 - 0.3 * t.detail, -0.42), (0.34, -0.3), (w * 0.66, -0.32), (w * 0.82, -0.18),
                       (w * 0.74, -0.56), (0.4, -0.74), (0.12 - 0.1 * t.detail, -0.62)])
        crown = np.array((hx, hy + r))
    p.body(wing, colour=p.part if marking == "wing" else None, lit=0.88)
    if tuft == "curl": p.body(stroke(crown + [(0, -0.06), (0.0, 0.14), (0.16, 0.18)], 0.06, 0.04))
    if tuft == "mohawk":
        tips = [(0.1 * k, 0.18 - 0.03 * abs(k)) for k in (-1, 0, 1)]
        p.body(*[stroke(crown + [(0, -0.1), tip], 0.07, 0.03) for tip in tips], colour=p.second)
    if tuft == "crest":
        p.body(smooth(crown + [(-0.1, -0.08), (0.1, 0.1), (0.36, 0.06), (0.22, -0.16)]))
    if not p.cube:
        p.body(oval(hx, hy, r, r * 0.98))
        if marking == "ring" and bare_neck(p):
            ring = [(hx - r * 0.66, hy - r * 0.78), (hx, hy - r * 1.06), (hx + r * 0.72, hy - r * 0.74)]
            p.body(stroke(ring, 0.06), colour=p.second)
    long, by, e, gap = 0.24 + 0.16 * t.part, hy - 0.13, 0.12 + 0.035 * t.eyes, 0.34 * r + 0.06
    eyes = [(f - gap, hy + 0.14), (f + gap, hy + 0.14)]
    if marking == "cheeks":
        for s in (-1, 1): p.flat(oval(f + s * (gap + 0.1), by, 0.11, 0.08), BLUSH)
    p.eyes(eyes, e, WHITE, 0.68, 1.15)
    f -= 0.06 - 0.1 * p.turn
    lower = mirrored(f, (0, by + 0.02), (long, by - 0.06), (0, by - 0.16))
    upper = mirrored(f, (0, by - 0.08), (long, by - 0.02), (long * 0.6, by + 0.08), (0, by + 0.13))
    p.body(smooth(lower), colour=mix(bill, (120, 30, 10), 0.3))
    p.body(smooth(upper), colour=bill)
    return Fit((hx, hy - r * 0.98, 0.86 * r, 0.36), (hx, hy + r - 0.01, 0.86 * r), eyes, e + 0.08)


# === face and robot ===============================================================================

def last_above(u, steps):
    """The last of the (threshold, word) whose threshold u is above; "" if it is above none."""
    above = [word for threshold, word in steps if u > threshold]
    return above[-1] if above else ""


def hair_of_cube(p, cut, x, y, w):
    if cut == "bald": return
    hair = p.second
    p.body(p.lid, colour=hair, puff=0.3)
    if cut in ("bob", "long"):
        p.body([p.side[0], p.side[1], p.side[2] + (0, 0.3), p.side[3] + (0, 0.3)],
               colour=hair, lit=0.8, puff=0.3)
    if cut == "bun": p.body(oval(*(p.top(0.5, 0.5) + (0, 0.2)), 0.24), colour=hair)
    a, b = p.front[:2]
    p.body([a, b, b - (0, 0.2), (x, y + w - 0.28), a - (0, 0.2)], colour=hair)


def hair_behind(p, cut, x, y, w, h):
    hair = p.second
    if cut == "bob": p.body(pad(x - w - 0.14, -0.42, x + w + 0.14, y + h + 0.12, power=3), colour=hair)
    if cut == "long": p.body(pad(x - w - 0.13, -1.1, x + w + 0.13, y + h + 0.12, power=3), colour=hair)
    if cut == "bun": p.body(oval(x, y + h + 0.04, 0.23), colour=hair)
    if cut == "curls":
        places = [around(x, y + 0.12, w + 0.06, a, h - 0.04) for a in np.linspace(-0.45, 3.6, 8)]
        p.body(*[oval(*place, 0.24) for place in places], colour=hair)
    if cut == "spikes": p.body(star(x, y + 0.08, h + 0.2, 9, 0.76), colour=hair)


def hair_on_top(p, cut, x, y, w, h):
    if cut == "bald": return
    if cut in ("short", "spikes"):
        cap = [(-1.03, 0.16), (-1.0, 0.62), (-0.5, 1.06), (0.2, 1.12), (0.9, 0.8), (1.03, 0.16),
               (0.8, 0.5), (0.1, 0.62), (-0.7, 0.52)]
    elif cut in ("bob", "bun"):
        cap = mirrored(0, (0, 0.46), (0.84, 0.4), (1.04, 0), (1.0, 0.7), (0, 1.12))
    else:
        cap = [(-1.06, -0.2), (-1.0, 0.7), (0, 1.14), (1.0, 0.7), (1.06, -0.2), (0.9, 0.36),
               (0.2, 0.76), (-0.5, 0.64), (-0.9, 0.3)]
    p.body(smooth(np.array(cap) * (w, h) + (x, y)), colour=p.second)


def eye_and_brow(p, t, ex, ey, r, s):
    hair = p.second
    iris = pick(t.eye_colour, ((76, 150, 84), (70, 140, 220), (122, 76, 42), (120, 128, 140)))
    p.almond(ex, ey, r, iris)
    slant, by = s * 0.22 * (t.brows * 3 % 1 - 0.5), ey + r + 0.08
    p.line([(ex - 0.14, by - slant), (ex + 0.14, by + slant)],
           ink(hair) if bright(hair) > 60 else DARK, 0.045 + 0.07 * t.brows)


def nose_and_mouth(p, t, f, y, my):
    dark = ink(p.first)
    n = 0.07 + 0.08 * t.nose
    p.body(oval(f + 0.05 * p.turn, y - 0.14, n, 0.6 * n + 0.05), colour=mix(p.first, (200, 60, 40), 0.12),
           lit=1.05, edge=mix(p.first, dark, 0.6))
    m, smile = 0.14 + 0.14 * t.mouth, 0.1 * (t.mouth * 4 % 1) - 0.02
    if t.mouth > 0.6:
        p.flat(smooth(mirrored(f, (0, my - 0.17), (m, my + 0.04), (0, my + 0.01))), (120, 24, 36), edge=dark)
        p.flat(mirrored(f, (m * 0.5, my - 0.03), (m * 0.8, my + 0.03)), WHITE)
    else:
        p.line(smooth(mirrored(f, (m, my + smile), (0, my - smile)), closed=False),
               (150, 40, 48) if bright(p.first) > 90 else (226, 130, 130), 0.065)


def face(p, t):
    """A person's head and shoulders."""
    # skin: natural tone; brows: thickness and slant; mouth: width and smile, or open; jaw: round to
    # square, and the colour of the clothes; the other traits are what their names say
    hair = p.second
    cut = pick(t.hair_cut, ("bald", "short", "bob", "long", "curls", "bun", "spikes"))
    beard = last_above(t.beard, ((0.5, "moustache"), (0.67, "goatee"), (0.84, "full")))
    extra = last_above(t.extras, ((0.33, "freckles"), (0.55, "glasses"), (0.8, "earrings")))
    if p.cube:
        x, y, w = p.box()
        h = w
        hair_of_cube(p, cut, x, y, w)
    else:
        w, h, x, y = 0.52 + 0.12 * t.width, 0.68, 0.05 * p.turn, 0.12
        hair_behind(p, cut, x, y, w, h)
        p.body(pad(x - 0.17, -0.9, x + 0.17, -0.3), lit=0.86)  # neck
        torso = smooth(mirrored(0, (0, -1.4), (0.9, -1.38), (0.8, -0.76), (0.34, -0.56), (0, -0.62)))
        clothes = (70, 128, 138), (96, 104, 122), (226, 226, 220), (72, 84, 140)
        p.body(torso, colour=pick(t.jaw * 3 % 1, clothes))
        shirt(p, torso, collar=(0, -0.58, 0.32))
        for s in (-1, 1): p.body(oval(x + s * w, y - 0.04, 0.11, 0.15))  # ears
        square = 0.68 + 0.24 * t.jaw
        p.body(smooth(mirrored(x, (0.4 * w, y - h), (w * square, y - h * 0.62), (w, y + 0.1),
                               (w * 0.8, y + h * 0.78), (0, y + h))))
        hair_on_top(p, cut, x, y, w, h)

    f, r, gap = x + 0.22 * p.turn * w, 0.105 + 0.045 * t.eye_size, w * (0.38 + 0.12 * t.eye_gap)
    ey, my = y + 0.06, y - 0.36
    eyes = [(f - gap, ey), (f + gap, ey)]
    if beard == "full":
        chin = 1.02 if p.cube else 1.12
        p.body(smooth([(x - w * 0.94, y - 0.16), (f - 0.2, y - 0.3), (f + 0.2, y - 0.3),
                       (x + w * 0.94, y - 0.16), (x + w * 0.72, y - h * 0.9), (x, y - h * chin),
                       (x - w * 0.72, y - h * 0.9)]), colour=hair)
    for place, s in zip(eyes, (-1, 1)): eye_and_brow(p, t, *place, r, s)
    if extra == "freckles":
        for s in (-1, 1):
            for dx, dy in ((0, 0), (0.09, 0.04), (0.05, -0.07)):
                p.flat(oval(f + s * (gap + dx - 0.04), ey - 0.22 + dy, 0.026),
                       mix(p.first, (150, 60, 20), 0.6))
    nose_and_mouth(p, t, f, y, my)
    if beard in ("full", "moustache"):
        moustache = mirrored(f, (0, my + 0.06), (0.28, my + 0.02), (0.1, my + 0.14), (0, my + 0.1))
        p.body(smooth(moustache), colour=hair)
    elif beard == "goatee": p.body(oval(f, y - h + 0.02, 0.15, 0.14), colour=hair)
    if extra == "glasses":
        for ex, ey in eyes: p.line(oval(ex, ey, min(r + 0.09, gap - 0.02)), (30, 30, 40), 0.06, closed=True)
        p.line([(f - gap + r + 0.07, ey), (f + gap - r - 0.07, ey)], (30, 30, 40), 0.06)
    if extra == "earrings":
        out = w + (-0.06 if p.cube else 0.02)
        for s in (-1, 1): p.flat(oval(x + s * out, y - 0.28, 0.075), GOLD, edge=ink(GOLD))
    return Fit((x * 0.5, -0.6, 0.56, 0.34, 0.14), (x, y + h * 0.78, w * 0.98), eyes,
               r + (0.1 if p.cube else 0.12))


def feet_of_robot(p, t, b, steel):
    """What it walks or rolls on, under a body of half width b."""
    walk = pick(t.stance, ("legs", "tracks", "wheel"))
    if walk == "legs":
        for s in (-1, 1):
            p.body(pad(s * 0.22 - 0.1, -0.9, s * 0.22 + 0.1, -0.55), colour=steel)
            p.body(pad(s * 0.24 - 0.19, -1.0, s * 0.24 + 0.19, -0.84), colour=p.part)
    elif walk == "tracks":
        p.body(pad(-b - 0.1, -1.0, b + 0.1, -0.66, power=3), colour=RUBBER)
        for k in (-0.8, -0.27, 0.27, 0.8): p.flat(oval(k * b, -0.83, 0.1), steel)  # wheels
    else:
        p.body(pad(-0.1, -0.8, 0.1, -0.5), colour=steel)
        p.body(oval(0, -0.8, 0.22, 0.2), colour=RUBBER)
        p.flat(oval(0, -0.8, 0.09), p.second)


def body_of_robot(p, t, b, steel):
    """Feet, arms, neck and a body of half width b, with what is on its chest."""
    feet_of_robot(p, t, b, steel)
    for s in (-1, 1):
        arm = [(s * b, -0.16), (s * (b + 0.2), -0.26), (s * (b + 0.2), -0.5)]
        p.body(stroke(arm, 0.12))
        p.body(oval(s * (b + 0.2), -0.56, 0.15), colour=p.part if t.marking > 0.5 else steel)
        shirt(p, stroke(arm[:2], 0.13))
    p.body(pad(-0.14, -0.2, 0.14, 0.1), colour=steel)
    p.body(pad(-b, -0.66, b, -0.04, power=7))
    chest = pick(t.detail, ("gauge", "buttons", "heart"))
    px = 0.1 * p.turn
    if chest == "gauge":
        p.flat(oval(px, -0.35, 0.14), WHITE, edge=DARK)
        p.line([(px, -0.38), (px + 0.08, -0.27)], (210, 30, 30), 0.05)
    elif chest == "buttons":
        for k, c in ((-0.17, (220, 50, 50)), (0, (250, 200, 50)), (0.17, (60, 170, 80))):
            p.flat(oval(px + k, -0.35, 0.075), c, edge=DARK)
    else: p.flat(heart(px, -0.36, 0.15), RED)
    shirt(p, pad(-b - 0.03, -0.62, b + 0.03, -0.02, power=7), collar=(0, -0.05, 0.24))


def robot(p, t):
    """A robot, antennas on its head and a gauge, buttons or a heart on its chest."""
    # part: antenna length; eyes: size and glow; marking: hands and ear bolts of steel or second
    # colour; width, height: head and torso
    antenna = pick(t.kind, ("ball", "two balls", "dish", "bulb"))
    mouth = pick(t.trim, ("grille", "smile", "slot"))
    steel = STEEL if p.who.colour not in ("grey", "white") else (110, 116, 128)
    b = 0.42 + 0.1 * t.width
    if p.cube:
        x, y, w = p.box()
        h, mid = w, y + 0.1
        crown = p.top(0.5, 0.5)
    else:
        w, h, x, y = 0.46 + 0.12 * t.width, 0.36 + 0.05 * t.height, 0.06 * p.turn, 0.34
        mid = y
        crown = np.array((x, y + h))
        body_of_robot(p, t, b, steel)
    for k in ((-0.5, 0.5) if antenna == "two balls" else (0,)):
        tip = crown + (k * w * 1.3, 0.14 + 0.1 * t.part)
        p.rope([crown + (k * w, -0.05), tip], steel, edge=DARK)
        if antenna == "dish":
            p.body(smooth(mirrored(0, (0, 0.02), (0.2, 0.06), (0, -0.04))) + tip, colour=p.second)
        elif antenna == "bulb": p.body(oval(*tip, 0.13), colour=(255, 226, 90))
        else: p.body(oval(*tip, 0.09), colour=p.second)
    if not p.cube:
        for s in (-1, 1):
            p.body(pad(x + s * (w + 0.02) - 0.1, y - 0.14, x + s * (w + 0.02) + 0.1, y + 0.12),
                   colour=p.part if t.marking % 0.5 > 0.25 else steel)
        p.body(pad(x - w, y - h, x + w, y + h, power=6))
    f = x + 0.18 * p.turn * w
    p.flat(pad(f - w * 0.76, mid - 0.06, f + w * 0.76, mid + h * 0.3 + 0.1, power=4),
           (40, 44, 58), edge=p.ink)
    glow = pick(t.eyes * 3 % 1, ((90, 230, 250), (255, 226, 90), (130, 250, 130)))
    r = 0.115 + 0.035 * t.eyes
    eyes = [(f - 0.4 * w, mid + 0.1), (f + 0.4 * w, mid + 0.1)]
    for ex, ey in eyes: p.lamp(ex, ey, r, glow)
    my = mid - 0.2
    if mouth == "grille":
        p.flat(pad(f - 0.22, my - 0.05, f + 0.22, my + 0.05), WHITE, edge=DARK)
        for k in (-0.11, 0, 0.11): p.line([(f + k, my - 0.05), (f + k, my + 0.05)], DARK, 0.035)
    elif mouth == "smile":
        p.line(smooth(mirrored(f, (0.2, my + 0.05), (0, my - 0.05)), closed=False), p.ink, 0.07)
    else: p.flat(pad(f - 0.16, my - 0.035, f + 0.16, my + 0.035), p.ink)
    if p.cube: p.flat(oval(*p.side.mean(0), 0.1, 0.14), steel, edge=p.ink)
    return Fit((0, -0.04, b * 0.94, 0.4), (x, y + h + 0.09, 0.86 * w), eyes, r + 0.08)
