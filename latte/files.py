"""Atomic writes, JSON files and folder trees, and the error for files of models that cannot be used."""

import glob
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # how the text begins that git stores in a file's place


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: readers see the old file or the complete new one.

    If the block succeeds, the draft is renamed to `path`; if it fails, the draft is removed. Two processes may write
    the same file; the one that finishes last wins.

    Args:
        path: The file to write. Its folder is created.

    Yields:
        A hidden name in the same folder, with the same suffix, for the draft.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.part{os.getpid()}{path.suffix}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder through a draft that replaces it only if the block succeeds.

    An existing folder is deleted with all that it holds: the caller decides whether it may be. Only one process may
    write the folder at a time, because drafts that killed processes left behind are deleted as well.

    Args:
        path: The folder to write.

    Yields:
        An empty, hidden folder beside `path` for the draft.
    """
    path = Path(path).resolve()
    for kind in ("part", "old"):
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.{kind}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    draft, old = (path.with_name(f".{path.name}.{kind}{os.getpid()}") for kind in ("part", "old"))
    draft.mkdir(parents=True)
    try:
        yield draft
        if path.exists():
            os.replace(path, old)
        os.replace(draft, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def walk_tree(folder: str | Path, parents: tuple[str, ...] = ()) -> Iterator[Path]:
    """Visit every file and folder inside a folder, at any depth, in sorted order.

    Links are followed, except those that lead back to a folder on the way here. A folder that cannot be read is
    skipped with a warning.

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
        yield path
        if os.path.isdir(path) and os.path.realpath(path) not in parents:
            yield from walk_tree(path, parents)


def copy_files(source: Path, target: Path) -> None:
    """Copy the contents of every file in a tree into another, with default permissions."""
    for path in walk_tree(source):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def writable(folder: Path) -> bool:
    """Whether files can be written in a folder, which may not exist yet."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    return nearest.is_dir() and os.access(nearest, os.W_OK)


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file atomically, and return its path."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, values: dict[str, Any]) -> Path:
    """Write a JSON object atomically, indented by two spaces, and return its path."""
    return write_text(path, json.dumps(values, indent=2) + "\n")


def refuse_pointer(path: Path) -> None:
    """Raise CheckpointError if there is only a pointer of Git LFS in the place of a file: its content was not fetched.

    Args:
        path: A file. One that does not exist or cannot be read is left to whoever reads it.
    """
    if not path.is_file():  # opening a pipe would wait for its writer
        return
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError:
        return
    if start == LFS_POINTER:
        raise CheckpointError(
            f"{path} is a pointer of Git LFS, in the place of the file: fetch the file with `git lfs pull`, in the "
            "folder that git cloned, or download it"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OSError: If the file cannot be read.
        CheckpointError: If it is a pointer of Git LFS.
        ValueError: If it is not valid JSON in UTF-8, or not an object.
    """
    refuse_pointer(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError also covers bad UTF-8 and integers that are too long
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not hold a JSON object; found {type(values).__name__}")
    return values


def one_line(message: object) -> str:
    """A message on one line, without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(message).split()))


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or does not fit. The message is one line: the file, the problem, the remedy."""

    def __init__(self, message: object):
        super().__init__(one_line(message))  # the message may quote names from an untrusted file
