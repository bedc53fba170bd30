# %% [markdown]
# # From a prompt to vectors
#
# ![](../figures/clip_text.jpg)
#
# Along each row the same noise, and in each column another word before "cat". One word does nothing, two decide how the cat looks, and
# one, `sks`, is waiting for a meaning. By the end you can say what a token is, what the table of words holds, what an identifier like
# `sks` is for the model, and what the unused places of a prompt do.
#
# The code is `clip_text.py`: it cuts a prompt into tokens and turns each into a vector that has read all tokens before it.

# %%
import inspect, os, sys

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from clip_text import CLIPText, Tokenizer
from pictures import sheet
from stable_diffusion import TINY, StableDiffusion
from tiny_world.world import CLASSES, COLOURS, FILLERS, IDENTIFIERS

torch.set_grad_enabled(False)  # nothing is trained here
FAST = "FAST" in os.environ  # the tests' form: what it draws is not worth looking at
sd = StableDiffusion.from_pretrained(TINY)
tokenizer = sd.tokenizer
print(f"{len(tokenizer):,} tokens, vectors of {sd.text.config.hidden_size} numbers,",
      f"{tokenizer.length} places in a prompt")

# %% [markdown]
# Frequent words are one token, rare ones fall into pieces. Which of these will?

# %%
names = {i: token for token, i in tokenizer.vocab.items()}
for prompt in ("a photo of a red cat", "a sks cat", "an axolotl, 3 metres long!",
               "Zürich 東京 🐱"):
    print(f"{prompt:28s}", *(names[i] for i in tokenizer.encode(prompt)))

# %% [markdown]
# The words of the tiny world are whole, and so is `sks`, which was put into the vocabulary on purpose. `</w>` marks the end of a word.
# Nothing is ever unknown: whatever is left falls into bytes, which are shown as letters (東 is the three bytes `æ Ŀ ±`).
#
# How did the vocabulary come about? From single bytes, a pair of neighbours at a time was merged, the most frequent first, and the
# list of merges was kept. Here is one word with the first n of them. In which order will the pieces of "teapot" have come together?

# %%
before = None
for n in range(len(tokenizer.merges) + 1):
    parts = Tokenizer(tokenizer.vocab, tokenizer.merges[:n]).merge("teapot")
    if parts != before:
        print(f"{n:5d} merges: ", *parts)
    before = parts

# %% [markdown]
# First the pairs that many words have ("ea", "ot" at an end), then those of this word alone, which is a common one in the tiny world.
#
# The network wants a row of ids, as many for every prompt. What fills the places after a short prompt?

# %%
ids = tokenizer("a red cat in the snow")
print(tuple(ids.shape), ids[0].tolist())
print(*(names[i] for i in ids[0, :10].tolist()), "...")

# %% [markdown]
# A start token, the prompt, the end token; and the end token again until 32 places are full (77 in Stable Diffusion).
#
# Each id picks a row of the table, a vector. The rows were learned from pictures and captions alone; nobody told the model which words are
# animals. Which will have ended up near each other? Dark: the same direction.

# %%
def row(word):
    return sd.text.table.weight[tokenizer.encode(word)[0]].cpu()

chosen = [*CLASSES, *COLOURS]
rows = F.normalize(torch.stack([row(word) for word in chosen]), dim=1)
cosines, n = rows @ rows.T, len(CLASSES)
plt.figure(figsize=(6.4, 5.6))
plt.imshow(cosines, cmap="Blues", vmin=-0.3, vmax=1)
plt.xticks(range(len(chosen)), chosen, rotation=90, fontsize=7)
plt.yticks(range(len(chosen)), chosen, fontsize=7)
apart = 1 - torch.eye(len(chosen))  # a word beside itself does not count
for name, part in (("two classes", np.s_[:n, :n]), ("two colours", np.s_[n:, n:]),
                   ("a class and a colour", np.s_[:n, n:])):
    print(f"{name:22s}{(cosines * apart)[part].sum() / apart[part].sum():5.2f}")

# %% [markdown]
# Colours lie near colours and things near things, the two kinds apart: words that stand in the same place of a caption, and
# change the picture in a like way.
#
# And the identifiers, `sks` and nine more? No caption had them, so no picture ever moved their rows. Are they longer or shorter than
# the words that were learned? And are they nearer to "nice" and "new", the words that say nothing to be seen, than classes and colours are?

# %%
fillers = torch.stack([row(word) for word in FILLERS]).mean(0)
for name, group in (("identifiers", IDENTIFIERS), ("fillers", FILLERS),
                    ("classes", CLASSES), ("colours", list(COLOURS))):
    vectors = torch.stack([row(word) for word in group])
    cosine = F.cosine_similarity(vectors, fillers[None]).mean()
    print(f"{name:12s} length {vectors.norm(dim=1).mean():.2f},",
          f"cosine with the mean filler {cosine:5.2f}")

# %% [markdown]
# Far shorter, and in the direction of the fillers. They do not lie there by chance: at the end of pretraining every unused word is put
# there (`quieten` in `tiny_world/pretrain.py`). A filler is silent; a short one is near the border of meaning something.
#
# Now the encoder. It is a transformer that lets a place see only what stands before it. So if the last word of a prompt changes, which
# places of the output change?

# %%
print(inspect.getsource(CLIPText.forward))
snow, jungle = sd.read(["a red cat in the snow"]), sd.read(["a red cat in the jungle"])
change = (snow - jungle).abs().amax(-1)[0].cpu()
for place in range(10):
    print(place, f"{names[ids[0, place].item()]:16s}",
          "same" if change[place] == 0 else f"changed by {change[place]:.2f}")

# %% [markdown]
# Everything from that word on, padding too: the places after the end have read the whole prompt. Do they matter? Take the vectors of one
# prompt, and put those of another in the place of its six words; or in the place of everything after them. Which of the two will
# change the UNet's answer more?

# %%
g = torch.Generator().manual_seed(0)
noise = torch.randn(2 if FAST else 8, 8, 16, 16, generator=g)

def moved(words, others):
    """How far apart the UNet's answers to pure noise are, as a share of the first."""
    one, other = (sd.denoise(noise, 999, said.expand(len(noise), -1, -1), guidance=1)
                  for said in (words, others))
    return ((one - other).norm() / one.norm()).item()

dog = sd.read(["a blue dog on the beach"])
for name, places in (("the six words", np.s_[1:7]), ("what comes after", np.s_[7:]),
                     ("both", np.s_[1:])):
    mixed = snow.clone()
    mixed[:, places] = dog[:, places]
    print(f"{name:17s} of another prompt: moved by {moved(snow, mixed):.2f}")

# %% [markdown]
# About as much. To the UNet the unused places are no rest: each has read the whole prompt, and is looked at like any other. That is why
# they are not masked.
#
# Last, the words before a noun. "nice" is a filler, "red" a colour. "balme" is a made-up name of the tiny world, as brands are in ours: in
# its captions such names stand for a look, this one for red with green stripes. Sort them by how much they will move the UNet's
# answer to "a photo of a cat". And where will `sks` be?

# %%
plain = sd.read(["a photo of a cat"])
for word in ("nice", "sks", "balme", "red"):
    told = sd.read([f"a photo of a {word} cat"])
    print(f"{word:6s} moved by {moved(plain, told):.3f}")

# %% [markdown]
# "nice" does nothing, and `sks` no more. A colour and a name move it about as far as a whole other prompt did. Now draw, each row from a
# noise of its own. What will "a sks cat" be: the cat without the word, or one and the same cat in all rows?

# %%
words = ("", "nice ", "sks ", "balme ", "red ")
prompts = [f"a photo of a {word}cat" for word in words]
drawn = sd.sample(prompts, images=3, steps=2 if FAST else 15, sampler="dpm++", seed=5)
title = " | ".join(word + "cat" for word in words)
result = sheet([(title if i == 0 else "", drawn[i::3]) for i in range(3)], cell=96)
if not FAST:
    result.save("../figures/clip_text.jpg")
result

# %% [markdown]
# The cat without the word. The first three columns are alike to the eye: "nice" and `sks` are silent. The last two are what they say, whatever
# the noise. But the two silent words differ: "nice" has been used so often that the model is sure of it, and `sks` is as short as a vector
# can be that says nothing. A small change makes it a word that is heard. That makes it free to be bound, and DreamBooth gives it a meaning.
#
# ## Exercises
#
# Fill in the answers and run the cell.
#
# 1. How many tokens of a prompt can carry words?
# 2. Into how many tokens does "teapots" fall?
# 3. Which class has the table's row nearest to that of "cat"?
# 4. Which of the ten `IDENTIFIERS` moves the UNet's answer to "a photo of a cat" least?

# %%
room = None
pieces = None
nearest = None         # a word
quietest = None        # a word

like_cat = dict(zip(CLASSES, cosines[chosen.index("cat")].tolist()))
like_cat.pop("cat")
told = {word: sd.read([f"a photo of a {word} cat"]) for word in IDENTIFIERS}
moves = {word: moved(plain, told[word]) for word in IDENTIFIERS}
long = sd.tokenizer("cat " * 100)[0].tolist()
for name, answer, right in (
        ("room", room, long.count(tokenizer.vocab["cat</w>"])),
        ("pieces", pieces, len(tokenizer.encode("teapots"))),
        ("nearest", nearest, max(like_cat, key=like_cat.get)),
        ("quietest", quietest, min(moves, key=moves.get))):
    verdict = "right" if answer == right else "try again"
    print(name, "not answered yet" if answer is None else verdict)

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. 30, all but the start and one end; in Stable Diffusion 75.
# 2. `len(tokenizer.encode("teapots"))`: 2, "teap" and "ots".
# 3. `[chosen[i] for i in cosines[chosen.index("cat")].argsort(descending=True).tolist()][1]`: the dog.
# 4. `min(IDENTIFIERS, key=lambda word: moved(plain, sd.read([f"a photo of a {word} cat"])))`. All are
#    nearly silent, each up to its own length.
#
# </details>
