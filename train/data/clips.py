"""Training clips by number: what they are, the built-in ones, and those that cannot be read."""

import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from latte.shapes.draw import MOTIONS, ShapeClip, is_held_out, make_clip
from latte.train.config import TrainConfig
from latte.train.data.windows import by_stride
from latte.video.pixels import from_uint8


class TrainingClip(NamedTuple):
    """What stands in a place of a batch."""

    video: Tensor  # (f, 3, h, w) in [-1, 1]
    label: int  # 0 where there are no classes
    caption: str  # empty where there is none
    failed: tuple[tuple[Path, str], ...] = ()  # videos that should have stood there and could not be read, and why


@dataclass
class Failures:
    """Videos that could not be used, each told once."""

    total: int
    share: float
    reasons: dict[Path, str] = field(default_factory=dict)
    log: Path | None = None  # a line for each is appended there

    def keep(self, log: Path, writes: bool) -> None:
        """Go on with a file that an earlier process began. writes: what is known by now goes into it."""
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        before = {Path(path): reason for path, tab, reason in (line.partition("\t") for line in lines) if tab}
        self.log = log
        for path, reason in self.reasons.items() if writes else ():
            if path not in before:
                self.write(path, reason)
        self.reasons |= before

    def write(self, path: Path, reason: str) -> None:
        """Append a line; a full disk costs no more than that."""
        with suppress(OSError):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a") as file:
                file.write(f"{path}\t{' '.join(reason.split())}\n")

    def note(self, failed: tuple[tuple[Path, str], ...], what: str) -> None:
        """Take some up, with a warning for each new one; `what` becomes of them."""
        for path, reason in failed:
            if path not in self.reasons:
                self.reasons[path] = reason
                if self.log:
                    self.write(path, reason)
                warnings.warn(f"{what}: {reason}", stacklevel=3)

    def check(self) -> None:
        """ValueError: they are more than the share of all that is allowed."""
        if len(self.reasons) > self.share * self.total:
            last = list(self.reasons.values())[-1]
            raise ValueError(
                f"{len(self.reasons)} of {self.total} videos cannot be used, more than failed_share={self.share:g} "
                f"allows; the last: {last}"
            )


class Clips(Protocol):
    """Numbered clips, made of `videos` whole ones, which a number stands for in turn."""

    names: list[str]  # of the classes; empty: unconditional
    captions: list[str]  # all that clips have
    fingerprint: str  # changes when a clip's number comes to mean another video
    videos: int
    failures: Failures

    def __len__(self) -> int: ...
    def clip(self, index: int, random: torch.Generator) -> TrainingClip: ...
    def frame(self, index: int, random: torch.Generator) -> TrainingClip:
        """One frame of the clip's video."""

    def whole(self, video: int) -> tuple[Iterator[Tensor], int, str]:
        """All frames of a video, in blocks (n, 3, h, w) in [-1, 1], its class and caption; ValueError on the way."""


@dataclass
class ShapeClips:
    """The built-in moving shapes: windows of motions of config.shape_frames frames.

    With captions, those of latte.shapes.draw.is_held_out are passed over: they are for judging what was learned.
    """

    config: TrainConfig

    def __post_init__(self):
        make_clip(self.config.seed, 0, size=self.config.image_size)  # which says if that is too small
        self.failures = Failures(len(self), 1.0)

    @property
    def names(self) -> list[str]:
        return list(MOTIONS) if self.config.classes else []

    @property
    def fingerprint(self) -> str:
        return f"shapes {self.config.seed}"

    def __len__(self) -> int:
        return self.config.clips

    @property
    def videos(self) -> int:
        return len(self)

    @cached_property
    def numbers(self) -> list[int]:
        """Of the clips, in the endless row that the built-in data set is."""
        if self.config.kind != "t2v":
            return list(range(len(self)))
        nothing = dict(size=self.config.image_size, window=slice(0))
        clips = ((i, make_clip(self.config.seed, i, **nothing)) for i in count())
        return list(islice((i for i, clip in clips if not is_held_out(clip)), len(self)))

    @cached_property
    def captions(self) -> list[str]:
        nothing = dict(size=self.config.image_size, window=slice(0))
        return sorted({make_clip(self.config.seed, i, **nothing).caption for i in self.numbers})

    def clip(self, index: int, random: torch.Generator) -> TrainingClip:
        """Clip `index`, drawn anew each time."""
        cfg = self.config
        chosen = by_stride(cfg.shape_frames, cfg.num_frames, cfg.frame_interval, random)
        return self.drawn(index, slice(chosen.start, chosen.stop, chosen.step))

    def frame(self, index: int, random: torch.Generator) -> TrainingClip:
        place = int(torch.randint(self.config.shape_frames, (), generator=random))
        return self.drawn(index, slice(place, place + 1))

    def whole(self, video: int) -> tuple[Iterator[Tensor], int, str]:
        sample = self.drawn(video, slice(None))
        return iter([sample.video]), sample.label, sample.caption

    def truth(self, index: int) -> ShapeClip:
        """Clip `index` with all that is known about it."""
        return self.made(index, slice(None))

    def made(self, index: int, window: slice) -> ShapeClip:
        """A window of a motion."""
        cfg = self.config
        return make_clip(cfg.seed, self.numbers[index], frames=cfg.shape_frames, size=cfg.image_size, window=window)

    def drawn(self, index: int, window: slice) -> TrainingClip:
        """The same, as it stands in a batch."""
        cfg, clip = self.config, self.made(index, window)
        return TrainingClip(from_uint8(torch.from_numpy(clip.video)), clip.label if cfg.classes else 0, clip.caption)
