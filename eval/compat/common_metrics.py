"""The functions of JunyaoHu/common_metrics_on_video_quality: FVD, PSNR, SSIM and LPIPS of tensors in [0, 1]."""

import math
import statistics
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.device import arithmetic
from latte.eval.compat.found_weights import place_of, search_weights
from latte.eval.frechet import Moments, distance
from latte.eval.networks.i3d import EPS, SIDE
from latte.eval.networks.i3d_weights import optimize_for_inference, read_i3d
from latte.eval.networks.lpips_weights import load_lpips
from latte.eval.structural_similarity import SMALLEST, channel_ssim

LEAST_FRAMES = 10  # that the tool requires of a clip; I3D takes 9
METHODS = {  # file of weights, eps of the batch norms, and whether pixels are truncated to whole levels of 255
    "styleganv": ("i3d-torchscript", EPS, False),
    "videogpt": ("i3d-pretrained-400", 1e-5, True),
}
DIFFERS = (
    "as in common_metrics_on_video_quality, frames are cropped to the centre square, all frames are one clip, and "
    "covariances are divided by N - 1; protocols of latte.eval.fvd squash frames, take {} and divide by N{}"
)
BATCH = 10  # clips


def calculate_fvd(
    videos1: Tensor,
    videos2: Tensor,
    device: str | torch.device,
    method: str = "styleganv",
    only_final: bool = False,
) -> dict[str, list[float]]:
    """FVD of the first n frames, for every n from 10 on, or only of all frames.

    Args:
        videos1: (n, f, 3, h, w) or (n, f, 1, h, w) in [0, 1].
        videos2: The same shape.
        device: Where to compute.
        method: "styleganv" (i3d_torchscript.pt) or "videogpt" (i3d_pretrained_400.pt).
        only_final: Only the FVD of all frames.

    Returns:
        "value": the distances.

    Raises:
        ValueError: They are not such videos, or too short; or there is no such method. CheckpointError: the weights are
            missing (with where to get them) or do not fit.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be {' or '.join(METHODS)}")
    pair, place = check_pair(videos1, videos2), place_of(device)
    frames = pair[0].shape[1]
    if frames < LEAST_FRAMES:
        raise ValueError(f"FVD needs {LEAST_FRAMES} frames or more, not {frames}")
    name, eps, whole = METHODS[method]
    other = "" if eps == EPS else f", and I3D has eps {EPS:g}, not {eps:g}"
    warnings.warn(DIFFERS.format("16 of each video", other), stacklevel=2)
    network = optimize_for_inference(read_i3d(search_weights(name), eps), place)
    first, second = ((videos * 255).floor() / 255 if whole else videos for videos in pair)
    values = []
    for length in [frames] if only_final else range(LEAST_FRAMES, frames + 1):
        with arithmetic("fp32"):
            features = [centre_features(network, videos[:, :length], place) for videos in (first, second)]
        values.append(moments_distance(*features))
    return {"value": values}


def moments_distance(first: Tensor, second: Tensor) -> float:
    """The Fréchet distance of features (n, d); for one clip on each side, of the means alone."""
    if len(first) == 1:
        return (first.double() - second.double()).square().sum().item()
    return distance(*(Moments.of(features, unbiased=True) for features in (first, second)))


@torch.no_grad()
def centre_features(network: torch.nn.Module, videos: Tensor, device: torch.device) -> Tensor:
    """I3D's logits (n, 400) of videos (n, f, 3, h, w) in [0, 1]: the short side to 224 bilinearly, then the centre."""
    parts = []
    for batch in videos.split(BATCH):
        count, _, _, height, width = batch.shape
        scale = SIDE / min(height, width)
        size = (SIDE, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), SIDE)
        frames = F.interpolate(batch.flatten(0, 1).to(device), size, mode="bilinear", align_corners=False)
        top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
        square = frames[..., top : top + SIDE, left : left + SIDE]
        parts.append(network((square * 2 - 1).unflatten(0, (count, -1))).cpu())
    return torch.cat(parts)


def calculate_psnr(videos1: Tensor, videos2: Tensor, only_final: bool = False) -> dict[str, list[float]]:
    """PSNR in dB, 100 where frames are equal: for every frame number over the videos, or over all frames.

    Args:
        videos1: (n, f, c, h, w) in [0, 1], c 3 or 1.
        videos2: The same shape.
        only_final: One value, over all frames.

    Returns:
        "value": means, and "value_std": standard deviations, divided by n.

    Raises:
        ValueError: They are not such videos.
    """
    return over_frames(frame_psnr, *check_pair(videos1, videos2), only_final)


def frame_psnr(first: Tensor, second: Tensor) -> float:
    """PSNR of frames (3, h, w) in [0, 1]."""
    error = (first.double() - second.double()).square().mean().item()
    return 100.0 if error < 1e-10 else -10 * math.log10(error)


def calculate_ssim(videos1: Tensor, videos2: Tensor, only_final: bool = False) -> dict[str, list[float]]:
    """SSIM: the mean over the channels, where the whole window lies within the frame. Arguments of `calculate_psnr`.

    Raises:
        ValueError: They are not such videos, or smaller than the window of 11 x 11 pixels.
    """
    pair = check_pair(videos1, videos2)
    if min(pair[0].shape[-2:]) < SMALLEST:
        raise ValueError(f"SSIM needs frames of 11 x 11 pixels or more, not {tuple(pair[0].shape[-2:])}")
    warnings.warn(
        "as in common_metrics_on_video_quality, SSIM leaves out a border of 5 pixels, which latte.eval.ssim mirrors",
        stacklevel=2,
    )
    return over_frames(frame_ssim_within, *pair, only_final)


def frame_ssim_within(first: Tensor, second: Tensor) -> float:
    """SSIM of frames (3, h, w) in [0, 1], without the pixels whose window crosses the border."""
    channels = zip(first.double(), second.double())
    return statistics.fmean(channel_ssim(x, y, mirrored=False) for x, y in channels)


def calculate_lpips(
    videos1: Tensor, videos2: Tensor, device: str | torch.device, only_final: bool = False
) -> dict[str, list[float]]:
    """LPIPS with AlexNet: for every frame number over the videos, or over all frames.

    Args:
        videos1: See `calculate_psnr`.
        videos2: Likewise.
        device: Where to compute.
        only_final: See `calculate_psnr`.

    Returns:
        See `calculate_psnr`.

    Raises:
        ValueError: They are not such videos. CheckpointError: the weights are missing (with where to get them).
    """
    pair, place = check_pair(videos1, videos2), place_of(device)
    network = load_lpips(search_weights("alexnet"), place)

    @torch.no_grad()
    def measure(first: Tensor, second: Tensor) -> float:
        return network(*(frame[None].to(place) * 2 - 1 for frame in (first, second))).item()

    return over_frames(measure, *pair, only_final)


def over_frames(
    measure: Callable[[Tensor, Tensor], float], first: Tensor, second: Tensor, only_final: bool
) -> dict[str, list[float]]:
    """Means and standard deviations of a metric of frames: over all, or for every frame number over the videos."""
    rows = [[measure(*pair) for pair in zip(*videos)] for videos in zip(first, second)]
    groups = [[value for row in rows for value in row]] if only_final else [list(column) for column in zip(*rows)]
    return {
        "value": [statistics.fmean(group) for group in groups],
        "value_std": [statistics.pstdev(group) for group in groups],
    }


def check_pair(videos1: Tensor, videos2: Tensor) -> tuple[Tensor, Tensor]:
    """Two sets of videos as floats (n, f, 3, h, w) in [0, 1]; grey is repeated.

    Raises:
        ValueError: They are not tensors of videos, differ in shape, or have other values.
    """
    for videos in (videos1, videos2):
        if not isinstance(videos, Tensor) or videos.ndim != 5 or videos.shape[2] not in (1, 3) or not videos.numel():
            found = tuple(videos.shape) if isinstance(videos, Tensor) else type(videos).__name__
            raise ValueError(f"expected tensors of videos (n, f, 3, h, w) or (n, f, 1, h, w), not {found}")
        low, high = (float(extreme) for extreme in videos.detach().float().aminmax())
        if not (videos.is_floating_point() and low >= 0 and high <= 1):
            kind = str(videos.dtype).removeprefix("torch.")
            raise ValueError(f"expected floats in [0, 1], not {kind} from {low:.4g} to {high:.4g}: divide bytes by 255")
    if videos1.shape != videos2.shape:
        raise ValueError(f"the two sets differ in shape: {tuple(videos1.shape)} and {tuple(videos2.shape)}")
    full = (videos.detach().float().expand(-1, -1, 3, -1, -1) for videos in (videos1, videos2))
    first, second = full
    return first, second
