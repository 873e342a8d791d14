"""The interface of every source of training clips: clips by number, whatever they are made from."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from latte.train.data.failures import Failures


class TrainingClip(NamedTuple):
    """A clip, or a still image as a clip of one frame, that is ready for a batch."""

    video: Tensor  # (f, 3, h, w) in [-1, 1]
    label: int  # index of the class; 0 if there are no classes
    caption: str  # empty if there is none
    failed: tuple[tuple[Path, str], ...] = ()  # videos that this clip replaces, and why they could not be read


class WholeVideo(NamedTuple):
    """A video from its first to its last frame."""

    path: Path
    blocks: Iterator[Tensor]  # its frames, (n, 3, h, w) in [-1, 1] each; reading them can raise OSError or ValueError
    label: int  # index of the class; 0 if there are no classes
    caption: str  # empty if there is none


class TrainingData(Protocol):
    """The data of a run, clips or their stored latents: clips numbered from 0 to len(data) - 1.

    Clip i is a window of video i % num_videos: with more clips than videos, the videos take turns.

    Attributes:
        names: Names of the classes; empty for unconditional training.
        captions: All distinct captions, sorted.
        fingerprint: A string that changes if a clip's number comes to mean another video, or a video's content changes.
        former_fingerprint: The fingerprint of earlier versions, by which their runs recognise the data.
        num_videos: Number of videos that the clips are taken from.
        failures: Videos that could not be used.
    """

    names: list[str]
    captions: list[str]
    fingerprint: str
    former_fingerprint: str
    num_videos: int
    failures: Failures

    def __len__(self) -> int: ...


class Clips(TrainingData, Protocol):
    """Training data that has pixels."""

    def clip(self, index: int, random: torch.Generator) -> TrainingClip:
        """Return clip `index`, with its frames chosen by `random`."""

    def frame(self, index: int, random: torch.Generator) -> TrainingClip:
        """Return one frame, chosen by `random`, of the video that clip `index` is taken from."""

    def full_video(self, number: int) -> WholeVideo:
        """Return a whole video; its frames are read on demand."""
