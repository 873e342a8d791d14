"""Guidance methods: their formulas against small cases worked out by hand."""

from functools import partial

import pytest
import torch

from latte.diffusion.gaussian import predict_x0
from latte.diffusion.guidance import autoguided
from latte.diffusion.guidance_methods import (
    METHODS,
    cfg_plus_plus_scale,
    cfg_zero_star,
    projected_guidance,
    zero_velocity,
)
from latte.diffusion.guidance_options import OPTIONS, SHAPES, check_method, scheduled_scale
from latte.diffusion.predictions import clean_of, factors_at, noise_of
from latte.diffusion.samplers import ddim
from latte.diffusion.schedule import linear_schedule, respace

ABAR = 0.3
FACTORS = factors_at(ABAR)
SHAPE = (2, 3, 4, 5, 5)  # b f c h w


def noises(seed=0):
    torch.manual_seed(seed)
    return torch.randn(SHAPE), torch.randn(SHAPE), torch.randn(SHAPE)


def noise_of_v(x, v, prediction="v"):
    return noise_of(prediction, v, x, *FACTORS)


def vectors(*values):
    """Latents (1, 1, 1, 1, n) of one frame."""
    return (torch.tensor(value).view(1, 1, 1, 1, -1) for value in values)


def test_projected_guidance_without_projection_is_classifier_free():
    x, c, n = noises()
    guided, average = projected_guidance(x, c, n, 3.0, ABAR, parallel=1.0)
    torch.testing.assert_close(guided, n + 3 * (c - n), rtol=1e-4, atol=1e-5)
    difference = clean_of("eps", c, x, *FACTORS) - clean_of("eps", n, x, *FACTORS)
    torch.testing.assert_close(average, difference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "update"),
    [
        ({}, [0.0, 4.0]),  # the component of (3, 4) orthogonal to (2, 0)
        ({"parallel": 0.5}, [1.5, 4.0]),
        ({"threshold": 2.5}, [0.0, 2.0]),  # (3, 4) has length 5
        ({"threshold": 6.0}, [0.0, 4.0]),
        ({"momentum": -0.5, "average": torch.tensor([0.0, 2.0]).view(1, 1, 1, 1, 2)}, [0.0, 3.0]),
    ],
)
def test_projected_guidance_matches_a_worked_example(options, update):
    """Clean latents: conditional (2, 0), negative (-1, -4); guided: (2, 0) + (3 - 1) * update."""
    x, c, n, change = vectors([0.7, -0.2], [2.0, 0.0], [-1.0, -4.0], update)
    guided, _ = projected_guidance(
        x, noise_of("x0", c, x, *FACTORS), noise_of("x0", n, x, *FACTORS), 3.0, ABAR, **options
    )
    torch.testing.assert_close(clean_of("eps", guided, x, *FACTORS), c + 2 * change, rtol=1e-4, atol=1e-5)


def test_the_norm_threshold_applies_per_frame():
    """A video of identical frames is guided like one of its frames."""
    still = [z[:, :1] for z in noises()]
    one, _ = projected_guidance(*still, 3.0, ABAR, threshold=2.0)
    several, _ = projected_guidance(*(z.expand(-1, 4, -1, -1, -1) for z in still), 3.0, ABAR, threshold=2.0)
    torch.testing.assert_close(several, one.expand(-1, 4, -1, -1, -1))


@pytest.mark.parametrize("prediction", ["v", "flow"])
def test_the_optimised_scale_matches_a_worked_example(prediction):
    """Velocities (2, 1) and (1, 1): the best scale is 3/2, and 3/2 (1, 1) + 3 ((2, 1) - 3/2 (1, 1)) = (3, 0)."""
    x, c, n, expected = vectors([0.4, -1.0], [2.0, 1.0], [1.0, 1.0], [3.0, 0.0])
    flow, noise = prediction == "flow", lambda velocity: noise_of_v(x, velocity, prediction)
    torch.testing.assert_close(cfg_zero_star(x, noise(c), noise(n), 3.0, ABAR, flow), noise(expected))
    torch.testing.assert_close(zero_velocity(x, ABAR, flow), noise(torch.zeros_like(x)))


def test_a_negative_velocity_of_the_right_direction_changes_nothing():
    x, v, _ = noises()
    towards, away = noise_of_v(x, v), noise_of_v(x, 0.2 * v)
    torch.testing.assert_close(cfg_zero_star(x, towards, away, 5.0, ABAR), towards, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["apg", "cfg-zero"])
def test_videos_do_not_affect_each_other(method):
    rule = partial(METHODS[method], flow=False, **OPTIONS[method])
    x, c, n = noises()
    both, first = (rule([3.0] * 2, [ABAR] * 2) for _ in range(2))
    for k in range(2):
        torch.testing.assert_close(both(k, x, c, n)[:1], first(k, x[:1], c[:1], n[:1]), rtol=0, atol=1e-6)
    changed = torch.cat([c[:1], c[1:] + 1])
    assert torch.equal(rule([3.0], [ABAR])(0, x, changed, n)[0], rule([3.0], [ABAR])(0, x, c, n)[0])


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_cfg_plus_plus_scales_reproduce_cfg_plus_plus(eta):
    """DDIM at these scales against CFG++: clean latents from the guided noise, renoised with the negative one."""
    schedule = respace(linear_schedule(), torch.linspace(0, 999, 8, dtype=torch.float64).round())
    conditional, negative = (lambda z: 0.5 * z.sin()), (lambda z: 0.3 * z.cos())
    x, fresh, _ = noises()
    x, fresh = x.double(), fresh.double()
    steps = [
        (float(here), float(there), eta * float(variance) ** 0.5)
        for here, there, variance in zip(
            schedule.alphas_cumprod, schedule.alphas_cumprod_prev, schedule.posterior_variance
        )
    ][::-1]
    scales = iter([cfg_plus_plus_scale(0.6, *step) for step in steps])
    *_, found = ddim(lambda z, t: negative(z) + next(scales) * (conditional(z) - negative(z)), x, schedule,
                     lambda step: fresh, eta)  # fmt: skip
    for index, (_, there, deviation) in zip(reversed(range(len(schedule))), steps):
        away = negative(x)
        clean = predict_x0(schedule, x, index, away + 0.6 * (conditional(x) - away))
        x = there**0.5 * clean + max(1 - there - deviation**2, 0) ** 0.5 * away + deviation * fresh
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def test_cfg_plus_plus_requires_decreasing_noise():
    assert cfg_plus_plus_scale(0.6, 0.3, 1.0) == pytest.approx(0.6)  # the last step adds no noise
    with pytest.raises(ValueError, match="cfg\\+\\+ needs steps that lower the noise"):
        cfg_plus_plus_scale(0.6, 0.3, 0.3)


def test_scale_schedules_keep_their_mean():
    for shape in SHAPES:
        values = [scheduled_scale(4.0, t + 0.5, 1000, shape) for t in range(1000)]
        assert sum(values) / 1000 == pytest.approx(4.0, abs=1e-4)
    at = lambda shape: [round(scheduled_scale(4.0, t, 1000, shape), 6) for t in (0, 500, 1000)]
    assert [at(shape) for shape in SHAPES] == [[4, 4, 4], [7, 4, 1], [7, 4, 1], [1, 5.5, 1]]
    assert scheduled_scale(0.1 + 0.2, 0, 1000, "constant") == 0.1 + 0.2


def test_autoguidance_matches_a_worked_example():
    """The variance comes from the model itself; outside the interval the weaker model is not used."""
    strong, weak = torch.randn(2, *SHAPE).repeat(1, 1, 1, 2, 1, 1)
    denoise = autoguided(lambda x, t: strong, lambda x, t: weak, 2.5, (100, 900))
    x = torch.zeros(SHAPE)
    guided = denoise(x, torch.tensor([500, 500]))
    torch.testing.assert_close(guided[:, :, :4], weak[:, :, :4] + 2.5 * (strong - weak)[:, :, :4])
    assert torch.equal(guided[:, :, 4:], strong[:, :, 4:])
    assert torch.equal(denoise(x, torch.tensor([950, 950])), strong)


@pytest.mark.parametrize("method", ["cfg", "apg", "cfg-zero"])
def test_a_cached_difference_replaces_the_negative_noise(method):
    rule = partial(METHODS[method], flow=False, **OPTIONS[method])
    x, c, n = noises()
    whole, along = (rule([3.0], [ABAR]) for _ in range(2))
    torch.testing.assert_close(along.along(0, x, c, c - n), whole(0, x, c, n), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "say"),
    [
        ("apx", {}, "guidance_method is 'apx'; choose from cfg, apg, cfg-zero, cfg\\+\\+"),
        ("cfg", {"momentum": 0}, "'momentum' is unknown; cfg has no options"),
        ("apg", {"eta": 0}, "'eta' is unknown; apg has parallel, threshold, momentum"),
        ("apg", {"momentum": "a"}, "momentum is 'a'; it must be a finite number"),
        ("apg", {"momentum": -1}, "momentum is -1; it must be above -1 and below 1"),
        ("apg", {"threshold": -1}, "threshold is -1; it must be 0"),
        ("cfg-zero", {"zero_steps": 0.5}, "zero_steps is 0.5; it must be a whole number"),
    ],
)
def test_wrong_methods_are_refused(method, options, say):
    with pytest.raises(ValueError, match=say):
        check_method(method, options)
