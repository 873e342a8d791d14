"""A lock on a folder: one process at a time may write it. The lock ends with its process, however that ends.

The lock is a POSIX lock on a hidden file. The system releases it when the process ends, also when it is killed. Forked
children, such as the workers of a DataLoader, do not inherit it, which they would with flock(2). NFS carries it to
other machines. Some network file systems do not, or have no locks at all. For these the file says who holds it, and its
modification time moves while that process lives: a process on another machine watches it for a while before it takes
the lock over.
"""

import fcntl
import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from latte.disk_errors import REASONS
from latte.drafts import LOCK_FILE, shortened
from latte.files import set_aside, writable

BEAT = 10.0  # seconds between the holder's signs of life
WATCH = 90.0  # seconds without one after which a holder counts as gone; NFS may show a change 60 seconds late
LONG_AGO = 3600.0  # a last sign that is older, in seconds, needs no watching, even if clocks differ by minutes
MOST_BYTES = 4096  # of a record

# lock files that this process holds, and its id: a POSIX lock does not exclude the process that has it
HELD: dict[str, int] = {}


@contextmanager
def exclusive(folder: str | Path, replaced: bool = False) -> Iterator[None]:
    """Keep other processes from writing a folder during the block. Reading is not affected.

    Args:
        folder: The folder. It is created if the lock lies in it, and removed again if the block leaves it empty.
        replaced: Whether the block may put another folder in its place: then the lock lies beside it.

    Raises:
        OSError: The lock file cannot be created; the message names the folder.
        ValueError: Another process writes the folder, and the message says which; or there is a file in its place, or a
            link to nowhere. Nothing was changed.
    """
    path = lock_path(Path(folder), replaced)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ValueError(f"{folder} is a file, not a folder: choose another name")
    if os.path.islink(folder) and path.parent == Path(folder) and not os.path.exists(folder):
        raise ValueError(f"{folder} is a link to {os.readlink(folder)}, where no folder is: choose another name")
    name, process = os.path.realpath(path), os.getpid()
    if HELD.get(name) == process:
        raise ValueError(f"{folder} is in use: this process writes it already")
    created = [parent for parent in path.parents if not os.path.lexists(parent)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not path.is_file():  # a folder, or a link to nowhere
            warnings.warn(f"{path} is not a file; renamed to {set_aside(path).name}", stacklevel=3)
        handle = take(Path(folder), path)
    except OSError as error:  # it names the lock file, which the user has not heard of
        if error.errno in REASONS:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        what = "no file can be written in it" if os.path.isdir(folder) else "no folder can be created there"
        raise OSError(f"{folder}: {what} ({error.strerror}); choose another place") from error
    HELD[name] = process
    ended = threading.Event()
    beats = threading.Thread(target=keep_alive, args=(handle, ended), daemon=True)
    beats.start()
    try:
        yield
    finally:
        if os.getpid() == process:  # a forked child does not hold it
            ended.set()
            beats.join()
            del HELD[name]
            if is_at(handle, path):
                path.unlink()
            os.close(handle)
            for parent in created:
                with suppress(OSError):
                    parent.rmdir()


def lock_path(folder: Path, replaced: bool) -> Path:
    """Where the lock of a folder lies: in it, or beside it if it will be replaced and files can be written there."""
    target = folder.resolve()
    if replaced and writable(target.parent):
        return target.with_name(f".{shortened(target.name)}{LOCK_FILE}")
    return folder / LOCK_FILE


def take(folder: Path, path: Path) -> int:
    """Open and lock the lock file, and record the holder in it. Returns its handle."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            locks = lock_file(handle)
            holder = read_record(handle)
            if locks is None or is_alive(folder, path, holder, locks):
                raise ValueError(in_use(folder, path, holder))
            if is_at(handle, path) and write_record(handle, settle=not locks):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed it meanwhile, or another process took it


def lock_file(handle: int) -> bool | None:
    """Lock an open file. True: done. None: another process has locked it. False: this file system has no locks."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if isinstance(error, BlockingIOError | PermissionError) else False  # POSIX allows either
    return True


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False


def this_machine() -> str:
    """An identifier of this machine until its next boot: processes of one machine see each other's locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def write_record(handle: int, settle: bool) -> bool:
    """Record the holder of the lock. With `settle`, wait a moment, and return whether no other process did so too."""
    record = {"host": socket.gethostname(), "machine": this_machine(), "pid": os.getpid()}
    record["since"] = time.strftime("%Y-%m-%d %H:%M:%S")
    with suppress(OSError):  # a full disk must not stop a run: the lock holds without the record
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(record).encode(), 0)
    if settle:
        time.sleep(1)
    return not settle or read_record(handle) in ({}, record)


def read_record(handle: int) -> dict[str, Any]:
    """Read the record of the holder; empty if it is not known."""
    try:
        record = json.loads(os.pread(handle, MOST_BYTES, 0))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def is_alive(folder: Path, path: Path, holder: dict[str, Any], locks: bool) -> bool:
    """Whether the process that is recorded in a lock file is still alive.

    Args:
        folder: The folder, for the message.
        path: The lock file.
        holder: The record in it.
        locks: Whether this process could lock the file.
    """
    if not holder or (locks and holder.get("machine") == this_machine()):
        return False  # the system would have refused the lock
    try:
        before = os.stat(path).st_mtime_ns
        if abs(time.time() - before / 1e9) > LONG_AGO:
            return False
        who = f"process {holder.get('pid')} on {holder.get('host')}"
        warnings.warn(f"{folder}: waiting {WATCH:g} seconds to see whether {who} still writes it", stacklevel=4)
        deadline = time.monotonic() + WATCH
        while time.monotonic() < deadline:
            time.sleep(min(1.0, WATCH / 10))
            if os.stat(path).st_mtime_ns != before:
                return True
    except OSError:
        pass  # it removed the file: it has ended
    return False


def in_use(folder: Path, path: Path, holder: dict[str, Any]) -> str:
    """Say who writes the folder, and what to do."""
    who = f"process {holder.get('pid')} on {holder.get('host')}, started writing at {holder.get('since')}"
    said = f"{folder} is in use by {who if holder else 'another process'}: wait until it ends, or choose another folder"
    elsewhere = holder and holder.get("machine") != this_machine()
    return said + (f"; if that process no longer exists, delete {path}" if elsewhere else "")


def keep_alive(handle: int, ended: threading.Event) -> None:
    """Give signs of life until the lock is released."""
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(handle)
