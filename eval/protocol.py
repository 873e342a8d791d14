"""FVD protocols: which clips are taken from which videos, how they are resized, and how the network is configured.

Distances under different protocols differ by more than models do, so every result holds its whole protocol.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from typing import Any

from latte.eval.networks.i3d import EPS

LARGEST_CROP = 4096  # pixels
USUAL = {"crop_filter": "bicubic", "short_real": "left out"}  # values from before these were fields


def record_of(value: Any) -> dict[str, Any]:
    """The fields of a Protocol or of a clip, such as a ClipWindow, by name, for results, files and hashes.

    Fields with their value in USUAL are left out, so that results and files from before they were fields stay valid.
    """
    return {name: field for name, field in asdict(value).items() if (name, field) not in USUAL.items()}


@dataclass(frozen=True)
class Protocol:
    """A measurement protocol, by which latte.eval.clip_windows takes clips."""

    name: str
    frames: int = 16  # per clip; a video must have frames x stride of them
    real_stride: int = 1  # between the frames of real clips
    generated_stride: int = 1
    # in which videos are taken: "name"; "seed": by a hash of the seed and the name; or "class": the same in each
    # subfolder, one of each in turn
    order: str = "name"
    real_start: str = "seed"  # of a clip in its video: "seed" (drawn from the seed and the name) or "zero"
    generated_start: str = "zero"
    clips: int = 2048  # per side, at most; one per video
    resize: str = "squash"  # see latte.eval.networks.i3d_weights
    eps: float = EPS  # of I3D's batch norms
    unbiased: bool = False  # covariances are divided by n - 1
    real_crop: int = 0  # pixels: real frames are resized and centre-cropped to this, as in training; 0: unchanged
    crop_filter: str = "bicubic"  # of that resizing, with antialiasing: "bicubic" or "bilinear"
    short_real: str = "left out"  # real videos with too few frames for the stride; "stride 1" takes consecutive ones
    lossless: bool = False  # whether generated videos in a lossy codec are rejected

    def stride(self, side: str) -> int:
        """The stride of "real" or "generated" clips."""
        return self.real_stride if side == "real" else self.generated_stride

    def least_frames(self, side: str) -> int:
        """How many frames a video of a side must have."""
        return self.frames * (1 if side == "real" and self.short_real == "stride 1" else self.stride(side))

    def stride_in(self, side: str, frames: int) -> int:
        """The stride of a clip from a video with this many frames; 0 if there are too few."""
        if frames < self.least_frames(side):
            return 0
        stride = self.stride(side)
        return stride if frames > (self.frames - 1) * stride else 1

    @property
    def record(self) -> dict[str, Any]:
        """The fields by name, for results: see record_of."""
        return record_of(self)

    def start(self, side: str) -> str:
        """How the start of "real" or "generated" clips is chosen: "seed" or "zero"."""
        return self.real_start if side == "real" else self.generated_start


STYLEGAN_V = Protocol("stylegan-v")  # universome/stylegan-v, fvd2048_16f; its unseeded choices are seeded here
LATTE = Protocol("latte", real_stride=3, order="seed")  # Vchitect/Latte, tools/metrics/frechet_video_distance.py

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("exact", order="seed", generated_start="seed", lossless=True),  # ours
        STYLEGAN_V,
        replace(STYLEGAN_V, name="stylegan-v-128f", frames=128),
        replace(STYLEGAN_V, name="stylegan-v-128f-subsample8f", real_stride=8, generated_stride=8),
        LATTE,
        replace(LATTE, name="latte-taichi", real_stride=6),  # Vchitect/Latte, issue 115
        # google-research/frechet_video_distance: clips from the start, TensorFlow 1's resize, TF-GAN's covariance
        Protocol("tf", real_start="zero", resize="squash-tf1", unbiased=True),
        # songweige/content-debiased-fvd with I3D, one clip per video; its unseeded choices are seeded here
        Protocol("cd-fvd", order="seed", generated_start="seed", eps=1e-5),
        # showlab/FAR, far/data/ucf_dataset.py and far/metrics/fvd.py, UCF101 at 256 pixels: real clips from the start,
        # equally many per class; torchvision's Resize and CenterCrop, bilinear; stride 1 in videos that are too short
        # for 3; N - 1 in covariances. FAR pads videos of fewer than 16 frames with black (none in UCF101), and measures
        # both sides as read from a lossy mp4 (far/trainers/trainer_far.py); here neither is done
        Protocol(
            "far",
            real_stride=3,
            order="class",
            real_start="zero",
            unbiased=True,
            real_crop=256,
            crop_filter="bilinear",
            short_real="stride 1",
        ),
    )
}


def adjusted(protocol: str | Protocol, clips: int | None = None, **changes: float | None) -> Protocol:
    """A protocol with other values for some fields; its name then lists the changes.

    Args:
        protocol: One of PROTOCOLS by name, or a Protocol.
        clips: Clips per side, at most.
        **changes: Other numeric fields of Protocol. None leaves a field unchanged.

    Raises:
        ValueError: No such protocol, or a value that is not positive.
    """
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise ValueError(f"no protocol is called {protocol!r}; there are {', '.join(PROTOCOLS)}")
        protocol = PROTOCOLS[protocol]
    if not isinstance(protocol, Protocol):
        raise ValueError(f"the protocol is {protocol!r}: expected one of {', '.join(PROTOCOLS)}, or a Protocol")
    changes = {key: value for key, value in {"clips": clips, **changes}.items() if value is not None}
    changes = {key: value for key, value in changes.items() if value != getattr(protocol, key)}
    for key, value in changes.items():
        kind = "whole number" if isinstance(getattr(protocol, key), int) else "number"
        if isinstance(value, bool) or not isinstance(value, Integral if kind == "whole number" else Real):
            raise ValueError(f"{key} is {value!r}; it must be a {kind}, more than 0")
        if value <= 0 or not math.isfinite(value):
            raise ValueError(f"{key} is {value}; it must be more than 0")
    if changes.get("real_crop", 0) > LARGEST_CROP:
        raise ValueError(f"real_crop is {changes['real_crop']}; it must be {LARGEST_CROP} or less")
    changes = {key: type(getattr(protocol, key))(value) for key, value in changes.items()}  # NumPy's are not JSON
    said = {"real_crop": "cropped to {0} x {0}"}  # where the field's name would not do
    marks = "".join(", " + said.get(key, f"{key} {{0}}").format(value) for key, value in changes.items())
    return replace(protocol, name=protocol.name + marks, **changes)


def choose_protocol(
    protocol: str | Protocol | None,
    num_videos: int | None = None,
    bn_eps: float | None = None,
    real_crop: int | None = None,
    frames: int | None = None,
) -> Protocol:
    """The protocol that a user asked for.

    Args:
        protocol: One of PROTOCOLS by name, or a Protocol. None: "exact, any codec", which differs from "exact" in that
            generated videos in a lossy codec get a caveat instead of being rejected.
        num_videos: Clips per side, at most. None: the protocol's value.
        bn_eps: The eps of I3D's batch norms. None: the protocol's value.
        real_crop: Pixels to which real frames are resized and centre-cropped. None: the protocol's value.
        frames: Frames per clip. None: the protocol's value.

    Raises:
        ValueError: No such protocol, or a value out of range.
    """
    chosen = adjusted(protocol or "exact", clips=num_videos, eps=bn_eps, real_crop=real_crop, frames=frames)
    return chosen if protocol else replace(chosen, name=f"{chosen.name}, any codec", lossless=False)


WORDS = {  # what a value of a field means, where it is not that of "exact"
    "order": {"name": "videos in order of name", "class": "as many videos of each subfolder"},
    "real_start": {"zero": "real clips from the first frame"},
    "generated_start": {"zero": "generated clips from the first frame"},
    "resize": {"squash-tf1": "resized at TensorFlow 1's positions"},
    "unbiased": {True: "covariances by N - 1"},
    "crop_filter": {"bilinear": "cropped after bilinear resizing"},
    "short_real": {"stride 1": "stride 1 in shorter videos"},
}
NUMBERS = {
    "frames": "{} frames",
    "real_stride": "real stride {}",
    "generated_stride": "generated stride {}",
    "real_crop": "real frames cropped to {} x {}",
    "eps": "batch norms with eps {:g}",
}


def from_exact(protocol: Mapping[str, Any]) -> list[str]:
    """How a protocol measures otherwise than "exact", in words, by the values of its fields; None values are ignored.

    Which codecs it allows does not count, since it does not change a distance.
    """
    base = asdict(PROTOCOLS["exact"])
    changed = {name: value for name, value in protocol.items() if value is not None and value != base.get(name)}
    said = [words.format(changed[name], changed[name]) for name, words in NUMBERS.items() if name in changed]
    return said + [words[changed[name]] for name, words in WORDS.items() if changed.get(name) in words]


def describe(protocol: Mapping[str, Any]) -> str:
    """A protocol in words, by the values of its fields: how it differs from "exact", or how "exact" draws clips."""
    said = from_exact(protocol) or ["clips drawn by seed and name"]
    return ", ".join([*said, *(["lossless videos only"] if protocol.get("lossless") else [])])


def differences(protocol: Protocol) -> list[str]:
    """How the clips of an adjusted protocol differ from those of the protocol that it is named after."""
    known = PROTOCOLS.get(protocol.name.split(",")[0])
    fields = ("frames", "real_stride", "generated_stride")
    pairs = [(name, getattr(protocol, name), getattr(known, name)) for name in fields if known]
    return [f"{name} {value}, where {known.name} has {usual}" for name, value, usual in pairs if value != usual]
