"""Child processes made by fork, which start fast because everything is already imported, and ways to kill them."""

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

from latte.progress import Progress
from latte.train import checkpoint

DRAFT = ".step-*.part*"  # the name of a checkpoint being written


def fork(work, log: Path, **environment: str) -> int:
    """Run work() in a child process.

    Args:
        work: What to run. The child exits with 0 if it returns, 130 if it is interrupted, and 1 if it fails.
        log: The file that its output is appended to.
        environment: Variables to set.

    Returns:
        The process id.
    """
    if pid := os.fork():
        return pid
    exit_status = 1
    try:
        os.environ |= environment
        for bar in (tqdm, Progress):  # forked processes share the default lock, which a killed one would never release
            bar.set_lock(RLock())
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
        work()
        exit_status = 0
    except KeyboardInterrupt:
        exit_status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(exit_status)


def status(pid: int) -> int:
    """Wait for a child to end; return its exit status, or minus the number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start_together(count: int, work, log: Path) -> list[int]:
    """Start children as the ranks of one run, as torchrun does, and return their process ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rendezvous = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [fork(work, log, RANK=str(rank), LOCAL_RANK=str(rank), **rendezvous) for rank in range(count)]


def together(count: int, work, log: Path) -> None:
    """Start children as the ranks of one run, and wait until all of them have succeeded."""
    statuses = [status(pid) for pid in start_together(count, work, log)]
    assert statuses == [0] * count, log.read_text()[-3000:]


def damage(file: Path, rng: random.Random) -> None:
    """Flip a bit of a file, truncate it, fill it with zeros, or delete it."""
    content = bytearray(file.read_bytes())
    kind = rng.choice(("flip", "cut", "zero", "delete"))
    if kind == "delete":
        file.unlink()
        return
    position = rng.randrange(len(content))
    if kind == "flip":
        content[position] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[position:]
    else:
        content = bytes(len(content))
    file.write_bytes(content)


def last_change(run: Path) -> int:
    """The modification time of a run's checkpoints folder, in nanoseconds; 0 if there is none."""
    folder = run / "checkpoints"
    return folder.stat().st_mtime_ns if folder.is_dir() else 0


def unfinished_checkpoints(run: Path) -> set[tuple[str, int]]:
    """Checkpoints that are being written, or were when their process was killed: their names and inodes."""
    found = set()
    for path in (run / "checkpoints").glob(DRAFT):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino))
    return found


def kill_again_and_again(
    start, run: Path, kills: int, rng: random.Random, longest: float, damages: int = 0, in_saves: int = 0
) -> dict[str, int]:
    """Start a training run, kill it at a random time, restart it, and so on; finally let it finish.

    After some of the kills, the newest of several checkpoints is damaged.

    Args:
        start: Starts the training and returns its process ids. One of them is killed first, then the others, as a
            launcher does.
        run: The run's folder.
        kills: The minimum number of kills.
        rng: The source of randomness.
        longest: The longest delay of a kill after the training started or saved, in seconds.
        damages: How many checkpoints to damage, with up to 3 * kills attempts.
        in_saves: How many kills must interrupt a save, likewise.

    Returns:
        The numbers of "kills", of those "in_save", and of "damages".

    Raises:
        AssertionError: If the training ends before it is killed, or does not end well when it is not killed.
    """
    counts = {"kills": 0, "in_save": 0, "damages": 0}
    missing = lambda: counts["in_save"] < in_saves or counts["damages"] < damages
    while counts["kills"] < kills or (missing() and counts["kills"] < 3 * kills):
        before, drafts, pids = last_change(run), unfinished_checkpoints(run), start()
        when, deadline = rng.random(), time.monotonic() + 60
        if when > 0.2:  # kill while training or saving, or soon after a save began; otherwise during startup
            least = 2 if counts["damages"] < damages else 0  # a damaged checkpoint needs a sound one before it
            saves = lambda: len(checkpoint.list_checkpoints(run))
            while (last_change(run) == before or saves() < least) and time.monotonic() < deadline:
                time.sleep(0.002)
        time.sleep(rng.uniform(0, longest if when < 0.6 else 0.01))
        assert all(os.waitpid(pid, os.WNOHANG)[0] == 0 for pid in pids), (
            "it ended before it was killed; give it more steps"
        )
        os.kill(rng.choice(pids), signal.SIGKILL)
        in_save = bool(unfinished_checkpoints(run) - drafts)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)
        counts["kills"] += 1
        counts["in_save"] += in_save
        saved = checkpoint.list_checkpoints(run)
        if len(saved) > 1 and rng.random() * (kills - counts["kills"] + 1) < 2 * (damages - counts["damages"]):
            damage(rng.choice(sorted(saved[-1].iterdir())), rng)
            counts["damages"] += 1
    assert [status(pid) for pid in start()] == [0] * len(pids)
    return counts


def kill_under_torchrun(words: list[str], run: Path, kills: int, rng: random.Random, log: Path) -> dict[str, int]:
    """Run `latte train` as two torchrun processes, and kill one of them some time after each first save.

    torchrun then restarts both.

    Args:
        words: Arguments of `latte train`, without the run's folder.
        run: The run's folder.
        kills: How often to kill.
        rng: The source of randomness.
        log: The file that the output is appended to.

    Returns:
        The numbers of "kills" and of those "in_save".

    Raises:
        AssertionError: If no checkpoint appears for two minutes, or if the training does not end well.
    """
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    launch += [f"--max-restarts={kills}", "--monitor-interval=0.1", "-m", "latte", "train", "--run-dir", str(run)]
    counts, killed = {"kills": 0, "in_save": 0}, []
    with log.open("a") as out:
        agent = subprocess.Popen([*launch, *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=out, stderr=out)
    while counts["kills"] < kills:
        assert agent.poll() is None, "it ended before it was killed; give it more steps"
        pids = child_processes(agent.pid)
        if len(pids) < 2 or set(pids) & set(killed):
            time.sleep(0.01)
            continue
        before, drafts, deadline = last_change(run), unfinished_checkpoints(run), time.monotonic() + 120
        while last_change(run) == before:
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2) if rng.random() < 0.5 else 0)
        os.kill(rng.choice(pids), signal.SIGKILL)  # fails if it has already ended
        counts["kills"] += 1
        counts["in_save"] += bool(unfinished_checkpoints(run) - drafts)
        killed = pids
    assert agent.wait(timeout=600) == 0, log.read_text()[-3000:]
    return counts


def child_processes(pid: int) -> list[int]:
    """The running child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kill_workers(work, folder: Path, kills: int, rng: random.Random, log: Path) -> dict[str, int]:
    """Keep one to three children working on the files of a folder, and kill them one after another.

    A third of them are killed as soon as they write. In the end the rest may finish.

    Args:
        work: Called as work(rank, size).
        folder: Where the children write.
        kills: How often to kill.
        rng: The source of randomness.
        log: The file that the output is appended to.

    Returns:
        The numbers of "kills" and of those "in_write", which left a half-written file.

    Raises:
        AssertionError: If a child fails on its own.
    """
    counts, pids = {"kills": 0, "in_write": 0}, []
    while counts["kills"] < kills:
        size = rng.randint(1, 3)
        while len(pids) < size:
            pids.append(fork(partial(work, len(pids), size), log))
        when, deadline, before = rng.random(), time.monotonic() + 60, len(os.listdir(folder)) if folder.exists() else 0
        waits = lambda deadline=deadline: time.monotonic() < deadline and not all(map(has_ended, pids))
        while when > 0.2 and waits() and (not folder.exists() or len(os.listdir(folder)) <= before):
            time.sleep(0.001)  # until one of them has written; otherwise one may be killed during startup
        writing = []
        while when > 0.6 and not writing and waits():
            writing = [pid for pid in pids if half_written(folder, pid)]
        time.sleep(0 if writing else rng.uniform(0, 0.05))
        pid = rng.choice(writing or pids)
        os.kill(pid, signal.SIGKILL)
        exit_status = status(pid)
        pids.remove(pid)
        if exit_status == 0:  # it finished before it was killed: delete half of the files, so that work remains
            written = sorted(folder.glob("*.mkv"))
            for path in rng.sample(written, len(written) // 2):
                path.unlink()
            continue
        assert exit_status == -signal.SIGKILL, log.read_text()[-3000:]
        counts["kills"] += 1
        counts["in_write"] += half_written(folder, pid)
    pids.append(fork(partial(work, 0, 1), log))
    assert [status(pid) for pid in pids] == [0] * len(pids), log.read_text()[-3000:]
    return counts


def has_ended(pid: int) -> bool:
    """Whether a child has ended. Its exit status can still be read afterwards."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def half_written(folder: Path, pid: int) -> bool:
    """Whether a draft of that process is in the folder (latte.files.replacing)."""
    return any(f".part{pid}-" in name for name in os.listdir(folder))
