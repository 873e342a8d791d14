"""The speed of reading clips from videos on one thread, beside plain PyAV and, where it is installed, decord."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch

from latte.eval.reporting import markdown_table
from latte.video.read import count_frames, read_video


class Window(NamedTuple):
    """Consecutive frames of a video."""

    path: Path
    start: int
    frames: int


def choose_windows(videos: list[Path], count: int, frames: int, seed: int = 0) -> list[Window]:
    """Windows at random places of videos in turn.

    Raises:
        ValueError: No video is long enough.
    """
    long_enough = [(path, total) for path in videos if (total := count_frames(path)) > frames]
    if not long_enough:
        raise ValueError(f"there is no video of more than {frames} frames to read")
    chosen, places = [], random.Random(seed)
    for i in range(count):
        path, total = long_enough[i % len(long_enough)]
        chosen.append(Window(path, places.randrange(total - frames), frames))
    return chosen


def read_ours(window: Window) -> int:
    """Read by `read_video`; return the number of frames."""
    return len(read_video(window.path, range(window.start, window.start + window.frames))[0])


def read_by_pyav(window: Window) -> int:
    """Seek to the key frame before, decode, and convert the frames of the window; return the number of frames."""
    found: list[np.ndarray] = []
    with av.open(str(window.path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "NONE", 1
        begin = (stream.start_time or 0) + (window.start - 0.5) / (stream.average_rate * stream.time_base)
        container.seek(max(0, int(begin)), stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= begin:
                found.append(frame.reformat(format="rgb24", threads=1).to_ndarray())
            if len(found) == window.frames:
                break
    return len(np.stack(found))


def readers() -> dict[str, Callable[[Window], int]]:
    """The readers to compare, by name."""
    found = {"read_video": read_ours, "PyAV": read_by_pyav}
    try:
        import decord
    except ImportError:
        return found

    def read_by_decord(window: Window) -> int:
        video = decord.VideoReader(str(window.path), num_threads=1)
        return len(video.get_batch(range(window.start, window.start + window.frames)).asnumpy())

    return found | {"decord": read_by_decord}


def measure_reading(videos: list[Path], windows: int, frames: int, repeats: int) -> dict[str, float]:
    """CPU milliseconds per clip for each reader, the least of several rounds in which they take turns.

    Each file's index is made beforehand. Plain PyAV may miss a frame if timestamps are irregular, which changes little.

    Raises:
        ValueError: No video is long enough, or one cannot be read.
    """
    jobs, known = choose_windows(videos, windows, frames), readers()
    seconds: dict[str, list[float]] = {name: [] for name in known}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(repeats):
            for name, read in known.items():
                start = time.process_time()
                for job in jobs:
                    read(job)
                seconds[name].append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    return {name: 1e3 * min(rounds) / windows for name, rounds in seconds.items()}


def reading_table(milliseconds: dict[str, float]) -> str:
    """A Markdown table, one row per reader."""
    ours = milliseconds["read_video"]
    rows = [[name, f"{value:.1f}", f"{value / ours:.2f}"] for name, value in milliseconds.items()]
    return markdown_table(["reader", "CPU ms a clip", "over read_video"], rows)
