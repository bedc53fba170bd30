"""The comparison of the methods: its questions, its scale of likeness, how a method is watched, its tables."""
import json

import numpy as np
import pytest

import dreambooth
import hyperdreambooth
import textual_inversion
from command import run
from compare import ABLATIONS, EXPERIMENTS, OF_FACES, REPORTED, TUNED, fit_to, main
from conftest import same, weights
from measure import draw_stranger, learn_subject, make_scale, measure, questions, shipped_subject
from pictures import load_pictures
from stable_diffusion import TINY, StableDiffusion
from tables import interval, results_after, table, table_of_race, table_on_the_way, time_to_reach
from tiny_world.draw import draw
from tiny_world.judge import ANSWERS, Judge
from tiny_world.subjects import PLACES, SUBJECTS, WHO, scenes
from tiny_world.world import HELD_OUT, Scene, random_identity, random_pose


def test_settings_are_chosen_on_other_subjects_than_those_reported():
    assert not {*TUNED} & {*REPORTED} and {*TUNED, *REPORTED} <= {*WHO}
    assert 3 * sum(rare for _, _, rare in map(WHO.get, REPORTED)) >= len(REPORTED)


@pytest.mark.parametrize("name", WHO)
def test_the_judge_can_answer_every_question(name):
    """And the answer is not what the photos show anyhow."""
    for prompt, (question, right) in questions(shipped_subject(name).who).items():
        assert right in ANSWERS[question] and prompt.count("{}") == 1
        for scene in scenes(name):
            shown = scene.identity.colour if question == "colour" else getattr(scene, question)
            assert right != shown, prompt


@pytest.mark.parametrize("name", ["cat2", "teapot2"])
def test_the_scale_is_0_for_others_and_1_for_the_subject_and_its_photos(name):
    judge, rng, who = Judge.load(), np.random.default_rng(1), scenes(name)[0].identity
    scale = make_scale(judge, who)

    def fresh(identity):
        place, pose = str(rng.choice(PLACES)), random_pose(rng)
        return draw(Scene(identity, place, pose=pose, seed=int(rng.integers(1000))))

    def of(pictures):
        return scale.likeness(judge.vectors(pictures))
    assert abs(of([fresh(random_identity(900 + i, who.cls)) for i in range(64)])) < 0.15
    assert abs(of([fresh(who) for _ in range(8)]) - 1) < 0.1
    assert abs(of(load_pictures(SUBJECTS / name)) - 1) < 0.1, "a copy of the photos is no better than the truth"


def test_strangers_are_no_one_the_hypernetwork_has_seen_and_are_told_apart(tmp_path):
    """One picture each, of seeds that neither pretraining nor the crowd has. A model that draws each of them as it is
    has every picture named right; one that draws the same person for all, only that one's."""
    judge, people = Judge.load(), [draw_stranger(100 + i, tmp_path) for i in range(4)]
    assert all(person.seed < HELD_OUT and len(load_pictures(person.photos)) == 1 for person in people)
    assert not {person.who for person in people} & {scenes(name)[0].identity for name in WHO}
    scales = {person.name: make_scale(judge, person.who) for person in people}

    class Draws:
        def __init__(self, who):
            self.who = who

        def sample(self, prompts, images, **how):
            return [draw(Scene(self.who, PLACES[i % 5], seed=i)) for i in range(images * len(prompts))]

    def named(drawn, asked):
        return measure(judge, Draws(drawn.who), "face", asked, scales)[0]["named"]
    assert [named(person, person) for person in people] == [1] * 4
    assert [named(people[0], person) for person in people] == [1, 0, 0, 0]


def test_a_method_is_watched_from_before_its_first_step_to_its_last(tmp_path):
    """The clock stands while someone looks. Without a method there is the model as it is, once."""
    subject, steps, clock = draw_stranger(100, tmp_path), [], [0.0]
    change = {"steps": 2, "batch_size": 1}
    for step, seconds, sd in learn_subject([(hyperdreambooth, change)], subject, str(tmp_path / "work")):
        steps.append(step)
        clock.append(seconds)
        last = sd
    assert steps == [0, 1, 2] and clock == sorted(clock)
    assert len(last.lidb.added) == 2, "the guess and its finetuning"
    [(step, seconds, sd)] = learn_subject([], subject, "")
    assert (step, seconds) == (0, 0.0) and same(weights(sd), weights(StableDiffusion.from_pretrained(TINY)))


def test_a_method_can_go_on_with_what_another_learned(tmp_path):
    """The word is there, as it was learned, and the steps count on."""
    subject, seen = shipped_subject("cat"), {}
    few = {"steps": 2, "batch_size": 1}
    stages = [(textual_inversion, few), (dreambooth, few | {"prior_weight": 0.0, "token": "<it>"})]
    for step, seconds, sd in learn_subject(stages, subject, str(tmp_path / "work")):
        [word] = sd.tokenizer.encode("<it>")
        seen.setdefault(step, []).append(sd.text.table.weight[word].detach().clone())
    assert [*seen] == [0, 1, 2, 3, 4] and len(seen[2]) == 2
    assert (seen[2][0] == seen[2][1]).all() and (seen[4][0] != seen[2][0]).any()


def test_an_experiment_is_fitted_to_its_subject(tmp_path):
    subject = shipped_subject("cat")
    learned, noun, stages = fit_to(subject, "sks {other}", [(dreambooth, {"class_name": "{other}"})], tmp_path)
    assert (learned, noun, stages) == (subject, "sks dog", [(dreambooth, {"class_name": "dog"})])
    learned, noun, stages = fit_to(subject, "<it>", [(textual_inversion, {"photos": 3})], tmp_path)
    photos, own = load_pictures(learned.photos), load_pictures(subject.photos)
    assert stages == [(textual_inversion, {})] and len(photos) == 3
    judge = Judge.load()
    scale = make_scale(judge, subject.who)
    assert scale.likeness(judge.vectors(photos)) > 0.8
    assert not {photo.tobytes() for photo in photos} & {photo.tobytes() for photo in own}


def test_pres_and_div_are_what_the_class_and_a_prompt_show():
    """A model that draws the subject whatever it is asked has lost the class; one that draws it the same way each time
    has no variety."""
    judge, subject = Judge.load(), shipped_subject("cat")
    scales = {"cat": make_scale(judge, subject.who)}

    class Draws:
        def __init__(self, seeds, of_class):
            self.seeds, self.of_class = seeds, of_class

        def sample(self, prompts, images, **how):
            if isinstance(prompts, str):  # the class
                return [draw(Scene(self.of_class(i), PLACES[i % 5], seed=i)) for i in range(images)]
            return [draw(Scene(subject.who, PLACES[0], seed=self.seeds[i % images], pose=random_pose(
                np.random.default_rng(self.seeds[i % images])))) for i in range(images * len(prompts))]

    forgot, _ = measure(judge, Draws([1, 1], lambda i: subject.who), "sks cat", subject, scales)
    kept, _ = measure(judge, Draws([1, 2], lambda i: random_identity(700 + i, "cat")), "sks cat", subject, scales)
    assert forgot["pres"] > 0.8 > 0.4 > kept["pres"]
    assert kept["div"] > 0.005 > 1e-5 > abs(forgot["div"])


def test_the_interval_is_that_of_the_mean():
    """Of 400 numbers with standard deviation 1 it is 1.96 / 20 to either side."""
    mean, low, high = interval(np.random.default_rng(0).standard_normal(400), np.random.default_rng(1))
    assert abs(mean) < 0.15 and abs(high - mean - 0.098) < 0.015 and abs(mean - low - 0.098) < 0.015


def test_the_table_has_means_and_differences_subject_by_subject():
    """Two methods whose means overlap, but one is better by 0.1 on every subject: the difference is certain."""
    def result(likeness, seconds):
        return {"likeness": likeness, "obedience": 0.5, "seconds": seconds}
    results = {f"cat{i}": {"DreamBooth": result(i / 10, 30.0), "AttnDreamBooth": result(i / 10 + 0.1, 60.0)}
               for i in range(6)}
    lines = table(results, "DreamBooth").split("\n")
    assert lines[0].startswith("| 6 subjects |")
    assert lines[2].startswith("| DreamBooth | 0.25 (") and lines[2].endswith("| 30 |")
    assert lines[-1].startswith("| AttnDreamBooth - DreamBooth | +0.10 (+0.10 to +0.10) | +0.00 (+0.00 to +0.00) | "
                                "+0.05 (+0.05 to +0.05) |")
    alone = table({"cat0": results["cat0"]}, "DreamBooth").split("\n")
    assert "(" not in alone[2], "of one subject there is no interval"


def looked(rows, more):
    """What compare.py keeps of a method: rows (seconds, likeness), each ten steps after the one before."""
    return {"looks": [{"step": 10 * i, "seconds": seconds, "likeness": likeness + more}
                      for i, (seconds, likeness) in enumerate(rows)]}


def test_the_race_is_to_where_two_methods_end():
    """Between two looks the line is straight; who never gets there never does; the means over subjects are raced, not
    each subject."""
    assert time_to_reach([(1, 0.0), (3, 0.5), (9, 1.0)], 0.75) == 6
    assert time_to_reach([(1, 0.8), (3, 0.5)], 0.75) == 1
    assert time_to_reach([(1, 0.0), (3, 0.5)], 0.75) is None
    looks = {"DreamBooth": [(2, 0.0), (10, 0.8)], "HyperDreamBooth": [(1, 0.6), (3, 1.0)],
             "Textual Inversion": [(1, 0.1), (20, 0.7)]}
    results = {who: {name: looked(rows, more) for name, rows in looks.items()} for who, more in (("a", 0), ("b", 0.1))}
    lines = table_of_race(results).split("\n")
    assert lines[0] == "| seconds until | HyperDreamBooth's likeness, 1.05 | DreamBooth's likeness, 0.85 |"
    assert lines[2:] == ["| DreamBooth | never | 10.0 |", "| HyperDreamBooth | 3.0 | 2.0 |",
                         "| Textual Inversion | never | never |"]


def test_likeness_on_the_way_stands_under_its_step():
    """Who takes fewer steps has no number under the later ones; the last is everyone's end."""
    rows = {"short": [(0, 0.1), (1, 0.4)], "long": [(0, 0.0), (2, 0.2), (4, 0.6), (9, 0.9)]}
    results = {who: {name: looked(of, more) for name, of in rows.items()} for who, more in (("a", 0), ("b", 0.2))}
    assert table_on_the_way(results).split("\n") == [
        "| likeness after | 0 steps | 10 steps | 20 steps | all |", "|---|---|---|---|---|",
        "| short | 0.20 |  |  | 0.50 |", "| long | 0.10 | 0.30 | 0.70 | 1.00 |"]


def test_methods_are_compared_after_equal_steps():
    """And who has ended by then stands as it ended."""
    short, long = looked([(0, 0.1), (1, 0.4)], 0), looked([(0, 0.0), (2, 0.2), (4, 0.6)], 0)

    def likeness_after(step):
        looks = results_after({"a": {"short": short, "long": long}}, step)["a"]
        return looks["short"]["likeness"], looks["long"]["likeness"]
    assert [likeness_after(step) for step in (0, 10, 15, 20)] == [(0.1, 0.0), (0.4, 0.2), (0.4, 0.2), (0.4, 0.6)]


@pytest.mark.parametrize("arguments, message", [
    ([], "--resume goes on with it"), (["--faces", "3", "--resume"], "told apart from another number of others"),
    (["--faces", "-1"], "1 or more"), (["--hypernetwork", "x.safetensors"], "1 or more"),
    (["--only", "Dreambooth"], "--only Dreambooth")])
def test_an_hour_of_work_is_neither_overwritten_nor_mixed_with_another(tmp_path, monkeypatch, capsys, arguments,
                                                                       message):
    done = json.dumps({"face 100": {"HyperDreamBooth": {"likeness": 0.8, "people": 8}}})
    (tmp_path / "results.json").write_text(done, "utf-8")
    monkeypatch.setattr("sys.argv", ["compare.py", "--out", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2 and message in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text("utf-8") == done


@pytest.mark.parametrize("text", [
    "[]", "{", '{"cat": 3}', '{"cat": {"DreamBooth": {}}}', '{"cat": {"DreamBooth": null}}'])
def test_what_are_no_results_is_no_traceback(tmp_path, monkeypatch, capsys, text):
    (tmp_path / "results.json").write_text(text, "utf-8")
    monkeypatch.setattr("sys.argv", ["compare.py", "--out", str(tmp_path), "--resume"])
    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2 and "results.json" in capsys.readouterr().err


def test_every_method_is_compared_with_its_defaults():
    """But for what an experiment is about."""
    known = EXPERIMENTS | ABLATIONS | OF_FACES
    changed = {name: [change for _, change in stages] for name, (_, *stages) in known.items()
               if any(change for _, change in stages)}
    assert changed.pop("Textual Inversion, then DreamBooth") == [{}, {"token": "<it>"}]
    assert {name: change for name, [change] in changed.items()} == {
        "DreamBooth, 100 steps": {"steps": 100}, "DreamBooth, 900 steps": {"steps": 900},
        "DreamBooth without the prior": {"prior_weight": 0.0},
        "DreamBooth, another class's noun": {"class_name": "{other}"},
        "DreamBooth, a noun that means nothing": {"class_name": "zwx"},
        "DreamBooth, cross-attention alone": {"layers": "cross-attention"},
        "DreamBooth without the text encoder": {"train_text_encoder": False},
        "DreamBooth, a common word": {"token": "white"},
        "DreamBooth, thrifty": {"memory": "thrifty"}, "DreamBooth, lean": {"memory": "lean"},
        "LoRA DreamBooth, rank 1": {"rank": 1}, "LoRA DreamBooth, rank 16": {"rank": 16},
        "Textual Inversion, a tenth of the rate": {"lr": 3e-3}, "Textual Inversion, a third of the rate": {"lr": 1e-2},
        "Textual Inversion, 4 vectors": {"vectors": 4}, "Textual Inversion, 1 photo": {"photos": 1},
        "Textual Inversion, 5 photos": {"photos": 5}, "Textual Inversion, 16 photos": {"photos": 16},
        "AttnDreamBooth without the penalty": {"attn_weight": 0.0},
        "AttnDreamBooth without stage 1": {"stages": "23"}, "AttnDreamBooth without stage 2": {"stages": "13"},
        "AttnDreamBooth without stage 3": {"stages": "12"}, "AttnDreamBooth, the fast variant": {"fast": True},
        "hypernetwork alone": {"steps": 0}, "finetuning alone": {"hypernetwork": "none"},
        "HyperDreamBooth, 100 steps": {"steps": 100}, "HyperDreamBooth, rank 1": {"rank": 1}}


def test_every_experiment_differs_from_its_method_in_one_setting():
    """And that one is not the default. "photos" is no setting of a method: it gives it others."""
    known = EXPERIMENTS | ABLATIONS | OF_FACES
    assert all(change == {} for _, *stages in EXPERIMENTS.values() for _, change in stages)
    for name, (_, *stages) in (ABLATIONS | OF_FACES).items():
        changed = [(script, setting, value) for script, change in stages for setting, value in change.items()]
        assert len(changed) == (name not in ("Textual Inversion", "DreamBooth", "LoRA DreamBooth", "HyperDreamBooth"))
        for script, setting, value in changed:
            default = script.SETTINGS.get(setting, (getattr(script.Config, setting, None),))[0]
            assert setting == "photos" or value != default, name
    [(_, tenth)], [(_, third)] = (known[f"Textual Inversion, a {part} of the rate"][1:] for part in ("tenth", "third"))
    rate = textual_inversion.SETTINGS["lr"][0]
    assert (10 * tenth["lr"], 3 * third["lr"]) == (pytest.approx(rate), pytest.approx(rate))
    assert dreambooth.SETTINGS["steps"][0] * 3 == 900, "the claim of too many steps is of three times as many"
