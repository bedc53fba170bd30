# %% [markdown]
# # Your own photos, on a GPU
#
# From a folder with four photos to Stable Diffusion with your dog in it, from the first cell to the last, on a card of 8 GB or more or in
# a free notebook with a T4. Without a GPU the same cells run the tiny world's model on one of its dogs: that is what the outputs below
# show, and a rehearsal.
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
from command import pick_device
from pictures import load_pictures, sheet
from stable_diffusion import SUBJECTS, TINY

GPU = pick_device("auto") != "cpu"
MODEL = os.environ.get("MODEL") or (
    "stable-diffusion-v1-5/stable-diffusion-v1-5" if GPU else TINY)
PHOTOS = os.environ.get("PHOTOS") or ("my_dog" if GPU else str(SUBJECTS / "dog"))
NOUN = "dog"                      # what your subject is, in one word
OUT = "../runs/notebook_photos"
print(Path(MODEL).name, Path(PHOTOS).name, NOUN)

# %% [markdown]
# ## The photos
#
# Put four to six into the folder `my_dog` beside this notebook. Different places, different light, one subject: what all have in common
# is what will be learned, and if that is a sofa, the sofa is. Sharp, nothing cut off, at least as large as the pictures shall be.

# %%
photos = load_pictures(PHOTOS)
sheet([(f"{len(photos)} photos, {[photo.size for photo in photos]}", photos)])

# %% [markdown]
# ## What fits on this card
#
# Counted at 512 pixels (`benchmarks/memory.py`): the whole UNet takes 14 GB, 7.4 with moments in bfloat16, 5.5 with everything in it; a
# LoRA takes 2.9. CUDA itself wants half a gigabyte, and the display something.

# %%
MODES = ((15.5, "dreambooth", "plain"), (8.5, "dreambooth", "thrifty"),
         (6.5, "dreambooth", "lean"), (0, "lora_dreambooth", None))
memory = torch.cuda.mem_get_info()[1] / 1e9 if torch.cuda.is_available() else None
if memory is None:
    script, mode = "dreambooth", None
else:
    script, mode = next(mode[1:] for mode in MODES if memory >= mode[0])
print(f"{memory or 0:.1f} GB: {script}" + (f" --memory {mode}" if mode else ""))

# %% [markdown]
# ## Train
#
# The defaults are those that the scripts choose for a model of this size; `python dreambooth.py -h` says what follows from changing one.
# If it is interrupted, run this cell again with `resume=True`.

# %%
import dreambooth, lora_dreambooth

FAST = "FAST" in os.environ
FEW = {"steps": 3, "class_images": 2, "sampling_steps": 2} if FAST else {}
method = {"dreambooth": dreambooth, "lora_dreambooth": lora_dreambooth}[script]
how = FEW | ({"memory": mode} if mode else {})
method.main(method.Config(model=MODEL, images=PHOTOS, class_name=NOUN, out=OUT, **how))

# %% [markdown]
# ## Look
#
# Left before, right after. Is it your dog, and does it go where you send it? If every picture is a photo that you know, it has learned too
# much: fewer `steps`, or half the `lr`. If it is any dog: more of either.

# %%
from PIL import Image
Image.open(Path(OUT) / "before_after.png")

# %% [markdown]
# Now your own sentences. The subject is always "sks", then the noun.

# %%
from stable_diffusion import StableDiffusion

dtype = torch.float16 if GPU else torch.float32
if script == "dreambooth":
    sd = StableDiffusion.from_pretrained(f"{OUT}/model", pick_device("auto"), dtype)
else:
    sd = StableDiffusion.from_pretrained(MODEL, pick_device("auto"), dtype)
    sd.load_lora(f"{OUT}/pytorch_lora_weights.safetensors")
prompts = [f"a photo of a sks {NOUN} on the beach",
           f"a watercolour painting of a sks {NOUN}"]
steps = FEW.get("sampling_steps", 25)
pictures = sd.sample(prompts, images=3, steps=steps, sampler="dpm++")
sheet([(prompts[0], pictures[:3]), (prompts[1], pictures[3:])])

# %% [markdown]
# ## How good is it?
#
# The papers' own figures, beside the papers' own: write a few prompts with `{}` for the subject into a file, and run in a terminal (it
# draws four pictures of each, and fetches 700 MB of DINO and CLIP once)
#
#     python fidelity.py --images my_dog --class-name dog --prompts prompts.txt \
#         --model runs/notebook_photos/model --drawn runs/fidelity
#
# Likeness by DINO of 0.57 is Textual Inversion's in DreamBooth's paper, 0.67 DreamBooth's, 0.77 that of photos among one another. Here is
# the tiny world's measure, the loss on the photos at little, middle and much noise, of your subject and of the class:

# %%
from pictures import square

squares = [square(photo, sd.size) for photo in photos]
with sd.autocast("float16" if GPU else "float32"):
    for words in (f"a photo of a sks {NOUN}", f"a photo of a {NOUN}"):
        print(f"{words:28s}", sd.loss_by_noise(squares, words))

# %% [markdown]
# ## Take it with you
#
# One file for A1111 and ComfyUI (2 GB for Stable Diffusion); the folder `model` opens in diffusers. The LoRA is a file already.

# %%
if script == "dreambooth":
    whole = StableDiffusion.from_pretrained(f"{OUT}/model")
    whole.save_single_file(f"{OUT}/{NOUN}.safetensors")
for name in (f"{NOUN}.safetensors", "pytorch_lora_weights.safetensors"):
    if (file := Path(OUT) / name).exists():
        print(file, f"{file.stat().st_size / 1e6:.1f} MB")
