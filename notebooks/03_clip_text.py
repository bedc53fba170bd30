# %% [markdown]
# # From a prompt to vectors
#
# `clip_text.py` cuts a prompt into tokens and turns each into a vector that has read all words before it. By the end you can say what a
# token is, what the table of words holds, what an identifier like `sks` is for the model, and what the unused 24 places of a prompt do.

# %%
import sys

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from clip_text import BYTES, words
from stable_diffusion import TINY, StableDiffusion
from tiny_world.world import CLASSES, COLOURS, IDENTIFIERS

torch.set_grad_enabled(False)  # nothing is trained here

sd = StableDiffusion.from_pretrained(TINY)
tokenizer, text = sd.tokenizer, sd.text
print(f"{len(tokenizer):,} tokens, vectors of {text.config.hidden_size} numbers, {tokenizer.length} places in a prompt")

# %% [markdown]
# Frequent words are one token, rare ones fall into pieces. Which of these will?

# %%
names = {i: t for t, i in tokenizer.vocab.items()}
for prompt in ("a photo of a red cat", "a sks cat", "an axolotl, 3 metres long!", "Zürich 東京 🐱"):
    print(f"{prompt:28s}", [names[i] for i in tokenizer.encode(prompt)])

# %% [markdown]
# `</w>` marks the end of a word. Nothing is ever unknown: whatever is left falls into bytes. How does a word become tokens? From its
# bytes, the pair that was learned earliest is merged first, until no pair is left:

# %%
parts = [BYTES[b] for b in "teapot".encode()]
parts[-1] += "</w>"
while True:
    print(" ".join(parts))
    ranked = [(tokenizer.rank[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in tokenizer.rank]
    if not ranked: break
    i = min(ranked)[1]
    parts[i:i + 2] = ["".join(parts[i:i + 2])]

# %% [markdown]
# A row of ids: start, prompt, end, and the end token again until 32 places are full (77 in Stable Diffusion).

# %%
ids = tokenizer("a red cat in the snow")
print(tuple(ids.shape), ids[0].tolist())

# %% [markdown]
# Each id picks a row of the table. These rows were learned with nothing but pictures and captions. Which words have ended up near each
# other? Dark: the same direction.

# %%
chosen = [*CLASSES, *COLOURS]
rows = F.normalize(text.table.weight[[tokenizer.encode(w)[0] for w in chosen]], dim=1)
plt.figure(figsize=(6.4, 5.6))
plt.imshow(rows @ rows.T, cmap="Blues", vmin=-0.3, vmax=1)
plt.xticks(range(len(chosen)), chosen, rotation=90, fontsize=7), plt.yticks(range(len(chosen)), chosen, fontsize=7);

# %% [markdown]
# And the identifiers, `sks` and nine more? No caption had them, so no picture ever moved their rows. Are they longer or shorter than
# words that were learned?

# %%
lengths = text.table.weight.norm(dim=1)
pick = lambda which: [round(lengths[tokenizer.encode(w)[0]].item(), 2) for w in which]
print("identifiers", pick(IDENTIFIERS[:6]))
print("classes    ", pick(CLASSES[:6]))
print("colours    ", pick(list(COLOURS)[:6]))

# %% [markdown]
# The encoder is causal: a place sees only what stands before it. So if the last word changes, which places of the output change?

# %%
a, b = sd.read(["a red cat in the snow"]), sd.read(["a red cat in the jungle"])
change = (a - b).abs().amax(-1)[0]
for place in range(10):
    print(place, f"{names[ids[0, place].item()]:16s}", "same" if change[place] == 0 else f"changed by {change[place]:.2f}")

# %% [markdown]
# Everything from that word on, padding too: the places after the end have read the whole prompt, and the UNet looks at them as at any
# other. That is why they are not masked.
#
# One token can have several senses for the UNet, since its vector has read its neighbours. How far does the vector of "cat" move when a
# word is put before it?

# %%
def cat_in(prompt):
    place = tokenizer(prompt)[0].tolist().index(tokenizer.encode("cat")[0])
    return sd.read([prompt])[0, place]
plain = cat_in("a photo of a cat")
for prompt in ("a photo of a sks cat", "a photo of a nice cat", "a photo of a red cat", "a pencil sketch of a cat"):
    print(f"{prompt:28s} cosine {F.cosine_similarity(plain, cat_in(prompt), dim=0):.3f}")

# %% [markdown]
# `sks` moves it about as little as "nice" does: an unknown word before the noun changes next to nothing. That is what makes it free to
# be bound.
#
# ## Exercises
#
# 1. Into how many tokens does "teapots" fall?
# 2. How many tokens of a prompt can carry words?
# 3. Which class has the table's row nearest to that of "cat"?

# %%
pieces = None
room = None
nearest = None

similar = dict(zip(chosen, (rows @ rows[chosen.index("cat")]).tolist()))
best = max((c for c in CLASSES if c != "cat"), key=similar.get)
if pieces is not None: assert pieces == len(tokenizer.encode("teapots"))
if room is not None: assert room == tokenizer.length - 2
if nearest is not None: assert nearest == best
print("answered:", [a for a in (pieces, room, nearest) if a is not None])

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `len(tokenizer.encode("teapots"))`
# 2. 30; in Stable Diffusion 75.
# 3. `best`, two lines up.
#
# </details>
