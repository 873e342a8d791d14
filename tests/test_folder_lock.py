"""The lock on a folder: who gets it, who holds it, and when it is released."""

import fcntl
import json
import os
import signal
import socket
import time

import pytest
from forks import fork, status

from latte import files, folder_lock
from latte.folder_lock import exclusive, this_machine


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT", 0.05)
    monkeypatch.setattr(folder_lock, "WATCH", 0.6)


def hold(folder, log):
    """Start a process that holds the folder's lock until it is killed, and return its id."""

    def work():
        with exclusive(folder):
            (folder / "held").touch()
            time.sleep(60)

    pid = fork(work, log)
    while not (folder / "held").exists():
        time.sleep(0.01)
    return pid


def left_by(folder, machine, pid=7):
    """A lock file left behind by a process of some machine."""
    record = {"host": "there", "machine": machine, "pid": pid, "since": "2026-01-01 00:00:00"}
    folder.mkdir(exist_ok=True)
    (folder / ".lock").write_text(json.dumps(record))


def test_a_second_process_learns_the_holder_and_touches_nothing(tmp_path):
    pid = hold(tmp_path / "run", tmp_path / "log")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir()}
    with (
        pytest.raises(ValueError, match=rf"run is in use by process {pid} on {socket.gethostname()}, started .* at 20"),
        exclusive(tmp_path / "run"),
    ):
        pass
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "run").iterdir()} == before
    os.kill(pid, signal.SIGKILL)
    assert status(pid) == -signal.SIGKILL
    start = time.monotonic()
    with exclusive(tmp_path / "run"):
        assert time.monotonic() - start < 1
    assert not (tmp_path / "run/.lock").exists()


def test_one_process_cannot_hold_it_twice(tmp_path):
    with exclusive(tmp_path / "run"):
        for same in (tmp_path / "run", tmp_path / "x/../run"):
            (tmp_path / "x").mkdir(exist_ok=True)
            with pytest.raises(ValueError, match="this process writes it already"), exclusive(same):
                pass
        pid = fork(lambda: exclusive(tmp_path / "run").__enter__(), tmp_path / "log")
        assert status(pid) == 1 and f"in use by process {os.getpid()}" in (tmp_path / "log").read_text()


def test_a_forked_child_neither_holds_nor_releases_the_lock(tmp_path):
    """Like the workers of a DataLoader, which may briefly outlive a killed process."""

    def parent():
        with exclusive(tmp_path / "run"):
            if os.fork():
                (tmp_path / "run/held").touch()
                time.sleep(60)
            else:
                time.sleep(0.3)  # and leaves the block
        (tmp_path / "child-ended").touch()
        time.sleep(5)

    pid = fork(parent, tmp_path / "log")
    while not (tmp_path / "child-ended").exists():
        time.sleep(0.01)
    with pytest.raises(ValueError, match=f"process {pid}"), exclusive(tmp_path / "run"):
        pass
    os.kill(pid, signal.SIGKILL)
    status(pid)
    with exclusive(tmp_path / "run"):
        pass


def test_an_empty_folder_is_not_left_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "a/b"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with exclusive(tmp_path / "a/b"):
        (tmp_path / "a/c").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c"]


def test_a_stale_lock_of_this_machine_is_taken_over_at_once(tmp_path, recwarn):
    left_by(tmp_path, this_machine(), os.getpid())
    with exclusive(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not recwarn


@pytest.mark.parametrize("locks", [True, False])
def test_a_lock_of_another_machine_is_watched_for_signs_of_life(locks, tmp_path, fast, monkeypatch):
    """As on a network file system that does not carry locks to other machines, or has none."""

    def no_locks(*_):
        raise OSError("no locks available")

    if not locks:
        monkeypatch.setattr(fcntl, "lockf", no_locks)
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.2)))
    left_by(tmp_path, "another")
    with pytest.warns(UserWarning, match="see whether process 7 on there still writes it"), exclusive(tmp_path):
        pass
    left_by(tmp_path, "another")
    os.utime(tmp_path / ".lock", (1e9, 1e9))  # long ago, so there is no need to watch
    with exclusive(tmp_path):
        pass
    pid = hold(tmp_path, tmp_path / "log")
    monkeypatch.setattr(folder_lock, "this_machine", lambda: "yet another")
    if locks:
        monkeypatch.setattr(fcntl, "lockf", lambda *_: None)
    else:
        monkeypatch.setattr(folder_lock, "LONG_AGO", 60.0)
    said = r"if that process no longer exists, delete .*/\.lock"
    with pytest.warns(UserWarning, match="still writes it"), pytest.raises(ValueError, match=said), exclusive(tmp_path):
        pass
    os.kill(pid, signal.SIGKILL)
    status(pid)


@pytest.mark.parametrize("junk", [b"", b"\0\xff" * 999, b"[" * 9999, b"[1]"])
def test_an_invalid_lock_file_blocks_nobody(junk, tmp_path, fast):
    (tmp_path / ".lock").write_bytes(junk)
    with exclusive(tmp_path):
        pass


def test_a_lock_path_that_is_not_a_file_is_renamed(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    for _ in range(2):  # also if one was renamed before
        (tmp_path / "a/.lock/x").mkdir(parents=True)
        (tmp_path / "b/.lock").symlink_to(tmp_path / "nowhere/x")
        os.mkfifo(tmp_path / "c/.lock")
        for name in "abc":
            with (
                pytest.warns(UserWarning, match=r"\.lock is not a file; renamed to damaged-\.lock"),
                exclusive(tmp_path / name),
            ):
                assert os.path.lexists(tmp_path / name / "damaged-.lock")


@pytest.mark.parametrize("replaced", [True, False])
def test_a_file_in_place_of_the_folder_is_rejected(replaced, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    with (
        pytest.raises(ValueError, match="file is a file, not a folder"),
        exclusive(tmp_path / "file", replaced),
    ):
        pass
    if not replaced:  # a folder written as a whole appears where the link points
        with pytest.raises(ValueError, match="is a link to nowhere, where no folder is"), exclusive(tmp_path / "link"):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize(("number", "say"), [(2, "out: no f(older|ile) can be "), (13, "Permission denied")])
def test_an_error_names_the_folder_and_not_its_lock(number, say, replaced, tmp_path, monkeypatch):
    def refuse(folder, path):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(folder_lock, "take", refuse)
    with pytest.raises(OSError, match=say) as caught, exclusive(tmp_path / "out", replaced):
        pass
    assert str(tmp_path / "out") in str(caught.value) and ".lock" not in str(caught.value)


def no_links(*_, **__):
    raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("parent_writable", [True, False])
def test_a_folder_being_replaced_stays_locked(parent_writable, tmp_path, monkeypatch):
    """The lock lies beside the folder, or in it if nothing can be written beside it; also without hard links."""
    monkeypatch.setattr(os, "link", no_links)
    if not parent_writable:
        monkeypatch.setattr(folder_lock, "writable", lambda _: False)
        monkeypatch.setattr(files, "must_stay", lambda _: True)
    out = tmp_path / ("n" * 250)
    out.mkdir()
    (out / "old").touch()
    (out / ".git").touch()
    (tmp_path / "link").symlink_to(out)

    def second():
        with exclusive(tmp_path / "link", replaced=True):
            pass

    with exclusive(out, replaced=True):
        for _ in range(2):
            with files.replacing_folder(out) as draft:
                (draft / "new").touch()
            assert status(fork(second, tmp_path / "log")) == 1
    assert sorted(path.name for path in out.iterdir()) == [".git", "new"]
    assert (tmp_path / "log").read_text().count(f"in use by process {os.getpid()}") == 2
    (tmp_path / "log").unlink()
    second()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", out.name]
