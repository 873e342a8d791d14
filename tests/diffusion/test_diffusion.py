"""The diffusion process: closed forms and invariants."""

import numpy as np
import pytest
import torch

from latte.diffusion.gaussian import learned_log_variance, posterior_mean, state_between
from latte.diffusion.guidance import guided
from latte.diffusion.loss import diffusion_loss, discretised_nll, gaussian_kl
from latte.diffusion.predictions import factors, noise_of, predicting_noise, split_output
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


def test_ddim_at_eta_one_has_the_ddpm_posterior_mean():
    schedule = linear_schedule()
    index = torch.tensor([500, 3])
    noise = normal(X0.shape, 9).double()
    x = q_sample(schedule, X0, index, noise)
    prev, sigma2 = schedule.alphas_cumprod_prev[index], schedule.posterior_variance[index]
    view = lambda v: v.view(-1, 1, 1, 1, 1)
    direct = view(prev.sqrt()) * X0 + view((1 - prev - sigma2).sqrt()) * noise
    torch.testing.assert_close(posterior_mean(schedule, X0, x, index), direct)


@pytest.mark.parametrize("options", [{"end": 0.97}, {"stride": 90}])
def test_the_posterior_mean_leads_to_the_level_that_the_schedule_says(options):
    schedule = respace(linear_schedule(), [99, 199, 499], **options)
    for index in range(3):
        noise = normal(X0.shape, 9).double()
        x = q_sample(schedule, X0, torch.tensor([index, index]), noise)
        prev, variance = schedule.alphas_cumprod_prev[index], schedule.posterior_variance[index]
        expected = prev.sqrt() * X0 + (1 - prev - variance).sqrt() * noise
        torch.testing.assert_close(posterior_mean(schedule, X0, x, index), expected)


def test_a_state_between_two_levels_has_the_posterior_and_the_marginal_of_the_forward_process():
    schedule = linear_schedule()
    upper, lower = (factors(schedule, torch.tensor(index), X0) for index in ([500, 3], [499, 2]))
    x, noise = q_sample(schedule, X0, torch.tensor([500, 3]), normal(X0.shape, 9).double()), normal(X0.shape, 1)
    deviation = schedule.posterior_variance[torch.tensor([500, 3])].sqrt().view(-1, 1, 1, 1, 1)
    expected = posterior_mean(schedule, X0, x, torch.tensor([500, 3])) + deviation * noise
    torch.testing.assert_close(state_between(x, X0, noise, upper, lower), expected)
    x0, eps, fresh = torch.full((1, 100_000), 2.0).double(), *torch.randn(2, 1, 100_000).double()
    (a, s), (above, more) = (factors(schedule, torch.tensor([t]), x0) for t in (300, 700))
    state = state_between(above * x0 + more * eps, x0, fresh, (above, more), (a, s))
    assert abs(float(state.mean() - 2 * a)) < 0.02 and abs(float(state.std() - s)) < 0.02
    torch.testing.assert_close(state_between(x, X0, noise, upper, upper), x)


def test_ddim_matches_equation_12_for_any_eta():
    """Every step written out; at eta=1 it equals DDPM without a learned variance."""
    schedule = respace(linear_schedule(), "3")
    denoise = gaussian_denoiser(schedule, 2.0, 0.25)
    noise = lambda i: normal(X0.shape, 2, i).double()
    for eta in (0.0, 0.5, 1.0):
        steps, x = list(ddim(denoise, X0, schedule, noise, eta)), X0
        for count, i in enumerate((2, 1, 0)):
            a, prev = schedule.alphas_cumprod[i], schedule.alphas_cumprod_prev[i]
            sigma = eta * ((1 - prev) / (1 - a) * (1 - a / prev)).sqrt()
            eps = denoise(x, schedule.timesteps[i : i + 1])
            x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
            x = prev.sqrt() * x0 + (1 - prev - sigma**2).sqrt() * eps + (sigma * noise(count) if i else 0)
            torch.testing.assert_close(steps[count], x, rtol=1e-10, atol=1e-10)
    for one, other in zip(ddim(denoise, X0, schedule, noise, 1.0), ddpm(denoise, X0, schedule, noise)):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="give noise="):
        next(ddim(denoise, X0, schedule, eta=0.5))


class Recorder(torch.nn.Module):
    """A denoiser that records its timesteps and returns a fixed output."""

    def __init__(self, out):
        super().__init__()
        self.out, self.t = torch.nn.Parameter(out), None

    def forward(self, x, t):
        self.t = t
        return self.out


def test_bound_trains_the_variance_alone():
    model, index = Recorder(normal((2, 3, 8, 4, 4), 5).double()), torch.tensor([0, 700])
    diffusion_loss(model, X0, index, normal(X0.shape, 8).double(), linear_schedule())["vb"].sum().backward()
    eps, v = model.out.grad.chunk(2, 2)
    assert (eps == 0).all() and (v != 0).any(dim=2).all()


def test_the_loss_passes_timesteps_not_indices():
    schedule, noise = respace(linear_schedule(), "10"), normal(X0.shape, 8).double()
    model = Recorder(normal(X0.shape, 5).double())
    terms = diffusion_loss(model, X0, torch.tensor([1, 9]), noise, schedule)
    assert model.t.tolist() == [111, 999]
    assert terms.keys() == {"loss", "mse"} and torch.equal(terms["loss"], terms["mse"])
    torch.testing.assert_close(terms["loss"], (noise - model.out).square().mean((1, 2, 3, 4)))


def test_v_prediction():
    """The true v is equivalent to the true noise: no loss, DDIM returns the clean video, the variance is unaffected."""
    full, noise = linear_schedule(), normal(X0.shape, 8).double()

    def model(x, t, **condition):
        abar = full.alphas_cumprod[t].view(-1, 1, 1, 1, 1)
        return torch.cat([abar.sqrt() * noise - (1 - abar).sqrt() * X0, X0], 2)

    terms = diffusion_loss(model, X0, torch.tensor([3, 900]), noise, full, "v")
    torch.testing.assert_close(terms["mse"], torch.zeros(2, dtype=torch.float64))
    of_noise = diffusion_loss(lambda x, t: torch.cat([noise, X0], 2), X0, torch.tensor([3, 900]), noise, full)
    torch.testing.assert_close(terms["vb"], of_noise["vb"], rtol=1e-4, atol=1e-6)  # the model's output is float32
    several = noise_of("v", noise, X0, *factors(full, torch.tensor([7, 7]), X0))
    torch.testing.assert_close(noise_of("v", noise, X0, *factors(full, 7, X0)), several)
    schedule = respace(full, "10")
    start = q_sample(schedule, X0, torch.full((2,), 9), noise)
    *_, end = ddim(predicting_noise(model, full, "v"), start, schedule)
    torch.testing.assert_close(end, X0)
    assert torch.equal(predicting_noise(model, full, "v")(start, torch.tensor([5, 5]))[:, :, 4:], X0)
    wrong = lambda x, t: model(x, t) + 0.1
    eps, v = (diffusion_loss(wrong, X0, torch.tensor([3, 900]), noise, full, kind)["mse"] for kind in ("eps", "v"))
    torch.testing.assert_close(v, torch.full((2,), 0.01, dtype=torch.float64))
    assert eps[1] > 1  # interpreted as noise, v is wrong


def test_a_fixed_variance_is_the_posterior_variance():
    schedule = linear_schedule()
    for index in (500, 1):
        log_var = learned_log_variance(schedule, None, index, X0)
        assert log_var == pytest.approx(float(schedule.posterior_variance[index].log()))
    for v, expected in ((-1.0, schedule.posterior_log_variance), (1.0, schedule.betas.log())):
        log_var = learned_log_variance(schedule, torch.full_like(X0, v), torch.tensor([1, 500]), X0)
        torch.testing.assert_close(log_var[:, 0, 0, 0, 0], expected[[1, 500]])


def test_schedules():
    assert linear_schedule(100).betas[[0, -1]].tolist() == pytest.approx([1e-3, 0.2])
    for steps in (0, 10, 20):
        with pytest.raises(ValueError, match="no schedule"):
            linear_schedule(steps)
    for kept in ([], [5, 5], [9, 3], [-1, 4], [4, 1000]):
        with pytest.raises(ValueError, match="must rise"):
            respace(linear_schedule(), kept)
    with pytest.raises(ValueError, match="returned 5 channels; expected 4 or 8"):
        split_output(torch.zeros(1, 1, 5, 2, 2), 4)


def test_guidance():
    model = lambda x, t, y: torch.cat([x * y.view(-1, 1, 1, 1, 1), x + y.view(-1, 1, 1, 1, 1)], 2)
    y, null, t = torch.tensor([3.0, 5.0]), torch.tensor([1.0, 1.0]), torch.tensor([10, 10])
    eps, v = guided(model, y, null, 2.0)(X0, t).chunk(2, dim=2)
    torch.testing.assert_close(eps, X0 * torch.tensor([5.0, 9.0]).view(-1, 1, 1, 1, 1))
    torch.testing.assert_close(v, X0 + y.view(-1, 1, 1, 1, 1))
    assert torch.equal(guided(model, y, null, 1)(X0, t), model(X0, t, y))
    always, far = guided(model, y, null, 2.0), guided(model, y, null, 2.0, interval=(11, 1000))
    assert torch.equal(far(X0, t), model(X0, t, y)) and torch.equal(far(X0, t + 1), always(X0, t + 1))
    near = guided(model, y, null, 2.0, interval=(0, 10))
    assert torch.equal(near(X0, t + 1), model(X0, t + 1, y)) and not torch.equal(near(X0, t), model(X0, t, y))
    noise_alone = guided(lambda x, t, y: x * y.view(-1, 1, 1, 1, 1), y, null, 2.0)(X0, t)
    torch.testing.assert_close(noise_alone, eps)


def test_guidance_of_latents_of_any_shape():
    """Frames, channels, rows and columns all differ in number."""
    x, t, y = normal((2, 5, 3, 4, 6), 1), torch.tensor([10, 10]), torch.tensor([3.0, 5.0])
    scaled = lambda x, t, y: x * y.view(-1, 1, 1, 1, 1)
    for model in (scaled, lambda x, t, y: torch.cat([scaled(x, t, y), x], 2)):
        out = guided(model, y, torch.ones(2), 2.0)(x, t)
        torch.testing.assert_close(out[:, :, :3], x * torch.tensor([5.0, 9.0]).view(-1, 1, 1, 1, 1))
        full, index = linear_schedule(), torch.tensor([3, 900])
        eps = predicting_noise(model, full, "v")(x, index, y)
        assert eps.shape == model(x, index, y).shape
        abar = full.alphas_cumprod[index].view(-1, 1, 1, 1, 1).float()
        torch.testing.assert_close(eps[:, :, :3], abar.sqrt() * scaled(x, index, y) + (1 - abar).sqrt() * x)


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
    assert spaced_timesteps("ddim50").tolist() == list(range(0, 1000, 20))
    assert spaced_timesteps("ddim1").tolist() == [0] and spaced_timesteps("ddim1000").tolist() == list(range(1000))
    assert respace(full, [0.1, 998.3]).timesteps.tolist() == [0.1, 998.3]  # kept in float64


@pytest.mark.parametrize("spacing", ["", "0", "-5", "ddim", "ddim51", "1001", "10,,3", "fast", "ddim5,5"])
def test_wrong_spacing_is_rejected(spacing):
    with pytest.raises(ValueError, match="respacing"):
        spaced_timesteps(spacing)


def test_random_numbers_depend_only_on_seed_and_path():
    assert torch.equal(normal((5,), 3, 1, 2), normal((5,), 3, 1, 2))
    places = [(3, 1, 2), (3, 2, 1), (4, 1, 2), (3, 1), (3, 1, 2, 1), (3,), (3, 0), (3, 0, 0)]
    drawn = torch.stack([normal((5,), *place) for place in places])
    assert len(drawn.unique(dim=0)) == len(places)
    with pytest.raises(ValueError, match="seed"):
        generator(-1)
    for seed, path in ((0, ()), (3, (1, 2)), (2**70, (0,))):  # all 64 bits matter
        drawn = np.random.SeedSequence(seed, spawn_key=path).generate_state(1, np.uint64)
        assert generator(seed, *path).initial_seed() % 2**64 == int(drawn[0])
