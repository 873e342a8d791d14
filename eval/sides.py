"""The two sides of a metric: reads what is given, checks that the options fit it, and then makes the network."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from latte.eval.features import Detector
from latte.eval.inputs import Reading, Videos, find_device, given_features
from latte.eval.protocol import Protocol, choose_protocol
from latte.eval.statistics import FeatureSet


class Sides(NamedTuple):
    """Two sides, and how to measure them."""

    real: Videos  # a FeatureSet if features or statistics were given
    generated: Videos
    detector: Detector
    reading: Reading

    def feature_sets(self) -> tuple[FeatureSet, FeatureSet]:
        """The features of both sides, computed where they were not given."""
        named = (("real", self.real), ("generated", self.generated))
        real, generated = (self.reading.feature_set(side, name, self.detector) for name, side in named)
        return real, generated


class Options(NamedTuple):
    """Options for reading videos, which do nothing with features; see `fvd`."""

    protocol: str | Protocol | None
    num_videos: int | None
    frames: int | None
    real_crop: int | None
    features: str | Path | None
    bn_eps: float | None = None


def open_sides(
    real: Videos,
    generated: Videos,
    make_detector: Callable[[Protocol, torch.device], Detector],
    unknown: Detector,
    options: Options,
    *,
    seed: int,
    device: str | torch.device | None,
    progress: bool,
    **weights: str | Path | None,
) -> Sides:
    """Read what is given, check the options, and only then make the detector.

    Args:
        real: See `fvd`.
        generated: Likewise.
        make_detector: Called with the protocol and the device if a side is videos.
        unknown: The detector of the result if both sides are given.
        options: How videos are read.
        seed: See `fvd`.
        device: See `fvd`.
        progress: See `fvd`.
        **weights: Paths of weights. If both sides are given, they are refused, as are options for reading videos.

    Raises:
        ValueError: An option does nothing, or does not fit a side. CheckpointError: weights are missing.
    """
    given = {name: given_features(side, name) for name, side in (("real", real), ("generated", generated))}
    chosen = choose_protocol(options.protocol, options.num_videos, options.bn_eps, options.real_crop, options.frames)
    reading, place = Reading(chosen, seed, options.features, progress=progress), find_device(device)
    real, generated = given["real"] or real, given["generated"] or generated
    if all(given.values()):
        refuse_unused(**options._asdict(), **weights)
        for name, side in given.items():
            given_features(side, name, unknown)
        return Sides(real, generated, unknown, reading)
    check_given(given, chosen)
    return Sides(real, generated, make_detector(chosen, place), reading)


def refuse_unused(**options: object) -> None:
    """Raise ValueError for an option for reading videos that was given although both sides are features."""
    if unused := [name for name, value in options.items() if value is not None]:
        raise ValueError(f"{unused[0]} does nothing with features or statistics on both sides: leave it out")


def check_given(given: dict[str, FeatureSet | None], protocol: Protocol, others: Iterable[str] = ()) -> None:
    """Raise ValueError if something needs videos on a side that is given as features or statistics.

    Args:
        given: The sides by "real" and "generated"; None: videos.
        protocol: Its real_crop needs real videos.
        others: Metrics of the same clips, of which "fid", "inception_score" and "jedi" need videos on both sides.
    """
    if given["real"] and protocol.real_crop:
        raise ValueError("real_crop needs real videos, but the real side is given as features or statistics")
    for name, side in given.items():
        for other in ("fid", "inception_score", "jedi"):
            if side and other in others:
                raise ValueError(f"{other} needs videos, but the {name} side is given as features or statistics")
