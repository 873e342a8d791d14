"""The tensors of a part of a published folder, read shard by shard."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from latte.files import CheckpointError, prefix_errors
from latte.weights.scaled_weights import is_eight_bits, is_scale, take_scales, unscaled
from latte.weights.tensors import read_tensors


def read_part(files: list[Path], convert: Callable[[str, Tensor], dict[str, Tensor]] | None = None) -> dict:
    """Read the tensors of a part, shard by shard.

    Args:
        files: Its files, as `state_files` returns them.
        convert: Turns a name and its tensor into the tensors to keep, before the next tensor is converted. None keeps
            it as it is.

    Raises:
        CheckpointError: A file is missing or damaged, or two shards hold the same name.
    """
    convert = convert or (lambda name, tensor: {name: tensor})
    seen: set = set()
    state: dict = {}
    waiting: dict = {}  # 8-bit numbers and their scales, which may lie in different shards
    for file in files:
        for name, value in read_tensors(file, shard=True).items():
            if name in seen:
                raise CheckpointError(f"{file}: {name} is in another shard too")
            seen.add(name)
            if is_eight_bits(value) or is_scale(name):
                waiting[name] = value
            else:
                state |= convert(name, value) if isinstance(value, Tensor) else {name: value}
    with prefix_errors(files[0] if len(files) == 1 else files[0].parent):
        scales = take_scales(waiting)
        for name in list(waiting):
            value = unscaled(waiting.pop(name), scales.get(name))
            state |= convert(name, value) if isinstance(value, Tensor) else {name: value}
    return state
