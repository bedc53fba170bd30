# %% [markdown]
# # LoRA DreamBooth: the cat in a small file
#
# ![](../figures/lora_dreambooth.jpg)
#
# The same photos, the same prompts, the same loss as in the DreamBooth notebook, and no weight of the model changes. By the end you can
# say what a low rank is, what it costs, and what can be done with a subject that lies in a file of its own: turned up and down, and added
# to another.
#
# Everything runs on a laptop's CPU, on the tiny world's model. The code is `lora_dreambooth.py`; nothing here is a copy of it.

# %%
import inspect, os, sys
from dataclasses import replace

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import torch

import lora_dreambooth
from dreambooth import PROMPTS
from lora_dreambooth import Config, adapted_layers, prepare, train
from pictures import load_pictures, sheet

# The tests run this notebook in a minute; what they draw is not worth looking at.
FAST = "FAST" in os.environ
few = {"steps": 3, "class_images": 4, "sampling_steps": 3} if FAST else {}
sd, cfg, photos = prepare(Config(out="../runs/notebook_lora", **few))
sheet([("the subject", photos)])

# %% [markdown]
# Which layers get a product beside them? Every attention's four, the GEGLUs of the UNet, and here the text encoder's attentions too. Of
# all the numbers that DreamBooth moves, how many are trained now? Guess the share before you run the cell.

# %%
layers = adapted_layers(sd)
whole = sum(p.numel() for network in (sd.unet, sd.text) for p in network.parameters())
for rank in (1, 4, cfg.rank, 16):
    thin = rank * sum(one.in_features + one.out_features for one in layers.values())
    print(f"rank {rank:2d}: {thin:7,} numbers beside {len(layers)} layers, "
          f"{thin / whole:.1%} of {whole:,}")

# %% [markdown]
# The whole method is these lines. A starts random, B at zero. What does the model draw at step 0, and why may not both start at zero?

# %%
print(inspect.getsource(lora_dreambooth.start_lora))
print(inspect.getsource(lora_dreambooth.put_beside))

# %% [markdown]
# At step 0 the product is zero, so the model draws as ever. The gradient of A goes through B and that of B through A: were both zero,
# neither would ever move.

# %%
def draw(sd, prompt, n=3):
    how = {"steps": cfg.sampling_steps, "sampler": "dpm++", "seed": 1}
    return sd.sample(prompt, images=n, **how)

prompts = [prompt.format("sks cat") for prompt in PROMPTS]
before = {prompt: draw(sd, prompt) for prompt in prompts}
for log in train(sd, cfg, photos):
    pass
rows = [("the subject", photos)]
rows += [(prompt, [*before[prompt], None, *draw(sd, prompt)]) for prompt in prompts]
result = sheet(rows)
if not FAST:
    result.save("../figures/lora_dreambooth.jpg")
result

# %% [markdown]
# Where did it change the model? For each layer, how large the product is beside the weight. Before you look: where are the changes
# larger, in the attention to the picture itself (attn1) or to the words (attn2)?

# %%
scale = cfg.alpha / cfg.rank
change = {name: scale * (A @ B).detach().T for name, (A, B) in sd.lora.items()}
size = {name: (change[name].norm() / one.weight.norm()).item()
        for name, one in layers.items()}
kinds = {"attn1": "_attn1_", "attn2": "_attn2_", "GEGLU": "_ff_", "text": "lora_te_"}
for kind, part in kinds.items():
    places = [i for i, name in enumerate(size) if part in name]
    plt.bar(places, [[*size.values()][i] for i in places], label=kind)
plt.xlabel("layer, from the first to the last; then the text encoder's")
plt.ylabel("|change| / |weight|"), plt.legend(), plt.gcf().set_size_inches(9, 3);

# %% [markdown]
# A product of rank 8 has eight directions. Does it use them all? The singular values of some layers' changes, each as a share of its
# largest.

# %%
for name in sorted(size, key=size.get)[-6:]:
    values = torch.linalg.svdvals(change[name])[:cfg.rank]
    plt.plot(range(1, cfg.rank + 1), values / values[0], "o-", label=name[5:])
plt.xlabel("direction"), plt.ylabel("singular value / the first")
plt.legend(fontsize=7), plt.gcf().set_size_inches(9, 3.5);

# %% [markdown]
# So how much rank does a cat need? The judge's answer for rank 1, 4 and 16, each trained with the same seed: likeness 0 is any cat, 1 is
# this one; obedience is the share of prompts that were drawn as asked. (One cat is an anecdote; compare.py asks many subjects.)

# %%
from measure import make_scale, measure, shipped_subject
from tiny_world.judge import Judge

judge, cat = Judge.load(), shipped_subject("cat")
scales, learned = {"cat": make_scale(judge, cat.who)}, {cfg.rank: sd}
for rank in (1, 4, 16):
    model, *rest = prepare(replace(cfg, rank=rank, alpha=0.0))
    for log in train(model, *rest):
        pass
    learned[rank] = model
for rank, model in sorted(learned.items()):
    result, _ = measure(judge, model, "sks cat", cat, scales)
    print(f"rank {rank:2d}: likeness {result['likeness']:5.2f}   "
          f"obedience {result['obedience']:.2f}")
sheet([(f"rank {rank}: {prompts[0]}", draw(model, prompts[0], 6))
       for rank, model in sorted(learned.items())])

# %% [markdown]
# The subject is a file now, and can be added to the model in any strength: W + strength x A B. What will half of it draw, and what one
# and a half?

# %%
from pathlib import Path
from lora_file import save_lora
from stable_diffusion import SUBJECTS, StableDiffusion

def save(sd, path):
    save_lora(path, {name: (A.detach().T, B.detach().T)
                     for name, (A, B) in sd.lora.items()})
    return path

def with_loras(*files):
    model = StableDiffusion.from_pretrained(cfg.model, sd.device)
    for file, strength in files:
        model.load_lora(file, strength)
    return model

of_cat = save(sd, Path(cfg.out) / "cat.safetensors")
print(f"{of_cat.stat().st_size:,} bytes")

# %%
strengths, rows = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5), []
models = [with_loras((of_cat, strength)) for strength in strengths]
for prompt in ("a photo of a sks cat", *prompts):
    pictures = [picture for model in models for picture in draw(model, prompt, 1)]
    rows.append((f"{prompt}: strength {strengths}", pictures))
sheet(rows)

# %% [markdown]
# And two subjects at once? Learn a teapot, and add both files. Both are called `sks`: the noun says which.

# %%
teapot = replace(cfg, images=str(SUBJECTS / "teapot"), class_name="teapot")
model, *rest = prepare(teapot)
for log in train(model, *rest):
    pass
of_teapot = save(model, Path(cfg.out) / "teapot.safetensors")
rows = [("the teapot", load_pictures(teapot.images))]
for name, files in (("the cat's file", [(of_cat, 1.0)]),
                    ("the teapot's", [(of_teapot, 1.0)]),
                    ("both", [(of_cat, 1.0), (of_teapot, 1.0)]),
                    ("both, 0.7 of each", [(of_cat, 0.7), (of_teapot, 0.7)])):
    both = with_loras(*files)
    rows.append((f"{name}: a sks cat in the snow | a sks teapot in the snow",
                 [*draw(both, "a sks cat in the snow"), None,
                  *draw(both, "a sks teapot in the snow")]))
sheet(rows)

# %% [markdown]
# ## Exercises
#
# Each answer is checked against what the cell works out.
#
# 1. How many numbers does rank 1 train beside the UNet of Stable Diffusion 1.5 (no text encoder)? `adapted_layers` knows.
# 2. What rank can the sum of the cat's and the teapot's change have, at most?
# 3. B is trained 10 times as large and A stays. By what must `alpha` be multiplied for the same pictures?

# %%
numbers_at_rank_1 = None
rank_of_both = None
factor_of_alpha = None

# %%
from types import SimpleNamespace
from tiny_unet import UNet

def check(name, answer, right):
    verdict = "right" if answer == right else "try again"
    print(name, "not answered yet" if answer is None else verdict)

with torch.device("meta"):
    large = SimpleNamespace(unet=UNet(), text=torch.nn.Module())
sizes = [one.in_features + one.out_features for one in adapted_layers(large).values()]
check("numbers_at_rank_1", numbers_at_rank_1, sum(sizes))
A, B = torch.randn(2, 64, cfg.rank), torch.randn(2, cfg.rank, 64)
check("rank_of_both", rank_of_both, torch.linalg.matrix_rank((A @ B).sum(0)).item())
louder = (A @ (10 * B)).norm() / (A @ B).norm()
check("factor_of_alpha", factor_of_alpha, round(1 / louder.item(), 3))

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `311_616`
# 2. 16: ranks add up at most.
# 3. 0.1
#
# </details>
