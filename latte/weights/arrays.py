"""Untrusted files of NumPy arrays: .npz, and pickles of a dictionary of arrays and numbers. No code in them is run."""

import io
import os
import zipfile
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latte.files import CheckpointError, refuse_pointer
from latte.weights.pickles import Foreign, PickleReader
from latte.weights.torch_files import fill

MOST_ARRAY_BYTES = 1 << 30  # an .npz may unpack to this much; the largest one that a metric needs has 0.3 billion bytes
MOST_GROWTH = 100  # and, beyond LEAST_ARRAY_BYTES, to this many times its size
LEAST_ARRAY_BYTES = 1 << 26
MOST_ARRAYS = 10_000  # in a file
NUMBERS = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")  # NumPy's types of arrays that are read from pickles


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Read an untrusted .npz file. Arrays of Python objects, which could run code, are refused.

    Args:
        path: The file. Its format has checksums, so any damage is detected.

    Returns:
        The arrays by name, each in its own type.

    Raises:
        CheckpointError: The file is missing or damaged, it holds objects, some values are not finite, or it unpacks to
            more than MOST_ARRAY_BYTES, or to more than MOST_GROWTH times its size.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: there is no such file")
    refuse_pointer(path)
    try:
        with zipfile.ZipFile(path) as archive:
            check_growth(archive, path.stat().st_size)
            table = {name.removesuffix(".npy"): read_npy(archive, name) for name in archive.namelist()}
            for name, array in table.items():
                if not array.isfinite().all():
                    raise CheckpointError(f"{name[:100]} holds values that are not finite")
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except Exception as error:  # a forged file can raise almost anything inside a reader
        raise CheckpointError(f"{path} is damaged or is not an .npz of plain arrays of numbers") from error
    return table


def check_growth(archive: zipfile.ZipFile, size: int) -> None:
    """Check that a file of `size` bytes unpacks to a sensible size, with the compression that NumPy uses or none."""
    records = archive.infolist()
    claimed = sum(record.file_size for record in records)
    most = min(MOST_ARRAY_BYTES, max(LEAST_ARRAY_BYTES, MOST_GROWTH * size))
    if claimed > most or len(records) > MOST_ARRAYS:
        raise CheckpointError(f"it claims {claimed} bytes in {len(records)} arrays; more than {most} are not read")
    if any(record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for record in records):
        raise CheckpointError("it is compressed in a way that NumPy does not use, so it is not read")


def read_npy(archive: zipfile.ZipFile, name: str) -> Tensor:
    """Read an array out of an .npz, whose header may claim any size. Raises ValueError if it is forged."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[version](file)
        count = prod(shape)
        if dtype.hasobject or dtype.kind not in "fiub" or min(shape, default=0) < 0:
            raise ValueError(f"{name} is not an array of numbers")
        if count * dtype.itemsize > archive.getinfo(name).file_size:
            raise ValueError(f"{name} claims more numbers than are stored")
        data = bytearray(archive.getinfo(name).file_size - file.tell())
        fill(memoryview(data), file)
    array = np.frombuffer(data, dtype, count).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(np.asarray(array, dtype.newbyteorder("=")))


def read_array_pickle(path: Path) -> dict[str, object]:
    """Read a pickled dictionary of numbers and NumPy arrays from an untrusted file.

    Returns:
        The arrays and numbers by name. Objects of other types are not built; a Foreign takes their place.

    Raises:
        CheckpointError: The file is missing or damaged, or does not hold a dictionary.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: there is no such file")
    refuse_pointer(path)
    try:
        content = path.read_bytes()
        values = ArrayReader(len(content)).load(io.BytesIO(content))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        raise CheckpointError(f"{path} is damaged, or is not a pickle of arrays") from error
    if not isinstance(values, dict):
        kind = values.name if isinstance(values, Foreign) else f"an object of type {type(values).__name__}"
        raise CheckpointError(f"{path} holds {kind}, not a dictionary")
    return {name: value.value if isinstance(value, ArrayStandIn) else value for name, value in values.items()}


class DtypeStandIn:
    """A stand-in for numpy.dtype, which would accept any state that the file gives it."""

    def __init__(self, name: str, *_: object):
        if name not in NUMBERS:
            raise CheckpointError(f"it holds an array of type {name:.100}, which is not read")
        self.dtype = np.dtype(name)

    def set_state(self, state: tuple) -> None:
        """Set the byte order from the file."""
        self.dtype = self.dtype.newbyteorder(state[1]) if state[1] in ("<", ">") else self.dtype


class ArrayStandIn:
    """A stand-in for numpy.ndarray, for the same reason. `value` is the array, or None before it has its state."""

    def __init__(self, reader: "ArrayReader"):
        self.reader, self.value = reader, None

    def set_state(self, state: tuple) -> None:
        """Make the array a view of the data in the file, without copying."""
        _, shape, dtype, fortran, data = state
        self.value = np.frombuffer(self.reader.as_bytes(data), dtype.dtype).reshape(
            shape, order="F" if fortran else "C"
        )


class ArrayReader(PickleReader):
    """Reads pickles with NumPy arrays and scalars in them.

    Args:
        size: Bytes of the file.
    """

    def __init__(self, size: int):
        names: dict[str, object] = {
            "numpy.ndarray": "numpy.ndarray",
            "numpy.dtype": DtypeStandIn,
            "_codecs.encode": lambda text, _: self.as_bytes(text),  # how Python 3 writes bytes in protocols 0 to 2
        }
        for core in ("numpy.core", "numpy._core"):  # before NumPy 2, and since then
            names[f"{core}.multiarray._reconstruct"] = lambda *_: ArrayStandIn(self)
            names[f"{core}.multiarray.scalar"] = self.scalar
            names[f"{core}.numeric._frombuffer"] = self.from_buffer
        super().__init__(names)
        self.left = size  # bytes of text that may still be turned into data; each text in a file is data of one array

    def as_bytes(self, data: object) -> bytes | bytearray:
        """The data of an array, which is text if it was written by Python 2, or by Python 3 in an early protocol."""
        if not isinstance(data, str):
            return data
        self.left -= len(data)
        if self.left < 0:
            raise CheckpointError("it repeats the data of its arrays, so it is not read")
        return data.encode("latin1")

    def scalar(self, dtype: DtypeStandIn, data: object) -> float:
        """What numpy.core.multiarray.scalar does."""
        return np.frombuffer(self.as_bytes(data), dtype.dtype, 1)[0].item()

    def from_buffer(self, data: object, dtype: DtypeStandIn, shape: tuple, order: str) -> ArrayStandIn:
        """What numpy.core.numeric._frombuffer does, which builds the arrays in pickles of protocol 5."""
        array = ArrayStandIn(self)
        array.set_state((1, shape, dtype, order == "F", data))
        return array
