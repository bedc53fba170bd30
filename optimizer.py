"""AdamW (Loshchilov & Hutter, ICLR 2019), in as much memory as there is.

Training all of a network takes four numbers a weight: the weight itself, its gradient, and the two
means that AdamW keeps of it, its moments. Of Stable Diffusion's 860 million weights that is 14 GB.
Three ways, by a script's --memory:

    plain      all four are float32; gradients are clipped together
    thrifty    the moments are bfloat16, and a weight steps as soon as its gradient is known, in the
               middle of the backward pass; then the gradient is freed, so that there is one at a
               time. What is not known yet is the norm of all: nothing is clipped
    lean       thrifty, and the weights themselves are bfloat16

DreamBooth of Stable Diffusion 1.5 takes 14.0, 7.4 and 5.5 GB so (benchmarks/memory.py). bfloat16
has 8 bits for a number's digits: a weight that should change by a thousandth would stay where it
is, at every step. So what is kept in it is rounded by chance: a number a third of the way up to the
next goes there one time in three, and the mean of many steps is right (Gupta et al., ICML 2015).
"""
from functools import partial

import torch


class AdamW:
    """All gradients at once, clipped at a norm of `clip`. Where one of them is not finite the step
    is not made; with dtype "float16", whose small gradients would be zero, the loss is scaled up,
    and such a step means that it was too much (Micikevicius et al., ICLR 2018)."""

    def __init__(self, weights, lr, weight_decay=0.01, clip=float("inf"), dtype="float32"):
        self.adamw = torch.optim.AdamW(weights, lr=lr, weight_decay=weight_decay, fused=True)
        self.weights = [weight for group in self.adamw.param_groups for weight in group["params"]]
        self.clip = clip
        self.scaler = make_scaler(self.weights[0].device, dtype)

    def backward(self, loss):
        self.scaler.scale(loss).backward()

    def step(self):
        """Returns the gradients' norm, before it was clipped, as a tensor on the device: looking at
        it would mean to wait for it."""
        self.scaler.unscale_(self.adamw)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.clip)
        self.scaler.step(self.adamw)
        self.scaler.update()
        self.adamw.zero_grad()
        return norm

    # An interrupted run goes on with the same numbers.

    @property
    def param_groups(self):
        return self.adamw.param_groups

    def state_dict(self):
        return self.adamw.state_dict()

    def load_state_dict(self, state):
        self.adamw.load_state_dict(state)


class LeanAdamW(torch.optim.Optimizer):
    """Steps within the backward pass, weight by weight. Weights are float32 or bfloat16, moments
    bfloat16."""

    together = 2 ** 22  # of a large weight so many numbers: the numbers in between take room too

    def __init__(self, weights, lr, weight_decay=0.01, dtype="float32"):
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.999),
                                   "eps": 1e-8})
        for weight in self.weights:
            zeros = {name: torch.zeros_like(weight, dtype=torch.bfloat16)
                     for name in ("exp_avg", "exp_avg_sq")}
            self.state[weight] = {"step": torch.zeros(())} | zeros
        self.scaler = make_scaler(self.weights[0].device, dtype)

    @property
    def weights(self):
        return [weight for group in self.param_groups for weight in group["params"]]

    def backward(self, loss):
        first = self.state[self.weights[0]]
        torch.manual_seed(int(first["step"]))  # for round_as, so that a resumed run rounds alike
        scaled = self.scaler.scale(loss)
        self.scale = self.scaler.scale(torch.ones_like(loss))
        self.squares = torch.zeros_like(loss)
        hooks = [weight.register_post_accumulate_grad_hook(partial(self.move, group))
                 for group in self.param_groups for weight in group["params"]]
        scaled.backward()
        for hook in hooks:
            hook.remove()

    @torch.no_grad()
    def move(self, group, weight):
        """AdamW, algorithm 2, for one weight whose gradient has just been found."""
        (beta_1, beta_2), lr = group["betas"], group["lr"]
        state, gradient = self.state[weight], weight.grad
        weight.grad = None  # this is what saves the memory: the next gradient takes its place
        state["step"] += 1
        steps = int(state["step"])
        square = torch.linalg.vector_norm(gradient, dtype=torch.float32).square()
        self.squares += square / self.scale ** 2
        parts = [tensor.view(-1).split(self.together) for tensor in (
            weight.data, gradient, state["exp_avg"], state["exp_avg_sq"])]
        for w, g, m, v in zip(*parts):
            g = g.float() / self.scale
            m_new = beta_1 * m.float() + (1 - beta_1) * g
            v_new = beta_2 * v.float() + (1 - beta_2) * g * g
            m_hat, v_hat = m_new / (1 - beta_1 ** steps), v_new / (1 - beta_2 ** steps)
            w_new = w.float() * (1 - lr * group["weight_decay"])
            w_new -= lr * m_hat / (v_hat.sqrt() + group["eps"])
            for old, new in ((w, w_new), (m, m_new), (v, v_new)):
                old.copy_(round_as(old, torch.where(square.isfinite(), new, old.float())))

    def step(self):
        """All is done; what is left is whether all was finite."""
        norm = self.squares.sqrt()
        scale = self.scale.float()
        self.scaler.update(torch.where(norm.isfinite(), scale, scale / 2))
        return norm

    def load_state_dict(self, state):
        super().load_state_dict(state)
        for moments in self.state.values():  # torch has made them as wide as the weights
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = moments[name].bfloat16()


def make_optimizer(memory, weights, lr, weight_decay=0.01, clip=float("inf"), dtype="float32"):
    """For a script's --memory. Only "plain" clips: the others never see all gradients at once."""
    if memory == "plain":
        return AdamW(weights, lr, weight_decay, clip, dtype)
    return LeanAdamW(weights, lr, weight_decay, dtype)


def make_scaler(device, dtype):
    """The loss's factor. With float16 it is 65,536 at first, and halved where a gradient is not
    finite; else it is 1, and what is left of it is that such a step is not made."""
    if dtype == "float16":
        return torch.amp.GradScaler(device.type)
    return torch.amp.GradScaler(device.type, init_scale=1.0, growth_interval=2 ** 31 - 1)


def round_as(old, new):
    """float32 numbers, rounded by chance if `old` is bfloat16: that is the upper half of a
    float32's bits, so a random lower half is added, and cut off again."""
    if old.dtype != torch.bfloat16:
        return new
    bits = new.view(torch.int32)
    lower_half = torch.randint_like(bits, 2 ** 16)
    return (bits + lower_half).bitwise_and(-2 ** 16).view(torch.float32)
