"""The comparison of two sides with any detector: their distance, its uncertainty, and other metrics on the clips."""

from dataclasses import replace

import torch
from torch import Tensor

from latte import __version__
from latte.eval.caveats import list_caveats
from latte.eval.extrapolation import LEAST_REAL, at_infinity, clips_needed, real_floor
from latte.eval.features import Detector
from latte.eval.fidelity import flicker
from latte.eval.frechet import distance
from latte.eval.frechet_inception_distance import frame_distance
from latte.eval.fvd_result import FVDResult
from latte.eval.inputs import Reading, Videos, given_features
from latte.eval.jedi_distance import jedi_distance
from latte.eval.kernel import mmd2
from latte.eval.manifold import NEIGHBOURS, manifold_scores
from latte.eval.protocol import Protocol
from latte.eval.sides import Sides, check_given
from latte.eval.statistics import FeatureSet
from latte.eval.video_inception_score import DEFAULT_SCORE, check_clips, score_probabilities

FLICKER = Detector(
    {"metric": "flicker"}, lambda clips: torch.tensor([[flicker(clip[None])] for clip in clips], dtype=torch.float64)
)
# these strings are in earlier results, which may be compared with new ones
UNKNOWN = {"metric": "given", "name": "distance of given statistics", "network": "by a network not known here"}
GIVEN = Detector(UNKNOWN, None)


def measure_sides(sides: Sides) -> FVDResult:
    """The distance between two sides, whatever they are."""
    if isinstance(sides.real, FeatureSet) and isinstance(sides.generated, FeatureSet):
        return compare_given(sides.real, sides.generated, sides.reading.seed)
    return compare_videos(*sides)


def compare_given(real: FeatureSet, generated: FeatureSet, seed: int = 0) -> FVDResult:
    """The distance between statistics or features that were given, whose network and protocol are unknown."""
    return measure_distance(real, generated, None, GIVEN, seed)


def compare_videos(
    real: Videos,
    generated: Videos,
    detector: Detector,
    reading: Reading,
    *,
    others: dict[str, Detector] | None = None,
    score_protocol: str = DEFAULT_SCORE,
) -> FVDResult:
    """The distance between two sets of videos by any detector, and other metrics of the same clips in one pass.

    Args:
        real: See `fvd`.
        generated: See `fvd`.
        detector: The network of the distance.
        reading: How clips are chosen and features computed.
        others: Detectors of further metrics: "fid" and "jedi" (need videos on both sides) and "inception_score" (of the
            generated videos). If the generated side is videos and clips have two frames or more, flicker is also
            measured, on each side that is videos.
        score_protocol: Protocol of the inception score.

    Returns:
        The result, in each of the processes that share the work.

    Raises:
        ValueError: Before features are computed, if the sides do not fit the protocol or the metrics.
    """
    videos, others = {"real": real, "generated": generated}, others or {}
    # what was given is checked first, so that no model is opened or sampled in vain
    given = {name: given_features(side, name, detector) for name, side in videos.items()}
    check_given(given, reading.protocol, others)
    if given["generated"] is None and reading.protocol.frames > 1:
        others = {"flicker": FLICKER, **others}
    sets = {name: given[name] or reading.open(side, name) for name, side in videos.items()}
    if "inception_score" in others and not isinstance(scored := sets["generated"], FeatureSet):
        check_clips(score_protocol, len(scored.clips), reading.protocol)
    sides: dict[str, FeatureSet] = {}
    found: dict[str, dict[str, Tensor]] = {"real": {}, "generated": {}}
    for name, clips in sets.items():
        if isinstance(clips, FeatureSet):
            sides[name] = clips
            continue
        wanted = {key: other for key, other in others.items() if (key, name) != ("inception_score", "real")}
        first, *rest = reading.features(clips, [detector, *wanted.values()], name)
        sides[name], found[name] = FeatureSet(clips.about, first), dict(zip(wanted, rest))
    result = measure_distance(sides["real"], sides["generated"], reading.protocol, detector, reading.seed)
    return with_others(result, found, others, score_protocol) if found["generated"] else result


def measure_distance(
    real: FeatureSet, generated: FeatureSet, protocol: Protocol | None, detector: Detector, seed: int = 0
) -> FVDResult:
    """The Fréchet distance between two sets of features, with its uncertainty and its caveats.

    Args:
        real: Features of the real clips, or their moments.
        generated: Likewise.
        protocol: How the clips were taken; None where both sides were given.
        detector: The network of the features.
        seed: For the random choices of the extrapolation and of the floor. The result omits it if there are none,
            because both sides are moments.

    Raises:
        ValueError: The features have different widths, or there are fewer than two clips.
    """
    unbiased = protocol is not None and protocol.unbiased
    a, b = (side.moments(unbiased) for side in (real, generated))
    value = distance(a, b)
    infinite = floor = kernel = manifold = None
    counted = [side.count for side in (real, generated) if isinstance(side.features, Tensor)]
    if counted and min(counted) >= clips_needed(real.width):
        infinite = at_infinity(real.features, generated.features, unbiased=unbiased, seed=seed)
    if isinstance(real.features, Tensor) and real.count >= LEAST_REAL and generated.count > 1:
        floor = real_floor(real.features, generated.count, unbiased=unbiased, seed=seed)
    if isinstance(real.features, Tensor) and isinstance(generated.features, Tensor) and min(counted) > 2:
        kernel = mmd2(generated.features, real.features)
        if min(counted) > NEIGHBOURS:
            manifold = manifold_scores(real.features, generated.features)
    return FVDResult(
        value=value,
        metric=detector.record["metric"],
        protocol=protocol.record | {key: detector.record.get(key) for key in ("resize", "eps")} if protocol else None,
        detector=detector.record,
        device=detector.device,
        seed=seed if counted else None,
        real=real.about,
        generated=generated.about,
        caveats=tuple(list_caveats(real, generated, protocol, detector)),
        versions={"latte": __version__, "torch": torch.__version__},
        infinite=infinite,
        floor=floor,
        kernel=kernel,
        manifold=manifold,
    )


def with_others(
    result: FVDResult, found: dict[str, dict[str, Tensor]], others: dict[str, Detector], score_protocol: str
) -> FVDResult:
    """The result with the other metrics, from the features that each side has."""
    still = {name: float(side["flicker"].mean()) for name, side in found.items() if "flicker" in side}
    result = replace(result, flicker=still or None)
    if "fid" in others:
        real, generated = (FeatureSet({}, found[name]["fid"]) for name in ("real", "generated"))
        result = replace(result, fid=frame_distance(real, generated, others["fid"]))
    if "jedi" in others:
        ours, theirs = (found[name]["jedi"] for name in ("generated", "real"))
        result = replace(result, jedi=jedi_distance(theirs, ours, others["jedi"]))
    if "inception_score" in others:
        probabilities = found["generated"]["inception_score"]
        try:
            score = score_probabilities(probabilities, score_protocol, others["inception_score"])
            result = replace(result, inception_score=score)
        except ValueError as error:  # some clips turned out to be unreadable; the other metrics do not need them
            result = replace(result, caveats=(*result.caveats, str(error)))
    return result
