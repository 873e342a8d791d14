"""Samplers on noise models that are known exactly: recorded values and orders of convergence."""

import math

import numpy as np
import pytest
import torch
from goldens import Golden, relative_error

from latte.diffusion.samplers import ddim
from latte.diffusion.schedule import linear_schedule, respace, spaced_timesteps
from latte.diffusion.solvers import (
    deis,
    dpm_multistep,
    dpm_singlestep,
    euler,
    euler_ancestral,
    heun,
    kdpm2_ancestral,
    noise_levels,
    pndm,
)
from latte.scheduler import Scheduler

BASE = linear_schedule()


def wavy(x, t):
    """The noise model of the recorded values."""
    return torch.sin(3 * x + t.double().view(-1, 1, 1, 1, 1) / 200) + x / 4


def last(iterator):
    *_, x = iterator
    return x


LAST = {"set_alpha_to_one": False}
RECORDED = {  # name: scheduler, steps
    "ddim": (Scheduler(), 50),
    "ddim_trailing": (Scheduler(timestep_spacing="trailing"), 20),
    "ddim_steps_offset_1_alpha_not_one": (Scheduler(steps_offset=1, **LAST), 50),
    "dpmsolver++_2m": (Scheduler("dpm_multistep", "linspace"), 20),
    "euler": (Scheduler("euler", "linspace"), 30),
    "heun": (Scheduler("heun", "linspace"), 15),
    "pndm_skip_prk": (Scheduler("pndm", **LAST), 20),
}


@pytest.mark.parametrize("name", RECORDED)
def test_samplers_match_recorded_values(name):
    golden = Golden("schedulers")
    scheduler, count = RECORDED[name]
    schedule = scheduler.schedule(count)
    z = scheduler.start(golden.inputs["z"], schedule)
    assert relative_error(last(scheduler.run(wavy, z, schedule, None)), golden.outputs[name]) < 3e-5
    recorded = golden.outputs[f"{name}.timesteps"].unique()
    torch.testing.assert_close(schedule.timesteps.double(), recorded, atol=1e-4, rtol=0)


DEVIATION = 0.5  # of Gaussian data, whose noise and whole trajectory are known


def gaussian(x, t):
    level = noise_levels(respace(BASE, t[:1].double()))[0]
    return level.s * x / (level.a**2 * DEVIATION**2 + level.s**2)


def error_on_gaussian(sampler, count):
    """Error of x at the last level before the end: the final step to zero noise is of lower order in every sampler."""
    schedule = respace(BASE, torch.linspace(5, 999, count, dtype=torch.float64))
    x = torch.randn(1, 1, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spread = lambda level: math.sqrt(level.a**2 * DEVIATION**2 + level.s**2)
    first, *_, low, _ = noise_levels(schedule)
    return relative_error(list(sampler(gaussian, x, schedule))[-2], x * spread(low) / spread(first))


@pytest.mark.parametrize(
    ("sampler", "order"),
    [(euler, 1), (heun, 2), (deis, 2), (dpm_multistep, 2), (dpm_singlestep, 2), (pndm, 2)],
)
def test_order_of_convergence(sampler, order):
    coarse, fine = (error_on_gaussian(sampler, count) for count in (160, 320))
    assert order - 0.3 < math.log2(coarse / fine) < order + 0.8
    assert order == 1 or fine < error_on_gaussian(euler, 320) / 10


def ancestral_deviation(sampler, count):
    """Relative error of the final deviation, exact because on a Gaussian the samplers are linear in start and noise.

    Row 0 of the batch carries the start alone, row 1 + i the noise of step i.
    """
    schedule = respace(BASE, torch.linspace(5, 999, count, dtype=torch.float64))
    alone = torch.eye(count + 1, dtype=torch.float64).view(count + 1, count + 1, 1, 1, 1, 1)
    first, *_, low, _ = noise_levels(schedule)
    parts = list(sampler(gaussian, alone[0], schedule, lambda i: alone[1 + i]))[-2].flatten()
    spread = lambda level: math.sqrt(level.a**2 * DEVIATION**2 + level.s**2)
    parts[0] *= spread(first)
    return abs(float(parts.norm()) / spread(low) - 1)


@pytest.mark.parametrize(("sampler", "order"), [(euler_ancestral, 1), (kdpm2_ancestral, 2)])
def test_ancestral_samplers_converge_to_the_data_deviation(sampler, order):
    coarse, fine = (ancestral_deviation(sampler, count) for count in (40, 80))
    assert order - 0.4 < math.log2(coarse / fine) < order + 0.8
    assert order == 1 or fine < ancestral_deviation(euler_ancestral, 80) / 5


def test_spacings_are_those_of_diffusers():
    assert spaced_timesteps(50, "leading")[-1] == 980 and spaced_timesteps(50, "leading", offset=1)[0] == 1
    assert spaced_timesteps(20, "trailing").tolist()[::19] == [49, 999]
    assert (
        spaced_timesteps(50, "leading", multistep=True)[-1] == 950
        and spaced_timesteps(50, "leading", multistep=True)[0] == 19
    )
    with pytest.raises(ValueError, match="not one of even, leading, trailing, linspace"):
        spaced_timesteps(5, "log")
    with pytest.raises(ValueError, match="number of timesteps is 1001; it must be a whole number from 1 to"):
        spaced_timesteps(1001, "leading")
    with pytest.raises(ValueError, match="must rise"):
        respace(BASE, torch.tensor([3.0, 2.0]))


@pytest.mark.parametrize("count", [0, -1, 1_000_001])
def test_training_schedules_of_invalid_length_are_rejected(count):
    with pytest.raises(ValueError, match="num_train_timesteps is"):
        Scheduler(num_train_timesteps=count)


def test_training_schedules_with_invalid_betas_are_rejected():
    assert len(Scheduler(num_train_timesteps=1).training_schedule()) == 1
    for betas in ({"beta_start": 0.0}, {"beta_end": 1.0}, {"beta_end": -0.1}, {"num_train_timesteps": 20}):
        with pytest.raises(ValueError, match="a beta is not between 0 and 1"):
            Scheduler(**betas)


def test_custom_timesteps():
    for given in ([500], [999, 20, 0], [999.0, 998.5, 0.5]):
        assert Scheduler("euler").schedule(9, given).timesteps.tolist() == given[::-1]
    for wrong in ([], [1000, 20, 0], [999.5, 3], [20, 3, -1], [0, 20], [20, 20]):
        with pytest.raises(ValueError, match="timesteps must decrease"):
            Scheduler().schedule(9, wrong)


def test_rounding_of_halves_matches_diffusers():
    """NumPy computes 15 / 30 of 999 as a little less than 499.5, torch as a little more."""
    assert spaced_timesteps(30, "linspace", multistep=True)[14] == 499
    for count in range(1, 51):
        found = spaced_timesteps(count, "linspace", multistep=True)
        assert found.tolist() == np.linspace(0, 999, count + 1).round()[1:].tolist()


def test_singlestep_spacing_matches_diffusers():
    scheduler = Scheduler.from_config(Scheduler().config, "dpm_singlestep")
    assert scheduler.schedule(20).timesteps.tolist()[::-1][:3] == [999, 949, 899]
    assert scheduler.schedule(20).timesteps[0] == 50
    trailing = Scheduler("dpm_singlestep", "trailing").schedule(20).timesteps
    assert trailing.tolist() == list(range(49, 1000, 50))


@pytest.mark.parametrize("offset", [0, 1])
def test_the_last_stochastic_ddim_step_to_a_noisy_end(offset):
    """From timestep 0 or 1 to the level of 0: sigma^2 = (1 - a_0) / (1 - a_t) (1 - a_t / a_0), Song et al. eq. 16."""
    schedule = Scheduler(steps_offset=offset, **LAST).schedule(10)
    abar = BASE.alphas_cumprod
    variance = (1 - abar[0]) / (1 - abar[offset]) * (1 - abar[offset] / abar[0])
    torch.testing.assert_close(schedule.posterior_variance[0], variance, atol=1e-12, rtol=1e-9)
    x, drawn = torch.ones(1, 1, 4, 1, 1, dtype=torch.float64), []

    def noise(count):
        drawn.append(count)
        return torch.ones_like(x)

    *_, before, after = ddim(wavy, x, schedule, noise, eta=1.0)
    assert drawn[:9] == list(range(9))
    if offset:
        assert drawn[9:] == [9]
    else:  # already there
        torch.testing.assert_close(after, before)
