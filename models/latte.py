"""Latte: a latent diffusion transformer for video (arXiv 2401.03048), unconditional or class-conditional."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latte.models.block import MODULATION, AdaLN, Block, modulate, per_frame
from latte.models.condition import Condition, sincos, spatial_position
from latte.models.fields import check_fields

VARIANTS = {
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


LIMITS = {  # beyond these a configuration is a mistake, or somebody's mischief
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


def check_latents(x: Tensor, t: Tensor, channels: int, p: int) -> None:
    """ValueError: x is not (b, f, channels, h, w) with sides that p divides, or t is not (b,)."""
    if x.ndim != 5 or x.shape[2] != channels:
        raise ValueError(f"latents have shape {tuple(x.shape)}; expected (b, f, {channels}, h, w)")
    if t.shape != (len(x),):
        raise ValueError(f"timesteps have shape {tuple(t.shape)}; expected ({len(x)},), one per sample")
    if 0 in x.shape or x.shape[3] % p or x.shape[4] % p:
        raise ValueError(f"latents of {x.shape[3]} x {x.shape[4]} cannot be cut into patches of {p} x {p}")


def patchify(x: Tensor, p: int, tubelet: int = 1) -> Tensor:
    """Latents (b, f, c, h, w) -> patches (b, f / tubelet, s, c * tubelet * p * p), row by row."""
    return rearrange(x, "b (f q) c (h p) (w r) -> b f (h w) (c q p r)", q=tubelet, p=p, r=p)


def unpatchify(x: Tensor, p: int, h: int) -> Tensor:
    """Patches (b, f, s, p * p * c) in h rows -> (b, f, c, height, width); a patch's channels come last, as in DiT."""
    return rearrange(x, "b f (h w) (p r c) -> b f c (h p) (w r)", h=h, p=p, r=p)


@dataclass(frozen=True)
class LatteConfig:
    """What a Latte is made of. Raises ValueError where the values do not fit together."""

    variant: int = 1  # 1 interleaved, 2 late fusion, 3 both attentions per block, 4 split heads
    depth: int = 28  # blocks
    hidden_size: int = 1152
    num_heads: int = 16
    mlp_ratio: float = 4.0
    patch_size: int = 2  # latent pixels on a patch's side
    tubelet: int = 1  # frames in a patch: 1 uniform-frame, more compression-frame patch embedding
    in_channels: int = 4  # of the latents
    learn_sigma: bool = True  # the output has as many channels again, for the variance
    input_size: int = 32  # side of the latents when nothing else is asked for; the model takes any
    num_frames: int = 16  # likewise
    num_classes: int = 0  # 0: unconditional
    class_dropout_prob: float = 0.1  # share of labels replaced by "no class" in training; 0: no such class
    conditioning: str = "adaln"  # "adaln" (adaLN-Zero, S-AdaLN) or "tokens" (all tokens)
    temporal_pos: str = "sincos"  # "sincos" (absolute) or "rope" (rotary)
    prediction: str = "eps"  # what the first channels of the output are: "eps", the noise (as published), or "v"

    def __post_init__(self):
        def check(ok: bool, message: str) -> None:
            if not ok:
                raise ValueError(f"Latte configuration: {message}")

        check(self.variant in VARIANTS, f"variant is {self.variant!r}, not one of {sorted(VARIANTS)}")
        for name, (least, most) in LIMITS.items():
            check(least <= getattr(self, name) <= most, f"{name} is {getattr(self, name)}, not in {least} to {most}")
        pairs = self.variant > 2 or self.depth % 2 == 0
        check(pairs, f"depth is {self.depth}; variants 1 and 2 take their blocks in pairs: give an even depth")
        heads = self.num_heads // 2 if self.variant == 4 else self.num_heads
        check(heads > 0 and self.hidden_size % heads == 0, f"hidden_size {self.hidden_size} is not {heads} equal heads")
        check(self.variant != 4 or self.num_heads % 2 == 0, f"variant 4 splits the heads: {self.num_heads} is odd")
        check(self.hidden_size % 4 == 0, f"hidden_size {self.hidden_size} is not a multiple of 4 (sin-cos positions)")
        check(
            self.conditioning in ("adaln", "tokens"), f"conditioning is {self.conditioning!r}, not 'adaln' or 'tokens'"
        )
        check(self.temporal_pos in ("sincos", "rope"), f"temporal_pos is {self.temporal_pos!r}, not 'sincos' or 'rope'")
        check(self.prediction in ("eps", "v"), f"prediction is {self.prediction!r}, not 'eps' or 'v'")
        rotary = self.temporal_pos != "rope" or (self.hidden_size // heads) % 2 == 0
        check(rotary, f"rotary positions need an even head width, not {self.hidden_size // heads}")

    @classmethod
    def from_name(cls, name: str, variant: int = 1, **changes) -> "LatteConfig":
        """A published size, such as "Latte-XL/2"; variants 3 and 4 get the depth that gives equal parameters."""
        size, _, patch = name.removeprefix("Latte-").partition("/")
        if size not in SIZES or patch not in ("2", "4", "8"):
            raise ValueError(f"no model is called {name!r}: expected Latte-{{{','.join(SIZES)}}}/{{2,4,8}}")
        depth, hidden_size, num_heads = SIZES[size]
        # 22 d^2 against 18 d^2 parameters: a second attention adds 4 d^2 to a block
        depth = depth if variant in (1, 2) else round(depth * 18 / 22)
        shape = dict(depth=depth, hidden_size=hidden_size, num_heads=num_heads, patch_size=int(patch))
        return cls(variant=variant, **{**shape, **changes})

    @classmethod
    def from_dict(cls, values: dict) -> "LatteConfig":
        """The inverse of dataclasses.asdict; ValueError: an unknown name, or a value of another type."""
        return cls(**check_fields(cls, values))

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)


class Latte(nn.Module):
    """The denoiser. Set `gradient_checkpointing` to trade time for memory in training; it changes no number."""

    gradient_checkpointing = False

    def __init__(self, config: LatteConfig):
        super().__init__()
        self.config = cfg = config
        dim, p = cfg.hidden_size, cfg.patch_size
        kinds = VARIANTS[cfg.variant](cfg.depth)
        rope = cfg.temporal_pos == "rope"
        # the paper does not say where variants 2 to 4 get it; here, as in 1, before the first block that needs it
        self.first_temporal = next((i for i, kind in enumerate(kinds) if set(kind) & {"t", "|"}), None)
        self.condition = Condition(dim, cfg.num_classes, cfg.class_dropout_prob > 0)
        self.patch_embed = nn.Linear(cfg.in_channels * cfg.tubelet * p * p, dim)
        self.blocks = nn.ModuleList(
            Block(dim, cfg.num_heads, kind, cfg.conditioning, cfg.mlp_ratio, rope) for kind in kinds
        )
        self.final_modulation = MODULATION[cfg.conditioning](dim, 1, parts=2)
        self.final_linear = nn.Linear(dim, p * p * cfg.out_channels)
        upsample = (cfg.tubelet, 1, 1)
        self.upsample = (
            nn.ConvTranspose3d(cfg.out_channels, cfg.out_channels, upsample, upsample) if cfg.tubelet > 1 else None
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier; embeddings N(0, 0.02); modulation and output zero, so that a fresh block is the identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for linear in (self.condition.time.mlp[0], self.condition.time.mlp[2]):
            nn.init.normal_(linear.weight, std=0.02)
        for zero in (m.linear for m in self.modules() if isinstance(m, AdaLN)):
            nn.init.zeros_(zero.weight)
        nn.init.zeros_(self.final_linear.weight)
        if self.upsample is not None:
            nn.init.zeros_(self.upsample.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, num_images: int = 0) -> Tensor:
        """Predict the noise (or config.prediction) of noisy latents, and the variance of Nichol & Dhariwal 2021.

        x (b, f, c, h, w); t (b,) timesteps; y (b,) classes, num_classes for none -> (b, f, c or 2c, h, w).
        In joint training the last num_images frames are stills, which skip what is temporal; y is then
        (b, 1 + num_images), the clip's class and theirs, or (b,), one class for all.
        Any f, h and w that the patch divides; ValueError for other shapes.
        """
        self.check_inputs(x, t, y, num_images)
        p, h, w = self.config.patch_size, x.shape[3] // self.config.patch_size, x.shape[4] // self.config.patch_size
        patches = patchify(x, p, self.config.tubelet).to(self.patch_embed.weight.dtype)
        x = self.patch_embed(patches) + spatial_position(h, w, self.config.hidden_size, x.device).to(patches.dtype)
        x, c, prefix = self.add_condition(x, self.condition(t, y))
        for i, block in enumerate(self.blocks):
            if i == self.first_temporal and self.config.temporal_pos == "sincos":
                x = x + self.temporal_position(x, num_images)
            recompute = self.gradient_checkpointing and self.training
            x = checkpoint(block, x, c, num_images, use_reentrant=False) if recompute else block(x, c, num_images)
        ((shift, scale),) = self.final_modulation(c, x.shape[1])
        x = self.final_linear(modulate(x[:, :, prefix:], shift, scale))
        x = unpatchify(x, p, h)
        return x if self.upsample is None else self.upsample(x.transpose(1, 2)).transpose(1, 2)

    def add_condition(self, x: Tensor, embeddings: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, int]:
        """Tokens (b, f, s, d), what modulates them (b, k, d; Affine ignores it), and how many were put in front."""
        if self.config.conditioning == "adaln":
            return x, sum(embeddings), 0
        tokens = torch.cat([per_frame(e, x.shape[1]).expand(len(x), x.shape[1], -1)[:, :, None] for e in embeddings], 2)
        return torch.cat([tokens, x], 2), embeddings[-1], len(embeddings)

    def temporal_position(self, x: Tensor, images: int) -> Tensor:
        """Of each frame, (f, 1, d); still images have none."""
        frames = x.shape[1] - images
        position = sincos(torch.arange(frames, device=x.device), self.config.hidden_size)
        return nn.functional.pad(position, (0, 0, 0, images))[:, None].to(x.dtype)

    def check_inputs(self, x: Tensor, t: Tensor, y: Tensor | None, num_images: int) -> None:
        """One clear ValueError for shapes that do not fit."""
        cfg = self.config
        check_latents(x, t, cfg.in_channels, cfg.patch_size)
        if x.shape[1] % cfg.tubelet:
            raise ValueError(f"{x.shape[1]} frames cannot be cut into tubelets of {cfg.tubelet}")
        if num_images and (cfg.tubelet > 1 or not 0 < num_images < x.shape[1]):
            raise ValueError(
                f"num_images is {num_images} of {x.shape[1]} frames: needs uniform patches and fewer images"
            )
        if cfg.num_classes and (y is None or y.shape not in ((len(x),), (len(x), 1 + num_images))):
            raise ValueError(
                f"this model is class-conditional: give y of shape ({len(x)},), {cfg.num_classes} for no class"
            )
        if y is not None and not cfg.num_classes:
            raise ValueError("this model is unconditional: it takes no y")
        if y is not None and y.is_floating_point():
            raise ValueError(f"y is {y.dtype}: classes are whole numbers")
