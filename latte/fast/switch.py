"""One switch for everything in this folder: LATTE_FAST=0 in the environment, or fast_paths(False) in a program."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

VARIABLE = "LATTE_FAST"  # "0" switches the fast paths off
_enabled: ContextVar[bool | None] = ContextVar("fast_paths", default=None)


@contextmanager
def fast_paths(enabled: bool) -> Iterator[None]:
    """Within the context, networks take their fast paths, or do not.

    Args:
        enabled: False computes everything as written in latte.models.
    """
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


def is_enabled() -> bool:
    """Whether the fast paths are on, which is the default."""
    chosen = _enabled.get()
    return os.environ.get(VARIABLE) != "0" if chosen is None else chosen


def is_plain_inference(module: nn.Module, x: Tensor) -> bool:
    """Whether nothing watches or changes how this module computes: no gradient, autocast, compiler, hook or wrapper."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
        return False
    if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in module.parameters())):
        return False
    parts = module.modules()
    return not any(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part) for part in parts)
