"""The built-in moving shapes as training clips (`data=shapes`)."""

from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path

import torch

from latte.shapes.draw import MOTIONS, ShapeClip, is_held_out, make_clip
from latte.train.base_config import TrainConfig
from latte.train.data.clips import TrainingClip, WholeVideo
from latte.train.data.failures import Failures
from latte.train.data.windows import by_stride
from latte.video.pixels import from_uint8


@dataclass
class ShapeClips:
    """Windows of the built-in moving shapes, drawn on demand; see `Clips`.

    A whole motion has `config.shape_frames` frames. Text-to-video training skips the combinations that
    `latte.shapes.draw.is_held_out` holds out: they test whether a model generalises to captions that it never saw.

    Raises:
        ValueError: `config.image_size` is too small for the shapes.
    """

    config: TrainConfig

    def __post_init__(self):
        make_clip(self.config.seed, 0, size=self.config.image_size)  # raises if the size is too small
        self.failures = Failures(len(self), 1.0)

    @property
    def names(self) -> list[str]:
        return list(MOTIONS) if self.config.classes else []

    @property
    def fingerprint(self) -> str:
        return f"shapes {self.config.seed}"

    @property
    def former_fingerprint(self) -> str:
        return self.fingerprint

    def __len__(self) -> int:
        return self.config.clips

    @property
    def num_videos(self) -> int:
        return len(self)

    @cached_property
    def numbers(self) -> list[int]:
        """The number that each clip has in the infinite built-in data set."""
        if self.config.kind != "t2v":
            return list(range(len(self)))
        return list(islice((i for i in count() if not is_held_out(self.without_frames(i))), len(self)))

    @cached_property
    def captions(self) -> list[str]:
        return sorted({self.without_frames(number).caption for number in self.numbers})

    def without_frames(self, number: int) -> ShapeClip:
        """A clip of the built-in data set with all its attributes but no frames, which need not be drawn."""
        return make_clip(self.config.seed, number, size=self.config.image_size, window=slice(0))

    def clip(self, index: int, random: torch.Generator) -> TrainingClip:
        cfg = self.config
        frames = by_stride(cfg.shape_frames, cfg.num_frames, cfg.frame_interval, random)
        return self.training_clip(index, slice(frames.start, frames.stop, frames.step))

    def frame(self, index: int, random: torch.Generator) -> TrainingClip:
        position = int(torch.randint(self.config.shape_frames, (), generator=random))
        return self.training_clip(index, slice(position, position + 1))

    def full_video(self, number: int) -> WholeVideo:
        clip = self.training_clip(number, slice(None))
        return WholeVideo(Path("shapes", str(number)), iter([clip.video]), clip.label, clip.caption)

    def shape_clip(self, index: int, window: slice = slice(None)) -> ShapeClip:
        """Return clip `index` with all its attributes.

        Args:
            index: Number of the clip.
            window: The frames to draw; by default the whole motion.
        """
        cfg = self.config
        return make_clip(cfg.seed, self.numbers[index], frames=cfg.shape_frames, size=cfg.image_size, window=window)

    def training_clip(self, index: int, window: slice) -> TrainingClip:
        """A window of a motion, ready for a batch."""
        clip = self.shape_clip(index, window)
        label = clip.label if self.config.classes else 0
        return TrainingClip(from_uint8(torch.from_numpy(clip.video)), label, clip.caption)
