"""The speed of evaluation: decoding, I3D features and the Fréchet distance, each beside a plain implementation."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from latte.eval.bench.resources import timed
from latte.eval.clip_sets import ClipSet, choose_clips
from latte.eval.features import batch_size
from latte.eval.frechet import Moments, distance
from latte.eval.networks.i3d import CLASSES, I3D
from latte.eval.networks.i3d_weights import i3d_features, optimize_for_inference
from latte.eval.protocol import adjusted
from latte.eval.reporting import markdown_table
from latte.shapes.draw import make_clip
from latte.video.read import read_video
from latte.video.write import write_video

UNITS = {"decoding": "clips decoded", "features": "clips' features by I3D", "distance": "distances"}


def write_shape_videos(folder: Path, count: int, frames: int, size: int) -> Path:
    """Write videos of the built-in shapes as H.264, each twice as long as a clip.

    Args:
        folder: where to write `0.mp4`, `1.mp4`, ...
        count: the number of videos.
        frames: the length of a clip. A video has twice as many frames.
        size: height and width, in pixels.

    Returns:
        The folder.
    """
    for i in range(count):
        write_video(make_clip(0, i, frames=2 * frames, size=size).video, folder / f"{i}.mp4")
    return folder


def randomize(network: I3D) -> I3D:
    """Draw weights that keep activations of order one; with PyTorch's defaults they vanish towards the logits."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return network


def decode_every_frame(clips: ClipSet) -> list[torch.Tensor]:
    """The plain way to decode: read every frame of every video, then keep the clip."""
    videos = [(clip, read_video(clips.root / clip.name)[0]) for clip in clips.clips]
    return [clip.of(video) for clip, video in videos]


@torch.no_grad()
def features_one_by_one(model: I3D, clips: list[torch.Tensor]) -> torch.Tensor:
    """The plain way to compute features: one clip at a time through the network as it is defined."""
    return torch.cat([i3d_features(model, [clip], "squash") for clip in clips])


def sqrtm_distance(a: Moments, b: Moments) -> float:
    """The plain way to compute a Fréchet distance: SciPy's square root of the product of the covariances."""
    from scipy.linalg import sqrtm

    root = np.real(sqrtm((a.cov @ b.cov).numpy()))
    return float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * np.trace(root))


def measure_evaluation(
    folder: Path, count: int, frames: int, device: torch.device, repeats: int
) -> dict[str, dict[str, float | None]]:
    """Time each stage of evaluation, and the plain implementation of it.

    Args:
        folder: the videos to decode.
        count: the number of clips to decode, one per video.
        frames: frames of a clip.
        device: where to compute features. I3D has random weights: the speed does not depend on them.
        repeats: how often each is timed. The fastest counts; one call before it is a warm-up.

    Returns:
        For "decoding" and "features" seconds per clip, for "distance" seconds per distance: "seconds" of this
        project's code, "obvious" of the plain implementation (its name in files of results), and their "ratio". The
        last two are None where SciPy is not installed. "agreement" has the "relative_error" between the features of
        the two.
    """

    def fastest(work: Callable[[], object]) -> float:
        return min(timed(work, device, 1 + repeats)[1:])

    clips = choose_clips(folder, adjusted("stylegan-v", clips=count, frames=frames), "real", 0)
    videos = list(clips.stream(clips.clips))
    ours = {"decoding": fastest(lambda: list(clips.stream(clips.clips))) / len(videos)}
    plain: dict[str, float | None] = {"decoding": fastest(lambda: decode_every_frame(clips)) / len(videos)}
    network = randomize(I3D()).eval().requires_grad_(False).to(device)
    batch = (videos * 8)[: batch_size(frames)]
    expected = features_one_by_one(network, batch[:1])
    plain["features"] = fastest(lambda: features_one_by_one(network, batch)) / len(batch)
    fast = optimize_for_inference(network, device)
    ours["features"] = fastest(lambda: i3d_features(fast, batch, "squash")) / len(batch)
    error = float((i3d_features(fast, batch, "squash")[:1] - expected).norm() / expected.norm())
    random = torch.Generator().manual_seed(0)
    a, b = (Moments.of(torch.randn(2048, CLASSES, generator=random).double()) for _ in range(2))
    ours["distance"] = fastest(lambda: distance(a, b))
    try:
        plain["distance"] = fastest(lambda: sqrtm_distance(a, b))
    except ImportError:
        plain["distance"] = None
    ratio = {name: plain[name] and plain[name] / ours[name] for name in ours}
    rows = {name: {"seconds": ours[name], "obvious": plain[name], "ratio": ratio[name]} for name in ours}
    return rows | {"agreement": {"relative_error": error}}


def evaluation_table(rows: dict[str, dict[str, float | None]]) -> str:
    """The result of `measure_evaluation` as a Markdown table of rates per second."""
    cells = []
    for name, unit in UNITS.items():
        row = rows[name]
        plain, ratio = (f"{1 / row['obvious']:.2f}", f"{row['ratio']:.2f}") if row["obvious"] else ("-", "-")
        cells.append([unit, f"{1 / row['seconds']:.2f}", plain, ratio])
    return markdown_table(["", "a second", "a plain implementation", "ratio"], cells)
