"""Training clips by number, and which of them make up a step: everything is a function of (seed, step, slot)."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.shapes import MOTIONS, make_clip
from latte.train.config import TrainConfig
from latte.video import count_frames, list_videos, read_video


class Clips(Protocol):
    """Numbered clips: uint8 (f, 3, h, w) and a class."""

    names: list[str]  # of the classes; empty: unconditional

    def __len__(self) -> int: ...
    def clip(self, index: int, random: torch.Generator) -> tuple[Tensor, int]: ...


@dataclass
class ShapeClips:
    """The built-in moving shapes. Of a clip of 16 frames, num_frames fewer are a random window."""

    config: TrainConfig

    @property
    def names(self) -> list[str]:
        return list(MOTIONS)

    def __len__(self) -> int:
        return self.config.clips

    def clip(self, index: int, random: torch.Generator) -> tuple[Tensor, int]:
        """Clip `index`, drawn anew each time."""
        cfg = self.config
        frames = max(16, cfg.num_frames)
        start = int(torch.randint(frames - cfg.num_frames + 1, (), generator=random))
        window = slice(start, start + cfg.num_frames)
        clip = make_clip(cfg.seed, index, frames=frames, size=cfg.image_size, window=window)
        return torch.from_numpy(clip.video), clip.label


class Order:
    """Which clip stands in (step, slot): an endless row of permutations of the data, one an epoch."""

    def __init__(self, size: int, batch: int, seed: int):
        self.size, self.batch, self.seed, self.epoch = size, batch, seed, -1

    def index(self, step: int, slot: int) -> int:
        """The clip's number."""
        epoch, place = divmod(step * self.batch + slot, self.size)
        if epoch != self.epoch:
            self.epoch, self.permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.size)
        return int(self.permutation[place])


MEMORY = 4 << 30  # bytes that decoded videos may take


@dataclass
class VideoBatches:
    """Batches of pixels: step -> videos (b, f, 3, h, w) in [-1, 1] and classes (b,)."""

    clips: Clips
    config: TrainConfig

    @cached_property
    def order(self) -> Order:
        return Order(len(self.clips), self.config.global_batch_size, self.config.seed)

    def batch(self, step: int, slots: range) -> tuple[Tensor, Tensor]:
        """The clips of some slots of a step."""
        pairs = [
            self.clips.clip(self.order.index(step, slot), generator(self.config.seed, 1, step, slot)) for slot in slots
        ]
        videos = torch.stack([video for video, _ in pairs]).float() / 127.5 - 1
        return videos, torch.tensor([label for _, label in pairs])


class FolderClips:
    """Real videos: every file of a folder, or, where it has sub-folders, of these, which are the classes.

    A clip is num_frames frames, frame_interval apart, from a random start; the short side is resized to image_size
    (antialiased) and the middle cut out. There are config.clips of them, the videos in turn, and at least one of each.
    Videos that are damaged or too short are left out when the folder is opened, each with a warning that names it.
    Where all that is left fits in MEMORY once resized, each video is decoded once and kept.
    ValueError: nothing is left. FileNotFoundError: no such folder.
    """

    def __init__(self, config: TrainConfig):
        self.config, root = config, Path(config.data)
        everything = list_videos(root)
        classes = sorted({path.relative_to(root).parts[0] for path in everything if path.parent != root})
        self.names = [name for name in classes if (root / name).is_dir()]
        self.videos: list[tuple[Path, int, int]] = []
        for path in everything:
            part = path.relative_to(root).parts[0] if path != root else ""
            if self.names and path.parent == root and part not in self.names:
                warnings.warn(f"{path} lies beside the class folders; left out", stacklevel=2)
                continue
            try:
                frames = count_frames(path)
                read_video(path, [0, min(frames, self.span) - 1])
            except ValueError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
                continue
            if frames < self.span:
                warnings.warn(f"{path} has {frames} frames, a clip needs {self.span}; left out", stacklevel=2)
                continue
            self.videos.append((path, frames, self.names.index(part) if self.names else 0))
        if not self.videos:
            raise ValueError(f"{root} holds no video of {self.span} frames or more that can be decoded")
        frame = 3 * config.image_size**2
        self.keep = frame * sum(frames for _, frames, _ in self.videos) <= MEMORY
        self.kept: dict[Path, Tensor] = {}

    @property
    def span(self) -> int:
        """Frames that a clip reaches over."""
        return (self.config.num_frames - 1) * self.config.frame_interval + 1

    def __len__(self) -> int:
        return max(len(self.videos), self.config.clips)

    def clip(self, index: int, random: torch.Generator) -> tuple[Tensor, int]:
        """A window of a video, resized and cut."""
        path, frames, label = self.videos[index % len(self.videos)]
        start = int(torch.randint(frames - self.span + 1, (), generator=random))
        mirror = self.config.flip and bool(torch.rand((), generator=random) < 0.5)
        window = range(start, start + self.span, self.config.frame_interval)
        if self.keep:
            if path not in self.kept:
                self.kept[path] = resize_and_crop(read_video(path, range(frames))[0], self.config.image_size)
            video = self.kept[path][window.start : window.stop : window.step]
        else:
            video = resize_and_crop(read_video(path, window)[0], self.config.image_size)
        return (video.flip(-1) if mirror else video), label


def resize_and_crop(video: Tensor, size: int) -> Tensor:
    """(f, 3, h, w) bytes -> (f, 3, size, size): the short side resized with antialiasing, the middle cut out."""
    h, w = video.shape[-2:]
    height, width = max(size, round(h * size / min(h, w))), max(size, round(w * size / min(h, w)))
    resized = F.interpolate(video.float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    top, left = (height - size) // 2, (width - size) // 2
    return resized[..., top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)


def open_clips(config: TrainConfig) -> Clips:
    """The data that config.data names."""
    return ShapeClips(config) if config.data == "shapes" else FolderClips(config)
