"""How a distance varies with the seed that the videos were sampled with: its mean and standard deviation over sets."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.eval.features import Detector
from latte.eval.fvd_result import FVDResult
from latte.eval.inputs import Reading, Videos, are_features, find_device, given_features
from latte.eval.networks.i3d_weights import i3d_detector
from latte.eval.protocol import Protocol, choose_protocol
from latte.eval.sides import Options, check_given, refuse_unused
from latte.eval.statistics import FeatureSet
from latte.eval.video_comparison import GIVEN, measure_distance


@dataclass(frozen=True)
class SeedSpread:
    """Results of several sets of generated videos against the same real ones; `float(spread)` is their mean.

    Attributes:
        results: One for each set.
        names: The name of each set.
    """

    results: tuple[FVDResult, ...]
    names: tuple[str, ...]

    @property
    def mean(self) -> float:
        """The mean of the distances."""
        return statistics.fmean(result.value for result in self.results)

    @property
    def std(self) -> float:
        """The standard deviation of the distances, with n - 1."""
        return statistics.stdev(result.value for result in self.results)

    def __float__(self) -> float:
        return self.mean

    def to_dict(self) -> dict:
        """As `latte eval --sets --out` writes it."""
        sets = {name: result.to_dict() for name, result in zip(self.names, self.results)}
        return {"mean": self.mean, "std": self.std, "sets": sets}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SeedSpread":
        """The inverse of to_dict. Raises ValueError if these are not such values."""
        sets = values.get("sets") if isinstance(values, dict) else None
        if not isinstance(sets, dict) or not sets:
            raise ValueError("this is not a result of `latte eval --sets`: sets is missing or damaged")
        return cls(tuple(FVDResult.from_dict(each) for each in sets.values()), tuple(sets))

    def __str__(self) -> str:
        first = self.results[0]
        row = lambda name, values: f"  {name:36}{values}"
        lines = [f"{first.detector['name']}: {len(self.results)} sets of generated clips"]
        lines.append(row("distance", f"{self.mean:10.2f}   +- {self.std:.2f} (standard deviation over the sets)"))
        if all(result.infinite for result in self.results):
            values = [result.infinite.value for result in self.results if result.infinite]
            lines.append(
                row(
                    "extrapolated to infinite N",
                    f"{statistics.fmean(values):10.2f}   +- {statistics.stdev(values):.2f}",
                )
            )
        if floor := first.floor:
            lines.append(row("real-vs-real floor", f"{floor.value:10.2f}   95 %: {floor.low:.2f} to {floor.high:.2f}"))
        for name, result in zip(self.names, self.results):
            lines.append(row(name, f"{result.value:10.2f}   {result.generated['clips']} clips"))
        if first.protocol:
            lines.append(f"  protocol {first.protocol['name']}, {first.network}")
        notes = dict.fromkeys(caveat for result in self.results for caveat in result.caveats)
        return "\n".join([*lines, *(f"  note: {caveat}" for caveat in notes)])


def fvd_over_seeds(
    real: Videos,
    generated: Sequence[Videos],
    *,
    i3d: str | Path | None = None,
    parts: int = 1,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    bn_eps: float | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> SeedSpread:
    """FVD of several sets of one model, sampled with different seeds: mean and standard deviation.

    Args:
        real: See `fvd`. Their features are computed once.
        generated: The sets, each as `fvd` takes it. All should have the same number of videos.
        i3d: Path to i3d_torchscript.pt or i3d_pretrained_400.pt.
        parts: Into how many disjoint random parts each set is split; a distance grows as parts get smaller.
        protocol: See `fvd`.
        num_videos: See `fvd`; of each set, before it is split.
        frames: See `fvd`.
        seed: For the choice of clips, for the split and for the intervals.
        real_crop: See `fvd`.
        bn_eps: See `fvd`.
        device: See `fvd`.
        features: See `fvd`.
        progress: See `fvd`.

    Returns:
        A result for each set or part.

    Raises:
        ValueError: See `fvd`; or there are fewer than two sets and parts, or parts of fewer than two clips.
            FileNotFoundError: See `fvd`.
    """
    if are_features(real) and all(map(are_features, generated)):
        refuse_unused(i3d=i3d, **Options(protocol, num_videos, frames, real_crop, features, bn_eps)._asdict())
    chosen = choose_protocol(protocol, num_videos, bn_eps, real_crop, frames)
    reading, place = Reading(chosen, seed, features, progress=progress), find_device(device)
    named = {f"set {i}": videos for i, videos in enumerate(generated, 1)}
    return measure_sets(real, named, lambda: i3d_detector(i3d, chosen, place), reading, parts)


def measure_sets(
    real: Videos, generated: dict[str, Videos], make_detector: Callable[[], Detector], reading: Reading, parts: int = 1
) -> SeedSpread:
    """The distance of each of several sets, or of random parts of sets, from the same real videos.

    Args:
        real: See `fvd`.
        generated: The sets by name.
        make_detector: Called when the arguments are known to fit, unless all sides are features or statistics.
        reading: How clips are chosen and features computed.
        parts: Into how many parts each set is split.

    Raises:
        ValueError: There are fewer than two sets and parts, a set to split is statistics, or parts have fewer than two
            clips.
    """
    if parts < 1 or len(generated) * parts < 2:
        raise ValueError(f"{len(generated)} sets in {parts} parts: a deviation needs two sets, or two parts, or more")
    check_given({"real": given_features(real, "real"), "generated": None}, reading.protocol)
    if unknown := are_features(real) and all(map(are_features, generated.values())):
        detector = GIVEN
    else:
        detector = make_detector()
    protocol = None if unknown else reading.protocol
    truth = reading.feature_set(real, "real", detector)
    sides: dict[str, FeatureSet] = {}
    for name, videos in generated.items():
        side = reading.feature_set(videos, "generated", detector)
        split = split_set(side, parts, reading.seed) if parts > 1 else [side]
        sides |= {f"{name}, part {i}" if parts > 1 else name: part for i, part in enumerate(split, 1)}
    measured = [measure_distance(truth, side, protocol, detector, reading.seed) for side in sides.values()]
    return SeedSpread(tuple(measured), tuple(sides))


def split_set(side: FeatureSet, parts: int, seed: int) -> list[FeatureSet]:
    """Disjoint random parts of a set, all of one size; the remainder is left out.

    Raises:
        ValueError: The set is statistics, or too small.
    """
    if not isinstance(side.features, Tensor):
        raise ValueError("statistics cannot be split into parts: name videos or features")
    size = side.count // parts
    if size < 2:
        raise ValueError(f"{side.count} clips cannot be split into {parts} parts of two or more")
    order = torch.randperm(side.count, generator=generator(seed, 4))
    about = lambda i: {**side.about, "clips": size, "part": f"{i} of {parts}"}
    rows = [order[i * size : (i + 1) * size] for i in range(parts)]
    return [FeatureSet(about(i), side.features[row], side.given) for i, row in enumerate(rows, 1)]
