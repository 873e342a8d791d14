"""Protocols of video distances: which clips of which videos, how they are resized, how the network is set.

Numbers of different protocols differ by more than models do, so a protocol is a value that every result holds whole.
"""

import math
from dataclasses import dataclass, replace

from latte.eval.networks.i3d import EPS

LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class Protocol:
    """One way to measure; where its clips come from is in latte.eval.clip_sets."""

    name: str
    frames: int = 16  # of a clip; of a video, frames times the stride are needed
    real_stride: int = 1  # between frames of real clips
    generated_stride: int = 1
    order: str = "name"  # in which videos are taken, one clip of each: "name", or "seed": by a hash of seed and name
    real_start: str = "seed"  # of a clip in its video: "seed", or "zero"
    generated_start: str = "zero"
    clips: int = 2048  # of each side, at most
    resize: str = "squash"  # see latte.eval.networks.i3d_weights
    eps: float = EPS  # of I3D's batch norms
    unbiased: bool = False  # covariances divided by n - 1
    real_crop: int = 0  # pixels of a side to which real frames are cut, as training cuts them; 0: as they are
    lossless: bool = False  # generated videos that went through a lossy codec are refused

    def stride(self, side: str) -> int:
        """Of "real" or "generated" clips."""
        return self.real_stride if side == "real" else self.generated_stride

    def start(self, side: str) -> str:
        """How clips of that side begin."""
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
        # google-research/frechet_video_distance: whole clips, TensorFlow 1's resize, TF-GAN's covariance
        Protocol("tf", real_start="zero", resize="squash-tf1", unbiased=True),
    )
}


def adjusted(name: str, clips: int | None = None, **changes) -> Protocol:
    """A protocol by name, with other values for some fields; what is changed shows in its name. ValueError: unknown."""
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol is called {name!r}; there are {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    changes = {key: value for key, value in {"clips": clips, **changes}.items() if value is not None}
    changes = {key: value for key, value in changes.items() if value != getattr(protocol, key)}
    for key, value in changes.items():
        if value <= 0 or not math.isfinite(value):
            raise ValueError(f"{key} is {value}; it must be more than 0")
    if changes.get("real_crop", 0) > LARGEST:
        raise ValueError(f"real_crop is {changes['real_crop']}; it must be {LARGEST} or less")
    marks = "".join(f", {key} {value}" for key, value in changes.items())
    return replace(protocol, name=protocol.name + marks, **changes)
