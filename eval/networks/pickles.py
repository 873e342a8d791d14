"""Untrusted pickles: only arrays and tensors are read from them.

Unpickling can run any code. Here, the unpickler knows only the few names that arrays and tensors need, and stand-ins
take the place of NumPy's own classes, which trust the file. So no code from a file is run, and no class that it names
is created.
"""

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

from latte.files import refuse_pointer
from latte.weights.tensors import CheckpointError, check_values

STORAGES = {  # TorchScript's types of tensors
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}
NUMBERS = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")  # NumPy's types of arrays that are read


class UnknownObject:
    """A stand-in for an object of a class that is not known here. It has the object's attributes, and no behaviour."""


class DtypeStandIn:
    """A stand-in for numpy.dtype, which would accept any state that the file gives it."""

    def __init__(self, name: str, *_):
        if name not in NUMBERS:
            raise ValueError(f"it holds an array of type {name}, which is not read")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        self.dtype = self.dtype.newbyteorder(state[1]) if state[1] in "<>" else self.dtype


class ArrayStandIn:
    """A stand-in for numpy.ndarray, for the same reason. `value` is the array."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # as Python 2 wrote it
        self.value = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C").copy()


def numpy_scalar(dtype: DtypeStandIn, data: bytes) -> np.generic:
    """What numpy.core.multiarray.scalar does."""
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.dtype)[0]


def array_from_buffer(data: bytes, dtype: DtypeStandIn, shape: tuple, order: str) -> ArrayStandIn:
    """What numpy.core.numeric._frombuffer does, which arrays in pickles of protocol 5 are made by."""
    array = ArrayStandIn()
    array.__setstate__((1, shape, dtype, order == "F", data))
    return array


CORES = ("numpy.core", "numpy._core")  # before NumPy 2, and since then
ARRAYS = {  # names in a pickle -> what takes their place
    **{(f"{core}.multiarray", "_reconstruct"): lambda *_: ArrayStandIn() for core in CORES},
    **{(f"{core}.multiarray", "scalar"): numpy_scalar for core in CORES},
    **{(f"{core}.numeric", "_frombuffer"): array_from_buffer for core in CORES},
    ("numpy", "ndarray"): ArrayStandIn,
    ("numpy", "dtype"): DtypeStandIn,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # how Python 3 writes bytes in protocols 0 to 2
}


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that resolves the names in a table, and refuses all others.

    Args:
        file: the pickle.
        table: maps (module, name) to what takes its place.
        storage: makes a tensor's values from a persistent id of TorchScript. With it, objects of a scripted module's
            classes become UnknownObject. Without it, persistent ids are refused.
    """

    def __init__(self, file: IO[bytes], table: dict[tuple[str, str], object], storage: Callable | None = None):
        super().__init__(file, encoding="latin1")
        self.table, self.storage = table, storage

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in self.table:
            return self.table[module, name]
        if self.storage and module.startswith("__torch__"):
            return UnknownObject
        raise ValueError(f"it holds {module}.{name}, which is neither an array nor a tensor: the file is not read")

    def persistent_load(self, pid: object) -> Tensor:
        if self.storage is None:
            raise ValueError("it refers to data outside of the file: the file is not read")
        return self.storage(*pid)


def read_pickle(path: Path) -> dict:
    """Read a pickled dictionary of numbers and NumPy arrays from an untrusted file.

    Raises:
        CheckpointError: the file is damaged, or holds anything else.
        FileNotFoundError: there is no such file.
    """
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            values = RestrictedUnpickler(file, ARRAYS).load()
        if not isinstance(values, dict):
            raise ValueError("it does not hold a dictionary")
    except FileNotFoundError:
        raise
    except Exception as error:  # a forged pickle can raise almost any exception
        raise CheckpointError(f"{path}: {error}" if isinstance(error, ValueError) else damaged(path)) from error
    return {name: value.value if isinstance(value, ArrayStandIn) else value for name, value in values.items()}


def is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, as torch.jit.save writes it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read the tensors of an untrusted TorchScript archive. Its program is not run.

    Returns:
        The tensors by name, as in the state_dict of the module.

    Raises:
        CheckpointError: the file is damaged, or a value in it is not finite.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = read_archive(archive)
    except Exception as error:
        raise CheckpointError(f"{path}: {error}" if isinstance(error, ValueError) else damaged(path)) from error
    check_values(found, path, "")
    return found


def read_archive(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """The tensors of an open TorchScript archive. ValueError if it is forged."""
    (data,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    root = data.removesuffix("/data.pkl")

    def storage(_: str, dtype: torch.dtype, key: str, device: str, count: int) -> Tensor:
        record = archive.getinfo(f"{root}/data/{key}")
        if record.compress_type != zipfile.ZIP_STORED:
            raise ValueError("its tensors are compressed, which PyTorch never does: the file is not read")
        values = archive.read(record)  # zipfile verifies the checksum
        if len(values) != count * dtype.itemsize:
            raise ValueError(f"storage {key} does not hold the {count} numbers that it claims")
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
        raise ValueError("its pickle is compressed, which PyTorch never does: the file is not read")
    with archive.open(data) as file:
        return collect_tensors(RestrictedUnpickler(file, table, storage).load())


def collect_tensors(module: object, prefix: str = "") -> dict[str, Tensor]:
    """The tensors among the attributes of a module and of its submodules, by name."""
    found = {}
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, UnknownObject):
            found |= collect_tensors(value, f"{prefix}{name}.")
    return found


def damaged(path: Path) -> str:
    """The error message for a file that cannot be unpickled."""
    return f"{path} is damaged, or is not a file of the expected kind"
