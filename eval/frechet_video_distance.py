"""FVD as a function: the Fréchet video distance (Unterthiner et al. 2018, arXiv 1812.01717) and its relatives."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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
from latte.eval.inputs import Reading, Videos, are_features, find_device, given_features, refuse_unused
from latte.eval.kernel import Discrepancy, mmd2
from latte.eval.networks.i3d_weights import i3d_detector
from latte.eval.networks.published_weights import find_weights
from latte.eval.networks.shape_features import shapes_detector
from latte.eval.protocol import Protocol, choose_protocol
from latte.eval.statistics import FeatureSet
from latte.eval.video_inception_score import DEFAULT_SCORE, check_clips, score_probabilities

FLICKER = Detector(
    {"metric": "flicker"}, lambda clips: torch.tensor([[flicker(clip[None])] for clip in clips], dtype=torch.float64)
)
# its strings stand in results that may be compared with new ones
UNKNOWN = {"metric": "given", "name": "distance of given statistics", "network": "by a network not known here"}
GIVEN = Detector(UNKNOWN, None)


def fvd(
    real: Videos,
    generated: Videos,
    *,
    i3d: str | Path | None = None,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    bn_eps: float | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> FVDResult:
    """Fréchet video distance between real and generated videos.

    Each side is one of:

    - a folder of videos, at any depth (files, or folders of frames), or a list of video files;
    - uint8 videos (n, f, 3, h, w) or (n, f, h, w, 3), a tensor or an array, or any iterable of uint8 clips
      (f, 3, h, w) or (f, h, w, 3), which may differ in length and size;
    - a file of statistics: .npz with mean, cov and n (or mu and sigma), or a pickle of StyleGAN-V or cd-fvd;
    - features (n, 400): a tensor or an array, an .npz or .safetensors file with an array `features`, or a folder of
      such .safetensors files;
    - a pipeline's videos, a latte.eval.model_clips.ModelVideos.

    Args:
        real: The real videos.
        generated: The generated videos.
        i3d: Path to i3d_torchscript.pt or i3d_pretrained_400.pt. Not needed if both sides are features or statistics.
        protocol: Which clips are taken and how they are resized: "exact", "stylegan-v", "stylegan-v-128f",
            "stylegan-v-128f-subsample8f", "latte", "latte-taichi", "tf", or a latte.eval.protocol.Protocol. None:
            "exact", but with lossy generated videos allowed.
        num_videos: Clips per side, at most. None: as the protocol has it, usually 2048.
        seed: For the random choices of clips and for the intervals.
        real_crop: Pixels to which real frames are resized and centre-cropped, as in training. None: unchanged.
        bn_eps: The eps of I3D's batch norms. None: 1e-3; 1e-5 as in VideoGPT, TATS and cd-fvd.
        device: To compute on. None: CUDA where there is one, else the CPU.
        features: A folder where features are cached.
        progress: Whether progress bars are shown.

    Returns:
        The distance, its extrapolation to infinite N, the real-vs-real floor, the kernel distance, and caveats.

    Raises:
        ValueError: A side is not such a set, or does not fit the protocol. CheckpointError, which is one: the weights
            are missing (with where to get them), or a file is damaged or does not fit.
    """
    chosen = choose_protocol(protocol, num_videos, bn_eps, real_crop)
    if i3d is None and are_features(real) and are_features(generated):
        refuse_unused(protocol=protocol, num_videos=num_videos, real_crop=real_crop, bn_eps=bn_eps, features=features)
        return compare_given(real, generated, seed)
    detector = i3d_detector(required_i3d(i3d), chosen, find_device(device))
    return compare_videos(real, generated, detector, Reading(chosen, seed, features, progress=progress))


def shapes_distance(
    real: Videos,
    generated: Videos,
    *,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> FVDResult:
    """Fréchet distance by the bundled network, which was trained on the built-in shapes; it is not FVD.

    It needs no published weights. On other videos than the built-in shapes it says little. Arguments and result are
    those of `fvd`; features have 32 numbers.

    Raises:
        ValueError: See `fvd`.
    """
    chosen = choose_protocol(protocol, num_videos, None, real_crop)
    detector = shapes_detector(find_device(device))
    return compare_videos(real, generated, detector, Reading(chosen, seed, features, progress=progress))


def kvd(
    real: Videos,
    generated: Videos,
    *,
    i3d: str | Path | None = None,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    bn_eps: float | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> Discrepancy:
    """Kernel video distance: the squared maximum mean discrepancy between I3D features, by a cubic kernel, unbiased.

    Arguments are those of `fvd`, but no side can be statistics.

    Returns:
        The value, and its standard error by the jackknife.

    Raises:
        ValueError: See `fvd`; or a side is statistics, or has fewer than three clips.
    """
    sides = {"real": real, "generated": generated}
    chosen = choose_protocol(protocol, num_videos, bn_eps, real_crop)
    reading, detector = Reading(chosen, seed, features, progress=progress), GIVEN
    for name, side in sides.items():
        given = given_features(side, name)
        if given is not None and not isinstance(given.features, Tensor):
            raise ValueError(f"the {name} side is statistics: a kernel distance needs videos or features")
    if all(map(are_features, sides.values())):
        refuse_unused(protocol=protocol, num_videos=num_videos, real_crop=real_crop, bn_eps=bn_eps, features=features)
    else:
        detector = i3d_detector(required_i3d(i3d), chosen, find_device(device))
    found = {name: reading.feature_set(side, name, detector) for name, side in sides.items()}
    x, y = found["generated"].features, found["real"].features
    assert isinstance(x, Tensor) and isinstance(y, Tensor)
    return mmd2(x, y)


def required_i3d(path: str | Path | None) -> Path:
    """The path to I3D's weights. Raises CheckpointError, with where to get them, if none is given."""
    return Path(path) if path is not None else find_weights("i3d-torchscript", None).path


def compare_given(real: Videos, generated: Videos, seed: int = 0) -> FVDResult:
    """The distance between statistics or features that were given, whose network and protocol are unknown."""
    a, b = given_features(real, "real"), given_features(generated, "generated")
    assert a is not None and b is not None
    chosen = any(isinstance(side.features, Tensor) for side in (a, b))
    return measure_distance(a, b, None, GIVEN, seed if chosen else None)


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
        others: Detectors of further metrics: "fid" (needs videos on both sides) and "inception_score" (of the
            generated videos). Flicker is always measured.
        score_protocol: Of the inception score.

    Returns:
        The result, in each of the processes that share the work.

    Raises:
        ValueError: Before features are computed, if the sides do not fit the protocol or the metrics.
    """
    videos, others = {"real": real, "generated": generated}, {"flicker": FLICKER, **(others or {})}
    # what was given is checked first, so that no model is opened or sampled in vain
    given = {name: given_features(side, name, detector) for name, side in videos.items()}
    check_given(given, others, reading.protocol)
    sets = {name: given[name] or reading.open(side, name) for name, side in videos.items()}
    if "inception_score" in others:
        scored = sets["generated"]
        assert not isinstance(scored, FeatureSet)
        check_clips(score_protocol, len(scored.clips), reading.protocol)
    sides: dict[str, FeatureSet] = {}
    found: dict[str, dict[str, Tensor]] = {"real": {}, "generated": {}}
    for name, clips in sets.items():
        if isinstance(clips, FeatureSet):
            sides[name] = clips
            continue
        wanted = {key: other for key, other in others.items() if (key, name) != ("inception_score", "real")}
        first, *rest = reading.features(clips, [detector, *wanted.values()])
        sides[name], found[name] = FeatureSet(clips.about, first), dict(zip(wanted, rest))
    result = measure_distance(sides["real"], sides["generated"], reading.protocol, detector, reading.seed)
    return with_others(result, found, others, score_protocol) if found["generated"] else result


def measure_distance(
    real: FeatureSet, generated: FeatureSet, protocol: Protocol | None, detector: Detector, seed: int | None = 0
) -> FVDResult:
    """The Fréchet distance between two sets of features, with its uncertainty and its caveats.

    Args:
        real: Features of the real clips, or their moments.
        generated: Likewise.
        protocol: How the clips were taken; None where both sides were given.
        detector: What the features are by.
        seed: For the random choices of the extrapolation and of the floor; None where both sides are moments.

    Raises:
        ValueError: The features have different widths, or there are fewer than two clips.
    """
    unbiased = protocol is not None and protocol.unbiased
    a, b = (side.moments(unbiased) for side in (real, generated))
    value = distance(a, b)
    found: dict[str, Any] = {}
    counted = [side.count for side in (real, generated) if isinstance(side.features, Tensor)]
    options: dict[str, Any] = {"unbiased": unbiased, "seed": seed}
    if counted and min(counted) >= clips_needed(real.width):
        found["infinite"] = at_infinity(real.features, generated.features, **options)
    if isinstance(real.features, Tensor) and real.count >= LEAST_REAL and generated.count > 1:
        found["floor"] = real_floor(real.features, generated.count, **options)
    if isinstance(real.features, Tensor) and isinstance(generated.features, Tensor) and min(counted) > 2:
        found["kernel"] = mmd2(generated.features, real.features)
    return FVDResult(
        value=value,
        metric=detector.record["metric"],
        protocol=asdict(protocol) | {key: detector.record.get(key) for key in ("resize", "eps")} if protocol else None,
        detector=detector.record,
        device=detector.device,
        seed=seed,
        real=real.about,
        generated=generated.about,
        caveats=tuple(list_caveats(real, generated, protocol, detector)),
        versions={"latte": __version__, "torch": torch.__version__},
        **found,
    )


def check_given(given: dict[str, FeatureSet | None], others: dict[str, Detector], protocol: Protocol) -> None:
    """Raise ValueError if something needs videos on a side that is given as features or statistics."""
    if given["real"] and protocol.real_crop:
        raise ValueError("real_crop needs real videos, but the real side is given as features or statistics")
    for name, side in given.items():
        for other in ("fid", "inception_score"):
            if side and other in others:
                raise ValueError(f"{other} needs videos, but the {name} side is given as features or statistics")


def with_others(
    result: FVDResult, found: dict[str, dict[str, Tensor]], others: dict[str, Detector], score_protocol: str
) -> FVDResult:
    """The result with the other metrics, from the features that each side has."""
    still = {name: float(side["flicker"].mean()) for name, side in found.items() if "flicker" in side}
    result = replace(result, flicker=still)
    if "fid" in others:
        real, generated = (FeatureSet({}, found[name]["fid"]) for name in ("real", "generated"))
        result = replace(result, fid=frame_distance(real, generated, others["fid"]))
    if "inception_score" in others:
        probabilities = found["generated"]["inception_score"]
        score = score_probabilities(probabilities, score_protocol, others["inception_score"])
        result = replace(result, inception_score=score)
    return result
