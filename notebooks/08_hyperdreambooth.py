# %% [markdown]
# # HyperDreamBooth: a network that writes the weights
#
# ![](../figures/hyperdreambooth.jpg)
#
# One picture of a face, and seconds later the model draws that face in the snow. By the end you can say what the network predicts, why
# so few numbers are enough, what the few steps of training after it are for, and where it fails.
#
# Everything runs on a laptop's CPU, on the tiny world's model. The code is `hyperdreambooth.py`; nothing here is a copy of it.

# %%
import inspect, json, os, sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import torch
from files import load_metadata
from hyperdreambooth import (HYPERNETWORK, PROMPTS, Config, LiDB, adapted_layers,
                             load_hypernetwork, merge_factors, prepare, train)
from pictures import load_pictures, sheet
from stable_diffusion import SUBJECTS
from thetas import loss_with_theta

FAST = "FAST" in os.environ  # for the tests: pictures that are not worth looking at
few = {"steps": 2, "sampling_steps": 2} if FAST else {"sampling_steps": 25}
sd, cfg, [photo] = prepare(Config(out="../runs/notebook", **few))
sheet([("the picture", [photo])])

# %% [markdown]
# That is all there is of this person.
#
# First, how small can a change be that teaches a face? Each layer gets a product of a column and a row, and of those only their
# coordinates along 100 and 50 frozen random directions are trained: LiDB. Count it on Stable Diffusion 1.5, whose shapes need no weights.
# Predict: how many times smaller is it than the UNet that DreamBooth trains?

# %%
from types import SimpleNamespace
from clip_text import CLIPText
from tiny_unet import UNet

def count(network):
    return sum(weight.numel() for weight in network.parameters())

with torch.device("meta"):
    large = SimpleNamespace(unet=UNet().requires_grad_(False), text=CLIPText())
layers = adapted_layers(large)
rank_1 = sum(layer.in_features + layer.out_features for layer in layers.values())
lidb_size = 150 * len(layers)
for name, numbers in (("the UNet, as DreamBooth trains it", count(large.unet)),
                      ("LoRA of rank 1", rank_1), ("LiDB", lidb_size)):
    print(f"{name:34s}{numbers:12,} numbers {4 * numbers / 1e6:9.3f} MB, "
          f"{numbers / lidb_size:7,.0f} times LiDB")

# %% [markdown]
# The paper has 28k numbers and 120 KB for LiDB, 386k and 1.6 MB for a LoRA of rank 1, and says "10,000 times smaller" than DreamBooth,
# whose file it puts at more than a gigabyte: in half precision the UNet has 1.72 GB.
#
# Which layers are they? And how do 150 numbers become a column and a row?

# %%
KINDS = {"_attn1_": "the UNet's attention to itself", "_attn2_": "and to the words",
         "_ff_": "GEGLU", "lora_te_": "the text encoder"}
for part, kind in KINDS.items():
    print(f"{sum(part in name for name in layers):4d} {kind}")
print(inspect.getsource(LiDB.factors))

# %% [markdown]
# The frozen directions `A_aux` and `B_aux` turn 100 numbers into a column as high as the layer is wide, and 50 into a row. They are random,
# the same for everyone, and need not be kept: a seed makes them again.
#
# What does it cost to get a network that writes these numbers? Count the operations of one training step's picture on Stable Diffusion:
# forward, backward through frozen weights, and the forward once more, as what lies between is not kept. Then 100,000 steps of 4 people in
# two pictures each; and for the second term of the loss, if it is wanted, 300 steps for each of 1,000 people. On a good GPU: hours, days or
# months?

# %%
from torch.utils.flop_counter import FlopCounterMode

with torch.device("meta"):
    z, words = torch.randn(1, 4, 64, 64), torch.randn(1, 77, 768, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        large.unet(z, torch.tensor([500]), words)
    with FlopCounterMode(display=False) as both:
        large.unet(z, torch.tensor([500]), words).sum().backward()
flops = forward.get_total_flops() + both.get_total_flops()
print(f"{flops / 1e12:.2f} TFLOP a picture")
for name, pictures in (("learning", 100_000 * 4 * 2), ("thetas", 1_000 * 300)):
    hours = pictures * flops / 1e14 / 3600
    print(f"{name:9s}{pictures * flops / 1e18:5.2f} EFLOP: {hours:.1f} hours "
          "on a GPU that does 100 TFLOP a second")

# %% [markdown]
# Hours. It is paid once, for everyone who comes after.
#
# The tiny world's network was learned from about four thousand people, in four pictures each, and its file has the history of that: the
# noise loss on 100 other people's pictures, as a share of what the unchanged model has. Before you run it: the model knows faces already.
# Where would the curve stay if the network learned what faces look like, and not whose?

# %%
history = torch.tensor(json.loads(load_metadata(HYPERNETWORK)["history"]))
plt.figure(figsize=(6, 3))
plt.plot(history[:, 0], history[:, 4], "o-")  # the step, the share
plt.axhline(1, ls=":")
plt.xlabel("step")
plt.title("strangers' noise loss / the unchanged model's");

# %% [markdown]
# Near 1. Below it lies what the network sees in *one* picture of a stranger that helps with *another*. It looks like little: most of the
# noise loss is about noise that nobody could predict, and about the place behind the person.
#
# Now its guess for our face: a row for each of the tiny model's layers, 100 numbers for A_train and 50 for B_train. Will all layers be
# changed alike?

# %%
network, lidb = load_hypernetwork(HYPERNETWORK, sd, cfg), sd.lidb

@torch.no_grad()
def guess(*pictures):
    mean, _ = sd.encode(pictures)
    return network(mean.to(sd.device) * sd.vae.config.scaling_factor)

[theta] = guess(photo)
limit = 3 * theta.std().item()
plt.figure(figsize=(9, 3))
plt.imshow(theta.cpu(), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
plt.xlabel("A_train (100), B_train (50)")
plt.ylabel("layer")
for part, kind in KINDS.items():
    rows = [i for i, name in enumerate(lidb.layers) if part in name]
    print(f"theta's typical size, {kind}: {theta[rows].std():.3f}")

# %% [markdown]
# No: nobody told the network which layers to write, and it has written strongly in some and left others nearly alone.
#
# Does it describe the person, or the picture? Take 24 strangers in two pictures each, and compare the guesses of the first with those of
# the second: the cosine of what sets them apart from the mean of all. Six of them are shown, a row for each. Predict the diagonal.

# %%
import torch.nn.functional as F
from tiny_world.draw import draw
from tiny_world.subjects import view

people = [[draw(view("face", 300 + n, i)) for n in range(24)] for i in range(2)]
first, second = (guess(*views).flatten(1).cpu() for views in people)
mean = torch.cat([first, second]).mean(0)
table = F.normalize(first - mean, dim=1) @ F.normalize(second - mean, dim=1).T
for cosines in table[:6, :6].tolist():
    print("  ".join(f"{cosine:5.2f}" for cosine in cosines))
found = (table.argmax(1) == torch.arange(24)).sum().item()
print(f"{found} of 24 second pictures are found by the guess for the first")
rows = [("six strangers", people[0][:6]), ("the same, seen again", people[1][:6])]
sheet(rows, cell=96)

# %% [markdown]
# The person. On the diagonal, where both pictures are of one, the cosines are high, whatever stands behind; elsewhere they are anything,
# and high again only where two people are alike.
#
# What are these weights worth? The noise loss of the second pictures with weights guessed from the first, from someone else's, and with
# the mean of everyone's. Which of the three are better than no change, which is 1?

# %%
thetas = guess(*people[0])
latents = sd.encode(people[1])[0] * sd.vae.config.scaling_factor

@torch.no_grad()
def loss(theta):
    chances = [torch.Generator().manual_seed(seed) for seed in range(2 if FAST else 10)]
    return sum(loss_with_theta(sd, cfg, theta, latents, chance) for chance in chances)

nothing = loss(0 * thetas)
for name, given in (("one's own", thetas), ("the neighbour's", thetas.roll(1, 0)),
                    ("the mean", thetas.mean(0).expand_as(thetas))):
    print(f"{name:16s} {loss(given) / nothing:.3f} of the loss with no change")

# %% [markdown]
# One's own alone. The neighbour's does harm, and the mean of all is no help: what the guess is worth, it is worth for one person.
#
# Now what it draws, before any training for this person; and then the fast finetuning, a few steps on the one picture. What will the steps
# add, and what will they take along?

# %%
def show(added, prompt, images=2):
    lidb.added = added
    how = {"steps": cfg.sampling_steps, "sampler": "dpm++", "seed": 1}
    return sd.sample(prompt, images=images, **how)

lidb.added = [lidb.factors(theta)]
for log in train(sd, cfg, [photo]):  # puts a LoRA beside the guess
    pass
finetuned, rows = lidb.added, [("the one picture", [photo])]
title = f"the model | the guess | {cfg.steps} steps of finetuning"
for prompt in (*(text.format("sks face") for text in PROMPTS), "a sks face"):
    guessed = show(finetuned[:1], prompt)
    row = [*show([], prompt), None, *guessed, None, *show(finetuned, prompt)]
    rows.append((f'"{prompt}": {title}', row))
if not FAST:
    sheet(rows).save("../figures/hyperdreambooth.jpg")
sheet(rows, cell=80)

# %% [markdown]
# The guess has the colours and the hair, in any place that is asked for. The steps bring the person nearer, and the picture with it: they
# know only this one, so where no place is named, what stood behind the person may come back. More steps would bring more of both; so
# they are few.
#
# Two people are two points in the space of weights, and between them lie weights too. Predict: from one to the other, with the same noise
# in every column, are there whole faces on the way, or two faces over one another?

# %%
def show_theta(theta):
    return show([lidb.factors(theta)], "a sks face", images=1)[0]

one, other = guess(people[0][0], people[0][1])
between = [show_theta(torch.lerp(one, other, i / 5)) for i in range(6)]
row = [people[0][0], None, *between, None, people[0][1]]
sheet([("one person; from the one's weights to the other's; the other", row)], cell=96)

# %% [markdown]
# Whole faces, of people who do not exist; what differs between the two passes over from column to column.
#
# theta is a change, so it can be taken in smaller and larger doses. Predict half of the guess, and three times the guess: a caricature of
# the person, or something else?

# %%
doses = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
title = ", ".join(f"{dose:g}" for dose in doses) + " times the guess"
sheet([(title, [show_theta(dose * theta) for dose in doses])], cell=96)

# %% [markdown]
# Up to 1 the person comes. Somewhere beyond, the face comes apart, and at three times there is none left: no caricature. A layer's change
# is a product, A times B, and the dose moves both: three times theta is another change, not three times the same. And no training ever
# went there.
#
# Where it fails. The network was shown upright faces in photos and nothing else. A face on its head, a drawn one, a cat and a teapot: what
# will it write for those? Will it say that it does not know?

# %%
sketch = draw(replace(view("face", 300, 0), style="pencil sketch"))
others = [load_pictures(SUBJECTS / name)[0] for name in ("cat", "teapot")]
row = []
for picture in (photo.rotate(180), sketch, *others):
    row += [picture, show_theta(guess(picture)[0]), None]
sheet([("what it is given, and what its weights draw", row)], cell=96)

# %% [markdown]
# It answers every picture, and never with a doubt: nothing in a guess says "this is no face". What it takes from such a picture are
# colours, whatever they are of, and it makes a person of them.
#
# And among faces? Six strangers, sorted by how alike the judge finds them after the finetuning: 0 is another person, 1 is the person drawn
# again. Where the likeness is low, look for what is missing. Large things or small ones?

# %%
from measure import draw_stranger, make_scale
from tiny_world.judge import Judge
judge, prompts = Judge.load(), ["a sks face", "a sks face in the snow"]

def meet(number):
    """A stranger: the likeness of the guess and of the result, and the pictures."""
    who = draw_stranger(number, Path(cfg.out))
    model, *rest = prepare(replace(cfg, images=str(who.photos), seed=number))
    how = {"steps": cfg.sampling_steps, "sampler": "dpm++", "seed": 1000 + number}
    guessed = model.sample(prompts, **how)
    for log in train(model, *rest):
        pass
    result = model.sample(prompts, **how)
    scale = make_scale(judge, who.who)
    likeness = [scale.likeness(judge.vectors(drawn)) for drawn in (guessed, result)]
    return likeness, [*load_pictures(who.photos), None, *guessed, None, *result]

print("asked for:", *prompts, sep="\n")

# %%
met = [meet(number) for number in range(100, 101 if FAST else 106)]
met.sort(key=lambda one: one[0][1], reverse=True)
sheet([(f"the picture | the guess, {first:.2f} | {cfg.steps} steps, {then:.2f}", row)
       for (first, then), row in met], cell=80)

# %% [markdown]
# Small ones. Large areas of one colour, skin and hair and shirt, are in most guesses; and where a guess goes astray altogether, as one does
# here, the steps find the person still. What is small, or what few people have, is a few pixels of the noise loss: the steps bring some
# of it (the eyes first), and some they do not find. Twenty strangers, with intervals and beside
# the other methods, are in RESULTS.md (`compare.py --faces 20`).
#
# ## Exercises
#
# Fill in the answers and run both cells.
#
# 1. How many bytes is LiDB of the tiny model in float32? (Its layers are `lidb.layers`.)
# 2. After the fast finetuning a layer has a change of rank 1 and one of rank 4 beside it. As one LoRA, of which rank is that?
# 3. Multiply A_train and B_train of a layer by -1 each. What changes in the picture?
# 4. Triple B_train's numbers in theta, and leave A_train's. How many times as large is each layer's change?

# %%
bytes_of_lidb = None
rank_of_the_sum = None
what_changes = None        # "nothing" or "everything"
times_as_large = None

given = (bytes_of_lidb, rank_of_the_sum, what_changes, times_as_large)
print(f"{sum(answer is not None for answer in given)} of {len(given)} answered")

# %%
louder = theta.clone()
louder[:, lidb.a:] *= 3
A, B = next(iter(lidb.factors(theta).values()))
A_louder, B_louder = next(iter(lidb.factors(louder).values()))
change, mirrored, larger = A @ B, -A @ -B, A_louder @ B_louder
down, up = next(iter(merge_factors(finetuned).values()))
checks = {
    "bytes_of_lidb": lambda answer: answer == theta.float().nbytes,
    "rank_of_the_sum": lambda answer: answer == len(down),
    "what_changes": lambda answer: answer == (
        "nothing" if torch.equal(change, mirrored) else "everything"),
    "times_as_large": lambda answer: torch.allclose(answer * change, larger, rtol=1e-3),
}
for (question, is_right), answer in zip(checks.items(), given):
    verdict = "right" if answer is not None and is_right(answer) else "try again"
    print(f"{question}: {'not answered yet' if answer is None else verdict}")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `len(lidb.layers) * 150 * 4`
# 2. 5: ranks add up.
# 3. Nothing: the product is the same. So no theta is the only right one, and how far a guess is from one that was found says little.
# 4. 3. (The dose of three above triples A_train's numbers too, and then the change is no multiple of the old one any more.)
#
# </details>
