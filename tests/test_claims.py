"""The papers' claims: each is about experiments that exist, and its verdict follows from the interval alone."""
import json

import numpy as np
import pytest

import compare
from claims import CLAIMS, CLAIMS_OF_FACES, VALUES, Claim, decide, table_of_claims
from compare import ABLATIONS, EXPERIMENTS, LEARNED, OF_FACES, QUICK


def result(likeness=0.5, obedience=0.5, **more):
    return {"likeness": likeness, "obedience": obedience, "seconds": 10.0} | more


def of_subjects(*pairs):
    return {f"cat{i}": {"A": a, "B": b} for i, (a, b) in enumerate(pairs)}


@pytest.mark.parametrize("claims, known", [(CLAIMS, EXPERIMENTS | ABLATIONS), (CLAIMS_OF_FACES, OF_FACES | LEARNED)])
def test_every_claim_is_about_two_experiments_and_an_axis(claims, known):
    assert {name for claim in claims for name in (claim.first, claim.second)} <= {*known}
    assert all(claim.axis in VALUES and claim.first != claim.second for claim in claims)
    assert len({(claim.says, claim.first, claim.second, claim.axis) for claim in claims}) == len(claims)
    assert any({claim.first, claim.second} <= QUICK for claim in claims)


@pytest.mark.parametrize("ahead, margin, verdict", [
    (0.3, 0.0, "reproduced"), (-0.3, 0.0, "not reproduced"), (0.0, 0.0, "undecided"), (-0.05, 0.2, "reproduced"),
    (-0.5, 0.2, "not reproduced"), (-0.2, 0.2, "undecided")])
def test_the_verdict_is_where_the_interval_lies(ahead, margin, verdict):
    """Twelve subjects, whose differences scatter by 0.1 about the true one."""
    chance = np.random.default_rng(0).standard_normal(12)
    chance = 0.1 * (chance - chance.mean())
    results = of_subjects(*((result(0.5 + ahead + noise), result(0.5)) for noise in chance))
    mean, low, high, said = decide(Claim("", "", "A", "B", "likeness", margin), results, np.random.default_rng(0))
    assert said == verdict and low < mean < high and mean == pytest.approx(ahead)


def test_less_of_the_subject_in_the_class_is_better():
    lost, kept = result(pres=0.6), result(pres=0.1)
    assert VALUES["PRES"](kept, lost) == pytest.approx(0.5)


def test_faster_is_counted_to_where_the_first_ends():
    """25 times: 250 seconds instead of 10. Who never gets there has taken all its time, at least."""
    first = result(looks=[{"seconds": 1, "likeness": 0.2}, {"seconds": 10, "likeness": 0.5}])
    slow = result(looks=[{"seconds": 0, "likeness": 0.0}, {"seconds": 500, "likeness": 1.0}])
    assert VALUES["25 times faster (log10)"](first, slow) == pytest.approx(0)
    never = result(looks=[{"seconds": 0, "likeness": 0.0}, {"seconds": 2500, "likeness": 0.4}]) | {"seconds": 2500.0}
    assert VALUES["25 times faster (log10)"](first, never) == pytest.approx(1)
    assert VALUES["125 times faster (log10)"](first, never) == pytest.approx(np.log10(2))


def test_two_things_go_together_where_both_differences_have_a_sign():
    near, far = result(attention=-0.1, obedience=0.9), result(attention=-0.6, obedience=0.5)
    together = VALUES["attention x obedience"]
    assert together(near, far) == together(far, near) == pytest.approx(0.2)
    assert together(near, far | {"obedience": 1.0}) == pytest.approx(-0.05)


def test_the_table_says_what_was_measured():
    claim = Claim("a paper", "A is better", "A", "B", "likeness", why="it was not")
    text, [row] = table_of_claims([claim], of_subjects((result(0.2), result(0.6)), (result(0.3), result(0.7))))
    assert text.split("\n")[2] == ("| a paper | A is better | likeness: A - B | -0.40 (-0.40 to -0.40) | "
                                   "**not reproduced** | it was not |")
    assert row["verdict"] == "not reproduced" and row["subjects"] == 2 and row["low"] == pytest.approx(-0.4)


def test_verdicts_go_into_the_results_and_nothing_else_is_lost(tmp_path, monkeypatch, capsys):
    """Twice, as after another day of measuring; the second time nothing is measured again. Of the other hypernetworks
    that some claims need, only one was learned."""
    monkeypatch.chdir(tmp_path)
    learned = compare.Path(LEARNED["hypernetwork alone, one guess"][1][1]["hypernetwork"])
    learned.parent.mkdir(parents=True)
    learned.touch()
    text = "# Results\n\nBefore.\n\n<!-- written by compare.py --claims -->\n\nold\n\n<!-- so far -->\n\nAfter.\n"
    (tmp_path / "RESULTS.md").write_text(text)
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setattr(compare, "REPORTED", ("cat2", "cat3"))
    asked = []

    def found(judge, subject, scales, experiments, out, on_the_way):
        asked.append((subject.name, len(experiments)))
        looks = [{"seconds": 1.0, "likeness": 0.5}]
        one = result(pres=0.1, div=0.1, length=2.0, attention=-1.0, looks=looks, people=len(scales))
        return {name: one for name in experiments}, [("", [])]

    monkeypatch.setattr(compare, "compare_subject", found)
    monkeypatch.setattr(compare.Judge, "load", lambda: None)
    monkeypatch.setattr(compare, "make_scale", lambda judge, who: None)
    monkeypatch.setattr(compare, "sheet", lambda rows: None)
    monkeypatch.setattr(compare, "save_picture", lambda picture, path: None)
    for more in ([], ["--resume", "--json", str(tmp_path / "claims.json")]):
        monkeypatch.setattr("sys.argv", ["compare.py", "--claims", "--out", str(tmp_path / "out"), *more])
        compare.main()
    written = (tmp_path / "RESULTS.md").read_text()
    assert written.startswith("# Results\n\nBefore.\n\n<!--") and written.endswith("-->\n\nAfter.\n")
    assert "old" not in written and written.count("DreamBooth, table 1 |") == 2
    assert len(asked) == 2 + 20 and {count for _, count in asked} == {len(EXPERIMENTS | ABLATIONS),
                                                                      len(OF_FACES) + 1}
    assert capsys.readouterr().out.count("left out, as its hypernetwork is not there: the distance") == 2
    kept = json.loads((tmp_path / "RESULTS.json").read_text())
    assert len(kept["subjects"]) == 2 and len(kept["faces"]) == 20
    assert kept["subjects"]["cat2"]["DreamBooth"]["pres"] == 0.1
    rows = json.loads((tmp_path / "claims.json").read_text())
    assert len(rows) == len(CLAIMS) + len(CLAIMS_OF_FACES) - 1 + 1, "and one that is counted"
    assert rows[-1]["times"] == pytest.approx(859_520_964 / 28_800) and rows[-1]["verdict"] == "reproduced"
    assert "859,520,964 / 28,800 | 29,844 times | **reproduced** |" in written
