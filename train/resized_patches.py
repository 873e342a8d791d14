"""Weights for another patch size: only the layers next to the latents depend on it, and they are resized."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

EMBED, FINAL = "patch_embed.weight", ("final_linear.weight", "final_linear.bias")


def resize_patch_layers(state: dict[str, Tensor], source: int, target: int) -> None:
    """Resize the first and the last layer of a denoiser (FlexiViT: Beyer et al. 2023, arXiv 2212.08013, section 3.4).

    A token then stands for fewer or more latent pixels, but starts with its old meaning at another scale: the first
    layer embeds a patch as it embedded the patch resized to the old size, in the least-squares sense, and the patches
    from the last layer are resized to the new size.

    Args:
        state: The weights by name, changed in place.
        source: Their patch size.
        target: The patch size wanted.
    """
    resize = resize_matrix(source, target).to(state[EMBED])
    embed = rearrange(state[EMBED], "d (k p r) -> (d k) (p r)", p=source, r=source)
    embed = embed @ torch.linalg.pinv(resize.double()).to(embed)
    state[EMBED] = rearrange(embed, "(d k) s -> d (k s)", d=len(state[EMBED]))
    for name in FINAL:
        parts = rearrange(state[name], "(s c) ... -> s (c ...)", s=source**2)
        state[name] = (resize @ parts).reshape(-1, *state[name].shape[1:])


def resize_matrix(source: int, target: int) -> Tensor:
    """The linear map (target^2, source^2) that resizes a patch bilinearly, antialiased."""
    pixels = torch.eye(source**2).view(-1, 1, source, source)
    return interpolate(pixels, size=(target, target), mode="bilinear", antialias=True, align_corners=False).flatten(1).T
