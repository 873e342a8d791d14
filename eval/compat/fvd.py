"""The evaluator of cd-fvd (songweige/content-debiased-fvd): `evaluator = fvd.cdfvd("videomae", ckpt_path=None)`."""

import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from latte.device import arithmetic
from latte.eval.compat.feature_stats import FeatureStats
from latte.eval.compat.found_weights import place_of, search_folders, search_weights
from latte.eval.compat.video_loading import folder_clips, numpy_batches
from latte.eval.features import batch_size
from latte.eval.frechet import distance
from latte.eval.networks.i3d_weights import i3d_features, optimize_for_inference, read_i3d
from latte.eval.networks.videomae_weights import read_videomae, videomae_features
from latte.eval.protocol import PROTOCOLS
from latte.progress import Progress
from latte.weights.tensors import CheckpointError

Count = int | Literal["full"]
Loader = Iterable[dict[str, Tensor]]  # batches with "video", (b, 3, f, h, w) in [0, 1]
STATISTICS = "https://content-debiased-fvd.github.io/files"
FROM_I3D = (
    "cd-fvd's I3D has eps {:g} in its batch norms, where DeepMind's graph, and so latte.eval.fvd, has {:g}: values are "
    "comparable with cd-fvd's only"
)


class cdfvd:
    """Fréchet distances as cd-fvd computes them, step by step; `latte.eval.fvd` and `cd_fvd` do it in one call.

    Args:
        model: "videomae" or "i3d".
        n_real: Real videos that are counted, or "full": all of them.
        n_fake: Generated videos, likewise. Videos are counted again until there are this many.
        ckpt_path: The weights. None: see latte.eval.compat.
        seed: Seed of the random clips of videos in folders.
        compute_feats: Whether features are kept, besides their sums.
        device: Where to compute.
        half_precision: Multiply in float16; not on a CPU, where it is slower.

    Raises:
        ValueError: There is no such model. CheckpointError: the weights are missing (with where to get them) or do not
            fit.
    """

    def __init__(
        self,
        model: str = "i3d",
        n_real: Count = "full",
        n_fake: Count = 2048,
        ckpt_path: str | Path | None = None,
        seed: int = 42,
        compute_feats: bool = False,
        device: str = "cuda",
        half_precision: bool = False,
        *args: Any,
        **kwargs: Any,
    ):
        if model not in ("videomae", "i3d"):
            raise ValueError(f"model is {model!r}; it must be videomae or i3d")
        self.model_name, self.ckpt_path, self.seed = model, ckpt_path, seed
        self.n_real, self.n_fake = n_real, n_fake
        most = lambda count: None if count == "full" else count
        self.real_stats, self.fake_stats = (
            FeatureStats(capture_all=compute_feats, capture_mean_cov=True, max_items=most(count))
            for count in (n_real, n_fake)
        )
        place = place_of(device)
        if half_precision and place.type == "cpu":
            warnings.warn("float16 is slow on a CPU: computing in float32", stacklevel=2)
            half_precision = False
        self.model_dtype = torch.float16 if half_precision else torch.float32
        self.device = str(place)
        self.model: nn.Module
        self.feature_fn: Callable[[list[Tensor]], Tensor]  # from clips, uint8 (f, 3, h, w), to features (n, d)
        if model == "videomae":
            self.model = videomae = read_videomae(search_weights("videomae", ckpt_path), place)
            self.feature_fn = partial(videomae_features, videomae)
        else:
            protocol = PROTOCOLS["cd-fvd"]
            warnings.warn(FROM_I3D.format(protocol.eps, PROTOCOLS["exact"].eps), stacklevel=2)
            network = read_i3d(search_weights("i3d-pretrained-400", ckpt_path), protocol.eps)
            self.model = i3d = optimize_for_inference(network, place)
            self.feature_fn = partial(i3d_features, i3d, resize="squash")

    def features(self, videos: np.ndarray) -> Tensor:
        """The features (n, d) of uint8 videos (n, f, h, w, 3). Raises ValueError if they are something else."""
        if not isinstance(videos, np.ndarray) or videos.dtype != np.uint8 or videos.ndim != 5 or videos.shape[-1] != 3:
            found = f"{videos.dtype} {tuple(videos.shape)}" if hasattr(videos, "shape") else type(videos).__name__
            raise ValueError(f"expected an array of uint8 videos (n, f, h, w, 3), not {found}")
        clips = torch.from_numpy(np.ascontiguousarray(videos)).permute(0, 1, 4, 2, 3)
        half = self.model_dtype == torch.float16
        faster = torch.autocast(self.device.split(":")[0], torch.float16) if half else nullcontext()
        with arithmetic("fp32"), faster:
            parts = [self.feature_fn(list(batch)).float() for batch in clips.split(batch_size(clips.shape[1]))]
        return torch.cat(parts)

    def compute_fvd_from_stats(
        self, fake_stats: FeatureStats | None = None, real_stats: FeatureStats | None = None
    ) -> float:
        """The distance between the statistics, by default the evaluator's own; in float64, without scipy."""
        fake, real = fake_stats or self.fake_stats, real_stats or self.real_stats
        return distance(real.moments(), fake.moments())

    def compute_fvd(self, real_videos: np.ndarray, fake_videos: np.ndarray) -> float:
        """The distance between uint8 videos (n, f, h, w, 3), together with those counted before."""
        if self.real_stats.num_items or self.fake_stats.num_items:
            warnings.warn(
                "videos of earlier calls are counted, too, as in cd-fvd: call empty_real_stats and empty_fake_stats",
                stacklevel=2,
            )
        self.add_real_stats(real_videos)
        self.add_fake_stats(fake_videos)
        return self.compute_fvd_from_stats()

    def compute_real_stats(self, loader: Loader | None = None) -> FeatureStats | None:
        """Count real videos, and return the statistics; None without a loader, where statistics were loaded before."""
        if loader is None:
            if not self.real_stats.num_items:
                raise ValueError("there are no real statistics: load some, or give a loader")
            return None
        return self.fill(self.real_stats, loader, "real")

    def compute_fake_stats(self, loader: Loader | None = None) -> FeatureStats:
        """Count generated videos, again and again until there are n_fake, and return the statistics."""
        if loader is None:
            raise ValueError("there are no generated videos: give the loader that load_videos returns")
        return self.fill(self.fake_stats, loader, "fake")

    def fill(self, stats: FeatureStats, loader: Loader, side: str) -> FeatureStats:
        """Count the videos of a loader until the statistics are full; once, if they have no limit."""
        first: list[Tensor] = []  # of lists of arrays, which are the same at every pass
        passes, before = 0, stats.num_items
        while not stats.is_full():
            if passes and isinstance(loader, list):
                stats.append_torch(torch.cat(first))
            else:
                for batch in Progress(loader, desc="features", unit="batch"):
                    videos = (batch["video"] * 255).permute(0, 2, 3, 4, 1).byte().cpu().numpy()
                    found = self.features(videos)
                    stats.append_torch(found)
                    first += [] if passes else [found]
                    if stats.is_full():
                        break
            passes += 1
            if stats.num_items == before:
                raise ValueError(f"the loader of {side} videos is empty")
            if stats.max_items is None:
                break
        if passes > 1:
            warnings.warn(
                f"{sum(map(len, first))} {side} videos were gone through {passes} times, as cd-fvd does until there "
                f"are n_{side} = {stats.max_items}: they count several times; n_{side}='full' counts each once",
                stacklevel=3,
            )
        return stats

    def add_real_stats(self, real_videos: np.ndarray) -> None:
        """Count real videos, uint8 (n, f, h, w, 3)."""
        self.real_stats.append_torch(self.features(real_videos))

    def add_fake_stats(self, fake_videos: np.ndarray) -> None:
        """Count generated videos, uint8 (n, f, h, w, 3)."""
        self.fake_stats.append_torch(self.features(fake_videos))

    def empty_real_stats(self) -> None:
        """Forget the real videos."""
        self.real_stats = FeatureStats(self.real_stats.capture_all, True, self.real_stats.max_items)

    def empty_fake_stats(self) -> None:
        """Forget the generated videos."""
        self.fake_stats = FeatureStats(self.fake_stats.capture_all, True, self.fake_stats.max_items)

    def save_real_stats(self, path: str | Path) -> None:
        """Write the real statistics as a pickle, which `latte eval --real` reads, too."""
        self.real_stats.save(path)

    def load_real_stats(self, path: str | Path) -> None:
        """Read real statistics. Raises CheckpointError if the file is missing, damaged or something else."""
        self.real_stats = FeatureStats.load(path)

    def load_videos(
        self,
        video_info: str | Path,
        resolution: int = 256,
        sequence_length: int = 16,
        sample_every_n_frames: int = 1,
        data_type: str = "video_numpy",
        num_workers: int = 4,
        batch_size: int = 16,
    ) -> Loader | None:
        """Open videos for compute_real_stats and compute_fake_stats.

        Args:
            video_info: A .npy file of uint8 videos (n, f, h, w, 3), a folder, or the name of a data set.
            resolution: Height and width that frames of folders are resized to, in pixels.
            sequence_length: Frames per clip.
            sample_every_n_frames: Their stride; for video files, it makes clips shorter.
            data_type: "video_numpy", "video_folder", "image_folder" (folders of frames), or "stats_pkl": published
                statistics of the data set, which become the real ones. A folder is never "video_numpy".
            num_workers: Threads that decode.
            batch_size: Clips per batch.

        Returns:
            Batches {"video": (b, 3, f, h, w) in [0, 1]}; None for statistics.

        Raises:
            ValueError: The data type is unknown, or the videos do not fit it. CheckpointError: the statistics are not
                there (with where to get them). FileNotFoundError: there is no such folder.
        """
        path = Path(video_info)
        if data_type == "stats_pkl":
            self.load_published(str(video_info), resolution, sequence_length, sample_every_n_frames)
            return None
        if data_type == "image_folder" or data_type == "video_folder" or (data_type == "video_numpy" and path.is_dir()):
            sizes = (resolution, sequence_length, sample_every_n_frames)
            return folder_clips(path, *sizes, data_type == "image_folder", self.seed, batch_size, num_workers)
        if data_type == "video_numpy" or path.suffix == ".npy":
            return numpy_batches(path, batch_size)
        known = "video_numpy, video_folder, image_folder or stats_pkl"
        raise ValueError(f"data_type is {data_type!r}; it must be {known}")

    def load_published(self, name: str, resolution: int, length: int, stride: int) -> None:
        """Read the published statistics of a data set. Raises CheckpointError if they are not there."""
        size = f"{self.n_real}_res{resolution}_len{length}_skip{stride}_seed0"
        file = f"{self.model_name}_{name}_{size}.pkl"
        there = [folder / file for folder in search_folders() if (folder / file).is_file()]
        if not there:
            where = " and in ".join(str(folder.absolute()) for folder in search_folders())
            raise CheckpointError(f"{file} is not in {where}: get it from {STATISTICS}/{file}, and put it there")
        self.load_real_stats(there[0])

    def offload_model_to_cpu(self) -> None:
        """Move the network to the CPU, and free CUDA's memory."""
        self.model, self.device = self.model.cpu(), "cpu"
        torch.cuda.empty_cache()
