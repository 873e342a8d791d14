"""Which devices compute in float64. Positions, timesteps and noise levels do so where they can."""

import torch

WITHOUT_FLOAT64 = ("mps", "xpu")  # types of devices, some of which have no float64


def widest(device: torch.device) -> torch.dtype:
    """The most precise floating-point type that every device of this type has."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64
