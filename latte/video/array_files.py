"""Videos in npz and npy files, which may be untrusted.

A file holds one video or a set of them: an array (n, f, h, w, 3), or arrays whose names differ only in a number. Video
7 of the set samples.npz has the path samples.npz/000007, which exists for the functions of `latte.video` only.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latte.video.array_layout import (
    EXPECTED,
    SETS,
    as_rgb,
    channels_last,
    frame_axes,
    to_bytes,
    value_range,
    with_channels,
)
from latte.video.array_storage import Header, load, map_array, read_headers
from latte.video.limits import MAX_READ_BYTES, check_read_size

ARRAY_SUFFIXES = (".npz", ".npy")
SMALLEST_FLAT = 8  # pixels of a side; smaller arrays of three axes hold sequences of vectors or points


class ArraySet:
    """The videos of a file, decoded one by one.

    Attributes:
        arrays: One array of five axes (n, f, h, w, c), or one of four axes per video.
        black_white: See latte.video.array_layout.value_range; it is that of all videos.
    """

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.arrays = [channels_last(array) for array in arrays]
        self.black_white = value_range(self.arrays)
        self.nbytes = sum(array.nbytes for array in arrays)

    def video(self, number: int) -> np.ndarray:
        """Video `number`, uint8 (f, h, w, 3)."""
        frames = self.arrays[0][number] if self.arrays[0].ndim == 5 else self.arrays[number]
        return as_rgb(to_bytes(frames, self.black_white))


_lock = threading.Lock()  # threads that read clips of one file wait for the first one to open it
_held: dict[tuple, ArraySet] = {}  # the sets that were read last: one, or several within MAX_READ_BYTES


def read_array(path: Path) -> np.ndarray:
    """Return the frames of a video, uint8 (f, h, w, 3).

    Args:
        path: A file that holds one video, or the path of a video of a set.

    Raises:
        ValueError: See array_shape; or the values are damaged, or in no known range.
    """
    file, number = split_number(path)
    headers = find_videos(file)
    shape_of(headers, number)
    return load_all(file, headers).video(0) if number is None else open_set(file, headers).video(number)


def array_shape(path: Path) -> tuple[int, int, int]:
    """Return the frames, height and width of a video, by its header alone.

    Args:
        path: As for read_array.

    Raises:
        ValueError: The file holds no video, several of them, or one that is too large (latte.video.limits); or it has
            no video of this number.
    """
    file, number = split_number(path)
    return shape_of(find_videos(file), number)


def shape_of(headers: Sequence[Header], number: int | None) -> tuple[int, int, int]:
    """`array_shape` of a file with these headers."""
    count = count_videos(headers)
    if number is None and count > 1:
        what = headers[0].shown + (f" and {len(headers) - 1} more" if len(headers) > 1 else "")
        raise ValueError(f"it holds a set of {count} videos, {what}: give each its own file (`latte eval` reads sets)")
    if number is not None and number >= count:
        raise ValueError(f"the file holds {count} videos, but none with number {number}")
    header = headers[(number or 0) % len(headers)]
    shape = with_channels(header.shape)
    f, h, w = (shape[axis] for axis in (frame_axes(shape) or ())[-4:-1])
    stored = header.nbytes // (shape[0] if len(shape) == 5 else 1)
    check_read_size(f, h, w, max(3, stored // (f * h * w)), "convert it to a video file, such as .mkv")
    return f, h, w


def split_number(path: Path) -> tuple[Path, int | None]:
    """The file of a path, and the number of the video in it; None for the path of a file."""
    inside = path.parent.suffix.lower() in ARRAY_SUFFIXES and path.name.isascii() and path.name.isdecimal()
    return (path.parent, int(path.name)) if inside and path.parent.is_file() else (path, None)


def is_video_array(path: Path) -> bool:
    """Whether a file is an npy of videos, by its header. Others hold features or labels.

    Raises:
        ValueError: It is an npy, but its header cannot be read, so it is unknown.
        OSError: Likewise.
    """
    if path.suffix.lower() != ".npy" or path.is_dir():
        return False
    headers = read_headers(path)
    try:
        return bool(choose_videos(headers))
    except ValueError:
        return False


def is_array_file(path: Path) -> bool:
    """Whether a video is a file of arrays, by its suffix."""
    return path.suffix.lower() in ARRAY_SUFFIXES and not path.is_dir()


def set_paths(file: Path) -> list[Path]:
    """The paths of the videos of a set; the file itself if it holds one video, or none that can be read."""
    try:
        count = count_videos(find_videos(file))
    except (ValueError, OSError):
        return [file]
    return [file] if count == 1 else [file / f"{i:06d}" for i in range(count)]


def count_videos(headers: Sequence[Header]) -> int:
    """How many videos a file with these headers holds."""
    return headers[0].shape[0] if len(headers[0].shape) == 5 else len(headers)


def find_videos(file: Path) -> list[Header]:
    """The arrays of a file that are videos: one, or several whose names differ only in a number.

    Of several arrays, the one called `video` is taken, or else those in colour before those in grey.

    Raises:
        ValueError: There is none, or it is unclear which one is meant. The message names what was found.
    """
    return choose_videos(read_headers(file))


def choose_videos(headers: list[Header]) -> list[Header]:
    """`find_videos` among the arrays of a file. Raises ValueError as it does."""
    if named := [header for header in headers if header.name == "video"]:
        headers = named
    found = [header for header in headers if header.dtype.kind in "uif" and frame_axes(header.shape)]
    colour = [header for header in found if 3 in header.shape[1:]]
    flat = [
        header for header in headers if header.dtype.kind in "uif" and len(header.shape) == 3 and min(header.shape) > 0
    ]
    found = colour or found or [header for header in flat if header.dtype == np.uint8 or is_lone_video(header, headers)]
    if len(found) == 1 or (found and alike(found)):
        return found
    what = ", ".join(f"{header.name} {header.shown}" if len(headers) > 1 else header.shown for header in headers[:6])
    if found:
        raise ValueError(f"it holds several arrays that may be the video: {what}; call one of them video")
    several = SETS if any(len(header.shape) == 4 for header in headers) else ""
    raise ValueError(f"expected uint8 frames {EXPECTED}{several}, found {what}")


def is_lone_video(header: Header, headers: Sequence[Header]) -> bool:
    """Whether an array (f, h, w) of values other than bytes may be a video: the only array, and not of vectors."""
    return len(headers) == 1 and min(header.shape[1:]) >= SMALLEST_FLAT


def alike(headers: Sequence[Header]) -> bool:
    """Whether arrays are of one kind, with one video each, and have names that differ only in a number."""
    kinds = {("".join(c for c in name if not c.isdecimal()), len(shape), dtype) for name, shape, _, dtype in headers}
    return len(kinds) == 1 and len(headers[0].shape) != 5


def open_set(file: Path, headers: Sequence[Header]) -> ArraySet:
    """Open a set, or take it from those that were read last."""
    state = file.stat()
    key = (str(file.absolute()), state.st_size, state.st_mtime_ns)
    with _lock:
        if key not in _held:
            found = load_all(file, headers)
            while _held and found.nbytes + sum(held.nbytes for held in _held.values()) > MAX_READ_BYTES:
                _held.pop(next(iter(_held)))
            _held[key] = found
        return _held[key]


def load_all(file: Path, headers: Sequence[Header]) -> ArraySet:
    """Read arrays; those of more than MAX_READ_BYTES together are mapped into memory."""
    total = sum(header.nbytes for header in headers)
    if total > MAX_READ_BYTES:
        return ArraySet([map_array(file, header, total) for header in headers])
    return ArraySet([load(file, header) for header in headers])
