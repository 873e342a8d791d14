"""Traps for the code that only an option uses: an option that is off must not run into one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Reached(Exception):
    """Code with a trap was used."""


class Trap:
    """Stands for a function or a number. Calling or multiplying it raises Reached."""

    def __call__(self, *args: Any, **options: Any) -> None:
        raise Reached

    __mul__ = __call__


@contextmanager
def trapped(*places: tuple[Any, str]) -> Iterator[None]:
    """Within this context, traps replace these attributes of modules, (module, name), or entries, (dict, key)."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in places:
            put = patch.setitem if isinstance(owner, dict) else patch.setattr
            put(owner, name, Trap())
        yield
