"""Work for several devices: so many places, and functions called at each as it is free."""

import os
import queue
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

import torch


@dataclass(frozen=True)
class WorkerDevice:
    """Where one piece of work is done at a time."""

    device: str  # of this process
    kind: str  # "cuda" or "cpu", for a child process
    environment: dict[str, str]  # which a child process sees


def places(count: int) -> list[WorkerDevice]:
    """`count` of them, on the GPUs in turn; without any, sharing the CPU's cores."""
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        named = lambda i: visible[i] if i < len(visible) and visible[i] else str(i)
        devices = [i % torch.cuda.device_count() for i in range(count)]
        return [WorkerDevice(f"cuda:{i}", "cuda", {"CUDA_VISIBLE_DEVICES": named(i)}) for i in devices]
    threads = str(max(1, torch.get_num_threads() // count))
    return [WorkerDevice("cpu", "cpu", {"OMP_NUM_THREADS": threads})] * count


class Workers:
    """A context with `count` places.

    Left by an exception, SIGINT or SIGTERM, it stops the child processes by SIGTERM, at which a training saves.
    """

    def __init__(self, count: int):
        self.pool = ThreadPoolExecutor(count)
        self.free: queue.Queue[WorkerDevice] = queue.Queue()
        self.children: set[subprocess.Popen] = set()
        self.stopped = False
        for place in places(count):
            self.free.put(place)

    def __enter__(self) -> "Workers":
        self.before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        self.stopped = kind is not None
        for child in list(self.children):
            child.terminate()
        self.pool.shutdown(cancel_futures=True)
        signal.signal(signal.SIGTERM, self.before)

    def each(self, function: Callable, items: list[tuple]) -> None:
        """function(*item, workers, place) of every item; returns when all are done."""

        def one(item: tuple) -> None:
            place = self.free.get()
            try:
                if not self.stopped:
                    function(*item, self, place)
            finally:
                self.free.put(place)

        for future in [self.pool.submit(one, item) for item in items]:
            future.result()

    def call(self, words: list[str], place: WorkerDevice, log: IO) -> int:
        """Run a command there, its output going to `log`; its status."""
        child = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, **place.environment})
        self.children.add(child)
        try:
            return child.wait()
        finally:
            self.children.discard(child)
