# %% [markdown]
# # Latents: where diffusion happens
#
# ![](../figures/vae.jpg)
#
# Drawings; the same after a way through a sixth of the numbers; and what was lost. By the end you can say how much a latent throws away,
# what its channels hold, why a little noise in it does no harm, and what `scaling_factor` is for.
#
# The code is `vae.py`: it squeezes a picture into a latent and paints it again. Diffusion never sees a pixel.

# %%
import os, sys

sys.path.insert(0, "..")
import numpy as np
import torch
from PIL import Image
from pictures import sheet, to_images, to_tensor
from stable_diffusion import TINY, StableDiffusion
from tiny_world.draw import draw
from tiny_world.world import random_scene
from vae import VAE

torch.set_grad_enabled(False)  # nothing is trained here
FAST = "FAST" in os.environ  # the tests' form: what it draws is not worth looking at
sd = StableDiffusion.from_pretrained(TINY)
drawings = [draw(random_scene(np.random.default_rng([3, i]))) for i in range(8)]
x = torch.stack([to_tensor(drawing) for drawing in drawings])  # (b, 3, y, x) in [-1, 1]
print("pictures", tuple(x.shape))

# %% [markdown]
# Four times fewer rows and columns, and 8 channels in the place of 3 colours. How many numbers has a drawing, how many its latent?
# (Stable Diffusion: eight times fewer rows and columns, and 4 channels.)

# %%
mean, std = sd.encode(drawings)
print("latents ", tuple(mean.shape))
print(f"{x[0].numel():,} numbers become {mean[0].numel():,}:",
      f"one for {x[0].numel() / mean[0].numel():.0f}")

# %% [markdown]
# There and back. PSNR is the usual measure of what is lost, the larger the better; beside it, how far a pixel is off, where black
# to white is 2. What will be lost first: colours, large shapes, or the finest things?

# %%
def paint(latents):
    return sd.vae.decode(latents.to(sd.device)).cpu()

def psnr(pictures, truth):
    """In dB: how much larger the range of the pixels, 2, is than their error."""
    return 10 * torch.log10(2 ** 2 / (pictures - truth).square().mean((1, 2, 3)))

y = paint(mean).clamp(-1, 1)
quality, off = psnr(y, x), (y - x).square().mean((1, 2, 3)).sqrt()
print("PSNR      ", *(f"{value:6.1f}" for value in quality.tolist()))
print("off by    ", *(f"{value:6.3f}" for value in off.tolist()))
result = sheet([("as drawn", drawings), ("through the latent", to_images(y)),
                ("what is lost, times 4", to_images(4 * (y - x).abs() - 1))], cell=96)
if not FAST:
    result.save("../figures/vae.jpg", quality=60)
result

# %% [markdown]
# The finest things: edges, sparkles, strokes of the brush, the seams of the pixels. Colours, shapes and patterns come through, and a
# subject's looks are in those.
#
# What do the 8 channels hold? Each as a grey picture, for the first two drawings. Will they look like a small picture or like a code?

# %%
def grey(channel):
    channel = (channel - channel.min()) / (channel.max() - channel.min())
    small = Image.fromarray((255 * channel).byte().numpy())
    return small.resize((64, 64), Image.Resampling.NEAREST).convert("RGB")

sheet([("the drawing and its 8 channels" if i == 0 else "",
        [drawings[i], None] + [grey(channel) for channel in mean[i]]) for i in (0, 1)])

# %% [markdown]
# Like small pictures: the latent keeps places. But no channel is just the light, or just the green. Set one channel to zero and decode:
# does a part of the boot go, or something of the whole?

# %%
without = mean[:1].repeat(8, 1, 1, 1)
without[range(8), range(8)] = 0
sheet([("without channel 0, 1, ... 7", to_images(paint(without)))])

# %% [markdown]
# The boot stays, whichever is missing. Some channels take colour or contrast of the whole with them, some leave a grid: each mixes light,
# colour and edges in its own way.
#
# The encoder does not give a point but a small cloud, mean and std, and training draws a latent from it. The decoder learned to paint the
# same from anywhere in the cloud. How large is std beside the spread of the means? And up to how much noise will the picture stay
# as it is?

# %%
print(f"std of a latent {std.mean():.3f}, spread of the means {mean.std():.2f}")
amounts, g = (0, 0.02, 0.1, 0.3, 1, 3), torch.Generator().manual_seed(0)
eps = torch.randn(mean[:1].shape, generator=g)
noisy = torch.cat([mean[:1] + amount * eps for amount in amounts])
title = "noise in the latent: " + ", ".join(map(str, amounts))
sheet([(title, to_images(paint(noisy)))])

# %% [markdown]
# The cloud is small, hundredths of the spread, and well outside of it the picture still holds; it goes when the noise is as large as
# the latents themselves. So a UNet that ends a little beside a latent does no harm: the decoder cleans up after it.
#
# Halfway between two pictures: a mean of pixels is a double exposure. And a mean of latents: is it half boot, half cat?

# %%
shares = torch.linspace(0, 1, 7)
pixels = torch.stack([(1 - share) * x[0] + share * x[5] for share in shares])
latents = torch.stack([(1 - share) * mean[0] + share * mean[5] for share in shares])
sheet([("pixels", to_images(pixels)), ("latents", to_images(paint(latents)))])

# %% [markdown]
# A double exposure too: the VAE knows how to spell pictures, not what is in them. That a cat is one thing is left to the UNet.
#
# Last, a number in the config. Diffusion adds noise of variance 1 and wants latents of the same size, so `StableDiffusion.draw_latents`
# multiplies them by a factor, and `decode` divides by it. What should it be, if the spread of the means is as above?

# %%
scale = sd.vae.config.scaling_factor
print(f"1 / spread {1 / mean.std():.3f}, scaling_factor {scale:.3f},",
      f"spread after scaling {(mean * scale).std():.2f}")

# %% [markdown]
# About one over the spread; it was measured on many more drawings than these eight. That is all that `scaling_factor` is for.
#
# ## Exercises
#
# Fill in the answers and run the cell.
#
# 1. Stable Diffusion's latent of a picture of 512 x 512: one number for how many of the picture's?
# 2. What is the PSNR of a picture whose every pixel is off by 0.02?
# 3. Which of the eight drawings, 0 to 7, lost most?
# 4. A picture is 96 pixels wide and 64 high. Which shape has its latent here, without the batch?

# %%
ratio = None
psnr_of_002 = None
worst = None
shape = None           # three numbers

with torch.device("meta"):  # shapes without numbers
    picture = torch.zeros(1, 3, 512, 512)
    latent, _ = VAE().encode(picture)
wide, _ = sd.encode([Image.new("RGB", (96, 64))])
for name, answer, right in (
        ("ratio", ratio, picture.numel() / latent.numel()),
        ("psnr_of_002", psnr_of_002, psnr(0 * x + 0.02, 0 * x)[0]),
        ("worst", worst, quality.argmin()), ("shape", shape, wide.shape[1:])):
    same = answer is not None and np.shape(answer) == np.shape(right)
    verdict = "right" if same and np.allclose(answer, right, 0, 0.1) else "try again"
    print(name, "not answered yet" if answer is None else verdict)

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. 48: 3 x 512 x 512 to 4 x 64 x 64.
# 2. 10 log10(2² / 0.02²) = 40 dB.
# 3. `quality.argmin().item()`: the one with the lowest PSNR.
# 4. `(8, 16, 24)`: channels, rows, columns.
#
# </details>
