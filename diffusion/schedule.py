"""The noise schedule of the forward process, in float64, and its respacing.

Sources: Ho et al. 2020 (arXiv 2006.11239), eq. 2-7; Nichol & Dhariwal 2021 (arXiv 2102.09672), sections 3.1 and 4.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Schedule:
    """A Markov chain of noise levels. `timesteps[i]` is what the network is told at step i; betas (n,) float64."""

    betas: Tensor
    timesteps: Tensor
    end: float = 1.0  # signal power where the reverse process ends; below 1 where a little noise is to stay
    whole: "Schedule | None" = None  # the chain that this one was taken from

    def __len__(self) -> int:
        return len(self.betas)

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """Signal power left after step i (alpha bar), (n,)."""
        return torch.cumprod(1 - self.betas, 0)

    @cached_property
    def alphas_cumprod_prev(self) -> Tensor:
        """alpha bar one step earlier; `end` before the first, (n,)."""
        return torch.cat([self.betas.new_full((1,), self.end), self.alphas_cumprod[:-1]])

    @cached_property
    def posterior_variance(self) -> Tensor:
        """Variance of q(x_{t-1} | x_t, x_0), eq. 7 of Ho et al., (n,); of the first step, down to `end`."""
        betas = self.betas.clone()
        betas[0] = (1 - (1 - self.betas[0]) / self.end).clamp(min=0)
        return betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @cached_property
    def posterior_log_variance(self) -> Tensor:
        """Its logarithm; the first step, whose variance is 0, takes the second's, (n,)."""
        variance = self.posterior_variance.clone()
        variance[0] = variance[1] if len(variance) > 1 else self.betas[0]
        return variance.log()

    @cached_property
    def sigmas(self) -> Tensor:
        """Noise over signal after step i, (n,): x_t / sqrt(abar) = x_0 + sigma eps."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def power_at(self, timesteps: Tensor) -> Tensor:
        """alpha bar at timesteps (n,) of a whole chain, between two steps by sigma, linearly; float64."""
        low, sigma = timesteps.floor().long().cpu(), self.sigmas
        here = torch.lerp(sigma[low], sigma[(low + 1).clamp(max=len(self) - 1)], timesteps.double().cpu() - low)
        return 1 / (1 + here**2)

    def timestep_of(self, sigma: float) -> float:
        """The timestep, between whole ones, with that sigma: the whole chain's, interpolated in log sigma."""
        whole = self.whole or self
        return float(np.interp(math.log(sigma), whole.sigmas.log().numpy(), whole.timesteps.double().numpy()))


def linear_schedule(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """Linear betas (Ho et al. 2020, section 4); the end points are rescaled by 1000 / steps. ValueError: too few."""
    scale = 1000 / max(steps, 1)
    betas = torch.linspace(scale * beta_start, scale * beta_end, steps, dtype=torch.float64)
    if steps < 1 or not ((betas > 0) & (betas < 1)).all():
        raise ValueError(f"no schedule of {steps} steps from {beta_start} to {beta_end}: a beta is not in 0 to 1")
    return Schedule(betas, torch.arange(steps))


def spaced_timesteps(spacing: str, steps: int = 1000) -> list[int]:
    """The timesteps that a respacing string keeps, rising.

    "250": 250 evenly spaced, both ends included. "10,15,20": the range cut in three equal parts, with so many in
    each. "ddim50": the 50 of a constant integer stride (Song et al. 2021). ValueError: there are not so many.
    """
    wrong = f"respacing {spacing!r}: expected a count such as '250', a list such as '10,15,20', or 'ddim50'"
    stride_count, text = spacing.startswith("ddim"), spacing.removeprefix("ddim")
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts) or (stride_count and len(parts) > 1):
        raise ValueError(wrong)
    counts = [int(part) for part in parts]
    if stride_count:
        for stride in range(1, steps + 1):
            kept = range(0, steps, stride)
            if len(kept) == counts[0]:
                return list(kept)
        raise ValueError(f"respacing {spacing!r}: no integer stride over {steps} steps keeps exactly {counts[0]}")
    kept, start = [], 0
    for i, count in enumerate(counts):
        size = steps // len(counts) + (i < steps % len(counts))
        if count > size:
            raise ValueError(f"respacing {spacing!r}: part {i + 1} has {size} steps, {count} cannot be kept of them")
        # the running sum, not i * stride: the published step lists were rounded from it
        stride, position = (size - 1) / (count - 1) if count > 1 else 1.0, 0.0
        for _ in range(count):
            kept.append(start + round(position))
            position += stride
        start += size
    return kept


def respace(schedule: Schedule, timesteps: str | list[int]) -> Schedule:
    """The shorter chain over some of the timesteps, with the same noise level at each that is kept."""
    if isinstance(timesteps, str):
        timesteps = spaced_timesteps(timesteps, len(schedule))
    kept = torch.tensor(timesteps)
    if len(kept) == 0 or kept[0] < 0 or kept[-1] >= len(schedule) or (kept.diff() <= 0).any():
        raise ValueError(f"timesteps must rise, without repetition, within 0..{len(schedule) - 1}; got {timesteps}")
    abar = schedule.alphas_cumprod[kept]
    betas = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])
    return Schedule(betas, schedule.timesteps[kept], whole=schedule)


def spaced(count: int, spacing: str = "leading", steps: int = 1000, offset: int = 0, between: bool = False) -> Tensor:
    """`count` timesteps (n,) of 0..steps - 1, rising, spaced as diffusers' schedulers do (Lin et al. 2024, table 2).

    "leading": a whole stride from 0, shifted by `offset`; "trailing": from the last one down; "linspace": both ends,
    and timesteps between whole ones. between: one more is spaced out, in whole numbers, and the lowest left out, as the
    multistep solvers do, which end where it is. ValueError: no such spacing, or there are not so many.
    """
    if not isinstance(count, int) or not 1 <= count <= steps - between:
        raise ValueError(f"{count!r} is no number of timesteps: it must be whole, in 1 to {steps - between}")
    if not 0 <= offset < steps:
        raise ValueError(f"the offset of timesteps is {offset}; it must be in 0 to {steps - 1}")
    n = count + between
    if spacing == "leading":
        timesteps = torch.arange(n, dtype=torch.float64) * (steps // n) + offset
    elif spacing == "trailing":
        timesteps = steps - 1 - (torch.arange(count, dtype=torch.float64).flip(0) * steps / count).round()
    elif spacing == "linspace":
        timesteps = torch.linspace(0, steps - 1, n, dtype=torch.float64)
        timesteps = timesteps.round() if between else timesteps
    else:
        raise ValueError(f"spacing is {spacing!r}, not 'leading', 'trailing' or 'linspace'")
    return timesteps[-count:].clamp(max=steps - 1)


def at_timesteps(schedule: Schedule, timesteps: Tensor, end: float = 1.0) -> Schedule:
    """The chain over rising timesteps, which may lie between the schedule's; there sigma is interpolated linearly."""
    most = len(schedule) - 1
    if len(timesteps) == 0 or timesteps[0] < 0 or timesteps[-1] > most or (timesteps.diff() <= 0).any():
        raise ValueError(f"timesteps must rise, without repetition, within 0..{most}; got {timesteps.tolist()}")
    abar = schedule.power_at(timesteps)
    betas = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])
    return Schedule(betas, timesteps.double() if (timesteps % 1).any() else timesteps.long(), end, schedule)


def at(table: Tensor, index: Tensor | int, like: Tensor) -> Tensor | float:
    """table[index]: of one step for the whole batch, a number; of a step per sample (b,), shaped (b, 1, 1, ...).

    The latter has the device and the dtype of `like` (b, ...).
    """
    if isinstance(index, int):
        return float(table[index])
    return table.to(like.dtype).to(like.device)[index].view(-1, *[1] * (like.ndim - 1))


def q_sample(schedule: Schedule, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
    """x_t given x_0 (b, ...), the steps' indices (b,) and noise like x_0; eq. 4 of Ho et al. 2020."""
    abar = schedule.alphas_cumprod
    return at(abar.sqrt(), index, x0) * x0 + at((1 - abar).sqrt(), index, x0) * noise
