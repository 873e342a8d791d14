"""LatteT2V, the text-to-video model (Latte-1): Latte's first variant, with PixArt-alpha's conditioning.

Interleaved blocks, of which the spatial ones attend to a text as well; the timestep enters by adaLN-single (Chen et
al. 2023, arXiv 2310.00426).
"""

from dataclasses import dataclass

import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latte.models.block import AdaLNSingle, Block, modulate
from latte.models.condition import TimeEmbed, sincos, spatial_position
from latte.models.fields import check_fields
from latte.models.latte import check_latents, patchify, unpatchify
from latte.models.t5 import T5Config, T5Encoder

LIMITS = {
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


@dataclass(frozen=True)
class LatteT2VConfig:
    """Shape of the model, in the published config.json's names; the defaults are Latte-1's. ValueError: no shape."""

    num_layers: int = 28  # pairs of a spatial and a temporal block
    num_attention_heads: int = 16
    attention_head_dim: int = 72
    caption_channels: int = 4096  # of the text encoder
    in_channels: int = 4
    out_channels: int = 8  # the noise and, if twice in_channels, the variance
    patch_size: int = 2
    sample_size: int = 64  # side of the latents that positions are counted in; the model takes any
    video_length: int = 16  # frames when nothing else is asked for; the model takes any
    prediction: str = "eps"  # what the first channels of the output are: "eps", the noise (as published), or "v"

    def __post_init__(self):
        for name, (least, most) in LIMITS.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"LatteT2V configuration: {name} is {getattr(self, name)}, not in {least} to {most}")
        if self.hidden_size % 4:
            raise ValueError(f"LatteT2V configuration: width {self.hidden_size} is not a multiple of 4")
        if self.out_channels not in (self.in_channels, 2 * self.in_channels):
            raise ValueError(f"LatteT2V configuration: out_channels {self.out_channels} is not in_channels or twice")

        if self.prediction not in ("eps", "v"):
            raise ValueError(f"LatteT2V configuration: prediction is {self.prediction!r}, not 'eps' or 'v'")

    @property
    def hidden_size(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @classmethod
    def from_dict(cls, values: dict) -> "LatteT2VConfig":
        """The inverse of dataclasses.asdict; ValueError: an unknown name, or a value of another type."""
        return cls(**check_fields(cls, values))


class LatteT2V(nn.Module):
    """The denoiser. Set `gradient_checkpointing` to trade time for memory in training; it changes no number."""

    gradient_checkpointing = False

    def __init__(self, config: LatteT2VConfig):
        super().__init__()
        self.config, dim, p = config, config.hidden_size, config.patch_size
        gelu = lambda: nn.GELU(approximate="tanh")
        self.patch_embed = nn.Linear(config.in_channels * p * p, dim)
        self.time = TimeEmbed(dim)
        self.time_modulation = nn.Linear(dim, 6 * dim)
        self.caption = Mlp(config.caption_channels, dim, dim, act_layer=gelu)
        self.blocks = nn.ModuleList(
            Block(dim, config.num_attention_heads, kind, "single", cross=kind == "s")
            for kind in ["s", "t"] * config.num_layers
        )
        self.final_modulation = AdaLNSingle(dim, 1, parts=2)
        self.final_linear = nn.Linear(dim, p * p * config.out_channels)

    def init_weights(self) -> None:
        """For training from scratch, as PixArt-alpha: Xavier; conditioning N(0, 0.02); cross-attention and output 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in (self.time, self.time_modulation, self.caption):
            for linear in (part for part in module.modules() if isinstance(part, nn.Linear)):
                nn.init.normal_(linear.weight, std=0.02)
        for linear in (self.final_linear, *(block.cross.proj for block in self.blocks if block.cross is not None)):
            nn.init.zeros_(linear.weight)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor,
        mask: Tensor | None = None,
        num_images: int = 0,
        temporal: bool = True,
    ) -> Tensor:
        """Predict the noise of noisy latents, and the variance of Nichol & Dhariwal 2021.

        x (b, f, c, h, w); t (b,) timesteps; text (b, l, caption_channels) -> (b, f, out_channels, h, w). mask (b, l): 0
        where the text is padding, which is not attended to. One frame is a picture. temporal False: temporal blocks are
        passed over. In joint training the last num_images frames are stills; text is then (b, 1 + num_images, l, ...),
        the clip's and theirs, and the mask likewise. ValueError for shapes that do not fit.
        """
        self.check_inputs(x, t, text, mask, num_images)
        cfg, p = self.config, self.config.patch_size
        h, w = x.shape[3] // p, x.shape[4] // p
        side = cfg.sample_size / p / max(cfg.sample_size // 64, 1)
        patches = patchify(x, p).to(self.patch_embed.weight.dtype)
        x = self.patch_embed(patches)
        x = x + spatial_position(h, w, cfg.hidden_size, x.device, side).to(x.dtype)
        time = self.time(t)[:, None]
        c = self.time_modulation(nn.functional.silu(time))
        text = self.caption((text if text.ndim == 4 else text[:, None]).to(x.dtype))
        bias = None if mask is None else (1 - (mask if mask.ndim == 3 else mask[:, None]).to(x.dtype)) * -10_000.0
        for i, block in enumerate(self.blocks):
            if block.kinds == "t" and not temporal:
                continue
            if i == 1 and x.shape[1] - num_images > 1:
                x = x + self.temporal_position(x, num_images)
            recompute = self.gradient_checkpointing and self.training
            arguments = (x, c, num_images, (text, bias))
            x = checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)
        ((shift, scale),) = self.final_modulation(time, x.shape[1])
        return unpatchify(self.final_linear(modulate(x, shift, scale)), p, h)

    def temporal_position(self, x: Tensor, images: int) -> Tensor:
        """Of each frame, (f, 1, d); still images have none."""
        position = sincos(torch.arange(x.shape[1] - images, device=x.device), self.config.hidden_size)
        return nn.functional.pad(position, (0, 0, 0, images))[:, None].to(x.dtype)

    def check_inputs(self, x: Tensor, t: Tensor, text: Tensor, mask: Tensor | None, num_images: int) -> None:
        """One clear ValueError for shapes that do not fit."""
        cfg = self.config
        check_latents(x, t, cfg.in_channels, cfg.patch_size)
        if num_images and not 0 < num_images < x.shape[1]:
            raise ValueError(f"num_images is {num_images} of {x.shape[1]} frames: there must be fewer images")
        lead = (len(x), 1 + num_images) if num_images else (len(x),)
        if text.shape[:-2] != lead or text.shape[-1] != cfg.caption_channels or not text.shape[-2]:
            raise ValueError(f"text has shape {tuple(text.shape)}; expected {(*lead, 'tokens', cfg.caption_channels)}")
        if mask is not None and mask.shape != text.shape[:-1]:
            raise ValueError(f"the text's mask has shape {tuple(mask.shape)}; expected {tuple(text.shape[:-1])}")


@dataclass(frozen=True)
class TextToVideoConfig:
    """Both shapes. ValueError: the encoder's width is not that of the captions."""

    transformer: LatteT2VConfig
    text_encoder: T5Config

    def __post_init__(self):
        if self.transformer.caption_channels != self.text_encoder.d_model:
            raise ValueError(
                f"the text encoder's width is {self.text_encoder.d_model}; the model's captions have "
                f"{self.transformer.caption_channels}"
            )

    @classmethod
    def from_dict(cls, values: dict) -> "TextToVideoConfig":
        """The inverse of dataclasses.asdict; ValueError: not two tables, or see those of the two."""
        parts = [values.get(name) for name in ("transformer", "text_encoder")]
        if len(values) != 2 or not all(isinstance(part, dict) for part in parts):
            raise ValueError("it must hold transformer and text_encoder, each a table")
        return cls(LatteT2VConfig.from_dict(parts[0]), T5Config.from_dict(parts[1]))


class TextToVideo(nn.Module):
    """Token ids in place of embeddings; both parts learn from the video's loss."""

    def __init__(self, config: TextToVideoConfig):
        super().__init__()
        self.config = config
        self.transformer, self.text_encoder = LatteT2V(config.transformer), T5Encoder(config.text_encoder)
        self.transformer.init_weights()
        self.text_encoder.init_weights()

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, own: Tensor, mask: Tensor, num_images: int = 0) -> Tensor:
        """x (b, f, c, h, w), t (b,), ids (b, 1 + num_images, l) of the clip and its images -> (b, f, c or 2c, h, w).

        own: 0 where an id is padding, which the encoder passes over; mask: 0 at tokens that the video does not see.
        They differ where a caption was dropped: the video then sees as many tokens of the empty one as it had.
        """
        text = self.text_encoder(ids.flatten(0, 1), own.flatten(0, 1)).unflatten(0, ids.shape[:2])
        if not num_images:
            text, mask = text[:, 0], mask[:, 0]
        return self.transformer(x, t, text, mask, num_images)
