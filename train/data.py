"""Training clips by number, and which of them make up a step: everything is a function of (seed, step, slot)."""

import hashlib
import warnings
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from latte.diffusion.randomness import generator
from latte.shapes import MOTIONS, kept_apart, make_clip
from latte.train.config import TrainConfig
from latte.video import count_frames, from_uint8, list_videos, read_blocks, read_video

DECODED = 4 << 30  # bytes that decoded videos may take


class Draw(IntEnum):
    """Which of a place's draws it is: the last word of a random path, so that no two are the same numbers."""

    WINDOW = 1
    NOISE = 2
    TIMESTEP = 3
    POSTERIOR = 4
    DROP = 5
    IMAGES = 6


class Clips(Protocol):
    """Numbered clips: uint8 (f, 3, h, w), a class and a caption."""

    names: list[str]  # of the classes; empty: unconditional
    captions: list[str]  # all that clips have
    fingerprint: str  # changes when a clip's number comes to mean another video

    def __len__(self) -> int: ...
    def clip(self, index: int, random: torch.Generator) -> tuple[Tensor, int, str]: ...


@dataclass
class ShapeClips:
    """The built-in moving shapes: whole motions of num_frames frames; for a VAE, a random window of 16.

    With captions, those of latte.shapes.kept_apart are passed over: they are for judging what was learned.
    """

    config: TrainConfig

    def __post_init__(self):
        make_clip(self.config.seed, 0, size=self.config.image_size)  # which says if that is too small

    @property
    def names(self) -> list[str]:
        return list(MOTIONS)

    @property
    def fingerprint(self) -> str:
        return f"shapes {self.config.seed}"

    def __len__(self) -> int:
        return self.config.clips

    @cached_property
    def numbers(self) -> list[int]:
        """Of the clips, in the endless row that the built-in data set is."""
        if self.config.kind != "t2v":
            return list(range(len(self)))
        nothing = dict(size=self.config.image_size, window=slice(0))
        clips = ((i, make_clip(self.config.seed, i, **nothing)) for i in count())
        return list(islice((i for i, clip in clips if not kept_apart(clip)), len(self)))

    @cached_property
    def captions(self) -> list[str]:
        nothing = dict(size=self.config.image_size, window=slice(0))
        return sorted({make_clip(self.config.seed, i, **nothing).caption for i in self.numbers})

    def clip(self, index: int, random: torch.Generator) -> tuple[Tensor, int, str]:
        """Clip `index`, drawn anew each time."""
        cfg = self.config
        frames = max(16, cfg.num_frames) if cfg.kind == "vae" else cfg.num_frames
        start = int(torch.randint(frames - cfg.num_frames + 1, (), generator=random))
        window = slice(start, start + cfg.num_frames)
        clip = make_clip(cfg.seed, self.numbers[index], frames=frames, size=cfg.image_size, window=window)
        return torch.from_numpy(clip.video), clip.label, clip.caption


class ClipOrder:
    """Which clip stands in (step, slot): an endless row of permutations of the data, one an epoch."""

    def __init__(self, size: int, batch: int, seed: int):
        self.size, self.batch, self.seed, self.epoch = size, batch, seed, -1

    def index(self, step: int, slot: int) -> int:
        """The clip's number."""
        epoch, place = divmod(step * self.batch + slot, self.size)
        if epoch != self.epoch:
            self.epoch, self.permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.size)
        return int(self.permutation[place])


@dataclass
class VideoBatches:
    """Batches of pixels: step -> videos (b, f, 3, h, w) in [-1, 1] and classes (b,)."""

    clips: Clips
    config: TrainConfig

    @cached_property
    def order(self) -> ClipOrder:
        return ClipOrder(len(self.clips), self.config.global_batch_size, self.config.seed)

    def batch(self, step: int, slots: range) -> tuple[Tensor, Tensor]:
        """The clips of some slots of a step."""
        place = lambda slot: generator(self.config.seed, step, slot, Draw.WINDOW)
        clips = [self.clips.clip(self.order.index(step, slot), place(slot)) for slot in slots]
        return from_uint8(torch.stack([video for video, *_ in clips])), torch.tensor([label for _, label, _ in clips])


class FolderClips:
    """Real videos: every file of a folder, or, where it has two sub-folders or more, of these, which are the classes.

    A clip is num_frames frames, frame_interval apart, from a random start; the short side is resized to image_size
    (antialiased) and the middle cut out. There are config.clips of them, the videos in turn, and at least one of each.
    Videos that are damaged or too short are left out when the folder is opened, each with a warning that names it.
    Where all fit in DECODED bytes once resized, each is decoded once, then, and kept; where they do not, only their
    beginning is tried, and a clip whose video fails later is taken from the next one, with a warning.
    A video's caption is the text file of its name beside it (clip.mp4, clip.txt), which text-to-video training needs.
    ValueError: nothing is left, or a class has no name to show. FileNotFoundError: no such folder.
    """

    def __init__(self, config: TrainConfig):
        self.config, root = config, Path(config.data)
        found = list_videos(root)
        names = sorted({path.relative_to(root).parts[0] for path in found if path.parent != root and path != root})
        self.names = names if len(names) > 1 else []
        if odd := [name for name in self.names if not name.isprintable()]:
            raise ValueError(f"{root}: the class folder {odd[0]!r} has letters that cannot be printed: rename it")
        self.videos: list[tuple[Path, int, int]] = []
        self.kept: dict[Path, Tensor] = {}
        self.captioned: dict[Path, str] = {}
        for path in tqdm(found, desc="reading", unit="video", leave=False, disable=len(found) < 2):
            if self.names and root in (path, path.parent):
                warnings.warn(f"{path} lies beside the class folders; left out", stacklevel=2)
                continue
            try:
                self.add(path, self.names.index(path.relative_to(root).parts[0]) if self.names else 0)
            except ValueError as error:
                warnings.warn(f"left out: {error}", stacklevel=2)
        if not self.videos:
            raise ValueError(f"{root} holds no video of {self.span} frames or more that can be decoded")
        about = [f"{path.relative_to(root)} {size(path)} {frames} {label}" for path, frames, label in self.videos]
        about += [repr(caption) for caption in self.captioned.values() if caption]
        self.fingerprint = hashlib.sha256("\n".join(about).encode()).hexdigest()

    @property
    def span(self) -> int:
        """Frames that a clip reaches over."""
        return (self.config.num_frames - 1) * self.config.frame_interval + 1

    def add(self, path: Path, label: int) -> None:
        """Take a video in; ValueError: it is damaged or too short, or has no caption where it needs one."""
        caption = caption_of(path) if self.config.kind == "t2v" else ""
        size, frames = self.config.image_size, count_frames(path)
        room = DECODED - sum(video.nbytes for video in self.kept.values())
        if 3 * size**2 * frames <= room:
            video = torch.cat([resize_and_crop(block, size) for block in read_blocks(path)])
            frames, self.kept[path] = len(video), video
        else:
            read_video(path, [0, min(frames, self.span) - 1])
        if frames < self.span:
            self.kept.pop(path, None)
            raise ValueError(f"{path} has {frames} frames, a clip needs {self.span}")
        self.videos.append((path, frames, label))
        self.captioned[path] = caption

    def __len__(self) -> int:
        return max(len(self.videos), self.config.clips)

    @property
    def captions(self) -> list[str]:
        return sorted(set(self.captioned.values()))

    def clip(self, index: int, random: torch.Generator) -> tuple[Tensor, int, str]:
        """A window of a video, resized and cut."""
        for attempt in range(len(self.videos)):
            path, frames, label = self.videos[(index + attempt) % len(self.videos)]
            start = int(torch.randint(frames - self.span + 1, (), generator=random))
            mirror = self.config.flip and bool(torch.rand((), generator=random) < 0.5)
            try:
                video = self.window(path, range(start, start + self.span, self.config.frame_interval))
            except ValueError as error:
                warnings.warn(f"{error}; the next video takes its place", stacklevel=2)
                continue
            return (video.flip(-1) if mirror else video), label, self.captioned[path]
        raise ValueError(f"{self.config.data}: none of its videos can be decoded any more")

    def window(self, path: Path, frames: range) -> Tensor:
        """Some frames of a video, resized and cut."""
        if path in self.kept:
            return self.kept[path][frames.start : frames.stop : frames.step]
        return resize_and_crop(read_video(path, frames)[0], self.config.image_size)


def caption_of(path: Path) -> str:
    """The caption beside a video. ValueError: there is none."""
    file = path.with_suffix(".txt")
    text = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    if not text:
        raise ValueError(f"{path} has no caption: write it to {file.name} beside it")
    return text


def size(path: Path) -> int:
    """Bytes of a video's file, or of a folder's pictures."""
    return sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))


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
