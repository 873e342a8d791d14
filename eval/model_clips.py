"""Clips that a pipeline generates on demand, in place of clips from files."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from latte.device import one_thread
from latte.eval.clip_sets import ClipSet, choose_clips
from latte.eval.clip_windows import ClipWindow, fitting, start_of
from latte.eval.protocol import Protocol
from latte.outputs import require_vae
from latte.pipeline import LattePipeline
from latte.processes import Ranks
from latte.sample_many import call_arguments, sample_many, set_record


@dataclass(frozen=True)
class ModelVideos:
    """Videos of a pipeline, from which a protocol has not taken clips yet: a generated side for the metrics.

    Attributes:
        pipe: The pipeline that generates them.
        labels: Classes or prompts; video i shows number i % len(labels). None: the model is unconditional.
        settings: Options of the pipeline's call, among them `batch_size` and `seed`.
        about: What else they depend on, such as the sha256 of the weights; "model" is the model's name for messages.
        folder: Where the videos are written, lossless, as by `latte sample --n`. None: they are not kept.
    """

    pipe: LattePipeline
    labels: list[int] | list[str] | None
    settings: dict
    about: dict
    folder: Path | None = None

    def choose(
        self, protocol: Protocol, seed: int, ranks: Ranks | None = None, progress: bool = False
    ) -> "ModelClips | ClipSet":
        """Take protocol.clips clips, one from each video.

        Args:
            protocol: Says which clips to take.
            seed: For the protocol's random choices.
            ranks: The processes that share the sampling into `folder`.
            progress: Whether the first process shows a progress bar for that.

        Raises:
            ValueError: The model has no VAE, or its videos are too short for the protocol; or see sample_many.
        """
        name, ranks = self.about.get("model", "the model"), ranks or Ranks()
        frames, side = self.pipe.conditioning.trained_size(self.pipe.transformer.config)
        if not protocol.stride_in("generated", frames):
            advice = fitting(frames, "generated", protocol.generated_stride)
            raise ValueError(f"{name} makes videos of {frames} frames; protocol {protocol.name} needs more: {advice}")
        require_vae(self.pipe.vae, name)
        if self.folder:
            among = {"rank": ranks.rank, "world_size": ranks.size, "progress": progress and ranks.first}
            count, options = protocol.clips, (self.labels, self.settings, self.about)
            sample_many(self.pipe, count, self.folder, *options, **among)
            return choose_clips(self.folder, protocol, "generated", seed, only=count)
        record = set_record(self.pipe, self.labels, self.settings, self.about, fps=0)
        size = side * self.pipe.vae.factor
        sizes = {f"{size}x{size}": protocol.clips}
        return ModelClips(self.pipe, self.labels, self.settings, record, protocol, seed, frames, sizes)


@dataclass(frozen=True)
class ModelClips:
    """One clip from each of a pipeline's videos 0 to protocol.clips - 1, sampled on demand.

    Attributes:
        pipe: The pipeline that generates them.
        labels: Classes or prompts in turn; see ModelVideos.
        settings: Options of the pipeline's call.
        record: Everything that the videos depend on, besides their number.
        protocol: Says which clip is taken from each.
        seed: For the protocol's random choices.
        frames: Frames per video.
        sizes: Frame sizes, such as "256x256", and how many videos have each.
    """

    pipe: LattePipeline
    labels: list[int] | list[str] | None
    settings: dict
    record: dict
    protocol: Protocol
    seed: int
    frames: int
    sizes: dict[str, int]

    @cached_property
    def fingerprint(self) -> str:
        """A hash that changes with any of the videos."""
        about = [self.record, self.protocol.frames]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def clips(self) -> tuple[ClipWindow, ...]:
        """The clips, by the numbers of their videos; the fingerprint stands for their content."""
        names, protocol = [f"{i:06d}" for i in range(self.protocol.clips)], self.protocol
        # drawn by the names that `latte sample --n` would give the files
        starts = [start_of(protocol, "generated", self.seed, f"{name}.mkv", self.frames) for name in names]
        stride = protocol.generated_stride
        return tuple(ClipWindow(*clip, stride, protocol.frames, self.fingerprint) for clip in zip(names, starts))

    @property
    def about(self) -> dict:
        """A description for the result."""
        return {
            "clips": self.protocol.clips,
            "sizes": self.sizes,
            "fingerprint": self.fingerprint,
            "made_by": self.record,
        }

    def stream(self, chosen: Sequence[ClipWindow]) -> Iterator[Tensor]:
        """Yield consecutive clips, uint8 (f, 3, h, w), sampled batch by batch."""
        size, first = self.settings.get("batch_size", 1), int(chosen[0].name)
        options = {**self.settings, "output_type": "uint8", "progress": False}
        for start in range(first, first + len(chosen), size):
            unit = range(start, min(start + size, first + len(chosen)))
            with one_thread():  # more threads round differently
                videos = self.pipe(**call_arguments(self.pipe, self.labels, unit), **options, first=start).frames
            for clip, video in zip(chosen[start - first :], videos):
                yield clip.of(video)
