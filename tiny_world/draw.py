"""From a scene to pixels: scenery, shadow, figure, style, light.

The picture is composed at three times its size and then reduced, so that edges are smooth. The
command shows what there is as a grid of pictures:

    python -m tiny_world.draw                      # an overview: every class, twelve individuals
    python -m tiny_world.draw --class cat          # many individuals of one class
    python -m tiny_world.draw --identity cat:7     # one individual in every context
    python -m tiny_world.draw --accessories        # also --styles, --cubes, --finishes, --patterns,
                                                   # --poses, --random
"""
import argparse
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from tiny_world.figures import figure
from tiny_world.scenery import scenery
from tiny_world.styles import stylise
from tiny_world.world import (ACCESSORIES, CLASSES, CONTEXTS, FINISHES, LIVE, PATTERNS, RARE_PATTERNS,
                              STYLES, Scene, random_identity, random_pose, random_scene)

# One soft round shadow for everything, squeezed into place: a blur per picture would cost more than
# the figure.
FAR = np.hypot(*np.mgrid[-1:1:64j, -1:1:64j]).clip(0, 1)
SHADOW = Image.fromarray((150 * (1.15 - FAR) ** 0.8 * np.clip(3 - 3 * FAR, 0, 1)).astype(np.uint8))


def draw(scene, size=64):
    """The picture of a scene; the same scene always gives the same bytes."""
    return compose(scene, figure(scene), size)


def compose(scene, layer, size=64):
    """A figure on its transparent layer, put into the scene."""
    rng = np.random.default_rng(scene.seed)
    picture = scenery(scene.context, rng)
    x0, _, x1, y1 = layer.getchannel("A").getbbox()
    wide = int((x1 - x0) * 1.04)
    shadow = SHADOW.resize((wide, max(8, wide // 5)))
    picture.paste((16, 14, 30), ((x0 + x1 - wide) // 2 + 5, y1 - int(shadow.height * 0.62)), shadow)
    picture.paste(layer, (0, 0), layer)
    picture = stylise(picture, scene.style, rng, size)
    return picture.point([min(255, int(v * scene.pose.light + 0.5)) for v in range(256)] * 3)


def as_bytes(scene):
    return np.asarray(draw(scene))


def draw_all(scenes):
    """Yields the pictures of scenes as (64, 64, 3) bytes, drawn on all cores."""
    with multiprocessing.Pool() as pool:
        yield from pool.imap(as_bytes, scenes, chunksize=64)


def grid(rows, zoom):
    """Rows of scenes as one picture."""
    sheet = Image.new("RGB", (max(map(len, rows)) * 66 + 2, len(rows) * 66 + 2), (20, 20, 20))
    for j, row in enumerate(rows):
        for i, scene in enumerate(row):
            sheet.paste(draw(scene), (2 + 66 * i, 2 + 66 * j))
    return sheet.resize((sheet.width * zoom, sheet.height * zoom), Image.NEAREST)


def individual(text):
    """cat:7 is the cat of seed 7."""
    cls, seed = text.split(":")
    return random_identity(int(seed), cls)


def row_of_class(a, cls, rng):
    """What the options that are about every class show of one."""
    def scene(i, **more):
        return Scene(random_identity(a.first + i, cls), a.context, **more)

    if a.accessories:
        return [scene(i, accessory=accessory, pose=random_pose(rng))
                for i in range(2) for accessory in ("", *ACCESSORIES)]
    if a.cubes:
        upright = [scene(i, cube=True) for i in range(6)]
        return upright + [scene(i, cube=True, pose=random_pose(rng)) for i in range(6, 10)]
    if a.finishes:
        return [scene(i, finish=finish) for i in range(4) for finish in ("", *FINISHES)]
    if a.patterns:
        return [Scene(replace(random_identity(a.first + i, cls), pattern=pattern), a.context)
                for pattern in PATTERNS + RARE_PATTERNS for i in (1, 2)]
    if a.poses:
        return [scene(0, pose=random_pose(rng)) for _ in range(12)]
    return [scene(i) for i in range(12)]


def in_rows(scenes, length):
    return [scenes[i:i + length] for i in range(0, len(scenes), length)]


def scenes(a):
    """The rows of scenes that the options ask for."""
    rng = np.random.default_rng(a.first)
    if a.random:
        return in_rows([random_scene(rng) for _ in range(140)], 14)
    if a.identity:
        return in_rows([Scene(a.identity, context, pose=random_pose(rng), seed=i)
                        for i, context in enumerate(CONTEXTS)], 10)
    if a.cls:
        people = [random_identity(a.first + i, a.cls) for i in range(96)]
        return in_rows([Scene(who, a.context) for who in people], 12)
    if a.styles:
        people = [random_identity(a.first + i, cls) for i, cls in enumerate(CLASSES)]
        return in_rows([Scene(who, a.context, style=style) for style in STYLES for who in people],
                       len(people))
    classes = CLASSES
    if a.accessories:
        classes = LIVE
    elif a.patterns:
        classes = [cls for cls in CLASSES if cls != "face"]
    return [row_of_class(a, cls, rng) for cls in classes]


def main():
    """Saves the sheet that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    show = parser.add_mutually_exclusive_group()
    show.add_argument("--class", dest="cls", choices=CLASSES, help="many individuals of one class")
    show.add_argument("--identity", type=individual, metavar="CLASS:SEED",
                      help="one individual in every context")
    for what in ("styles", "accessories", "cubes", "finishes", "patterns", "poses", "random"):
        show.add_argument("--" + what, action="store_true")
    parser.add_argument("--context", choices=CONTEXTS, default="plain")
    parser.add_argument("--first", type=int, default=0, help="the first identity seed")
    parser.add_argument("--out", default="world.png")
    parser.add_argument("--zoom", type=int, default=2)
    a = parser.parse_args()
    if a.zoom < 1 or a.first < 0:
        parser.error(f"--zoom {a.zoom} --first {a.first}: at least 1 and at least 0")
    if Image.registered_extensions().get(Path(a.out).suffix.lower()) not in Image.SAVE:
        parser.error(f"--out {a.out}: the name should end in .png or .jpg")
    grid(scenes(a), a.zoom).save(a.out)
    print(a.out)


if __name__ == "__main__":
    main()
