"""The configuration of the feature network of the built-in shapes."""

from dataclasses import dataclass

from latte.models.network_config import NetworkConfig, shown

GROUPS = 4  # of each group norm


@dataclass(frozen=True)
class ShapeFeaturesConfig(NetworkConfig):
    """The size of the network."""

    widths: tuple[int, ...] = (8, 24, 48, 64)  # channels of the convolutions
    features: int = 32  # length of a feature vector

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        super().__post_init__()
        if not 1 <= len(self.widths) <= 8 or not all(0 < width <= 4096 for width in (*self.widths, self.features)):
            raise ValueError(
                f"widths {shown(self.widths)}, {self.features} features: 1 to 8 widths, sizes in 1 to 4096"
            )
        if any(width % GROUPS for width in self.widths):
            raise ValueError(f"widths {self.widths}: each must be a multiple of {GROUPS}")
