"""A setting of a training configuration: a dataclass field with its bounds and the settings that it depends on."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, field
from typing import Any

from latte.models.network_config import shown


def setting(
    default: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] = (),
    resumable: bool = False,
    tunable: bool = False,
    movable: bool = False,
    path: bool = False,
    unused_with: tuple[str, Any] | None = None,
    used_with: tuple[str, Any] | None = None,
) -> Any:
    """A field of a configuration.

    Args:
        default: The default value.
        least: The smallest valid value.
        most: The largest valid value.
        below: A number that the value must be less than.
        choices: The valid values, if they can be listed.
        resumable: Whether a run may be resumed with another value.
        tunable: Whether it may be, but only if the user asks for it, because the value affects further training.
        movable: Whether it may be, because it is the path of something that the run identifies by its content.
        path: Whether the value is the path of a file or a folder, in which a leading ~ is the home folder.
        unused_with: Another setting and its value with which this one has no effect, and must be left at its default.
        used_with: Another setting and the only value of it with which this one has an effect.
    """
    limits = {"least": least, "most": most, "below": below, "choices": choices}
    metadata = {**limits, "resumable": resumable, "tunable": tunable, "movable": movable, "path": path}
    metadata |= {"unused_with": unused_with, "used_with": used_with}
    return field(default=default, metadata=metadata)


def default_of(known: Field) -> Any:
    """The default value of a setting."""
    return known.default if known.default_factory is MISSING else known.default_factory()


def overruled_by(known: Field, values: Mapping[str, Any]) -> str | None:
    """The setting whose value leaves this one without effect, if any. `values` are those of all settings, by name."""
    for key, if_used in (("unused_with", False), ("used_with", True)):
        other, value = known.metadata.get(key) or ("", None)
        if other and (values.get(other) == value) == (not if_used):
            return other
    return None


def require(condition: bool, message: str) -> None:
    """Raise a ValueError unless a condition holds."""
    if not condition:
        raise ValueError(f"training configuration: {message}")


def check_bounds(known: Field, value: Any) -> None:
    """Raise a ValueError if the value of a setting is not one of its choices, or is outside its bounds."""
    limits = known.metadata
    if choices := limits.get("choices"):
        require(value in choices, f"{known.name} is {shown(value)}, not {' or '.join(map(repr, choices))}")
    if known.type not in (int, float):
        return
    least, most, below = (limits.get(name) for name in ("least", "most", "below"))
    said = f"{known.name} is {shown(value)}; it must be"
    usable = abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)
    require(usable, f"{said} a finite number, of 63 bits at most if it is an integer")
    require(most is None or least <= value <= most, f"{said} from {least} to {most}")
    require(least is None or value >= least, f"{said} {least} or more")
    require(below is None or value < below, f"{said} less than {below}")
