"""How near videos are to those that they stand in for, such as an accelerated sampler's to the exact one's."""

import torch
from torch import Tensor

IDENTICAL = 100.0  # dB where no pixel differs, as in Pyramid Attention Broadcast's own evaluation


def psnr(videos: Tensor, exact: Tensor) -> float:
    """Mean over the frames of uint8 videos (b, f, 3, h, w) of the peak signal-to-noise ratio, in dB, at most 100."""
    error = ((videos.double() - exact.double()) / 255).square().mean((2, 3, 4))
    return (-10 * error.clamp(min=10 ** (-IDENTICAL / 10)).log10()).mean().item()


def ssim(videos: Tensor, exact: Tensor, at_once: int = 64) -> float:
    """Mean structural similarity (Wang et al. 2004) of uint8 videos (b, f, 3, h, w), frame by frame; 1: identical.

    Gaussian window of 11 pixels, sigma 1.5, borders mirrored, by torchmetrics (the extra `eval`), so many at once.
    ValueError: it is not installed, or the frames are smaller than the window.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise ValueError("SSIM needs torchmetrics: pip install 'latte-video[eval]'") from None
    if min(videos.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs frames of 11 x 11 pixels or more, not {videos.shape[-2]} x {videos.shape[-1]}")
    parts = zip(videos.split(at_once), exact.split(at_once))
    frames = [[part.flatten(0, 1).double() / 255 for part in pair] for pair in parts]
    each = [structural_similarity_index_measure(a, b, data_range=1.0, reduction="none") for a, b in frames]
    return torch.cat(each).mean().item()
