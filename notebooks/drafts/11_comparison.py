# %% [markdown]
# # The comparison: likeness against obedience
#
# ![](../figures/comparison.jpg)
#
# Every method and setting of `compare.py`, over all its subjects: to the right more like the subject, upwards more prompts obeyed. By the
# end you can say what the two axes measure, read such a plane, tell a difference from chance, and give a paper's claim its verdict.
#
# Nothing is trained here: `compare.py --claims` has done that, and left what it measured in RESULTS.json. The code is `measure.py`,
# `tables.py`, `claims.py` and `compare.py`; nothing here is a copy of it.
#
# ## One subject, measured once

# %%
import inspect, json, os, sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
import measure
from measure import draw_snapshot, make_scale, questions, shipped_subject
from pictures import load_pictures, sheet
from tiny_world.judge import Judge
from tiny_world.world import Scene, random_identity

FAST = "FAST" in os.environ  # for the tests: pictures that are not worth looking at
judge, dog = Judge.load(), shipped_subject("dog2")
photos = load_pictures(dog.photos)
sheet([("the subject, as a method gets it", photos)], cell=80)

# %% [markdown]
# **Likeness.** The judge is a network that gives each picture a vector; the vectors of two pictures of one individual point the same way.
# Three rows of pictures follow: the dog's photos, the same dog drawn anew in other poses and places, and six other dogs. On a scale where
# 0 is another dog and 1 is this one, predict the three likenesses.

# %%
scale, rng = make_scale(judge, dog.who), np.random.default_rng(5)
others = [random_identity(700 + i, "dog") for i in range(6)]
anew = [draw_snapshot(dog.who, rng, i) for i in range(6)]
strangers = [draw_snapshot(who, rng, i) for i, who in enumerate(others)]
rows = []
for name, pictures in (("the photos", photos), ("this dog, drawn anew", anew),
                       ("six other dogs", strangers)):
    likeness = scale.likeness(judge.vectors(pictures))
    rows.append((f"{name}: likeness {likeness:.2f}", pictures))
sheet(rows, cell=80)

# %% [markdown]
# About 1, about 1 and about 0. The photos are no better than a fresh drawing: likeness is measured to drawings that no method has seen, so
# to be *the photo* is no merit. Here is the rule, and the likeness of each of the six strangers by itself. Will all six be near 0?

# %%
print(inspect.getsource(measure.Scale.likeness))
print(f"mean cosine: {scale.other:.2f} with other dogs, {scale.same:.2f} with this one")
each = [scale.likeness(judge.vectors([picture])) for picture in strangers]
print("the strangers, one by one:", "  ".join(f"{likeness:.2f}" for likeness in each))

# %% [markdown]
# They lie on both sides of it: some dogs are more like this one than others are. 0 is what strangers have *on average*. So where a table
# says -0.04 nothing went wrong: it is a stranger.
#
# **Obedience.** The same judge is asked one question about each picture, and the prompt has the right answer. These are asked of a dog.

# %%
asked = {prompt.format("dog"): one for prompt, one in questions(dog.who).items()}
for prompt, (question, right) in asked.items():
    print(f"{prompt:41s} {question}? {right}")

# %% [markdown]
# Does the measure measure what it should? Ask it about someone whose answer you know. Three painters take the place of a trained model:
#
# - a **cheat**: whatever it is asked for, it shows one of the photos;
# - the **model as it is**, which knows dogs and has never seen this one;
# - a **draughtsman**, who knows the truth, and draws this dog just as the prompt says.

# %%
from tiny_world.draw import draw

class Cheat:
    def sample(self, prompts, **how):
        return [photos[i % len(photos)] for i in range(len(prompts))]

class Draughtsman:
    def sample(self, prompts, **how):
        answers = [asked.get(prompt, ("context", "beach")) for prompt in prompts]
        return [draw(self.scene(question, right)) for question, right in answers]

    def scene(self, question, right):
        if question == "colour":
            return Scene(replace(dog.who, colour=right))
        return Scene(dog.who, **{question: right})

some = ["a purple dog", "a dog in the snow", "a dog wearing a santa hat"]
sheet([(f"the draughtsman: {', '.join(some)}", Draughtsman().sample(some))], cell=80)

# %% [markdown]
# All three go through the function that every method goes through, `measure.measure`. Predict the likeness and the obedience of each.
# In the columns: "a photo of a dog", then every second one of the prompts above.

# %%
from command import pick_device
from stable_diffusion import TINY, StableDiffusion
from tables import AXES

sd = StableDiffusion.from_pretrained(TINY, pick_device("auto"))
few = {"images": 1, "steps": 3 if FAST else 25}
rows = []
for name, painter in (("the cheat", Cheat()), ("the model as it is", sd),
                      ("the draughtsman", Draughtsman())):
    result, drawn = measure.measure(judge, painter, "dog", dog, {"dog2": scale}, **few)
    values = "   ".join(f"{axis} {of(result):.2f}" for axis, of in AXES.items())
    rows.append((f"{name}:   {values}", [picture for [picture] in drawn.values()][::2]))
sheet(rows, cell=80)

# %% [markdown]
# Three corners of a plane. The cheat has all of the likeness and no obedience: bottom right. The model obeys and draws a stranger: top
# left. The draughtsman is in the ideal corner, top right, where every method wants to go. To be good at one of the two is easy, and worth
# nothing by itself; so there is a third number, the **product**, which is near 0 for the cheat and for the stranger.
#
# ## All methods, all subjects
#
# Now what `compare.py` measured. Each method learned each subject, and each trained model went through `measure` as the three above did.

# %%
from compare import ABLATIONS, EXPERIMENTS
from tables import by_experiment, interval, table

found = json.loads(Path("../RESULTS.json").read_text("utf-8"))
results = found["subjects"]
by_name = by_experiment(results)  # {experiment: [its result for each subject]}
print(f"{len(by_name)} methods and settings learned each of: {', '.join(results)}")
methods = [name for name in EXPERIMENTS if name in by_name]
only_methods = {subject: {name: of_subject[name] for name in methods}
                for subject, of_subject in results.items()}
Markdown(table(only_methods, "DreamBooth"))

# %% [markdown]
# The same on a plane. A method is a point there, its mean over the subjects, and a cross, the 95 % intervals of both means. DreamBooth's:

# %%
HUES = ("black", "tab:orange", "tab:blue", "tab:green", "tab:red", "tab:purple")
COLOURS = dict(zip(EXPERIMENTS, HUES))

def take(name, axis):
    """One number for each subject."""
    return np.array([AXES[axis](result) for result in by_name[name]])

def span(values):
    """Mean, and the two ends of its interval."""
    return interval(values, np.random.default_rng(0))

def cross(name, colour, size, label=None):
    (x, *xs), (y, *ys) = span(take(name, "likeness")), span(take(name, "obedience"))
    plt.plot(xs, [y, y], [x, x], ys, color=colour, lw=0.8, alpha=0.4)
    plt.plot(x, y, "o", color=colour, ms=size, label=label)

plt.figure(figsize=(4, 2.5), dpi=75), cross("DreamBooth", COLOURS["DreamBooth"], 9);

# %% [markdown]
# Now each method, and small dots, one for each of its subjects. Before you look: which is larger, the cross or the cloud?

# %%
def point_of(name):
    return take(name, "likeness").mean(), take(name, "obedience").mean()

plt.figure(figsize=(7, 4.5), dpi=75)
for name in methods:
    cross(name, COLOURS[name], 9, label=name)
    dots = take(name, "likeness"), take(name, "obedience")
    plt.plot(*dots, ".", color=COLOURS[name], alpha=0.4)
plt.plot(1, 1, "k*", ms=14), plt.legend()
plt.xlabel("likeness"), plt.ylabel("obedience");

# %% [markdown]
# The cloud is the larger: it says how much subjects differ. The cross says how well their *mean* is known, and it shrinks with the number
# of subjects. The star is the draughtsman's corner. (An obedience is a share of a few dozen answers, so the small dots lie in rows.)
#
# A method is no point, though: it has knobs. `compare.py` has some of them at several settings, with all else as it was. Find those.

# %%
def settings(method, key):
    """{experiment: its `key`} of those that differ by it alone, rising."""
    [(script, _)] = EXPERIMENTS[method][1:]
    default = getattr(script.Config, key)
    values = {method: script.SETTINGS[key][0] if default is None else default}
    for name, (_, (other, change), *more) in ABLATIONS.items():
        if other is script and [*change] == [key] and not more and name in by_name:
            values[name] = change[key]
    return dict(sorted(values.items(), key=lambda item: item[1]))

lines = {"Textual Inversion": "lr", "DreamBooth": "steps", "LoRA DreamBooth": "rank"}
for method, key in lines.items():
    lines[method] = settings(method, key)
    for name, value in lines[method].items():
        likeness, obedience = point_of(name)
        print(f"{method:17s} {key:5s} {value:6g}   {likeness:5.2f} {obedience:5.2f}")

# %% [markdown]
# (The two numbers are likeness and obedience.) Now all on one plane. There are many, so each dot gets a number, and the numbers push each
# other away until none covers another or a dot.

# %%
def family(name):
    return max((method for method in methods if name.startswith(method)), key=len)

def push_apart(points, least):
    """Places for labels (n, 2), in pixels: `least` from each other and all points."""
    places = points + np.random.default_rng(0).normal(0, 1, points.shape)
    for _ in range(500):
        gaps = places[:, None] - np.concatenate([places, points])       # (n, 2n, 2)
        far = np.linalg.norm(gaps, axis=2, keepdims=True).clip(1e-9)
        places = places + 0.2 * (gaps / far * (least - far).clip(0)).sum(1)
    return places

order = sorted(by_name, key=lambda name: methods.index(family(name)))
points = np.array([point_of(name) for name in order])
print(f"{len(order)} points; the first is {order[0]}, at {points[0].round(2)}")

# %%
figure, axes = plt.subplots(figsize=(8, 5.6), dpi=100)
figure.subplots_adjust(left=0.08, right=0.67, top=0.98, bottom=0.09)
for name in order:
    cross(name, COLOURS[family(name)], 9 if name in methods else 4)
for method, values in lines.items():
    line = np.array([point_of(name) for name in values])
    axes.plot(*line.T, color=COLOURS[method], lw=2)
axes.plot(1, 1, "k*", ms=14), axes.text(0.97, 1, "ideal", ha="right", va="center")
axes.set_xlabel("likeness"), axes.set_ylabel("obedience")
left, low = points.min(0)
axes.set(xlim=(left - 0.08, 1.08), ylim=(low - 0.08, 1.04))
places = push_apart(axes.transData.transform(points), 0.15 * figure.dpi)  # 0.15 inches
places = axes.transData.inverted().transform(places)
plt.close(figure)  # not yet: the names are missing
print(f"the number that went farthest: {np.abs(places - points).max():.2f} away")

# %% [markdown]
# The list beside the plane has each method in bold, and below it what was changed. A line goes through the settings of one knob. Predict
# its direction, from the lowest rate, the fewest steps or the lowest rank to the highest.

# %%
for i, (name, point, number) in enumerate(zip(order, points, places)):
    method = family(name)
    changed = name.removeprefix(method).strip(", ")
    look = {"fontsize": 8, "va": "center", "color": COLOURS[method]}
    axes.plot(*np.transpose([point, number]), color="grey", lw=0.5, zorder=0)
    axes.text(*number, i + 1, ha="center", **look)
    axes.text(1.03, 1 - i / (len(order) - 1), f"{i + 1}  {changed or method}", **look,
              transform=axes.transAxes, weight="normal" if changed else "bold")
if not FAST:
    figure.savefig("../figures/comparison.jpg", dpi=150, bbox_inches="tight")
figure

# %% [markdown]
# To the right, and sooner or later downwards: more training is more likeness, and in the end it is paid for with obedience. So the
# likeness of one setting says little of a *method*; its line does. A method is better where its line runs nearer to the star.
#
# ## Two intervals, or one of the difference?
#
# Some crosses overlap. Does that mean that nothing is known of which method is better? Here are two whose intervals overlap on an axis that
# a paper speaks of; among all such pairs of RESULTS.md, the one that is clearest in the end. Left each by itself; right the same numbers, a
# line for each subject. Predict how many lines fall.

# %%
from claims import CLAIMS, CLAIMS_OF_FACES, decide, table_of_claims

def overlap(claim):
    _, low, high = span(take(claim.first, claim.axis))
    _, other_low, other_high = span(take(claim.second, claim.axis))
    return low < other_high and other_low < high

def clearness(claim):
    differences = take(claim.first, claim.axis) - take(claim.second, claim.axis)
    mean, low, high = span(differences)
    return abs(mean) / (high - low + 1e-9)

pairs = [claim for claim in CLAIMS if {claim.first, claim.second} <= {*by_name}
         and claim.axis in AXES and not claim.margin]
pair = max(filter(overlap, pairs), key=clearness)
print(f'{pair.paper}: "{pair.says}"\n{pair.axis}: {pair.first} - {pair.second}')

# %%
after, before = take(pair.first, pair.axis), take(pair.second, pair.axis)
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
for x, values in enumerate((before, after)):
    mean, low, high = span(values)
    left.plot([x, x], [low, high], lw=3), left.plot(x, mean, "ko")
    left.text(x, high, f" {low:.2f} to {high:.2f}", va="bottom", ha="center")
for of_second, of_first in zip(before, after):
    colour = "tab:green" if of_first > of_second else "tab:red"
    right.plot([0, 1], [of_second, of_first], "o-", color=colour)
for axes in (left, right):
    axes.set_xticks([0, 1], [pair.second, pair.first], fontsize=8)
    axes.set_xlim(-0.4, 1.4), axes.margins(y=0.15)
left.set_ylabel(pair.axis), figure.tight_layout();

# %% [markdown]
# Most lines go the same way. The intervals on the left are wide because *subjects* differ: one is hard for every method, another easy. That
# has nothing to do with which method is better, and it falls out when each subject is compared with itself. So the difference is taken
# first, subject by subject, and then comes the interval. What happens to it if the pairs are torn apart: one method's cat is compared with
# the other's clock?

# %%
print(f"correlation over subjects: {np.corrcoef(after, before)[0, 1]:.2f}")
shuffles = np.random.default_rng(1)
torn = np.mean([span(after - shuffles.permutation(before)) for _ in range(50)], axis=0)
for name, values in (("in pairs", span(after - before)), ("torn apart", torn)):
    mean, low, high = values
    print(f"{name:10s} {mean:+.2f} ({low:+.2f} to {high:+.2f}), {high - low:.2f} wide")

# %% [markdown]
# The mean is the same, and the interval is wider the more the two methods agree on which subjects are hard (the correlation). The same
# subjects, the same photos, the same prompts and the same noise for both: that is what makes a comparison sharp, and it costs nothing.
#
# ## A verdict by hand
#
# Where does an interval come from? From the subjects themselves: draw as many as there are, with replacement, and take the mean; do it ten
# thousand times; 95 % of those means lie in the interval. Predict: is 0 inside?

# %%
print(inspect.getsource(interval))
chance, differences = np.random.default_rng(0), after - before
drawn = chance.integers(len(differences), size=(10_000, len(differences)))
means = differences[drawn].mean(1)
low, high = np.percentile(means, [2.5, 97.5])
plt.figure(figsize=(6, 2.4))
plt.hist(means, 60, color="lightgrey")
plt.plot(differences, 0 * differences - 30, "k|", ms=12)
plt.axvline(0, color="tab:red"), plt.axvline(low, ls=":"), plt.axvline(high, ls=":")
plt.xlabel(f"{pair.axis}: {pair.first} - {pair.second}", fontsize=8);

# %% [markdown]
# The black strokes are the subjects, the grey hill the ten thousand means, the dotted lines its middle 95 %. And the rule, the same for
# every claim: reproduced if all of the interval lies on the claim's side of 0, not reproduced if all of it lies on the other, else
# undecided. (Where a paper says "nearly as good", the line is not 0 but a margin that was said beforehand.)

# %%
verdict = "reproduced" if low > 0 else "not reproduced" if high < 0 else "undecided"
print(f"by hand:      {differences.mean():+.3f} ({low:+.3f} to {high:+.3f}) {verdict}")
mean, low, high, verdict = decide(pair, results, np.random.default_rng(0))
print(f"decide(pair): {mean:+.3f} ({low:+.3f} to {high:+.3f}) {verdict}")

# %% [markdown]
# ## How many subjects does it take?
#
# Take the differences above for the whole world, and draw from it 2, 3, 5 ... subjects at a time, as if no others had been measured. Two
# things to predict, from 2 subjects to 24: how wide is the interval, and how often does a "95 %" interval contain the world's true mean?

# %%
chance, truth = np.random.default_rng(2), differences.mean()
counts, widths, hits = (2, 3, 5, 8, 12, 24), [], []
for count in counts:
    samples = chance.choice(differences, size=(10 if FAST else 200, count))
    _, low, high = np.array([interval(sample, chance) for sample in samples]).T
    widths.append((high - low).mean())
    hits.append(((low <= truth) & (truth <= high)).mean())
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.4), dpi=80)
left.plot(counts, widths, "o-"), left.set_ylabel("mean width"), left.set_ylim(0)
right.plot(counts, hits, "o-"), right.set_ylabel("contain the truth")
right.axhline(0.95, ls=":"), left.set_xlabel("subjects"), right.set_xlabel("subjects")
figure.tight_layout();

# %% [markdown]
# Twice as many subjects are not half the width: it falls with the square root of their number, so half the width takes four times as many.
# And of two or three subjects the interval lies: too often the truth is outside, as so few do not show how much subjects differ. Of two it
# may even be narrower than of three, which looks like knowledge and is none. That is why `tables.py` prints no interval for four subjects
# or fewer, and why `compare.py` has twelve: there it is nearer to what it promises, and still a little too narrow.
#
# ## Read aloud
#
# The claims of all four papers, in the order of RESULTS.md. A bar is the interval of the difference: green reproduced, red not, grey
# undecided.

# %%
from collections import Counter

def ready(claims, results):
    names = {*next(iter(results.values()))}
    return [claim for claim in claims if {claim.first, claim.second} <= names]

rows = []
for claims, measured in ((CLAIMS, results), (CLAIMS_OF_FACES, found["faces"])):
    rows += table_of_claims(ready(claims, measured), measured)[1]
print(Counter(row["verdict"] for row in rows))
hues = {"reproduced": "tab:green", "not reproduced": "tab:red", "undecided": "grey"}
plt.figure(figsize=(6, 0.2 * len(rows)), dpi=72)
for y, row in enumerate(rows):
    plt.plot([row["low"], row["high"]], [y, y], lw=4, color=hues[row["verdict"]])
    plt.plot(row["difference"], y, "k|"), plt.plot(-row["margin"], y, "k.", ms=3)
says = [row["says"] for row in rows]
plt.yticks(range(len(rows)), says, fontsize=9), plt.xlim(-1, 1)
plt.gca().invert_yaxis(), plt.xlabel("difference (the dot: what it must be above)");

# %% [markdown]
# (Bars of other units, times and lengths, may leave the picture.) One of each verdict, chosen by its numbers among those about the three
# axes: the clearest that is reproduced, the clearest that is not, and of the undecided the one that lies most evenly about its line.

# %%
import textwrap

def say(row):
    print(f'{row["verdict"].upper()}. {row["paper"]}: "{row["says"]}".')
    low, high = row["low"], row["high"]
    text = (f'Measured: {row["axis"]} of {row["first"]} minus that of {row["second"]}, '
            f'{row["subjects"]} subjects. It should be above {0 - row["margin"]:g}. '
            f'It is {row["difference"]:+.2f}, and with 95 % confidence from {low:+.2f} '
            f'to {high:+.2f}. {row["why"]}')
    print(textwrap.fill(text, 100), "\n")

def rank(row):
    clear = abs(row["difference"] + row["margin"]) / (row["high"] - row["low"] + 1e-9)
    return row["axis"] in AXES, -clear if row["verdict"] == "undecided" else clear

for verdict in hues:
    if of_kind := [row for row in rows if row["verdict"] == verdict]:
        say(max(of_kind, key=rank))

# %% [markdown]
# "Undecided" is not "equal": the difference may be anything inside its interval, and more subjects would tell. "Not reproduced" is not
# "refuted": it is so on this small world, with this model and these settings; where a reason is known it stands in RESULTS.md. And where
# there are this many claims, chance has its share: of twenty intervals about a difference that is none, one misses 0.
#
# ## And if it were done again?
#
# Each subject was learned once by each method. How much of a number is the seed? Two answers. First: some settings should make next to no
# difference, such as in how many bits AdamW keeps what it remembers. What differs between such runs is mostly chance. Predict: how far
# apart are two runs with one subject, and how far their means over all?

# %%
twins = [name for name, (_, *stages) in ABLATIONS.items()
         if [[*change] for _, change in stages] == [["memory"]] and name in by_name]
for name in twins:
    for axis in ("likeness", "obedience"):
        apart = take(name, axis) - take("DreamBooth", axis)
        print(f"{name}, {axis}: a subject differs by {np.abs(apart).mean():.3f}, "
              f"the mean by {abs(apart.mean()):.3f}")

# %% [markdown]
# Second: the same model, the same prompts, and other noise to begin with. Our stranger of a dog once more, drawn with four seeds.

# %%
for seed in range(1 if FAST else 4):
    again = replace(dog, seed=seed)
    result, _ = measure.measure(judge, sd, "dog", again, {"dog2": scale}, **few)
    values = "   ".join(f"{axis} {of(result):5.2f}" for axis, of in AXES.items())
    print(f"seed {seed}:   {values}")

# %% [markdown]
# One subject, learned once and drawn a few times, is worth little beyond the first digit: so a picture that convinces is an anecdote. The
# mean over subjects is steadier, as their chances do not agree. This noise is *inside* the intervals: each subject brings its own seed, so
# what differs between subjects is their nature and their luck together.
#
# ## Exercises
#
# Answer with code or by hand.
#
# 1. Which experiment of `by_name` is nearest to the ideal corner, likeness 1 and obedience 1, on the plane?
# 2. With how many of the subjects is Textual Inversion more obedient than DreamBooth?
# 3. How many subjects would make the interval of the difference half as wide as it is with those that there are?
# 4. Six subjects, and these differences: `+0.30, +0.22, +0.25, +0.18, -0.35, +0.28`. Five of six are ahead. The verdict, margin 0?

# %%
nearest_to_the_corner = None   # a name
more_obedient = None           # a number of subjects
subjects_for_half = None       # a number of subjects
verdict_of_six = None          # "reproduced", "not reproduced" or "undecided"

answers = (nearest_to_the_corner, more_obedient, subjects_for_half, verdict_of_six)
print(f"{sum(answer is not None for answer in answers)} of {len(answers)} answered")

# %%
from claims import Claim

def distance(name):
    return np.hypot(*(1 - np.array(point_of(name))))

def width(values):
    _, low, high = span(values)
    return high - low

six = {i: {"A": {"likeness": ahead}, "B": {"likeness": 0.0}}
       for i, ahead in enumerate((0.30, 0.22, 0.25, 0.18, -0.35, 0.28))}
a_before_b = Claim("", "", "A", "B", "likeness")
ahead = take("Textual Inversion", "obedience") > take("DreamBooth", "obedience")
print("what answers are compared with is ready")

# %%
checks = {
    "nearest_to_the_corner": lambda name: name == min(by_name, key=distance),
    "more_obedient": lambda count: count == ahead.sum(),
    "subjects_for_half": lambda count: abs(
        width(np.resize(differences, count)) / width(differences) - 0.5) < 0.04,
    "verdict_of_six": lambda said: said == decide(
        a_before_b, six, np.random.default_rng(0))[3],
}
for (name, is_right), answer in zip(checks.items(), answers):
    if answer is None:
        print(f"{name}: not answered yet")
    else:
        print(f"{name}: {'right' if is_right(answer) else 'try again'}")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `min(by_name, key=distance)`, with `distance` as in the cell above.
# 2. `sum(take("Textual Inversion", "obedience") > take("DreamBooth", "obedience"))`
# 3. About four times as many as there are: `4 * len(differences)`. The width falls with the square root.
# 4. "undecided": the one far behind makes the interval reach below 0. Of six tosses of a coin five or six are heads one time in nine.
#
# </details>
