"""A cache of decoded videos in memory, so that small data sets are decoded once instead of once per clip."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from latte.launch import launch
from latte.video.damage import WhenDamaged
from latte.video.pixels import resize_and_crop
from latte.video.read import read_blocks, read_video

CACHE_BYTES = 4 << 30  # of all processes on a machine together


def process_budget() -> int:
    """The share of CACHE_BYTES of this process, which may be one of several on the machine."""
    return CACHE_BYTES // launch().local_size


class DecodedCache:
    """Frames of videos, resized and cropped by `resize_and_crop`, as bytes; cached as long as there is room.

    Args:
        image_size: Side of the frames, in pixels.

    Attributes:
        videos: The cached videos, each (f, 3, image_size, image_size) uint8.
        caches_all: Whether every video is cached when it is first read.
        tried: Bytes of all videos that `try_decoding` decoded, cached or not. Unlike the cache, it does not depend on
            the number of processes, so that all of them come to the same decision about a video.
    """

    def __init__(self, image_size: int):
        self.image_size = image_size
        self.videos: dict[Path, Tensor] = {}
        self.caches_all = False
        self.tried = 0

    def bytes_of(self, frames: int) -> int:
        """Return the size of that many frames."""
        return 3 * self.image_size**2 * frames

    def try_decoding(self, path: Path, frames: int, damaged: WhenDamaged = "raise") -> int | None:
        """Decode a whole video, and cache it if this process has room for it.

        Args:
            path: The video.
            frames: The number of its frames according to its header.
            damaged: As in read_video.

        Returns:
            The number of frames decoded. None if the video was not decoded, because CACHE_BYTES are used up.

        Raises:
            ValueError: It cannot be decoded.
        """
        if self.bytes_of(frames) > CACHE_BYTES - self.tried:
            return None
        video = self.decode(path, damaged)
        self.tried += video.nbytes
        if video.nbytes <= process_budget() - sum(other.nbytes for other in self.videos.values()):
            self.videos[path] = video
        return len(video)

    def cache_all_if_room(self, frames: int, readers: int) -> None:
        """Cache every video from now on, if each of `readers` processes can hold all `frames` frames."""
        self.caches_all = self.bytes_of(frames) * readers <= process_budget()

    def read(self, path: Path, frames: Sequence[int], damaged: WhenDamaged = "raise") -> Tensor:
        """Return some frames of a video, (f, 3, image_size, image_size) uint8. Raises ValueError like `read_video`."""
        if self.caches_all and path not in self.videos:
            self.videos[path] = self.decode(path, damaged)
        if path in self.videos:
            return self.videos[path][list(frames)]
        return resize_and_crop(read_video(path, frames, damaged)[0], self.image_size)

    def decode(self, path: Path, damaged: WhenDamaged) -> Tensor:
        """Decode all frames of a video."""
        blocks = read_blocks(path, damaged=damaged)
        return torch.cat([resize_and_crop(block, self.image_size) for block in blocks])
