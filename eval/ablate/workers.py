"""Workers that share the devices of a machine: each takes the next piece of work as soon as it is free."""

import os
import queue
import signal
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import IO

import torch

LOOK_SECONDS = 10.0  # between progress updates


@dataclass(frozen=True)
class WorkerDevice:
    """The device of one worker, for work in this process and in child processes."""

    name: str  # in this process, such as "cuda:1"
    kind: str  # "cuda" or "cpu": the device in a child process, which sees one GPU only
    environment: dict[str, str]  # variables that a child process gets


def worker_devices(count: int) -> list[WorkerDevice]:
    """The devices of `count` workers: the GPUs in turn, or else equal shares of the CPU's cores."""
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        name = lambda i: visible[i] if i < len(visible) and visible[i] else str(i)
        indices = [i % torch.cuda.device_count() for i in range(count)]
        return [WorkerDevice(f"cuda:{i}", "cuda", {"CUDA_VISIBLE_DEVICES": name(i)}) for i in indices]
    threads = str(max(1, torch.get_num_threads() // count))
    return [WorkerDevice("cpu", "cpu", {"OMP_NUM_THREADS": threads})] * count


class Workers:
    """A context with `count` workers, which are threads.

    If the context is left by an exception, SIGINT or SIGTERM, child processes get SIGTERM, at which a training saves.

    Attributes:
        stopped: whether the context was left in this way. Work that has not begun is then skipped.
    """

    def __init__(self, count: int):
        self.pool = ThreadPoolExecutor(count)
        self.free: queue.Queue[WorkerDevice] = queue.Queue()
        self.children: set[subprocess.Popen] = set()
        self.stopped = False
        for device in worker_devices(count):
            self.free.put(device)

    def __enter__(self) -> "Workers":
        self.previous_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        self.stopped = kind is not None
        for child in list(self.children):
            child.terminate()
        self.pool.shutdown(cancel_futures=True)
        signal.signal(signal.SIGTERM, self.previous_handler)

    def for_each(self, function: Callable, items: Iterable[tuple], meanwhile: Callable[[], None]) -> None:
        """Call `function(*item, workers, device)` for every item, and return when all calls have ended.

        Args:
            function: What to call.
            items: Its first arguments.
            meanwhile: Called in this thread every few seconds, and at the end.
        """

        def work(item: tuple) -> None:
            device = self.free.get()
            try:
                if not self.stopped:
                    function(*item, self, device)
            finally:
                self.free.put(device)

        pending = {self.pool.submit(work, item) for item in items}
        while pending:
            ended, pending = wait(pending, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            meanwhile()
            for future in ended:
                future.result()

    def run_process(self, command: list[str], device: WorkerDevice, log: IO) -> int:
        """Run a command on a worker's device.

        Args:
            command: the program and its arguments.
            device: where it computes.
            log: an open file that stdout and stderr go to.

        Returns:
            The exit status.
        """
        child = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **device.environment})
        self.children.add(child)
        try:
            return child.wait()
        finally:
            self.children.discard(child)
