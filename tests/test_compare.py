"""The comparison of the methods: its questions, its scale of likeness, its table."""
import json

import numpy as np
import pytest

from compare import (ABLATIONS, EXPERIMENTS, OF_FACES, REPORTED, TUNED, after, interval, main, measure, on_the_way, questions, race, scale, shipped, stranger,
                     table, time_to_reach)
from stable_diffusion import load_pictures
from tiny_world import SUBJECTS
from tiny_world.draw import draw
from tiny_world.judge import ANSWERS, Judge
from tiny_world.subjects import PLACES, WHO, scenes
from tiny_world.world import HELD_OUT, Scene, random_identity, random_pose


def test_settings_are_chosen_on_other_subjects_than_those_reported():
    assert not {*TUNED} & {*REPORTED} and {*TUNED, *REPORTED} <= {*WHO}
    assert 3 * sum(rare for _, _, rare in map(WHO.get, REPORTED)) >= len(REPORTED)


@pytest.mark.parametrize("name", WHO)
def test_the_judge_can_answer_every_question(name):
    """And the answer is not what the photos show anyhow."""
    for prompt, (question, right) in questions(shipped(name).who).items():
        assert right in ANSWERS[question] and prompt.count("{}") == 1
        assert all(right != {"context": s.context, "accessory": s.accessory, "colour": s.identity.colour, "style": s.style, "cube": s.cube}[question]
                   for s in scenes(name)), prompt


@pytest.mark.parametrize("name", ["cat2", "teapot2"])
def test_the_scale_is_0_for_others_and_1_for_the_subject_and_its_photos(name):
    judge, rng, who = Judge.load(), np.random.default_rng(1), scenes(name)[0].identity
    likeness = scale(judge, who)
    fresh = lambda identity: draw(Scene(identity, str(rng.choice(PLACES)), pose=random_pose(rng), seed=int(rng.integers(1000))))
    of = lambda pictures: likeness(judge.vectors(pictures))
    assert abs(of([fresh(random_identity(900 + i, who.cls)) for i in range(64)])) < 0.15
    assert abs(of([fresh(who) for _ in range(8)]) - 1) < 0.1
    assert abs(of(load_pictures(SUBJECTS / name)) - 1) < 0.1, "a copy of the photos is no better than the truth"


def test_strangers_are_no_one_the_hypernetwork_has_seen_and_are_told_apart(tmp_path):
    """One picture each, of seeds that neither pretraining nor the crowd has. A model that draws each of them as it is has every picture
    named right; one that draws the same person for all, only that one's."""
    judge, people = Judge.load(), [stranger(100 + i, tmp_path) for i in range(4)]
    assert all(p.seed < HELD_OUT and len(load_pictures(p.photos)) == 1 for p in people)
    assert not {p.who for p in people} & {scenes(name)[0].identity for name in WHO}
    scales = {p.name: scale(judge, p.who) for p in people}

    class Draws:
        def __init__(self, who):
            self.who = who

        def sample(self, prompts, images, **how):
            return [draw(Scene(self.who, PLACES[i % 5], seed=i)) for i in range(images * len(prompts))]
    right = [measure(judge, Draws(p.who), "face", p, scales)[0]["named"] for p in people]
    same = [measure(judge, Draws(people[0].who), "face", p, scales)[0]["named"] for p in people]
    assert right == [1] * 4 and same == [1, 0, 0, 0]


def test_the_interval_is_that_of_the_mean():
    """Of 400 numbers with standard deviation 1 it is 1.96 / 20 to either side."""
    mean, low, high = interval(np.random.default_rng(0).standard_normal(400), np.random.default_rng(1))
    assert abs(mean) < 0.15 and abs(high - mean - 0.098) < 0.015 and abs(mean - low - 0.098) < 0.015


def test_the_table_has_means_and_differences_subject_by_subject():
    """Two methods whose means overlap, but one is better by 0.1 on every subject: the difference is certain."""
    results = {f"cat{i}": {"DreamBooth": {"likeness": i / 10, "obedience": 0.5, "seconds": 30.0},
                           "AttnDreamBooth": {"likeness": i / 10 + 0.1, "obedience": 0.5, "seconds": 60.0}} for i in range(6)}
    lines = table(results, "DreamBooth").split("\n")
    assert lines[0].startswith("| 6 subjects |")
    assert lines[2].startswith("| DreamBooth | 0.25 (") and lines[2].endswith("| 30 |")
    assert lines[-1].startswith("| AttnDreamBooth - DreamBooth | +0.10 (+0.10 to +0.10) | +0.00 (+0.00 to +0.00) | +0.05 (+0.05 to +0.05) |")
    assert "(" not in table({"cat0": results["cat0"]}, "DreamBooth").split("\n")[2], "of one subject there is no interval"


def looked(rows, more):
    """What compare.py keeps of a method: rows (seconds, likeness), each ten steps after the one before."""
    return {"looks": [{"step": 10 * i, "seconds": seconds, "likeness": likeness + more} for i, (seconds, likeness) in enumerate(rows)]}


def test_the_race_is_to_where_two_methods_end():
    """Between two looks the line is straight; who never gets there never does; the means over subjects are raced, not each subject."""
    assert time_to_reach([(1, 0.0), (3, 0.5), (9, 1.0)], 0.75) == 6
    assert time_to_reach([(1, 0.8), (3, 0.5)], 0.75) == 1
    assert time_to_reach([(1, 0.0), (3, 0.5)], 0.75) is None
    looks = {"DreamBooth": [(2, 0.0), (10, 0.8)], "HyperDreamBooth": [(1, 0.6), (3, 1.0)], "Textual Inversion": [(1, 0.1), (20, 0.7)]}
    results = {who: {name: looked(rows, more) for name, rows in looks.items()} for who, more in (("a", 0), ("b", 0.1))}
    lines = race(results).split("\n")
    assert lines[0] == "| seconds until | HyperDreamBooth's likeness, 1.05 | DreamBooth's likeness, 0.85 |"
    assert lines[2:] == ["| DreamBooth | never | 10.0 |", "| HyperDreamBooth | 3.0 | 2.0 |", "| Textual Inversion | never | never |"]


def test_likeness_on_the_way_stands_under_its_step():
    """Who takes fewer steps has no number under the later ones; the last is everyone's end."""
    rows = {"short": [(0, 0.1), (1, 0.4)], "long": [(0, 0.0), (2, 0.2), (4, 0.6), (9, 0.9)]}
    lines = on_the_way({who: {name: looked(of, more) for name, of in rows.items()} for who, more in (("a", 0), ("b", 0.2))})
    assert lines.split("\n") == ["| likeness after | 0 steps | 10 steps | 20 steps | all |", "|---|---|---|---|---|",
                                 "| short | 0.20 |  |  | 0.50 |", "| long | 0.10 | 0.30 | 0.70 | 1.00 |"]


def test_methods_are_compared_after_equal_steps():
    """And who has ended by then stands as it ended."""
    results = {"a": {"short": looked([(0, 0.1), (1, 0.4)], 0), "long": looked([(0, 0.0), (2, 0.2), (4, 0.6)], 0)}}
    found = {step: {name: look["likeness"] for name, look in after(results, step)["a"].items()} for step in (0, 10, 15, 20)}
    assert found == {0: {"short": 0.1, "long": 0.0}, 10: {"short": 0.4, "long": 0.2}, 15: {"short": 0.4, "long": 0.2}, 20: {"short": 0.4, "long": 0.6}}


@pytest.mark.parametrize("arguments, message", [
    ([], "--resume goes on with it"), (["--faces", "3", "--resume"], "told apart from another number of others"),
    (["--faces", "-1"], "1 or more"), (["--hypernetwork", "x.safetensors"], "1 or more"), (["--only", "Dreambooth"], "--only Dreambooth")])
def test_an_hour_of_work_is_neither_overwritten_nor_mixed_with_another(tmp_path, monkeypatch, capsys, arguments, message):
    done = json.dumps({"face 100": {"HyperDreamBooth": {"likeness": 0.8, "people": 8}}})
    (tmp_path / "results.json").write_text(done, "utf-8")
    monkeypatch.setattr("sys.argv", ["compare.py", "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text("utf-8") == done


def test_every_method_is_compared_with_its_defaults():
    """But for what an experiment is about."""
    assert {name: change for name, (_, change, _) in (EXPERIMENTS | ABLATIONS | OF_FACES).items() if change} == {
        "DreamBooth without the prior": {"prior_weight": 0.0}, "AttnDreamBooth without the penalty": {"attn_weight": 0.0},
        "AttnDreamBooth without stage 1": {"stages": "23"}, "AttnDreamBooth without stage 2": {"stages": "13"},
        "AttnDreamBooth without stage 3": {"stages": "12"}, "AttnDreamBooth, the fast variant": {"fast": True},
        "hypernetwork alone": {"steps": 0}, "finetuning alone": {"hypernetwork": "none"}, "HyperDreamBooth, 100 steps": {"steps": 100}}
