"""Sets of clips that a protocol takes from videos in memory."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latte.eval.clip_windows import ClipWindow, choose_windows, fingerprint
from latte.eval.protocol import Protocol
from latte.video.array_layout import frame_axes, to_bytes, value_range
from latte.video.pixels import as_array, as_tensor, channels_first, check_dense

BYTES = (torch.uint8, np.dtype(np.uint8))


@dataclass(frozen=True, eq=False)
class ArrayClips:
    """Clips of videos in memory.

    Attributes:
        videos: uint8 (f, 3, h, w) by name. Video i is called 000000.mkv and so on, as `latte sample --n` would name
            its file, so that a protocol takes the same clips from both.
        clips: The clips, in the protocol's order.
        short: The names of videos that were left out as too short.
    """

    videos: dict[str, Tensor]
    clips: tuple[ClipWindow, ...]
    short: tuple[str, ...]

    @property
    def about(self) -> dict:
        """A description for the result."""
        sizes = [(clip.crop, clip.crop) if clip.crop else self.videos[clip.name].shape[-2:] for clip in self.clips]
        return {
            "videos": len(self.clips) + len(self.short),
            "clips": len(self.clips),
            "too_short": len(self.short),
            "first_too_short": self.short[0] if self.short else None,
            "sizes": dict(Counter(f"{width}x{height}" for height, width in sizes)),
            "fingerprint": fingerprint(self.clips),
        }

    def stream(self, chosen: Sequence[ClipWindow]) -> Iterator[Tensor]:
        """Yield some of the clips in order, uint8 (f, 3, h, w), with the memory layout of clips from files."""
        for clip in chosen:
            frames = clip.of(self.videos[clip.name]).cpu().contiguous()  # resizing another layout rounds differently
            yield clip.cropped(frames)


def choose_array_clips(videos: Iterable[Tensor | np.ndarray], protocol: Protocol, side: str, seed: int) -> ArrayClips:
    """Take one clip from each video in memory, until there are protocol.clips.

    Args:
        videos: One array of videos (n, f, 3, h, w), (n, f, h, w, 3) or (n, 3, f, h, w), or any number of (f, 3, h, w)
            or (f, h, w, 3), which may differ in length and size. Grey ones have one channel. They are uint8, or other
            numbers of one type whose values together show their range: see latte.video.array_layout.value_range. All
            are held in memory.
        protocol: Says which clips to take.
        side: "real" or "generated".
        seed: For the protocol's random choices.

    Raises:
        ValueError: They are not such videos, or none is long enough.
    """
    if isinstance(videos, Tensor | np.ndarray) and (axes := frame_axes(tuple(videos.shape))):
        check_array(videos, f"the {side} videos")
        videos = videos.permute(axes) if isinstance(videos, Tensor) else videos.transpose(axes)
    named = {f"{side} video {i}": video for i, video in enumerate(videos)}
    videos = [as_video(video, name) for name, video in as_uint8(named).items()]
    named = {f"{i:06d}.mkv": video for i, video in enumerate(videos)}
    frames_of, content_of = lambda name: len(named[name]), lambda name: array_content(named[name])
    source = f"the array of {side} videos"
    found = choose_windows(list(named), protocol, side, seed, frames_of, content_of, source)
    return ArrayClips(named, found.clips, found.short)


def as_uint8(videos: dict[str, Tensor | np.ndarray]) -> dict[str, Tensor | np.ndarray]:
    """Videos by name as bytes. Raises ValueError if they are not arrays, or their values are in no known range."""
    for name, video in videos.items():
        check_array(video, name)
    others = {name: as_array(video) for name, video in videos.items() if video.dtype not in BYTES}
    if not others:
        return videos
    try:
        black_white = value_range(list(others.values()))
    except ValueError as error:
        name, first = next(iter(others.items()))
        found = f"{first.dtype} {first.shape}"
        raise ValueError(f"{name}: expected uint8 (f, 3, h, w) or (f, h, w, 3), not {found}: {error}") from error
    return videos | {name: to_bytes(array, black_white) for name, array in others.items()}


def check_array(video: object, name: str) -> None:
    """Raise ValueError, with the name of the video, if it is not an array that holds all of its values."""
    if not isinstance(video, Tensor | np.ndarray):
        raise ValueError(f"{name}: expected an array, not {type(video).__name__}")
    try:
        check_dense(video)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def as_video(video: Tensor | np.ndarray, name: str) -> Tensor:
    """A uint8 video in RGB or grey as a tensor (f, 3, h, w). Raises ValueError if it has another shape."""
    tensor = as_tensor(video)
    if tensor.ndim != 4 or frame_axes(tuple(tensor.shape)) is None:
        raise ValueError(f"{name}: expected uint8 (f, 3, h, w) or (f, h, w, 3), not uint8 {tuple(tensor.shape)}")
    return channels_first(tensor)


def array_content(video: Tensor) -> str:
    """The sha256 of a video's shape and pixels."""
    about = hashlib.sha256(str(tuple(video.shape)).encode())
    about.update(video.contiguous().cpu().numpy().data)
    return about.hexdigest()
