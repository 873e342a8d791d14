"""The base class of all network configurations: reading them from a table, and checking them."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self, get_args, get_origin

PREDICTIONS = ("eps", "v", "flow")  # what a denoiser may be trained to predict
MOST_VALUES = 1 << 26  # in one latent channel of a default-sized video: 16 frames of 16,384 x 16,384 pixels


class NetworkConfig:
    """Base class of the frozen dataclasses that describe a network.

    Attributes:
        limits: The smallest and the largest sensible value of a field, by its name. A value outside is a mistake, or
            comes from an untrusted file that would exhaust memory.
    """

    limits: ClassVar[dict[str, tuple[float, float]]] = {}

    @property
    def least_tensors(self) -> int:
        """A lower bound on the number of weight tensors: a file with fewer, of any size, is not of this network."""
        return 1

    def __post_init__(self) -> None:
        """Check the limits; subclasses add their own checks.

        Raises:
            ValueError: A value is outside its limits.
        """
        for name, (least, most) in self.limits.items():
            value = getattr(self, name)
            self.require(least <= value <= most, f"{name} is {shown(value)}; it must be from {least} to {most}")

    def require(self, holds: bool, message: str) -> None:
        """Unless `holds`, raise a ValueError with this message, prefixed by the name of the class."""
        if not holds:
            raise ValueError(f"{type(self).__name__}: {message}")

    def require_one_of(self, name: str, known: tuple) -> None:
        """Raise a ValueError if a field has none of the known values."""
        value = getattr(self, name)
        self.require(value in known, f"{name} is {shown(value)}; it must be one of {', '.join(map(repr, known))}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build a configuration from a table, the inverse of dataclasses.asdict.

        Args:
            values: Names of fields and their values, as read from JSON or YAML. Missing fields take their defaults.

        Returns:
            The configuration.

        Raises:
            ValueError: A name is unknown, a value has the wrong type, or the values do not fit together.
        """
        return cls(**check_fields(cls, values))


def shown(value: object) -> str:
    """A value for a message, shortened, since an untrusted file may hold a very long one."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 80
    try:
        return short.repr(value)
    except ValueError:  # Python does not print integers of more than 4300 digits
        return "a number with thousands of digits"


def has_type(value: object, kind: Any) -> bool:
    """Whether a value from JSON or YAML has a field's type: bool, int, float, str or tuple[one of these, ...]."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple | list) and all(has_type(part, get_args(kind)[0]) for part in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def unknown_key(name: str, known: Mapping[str, str] | Iterable[str], listed: str) -> str:
    """The message "unknown key ..., did you mean ...?" or, if no key is close, where all keys are listed.

    Args:
        name: The key.
        known: The known keys, or a table from each key to the way it should be written.
        listed: Where they are all listed, in words.
    """
    words = dict(known) if isinstance(known, Mapping) else {key: key for key in known}
    close = [key for key in words if key.endswith(f"_{name}")] + difflib.get_close_matches(name, words, 2, 0.75)
    close = [repr(words[key]) for key in dict.fromkeys(close)][:2]
    advice = f", did you mean {' or '.join(close)}?" if close else f"; see {listed}"
    return f"unknown key {shown(name)}{advice}"


def known_fields(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The entries of a table that are fields of the dataclass `kind`; published files also have other entries."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def check_fields(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Check a table against the fields of a dataclass.

    Args:
        kind: The dataclass.
        values: Names of fields and their values.

    Returns:
        The values, unchanged.

    Raises:
        ValueError: A name is not a field, or a value is not of the field's type.
    """
    names = [field.name for field in fields(kind)]
    for name in values:
        if name not in names:
            listed = f"the fields of {kind.__module__}.{kind.__name__}"
            raise ValueError(f"{kind.__name__}: {unknown_key(str(name), names, listed)}")
    for field in fields(kind):
        value, wanted = values.get(field.name, field.default), field.type
        if not has_type(value, wanted):
            kind_name = (
                f"list of {get_args(wanted)[0].__name__}" if get_args(wanted) else getattr(wanted, "__name__", wanted)
            )
            raise ValueError(f"{field.name} is {shown(value)}; it must be of type {kind_name}")
    return values
