"""Clips of videos: which frames a protocol takes from which videos.

The choice depends only on the names of the videos and a seed, so it is the same on every machine.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from latte.arguments import counted
from latte.diffusion.randomness import generator
from latte.eval.protocol import PROTOCOLS, Protocol, record_of
from latte.eval.unreadable import UNREADABLE, check_unreadable, note_unreadable
from latte.eval.video_order import in_order, rank
from latte.video.pixels import resize_and_crop


@dataclass(frozen=True)
class ClipWindow:
    """A clip of a video: its frames start, start + stride, ...

    Attributes:
        name: The video, as a path below its folder.
        start: The first frame.
        stride: From one frame to the next.
        frames: How many there are.
        sha256: The hash of the video's file or files, or of whatever else determines its content.
        crop: Pixels to which frames are resized and centre-cropped; 0: unchanged.
        crop_filter: How they are resized for that: "bicubic" or "bilinear".
    """

    name: str
    start: int
    stride: int
    frames: int
    sha256: str
    crop: int = 0
    crop_filter: str = "bicubic"

    def of(self, video: Tensor) -> Tensor:
        """The clip, uncropped, from all frames (f, 3, h, w) of its video."""
        return video[self.start :: self.stride][: self.frames]

    def cropped(self, frames: Tensor) -> Tensor:
        """Frames (f, 3, h, w) resized and cropped as the clip's are."""
        return resize_and_crop(frames, self.crop, self.crop_filter) if self.crop else frames


def fingerprint(clips: Sequence[ClipWindow]) -> str:
    """A hash of the choice of clips and of their content."""
    return hashlib.sha256(repr([record_of(clip) for clip in clips]).encode()).hexdigest()[:16]


def start_of(protocol: Protocol, side: str, seed: int, name: str, frames: int) -> int:
    """The first frame of the clip that a protocol takes from a video with this name and this many frames."""
    room = frames - (protocol.frames - 1) * protocol.stride(side)
    if protocol.start(side) == "zero":
        return 0
    return int(torch.randint(room, (), generator=generator(seed, rank(seed, name) >> 32)))


class Chosen(NamedTuple):
    """The result of choose_windows: clips, names of videos that are too short, and why others cannot be read."""

    clips: tuple[ClipWindow, ...]
    short: tuple[str, ...]
    unreadable: dict[str, str]


def choose_windows(
    names: Sequence[str],
    protocol: Protocol,
    side: str,
    seed: int,
    frames_of: Callable[[str], int],
    content_of: Callable[[str], str],
    source: object,
) -> Chosen:
    """Take one clip from each video, until there are protocol.clips.

    Args:
        names: The names of the videos.
        protocol: Says which clips to take.
        side: "real" or "generated".
        seed: For the protocol's random choices.
        frames_of: The number of frames of a video. If it or content_of fails, the video is unreadable.
        content_of: A hash of its content.
        source: Where the videos come from, for the error message.

    Raises:
        ValueError: No video is long enough for a clip, or more than half of them cannot be read.
    """
    names = in_order(names, protocol.order, seed)
    crop, crop_filter = (protocol.real_crop, protocol.crop_filter) if side == "real" else (0, "bicubic")
    clips, short, unreadable, longest = [], [], {}, 0
    for name in names:
        if len(clips) == protocol.clips:
            break
        try:
            frames = frames_of(name)
            longest = max(longest, frames)
            stride = protocol.stride_in(side, frames)
            if not stride:
                short.append(name)
                continue
            sha256 = content_of(name)
        except UNREADABLE as error:
            note_unreadable(unreadable, name, error)
            continue
        start = start_of(protocol, side, seed, name, frames)
        clips.append(ClipWindow(name, start, stride, protocol.frames, sha256, crop, crop_filter))
    check_unreadable(unreadable, len(clips) + len(short) + len(unreadable), source)
    if not clips:
        stride = protocol.stride(side)
        needed = f"{protocol.least_frames(side)} frames or more, which protocol {protocol.name} needs"
        advice = f", the longest of {longest} frames: {fitting(longest, side, stride)}" if longest else ""
        raise ValueError(
            f"{source} holds no video of {needed}: {counted(len(names), 'video was', 'videos were')} looked at{advice}"
        )
    return Chosen(tuple(clips), tuple(short), unreadable)


def fitting(frames: int, side: str, stride: int) -> str:
    """Advice on protocols, or on shorter clips of this stride, for videos of this many frames."""
    known = [name for name, protocol in PROTOCOLS.items() if protocol.stride_in(side, frames)]
    if known:
        return f"{frames} frames are enough for protocol {' or '.join(known)}"
    most = max(1, frames // stride)
    return f"take shorter clips (frames={most}, or --frames {most})"
