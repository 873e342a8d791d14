"""Noise, v and flow-velocity predictions: each converts to any other, and a network samples identically under all."""

import itertools
import math

import pytest
import torch
from goldens import relative_error

from latte.diffusion.loss import diffusion_loss, min_snr_weight
from latte.diffusion.predictions import (
    clean_of,
    converted,
    factors,
    network_input,
    noise_of,
    predicting_noise,
    prediction_of,
)
from latte.diffusion.randomness import normal
from latte.diffusion.samplers import ddim
from latte.diffusion.schedule import flow_schedule, linear_schedule, q_sample, respace, training_schedule
from latte.diffusion.solvers import deis, dpm_multistep, dpm_singlestep, euler, heun, pndm
from latte.scheduler import ALL, Scheduler

NAMES = ("eps", "x0", "v", "flow")
FLOW, SHAPE = flow_schedule(), (2, 3, 4, 2, 2)
X0, NOISE = normal(SHAPE, 0).double(), normal(SHAPE, 1).double()
INDEX = torch.tensor([30, 950])


def last(iterator):
    *_, x = iterator
    return x


def times(t):
    return ((t.double() + 0.5) / 1000).view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("schedule", [FLOW, linear_schedule()])
@pytest.mark.parametrize(("source", "target"), list(itertools.product(NAMES, NAMES)))
def test_every_prediction_becomes_every_other(source, target, schedule):
    for index, x0, noise in ((INDEX, X0, NOISE), (500, X0, NOISE)):  # per sample, and one for the batch
        a, s = factors(schedule, index, x0)
        x = a * x0 + s * noise
        given = prediction_of(source, x0, noise, a, s)
        for found, expected in ((noise_of, noise), (clean_of, x0)):
            torch.testing.assert_close(found(source, given, x, a, s), expected)
        there = converted(given, x, a, s, source, target)
        torch.testing.assert_close(there, prediction_of(target, x0, noise, a, s))
        torch.testing.assert_close(converted(there, x, a, s, target, source), given)
    with pytest.raises(ValueError, match="prediction is 'u', not one of eps, x0, v, flow"):
        noise_of("u", given, x, a, s)


def test_predictions_written_out():
    a, s = factors(FLOW, INDEX, X0)
    u, x = times(INDEX), a * X0 + s * NOISE
    torch.testing.assert_close(s / (a + s), u)
    torch.testing.assert_close(network_input("flow", x, a, s), (1 - u) * X0 + u * NOISE)
    assert torch.equal(prediction_of("v", X0, NOISE, a, s), a * NOISE - s * X0)
    assert torch.equal(prediction_of("flow", X0, NOISE, a, s), NOISE - X0)
    assert torch.equal(noise_of("v", NOISE, x, a, s), a * NOISE + s * x)
    assert all(network_input(name, x, a, s) is x for name in ("eps", "x0", "v"))
    assert noise_of("eps", NOISE, x, a, s) is NOISE and prediction_of("eps", X0, NOISE, a, s) is NOISE


def test_flow_schedule():
    t = torch.tensor([0, 1, 499, 998, 999])
    for schedule, found in ((FLOW, FLOW.alphas_cumprod[t]), (respace(FLOW, t), respace(FLOW, t).alphas_cumprod)):
        u = times(t).flatten()
        torch.testing.assert_close(found, (1 - u) ** 2 / ((1 - u) ** 2 + u**2), rtol=1e-10, atol=0)
        torch.testing.assert_close(
            schedule.sigmas, u / (1 - u) if len(schedule) == 5 else FLOW.sigmas, rtol=1e-9, atol=0
        )
    between = torch.tensor([0.25, 998.7], dtype=torch.float64)
    abar = FLOW.alpha_bar_at(between)
    for t, level in zip(between.tolist(), abar):
        sigma = float(((1 - level) / level).sqrt())
        assert sigma == pytest.approx((t + 0.5) / (999.5 - t))
        assert respace(FLOW, [3, 900]).timestep_of(sigma) == pytest.approx(t)
    assert training_schedule("flow").alphas_cumprod.equal(FLOW.alphas_cumprod)
    assert training_schedule("v").betas.equal(linear_schedule().betas)
    with pytest.raises(ValueError, match="needs 2 or more"):
        flow_schedule(1)


def velocity(x, t):
    return torch.sin(3 * x + t.to(x).view(-1, 1, 1, 1, 1) / 200) + x / 4


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (euler, 1), (heun, 2)])
def test_euler_and_heun_match_their_formulas_on_the_linear_path(sampler, order):
    """Also in float32, although the first step starts where the signal is 1/2000 of the noise."""
    schedule = Scheduler("ddim", "trailing", flow=True).schedule(50)
    ends = [*((schedule.timesteps.flip(0).double() + 0.5) / 1000).tolist(), 0.0]
    x = network_input("flow", NOISE, *factors(schedule, 49, NOISE))
    at = lambda u: torch.full((2,), 1000 * u - 0.5)
    for here, there in itertools.pairwise(ends):
        slope = velocity(x, at(here))
        if order == 2 and there:
            slope = (slope + velocity(x + (there - here) * slope, at(there))) / 2
        x = x + (there - here) * slope
    denoise = predicting_noise(velocity, FLOW, "flow")
    assert ends[:2] == [0.9995, 0.9795]
    assert relative_error(last(sampler(denoise, NOISE, schedule)), x) < 1e-9
    assert relative_error(last(sampler(denoise, NOISE.float(), schedule)), x) < 1e-5


def test_dpm_solver_matches_its_formula_on_the_linear_path():
    """DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095, algorithm 2) with alpha = 1 - u and sigma = u.

    The first and the last step are of order 1.
    """
    schedule = Scheduler("dpm_multistep", "trailing", flow=True).schedule(50)
    ends = [*((schedule.timesteps.flip(0).double() + 0.5) / 1000).tolist(), 0.0]
    x = network_input("flow", NOISE, *factors(schedule, 49, NOISE))
    half_log_snr = lambda u: math.log((1 - u) / u) if u else math.inf
    steps = [half_log_snr(there) - half_log_snr(here) for here, there in itertools.pairwise(ends)]
    clean = []
    for k, (here, there) in enumerate(itertools.pairwise(ends)):
        clean.append(x - here * velocity(x, torch.full((2,), 1000 * here - 0.5)))
        ahead = clean[k]
        if k and there:
            r = steps[k - 1] / steps[k]
            ahead = (1 + 1 / (2 * r)) * clean[k] - 1 / (2 * r) * clean[k - 1]
        x = there / here * x - (1 - there) * math.expm1(-steps[k]) * ahead
    denoise = predicting_noise(velocity, FLOW, "flow")
    assert relative_error(last(dpm_multistep(denoise, NOISE, schedule)), x) < 1e-9
    assert relative_error(last(dpm_multistep(denoise, NOISE.float(), schedule)), x) < 1e-5


@pytest.mark.parametrize("sampler", ALL)
def test_a_network_samples_identically_under_every_prediction(sampler):
    scheduler = Scheduler(sampler, "trailing", flow=True)
    schedule, found = scheduler.schedule(6), []
    for name in NAMES:

        def seen(given, t, name=name):
            a, s = factors(FLOW, t, given)
            x = given * (a + s) if name == "flow" else given
            return converted(velocity(x, t), x, a, s, "v", name)

        denoise = predicting_noise(seen, FLOW, name)
        found.append(last(scheduler.run(denoise, NOISE, schedule, lambda step: normal(SHAPE, 2, step))))
    for other in found[1:]:
        assert relative_error(other, found[0]) < 1e-8


@pytest.mark.parametrize(
    ("sampler", "most"),
    [(euler, 2e-2), (heun, 2e-4), (pndm, 2e-4), (deis, 2e-3), (dpm_multistep, 2e-3), (dpm_singlestep, 2e-3)],
)
def test_samplers_are_accurate_on_gaussian_data(sampler, most):
    """For data N(0, 1/4) the velocity and every sample's trajectory are known."""

    def model(x, t):
        u = times(t)
        return (u - (1 - u) / 4) / ((1 - u) ** 2 / 4 + u**2) * x

    schedule = Scheduler("euler", "trailing", flow=True).schedule(100)
    end = last(sampler(predicting_noise(model, FLOW, "flow"), NOISE, schedule))
    abar = float(schedule.alphas_cumprod[-1])
    assert relative_error(end, NOISE / 2 / (abar / 4 + 1 - abar) ** 0.5) < most


def test_timestep_shift():
    plain, shifted = (Scheduler("euler", "trailing", flow=True, shift=shift).schedule(20) for shift in (1.0, 3.0))
    u, v = ((schedule.timesteps.double() + 0.5) / 1000 for schedule in (plain, shifted))
    torch.testing.assert_close(v[:-1], (3 * u / (1 + 2 * u))[:-1])  # the noisiest timestep stays last
    assert v[-1] == u[-1] == 0.9995
    torch.testing.assert_close(shifted.sigmas[:-1], 3 * plain.sigmas[:-1])
    assert plain.timesteps.tolist() == list(range(49, 1000, 50))
    for options, message in (
        ({"shift": 2.0}, "shift 2 does nothing without flow=True"),
        ({"flow": True, "shift": 0.0}, "shift is 0; it must be above 0"),
        ({"flow": True, "beta_end": 0.01}, "beta_start and beta_end do nothing with flow=True"),
    ):
        with pytest.raises(ValueError, match=message):
            Scheduler(**options)
    with pytest.raises(ValueError, match="shift 4 of 1000 timesteps makes some of them equal"):
        Scheduler(flow=True, shift=4.0).schedule(1000)
    assert "flow" not in Scheduler().config and "shift" not in Scheduler().config
    flow = Scheduler("ddim", "trailing", flow=True, shift=2.0)
    assert Scheduler.from_config(flow.config) == flow
    assert Scheduler.from_config(flow.config, "dpm_singlestep") == Scheduler(
        "dpm_singlestep", "trailing", flow=True, shift=2.0
    )
    assert flow.schedule(30).stride == 0


def test_flow_loss_written_out():
    seen = []
    terms = diffusion_loss(lambda x, t: seen.append((x, t)) or torch.zeros_like(x), X0, INDEX, NOISE, FLOW, "flow")
    u = times(INDEX)
    torch.testing.assert_close(seen[0][0], (1 - u) * X0 + u * NOISE)
    assert torch.equal(seen[0][1], INDEX) and torch.equal(terms["loss"], terms["mse"])
    torch.testing.assert_close(terms["mse"], (NOISE - X0).square().mean((1, 2, 3, 4)))


def losses(schedule, prediction, **options):
    """Losses of a network with a known error in x_0, expressed as a given prediction; the variance is known."""

    def model(given, t):
        a, s = factors(schedule, t, given)
        x = given * (a + s) if prediction == "flow" else given
        return torch.cat([converted(X0 + x / 10, x, a, s, "x0", prediction), X0], 2)

    index = torch.tensor([30, 950])
    return diffusion_loss(model, X0, index, NOISE, schedule, prediction, **options)


@pytest.mark.parametrize("schedule", [FLOW, linear_schedule()])
def test_the_bound_and_the_weighted_loss_do_not_depend_on_the_prediction(schedule):
    """Min-SNR weights the error in x_0, whatever the network predicts."""
    x = q_sample(schedule, X0, INDEX, NOISE)
    snr = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod))[INDEX]
    expected = snr.clamp(max=5) * (x / 10).square().mean((1, 2, 3, 4))
    eps = losses(schedule, "eps")
    for name in ("eps", "v", "flow"):
        terms = losses(schedule, name, snr_gamma=5.0)
        torch.testing.assert_close(terms["vb"], eps["vb"], rtol=1e-3, atol=1e-6)  # the output is float32
        torch.testing.assert_close(terms["loss"] - terms["vb"], expected, rtol=1e-3, atol=1e-6)
        assert torch.equal(terms["mse"], losses(schedule, name)["mse"])


def test_min_snr_weights_written_out():
    index = torch.tensor([0, 20, 700])
    for schedule in (FLOW, linear_schedule()):
        snr = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod))[index]
        least = torch.minimum(snr, torch.tensor(5.0, dtype=torch.float64))
        over = {"x0": 1, "eps": snr, "v": snr + 1, "flow": (snr.sqrt() + 1) ** 2}
        for name, factor in over.items():
            torch.testing.assert_close(min_snr_weight(schedule, index, name, 5.0), least / factor)
    u = times(index).flatten()
    torch.testing.assert_close(min_snr_weight(FLOW, index, "flow", 1e9), (1 - u) ** 2)
