"""The comparison of the methods: its questions, its scale of likeness, its table."""
import numpy as np
import pytest

from compare import EXPERIMENTS, REPORTED, TUNED, interval, mean_product, questions, scale, table
from stable_diffusion import load_pictures
from tiny_world import SUBJECTS
from tiny_world.draw import draw
from tiny_world.judge import ANSWERS, Judge
from tiny_world.subjects import PLACES, WHO, scenes
from tiny_world.world import Scene, random_identity, random_pose


def test_settings_are_chosen_on_other_subjects_than_those_reported():
    assert not {*TUNED} & {*REPORTED} and {*TUNED, *REPORTED} <= {*WHO}
    assert 3 * sum(rare for _, _, rare in map(WHO.get, REPORTED)) >= len(REPORTED)


@pytest.mark.parametrize("name", WHO)
def test_the_judge_can_answer_every_question(name):
    """And the answer is not what the photos show anyhow."""
    for prompt, (question, right) in questions(name).items():
        assert right in ANSWERS[question] and prompt.count("{}") == 1
        assert all(right != {"context": s.context, "accessory": s.accessory, "colour": s.identity.colour, "style": s.style, "cube": s.cube}[question]
                   for s in scenes(name)), prompt


@pytest.mark.parametrize("name", ["cat2", "teapot2"])
def test_the_scale_is_0_for_others_and_1_for_the_subject_and_its_photos(name):
    judge, rng, who = Judge.load(), np.random.default_rng(1), scenes(name)[0].identity
    truth, other, same = scale(judge, name)
    fresh = lambda identity: draw(Scene(identity, str(rng.choice(PLACES)), pose=random_pose(rng), seed=int(rng.integers(1000))))
    likeness = lambda pictures: (mean_product(judge.vectors(pictures), truth) - other) / (same - other)
    assert abs(likeness([fresh(random_identity(900 + i, who.cls)) for i in range(64)])) < 0.15
    assert abs(likeness([fresh(who) for _ in range(8)]) - 1) < 0.1
    assert abs(likeness(load_pictures(SUBJECTS / name)) - 1) < 0.1, "a copy of the photos is no better than the truth"


def test_the_interval_is_that_of_the_mean():
    """Of 400 numbers with standard deviation 1 it is 1.96 / 20 to either side."""
    mean, low, high = interval(np.random.default_rng(0).standard_normal(400), np.random.default_rng(1))
    assert abs(mean) < 0.15 and abs(high - mean - 0.098) < 0.015 and abs(mean - low - 0.098) < 0.015


def test_the_table_has_means_and_differences_subject_by_subject():
    """Two methods whose means overlap, but one is better by 0.1 on every subject: the difference is certain."""
    results = {f"cat{i}": {"DreamBooth": {"likeness": i / 10, "obedience": 0.5, "seconds": 30.0},
                           "AttnDreamBooth": {"likeness": i / 10 + 0.1, "obedience": 0.5, "seconds": 60.0}} for i in range(6)}
    lines = table(results).split("\n")
    assert lines[0].startswith("| 6 subjects |")
    assert lines[2].startswith("| DreamBooth | 0.25 (") and lines[2].endswith("| 30 |")
    assert lines[-1].startswith("| AttnDreamBooth - DreamBooth | +0.10 (+0.10 to +0.10) | +0.00 (+0.00 to +0.00) | +0.05 (+0.05 to +0.05) |")
    assert "(" not in table({"cat0": results["cat0"]}).split("\n")[2], "of one subject there is no interval"


def test_every_method_is_compared_with_its_defaults():
    """But for what an experiment is about."""
    assert {name: change for name, (_, change, _) in EXPERIMENTS.items() if change} == {"DreamBooth, no prior": {"prior_weight": 0.0}}
