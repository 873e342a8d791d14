"""Every sampler, spacing and option against the values of diffusers' schedulers in float64."""

import json

import pytest
import torch
from goldens import FOLDER

from latte.scheduler import Scheduler

RECORDED = json.loads((FOLDER / "samplers.json").read_text())
KEYS = ("sampler", "timestep_spacing", "steps_offset", "set_alpha_to_one", "last_noise")


def numbers(wave):
    """A (1, 1, 4, 2, 2) latent with the values of a function at 0 to 15."""
    return 1.4 * wave(torch.arange(16, dtype=torch.float64)).view(1, 1, 4, 2, 2)


def gentle(x, t):
    return torch.sin(x + t.double().view(-1, 1, 1, 1, 1) / 200) / 2


def with_variance(x, t):
    return torch.cat([gentle(x, t), torch.cos(2 * x)], 2)


def sampled(scheduler, count, eta, learned):
    """The result of a scheduler from the recorded start and noise."""
    schedule = scheduler.schedule(count)
    start = scheduler.start(numbers(lambda i: torch.sin(1.7 * i + 0.3)), schedule)
    fresh = lambda step: numbers(lambda i: torch.cos((0.9 + step / 7) * i))
    *_, x = scheduler.run(with_variance if learned else gentle, start, schedule, fresh, eta)
    return x.flatten()


@pytest.mark.parametrize("name", sorted({row["sampler"] for row in RECORDED}))
def test_sampler_values_match_diffusers(name):
    for row in (row for row in RECORDED if row["sampler"] == name):
        scheduler = Scheduler(**{key: row[key] for key in KEYS})
        x, reference = sampled(scheduler, row["count"], row["eta"], row["learned"]), torch.tensor(row["x"]).double()
        assert (x - reference).norm() < 2e-6 * reference.norm(), row


@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
def test_a_fixed_stride_applies_only_if_it_misses_the_next_timestep(sampler):
    free = Scheduler(sampler, "linspace", fixed_stride=False)
    assert all(Scheduler(sampler, "trailing").schedule(n).stride == 0 for n in (1, 2, 10, 20, 50, 250))
    assert [Scheduler(sampler, "trailing").schedule(n).stride for n in (7, 30)] == [142, 33]
    assert Scheduler(sampler, "linspace").schedule(20).stride == 50
    assert Scheduler(sampler, "even").schedule(7).stride == 0 and free.schedule(20).stride == 0
    assert Scheduler(sampler, "trailing").schedule(7, [900, 30]).stride == 0
    assert Scheduler("euler", "trailing").schedule(7).stride == 0
    assert not torch.allclose(
        sampled(free, 7, 0, False), sampled(Scheduler(sampler, "linspace"), 7, 0, False), rtol=0.01
    )


@pytest.mark.parametrize("sampler", ["ddim", "pndm"])
def test_a_free_stride_leads_to_the_next_timestep(sampler):
    """With the true noise of a clean latent, every step then lies on the path between the two."""
    scheduler = Scheduler(sampler, "linspace", fixed_stride=False)
    schedule, clean, noise = scheduler.schedule(7), numbers(torch.sin), numbers(torch.cos)
    along = lambda abar: abar.sqrt() * clean + (1 - abar).sqrt() * noise
    steps = list(scheduler.run(lambda x, t: noise, along(schedule.alphas_cumprod[-1]), schedule, None))
    for i, x in enumerate(steps):
        torch.testing.assert_close(x, along(schedule.alphas_cumprod_prev[6 - i]))
    torch.testing.assert_close(steps[-1], clean)


def test_ddpm_adds_final_noise_only_if_asked():
    for spacing, begins_above_0 in (("trailing", True), ("linspace", False)):
        plain, asked = (sampled(Scheduler("ddpm", spacing, last_noise=last), 5, 0.0, True) for last in (False, True))
        assert torch.equal(plain, asked) != begins_above_0
        fixed = [sampled(Scheduler("ddpm", spacing, last_noise=last), 5, 0.0, False) for last in (False, True)]
        assert torch.equal(*fixed)
