"""The configuration of a T5 encoder."""

from dataclasses import dataclass
from typing import Any, ClassVar

from latte.models.network_config import NetworkConfig, known_fields, shown

SIZE = (1, 1_000_000)  # limits of the sizes without tighter ones


@dataclass(frozen=True)
class T5Config(NetworkConfig):
    """The shape of an encoder, in the names of the published config.json; the defaults are those of T5 v1.1 XXL.

    Raises:
        ValueError: The values do not fit together.
    """

    vocab_size: int = 32128
    d_model: int = 4096
    d_kv: int = 64  # width of a head
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    limits: ClassVar[dict[str, tuple[float, float]]] = {
        "vocab_size": SIZE,
        "d_model": SIZE,
        "d_kv": SIZE,
        "d_ff": SIZE,
        "num_layers": (1, 500),
        "num_heads": SIZE,
        "relative_attention_num_buckets": SIZE,
        "relative_attention_max_distance": SIZE,
        "layer_norm_epsilon": (1e-30, 1_000_000),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        self.require(buckets % 4 == 0, f"relative_attention_num_buckets is {buckets}; it must be a multiple of 4")
        self.require(
            distance > buckets // 4, f"relative_attention_max_distance is {distance}; it must exceed {buckets // 4}"
        )

    @property
    def least_tensors(self) -> int:
        """At least one for each block."""
        return self.num_layers

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "T5Config":
        """Build a configuration from a published config.json, whose other entries are ignored.

        Args:
            values: The content of the file.

        Returns:
            The configuration.

        Raises:
            ValueError: It describes another kind of T5, or values do not fit.
        """
        if (kind := values.get("feed_forward_proj", "gated-gelu")) != "gated-gelu":
            raise ValueError(f"T5Config: feed_forward_proj is {shown(kind)}; only gated-gelu, of T5 v1.1, is supported")
        return super().from_dict(known_fields(cls, values))
