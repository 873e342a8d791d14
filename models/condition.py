"""What the denoiser is told besides the noisy video: where it is in space and time, the timestep, the class."""

import math

import torch
from torch import Tensor, nn


def sincos(position: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding (Vaswani et al. 2017), sines first: (n,) -> (n, dim) float32, computed in float64.

    In float32 on Apple's GPUs, which have no float64.
    """
    half, exact = dim // 2, torch.float32 if position.device.type == "mps" else torch.float64
    freq = torch.exp(-math.log(10_000) / half * torch.arange(half, device=position.device, dtype=exact))
    angle = position[:, None].to(exact) * freq
    return torch.cat([angle.sin(), angle.cos()], -1).float()


def spatial_position(h: int, w: int, dim: int, device: torch.device | None = None, side: float = 0) -> Tensor:
    """Position of h x w patches, row by row, (h * w, dim): the first half tells the column, the second the row.

    side: both axes are stretched to this length; 0: a patch is 1.
    """
    across, down = (torch.arange(n, device=device) * (side / n if side else 1) for n in (w, h))
    column = sincos(across, dim // 2).expand(h, w, -1)
    row = sincos(down, dim // 2)[:, None].expand(h, w, -1)
    return torch.cat([column, row], -1).flatten(0, 1)


class TimeEmbed(nn.Module):
    """Timestep -> width d, through a sinusoid (cosines first, as in DiT) of 256 and two layers."""

    def __init__(self, dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """(b,) -> (b, d)."""
        return self.mlp(sincos(t, 256).roll(128, dims=-1).to(self.mlp[0].weight.dtype))


class Condition(nn.Module):
    """The timestep and, with num_classes > 0, the class; the table's last row, num_classes, means "no class"."""

    def __init__(self, dim: int, num_classes: int, null_class: bool):
        super().__init__()
        self.time = TimeEmbed(dim)
        self.label = nn.Embedding(num_classes + null_class, dim) if num_classes else None

    def forward(self, t: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
        """t (b,), y None, (b,) or (b, 1 + n) for a clip and n stills -> embeddings (b, 1 or 1 + n, d), time first."""
        time = self.time(t)[:, None]
        if self.label is None:
            return (time,)
        return time, self.label(y if y.ndim == 2 else y[:, None])
