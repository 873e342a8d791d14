"""Configurations as tables: what from_dict of every network's configuration checks."""

from dataclasses import fields
from typing import get_args, get_origin


def fits(value: object, kind: type) -> bool:
    """Whether a value out of JSON or YAML is of a field's type: bool, int, float, str or tuple[one of these, ...]."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple | list) and all(fits(part, get_args(kind)[0]) for part in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def checked(kind: type, values: dict) -> dict:
    """`values` as they are; ValueError names one that is no field of the dataclass `kind`, or not of its type."""
    if unknown := set(values) - {field.name for field in fields(kind)}:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(map(repr, unknown)))}")
    for field in fields(kind):
        value = values.get(field.name, field.default)
        if not fits(value, field.type):
            wanted = f"list of {get_args(field.type)[0].__name__}" if get_args(field.type) else field.type.__name__
            raise ValueError(f"{field.name} is {value!r}; it must be of type {wanted}")
    return values
