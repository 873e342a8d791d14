"""Video sets by several processes: the same bytes with any number of them, killed or not."""

import errno
import os
import random
import signal
import time

import pytest
import torch
from awake_models import digests
from forks import fork, kill_workers, status
from sample_sets import make

from latte import sample_many as many
from latte.video.find import list_videos


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_writes_the_same_bytes(classes, complete_set, size, tmp_path):
    log, work = tmp_path / "log", lambda rank: lambda: make(classes, tmp_path / "set", rank=rank, world_size=size)
    ends = [status(pid) for pid in [fork(work(rank), log) for rank in range(size)]]
    assert ends == [0] * size, log.read_text()[-3000:]
    assert digests(tmp_path / "set") == digests(complete_set)


def test_videos_are_computed_in_one_thread(classes, tmp_path, monkeypatch):
    """More threads round differently, and torchrun sets their number."""
    calls, seen, before = type(classes).__call__, [], torch.get_num_threads()

    def watched(self, *args, **options):
        seen.append(torch.get_num_threads())
        return calls(self, *args, **options)

    monkeypatch.setattr(type(classes), "__call__", watched)
    torch.set_num_threads(3)
    try:
        make(classes, tmp_path / "set", 1)
        assert seen == [1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_no_unit_is_made_twice(classes, tmp_path, monkeypatch):
    """Even if two processes begin at the same unit; the units made by each are in its log."""
    calls = type(classes).__call__

    def slow(self, *args, **options):
        print(options["first"], flush=True)
        time.sleep(0.05)
        return calls(self, *args, **options)

    monkeypatch.setattr(type(classes), "__call__", slow)
    work = lambda: make(classes, tmp_path / "set", 16)
    assert [status(pid) for pid in [fork(work, tmp_path / f"{n}.log") for n in range(2)]] == [0, 0]
    made = [sorted(map(int, (tmp_path / f"{n}.log").read_text().split())) for n in range(2)]
    assert sorted(made[0] + made[1]) == list(range(0, 16, 2)) and all(made)


def test_one_takes_over_from_another_that_dies(classes, complete_set, tmp_path, monkeypatch):
    """The second finds the first's unit locked, makes the others, waits, and then makes that one too."""
    calls = type(classes).__call__

    def stuck(self, *args, **options):
        (tmp_path / "begun").touch()
        time.sleep(60)

    monkeypatch.setattr(type(classes), "__call__", stuck)
    first = fork(lambda: make(classes, tmp_path / "set"), tmp_path / "log")
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    monkeypatch.setattr(type(classes), "__call__", calls)
    second = fork(lambda: make(classes, tmp_path / "set"), tmp_path / "log")
    while len(list_videos(tmp_path / "set")) < 7:
        time.sleep(0.01)
    time.sleep(0.2)
    assert os.waitpid(second, os.WNOHANG)[0] == 0 and not (tmp_path / "set/000000.mkv").exists()
    os.kill(first, signal.SIGKILL)
    assert status(first) == -signal.SIGKILL and status(second) == 0
    assert digests(tmp_path / "set") == digests(complete_set)


def test_a_file_system_without_locks(classes, complete_set, tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(many.fcntl, "lockf", lockf)
    work = lambda rank: lambda: make(classes, tmp_path / "set", rank=rank, world_size=2)
    statuses = [status(pid) for pid in [fork(work(rank), tmp_path / "log") for rank in range(2)]]
    assert statuses == [0, 0], (tmp_path / "log").read_text()[-3000:]
    videos = lambda folder: {name: sha256 for name, sha256 in digests(folder).items() if name != "samples.json"}
    assert videos(tmp_path / "set") == videos(complete_set)
    make(classes, tmp_path / "set")  # of two processes that record digests at once, one may lose the other's
    assert digests(tmp_path / "set") == digests(complete_set)


def test_killed_workers_leave_the_same_bytes(classes, tmp_path):
    """Six kills at random moments, with one to three workers at a time; tests/soak/recovery.py kills more."""
    make(classes, tmp_path / "complete", 80)
    work = lambda rank, size: make(classes, tmp_path / "set", 80, rank=rank, world_size=size)
    counts = kill_workers(work, tmp_path / "set", 6, random.Random(0), tmp_path / "log")
    assert counts["kills"] == 6
    assert digests(tmp_path / "set") == digests(tmp_path / "complete")
