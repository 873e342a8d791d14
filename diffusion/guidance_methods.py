"""Guidance methods that preserve more variety than classifier-free guidance at a constant scale.

Like guidance.py, they act on predicted noise. In every function, `conditional` is the noise that the conditional
network predicts in latents x, and `negative` the noise to steer away from: predicted without the condition, or by a
weaker network. All three are (b, f, c, h, w), and the videos of a batch do not affect each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latte.diffusion.guidance import guide
from latte.diffusion.predictions import clean_of, factors_at
from latte.diffusion.schedule import widest

OF_VIDEO = (1, 2, 3, 4)  # the axes of one video


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of videos, (b, 1, 1, 1, 1), summed in float64 where the device has it."""
    dtype = widest(a.device)
    return (a.to(dtype) * b.to(dtype)).sum(OF_VIDEO, keepdim=True)


def positive(x: Tensor) -> Tensor:
    """x, at least the smallest normal number, to divide by."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def projected_guidance(
    x: Tensor, conditional: Tensor, negative: Tensor, scale: float, alpha_bar: float, parallel: float = 0.0,
    threshold: float = 0.0, momentum: float = 0.0, average: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Adaptive projected guidance, APG (Sadat et al. 2024, arXiv 2410.02416).

    The update is the difference between the two predictions of the clean latents. Its component parallel to the
    conditional clean latents oversaturates colours; the orthogonal component improves quality.

    Args:
        x, conditional, negative: See the module.
        scale: Guidance scale; 1 gives the conditional noise.
        alpha_bar: Alpha bar of the noise level.
        parallel: Weight of the parallel component, eta in the paper. With 1 and neither threshold nor momentum, this is
            classifier-free guidance.
        threshold: Longer updates are rescaled to this norm, r in the paper; 0 is no limit. Published values are norms
            of an image's latents; here, the norm is per frame: the root mean square over the video's frames.
        momentum: Weight of earlier updates, beta in the paper, where it is negative.
        average: The running average of earlier updates; None at first.

    Returns:
        The guided noise, and the new running average.
    """
    noise_to_signal = ((1 - alpha_bar) / alpha_bar) ** 0.5
    average = noise_to_signal * (negative - conditional) + (0 if average is None else momentum * average)
    update, clean = average, clean_of("eps", conditional, x, *factors_at(alpha_bar))
    if threshold:
        length = (inner(update, update) / update.shape[1]).sqrt()
        update = update * (threshold / length.clamp(min=threshold)).to(update)
    along = inner(update, clean) / positive(inner(clean, clean))
    update = update + (parallel - 1) * (along * clean).to(update)
    return conditional - (scale - 1) / noise_to_signal * update, average


def cfg_zero_star(
    x: Tensor, conditional: Tensor, negative: Tensor, scale: float, alpha_bar: float, flow: bool = False
) -> Tensor:
    """The optimised scale of CFG-Zero* (Fan et al. 2025, arXiv 2503.18886).

    The negative velocity is first scaled to be as close as possible to the conditional one. The paper's velocity is
    that of flow matching. For other networks it is v, the velocity of the variance-preserving path (Salimans & Ho 2022,
    appendix D). Either is proportional to the noise minus the zero-velocity noise, so nothing is divided by a small
    number.

    Args:
        x, conditional, negative: See the module.
        scale: Guidance scale.
        alpha_bar: Alpha bar of the noise level.
        flow: Whether the velocity is that of flow matching.

    Returns:
        The guided noise.
    """
    still = zero_velocity(x, alpha_bar, flow)
    towards, away = conditional - still, negative - still
    best = inner(towards, away) / positive(inner(away, away))
    away = best.to(x) * away
    return away + scale * (towards - away) + still


def zero_velocity(x: Tensor, alpha_bar: float, flow: bool = False) -> Tensor:
    """The noise that zero velocity implies in latents x (b, f, c, h, w): zero-init of CFG-Zero*.

    With it, a step leaves the state unchanged: the state of the linear path for flow matching, else x itself.
    """
    a, s = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return x / (a + s) if flow else s * x


def cfg_plus_plus_scale(scale: float, alpha_bar: float, next_alpha_bar: float, deviation: float = 0.0) -> float:
    """The guidance scale at which a step of DDIM is a step of CFG++ (Chung et al. 2024, arXiv 2406.08070).

    CFG++ predicts the clean latents from the noise n + scale (c - n), with conditional noise c and negative noise n,
    but renoises with n alone. With DDIM's step x' = r x - p eps_of_clean + q eps_added, this equals DDIM with
    n + w (c - n) in both places, where w (p - q) = scale p. So CFG++ is a schedule of the guidance scale, and needs no
    change to DDIM or the network.

    Args:
        scale: Scale of CFG++, lambda in the paper, from 0 to 1.
        alpha_bar: Alpha bar before the step.
        next_alpha_bar: Alpha bar after it.
        deviation: Standard deviation of DDIM's fresh noise.

    Returns:
        w.

    Raises:
        ValueError: The step does not lower the noise.
    """
    ratio = (max(1 - next_alpha_bar - deviation**2, 0) / next_alpha_bar * alpha_bar / (1 - alpha_bar)) ** 0.5  # q / p
    if ratio >= 1:
        raise ValueError("cfg++ needs steps that lower the noise, but one of these does not: choose other timesteps")
    return scale / (1 - ratio)


@dataclass
class GuidanceRule:
    """The guidance of one sampling run: classifier-free guidance, with one scale per network evaluation.

    Attributes:
        scales: Guidance scale at each evaluation.
        alpha_bars: Alpha bar at each evaluation.
        flow: Whether the network predicts the velocity of flow matching.
    """

    scales: Sequence[float]
    alpha_bars: Sequence[float]
    flow: bool

    def __call__(self, k: int, x: Tensor, conditional: Tensor, negative: Tensor) -> Tensor:
        """The guided noise at evaluation k."""
        return guide(conditional, negative, self.scales[k])

    def along(self, k: int, x: Tensor, conditional: Tensor, difference: Tensor) -> Tensor:
        """The guided noise, from a stored difference of conditional and negative noise."""
        return conditional + (self.scales[k] - 1) * difference

    def replacement(self, k: int, x: Tensor) -> Tensor | None:
        """The noise that replaces evaluation k, whatever the network says; None if nothing does."""
        return None


@dataclass
class ProjectedRule(GuidanceRule):
    """APG: see projected_guidance. It keeps a running average of the run's updates."""

    parallel: float
    threshold: float
    momentum: float
    average: Tensor | None = None

    def __call__(self, k: int, x: Tensor, conditional: Tensor, negative: Tensor) -> Tensor:
        level, options = (self.scales[k], self.alpha_bars[k]), (self.parallel, self.threshold, self.momentum)
        guided, self.average = projected_guidance(x, conditional, negative, *level, *options, self.average)
        return guided

    def along(self, k: int, x: Tensor, conditional: Tensor, difference: Tensor) -> Tensor:
        return self(k, x, conditional, conditional - difference)


@dataclass
class ZeroStarRule(GuidanceRule):
    """CFG-Zero*: see cfg_zero_star. The first zero_steps evaluations are replaced by zero velocity."""

    zero_steps: float

    def __call__(self, k: int, x: Tensor, conditional: Tensor, negative: Tensor) -> Tensor:
        return cfg_zero_star(x, conditional, negative, self.scales[k], self.alpha_bars[k], self.flow)

    def along(self, k: int, x: Tensor, conditional: Tensor, difference: Tensor) -> Tensor:
        return self(k, x, conditional, conditional - difference)

    def replacement(self, k: int, x: Tensor) -> Tensor | None:
        return zero_velocity(x, self.alpha_bars[k], self.flow) if k < self.zero_steps else None


METHODS: dict[str, type[GuidanceRule]] = {
    "cfg": GuidanceRule,
    "apg": ProjectedRule,
    "cfg-zero": ZeroStarRule,
    "cfg++": GuidanceRule,
}
