"""From what compare.py measured to tables in Markdown: pure functions of its results.json.

results {subject: {experiment: {"likeness", "obedience", "seconds", "step", "looks", ...}}}; "looks"
are what was measured on the way and at the end, a list of the same.
The intervals are over subjects: 95 of 100 sets of subjects, drawn from these with replacement, have
their mean inside. All methods learn the same subjects, so two methods are compared by the
differences of each subject.
"""
from operator import itemgetter

import numpy as np

LOOKS = (0, 10, 20, 50, 100, 200)  # the steps after which all is measured on the way, of faces

AXES = {
    "likeness": itemgetter("likeness"),
    "obedience": itemgetter("obedience"),
    "product": lambda result: max(0, result["likeness"]) * result["obedience"],
}
NAMED = {"named": itemgetter("named")}


def interval(values, rng):
    """Mean over subjects and the 95 % bootstrap interval."""
    values = np.asarray(values)
    means = values[rng.integers(len(values), size=(10_000, len(values)))].mean(1)
    return values.mean(), *np.percentile(means, [2.5, 97.5])


def by_experiment(results):
    """{experiment: [its result for each subject]}."""
    experiments = next(iter(results.values()))
    return {name: [of_subject[name] for of_subject in results.values()] for name in experiments}


def known_axes(rows):
    named = all("named" in result for results in rows.values() for result in results)
    return AXES | NAMED if named else AXES


def cell(values, rng, sign=""):
    """"0.46 (0.28 to 0.62)"; of a few subjects an interval would say nothing."""
    mean, low, high = interval(values, rng)
    if len(values) <= 4:
        return f"{mean:{sign}.2f}"
    return f"{mean:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"


def header(names):
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def table_of_means(results, rng):
    rows = by_experiment(results)
    axes = known_axes(rows)
    lines = header([f"{len(results)} subjects", *axes, "seconds"])
    for experiment, of_subjects in rows.items():
        cells = [cell([axis(result) for result in of_subjects], rng) for axis in axes.values()]
        seconds = np.mean([result["seconds"] for result in of_subjects])
        lines.append(f"| {experiment} | {' | '.join(cells)} | {seconds:.0f} |")
    return lines


def table_of_differences(results, reference, rng):
    """What each method has over the reference, subject by subject."""
    rows = by_experiment(results)
    axes, base = known_axes(rows), rows.pop(reference, None)
    if not base or not rows:
        return []
    lines = header(["the difference", *axes])
    for experiment, of_subjects in rows.items():
        cells = []
        for axis in axes.values():
            differences = [axis(result) - axis(other) for result, other in zip(of_subjects, base)]
            cells.append(cell(differences, rng, "+"))
        lines.append(f"| {experiment} - {reference} | {' | '.join(cells)} |")
    return lines


def table(results, reference):
    """The means, and below them the differences."""
    rng = np.random.default_rng(0)
    lines, differences = table_of_means(results, rng), table_of_differences(results, reference, rng)
    return "\n".join([*lines, "", *differences] if differences else lines)


# === on the way ===================================================================================

def results_after(results, step):
    """results as they were after so many steps; a method that has ended by then is as it ended."""
    def then(result):
        return [look for look in result["looks"] if look["step"] <= step][-1]
    return {name: {experiment: then(result) for experiment, result in of_subject.items()}
            for name, of_subject in results.items()}


def curves(results):
    """{experiment: rows (seconds, likeness)}, the means over all subjects, of each look on the way
    and of the end."""
    means = {}
    for experiment, of_subjects in by_experiment(results).items():
        seconds = [[look["seconds"] for look in result["looks"]] for result in of_subjects]
        likeness = [[look["likeness"] for look in result["looks"]] for result in of_subjects]
        means[experiment] = np.stack([np.mean(seconds, 0), np.mean(likeness, 0)], axis=1).tolist()
    return means


def table_on_the_way(results):
    """The mean likeness after so many steps, and at the end."""
    means = curves(results)
    steps = LOOKS[:max(len(curve) for curve in means.values()) - 1]
    lines = header(["likeness after", *(f"{step} steps" for step in steps), "all"])
    for experiment, curve in means.items():
        *on_the_way, end = [f"{likeness:.2f}" for _, likeness in curve]
        on_the_way += [""] * (len(steps) - len(on_the_way))
        lines.append(f"| {experiment} | {' | '.join([*on_the_way, end])} |")
    return "\n".join(lines)


def time_to_reach(looks, level):
    """looks: rows (seconds, likeness) from the start on. Seconds at which the straight lines
    between them first reach the level; None if they never do."""
    if looks[0][1] >= level:
        return looks[0][0]
    for (s, low), (t, high) in zip(looks, looks[1:]):
        if high >= level:
            return s + (t - s) * (level - low) / (high - low)


def table_of_race(results):
    """When the mean likeness of each method reaches where HyperDreamBooth ends and where DreamBooth
    does."""
    means = curves(results)
    goals = {name: means[name][-1][1] for name in ("HyperDreamBooth", "DreamBooth")}
    names = [f"{name}'s likeness, {level:.2f}" for name, level in goals.items()]
    lines = header(["seconds until", *names])
    for experiment, curve in means.items():
        reached = [time_to_reach(curve, level) for level in goals.values()]
        cells = ["never" if seconds is None else f"{seconds:.1f}" for seconds in reached]
        lines.append(f"| {experiment} | {' | '.join(cells)} |")
    return "\n".join(lines)
