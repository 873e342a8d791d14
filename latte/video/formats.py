"""The supported video files, and one way to report what a codec says about a bad one."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latte.files import refuse_pointer
from latte.video.array_files import ARRAY_SUFFIXES, split_number

STREAM_SUFFIXES = (  # decoded by FFmpeg
    *(".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".gif"),
    *(".3g2", ".3gp", ".3gpp", ".asf", ".divx", ".evo", ".f4v", ".flv", ".ismv", ".ivf", ".m1v", ".m2p", ".m2t"),
    *(".m2ts", ".m2v", ".mk3d", ".mod", ".mp4v", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv"),
    *(".qt", ".tod", ".tp", ".trp", ".ts", ".vob", ".wmv", ".y4m"),
)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")  # the frames of a folder
READABLE_SUFFIXES = (*STREAM_SUFFIXES, ".webp", *ARRAY_SUFFIXES)
WRITABLE_SUFFIXES = (".mp4", ".mkv", ".gif", ".webp", ".npz", ".png")
DEFAULT_FPS = 8.0  # for files that state no frame rate


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
        if isinstance(error, ValueError) and str(error).startswith(f"{path} "):
            raise  # it says what is wrong, and with which file
        refuse_pointer(path)
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        within = f" {failure}: "  # of a file in a folder, which this path is
        raise ValueError(f"{path} {failure}: {reason.replace(within, ': ')}") from error
