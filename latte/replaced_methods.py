"""Methods of single modules, replaced from outside: how caches, faster forms and training methods attach to a network.

What replaces a method is stored on the instance, where it comes before the method of its class.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import nn

Replacement = tuple[nn.Module, str, Callable]  # a module, the name of a method, what replaces it


def replace_methods(replacements: Iterable[Replacement]) -> Callable[[], None]:
    """Replace methods, and return a function that restores what was there before, replaced or not."""
    replacements = list(replacements)
    before = [(module, name, vars(module).get(name)) for module, name, _ in replacements]
    for module, name, function in replacements:
        vars(module)[name] = function

    def restore() -> None:
        for module, name, earlier in before:
            del vars(module)[name]
            if earlier is not None:
                vars(module)[name] = earlier

    return restore


@contextmanager
def replaced_methods(replacements: Iterable[Replacement]) -> Iterator[None]:
    """Within the context, methods are replaced as by replace_methods."""
    restore = replace_methods(replacements)
    try:
        yield
    finally:
        restore()
