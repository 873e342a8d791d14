"""Random weights in place of published ones, and videos; golden values were recorded with both."""

import torch
from torch import Tensor, nn

from latte.diffusion.randomness import generator, normal


def random_state(network: nn.Module) -> dict[str, Tensor]:
    """A state_dict that keeps activations of order one. It depends only on the names and shapes of parameters."""
    state = {}
    for i, (name, own) in enumerate(sorted(network.state_dict().items())):
        noise = normal(tuple(own.shape), 0, i)
        if own.ndim > 1:
            noise *= (2 / own[0].numel()) ** 0.5
        elif ".bn." in name and not name.endswith(("bias", "mean")):
            noise = 1 + 0.1 * noise.clamp(-3, 3)
        else:
            noise *= 0.1
        state[name] = noise if own.is_floating_point() else torch.zeros_like(own)
    return state


def smooth_videos(*shape: int) -> Tensor:
    """Smooth videos with some noise, uint8 (b, f, 3, h, w), for the shape (b, f, h, w)."""
    b, f, h, w = shape
    noise = torch.randint(0, 64, (b, f, 3, h, w), generator=generator(1))
    coarse = torch.randint(0, 192, (b * f, 3, 3, 3), generator=generator(2)).float()
    coarse = nn.functional.interpolate(coarse, (h, w), mode="bilinear").unflatten(0, (b, f))
    return (noise + coarse).byte()
