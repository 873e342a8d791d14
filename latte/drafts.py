"""Drafts: hidden files and folders that are written first and then take the place of what they replace.

A draft's name says who writes it: .NAME.part123-4f2a9c1d-88123.SUFFIX belongs to process 123 on machine 4f2a9c1d, which
started at tick 88123. So the drafts of killed processes can be told apart from those of running ones, and are removed.
"""

import ctypes
import errno
import hashlib
import os
import re
import shutil
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

HIDDEN = re.compile(r"\.(.+)\.(part|old)(\d+)-([0-9a-f]{8})-(\d+)(\.[^.]*)?")
LOCK_FILE = ".lock"  # in a folder that a process writes (latte.folder_lock); never part of what is replaced
LONGEST_NAME = 200  # bytes; file systems allow 255, and a draft's name needs some more
ABANDONED_SECONDS = 24 * 3600  # after which the draft of another machine, not changed since, counts as abandoned
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2
MANY_FILES = 1000  # to flush one by one
DESCRIBES = (".json", ".html")  # files that describe those beside them


@cache
def machine() -> str:
    """Eight digits for this machine; in a container, for the container, since process ids are only valid there."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def start_of(pid: int) -> int:
    """When a process of this machine started, in clock ticks: process ids are reused. 0 if that cannot be known.

    Raises:
        ProcessLookupError: There is no such process.
    """
    with suppress(PermissionError):  # another user's process
        os.kill(pid, 0)
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):  # not on Linux, or hidden from this user
        return 0


def hidden_name(name: str, kind: str = "part", suffix: str = "") -> str:
    """The name of this process's draft ("part") of a file or folder, or of what it moves out of the way ("old")."""
    pid = os.getpid()
    return f".{shortened(name)}.{kind}{pid}-{machine()}-{start_of(pid)}{suffix}"


def shortened(name: str) -> str:
    """A name that is short enough to be extended; a very long one is replaced by its digest."""
    return name if len(os.fsencode(name)) <= LONGEST_NAME else hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def is_abandoned(path: Path, pid: int, place: str, start: int) -> bool:
    """Whether the process that was writing a draft is dead, as far as that can be known."""
    if place != machine():
        return time.time() - last_change(path) > ABANDONED_SECONDS
    try:
        return start_of(pid) not in (start, 0)
    except (ProcessLookupError, OverflowError):
        return True


def last_change(path: Path) -> float:
    """When a file, or anything in a folder, last changed."""
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in (".", *names))
    return max(os.lstat(each).st_mtime for each in (path, *inside))


def remove_abandoned(folder: Path) -> None:
    """Remove the drafts that killed processes left in a folder.

    A folder that one of them had moved out of the way, without putting another in its place, is put back.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            path, found = folder / name, HIDDEN.fullmatch(name)
            with suppress(OSError):
                if found and is_abandoned(path, int(found[3]), found[4], int(found[5])):
                    replaced = folder / found[1]
                    if found[2] == "old" and not os.path.lexists(replaced):
                        os.replace(path, replaced)
                    else:
                        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def link_tree(source: Path, target: Path, only_hidden: bool = False, follow: bool = False) -> None:
    """Make a folder with the files of another, without drafts, as hard links where the file system has them.

    Args:
        source: A folder.
        target: The folder to make.
        only_hidden: Take only what is hidden in `source` itself, such as .git.
        follow: Take the targets of symbolic links in place of the links, which may be relative to their folder.
    """

    def unwanted(folder: str, names: list[str]) -> set[str]:
        visible = {name for name in names if name[0] != "."} if only_hidden and Path(folder) == source else set()
        broken = {name for name in names if follow and not os.path.exists(os.path.join(folder, name))}
        return visible | broken | {name for name in names if HIDDEN.fullmatch(name) or name == LOCK_FILE}

    shutil.copytree(source, target, symlinks=not follow, ignore=unwanted, copy_function=link)


def own_folder(folder: Path) -> Path:
    """Make a folder in a draft, if there is none. A link becomes a folder of the same files: its target stays as it is.

    Returns:
        The folder.
    """
    if folder.is_symlink():
        target = folder.resolve()
        folder.unlink()
        if target.is_dir():
            link_tree(target, folder, follow=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def link(source: str, target: str) -> None:
    """Give a file a second name, or copy it where that is not possible."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def must_stay(folder: Path) -> bool:
    """Whether a folder must not be renamed: a mount, in a read-only folder, or around the working directory."""
    try:
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()]
    except (OSError, IndexError):
        mounts = []
    with suppress(OSError):
        if Path.cwd().is_relative_to(folder):
            return True
    escaped = str(folder).replace(" ", r"\040")
    return folder.is_dir() and (
        os.path.ismount(folder) or escaped in mounts or not os.access(folder.parent, os.W_OK | os.X_OK)
    )


def take_place(draft: Path, path: Path) -> None:
    """Put a finished folder in the place of another; the old one, if there was one, then has the draft's name.

    Where the file system can exchange two names, as on Linux, there is a complete folder at `path` at all times.
    Elsewhere, such as on NFS, there is none between two renames; `remove_abandoned` puts the old one back if a process
    is killed just then.
    """
    if not os.path.lexists(path):
        os.replace(draft, path)
        return
    flush(draft)  # before the old one is removed
    if exchange(draft, path):
        return
    old = path.with_name(hidden_name(path.name, "old"))
    os.replace(path, old)
    try:
        os.replace(draft, path)
    except BaseException:
        os.replace(old, path)
        raise
    os.replace(old, draft)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step, if this system and file system can."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return renameat2 is not None and not renameat2(
        AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE
    )


def flush(folder: Path) -> None:
    """Flush a folder and everything in it to disk; the whole file system at once if there are many files."""
    files = [Path(inside, name) for inside, _, names in os.walk(folder) for name in (".", *names)]
    if len(files) > MANY_FILES and flush_file_system(folder):
        return
    for path in files:
        if not path.is_symlink():
            flush_entries(path)


def flush_entries(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_file_system(folder: Path) -> bool:
    """Flush the file system of a folder to disk. Returns whether this system can do that for one of them."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    handle = os.open(folder, os.O_RDONLY)
    try:
        failed = syncfs is None or syncfs(handle)
        if failed and syncfs is not None and ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(handle)
    return not failed


def discard(path: Path) -> None:
    """Remove a folder or a file. If the process is killed meanwhile, no part of it is left under its name."""
    hidden = path.with_name(hidden_name(path.name))
    os.replace(path, hidden)
    remove(hidden)


def move_into(draft: Path, folder: Path, prune: bool) -> None:
    """Move the contents of a finished folder into another, one by one; files that describe the others come last.

    Args:
        draft: The finished folder.
        folder: Where to move everything, over what is there.
        prune: Then remove what is in `folder` and was not in `draft`.
    """
    there = os.listdir(folder)
    last = lambda path: (not path.is_dir(), path.suffix in DESCRIBES, path.name)
    moved = sorted(draft.iterdir(), key=last)
    for path in moved:
        target = folder / path.name
        folders = [each.is_dir() and not each.is_symlink() for each in (path, target)]
        if all(folders):
            move_into(path, target, prune)
            continue
        if any(folders):  # which cannot take the place of a file or a link, nor the other way round
            remove(target)
        os.replace(path, target)
    for name in set(there) - {path.name for path in moved} if prune else ():
        if not HIDDEN.fullmatch(name) and name != LOCK_FILE:
            remove(folder / name)
