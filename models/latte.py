"""Latte: a latent diffusion transformer for video (Ma et al. 2024, arXiv 2401.03048).

The models here are unconditional or class-conditional; latte_t2v.py holds the one that takes a text.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from latte.models.block import MODULATION, AdaLN, Block, FullPrecisionLinear
from latte.models.condition import ClassEmbed, spatial_position
from latte.models.denoiser import Condition, Denoiser, check_latents
from latte.models.network_config import MOST_VALUES, NetworkConfig, shown

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
    """The depth at which variants 3 and 4 have as many parameters as variants 1 and 2 of this depth: 23 for 28."""
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
    tubelet: int = 1  # frames in a patch: 1 uniform-frame, more compression-frame patch embedding
    in_channels: int = 4  # of the latents
    learn_sigma: bool = True  # the output has as many channels again, for the variance
    input_size: int = 32  # default side of the latents; the model takes any
    num_frames: int = 16  # default number of frames; the model takes any
    num_classes: int = 0  # 0: unconditional
    class_dropout_prob: float = 0.1  # share of labels that training replaces by "no class"; 0: no such class
    conditioning: str = "adaln"  # "adaln" (adaLN-Zero, S-AdaLN) or "tokens" (all tokens)
    temporal_pos: str = "sincos"  # "sincos" (absolute) or "rope" (rotary)
    prediction: str = "eps"  # what the first channels of the output are: "eps", the noise (as published), or "v"

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
            "prediction": ("eps", "v"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            self.require(value in known, f"{name} is {shown(value)}; it must be one of {', '.join(map(repr, known))}")
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


class Latte(Denoiser):
    """The unconditional or class-conditional denoiser (Latte, figures 1 and 2).

    Args:
        config: Its shape.
    """

    def __init__(self, config: LatteConfig):
        super().__init__()
        self.config = cfg = config
        dim, p = cfg.hidden_size, cfg.patch_size
        kinds = VARIANTS[cfg.variant](cfg.depth)
        rope = cfg.temporal_pos == "rope"
        self.patch_size, self.tubelet = p, cfg.tubelet
        # the paper does not say where variants 2 to 4 add it; here, as in 1, before the first block that needs it
        self.first_temporal = next((i for i, kind in enumerate(kinds) if set(kind) & {"t", "|"} and not rope), None)
        self.condition = ClassEmbed(dim, cfg.num_classes, cfg.class_dropout_prob > 0)
        self.patch_embed = nn.Linear(cfg.in_channels * cfg.tubelet * p * p, dim)
        self.blocks = nn.ModuleList(
            Block(dim, cfg.num_heads, kind, cfg.conditioning, cfg.mlp_ratio, rope) for kind in kinds
        )
        self.final_modulation = MODULATION[cfg.conditioning](dim, 1, parts=2)
        self.final_linear = FullPrecisionLinear(dim, p * p * cfg.out_channels)
        upsample = (cfg.tubelet, 1, 1)
        self.upsample = (
            nn.ConvTranspose3d(cfg.out_channels, cfg.out_channels, upsample, upsample) if cfg.tubelet > 1 else None
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise as DiT (section 3.2): a fresh block is the identity, and a fresh model outputs zeros.

        Linear layers are Xavier-uniform, embeddings N(0, 0.02), modulation and output zero.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for linear in (part for part in self.condition.time.modules() if isinstance(part, nn.Linear)):
            nn.init.normal_(linear.weight, std=0.02)
        for zero in (m.linear for m in self.modules() if isinstance(m, AdaLN)):
            nn.init.zeros_(zero.weight)
        nn.init.zeros_(self.final_linear.weight)
        if self.upsample is not None and self.upsample.bias is not None:
            nn.init.zeros_(self.upsample.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, num_images: int = 0) -> Tensor:
        """Predict the noise (or config.prediction) of noisy latents and, if it is learned, the variance.

        The variance channels interpolate as in Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 15.

        Args:
            x: Noisy latents (b, f, c, h, w). Any f, h and w that the patches divide.
            t: Timesteps (b,), in 0 to 999 for the published schedule.
            y: Classes (b,), num_classes for "no class"; None for an unconditional model. In joint training also
                (b, 1 + num_images), the class of the clip and those of the images.
            num_images: In joint training, how many of the last frames are still images.

        Returns:
            The prediction (b, f, c or 2c, h, w).

        Raises:
            ValueError: Shapes do not fit the configuration or each other.
        """
        self.check_inputs(x, t, y, num_images)
        return self.denoise(x, self.class_condition(self.condition(t, y)), num_images)

    def class_condition(self, embeddings: list[Tensor]) -> Condition:
        """How embeddings (b, rows, d) enter the trunk: their sum modulates it, or each is a token of every frame."""
        if self.config.conditioning == "adaln":
            total = reduce(torch.add, embeddings)
            return Condition(total, total)
        tokens = torch.stack(torch.broadcast_tensors(*embeddings), 2)
        return Condition(embeddings[0], embeddings[0], tokens)  # Affine ignores what it is given

    def spatial_position(self, x: Tensor, h: int, w: int) -> Tensor:
        # in the weights' precision: under autocast the residual stream is float32 from here on
        return spatial_position(h, w, self.config.hidden_size, x.device).to(self.patch_embed.weight.dtype)

    def check_inputs(self, x: Tensor, t: Tensor, y: Tensor | None, num_images: int) -> None:
        """Raise a ValueError that names the first of forward's arguments that does not fit."""
        cfg = self.config
        check_latents(x, t, cfg.in_channels, cfg.patch_size, num_images)
        if x.shape[1] % cfg.tubelet:
            raise ValueError(f"{x.shape[1]} frames cannot be cut into tubelets of {cfg.tubelet}")
        if num_images and cfg.tubelet > 1:
            raise ValueError(f"a tubelet of {cfg.tubelet} frames cannot hold single images: num_images must be 0")
        if cfg.num_classes and (y is None or y.shape not in ((len(x),), (len(x), 1 + num_images))):
            raise ValueError(
                f"this model is class-conditional: give y of shape ({len(x)},), {cfg.num_classes} for no class"
            )
        if y is not None and not cfg.num_classes:
            raise ValueError("this model is unconditional: leave y out")
        if y is not None and y.is_floating_point():
            raise ValueError(f"y has type {y.dtype}; classes are whole numbers")
