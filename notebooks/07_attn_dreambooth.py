# %% [markdown]
# # AttnDreamBooth: the word, where to look for it, its looks
#
# ![](attn_dreambooth.jpg)
#
# Three stages, each with its own trained numbers. By the end you can say what each is for, read a cross-attention map, and judge for
# yourself whether the penalty on the maps does what it is said to.
#
# Everything runs on a laptop's CPU, on the tiny world's model. The code is `attn_dreambooth.py`; nothing here is a copy of it.

# %%
import inspect, os, sys
from dataclasses import replace

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import torch

import attn_dreambooth
import compare
from attn_dreambooth import PROMPTS, Config, StableDiffusion, attention_loss, gaze, load_pictures, overlay, plan, settle, square, train
from tiny_world import SUBJECTS, sheet
from tiny_world.judge import Judge

FAST = "FAST" in os.environ  # the tests run this notebook in a minute; what they draw is not worth looking at
cfg = Config(steps=3 if FAST else None, sampling_steps=3 if FAST else 25, out="../runs/notebook")
sd = StableDiffusion.from_pretrained(cfg.model)
for stage, steps, lr, batch_size, lambda_mean, lambda_var in plan(cfg, sd):
    print(f"stage {stage}: {steps} steps of {batch_size} at {lr}, lambda_mean {lambda_mean}, lambda_var {lambda_var}")

# %% [markdown]
# What does each stage train? Predict the order of the three counts.

# %%
unet = dict(sd.unet.named_parameters())
print(f"1: {sd.text.config.hidden_size}  2: {sum(p.numel() for n, p in unet.items() if '.attn2.' in n):,}  "
      f"3: {sum(p.numel() for p in unet.values()):,}")

# %% [markdown]
# Cross-attention: each place of the picture spreads its attention over the words of the prompt. So a word has a map: how much each
# place looks at it. Before anything is trained, the new word `<it>` is a copy of "cat", and stands right before it.

# %%
photos, settled = load_pictures(SUBJECTS / "cat"), settle(cfg, sd)
sd.add_word("<it>", sd.text.table.weight.data[sd.tokenizer.encode("cat")])
prompt, place = "a photo of a <it> cat", 5
print("tokens:", prompt.split(), "| with the start token <it> is number", place)
before = gaze(sd, settled, photos[0], prompt, place)
sheet([("the photo; where it looks at <it>, at cat", [photos[0], *(overlay(photos[0], share) for share in before)])])

# %% [markdown]
# Train, and keep the maps and some pictures after each stage. One run with the penalty, one without (`attn_weight=0`), the same noise.

# %%
draw = lambda sd, prompt, n=3: sd.sample(prompt, images=n, steps=cfg.sampling_steps, sampler="dpm++", seed=1)

def learn(cfg):
    maps, looks, gaps = {}, {}, []
    for model, log in train(cfg):
        if log["step"]:
            gaps.append(log["attention"])
        if log["done"]:
            maps[log["stage"]] = gaze(model, settled, photos[0], prompt, place)
            looks[log["stage"]] = [p for text in (prompt, *(p.format("<it> cat") for p in PROMPTS)) for p in draw(model, text, 2)]
    return model, maps, looks, gaps

runs = {weight: learn(replace(cfg, attn_weight=weight)) for weight in (1.0, 0.0)}
print("stages:", *runs[1.0][1])

# %% [markdown]
# The pictures after each stage, with the penalty. What does the word alone know, and what comes with the UNet?

# %%
names = {"0": "before", "1": "after 1, the word", "2": "after 2, cross-attention", "3": "after 3, the UNet"}
rows = [(f"{names[stage]}: a photo of it | in the snow | purple | wearing a santa hat", pictures) for stage, pictures in runs[1.0][2].items()]
result = sheet([("the subject", photos), *rows])
result.save("attn_dreambooth.jpg") if not FAST else None
result

# %% [markdown]
# The maps, all on one scale, from no attention (dark) to the most in any of them. Upper rows with the penalty, lower rows without.

# %%
top = max(share.max() for _, maps, _, _ in runs.values() for share in maps.values())
figure, axes = plt.subplots(4, 4, figsize=(8, 8.4))
for two, (weight, (_, maps, _, _)) in zip((0, 2), runs.items()):
    for column, (stage, share) in enumerate(maps.items()):
        for k, word in enumerate(("<it>", "cat")):
            axes[two + k, column].imshow(share[k], vmin=0, vmax=top, cmap="magma")
            axes[two + k, column].set_title(f"{word}, penalty x {weight:.0f}\n{names[stage].split(',')[0]}", fontsize=8)
for axis in axes.flat:
    axis.axis("off")
figure.tight_layout()

# %% [markdown]
# What the penalty compares is not the places but two numbers of each map: its mean (how much the word is looked at) and its variance
# (how unevenly). How far apart are they after each stage?

# %%
print("                      mean of <it>   of cat   |  spread of <it>   of cat")
for weight, (_, maps, _, _) in runs.items():
    for stage, share in maps.items():
        mean, std = share.mean((1, 2)), share.std((1, 2))
        print(f"penalty x {weight:.0f}, stage {stage}: {mean[0]:11.4f} {mean[1]:8.4f}   | {std[0]:14.4f} {std[1]:8.4f}")

# %% [markdown]
# The penalty as the paper's code has it: layer by layer, summed over the batch. Find the two squared differences.

# %%
print(inspect.getsource(attention_loss))

# %% [markdown]
# Beside the model's own loss (about 0.4) it is small. With `attn_weight=0` it is not measured, so here is the run with it: it jumps when a
# stage begins, since each has weights of its own.

# %%
gaps = runs[1.0][3]
plt.semilogy(gaps), plt.xlabel("step, all stages"), plt.ylabel("penalty"), plt.gcf().set_size_inches(7, 2.2);

# %% [markdown]
# And does it matter? The judge, on this one cat: likeness 0 is any cat, 1 is this one; obedience is the share of prompts drawn as asked.
# Stages are left out too. One cat is an anecdote; compare.py has the means over many subjects.

# %%
judge, cat = Judge.load(), compare.shipped("cat")
scales = {"cat": compare.scale(judge, cat.who)}
learned = {"all": runs[1.0][0], "no penalty": runs[0.0][0]}
for stages in ("23", "13", "12"):
    for learned[f"stages {stages}"], _ in train(replace(cfg, stages=stages)):
        pass
for name, model in learned.items():
    found, _ = compare.measure(judge, model, "<it> cat", cat, scales)
    print(f"{name:12s} likeness {found['likeness']:5.2f}   obedience {found['obedience']:.2f}")

# %% [markdown]
# ## Exercises
#
# 1. Two words' maps are the same but mirrored left to right. What is the penalty between them?
# 2. With batch size 16 instead of 8, how many times larger is the penalty of the same maps?
# 3. The category is "space shuttle". Whose map is compared with that of `<it>`?

# %%
penalty_of_mirrored = None
times_larger = None
compared_with = None

for name, answer, right in (("penalty_of_mirrored", penalty_of_mirrored, 0), ("times_larger", times_larger, 2),
                            ("compared_with", compared_with, "space")):
    print(name, "not answered yet" if answer is None else "right" if answer == right else "try again")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. 0: mean and variance do not know places.
# 2. 2: it is summed over the batch, not averaged.
# 3. That of "space", the token right after it.
#
# </details>
