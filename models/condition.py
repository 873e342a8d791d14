"""Embeddings of the denoiser's inputs other than the noisy video: positions, the timestep and the class."""

import math

import torch
from torch import Tensor, nn

WITHOUT_FLOAT64 = ("mps", "xpu")  # types of devices, some of which have no float64


def sincos(position: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding, sines first (Vaswani et al. 2017, arXiv 1706.03762, section 3.5).

    Computed in float64, except on devices that may not support it.

    Args:
        position: Positions or timesteps (n,).
        dim: Width of the embedding; even.

    Returns:
        float32 (n, dim).
    """
    half, exact = dim // 2, torch.float32 if position.device.type in WITHOUT_FLOAT64 else torch.float64
    freq = torch.exp(-math.log(10_000) / half * torch.arange(half, device=position.device, dtype=exact))
    angle = position[:, None].to(exact) * freq
    return torch.cat([angle.sin(), angle.cos()], -1).float()


def spatial_position(h: int, w: int, dim: int, device: torch.device | None = None, side: float = 0) -> Tensor:
    """Sinusoidal positions of h x w patches, row by row (DiT: Peebles & Xie 2023, arXiv 2212.09748, section 3.2).

    Args:
        h: Rows of patches.
        w: Columns of patches.
        dim: Width of the embedding; a multiple of 4. Its first half encodes the column, its second half the row.
        device: Where to compute it.
        side: Stretch both axes to this length, as PixArt-alpha does; 0 counts patches.

    Returns:
        float32 (h * w, dim).
    """
    across, down = (torch.arange(n, device=device) * (side / n if side else 1) for n in (w, h))
    column = sincos(across, dim // 2).expand(h, w, -1)
    row = sincos(down, dim // 2)[:, None].expand(h, w, -1)
    return torch.cat([column, row], -1).flatten(0, 1)


class TimeEmbed(nn.Module):
    """The timestep's embedding: a sinusoid of width 256, cosines first, and two layers (DiT, section 3.2).

    Args:
        dim: Width d of the embedding.
    """

    full_precision = True

    def __init__(self, dim: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        """Timesteps (b,) -> (b, d)."""
        return self.mlp(sincos(t, 256).roll(128, dims=-1).to(next(self.mlp.parameters()).dtype))


class ClassEmbed(nn.Module):
    """Embeddings of the timestep and, for a class-conditional model, of the class (Latte, section 3.3).

    Args:
        dim: Width d of the embeddings.
        num_classes: Number of classes; 0 for an unconditional model.
        null_class: The table has one more row, num_classes, that means "no class".
    """

    def __init__(self, dim: int, num_classes: int, null_class: bool):
        super().__init__()
        self.time = TimeEmbed(dim)
        self.label = nn.Embedding(num_classes + null_class, dim) if num_classes else None

    def forward(self, t: Tensor, y: Tensor | None) -> list[Tensor]:
        """Embed each condition separately.

        Args:
            t: Timesteps (b,).
            y: Classes (b,), or (b, 1 + n) for a clip and n still images; None for an unconditional model.

        Returns:
            The timestep's embedding (b, 1, d) and, if there are classes, the class embedding (b, 1 or 1 + n, d).
        """
        time = self.time(t)[:, None]
        if self.label is None or y is None:
            return [time]
        return [time, self.label(y if y.ndim == 2 else y[:, None])]
