"""Figures that are broken on purpose: the same every time, visibly broken, and never by what an individual may lack."""
from dataclasses import replace

import numpy as np
import pytest

from tiny_world import damage
from tiny_world.damage import KINDS, UNSEEN, CarelessPen, damaged
from tiny_world.draw import draw
from tiny_world.figures import figure
from tiny_world.pen import Pen
from tiny_world.world import CLASSES, TRAITS, Scene, random_identity, random_scene

ALL = (*KINDS, UNSEEN)


def plain(cls, seed):
    """An individual of a class by itself."""
    return Scene(random_identity(seed, cls))


@pytest.mark.parametrize("kind", ALL)
def test_the_same_arguments_give_the_same_picture_and_another_seed_another(kind):
    scene = random_scene(np.random.default_rng(3), random_identity(7, "teapot"))
    pictures = [damaged(scene, kind, seed).tobytes() for seed in (0, 0, 1, 2)]
    assert pictures[0] == pictures[1] and len(set(pictures)) == 3


@pytest.mark.parametrize("cls", CLASSES)
def test_each_kind_differs_visibly_from_the_whole_drawing(cls):
    """As if one pixel of a hundred had turned from black to white: what nobody can see, nobody can learn."""
    for seed in range(2):
        scene = plain(cls, seed)
        whole = np.asarray(draw(scene), int)
        for kind in ALL:
            apart = np.abs(np.asarray(damaged(scene, kind, seed), int) - whole).max(-1)
            assert apart.sum() >= 255 * 64 * 64 / 100, (kind, seed)
            assert (apart > 48).mean() >= 1 / 64, (kind, seed)


def test_where_nothing_shows_much_the_search_ends_with_what_shows_most(monkeypatch):
    """As with a black dog at night."""
    seen = []

    def visible(picture, whole):
        seen.append(picture.tobytes())
        return 70 if len(seen) == 5 else 3
    monkeypatch.setattr(damage, "visible", visible)
    assert damaged(plain("dog", 1), "moved", 0).tobytes() == seen[4] and 5 < len(seen) <= 30


def test_where_little_can_be_seen_to_be_wrong_the_search_ends():
    """A black dog in a top hat, at night and in the dark: of thirty tries the one that shows most."""
    scene = random_scene(np.random.default_rng(0), random_identity(7, "dog"))
    dark = replace(scene.pose, light=0.3)
    who = replace(scene.identity, colour="black", second="black", pattern="plain")
    scene = replace(scene, identity=who, context="night", accessory="black top hat", style="photo", pose=dark)
    picture = damaged(scene, "left out", 0)
    assert damage.visible(picture, draw(scene)) < 64 and picture.tobytes() != draw(scene).tobytes()


def test_the_scenery_is_as_it_was():
    """Only the figure is broken: far from it every pixel is that of the whole drawing."""
    scene = replace(plain("cat", 1), context="city")
    whole = np.asarray(draw(scene))
    for kind in ("left out", "warped", "blended", "eaten", "swirled"):
        picture = np.asarray(damaged(scene, kind, 0))
        assert np.array_equal(picture[:3], whole[:3]) and not np.array_equal(picture, whole), kind


def test_individuals_are_blended_from_a_number_on(monkeypatch):
    """Whom a network is examined on must be none that it was trained with."""
    mixed = []
    monkeypatch.setattr(damage, "random_identity", lambda seed, cls: mixed.append(seed) or random_identity(seed, cls))
    for seed in range(3):
        damaged(plain("dog", 1), "blended", seed, others=70_000)
    assert len(mixed) >= 3 and min(mixed) >= 70_000


# === what is left out =================================================================================================

@pytest.fixture
def pens(monkeypatch):
    """[(of the whole figure, of the broken one), ...]: the pens that drew with care and without."""
    drawn = []

    class Watched(CarelessPen):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            drawn.append(self)
    monkeypatch.setattr(damage, "CarelessPen", Watched)
    return drawn


def test_parts_are_left_out_moved_or_drawn_twice_and_their_kind_says_which(pens):
    """One part or two, each large enough to be missed."""
    for seed in range(6):
        for kind, times in (("left out", 0), ("moved", 1), ("doubled", 2)):
            pens.clear()
            damage.parts_of.cache_clear()  # the whole figure is drawn first, once
            damaged(plain("teapot", seed), kind, seed)
            whole, *_, broken = pens
            assert 1 <= len(broken.places) <= 2 and all(whole.parts[i][0] > 0.1 for i in broken.places)
            for shifts in broken.places.values():
                assert len(shifts) == times and ((0.0, 0.0) in shifts) == (kind == "doubled")


@pytest.mark.parametrize("cls", CLASSES)
def test_only_what_every_individual_has_is_left_out(cls):
    """A dog without its collar is another dog, and whole. So whatever is left out, no individual that differs in one
    trait looks like what remains."""
    for seed in range(1000, 1004):
        scene = plain(cls, seed)
        traits = scene.identity.traits
        broken = {damaged(scene, "left out", chance).tobytes() for chance in range(8)}
        for k, name in enumerate(TRAITS[cls]):
            for value in (0.02, 0.98):
                other = replace(scene.identity, traits=traits[:k] + (value,) + traits[k + 1:])
                alike = draw(replace(scene, identity=other)).tobytes() in broken
                assert not alike, f"{cls} {seed} with {name} {value}"


@pytest.mark.parametrize("cls", CLASSES)
def test_a_careless_pen_that_is_told_nothing_draws_with_care(cls):
    """Else damage could be seen without any: by a right eye as wide as a left one."""
    for seed in range(3):
        scene = random_scene(np.random.default_rng(seed), random_identity(seed, cls))
        scene = replace(scene, pose=replace(scene.pose, turn=1.0 - seed))
        assert np.array_equal(figure(scene), figure(scene, CarelessPen(scene)))


@pytest.mark.parametrize("cls", ["cat", "dog", "bear", "duck", "face", "robot"])
def test_each_eye_can_be_left_out_by_itself_and_is_large_enough_to_be_chosen(cls, monkeypatch):
    drawn = []
    for name in ("eye", "almond", "lamp"):
        real = getattr(Pen, name)
        monkeypatch.setattr(Pen, name, lambda *how, real=real: drawn.append(1) or real(*how))
    scene = plain(cls, 1)
    figure(scene, whole := CarelessPen(scene))
    assert len(drawn) == 2
    left = []
    for i, (size, needed) in enumerate(whole.parts):
        drawn.clear()
        figure(scene, CarelessPen(scene, {i: []}))
        if len(drawn) == 1:
            left.append((size > 0.1, needed))
    assert left == [(True, True)] * 2


def test_an_unknown_kind_is_an_error():
    with pytest.raises(KeyError, match="melted"):
        damaged(plain("cat", 1), "melted", 0)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("finish", ["wet", "shiny"])
def test_what_is_left_of_a_figure_can_be_wet_or_shiny(cls, finish):
    """No part at all, or one alone, which may be too thin for a drop."""
    scene = replace(plain(cls, 1), finish=finish)
    whole = CarelessPen(scene)
    figure(scene, whole)
    parts = range(len(whole.parts))
    for kept in (None, 0, min(parts, key=lambda i: whole.parts[i][0])):
        rest = figure(scene, CarelessPen(scene, {i: [] for i in parts if i != kept}))
        assert not np.array_equal(rest, whole.layer)
