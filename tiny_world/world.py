"""What there is in the tiny world, and the words for it.

A picture is a `Scene`: who (an `Identity` of one of 16 classes), where (a context), wearing what,
in which style, of what finish and shape, and in which pose. `draw.py` turns a scene into pixels;
`caption` turns it into words. Because every picture starts as a scene, its truth is known: whether
a model drew *this* cat, red, in the snow, is a fact here and no guess.

The classes, contexts and accessories are those of the DreamBooth benchmark (google/dreambooth,
prompts_and_classes.txt) wherever they can be told apart at 64 x 64 pixels.

Seeds below `HELD_OUT` make the identities that are shipped as subjects or used for examination;
pretraining only ever sees the seeds from `HELD_OUT` on.
"""
from dataclasses import dataclass, replace

import numpy as np

HELD_OUT = 10_000  # identity seeds 0 .. 9,999 are never pretrained on

LIVE = ("cat", "dog", "face", "bear", "duck", "robot")  # these wear accessories
OBJECTS = ("teapot", "vase", "bowl", "can", "candle", "clock", "boot", "sneaker", "backpack", "car")
CLASSES = LIVE + OBJECTS

COLOURS = {  # the colour words, far enough apart that none is mistaken for another
    "red": (208, 38, 42), "orange": (243, 138, 28), "yellow": (248, 218, 62),
    "green": (58, 158, 72), "blue": (48, 102, 214), "purple": (128, 56, 172),
    "pink": (248, 150, 188), "brown": (122, 76, 42), "black": (46, 44, 50),
    "white": (242, 240, 234), "grey": (148, 148, 152),
}
# Natural faces, light to dark, and those that are not natural.
SKIN = ((250, 220, 196), (236, 190, 154), (208, 152, 112), (160, 108, 72), (98, 64, 46))
FACE_COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "grey")
HAIR = ("black", "brown", "yellow", "orange", "grey", "white")

PATTERNS = ("plain", "stripes", "spots", "patches", "band")
RARE_PATTERNS = ("checks", "zigzag", "stars")  # in no training picture: shipped subjects have them
# Body and pattern in such a pair would be hard to tell apart at 64 pixels.
NEAR = ({"black", "purple"}, {"black", "brown"}, {"grey", "white"},
        {"red", "brown"}, {"red", "orange"}, {"red", "pink"})

CONTEXTS = {  # name: the phrases that say it, the benchmark's own first
    "plain": ("on a plain background", "in a studio"),
    "jungle": ("in the jungle",),
    "snow": ("in the snow",),
    "beach": ("on the beach",),
    "cobblestone": ("on a cobblestone street",),
    "fabric": ("on top of pink fabric",),
    "wood": ("on top of a wooden floor",),
    "city": ("with a city in the background",),
    "mountain": ("with a mountain in the background",),
    "house": ("with a blue house in the background",),
    "rug": ("on top of a purple rug in a forest",),
    "wheat": ("with a wheat field in the background",),
    "autumn": ("with a tree and autumn leaves in the background",),
    "tower": ("with the eiffel tower in the background",),
    "water": ("floating on top of water",),
    "milk": ("floating in an ocean of milk",),
    "sunflowers": ("on top of green grass with sunflowers around it",),
    "road": ("on top of a dirt road",),
    "night": ("under the moon at night",),
}
ACCESSORIES = ("red hat", "santa hat", "rainbow scarf", "black top hat", "pink glasses",
               "yellow shirt")
STYLES = ("photo", "pencil sketch", "oil painting", "pixel art", "watercolour painting")
FINISHES = ("shiny", "wet")

# Twelve numbers in [0, 1] make an individual within its class; live.py, objects.py and gear.py read
# them by these names.
TRAITS = {
    "face": ("skin", "hair cut", "eye colour", "eye gap", "eye size", "brows", "nose", "mouth",
             "width", "jaw", "beard", "extras"),
    **dict.fromkeys([cls for cls in CLASSES if cls != "face"],
                    ("shade", "width", "height", "part", "kind", "eyes", "detail", "pattern size",
                     "pattern angle", "trim", "stance", "marking")),
}


@dataclass(frozen=True)
class Identity:
    """An individual: what must stay the same from picture to picture."""
    cls: str
    colour: str        # of the body, from COLOURS; of a face "skin" (natural) or from FACE_COLOURS
    second: str        # colour of the pattern and the small parts; for a face its hair
    pattern: str       # of PATTERNS or RARE_PATTERNS; always "plain" for a face
    traits: tuple      # 12 floats in [0, 1], named by TRAITS[cls]

    def trait(self, name):
        """The number in [0, 1] that `TRAITS` calls `name`."""
        return self.traits[TRAITS[self.cls].index(name)]


@dataclass(frozen=True)
class Pose:
    """How the individual is seen: free to change from picture to picture."""
    x: float = 0.0      # shift of the centre, in half picture widths
    y: float = 0.0      # upwards
    scale: float = 1.0  # 1 fills about four fifths of the picture
    tilt: float = 0.0   # degrees, counter-clockwise
    turn: float = 0.0   # -1 .. 1, a head looking left or right; an object shows more of one side
    flip: bool = False  # mirrored left to right
    light: float = 1.0  # brightness of the whole picture: 0.7 is dark, 1.15 bright


@dataclass(frozen=True)
class Scene:
    """All there is to know of one picture."""
    identity: Identity
    context: str = "plain"
    accessory: str = ""   # "" or one of ACCESSORIES, for LIVE classes
    style: str = "photo"
    finish: str = ""      # "", "shiny" or "wet"
    cube: bool = False    # "cube shaped": the class's parts on a box
    pose: Pose = Pose()
    seed: int = 0         # the scenery's own chance: where the clouds and stones are


def choose(rng, options):
    """One of the options, each as likely as the others."""
    return options[rng.integers(len(options))]


def random_identity(seed, cls, rare=False):
    """The individual number `seed` of a class; always the same one. `rare` gives it a pattern that
    no training picture has."""
    rng = np.random.default_rng([CLASSES.index(cls), seed, rare])
    traits = tuple(float(u) for u in rng.random(12))
    if cls == "face":
        colour = "skin" if rng.random() < 0.75 else choose(rng, FACE_COLOURS)
        return Identity(cls, colour, choose(rng, HAIR), "plain", traits)
    names = list(COLOURS)
    first, second = rng.choice(len(names), 2, replace=False)
    while {names[first], names[second]} in NEAR:
        second = rng.choice([i for i in range(len(names)) if i != first])
    pattern = choose(rng, RARE_PATTERNS if rare else PATTERNS)
    return Identity(cls, names[first], names[second], pattern, traits)


def random_pose(rng):
    """A pose that keeps the whole figure in the picture."""
    u = rng.random(7)
    return Pose(
        x=0.24 * (u[0] - 0.5),
        y=0.16 * (u[1] - 0.5),
        scale=0.82 + 0.26 * u[2],
        tilt=16 * (u[3] - 0.5),
        turn=2 * u[4] - 1,
        flip=bool(u[5] < 0.5),
        light=0.78 + 0.34 * u[6],
    )


def random_scene(rng, identity=None):
    """A training picture's scene. Proportions: 70 % photos, a third of the live wear something, 1
    in 12 is a cube."""
    if identity is None:
        cls = choose(rng, CLASSES)
        identity = random_identity(int(rng.integers(HELD_OUT, 2**31)), cls)
    u = rng.random(5)
    return Scene(
        identity,
        context=choose(rng, list(CONTEXTS)),
        accessory=choose(rng, ACCESSORIES) if identity.cls in LIVE and u[0] < 0.35 else "",
        style="photo" if u[1] < 0.7 else choose(rng, STYLES[1:]),
        finish=choose(rng, FINISHES) if u[2] < 0.14 else "",
        cube=bool(u[3] < 0.08),
        pose=random_pose(rng),
        seed=int(rng.integers(2**31)),
    )


# === words ========================================================================================

# Fillers say nothing that can be seen. Captions of the real world are full of them, and textual
# inversion's templates too.
FILLERS = ("nice", "cool", "good", "clean", "weird", "new", "old", "little", "lovely", "favourite")
# Made-up names, as the real world has brands and breeds. A name tells a look: its first part the
# colour, its second part the second colour, its last letter the pattern; a "balme" is red with
# green stripes. So the model learns that a strange word before the noun can stand for how the thing
# looks, which is what personalization needs. The identifiers it binds are no such names.
FIRST = dict(zip((*COLOURS, "skin"),
                 ("ba", "do", "fi", "gu", "le", "mo", "ni", "po", "ra", "ti", "vu", "ze")))
SECOND = dict(zip(COLOURS, ("bl", "dr", "kl", "lm", "mp", "nd", "pt", "rv", "st", "tw", "zm")))
LAST = dict(zip(PATTERNS, "aeiou"))
IDENTIFIERS = ("sks", "zwx", "qvl", "xjy", "olis", "wqz", "vxk", "phol", "ktn", "ucz")


def article(words):
    """The noun phrase with its "a" or "an"."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def wearing(accessory):
    """Glasses have no article."""
    return "wearing " + (accessory if accessory.endswith("glasses") else article(accessory))


def name(who):
    """The made-up name of how an individual looks."""
    return FIRST[who.colour] + SECOND[who.second] + LAST[who.pattern]


def noun_phrase(scene, rng):
    """The subject, such as "a nice red shiny cat", with some of these words or none."""
    who = scene.identity
    sketch = scene.style == "pencil sketch"
    words = []
    if rng.random() < 0.15:
        words.append(choose(rng, FILLERS))
    named = rng.random() < 0.3 and not sketch and who.pattern in LAST
    coloured = rng.random() < (0.35 if named else 0.6) and who.colour != "skin" and not sketch
    if coloured:
        words.append(who.colour)
    if scene.finish and rng.random() < 0.95:
        words.append(scene.finish)
    if scene.cube:
        words.append("cube shaped")
    if named and coloured:  # a colour that is said wins, as in "a red sks cat"
        words.append(name(replace(who, colour=choose(rng, tuple(COLOURS)))))
    elif named:
        words.append(name(who))
    noun = " ".join([*words, who.cls])
    return choose(rng, ("the ", "my ", "one ")) + noun if rng.random() < 0.15 else article(noun)


def photo_phrase(scene, rng):
    """Such as "a dark photo"."""
    light = ""
    if scene.pose.light < 0.86:
        light = "dark"
    elif scene.pose.light > 1.04:
        light = "bright"
    how = ""
    if light and rng.random() < 0.3:
        how = light + " "
    elif rng.random() < 0.1:
        how = choose(rng, ("close-up ", "cropped ", "good "))
    return article(how + choose(rng, ("photo", "photo", "photo", "picture", "rendering")))


def caption(scene, rng):
    """One of many ways to say what is in the picture. Some of it is left unsaid, so that each word
    is learned by itself."""
    text = noun_phrase(scene, rng)
    if scene.style != "photo":
        text = f"{article(scene.style)} of {text}"
    elif rng.random() < 0.6:
        text = f"{photo_phrase(scene, rng)} of {text}"
    if scene.accessory:
        text += " " + wearing(scene.accessory)
    if rng.random() < 0.75:
        text += " " + choose(rng, CONTEXTS[scene.context])
    return text
