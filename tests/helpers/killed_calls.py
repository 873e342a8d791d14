"""Kills a process just before one of its changes to the file system, and inspects what is left."""

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
    """From now on, count this process's changes to files in a folder, and exit just before change `number`."""
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
        first: Writes the initial state.
        command: Replaces it.
        target: What must be complete at all times, in `folder`.
    """

    folder: Path
    first: Callable[[], None]
    command: Callable[[], None]
    target: Path


def contents(path: Path) -> dict[str, str]:
    """The sha256 of every visible file by relative name; a page is hashed without its speed entry."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    named = {str(file.relative_to(path)): file for file in files}
    shown = {name: file for name, file in named.items() if not any(part[0] == "." for part in Path(name).parts)}
    timeless = lambda file: re.sub(rb"<dt>speed</dt>.*", b"", file.read_bytes())
    return {name: hashlib.sha256(timeless(file)).hexdigest() for name, file in shown.items()}


def hidden(path: Path) -> list[Path]:
    """All hidden files and folders in a folder."""
    return [each for each in path.rglob(".*") if each.name != ".locks"]


def count_changes(case: Replacing, log: Path) -> int:
    """Run the command to completion in a child process, and return its number of changes to the file system."""
    counted = case.folder.parent / "counted"

    def work() -> None:
        seen = die_at_change(0, case.folder)
        case.command()
        counted.write_text(str(seen[0]))

    assert status(fork(work, log)) == 0, log.read_text()[-3000:]
    return int(counted.read_text())


def kill_at(case: Replacing, number: int, log: Path) -> None:
    """Run the command in a child process that dies just before change `number`."""

    def work() -> None:
        die_at_change(number, case.folder)
        case.command()

    assert status(fork(work, log)) == KILLED, log.read_text()[-3000:]
