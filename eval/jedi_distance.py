"""JEDi (Luo et al. 2024, arXiv 2410.05203): a kernel distance between V-JEPA features of videos."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from latte.eval.features import Detector
from latte.eval.inputs import Videos, given_features
from latte.eval.kernel import mmd2
from latte.eval.networks.vjepa import WIDTH
from latte.eval.networks.vjepa_weights import vjepa_detector
from latte.eval.protocol import Protocol
from latte.eval.sides import Options, open_sides
from latte.eval.statistics import feature_rows

UNKNOWN = Detector({"metric": "jedi", "name": "JEDi"}, None, width=WIDTH)  # for given features
SCALE = 100  # as in the published values


@dataclass(frozen=True)
class JEDiResult:
    """A JEDi; `float(result)` is its value.

    Attributes:
        value: The squared maximum mean discrepancy with the kernel (x . y / d)^2, times 100. Pairs of a clip with
            itself count, as in JEDi's own tool, so that it is too large by about c / N.
        error: Its standard error for newly drawn clips, by the jackknife.
        clips: How many each side has, by "real" and "generated".
        sha256: The sha256 of the encoder's weights.
        probe_sha256: The sha256 of the probe's weights.
    """

    value: float
    error: float
    clips: dict[str, int]
    sha256: str | None = None
    probe_sha256: str | None = None

    def __float__(self) -> float:
        return self.value

    def to_dict(self) -> dict:
        """The result as it is stored in JSON."""
        return {"metric": "jedi", **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict) -> "JEDiResult":
        """The inverse of to_dict. Raises KeyError for a value that is missing."""
        clips = {name: values["clips"][name] for name in ("real", "generated")}
        return cls(values["value"], values["error"], clips, values.get("sha256"), values.get("probe_sha256"))


def jedi(
    real: Videos,
    generated: Videos,
    *,
    vjepa: str | Path | None = None,
    probe: str | Path | None = None,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> JEDiResult:
    """JEDi between the clips that a protocol takes from two sets of videos.

    Args:
        real: Videos or features (n, 1280); see `fvd`.
        generated: Likewise.
        vjepa: Path to vith16.pth.tar. Leave it out if both sides are features.
        probe: Path to ssv2-probe.pth.tar, likewise.
        protocol: Which clips are taken; see `fvd`. The number of frames must be even.
        num_videos: Clips per side, at most. None: the protocol's value.
        frames: Frames per clip. None: the protocol's value.
        seed: For the protocol's random choices.
        real_crop: Pixels to which real frames are resized and centre-cropped. None: unchanged.
        device: The device to compute on. None: CUDA if available, else the CPU.
        features: A folder where features are cached.
        progress: Whether a progress bar is shown.

    Returns:
        The distance, its error, and the numbers of clips.

    Raises:
        ValueError: See `fvd`; or a side is statistics, or has fewer than three clips. CheckpointError: the weights are
            missing (with where to get them) or do not fit. FileNotFoundError: there is no such folder or file.
    """
    given = {"real": given_features(real, "real"), "generated": given_features(generated, "generated")}
    for name, side in given.items():
        if side is not None:
            feature_rows(side, name)  # raises now rather than after a network is loaded
    real, generated = given["real"] or real, given["generated"] or generated
    options = Options(protocol, num_videos, frames, real_crop, features)
    make = lambda chosen, place: vjepa_detector(vjepa, probe, place)
    sides = open_sides(
        real,
        generated,
        make,
        UNKNOWN,
        options,
        seed=seed,
        device=device,
        progress=progress,
        vjepa=vjepa,
        probe=probe,
    )
    first, second = sides.feature_sets()
    return jedi_distance(feature_rows(first, "real"), feature_rows(second, "generated"), sides.detector)


def jedi_distance(real: Tensor, generated: Tensor, detector: Detector) -> JEDiResult:
    """JEDi between features (n, d) and (m, d). Raises ValueError for fewer than three."""
    found = mmd2(generated, real, degree=2, offset=0.0, unbiased=False)
    hashes = (detector.record.get(name) for name in ("sha256", "probe_sha256"))
    clips = {"real": len(real), "generated": len(generated)}
    return JEDiResult(SCALE * found.value, SCALE * found.error, clips, *hashes)
