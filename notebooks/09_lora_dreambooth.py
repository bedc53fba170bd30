# %% [markdown]
# # LoRA: a small change beside the weights
#
# ![](../figures/lora_dreambooth.jpg)
#
# Top: the photos. Below: the same words before and after a training in which no weight of the model changed. By the end you can say what
# a low-rank change is and how few numbers it takes, where in the network it is large, what its rank and its strength do to the pictures,
# what happens when two are added, and what is in the file.
#
# Everything runs on a laptop's CPU, on the tiny world's model, in a quarter of an hour: five trainings. The code is `lora_dreambooth.py` and
# `lora_file.py`; nothing here is a copy of it. The photos, the word and the loss are DreamBooth's (notebook 05).

# %%
import inspect, os, sys
from pathlib import Path

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import numpy as np
import torch
from dreambooth import PROMPTS
from lora_dreambooth import (Config, adapted_layers, prepare, put_beside, start_lora,
                             train)
from pictures import load_pictures, sheet
from stable_diffusion import TINY, StableDiffusion

FAST = "FAST" in os.environ  # for the tests: pictures that are not worth looking at
few = {"steps": 2, "class_images": 2, "sampling_steps": 2} if FAST else {}
out = Path("../runs/notebook_lora")
base, cfg, photos = prepare(Config(out=str(out), **few))
print(f"rank {cfg.rank}: {cfg.steps} steps of {cfg.batch_size} photos, lr {cfg.lr}")

# %% [markdown]
# ## The method
#
# A layer multiplies what arrives, x, by a matrix W. DreamBooth writes another W. LoRA leaves W as it is, and puts the product of two thin
# matrices beside it:
#
#     x W   becomes   x W + (alpha / r) x A B            W (d_in, d_out),  A (d_in, r),  B (r, d_out)
#
# r is the rank; alpha / r is 1 here unless you ask for something else. This is all there is to it. Predict: what does the model draw with
# A and B beside its layers, before the first step of training?

# %%
print(inspect.getsource(start_lora))
print(inspect.getsource(put_beside))

# %% [markdown]
# What it drew before: B is zero, so x A B is. Then why is A not zero too? The gradient of B is made with A, that of A with B; if both
# were zero, neither would ever move. As it is, the first step moves B alone.
#
# Which layers get one? The linear layers of every attention, in the UNet and here in the text encoder, and the UNet's GEGLUs. Predict how
# many times fewer numbers that is than DreamBooth trains, here and on Stable Diffusion. Is the saving larger for the larger model?

# %%
from types import SimpleNamespace
from clip_text import CLIPText
from tiny_unet import UNet

def count(network):
    return sum(weight.numel() for weight in network.parameters())

with torch.device("meta"):  # shapes without weights
    large = SimpleNamespace(unet=UNet(), text=CLIPText())
for name, model in (("tiny world", base), ("Stable Diffusion 1.5", large)):
    layers, whole = adapted_layers(model), count(model.unet) + count(model.text)
    sides = sum(layer.in_features + layer.out_features for layer in layers.values())
    beside = cfg.rank * sides
    print(f"{name}: {whole:,} weights; beside {len(layers)} layers at rank {cfg.rank} "
          f"{beside:,} numbers, {whole / beside:.0f} times fewer")

# %% [markdown]
# Larger, yes. W has d_in *times* d_out numbers, A and B have r times d_in *plus* d_out: a matrix twice as wide and twice as high has four
# times the numbers, and its LoRA twice.
#
# ## Trained
#
# Two things to predict. How many of the UNet's weights are others after the training? And what will be in the pictures?

# %%
def learn(**change):
    """A model, trained to the end, with its LoRA beside its layers: sd.lora."""
    sd, settled, photos = prepare(Config(out=str(out), **few | change))
    for log in train(sd, settled, photos):
        pass
    return sd

def numbers_of(lora):
    return sum(factor.numel() for factors in lora.values() for factor in factors)

sd = learn()
weights = zip(base.unet.parameters(), sd.unet.parameters())
changed = sum((before != after).sum().item() for before, after in weights)
print(f"{changed} of {count(sd.unet):,} weights of the UNet changed; "
      f"{numbers_of(sd.lora):,} numbers were trained beside them")

# %%
def draw(model, prompt, images):
    how = {"steps": cfg.sampling_steps, "sampler": "dpm++", "seed": 1}
    return model.sample(prompt, images=images, **how)

rows = [("the subject", photos)]
for prompt in (*(prompt.format("sks cat") for prompt in PROMPTS), "a photo of a cat"):
    row = [*draw(base, prompt, 3), None, *draw(sd, prompt, 3)]
    rows.append((f'"{prompt}": before, after', row))
if not FAST:
    sheet(rows).save("../figures/lora_dreambooth.jpg")
sheet(rows, cell=96)

# %% [markdown]
# Not one weight, and yet the cat is there, in places and clothes that no photo shows. The last row is the check that DreamBooth needs
# too: without the word, other cats are still drawn. The class pictures of the loss see to that, here as there.
#
# ## What a change looks like
#
# One layer of the trained LoRA, in the middle of the UNet: it makes of each word's vector what the picture takes from that word. A stands
# on the left, B lies on top, and between them their product: each of its dots is A's row of the same height times B's column above it. On
# the right is W, of the same size. Predict: will the product look like W, without order, or will you see a pattern in it?

# %%
plt.rcParams["figure.dpi"] = 80
LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v"
A, B = (factor.detach().cpu() for factor in sd.lora[LAYER])
W = adapted_layers(sd)[LAYER].weight.detach().float().cpu().T
shape = {"width_ratios": (1, 14, 14), "height_ratios": (1, 8)}
figure, axes = plt.subplots(2, 3, figsize=(7.5, 3), gridspec_kw=shape)
for place, title, matrix in ((axes[1, 0], "A", A), (axes[0, 1], "B", B),
                             (axes[1, 1], "A B", A @ B), (axes[1, 2], "W", W)):
    limit = 2.5 * matrix.std()
    place.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    place.set_title(f"{title} {tuple(matrix.shape)}", fontsize=8)
for place in axes.flat:
    place.axis("off")

# %% [markdown]
# A weave of stripes, up and down and across. Each row of the product is a mixture of the same few rows of B, each column one of the same
# few columns of A: so rows repeat, and W's do not. The number of rows that a matrix is mixed of is its **rank**.
#
# Singular values say how far a matrix stretches along each of its directions, sorted. Predict how many of the product's are not zero. And
# does the change use them evenly, or does it need fewer than it was given?

# %%
values = {"W": torch.linalg.svdvals(W), "A B": torch.linalg.svdvals(A @ B)}
plt.figure(figsize=(6, 2.6))
for title, of_matrix in values.items():
    plt.semilogy(range(1, len(of_matrix) + 1), of_matrix + 1e-9, ".-", label=title)
plt.xlabel("singular value, number"), plt.legend()
squares = values["A B"][:cfg.rank] ** 2
for some in (1, cfg.rank // 2, cfg.rank):
    print(f"the largest {some}: {squares[:some].sum() / squares.sum():.0%} of A B")

# %% [markdown]
# As many as the rank, and behind the cliff is the rounding of float32. W has no cliff. And the few are not used evenly: the printed
# shares (of the sum of squares) say how much of the change a still thinner one would have kept. That a small lesson needs a change of low
# rank was the guess that LoRA's paper began with; below the rank is put to the test.
#
# ## Where
#
# How large is the change beside the weight, layer by layer? Rows go through the network, from the noise in to the noise out, and then
# through the text encoder. `attn1` looks at the picture, `attn2` at the words, `ff` is the GEGLU. Predict: where is it largest?

# %%
import re

def share(name, layer):
    """The length of a layer's change, as a share of its weight's."""
    A, B = sd.lora[name]
    return (cfg.alpha / cfg.rank * (A @ B).norm() / layer.weight.norm()).item()

shares = {}  # {where: {which layer there: its share}}
for name, layer in adapted_layers(sd).items():
    where, kind = re.split("_transformer_blocks_0_|_self_attn_", name)
    shares.setdefault(where, {})[kind] = share(name, layer)
every = {(where, kind): x for where, row in shares.items() for kind, x in row.items()}
for place in (max(every, key=every.get), min(every, key=every.get)):
    print(f"{every[place]:.3f}", *place)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(9, 4))
for place, part in zip(axes, ("lora_unet_", "lora_te_text_model_encoder_")):
    rows = {where.removeprefix(part): row for where, row in shares.items()
            if where.startswith(part)}
    table = torch.tensor([[*row.values()] for row in rows.values()])
    image = place.imshow(table, vmin=0, vmax=max(every.values()), aspect="auto")
    names = [kind.replace("_net_0", "") for kind in next(iter(rows.values()))]
    place.set_xticks(range(len(names)), names, rotation=60, fontsize=8)
    place.set_yticks(range(len(rows)), rows, fontsize=8)
figure.colorbar(image, label="change / weight"), figure.tight_layout();

# %% [markdown]
# Every layer takes part, but not alike: in the middle of the UNet a few of those that look at the picture have a change as long as their
# weight, or longer; nearly everywhere else, and in all of the text encoder, it is a small fraction. Nothing in the training said where it
# should go.
#
# Is the largest change also the one that matters? A part of a LoRA is a LoRA. Put only the layers of one kind beside a fresh model.
# Predict which kind alone is enough to recognise the cat.

# %%
def put_beside_some(lora, part):
    """A fresh model, the LoRA beside those layers whose names have `part` in them."""
    model = StableDiffusion.from_pretrained(TINY, base.device)
    layers = adapted_layers(model)
    chosen = {name: layer for name, layer in layers.items() if part in name}
    put_beside(chosen, lora, cfg.alpha / cfg.rank)
    return model

PARTS = {"": "all", "_attn1_": "attn1 alone", "_attn2_": "attn2 alone",
         "_ff_": "GEGLU alone", "lora_te_": "the text encoder alone"}
pictures = []
for part in PARTS:
    model = put_beside_some(sd.lora, part)
    pictures += [*draw(model, "a sks cat in the snow", 2), None]
sheet([(" | ".join(PARTS.values()), pictures)], cell=80)

# %% [markdown]
# The text encoder's, the smallest on the map! It says "orange with black spots" to a UNet that knows what that is. The largest, `attn1`
# alone, draws the cats that were drawn before: what it adds are details of a cat that it must be told of first. The length of a change
# does not say what it is worth.
#
# ## Rank
#
# Three more trainings, at other ranks, with all else as before. Before you run the cell: what will rank 1 lose, and what will rank 16
# gain? It takes a few minutes.

# %%
from lora_file import save_lora

def save(lora, name):
    """As at the end of lora_dreambooth.py: A and B into a file; alpha is the rank."""
    changes = {layer: (A.detach().T, B.detach().T) for layer, (A, B) in lora.items()}
    save_lora(out / f"{name}.safetensors", changes)
    return out / f"{name}.safetensors"

models, files = {cfg.rank: sd}, {}
for rank in (1,) if FAST else (1, 4, 16):
    models[rank] = learn(rank=rank)
for rank, model in sorted(models.items()):
    files[rank] = save(model.lora, f"rank{rank}")
    print(f"rank {rank:2d}: {numbers_of(model.lora):7,} numbers, "
          f"{files[rank].stat().st_size:9,} bytes")

# %% [markdown]
# Four bytes a number, and some tens of thousands of bytes for the names. And what are the numbers worth? The judge knows this world
# (notebook 11): likeness is 0 for another cat and 1 for this one, obedience the share of the prompts that were drawn as asked. Rank 0 is
# the model as it was. Predict the two curves.

# %%
from measure import make_scale, measure, shipped_subject
from tiny_world.judge import Judge

judge, first = Judge.load(), shipped_subject("cat")
scale, quick = make_scale(judge, first.who), 2 if FAST else 10  # sampling steps

def ask(model, images):
    return measure(judge, model, "sks cat", first, {"cat": scale}, images, quick)

results, rows = [], []
for rank, model in sorted({0: base, **models}.items()):
    result, drawn = ask(model, images=1 if FAST else 2)
    results.append((rank, result["likeness"], result["obedience"]))
    rows.append(("rank {}: likeness {:.2f}, obedience {:.2f}".format(*results[-1]),
                 [*drawn["a photo of a {}"], None, *drawn["a {} in the snow"]]))
sheet(rows, cell=72)

# %%
ranks, *curves = zip(*results)
plt.figure(figsize=(5, 2.4))
for curve, title in zip(curves, ("likeness", "obedience")):
    plt.plot(range(len(ranks)), curve, "o-", label=title)
plt.xticks(range(len(ranks)), ranks), plt.xlabel("rank")
plt.axhline(0, ls=":", color="grey"), plt.legend();

# %% [markdown]
# The great step is the first, from no change to a change of rank 1, a single column and a single row beside each layer: the model knows
# cats, colours and patterns already, and has only to be told which. At ranks 1 and 4 it has been told for the photos' places (left), and
# not yet firmly for the snow (right). At 8 and 16 it is this cat everywhere; where the curve of likeness is flat, more rank is a larger
# file and nothing else.
#
# Two things make this less than a proof. It is one cat and one training each: whether 4 is worse than 1, such a curve cannot say
# (`compare.py` asks twelve subjects). And in each step every number moves about as far, so where there are more of them the change grows
# faster: a higher rank has learned *faster* too, not only more finely.
#
# ## Strength
#
# After training the product need not stay *beside* W. It can be added to it, once; then drawing takes not a moment longer than before,
# and the file can be taken at any strength. After `python lora_dreambooth.py`, six tenths of it:
#
#     python stable_diffusion.py "a sks cat in the snow" --lora runs/lora_dreambooth/pytorch_lora_weights.safetensors:0.6
#
# What does that line do to the weights? Look at the last three lines of this:

# %%
print(inspect.getsource(StableDiffusion.load_lora))

# %% [markdown]
# Is it the same? The trained model with products beside its layers, and a fresh one with the file added to its weights, from the same
# noise. Predict the largest difference of two pixels, of 255.

# %%
def load(*paths, strength=1.0):
    """A fresh model with the files added to its weights."""
    model = StableDiffusion.from_pretrained(TINY, base.device)
    for path in paths:
        model.load_lora(path, strength)
    return model

def distance(one, two):
    """The largest difference of two pictures, of 255."""
    return np.abs(np.asarray(one).astype(int) - np.asarray(two)).max()

pair = []
for model in (sd, load(files[cfg.rank])):
    pair += draw(model, "a sks cat in the snow", 1)
print(f"largest difference: {distance(*pair)} of 255")
sheet([("beside, added", pair)], cell=64)

# %% [markdown]
# The same picture, up to rounding. Now from none of it to one and a half times as much as was trained. At a half, will it be half this
# cat? And what lies beyond 1? The second row asks for a cat without the word, of the same models: should it change?

# %%
STRENGTHS = (0, 1.5) if FAST else (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5)
in_snow, of_class = [], []
for strength in STRENGTHS:
    model = load(files[cfg.rank], strength=strength)
    result, drawn = ask(model, images=1)
    print(f"strength {strength:4}: likeness {result['likeness']:5.2f}, "
          f"obedience {result['obedience']:.2f}")
    in_snow += drawn["a {} in the snow"]
    of_class += draw(model, "a photo of a cat", 1)
numbers = "  ".join(map(str, STRENGTHS))
sheet([(f'"a sks cat in the snow", strength {numbers}', in_snow),
       ('"a photo of a cat", the same', of_class)], cell=88)

# %% [markdown]
# It comes late and at once: a network is no straight line, and half of a change is not half of its effect. Nothing is special about 1
# but that training stopped there. Beyond it no training ever went; this cat bears half as much again, others break there. "A cat" was
# held in its place by the class pictures, and at strength 1 only: look at its last columns too. So strength is a knob to be turned when
# all training is over. Where a prompt is not obeyed, or the cat is a copy of its photos, try 0.7.
#
# ## Two at once
#
# Changes can be added: W + A1 B1 + A2 B2. A second LoRA learns another cat, by another word, `zwx`. It is a cat too on purpose: now
# nothing but the word can tell them apart. Neither training knows of the other. Predict, for the two files loaded together: will `sks`
# still call the first, and `zwx` the second?

# %%
second = shipped_subject("cat2")
other = learn(images=str(second.photos), class_name="cat", token="zwx")
paths = [save(sd.lora, "sks_cat"), save(other.lora, "zwx_cat")]
sheet([("the first cat, sks", photos),
       ("the second cat, zwx", load_pictures(second.photos))], cell=80)

# %%
scales = {"first": scale, "second": make_scale(judge, second.who)}
added = {"the first LoRA": load(paths[0]), "the second": load(paths[1]),
         "both": load(*paths)}
NOUNS, rows = ("sks cat", "zwx cat", "cat"), []
for name, model in added.items():
    row = []
    for noun in NOUNS:
        pictures = draw(model, f"a photo of a {noun}", 2 if FAST else 4)
        vectors = judge.vectors(pictures)
        like = [f"{to:5s} {scales[to].likeness(vectors):5.2f}" for to in scales]
        print(f"{name:15s} {noun:8s}", *like, sep="   ")
        row += [*pictures[:2], None]
    rows.append((f"{name}: {', '.join(NOUNS)}", row))
sheet(rows, cell=80)

# %% [markdown]
# (The columns are the likeness to the first cat and to the second.) Read the two single LoRAs first, and there the *other's* word. The
# first was trained on `sks` and on "a cat", and never asked what `zwx` should do. Where it draws its own cat for that too, it has learned
# "a strange word means my cat", which is all that its photos said. Then look at both together: every layer has both changes, whatever the
# prompt, and only the word's vector decides how much of each is felt. Where each LoRA answers to its own word alone, the sum keeps them
# apart; what one takes of the other's word comes back as a mixture, a cat with something of both.
#
# How much do the two changes have in common? Their cosine says it, layer by layer: 0, nothing; 1, the same. Predict its sign. And a file
# of both: what rank has it? `merge_factors` is what HyperDreamBooth makes its file with, of the network's guess and the finetuning.

# %%
from hyperdreambooth import merge_factors

def change_of(lora, name):
    A, B = lora[name]
    return (A @ B).detach().flatten()

pairs = [(change_of(sd.lora, name), change_of(other.lora, name)) for name in sd.lora]
cosines = torch.stack([torch.cosine_similarity(*pair, dim=0) for pair in pairs])
print(f"cosine: {cosines.min():.2f} to {cosines.max():.2f}, mean {cosines.mean():.2f}")
merged = merge_factors([sd.lora, other.lora])
save_lora(out / "both.safetensors", merged)
one_file = load(out / "both.safetensors")
weights = zip(one_file.unet.parameters(), added["both"].unet.parameters())
difference = max((one - two).abs().max().item() for one, two in weights)
down, up = merged[LAYER]
print(f"one file for both: rank {len(down)}, its weights differ by {difference:.0e}")

# %% [markdown]
# Ranks add up: columns of both stand side by side in one A, rows of both in one B. And where the cosine is above 0 the two have learned
# something in common, which the sum has twice: both were taught that a strange word before "cat" is one certain cat. (It shows so clearly
# because both began from the same A, as the seed is the same; from another A the same lesson is written in other directions.)
#
# What to do where the words are mixed: load each at 0.7, take words and nouns that differ more, or teach one model both in one training,
# so that each is asked to leave the other alone (RECIPES.md has that for DreamBooth, in a few lines).
#
# ## The file
#
# What does another program need to know to use this? Which layer, A, B, and how much it counts. Predict how many tensors are in the file.

# %%
from files import load_tensors

tensors = load_tensors(files[cfg.rank])
print(f"{len(tensors)} tensors for {len(sd.lora)} layers; of one of them:")
print(LAYER)
for key, tensor in tensors.items():
    if key.startswith(LAYER):
        print(f"    {key.removeprefix(LAYER):18s} {tuple(tensor.shape)}")

# %% [markdown]
# Three a layer: `lora_down` is A and `lora_up` is B, both lying on their side, as torch has its weights; and `alpha`. The layer's name is
# the one inside the network, with `_` for `.`. All tools agree on the two matrices, and each spells the name in its own way. Here is one
# layer as kohya's scripts, peft, diffusers and older diffusers write it. What does `lora_file.py` make of them?

# %%
from lora_file import split_lora_name

place = "mid_block.attentions.0.transformer_blocks.0.attn2"
for spelling in (f"lora_unet_{place.replace('.', '_')}_to_v.lora_down.weight",
                 f"base_model.model.{place}.to_v.lora_A.weight",
                 f"unet.{place}.to_v.lora_A.weight",
                 f"unet.{place}.to_v.lora.down.weight",
                 f"{place}.processor.to_v_lora.down.weight"):
    layer, role = split_lora_name(spelling)
    print(f"{role} of {'the same layer' if layer == LAYER else layer}: {spelling}")

# %% [markdown]
# One and the same. It is kohya's that is written, since A1111, ComfyUI and diffusers all read it. Let diffusers prove it: its own
# pipeline, the tiny world's model and our file, from the same noise. Predict what differs.

# %%
import diffusers, transformers

for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
pipe = diffusers.StableDiffusionPipeline.from_pretrained(TINY)
pipe.set_progress_bar_config(disable=True)
pipe.load_lora_weights(files[cfg.rank])
prompt, steps = "a sks cat in the snow", cfg.sampling_steps
theirs = pipe(prompt, num_inference_steps=steps, guidance_scale=base.guidance,
              generator=torch.Generator().manual_seed(1)).images
ours = load(files[cfg.rank]).sample(prompt, steps=steps, seed=1)
print(f"largest difference: {distance(theirs[0], ours[0])} of 255")
sheet([("diffusers, here", [*theirs, *ours])], cell=64)

# %% [markdown]
# Nothing that can be seen. `tests/test_lora_dreambooth.py` asks the same of every change to this code.
#
# ## Exercises
#
# Fill in the answers and run both cells.
#
# 1. A layer has 320 inputs and 1,280 outputs. How many numbers has a LoRA of rank 4 beside it?
# 2. From which rank on has a LoRA beside that layer as many numbers as its W, or more? (Then it is a waste: no rank above 320 says more.)
# 3. A LoRA has been added to a model's weights at strength 0.7. At which strength must the same file be loaded to take it out again?
# 4. Write `halve`, which makes of {layer: (down, up)} the LoRA that does at strength 1 what the given one does at 0.5.

# %%
numbers_of_rank_4 = None
rank_of_no_gain = None
strength_to_undo = None
halve = None               # a function: lambda changes: ...

given = (numbers_of_rank_4, rank_of_no_gain, strength_to_undo, halve)
print(f"{sum(answer is not None for answer in given)} of {len(given)} answered")

# %%
layer, chance = torch.nn.Linear(320, 1280, bias=False), torch.Generator()
sizes = [numbers_of(start_lora({"it": layer}, rank, chance)) for rank in range(1, 321)]
rank_as_large = 1 + sum(size < layer.weight.numel() for size in sizes)

def differ(some, more):
    """Whether the model with these files and strengths is not the one with those."""
    models = [load() for _ in range(2)]
    for model, loads in zip(models, (some, more)):
        for path, strength in loads:
            model.load_lora(path, strength)
    weights = zip(*(model.unet.parameters() for model in models))
    return max((one - two).abs().max().item() for one, two in weights) > 1e-5

print(f"W has {layer.weight.numel():,}, a LoRA {sizes[0]:,} to {sizes[-1]:,} numbers")

# %%
def halves(answer):
    tensors = load_tensors(paths[0])
    changes = {layer: (tensors[f"{layer}.lora_down.weight"],
                       tensors[f"{layer}.lora_up.weight"]) for layer in sd.lora}
    save_lora(out / "half.safetensors", answer(changes))
    return not differ([(out / "half.safetensors", 1)], [(paths[0], 0.5)])

checks = {
    "numbers_of_rank_4": lambda answer: answer == sizes[4 - 1],
    "rank_of_no_gain": lambda answer: answer == rank_as_large,
    "strength_to_undo": lambda answer: not differ(
        [(paths[0], 0.7), (paths[0], answer)], []),
    "halve": halves,
}
for (question, is_right), answer in zip(checks.items(), given):
    said = "right" if answer is not None and is_right(answer) else "try again"
    print(f"{question}: {'not answered yet' if answer is None else said}")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `4 * (320 + 1280)`, which is 6,400.
# 2. 256: `256 * (320 + 1280)` is `320 * 1280`.
# 3. `-0.7`: loading is a sum, so it can be undone (up to rounding).
# 4. `lambda changes: {layer: (down / 2, up) for layer, (down, up) in changes.items()}`. One of the two, as they are multiplied: if both are
#    halved, a quarter is left.
#
# </details>
