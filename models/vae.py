"""The autoencoders of Stable Diffusion (AutoencoderKL) and of Stable Video Diffusion (its temporal decoder).

Rombach et al. 2022 (arXiv 2112.10752) and Blattmann et al. 2023 (arXiv 2311.15127). Module names are those of the
published files, so that these load as they are. Shape letters: n images, b videos, f frames, c channels, h, w.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latte.models.fields import check_fields
from latte.models.vae_blocks import (
    TEMPORAL_GROUPS,
    Chunked,
    Level,
    MidBlock,
    ResnetBlock,
    SpatioTemporalResBlock,
)

LOG_VARIANCE = (-30, 20)  # bounds of the posterior's


@dataclass(frozen=True)
class VAEConfig:
    """Shape of an autoencoder; the defaults are Stable Diffusion's."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)  # a level each, half the size of the one before
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # latents are multiplied by it, to a variance near 1
    temporal_decoder: bool = False  # Stable Video Diffusion's

    def __post_init__(self):
        object.__setattr__(self, "block_out_channels", tuple(self.block_out_channels))
        sizes = (self.in_channels, self.out_channels, self.latent_channels, self.layers_per_block, self.norm_num_groups)
        if not all(0 < size <= 4096 for size in (*sizes, *self.block_out_channels)) or len(self.block_out_channels) > 8:
            raise ValueError(f"VAE: sizes {sizes}, widths {self.block_out_channels}: each must be in 1 to 4096")
        if not self.block_out_channels or self.layers_per_block > 16:
            raise ValueError(f"VAE: widths {self.block_out_channels}, {self.layers_per_block} layers: 1 to 16 of each")
        if not 1e-4 <= self.scaling_factor <= 1e4:
            raise ValueError(f"VAE: scaling_factor is {self.scaling_factor}, not in 0.0001 to 10000")
        for groups in {self.norm_num_groups, TEMPORAL_GROUPS if self.temporal_decoder else self.norm_num_groups}:
            if any(width % groups for width in self.block_out_channels):
                raise ValueError(f"VAE: {groups} groups do not divide widths {self.block_out_channels}")

    @classmethod
    def from_dict(cls, values: dict) -> "VAEConfig":
        """From a published config.json, whose other entries (class name, block types, sizes) are passed over."""
        known = {field.name for field in fields(cls)}
        published = {"temporal_decoder": "TemporalDecoder" in str(values.get("_class_name"))}
        return cls(
            **check_fields(cls, {**published, **{name: value for name, value in values.items() if name in known}})
        )


class Encoder(nn.Module):
    """Images (n, 3, h, w) -> moments (n, 2 * latent_channels, h / factor, w / factor)."""

    def __init__(self, cfg: VAEConfig):
        super().__init__()
        widths, groups = cfg.block_out_channels, cfg.norm_num_groups
        self.conv_in = nn.Conv2d(cfg.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Level(
                before,
                width,
                cfg.layers_per_block,
                groups,
                "downsamplers" if i < len(widths) - 1 else None,
                ResnetBlock,
            )
            for i, (before, width) in enumerate(zip((widths[0], *widths), widths))
        )
        self.mid_block = MidBlock(widths[-1], groups, ResnetBlock)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * cfg.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(Chunked):
    """Latents (n, latent_channels, h, w) -> images (n, 3, h * factor, w * factor).

    With the temporal decoder, the n images are the frames of one clip: layers over single frames take `chunk` frames
    at a time, convolutions over time bands of rows of that size; norms over time take their statistics from the whole
    clip, whose activations stay in memory between layers. `latte bench memory` says what is saved.
    """

    def __init__(self, cfg: VAEConfig):
        super().__init__()
        widths, groups = cfg.block_out_channels[::-1], cfg.norm_num_groups
        block = SpatioTemporalResBlock if cfg.temporal_decoder else ResnetBlock
        self.conv_in = nn.Conv2d(cfg.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups, block, cfg.layers_per_block if cfg.temporal_decoder else 2)
        self.up_blocks = nn.ModuleList(
            Level(before, width, cfg.layers_per_block + 1, groups, "upsamplers" if i < len(widths) - 1 else None, block)
            for i, (before, width) in enumerate(zip((widths[0], *widths), widths))
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], cfg.out_channels, 3, padding=1)
        if cfg.temporal_decoder:
            self.time_conv_out = nn.Conv3d(cfg.out_channels, cfg.out_channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for step in (step for level in self.up_blocks for step in level.steps()):  # level(x) would hold on to its input
            x = step(x)
        x = self.per_image(lambda part: self.conv_out(F.silu(self.conv_norm_out(part))), x)
        if not hasattr(self, "time_conv_out"):
            return x
        return rearrange(self.time_conv_out(rearrange(x, "f c h w -> 1 c f h w")), "1 c f h w -> f c h w")


class AutoencoderKL(nn.Module):
    """The published autoencoder: pixels in [-1, 1], latents not yet scaled. VideoVAE wraps it for videos."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config, latent = config, config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Identity() if config.temporal_decoder else nn.Conv2d(latent, latent, 1)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 3, h, w) -> mean and log-variance, in LOG_VARIANCE, of the latents' Gaussian."""
        mean, logvar = self.quant_conv(self.encoder(images)).chunk(2, dim=1)
        return mean, logvar.clamp(*LOG_VARIANCE)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (n, c, h, w) -> images (n, 3, ...), not clamped; the temporal decoder takes them as one clip."""
        return self.decoder(self.post_quant_conv(z))


class VideoVAE(Chunked):
    """Videos (b, f, 3, h, w) in [-1, 1] <-> latents (b, f, c, h / factor, w / factor) of variance near 1.

    Every video goes by itself, so its result does not depend on the others: `chunk` frames at a time (8; any number
    gives the same result), or, through the temporal decoder, whole, with the chunks inside its layers. Where half
    precision overflows, that part is done again in float32, with a warning, and given back in the same precision.
    ValueError: values that are not finite come in.
    """

    def __init__(self, model: AutoencoderKL, chunk: int = 8):
        super().__init__()
        self.model, self.config = model, model.config
        self.factor = 2 ** (len(model.config.block_out_channels) - 1)
        self.set_chunk(chunk)

    def set_chunk(self, chunk: int) -> None:
        """Frames that go through a layer at once: memory depends on it, results do not. ValueError: less than one."""
        if chunk < 1:
            raise ValueError(f"the VAE cannot work on {chunk} frames at a time")
        for module in self.modules():
            if isinstance(module, Chunked):
                module.chunk = chunk

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (b, f, c, h, w) of unscaled latents. ValueError: a size that factor divides not."""
        if video.ndim != 5 or video.shape[2] != self.config.in_channels:
            raise ValueError(f"video has shape {tuple(video.shape)}; expected (b, f, {self.config.in_channels}, h, w)")
        if video.shape[3] % self.factor or video.shape[4] % self.factor:
            raise ValueError(f"frames of {video.shape[3]} x {video.shape[4]}: both must be multiples of {self.factor}")
        moments = self.per_video(lambda x: self.model.quant_conv(self.model.encoder(x)), video, self.chunk)
        mean, logvar = moments.chunk(2, dim=2)
        return mean, logvar.clamp(*LOG_VARIANCE)

    def encode(self, video: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents: the posterior's mean, or a sample of it with the given noise (b, f, c, h, w)."""
        mean, logvar = self.posterior(video)
        sample = mean if noise is None else mean + (0.5 * logvar).exp() * noise.to(mean)
        return self.config.scaling_factor * sample

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents -> videos, not clamped."""
        unit = latents.shape[1] if self.config.temporal_decoder else self.chunk
        return self.per_video(lambda x: self.model.decode(x / self.config.scaling_factor), latents, unit)

    def per_video(self, function: Callable[[Tensor], Tensor], videos: Tensor, unit: int) -> Tensor:
        """function(images) over parts of `unit` frames, none of two videos: (b, f, ...) -> (b, f, ...)."""
        parts = [self.finite(function, part) for video in videos for part in video.split(unit)]
        return torch.cat(parts).unflatten(0, videos.shape[:2])

    def finite(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x) in the networks' precision, or, if that overflows, by way of float32."""
        dtype = next(self.parameters()).dtype
        out = function(x.to(dtype))
        if out.isfinite().all():
            return out
        if not x.isfinite().all():
            raise ValueError("the VAE was given values that are not finite")
        warnings.warn(f"the VAE overflowed in {out.dtype}; this part is done again in float32", stacklevel=4)
        try:
            self.float()
            with torch.autocast(x.device.type, enabled=False):
                return function(x.float()).to(out.dtype)
        finally:
            self.to(dtype)
