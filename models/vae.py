"""The autoencoders of Stable Diffusion (AutoencoderKL) and of Stable Video Diffusion (its temporal decoder).

Rombach et al. 2022 (arXiv 2112.10752) and Blattmann et al. 2023 (arXiv 2311.15127). Module names match the
published files, so that these load directly. Shape letters: n images, b videos, f frames, c channels, h, w.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latte.models.vae_blocks import (
    Chunked,
    MidBlock,
    ResnetBlock,
    ResolutionLevel,
    SpatioTemporalResBlock,
)
from latte.models.vae_config import VAEConfig

LOG_VARIANCE_BOUNDS = (-30, 20)  # of the posterior, as published


class Encoder(nn.Module):
    """The convolutional encoder (Rombach et al. 2022, section 3.1).

    Args:
        cfg: The shape of the autoencoder.
    """

    def __init__(self, cfg: VAEConfig):
        super().__init__()
        widths, groups = cfg.block_out_channels, cfg.norm_num_groups
        self.conv_in = nn.Conv2d(cfg.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            ResolutionLevel(
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
        """Images (n, in_channels, h, w) -> moments (n, 2 * latent_channels, h / factor, w / factor)."""
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(Chunked):
    """The decoder (Rombach et al. 2022, section 3.1), or the temporal decoder (Blattmann et al. 2023, appendix D).

    The images of the temporal decoder are the frames of one clip. To bound memory, layers over single frames take
    `chunk` frames at a time, and convolutions over time take bands of rows of as many values. Norms over time need
    the statistics of the entire clip, so its activations stay in memory between layers. `latte bench memory` measures
    how much this saves.

    Args:
        cfg: The shape of the autoencoder.
    """

    def __init__(self, cfg: VAEConfig):
        super().__init__()
        widths, groups = cfg.block_out_channels[::-1], cfg.norm_num_groups
        block = SpatioTemporalResBlock if cfg.temporal_decoder else ResnetBlock
        self.conv_in = nn.Conv2d(cfg.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups, block, cfg.layers_per_block if cfg.temporal_decoder else 2)
        self.up_blocks = nn.ModuleList(
            ResolutionLevel(
                before,
                width,
                cfg.layers_per_block + 1,
                groups,
                "upsamplers" if i < len(widths) - 1 else None,
                block,
            )
            for i, (before, width) in enumerate(zip((widths[0], *widths), widths))
        )
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], cfg.out_channels, 3, padding=1)
        if cfg.temporal_decoder:
            self.time_conv_out = nn.Conv3d(cfg.out_channels, cfg.out_channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, z: Tensor) -> Tensor:
        """Latents (n, latent_channels, h, w) -> images (n, out_channels, h * factor, w * factor)."""
        x = self.mid_block(self.conv_in(z))
        levels = cast(Iterable[ResolutionLevel], self.up_blocks)
        for layer in (layer for level in levels for layer in level.layers()):  # level(x) would keep its input in memory
            x = layer(x)
        x = self.per_image(lambda part: self.conv_out(F.silu(self.conv_norm_out(part))), x)
        if not hasattr(self, "time_conv_out"):
            return x
        return rearrange(self.time_conv_out(rearrange(x, "f c h w -> 1 c f h w")), "1 c f h w -> f c h w")


class AutoencoderKL(nn.Module):
    """The published autoencoder (Rombach et al. 2022, section 3.1), for images; VideoVAE wraps it for videos.

    Pixels are in [-1, 1]. Latents are not scaled here.

    Args:
        config: The shape of the autoencoder.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config, latent = config, config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Identity() if config.temporal_decoder else nn.Conv2d(latent, latent, 1)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, in_channels, h, w) -> mean and log-variance of the latents, each (n, latent_channels, h, w).

        The log-variance is clamped to LOG_VARIANCE_BOUNDS.
        """
        mean, logvar = self.quant_conv(self.encoder(images)).chunk(2, dim=1)
        return mean, logvar.clamp(*LOG_VARIANCE_BOUNDS)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (n, c, h, w) -> images (n, out_channels, ...), not clamped. A temporal decoder takes one clip."""
        return self.decoder(self.post_quant_conv(z))


class VideoVAE(Chunked):
    """Encodes videos (b, f, 3, h, w) in [-1, 1] to scaled latents (b, f, c, h / factor, w / factor), and back.

    Videos are processed one at a time, in parts of `chunk` frames, so a result does not depend on the rest of the
    batch. The temporal decoder takes each video whole, and works in chunks inside its layers. A part that overflows in
    half precision is recomputed in float32, with a warning, and returned in half precision.

    Attributes:
        factor: Pixels per latent, along each side of a frame.

    Args:
        model: The autoencoder.
        chunk: Frames that go through a layer at once. It affects memory, but not the results.
    """

    def __init__(self, model: AutoencoderKL, chunk: int = 8):
        super().__init__()
        self.model, self.config = model, model.config
        self.factor = 2 ** (len(model.config.block_out_channels) - 1)
        self.set_chunk(chunk)

    def set_chunk(self, chunk: int) -> None:
        """Set how many frames go through a layer at once, which affects memory, but not the results.

        Raises:
            ValueError: chunk is less than 1.
        """
        if chunk < 1:
            raise ValueError(f"the VAE cannot process {chunk} frames at a time; give at least 1")
        for module in self.modules():
            if isinstance(module, Chunked):
                module.chunk = chunk

    def latent_side(self, side: int) -> int:
        """The latent side for frames of this side, in pixels; raises ValueError if it cannot be encoded."""
        if side % self.factor:
            raise ValueError(f"frames have a side of {side} pixels; this VAE encodes multiples of {self.factor}")
        return side // self.factor

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Encode to the Gaussian over latents (Kingma & Welling 2014, arXiv 1312.6114).

        Args:
            video: Pixels in [-1, 1], (b, f, in_channels, h, w); h and w are multiples of `factor`.

        Returns:
            Mean and log-variance of the unscaled latents, each (b, f, latent_channels, h / factor, w / factor).

        Raises:
            ValueError: The shape does not fit, or values are not finite.
        """
        if video.ndim != 5 or video.shape[2] != self.config.in_channels:
            raise ValueError(f"video has shape {tuple(video.shape)}; expected (b, f, {self.config.in_channels}, h, w)")
        for side in video.shape[3:]:
            self.latent_side(side)
        # clamped after per_video, which checks for overflow
        moments = self.per_video(lambda x: self.model.quant_conv(self.model.encoder(x)), video, self.chunk)
        mean, logvar = moments.chunk(2, dim=2)
        return mean, logvar.clamp(*LOG_VARIANCE_BOUNDS)

    def encode(self, video: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode to scaled latents.

        Args:
            video: As in posterior.
            noise: Standard normal noise (b, f, c, h, w) to sample the Gaussian with; None takes its mean.

        Returns:
            Latents (b, f, c, h, w), multiplied by scaling_factor.
        """
        mean, logvar = self.posterior(video)
        sample = mean if noise is None else mean + (0.5 * logvar).exp() * noise.to(mean)
        return self.config.scaling_factor * sample

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (b, f, c, h, w) to pixels (b, f, out_channels, ...), nominally in [-1, 1], not clamped.

        Raises:
            ValueError: The latents are not finite, or so large that the VAE overflows in float32.
        """
        unit = latents.shape[1] if self.config.temporal_decoder else self.chunk
        return self.per_video(lambda x: self.model.decode(x / self.config.scaling_factor), latents, unit)

    def per_video(self, function: Callable[[Tensor], Tensor], videos: Tensor, unit: int) -> Tensor:
        """Apply a function of images (n, ...) to videos (b, f, ...), one video at a time, in parts of `unit` frames."""
        parts = [self.retry_overflow(function, part) for video in videos for part in video.split(unit)]
        return torch.cat(parts).unflatten(0, videos.shape[:2])

    def retry_overflow(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """function(x) in the precision of the weights or, if that overflows, computed in float32."""
        dtype = next(self.parameters()).dtype
        out = function(x.to(dtype))
        if out.isfinite().all():
            return out
        if not x.isfinite().all():
            raise ValueError("the input of the VAE holds values that are not finite")
        overflowed = (
            "the VAE overflowed in float32: its input is far from its training data, or its weights are damaged"
        )
        if dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(overflowed)
        warnings.warn(f"the VAE overflowed in {out.dtype}; this part is recomputed in float32", stacklevel=4)
        try:
            self.float()
            with torch.autocast(x.device.type, enabled=False):
                again = function(x.float())
        finally:
            self.to(dtype)
        if not again.isfinite().all():
            raise ValueError(overflowed)
        return again.to(out.dtype)
