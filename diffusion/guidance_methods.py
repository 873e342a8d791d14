"""Ways to guide that keep more variety than classifier-free guidance at one scale.

They work on noise, as guidance does. In every function, `conditional` is the noise that the conditional network
predicts in latents x, and `negative` the noise to lead away from: without the condition, or that of a weaker network.
All three are (b, f, c, h, w), and videos of a batch do not affect each other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latte.diffusion.gaussian import clean_of_noise

OF_VIDEO = (1, 2, 3, 4)  # the axes of one video


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of videos, (b, 1, 1, 1, 1), summed in float64."""
    return (a.double() * b.double()).sum(OF_VIDEO, keepdim=True)


def project(
    x: Tensor, conditional: Tensor, negative: Tensor, scale: float, alpha_bar: float, parallel: float = 0.0,
    threshold: float = 0.0, momentum: float = 0.0, average: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Adaptive projected guidance, APG (Sadat et al. 2024, arXiv 2410.02416).

    The update is the difference of the clean latents that both predict. What of it is parallel to the conditional clean
    latents makes colours too strong; what is orthogonal to them adds quality.

    Args:
        x, conditional, negative: See the module.
        scale: Of guidance; 1 is the conditional noise.
        alpha_bar: Alpha bar of the noise level.
        parallel: What share of the parallel part counts, eta in the paper. With 1 and neither threshold nor momentum,
            this is classifier-free guidance.
        threshold: A larger update is made this long, r in the paper; 0 is no bound. Published values are lengths of an
            image's latents; here, of a frame's: the root mean square over the video's frames.
        momentum: The share of earlier updates, beta in the paper, where it is negative.
        average: The running average of earlier updates; None at first.

    Returns:
        The guided noise, and the new running average.
    """
    noise_to_signal = ((1 - alpha_bar) / alpha_bar) ** 0.5
    average = noise_to_signal * (negative - conditional) + (0 if average is None else momentum * average)
    update, clean = average, clean_of_noise(x, conditional, alpha_bar)
    if threshold:
        length = (inner(update, update) / update.shape[1]).sqrt()
        update = update * (threshold / length.clamp(min=threshold)).to(update)
    along = inner(update, clean) / inner(clean, clean).clamp(min=torch.finfo(torch.float64).tiny)
    update = update + (parallel - 1) * (along * clean).to(update)
    return conditional - (scale - 1) / noise_to_signal * update, average


def optimise_scale(
    x: Tensor, conditional: Tensor, negative: Tensor, scale: float, alpha_bar: float, flow: bool = False
) -> Tensor:
    """The optimised scale of CFG-Zero* (Fan et al. 2025, arXiv 2503.18886).

    The negative velocity is first scaled to be as close to the conditional one as it can be. The paper's velocity is
    that of flow matching. Of other networks it is v, the velocity of the variance-preserving path (Salimans & Ho 2022,
    appendix D). Either is a multiple of the noise minus the noise of no velocity, so that nothing is divided by a small
    number.

    Args:
        x, conditional, negative: See the module.
        scale: Of guidance.
        alpha_bar: Alpha bar of the noise level.
        flow: Whether the velocity is that of flow matching.

    Returns:
        The guided noise.
    """
    still = zero_velocity(x, alpha_bar, flow)
    towards, away = conditional - still, negative - still
    best = inner(towards, away) / inner(away, away).clamp(min=torch.finfo(torch.float64).tiny)
    away = best.to(x) * away
    return away + scale * (towards - away) + still


def zero_velocity(x: Tensor, alpha_bar: float, flow: bool = False) -> Tensor:
    """The noise that no velocity implies in latents x (b, f, c, h, w): zero-init of CFG-Zero*.

    A step leaves the state of the path as it is: of flow matching's linear path, or x itself.
    """
    a, s = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    return x / (a + s) if flow else s * x


def renoised_scale(scale: float, alpha_bar: float, following: float, deviation: float = 0.0) -> float:
    """The guidance scale at which a step of DDIM is a step of CFG++ (Chung et al. 2024, arXiv 2406.08070).

    CFG++ predicts the clean latents from the noise n + scale (c - n), of the conditional c and the negative n, and adds
    n again. With DDIM's step x' = r x - p eps_of_clean + q eps_added, that is DDIM with n + w (c - n) for both, where
    w (p - q) = scale p. So CFG++ is a schedule of the scale, and neither DDIM nor the network knows of it.

    Args:
        scale: Of CFG++, lambda in the paper, in 0 to 1.
        alpha_bar: Alpha bar before the step.
        following: Alpha bar after it.
        deviation: Of DDIM's fresh noise.

    Returns:
        w.

    Raises:
        ValueError: The step does not lower the noise.
    """
    ratio = (max(1 - following - deviation**2, 0) / following * alpha_bar / (1 - alpha_bar)) ** 0.5  # q / p
    if ratio >= 1:
        raise ValueError("cfg++ needs steps that lower the noise, and one of these does not: take other timesteps")
    return scale / (1 - ratio)


SHAPES: dict[str, Callable[[float], float]] = {  # functions of t / T, each with a mean of 1 over 0 to 1
    "constant": lambda u: 1.0,
    "linear": lambda u: 2 * (1 - u),
    "cosine": lambda u: 1 + math.cos(math.pi * u),
    "beta": lambda u: 6 * u * (1 - u),
}


def scheduled_scale(scale: float, t: float, steps: int, shape: str) -> float:
    """The guidance scale at a timestep, with the mean that a constant one has.

    "linear" and "cosine" grow as the noise falls (Wang et al. 2024, arXiv 2404.13040). "beta" is strongest in the
    middle: the density of the distribution Beta(2, 2), after Malarz et al. 2025 (arXiv 2502.10574).

    Args:
        scale: The mean; what exceeds 1 is scheduled.
        t: Timestep, in 0 to steps.
        steps: Of the training schedule.
        shape: A name of SHAPES.
    """
    return scale if shape == "constant" else 1 + (scale - 1) * SHAPES[shape](t / steps)


@dataclass
class Rule:
    """How the evaluations of one run are guided: classifier-free guidance, with a scale for each.

    Attributes:
        scales: Guidance scale at each evaluation.
        levels: Alpha bar at each evaluation.
        flow: Whether the network predicts the velocity of flow matching.
    """

    scales: Sequence[float]
    levels: Sequence[float]
    flow: bool = False

    def __call__(self, k: int, x: Tensor, conditional: Tensor, negative: Tensor) -> Tensor:
        """The guided noise at evaluation k."""
        return negative + self.scales[k] * (conditional - negative)

    def along(self, k: int, x: Tensor, conditional: Tensor, difference: Tensor) -> Tensor:
        """The guided noise for a difference of conditional and negative noise that was kept."""
        return conditional + (self.scales[k] - 1) * difference

    def still(self, k: int, x: Tensor) -> Tensor | None:
        """The noise of no velocity, if evaluation k is taken to predict none."""
        return None


@dataclass
class ProjectedRule(Rule):
    """APG: see project. It remembers the updates of a run."""

    parallel: float = 0.0
    threshold: float = 0.0
    momentum: float = -0.5
    average: Tensor | None = None

    def __call__(self, k: int, x: Tensor, conditional: Tensor, negative: Tensor) -> Tensor:
        options = (self.parallel, self.threshold, self.momentum, self.average)
        guided, self.average = project(x, conditional, negative, self.scales[k], self.levels[k], *options)
        return guided

    def along(self, k: int, x: Tensor, conditional: Tensor, difference: Tensor) -> Tensor:
        return self(k, x, conditional, conditional - difference)


@dataclass
class ZeroStarRule(Rule):
    """CFG-Zero*: see optimise_scale. The first zero_steps evaluations are taken to predict no velocity."""

    zero_steps: float = 1

    def __call__(self, k: int, x: Tensor, conditional: Tensor, negative: Tensor) -> Tensor:
        return optimise_scale(x, conditional, negative, self.scales[k], self.levels[k], self.flow)

    def along(self, k: int, x: Tensor, conditional: Tensor, difference: Tensor) -> Tensor:
        return self(k, x, conditional, conditional - difference)

    def still(self, k: int, x: Tensor) -> Tensor | None:
        return zero_velocity(x, self.levels[k], self.flow) if k < self.zero_steps else None


METHODS: dict[str, type[Rule]] = {"cfg": Rule, "apg": ProjectedRule, "cfg-zero": ZeroStarRule, "cfg++": Rule}
OPTIONS: dict[str, dict[str, float]] = {  # of methods that have any, with their defaults
    "apg": {"parallel": 0.0, "threshold": 0.0, "momentum": -0.5},
    "cfg-zero": {"zero_steps": 1},
}


def check_method(method: str, options: Mapping[str, float]) -> None:
    """Raise ValueError for a method of guidance that there is not, or options that it does not have."""
    if method not in METHODS:
        raise ValueError(f"guidance_method is {method!r}; choose from {', '.join(METHODS)}")
    known = OPTIONS.get(method, {})
    for name, value in options.items():
        if name not in known:
            names = f"has {', '.join(known)}" if known else "has no options"
            raise ValueError(f"guidance_options: {name!r} is unknown; {method} {names}")
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"guidance_options: {name} is {value!r}; it must be a finite number")
    if abs(options.get("momentum", 0)) >= 1:
        raise ValueError(f"guidance_options: momentum is {options['momentum']:g}; it must be above -1 and below 1")
    if options.get("threshold", 0) < 0:
        raise ValueError(f"guidance_options: threshold is {options['threshold']:g}; it must be 0 (none) or more")
    zeros = options.get("zero_steps", 0)
    if zeros < 0 or zeros != int(zeros):
        raise ValueError(f"guidance_options: zero_steps is {zeros:g}; it must be a whole number, 0 or more")
