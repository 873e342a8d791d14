"""Atomic writes, texts and JSON files, and the error for files of models that cannot be used."""

import errno
import glob
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from latte.disk_errors import naming
from latte.drafts import hidden_name, link_tree, move_into, must_stay, remove, remove_abandoned, take_place

MOST_JSON_BYTES = 1 << 26  # of a JSON file; the largest one of a model, its tokenizer, has a few million
MOST_LIST_BYTES = 1 << 32  # of a list of all files of a data set
MOST_MESSAGE = 1500  # characters of an error message, which may quote a file
DAMAGED = "damaged-"  # prefix of the name that `set_aside` gives
LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # start of the text that git stores in place of a file


@contextmanager
def replacing(path: str | Path, needed: int | None = None, alone: bool = False) -> Iterator[Path]:
    """Write a file atomically: readers see the old file or the complete new one.

    If the block succeeds, the draft is renamed to `path`; if it fails, the draft is removed. Two processes may write
    the same file; the one that finishes last wins.

    Args:
        path: The file to write. Its folder is created.
        needed: Its size in bytes, if known, for the message about a full disk.
        alone: Put the draft into a hidden folder of its own, for writers that put temporary files beside it.

    Yields:
        A hidden name in the same folder, with the same suffix, for the draft.

    Raises:
        OSError: The file cannot be written; the message names it, whatever class the writer's error has.
    """
    path = Path(path)
    hidden = path.with_name(hidden_name(path.stem, suffix=path.suffix))
    draft = hidden / path.name if alone else hidden
    try:
        with naming(path, draft, needed):
            draft.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned_once(path.parent)
            yield draft
            os.replace(draft, path)
    finally:
        remove(hidden)


@contextmanager
def replacing_folder(path: str | Path, keep: bool = False, into: bool = False) -> Iterator[Path]:
    """Write a folder through a draft that takes its place only if the block succeeds.

    The old folder is complete at `path` until the new one is, also if this process is killed: the two exchange their
    names in one step, where the file system can (`latte.drafts.take_place`). A folder that cannot be renamed, such as a
    mount or the working directory, gets its new contents one by one at the end.

    Args:
        path: The folder to write.
        keep: Start with all files of the existing folder, as hard links, so that a writer can replace some and remove
            others. Otherwise, all files are replaced except those whose names begin with a dot; the caller must check
            that this is acceptable.
        into: Keep everything in the existing folder except what has a new version, for a folder that also holds other
            things. If the process is killed at the end, some files may be in their old and some in their new version.

    Yields:
        A hidden folder for the draft.

    Raises:
        OSError: The folder cannot be written; the message names it.
    """
    path = Path(path).resolve()
    stays, there = into or must_stay(path), path.is_dir()
    parent = path if stays and there else path.parent
    draft = parent / hidden_name(path.name)
    try:
        with naming(path, draft):
            if os.path.lexists(path) and not there:
                reason = "a file lies where a folder is to be written; choose another name"
                raise NotADirectoryError(errno.ENOTDIR, reason, str(path))
            if there and not os.access(path, os.W_OK):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(parent)
            for leftover in parent.glob(f".{glob.escape(path.name)}.*"):
                if EARLIER_FORM.fullmatch(leftover.name.removeprefix(f".{path.name}")):
                    remove(leftover)
            if there and not into:
                link_tree(path, draft, only_hidden=not keep)
            else:
                draft.mkdir()
            yield draft
            if stays and there:
                move_into(draft, path, prune=not into)
            else:
                take_place(draft, path)
    finally:
        remove(draft)


EARLIER_FORM = re.compile(r"\.(part|old)\d+")  # end of the names of drafts in version 0.1.0, which had one writer
SEEN: set[Path] = set()  # folders that have been cleared of drafts, since listing a large one takes time


def remove_abandoned_once(folder: Path) -> None:
    """Remove the drafts of killed processes from a folder, the first time that something is written there."""
    folder = folder.absolute()
    if folder not in SEEN:
        SEEN.add(folder)
        remove_abandoned(folder)


def set_aside(path: str | Path) -> Path:
    """Rename something that is damaged or in the way to damaged-NAME, and return that path."""
    path = Path(path)
    aside = path.with_name(f"{DAMAGED}{path.name}")
    remove(aside)
    os.replace(path, aside)
    return aside


def read_utf8(path: Path) -> str:
    """Read a text in UTF-8, without the byte order mark that some editors write.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is in another encoding, or a Git LFS pointer.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, but a text file is needed")
    refuse_pointer(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 and UTF-32 put zero bytes next to ASCII letters
        raise ValueError(f"{path} is not a text in UTF-8; save it as one")
    return text


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text that are not empty, without the space around them. Raises as `read_utf8`.

    Only carriage returns and newlines end a line, not the other line separators of Unicode, as in text from web pages.
    """
    return [line.strip() for line in re.split(r"[\r\n]", read_utf8(path)) if line.strip()]


@contextmanager
def utf8_path(path: Path) -> Iterator[Path]:
    """A path of the same file for libraries that take only names in UTF-8, such as safetensors when it reads."""
    try:
        str(path).encode()
        handle = None
    except UnicodeEncodeError:
        handle = os.open(path, os.O_RDONLY)
    try:
        yield path if handle is None else Path(f"/dev/fd/{handle}")
    finally:
        if handle is not None:
            os.close(handle)


def writable(folder: Path) -> bool:
    """Whether files can be written in a folder, which may not exist yet; then a hidden one is created and removed."""
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        return False
    if nearest == folder:
        return True
    probe = nearest / hidden_name(folder.name)
    try:
        (probe / folder.relative_to(nearest)).mkdir(parents=True)
    except OSError:  # as in /proc, or if a name is too long
        return False
    finally:
        remove(probe)
    return True


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 text file atomically, and return its path."""
    content = text.encode()
    with replacing(path, len(content)) as draft:
        draft.write_bytes(content)
    return Path(path)


def write_json(path: str | Path, values: dict[str, Any]) -> Path:
    """Write a JSON object atomically, indented by two spaces, and return its path."""
    return write_text(path, json.dumps(values, indent=2) + "\n")


def refuse_pointer(path: Path) -> None:
    """Raise CheckpointError if a file is only a Git LFS pointer, because its content was not fetched.

    Args:
        path: A file. One that does not exist or cannot be read passes; the code that reads it reports that.
    """
    if not os.path.isfile(path):  # opening a pipe would wait for its writer
        return
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError:
        return
    if start == LFS_POINTER:
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself: fetch the file with `git lfs pull`, in the "
            "folder that git cloned, or download it"
        )


def read_json(path: Path, most_bytes: int = MOST_JSON_BYTES) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        most_bytes: A larger file is refused, since the objects in it can take twenty times its size in memory.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is a Git LFS pointer.
        ValueError: If it cannot be read, or is not valid JSON in UTF-8, or not an object.
    """
    refuse_pointer(path)
    try:
        if (size := path.stat().st_size) > most_bytes:
            raise ValueError(f"it has {size} bytes; more than {most_bytes} are not read")
        values = json.loads(path.read_text(encoding="utf-8-sig"))  # without the byte order mark that some editors write
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # ValueError also covers bad UTF-8 and integers that are too long
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not hold a JSON object; found {type(values).__name__}")
    return values


def one_line(message: object) -> str:
    """A message on one line, without control characters, which a terminal would obey; the middle of a long one is cut.

    A byte of a file name that is not UTF-8, which Python keeps as a surrogate, is written as in `caf\\xe9`.
    """
    text = str(message)
    if len(text) > MOST_MESSAGE:
        text = f"{text[: 2 * MOST_MESSAGE // 3]} [...] {text[-MOST_MESSAGE // 3 :]}"
    shown = lambda c: f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else "?"
    return "".join(c if c.isprintable() else shown(c) for c in " ".join(text.split()))


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or does not fit. The message is one line: the file, the problem, the remedy."""

    def __init__(self, message: object):
        super().__init__(one_line(message))  # the message may quote names from an untrusted file


@contextmanager
def prefix_errors(path: str | Path) -> Iterator[None]:
    """Turn the errors that reading bad content raises into a CheckpointError whose message starts with `path`.

    Args:
        path: The file being read, or the setting that names it.

    Raises:
        CheckpointError: In place of a ValueError from the block, or of another error that values of the wrong type or
            size cause.
    """
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(f"{path} holds values that cannot be used: {type(error).__name__}: {error}") from error
