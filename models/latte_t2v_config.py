"""The configuration of LatteT2V."""

from dataclasses import dataclass
from typing import ClassVar

from latte.models.network_config import MOST_VALUES, PREDICTIONS, NetworkConfig


@dataclass(frozen=True)
class LatteT2VConfig(NetworkConfig):
    """The shape of a LatteT2V, in the names of the published config.json; the defaults are Latte-1's.

    Raises:
        ValueError: The values do not fit together.
    """

    num_layers: int = 28  # pairs of a spatial and a temporal block
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    caption_channels: int = 4096  # width of the text encoder's embeddings
    in_channels: int = 4
    out_channels: int = 8  # the noise and, if twice in_channels, the variance
    patch_size: int = 2
    sample_size: int = 64  # side of the latents that positions are scaled to; the model takes any
    video_length: int = 16  # default number of frames; the model takes any
    # what the first in_channels of the output are: "eps", the noise (as published), "v" or "flow"
    prediction: str = "eps"
    # the network also sees an earlier estimate of the clean latents: self-conditioning (latte.models.denoiser)
    self_condition: bool = False

    limits: ClassVar[dict[str, tuple[float, float]]] = {
        "num_layers": (1, 500),
        "num_attention_heads": (1, 1024),
        "attention_head_dim": (1, 4096),
        "caption_channels": (1, 65536),
        "in_channels": (1, 4096),
        "out_channels": (1, 8192),
        "patch_size": (1, 256),
        "sample_size": (1, 65536),
        "video_length": (1, 65536),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        width, out, channels = self.hidden_size, self.out_channels, self.in_channels
        self.require(width % 4 == 0, f"the width is {width}; sinusoidal positions need a multiple of 4")
        self.require(out in (channels, 2 * channels), f"out_channels is {out}; it must be {channels} or {2 * channels}")
        values = self.video_length * self.sample_size**2
        self.require(values <= MOST_VALUES, f"video_length and sample_size make {values} values, which are too many")
        self.require_one_of("prediction", PREDICTIONS)

    @property
    def least_tensors(self) -> int:
        """At least one for each block."""
        return 2 * self.num_layers

    @property
    def hidden_size(self) -> int:
        """Width d of the tokens."""
        return self.num_attention_heads * self.attention_head_dim
