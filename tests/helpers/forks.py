"""Processes that begin as copies of this one, with everything imported: quick to start, and theirs to be killed."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import RLock

from tqdm import tqdm

from latte.train import checkpoint

SAVING = ".draft-*"


def fork(work, log: Path, **environment: str) -> int:
    """Run work() in a child, whose output goes to `log`; its process id. It exits with 0, 130 if stopped, or 1."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.environ |= environment
        tqdm.set_lock(RLock())  # by default its lock is one of all forked processes, and a killed one would keep it
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
        work()
        status = 0
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def status(pid: int) -> int:
    """How a child ended: its exit status, or minus the signal's number."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start_together(count: int, work, log: Path) -> list[int]:
    """`count` children as the ranks of one training; their process ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [fork(work, log, RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank in range(count)]


def together(count: int, work, log: Path) -> None:
    """The same, to their end, which must be a good one."""
    ends = [status(pid) for pid in start_together(count, work, log)]
    assert ends == [0] * count, log.read_text()[-3000:]


def hurt(file: Path, rng: random.Random) -> None:
    """Flip a bit of a file, cut it, fill it with zeros, or delete it."""
    content = bytearray(file.read_bytes())
    how = rng.choice(("flip", "cut", "zero", "delete"))
    if how == "delete":
        file.unlink()
        return
    place = rng.randrange(len(content))
    if how == "flip":
        content[place] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del content[place:]
    else:
        content = bytes(len(content))
    file.write_bytes(content)


def changed(run: Path) -> int:
    """When the names in a run's checkpoints/ last changed."""
    folder = run / "checkpoints"
    return folder.stat().st_mtime_ns if folder.is_dir() else 0


def saving(run: Path) -> set[tuple[str, int]]:
    """Unfinished checkpoints, also those that a killed process left."""
    found = set()
    for path in (run / "checkpoints").glob(SAVING):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino))
    return found


def kill_again_and_again(
    start, run: Path, kills: int, rng: random.Random, longest: float, damages: int = 0, in_saves: int = 0
) -> dict[str, int]:
    """Start a training with start() -> process ids, kill one of them at a random time, and again; then let it end.

    The others are killed with it, as a launcher does. The newest of two checkpoints or more is damaged after some of
    the kills. Counts what happened: {"kills", "in_save", "damages"}. AssertionError: it did not end well by itself.
    """
    counts = {"kills": 0, "in_save": 0, "damages": 0}
    while counts["kills"] < kills or (counts["in_save"] < in_saves and counts["kills"] < 3 * kills):
        before, drafts, pids = changed(run), saving(run), start()
        when, deadline = rng.random(), time.monotonic() + 60
        if when > 0.2:  # while it trains and saves, or soon after a save began; else while it starts
            while changed(run) == before and time.monotonic() < deadline:
                time.sleep(0.002)
        time.sleep(rng.uniform(0, longest if when < 0.6 else 0.01))
        assert all(os.waitpid(pid, os.WNOHANG)[0] == 0 for pid in pids), "it ended by itself: give it more steps"
        os.kill(rng.choice(pids), signal.SIGKILL)
        in_save = bool(saving(run) - drafts)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
        counts["kills"] += 1
        counts["in_save"] += in_save
        saved = checkpoint.found(run)
        if len(saved) > 1 and rng.random() * (kills - counts["kills"] + 1) < 2 * (damages - counts["damages"]):
            hurt(rng.choice(sorted(saved[-1].iterdir())), rng)
            counts["damages"] += 1
    assert [status(pid) for pid in start()] == [0] * len(pids)
    return counts


def kill_under_torchrun(words: list[str], run: Path, kills: int, rng: random.Random, log: Path) -> dict[str, int]:
    """`latte train` with these words as two processes of torchrun, one of them killed some time after its first save.

    torchrun starts both anew each time. Counts as kill_again_and_again. AssertionError: one start made no checkpoint in
    two minutes, or it did not end well by itself.
    """
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launch += [f"--max-restarts={kills}", "--monitor-interval=0.1", "-m", "latte", "train", "--run-dir", str(run)]
    counts, killed = {"kills": 0, "in_save": 0}, []
    with log.open("a") as out:
        agent = subprocess.Popen([*launch, *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=out, stderr=out)
    while counts["kills"] < kills:
        assert agent.poll() is None, "it ended by itself: give it more steps"
        pids = children(agent.pid)
        if len(pids) < 2 or set(pids) & set(killed):
            time.sleep(0.01)
            continue
        before, drafts, deadline = changed(run), saving(run), time.monotonic() + 120
        while changed(run) == before:
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2) if rng.random() < 0.5 else 0)
        os.kill(rng.choice(pids), signal.SIGKILL)  # an error if it ended before
        counts["kills"] += 1
        counts["in_save"] += bool(saving(run) - drafts)
        killed = pids
    assert agent.wait(timeout=600) == 0, log.read_text()[-3000:]
    return counts


def children(pid: int) -> list[int]:
    """The processes that a process started and that are there."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_workers(work, folder: Path, kills: int, rng: random.Random, log: Path) -> dict[str, int]:
    """Keep one to three children at work(rank, size) on the files of a folder, killing one after the other.

    A third of them as soon as they write. Then the rest may end. Counts what happened: {"kills", "in_write": kills
    that left a half-written file}. AssertionError: one did not end well by itself.
    """
    counts, pids = {"kills": 0, "in_write": 0}, []
    while counts["kills"] < kills:
        size = rng.randint(1, 3)
        while len(pids) < size:
            pids.append(fork(partial(work, len(pids), size), log))
        when, deadline, before = rng.random(), time.monotonic() + 60, len(os.listdir(folder)) if folder.exists() else 0
        waits = lambda deadline=deadline: time.monotonic() < deadline and not all(map(ended, pids))
        while when > 0.2 and waits() and (not folder.exists() or len(os.listdir(folder)) <= before):
            time.sleep(0.001)  # until they work; else one may just have started
        writing = []
        while when > 0.6 and not writing and waits():
            writing = [pid for pid in pids if half_written(folder, pid)]
        time.sleep(0 if writing else rng.uniform(0, 0.05))
        pid = rng.choice(writing or pids)
        os.kill(pid, signal.SIGKILL)
        how = status(pid)
        pids.remove(pid)
        if how == 0:  # it had done all before it was killed: half of it is to be done again
            made = sorted(folder.glob("*.mkv"))
            for path in rng.sample(made, len(made) // 2):
                path.unlink()
            continue
        assert how == -signal.SIGKILL, log.read_text()[-3000:]
        counts["kills"] += 1
        counts["in_write"] += half_written(folder, pid)
    pids.append(fork(partial(work, 0, 1), log))
    assert [status(pid) for pid in pids] == [0] * len(pids), log.read_text()[-3000:]
    return counts


def ended(pid: int) -> bool:
    """Whether a child has ended, which is asked without forgetting how."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def half_written(folder: Path, pid: int) -> bool:
    """Whether there is a draft of that process (latte.files.replacing)."""
    return any(f".part{pid}." in name for name in os.listdir(folder))
