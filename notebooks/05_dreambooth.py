# %% [markdown]
# # DreamBooth: teach a model one new subject
#
# ![](../figures/dreambooth.jpg)
#
# Top: the photos. Below: the same words before and after training. By the end you can say why one rare word is enough to
# name a new cat, what the second half of the loss is for, and what happens without it.
#
# Everything runs on a laptop's CPU, on the tiny world's model. The code is `dreambooth.py`; nothing here is a copy of it.

# %%
import inspect, os, sys
from dataclasses import replace

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import torch

import dreambooth
from dreambooth import PROMPTS, Config, draw_class_latents, prepare, train
from pictures import sheet, square, to_images

FAST = "FAST" in os.environ  # the tests run this notebook in a minute; what they draw is not worth looking at
cfg = Config(out="../runs/notebook")
if FAST:
    cfg = replace(cfg, steps=4, class_images=4, sampling_steps=3)
sd, cfg, photos = prepare(cfg)
print(f"{cfg.steps} steps of {cfg.batch_size} photos at a learning rate of {cfg.lr}")

# %% [markdown]
# Who is to be learned? Four photos of one cat that the model never saw. What do they have in common, and what is chance?

# %%
sheet([("the subject", photos)])

# %% [markdown]
# The model's weights can only be told apart from the cat by a **word** that calls it. Which word is free? One that means nothing
# yet. Predict: what will the untrained model draw for "a sks cat": one cat, or any cat?

# %%
def draw(sd, prompt, n=6):
    return sd.sample(prompt, images=n, steps=cfg.sampling_steps, sampler="dpm++", seed=1)

sheet([(prompt, draw(sd, prompt)) for prompt in ("a photo of a cat", "a photo of a sks cat")])

# %% [markdown]
# Any cat: `sks` changes next to nothing. It is one token of the vocabulary, with a vector that no caption ever trained.

# %%
print("sks ->", sd.tokenizer.encode("sks"), "   cat ->", sd.tokenizer.encode("cat"))

# %% [markdown]
# What moves in training? Not the VAE; the UNet always, and on the tiny world the text encoder too. Predict the number of trained
# parameters before you run the cell: is it closer to 7 thousand, 7 million or 860 million?

# %%
def count(network):
    return sum(p.numel() for p in network.parameters())

print(f"{count(sd.unet) + count(sd.text):,} trained | VAE {count(sd.vae):,} frozen")

# %% [markdown]
# The subject's photos alone would teach that *every* cat is this cat. So the model first draws some of its own cats: the prior,
# what it must not forget. Here are a few, decoded from the latents that the loss will see.

# %%
with torch.no_grad():
    prior = draw_class_latents(sd, cfg)
    drawn = to_images(sd.decode(prior[:8]))
sheet([("class pictures, drawn by the frozen model", drawn)])

# %% [markdown]
# The whole method is one function. Where is the subject's half, where the prior's, and where is lambda?

# %%
print(inspect.getsource(dreambooth.dreambooth_loss))

# %% [markdown]
# Train twice: with the prior's half, and without it (`prior_weight=0`). Same steps. Which run will have the lower loss on the subject,
# and by how much?

# %%
runs = {}
for weight in (1.0, 0.0):
    trained, *rest = prepare(replace(cfg, prior_weight=weight))
    losses = [log["subject"] for log in train(trained, *rest)]
    runs[weight] = trained, losses
    print(f"lambda = {weight}: last loss on the subject {sum(losses[-20:]) / len(losses[-20:]):.4f}")

# %% [markdown]
# Hardly a difference: the class pictures cost the subject next to nothing. The raw loss jumps with the t that was drawn; smoothed over 20
# steps it falls in both runs.

# %%
for weight, (_, losses) in runs.items():
    windows = [losses[max(0, i - 20):i + 1] for i in range(len(losses))]
    plt.plot([sum(window) / len(window) for window in windows], label=f"lambda = {weight}")
plt.xlabel("step"), plt.ylabel("loss on the subject"), plt.legend(), plt.gcf().set_size_inches(6, 2.5);

# %% [markdown]
# Did it learn the cat, or only the photos? Put it where no photo shows it, change its colour, dress it.

# %%
rows = [("the subject", photos)]
for prompt in (prompt.format("sks cat") for prompt in PROMPTS):
    rows.append((prompt, [*draw(sd, prompt, 3), None, *draw(runs[1.0][0], prompt, 3)]))
result = sheet(rows)
if not FAST:
    result.save("../figures/dreambooth.jpg")
result

# %% [markdown]
# And now the question the second half of the loss is there for: **what is left of "a cat"?** Before training, after training with
# prior preservation, after training without. Every column starts from the same noise.

# %%
sheet([(f'"a photo of a cat", {name}', draw(model, "a photo of a cat", 8)) for name, model in
       (("before", sd), ("after, lambda = 1", runs[1.0][0]), ("after, lambda = 0", runs[0.0][0]))])

# %% [markdown]
# A number for it: the error on the class pictures, at all noise levels, on noise that no training step saw. How much of the
# class did each run forget?

# %%
@torch.no_grad()
def error(model, z, prompt):
    chance, errors = torch.Generator().manual_seed(9), []
    words = model.read([prompt]).expand(len(z), -1, -1)
    for t in range(25, 1000, 50):
        t, eps = torch.full((len(z),), t), torch.randn(z.shape, generator=chance)
        x_t = model.schedule.add_noise(z, eps, t).to(model.device)
        output = model.unet(x_t, t.to(model.device), words).cpu()
        errors.append(((output - model.schedule.target(z, eps, t)) ** 2).mean())
    return sum(errors) / len(errors)

squares = sd.encode([square(photo, sd.size) for photo in photos])
subject = sd.draw_latents(*squares, torch.Generator().manual_seed(0))
for name, model in (("before", sd), ("lambda = 1", runs[1.0][0]), ("lambda = 0", runs[0.0][0])):
    print(f"{name:12s} subject {error(model, subject, 'a photo of a sks cat'):.4f}   "
          f"class {error(model, prior, 'a photo of a cat'):.4f}")

# %% [markdown]
# ## Exercises
#
# 1. `square` cuts the middle out of a photo. How large is the middle of a 300 x 100 photo at size 50, before it is cut?
# 2. With batch size 4 and prior preservation, how many latents does the UNet see a step?
# 3. Make `forgotten` the ratio of the class error without prior preservation to that with it. Is it above 1?

# %%
before_the_cut = None
latents_a_step = None
forgotten = None

for name, answer, right in (("before_the_cut", before_the_cut, (150, 50)), ("latents_a_step", latents_a_step, 8)):
    print(name, "not answered yet" if answer is None else "right" if answer == right else "try again")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `(150, 50)`: the shorter side becomes 50.
# 2. 8: four of the subject and four of the class.
# 3. `error(runs[0.0][0], prior, "a photo of a cat") / error(runs[1.0][0], prior, "a photo of a cat")`
#
# </details>
