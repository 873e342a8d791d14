"""The diffusion: closed forms, and what must not change."""

import pytest
import torch

from latte.diffusion.gaussian import posterior_mean
from latte.diffusion.guidance import guided
from latte.diffusion.loss import discretised_nll, gaussian_kl
from latte.diffusion.randomness import generator, normal
from latte.diffusion.samplers import ddim, ddpm
from latte.diffusion.schedule import linear_schedule, q_sample, respace, spaced_timesteps

X0 = normal((2, 3, 4, 4, 4), 7).double()


@pytest.mark.parametrize("spacing", ["1", "10", "ddim50", "250"])
def test_ddim_with_the_true_noise_returns_the_clean_video(spacing):
    schedule, noise = respace(linear_schedule(), spacing), normal(X0.shape, 8).double()
    start = q_sample(schedule, X0, torch.full((2,), len(schedule) - 1), noise)
    *_, end = ddim(lambda x, t: noise, start, schedule)
    torch.testing.assert_close(end, X0)


def gaussian_denoiser(schedule, mean: float, variance: float):
    """The exact noise prediction for data N(mean, variance), by timestep."""
    abar = dict(zip(schedule.timesteps.tolist(), schedule.alphas_cumprod.tolist()))

    def denoise(x, t):
        a = abar[int(t[0])]
        return (1 - a) ** 0.5 * (x - a**0.5 * mean) / (a * variance + 1 - a)

    return denoise


@pytest.mark.parametrize(("sampler", "options"), [(ddpm, {}), (ddim, {"eta": 1.0}), (ddim, {"eta": 0.0})])
def test_samplers_reach_a_gaussian(sampler, options):
    schedule = respace(linear_schedule(), "250")
    shape = (1, 1, 1, 100, 100)
    start = normal(shape, 1).double()
    *_, end = sampler(gaussian_denoiser(schedule, 2.0, 0.25), start, schedule, lambda i: normal(shape, 2, i), **options)
    assert abs(end.mean() - 2) < 0.02
    assert abs(end.std() - 0.5) < 0.02


def test_eta_one_has_the_posterior_of_ddpm():
    schedule = linear_schedule()
    index = torch.tensor([500, 3])
    noise = normal(X0.shape, 9).double()
    x = q_sample(schedule, X0, index, noise)
    prev, sigma2 = schedule.alphas_cumprod_prev[index], schedule.posterior_variance[index]
    view = lambda v: v.view(-1, 1, 1, 1, 1)
    direct = view(prev.sqrt()) * X0 + view((1 - prev - sigma2).sqrt()) * noise
    torch.testing.assert_close(posterior_mean(schedule, X0, x, index), direct)


def test_guidance():
    model = lambda x, t, y: torch.cat([x * y.view(-1, 1, 1, 1, 1), x + y.view(-1, 1, 1, 1, 1)], 2)
    y, null, t = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0]), torch.tensor([10, 10])
    eps, v = guided(model, y, null, 2.0)(X0, t).chunk(2, dim=2)
    torch.testing.assert_close(eps, X0 * torch.tensor([5.0, 9.0]).view(-1, 1, 1, 1, 1))
    torch.testing.assert_close(v, X0 + y.view(-1, 1, 1, 1, 1))
    assert torch.equal(guided(model, y, null, 1)(X0, t), model(X0, t, y))


def test_kl_and_likelihood():
    zero = torch.zeros(1, dtype=torch.float64)
    assert gaussian_kl(zero, zero, zero, zero) == 0
    torch.testing.assert_close(gaussian_kl(zero + 1, zero, zero, zero), zero + 0.5)
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    total = torch.exp(-discretised_nll(levels, zero + 0.1, zero - 2)).sum()
    torch.testing.assert_close(total, total.new_tensor(1.0), rtol=0, atol=2e-2)


def test_respacing_keeps_noise_levels():
    full, short = linear_schedule(), respace(linear_schedule(), "10,15,20")
    torch.testing.assert_close(short.alphas_cumprod, full.alphas_cumprod[short.timesteps])
    assert spaced_timesteps("ddim50") == list(range(0, 1000, 20))


@pytest.mark.parametrize("spacing", ["", "0", "-5", "ddim", "ddim51", "1001", "10,,3", "fast", "ddim5,5"])
def test_wrong_spacing_is_told(spacing):
    with pytest.raises(ValueError, match="respacing"):
        spaced_timesteps(spacing)


def test_random_numbers_belong_to_their_place():
    assert torch.equal(normal((5,), 3, 1, 2), normal((5,), 3, 1, 2))
    places = [(3, 1, 2), (3, 2, 1), (4, 1, 2), (3, 1), (3, 1, 2, 1), (3,), (3, 0), (3, 0, 0)]
    drawn = torch.stack([normal((5,), *place) for place in places])
    assert len(drawn.unique(dim=0)) == len(places)
    with pytest.raises(ValueError, match="seed"):
        generator(-1)
