"""Messages for files that cannot be written: a full disk, a quota, a read-only file system, whoever reports it."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
REASONS = {
    errno.ENOSPC: "no space left on device",
    errno.EDQUOT: "no space left: the disk quota is used up",
    errno.EFBIG: "files may not be this large here: see `ulimit -f`, or choose another file system",
    errno.EROFS: "the file system is read-only: choose another place",
    errno.EACCES: "permission denied",
    errno.EPERM: "the system does not permit it",
    errno.EIO: "input/output error: the disk or the network drive failed",
}
ONLY_FROM_WRITING = (*FULL, errno.EFBIG, errno.EROFS)
# libraries in other languages report the error number, or the system's message for it, as text
NUMBER, TEXTS = re.compile(r"\(os error (\d+)\)"), {os.strerror(number): number for number in REASONS}
UNNAMED = re.compile("inline_container|iostream error|encoder error")  # PyTorch and Pillow, which give no cause
PROBE = bytes(1 << 20)  # written to find the cause of such errors


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that it was raised from or while handling, newest first."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        following = following.__cause__ or following.__context__


def number_of(error: BaseException) -> int | None:
    """The error number in REASONS that an exception reports, or None."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in REASONS else None
    if found := NUMBER.search(str(error)):
        return int(found[1]) if int(found[1]) in REASONS else None
    return next((number for text, number in TEXTS.items() if text in str(error)), None)


def failed_write(error: BaseException) -> OSError | None:
    """Return the failed write to a disk that an exception reports, whatever its class and text, or None."""
    for cause in causes(error):
        number = number_of(cause)
        if number is not None and (number in ONLY_FROM_WRITING or isinstance(cause, OSError)):
            return cause if isinstance(cause, OSError) and cause.errno else OSError(number, REASONS[number])
    return None


def describe(error: OSError) -> str:
    """A message of one line: the path, if known, and the reason; the system's own text if REASONS has none."""
    if error.errno not in REASONS or not error.strerror:
        return str(error)
    names = [os.fsdecode(error.filename)] if isinstance(error.filename, str | bytes | os.PathLike) else []
    return ": ".join([*names, reason_of(error)])


def reason_of(error: OSError) -> str:
    """The text in REASONS for a failure, unless its message has already been replaced by a more specific one."""
    return REASONS[error.errno] if error.strerror == os.strerror(error.errno) else error.strerror


@contextmanager
def naming(path: Path, draft: Path | None = None, needed: int | None = None) -> Iterator[None]:
    """Within the context, write errors name the file or folder that is written, the reason, and the disk space.

    Args:
        path: The file or folder that is written, as the message should name it.
        draft: The temporary file or folder that it is first written as.
        needed: The size of the file in bytes, if known.

    Raises:
        OSError: In place of any exception that reports a failure to write there; with errno and filename.
    """
    draft = draft or path
    try:
        yield
    except Exception as error:
        cause = failed_write(error) or probe(error, draft)
        cause = error if cause is None and isinstance(error, OSError) and error.filename else cause
        if cause is None or (named := final_name(cause, path, draft)) is None:
            raise
        reason = reason_of(cause) if cause.errno in REASONS else cause.strerror
        if cause.errno in FULL and " needed" not in reason:
            reason += space(draft, needed, cause.errno)
        raise OSError(cause.errno, reason, named) from error


def final_name(error: OSError, path: Path, draft: Path) -> str | None:
    """The path that a message should name: the final path of a draft, or None if the error is about another file."""
    names = [name for name in (error.filename2, error.filename) if name is not None]  # for a copy: target and source
    for name in (Path(os.fsdecode(name).removeprefix("file:")) for name in names):
        for parent in (draft, path):
            if name.is_relative_to(parent):
                return str(path / name.relative_to(parent))
        if draft.is_relative_to(name):  # a folder above it
            return str(path)
    return None if names and error.errno not in ONLY_FROM_WRITING else str(path)


def probe(error: BaseException, draft: Path) -> OSError | None:
    """Find the cause of an error that names none by writing more data; None if that works, or for other errors."""
    if not any(UNNAMED.search(str(cause)) for cause in causes(error)):
        return None
    try:
        with (draft / "probe" if draft.is_dir() else draft).open("ab", buffering=0) as file:
            if file.write(PROBE) < len(PROBE):
                return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except OSError as cause:
        return cause if cause.errno in REASONS else None
    return None


def space(draft: Path, needed: int | None, number: int) -> str:
    """The needed and the free space, for a message."""
    free = None
    with suppress(OSError):
        parent = next(path for path in draft.parents if path.exists())
        written = draft.stat().st_blocks * 512 if draft.is_file() else 0
        free = in_words(shutil.disk_usage(parent).free + written) if number == errno.ENOSPC else None
    if needed is None:
        return f": {free} were free, and more is needed" if free else ""
    return f": {in_words(needed)} are needed" + (f", {free} were free" if free else "")


def in_words(size: int) -> str:
    """A number of bytes in a suitable unit."""
    unit, name = next(((u, n) for u, n in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")) if size >= u), (1, "bytes"))
    return f"{size / unit:.1f} {name}" if unit > 1 else f"{size} {name}"
