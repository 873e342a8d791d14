"""The supported video files, the limits on their size, and one way to report what a codec says about a bad one."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latte.files import refuse_pointer
from latte.video.array_files import ARRAY_SUFFIXES, split_number

STREAM_SUFFIXES = (  # decoded by FFmpeg
    *(".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".gif"),
    *(".3gp", ".flv", ".m2ts", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".wmv"),
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")  # the frames of a folder
READABLE_SUFFIXES = (*STREAM_SUFFIXES, ".webp", *ARRAY_SUFFIXES)
WRITABLE_SUFFIXES = (".mp4", ".mkv", ".gif", ".webp", ".npz", ".png")
DEFAULT_FPS = 8.0  # for files that state no frame rate

# A small file can ask for any amount of memory: a still picture compresses to almost nothing.
MAX_FRAME_PIXELS = 1 << 24  # 4096 x 4096, or 5760 x 2880
MAX_READ_BYTES = 4 << 30  # of all frames that one call returns
BLOCK_BYTES = 64 << 20  # of the frames that are decoded at a time


class DamagedVideoError(ValueError):
    """A video that FFmpeg decodes only with errors, or that is shorter than its header says."""


def video_kind(path: Path) -> str:
    """Return "folder" for a folder of frames, or the lower-case suffix of a readable video file.

    Raises:
        FileNotFoundError: If nothing exists at the path.
        ValueError: If the suffix is not one of READABLE_SUFFIXES, or if the path is a pipe, a device or a socket, which
            may never end.
    """
    file, _ = split_number(path)
    if not file.exists():
        raise FileNotFoundError(f"no video at {path}")
    kind = "folder" if file.is_dir() else file.suffix.lower()
    if kind not in ("folder", *READABLE_SUFFIXES):
        raise ValueError(f"{path}: unsupported video suffix; use one of {' '.join(READABLE_SUFFIXES)}")
    if kind != "folder" and not stat.S_ISREG(file.stat().st_mode):
        raise ValueError(f"{path} is not a regular file but a pipe, a device or a socket: it is not opened")
    return kind


def check_frame_size(height: int, width: int) -> None:
    """Raise ValueError if frames have more than MAX_FRAME_PIXELS pixels."""
    if height * width > MAX_FRAME_PIXELS:
        limit = f"{MAX_FRAME_PIXELS:,} pixels"
        raise ValueError(f"its frames have {height} x {width} pixels, more than the limit of {limit}: scale it down")


def check_read_size(frames: int, height: int, width: int) -> None:
    """Raise ValueError if so many frames are larger than a call may return."""
    check_frame_size(height, width)
    if (size := 3 * frames * height * width) > MAX_READ_BYTES:
        raise ValueError(
            f"{frames} frames of {height} x {width} pixels take {size} bytes, more than the limit of {MAX_READ_BYTES}: "
            "read fewer frames, or use read_blocks"
        )


@contextmanager
def codec_errors(path: Path, failure: str, errors: type[Exception] = Exception) -> Iterator[None]:
    """Turn the errors of a decoder or an encoder into a one-line ValueError that names the file and the reason.

    Args:
        path: The file, as the message should name it.
        failure: What went wrong, such as "cannot be decoded".
        errors: What to catch. Decoders raise so many classes on damaged files that reading catches them all.
    """
    try:
        yield
    except DamagedVideoError as error:
        raise DamagedVideoError(f"{path} {error}") from error
    except errors as error:
        refuse_pointer(path)
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise ValueError(f"{path} {failure}: {reason}") from error
