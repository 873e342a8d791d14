"""What a trained run of an ablation is worth: samples of it, and what is measured of them and of the run."""

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
from latte.eval.frechet import Moments, distance
from latte.eval.networks.shape_features import ShapeFeatures, load_shape_features, shape_features, squash
from latte.files import replacing, write_json
from latte.models.latte import Latte
from latte.pipeline import LattePipeline
from latte.shapes.draw import MOTIONS, ShapeClip, make_clip
from latte.shapes.examiner import score_clips
from latte.train.config import TrainConfig
from latte.train.curves import read_metrics
from latte.train.data.folders import open_clips
from latte.train.data.windows import span
from latte.train.distance import Distance
from latte.train.objectives.class_conditional import Denoising
from latte.train.presets import resolve
from latte.weights.load import load_model

SHOWN = (0, 4)  # of the samples, those that are kept: of the shapes, "left" and "clockwise"
LAST = 0.1  # of the steps, whose mean the training's loss is
REAL = 256  # clips that the shapes distance is from
DRAWS, BATCH, UNIT = 16, 16, 4  # the loss at fixed noise: so many batches of so many clips, so many of them at once


class ClipGeometry(NamedTuple):
    """How training takes clips of the built-in shapes."""

    frames: int
    interval: int
    motion: int  # frames of a whole one
    size: int  # pixels of a side

    @classmethod
    def of(cls, config: TrainConfig) -> "ClipGeometry":
        return cls(config.num_frames, config.frame_interval, config.shape_frames, config.image_size)

    @property
    def extent(self) -> float:
        """The share of a whole motion that a clip reaches over."""
        return span(self.frames, self.interval) / self.motion


class Answers(NamedTuple):
    """A run's samples, and real clips of the same classes where the data is built in."""

    look: ClipGeometry
    videos: Tensor  # (n, f, 3, h, w) uint8
    truths: list[ShapeClip]


def real_clips(look: ClipGeometry, count: int) -> list[ShapeClip]:
    """Held-out clips, from the middle of the motion, every motion in turn."""
    reach = span(look.frames, look.interval)
    start = (look.motion - reach) // 2
    window = slice(start, start + reach, look.interval)
    motions = [MOTIONS[i % len(MOTIONS)] for i in range(count)]
    return [make_clip(HELD_OUT, i, motion, look.motion, look.size, window) for i, motion in enumerate(motions)]


@cache
def network() -> ShapeFeatures:
    """The one of the shapes distance."""
    return load_shape_features()


def moments(videos: Tensor) -> Moments:
    """Of the features of videos (n, f, 3, h, w)."""
    return Moments.of(shape_features(network(), torch.stack([squash(video) for video in videos])))


@cache
def real_moments(look: ClipGeometry) -> Moments:
    """The same of real clips."""
    return moments(torch.stack([torch.from_numpy(clip.video) for clip in real_clips(look, REAL)]))


def shapes_distance(answers: Answers) -> dict[str, float]:
    """How far the samples are from held-out clips (latte.eval.shape_features): with few samples too large, for all."""
    if len(answers.truths) < 2:
        return {}
    return {"shapes_distance": distance(moments(answers.videos), real_moments(answers.look))}


def by_examiner(answers: Answers) -> dict[str, float]:
    """What the examiner says, and how many of the real clips it finds right."""
    if not answers.truths:
        return {}
    labels, share = [clip.label for clip in answers.truths], answers.look.extent
    found = score_clips(list(answers.videos.numpy()), labels, extent=share)
    real = score_clips([clip.video for clip in answers.truths], labels, extent=share)
    names = ("motion_accuracy", "colour_constancy", "count_accuracy")
    return {name: found[name] for name in names} | {"real_motion_accuracy": real["motion_accuracy"]}


MEASURES = (by_examiner, shapes_distance)  # of samples: Answers -> scores by name


def score_samples(folder: Path, sampling: dict, count: int, file: Path, device: str, i3d: str = "") -> None:
    """Sample `count` videos of a trained run, and write to `file` what they are worth; a picture beside shows a few.

    sampling: what the pipeline's call takes. i3d: weights for the FVD of samples from as many clips of a folder's
    videos, taken as in training. The picture has a row of frames for each of the videos SHOWN.
    """
    config = resolve(str(folder / "config.yaml"), [])
    pipe = LattePipeline.from_pretrained(folder / "final").to(device)
    classes = pipe.transformer.config.num_classes
    truths = real_clips(ClipGeometry.of(config), count) if config.data == "shapes" and classes else []
    labels = [clip.label for clip in truths] or [i % classes for i in range(count) if classes]
    asked = {"class_labels": labels} if classes else {"num_videos": count}
    start = time.perf_counter()
    videos = pipe(**asked, **sampling, output_type="uint8", progress=False).frames.cpu()
    seconds = time.perf_counter() - start
    answers = Answers(ClipGeometry.of(config), videos, truths)
    scores = {name: value for measure in MEASURES for name, value in measure(answers).items()}
    if i3d and config.data != "shapes":
        judged = replace(config, eval_every=1, eval_clips=max(2, count), eval_i3d=i3d)
        scores |= Distance(judged, open_clips(replace(config, latents="step")), torch.device(device))(videos)
    kept = videos[[i for i in SHOWN if i < count]]
    with replacing(file.with_suffix(".png")) as draft:
        Image.fromarray(rearrange(kept, "n f c h w -> (n h) (f w) c").numpy()).save(draft)
    write_json(file, {"seconds_per_video": seconds / count, **scores})


def measure_run(folder: Path, device: str) -> dict[str, float]:
    """Of a trained run: parameters, clips a second, the median, the loss of the last steps, that at fixed noise."""
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
    """The loss of clips alone, the same ones at the same timesteps and with the same noise whatever the run.

    Of the built-in data they are clips that no run has seen; of a folder, its own.
    """
    alike = dict(seed=HELD_OUT, num_images=0, init="", latents="step", num_workers=0)
    config = replace(config, **alike, global_batch_size=BATCH, micro_batch_size=0)
    objective = Denoising(open_clips(config), config, next(network.parameters()).device)
    objective.prepare([range(BATCH)], 0)
    units = [range(first, first + UNIT) for first in range(0, BATCH, UNIT)]
    losses = [objective(network, step, unit)[1]["mse"].item() for step in range(DRAWS) for unit in units]
    return math.fsum(losses) / len(losses)
