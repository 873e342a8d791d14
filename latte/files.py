"""Files that are whole or absent, and JSON."""

import glob
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A hidden name beside `path` to write to: renamed to `path` if the block ends well, removed if it does not.

    Two processes may write one file: it is whole at any time, and in the end that of the later.
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
    """A hidden folder beside `path` to fill: takes its place if the block ends well, is removed if it does not.

    What was at `path` is gone then, all of it: whether it may be is the caller's to know. So is what killed processes
    left: one at a time writes a folder.
    """
    path = Path(path).resolve()
    for left in (left for what in ("part", "old") for left in path.parent.glob(f".{glob.escape(path.name)}.{what}*")):
        shutil.rmtree(left, ignore_errors=True)
    draft, old = (path.with_name(f".{path.name}.{what}{os.getpid()}") for what in ("part", "old"))
    draft.mkdir(parents=True)
    try:
        yield draft
        if path.exists():
            os.replace(path, old)
        os.replace(draft, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def walk_tree(folder: str | Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file and folder at any depth below a folder, also behind links, but not behind one to a folder above it.

    A folder that cannot be read is passed over, with a warning.
    """
    above = (*above, os.path.realpath(folder))
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        warnings.warn(f"{folder} cannot be read and is passed over: {error.strerror}", stacklevel=2)
        return
    for path in (Path(folder, name) for name in names):
        yield path
        if os.path.isdir(path) and os.path.realpath(path) not in above:
            yield from walk_tree(path, above)


def copy_files(source: Path, target: Path) -> None:
    """Copy what is in every file below a folder, and not who may read or write it, to below another."""
    for path in walk_tree(source):
        if path.is_file():
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def writable(folder: Path) -> bool:
    """Whether files can be written there, once it is made."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    return nearest.is_dir() and os.access(nearest, os.W_OK)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, values: dict) -> Path:
    """Write a JSON object, indented."""
    return write_text(path, json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> dict:
    """A JSON object; ValueError names the file that is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of thousands of digits; too deep
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return values


def one_line(message: object) -> str:
    """A message without line breaks, and without what a terminal would take for a command."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(message).split()))
