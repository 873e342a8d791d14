"""Numbers beside the distance, each from features of single clips: frames' FID, the inception score, flicker."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from latte.eval.clips import ClipSet
from latte.eval.features import Detector
from latte.eval.flicker import flicker
from latte.eval.frechet import Moments, distance
from latte.eval.inception import frame_features, load_inception
from latte.eval.inception_score import class_probabilities, inception_score, load_c3d
from latte.eval.weights import locate

Gather = Callable[[ClipSet, Detector], Tensor]  # a detector's features of every clip of a set


def of_frames(path: Path, device: torch.device) -> Detector:
    """Inception's features of each frame of a clip, (b, f, 2048)."""
    network, record = load_inception(path, device), {"metric": "fid", "sha256": locate("inception", path).sha256}
    return Detector(record, lambda clips: torch.stack([frame_features(clip[None], network) for clip in clips]))


def of_classes(path: Path, mean: Path | None, device: torch.device) -> Detector:
    """C3D's probabilities of UCF101's classes, (b, 101), float64."""
    network, cube = load_c3d(path, mean, device=device)
    files = {"sha256": locate("c3d", path).sha256, "mean_sha256": locate("c3d-mean", mean).sha256}
    of = lambda clips: torch.cat([class_probabilities(clip[None], network, cube) for clip in clips])
    return Detector({"metric": "inception score", **files}, of)


FLICKER = Detector(
    {"metric": "flicker"}, lambda clips: torch.tensor([[flicker(clip[None])] for clip in clips], dtype=torch.float64)
)


def other_numbers(
    real: ClipSet | None, generated: ClipSet, gather: Gather, args: argparse.Namespace, device: torch.device
) -> dict:
    """What the words of a command ask for besides a distance of videos; flicker always, which needs no weights.

    real: None where only statistics are given. ValueError: weights that are asked for do not fit or are not there, too
    few clips, or an option that does nothing.
    """
    for name in () if args.c3d else ("c3d_mean", "is_protocol"):
        if getattr(args, name):
            raise ValueError(f"--{name.replace('_', '-')} does nothing without --c3d")
    if args.inception and real is None:
        raise ValueError("--inception compares frames with real frames: --real must be a folder of videos")
    found = {"flicker": {"generated": float(gather(generated, FLICKER).mean())}}
    if real is not None:
        found["flicker"]["real"] = float(gather(real, FLICKER).mean())
    if args.inception:
        detector = of_frames(args.inception, device)
        a, b = (gather(clips, detector).flatten(0, 1) for clips in (real, generated))
        value = distance(Moments.of(a), Moments.of(b))
        found["fid"] = {"value": value, "frames": {"real": len(a), "generated": len(b)}, **detector.record}
    if args.c3d:
        detector = of_classes(args.c3d, args.c3d_mean, device)
        score = inception_score(gather(generated, detector), args.is_protocol or "stylegan-v")
        found["inception_score"] = {**score, **detector.record}
    return found
