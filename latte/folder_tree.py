"""Walking and copying a folder: everything inside it is visited in order, except what would block."""

import os
import shutil
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path


def walk_tree(folder: str | Path, parents: tuple[str, ...] = ()) -> Iterator[Path]:
    """Visit every file and folder inside a folder, at any depth, in sorted order.

    Links are followed, except those that lead back to a folder on the way here. A folder that cannot be read is
    skipped with a warning, and so is a pipe, a socket or a device, whose opening may block for ever.

    Args:
        folder: Where to start. It is not visited itself.
        parents: The resolved paths of the folders above, for the recursion.

    Yields:
        Paths that begin with `folder`.
    """
    parents = (*parents, os.path.realpath(folder))
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        warnings.warn(f"{folder} cannot be read and is skipped: {error.strerror}", stacklevel=2)
        return
    for path in (Path(folder, name) for name in names):
        mode = file_mode(path)
        if is_special(path, mode):
            warnings.warn(f"{path} is a pipe, a socket or a device and is skipped", stacklevel=2)
            continue
        yield path
        if stat.S_ISDIR(mode) and os.path.realpath(path) not in parents:
            yield from walk_tree(path, parents)


def file_mode(path: str | Path) -> int:
    """The st_mode of a path, following links; 0 for a broken link."""
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def is_special(path: str | Path, mode: int | None = None) -> bool:
    """Whether a path, following links, is neither a file nor a folder. A broken link is not special."""
    mode = file_mode(path) if mode is None else mode
    return bool(mode) and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def copy_files(source: Path, target: Path) -> None:
    """Copy the contents of every file in a tree into another, with default permissions."""
    for path in walk_tree(source):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
