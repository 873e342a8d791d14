"""Building blocks of the autoencoders in vae.py: layers over single images, and layers over time in a clip.

Shape letters: n images, b videos, f frames, c channels, h, w.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from latte.models.vae_config import TEMPORAL_GROUPS


class Chunked(nn.Module):
    """A module that applies layers to `chunk` images at a time, which bounds memory without changing the result."""

    chunk = 8

    def per_image(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a layer that treats each image separately, (n, c, h, w) -> (n, ...), in chunks."""
        return layer(x) if len(x) <= self.chunk else torch.cat([layer(part) for part in x.split(self.chunk)])

    def per_band(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Apply a layer that mixes only frames and channels, (b, c, f, h, w) -> same, in bands of rows."""
        if x.shape[2] <= self.chunk:
            return layer(x)
        out, rows = torch.empty_like(x), max(1, x.shape[3] * self.chunk // x.shape[2])
        for top in range(0, x.shape[3], rows):
            out[:, :, :, top : top + rows] = layer(x[:, :, :, top : top + rows])
        return out


class ResnetBlock(nn.Module):
    """Two stages of norm, SiLU and convolution, and a shortcut (He et al. 2016, as in Rombach et al. 2022)."""

    def __init__(self, channels: int, out: int, groups: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, eps=1e-6)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.conv_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, out, h, w)."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class TemporalResnetBlock(Chunked):
    """A residual block over time (Blattmann et al. 2023, section 4.1), whose norms see the entire clip."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(TEMPORAL_GROUPS, channels, eps=1e-5)
        self.conv1 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.norm2 = nn.GroupNorm(TEMPORAL_GROUPS, channels, eps=1e-5)
        self.conv2 = nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, f, h, w) -> same."""
        return x + self.stage(self.norm2, self.conv2, self.stage(self.norm1, self.conv1, x))

    def stage(self, norm: nn.Module, conv: nn.Module, x: Tensor) -> Tensor:
        """conv(silu(norm(x)))."""
        x = norm(x)  # under the same name, so that the input is freed before more is allocated
        return self.per_band(lambda band: conv(F.silu(band)), x)


class AlphaBlender(nn.Module):
    """Mixes the spatial and the temporal path by a learned weight (Blattmann et al. 2023b, arXiv 2304.08818, eq. 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.zeros(1))

    def forward(self, spatial: Tensor, temporal: Tensor) -> Tensor:
        """Two tensors of one shape -> their weighted mean."""
        return torch.lerp(spatial, temporal, self.mix_factor.sigmoid().to(spatial.dtype))


class SpatioTemporalResBlock(Chunked):
    """A residual block over each frame, then one over time, and a mix of both (Blattmann et al. 2023)."""

    def __init__(self, channels: int, out: int, groups: int):
        super().__init__()
        self.spatial_res_block = ResnetBlock(channels, out, groups)
        self.temporal_res_block = TemporalResnetBlock(out)
        self.time_mixer = AlphaBlender()

    def forward(self, x: Tensor) -> Tensor:
        """The frames (f, c, h, w) of one clip -> (f, out, h, w)."""
        spatial = self.per_image(self.spatial_res_block, x)
        temporal = self.temporal_res_block(rearrange(spatial, "f c h w -> 1 c f h w"))
        return self.time_mixer(spatial, rearrange(temporal, "1 c f h w -> f c h w"))


class SelfAttention(nn.Module):
    """Self-attention with one head over the pixels of each image (Rombach et al. 2022)."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> same."""
        tokens = rearrange(self.group_norm(x), "n c h w -> n 1 (h w) c")
        y = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + rearrange(self.to_out[0](y), "n 1 (h w) c -> n c h w", h=x.shape[2])


class Resample(nn.Module):
    """Halves the size (padded right and below, as published) or doubles it (nearest), with a convolution."""

    def __init__(self, channels: int, down: bool):
        super().__init__()
        self.down = down
        self.conv = (
            nn.Conv2d(channels, channels, 3, stride=2, padding=0) if down else nn.Conv2d(channels, channels, 3, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h / 2, w / 2) or (n, c, 2 h, 2 w)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ResolutionLevel(Chunked):
    """Residual blocks of one width, then a change of size, except at the last level."""

    def __init__(self, channels: int, out: int, count: int, groups: int, resample: str | None, block: type[nn.Module]):
        super().__init__()
        self.resnets = nn.ModuleList(block(channels if i == 0 else out, out, groups) for i in range(count))
        if resample is not None:
            setattr(self, resample, nn.ModuleList([Resample(out, down=resample == "downsamplers")]))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, out, h', w')."""
        for layer in self.layers():
            x = layer(x)
        return x

    def layers(self) -> list[Callable[[Tensor], Tensor]]:
        """The layers, in order."""
        resamplers = [*getattr(self, "downsamplers", []), *getattr(self, "upsamplers", [])]
        return [*self.resnets, *(partial(self.per_image, layer) for layer in resamplers)]


class MidBlock(Chunked):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, groups: int, block: type[nn.Module], count: int = 2):
        super().__init__()
        self.resnets = nn.ModuleList(block(channels, channels, groups) for _ in range(count))
        self.attentions = nn.ModuleList([SelfAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> same."""
        first, *rest = self.resnets
        x = first(x)
        for attention, layer in zip(self.attentions, rest):  # with one residual block, attention is not reached
            x = layer(self.per_image(attention, x))
        return x
