"""Clips of real videos: a folder of them, or the list that `latte prepare` wrote."""

import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from latte.train.config import TrainConfig
from latte.train.data.clips import Clips, Failures, ShapeClips, TrainingClip
from latte.train.data.transforms import TRANSFORMS, flip
from latte.train.data.video_list import VIDEO_LIST, open_index, size_of
from latte.train.data.windows import choose_frames, least_frames
from latte.video.pixels import from_uint8, resize_and_crop
from latte.video.read import count_frames, list_videos, read_blocks, read_video

DECODED = 4 << 30  # bytes of decoded videos: so many are tried whole, and may be kept on a machine


def room() -> int:
    """Bytes that may be kept in this process, which may be one of several."""
    return DECODED // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


class SourceVideo(NamedTuple):
    """A video of the data set."""

    path: Path
    frames: int
    label: int
    caption: str


class FolderClips:
    """Real videos: every file of a folder, or, where it has two sub-folders or more, of these, which are the classes
    unless config.classes is off; or the videos of an index.json there, which are not looked at again.

    A clip's frames are chosen by config.selection and made square by config.transform. There are config.clips of them,
    the videos in turn, and at least one of each. Videos that are damaged or too short are left out when the folder is
    opened, each with a warning that names it. As many as fit in DECODED bytes once resized are decoded whole, and, as
    far as this process has room, kept; of the others only their beginning is tried, and a clip whose video fails later
    is taken from the next one. A video's caption is the text file of its name beside it (clip.mp4, clip.txt), which
    text-to-video training needs. ValueError: nothing is left, more than config.failed_share is left out, or a class has
    no name to show. FileNotFoundError: no such folder.
    """

    def __init__(self, config: TrainConfig):
        self.config, self.root = config, Path(config.data)
        self.least = least_frames(config.selection, config.num_frames, config.frame_interval)
        self.sources: list[SourceVideo] = []
        self.kept: dict[Path, Tensor] = {}
        self.keeps = False  # whether videos are kept, once they were decoded
        self.tried = 0  # bytes of videos that were decoded whole: the same in any number of processes
        self.open_list() if (self.root / VIDEO_LIST).is_file() else self.open_folder()
        if odd := [name for name in self.names if not name.isprintable()]:
            raise ValueError(f"{self.root}: the class folder {odd[0]!r} has letters that cannot be printed: rename it")
        if not self.sources:
            raise ValueError(f"{self.root} holds no video of {self.least} frames or more that can be decoded")
        self.failures.check()

    def open_list(self) -> None:
        """Take in what `latte prepare` found; its videos must be there and of the size that they had."""
        index = open_index(self.root)
        self.names = index.classes if self.config.classes else []
        self.failures, self.fingerprint = Failures(len(index.videos), self.config.failed_share), index.fingerprint
        for video in index.videos:
            source = SourceVideo(index.path(video), video.frames, video.label if self.names else 0, video.caption)
            wrong = self.unsuitable(source.path, source.frames, source.caption)
            if wrong:
                self.failures.note(((source.path, wrong),), "left out")
            else:
                self.sources.append(source)
        size = 3 * self.config.image_size**2 * sum(source.frames for source in self.sources)
        self.keeps = size * max(1, self.config.num_workers) <= room()

    def open_folder(self) -> None:
        """Find the videos, and try each."""
        root, found = self.root, list_videos(self.root)
        names = sorted({path.relative_to(root).parts[0] for path in found if path.parent != root and path != root})
        self.names = names if self.config.classes and len(names) > 1 else []
        self.failures = Failures(len(found), self.config.failed_share)
        for path in tqdm(found, desc="reading", unit="video", leave=False, disable=len(found) < 2):
            if self.names and root in (path, path.parent):
                warnings.warn(f"{path} lies beside the class folders; left out", stacklevel=4)
                continue
            try:
                self.add(path, self.names.index(path.relative_to(root).parts[0]) if self.names else 0)
            except ValueError as error:
                self.failures.note(((path, str(error)),), "left out")
        about = [f"{s.path.relative_to(root)} {size_of(s.path)} {s.frames} {s.label}" for s in self.sources]
        about += [repr(source.caption) for source in self.sources if source.caption]
        self.fingerprint = hashlib.sha256("\n".join(about).encode()).hexdigest()

    def add(self, path: Path, label: int) -> None:
        """Take a video in; ValueError: it is damaged or too short, or has no caption where it needs one."""
        caption = caption_of(path) if self.config.kind == "t2v" else ""
        size, frames = self.config.image_size, count_frames(path)
        if self.config.transform == "ours" and 3 * size**2 * frames <= DECODED - self.tried:
            video = self.decoded(path)
            frames, self.tried = len(video), self.tried + video.nbytes
            if video.nbytes <= room() - sum(other.nbytes for other in self.kept.values()):
                self.kept[path] = video
        else:
            read_video(path, [0, min(frames, self.least) - 1])
        if wrong := self.unsuitable(path, frames, caption):
            self.kept.pop(path, None)
            raise ValueError(wrong)
        self.sources.append(SourceVideo(path, frames, label, caption))

    def unsuitable(self, path: Path, frames: int, caption: str) -> str:
        """Why a video cannot be used; empty: it can."""
        if frames < self.least:
            return f"{path} has {frames} frames, a clip needs {self.least}"
        if self.config.kind == "t2v" and not caption:
            return f"{path} has no caption: write it to {path.with_suffix('.txt').name} beside it"
        return ""

    @property
    def videos(self) -> int:
        return len(self.sources)

    def __len__(self) -> int:
        return max(self.videos, self.config.clips)

    @property
    def captions(self) -> list[str]:
        return sorted({source.caption for source in self.sources})

    def clip(self, index: int, random: torch.Generator) -> TrainingClip:
        """Some frames of a video, square; of the next video, where that one cannot be read."""
        cfg = self.config
        choose = lambda frames: choose_frames(cfg.selection, frames, cfg.num_frames, cfg.frame_interval, random)
        return self.first_sound(index, lambda source: self.read(source, choose(source.frames), random))

    def frame(self, index: int, random: torch.Generator) -> TrainingClip:
        """One frame of a video, square."""
        choose = lambda frames: [int(torch.randint(frames, (), generator=random))]
        return self.first_sound(index, lambda source: self.read(source, choose(source.frames), random))

    def first_sound(self, index: int, read) -> TrainingClip:
        """read(source) of the video that a number stands for, or of the first after it that can be read."""
        failed = ()
        for attempt in range(self.videos):
            source = self.sources[(index + attempt) % self.videos]
            try:
                return TrainingClip(read(source), source.label, source.caption, failed)
            except (OSError, ValueError) as error:
                failed += ((source.path, str(error)),)
        raise ValueError(f"{self.root}: none of its videos can be decoded any more")

    def read(self, source: SourceVideo, frames, random: torch.Generator) -> Tensor:
        """These frames of a video, square, mirrored or not."""
        cfg = self.config
        if cfg.transform == "ours":
            video = self.bytes(source.path, frames)
            return from_uint8(flip(video, random) if cfg.flip else video)
        video = read_video(source.path, frames)[0]
        return TRANSFORMS[cfg.transform](flip(video, random) if cfg.flip else video, cfg.image_size)

    def bytes(self, path: Path, frames) -> Tensor:
        """These frames as our transform makes them, uint8."""
        if self.keeps and path not in self.kept:
            self.kept[path] = self.decoded(path)
        if path in self.kept:
            return self.kept[path][list(frames)]
        return resize_and_crop(read_video(path, frames)[0], self.config.image_size)

    def decoded(self, path: Path) -> Tensor:
        """All frames of a video as our transform makes them, uint8."""
        return torch.cat([resize_and_crop(block, self.config.image_size) for block in read_blocks(path)])

    def whole(self, video: int) -> tuple[Iterator[Tensor], int, str]:
        source, cfg = self.sources[video], self.config
        make = lambda block: TRANSFORMS[cfg.transform](block, cfg.image_size)
        return map(make, read_blocks(source.path)), source.label, source.caption


def caption_of(path: Path) -> str:
    """The caption beside a video. ValueError: there is none."""
    file = path.with_suffix(".txt")
    text = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    if not text:
        raise ValueError(f"{path} has no caption: write it to {file.name} beside it")
    return text


def open_clips(config: TrainConfig) -> Clips:
    """The data that config.data names."""
    return ShapeClips(config) if config.data == "shapes" else FolderClips(config)
