# %% [markdown]
# # Textual Inversion: find the word, change nothing else
#
# ![](textual_inversion.jpg)
#
# Top: the photos. Below: one sentence while its one new word is being found. By the end you can say what a word is to the model, what
# becomes of its length, which old words the new one is like, and why one knob trades likeness for obedience.
#
# Everything runs on a laptop's CPU, on the tiny world's model. The code is `textual_inversion.py`; nothing here is a copy of it.

# %%
import inspect, os, sys
from dataclasses import replace

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import torch

import compare
import textual_inversion
from textual_inversion import PROMPTS, TEMPLATES, Config, StableDiffusion, load_pictures, nearest_words, train
from tiny_world import SUBJECTS, sheet
from tiny_world.judge import Judge

FAST = "FAST" in os.environ  # the tests run this notebook in a minute; what they draw is not worth looking at
STEPS = 4 if FAST else 300
cfg = Config(steps=STEPS, sampling_steps=3 if FAST else 25, out="../runs/notebook")
settled = textual_inversion.settle(cfg, sd := StableDiffusion.from_pretrained(cfg.model))
print(f"{settled.steps} steps of {settled.batch_size} pictures at a learning rate of {settled.lr}")

# %% [markdown]
# The same cat as in the DreamBooth notebook. There the whole network moved. How many numbers must move if the model can draw such a cat
# already, and only lacks a name for it?

# %%
photos = load_pictures(SUBJECTS / "cat")
total = sum(p.numel() for part in (sd.unet, sd.text, sd.vae) for p in part.parameters())
print(f"a word: {sd.text.config.hidden_size} numbers of {total:,}, {sd.text.config.hidden_size / total:.4%}")
sheet([("the subject", photos)])

# %% [markdown]
# A word is a row of the text encoder's table. Rows are points in space, and between two of them are others that no word has. What does
# the model make of a point halfway between "cat" and "robot"?

# %%
row = lambda word: sd.text.table.weight[sd.tokenizer.encode(word)].detach()
mixed = StableDiffusion.from_pretrained(cfg.model)
mixed.add_word("<between>", (row("cat") + row("robot")) / 2)
draw = lambda sd, prompt, n=6: sd.sample(prompt, images=n, steps=cfg.sampling_steps, sampler="dpm++", seed=1)
sheet([(f"a photo of a {word}", draw(mixed, f"a photo of a {word}")) for word in ("cat", "<between>", "robot")])

# %% [markdown]
# So the search: start at "cat" and follow the gradient of the model's own loss, with everything but this row frozen. Find the line
# through which the gradient enters.

# %%
print(inspect.getsource(textual_inversion.read_with), inspect.getsource(textual_inversion.inversion_loss), sep="\n")

# %% [markdown]
# If every photo came with the sentence "a photo of a <it>", the word would have to hold the beach and the grass too. So each step takes
# one of 27 sentences, which say different things about how the picture was taken and nothing of what is in it.

# %%
print(len(TEMPLATES), "sentences:", " / ".join(TEMPLATES[:6]), "/ ...")

# %% [markdown]
# Train, and at some steps note three things: a picture from fixed noise, the vector's length, and the old words it points the same way as.

# %%
torch.manual_seed(0)
looks, losses, lengths, near = {}, [], [], {}
for trained, log in train(cfg):
    if log["step"] == 0:
        ids, before = log["ids"], trained.text.table.weight.detach().clone()
        frozen = {name: p.detach().clone() for part in (trained.unet, trained.vae) for name, p in part.named_parameters()}
    else:
        losses.append(log["loss"]), lengths.append(log["norm"])
    if log["step"] in (0, 20, 50, 100, 200, STEPS):
        looks[log["step"]] = draw(trained, "a photo of a <it>", 3)
        near[log["step"]] = nearest_words(trained, ids)[0]
for step, words in near.items():
    print(f"step {step:3d}: " + ", ".join(f"{word} {cosine:.2f}" for word, cosine in words))

# %% [markdown]
# The neighbours: the tiny world's captions have made-up names for looks. Their beginning is the colour (do- orange, po- brown, ba- red),
# their middle the second colour (-st- black, -tw- white), their end the pattern (-o patches). Which one of the list is the cat? It turns
# up on the way; the end of the search is no word's neighbour: it lies between all of them.

# %%
progress = sheet([("the subject", photos), *((f'"a photo of a <it>", step {step}', looks[step]) for step in looks)])
progress.save("textual_inversion.jpg") if not FAST else None
progress

# %% [markdown]
# The length of the vector. Nine in ten words of the vocabulary lie between the outer dotted lines; "cat", which says so much, is longer.
# A vector far outside is a word that shouts: the others of the sentence are heard less. Look here first when an inversion stops obeying.

# %%
vocabulary = before[:-1].norm(dim=1)
smooth = [sum(losses[max(0, i - 20):i + 1]) / len(losses[max(0, i - 20):i + 1]) for i in range(len(losses))]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.5))
left.plot(lengths), left.set_xlabel("step"), left.set_ylabel("length of v")
for share in (0.05, 0.5, 0.95):
    left.axhline(vocabulary.quantile(share).item(), ls=":", color="grey")
right.plot(smooth), right.set_xlabel("step"), right.set_ylabel("loss, mean of 20 steps")
figure.tight_layout()

# %% [markdown]
# Did anything else move? Predict, then compare every number with what it was.

# %%
after = {name: p for part in (trained.unet, trained.vae) for name, p in part.named_parameters()}
print("UNet and VAE the same to the bit:", all(torch.equal(frozen[name], after[name]) for name in frozen))
rows = (before != trained.text.table.weight).any(1).nonzero().flatten().tolist()
print("rows of the table that moved:", rows, "| the new word is row", ids)

# %% [markdown]
# What it can do: another place, another colour, a hat. Left the word's copy of "cat" before training, right the word that was found.

# %%
sheet([(prompt.format("<it>"), draw(sd, prompt.format("cat"), 3) + [None] + draw(trained, prompt.format("<it>"), 3)) for prompt in PROMPTS])

# %% [markdown]
# The knob. The paper's ablation: a higher learning rate is more like the photos and obeys less, a lower one the reverse. The tiny world's
# judge can measure both: likeness 0 is any cat, 1 is this one; obedience is the share of prompts that were drawn as asked.

# %%
judge, cat = Judge.load(), compare.shipped("cat")
scales = {"cat": compare.scale(judge, cat.who)}
for lr in (1e-3, 1e-2, 3e-2, 1e-1):
    for model, log in train(replace(cfg, lr=lr)):
        pass
    found, _ = compare.measure(judge, model, "<it>", cat, scales)
    print(f"lr {lr:5.3f}   length {log['norm']:6.2f}   likeness {found['likeness']:5.2f}   obedience {found['obedience']:.2f}")

# %% [markdown]
# ## Exercises
#
# 1. How many numbers does `--vectors 3` train on this model?
# 2. The file `learned_embeds.safetensors` of one vector holds float32: how many bytes of numbers?
# 3. AdamW's weight decay would pull on every row if the whole table were its parameter. Which rows does it pull on here?

# %%
numbers_of_three = None
bytes_of_one = None
rows_that_decay = None  # a list

for name, answer, right in (("numbers_of_three", numbers_of_three, 384), ("bytes_of_one", bytes_of_one, 512),
                            ("rows_that_decay", rows_that_decay, ids)):
    print(name, "not answered yet" if answer is None else "right" if answer == right else "try again")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `3 * 128 = 384`
# 2. `128 * 4 = 512`
# 3. Only the new word's, `ids`: the parameter is the vector alone.
#
# </details>
