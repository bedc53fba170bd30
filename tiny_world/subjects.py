"""The 30 subjects that ship with the world: python -m tiny_world.subjects draws them again.

In the spirit of the DreamBooth benchmark: four to six photos each, in various places and poses, of one individual that
pretraining never saw. A third (`rare`) wear a pattern that no picture of the pretraining has: what is not known yet has to
be learned. None of the photos shows snow, night, a rug in a forest or water, so those places are new for every subject."""
from pathlib import Path

import numpy as np

from tiny_world import SUBJECTS
from tiny_world.draw import draw
from tiny_world.world import CONTEXTS, Scene, random_identity, random_pose

WHO = {  # name: (class, seed of the identity, rare)
    "cat": ("cat", 5, False), "cat2": ("cat", 8, False), "cat3": ("cat", 3, True),
    "dog": ("dog", 2, False), "dog2": ("dog", 5, False), "dog3": ("dog", 8, True),
    "face": ("face", 1, False), "face2": ("face", 3, False), "face3": ("face", 7, False), "face4": ("face", 9, False),
    "bear": ("bear", 3, False), "bear2": ("bear", 6, True),
    "duck": ("duck", 3, False), "duck2": ("duck", 7, True),
    "robot": ("robot", 1, False), "robot2": ("robot", 6, True),
    "teapot": ("teapot", 3, False), "teapot2": ("teapot", 9, True),
    "vase": ("vase", 9, False), "vase2": ("vase", 3, True),
    "bowl": ("bowl", 3, False), "can": ("can", 2, True), "candle": ("candle", 8, False), "clock": ("clock", 3, False),
    "boot": ("boot", 0, False), "boot2": ("boot", 2, True), "sneaker": ("sneaker", 7, False),
    "backpack": ("backpack", 4, False), "backpack2": ("backpack", 3, True), "car": ("car", 7, False),
}
PLACES = [c for c in CONTEXTS if c not in ("snow", "night", "rug", "water")]


def scenes(name):
    """The truth behind a subject's photos: its Scenes, in the order of the files."""
    cls, seed, rare = WHO[name]
    rng = np.random.default_rng([2_718, list(WHO).index(name)])
    places = rng.choice(PLACES, size=4 + list(WHO).index(name) % 3, replace=False)
    return [Scene(random_identity(seed, cls, rare), str(place), pose=random_pose(rng), seed=int(rng.integers(2**31)))
            for place in places]


if __name__ == "__main__":
    for name in WHO:
        folder = Path(SUBJECTS) / name
        folder.mkdir(parents=True, exist_ok=True)
        for i, scene in enumerate(scenes(name)):
            draw(scene).save(folder / f"{i:02d}.png", optimize=True)
    print(f"{len(WHO)} subjects in {SUBJECTS}")
