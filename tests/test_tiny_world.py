"""The drawn world: it is the same every time, what is shipped is what the code draws, and its examinations count
right."""
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from stable_diffusion import TINY, StableDiffusion
from tiny_world.draw import draw, draw_all
from tiny_world.examine import exam, frechet_distance, marks, told_apart
from tiny_world.judge import ANSWERS, Judge, answers, equal_error_rate, individuals
from tiny_world.pretrain import Config, choose_pictures, scene
from tiny_world.subjects import SUBJECTS, WHO, crowd, scenes, view
from tiny_world.world import (CLASSES, COLOURS, CONTEXTS, HELD_OUT, IDENTIFIERS, LAST, RARE_PATTERNS, SECOND, TRAITS,
                              caption, random_scene)


def test_a_scene_is_always_the_same_picture_and_its_seed_matters():
    """In this process, in another one, on many cores."""
    made = [random_scene(np.random.default_rng(i)) for i in range(6)]
    pictures = [np.asarray(draw(one)) for one in made]
    assert all(p.shape == (64, 64, 3) and np.array_equal(p, np.asarray(draw(one))) for p, one in zip(pictures, made))
    assert np.array_equal(pictures, [*draw_all(made)])
    code = ("import sys; from tests.test_tiny_world import *; "
            "sys.stdout.buffer.write(draw(random_scene(np.random.default_rng(3))).tobytes())")
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True,
                           env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"})
    assert ended.stdout == pictures[3].tobytes(), ended.stderr
    assert len({p.tobytes() for p in pictures}) == 6


@pytest.mark.parametrize("name", WHO)
def test_the_shipped_photos_are_what_the_code_draws(name):
    """Four to six of each, of one individual, none in a place where only the prompts are; rare patterns where it says
    so."""
    truth, files = scenes(name), sorted((SUBJECTS / name).glob("*.png"))
    assert 4 <= len(files) <= 6
    assert all(np.array_equal(Image.open(file), draw(one)) for file, one in zip(files, truth, strict=True))
    assert len({one.identity for one in truth}) == 1
    assert not {one.context for one in truth} & {"snow", "night", "rug", "water"}
    assert (truth[0].identity.pattern in RARE_PATTERNS) == WHO[name][2]


def test_there_are_thirty_subjects_a_third_of_them_rare_and_all_held_out():
    assert len(WHO) == 30 and sum(rare for _, _, rare in WHO.values()) == 10
    assert all(seed < HELD_OUT for _, seed, _ in WHO.values()) and all(len(TRAITS[cls]) == 12 for cls in CLASSES)


def test_a_crowd_is_of_others_and_a_person_looks_alike_in_all_views(tmp_path):
    crowd(tmp_path, "face", 2, 2)
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))
    assert files == ["000000/0.png", "000000/1.png", "000001/0.png", "000001/1.png"]
    assert np.array_equal(Image.open(tmp_path / "000001" / "1.png"), draw(view("face", HELD_OUT + 1, 1)))
    assert view("face", 10_001, 0).identity == view("face", 10_001, 1).identity != view("face", 10_002, 0).identity


# === captions =========================================================================================================

def test_a_colour_that_is_said_is_the_pictures_and_a_name_tells_the_rest():
    """Whatever else a caption says: no colour word but the body's stands before the noun; a name's second colour and
    pattern are true; where no colour is said its first part is true too."""
    named = 0
    for i in range(1500):
        one = random_scene(np.random.default_rng([7, i]))
        who, words = one.identity, caption(one, np.random.default_rng([8, i])).split()
        before = words[:words.index(who.cls)] if who.cls in words else []
        assert set(before) & set(COLOURS) <= {who.colour}
        for word in before:
            if who.pattern in LAST and word.endswith(SECOND[who.second] + LAST[who.pattern]) and len(word) == 5:
                named += 1
    assert named > 200


def test_identifiers_are_single_tokens_and_in_no_caption():
    tokenizer = StableDiffusion.from_pretrained(TINY).tokenizer
    assert [len(tokenizer.encode(word)) for word in IDENTIFIERS] == [1] * 10


# === examinations =====================================================================================================

def test_no_question_of_the_exam_was_ever_a_caption():
    cfg = Config(pictures=400, batch=32)
    scenes = [scene(cfg, i) for i in range(cfg.pictures)]
    seen = {text for step in range(100) for text in choose_pictures(cfg, step, scenes)[1]}
    asked = [prompt for prompt, _, _ in exam(64)]
    again = exam(64, {*asked[::2], *seen})
    assert len(again) == 64 and not {prompt for prompt, _, _ in again} & {*asked[::2], *seen}
    for prompt, right, one in again:
        assert one.identity.cls == right["class"] in prompt and one.context == right["context"]
        assert one.identity.colour == right.get("colour", one.identity.colour)
        assert any(phrase in prompt for phrase in CONTEXTS[right["context"]])


def test_marks_count_right_answers_of_the_questions_that_were_asked():
    """A picture that is no drawing answers nothing, whatever is read in it."""
    same = {"style": "photo", "colour": "red", "accessory": ""}
    read = [{"cls": cls, "context": context, "cube": False, "drawing": drawing} | same
            for cls, context, drawing in (("cat", "snow", True), ("cat", "city", True), ("dog", "snow", False))]
    asked = [{"class": cls, "context": "snow", "shape": False} | same for cls in ("cat", "cat", "dog")]
    found = marks(SimpleNamespace(read=lambda pictures: read), [None] * 3, asked)
    assert (found["class"], found["context"], found["all"]) == pytest.approx((2 / 3, 1 / 3, 1 / 3))


def test_the_equal_error_rate_of_cases_that_can_be_counted():
    """Perfectly told apart: 0. All alike: a half. One of four pairs of the same person no nearer than strangers:
    between."""
    apart = torch.eye(4).repeat_interleave(2, 0)
    assert equal_error_rate(apart, torch.arange(4).repeat_interleave(2)) == 0
    assert abs(equal_error_rate(torch.ones(8, 4) / 2, torch.arange(4).repeat_interleave(2)) - 0.5) < 1e-6
    apart[7] = torch.tensor([0.0, 0.0, 1.0, 0.0])
    assert 0.02 < equal_error_rate(apart, torch.arange(4).repeat_interleave(2)) < 0.2


def gaussian(n, mean, spread, seed):
    """n vectors of exactly this mean (d,), and with these standard deviations (d,) along exactly uncorrelated axes."""
    x = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = torch.linalg.qr(x - x.mean(0))[0] * (n - 1) ** 0.5
    return x * torch.tensor(spread) + torch.tensor(mean)


def test_the_frechet_distance_of_gaussians_is_the_known_one():
    """Of means m and deviations s along the same axes it is |m - m'|^2 + |s - s'|^2, here in thousandths; it has no
    order, and turning both sets changes nothing."""
    a, b = gaussian(500, (0.0, 0.0, 0.0), (1.0, 2.0, 3.0), 0), gaussian(300, (1.0, 0.0, 2.0), (1.0, 1.0, 5.0), 1)
    assert frechet_distance(a, b) == pytest.approx(1000 * (1 + 4 + 0 + 1 + 4), rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(frechet_distance(a, b), rel=1e-6)
    assert abs(frechet_distance(a, a.flip(0))) < 1e-3
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_alike_sets_are_told_apart_by_chance_and_separated_ones_always():
    """Half of the time, and every time; between, those that overlap."""
    a, alike = torch.randn(2, 400, 8, generator=torch.Generator().manual_seed(0))
    assert abs(told_apart(a, alike) - 0.5) < 0.1
    assert told_apart(a, alike + 8) > 0.99
    shifted = alike + torch.tensor([1.0] + 7 * [0.0])
    assert 0.58 < told_apart(a, shifted) < 0.8, "the best line between them is right in 69 of 100"


def test_the_shipped_judge_reads_fresh_drawings_and_tells_individuals_apart():
    """A fast form of python -m tiny_world.judge: 320 drawings, and four individuals of each class in three photos."""
    judge, made = Judge.load(), [random_scene(np.random.default_rng([5, i])) for i in range(320)]
    read = judge.read([draw(one) for one in made])
    right = np.array([[ANSWERS[q].index(r[q]) == a or a < 0 for q, a in zip(ANSWERS, answers(one))]
                      for one, r in zip(made, read)])
    assert right.mean(0).min() > 0.97 and right.all(1).mean() > 0.93
    photos = [draw(one) for one in individuals(6, 8000, 4, 3)]
    vectors = judge.vectors(photos)
    rates = [equal_error_rate(vectors[i:i + 12], torch.arange(12) // 3) for i in range(0, len(photos), 12)]
    assert np.mean(rates) < 0.06
    noise = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for i in range(8)]
    assert not any(one["drawing"] for one in judge.read([*noise, Image.new("RGB", (64, 64), "teal")]))


@pytest.mark.parametrize("module, options", [("draw", ["--out", "x.foo"]), ("draw", ["--zoom", "0"]),
                                             ("draw", ["--first", "-1"]), ("subjects", ["--count", "0"])])
def test_what_cannot_work_is_said_before_anything_is_drawn(module, options):
    ended = subprocess.run([sys.executable, "-m", f"tiny_world.{module}", *options], cwd=ROOT, capture_output=True,
                           text=True)
    assert ended.returncode == 2 and options[0] in ended.stderr and "Traceback" not in ended.stderr
