"""The variants, published sizes and configuration of Latte."""

from dataclasses import dataclass
from typing import Any, ClassVar

from latte.models.network_config import MOST_VALUES, PREDICTIONS, NetworkConfig

VARIANTS = {  # figure 2 of the paper: the attentions of each block
    1: lambda depth: ["s", "t"] * (depth // 2),  # interleaved fusion
    2: lambda depth: ["s"] * (depth // 2) + ["t"] * (depth // 2),  # late fusion
    3: lambda depth: ["st"] * depth,  # both attentions in every block
    4: lambda depth: ["|"] * depth,  # heads split between space and time
}

SIZES = {  # name: depth (variants 1 and 2), hidden_size, num_heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}


def equal_depth(depth: int) -> int:
    """The depth at which variants 3 and 4 have as many parameters as variants 1 and 2 at this depth: 23 for 28."""
    return round(depth * 18 / 22)  # with width d, a second attention adds 4 d^2 to the 18 d^2 of a block


@dataclass(frozen=True)
class LatteConfig(NetworkConfig):
    """The shape of a Latte; the defaults are those of an unconditional Latte-XL/2.

    Raises:
        ValueError: The values do not fit together.
    """

    variant: int = 1  # 1 interleaved, 2 late fusion, 3 both attentions per block, 4 split heads
    depth: int = 28  # number of blocks
    hidden_size: int = 1152
    num_heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: int = 2  # side of a patch, in latent pixels
    tubelet: int = 1  # frames in a patch; 1: uniform frame patch embedding, more: compression frame patch embedding
    in_channels: int = 4  # of the latents
    learn_sigma: bool = True  # the output has twice the channels: the second half is for the variance
    input_size: int = 32  # default side of the latents; the model takes any
    num_frames: int = 16  # default number of frames; the model takes any
    num_classes: int = 0  # 0: unconditional
    class_dropout_prob: float = 0.1  # share of labels replaced by "no class" in training; 0: no such class
    conditioning: str = "adaln"  # "adaln" (adaLN-Zero, S-AdaLN) or "tokens" (all tokens)
    temporal_pos: str = "sincos"  # "sincos" (absolute) or "rope" (rotary)
    # what the first in_channels of the output are: "eps", the noise (as published), "v" or "flow"
    prediction: str = "eps"
    # the network also sees an earlier estimate of the clean latents: self-conditioning (latte.models.denoiser)
    self_condition: bool = False

    limits: ClassVar[dict[str, tuple[float, float]]] = {
        "depth": (1, 1000),
        "hidden_size": (4, 65536),
        "num_heads": (1, 1024),
        "mlp_ratio": (0.01, 64),
        "patch_size": (1, 256),
        "tubelet": (1, 256),
        "in_channels": (1, 4096),
        "input_size": (1, 65536),
        "num_frames": (1, 65536),
        "num_classes": (0, 1_000_000),
        "class_dropout_prob": (0, 1),
    }

    def __post_init__(self) -> None:
        choices = {
            "variant": tuple(VARIANTS),
            "conditioning": ("adaln", "tokens"),
            "temporal_pos": ("sincos", "rope"),
            "prediction": PREDICTIONS,
        }
        for name, known in choices.items():
            self.require_one_of(name, known)
        super().__post_init__()
        width, split = self.hidden_size, self.variant == 4
        heads = self.num_heads // 2 if split else self.num_heads
        pairs = self.variant > 2 or self.depth % 2 == 0
        self.require(pairs, f"depth is {self.depth}; variants 1 and 2 pair their blocks and need an even depth")
        self.require(not split or self.num_heads % 2 == 0, f"num_heads is odd ({self.num_heads}); variant 4 halves it")
        self.require(width % heads == 0, f"hidden_size {width} cannot be divided into {heads} heads")
        self.require(width % 4 == 0, f"hidden_size is {width}; sinusoidal positions need a multiple of 4")
        even = self.temporal_pos != "rope" or (width // heads) % 2 == 0
        values = self.num_frames * self.input_size**2
        self.require(values <= MOST_VALUES, f"num_frames and input_size make {values} values, which are too many")
        self.require(even, f"a head is {width // heads} wide; rotary positions need an even width")

    @classmethod
    def from_name(cls, name: str, variant: int = 1, **changes: Any) -> "LatteConfig":
        """The configuration of a published size (Latte, table 1).

        Args:
            name: Such as "Latte-XL/2", where 2 is the patch size: S, B, L or XL, and 2, 4 or 8.
            variant: Variants 3 and 4 get the depth at which they have as many parameters as variants 1 and 2.
            **changes: Other fields that differ from their defaults.

        Returns:
            The configuration.

        Raises:
            ValueError: No published model has this name.
        """
        size, _, patch = name.removeprefix("Latte-").partition("/")
        if size not in SIZES or patch not in ("2", "4", "8"):
            raise ValueError(f"no model is called {name!r}: expected Latte-{{{','.join(SIZES)}}}/{{2,4,8}}")
        depth, hidden_size, num_heads = SIZES[size]
        depth = depth if variant in (1, 2) else equal_depth(depth)
        shape = {"depth": depth, "hidden_size": hidden_size, "num_heads": num_heads, "patch_size": int(patch)}
        return cls(variant=variant, **{**shape, **changes})

    @property
    def least_tensors(self) -> int:
        """At least one for each block."""
        return self.depth

    @property
    def out_channels(self) -> int:
        """Channels of the output: the prediction and, if it is learned, the variance."""
        return self.in_channels * (2 if self.learn_sigma else 1)
