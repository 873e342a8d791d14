"""How far what a run makes is from real clips, on the way: the distance of `latte eval`, at the run's own size."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.eval.clip_sets import choose_clips
from latte.eval.features import Detector, Store, features_of, fill
from latte.eval.frechet import Moments, distance
from latte.eval.networks.i3d_weights import i3d_detector
from latte.eval.networks.shape_features import shapes_detector
from latte.eval.protocol import Protocol, adjusted
from latte.eval.statistics import is_statistics, read_statistics
from latte.train.config import TrainConfig
from latte.train.data.clips import Clips
from latte.train.data.latent_files import Stored
from latte.video.pixels import to_uint8

PLACE = 1 << 31  # of its random numbers: no step is as late


class Distance:
    """A Fréchet distance of samples from real clips, whose features are computed once.

    By I3D, where config.eval_i3d names its weights (FVD), or else by the network of the built-in shapes. The real ones
    are clips of the run's data, config.eval_clips of them, or config.eval_real. ValueError, before any step: there are
    no videos to take them from, or they are not for this network, or for clips of this length.
    """

    def __init__(self, config: TrainConfig, clips: Clips | Stored, device: torch.device):
        sizes = {"clips": config.eval_clips, "frames": config.num_frames, "real_stride": config.frame_interval}
        sizes["real_crop"] = config.image_size
        protocol = adjusted("exact", **sizes)
        of_shapes = not config.eval_i3d
        self.detector = shapes_detector(device) if of_shapes else i3d_detector(Path(config.eval_i3d), protocol, device)
        if config.eval_real:
            self.real = real_moments(Path(config.eval_real), protocol, self.detector, config.seed)
        elif isinstance(clips, Stored):
            raise ValueError(f"{clips.folder} holds latents alone: name real videos to compare with, eval_real=FOLDER")
        else:
            some = torch.randperm(clips.videos, generator=generator(config.seed, PLACE))[: config.eval_clips].tolist()
            places = {i: generator(config.seed, PLACE, i) for i in some}
            self.real = self.moments([to_uint8(clips.clip(i, place).video) for i, place in places.items()])
        shape = (2, config.num_frames, 3, config.image_size, config.image_size)
        self(torch.zeros(shape, dtype=torch.uint8))  # which says if it is not of this length, or of another width

    def __call__(self, videos: Tensor) -> dict[str, float]:
        """The distance of uint8 clips (n, f, 3, h, w), under its name."""
        return {self.detector.record["metric"]: distance(self.real, self.moments(videos))}

    def moments(self, videos: Sequence[Tensor]) -> Moments:
        """Of uint8 clips (f, 3, h, w)."""
        (features,) = features_of([self.detector], iter(videos), len(videos[0]))
        return Moments.of(features)


def real_moments(path: Path, protocol: Protocol, detector: Detector, seed: int) -> Moments:
    """Of a file of statistics, or of clips of a folder of videos."""
    if is_statistics(path):
        return read_statistics(path)[0]
    store = Store(None, choose_clips(path, protocol, "real", seed), detector)
    fill([store])
    return Moments.of(store.all())
