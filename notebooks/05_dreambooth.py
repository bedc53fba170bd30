# %% [markdown]
# # DreamBooth: teach a model one new subject
#
# ![](dreambooth.jpg)
#
# Top: the photos. Below: the same words before and after training. By the end you can say why one rare word is enough to
# name a new cat, what the second half of the loss is for, and what happens without it.
#
# Everything runs on a laptop's CPU, on the tiny world's model. The code is `dreambooth.py`; nothing here is a copy of it.

# %%
import inspect
import os
import sys
from dataclasses import replace

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import torch

import dreambooth
from dreambooth import PROMPTS, Config, StableDiffusion, class_latents, square, to_tensor, train
from stable_diffusion import to_images
from tiny_world import SUBJECTS, sheet

FAST = "FAST" in os.environ  # the tests run this notebook in a minute; what they draw is not worth looking at
cfg = Config(steps=4 if FAST else 300, class_images=4 if FAST else 64, sampling_steps=3 if FAST else 25, out="../runs/notebook")
print(cfg.steps, "steps of", cfg.lr or "the table's learning rate")

# %% [markdown]
# Who is to be learned? Four photos of one cat that the model never saw. What do they have in common, and what is chance?

# %%
photos = dreambooth.load_pictures(SUBJECTS / "cat")
sheet([("the subject", photos)])

# %% [markdown]
# The model's weights can only be told apart from the cat by a **word** that calls it. Which word is free? One that means nothing
# yet. Predict: what will the untrained model draw for "a sks cat": one cat, or any cat?

# %%
sd = StableDiffusion.from_pretrained(cfg.model)
draw = lambda sd, prompt, n=6: sd.sample(prompt, images=n, steps=cfg.sampling_steps, sampler="dpm++", seed=1)
sheet([(prompt, draw(sd, prompt)) for prompt in ("a photo of a cat", "a photo of a sks cat")])

# %% [markdown]
# Any cat: `sks` changes next to nothing. It is one token of the vocabulary, with a vector that no caption ever trained.

# %%
print("sks ->", sd.tokenizer.encode("sks"), "   cat ->", sd.tokenizer.encode("cat"))

# %% [markdown]
# What moves in training? Not the VAE; the UNet always, and on the tiny world the text encoder too. Predict the number of trained
# parameters before you run the cell: is it closer to 7 thousand, 7 million or 860 million?

# %%
settled = dreambooth.settle(cfg, sd)
count = lambda *modules: sum(p.numel() for module in modules for p in module.parameters())
print(f"{count(sd.unet, *[sd.text] * settled.train_text_encoder):,} trained | VAE {count(sd.vae):,} frozen")

# %% [markdown]
# The subject's photos alone would teach that *every* cat is this cat. So the model first draws some of its own cats: the prior,
# what it must not forget. Here are a few, decoded from the latents that the loss will see.

# %%
with torch.no_grad():
    prior = class_latents(sd, settled)
    drawn = to_images(sd.decode(prior[:8]))
sheet([("class pictures, drawn by the frozen model", drawn)])

# %% [markdown]
# The whole method is one function. Where is the subject's half, where the prior's, and where is lambda?

# %%
print(inspect.getsource(dreambooth.dreambooth_loss))

# %% [markdown]
# Train twice: with the prior's half, and without it (`prior_weight=0`). Same steps. Which run will have the lower loss on the subject?

# %%
runs = {}
for weight in (1.0, 0.0):
    losses = []
    for trained, log in train(replace(cfg, prior_weight=weight)):
        losses += [log["subject"]] if log["step"] else []
    runs[weight] = trained, losses
    print(f"lambda = {weight}: last loss on the subject {sum(losses[-20:]) / len(losses[-20:]):.4f}")

# %% [markdown]
# The raw loss jumps with the t that was drawn; smoothed over 20 steps it falls in both runs. The one without the prior has nothing
# else to please.

# %%
for weight, (_, losses) in runs.items():
    smooth = [sum(losses[max(0, i - 20):i + 1]) / len(losses[max(0, i - 20):i + 1]) for i in range(len(losses))]
    plt.plot(smooth, label=f"lambda = {weight}")
plt.xlabel("step"), plt.ylabel("loss on the subject"), plt.legend(), plt.gcf().set_size_inches(6, 2.5);

# %% [markdown]
# Did it learn the cat, or only the photos? Put it where no photo shows it, change its colour, dress it.

# %%
rows = [(prompt.format("sks cat"), draw(sd, prompt.format("sks cat"), 3) + [None] + draw(runs[1.0][0], prompt.format("sks cat"), 3))
        for prompt in PROMPTS]
result = sheet([("the subject", photos)] + rows)
result.save("dreambooth.jpg") if not FAST else None
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
    t, g = torch.arange(25, 1000, 50), torch.Generator().manual_seed(9)
    eps = torch.randn((len(t), len(z), *z.shape[1:]), generator=g)
    words = model.read([prompt]).expand(len(z), -1, -1)
    return sum(((model.unet(model.schedule.add_noise(z, e, i.expand(len(z))), i.expand(len(z)), words)
                 - model.schedule.target(z, e, i.expand(len(z)))) ** 2).mean().item() for i, e in zip(t, eps)) / len(t)

mine = sd.encode(torch.stack([to_tensor(square(photo, sd.size)) for photo in photos]), torch.Generator().manual_seed(0)).detach()
for name, model in (("before", sd), ("lambda = 1", runs[1.0][0]), ("lambda = 0", runs[0.0][0])):
    print(f"{name:12s} subject {error(model, mine, 'a photo of a sks cat'):.4f}   class {error(model, prior, 'a photo of a cat'):.4f}")

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
