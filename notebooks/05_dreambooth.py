# %% [markdown]
# # DreamBooth: teach a model one new subject
#
# ![](../figures/dreambooth.jpg)
#
# Top: the photos. Below: the same words before and after training. By the end you can say why one rare word is enough to name a new cat,
# what the second half of the loss is for, what it costs, and what happens without it.
#
# Everything runs on a laptop's CPU, on the tiny world's model: two trainings of a minute or two. The code is `dreambooth.py`; nothing here
# is a copy of it.

# %%
import inspect, os, sys
from dataclasses import replace

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import numpy as np
import torch
import dreambooth
from dreambooth import PROMPTS, Config, draw_class_latents, prepare, train
from pictures import sheet, square, to_images

FAST = "FAST" in os.environ  # for the tests: pictures that are not worth looking at
few = {"steps": 4, "class_images": 4, "sampling_steps": 3} if FAST else {}
sd, cfg, photos = prepare(Config(out="../runs/notebook", **few))
print(f"{cfg.steps} steps, {cfg.batch_size} of the photos in each, "
      f"at a learning rate of {cfg.lr}")

# %% [markdown]
# Who is to be learned? Four photos of one cat that the model never saw. What do they have in common, and what is chance?

# %%
sheet([("the subject", photos)])

# %% [markdown]
# In common: orange with black spots, yellow eyes, a red collar. Chance: the street, the house, which way it looks. Nobody tells the
# model which is which.
#
# The new cat needs a **word** that calls it. A name of your own is no single word to the model: its tokenizer cuts what it does not know
# into pieces that it knows from elsewhere. Predict the number of tokens of each of these.

# %%
for word in ("cat", "whiskers", "sks"):
    print(f"{word:9s}", sd.tokenizer.encode(word))

# %% [markdown]
# `sks` is one token, and no caption ever used it: a word that is free. Predict: what does the untrained model draw for "a sks cat", one
# cat or any cat? Both rows begin with the same noise.

# %%
def sample(model, prompt, images):
    how = {"steps": cfg.sampling_steps, "sampler": "dpm++", "seed": 1}
    return model.sample(prompt, images=images, **how)

prompts = ("a photo of a cat", "a photo of a sks cat")
sheet([(prompt, sample(sd, prompt, 6)) for prompt in prompts], cell=96)

# %% [markdown]
# Any cat: `sks` changes next to nothing.
#
# What moves in training? Not the VAE; the UNet always, and on the tiny world the text encoder too. Of the text encoder's table only one
# row, the vector of `sks`. Before you run the cell: how many numbers are trained, closer to 16 thousand, 16 million or 860 million? And
# how many of them are the UNet's?

# %%
def count(network):
    return sum(weight.numel() for weight in network.parameters())

table = sd.text.table.weight
print(f"trained: the UNet's {count(sd.unet):,}, at a rate of {cfg.lr}")
print(f"         the text encoder's {count(sd.text) - table.numel():,}, at the same")
print(f"         the vector of sks, {table.shape[1]}, at {cfg.token_lr}")
print(f"frozen:  the other {len(table) - 1:,} words, and the VAE's {count(sd.vae):,}")

# %% [markdown]
# Millions of numbers for four photos, nearly all of them the UNet's. (860 million is the UNet of Stable Diffusion.) Why two rates? Adam
# moves each number by about its rate in a step. The vector of a word that meant nothing has a long way to go; networks that went as far
# would forget how to draw. With so many numbers the subject's photos alone would teach that *every* cat is this cat.
#
# So the model first draws some cats of its own: the prior, what it must not forget. How different from each other will they be?

# %%
with torch.no_grad():
    prior = draw_class_latents(sd, cfg)
    drawn = to_images(sd.decode(prior[:8]))
sheet([("class pictures, drawn by the frozen model", drawn)], cell=96)

# %% [markdown]
# As different as cats are in this world, in colour, pattern and place. This variety is what must not be lost.
#
# The whole method is one function. Where is the subject's half, where the prior's, and where is lambda?

# %%
print(inspect.getsource(dreambooth.dreambooth_loss))

# %% [markdown]
# `z` and `words` hold both halves, one behind the other, so that the UNet runs once; `chunk(2)` takes their errors apart; lambda is
# `prior_weight`. Each half is the ordinary loss of the model.
#
# Train twice: with the prior's half, and without it (`prior_weight=0`), the same number of steps. Predict which run will have the lower
# loss on the subject. Will its last steps tell?

# %%
runs, losses = {}, {}
for weight in (1.0, 0.0):
    trained, *rest = prepare(replace(cfg, prior_weight=weight))
    losses[weight] = [log["subject"] for log in train(trained, *rest)]
    runs[weight] = trained
    last = torch.tensor(losses[weight][-20:])
    print(f"lambda = {weight}: the subject's loss in the last {len(last)} steps "
          f"{last.min():.3f} to {last.max():.3f}, mean {last.mean():.3f}")

# %%
def smooth(values, width=20):
    """Of each value and those before it, the mean."""
    windows = [values[max(0, i + 1 - width):i + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]

plt.figure(figsize=(6, 2.5))
for weight, values in losses.items():
    plt.plot(smooth(values), label=f"lambda = {weight}")
plt.xlabel("step")
plt.ylabel("loss, mean of 20 steps")
plt.legend();

# %% [markdown]
# It falls in both runs. But the steps of one run differ from each other by more than the two means do: a step's loss says most of all
# which t was drawn. **No question is decided by the last steps of a training curve.**
#
# To decide it, ask both runs the same: the same pictures, the same noise, at all noise levels. The pictures are the photos, and eight
# others of the same cat that the tiny world draws for us and that no training has seen. On which of the two does the loss fall further?

# %%
@torch.no_grad()
def error(model, pictures, prompt):
    """The mean loss over noise levels, with noise that no training step saw."""
    mean, _ = model.encode([square(picture, model.size) for picture in pictures])
    z, errors = mean * model.vae.config.scaling_factor, []
    words = model.read([prompt]).expand(len(z), -1, -1)
    chance = torch.Generator().manual_seed(9)
    for t in range(25, 1000, 400 if FAST else 50):
        t, eps = torch.full((len(z),), t), torch.randn(z.shape, generator=chance)
        x_t = model.schedule.add_noise(z, eps, t).to(model.device)
        output = model.unet(x_t, t.to(model.device), words).cpu()
        errors.append(((output - model.schedule.target(z, eps, t)) ** 2).mean())
    return torch.stack(errors).mean().item()

print("before, on the photos:", round(error(sd, photos, "a photo of a sks cat"), 4))

# %%
from measure import draw_snapshot, shipped_subject

who, chance = shipped_subject("cat").who, np.random.default_rng(5)
others = [draw_snapshot(who, chance, i) for i in range(8)]
models = {"before": sd, "lambda = 1": runs[1.0], "lambda = 0": runs[0.0]}
pictures_of_it = {"its photos": photos, "other pictures of it": others}
for what, pictures in pictures_of_it.items():
    of_it = {name: error(model, pictures, "a photo of a sks cat")
             for name, model in models.items()}
    for name, value in of_it.items():
        share = value / of_it["before"]
        print(f"{what:22s}{name:12s}{value:.4f}, {share:.2f} times before")
sheet([("other pictures of the same cat", others)], cell=96)

# %% [markdown]
# On the photos the run without the prior has the lower loss: all its weights serve one cat, while the other run keeps many. So the prior
# has a price. And on other pictures of the same cat the loss does not fall at all! What the loss counts is mostly details, and the details
# that were learned are these photos' own.
#
# So did it learn the cat? Ask for pictures. Put it where no photo shows it, change its colour, dress it. Left before, right after the
# training with the prior. What will be behind the cat where the prompt names no place?

# %%
rows = [("the subject", photos)]
for prompt in (prompt.format("sks cat") for prompt in PROMPTS):
    rows.append((prompt, [*sample(sd, prompt, 3), None, *sample(runs[1.0], prompt, 3)]))
if not FAST:
    sheet(rows).save("../figures/dreambooth.jpg")
sheet(rows, cell=96)

# %% [markdown]
# In the snow it is this cat: a lower loss on new pictures was not needed for that, and a loss does not say whether a subject was learned.
# Where no place is named, a place of the photos may come along: it was in every lesson. And look hard at the purple one: how much of it
# is purple, and how much is still this cat? Likeness and obedience pull in two directions.
#
# Now the question that the second half of the loss is there for: **what is left of "a cat"?** Predict the three rows: before training,
# after training with prior preservation, after training without. Every column starts from the same noise.

# %%
prompt = "a photo of a cat"
rows = [(f'"{prompt}": {name}', sample(model, prompt, 8))
        for name, model in models.items()]
sheet(rows, cell=96)

# %% [markdown]
# Without the prior's half "a cat" has become this cat, in the places of its photos; that there are others is lost. With it there are
# still other cats, if not the same ones as before.
#
# A number for it: the same error as above, on sixteen *other* cats that the tiny world draws, and that neither run has seen.

# %%
from tiny_world.draw import draw
from tiny_world.subjects import view

cats = [draw(view("cat", 300 + i, 0)) for i in range(16)]
of_class = {name: error(model, cats, prompt) for name, model in models.items()}
for name, value in of_class.items():
    share = value / of_class["before"]
    print(f"other cats  {name:12s}{value:.4f}, {share:.2f} times before")
sheet([("eight of the other cats", cats[:8])], cell=96)

# %% [markdown]
# With the prior the loss on other cats stays near what it was; without, it rises far above. That is what the prior buys, for the price
# that you saw on the photos.
#
# ## Exercises
#
# Fill in the answers and run both cells.
#
# 1. With three photos a step (`batch_size=3`) and prior preservation, how many latents does the UNet see in a step?
# 2. Write the loss of a step as a function of its two parts and of lambda.
# 3. How many times as large is the loss on other cats after the run without the prior as after the run with it?

# %%
latents_a_step = None
loss_of = None             # a function: lambda subject, prior, weight: ...
times_as_large = None

given = (latents_a_step, loss_of, times_as_large)
print(f"{sum(answer is not None for answer in given)} of {len(given)} answered")

# %%
one = {"steps": 1, "batch_size": 3, "class_images": 3, "sampling_steps": 1}
model, *rest = prepare(Config(out="../runs/notebook_exercise", prior_weight=2.5, **one))
seen = []
count_them = lambda unet, inputs, output: seen.append(len(inputs[0]))
model.unet.register_forward_hook(count_them)
log = next(train(model, *rest))  # after the class pictures the last call is the step's
checks = {
    "latents_a_step": lambda answer: answer == seen[-1],
    "loss_of": lambda f: np.isclose(f(log["subject"], log["prior"], 2.5), log["loss"]),
    "times_as_large": lambda answer: np.isclose(
        answer * of_class["lambda = 1"], of_class["lambda = 0"], rtol=0.02),
}
for (name, is_right), answer in zip(checks.items(), given):
    verdict = "right" if answer is not None and is_right(answer) else "try again"
    print(f"{name}: {'not answered yet' if answer is None else verdict}")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. 6: three of the subject and three of the class.
# 2. `lambda subject, prior, weight: subject + weight * prior`
# 3. `of_class["lambda = 0"] / of_class["lambda = 1"]`
#
# </details>
