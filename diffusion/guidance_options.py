"""The options of the guidance methods in guidance_methods.py, and schedules of the scale. This loads no PyTorch."""

import math
from collections.abc import Callable, Mapping

OPTIONS: dict[str, dict[str, float]] = {  # of every method, with their defaults
    "cfg": {},
    "apg": {"parallel": 0.0, "threshold": 0.0, "momentum": -0.5},
    "cfg-zero": {"zero_steps": 1},
    "cfg++": {},
}
SHAPES: dict[str, Callable[[float], float]] = {  # functions of t / T, each with a mean of 1 over 0 to 1
    "constant": lambda u: 1.0,
    "linear": lambda u: 2 * (1 - u),
    "cosine": lambda u: 1 + math.cos(math.pi * u),
    "beta": lambda u: 6 * u * (1 - u),
}


def scheduled_scale(scale: float, t: float, steps: int, shape: str) -> float:
    """The guidance scale at a timestep; its mean over the schedule is `scale`.

    "linear" and "cosine" grow as the noise falls (Wang et al. 2024, arXiv 2404.13040). "beta" is strongest in the
    middle: the density of the distribution Beta(2, 2), after Malarz et al. 2025 (arXiv 2502.10574).

    Args:
        scale: The mean; only the part above 1 is scheduled.
        t: Timestep, in 0 to steps.
        steps: Number of steps of the training schedule.
        shape: A key of SHAPES.
    """
    return scale if shape == "constant" else 1 + (scale - 1) * SHAPES[shape](t / steps)


def check_method(method: str, options: Mapping[str, float]) -> None:
    """Raise ValueError for an unknown guidance method, or for unknown or invalid options."""
    if method not in OPTIONS:
        raise ValueError(f"guidance_method is {method!r}; choose from {', '.join(OPTIONS)}")
    known = OPTIONS[method]
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
