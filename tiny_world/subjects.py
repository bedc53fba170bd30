"""The 30 subjects that ship with the world: python -m tiny_world.subjects draws them again.

    python -m tiny_world.subjects --crowd runs/faces --class face --count 4096 --views 4
                                                  many others, for a hypernetwork

In the spirit of the DreamBooth benchmark: four to six photos each, in various places and poses, of
one individual that pretraining never saw. A third (`rare`) wear a pattern that no picture of the
pretraining has: what is not known yet has to be learned. None of the photos shows snow, night, a
rug in a forest or water, so those places are new for every subject.
"""
import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from tiny_world.draw import draw, draw_all
from tiny_world.world import CLASSES, CONTEXTS, HELD_OUT, Scene, random_identity, random_pose

SUBJECTS = Path(__file__).parent / "subjects"

WHO = {  # name: (class, seed of the identity, rare)
    "cat": ("cat", 5, False), "cat2": ("cat", 8, False), "cat3": ("cat", 3, True),
    "dog": ("dog", 2, False), "dog2": ("dog", 5, False), "dog3": ("dog", 8, True),
    "face": ("face", 1, False), "face2": ("face", 3, False),
    "face3": ("face", 7, False), "face4": ("face", 9, False),
    "bear": ("bear", 3, False), "bear2": ("bear", 6, True),
    "duck": ("duck", 3, False), "duck2": ("duck", 7, True),
    "robot": ("robot", 1, False), "robot2": ("robot", 6, True),
    "teapot": ("teapot", 3, False), "teapot2": ("teapot", 9, True),
    "vase": ("vase", 9, False), "vase2": ("vase", 3, True),
    "bowl": ("bowl", 3, False), "can": ("can", 2, True),
    "candle": ("candle", 8, False), "clock": ("clock", 3, False),
    "boot": ("boot", 0, False), "boot2": ("boot", 2, True), "sneaker": ("sneaker", 7, False),
    "backpack": ("backpack", 4, False), "backpack2": ("backpack", 3, True),
    "car": ("car", 7, False),
}
PLACES = [c for c in CONTEXTS if c not in ("snow", "night", "rug", "water")]


def scenes(name):
    """The truth behind a subject's photos: its Scenes, in the order of the files."""
    cls, seed, rare = WHO[name]
    who, number = random_identity(seed, cls, rare), list(WHO).index(name)
    rng = np.random.default_rng([2_718, number])
    places = rng.choice(PLACES, size=4 + number % 3, replace=False)
    return [Scene(who, str(place), pose=random_pose(rng), seed=int(rng.integers(2**31)))
            for place in places]


def view(cls, seed, i):
    """The Scene of photo number i of individual `seed`."""
    rng = np.random.default_rng([3_141, seed, i])
    return Scene(random_identity(seed, cls), str(rng.choice(list(CONTEXTS))),
                 pose=random_pose(rng), seed=int(rng.integers(2**31)))


def crowd(folder, cls, count, views):
    """Photos of many individuals of a class, `views` of each: 000000/0.png, 000000/1.png, ... None
    of them is a shipped subject."""
    photos = [(n, i) for n in range(count) for i in range(views)]
    pictures = draw_all(view(cls, HELD_OUT + n, i) for n, i in photos)
    for (n, i), picture in zip(photos, pictures):
        person = folder / f"{n:06d}"
        person.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(person / f"{i}.png")


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--crowd", metavar="FOLDER", help="many individuals instead of the 30")
    p.add_argument("--class", dest="cls", choices=CLASSES, default="face")
    p.add_argument("--count", type=int, default=4096)
    p.add_argument("--views", type=int, default=4)
    a = p.parse_args()
    if a.count < 1 or a.views < 1:
        p.error(f"--count {a.count} --views {a.views}: at least 1")
    if a.crowd:
        crowd(Path(a.crowd), a.cls, a.count, a.views)
        print(f"{a.count} individuals of class {a.cls} in {a.crowd}")
        return
    for name in WHO:
        folder = SUBJECTS / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, scene in enumerate(scenes(name)):
            draw(scene).save(folder / f"{i:02d}.png", optimize=True)
    print(f"{len(WHO)} subjects in {SUBJECTS}")


if __name__ == "__main__":
    main()
