"""Which frames of a video make a clip: named selections, each a function of the video's length and of a generator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Selection:
    """One way to choose."""

    least: Callable[[int, int], int]  # (num_frames, frame_interval) -> frames that a video needs
    choose: Callable[[int, int, int, torch.Generator], Sequence[int]]  # see choose_frames


def span(num_frames: int, frame_interval: int) -> int:
    """Frames that a clip reaches over, its first and last included."""
    return (num_frames - 1) * frame_interval + 1


def crop(frames: int, length: int, random: torch.Generator) -> range:
    """`length` frames in a row, or all where there are fewer; a start is drawn even where there is no choice.

    The original's TemporalRandomCrop (Vchitect/Latte, datasets/video_transforms.py): the last possible start, and with
    it the last frame of a video that is longer, is never drawn.
    """
    start = int(torch.randint(max(0, frames - length - 1) + 1, (), generator=random))
    return range(start, min(start + length, frames))


def by_stride(frames: int, num_frames: int, frame_interval: int, random: torch.Generator) -> range:
    """Frames exactly frame_interval apart, from any start that leaves room."""
    reach = span(num_frames, frame_interval)
    start = int(torch.randint(frames - reach + 1, (), generator=random))
    return range(start, start + reach, frame_interval)


def by_linspace(frames: int, num_frames: int, frame_interval: int, random: torch.Generator) -> list[int]:
    """Frames spread evenly over a crop from its first to its last, cut to whole numbers: steps differ by one."""
    window = crop(frames, num_frames * frame_interval, random)
    return np.linspace(window[0], window[-1], num_frames, dtype=int).tolist()


def by_crop(frames: int, num_frames: int, frame_interval: int, random: torch.Generator) -> range:
    """Every frame_interval-th frame of a crop."""
    return crop(frames, num_frames * frame_interval, random)[::frame_interval]


SELECTIONS = {
    "stride": Selection(span, by_stride),  # ours
    "linspace": Selection(lambda num_frames, _: num_frames, by_linspace),  # the original's, FaceForensics and UCF101
    "crop": Selection(span, by_crop),  # the original's, SkyTimelapse and Taichi-HD
}


def least_frames(name: str, num_frames: int, frame_interval: int) -> int:
    """How many frames a video needs for a selection to find num_frames in it. ValueError: no such selection, or < 1."""
    if name not in SELECTIONS:
        raise ValueError(f"no selection of frames is called {name!r}; there are {', '.join(SELECTIONS)}")
    if num_frames < 1 or frame_interval < 1:
        raise ValueError(f"num_frames is {num_frames}, frame_interval {frame_interval}; both must be 1 or more")
    return SELECTIONS[name].least(num_frames, frame_interval)


def choose_frames(
    name: str, frames: int, num_frames: int, frame_interval: int, random: torch.Generator
) -> Sequence[int]:
    """The numbers, ascending, of the num_frames frames that make a clip of a video of `frames` frames.

    One number is drawn from `random`, whatever the video. ValueError: the video is too short, or as least_frames.
    """
    least = least_frames(name, num_frames, frame_interval)
    if frames < least:
        raise ValueError(f"a video of {frames} frames is too short: selection {name!r} needs {least}")
    return SELECTIONS[name].choose(frames, num_frames, frame_interval, random)
