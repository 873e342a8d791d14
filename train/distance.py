"""How far what a run makes is from real clips, on the way: the distance of `latte eval`, at the run's own size."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.eval.clips import choose_clips
from latte.eval.features import Store, features_of, fill
from latte.eval.frechet import Moments, distance
from latte.eval.fvd import given
from latte.eval.i3d import i3d_detector
from latte.eval.protocol import adjusted
from latte.eval.shape_features import shapes_detector
from latte.eval.statistics import SUFFIXES
from latte.train.config import TrainConfig
from latte.train.data import Clips
from latte.train.latent_files import Stored
from latte.video import to_uint8

PLACE = 1 << 31  # of its random numbers: no step is as late


class Distance:
    """A Fréchet distance of samples from real clips, whose features are computed once.

    By I3D, where config.eval_i3d names its weights (FVD), or else by the network of the built-in shapes. The real ones
    are clips of the run's data, config.eval_clips of them, or config.eval_real. ValueError: there are no videos to take
    them from.
    """

    def __init__(self, config: TrainConfig, clips: Clips | Stored, device: torch.device):
        protocol = adjusted(
            "exact",
            clips=config.eval_clips,
            frames=config.num_frames,
            real_stride=config.frame_interval,
        )
        of_shapes = not config.eval_i3d
        self.detector = shapes_detector(device) if of_shapes else i3d_detector(Path(config.eval_i3d), protocol, device)
        if config.eval_real:
            path = Path(config.eval_real)
            if path.suffix in SUFFIXES:
                self.real = given(path).features
                return
            store = Store(None, choose_clips(path, protocol, "real", config.seed), self.detector)
            fill([store])
            self.real = Moments.of(store.all())
        elif isinstance(clips, Stored):
            raise ValueError(f"{clips.folder} holds latents alone: name real videos to compare with, eval_real=FOLDER")
        else:
            count = min(config.eval_clips, clips.videos)
            places = [generator(config.seed, PLACE, i) for i in range(count)]
            videos = [to_uint8(clips.clip(i, place).video) for i, place in enumerate(places)]
            self.real = self.moments(videos)

    def __call__(self, videos: Tensor) -> dict[str, float]:
        """The distance of uint8 clips (n, f, 3, h, w), under its name."""
        return {self.detector.record["metric"]: distance(self.real, self.moments(videos))}

    def moments(self, videos: Sequence[Tensor]) -> Moments:
        """Of uint8 clips (f, 3, h, w)."""
        (features,) = features_of([self.detector], iter(videos), len(videos[0]))
        return Moments.of(features)
