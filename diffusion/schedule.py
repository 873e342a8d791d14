"""The noise schedule of the forward process, in float64, and its respacing.

Sources: Ho et al. 2020 (arXiv 2006.11239), eq. 2-7; Nichol & Dhariwal 2021 (arXiv 2102.09672), sections 3.1 and 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import torch
from torch import Tensor

from latte.diffusion.respacing import evenly_spaced

SPACINGS = ("even", "leading", "trailing", "linspace")
WITHOUT_FLOAT64 = ("mps", "xpu")  # types of devices, some of which have no float64


def widest(device: torch.device) -> torch.dtype:
    """The most precise floating-point type that every device of this type has."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


@dataclass(frozen=True, eq=False)
class Schedule:
    """A Markov chain of noise levels: x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise.

    Attributes:
        betas: Variances of the forward steps (n,), float64.
        timesteps: The t given to the network at each step (n,); increasing.
        end: Signal power (alpha bar) where the reverse process ends; below 1 if a little noise is to remain.
        parent: The training schedule that this chain is taken from; None if it is itself a training schedule.
        stride: If not 0, each step leads to the noise level this many timesteps lower, even if the next step begins at
            another level. Requires a parent.
    """

    betas: Tensor
    timesteps: Tensor
    end: float = 1.0
    parent: "Schedule | None" = None
    stride: int = 0

    def __len__(self) -> int:
        return len(self.betas)

    @property
    def is_flow(self) -> bool:
        """Whether the noise levels are those of flow matching."""
        return self.parent is not None and self.parent.is_flow

    def timesteps_on(self, device: torch.device) -> Tensor:
        """The timesteps (n,) on a device; fractional ones are float32 where it has no float64."""
        dtype = widest(device) if self.timesteps.is_floating_point() else self.timesteps.dtype
        return self.timesteps.to(device, dtype)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Signal power left after step i (alpha bar), (n,)."""
        return torch.cumprod(1 - self.betas, 0)

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        """Alpha bar that each step leads to, (n,): that of the step before, and `end` before the first step."""
        if self.stride and self.parent is not None:
            goals = self.timesteps - self.stride
            return torch.where(goals < 0, self.end, self.parent.alpha_bar_at(goals.clamp(min=0)))
        return torch.cat([self.betas.new_full((1,), self.end), self.alphas_cumprod[:-1]])

    @cached_property
    def step_betas(self) -> Tensor:
        """1 - alpha bar / alphas_cumprod_prev, (n,): betas, except where `end` or `stride` sets where a step leads."""
        if self.stride:
            return 1 - self.alphas_cumprod / self.alphas_cumprod_prev
        first = (1 - (1 - self.betas[:1]) / self.end).clamp(min=0)
        return torch.cat([first, self.betas[1:]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance of q(x_{t-1} | x_t, x_0), (n,); eq. 7 of Ho et al. The first step leads down to `end`."""
        return self.step_betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """Logarithm of posterior_variance, (n,); the first step, whose variance is 0, takes the second step's."""
        variance = self.posterior_variance.clone()
        variance[0] = variance[1] if len(variance) > 1 else self.betas[0]
        return variance.log()

    @cached_property
    def sigmas(self) -> Tensor:
        """Noise over signal after step i, (n,): x_t / sqrt(alpha_bar) = x_0 + sigma noise."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def alpha_bar_at(self, timesteps: Tensor) -> Tensor:
        """Alpha bar (n,), float64, at timesteps (n,) of a training schedule.

        Between two integers, sigma is interpolated linearly.
        """
        low, sigma = timesteps.floor().long().cpu(), self.sigmas
        share = timesteps.cpu().double() - low
        here = torch.lerp(sigma[low], sigma[(low + 1).clamp(max=len(self) - 1)], share)
        return torch.where(share == 0, self.alphas_cumprod[low], 1 / (1 + here**2))

    def timestep_of(self, sigma: float) -> float:
        """The timestep of a noise level, interpolated in log sigma on the training schedule; it may be fractional."""
        if self.parent is not None:
            return self.parent.timestep_of(sigma)
        return float(np.interp(math.log(sigma), self.sigmas.log().numpy(), self.timesteps.double().numpy()))


class FlowSchedule(Schedule):
    """The noise levels of flow matching, exact between whole timesteps too: see flow_schedule."""

    @property
    def is_flow(self) -> bool:
        """True."""
        return True

    def alpha_bar_at(self, timesteps: Tensor) -> Tensor:
        """Alpha bar (n,), float64, at timesteps (n,)."""
        u = self.time_of(timesteps.cpu().double())
        return (1 - u) ** 2 / ((1 - u) ** 2 + u**2)

    def timestep_of(self, sigma: float) -> float:
        """The timestep of a noise level; it may be fractional."""
        return min(max(len(self) * sigma / (1 + sigma) - 0.5, 0.0), len(self) - 1.0)

    def time_of(self, timesteps: Tensor) -> Tensor:
        """The path's time u in (0, 1) at timesteps (n,)."""
        return (timesteps + 0.5) / len(self)

    def shifted(self, timesteps: Tensor, shift: float) -> Tensor:
        """Timesteps (n,) whose times are shifted towards the noise (Esser et al. 2024, arXiv 2403.03206, eq. 23).

        The time u becomes shift u / (1 + (shift - 1) u), so that the ratio of noise to signal is `shift` times larger.
        The result stays within the schedule's timesteps.
        """
        u = self.time_of(timesteps.double())
        return (len(self) * shift * u / (1 + (shift - 1) * u) - 0.5).clamp(0, len(self) - 1)


def linear_schedule(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Linear betas (Ho et al. 2020, section 4), the end points rescaled by 1000 / steps.

    Args:
        steps: Length of the chain.
        beta_start: First beta of a chain of 1000 steps.
        beta_end: Last beta of a chain of 1000 steps.

    Raises:
        ValueError: The chain is so short that a beta is not between 0 and 1.
    """
    scale = 1000 / max(steps, 1)
    betas = torch.linspace(scale * beta_start, scale * beta_end, steps, dtype=torch.float64)
    if steps < 1 or not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"no schedule of {steps} steps from {beta_start} to {beta_end}: a beta is not between 0 and 1")
    return Schedule(betas, torch.arange(steps))


def flow_schedule(steps: int = 1000) -> FlowSchedule:
    """The linear path of flow matching, in variance-preserving form (Lipman et al. 2023, arXiv 2210.02747).

    Timestep i has the time u = (i + 1/2) / steps, the middle of its share of (0, 1). The path's state there is
    (1 - u) x_0 + u eps. Divided by sqrt((1 - u)^2 + u^2) it is a state of this schedule, whose alpha bar is
    (1 - u)^2 / ((1 - u)^2 + u^2). No timestep has u = 1, where alpha bar is 0 and the noise says nothing about x_0. The
    last of 1000 timesteps has a signal of 1/2000; there, float32 recovers x_0 to about 1e-4.

    Args:
        steps: Length of the chain.

    Raises:
        ValueError: There are fewer than 2 steps.
    """
    if steps < 2:
        raise ValueError(f"a flow schedule of {steps} steps: it needs 2 or more")
    timesteps = torch.arange(steps)
    u = (timesteps.double() + 0.5) / steps
    abar = (1 - u) ** 2 / ((1 - u) ** 2 + u**2)
    return FlowSchedule(1 - abar / torch.cat([abar.new_ones(1), abar[:-1]]), timesteps)


def training_schedule(prediction: str) -> Schedule:
    """The schedule of 1000 steps that a network with this prediction ("eps", "v" or "flow") is trained on."""
    return flow_schedule() if prediction == "flow" else linear_schedule()


def spaced_timesteps(
    count: int | str, spacing: str = "even", steps: int = 1000, offset: int = 0, multistep: bool = False
) -> Tensor:
    """Choose the timesteps of a shorter chain.

    Args:
        count: How many to keep, or, with the spacing "even", a respacing string of Nichol & Dhariwal's code:
            "10,15,20" cuts the range into three equal parts and keeps 10, 15 and 20 timesteps of them; "ddim50" keeps
            50 at a constant integer stride (Song et al. 2021).
        spacing: "even" rounds evenly spaced timesteps, both ends included, as the original Latte does. The others are
            those of diffusers' schedulers (Lin et al. 2024, table 2): "leading" takes an integer stride from 0,
            "trailing" goes down from the last timestep, "linspace" includes both ends and keeps fractions.
        steps: Length of the training schedule.
        offset: Added to "leading" timesteps.
        multistep: Space one more timestep and drop the lowest, for solvers that end there.

    Returns:
        Increasing timesteps (n,) from 0 to steps - 1, float64.

    Raises:
        ValueError: The spacing is unknown, or there are not enough timesteps.
    """
    if spacing == "even":
        return torch.tensor(evenly_spaced(str(count), steps), dtype=torch.float64)
    if isinstance(count, str) and count.isdecimal():
        count = int(count)
    if not isinstance(count, int) or not 1 <= count <= steps - multistep:
        raise ValueError(
            f"the number of timesteps is {count!r}; it must be a whole number from 1 to {steps - multistep}"
        )
    if not 0 <= offset < steps:
        raise ValueError(f"the offset of timesteps is {offset}; it must be from 0 to {steps - 1}")
    n = count + multistep
    if spacing == "leading":
        timesteps = torch.arange(n, dtype=torch.float64) * (steps // n) + offset
    elif spacing == "trailing":
        timesteps = steps - 1 - (torch.arange(count, dtype=torch.float64).flip(0) * steps / count).round()
    elif spacing == "linspace":
        timesteps = torch.from_numpy(np.linspace(0, steps - 1, n))  # torch.linspace would round halves differently
        timesteps = timesteps.round() if multistep else timesteps
    else:
        raise ValueError(f"spacing is {spacing!r}, not one of {', '.join(SPACINGS)}")
    return timesteps[-count:].clamp(max=steps - 1)


def respace(
    schedule: Schedule, timesteps: str | Sequence[float] | Tensor, end: float = 1.0, stride: int = 0
) -> Schedule:
    """A shorter chain over some of a schedule's timesteps, which keep their noise levels.

    Args:
        schedule: The training schedule, whose step i is timestep i.
        timesteps: Increasing timesteps (n,), or a respacing string (see spaced_timesteps). Between two integers, the
            noise level is interpolated linearly in sigma.
        end: Signal power (alpha bar) where the reverse process ends.
        stride: Each step leads this many timesteps lower; 0: to the next of the timesteps.

    Raises:
        ValueError: The timesteps do not increase, or are not within the schedule's.
    """
    if isinstance(timesteps, str):
        timesteps = spaced_timesteps(timesteps, steps=len(schedule))
    kept, most = torch.as_tensor(timesteps, dtype=torch.float64), len(schedule) - 1
    if len(kept) == 0 or not (kept[0] >= 0 and kept[-1] <= most and (kept.diff() > 0).all()):
        raise ValueError(f"timesteps must rise, without repetition, within 0..{most}; got {kept.tolist()}")
    abar = schedule.alpha_bar_at(kept)
    betas = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])
    return Schedule(betas, kept if (kept % 1).any() else kept.long(), end, schedule, stride)


@overload
def at(table: Tensor, index: int, like: Tensor) -> float: ...
@overload
def at(table: Tensor, index: Tensor, like: Tensor) -> Tensor: ...
@overload
def at(table: Tensor, index: Tensor | int, like: Tensor) -> Tensor | float: ...
def at(table: Tensor, index: Tensor | int, like: Tensor) -> Tensor | float:
    """Look up a schedule's table.

    Args:
        table: One value per step (n,).
        index: One step for the whole batch, or one per sample (b,).
        like: Samples (b, ...), whose device, dtype and number of dimensions the result gets.

    Returns:
        A number, or values (b, 1, 1, ...) that broadcast over the samples.
    """
    if isinstance(index, int):
        return float(table[index])
    return table.to(like.dtype).to(like.device)[index].view(-1, *[1] * (like.ndim - 1))


def q_sample(schedule: Schedule, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """Sample x_t given x_0 (b, ...), step indices (b,) and noise shaped like x_0; eq. 4 of Ho et al. 2020."""
    abar = schedule.alphas_cumprod
    return at(abar.sqrt(), index, x0) * x0 + at((1 - abar).sqrt(), index, x0) * noise
