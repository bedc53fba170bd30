# %% [markdown]
# # Noise: how it comes, and three ways for it to go
#
# ![](../figures/ddpm.jpg)
#
# From noise to a duck. Above, what the sampler holds; below, what the network believes the picture to be, from the first step on. By the
# end you can say what a timestep is, what the network is asked at each of them, which of them are hard, and why 20 steps can do what
# 1000 did.
#
# The code is `ddpm.py`: the noise schedule, the target that the network is trained on, and three samplers.

# %%
import os, sys
from dataclasses import replace

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import numpy as np
import torch
from ddpm import SAMPLERS, Schedule
from pictures import sheet, to_images, to_tensor
from stable_diffusion import TINY, StableDiffusion
from tiny_world.draw import draw
from tiny_world.world import caption, random_scene

torch.set_grad_enabled(False)  # nothing is trained here
FAST = "FAST" in os.environ  # the tests' form: what it draws is not worth looking at
sd = StableDiffusion.from_pretrained(TINY)
schedule = sd.schedule
print(*(f"{name} = {value}" for name, value in vars(schedule.config).items()), sep="\n")

# %% [markdown]
# These few settings are all there is to a schedule. Two curves follow from them: how much of the picture is left at t, and how much noise
# there is. Dashed is Stable Diffusion's own schedule, the same but for `rescale_betas_zero_snr`. At which t are picture and noise
# equal, in the middle of 0 .. 999 or elsewhere? And what is left of the picture at t = 999?

# %%
plain = Schedule(replace(schedule.config, rescale_betas_zero_snr=False))
signal, noise = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
plt.figure(figsize=(6, 2.4))
plt.plot(signal, label="sqrt(alpha_bar): the picture")
plt.plot(noise, label="sqrt(1 - alpha_bar): the noise")
plt.plot(plain.alpha_bar.sqrt(), "--", label="the picture, Stable Diffusion's")
plt.xlabel("t")
plt.legend()
print("equal at t =", (signal - noise).abs().argmin().item())
print(f"left at t = 999: {signal[999]:.3f} here,",
      f"{plain.alpha_bar[999].sqrt():.3f} in Stable Diffusion")

# %% [markdown]
# Equal after a third of the way. At the end nothing is left, exactly; in Stable Diffusion a few hundredths are. That is little, but it
# tells a network how light the picture is. It learns to look for that in the noise; but a sampler's first noise always says "middling", and
# so pictures become neither very dark nor very bright (Lin et al. 2023). The tiny world's schedule mends this.
#
# A picture drowns. The model works on latents (see the notebook on the VAE), so the latent drowns, and we decode what is left. When
# can you no longer tell what it was? And the network?

# %%
scene = random_scene(np.random.default_rng(9))
text = caption(scene, np.random.default_rng(1))
z_0 = sd.draw_latents(*sd.encode([draw(scene)]), torch.Generator().manual_seed(0))
g = torch.Generator().manual_seed(1)
eps = torch.randn(z_0.shape, generator=g)
times = (0, 100, 200, 350, 500, 650, 800, 999)
drowned = [schedule.add_noise(z_0, eps, torch.tensor([t])) for t in times]
sheet([("t = " + ", ".join(map(str, times)), to_images(sd.decode(torch.cat(drowned))))])

# %% [markdown]
# Here is what the network makes of each of them, told the caption. It is asked once for each; no step follows. What will it see in
# the last one, where nothing is left?

# %%
words, beliefs = sd.read([text]), []
for t, z_t in zip(times, drowned):
    output = sd.denoise(z_t, t, words, guidance=1).cpu()
    x_0, _ = schedule.split(z_t, output, t)
    beliefs.append(x_0)
title = f'what the network sees in them, told "{text}"'
sheet([(title, to_images(sd.decode(torch.cat(beliefs))))])

# %% [markdown]
# You were lost somewhere after the middle of the row; it sees further. And the later, the more blurred: the best guess under
# squared error is the mean of all that is possible (see the notebook before this one). In the last one it can only go by
# the words, and draws the mean of all that they allow.
#
# What exactly is it asked? Two things are in use. Either to name the noise, eps; or, as here, v = sqrt(alpha_bar) eps -
# sqrt(1 - alpha_bar) x_0, a mixture. From either, x_0 follows. But not equally well: suppose that a network's output is off by 0.01
# everywhere. How far off is x_0 then, at little noise and at much?

# %%
for t in (100, 500, 900, 999):
    z_t = schedule.add_noise(z_0, eps, torch.tensor([t]))
    for kind in ("epsilon", "v_prediction"):
        asked = Schedule(replace(schedule.config, prediction_type=kind))
        output = asked.target(z_0, eps, torch.tensor([t])) + 0.01
        x_0, _ = asked.split(z_t, output, t)
        off = (x_0 - z_0).abs().mean().item()
        print(f"t = {t:3d}  {kind:13s} x_0 is off by {off:.4f}")

# %% [markdown]
# With eps the error grows with the noise, and at t = 999 nothing follows at all: x_0 would be divided by what is left of it, which is 0.
# With v it is never larger than the output's own. So a schedule that ends in nothing but noise needs v.
#
# How hard is the question at each t, with the caption and without? Before you look: at which t is the error smallest, and at which does
# the caption help most?

# %%
n = 4 if FAST else 48
scenes = [random_scene(np.random.default_rng([7, i])) for i in range(n)]
texts = [caption(scene, np.random.default_rng(i)) for i, scene in enumerate(scenes)]
z = sd.draw_latents(*sd.encode([draw(scene) for scene in scenes]), g)
context = {"told": sd.read(texts), "untold": sd.read([""] * n)}
errors = {"told": [], "untold": []}
times = (0, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 999)
for t in times:
    at, eps_t = torch.full((n,), t), torch.randn(z.shape, generator=g)
    z_t, target = schedule.add_noise(z, eps_t, at), schedule.target(z, eps_t, at)
    for name, words in context.items():
        output = sd.denoise(z_t, t, words, guidance=1).cpu()
        errors[name].append(((output - target) ** 2).mean().item())
for name, values in errors.items():
    plt.plot(times, values, "o-", label=name)
plt.xlabel("t"), plt.ylabel("squared error of v"), plt.legend()
plt.gcf().set_size_inches(6, 2.4);

# %% [markdown]
# Smallest in the middle, near where picture and noise are equal. Both ends are hard: at t = 0, v is the noise, and there is hardly any to
# see; at t = 999, v is the picture (with a minus), and nothing is left of it. The caption helps most there: where the picture has
# drowned, words decide.
#
# One more thing follows. A training step's loss is mostly a matter of which t was drawn for it. That is why the raw loss of a diffusion
# model jumps from step to step and seems never to fall, and why one looks at it by noise level.
#
# Backward now. Three samplers ask the same network, from the same noise, with more and more steps. Which ones will arrive at the same
# picture? Which needs the fewest steps for it?

# %%
prompt, counts = "a red teapot on the beach", (2, 3) if FAST else (3, 6, 10, 20, 50)
drawn = {}
for sampler in SAMPLERS:
    how = dict(sampler=sampler, seed=4)
    drawn[sampler] = [sd.sample(prompt, steps=steps, **how)[0] for steps in counts]
goal = to_tensor(drawn["ddim"][-1])
for sampler, pictures in drawn.items():
    errors = torch.stack([to_tensor(picture) - goal for picture in pictures])
    apart = errors.square().mean((1, 2, 3)).sqrt().tolist()
    print(f"{sampler:5s} apart from ddim's last:", *(f"{value:.3f}" for value in apart))
sheet([(f"{sampler}: {', '.join(map(str, counts))} steps", pictures)
       for sampler, pictures in drawn.items()])

# %% [markdown]
# `ddim` and `dpm++` follow one path, which the first noise decides, and `dpm++` comes near its end with fewer stops: it also uses how the
# network's belief has changed since the last stop. `ddpm` throws fresh dice at each step, so it ends elsewhere, and each time elsewhere.
#
# Why do a few steps do? Along the way a sampler holds two things: x_t, and its belief about x_0. Which of them changes more from
# step to step, late on the way?

# %%
prompt = "a photo of a duck wearing a black top hat on the beach"
path = list(sd.walk(prompt, steps=4 if FAST else 24, sampler="ddim", seed=4))
path = path[::1 if FAST else 3]
times, held, beliefs = zip(*path)
held, beliefs = sd.decode(torch.cat(held)), sd.decode(torch.cat(beliefs))
result = sheet([(f"x_t, just after t = {', '.join(map(str, times))}", to_images(held)),
                ("the network's belief about x_0", to_images(beliefs))], cell=96)
if not FAST:
    result.save("../figures/ddpm.jpg")
result

# %% [markdown]
# Late on the way the belief hardly moves any more, while x_t still changes much: it only follows, as the noise goes. A sampler that steps
# towards a belief can take long steps where the belief stays. That is why 20 steps can do what 1000 did. The first ones are
# where the picture is decided.
#
# ## Exercises
#
# Fill in the answers and run the cell.
#
# 1. alpha_bar is a product. Of what? Compute alpha_bar at t = 2 of the dashed schedule, `plain`, from its betas: their square roots run
#    evenly from sqrt(0.00085) to sqrt(0.012) in 1000 steps.
# 2. A sampler takes four steps, "trailing", as the tiny world's model does: it begins at the last t there is. Which times does it visit?
# 3. From x_t and v, what is x_0? Write it with `signal` and `noise`.
# 4. What is v at t = 999, where nothing is left of z_0? Give it as a latent, made of `z_0`, `eps` or both.

# %%
alpha_bar_2 = None
four_times = None      # a list
x_0_of = None          # a function of x_t, v and t
v_at_999 = None        # a latent

at = torch.tensor([300])
z_t, v = schedule.add_noise(z_0, eps, at), schedule.target(z_0, eps, at)
for name, answer, right in (
        ("alpha_bar_2", alpha_bar_2, plain.alpha_bar[2].item()),
        ("four_times", four_times, schedule.timesteps(4, "trailing")),
        ("x_0_of", x_0_of and x_0_of(z_t, v, 300), z_0),
        ("v_at_999", v_at_999, schedule.target(z_0, eps, torch.tensor([999])))):
    same = answer is not None and np.shape(answer) == np.shape(right)
    verdict = "right" if same and np.allclose(answer, right, 0, 1e-5) else "try again"
    print(name, "not answered yet" if answer is None else verdict)

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. Of 1 - beta: `beta = torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000) ** 2`, then `(1 - beta[:3]).prod().item()`. (The tiny world's
#    own, `schedule.alpha_bar[2]`, is a trace smaller: its curve is pulled down to end at 0.)
# 2. `[999, 749, 499, 249]`
# 3. `lambda x_t, v, t: signal[t] * x_t - noise[t] * v`
# 4. `-z_0`: the network is asked for the picture itself, and has the words alone to go by.
#
# </details>
