"""Kill a process just before one of its changes to the file system, and see what is left."""

import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forks import fork, status

KILLED = 137
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
CHANGES |= {"os.utime", "shutil.copyfile", "shutil.rmtree"}


def die_at_change(number: int, root: Path) -> list[int]:
    """From now on, count this process's changes to files in a folder, and exit before the one of this number."""
    seen, prefix = [0], os.fspath(root)

    def hook(event: str, arguments: tuple) -> None:
        changes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & 3)
        if not changes or not any(isinstance(a, str | Path) and os.fspath(a).startswith(prefix) for a in arguments):
            return
        seen[0] += 1
        if seen[0] == number:
            os._exit(KILLED)

    sys.addaudithook(hook)
    return seen


@dataclass
class Replacing:
    """A command that replaces what an earlier one wrote.

    Attributes:
        folder: Where all of it happens.
        first: Writes what is there before.
        command: Replaces it.
        target: What must be complete at any time, in `folder`.
    """

    folder: Path
    first: Callable[[], None]
    command: Callable[[], None]
    target: Path


def contents(path: Path) -> dict[str, str]:
    """sha256 of every visible file by its relative name; of a page, without how fast its videos were made."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    named = {str(file.relative_to(path)): file for file in files}
    shown = {name: file for name, file in named.items() if not any(part[0] == "." for part in Path(name).parts)}
    timeless = lambda file: re.sub(rb"<dt>speed</dt>.*", b"", file.read_bytes())
    return {name: hashlib.sha256(timeless(file)).hexdigest() for name, file in shown.items()}


def hidden(path: Path) -> list[Path]:
    """All files and folders in a folder that are hidden."""
    return [each for each in path.rglob(".*") if each.name != ".locks"]


def count_changes(case: Replacing, log: Path) -> int:
    """Run the command to its end in a child process; return how many changes it made to the file system."""
    counted = case.folder.parent / "counted"

    def work() -> None:
        seen = die_at_change(0, case.folder)
        case.command()
        counted.write_text(str(seen[0]))

    assert status(fork(work, log)) == 0, log.read_text()[-3000:]
    return int(counted.read_text())


def kill_at(case: Replacing, number: int, log: Path) -> None:
    """Run the command in a child process that dies before its n-th change."""

    def work() -> None:
        die_at_change(number, case.folder)
        case.command()

    assert status(fork(work, log)) == KILLED, log.read_text()[-3000:]
