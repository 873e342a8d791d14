"""Clips that a model makes as they are asked for: where a folder's would be read, with no file in between."""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from latte.commands.sampling_options import opened
from latte.eval.clip_sets import ClipSet, ClipWindow, choose_clips, start_of
from latte.eval.protocol import Protocol
from latte.eval.statistics import is_statistics
from latte.pipeline import LattePipeline
from latte.processes import Ranks
from latte.sample_many import call_arguments, one_thread, sample_many, set_record
from latte.text.embed import read_prompts
from latte.weights.folder import CONFIG
from latte.weights.load import BUNDLED
from latte.weights.tensors import digest


@dataclass(frozen=True)
class ModelClips:
    """Videos 0 to count - 1 of a pipeline, each a function of `record` and its number; stands where a ClipSet does."""

    pipe: LattePipeline
    labels: list[int] | list[str] | None
    settings: dict
    record: dict
    protocol: Protocol  # by which a clip is taken of each
    seed: int  # likewise
    frames: int  # of a video
    sizes: dict[str, int]  # as a ClipSet has them

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any of the videos."""
        about = [self.record, self.protocol.frames]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def clips(self) -> tuple[ClipWindow, ...]:
        """Numbered; what they depend on stands for their content."""
        names, protocol = [f"{i:06d}" for i in range(self.protocol.clips)], self.protocol
        # by the names that its files would have
        starts = [start_of(protocol, "generated", self.seed, f"{name}.mkv", self.frames) for name in names]
        stride = protocol.generated_stride
        return tuple(ClipWindow(*clip, stride, protocol.frames, self.fingerprint) for clip in zip(names, starts))

    @property
    def about(self) -> dict:
        """What a result holds of them."""
        return {
            "clips": self.protocol.clips,
            "sizes": self.sizes,
            "fingerprint": self.fingerprint,
            "made_by": self.record,
        }

    def stream(self, chosen: Sequence[ClipWindow]) -> Iterator[Tensor]:
        """Consecutive clips, uint8 (f, 3, h, w), made batch by batch."""
        size, first = self.settings["batch_size"], int(chosen[0].name)
        options = {**self.settings, "output_type": "uint8", "progress": False}
        for start in range(first, first + len(chosen), size):
            unit = range(start, min(start + size, first + len(chosen)))
            with one_thread():  # as more of them round differently
                videos = self.pipe(**call_arguments(self.pipe, self.labels, unit), **options, first=start).frames
            for clip, video in zip(chosen[start - first :], videos):
                yield video[clip.start :: clip.stride][: clip.frames]


def is_model(name: str) -> bool:
    """Whether a name is a model's, and not a folder of videos or a file of statistics."""
    path = Path(name)
    inside = (CONFIG, f"transformer/{CONFIG}", "final", "checkpoints", "ema.safetensors")
    shipped = name in {folder.name for folder in BUNDLED.iterdir()}
    if is_statistics(path):
        return False
    return shipped or not path.is_dir() or any((path / part).exists() for part in inside)


def model_clips(args: argparse.Namespace, protocol: Protocol, ranks: Ranks) -> ModelClips | ClipSet:
    """What args.model makes: in memory, or, with args.samples, as files in that folder.

    Classes take turns, and prompts, the lines of args.prompts. ValueError: there are none, videos are too short for the
    protocol, or see opened and sample_many.
    """
    pipe, settings, files = opened(args)
    of_text = pipe.takes_prompts
    if of_text != bool(args.prompts):
        raise ValueError(
            f"{args.model} makes videos of {'prompts: give' if of_text else 'no prompts: leave out'} --prompts"
        )
    config = pipe.transformer.config
    labels = read_prompts(args.prompts) if of_text else list(range(config.num_classes)) or None
    frames = config.video_length if of_text else config.num_frames
    if frames < protocol.frames * protocol.generated_stride:
        raise ValueError(f"{args.model} makes videos of {frames} frames; protocol {protocol.name} needs more")
    if pipe.vae is None:
        raise ValueError(f"{args.model} has no VAE to decode with: give --vae")
    about = {"model": args.model, "sha256": [digest(file) for file in files]}
    about |= {name: getattr(args, name) for name in ("weights", "dtype", "memory")}
    if args.samples:
        rank = {"rank": ranks.rank, "world_size": ranks.size}
        sample_many(pipe, protocol.clips, args.samples, labels, settings, about, **rank, progress=ranks.first)
        return choose_clips(args.samples, protocol, "generated", args.seed, only=protocol.clips)
    record = set_record(pipe, labels, settings, about, fps=0)
    side = (config.sample_size if of_text else config.input_size) * pipe.vae.factor
    sizes = {f"{side}x{side}": protocol.clips}
    return ModelClips(pipe, labels, settings, record, protocol, args.seed, frames, sizes)
