# %% [markdown]
# # AttnDreamBooth: the word, where to look for it, its looks
#
# ![](../figures/attn_dreambooth.jpg)
#
# Top: the photos. Below: the same sentences after each of three stages, each of which trains other numbers. By the end you can say what
# each stage is for, read a cross-attention map, and measure whether the penalty on the maps does what it is told, and whether that shows.
#
# Everything runs on a laptop's CPU, on the tiny world's model, in about ten minutes: five trainings. The code is `attn_dreambooth.py`;
# nothing here is a copy of it.

# %%
import inspect, os, sys
from dataclasses import replace
from itertools import accumulate

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import torch
import attn_dreambooth
from attn_dreambooth import (PROMPTS, Config, attn_dreambooth_loss, find_word, light_up,
                             measure_gaze, plan_stages, prepare, train, weights_of)
from pictures import sheet, square

FAST = "FAST" in os.environ  # for the tests: pictures that are not worth looking at
few = {"steps": 2, "sampling_steps": 3} if FAST else {}
sd, cfg, photos = prepare(Config(out="../runs/notebook", **few))
stages = plan_stages(cfg, sd.large)
print(*stages, sep="\n")

# %% [markdown]
# Three stages. The first trains the vector of a new word, the second the layers that look at words, the third the whole UNet. Guess the
# three counts of numbers before you run the cell.

# %%
v = sd.text.table.weight[sd.tokenizer.encode(cfg.token)]
for stage in stages:
    trained = sum(weight.numel() for weight in weights_of(stage, v, sd.unet))
    print(f"stage {stage.number}: {trained:,} numbers")

# %% [markdown]
# Each stage has far more freedom than the one before, and with it comes the danger to learn the photos by heart: so the learning rates
# fall.
#
# Cross-attention: each place of the picture spreads its attention over the words of the prompt. So a word has a map: how much each place
# looks at it. Before anything is trained, the new word `<it>` is a copy of "cat", and stands right before it. Predict: which places look
# at the two? (Bright is where a place looks at the word most.)

# %%
prompt, _, place = find_word(sd, cfg)
print("tokens:", prompt.split(), "| with the start token <it> is number", place)
of_word, of_category = measure_gaze(sd, cfg, photos[0])
lit = [light_up(photos[0], of_word), light_up(photos[0], of_category)]
sheet([("the photo; where it looks at <it>, at cat", [photos[0], *lit])])

# %% [markdown]
# The cat's own places, for both words, and hardly the background. Nobody taught the model that: to predict the noise in a cat one has to
# know that it is one.
#
# AttnDreamBooth wants it to stay so: the places that look at "cat" should look at `<it>` too, as in "a photo of a brown cat" they look at
# "brown". So beside the ordinary loss there is a penalty on the maps. Find the two squared differences in it. Does it compare *places*?

# %%
print(inspect.getsource(attn_dreambooth.attention_penalty))

# %% [markdown]
# It does not. Of each layer's map it takes two numbers, the mean (how much the word is looked at) and the variance (how unevenly), and
# compares those of both words.
#
# Train twice, with the penalty and without it (`attn_weight=0`), and look three times on the way: at pictures from fixed noise, at the
# maps, and at the penalty itself, on the photos with noise that no training step saw. The last is measured for both runs alike.

# %%
def measure_penalty(sd):
    """The mean penalty, as the last stage weighs it, on all photos at once."""
    mean, _ = sd.encode([square(photo, cfg.size) for photo in photos])
    z, chance = mean * sd.vae.config.scaling_factor, torch.Generator().manual_seed(9)
    words, penalties = sd.read([prompt]).expand(len(z), -1, -1), []
    for _ in range(1 if FAST else 20):
        with torch.no_grad():
            _, one = attn_dreambooth_loss(sd, z, words, chance, place, stages[-1])
        penalties.append(one.item())
    return sum(penalties) / len(penalties)

print(f"before training: {measure_penalty(sd):.6f}")

# %%
def look(sd):
    """Two pictures of each prompt, the maps, and the penalty."""
    prompts = [prompt, *(text.format("<it> cat") for text in PROMPTS)]
    how = {"steps": cfg.sampling_steps, "sampler": "dpm++", "seed": 1}
    pictures = sd.sample(prompts, images=2, **how)
    return pictures, measure_gaze(sd, cfg, photos[0]), measure_penalty(sd)

before, maps, penalty = look(sd)
print(f"a look: {len(before)} pictures, {len(maps)} maps and the penalty")

# %%
def learn(cfg):
    """The model after all stages, a look after each of them, and the logs."""
    model, *rest = prepare(cfg)
    looks, logs = {0: (before, maps, penalty)}, []
    ends = [*accumulate(stage.steps for stage in stages)]
    for log in train(model, *rest):
        logs.append(log)
        if log["step"] in ends:
            looks[log["stage"]] = look(model)
    return model, looks, logs

runs = {weight: learn(replace(cfg, attn_weight=weight)) for weight in (1.0, 0.0)}
for weight, (_, _, logs) in runs.items():
    print(f"penalty x {weight:.0f}: {len(logs)} steps")

# %% [markdown]
# Predict for the pictures: what will the word alone know of this cat, and what comes with the UNet?

# %%
_, looks, _ = runs[1.0]
names = ("before", "after 1, the word", "after 2, cross-attention", "after 3, the UNet")
said = "a photo of it | in the snow | purple | wearing a santa hat"
rows = [("the subject", photos)]
for stage, (pictures, _, _) in looks.items():
    rows.append((f"{names[stage]}: {said}", pictures))
if not FAST:
    sheet(rows).save("../figures/attn_dreambooth.jpg")
sheet(rows, cell=96)

# %% [markdown]
# The word alone has the colours, and every prompt is obeyed: it was the longest stage here, and one vector can say a colour. The second
# stage changes little that one can see. The UNet brings the shapes nearer, spots and eyes; and where a prompt names no place, a place of
# the photos may come along.
#
# Now the maps, all on one scale, from no attention (dark) to the most in any of them. Upper rows with the penalty, lower rows without.
# From left to right: before training, and after each stage. What will training change more, the places or the brightness?

# %%
def draw_maps(axes, word, weight, maps):
    for axis, name, share in zip(axes, names, maps):
        axis.imshow(share, vmin=0, vmax=top, cmap="magma")
        axis.set_title(f"{word}, penalty x {weight:.0f}\n{name}", fontsize=6)
        axis.axis("off")

gazes = {weight: [maps for _, maps, _ in looks.values()]
         for weight, (_, looks, _) in runs.items()}
top = max(share.max() for maps in gazes.values() for share in maps)
figure, axes = plt.subplots(4, 4, figsize=(6.4, 7), dpi=80)
draw_maps(axes[0], "<it>", 1, [share[0] for share in gazes[1.0]])
draw_maps(axes[1], "cat", 1, [share[1] for share in gazes[1.0]])
draw_maps(axes[2], "<it>", 0, [share[0] for share in gazes[0.0]])
draw_maps(axes[3], "cat", 0, [share[1] for share in gazes[0.0]])
figure.tight_layout()

# %% [markdown]
# The places stay on the cat in both runs. The brightness changes: after the first stage both words are looked at more than before. The
# two need not share the cat alike: the eye finds places where one is bright and the other is not, and the penalty does not mind.
#
# In numbers: how much of its attention the photo gives to either word, how far apart the two are, and the penalty. Predict which of the
# two runs ends with the smaller penalty.

# %%
print("                          <it>     cat   apart   the penalty")
for weight, (_, looks, _) in runs.items():
    for stage, (_, shares, value) in looks.items():
        of_word, of_category = shares.mean((1, 2)).tolist()
        apart = abs(of_word - of_category)
        print(f"penalty x {weight:.0f}, stage {stage}:",
              f"{of_word:8.4f}{of_category:8.4f}{apart:8.4f}{value:14.6f}")

# %% [markdown]
# The last column is what was trained: it ends smaller where it was part of the loss. Before training it is nearly zero for both, as
# `<it>` is a copy of "cat"; learning the subject is what drives the two apart, and the penalty holds against it.
#
# The column "apart" is another matter: it takes the means of all layers first, as the method is often retold, and the code does not (it
# squares in each layer, and averages then). The two columns need not tell the same story. Here they do: the first stage drives the words
# apart, and only with the penalty the other two bring them together again.
#
# How large is the penalty beside the loss that it was added to? Predict: half, a tenth, a hundredth, less?

# %%
_, _, logs = runs[1.0]
plt.figure(figsize=(7, 2.4))
plt.semilogy([log["noise"] for log in logs], label="the model's own loss")
plt.semilogy([log["attention"] for log in logs], label="the penalty")
plt.xlabel("step, all stages")
plt.legend();

# %% [markdown]
# Small: most of the time it is a hundredth or less. It jumps up where the second stage begins, as each stage weighs it differently, and
# falls from there on. (The line of the model's own loss is rough, as always: each step has other noise.)
#
# And does it matter? The judge, a network that knows this world, looks at what was learned: likeness 0 is any cat, 1 is this one;
# obedience is the share of prompts drawn as asked. Three more trainings leave out a stage each. Predict: which of the five will stand out?

# %%
from measure import make_scale, measure, shipped_subject
from tiny_world.judge import Judge

judge, cat = Judge.load(), shipped_subject("cat")
scales, quick = {"cat": make_scale(judge, cat.who)}, 1 if FAST else 10  # sampling steps
models = {"all stages": runs[1.0][0], "without the penalty": runs[0.0][0]}
for only in ("12",) if FAST else ("23", "13", "12"):
    model, *rest = prepare(replace(cfg, stages=only))
    for log in train(model, *rest):
        pass
    models[f"stages {only[0]} and {only[1]}"] = model
for name, model in models.items():
    result, _ = measure(judge, model, "<it> cat", cat, scales, steps=quick)
    values = f"{result['likeness']:5.2f}   obedience {result['obedience']:.2f}"
    print(f"{name:20s} likeness {values}")

# %% [markdown]
# Read the differences with care. This is one cat and one training each: chance alone moves such a number by up to a tenth, so of a smaller
# difference think nothing, whichever way it goes. Two lines stand out by more: without the second stage, or the third, this cat is less
# alike. Nothing is lost without the first, nor without the penalty. That the penalty does what it is told, you have measured; that the
# pictures are better for it, this table cannot show. `compare.py` asks it of many subjects.
#
# ## Exercises
#
# Fill in the answers and run both cells.
#
# 1. Two words' maps are the same but mirrored left to right. What is the penalty between them?
# 2. With batch size 16 instead of 8, how many times as large is the penalty of the same maps?
# 3. The category is "rainbow scarf". Whose map is compared with that of `<it>`?
# 4. How many steps does the run with `--stages 13` take, at the tiny world's settings?

# %%
penalty_of_mirrored = None
times_as_large = None
compared_with = None       # a word
steps_of_13 = None

given = (penalty_of_mirrored, times_as_large, compared_with, steps_of_13)
print(f"{sum(answer is not None for answer in given)} of {len(given)} answered")

# %%
def penalty_of(one, two):
    """Of two words' maps (b, h, y, x)."""
    maps = torch.stack([one, two], -1).flatten(2, 3)                # (b, h, n, 2)
    return attn_dreambooth.attention_penalty([maps], stages[-1]).item()

one = torch.rand(8, 2, 16, 16, generator=torch.Generator().manual_seed(0))
mirrored = penalty_of(one, one.flip(3))
eight, sixteen = (penalty_of(some, some / 2) for some in (one, torch.cat([one, one])))
text, _, after = find_word(sd, replace(cfg, class_name="rainbow scarf"))
compared = sd.tokenizer.encode(text)[after]  # the token after <it>
plan = plan_stages(Config(stages="13"), sd.large)
print("what answers are compared with is ready")

# %%
checks = {
    "penalty_of_mirrored": lambda answer: abs(answer - mirrored) < 1e-6,
    "times_as_large": lambda answer: abs(answer - sixteen / eight) < 1e-3,
    "compared_with": lambda answer: sd.tokenizer.encode(answer) == [compared],
    "steps_of_13": lambda answer: answer == sum(stage.steps for stage in plan),
}
for (question, is_right), answer in zip(checks.items(), given):
    verdict = "right" if answer is not None and is_right(answer) else "try again"
    print(f"{question}: {'not answered yet' if answer is None else verdict}")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. 0: mean and variance do not know places.
# 2. 2: it is summed over the batch, not averaged.
# 3. That of "rainbow", the token right after `<it>`.
# 4. `sum(stage.steps for stage in plan_stages(Config(stages="13"), sd.large))`: those of the first and of the third.
#
# </details>
