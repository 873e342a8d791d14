"""Untrusted pickles with tensors: the pickle describes the tensors, and their values lie outside of it."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from latte.files import CheckpointError
from latte.weights.pickles import Foreign, PickleReader
from latte.weights.state_files import MOST_TENSORS

MOST_DIMS = 25  # of a tensor: PyTorch's kernels take no more
STORAGES = {  # PyTorch's names of storages, without "Storage"
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
}
DENSE = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.Parameter")
SPECIAL = {  # functions that build tensors without plain values: the kind of tensor
    "torch._utils._rebuild_sparse_tensor": "sparse",
    "torch._utils._rebuild_meta_tensor_no_storage": "without values",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_wrapper_subclass": "of a subclass",
}


def items_of(value: object) -> tuple:
    """The items of a tuple or list. Anything else in a file, such as a tensor, may claim to have any number of them."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"a {type(value).__name__} stands where a tuple belongs")
    return tuple(value)


class Values(NamedTuple):
    """Values that tensors share, as numbers of one type."""

    memory: torch.UntypedStorage
    dtype: torch.dtype
    name: str  # of the storage in the file


class TensorReader(PickleReader):
    """Reads pickles with tensors in them.

    Args:
        read: Returns the memory of a storage, given its name, its size in bytes, and the bytes per number.
    """

    def __init__(self, read: Callable[[str, int, int], torch.UntypedStorage]):
        types = {f"torch.{name}Storage": dtype for name, dtype in STORAGES.items()}
        types |= {f"torch.{name}": dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}
        rebuild = {
            "": lambda values, offset, size, stride: self.tensor(values, offset, size, stride),
            "_v2": lambda *given: self.tensor(*given[:4], metadata=given[6:]),
            "_v3": lambda *given: self.tensor(*given[:4], dtype=given[6], metadata=given[7:]),
        }
        names = {
            **types,
            "torch.storage.UntypedStorage": torch.uint8,
            "torch.Size": lambda sizes=(): items_of(sizes),
            **{f"torch._utils._rebuild_tensor{version}": function for version, function in rebuild.items()},
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, _, __, state: without_state(data, state),
            "torch._tensor._rebuild_from_type_v2": self.typed,
            **{name: name for name in DENSE},
        }
        super().__init__(names, self.storage)
        self.read, self.tensors = read, 0

    def storage(self, pid: object) -> Values | Foreign:
        """The values that a persistent id refers to."""
        word, dtype, key, _, count, *view = items_of(pid)
        if isinstance(dtype, Foreign):
            return dtype
        if word != "storage" or not isinstance(key, str) or type(count) is not int or count < 0:
            raise CheckpointError("it refers to data that are not numbers, so it is not read")
        memory = self.read(key, count * dtype.itemsize, dtype.itemsize)
        if view and view[0] is not None:  # a part of a storage, in files of the first versions of PyTorch
            _, offset, count = items_of(view[0])
            first, last = offset * dtype.itemsize, (offset + count) * dtype.itemsize
            if not 0 <= first <= last <= memory.nbytes():
                raise CheckpointError(f"a part of storage {key:.100} lies outside of it")
            memory = memory[first:last]
        return Values(memory, dtype, key)

    def tensor(
        self,
        values: Values | Foreign,
        offset: int,
        size: tuple,
        stride: tuple,
        metadata: tuple = (),
        dtype: torch.dtype | None = None,
    ) -> Tensor | Foreign:
        """A tensor that is a view of stored values, as PyTorch's _rebuild_tensor functions make it."""
        self.tensors += 1
        if self.tensors > MOST_TENSORS:
            raise CheckpointError(f"it holds more than {MOST_TENSORS} tensors, so it is not read")
        if isinstance(values, Foreign):
            return values
        dtype = values.dtype if dtype is None else dtype
        size, stride = items_of(size), items_of(stride)
        numbers = (offset, *size, *stride)
        if not all(type(number) is int and 0 <= number < 1 << 60 for number in numbers) or len(size) != len(stride):
            raise CheckpointError("a tensor has an impossible shape, so it is not read")
        if len(size) > MOST_DIMS or prod(size) >= 1 << 60:
            raise CheckpointError(f"a tensor of {len(size)} dimensions is too large, so it is not read")
        end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride)) if prod(size) else 0
        if end > values.memory.nbytes() // dtype.itemsize:
            raise CheckpointError(f"a tensor {size} claims more numbers than are stored, so it is not read")
        if any(metadata):
            raise CheckpointError("a tensor is stored as the conjugate or negative of its values, so it is not read")
        return torch.empty(0, dtype=dtype, device=values.memory.device).set_(values.memory, offset, size, stride)

    def typed(self, function: Callable, kind: str | Foreign, arguments: tuple, state: object) -> Tensor | Foreign:
        """A tensor of a class or with attributes, as PyTorch's _rebuild_from_type_v2 makes it."""
        if isinstance(kind, Foreign) or isinstance(function, Foreign):
            return kind if isinstance(kind, Foreign) else Foreign(function.name)
        return without_state(function(*items_of(arguments)), state)


def without_state(tensor: Tensor | Foreign, state: object) -> Tensor | Foreign:
    """Return a tensor, unless it has attributes, which could override its methods."""
    parts = state if isinstance(state, tuple) else (state,)  # for an object with slots: the attributes and the slots
    for part in parts:
        if part is not None and part != {}:
            names = f" ({next(iter(part))!s:.50})" if isinstance(part, dict) else ""
            advice = "save the detached tensors of a state_dict"
            raise CheckpointError(f"a tensor in it has attributes{names}, which are not loaded: {advice}")
    return tensor
