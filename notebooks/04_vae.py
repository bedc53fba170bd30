# %% [markdown]
# # Latents: where diffusion happens
#
# `vae.py` squeezes a picture into a latent and paints it again. Diffusion never sees a pixel. By the end you can say how much is
# thrown away, what the channels hold, and why a little noise in a latent does no harm.

# %%
import sys

sys.path.insert(0, "..")
import numpy as np
import torch
from PIL import Image

from pictures import sheet, to_images, to_tensor
from stable_diffusion import TINY, StableDiffusion
from tiny_world.draw import draw
from tiny_world.world import random_scene

torch.set_grad_enabled(False)  # nothing is trained here

sd = StableDiffusion.from_pretrained(TINY)
scenes = [random_scene(np.random.default_rng([3, i])) for i in range(8)]
x = torch.stack([to_tensor(draw(scene)) for scene in scenes])
print("pictures", tuple(x.shape))

# %% [markdown]
# How many numbers has a picture of 64 x 64, and how many its latent? Expected: four times fewer rows and columns, 8 channels.

# %%
mean, std = sd.vae.encode(x)
print("latents ", tuple(mean.shape), f"  {x[0].numel():,} numbers become {mean[0].numel():,}: one in {x[0].numel() / mean[0].numel():.0f}")

# %% [markdown]
# There and back. What is lost? Look at the finest things: eyes, stars, pencil strokes.

# %%
y = sd.vae.decode(mean)
error = ((y.clamp(-1, 1) - x) ** 2).mean((1, 2, 3))
print("PSNR", [f"{10 * torch.log10(4 / e):.1f}" for e in error], "dB")
sheet([("as drawn", to_images(x)), ("through the latent", to_images(y)), ("what is lost, times 4", to_images(4 * (y - x).abs() - 1))])

# %% [markdown]
# What do the 8 channels hold? Each as a grey picture, for the first two drawings. Do they look like a small picture or like a code?

# %%
grey = lambda channel: Image.fromarray((255 * (channel - channel.min()) / (channel.max() - channel.min())).byte().numpy()).resize((64, 64), Image.NEAREST).convert("RGB")
sheet([("the picture and its 8 channels", [draw(scenes[i]), None] + [grey(channel) for channel in mean[i]]) for i in (0, 1)])

# %% [markdown]
# Like small pictures: the latent keeps places, and each channel mixes light, colour and edges in its own way. Set one channel to zero
# and decode: what was in it?

# %%
without = mean[:1].repeat(8, 1, 1, 1)
without[range(8), range(8)] = 0
sheet([("without channel 0, 1, ... 7", to_images(sd.vae.decode(without)))])

# %% [markdown]
# The encoder does not give a point but a small cloud, mean and std. The decoder learned to paint the same from anywhere in it. How large
# is std beside the spread of the means?

# %%
print(f"std of a latent {std.mean():.3f}, spread of the means {mean.std():.2f}")
noisy = [mean[:1] + s * torch.randn(mean[:1].shape, generator=torch.Generator().manual_seed(0)) for s in (0, 0.02, 0.1, 0.3, 1, 3)]
sheet([("noise of 0, 0.02, 0.1, 0.3, 1, 3 in the latent", to_images(sd.vae.decode(torch.cat(noisy))))])

# %% [markdown]
# Halfway between two pictures: a mean of pixels is a double exposure. And a mean of latents?

# %%
mix = torch.stack([(1 - a) * mean[0] + a * mean[5] for a in torch.linspace(0, 1, 7)])
pixels = torch.stack([(1 - a) * x[0] + a * x[5] for a in torch.linspace(0, 1, 7)])
sheet([("pixels", to_images(pixels)), ("latents", to_images(sd.vae.decode(mix)))])

# %% [markdown]
# Nearly the same: the VAE knows how to spell pictures, not what is in them. That a cat is one thing is left to the UNet.
#
# Diffusion wants latents of variance 1, since its noise has variance 1. That is all that `scaling_factor` is for.

# %%
print("scaling_factor", round(sd.vae.config.scaling_factor, 4), "  std after scaling", round((mean * sd.vae.config.scaling_factor).std().item(), 2))

# %% [markdown]
# ## Exercises
#
# 1. Stable Diffusion's latents of a 512 x 512 picture are 4 x 64 x 64. One number for how many of the picture's?
# 2. What is the PSNR of a reconstruction whose every pixel is off by 0.02, on the scale of -1 to 1?
# 3. Which of the eight pictures lost most?

# %%
ratio = None
psnr = None
worst = None

if ratio is not None: assert ratio == 3 * 512 * 512 / (4 * 64 * 64)
if psnr is not None: assert abs(psnr - 40) < 0.1
if worst is not None: assert worst == error.argmax().item()
print("answered:", [a for a in (ratio, psnr, worst) if a is not None])

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. 48.
# 2. 10 log10(2² / 0.02²) = 40 dB.
# 3. `error.argmax().item()`
#
# </details>
