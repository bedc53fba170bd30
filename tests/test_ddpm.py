"""The schedule and the samplers: equal to diffusers' step by step, and right on data whose ideal denoiser is known."""
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from ddpm import SAMPLERS, Schedule, ScheduleConfig

SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False, steps_offset=1)
CONFIGS = {
    "sd15": dict(SD),
    "sd21": dict(SD, prediction_type="v_prediction"),
    "sd15 trailing": dict(SD, timestep_spacing="trailing"),
    "zero snr": dict(SD, prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True),
    "sd21 leading": dict(SD, prediction_type="v_prediction", timestep_spacing="leading"),
    "ddpm": dict(),
}
REFERENCE = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}


def fake_network(x, t):
    """Stands for a UNet: any fixed function of x and t will do."""
    return torch.sin(3 * x + t / 200) + 0.1 * x


def walk_reference(sampler, config, steps, x, seed):
    keys = {k: v for k, v in config.items() if sampler == "ddim" or k != "set_alpha_to_one"}
    scheduler = REFERENCE[sampler](**keys, **({} if sampler == "dpm++" else {"clip_sample": False}))
    scheduler.set_timesteps(steps)
    generator, how = torch.Generator().manual_seed(seed), {}
    for t in scheduler.timesteps:
        if sampler != "dpm++":
            how = {"generator": generator}
        x = scheduler.step(fake_network(x, int(t)), t, x, **how).prev_sample
        yield int(t), x


@pytest.mark.parametrize("steps", [1, 7, 20, 50, 1000])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_step_equals_that_of_diffusers(sampler, name, steps):
    config = CONFIGS[name]
    spacing = config.get("timestep_spacing") or ("linspace" if sampler == "dpm++" else "leading")
    no_room = spacing == "leading" and config.get("steps_offset")
    if steps == 1000 and (no_room or (sampler == "dpm++" and spacing != "trailing")):
        pytest.skip("diffusers itself runs out of timesteps here; see the test below")
    schedule = Schedule(ScheduleConfig(**config))
    x = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(7)
    ours = SAMPLERS[sampler](schedule, fake_network, x, steps, lambda: torch.randn(x.shape, generator=generator))
    for (t, a, _), (t_reference, b) in zip(ours, walk_reference(sampler, config, steps, x, 7), strict=True):
        assert t == t_reference
        # Rescaled, diffusers goes by way of the betas, which rounds, and for dpm++ puts 2^-24 where alpha_bar is 0.
        assert (a - b).abs().max() < (1e-3 if "zero" in name else 1e-4) * b.abs().max()


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_thousand_steps_visit_every_noise_level_and_stay_finite(sampler, spacing):
    """Where diffusers indexes past the end (leading, an offset) or divides by zero (dpm++, doubled timesteps), ours
    does not."""
    schedule, x = Schedule(ScheduleConfig(**SD, timestep_spacing=spacing)), torch.randn(1, 4, 4, 4)
    walked = list(SAMPLERS[sampler](schedule, fake_network, x, 1000, lambda: torch.randn(x.shape)))
    assert len(walked) == 1000 and walked[-1][1].isfinite().all()
    assert max(t for t, _, _ in walked) == 999 and min(t for t, _, _ in walked) <= 1


def test_rescaled_nothing_of_the_picture_is_left_at_the_end_and_almost_all_of_it_is_there_at_the_start():
    plain, rescaled = Schedule(ScheduleConfig(**SD)), Schedule(ScheduleConfig(**CONFIGS["zero snr"]))
    assert rescaled.alpha_bar[-1] == 0 and rescaled.alpha_bar[0] == pytest.approx(plain.alpha_bar[0].item())
    assert (rescaled.alpha_bar[1:] < plain.alpha_bar[1:]).all() and (rescaled.alpha_bar.diff() < 0).all()


def ideal_denoiser(schedule, data):
    """The best possible network for a finite data set, in closed form: E[x_0 | x_t] is the data's mean, weighted by how
    likely each point is to have become x_t."""
    def denoise(x, t):
        signal, noise = schedule.alpha_bar[t].sqrt(), (1 - schedule.alpha_bar[t]).sqrt()
        distance = ((x[:, None] - signal * data[None]) ** 2).flatten(2).sum(-1)      # (b, points)
        weight = (-distance / (2 * noise ** 2)).softmax(dim=1)
        x_0 = torch.einsum("bp,p...->b...", weight, data)
        eps = (x - signal * x_0) / noise
        return eps if schedule.config.prediction_type == "epsilon" else signal * eps - noise * x_0
    return denoise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sampler, steps", [("ddim", 50), ("dpm++", 25), ("ddpm", 200)])
def test_with_the_ideal_denoiser_every_sampler_lands_on_the_data(sampler, steps, kind):
    """No training, a known answer: whatever noise we start from, we end at one of the points, and not always the
    same."""
    torch.manual_seed(0)
    schedule = Schedule(ScheduleConfig(**SD | dict(set_alpha_to_one=True), prediction_type=kind,
                                       timestep_spacing="trailing"))
    data, x = torch.randn(5, 2, 3, 3), torch.randn(64, 2, 3, 3)
    *_, (_, x, _) = SAMPLERS[sampler](schedule, ideal_denoiser(schedule, data), x, steps, lambda: torch.randn(x.shape))
    distance = (x[:, None] - data[None]).abs().flatten(2).amax(-1)                    # (64, 5)
    assert distance.amin(1).max() < 0.02
    assert len(distance.argmin(1).unique()) == 5


def test_noise_is_added_in_the_proportions_of_eq_4():
    schedule = Schedule(ScheduleConfig(**SD))
    x_0, eps, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 500, 999])
    reference = DDPMScheduler(**{k: v for k, v in SD.items() if k != "set_alpha_to_one"})
    assert (schedule.add_noise(x_0, eps, t) - reference.add_noise(x_0, eps, t)).abs().max() < 1e-6
    assert schedule.alpha_bar[0] > 0.999 and schedule.alpha_bar[-1] < 0.005


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_tells_the_picture_and_the_noise(kind):
    """target and split are each other's inverse, at every t; v equals that of diffusers."""
    schedule = Schedule(ScheduleConfig(**SD, prediction_type=kind))
    x_0, eps = torch.randn(1, 4, 3, 3, dtype=torch.float64), torch.randn(1, 4, 3, 3, dtype=torch.float64)
    for t in (0, 1, 500, 999):
        x_t = schedule.add_noise(x_0, eps, torch.tensor([t]))
        target = schedule.target(x_0, eps, torch.tensor([t]))
        a, b = schedule.split(x_t, target, t)
        assert (a - x_0).abs().max() < 1e-4 and (b - eps).abs().max() < 1e-4
    if kind == "v_prediction":
        reference = DDPMScheduler(prediction_type=kind, beta_start=0.00085, beta_end=0.012,
                                  beta_schedule="scaled_linear")
        assert (target - reference.get_velocity(x_0, eps, torch.tensor([999]))).abs().max() < 1e-6
