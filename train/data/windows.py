"""Which frames of a video make a clip: named selections, each a function of the video's length and a generator."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Selection:
    """A way to choose the frames of a clip.

    Attributes:
        min_frames: (num_frames, frame_interval) -> the number of frames that a video needs.
        choose: (frames, num_frames, frame_interval, random) -> the numbers of the frames; see `choose_frames`.
    """

    min_frames: Callable[[int, int], int]
    choose: Callable[[int, int, int, "torch.Generator"], Sequence[int]]


def span(num_frames: int, frame_interval: int) -> int:
    """Return how many frames of the video a clip spans, from its first to its last frame."""
    return (num_frames - 1) * frame_interval + 1


def draw_below(count: int, random: "torch.Generator") -> int:
    """Return a random integer from 0 to count - 1."""
    import torch  # here, because the settings of training know the names of the selections without it

    return int(torch.randint(count, (), generator=random))


def crop(frames: int, length: int, random: "torch.Generator") -> range:
    """Return `length` consecutive frames from a random start, or all frames of a shorter video.

    This is TemporalRandomCrop of the original (Vchitect/Latte, datasets/video_transforms.py). As there, the last
    possible start is never drawn, and a number is drawn even if there is only one start.
    """
    start = draw_below(max(0, frames - length - 1) + 1, random)
    return range(start, min(start + length, frames))


def by_stride(frames: int, num_frames: int, frame_interval: int, random: "torch.Generator") -> range:
    """Return frames exactly `frame_interval` apart; every start that leaves room is equally likely."""
    reach = span(num_frames, frame_interval)
    start = draw_below(frames - reach + 1, random)
    return range(start, start + reach, frame_interval)


def by_linspace(frames: int, num_frames: int, frame_interval: int, random: "torch.Generator") -> list[int]:
    """Return frames evenly spaced from the first to the last of a crop, rounded down: intervals differ by one."""
    import numpy as np  # here, for the same reason

    window = crop(frames, num_frames * frame_interval, random)
    return np.linspace(window[0], window[-1], num_frames, dtype=int).tolist()


def by_crop(frames: int, num_frames: int, frame_interval: int, random: "torch.Generator") -> range:
    """Return every `frame_interval`-th frame of a crop."""
    return crop(frames, num_frames * frame_interval, random)[::frame_interval]


SELECTIONS = {
    "stride": Selection(span, by_stride),  # ours
    "linspace": Selection(lambda num_frames, _: num_frames, by_linspace),  # the original's: FaceForensics, UCF101
    "crop": Selection(span, by_crop),  # the original's: SkyTimelapse, Taichi-HD
}


def min_video_frames(name: str, num_frames: int, frame_interval: int) -> int:
    """Return how many frames a video needs to hold a clip.

    Args:
        name: A selection of `SELECTIONS`.
        num_frames: Frames in a clip, 1 or more.
        frame_interval: Distance between them in the video, 1 or more.

    Raises:
        ValueError: There is no such selection, or a number is below 1.
    """
    if name not in SELECTIONS:
        raise ValueError(f"no frame selection is called {name!r}: choose one of {', '.join(SELECTIONS)}")
    if num_frames < 1 or frame_interval < 1:
        raise ValueError(f"num_frames is {num_frames} and frame_interval is {frame_interval}; both must be 1 or more")
    return SELECTIONS[name].min_frames(num_frames, frame_interval)


def choose_frames(
    name: str, frames: int, num_frames: int, frame_interval: int, random: "torch.Generator"
) -> Sequence[int]:
    """Choose the frames of a clip.

    Args:
        name: A selection of `SELECTIONS`.
        frames: Number of frames in the video.
        num_frames: Frames in the clip, 1 or more.
        frame_interval: Distance between them in the video, 1 or more.
        random: Source of the single random number that is drawn for any video.

    Returns:
        The numbers of the chosen frames, ascending.

    Raises:
        ValueError: The video is too short, there is no such selection, or a number is below 1.
    """
    needed = min_video_frames(name, num_frames, frame_interval)
    if frames < needed:
        raise ValueError(f"a video of {frames} frames is too short: selection {name!r} needs {needed}")
    return SELECTIONS[name].choose(frames, num_frames, frame_interval, random)
