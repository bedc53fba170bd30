# %% [markdown]
# # Textual Inversion: find the word, change nothing else
#
# ![](../figures/textual_inversion.jpg)
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
import textual_inversion
from measure import make_scale, measure, shipped_subject
from pictures import sheet
from stable_diffusion import StableDiffusion
from textual_inversion import PROMPTS, TEMPLATES, Config, nearest_words, prepare, train
from tiny_world.judge import Judge

FAST = "FAST" in os.environ  # the tests run this notebook in a minute; what they draw is not worth looking at
cfg = Config(out="../runs/notebook", **({"steps": 4, "sampling_steps": 3} if FAST else {}))
trained, cfg, photos = prepare(cfg)
sd = StableDiffusion.from_pretrained(cfg.model, trained.device)  # the model as it was, beside
print(f"{cfg.steps} steps of {cfg.batch_size} pictures at a learning rate of {cfg.lr}")

# %% [markdown]
# The same cat as in the DreamBooth notebook. There the whole network moved. How many numbers must move if the model can draw such a cat
# already, and only lacks a name for it?

# %%
total = sum(p.numel() for part in (sd.unet, sd.text, sd.vae) for p in part.parameters())
width = sd.text.config.hidden_size
print(f"a word: {width} numbers of {total:,}, {width / total:.4%}")
sheet([("the subject", photos)])

# %% [markdown]
# A word is a row of the text encoder's table. Rows are points in space, and between two of them are others that no word has. What does
# the model make of a point halfway between "cat" and "robot"?

# %%
def row(word):
    return sd.text.table.weight[sd.tokenizer.encode(word)].detach()

def draw(sd, prompt, n=6):
    return sd.sample(prompt, images=n, steps=cfg.sampling_steps, sampler="dpm++", seed=1)

mixed = StableDiffusion.from_pretrained(cfg.model, sd.device)
mixed.add_word("<between>", (row("cat") + row("robot")) / 2)
prompts = [f"a photo of a {word}" for word in ("cat", "<between>", "robot")]
sheet([(prompt, draw(mixed, prompt)) for prompt in prompts])

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
def look(step):
    looks[step] = draw(trained, "a photo of a <it>", 3)
    [near[step]] = nearest_words(trained, ids)

ids, before = trained.tokenizer.encode("<it>"), trained.text.table.weight.detach().clone()
looks, near, logs = {}, {}, []
look(0)
for log in train(trained, cfg, photos):
    logs.append(log)
    if log["step"] in (20, 50, 100, 200, cfg.steps):
        look(log["step"])
for step, words in near.items():
    print(f"step {step:3d}: " + ", ".join(f"{word} {cosine:.2f}" for word, cosine in words))

# %% [markdown]
# The neighbours: the tiny world's captions have made-up names for looks. Their beginning is the colour (do- orange, po- brown, ba- red),
# their middle the second colour (-st- black, -tw- white), their end the pattern (-o patches). Which one of the list is the cat? It turns
# up on the way; the end of the search is no word's neighbour: it lies between all of them.

# %%
rows = [(f'"a photo of a <it>", step {step}', pictures) for step, pictures in looks.items()]
result = sheet([("the subject", photos), *rows])
if not FAST:
    result.save("../figures/textual_inversion.jpg")
result

# %% [markdown]
# The length of the vector. Nine in ten words of the vocabulary lie between the outer dotted lines; "cat", which says so much, is longer.
# A vector far outside is a word that shouts: the others of the sentence are heard less. Look here first when an inversion stops obeying.

# %%
vocabulary, losses = before[:-1].norm(dim=1), [log["loss"] for log in logs]
windows = [losses[max(0, i - 20):i + 1] for i in range(len(losses))]
smooth = [sum(window) / len(window) for window in windows]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.5))
left.plot([log["length"] for log in logs]), left.set_xlabel("step"), left.set_ylabel("length of v")
for share in (0.05, 0.5, 0.95):
    left.axhline(vocabulary.quantile(share).item(), ls=":", color="grey")
right.plot(smooth), right.set_xlabel("step"), right.set_ylabel("loss, mean of 20 steps")
figure.tight_layout()

# %% [markdown]
# Did anything else move? Predict, then compare every number with what it was.

# %%
pairs = [*zip(sd.unet.parameters(), trained.unet.parameters()),
         *zip(sd.vae.parameters(), trained.vae.parameters())]
print("UNet and VAE the same to the bit:", all(torch.equal(a, b) for a, b in pairs))
rows = (before != trained.text.table.weight).any(1).nonzero().flatten().tolist()
print("rows of the table that moved:", rows, "| the new word is row", ids)

# %% [markdown]
# What it can do: another place, another colour, a hat. Left the word's copy of "cat" before training, right the word that was found.

# %%
rows = []
for prompt in PROMPTS:
    old, new = draw(sd, prompt.format("cat"), 3), draw(trained, prompt.format("<it>"), 3)
    rows.append((prompt.format("<it>"), [*old, None, *new]))
sheet(rows)

# %% [markdown]
# The knob. The paper's ablation: a higher learning rate is more like the photos and obeys less, a lower one the reverse. The tiny world's
# judge can measure both: likeness 0 is any cat, 1 is this one; obedience is the share of prompts that were drawn as asked.

# %%
judge, cat = Judge.load(), shipped_subject("cat")
scales = {"cat": make_scale(judge, cat.who)}
for lr in (1e-3, 1e-2, 3e-2, 1e-1):
    model, *rest = prepare(replace(cfg, lr=lr))
    *_, log = train(model, *rest)
    result, _ = measure(judge, model, "<it>", cat, scales)
    print(f"lr {lr:5.3f}   length {log['length']:6.2f}   likeness {result['likeness']:5.2f}   "
          f"obedience {result['obedience']:.2f}")

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
