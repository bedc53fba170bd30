"""Diffusion itself: the noise schedule, the forward process, the target, and three samplers.

Forward, a picture (here: its latent) drowns in noise. Step t adds noise of variance beta_t, and of
the picture's own variance alpha_bar_t = (1 - beta_0) ... (1 - beta_t) is left, from almost 1 down
to almost 0:

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps,   eps ~ N(0, I)       (DDPM, eq. 4)

A network eps_theta learns to tell the noise from the picture at every t,

    loss = E |eps - eps_theta(x_t, t)|^2                                           (DDPM, eq. 14)

Backward, a sampler starts at pure noise and walks t down to 0, asking the network at each step what
x_0 looks like from here:

    sampler  noise on the way  accuracy  calls for a good picture
    ddpm     yes               order 1   hundreds    Ho et al. 2020, algorithm 2
    ddim     none              order 1   30-50       Song et al. 2021, eq. 12
    dpm++    none              order 2   15-25       Lu et al. 2022, DPM-Solver++(2M), algorithm 2

They are generators: they yield after each step, so a notebook can plot what happens without a
callback.

Names:  x_0 clean   x_t noisy   eps the noise   v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0
        t time, 0 .. T-1 (DDPM counts from 1)   s the next time of a sampler, less noisy than t
Every step equals that of the diffusers scheduler of the same name (tests/test_ddpm.py).

Not here: learned variances, thresholding, other noise schedules than SD's and DDPM's.
"""
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class ScheduleConfig:
    """scheduler/scheduler_config.json. A checkpoint names some scheduler class; only what the noise
    is made of is read."""
    num_train_timesteps: int = 1000       # T
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: str = "linear"         # or "scaled_linear", SD's: linear in sqrt(beta)
    prediction_type: str = "epsilon"      # what the network outputs; or "v_prediction"
    set_alpha_to_one: bool = True         # DDIM ends at alpha_bar 1; False (SD): at alpha_bar_0
    steps_offset: int = 0                 # added to "leading" timesteps; SD uses 1
    timestep_spacing: str | None = None   # "leading", "linspace", "trailing"; None: the sampler's
    rescale_betas_zero_snr: bool = False  # True: nothing of the picture is left at T - 1


class Schedule:
    """How much noise there is at each t, and the conversions between x_0, x_t, eps and v."""

    def __init__(self, config=ScheduleConfig()):
        T, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
        power = 0.5 if config.beta_schedule == "scaled_linear" else 1
        beta = torch.linspace(start ** power, end ** power, T) ** (1 / power)
        self.config, self.T = config, T
        self.alpha_bar = torch.cumprod(1 - beta, dim=0)  # (T,)
        if config.rescale_betas_zero_snr:
            # SD's own schedule leaves 0.068 of the picture at T - 1, and a network learns to find
            # there how light it is and of what colour. A sampler starts from noise, where these
            # are always about the middle (Lin et al. 2023, algorithm 1).
            signal = self.alpha_bar.sqrt()
            signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
            self.alpha_bar = signal ** 2

    def signal_and_noise(self, t, like):
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) for t (b,), shaped to multiply `like` (b,
        ...)."""
        a = self.alpha_bar[t.cpu()].to(like.device).view(-1, *[1] * (like.ndim - 1))
        return a.sqrt().to(like.dtype), (1 - a).sqrt().to(like.dtype)

    def add_noise(self, x_0, eps, t):
        """q(x_t | x_0): eq. 4 of DDPM. x_0, eps (b, ...), t (b,) integers in 0 .. T-1."""
        signal, noise = self.signal_and_noise(t, x_0)
        return signal * x_0 + noise * eps

    def target(self, x_0, eps, t):
        """What the network should output for x_t: eps itself, or v (Salimans & Ho 2022, section
        4)."""
        if self.config.prediction_type == "epsilon":
            return eps
        signal, noise = self.signal_and_noise(t, x_0)
        return signal * eps - noise * x_0

    def split(self, x_t, output, t):
        """The network's output at integer t, read as its belief about x_0 and eps."""
        signal, noise = self.alpha_bar[t].sqrt().item(), (1 - self.alpha_bar[t]).sqrt().item()
        if self.config.prediction_type == "epsilon":
            return (x_t - noise * output) / signal, output
        return signal * x_t - noise * output, signal * output + noise * x_t  # (x_t, v), rotated

    def timesteps(self, steps, spacing):
        """`steps` integers from high to low noise. How T is divided is a convention, and pictures
        depend on it:
            leading    0, T/steps, 2T/steps, ...      SD's; never visits the noisiest ones
            linspace   from T-1 to 0 evenly
            trailing   T-1, T-1 - T/steps, ...        starts at full noise (Lin et al. 2023)

        """
        if spacing == "leading":
            t = np.arange(steps)[::-1] * (self.T // steps)
            t = t + min(self.config.steps_offset, self.T - 1 - t[0])  # not past T - 1
        elif spacing == "linspace":
            t = np.linspace(0, self.T - 1, steps).round()[::-1]
        else:
            t = np.arange(self.T, 0, -self.T / steps).round() - 1
        return [int(i) for i in t]


# === the samplers =================================================================================
# sampler(schedule, denoise, x, steps, randn) yields (t, x, x_0) after each step: the t just left,
# the less noisy x, and the network's current belief about the clean picture. denoise(x, t) is the
# network's output, guidance included; randn() draws noise of x's shape, and only ddpm calls it.

def ddpm(schedule, denoise, x, steps, randn=None):
    """Ancestral sampling: step to the mean of q(x_s | x_t, x_0) and add fresh noise (DDPM, eq. 6-7,
    the smaller variance). With alpha = alpha_bar_t / alpha_bar_s, DDPM's alpha_t where s = t - 1:

        mean     = sqrt(alpha_bar_s) (1 - alpha) / (1 - alpha_bar_t) x_0
                   + sqrt(alpha) (1 - alpha_bar_s) / (1 - alpha_bar_t) x_t
        variance = (1 - alpha_bar_s) / (1 - alpha_bar_t) (1 - alpha)

    """
    times = schedule.timesteps(steps, schedule.config.timestep_spacing or "leading")
    for t, s in zip(times, [*times[1:], -1]):               # from t to s; -1: to no noise at all
        alpha_bar_t = schedule.alpha_bar[t]
        alpha_bar_s = schedule.alpha_bar[s] if s >= 0 else torch.tensor(1.0)
        alpha = alpha_bar_t / alpha_bar_s
        x_0, _ = schedule.split(x, denoise(x, t), t)
        of_x_0 = alpha_bar_s.sqrt() * (1 - alpha) / (1 - alpha_bar_t)
        of_x = alpha.sqrt() * (1 - alpha_bar_s) / (1 - alpha_bar_t)
        std = ((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha)).sqrt()  # 0 in the last step
        x = of_x_0.item() * x_0 + of_x.item() * x + std.item() * randn()
        yield t, x, x_0


def ddim(schedule, denoise, x, steps, randn=None):
    """No noise on the way: x_0 and eps as believed now, mixed again in the next step's proportions
    (DDIM, eq. 12, sigma = 0):

        x_s = sqrt(alpha_bar_s) x_0 + sqrt(1 - alpha_bar_s) eps

    """
    end = torch.tensor(1.0) if schedule.config.set_alpha_to_one else schedule.alpha_bar[0]
    for t in schedule.timesteps(steps, schedule.config.timestep_spacing or "leading"):
        s = t - schedule.T // steps  # a fixed stride, as in diffusers: not the next t of "linspace"
        alpha_bar_s = schedule.alpha_bar[s] if s >= 0 else end
        x_0, eps = schedule.split(x, denoise(x, t), t)
        x = alpha_bar_s.sqrt().item() * x_0 + (1 - alpha_bar_s).sqrt().item() * eps
        yield t, x, x_0


def dpm_solver_pp(schedule, denoise, x, steps, randn=None):
    """DPM-Solver++(2M): solves the same path as DDIM in the variable lambda = log(signal / noise),
    and bends each step with the previous one's x_0 (algorithm 2 of the paper; the midpoint form).
    The first and the last step have no bend. With h = lambda_s - lambda_t,

        bent = x_0 + h / (2 h_before) (x_0 - x_0_before)
        x_s  = noise_s / noise_t x_t - signal_s (exp(-h) - 1) bent

    """
    spacing = schedule.config.timestep_spacing or "linspace"
    if spacing == "trailing":
        times = schedule.timesteps(steps, spacing)
    elif spacing == "linspace":                             # one point more than steps: the goal, 0
        times = [int(i) for i in np.linspace(0, schedule.T - 1, steps + 1).round()[:0:-1]]
    else:  # "leading", of a step more, without its 0 (as in diffusers; ddim's are others)
        t = np.arange(steps, 0, -1) * max(schedule.T // (steps + 1), 1)
        times = [int(i) for i in t + min(schedule.config.steps_offset, schedule.T - 1 - t[0])]
    alpha_bar = schedule.alpha_bar.clamp(min=2 ** -24)      # lambda of nothing but noise is -inf
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    lambda_ = (signal / noise).log()

    x_0_before, h_before = None, None
    for i, t in enumerate(times):
        x_0, _ = schedule.split(x, denoise(x, t), t)
        if i == len(times) - 1:                             # to no noise at all: h is infinite
            yield t, x_0, x_0
            return
        s = times[i + 1]
        h = lambda_[s] - lambda_[t]
        bent = x_0
        if h_before is not None and h_before > 0:  # 0 where rounding took one t twice: steps = T
            bent = x_0 + (h / (2 * h_before)).item() * (x_0 - x_0_before)
        x = (noise[s] / noise[t]).item() * x - (signal[s] * torch.expm1(-h)).item() * bent
        x_0_before, h_before = x_0, h
        yield t, x, x_0


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpm++": dpm_solver_pp}
