"""Clips of real videos: those of a folder, or of the list that `latte prepare` wrote."""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from latte.arguments import counted
from latte.progress import Progress
from latte.train.base_config import TrainConfig
from latte.train.data.captions import TABLES, Captions, caption_file
from latte.train.data.clips import Clips, TrainingClip, WholeVideo
from latte.train.data.content_digests import ContentDigests, progress
from latte.train.data.decoded_cache import DecodedCache
from latte.train.data.failures import Failures
from latte.train.data.layouts import describe_ignored, find_any_videos, reject_unprintable_classes
from latte.train.data.shape_clips import ShapeClips
from latte.train.data.splits import abbreviate, split_names
from latte.train.data.transforms import flip, transform
from latte.train.data.video_list import (
    VIDEO_LIST,
    VideoList,
    is_without_list,
    open_video_list,
    size_in_bytes,
    with_contents,
)
from latte.train.data.windows import choose_frames, min_video_frames
from latte.video.array_ranges import check_ranges
from latte.video.damage import WhenDamaged
from latte.video.formats import DamagedVideoError
from latte.video.pixels import from_uint8
from latte.video.read import count_frames, read_blocks, read_video


def open_clips(config: TrainConfig) -> Clips:
    """Open the data that `config.data` names: the built-in shapes, or a folder of videos (see `FolderClips`)."""
    if config.data == "shapes":
        return ShapeClips(config)
    if not Path(config.data).is_dir():
        raise FileNotFoundError(f"no folder of videos at {config.data}: give data=FOLDER")
    return FolderClips(config)


class SourceVideo(NamedTuple):
    """A video that clips are taken from."""

    path: Path
    frames: int
    label: int  # index of the class; 0 if there are no classes
    caption: str  # empty if there is none
    when_damaged: WhenDamaged = "raise"  # how it is read


class FolderClips:
    """Clips of real videos; see `Clips`.

    `config.data` is a folder of videos (`layouts.find_any_videos`), or a folder with the index.json of `latte prepare`,
    whose videos are not decoded again to be checked. With `config.classes` off, class folders are ignored. In
    text-to-video training, every video needs a caption (`latte.train.data.captions`).

    A clip's frames are chosen by `config.selection` and made square by `config.transform`. There are `config.clips`
    clips, or one per video if there are more videos.

    Videos of a folder that are damaged or too short are left out when it is opened, with a warning for each damaged one
    and one warning for all short ones. Videos are decoded in full as long as they fit in the cache together
    (`DecodedCache`); only the first frames of the others are. If a video cannot be read later, the next one takes its
    place. With `config.damaged` "take", all are decoded in full, and damaged ones are read with FFmpeg's error
    concealment. In a list, `latte prepare --damaged take` marks the damaged ones.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: No video can be used, more than `config.failed_share` of them cannot, the list is damaged,
            `config.damaged` is "take" for a list, or the name of a class cannot be printed.
    """

    def __init__(self, config: TrainConfig):
        self.config, self.root = config, Path(config.data)
        self.min_frames = min_video_frames(config.selection, config.num_frames, config.frame_interval)
        self.cache = DecodedCache(config.image_size)
        self.videos: list[SourceVideo] = []
        self.short: dict[Path, int] = {}  # videos with too few frames, and how many they have
        self.uncaptioned: list[Path] = []
        self.listed: VideoList | None = None
        if is_without_list(self.root):
            raise ValueError(
                f"{self.root / VIDEO_LIST} is missing: run `latte prepare` again, or give the videos' folder"
            )
        if (self.root / VIDEO_LIST).is_file():
            self.open_list()
        else:
            self.open_folder()
        reject_unprintable_classes(self.root, self.names)
        self.note_short()
        self.note_missing_captions()
        if not self.videos:
            raise ValueError(f"{self.root} holds no video of {self.min_frames} frames or more that can be decoded")
        self.failures.raise_if_too_many()
        if taken := [video.path for video in self.videos if video.when_damaged == "take"]:
            count = (
                f"{counted(len(taken), 'damaged video is', 'damaged videos are')} read with FFmpeg's error concealment"
            )
            warnings.warn(f"{self.root}: {count}, such as {taken[0]}", stacklevel=3)

    def open_list(self) -> None:
        """Take the videos that `latte prepare` listed, which must exist and still have their sizes."""
        if self.config.damaged == "take":
            raise ValueError(f"damaged=take does nothing with the list in {self.root}: give it to `latte prepare`")
        listed = open_video_list(self.root)
        self.names = listed.classes if self.config.classes else []
        if splits := split_names(self.names):
            warnings.warn(f"{self.root} lists {abbreviate(splits)} as classes: are they splits?", stacklevel=4)
        self.former_fingerprint, self.listed = listed.former_fingerprint, listed
        self.failures = Failures(len(listed.videos), self.config.failed_share)
        for entry in listed.videos:
            label = entry.label if self.names else 0
            video = SourceVideo(listed.path(entry), entry.frames, label, entry.caption, entry.when_damaged)
            if not self.lacks_caption(video.path, video.caption) and not self.is_short(video.path, video.frames):
                self.videos.append(video)
        self.cache.cache_all_if_room(sum(video.frames for video in self.videos), max(1, self.config.num_workers))

    def open_folder(self) -> None:
        """Find the videos of the folder, and try to decode each."""
        found = find_any_videos(self.root, self.config.classes)
        self.names, videos = found.classes, found.videos
        if found.ignored:
            warnings.warn(f"{self.root}: {describe_ignored(found.ignored)}", stacklevel=4)
        self.failures = Failures(len(videos) + len(found.left_out), self.config.failed_share)
        if outside := [left.path for left in found.left_out if left.problem == "misplaced"]:
            count = counted(len(outside), "video is", "videos are")
            warnings.warn(f"left out: {count} not in a class folder: {abbreviate(outside)}", stacklevel=4)
        for path, problem, reason, _ in found.left_out:
            if problem != "misplaced":
                self.failures.note(((path, f"{path} {reason}"),), "left out")
        captions = Captions(self.root)
        for path, label in Progress(videos, desc="reading", unit="video", leave=False, disable=len(videos) < 2):
            try:
                caption = captions.of(path) if self.config.kind == "t2v" else ""
                if not self.lacks_caption(path, caption) and (video := self.try_video(path, label, caption)):
                    self.videos.append(video)
            except (OSError, ValueError) as error:
                self.failures.note(((path, str(error)),), "left out")
        captions.warn_of_unused()
        check_ranges(self.root, (video.path for video in self.videos))
        about = [f"{v.path.relative_to(self.root)} {size_in_bytes(v.path)} {v.frames} {v.label}" for v in self.videos]
        about += [repr(video.caption) for video in self.videos if video.caption]
        self.former_fingerprint = hashlib.sha256("\n".join(about).encode(errors="surrogateescape")).hexdigest()

    def try_video(self, path: Path, label: int, caption: str) -> SourceVideo | None:
        """Decode a video, all of it or its first frames; None if it is too short. Raises ValueError if it is broken."""
        when_damaged: WhenDamaged = "raise"
        try:
            frames = self.count_readable(path, when_damaged)
        except DamagedVideoError:
            if self.config.damaged != "take":
                raise
            when_damaged = "take"
            frames = self.count_readable(path, when_damaged)
        if self.is_short(path, frames):
            self.cache.videos.pop(path, None)
            return None
        return SourceVideo(path, frames, label, caption, when_damaged)

    def count_readable(self, path: Path, damaged: WhenDamaged) -> int:
        """Decode a video, all of it or its first frames, and return how many frames it has. Raises ValueError."""
        frames = count_frames(path, damaged)
        decoded = self.cache.try_decoding(path, frames, damaged) if self.config.transform == "ours" else None
        if decoded is not None:
            return decoded
        if self.config.damaged == "take":  # then every frame is decoded, since damage does not show otherwise
            return sum(len(block) for block in read_blocks(path, damaged=damaged))
        read_video(path, [0, min(frames, self.min_frames) - 1], damaged)
        return frames

    def is_short(self, path: Path, frames: int) -> bool:
        """Whether a video is too short for a clip; if so, it is noted."""
        self.short |= {path: frames} if frames < self.min_frames else {}
        return path in self.short

    def note_short(self) -> None:
        """Warn of videos that are too short, all at once. Raises ValueError if there are too many."""
        if self.short:
            of_all = f"of {counted(self.failures.total, 'video')}"
            which = counted(len(self.short), f"{of_all} has", f"{of_all} have")
            known = " and ".join(f"{path} with {frames}" for path, frames in [*self.short.items()][:2])
            message = f"{self.root}: {which} fewer than the {self.min_frames} frames that a clip needs, such as {known}"
            enough = min_video_frames(self.config.selection, self.config.num_frames, frame_interval=1)
            kept = sum(frames >= enough for frames in self.short.values())
            message += f" (frame_interval=1 would keep {kept} of them)" if kept else ""
            reason = f"{{}} has {{}} frames, but a clip needs {self.min_frames}"
            self.failures.note_alike({path: reason.format(path, n) for path, n in self.short.items()}, message)

    def lacks_caption(self, path: Path, caption: str) -> bool:
        """Whether a video lacks the caption that text-to-video training needs; if so, it is noted."""
        lacks = self.config.kind == "t2v" and not caption
        self.uncaptioned += [path] if lacks else []
        return lacks

    def note_missing_captions(self) -> None:
        """Warn of videos without captions, all at once. Raises ValueError if there are too many."""
        if self.uncaptioned:
            first = self.uncaptioned[0]
            of_all = f"of {counted(self.failures.total, 'video')}"
            which = counted(len(self.uncaptioned), f"{of_all} has", f"{of_all} have")
            advice = f"write it to {caption_file(first).name} beside it, or to {TABLES[0]}"
            again = ", then run `latte prepare` again" if self.listed else ""
            message = f"{self.root}: {which} no caption, such as {first}: {advice}{again}"
            self.failures.note_alike(dict.fromkeys(self.uncaptioned, "it has no caption"), message)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the videos and their contents, read now. Raises ValueError if a listed video has changed."""
        if self.listed:
            return with_contents(self.listed, self.root / VIDEO_LIST).fingerprint
        with ContentDigests(self.root) as digests:
            contents = [digests.of(video.path) for video in progress(self.videos)]
        return hashlib.sha256(" ".join([self.former_fingerprint, *contents]).encode()).hexdigest()

    @property
    def num_videos(self) -> int:
        return len(self.videos)

    def __len__(self) -> int:
        return max(self.num_videos, self.config.clips)

    @property
    def captions(self) -> list[str]:
        return sorted({video.caption for video in self.videos})

    def clip(self, index: int, random: torch.Generator) -> TrainingClip:
        cfg = self.config
        choose = lambda frames: choose_frames(cfg.selection, frames, cfg.num_frames, cfg.frame_interval, random)
        return self.first_readable(index, choose, random)

    def frame(self, index: int, random: torch.Generator) -> TrainingClip:
        choose = lambda frames: [int(torch.randint(frames, (), generator=random))]
        return self.first_readable(index, choose, random)

    def first_readable(
        self, index: int, choose: Callable[[int], Sequence[int]], random: torch.Generator
    ) -> TrainingClip:
        """Read the frames that `choose` picks from clip `index`'s video, or from the next video that can be read."""
        failed = ()
        for attempt in range(self.num_videos):
            video = self.videos[(index + attempt) % self.num_videos]
            try:
                pixels = self.read(video, choose(video.frames), random)
                return TrainingClip(pixels, video.label, video.caption, failed)
            except (OSError, ValueError) as error:
                failed += ((video.path, str(error)),)
        raise ValueError(f"{self.root}: none of its videos can be decoded any more: check that the folder is intact")

    def read(self, video: SourceVideo, frames: Sequence[int], random: torch.Generator) -> Tensor:
        """Read some frames of a video, mirrored at random if `config.flip`, as (f, 3, h, w) in [-1, 1]."""
        cfg = self.config
        mirror = lambda pixels: flip(pixels, random) if cfg.flip else pixels
        if cfg.transform == "ours":  # frames from the cache are square already: mirroring comes last
            return from_uint8(mirror(self.cache.read(video.path, frames, video.when_damaged)))
        pixels, _ = read_video(video.path, frames, video.when_damaged)
        return transform(cfg.transform, mirror(pixels), cfg.image_size)

    def full_video(self, number: int) -> WholeVideo:
        video, cfg = self.videos[number], self.config
        pixels = read_blocks(video.path, damaged=video.when_damaged)
        blocks = (transform(cfg.transform, block, cfg.image_size) for block in pixels)
        return WholeVideo(video.path, blocks, video.label, video.caption)
