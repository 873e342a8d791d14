"""The configuration of an autoencoder."""

from dataclasses import dataclass
from typing import Any, ClassVar

from latte.models.network_config import NetworkConfig, known_fields, shown

TEMPORAL_GROUPS = 32  # of the temporal decoder's norms over time, as published, whatever norm_num_groups is


@dataclass(frozen=True)
class VAEConfig(NetworkConfig):
    """The shape of an autoencoder, in the names of the published config.json; the defaults are Stable Diffusion's.

    Raises:
        ValueError: The values do not fit together.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)  # one per level, each half the size of the last
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # latents are multiplied by it, which gives them a variance near 1
    temporal_decoder: bool = False  # the decoder of Stable Video Diffusion

    limits: ClassVar[dict[str, tuple[float, float]]] = {
        "in_channels": (1, 4096),
        "out_channels": (1, 4096),
        "latent_channels": (1, 4096),
        "layers_per_block": (1, 16),
        "norm_num_groups": (1, 4096),
        "scaling_factor": (1e-4, 1e4),
    }

    def __post_init__(self) -> None:
        widths = tuple(self.block_out_channels)
        object.__setattr__(self, "block_out_channels", widths)
        super().__post_init__()
        sensible = 1 <= len(widths) <= 8 and all(1 <= width <= 4096 for width in widths)
        self.require(sensible, f"block_out_channels is {shown(widths)}; it must hold 1 to 8 widths, each in 1 to 4096")
        for groups in {self.norm_num_groups, TEMPORAL_GROUPS if self.temporal_decoder else self.norm_num_groups}:
            divided = not any(width % groups for width in widths)
            self.require(divided, f"{groups} groups do not divide the widths {widths}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "VAEConfig":
        """Build a configuration from a published config.json, whose other entries are ignored.

        Args:
            values: The content of the file.

        Returns:
            The configuration.

        Raises:
            ValueError: Values do not fit.
        """
        published = {"temporal_decoder": "TemporalDecoder" in str(values.get("_class_name"))}
        return super().from_dict({**published, **known_fields(cls, values)})
