"""Checks of a call's arguments, and counts in messages, with one wording for every call."""

import re
from collections.abc import Collection
from typing import Any

from latte.models.network_config import shown

MOST_VIDEOS = 1_000_000  # of one call
MOST_AT_ONCE = 4096  # videos of a batch
MOST_SIZE = 65_536  # frames of a video, and pixels of a side
TRAINING_STEPS = 1000  # timesteps of the usual training schedule


def check_count(name: str, value: Any, most: int | None = None, least: int = 1) -> None:
    """Raise ValueError unless the value is an integer in `least` to `most`."""
    if not isinstance(value, int) or value < least or (most and value > most):
        allowed = f"from {least} to {most}" if most else f"{least} or more"
        raise ValueError(f"{name} is {value}; it must be a whole number, {allowed}")


def is_whole(steps: int | str) -> bool:
    """Whether a number of steps is an integer, possibly written as text; otherwise it may be a respacing."""
    return isinstance(steps, int) or (isinstance(steps, str) and re.fullmatch(r"[-+]?\d+", steps) is not None)


def check_size(name: str, value: Any, multiple: int | None = None) -> None:
    """Raise ValueError unless the value can be a number of frames, or a side in pixels.

    Args:
        name: What it is.
        value: The value.
        multiple: The model needs a multiple of this number. None: the model is not known yet.
    """
    if not isinstance(value, int) or not 1 <= value <= MOST_SIZE or value % (multiple or 1):
        if multiple and multiple > 1:
            raise ValueError(f"{name} is {value}; this model needs a multiple of {multiple}, up to {MOST_SIZE}")
        raise ValueError(f"{name} is {value}; it must be a whole number, from 1 to {MOST_SIZE}")


def check_eta(eta: Any, sampler: str) -> None:
    """Raise ValueError unless a sampler takes this eta."""
    if not isinstance(eta, int | float) or not 0 <= eta <= 1 or (eta and sampler != "ddim"):
        raise ValueError(f"eta is {eta!r}; it must be from 0 to 1, and applies only to ddim")


def check_timesteps(name: str, interval: Any) -> None:
    """Raise ValueError unless this is an interval of timesteps: two numbers, the lower one first."""
    ends = interval if isinstance(interval, list | tuple) else ()
    if len(ends) != 2 or not all(type(end) in (int, float) for end in ends) or not ends[0] <= ends[1]:
        raise ValueError(f"{name} is {shown(interval)}; it must be two timesteps, the lower one first")


def check_choice(name: str, value: object, allowed: Collection[str | None]) -> None:
    """Raise ValueError unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, not one of {', '.join(map(str, allowed))}")


def one_setting(name: str, value: Any, other: Any, default: Any) -> Any:
    """A setting that has two names; raises ValueError if both are given and differ."""
    if other is None:
        return value
    if value not in (default, other):
        raise ValueError(f"{name} is given under both of its names, as {value} and {other}: it is one setting")
    return other


def counted(count: int, one: str, several: str | None = None) -> str:
    """A number with its noun, in the right form: "1 video", "2,000 videos"; `several` is `one` + "s" by default.

    The words may include a verb: counted(n, "video is", "videos are").
    """
    return f"{count:,} {one}" if count == 1 else f"{count:,} {several or one + 's'}"


def in_units(count: int) -> str:
    """A number of parameters, to three digits or, from 1,000 M on, to a million: "55.5 k", "5.56 M", "1,057 M"."""
    if count >= 1e9:
        return f"{count / 1e6:,.0f} M"
    return f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k"
