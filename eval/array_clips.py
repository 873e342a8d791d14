"""Sets of clips that a protocol takes of videos in memory."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latte.eval.clip_sets import ClipWindow, choose_windows, fingerprint
from latte.eval.protocol import Protocol
from latte.video.pixels import resize_and_crop


@dataclass(frozen=True, eq=False)
class ArrayClips:
    """Clips of videos in memory.

    Attributes:
        videos: uint8 (f, 3, h, w) by name. Video i is called 000000.mkv and so on, as `latte sample --n` would name
            its file, so that a protocol takes the same clips of both.
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
        """Yield some of the clips in order, uint8 (f, 3, h, w), with the memory layout of clips out of files."""
        for clip in chosen:
            frames = clip.of(self.videos[clip.name]).cpu().contiguous()  # resizing another layout rounds differently
            yield resize_and_crop(frames, clip.crop) if clip.crop else frames


def choose_array_clips(videos: Iterable[Tensor | np.ndarray], protocol: Protocol, side: str, seed: int) -> ArrayClips:
    """Take one clip of each video in memory, until there are protocol.clips.

    Args:
        videos: uint8 (n, f, 3, h, w) or (n, f, h, w, 3), or any number of (f, 3, h, w) or (f, h, w, 3), which may
            differ in length and size. All are held in memory.
        protocol: Says which clips to take.
        side: "real" or "generated".
        seed: For the protocol's random choices.

    Raises:
        ValueError: They are not such videos, or none is long enough.
    """
    named = {f"{i:06d}.mkv": channels_first(video, f"{side} video {i}") for i, video in enumerate(videos)}
    frames_of, content_of = lambda name: len(named[name]), lambda name: array_content(named[name])
    source = f"the array of {side} videos"
    clips, short = choose_windows(list(named), protocol, side, seed, frames_of, content_of, source)
    return ArrayClips(named, clips, short)


def channels_first(video: Tensor | np.ndarray, name: str) -> Tensor:
    """A uint8 video (f, 3, h, w) or (f, h, w, 3) as a tensor (f, 3, h, w). Raises ValueError if it is another array."""
    if not isinstance(video, Tensor | np.ndarray):
        raise ValueError(f"{name}: expected an array, not {type(video).__name__}")
    tensor = torch.as_tensor(video)
    shape = tuple(tensor.shape)
    if tensor.dtype != torch.uint8 or tensor.ndim != 4 or 3 not in (shape[1], shape[3]) or not tensor.numel():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{name}: expected uint8 (f, 3, h, w) or (f, h, w, 3), not {kind} {shape}")
    return tensor if shape[1] == 3 else tensor.permute(0, 3, 1, 2)


def array_content(video: Tensor) -> str:
    """The sha256 of a video's shape and pixels."""
    about = hashlib.sha256(str(tuple(video.shape)).encode())
    about.update(video.contiguous().cpu().numpy().data)
    return about.hexdigest()
