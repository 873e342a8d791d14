"""What a denoiser may predict, and how to convert one prediction into another.

A noisy state x = a x_0 + s eps, with a^2 + s^2 = 1, and one other combination of x_0 and eps determine both. So a
network that predicts one of these combinations can stand in for one that predicts another. Samplers use the noise:

    "eps"   eps                the noise (Ho et al. 2020, arXiv 2006.11239)
    "x0"    x_0                the clean latents
    "v"     a eps - s x_0      (Salimans & Ho 2022, arXiv 2202.00512, appendix D)
    "flow"  eps - x_0          the velocity of flow matching's linear path (Lipman et al. 2023, arXiv 2210.02747; Liu et
                               al. 2023, arXiv 2209.03003)

The state of the linear path, (1 - u) x_0 + u eps with u = s / (a + s), is x / (a + s). This is the input of a network
that predicts "flow". In every function a and s are numbers, or tensors that broadcast over x.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latte.diffusion.schedule import Schedule, at

Factor = Tensor | float


def split_output(out: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """Split a denoiser's output into its prediction and the learned variance (Nichol & Dhariwal 2021, section 3.1).

    Args:
        out: The output (b, f, c or 2c, h, w).
        channels: Channels c of the latents.

    Returns:
        The prediction (b, f, c, h, w), and the variance channels (b, f, c, h, w) or, if there are none, None.

    Raises:
        ValueError: The output has neither c nor 2c channels.
    """
    if out.shape[2] not in (channels, 2 * channels):
        raise ValueError(f"the denoiser returned {out.shape[2]} channels; expected {channels} or {2 * channels}")
    if out.shape[2] == channels:
        return out, None
    prediction, variance = out.chunk(2, dim=2)
    return prediction, variance


def coefficients(prediction: str, a: Factor, s: Factor) -> tuple[Factor, Factor, Factor]:
    """The coefficients of x_0 and of eps in a prediction, and the determinant of (a, s) and these two.

    Raises:
        ValueError: The prediction is unknown.
    """
    table = {"eps": (0.0, 1.0, a), "x0": (1.0, 0.0, -s), "v": (-s, a, 1.0), "flow": (-1.0, 1.0, a + s)}
    if prediction not in table:
        raise ValueError(f"prediction is {prediction!r}, not one of {', '.join(table)}")
    return table[prediction]


def noise_of(prediction: str, value: Tensor, x: Tensor, a: Factor, s: Factor) -> Tensor:
    """The noise that a state and a prediction imply.

    Args:
        prediction: What is predicted: see the module.
        value: The prediction (b, ...).
        x: The noisy state, shaped like value.
        a: The factor of the clean latents in x.
        s: The standard deviation of the noise in x.

    Returns:
        The noise, shaped like x.
    """
    if prediction == "eps":
        return value
    of_clean, _, determinant = coefficients(prediction, a, s)
    return (a * value - of_clean * x) / determinant


def clean_of(prediction: str, value: Tensor, x: Tensor, a: Factor, s: Factor) -> Tensor:
    """The clean latents that a state and a prediction imply; arguments as in noise_of."""
    if prediction == "x0":
        return value
    _, of_noise, determinant = coefficients(prediction, a, s)
    return (of_noise * x - s * value) / determinant


def prediction_of(prediction: str, x0: Tensor, eps: Tensor, a: Factor, s: Factor) -> Tensor:
    """The correct prediction for given clean latents and noise, both (b, ...): the target of a network."""
    if prediction in ("eps", "x0"):
        return eps if prediction == "eps" else x0
    of_clean, of_noise, _ = coefficients(prediction, a, s)
    return of_noise * eps + of_clean * x0


def converted(value: Tensor, x: Tensor, a: Factor, s: Factor, source: str, target: str) -> Tensor:
    """Convert one kind of prediction into another.

    Args:
        value: The prediction (b, ...).
        x: The noisy state, shaped like value.
        a: The factor of the clean latents in x.
        s: The standard deviation of the noise in x.
        source: What value predicts: see the module.
        target: The kind of prediction to return.

    Returns:
        The other prediction, shaped like x.
    """
    if source == target:
        return value
    x0, eps = clean_of(source, value, x, a, s), noise_of(source, value, x, a, s)
    return prediction_of(target, x0, eps, a, s)


def factors(schedule: Schedule, index: Tensor | int, x: Tensor) -> tuple[Factor, Factor]:
    """The factors a and s of a step.

    Args:
        schedule: The schedule that index refers to.
        index: The step. A float tensor (b,) may lie between steps: then schedule must be a training schedule, whose
            step i is timestep i.
        x: Noisy latents (b, ...), over which the factors are to broadcast.
    """
    abar = schedule.alphas_cumprod
    if isinstance(index, Tensor) and index.is_floating_point():
        abar, index = schedule.alpha_bar_at(index), torch.arange(len(index), device=index.device)
    return at(abar.sqrt(), index, x), at((1 - abar).sqrt(), index, x)


def factors_at(alpha_bar: float) -> tuple[float, float]:
    """The factors a and s of a noise level."""
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


def network_input(prediction: str, x: Tensor, a: Factor, s: Factor, estimate: Tensor | None = None) -> Tensor:
    """The network's input for a state x: x itself or, for "flow", the state of the linear path.

    With self-conditioning, its earlier estimate of the clean latents, shaped like x, follows on the channel axis.
    """
    x = x / (a + s) if prediction == "flow" else x
    return x if estimate is None else torch.cat([x, estimate], 2)


def evaluate(
    model: Callable[..., Tensor], x: Tensor, index: Tensor, schedule: Schedule, prediction: str,
    estimate: Tensor | None = None, **condition: Any,
) -> tuple[Tensor, Tensor | None, Factor, Factor]:  # fmt: skip
    """Evaluate a network in noisy states.

    Args:
        model: (x, timesteps (b,), **condition) -> prediction and perhaps variance channels (b, f, c or 2c, h, w).
        x: Noisy latents (b, f, c, h, w).
        index: Their steps (b,) in the schedule.
        schedule: The schedule that index refers to.
        prediction: What the model predicts (see the module).
        estimate: See network_input.
        **condition: Further arguments of the model.

    Returns:
        The prediction and the variance channels (None without them), each (b, f, c, h, w) in the model's dtype, and the
        factors a and s of the states.
    """
    a, s = factors(schedule, index, x)
    given = network_input(prediction, x, a, s, estimate)
    value, variance = split_output(model(given, schedule.timesteps.to(index.device)[index], **condition), x.shape[2])
    return value, variance, a, s


def predicted_clean(
    model: Callable[..., Tensor], x: Tensor, index: Tensor, schedule: Schedule, prediction: str,
    estimate: Tensor | None = None, **condition: Any,
) -> Tensor:  # fmt: skip
    """The clean latents that a network predicts, shaped like x; arguments as in evaluate."""
    value, _, a, s = evaluate(model, x, index, schedule, prediction, estimate, **condition)
    return clean_of(prediction, value.to(x.dtype), x, a, s)


def predicting_noise(model: Callable[..., Tensor], schedule: Schedule, prediction: str) -> Callable[..., Tensor]:
    """Turn a denoiser that predicts something else into one that predicts noise (see the module).

    Args:
        model: (x, t, ...) -> its prediction and perhaps variance channels (b, f, c or 2c, h, w).
        schedule: The training schedule that t refers to.
        prediction: What the model predicts.

    Returns:
        A denoiser with the same arguments, which leaves the variance channels as they are.
    """

    def denoise(x: Tensor, t: Tensor, *condition: Tensor) -> Tensor:
        a, s = factors(schedule, t, x)
        value, variance = split_output(model(network_input(prediction, x, a, s), t, *condition), x.shape[2])
        eps = noise_of(prediction, value.to(x.dtype), x, a, s)
        return eps if variance is None else torch.cat([eps, variance.to(x.dtype)], dim=2)

    return denoise
