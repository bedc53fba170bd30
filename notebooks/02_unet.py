# %% [markdown]
# # The UNet: who looks at what
#
# ![](../figures/unet.jpg)
#
# Three pictures, and for each word of the prompt the places that looked at it while the picture was drawn. By the end you can say what
# the shapes in the network are, where its numbers sit, at which noise levels it listens to the words, and what guidance does.
#
# The code is `tiny_unet.py`: the network that all the work is done by, and that DreamBooth trains.

# %%
import inspect, os, sys

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pictures import sheet, to_images
from stable_diffusion import TINY, StableDiffusion
from tiny_unet import (Attention, Downsample2D, ResnetBlock2D, Transformer2D, UNet,
                       Upsample2D)

torch.set_grad_enabled(False)  # nothing is trained here
FAST = "FAST" in os.environ  # the tests' form: what it draws is not worth looking at
sd = StableDiffusion.from_pretrained(TINY)
for name in ("in_channels", "sample_size", "block_out_channels", "down_block_types"):
    print(f"{name:20s}{getattr(sd.unet.config, name)}")

# %% [markdown]
# A latent of 8 x 16 x 16 numbers goes down (the map shrinks, the channels grow) and up again. Write down the shapes that you expect for
# the widths above, then look: at every part, what goes in and what comes out. Why does the first resnet on the way up take more
# channels than the middle gives?

# %%
def note(name):
    def hook(module, inputs, output):
        print(f"{name:29s}{tuple(inputs[0].shape[1:])} -> {tuple(output.shape[1:])}")
    return hook

parts = (ResnetBlock2D, Transformer2D, Downsample2D, Upsample2D)
modules, hooks = dict(sd.unet.named_modules()), []
for name, module in modules.items():
    if isinstance(module, parts) or name in ("conv_in", "conv_out"):
        hooks.append(module.register_forward_hook(note(name)))
noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
sd.denoise(noise, 500, sd.read(["a cat"]), guidance=1)
for hook in hooks:
    hook.remove()

# %% [markdown]
# What the way down made at each size is kept, and laid beside what comes up: the skips. Fine detail goes that way, past the bottleneck.
# The `attentions` are where the words come in: at the two inner levels and in the middle, not at full size.
#
# Where do the numbers sit? Predict the largest share: the convolutions of the resnets, self-attention, cross-attention, or the
# feed-forward layers? And how much has cross-attention, the only way in for the words?

# %%
share = {"resnets": "resnets", "self-attention": "attn1", "cross-attention": "attn2",
         "feed-forward": ".ff."}
sizes = {name: p.numel() for name, p in sd.unet.named_parameters()}
total = sum(sizes.values())
print(f"{total:,} numbers")
for kind, part in share.items():
    count = sum(size for name, size in sizes.items() if part in name)
    print(f"{kind:16s}{count / total:6.1%}")

# %% [markdown]
# More than half is in the resnets, a fifth in the feed-forward layers. Cross-attention has a small part, though every word comes in there;
# LoRA and HyperDreamBooth put the few numbers that they train beside the attention layers, of both kinds.
#
# The same class with its default config is Stable Diffusion 1.5. On the device "meta" a network has shapes and no numbers, so it costs
# nothing to count 3.4 GB. How many times larger will it be? Expected: 859,520,964 numbers.

# %%
with torch.device("meta"):
    large = UNet()
count = sum(p.numel() for p in large.parameters())
print(f"{count:,}  match: {count == 859_520_964}")
print(f"{count / total:.0f} times the tiny world's")

# %% [markdown]
# Fifty-odd times larger, and the same code.
#
# When does it listen? On the way to one picture we ask it twice at each step, with the prompt and with the empty one, and note how far
# its two answers are apart. Is that more at the beginning, where t is large, or at the end?

# %%
prompt, steps = "a red cat wearing a santa hat in the snow", 4 if FAST else 40
words, nothing, change = sd.read([prompt]), sd.read([""]), {}
path = list(sd.walk(prompt, steps=steps, seed=2))
for (_, z, _), (t, _, _) in zip(path, path[1:]):  # z of one step, t of the next
    told, untold = (sd.denoise(z, t, said, guidance=1) for said in (words, nothing))
    change[t] = ((told - untold).norm() / untold.norm()).item()
plt.figure(figsize=(6, 2.2))
plt.plot(list(change), list(change.values()), ".")
plt.xlabel("t"), plt.ylabel("change by the words");

# %% [markdown]
# At the beginning, by far. From noise, words are all there is to go by; once the picture is there, it says more than they do.
#
# Guidance overshoots that change: output = output("") + guidance * (output(prompt) - output("")). With 1 that is the prompt's own. What
# will 1 look like, and what 15?

# %%
scales = (1, 15) if FAST else (1, 2, 3, 7.5, 15)
others = ("a blue teapot on the beach", "an oil painting of a duck in the jungle")
how = dict(steps=3 if FAST else 25, sampler="dpm++", seed=6)
rows = []
for text in (prompt, *others):
    drawn = [sd.sample(text, guidance=guidance, **how)[0] for guidance in scales]
    rows.append((f'"{text}", guidance {", ".join(map(str, scales))}', drawn))
print("usual for this model:", sd.guidance)
sheet(rows)

# %% [markdown]
# At 1 it obeys, but the picture is soft and undecided; with more it becomes clear; at 15 colours burn out, and shapes get strange.
# Between lies a choice, not a truth.
#
# Cross-attention is how the words get in. Read where it is computed: a position (n) asks a question q, a token (l) answers by its key k,
# and the softmax makes shares of the answers.

# %%
print(inspect.getsource(Attention.forward))

# %% [markdown]
# A list given as `maps` receives the shares, (b, h, n, l), one tensor a layer. How many layers have one? What do the shares of a position
# sum to? And how much of them, do you think, goes to the words of the prompt, and how much to the start and to the padding after it?

# %%
maps, length = [], len(sd.tokenizer.encode(prompt))
sd.unet(path[0][1], torch.tensor([path[1][0]], device=sd.device), words, maps)
print([tuple(m.shape) for m in maps])
print(f"sums from {min(m.sum(-1).min() for m in maps):.4f} "
      f"to {max(m.sum(-1).max() for m in maps):.4f}")
gaze = torch.stack([m.mean((0, 1, 2)) for m in maps]).mean(0)                 # (l,)
for name, some in (("start", gaze[:1]), (f"{length} words", gaze[1:1 + length]),
                   ("end and padding", gaze[1 + length:])):
    print(f"{name:16s}{some.sum():.2f}")

# %% [markdown]
# Seven: one for each transformer in the list above. The shares sum to 1, so every position must look somewhere, and much of the gaze goes
# where no word stands.
#
# Now let us see it. While a picture is being drawn, the maps of all layers, heads and steps are added up, token by token.

# %%
def looked_at(prompt, seed):
    """The picture, and how much each place looked at each token (l, y, x)."""
    words, length = sd.read([prompt]), len(sd.tokenizer.encode(prompt))
    heat = torch.zeros(length, sd.size, sd.size)
    path = list(sd.walk(prompt, steps=3 if FAST else 20, seed=seed))
    for (_, z, _), (t, _, _) in zip(path, path[1:]):
        maps = []
        sd.unet(z, torch.tensor([t], device=sd.device), words, maps)
        for m in maps:
            side = int(m.shape[2] ** 0.5)
            of_token = m[0].mean(0).T[1:1 + length].view(1, -1, side, side).cpu()
            heat += F.interpolate(of_token, sd.size, mode="bilinear")[0]
    return to_images(sd.decode(path[-1][1]))[0], heat

picture, heat = looked_at(prompt, seed=2)
print("the picture and", len(heat), "maps of", tuple(heat.shape[1:]))

# %% [markdown]
# And the picture lit by it. Bright: here it looked at that word more than elsewhere (each word is scaled by itself; the number is how many
# times its mean the brightest place has). Which words do you expect to be sharp, and which will be the same everywhere?

# %%
def lit(picture, heat):
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    dark = Image.eval(picture, lambda value: value // 6)
    return Image.composite(picture, dark, Image.fromarray((255 * heat).byte().numpy()))

names, rows = {i: token for token, i in sd.tokenizer.vocab.items()}, []
for text, seed in ((prompt, 2), ("a bear wearing a rainbow scarf on the beach", 1),
                   ("a face wearing pink glasses", 2)):
    picture, heat = looked_at(text, seed)
    title = ["picture"]
    for i, seen in zip(sd.tokenizer.encode(text), heat):
        title.append(f"{names[i].removesuffix('</w>')} {seen.max() / seen.mean():.1f}")
    rows.append((" | ".join(title), [picture] + [lit(picture, seen) for seen in heat]))
result = sheet(rows, cell=80)
if not FAST:
    result.save("../figures/unet.jpg", quality=70)
result

# %% [markdown]
# Sharpest are the words for small things: a hat, a scarf, glasses. The noun lights up the figure. "a" and "the" are nearly the same
# everywhere: where there is nothing to find, it looks there. AttnDreamBooth is built on this picture: the map of a new word
# ought to look like that of its category.
#
# ## Exercises
#
# Fill in the answers, and run the two cells.
#
# 1. The cross-attention maps have n = 64 or n = 16 positions. Which side lengths has the map of features there?
# 2. At how many tokens does each position look, however short the prompt?
# 3. If the outputs of all `attn2` are set to zero, do two different prompts still give two different outputs?
# 4. Write guidance: the output, from `untold`, `told` and a number.

# %%
sides = None            # a list of two numbers, the larger one first
tokens = None
still_differ = None     # True or False
guided = None           # a function of untold, told and guidance

answers = (sides, tokens, still_differ, guided)
print(sum(answer is not None for answer in answers), "of 4 answered")

# %%
hooks = [module.register_forward_hook(lambda module, inputs, output: 0 * output)
         for name, module in modules.items() if name.endswith("attn2")]
one, other = (sd.denoise(noise, 500, sd.read([text]), guidance=1) for text in others)
for hook in hooks:
    hook.remove()
untold = sd.denoise(noise, 500, nothing, guidance=1).cpu()
told = sd.denoise(noise, 500, words, guidance=1).cpu()
with_3 = sd.denoise(noise, 500, torch.cat([nothing, words]), guidance=3).cpu()
for name, answer, right in (
        ("sides", sides, sorted({m.shape[2] ** 0.5 for m in maps}, reverse=True)),
        ("tokens", tokens, maps[0].shape[-1]),
        ("still_differ", still_differ, not torch.equal(one, other)),
        ("guided", guided and guided(untold, told, 3), with_3)):
    same = answer is not None and np.shape(answer) == np.shape(right)
    verdict = "right" if same and np.allclose(answer, right, 0, 1e-4) else "try again"
    print(name, "not answered yet" if answer is None else verdict)

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `[8, 4]`: the two inner levels, and the middle.
# 2. 32: start, prompt, end and padding. Stable Diffusion has 77.
# 3. `False`: cross-attention is the only way in for the words.
# 4. `lambda untold, told, guidance: untold + guidance * (told - untold)`
#
# </details>
