"""Configurations as tables: what from_dict of every network's configuration checks."""

import difflib
from collections.abc import Iterable
from dataclasses import fields
from typing import get_args, get_origin


def fits(value: object, kind: type) -> bool:
    """Whether a value out of JSON or YAML is of a field's type: bool, int, float, str or tuple[one of these, ...]."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple | list) and all(fits(part, get_args(kind)[0]) for part in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def unknown_key(name: str, known: Iterable[str]) -> str:
    """ "unknown key ..., did you mean ...?"; with nothing close, all that are known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    advice = f", did you mean {close[0]!r}?" if close else f"; the keys are {', '.join(known)}"
    return f"unknown key {name!r}{advice}"


def check_fields(kind: type, values: dict) -> dict:
    """`values` as they are; ValueError names one that is no field of the dataclass `kind`, or not of its type."""
    names = [field.name for field in fields(kind)]
    for name in values:
        if name not in names:
            raise ValueError(f"{kind.__name__}: {unknown_key(str(name), names)}")
    for field in fields(kind):
        value = values.get(field.name, field.default)
        if not fits(value, field.type):
            wanted = f"list of {get_args(field.type)[0].__name__}" if get_args(field.type) else field.type.__name__
            raise ValueError(f"{field.name} is {value!r}; it must be of type {wanted}")
    return values
