# %% [markdown]
# # What a denoiser does
#
# Diffusion has one idea: **if you can remove a little noise, you can make pictures from nothing but noise.** Before any network, we
# look at the best denoiser there can be, for data so small that it can be written down in four lines. By the end you can say why
# walking noise down step by step ends on data, and why the best possible denoiser is useless.

# %%
import os
import sys

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import torch

from ddpm import SAMPLERS, Schedule, ScheduleConfig
from pictures import load_pictures, sheet, to_images, to_tensor
from stable_diffusion import SUBJECTS, TINY, StableDiffusion

torch.set_grad_enabled(False)  # nothing is trained here

FAST = "FAST" in os.environ
schedule = Schedule(ScheduleConfig(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))
print("T =", schedule.T, "  alpha_bar from", round(schedule.alpha_bar[0].item(), 4), "to", round(schedule.alpha_bar[-1].item(), 4))

# %% [markdown]
# Our whole world, for now: three points in the plane. That is the data. Noise them, x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps:
# what will the cloud look like at t = 100, 400 and 999?

# %%
data = torch.tensor([[-1.5, -0.5], [0.2, 1.4], [1.4, -0.8]])
g = torch.Generator().manual_seed(0)
fig, axes = plt.subplots(1, 4, figsize=(10, 2.6), sharex=True, sharey=True)
for ax, t in zip(axes, (0, 100, 400, 999)):
    x_0 = data[torch.randint(3, (600,), generator=g)]
    x_t = schedule.add_noise(x_0, torch.randn(600, 2, generator=g), torch.full((600,), t))
    ax.scatter(*x_t.T, s=2), ax.set_title(f"t = {t}")

# %% [markdown]
# Given a noisy x_t, where did it come from? Bayes answers for a finite data set: each point x_i is as likely as its noisy self comes
# close to x_t, and the best guess of x_0 is the mean of the points with those weights.

# %%
def ideal(data):
    """The best possible denoiser of a finite data set: denoise(x, t) -> eps."""
    flat = data.flatten(1)
    def denoise(x, t):
        signal, noise = schedule.alpha_bar[t].sqrt(), (1 - schedule.alpha_bar[t]).sqrt()
        distance = ((x.flatten(1)[:, None] - signal * flat) ** 2).sum(-1)         # (b, points)
        weights = (-distance / (2 * noise ** 2)).softmax(dim=1)
        x_0 = (weights @ flat).view_as(x)
        return (x - signal * x_0) / noise
    return denoise

print(ideal(data)(torch.tensor([[0.0, 0.0]]), 999))

# %% [markdown]
# Ask it everywhere: from each place an arrow to the guess of x_0. With much noise (left) every guess is nearly the mean of the data;
# with little noise (right) it is the nearest point. **That is all the steps there are between noise and data.**

# %%
places = torch.stack(torch.meshgrid(torch.linspace(-2.5, 2.5, 13), torch.linspace(-2.2, 2.2, 11), indexing="xy"), -1).view(-1, 2)
fig, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
for ax, t in zip(axes, (950, 500, 100)):
    x_0, _ = schedule.split(places, ideal(data)(places, t), t)
    ax.quiver(*places.T, *(x_0 - places).T, angles="xy", scale_units="xy", scale=4, width=0.004)
    ax.scatter(*data.T, c="red", zorder=3), ax.set_title(f"t = {t}")

# %% [markdown]
# Now walk. DDIM starts at pure noise and takes 50 steps, each a little towards the guess. Where will 40 walks end?

# %%
x, path = torch.randn(40, 2, generator=g), []
for t, x, x_0 in SAMPLERS["ddim"](schedule, ideal(data), x, 50):
    path.append(x)
path = torch.stack(path)
plt.figure(figsize=(4.5, 3.2))
plt.plot(path[..., 0], path[..., 1], lw=0.6), plt.scatter(*data.T, c="red", zorder=3)
print("farthest end from any data point:", torch.cdist(path[-1], data).min(1).values.max().item())

# %% [markdown]
# All of them on the data. The same with pictures: now the data are four photos, each a point with 12,288 coordinates. A photo drowns,
# and below is what the ideal denoiser sees in it. At which t does it stop being sure?

# %%
photos = load_pictures(SUBJECTS / "cat")
x_0 = torch.stack([to_tensor(photo) for photo in photos])
times, eps = (0, 300, 600, 800, 900, 960, 999), torch.randn(1, 3, 64, 64, generator=g)
noisy = [schedule.add_noise(x_0[:1], eps, torch.tensor([t])) for t in times]
guess = [schedule.split(x, ideal(x_0)(x, t), t)[0] for x, t in zip(noisy, times)]
sheet([("the photo at t = " + ", ".join(map(str, times)), to_images(torch.cat(noisy))), ("what it sees", to_images(torch.cat(guess)))], cell=96)

# %% [markdown]
# It is never unsure: in 12,288 dimensions four photos are so far apart that a trace of one is enough. So from pure noise, where will
# the walk go?

# %%
x, steps = torch.randn(4, 3, 64, 64, generator=g), []
for t, x, belief in SAMPLERS["ddim"](schedule, ideal(x_0), x, 10):
    steps.append(to_images(x))
sheet([(f"walk {i + 1}", [pictures[i] for pictures in steps]) for i in range(4)], cell=48)

# %% [markdown]
# To a photo that we already had. **The best possible denoiser can only repeat its data.** What makes diffusion useful is that a network
# is *not* that denoiser: it has to do with 6 million numbers what the ideal one does by looking everything up, so it learns what
# cats have in common. The same noise, ten steps, with the network of the tiny world:

# %%
sd = StableDiffusion.from_pretrained(TINY)
how = dict(images=4, steps=2 if FAST else 10, sampler="ddim", seed=3)
beliefs = [z_0 for t, z, z_0 in sd.walk("a photo of a cat", **how)]
sheet([(f"walk {i + 1}: what the network believes x_0 to be", [to_images(sd.decode(z[i:i + 1]))[0] for z in beliefs]) for i in range(4)], cell=80)

# %% [markdown]
# None of these cats was ever drawn.
#
# ## Exercises
#
# 1. With three points, the guess at t = 999 from anywhere is nearly one place. Which?
# 2. The walk has 50 steps over T = 1000. How far apart are two times of DDIM?
# 3. How many pictures can the ideal denoiser of four photos make?

# %%
place_at_999 = None   # a tensor of two numbers
stride = None
pictures = None

far = schedule.split(torch.zeros(1, 2), ideal(data)(torch.zeros(1, 2), 999), 999)[0][0]
if place_at_999 is not None: assert (torch.as_tensor(place_at_999) - far).abs().max() < 0.1
if stride is not None: assert stride == 20
if pictures is not None: assert pictures == 4
print("answered:", [a for a in (place_at_999, stride, pictures) if a is not None])

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `data.mean(0)`, about (0.03, 0.03): with so much noise every point is equally likely.
# 2. 20.
# 3. 4: the photos themselves.
#
# </details>
