# %% [markdown]
# # Write your own method
#
# ![](../figures/your_own_method.jpg)
#
# Top: the photos. Below: the same prompts from the same noise, by DreamBooth and by a method that is thought of, written, tested, trained
# and judged in this notebook; then what has become of "a photo of a cat". By the end you can state a hypothesis so that it can fail, write
# a loss in twenty lines, test it before any training, enter it beside the others, and say what your numbers do *not* show.
#
# Everything runs on a laptop's CPU, on the tiny world's model, in a quarter of an hour: six trainings.

# %%
import inspect, os, sys, tempfile

sys.path.insert(0, "..")
import matplotlib.pyplot as plt
import numpy as np
import torch
import dreambooth
from dreambooth import PROMPTS, Config, chosen_weights, dreambooth_loss, prepare
from pictures import sheet, square
from stable_diffusion import StableDiffusion
from tiny_world.judge import Judge

FAST = "FAST" in os.environ  # for the tests: pictures that are not worth looking at
few = dict(steps=1, batch_size=1, class_images=1, sampling_steps=1) if FAST else {}
work = tempfile.mkdtemp()    # an empty folder: nothing of an earlier run is used again
sd, cfg, photos = prepare(Config(out=work, **few))
print(f"DreamBooth: {cfg.steps} steps, {cfg.batch_size} of the photos in each, lr {cfg.lr}, "
      f"{cfg.class_images} class pictures")

# %% [markdown]
# ## A question
#
# A method begins with something in another one that you would rather not do. DreamBooth draws pictures of the class before it trains. How
# much of its work is that? Count what passes through the UNet, in latents: drawing asks twice a step, for guidance; a training step costs
# about three times its forward pass. Predict the share of the class pictures.

# %%
drawn = min(cfg.class_images, cfg.steps * cfg.batch_size)
passes = {"class pictures": 2 * drawn * cfg.sampling_steps,
          "training": 3 * 2 * cfg.batch_size * cfg.steps}
for what, count in passes.items():
    print(f"{what:15s}{count:6,} latents, {count / sum(passes.values()):.0%}")

# %% [markdown]
# Nearly a third, before the first step. What are they for? Look at the line in which the two halves part, and ask what the class's half
# wants the network to answer.

# %%
print(inspect.getsource(dreambooth_loss))

# %% [markdown]
# It wants `eps`, the noise that was added to a picture that the model drew itself. Nobody can predict noise exactly; the best answer is its
# mean, and on the model's own pictures that is what the model answers already. With f the trained and f_0 the frozen network,
#
#     E |eps - f|^2  =  E |f_0 - f|^2  +  a number that training cannot change        (if f_0 is that mean)
#
# So the class pictures are a roundabout way to say: *of "a photo of a cat", answer what you answered before*. It can be said
# directly, by asking the frozen network. Its answer is called a soft target, and learning from another network's answers is distillation.
# And then the picture need not be drawn by the model: any picture will do, also the subject's photo, noisy as it is in that step:
#
#     loss  =  |eps - f(x_t, t, "a photo of a sks cat")|^2
#              +  lambda * |f_0(x_t, t, "a photo of a cat") - f(x_t, t, "a photo of a cat")|^2
#
# In words: with `sks` this photo is what it is, and without `sks` it is to you what it always was.
#
# ## The hypothesis, before any training
#
# Say what you expect, in numbers, while you can still be wrong. Here as claims, in the form in which `claims.py` has those of the
# papers: behind DreamBooth by a tenth at most, in keeping the class (PRES), in likeness, in obedience. What would you bet on each?

# %%
from claims import Claim

MINE, DB = "Distilled prior", "DreamBooth"
HYPOTHESES = [
    Claim("ours", "the class stays without class pictures", MINE, DB, "PRES", 0.1),
    Claim("ours", "and the subject is as alike", MINE, DB, "likeness", 0.1),
    Claim("ours", "and as obedient", MINE, DB, "obedience", 0.1)]
for claim in HYPOTHESES:
    print(f"{claim.axis}: {claim.says}, or behind by {claim.margin} at most")

answers = cfg.batch_size * cfg.steps  # the frozen network's
share = (passes["training"] + answers) / sum(passes.values())
print(f"and in {share:.0%} of the work, counted in latents")

# %% [markdown]
# What could go wrong can be said beforehand too: the photos are of one cat, so the class is only guarded *near that cat*. If other cats
# change, PRES will show it.
#
# ## The loss
#
# What it needs for one batch: latents of the photos, the vectors of both prompts, and the frozen model.

# %%
def chance():
    return torch.Generator().manual_seed(0)

frozen = StableDiffusion.from_pretrained(cfg.model, sd.device)
prompts = ["a photo of a sks cat", "a photo of a cat"]
with torch.no_grad():
    known = frozen.read(prompts[1:])                               # (1, l, d)
    words = sd.read(prompts).repeat_interleave(len(photos), 0)     # (2b, l, d)
mean, std = sd.encode([square(photo, cfg.size) for photo in photos])
z = sd.draw_latents(mean, std, chance())                           # (b, c, y, x)
print("z", tuple(z.shape), " words", tuple(words.shape), " known", tuple(known.shape))

# %% [markdown]
# And the method: as `dreambooth_loss`, line by line, but for what is new. Both prompts see the same noisy photo.

# %%
def distilled_loss(sd, z, words, generator, prior_weight, frozen, known):
    """z: the subject's latents (b, c, y, x); words: vectors of its prompt, then of the
    class's (2b, l, d); known: the class's as the frozen model reads it (1, l, d)."""
    eps = torch.randn(z.shape, generator=generator)
    t = torch.randint(sd.schedule.T, (len(z),), generator=generator)
    x_t, target = sd.schedule.add_noise(z, eps, t), sd.schedule.target(z, eps, t)
    x_t, target, t = x_t.to(sd.device), target.to(sd.device), t.to(sd.device)
    output = sd.unet(torch.cat([x_t, x_t]), torch.cat([t, t]), words)
    of_subject, of_class = output.float().chunk(2)
    with torch.no_grad():
        before = frozen.unet(x_t, t, known.expand(len(z), -1, -1)).float()
    subject = ((of_subject - target) ** 2).mean()
    prior = ((of_class - before) ** 2).mean()
    return subject + prior_weight * prior, subject, prior

ours = distilled_loss(sd, z, words, chance(), 1.0, frozen, known)
print("loss, subject, prior:", [value.item() for value in ours])

# %% [markdown]
# ## By hand, before it runs for minutes
#
# Most mistakes in a loss do not crash; they train. So ask it what you know already. First: the subject's half is DreamBooth's own number,
# from the same noise. Second, predict: before the first step, how large is the prior, and how large is its gradient? And after one step?

# %%
theirs = dreambooth_loss(sd, z, words[:len(z)], chance(), prior_weight=0.0)
print(f"subject: {ours[1].item():.6f} here, {theirs[1].item():.6f} in dreambooth.py")

weights = [*sd.unet.parameters()]

def pull():
    """The prior, and the norm of its gradient."""
    _, _, prior = distilled_loss(sd, z, words, chance(), 1.0, frozen, known)
    gradients = torch.autograd.grad(prior, weights)
    norm = sum(gradient.square().sum() for gradient in gradients).sqrt()
    return f"prior {prior.item():.1e}, its gradient {norm.item():.1e}"

print("before the first step:", pull())

# %%
from optimizer import make_optimizer

optimizer = make_optimizer("plain", weights, cfg.lr, clip=1.0)
for step in range(1 if FAST else 3):
    _, subject, _ = distilled_loss(sd, z, words, chance(), 1.0, frozen, known)
    optimizer.backward(subject)  # the subject's half alone
    optimizer.step()
    print(f"after {step + 1} steps for the subject: {pull()}")

# %% [markdown]
# Zero, but for the rounding of float32, and so is its gradient: where nothing has been forgotten there is nothing to correct. As soon as
# the subject moves the network, the prior pulls it back; it is a spring, and lambda is how stiff it is. DreamBooth's prior has another
# zero: its loss on class pictures starts at what noise always costs, and only the *rise* above that means something.
#
# ## The loop
#
# What has to be ready before the first step, with DreamBooth's own functions where nothing is new:

# %%
def get_ready(sd, cfg, photos):
    sd.freeze()
    noun, frozen = cfg.class_name, StableDiffusion.from_pretrained(cfg.model, sd.device)
    prompts = [f"a photo of a {cfg.token} {noun}", f"a photo of a {noun}"]
    with torch.no_grad():
        known = frozen.read(prompts[1:])
    [word] = sd.tokenizer.encode(cfg.token)
    v = sd.text.table.weight.data[[word]].clone()                  # (1, d), of sks
    groups = [{"params": chosen_weights(sd, cfg)},
              {"params": [v], "lr": cfg.token_lr, "weight_decay": 0.0}]
    for weight in groups[0]["params"] + [v]:
        weight.requires_grad_(True)
    optimizer = make_optimizer(cfg.memory, groups, cfg.lr, clip=1.0, dtype=cfg.dtype)
    return frozen, known, sd.tokenizer(prompts).to(sd.device), word, v, optimizer

*_, tokens, word, v, optimizer = get_ready(sd, cfg, photos)
print(f"{sum(weight.numel() for weight in optimizer.weights):,} numbers are trained")
print("tokens of the two prompts:", *tokens[:, :9].tolist(), sep="\n")

# %% [markdown]
# And the loop, which is a generator as in every script: it yields a log a step. Each step seeds its own chance, as DreamBooth's does, so
# both methods see the same photos in the same order. Two steps, to see that it runs:

# %%
from command import read_log
def train(sd, cfg, photos):
    frozen, known, tokens, word, v, optimizer = get_ready(sd, cfg, photos)
    mean, std = sd.encode([square(photo, cfg.size) for photo in photos])
    for step in range(cfg.steps):
        generator = torch.Generator().manual_seed(cfg.seed * 1_000_003 + step)
        some = torch.randint(len(photos), (cfg.batch_size,), generator=generator)
        z = sd.draw_latents(mean[some], std[some], generator)
        words = sd.read_with(tokens, [word], v).repeat_interleave(cfg.batch_size, 0)
        loss, subject, prior = distilled_loss(
            sd, z, words, generator, cfg.prior_weight, frozen, known)
        optimizer.backward(loss)
        norm = optimizer.step()
        sd.text.table.weight.data[word] = v.data[0]
        yield read_log(cfg, step + 1, norm, loss=loss, subject=subject, prior=prior)

for log, _ in zip(train(*prepare(cfg)), range(2)):
    print(log)

# %% [markdown]
# ## Trained, and looked at
#
# Of a method's script `compare.py` asks three names: `Config`, `prepare` and `train`. The first two are DreamBooth's. So the new method can
# be handed to the functions that measure all others: `learn_subject` trains and stops the time, class pictures included, and `measure` lets
# the judge look (here at pictures of 10 sampling steps, `compare.py`'s have 25). Which is the one name that is new?

# %%
from types import SimpleNamespace
from measure import learn_subject, make_scale, measure, shipped_subject

mine = SimpleNamespace(Config=Config, prepare=prepare, train=train)
SCRIPTS = {DB: dreambooth, MINE: mine}
judge, how = Judge.load(), {"images": 2, "steps": 1 if FAST else 10}
cat, teapot = shipped_subject("cat"), shipped_subject("teapot")
scales = {subject.name: make_scale(judge, subject.who) for subject in (cat, teapot)}

def learn(script, subject):
    for step, seconds, sd in learn_subject([(script, few)], subject, work):
        pass
    noun, scale = f"sks {subject.who.cls}", {subject.name: scales[subject.name]}
    result, drawn = measure(judge, sd, noun, subject, scale, **how)
    return sd, result | {"seconds": seconds}, drawn

for name, script in SCRIPTS.items():
    print(name, *(function.__module__ for function in (script.prepare, script.train)))

# %% [markdown]
# One subject first, for the eye. Predict: where will you see a difference, in the cat, in its places and hats, or in the class?

# %%
models, results, drawn = {}, {"cat": {}}, {}
for name, script in SCRIPTS.items():
    models[name], results["cat"][name], drawn[name] = learn(script, cat)
    print(f"{name}: {results['cat'][name]['seconds']:.0f} s")

# %%
shown = ("a photo of a {}", *PROMPTS)
rows = [("the photos; below: " + ", ".join(shown).format(*4 * ["sks cat"]), photos)]
for name in SCRIPTS:
    pictures = [[*drawn[name][prompt], None] for prompt in shown]
    rows.append((name, sum(pictures, [])))
for name, model in {"before any training": frozen, **models}.items():
    pictures = model.sample("a photo of a cat", images=8, seed=1, sampler="dpm++",
                            steps=how["steps"])
    rows.append((f'"a photo of a cat": {name}', pictures))
result = sheet(rows, cell=96)
if not FAST:
    result.save("../figures/your_own_method.jpg")
result

# %% [markdown]
# Both have learned the cat, and both can still draw others. But in our row they are duller, and more of them sit where the photos' cat
# sits: the guard stood near that cat only, as we feared. Whether one method keeps the class *better* cannot be seen in eight pictures. For
# that there is a judge.
#
# ## Judged
#
# A second subject, and the numbers. (Both are of `compare.TUNED`, the subjects on which settings may be chosen. The twelve of
# `compare.REPORTED` stay unseen until the method is finished: whoever tunes on them reports his own luck.) PRES is the likeness of "a photo
# of a cat" to the subject: 0 is that of any other cat, and the lower the better.

# %%
results["teapot"] = {name: learn(script, teapot)[1] for name, script in SCRIPTS.items()}
AXES = ("likeness", "obedience", "pres")

def show(subject, of_subject):
    for name, result in of_subject.items():
        values = "  ".join(f"{axis} {result[axis]:5.2f}" for axis in AXES)
        print(f"{subject:8s}{name:17s}{values}  {result['seconds']:4.0f} s")

for subject in results:
    show(subject, results[subject])

# %% [markdown]
# And the hypotheses, by the rule that decides the papers' claims. Before you read the verdicts: how much would you believe them, of two
# subjects?

# %%
from IPython.display import Markdown
from claims import table_of_claims

text, verdicts = table_of_claims(HYPOTHESES, results)
Markdown(text)

# %% [markdown]
# The verdicts are worth next to nothing, whatever they say. An interval over two subjects reaches from the one's difference to the other's,
# so "reproduced" means no more than: both on the same side of the line. How often would that happen by luck? Suppose that there is *no*
# difference, only noise, and count how often the rule decides nevertheless. Predict it for 2 subjects, 3 and 12.

# %%
from tables import interval

def by_luck(count, tries=50 if FAST else 500):
    rng, decided = np.random.default_rng(0), 0
    for _ in range(tries):
        _, low, high = interval(rng.standard_normal(count), rng)
        decided += low > 0 or high < 0
    return decided / tries

luck = {count: by_luck(count) for count in (2, 3, 4, 6, 12)}
plt.figure(figsize=(5, 2.4)), plt.plot([*luck], [*luck.values()], "o-"), plt.ylim(0)
plt.axhline(0.05, ls=":"), plt.xlabel("subjects"), plt.ylabel("decided by luck")
print({count: f"{share:.0%}" for count, share in luck.items()})

# %% [markdown]
# Of two subjects every second verdict is made up, of three every fourth. At twelve it is about one in ten: nearer to the twentieth that "95
# %" promises, and not there, as the interval is a little too narrow. So the honest sentence about our method is: **undecided, with so
# few**. What two subjects *can* do is kill a method: had the class been lost on both, there would be nothing to go on with.
#
# ## Before you believe it
#
# **Seeds.** The cat once more, by both methods, with everything as before and another seed for the training and for the pictures. Predict
# which is larger: what a method differs from the other, or what it differs from itself?

# %%
from dataclasses import replace

again = replace(cat, seed=1234)
once_more = {name: learn(script, again)[1] for name, script in SCRIPTS.items()}
show("again", once_more)
for axis in AXES:
    ours, theirs = [np.array([run[name][axis] for run in (results["cat"], once_more)])
                    for name in (MINE, DB)]
    between, itself = ours - theirs, [ours[1] - ours[0], theirs[1] - theirs[0]]
    print(f"{axis:10s} between methods: {between[0]:+.2f}, {between[1]:+.2f}   "
          f"to itself: {itself[0]:+.2f}, {itself[1]:+.2f}")

# %% [markdown]
# Where the two columns are of one size, the difference between the methods on one subject is no larger than that between two runs of the
# same, and a single run of each would have shown whatever it liked.
#
# **The baseline, tuned as well.** A new method is tried at many settings, as its author wants it to do well; the old one is run once. That
# alone makes it better: the best of several settings that do not differ at all is ahead by luck.
#
# **Equal time.** "As good in less time" may be "better in equal time", or only "as good as DreamBooth would be with fewer steps, too". The
# comparison to make is at the same number of seconds.

# %%
for settings in (2, 5, 10):
    noise = np.random.default_rng(0).standard_normal((10_000, settings))
    print(f"the best of {settings:2d} settings that do not differ is ahead by "
          f"{noise.max(1).mean():.1f} times the noise of one run")
seconds = {name: sum(of_subject[name]["seconds"] for of_subject in results.values()) / 2
           for name in SCRIPTS}
steps = cfg.steps * seconds[DB] / seconds[MINE]
print(f"{seconds[DB]:.0f} s and {seconds[MINE]:.0f} s for {cfg.steps} steps each; "
      f"in DreamBooth's time ours makes about {steps:.0f}")

# %% [markdown]
# The count of latents promised four fifths of the work, and the clock saw next to nothing of it: class pictures are drawn 16 at a time,
# which costs half as much a latent as the two of a training step. A count is a hypothesis too.
#
# So tune both on TUNED, as long each, and then run both once on REPORTED, at equal steps and at equal seconds.
#
# ## What is to be done next
#
# 1. Give it a file. Copy `dreambooth.py` to `distilled_prior.py`, replace the part marked `the method`, and give every function whose body
#    you change a new name; then `diff dreambooth.py distilled_prior.py` is your paper (CONTRIBUTING.md).
# 2. Enter it among the `METHODS` of `tests/test_truth.py` (its comments and flags are tested from then on) and in the README's table, and
#    write a test of the loss: what you did by hand above.
# 3. Enter it in `EXPERIMENTS` of `compare.py`, after `import distilled_prior`,
#
#        "Distilled prior": ("sks {cls}", (distilled_prior, {})),
#
#    and measure both, on twelve subjects that nobody has tuned on:
#
#        python compare.py --only "Distilled prior" DreamBooth
#
# 4. Put the three hypotheses, as they stand above, into `CLAIMS` of `claims.py`. `compare.py --claims` will write their verdict into
#    RESULTS.md, whichever it is.
#
# ## Exercises
#
# 1. How many latents go through a UNet, trained or frozen, in one call of `distilled_loss` with the four latents of `z`?
# 2. How many numbers have to lie in memory for the frozen UNet, which DreamBooth does not need?
# 3. Three subjects, no true difference: what share of such comparisons is decided by luck? (Without `by_luck`: when does it happen?)
# 4. Another prior: the mean *absolute* difference of the two answers. Write it as a function of `of_class` and `before`.

# %%
latents_a_call = None
frozen_numbers = None
luck_of_three = None      # a share
absolute_prior = None     # a function: lambda of_class, before: ...

given = (latents_a_call, frozen_numbers, luck_of_three, absolute_prior)
print(f"{sum(answer is not None for answer in given)} of {len(given)} answered")

# %%
counted, networks = [], (sd.unet, frozen.unet)
count = lambda network, inputs, output: counted.append(len(inputs[0]))
hooks = [network.register_forward_hook(count) for network in networks]
with torch.no_grad():
    distilled_loss(sd, z, words, chance(), 1.0, frozen, known)
for hook in hooks:
    hook.remove()
of_class, before = torch.randn(2, *z.shape, generator=chance())
numbers = sum(weight.numel() for weight in frozen.unet.parameters())
right_prior = torch.nn.functional.l1_loss(of_class, before)
print("what answers are compared with is ready")

# %%
checks = {
    "latents_a_call": lambda answer: answer == sum(counted),
    "frozen_numbers": lambda answer: answer == numbers,
    "luck_of_three": lambda answer: abs(answer - by_luck(3, tries=2000)) < 0.04,
    "absolute_prior": lambda prior: torch.isclose(prior(of_class, before), right_prior),
}
for (name, is_right), answer in zip(checks.items(), given):
    if answer is None:
        print(f"{name}: not answered yet")
    else:
        print(f"{name}: {'right' if is_right(answer) else 'try again'}")

# %% [markdown]
# <details><summary>Answers</summary>
#
# 1. `3 * len(z)`: the trained network sees each latent twice, with either prompt, the frozen one once.
# 2. `sum(p.numel() for p in frozen.unet.parameters())`: as many as are trained of the UNet. Memory is what the time is paid with.
# 3. 1/4: all three have to fall on the same side, and the second and the third each join the first one time in two.
# 4. `lambda of_class, before: (of_class - before).abs().mean()`. Its gradient does not fade as the two come near: not a spring any more.
#
# </details>
