"""Checks of a call's arguments, and counts in messages, with one wording for every call."""

from collections.abc import Collection
from typing import Any

MOST_VIDEOS = 1_000_000  # of one call
MOST_AT_ONCE = 4096  # videos of a batch


def check_count(name: str, value: Any, most: int | None = None, least: int = 1) -> None:
    """Raise ValueError unless the value is an integer in `least` to `most`."""
    if not isinstance(value, int) or value < least or (most and value > most):
        allowed = f"from {least} to {most}" if most else f"{least} or more"
        raise ValueError(f"{name} is {value}; it must be a whole number, {allowed}")


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
