"""How near videos are to those that they stand in for, such as an accelerated sampler's to the exact one's."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from latte.eval.networks.lpips import LPIPS, SMALLEST
from latte.eval.networks.published_weights import find_weights
from latte.video.pixels import expect_videos, from_uint8
from latte.weights.tensors import load_strictly, read_tensors

IDENTICAL = 100.0  # dB where no pixel differs, as in Pyramid Attention Broadcast's own evaluation
HEADS = "functional/image/lpips_models/alex.pth"  # LPIPS's own weights, 6 kB, which torchmetrics has


def psnr(videos: Tensor, exact: Tensor) -> float:
    """Mean over the frames of uint8 videos (b, f, 3, h, w) of the peak signal-to-noise ratio, in dB, at most 100.

    ValueError: other videos than that.
    """
    expect_videos(videos, exact)
    error = ((videos.double() - exact.double()) / 255).square().mean((2, 3, 4))
    return (-10 * error.clamp(min=10 ** (-IDENTICAL / 10)).log10()).mean().item()


def ssim(videos: Tensor, exact: Tensor, at_once: int = 64) -> float:
    """Mean structural similarity (Wang et al. 2004) of uint8 videos (b, f, 3, h, w), frame by frame; 1: identical.

    Gaussian window of 11 pixels, sigma 1.5, borders mirrored, by torchmetrics (the extra `eval`), so many at once.
    ValueError: it is not installed, other videos than that, or frames that are smaller than the window.
    """
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise ValueError("SSIM needs torchmetrics: pip install 'latte-video[eval]'") from None
    expect_videos(videos, exact)
    if min(videos.shape[-2:]) < 11:
        raise ValueError(f"SSIM needs frames of 11 x 11 pixels or more, not {videos.shape[-2]} x {videos.shape[-1]}")
    parts = zip(videos.split(at_once), exact.split(at_once))
    frames = [[part.flatten(0, 1).double() / 255 for part in pair] for pair in parts]
    each = [structural_similarity_index_measure(a, b, data_range=1.0, reduction="none") for a, b in frames]
    return torch.cat(each).mean().item()


def load_lpips(path: str | Path | None, device: str | torch.device = "cpu") -> LPIPS:
    """The network: AlexNet of torchvision's file, and the heads that come with torchmetrics (the extra `eval`).

    ValueError: torchmetrics is not installed; CheckpointError: no such file (and where to get it), or it does not fit.
    """
    if (library := find_spec("torchmetrics")) is None:
        raise ValueError("LPIPS needs torchmetrics: pip install 'latte-video[eval]'")
    file = find_weights("alexnet", path).path
    backbone = {name: value for name, value in read_tensors(file).items() if not name.startswith("classifier.")}
    heads = read_tensors(Path(library.origin).parent / HEADS)
    with torch.device("meta"):
        network = LPIPS()
    named = {name.replace("lin", "heads.").replace(".model.1", ""): value for name, value in heads.items()}
    load_strictly(network, backbone | named, file)
    return network.eval().to(device)


@torch.no_grad()
def lpips(videos: Tensor, exact: Tensor, network: LPIPS, batch_size: int = 32) -> float:
    """Mean perceptual distance of the frames of uint8 videos (b, f, 3, h, w); 0: identical.

    Another batch size changes the rounding alone. ValueError: other videos than that, or too small for the network.
    """
    expect_videos(videos, exact)
    if min(videos.shape[-2:]) < SMALLEST:
        height, width = videos.shape[-2:]
        raise ValueError(f"LPIPS needs frames of {SMALLEST} x {SMALLEST} pixels or more, not {height} x {width}")
    device = network.heads[0].weight.device
    pairs = zip(*(each.flatten(0, 1).split(batch_size) for each in (videos, exact)))
    each = [network(*(from_uint8(frames.to(device)) for frames in pair)).cpu() for pair in pairs]
    return torch.cat(each).double().mean().item()


def flicker(videos: Tensor) -> float:
    """VBench's temporal flickering (Huang et al., arXiv 2311.17982) of uint8 videos (b, f, 3, h, w); 1: frozen.

    One less the mean difference of consecutive frames as a share of 255. Motion lowers it as well as flicker, and a
    still picture scores best: VBench takes it of videos that ought to be static; of others, compare it with that of
    real or exact ones. ValueError: other videos than that, or of a single frame.
    """
    expect_videos(videos)
    if videos.shape[1] < 2:
        raise ValueError("flicker is of videos of two frames or more")
    each = [(video[1:].short() - video[:-1].short()).abs().double().mean() for video in videos]
    return 1 - (sum(each) / len(each)).item() / 255
