"""Evaluation during training: the distance of samples to real clips, as `latte eval` computes it, at the run's size."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.eval.features import features_of
from latte.eval.frechet import Moments, distance
from latte.eval.inputs import Reading
from latte.eval.networks.i3d_weights import i3d_detector
from latte.eval.networks.shape_features import shapes_detector
from latte.eval.protocol import adjusted
from latte.train.base_config import TrainConfig
from latte.train.data.clips import TrainingData
from latte.train.data.latent_files import LatentFolder
from latte.video.pixels import to_uint8

RANDOM_PATH = 1 << 31  # of the random numbers that choose the real clips; larger than any step


class DistanceToReal:
    """The Fréchet distance of samples to real clips, whose features are computed once.

    It is the FVD if config.eval_i3d names I3D's weights, and otherwise the distance of the built-in shapes' features.
    The real clips are config.eval_clips clips of the training data, or those of config.eval_real.

    Args:
        config: The settings of the run.
        clips: The training data.
        device: The device that computes the features.

    Raises:
        ValueError: There are no real videos, or the feature network cannot take clips of this size or length.
    """

    def __init__(self, config: TrainConfig, clips: TrainingData, device: torch.device):
        sizes = {"clips": config.eval_clips, "frames": config.num_frames, "real_stride": config.frame_interval}
        sizes["real_crop"] = config.image_size
        protocol = adjusted("exact", **sizes)
        of_shapes = not config.eval_i3d
        self.detector = shapes_detector(device) if of_shapes else i3d_detector(Path(config.eval_i3d), protocol, device)
        if config.eval_real:
            self.real = (
                Reading(protocol, config.seed).feature_set(config.eval_real, "real", self.detector).moments(False)
            )
        elif isinstance(clips, LatentFolder):
            raise ValueError(
                f"{clips.folder} holds latents, not videos: name real videos to compare with, eval_real=FOLDER"
            )
        else:
            order = torch.randperm(clips.num_videos, generator=generator(config.seed, RANDOM_PATH))
            chosen = order[: config.eval_clips].tolist()
            randoms = {i: generator(config.seed, RANDOM_PATH, i) for i in chosen}
            self.real = self.moments([to_uint8(clips.clip(i, random).video) for i, random in randoms.items()])
        shape = (2, config.num_frames, 3, config.image_size, config.image_size)
        self(torch.zeros(shape, dtype=torch.uint8))  # raises an error now rather than later if the clips do not fit

    def __call__(self, videos: Tensor) -> dict[str, float]:
        """Compute the distance of videos, uint8 (n, f, 3, h, w). The key is the name of the metric."""
        return {self.detector.record["metric"]: distance(self.real, self.moments(videos))}

    def moments(self, videos: Sequence[Tensor]) -> Moments:
        """The moments of the features of videos, each uint8 (f, 3, h, w)."""
        (features,) = features_of([self.detector], iter(videos), len(videos[0]))
        return Moments.of(features)
