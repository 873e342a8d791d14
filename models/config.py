"""Configurations as tables: what from_dict of every network's configuration checks."""

from dataclasses import fields
from typing import get_origin


def checked(kind: type, values: dict) -> dict:
    """`values` as they are; ValueError names one that is not of its field's type in the dataclass `kind`."""
    for field in fields(kind):
        value = values.get(field.name, field.default)
        wanted = get_origin(field.type) or field.type
        fits = {float: (int, float), tuple: (tuple, list)}.get(wanted, wanted)
        if not isinstance(value, fits) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(f"{field.name} is {value!r}; it must be of type {wanted.__name__}")
    return values
