"""The kinds of video sets that the metrics accept, and their features."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latte.arguments import counted
from latte.device import usable_device
from latte.eval.array_clips import choose_array_clips
from latte.eval.clip_sets import choose_clips
from latte.eval.features import ClipSource, Detector, compute_features
from latte.eval.model_clips import ModelVideos
from latte.eval.protocol import Protocol
from latte.eval.statistics import FeatureSet, as_features, is_features, read_feature_set
from latte.eval.tensor_files import TENSOR_SUFFIXES, find_video_tensor
from latte.processes import Ranks
from latte.video.array_files import ARRAY_SUFFIXES

TWO_CLIPS = "each side needs two clips or more"
Videos = (
    str  # a folder of videos, a file of arrays or tensors, or what latte.eval.statistics reads
    | Path
    | Sequence[str | Path]  # video files
    | Tensor  # of five dimensions: videos, see latte.eval.array_clips; of two: features (n, d)
    | np.ndarray
    | Iterable[Tensor | np.ndarray]  # clips (f, 3, h, w) or (f, h, w, 3)
    | FeatureSet
    | ModelVideos  # a model's, sampled
    | Callable[[], ModelVideos]  # which opens the model, called when everything else is known to fit
)


@dataclass(frozen=True)
class Reading:
    """How clips are chosen, and how their features are computed.

    Attributes:
        protocol: Which clips are taken from which videos.
        seed: For the protocol's random choices.
        cache: A folder where features are cached. None: they are kept in memory.
        ranks: The processes that share the work; several of them need a cache.
        progress: Whether progress bars are shown.
    """

    protocol: Protocol
    seed: int = 0
    cache: str | Path | None = None
    ranks: Ranks = field(default_factory=Ranks)
    progress: bool = False

    def open(self, videos: Videos, side: str) -> ClipSource:
        """Choose the clips of one side, "real" or "generated"; nothing is computed yet.

        Raises:
            ValueError: The videos are of no known kind, too short, too few, or otherwise not fit for the protocol.
            FileNotFoundError: There is no such folder or file.
        """
        if self.ranks.size > 1 and self.cache is None:
            raise ValueError("several processes share their features through a folder: name one (features)")
        if callable(videos):
            videos = videos()
        if isinstance(videos, ModelVideos):
            clips = videos.choose(self.protocol, self.seed, self.ranks, self.progress)
        elif isinstance(videos, str | Path):
            if Path(videos).is_file() and Path(videos).suffix.lower() not in ARRAY_SUFFIXES:
                clips = choose_array_clips(read_file(Path(videos)), self.protocol, side, self.seed)
            else:
                clips = choose_clips(videos, self.protocol, side, self.seed)
        elif isinstance(videos, Iterable):
            ragged = isinstance(videos, np.ndarray) and videos.ndim == 1 and videos.dtype == object
            in_memory = isinstance(videos, Tensor | np.ndarray) and not ragged
            videos = check_array(videos, side) if in_memory else list(videos)
            in_memory = in_memory or not all(isinstance(video, str | Path) for video in videos)
            clips = (choose_array_clips if in_memory else choose_clips)(videos, self.protocol, side, self.seed)
        else:
            kinds = "a folder, a list of video files, an array of videos, or a file of statistics or features"
            raise ValueError(f"the {side} videos are a {type(videos).__name__}: expected {kinds}")
        if len(clips.clips) < 2:
            why = "num_videos is 1" if self.protocol.clips == 1 else f"there is one {side} clip, {clips.clips[0].name}"
            raise ValueError(f"{why}: {TWO_CLIPS}")
        return clips

    def features(self, clips: ClipSource, detectors: Sequence[Detector], side: str) -> list[Tensor]:
        """Features (n, ...) of a side's clips that can be decoded, by each detector. Raises ValueError if n < 2."""
        what = f"{side} features"
        features = compute_features(clips, detectors, self.cache, self.ranks, self.progress, what)
        if len(features[0]) < 2:
            raise ValueError(f"only one of {counted(len(clips.clips), 'clip')} could be decoded: {TWO_CLIPS}")
        return features

    def feature_set(self, videos: Videos, side: str, detector: Detector) -> FeatureSet:
        """The features of one side by one detector; given features are returned unchanged.

        Raises:
            ValueError: See `open`; or given features differ in width from the detector's.
        """
        if (given := given_features(videos, side, detector)) is not None:
            return given
        clips = self.open(videos, side)
        (features,) = self.features(clips, [detector], side)  # which may find clips that cannot be read
        return FeatureSet(clips.about, features)


def read_file(path: Path) -> Tensor:
    """The videos of a file of tensors. Raises ValueError if it is another file."""
    if path.suffix.lower() not in TENSOR_SUFFIXES:
        raise ValueError(f"{path} is a file: name a folder of videos, a list of video files, or a file of arrays")
    return find_video_tensor(path)


def check_array(videos: Tensor | np.ndarray, side: str) -> Tensor | np.ndarray:
    """Videos in one array. Raises ValueError if it does not have five dimensions."""
    if videos.ndim != 5:
        shape = tuple(videos.shape)
        raise ValueError(f"the {side} videos: expected uint8 (n, f, 3, h, w) or (n, f, h, w, 3), not {shape}")
    return videos


def are_features(videos: Videos) -> bool:
    """Whether these are statistics or features, not videos."""
    if isinstance(videos, str | Path):
        return is_features(videos)
    return isinstance(videos, FeatureSet) or (isinstance(videos, Tensor | np.ndarray) and videos.ndim == 2)


def given_features(videos: Videos, side: str, detector: Detector | None = None) -> FeatureSet | None:
    """Statistics or features as they were given; None if these are videos.

    Raises:
        ValueError: They do not have the detector's width; CheckpointError: a file is missing or damaged.
    """
    if not are_features(videos):
        return None
    if isinstance(videos, str | Path):
        found = read_feature_set(videos)
    elif isinstance(videos, FeatureSet):
        found = videos
    else:
        found = FeatureSet({"clips": len(videos)}, as_features(videos, f"the {side} features"), given=True)
    if detector and detector.width and found.width != detector.width:
        name = detector.record.get("name", "detector")
        advice = (
            ": if they are I3D's, give I3D's weights with --i3d (in Python: i3d of fvd)" if found.width == 400 else ""
        )
        raise ValueError(
            f"the {side} features have {found.width} numbers, those of the {name} have {detector.width}{advice}"
        )
    return found


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of that name; None: CUDA if available, else the CPU. Raises ValueError if it is missing."""
    return usable_device(None if name is None else str(name))
