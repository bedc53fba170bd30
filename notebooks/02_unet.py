# %% [markdown]
# # The UNet: who looks at what
#
# `tiny_unet.py` is the network that all the work is done by, and that DreamBooth trains. By the end you can say what its shapes are,
# where its numbers sit, at which noise levels it listens to the words, and which words each place of the picture looks at.

# %%
import os
import sys

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from PIL import Image

from pictures import sheet, to_images
from stable_diffusion import TINY, StableDiffusion
from tiny_unet import UNet

torch.set_grad_enabled(False)  # nothing is trained here

FAST = "FAST" in os.environ
sd = StableDiffusion.from_pretrained(TINY)
print(sd.unet.config.block_out_channels, sd.unet.config.down_block_types)

# %% [markdown]
# A latent goes down (the map shrinks, the channels grow) and up again. Write down the shapes you expect for a latent of 8 x 16 x 16 and
# widths 64, 112, 128, then look.

# %%
rows = [("conv_in", sd.unet.conv_in)]
rows += [(f"{way}_blocks.{i}.resnets.{j}", r) for way in ("down",) for i, b in enumerate(sd.unet.down_blocks) for j, r in enumerate(b.resnets)]
rows += [(f"mid_block.resnets.{j}", r) for j, r in enumerate(sd.unet.mid_block.resnets)]
rows += [(f"up_blocks.{i}.resnets.{j}", r) for i, b in enumerate(sd.unet.up_blocks) for j, r in enumerate(b.resnets)]
hooks = [m.register_forward_hook(lambda m, a, out, name=name: print(f"{name:26s}{tuple(out.shape[1:])}")) for name, m in rows + [("conv_out", sd.unet.conv_out)]]
sd.unet(torch.randn(1, 8, 16, 16), torch.tensor([500]), sd.read(["a cat"]))
for hook in hooks: hook.remove()

# %% [markdown]
# Where do the numbers sit? Predict the largest share: the convolutions of the resnets, self-attention, cross-attention, or the
# feed-forward layers?

# %%
share = {"resnets": "resnets", "self-attention": "attn1", "cross-attention": "attn2", "feed-forward": ".ff."}
total = sum(p.numel() for p in sd.unet.parameters())
for name, part in share.items():
    print(f"{name:16s}{sum(p.numel() for n, p in sd.unet.named_parameters() if part in n) / total:6.1%} of {total:,}")

# %% [markdown]
# The same class with the default config is Stable Diffusion 1.5. On the device "meta" a network has shapes and no numbers, so it costs
# nothing to count 3.4 GB. Expected: 859,520,964.

# %%
with torch.device("meta"):
    large = UNet()
count = sum(p.numel() for p in large.parameters())
print(f"{count:,}  match: {count == 859_520_964}")

# %% [markdown]
# When does it listen? Here is how much its answer changes when the prompt is taken away, by noise level, on the way to one picture.

# %%
words, nothing, change = sd.read(["a red cat wearing a santa hat in the snow"]), sd.read([""]), {}
steps = list(sd.walk("a red cat wearing a santa hat in the snow", steps=4 if FAST else 40, sampler="ddim", seed=2))
for (_, z, _), (t, _, _) in zip(steps, steps[1:]):  # z as one step left it, and the t at which the next one looks at it
    at = torch.tensor([t])
    with_words, without = sd.unet(z, at, words), sd.unet(z, at, nothing)
    change[t] = ((with_words - without).norm() / without.norm()).item()
plt.figure(figsize=(6, 2.2))
plt.plot(list(change), list(change.values()), "."), plt.xlabel("t"), plt.ylabel("change by the words");

# %% [markdown]
# Guidance overshoots that change: output = without + g (with - without). What will g = 1 look like, and what g = 15?

# %%
scales = (1, 4, 15) if FAST else (1, 2, 4, 7.5, 15)
prompts = ("a red cat wearing a santa hat in the snow", "a blue teapot on the beach")
sheet([(f'"{p}", guidance {", ".join(map(str, scales))}',
        [sd.sample(p, guidance=g, steps=3 if FAST else 25, sampler="dpm++", seed=6)[0] for g in scales]) for p in prompts])

# %% [markdown]
# At 1 it follows the words loosely, at 15 colours burn out. Between lies a choice, not a truth.
#
# Cross-attention is how the words get in: each position distributes its gaze over the tokens. `maps` notes it down: (b, h, n, l), one a
# layer. How many layers have one, and what do the numbers of a position sum to?

# %%
maps = []
sd.unet(torch.randn(1, 8, 16, 16), torch.tensor([500]), words, maps)
print([tuple(m.shape) for m in maps])
print("sum over the tokens:", maps[0].sum(-1).min().item(), "to", maps[0].sum(-1).max().item())

# %% [markdown]
# So let us see it. While a picture is being drawn, the maps of all layers, heads and steps are added up, token by token, and the picture
# is lit where it looked at that word. Which word do you expect to be the sharpest?

# %%
def looked_at(prompt, seed, steps):
    """The picture, and the picture lit for each token of the prompt."""
    words, ids = sd.read([prompt]), sd.tokenizer.encode(prompt)
    heat = torch.zeros(len(ids), 64, 64)
    drawn = list(sd.walk(prompt, steps=steps, sampler="ddim", seed=seed))
    for (_, z, _), (t, _, _) in zip(drawn, drawn[1:]):
        maps = []
        sd.unet(z, torch.tensor([t]), words, maps)
        for m in maps:
            side = int(m.shape[2] ** 0.5)
            token = m[0].mean(0).T[1:1 + len(ids)].view(1, -1, side, side)
            heat += F.interpolate(token, 64, mode="bilinear")[0]
    return to_images(sd.decode(drawn[-1][1]))[0], heat

picture, heat = looked_at("a blue teapot on the beach", seed=2, steps=3 if FAST else 20)
print("share of all gazes at each token:", [f"{h / heat.sum():.2f}" for h in heat.sum((1, 2))])

# %% [markdown]
# Bright: here it looked at that word more than elsewhere. Each word is scaled by itself.

# %%
def lit(picture, heat):
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    return Image.composite(picture, Image.eval(picture, lambda v: v // 6), Image.fromarray((255 * heat).byte().numpy()))

names, rows = {i: t.removesuffix("</w>") for t, i in sd.tokenizer.vocab.items()}, []
for prompt in ("a red cat wearing a santa hat in the snow", "a blue teapot on the beach", "a face wearing pink glasses"):
    picture, heat = looked_at(prompt, seed=2, steps=3 if FAST else 20)
    rows.append((" | ".join(["picture"] + [names[i] for i in sd.tokenizer.encode(prompt)]), [picture] + [lit(picture, h) for h in heat]))
sheet(rows, cell=96)

# %% [markdown]
# AttnDreamBooth is built on this picture: the map of a new word ought to look like that of its category.
#
# ## Exercises
#
# 1. The cross-attention maps have n = 64 or n = 16 positions. From which side lengths of the map?
# 2. How many tokens does each position look at, however short the prompt?
# 3. `sd.unet` with all `attn2` outputs set to zero knows no words. Do two different prompts then give the same output?

# %%
sides = None          # a set of two numbers
tokens = None
same_output = None    # True or False

if sides is not None: assert {s * s for s in sides} == {m.shape[2] for m in maps}
if tokens is not None: assert tokens == maps[0].shape[-1]
if same_output is not None: assert same_output is True
print("answered:", sum(a is not None for a in (sides, tokens, same_output)), "of 3")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `{8, 4}`: the two inner levels.
# 2. 32: start, prompt, end and padding. Stable Diffusion has 77.
# 3. `True`: cross-attention is the only way in for the words.
#
# </details>
