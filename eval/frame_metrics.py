"""Numbers beside the distance, each from features of single clips: frames' FID, the inception score, flicker."""

import argparse

import torch
from torch import Tensor

from latte.eval.features import Detector
from latte.eval.fid import of_frames
from latte.eval.fidelity import flicker
from latte.eval.frechet import Moments, distance
from latte.eval.inception_score import inception_score, of_classes

FLICKER = Detector(
    {"metric": "flicker"}, lambda clips: torch.tensor([[flicker(clip[None])] for clip in clips], dtype=torch.float64)
)


def other_detectors(args: argparse.Namespace, device: torch.device) -> dict[str, Detector]:
    """What the words of a command ask for besides a distance of videos; flicker always, which needs no weights.

    CheckpointError: weights that are asked for are not there or do not fit.
    """
    found = {"flicker": FLICKER}
    if args.inception:
        found["fid"] = of_frames(args.inception, device)
    if args.c3d:
        found["inception_score"] = of_classes(args.c3d, args.c3d_mean, device)
    return found


def other_numbers(
    detectors: dict[str, Detector], real: dict[str, Tensor], generated: dict[str, Tensor], is_protocol: str
) -> dict:
    """These numbers, from the features that each side has. ValueError: too few clips."""
    sides = {"real": real, "generated": generated}
    found = {"flicker": {name: float(side["flicker"].mean()) for name, side in sides.items() if "flicker" in side}}
    if "fid" in detectors:
        frames = {name: side["fid"].flatten(0, 1) for name, side in sides.items()}
        value = distance(*map(Moments.of, frames.values()))
        counts = {name: len(features) for name, features in frames.items()}
        found["fid"] = {"value": value, "frames": counts, **detectors["fid"].record}
    if "inception_score" in detectors:
        score = inception_score(generated["inception_score"], is_protocol)
        found["inception_score"] = {**score, **detectors["inception_score"].record}
    return found
