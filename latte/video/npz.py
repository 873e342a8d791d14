"""Videos in npz files, which may be untrusted: the header is checked before any memory is allocated."""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Literal

import numpy as np

MAX_NPZ_BYTES = 4 << 30  # uncompressed size of the largest array that is read: zip compresses up to a thousandfold


def read_npz(path: Path) -> np.ndarray:
    """Return the frames of an npz file, uint8 (f, h, w, 3). Raises ValueError as open_npz does."""
    with open_npz(path) as (file, shape, order):
        data = file.read(prod(shape) + 1)  # zipfile verifies the checksum only when it reaches the end of the file
    if len(data) != prod(shape):
        raise ValueError(f"its array does not have the {prod(shape)} bytes that its header claims")
    array = np.frombuffer(data, np.uint8).reshape(shape, order=order)
    return array if shape[3] == 3 else array.transpose(0, 2, 3, 1)


@contextmanager
def open_npz(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...], Literal["C", "F"]]]:
    """Open the video of an npz file without reading its pixels.

    The video is the array called `video`, or the first array if there is none of that name.

    Yields:
        The file, positioned at the first pixel; the array's shape; and its memory order.

    Raises:
        ValueError: If the file holds no array, if the array is not uint8 of shape (f, h, w, 3) or (f, 3, h, w), or if
            it has more than MAX_NPZ_BYTES bytes.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not names:
            raise ValueError("it holds no array")
        with archive.open("video.npy" if "video.npy" in names else names[0]) as file:
            shape, fortran, dtype = read_npy_header(file)
            if dtype != np.uint8 or len(shape) != 4 or 3 not in shape[1::2] or min(shape) < 1:
                raise ValueError(f"expected uint8 frames (f, h, w, 3), found {dtype} {shape}")
            if prod(shape) > MAX_NPZ_BYTES:
                raise ValueError(f"its header claims {prod(shape)} bytes, more than the limit of {MAX_NPZ_BYTES}")
            yield file, shape, "F" if fortran else "C"


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, Fortran order and dtype of an npy file of version 1.0, whose header has at most 64 kB."""
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not version 1.0")
        return np.lib.format.read_array_header_1_0(file)
    except ValueError as error:  # NumPy's own message may suggest allow_pickle, which runs code from the file
        raise ValueError("it holds no array with a readable header") from error
