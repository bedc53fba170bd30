# %% [markdown]
# # What a denoiser does
#
# ![](../figures/denoiser.jpg)
#
# Two walks from noise to a picture. Above, the best denoiser there can be, with four photos to go by: it ends on one of the four. Below,
# the network of the tiny world: it ends on a cat of its own.
#
# Diffusion has one idea: **if you can remove a little noise, you can make pictures from nothing but noise.** Before any network, we
# look at the best denoiser for data so small that it can be written down in a few lines. By the end you can say why walking noise down
# step by step ends on data, why one large step does not, and why the best possible denoiser is useless.

# %%
import os, sys

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import numpy as np
import torch
from ddpm import SAMPLERS, Schedule, ScheduleConfig
from pictures import load_pictures, sheet, to_images, to_tensor
from stable_diffusion import SUBJECTS, TINY, StableDiffusion
from tiny_world.pretrain import Config as Pretraining

torch.set_grad_enabled(False)  # nothing is trained here
FAST = "FAST" in os.environ  # the tests' form: what it draws is not worth looking at
schedule = Schedule(ScheduleConfig(beta_start=0.00085, beta_end=0.012,
                                   beta_schedule="scaled_linear"))  # Stable Diffusion's
for t in (0, 100, 400, 999):
    signal, noise = schedule.signal_and_noise(torch.tensor([t]), torch.zeros(1))
    print(f"t = {t:3d}:  x_t = {signal.item():.3f} x_0 + {noise.item():.3f} eps")

# %% [markdown]
# That is all that "adding noise" is: at time t, so much of the picture x_0 and so much noise eps.
#
# Our whole world, for now: three points in the plane. Each of 600 samples is one of them, with noise. What will the cloud look like at
# these four times? At which of them can you still tell which point a sample came from?

# %%
data = torch.tensor([[-1.5, -0.5], [0.2, 1.4], [1.4, -0.8]])
g = torch.Generator().manual_seed(0)
fig, axes = plt.subplots(1, 4, figsize=(10, 2.6), sharex=True, sharey=True)
for ax, t in zip(axes, (0, 100, 400, 999)):
    x_0 = data[torch.randint(3, (600,), generator=g)]
    eps = torch.randn(600, 2, generator=g)
    x_t = schedule.add_noise(x_0, eps, torch.full((600,), t))
    ax.scatter(*x_t.T, s=2)
    ax.set_title(f"t = {t}")

# %% [markdown]
# At 100 you can tell; at 400 the three clouds are one, with a hint of corners; at 999 it is the same round cloud whatever the data were.
#
# Backward: given a noisy x_t, where did it come from? For a finite data set Bayes answers. Each data point is as likely as it explains
# x_t well, and the best guess of x_0, under squared error, is the mean of the points with these weights. Predict the guess for
# x_t = (0.8, -0.2) with little noise and with much.

# %%
def best_guess(x, t, data, schedule=schedule):
    """The mean of the data, each weighted by how well it explains x_t = x."""
    rows, flat = x.flatten(1), data.flatten(1)                    # (b, n), (points, n)
    signal, noise = schedule.signal_and_noise(torch.tensor([t]), rows)
    distance = ((rows[:, None] - signal * flat) ** 2).sum(-1)     # (b, points)
    weights = (-distance / (2 * noise ** 2)).softmax(dim=1)
    return (weights @ flat).view_as(x)

for t in (50, 400, 999):
    [[x, y]] = best_guess(torch.tensor([[0.8, -0.2]]), t, data).tolist()
    print(f"t = {t:3d}:  the guess is ({x:.2f}, {y:.2f})")

# %% [markdown]
# With little noise it is the nearest point. With much it is nearly the mean of the data, which is no data point at all.
#
# Now ask from everywhere: an arrow from each place towards the guess, a quarter of the way. Where will the arrows meet at t = 950, and
# where at 100?

# %%
columns, lines = torch.linspace(-2.5, 2.5, 13), torch.linspace(-2.2, 2.2, 11)
places = torch.cartesian_prod(columns, lines)                     # (143, 2)
fig, axes = plt.subplots(1, 3, figsize=(10, 3), sharey=True)
for ax, t in zip(axes, (950, 500, 100)):
    arrows = best_guess(places, t, data) - places
    ax.quiver(*places.T, *arrows.T, angles="xy", scale_units="xy", scale=4, width=0.004)
    ax.scatter(*data.T, c="red", zorder=3)
    ax.set_title(f"t = {t}")

# %% [markdown]
# On the left in the middle, on the right at the three points. So one large step from noise would land in the middle, where there is
# nothing. But **a little step is right**: as the noise falls, the middle falls apart into three, and each walk is drawn to one.
#
# A sampler does this: it starts at pure noise and takes 50 steps, each a little towards the guess. It wants the denoiser to name eps
# instead of x_0; either follows from the other. Where will 40 walks end, and how many at each point?

# %%
def ideal(data):
    """The best guess as a sampler asks for it: denoise(x, t) -> eps."""
    def denoise(x, t):
        signal, noise = schedule.signal_and_noise(torch.tensor([t]), x)
        return (x - signal * best_guess(x, t, data)) / noise
    return denoise

start = torch.randn(40, 2, generator=g)
walks = SAMPLERS["ddim"](schedule, ideal(data), start, 50)
path = torch.stack([start] + [x for t, x, x_0 in walks])          # (51, walks, 2)
plt.figure(figsize=(4.5, 3.2))
plt.plot(path[..., 0], path[..., 1], lw=0.6)
plt.scatter(*data.T, c="red", zorder=3)
distance, nearest = torch.cdist(path[-1], data).min(dim=1)
print("walks that ended at each point:", nearest.bincount(minlength=3).tolist())
print("farthest from its point:", distance.max().item())

# %% [markdown]
# All of them on the data, about a third at each point: three points, equally likely. The noise that a walk starts from decides which.
#
# The same with pictures. The data are four photos, each a point with 64 x 64 x 3 = 12,288 coordinates. One of them drowns, and below it
# is what the ideal denoiser sees. At which t will it stop being sure?

# %%
photos = torch.stack([to_tensor(photo) for photo in load_pictures(SUBJECTS / "cat")])
times, eps = (0, 300, 600, 800, 900, 960, 999), torch.randn(1, 3, 64, 64, generator=g)
noisy = [schedule.add_noise(photos[:1], eps, torch.tensor([t])) for t in times]
seen = [best_guess(x, t, photos) for x, t in zip(noisy, times)]
sheet([("the photo at t = " + ", ".join(map(str, times)), to_images(torch.cat(noisy))),
       ("what the ideal denoiser sees", to_images(torch.cat(seen)))], cell=96)

# %% [markdown]
# It is never unsure, where you have long been lost. In 12,288 dimensions four photos are so far apart that the trace of one that this
# schedule leaves at t = 999 is enough. (The tiny world's schedule leaves none there: exercise 4.)
#
# So from pure noise, which holds no photo, where will a walk go? Two walks of ten steps, and what the denoiser believes on the way:

# %%
start = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(8))
states = list(SAMPLERS["ddim"](schedule, ideal(photos), start, 10))
ideal_rows = []
for i in range(2):
    on_the_way = torch.stack([x[i] for t, x, x_0 in states])
    beliefs = torch.stack([x_0[i] for t, x, x_0 in states])
    ideal_rows += [(f"the ideal denoiser, walk {i + 1}: x_t", to_images(on_the_way)),
                   ("its belief about x_0", to_images(beliefs))]
sheet(ideal_rows, cell=56)

# %% [markdown]
# To photos that we already had. At first the belief may waver between two of them; then it is one, long before you see it in x_t. **The
# best possible denoiser can only repeat its data.**
#
# A network is *not* that denoiser. The tiny world's learned from hundreds of thousands of drawings, each a latent of some thousand numbers
# (see the notebook on the VAE). Has it room to keep them all? And what will it believe after its first step?

# %%
sd = StableDiffusion.from_pretrained(TINY)
latent = sd.unet.config.in_channels * sd.unet.config.sample_size ** 2
print(f"{sum(p.numel() for p in sd.unet.parameters()):,} numbers in the network,",
      f"{Pretraining().pictures * latent:,} in the latents of its drawings")
states = list(sd.walk("a photo of a cat", images=4, steps=2 if FAST else 10, seed=5))
network_rows = []
for i in range(4):
    beliefs = torch.stack([z_0[i] for t, z, z_0 in states])
    network_rows.append((f"the network, walk {i + 1}: its belief about x_0",
                         to_images(sd.decode(beliefs))))
sheet(network_rows, cell=72)

# %% [markdown]
# No room, by far. And a blur: the mean of all cats in all places. Then come the place and the large shapes, then the colours, the eyes
# last. It is the picture of the three points again: first the middle, then one of many. But this network cannot hold its data one by
# one, so it had to learn what cats have in common, and it ends on cats of its own. This project is about teaching it one more.
#
# Both once more, as the noise goes. Why does the start look different for the network?

# %%
on_the_way = torch.stack([z[0] for t, z, z_0 in states])
network_row = ("the network, walk 1: x_t", to_images(sd.decode(on_the_way)))
result = sheet([ideal_rows[0], network_row], cell=64)
if not FAST:
    result.save("../figures/denoiser.jpg")
result

# %% [markdown]
# The network walks among latents, and what you see is noise in a latent, painted by the VAE: blotches a few pixels wide.
#
# ## Exercises
#
# Fill in the answers and run the cell.
#
# 1. With the three points of `data`: what is the best guess at t = 999 from (0, 0), to a tenth?
# 2. The walks of the three points had 50 steps over T = 1000. How far apart are two of their times?
# 3. How many different pictures can the ideal denoiser of the four photos end on?
# 4. The tiny world's schedule, `sd.schedule`, leaves nothing of x_0 at t = 999. What does the ideal denoiser of `photos` see there? A
#    tensor (3, 64, 64).

# %%
guess_at_999 = None        # two numbers
stride = None
different_pictures = None
seen_at_999 = None

noise = torch.randn(128, 3, 64, 64, generator=g)
*_, (t, ends, x_0) = SAMPLERS["ddim"](schedule, ideal(photos), noise, 10)
reached = torch.cdist(ends.flatten(1), photos.flatten(1)).argmin(dim=1).unique()
times = schedule.timesteps(50, "leading")
seen = best_guess(noise, 999, photos, sd.schedule)
for name, answer, right in (
        ("guess_at_999", guess_at_999, best_guess(torch.zeros(1, 2), 999, data)[0]),
        ("stride", stride, times[0] - times[1]), ("seen_at_999", seen_at_999, seen[0]),
        ("different_pictures", different_pictures, len(reached))):
    same = answer is not None and np.shape(answer) == np.shape(right)
    verdict = "right" if same and np.allclose(answer, right, 0, 0.07) else "try again"
    print(name, "not answered yet" if answer is None else verdict)

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. About (0.03, 0.03), `data.mean(0)`: with so much noise every point is nearly as likely as the others.
# 2. `1000 // 50`, which is 20.
# 3. 4: the photos themselves.
# 4. `photos.mean(0)`: where no trace is left, all four are equally likely.
#
# </details>
