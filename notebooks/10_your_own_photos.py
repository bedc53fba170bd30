# %% [markdown]
# # Your own photos, on a GPU
#
# ![](../figures/your_own_photos.jpg)
#
# From a folder with four photos (top) to Stable Diffusion with your dog in it, from the first cell to the last, on a card of 8 GB or more
# or in a free notebook with a T4. Without a GPU the same cells run the tiny world's model on one of its dogs: that is what the picture and
# the outputs below show, and a rehearsal. By the end you have a model of your own, know whether it learned your dog or your photos, and
# can take it elsewhere.
#
# In a notebook of someone else's machine (Colab, Kaggle) begin with a cell that fetches this repository:
#
#     !git clone https://github.com/<where you found this> personalization
#     %cd personalization/notebooks
#     !pip install -q -r ../requirements.txt

# %%
import os, sys
from pathlib import Path

sys.path.insert(0, "..")
import torch
from command import pick_device, pick_dtype
from pictures import load_pictures, sheet, square
from stable_diffusion import SUBJECTS, TINY, StableDiffusion

DEVICE = pick_device("auto")
GPU, DTYPE = DEVICE != "cpu", pick_dtype("auto", DEVICE)
MODEL = os.environ.get("MODEL") or (
    "stable-diffusion-v1-5/stable-diffusion-v1-5" if GPU else TINY)
PHOTOS = os.environ.get("PHOTOS") or ("my_dog" if GPU else str(SUBJECTS / "dog"))
NOUN = "dog"                      # what your subject is, in one word
OUT = "../runs/notebook_photos"
print(f"{Path(MODEL).name}, {Path(PHOTOS).name}, {NOUN}; on {DEVICE}, in {DTYPE}")

# %% [markdown]
# ## The photos
#
# Put three to six into the folder `my_dog` beside this notebook. Different places, different light, one subject: what all have in common
# is what will be learned, and if that is a sofa, the sofa is. Sharp, nothing cut off, at least as large as the pictures shall be.

# %%
photos = load_pictures(PHOTOS)
sheet([(f"{len(photos)} photos, {[photo.size for photo in photos]}", photos)])

# %% [markdown]
# ## What fits on this card
#
# Counted at 512 pixels (`benchmarks/memory.py`): the whole UNet takes 14 GB, 7.4 with moments in bfloat16, 5.5 with everything in it; a
# LoRA takes 2.9. CUDA itself wants half a gigabyte, and the display something. What would your card be given?

# %%
# From so many GB on:
MODES = ((15.5, "dreambooth", "plain"), (8.5, "dreambooth", "thrifty"),
         (6.5, "dreambooth", "lean"), (0, "lora_dreambooth", None))

def choose(memory):
    """The script for a card of so many GB, and its --memory."""
    return next((script, mode) for least, script, mode in MODES if memory >= least)

script, mode = "dreambooth", None  # where nothing is known of a card
if torch.cuda.is_available():
    memory = torch.cuda.mem_get_info()[1] / 1e9
    script, mode = choose(memory)
    print(f"a card of {memory:.1f} GB")
print(script, f"--memory {mode}" if mode else "with its defaults")

# %% [markdown]
# ## Train
#
# The defaults are those that the scripts choose for a model of this size; `python dreambooth.py -h` says what follows from changing one.
# If it is interrupted, add `resume=True` to the `Config` and run this cell again. Its last lines say the loss on the photos at little,
# middle and much noise. Where will it fall furthest?

# %%
import dreambooth, lora_dreambooth

FAST = "FAST" in os.environ
few = {"steps": 3, "class_images": 2, "sampling_steps": 2} if FAST else {}
method = {"dreambooth": dreambooth, "lora_dreambooth": lora_dreambooth}[script]
how = few | ({"memory": mode} if mode else {})
method.main(method.Config(model=MODEL, images=PHOTOS, class_name=NOUN, out=OUT, **how))

# %% [markdown]
# It falls everywhere, and furthest where much noise hides the picture: there the sentence is what the network has to go by.
#
# ## Look
#
# Left before, right after. Is it your dog, and does it go where you send it? If every picture is a photo that you know, it has learned too
# much: fewer `steps`, or half the `lr`. If it is any dog: more of either. The last row should still be any dog.

# %%
from PIL import Image
Image.open(Path(OUT) / "before_after.png")

# %% [markdown]
# Now your own sentences. The subject is always "sks", then the noun.

# %%
if script == "dreambooth":
    sd = StableDiffusion.from_pretrained(f"{OUT}/model", DEVICE, getattr(torch, DTYPE))
else:
    sd = StableDiffusion.from_pretrained(MODEL, DEVICE, getattr(torch, DTYPE))
    sd.load_lora(f"{OUT}/pytorch_lora_weights.safetensors")
prompts = [f"a photo of a sks {NOUN} on the beach",
           f"a watercolour painting of a sks {NOUN}"]
steps = few.get("sampling_steps", 25)
pictures = sd.sample(prompts, images=3, steps=steps, sampler="dpm++")
squares = [square(photo, sd.size) for photo in photos]
rows = [("the photos", squares), (prompts[0], pictures[:3]), (prompts[1], pictures[3:])]
if MODEL == TINY and not FAST:
    sheet(rows).save("../figures/your_own_photos.jpg")
sheet(rows)

# %% [markdown]
# ## How good is it?
#
# The papers' own figures, beside the papers' own: write a few prompts with `{}` for the subject into a file, and run in a terminal (it
# draws four pictures of each, and fetches 700 MB of DINO and CLIP once)
#
#     python fidelity.py --images my_dog --class-name dog --prompts prompts.txt \
#         --model runs/notebook_photos/model --drawn runs/fidelity
#
# Likeness by DINO of 0.57 is Textual Inversion's in DreamBooth's paper, 0.67 DreamBooth's, 0.77 that of photos among one another.
#
# And a question that needs no other network: what hangs on the word, and what has become of the noun? The loss on the photos at little,
# middle and much noise, with the word and without. Before the training the two lines were nearly the same. Which is lower now?

# %%
for words in (f"a photo of a sks {NOUN}", f"a photo of a {NOUN}"):
    print(f"{words:28s}", sd.loss_by_noise(squares, words))

# %% [markdown]
# The line with the word, above all at much noise: the word is what calls this dog. The smaller the gap, the more of what was learned
# belongs to every dog.
#
# ## Take it with you
#
# One file for A1111 and ComfyUI (2 GB for Stable Diffusion); the folder `model` opens in diffusers. The LoRA is a file already. Predict
# the size: how many bytes for each number of the networks?

# %%
if script == "dreambooth":
    whole = StableDiffusion.from_pretrained(f"{OUT}/model")
    whole.save_single_file(f"{OUT}/{NOUN}.safetensors")
numbers = sum(weight.numel() for network in sd.networks.values()
              for weight in network.parameters())
print(f"the networks have {numbers / 1e6:.1f} million numbers")
for name in (f"{NOUN}.safetensors", "pytorch_lora_weights.safetensors"):
    if (file := Path(OUT) / name).exists():
        print(file, f"{file.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# Two bytes in the one file, which is in float16 (for Stable Diffusion too). The LoRA has far fewer numbers than the networks.
#
# ## Exercises
#
# Fill in the answers and run both cells.
#
# 1. A phone's photo has 4000 x 3000 pixels. How many of its 4000 columns does the network see? (`square` in `pictures.py`)
# 2. What would `choose` give a card of 12 GB, and one of 6? A list of two names, such as "thrifty"; `None` for the LoRA.
# 3. How often is each of four photos seen, in the mean, in a training of Stable Diffusion by `dreambooth.py`'s defaults (`SETTINGS`)?

# %%
columns_seen = None
modes_of_two_cards = None
times_seen = None

given = (columns_seen, modes_of_two_cards, times_seen)
print(f"{sum(answer is not None for answer in given)} of {len(given)} answered")

# %%
ramp = Image.linear_gradient("L").rotate(90).resize((4000, 3000)).convert("RGB")
darkest, brightest = square(ramp, 512).getextrema()[0]
columns = 4000 * (brightest - darkest) / 255  # the ramp has 0 to 255 along 4000 columns
defaults = {name: large for name, (tiny, large) in dreambooth.SETTINGS.items()}
shown = defaults["steps"] * defaults["batch_size"]
checks = {
    "columns_seen": lambda answer: abs(answer - columns) < 50,
    "modes_of_two_cards": lambda answer: list(answer) == [choose(12)[1], choose(6)[1]],
    "times_seen": lambda answer: answer == shown / 4,
}
for (question, is_right), answer in zip(checks.items(), given):
    verdict = "right" if answer is not None and is_right(answer) else "try again"
    print(f"{question}: {'not answered yet' if answer is None else verdict}")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. 3000: the square in the middle, as high as the photo. What stands at the sides is cut away.
# 2. `["thrifty", None]`: for 6 GB the whole UNet is too large in each way, and the LoRA is left.
# 3. `steps * batch_size / 4`, which is 200 times.
#
# </details>
