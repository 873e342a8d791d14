"""Arrays in npz and npy files, which may be untrusted: headers are checked before any memory is allocated."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from math import prod
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from latte.video.limits import MAX_READ_BYTES

LENGTH_TYPES = {(1, 0): "<u2", (2, 0): "<u4", (3, 0): "<u4"}  # of the header's length, by the version of the format
MOST_HEADER_BYTES = 10_000  # NumPy's own limit


class Header(NamedTuple):
    """What the header of an array says."""

    name: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """The size of the array's values in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def order(self) -> Literal["C", "F"]:
        """The memory order of the values."""
        return "F" if self.fortran else "C"

    @property
    def shown(self) -> str:
        """For messages: the kind of the values and the shape."""
        return f"{self.dtype} {self.shape}"


def read_headers(file: Path) -> list[Header]:
    """The headers of all arrays of a file.

    Raises:
        ValueError: It is damaged, holds no array, or one whose header cannot be read.
        OSError: It cannot be opened.
    """
    if file.suffix.lower() == ".npy":
        with file.open("rb") as stream:
            return [read_header(stream, file.stem)]
    try:
        return read_zipped_headers(file)
    except (ValueError, OSError):
        raise
    except Exception as error:  # zipfile raises almost anything on a damaged archive
        raise ValueError(f"it is damaged: {error}") from error


def read_zipped_headers(file: Path) -> list[Header]:
    """The headers of the arrays of an npz. Raises ValueError, or whatever zipfile does, if it cannot be read."""
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
        if not names:
            raise ValueError("it holds no array")
        headers = []
        for name in ["video.npy"] if "video.npy" in names else names:
            with archive.open(name) as stream:
                headers.append(read_header(stream, name.removesuffix(".npy")))
        return headers


def read_header(stream: IO[bytes], name: str) -> Header:
    """Read the header of an npy file. The length that it claims is checked before that much is read."""
    try:
        version = np.lib.format.read_magic(stream)
        if version not in LENGTH_TYPES:
            raise ValueError("an unknown version")
        length = stream.read(np.dtype(LENGTH_TYPES[version]).itemsize)
        size = int(np.frombuffer(length, LENGTH_TYPES[version])[0])
        if size > MOST_HEADER_BYTES:
            raise ValueError("a header that is too long")
        # version 3 is version 2 with names of fields in UTF-8, and videos have no fields
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        header = Header(name, *read(BytesIO(length + stream.read(size))))
        if any(length < 0 for length in header.shape):
            raise ValueError("a negative length")
        return header
    except (
        ValueError,
        TypeError,
        IndexError,
        OverflowError,
        RecursionError,
        MemoryError,
    ) as error:  # NumPy's own message may suggest allow_pickle, which runs code from the file
        raise ValueError("it holds no array with a readable header") from error


def load(file: Path, header: Header) -> np.ndarray:
    """Read an array into memory.

    Raises:
        ValueError: Its values are fewer or more than the header claims.
    """
    with open_member(file, header.name) as (stream, _, size):
        begin = skip_header(stream, header, size)
        data = stream.read(header.nbytes + 1)  # zipfile verifies the checksum when it reaches the end
    if len(data) != header.nbytes:
        raise ValueError(f"its array ends after {begin + len(data)} bytes")
    return np.frombuffer(data, header.dtype).reshape(header.shape, order=header.order)


def map_array(file: Path, header: Header, total: int) -> np.ndarray:
    """Map an array into memory, for files whose arrays together take too much of it.

    Raises:
        ValueError: See load; or it is compressed.
    """
    with open_member(file, header.name) as (stream, start, size):
        if start is None:
            raise ValueError(f"it unpacks to {total} bytes; write sets of more than {MAX_READ_BYTES} with np.save")
        begin = skip_header(stream, header, size)
        while isinstance(stream, zipfile.ZipExtFile) and stream.read(1 << 20):
            pass  # zipfile verifies the checksum when it reaches the end
    return np.memmap(file, header.dtype, "c", begin + start, header.shape, header.order)


def skip_header(stream: IO[bytes], header: Header, size: int) -> int:
    """Read up to where the values of an array begin. Raises ValueError if they do not fill the rest."""
    read_header(stream, header.name)
    begin = stream.tell()
    if size - begin != header.nbytes:
        raise ValueError(f"its array does not have the {header.nbytes} bytes that its header claims")
    return begin


@contextmanager
def open_member(file: Path, name: str) -> Iterator[tuple[IO[bytes], int | None, int]]:
    """Open an array for reading.

    Yields:
        The array's file; where it starts inside `file`, or None if it is compressed; and its size in bytes.
    """
    if file.suffix.lower() == ".npy":
        with file.open("rb") as stream:
            yield stream, 0, file.stat().st_size
        return
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo(f"{name}.npy")
        start = None
        if info.compress_type == zipfile.ZIP_STORED:
            with file.open("rb") as raw:
                raw.seek(info.header_offset + 26)  # the lengths of the name and of what follows it
                start = info.header_offset + 30 + sum(np.frombuffer(raw.read(4), "<u2").tolist())
        with archive.open(info) as stream:
            yield stream, start, info.file_size
