"""The sha256 of videos, remembered between runs as long as their files are not modified.

A file that keeps its size, its times and its inode keeps its digest, so that a run resumes without reading all data
again. The digests of a folder are in one file below ~/.cache/latte (or $XDG_CACHE_HOME); deleting it is harmless.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from latte.files import MOST_LIST_BYTES, read_json, write_json
from latte.progress import Progress
from latte.video.frame_folders import list_pictures
from latte.weights.manifest import digest, settled

T = TypeVar("T")


def cache_file(root: Path) -> Path:
    """The file that remembers the digests of the files in a folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return cache / "latte/digests" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.json"


class ContentDigests:
    """The digests of files and of folders of pictures; a context manager that stores them on exit.

    Args:
        root: The folder that contains them.
    """

    def __init__(self, root: Path):
        self.root, self.file = root, cache_file(root)
        self.now: dict[str, list[str]] = {}  # path below root -> its version and its digest

    def __enter__(self) -> "ContentDigests":
        self.before = {}
        with suppress(OSError, ValueError):
            self.before = read_json(self.file, MOST_LIST_BYTES)
        return self

    def __exit__(self, *_: object) -> None:
        if self.now:
            with suppress(OSError):
                write_json(self.file, self.before | self.now)

    def of(self, path: Path) -> str:
        """Return the sha256 of a file, or of the names and the contents of the pictures in a folder.

        Raises:
            OSError: It cannot be read.
        """
        files = list_pictures(path) if path.is_dir() else [path]
        name, version = str(path.relative_to(self.root)), version_of(files)
        known = self.before.get(name)
        if isinstance(known, list) and known[:1] == [version] and all(isinstance(part, str) for part in known):
            return known[1]
        if path.is_dir():
            parts = [[file.name, digest(file)] for file in files]
            found = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        else:
            found = digest(path)
        if version == version_of(files) and settled(*files):
            self.now[name] = [version, found]
        return found


def progress(items: Collection[T]) -> Iterable[T]:
    """The items to hash, with a progress bar."""
    return Progress(items, desc="verifying", unit="file", leave=False)


def version_of(files: list[Path]) -> str:
    """A string that changes if one of the files is modified or replaced."""
    about = [[file.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for file in files if (s := file.stat())]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
