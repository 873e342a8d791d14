"""FVD as a function: the Fréchet video distance (Unterthiner et al. 2018, arXiv 1812.01717) and its relatives."""

from dataclasses import replace
from pathlib import Path

import torch

from latte.eval.fvd_result import FVDResult
from latte.eval.inputs import Videos, given_features
from latte.eval.kernel import Discrepancy, mmd2
from latte.eval.networks.i3d_weights import i3d_detector
from latte.eval.networks.shape_features import ShapeFeaturesConfig, shapes_detector
from latte.eval.networks.videomae_weights import videomae_detector
from latte.eval.protocol import Protocol
from latte.eval.sides import Options, open_sides
from latte.eval.statistics import feature_rows
from latte.eval.video_comparison import GIVEN, measure_sides

GIVEN_SHAPES = replace(GIVEN, width=ShapeFeaturesConfig().features)  # for two given sides


def fvd(
    real: Videos,
    generated: Videos,
    *,
    i3d: str | Path | None = None,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    bn_eps: float | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> FVDResult:
    """Fréchet video distance between real and generated videos.

    Each side is one of:

    - a folder of videos, at any depth (files, or folders of frames), a folder that `latte prepare` wrote, a list of
      video files, or a file of videos in arrays (.npz, .npy, .pt, .safetensors);
    - videos (n, f, 3, h, w), (n, f, h, w, 3) or (n, 3, f, h, w), a tensor or an array, or any iterable of clips
      (f, 3, h, w) or (f, h, w, 3), which may differ in length and size; grey ones have one channel. All are held in
      memory, whereas files are read a few at a time. They are uint8, or other numbers that show their range: floats in
      [0, 1], in [-1, 1] (some below -0.25) or in [0, 255] (some above 127), or integers in [0, 255];
    - a file of statistics: .npz with mean, cov and n (or mu and sigma), or a pickle of StyleGAN-V or cd-fvd;
    - features (n, 400): a tensor or an array, an .npz or .safetensors file with an array `features`, or a folder of
      such .safetensors files;
    - a pipeline's videos, a latte.eval.model_clips.ModelVideos.

    Args:
        real: The real videos.
        generated: The generated videos.
        i3d: Path to i3d_torchscript.pt or i3d_pretrained_400.pt. If both sides are features or statistics, leave it
            out, and the options for reading videos too.
        protocol: Which clips are taken and how they are resized: "exact", "stylegan-v", "stylegan-v-128f",
            "stylegan-v-128f-subsample8f", "latte", "latte-taichi", "tf", "cd-fvd", "far", or a
            latte.eval.protocol.Protocol. None: "exact", but with lossy generated videos allowed.
        num_videos: Clips per side, at most. None: the protocol's value, usually 2048.
        frames: Frames per clip, for videos that are too short for the protocol. None: the protocol's value, usually
            16. I3D takes 9 or more.
        seed: For the random choices of clips and for the intervals.
        real_crop: Pixels to which real frames are resized and centre-cropped, as in training. None: unchanged.
        bn_eps: The eps of I3D's batch norms. None: 1e-3; 1e-5 as in VideoGPT, TATS and cd-fvd.
        device: The device to compute on. None: CUDA if available, else the CPU.
        features: A folder where features are cached.
        progress: Whether progress bars are shown.

    Returns:
        The distance, its extrapolation to infinite N, the real-vs-real floor, the kernel distance, and caveats.

    Raises:
        ValueError: A side is not such a set, or does not fit the protocol. CheckpointError, a ValueError: the weights
            are missing (with where to get them), or a file is damaged or does not fit. FileNotFoundError: there is no
            such folder or file.
    """
    options = Options(protocol, num_videos, frames, real_crop, features, bn_eps)
    make = lambda chosen, place: i3d_detector(i3d, chosen, place)
    sides = open_sides(real, generated, make, GIVEN, options, seed=seed, device=device, progress=progress, i3d=i3d)
    return measure_sides(sides)


def shapes_distance(
    real: Videos,
    generated: Videos,
    *,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> FVDResult:
    """Fréchet distance by the bundled network, which was trained on the built-in shapes; it is not FVD.

    It needs no published weights. It says little about videos other than the built-in shapes.

    Args:
        real: See `fvd`; features have 32 numbers.
        generated: Likewise.
        protocol: See `fvd`.
        num_videos: See `fvd`.
        frames: See `fvd`.
        seed: See `fvd`.
        real_crop: See `fvd`.
        device: See `fvd`.
        features: See `fvd`.
        progress: See `fvd`.

    Returns:
        See `fvd`.

    Raises:
        ValueError: See `fvd`. FileNotFoundError: likewise.
    """
    options = Options(protocol, num_videos, frames, real_crop, features)
    make = lambda chosen, place: shapes_detector(place)
    sides = open_sides(real, generated, make, GIVEN_SHAPES, options, seed=seed, device=device, progress=progress)
    return measure_sides(sides)


def cd_fvd(
    real: Videos,
    generated: Videos,
    *,
    videomae: str | Path | None = None,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> FVDResult:
    """Content-debiased FVD (Ge et al. 2024, arXiv 2404.12391): the Fréchet distance between VideoMAE features.

    These depend more on motion, and less on the look of single frames, than I3D's.

    Args:
        real: See `fvd`; features have 1408 numbers.
        generated: Likewise.
        videomae: Path to vit_g_hybrid_pt_1200e_ssv2_ft.pth.
        protocol: See `fvd`. The number of frames must be even.
        num_videos: See `fvd`.
        frames: See `fvd`.
        seed: See `fvd`.
        real_crop: See `fvd`.
        device: See `fvd`.
        features: See `fvd`.
        progress: See `fvd`.

    Returns:
        See `fvd`.

    Raises:
        ValueError: See `fvd`. FileNotFoundError: likewise.
    """
    options = Options(protocol, num_videos, frames, real_crop, features)
    make = lambda chosen, place: videomae_detector(videomae, place)
    sides = open_sides(
        real, generated, make, GIVEN, options, seed=seed, device=device, progress=progress, videomae=videomae
    )
    return measure_sides(sides)


def kvd(
    real: Videos,
    generated: Videos,
    *,
    i3d: str | Path | None = None,
    protocol: str | Protocol | None = None,
    num_videos: int | None = None,
    frames: int | None = None,
    seed: int = 0,
    real_crop: int | None = None,
    bn_eps: float | None = None,
    device: str | torch.device | None = None,
    features: str | Path | None = None,
    progress: bool = False,
) -> Discrepancy:
    """Kernel video distance: the squared maximum mean discrepancy between I3D features, with a cubic kernel, unbiased.

    Args:
        real: See `fvd`, but no side can be statistics.
        generated: Likewise.
        i3d: See `fvd`.
        protocol: See `fvd`.
        num_videos: See `fvd`.
        frames: See `fvd`.
        seed: See `fvd`.
        real_crop: See `fvd`.
        bn_eps: See `fvd`.
        device: See `fvd`.
        features: See `fvd`.
        progress: See `fvd`.

    Returns:
        The value, and its standard error by the jackknife.

    Raises:
        ValueError: See `fvd`; or a side is statistics, or has fewer than three clips. FileNotFoundError: see `fvd`.
    """
    given = {"real": given_features(real, "real"), "generated": given_features(generated, "generated")}
    for name, side in given.items():
        if side is not None:
            feature_rows(side, name)  # raises now rather than after a network is loaded
    real, generated = given["real"] or real, given["generated"] or generated
    options = Options(protocol, num_videos, frames, real_crop, features, bn_eps)
    make = lambda chosen, place: i3d_detector(i3d, chosen, place)
    sides = open_sides(real, generated, make, GIVEN, options, seed=seed, device=device, progress=progress, i3d=i3d)
    first, second = sides.feature_sets()
    return mmd2(feature_rows(second, "generated"), feature_rows(first, "real"))
