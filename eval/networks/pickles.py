"""Pickles of strangers, of which only arrays and tensors are taken: no code in them, and no class of theirs, is run."""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from latte.weights.tensors import CheckpointError, check_values

STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


NUMBERS = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")  # types of which arrays are taken


class Opaque:
    """In place of an object of a class that is not known here: its attributes alone."""


class Kind:
    """In place of a numpy.dtype, whose own takes on whatever state a file gives it."""

    def __init__(self, name: str, *_):
        if name not in NUMBERS:
            raise ValueError(f"it holds an array of type {name}, which is not read")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1]) if state[1] in "<>" else self.dtype


class Array:
    """In place of a numpy.ndarray, likewise."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # as Python 2 wrote it
        self.value = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C").copy()


def scalar(kind: Kind, data: bytes) -> np.generic:
    """A number of NumPy."""
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, kind.dtype)[0]


def from_buffer(data: bytes, kind: Kind, shape: tuple, order: str) -> Array:
    """An array, as protocol 5 has it."""
    array = Array()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


CORES = ("numpy.core", "numpy._core")  # before NumPy 2, and since
ARRAYS = {
    **{(f"{core}.multiarray", "_reconstruct"): lambda *_: Array() for core in CORES},
    **{(f"{core}.multiarray", "scalar"): scalar for core in CORES},
    **{(f"{core}.numeric", "_frombuffer"): from_buffer for core in CORES},
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Kind,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # how Python 3 keeps bytes in an old protocol
}


class Restricted(pickle.Unpickler):
    """An unpickler that knows the names of a table, and no others."""

    def __init__(self, file: IO[bytes], table: dict[tuple[str, str], object], storage: Callable | None = None):
        super().__init__(file, encoding="latin1")
        self.table, self.storage = table, storage

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in self.table:
            return self.table[module, name]
        if self.storage and module.startswith("__torch__"):
            return Opaque
        raise ValueError(f"it holds {module}.{name}, which is neither an array nor a tensor: not read")

    def persistent_load(self, pid: object) -> Tensor:
        if self.storage is None:
            raise ValueError("it refers to what is not in it: not read")
        return self.storage(*pid)


def read_pickle(path: Path) -> dict:
    """A pickled dictionary of numbers and NumPy arrays. CheckpointError: anything else."""
    try:
        with path.open("rb") as file:
            values = Restricted(file, ARRAYS).load()
        if not isinstance(values, dict):
            raise ValueError("it does not hold a dictionary")
    except FileNotFoundError:
        raise
    except Exception as error:  # inside a pickle, a forged file can make almost any
        raise CheckpointError(f"{path}: {error}" if isinstance(error, ValueError) else unreadable(path)) from error
    return {name: value.value if isinstance(value, Array) else value for name, value in values.items()}


def is_torchscript(path: Path) -> bool:
    """Whether a file is what torch.jit.save writes."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive, under the names that its state_dict would have; its program is not read.

    CheckpointError: damaged, or with values that are not finite.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = tensors_of(archive)
    except Exception as error:
        raise CheckpointError(f"{path}: {error}" if isinstance(error, ValueError) else unreadable(path)) from error
    check_values(found, path, "")
    return found


def tensors_of(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """The same of an open one."""
    (data,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    root = data.removesuffix("/data.pkl")

    def storage(_: str, dtype: torch.dtype, key: str, device: str, count: int) -> Tensor:
        record = archive.getinfo(f"{root}/data/{key}")
        if record.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its tensors are compressed, as none of PyTorch's are: not read")
        values = archive.read(record)  # zipfile checks its sum
        if len(values) != count * dtype.itemsize:
            raise ValueError(f"storage {key} does not have the {count} numbers that it claims")
        return torch.frombuffer(bytearray(values), dtype=dtype) if count else torch.empty(0, dtype=dtype)

    def rebuild(values: Tensor, offset: int, size: tuple, stride: tuple, *_) -> Tensor:
        if prod(size) > values.numel():
            raise ValueError(f"a tensor {tuple(size)} claims more numbers than are stored")
        return values.as_strided(size, stride, offset).clone()

    table = {("torch", name): dtype for name, dtype in STORAGES.items()} | {
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("collections", "OrderedDict"): OrderedDict,
        **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "double", "bool", "tensor")},
    }
    if archive.getinfo(data).compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed inside, as none of PyTorch's is: not read")
    with archive.open(data) as file:
        return named(Restricted(file, table, storage).load())


def named(module: object, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor among the attributes of a module and of those inside it, by its path."""
    found = {}
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, Opaque):
            found |= named(value, f"{prefix}{name}.")
    return found


def unreadable(path: Path) -> str:
    """What is said of a file that no reader understands."""
    return f"{path} is damaged, or is not of the kind that its place calls for"
