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

from latte.models.config import checked

LOG_VARIANCE = (-30, 20)  # bounds of the posterior's
TEMPORAL_GROUPS = 32  # of the norms over time, whatever the others have: so they are published


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
        return cls(**checked(cls, {**published, **{name: value for name, value in values.items() if name in known}}))


class Chunked(nn.Module):
    """A module with layers that see every image by itself: these take `chunk` at a time, which bounds memory."""

    chunk = 8

    def per_image(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """layer(x), x (n, c, h, w), in chunks."""
        return layer(x) if len(x) <= self.chunk else torch.cat([layer(part) for part in x.split(self.chunk)])


class ResnetBlock(nn.Module):
    """Two norm-SiLU-convolution stages and a shortcut: (n, c, h, w) -> (n, out, h, w)."""

    def __init__(self, channels: int, out: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-6)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.conv_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class TemporalResnetBlock(nn.Module):
    """The same over time alone, (b, c, f, h, w) -> same; its norms take their statistics from the whole clip."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(TEMPORAL_GROUPS, channels, eps=1e-5)
        self.conv1 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.norm2 = nn.GroupNorm(TEMPORAL_GROUPS, channels, eps=1e-5)
        self.conv2 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class AlphaBlender(nn.Module):
    """A learned share of the temporal path."""

    def __init__(self):
        super().__init__()
        self.mix_factor = nn.Parameter(torch.zeros(1))

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        return torch.lerp(spatial, temporal, self.mix_factor.sigmoid().to(spatial.dtype))


class SpatioTemporalResBlock(Chunked):
    """A residual block per frame, then one over time, mixed: (f, c, h, w) of one clip -> (f, out, h, w)."""

    def __init__(self, channels: int, out: int, groups: int):
        super().__init__()
        self.spatial_res_block = ResnetBlock(channels, out, groups)
        self.temporal_res_block = TemporalResnetBlock(out)
        self.time_mixer = AlphaBlender()

    def forward(self, x: Tensor) -> Tensor:
        spatial = self.per_image(self.spatial_res_block, x)
        temporal = self.temporal_res_block(rearrange(spatial, "f c h w -> 1 c f h w"))
        return self.time_mixer(spatial, rearrange(temporal, "1 c f h w -> f c h w"))


class SelfAttention(nn.Module):
    """One head over the pixels of each image."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.group_norm(x), "n c h w -> n 1 (h w) c")
        y = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + rearrange(self.to_out[0](y), "n 1 (h w) c -> n c h w", h=x.shape[2])


class Resample(nn.Module):
    """Half the size (padded right and below, as published) or twice (nearest), then a convolution."""

    def __init__(self, channels: int, down: bool):
        super().__init__()
        self.down = down
        self.conv = (
            nn.Conv2d(channels, channels, 3, stride=2, padding=0) if down else nn.Conv2d(channels, channels, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(Chunked):
    """Residual blocks of one width, then a change of size, except at the last level."""

    def __init__(self, channels: int, out: int, count: int, groups: int, resample: str | None, block: type[nn.Module]):
        super().__init__()
        self.resnets = nn.ModuleList(block(channels if i == 0 else out, out, groups) for i in range(count))
        if resample is not None:
            setattr(self, resample, nn.ModuleList([Resample(out, down=resample == "downsamplers")]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.resnets:
            x = layer(x)
        for layer in [*getattr(self, "downsamplers", []), *getattr(self, "upsamplers", [])]:
            x = self.per_image(layer, x)
        return x


class MidBlock(Chunked):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, groups: int, block: type[nn.Module], count: int = 2):
        super().__init__()
        self.resnets = nn.ModuleList(block(channels, channels, groups) for _ in range(count))
        self.attentions = nn.ModuleList([SelfAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.resnets
        x = first(x)
        for attention, layer in zip(self.attentions, rest):  # with one residual block, attention is not reached
            x = layer(self.per_image(attention, x))
        return x


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

    With the temporal decoder, the n images are the frames of one clip: layers over single frames take `chunk`
    frames at a time, what sees the clip's time sees all of it. That bounds what the spatial layers need while they
    work; a whole clip's activations stay in memory between layers, and inside the temporal blocks.
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
        for level in self.up_blocks:
            x = level(x)
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
