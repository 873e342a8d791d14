"""The supported video files, by suffix, and one way to report what a codec says about a bad one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from latte.files import refuse_pointer

STREAM_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".gif")  # decoded by FFmpeg
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")  # the frames of a folder
READABLE_SUFFIXES = (*STREAM_SUFFIXES, ".webp", ".npz")
WRITABLE_SUFFIXES = (".mp4", ".mkv", ".gif", ".webp", ".npz", ".png")
DEFAULT_FPS = 8.0  # for files that state no frame rate


def video_kind(path: Path) -> str:
    """Return "folder" for a folder of frames, or the lower-case suffix of a readable video file.

    Raises:
        FileNotFoundError: If nothing exists at the path.
        ValueError: If the suffix is not one of READABLE_SUFFIXES.
    """
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}")
    kind = "folder" if path.is_dir() else path.suffix.lower()
    if kind not in ("folder", *READABLE_SUFFIXES):
        raise ValueError(f"{path}: unsupported video suffix; use one of {' '.join(READABLE_SUFFIXES)}")
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
    except errors as error:
        refuse_pointer(path)
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise ValueError(f"{path} {failure}: {reason}") from error
