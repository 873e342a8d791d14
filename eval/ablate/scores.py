"""The scores of a trained model in an ablation: those of its samples, and measurements of its training."""

import math
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from latte.eval.exam import HELD_OUT
from latte.eval.features import Detector, features_of
from latte.eval.frechet import Moments, distance
from latte.eval.networks.shape_features import shapes_detector
from latte.files import replacing, write_json
from latte.models.latte import Latte
from latte.pipeline import LattePipeline
from latte.shapes.clip_scores import score_clips
from latte.shapes.draw import MOTIONS, ShapeClip, make_clip
from latte.train.base_config import TrainConfig
from latte.train.curves import read_metrics
from latte.train.data.folders import open_clips
from latte.train.data.windows import span
from latte.train.distance import DistanceToReal
from latte.train.objectives import ClassConditional
from latte.train.resolve import resolve
from latte.weights.load import load_model

SHOWN = (0, 4)  # the samples that are kept as pictures: with the built-in shapes, of "left" and of "clockwise"
LAST = 0.1  # the share of the steps, at the end, over which the training loss is averaged
REAL_CLIPS = 256  # held-out clips on the other side of the shapes distance
DRAWS, BATCH, UNIT = 16, 16, 4  # of the loss at fixed noise: batches, clips in each, and clips at a time


class ClipGeometry(NamedTuple):
    """How training cuts clips of the built-in shapes from a motion."""

    frames: int  # of a clip
    interval: int  # between frames of a clip
    motion: int  # frames of a whole motion
    size: int  # height and width of a frame, in pixels

    @classmethod
    def of(cls, config: TrainConfig) -> "ClipGeometry":
        return cls(config.num_frames, config.frame_interval, config.shape_frames, config.image_size)

    @property
    def extent(self) -> float:
        """The share of the whole motion that a clip shows."""
        return span(self.frames, self.interval) / self.motion


class Samples(NamedTuple):
    """Videos that a model generated and, for the built-in shapes, real clips of the same classes."""

    geometry: ClipGeometry
    videos: Tensor  # (n, f, 3, h, w) uint8
    real: list[ShapeClip]  # empty for other data


def real_clips(geometry: ClipGeometry, count: int) -> list[ShapeClip]:
    """Held-out clips from the middle of a motion; the motions take turns."""
    reach = span(geometry.frames, geometry.interval)
    start = (geometry.motion - reach) // 2
    window = slice(start, start + reach, geometry.interval)
    motions = [MOTIONS[i % len(MOTIONS)] for i in range(count)]
    return [make_clip(HELD_OUT, i, motion, geometry.motion, geometry.size, window) for i, motion in enumerate(motions)]


@cache
def detector() -> Detector:
    """The detector of the shapes distance, on the CPU: so scores do not depend on where a model was sampled."""
    return shapes_detector(torch.device("cpu"))


def feature_moments(videos: Tensor) -> Moments:
    """The moments of the features of uint8 videos (n, f, 3, h, w)."""
    return Moments.of(features_of([detector()], iter(videos), videos.shape[1])[0])


@cache
def held_out_moments(geometry: ClipGeometry) -> Moments:
    """The moments of the features of held-out clips."""
    return feature_moments(torch.stack([torch.from_numpy(clip.video) for clip in real_clips(geometry, REAL_CLIPS)]))


def distance_scores(samples: Samples) -> dict[str, float]:
    """The shapes distance between the samples and held-out clips. With few samples it is biased upwards.

    The result is empty if the data is not the built-in shapes, or there are fewer than two samples.
    """
    if len(samples.real) < 2:
        return {}
    return {"shapes_distance": distance(feature_moments(samples.videos), held_out_moments(samples.geometry))}


def examiner_scores(samples: Samples) -> dict[str, float]:
    """The examiner's scores of the samples, and the share of real clips whose motion it recognises.

    The result is empty if the data is not the built-in shapes.
    """
    if not samples.real:
        return {}
    labels, extent = [clip.label for clip in samples.real], samples.geometry.extent
    scores = score_clips(list(samples.videos.numpy()), labels, extent=extent)
    real = score_clips([clip.video for clip in samples.real], labels, extent=extent)
    names = ("motion_accuracy", "colour_constancy", "shape_constancy", "count_accuracy")
    return {name: scores[name] for name in names} | {"real_motion_accuracy": real["motion_accuracy"]}


def score_samples(model: Path, sampling: dict, count: int, file: Path, device: str, i3d: str = "") -> None:
    """Sample a trained model, and write the scores of the samples and a picture of some.

    Args:
        model: its folder, in that of the run.
        sampling: arguments of the pipeline's call.
        count: the number of videos to sample.
        file: where to write the scores, as JSON. The picture, beside it, has a row of frames for each sample of SHOWN.
        device: where to compute.
        i3d: path to I3D's weights. With it, and if the data is a folder of videos, the scores have the FVD between the
            samples and as many clips of the data, cut out as in training.
    """
    config = resolve(str(model.parent / "config.yaml"), [])
    pipe = LattePipeline.from_pretrained(model).to(device)
    classes = pipe.transformer.config.num_classes
    real = real_clips(ClipGeometry.of(config), count) if config.data == "shapes" and classes else []
    labels = [clip.label for clip in real] or [i % classes for i in range(count) if classes]
    inputs = {"class_labels": labels} if classes else {"num_videos": count}
    start = time.perf_counter()
    videos = pipe(**inputs, **sampling, output_type="uint8", progress=False).frames.cpu()
    seconds = time.perf_counter() - start
    samples = Samples(ClipGeometry.of(config), videos, real)
    scores = examiner_scores(samples) | distance_scores(samples)
    if i3d and config.data != "shapes":
        compared = replace(config, eval_every=1, eval_clips=max(2, count), eval_i3d=i3d)
        scores |= DistanceToReal(compared, open_clips(replace(config, latents="step")), torch.device(device))(videos)
    shown = videos[[i for i in SHOWN if i < count]]
    with replacing(file.with_suffix(".png")) as draft:
        Image.fromarray(rearrange(shown, "n f c h w -> (n h) (f w) c").numpy()).save(draft)
    write_json(file, {"seconds_per_video": seconds / count, **scores})


def measure_trained_model(folder: Path, device: str) -> dict[str, float]:
    """Measure a trained model and its training.

    Args:
        folder: of the run.
        device: where to compute.

    Returns:
        The number of "parameters"; "clips_per_second" in training, the median; "train_loss", the mean over the last
        steps; and "fixed_loss", see `fixed_loss`.
    """
    config, table = resolve(str(folder / "config.yaml"), []), read_metrics(folder)
    network = load_model(folder / "final").to(device)
    last = table["step"] > (1 - LAST) * config.steps
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "clips_per_second": float(np.nanmedian(table["clips_per_second"])),
        "train_loss": float(np.nanmean(table["mse"][last])),
        "fixed_loss": fixed_loss(network, config),
    }


@torch.no_grad()
def fixed_loss(network: Latte, config: TrainConfig) -> float:
    """The loss of a network on the same clips, timesteps and noise for every run, without still images.

    With the built-in shapes, no run was trained on these clips; with a folder of videos, they are training data.
    """
    shared = dict(seed=HELD_OUT, num_images=0, init="", latents="step", num_workers=0)
    config = replace(config, **shared, global_batch_size=BATCH, micro_batch_size=UNIT)
    objective = ClassConditional(open_clips(config), config, next(network.parameters()).device)
    objective.prepare([range(BATCH)], 0)
    units = [range(first, first + UNIT) for first in range(0, BATCH, UNIT)]
    losses = [objective(network, step, unit)[1]["mse"].item() for step in range(DRAWS) for unit in units]
    return math.fsum(losses) / len(losses)
