# %% [markdown]
# # Noise: how it comes, and three ways for it to go
#
# `ddpm.py` has the noise schedule, the target that the network is trained on, and three samplers. By the end you can say what a
# timestep is, what the network is asked at each of them, which of them are hard, and why 20 steps can do what 1000 did.

# %%
import os
import sys

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import numpy as np
import torch

from pictures import sheet, to_images, to_tensor
from stable_diffusion import TINY, StableDiffusion
from tiny_world.draw import draw
from tiny_world.world import caption, random_scene

torch.set_grad_enabled(False)  # nothing is trained here
FAST = "FAST" in os.environ
sd = StableDiffusion.from_pretrained(TINY)
schedule = sd.schedule
print(schedule.config)

# %% [markdown]
# Two curves say everything: how much of the picture is left at t, and how much noise there is. Before you look: at which t are they
# equal, in the middle of 0 .. 999 or elsewhere?

# %%
signal, noise = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
plt.figure(figsize=(6, 2.4))
plt.plot(signal, label="sqrt(alpha_bar): the picture"), plt.plot(noise, label="sqrt(1 - alpha_bar): the noise")
plt.legend(), plt.xlabel("t")
print("equal at t =", (signal - noise).abs().argmin().item())

# %% [markdown]
# A picture drowns. The model works on latents (see the notebook on the VAE), so the latent drowns, and we decode what is left. When
# can you no longer tell what it was? That t is where the words of the prompt will have to decide.

# %%
scene = random_scene(np.random.default_rng(12))
x = to_tensor(draw(scene))[None]
z_0 = sd.draw_latents(*sd.vae.encode(x), torch.Generator().manual_seed(0))
g = torch.Generator().manual_seed(1)
times = (0, 100, 200, 350, 500, 650, 800, 999)
eps = torch.randn(z_0.shape, generator=g)
drowned = [sd.decode(schedule.add_noise(z_0, eps, torch.tensor([t]))) for t in times]
sheet([("t = " + ", ".join(map(str, times)), to_images(torch.cat(drowned)))])

# %% [markdown]
# Check eq. 4 of DDPM by counting: 10,000 noisings of the number 3 at t = 500 should have mean 3 sqrt(alpha_bar) and variance
# 1 - alpha_bar.

# %%
t, many = torch.full((10_000,), 500), torch.full((10_000, 1), 3.0)
x_t = schedule.add_noise(many, torch.randn(10_000, 1, generator=g), t)
print("mean     expected", round(3 * signal[500].item(), 3), "  counted", round(x_t.mean().item(), 3))
print("variance expected", round(1 - schedule.alpha_bar[500].item(), 3), "  counted", round(x_t.var().item(), 3))

# %% [markdown]
# What is the network asked? To name the noise (eps) or, as here, v: a mixture of noise and picture. From either, x_0 can be computed.
# So here is the network's belief about x_0 from each of those noisy latents. It is told the caption.

# %%
text = caption(scene, np.random.default_rng(2))
words, beliefs = sd.read([text]), []
for t in times:
    z_t = schedule.add_noise(z_0, eps, torch.tensor([t]))
    beliefs.append(sd.decode(schedule.split(z_t, sd.unet(z_t, torch.tensor([t]), words), t)[0]))
sheet([(f'what the network sees in them, told "{text}"', to_images(torch.cat(beliefs)))])

# %% [markdown]
# Blurred where it cannot know: the best guess under squared error is the mean of all that is possible. How large is the error at each
# noise level, with the caption and without? Guess first at which t the caption helps most.

# %%
n = 16 if FAST else 96
scenes = [random_scene(np.random.default_rng([7, i])) for i in range(n)]
texts = [caption(s, np.random.default_rng(i)) for i, s in enumerate(scenes)]
z = sd.draw_latents(*sd.encode([draw(s) for s in scenes]), g)
told, untold, curve = sd.read(texts), sd.read([""]).expand(n, -1, -1), {"told": [], "untold": []}
for t in range(50, 1000, 100):
    at, e = torch.full((n,), t), torch.randn(z.shape, generator=g)
    z_t, target = schedule.add_noise(z, e, at), schedule.target(z, e, at)
    for name, w in (("told", told), ("untold", untold)):
        curve[name].append(((sd.unet(z_t, at, w) - target) ** 2).mean().item())
plt.figure(figsize=(6, 2.4))
for name, errors in curve.items(): plt.plot(range(50, 1000, 100), errors, "o-", label=name)
plt.legend(), plt.xlabel("t"), plt.ylabel("squared error of v");

# %% [markdown]
# The error of a training step is mostly a matter of which t was drawn: that is why raw diffusion losses jump, and why one looks at them by
# noise level. The words help where the picture has drowned.
#
# Backward now. Three samplers ask the same network. The same seed, more and more steps: which one needs how many?

# %%
rows = []
for sampler in ("ddpm", "ddim", "dpm++"):
    counts = (2, 3) if FAST else (3, 6, 10, 20, 50)
    rows.append((f"{sampler}: {', '.join(map(str, counts))} steps",
                 [sd.sample("a red teapot on the beach", steps=s, sampler=sampler, seed=4)[0] for s in counts]))
sheet(rows)

# %% [markdown]
# `ddim` and `dpm++` follow the same path to the same picture, `dpm++` with fewer stops; `ddpm` throws fresh dice at each step and ends
# elsewhere. Along the way the sampler holds two things, x_t and its belief about x_0:

# %%
path = list(sd.walk("a dog wearing a santa hat in the snow", steps=4 if FAST else 24, sampler="ddim", seed=1))
some = path[::max(1, len(path) // 8)]
sheet([("x_t", [to_images(sd.decode(z))[0] for t, z, _ in some]), ("its belief about x_0", [to_images(sd.decode(z_0))[0] for t, _, z_0 in some])])

# %% [markdown]
# ## Exercises
#
# 1. alpha_bar is a product. Of what? Compute alpha_bar at t = 2 from the betas: they run from sqrt(0.00085) to sqrt(0.012) evenly,
#    squared.
# 2. Which times does `schedule.timesteps(4, "trailing")` visit?
# 3. From x_t and v, what is x_0? Write it with `signal` and `noise`, and test it at t = 300.

# %%
alpha_bar_2 = None
four_times = None
x_0_of = None         # a function of x_t, v and t

beta = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000) ** 2
if alpha_bar_2 is not None: assert abs(alpha_bar_2 - schedule.alpha_bar[2].item()) < 1e-6
if four_times is not None: assert list(four_times) == schedule.timesteps(4, "trailing")
if x_0_of is not None:
    at = torch.tensor([300])
    assert torch.allclose(x_0_of(schedule.add_noise(z_0, eps, at), schedule.target(z_0, eps, at), 300), z_0, atol=1e-4)
print("answered:", sum(a is not None for a in (alpha_bar_2, four_times, x_0_of)), "of 3")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `(1 - beta[:3]).prod().item()`
# 2. `[999, 749, 499, 249]`
# 3. `lambda x_t, v, t: signal[t] * x_t - noise[t] * v`
#
# </details>
