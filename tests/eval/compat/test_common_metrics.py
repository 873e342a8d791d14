"""common_metrics_on_video_quality's functions: published values, results by hand, and invalid inputs."""

import inspect
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from latte.eval.compat import calculate_fvd, calculate_lpips, calculate_psnr, calculate_ssim
from latte.eval.compat import common_metrics as module
from latte.eval.networks.lpips import LPIPS
from latte.weights.tensors import CheckpointError

ZEROS, ONES = torch.zeros(2, 3, 3, 32, 32), torch.ones(2, 3, 3, 32, 32)


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_signatures_match_common_metrics():
    """JunyaoHu/common_metrics_on_video_quality @5f75173."""
    of = lambda function: [(p.name, p.default) for p in inspect.signature(function).parameters.values()]
    empty, pair = inspect.Parameter.empty, [("videos1", inspect.Parameter.empty), ("videos2", inspect.Parameter.empty)]
    final = ("only_final", False)
    assert of(calculate_fvd) == [*pair, ("device", empty), ("method", "styleganv"), final]
    assert of(calculate_psnr) == of(calculate_ssim) == [*pair, final]
    assert of(calculate_lpips) == [*pair, ("device", empty), final]


@pytest.mark.filterwarnings("ignore:as in common_metrics")
def test_psnr_and_ssim_match_the_readme_example():
    """All zeros against all ones: its README gives SSIM 9.999000099990664e-05 and PSNR 0."""
    result = {
        "ssim": calculate_ssim(ZEROS, ONES, only_final=True),
        "psnr": calculate_psnr(ZEROS, ONES, only_final=True),
    }
    assert json.loads(json.dumps(result)) == result
    assert result["ssim"] == {"value": [pytest.approx(9.999000099990664e-05, rel=1e-9)], "value_std": [0.0]}
    assert result["psnr"] == {"value": [0.0], "value_std": [0.0]}
    assert calculate_psnr(ZEROS, ZEROS) == {"value": [100.0] * 3, "value_std": [0.0] * 3}


@pytest.mark.filterwarnings("ignore:as in common_metrics")
def test_per_frame_values_match_the_formulas():
    first, second = draw(2, 3, 3, 14, 17), draw(2, 3, 3, 14, 17, seed=1)
    grid = torch.tensor([[math.exp(-(x**2 + y**2) / 4.5) for x in range(-5, 6)] for y in range(-5, 6)]).double()
    window = (grid / grid.sum())[None, None]
    mean = lambda frame: F.conv2d(frame[:, None].double(), window)[:, 0]
    psnr, ssim = np.zeros((2, 2, 3))
    for i in range(2):
        for j in range(3):
            a, b = first[i, j], second[i, j]
            psnr[i, j] = 10 * math.log10(1 / (a - b).double().square().mean().item())
            top = (2 * mean(a) * mean(b) + 1e-4) * (2 * (mean(a * b) - mean(a) * mean(b)) + 9e-4)
            variances = mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
            ssim[i, j] = (top / (mean(a) ** 2 + mean(b) ** 2 + 1e-4) / (variances + 9e-4)).mean()
    for values, function in ((psnr, calculate_psnr), (ssim, calculate_ssim)):
        found = function(first, second)
        assert found["value"] == pytest.approx(values.mean(0), rel=1e-5)
        assert found["value_std"] == pytest.approx(values.std(0), rel=1e-3)
        found = function(first, second, only_final=True)
        assert found["value"] == [pytest.approx(values.mean(), rel=1e-5)]
        assert found["value_std"] == [pytest.approx(values.std(), rel=1e-4)]
        grey, repeated = ([x[:, :, :1].repeat(1, 1, n, 1, 1) for x in (first, second)] for n in (1, 3))
        assert function(*grey, True)["value"] == pytest.approx(function(*repeated, True)["value"])


def test_lpips_matches_the_network(monkeypatch):
    torch.manual_seed(0)
    network = LPIPS().eval()
    monkeypatch.setattr(module, "search_weights", lambda name: name)
    monkeypatch.setattr(module, "load_lpips", lambda path, device: network)
    first, second = draw(2, 2, 3, 32, 32), draw(2, 2, 3, 32, 32, seed=1)
    found = calculate_lpips(first, second, torch.device("cpu"))
    with torch.no_grad():
        each = network(first.flatten(0, 1) * 2 - 1, second.flatten(0, 1) * 2 - 1).view(2, 2)
    assert found["value"] == pytest.approx(each.mean(0).tolist(), rel=1e-5)
    assert found["value_std"] == pytest.approx(each.std(0, correction=0).tolist(), rel=1e-3)
    assert calculate_lpips(first, second, "cpu", only_final=True)["value"] == [pytest.approx(each.mean().item())]


class Sums(torch.nn.Module):
    """Replaces I3D: two features per clip."""

    def forward(self, videos: torch.Tensor) -> torch.Tensor:
        assert videos.shape[2:] == (3, 224, 224)
        return torch.stack([videos.mean((1, 2, 3, 4)), videos[:, -1, 0, :112].mean((1, 2))], 1)


@pytest.mark.parametrize("method, eps", [("styleganv", 1e-3), ("videogpt", 1e-5)])
def test_fvd_of_every_length(method, eps, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "search_weights", lambda name: name)
    monkeypatch.setattr(module, "read_i3d", lambda path, eps: asked.append((path, eps)))
    monkeypatch.setattr(module, "optimize_for_inference", lambda network, device: Sums())
    first, second = draw(3, 11, 1, 10, 14), draw(3, 11, 1, 10, 14, seed=1) * 0.5
    with pytest.warns(UserWarning, match=r"cropped to the centre square, all frames are one clip, and covariances"):
        found = calculate_fvd(first, second, torch.device("cpu"), method=method, only_final=False)
    assert asked == [("i3d-torchscript" if method == "styleganv" else "i3d-pretrained-400", eps)]
    wanted = []
    for length in (10, 11):
        moments = []
        for videos in (first, second):
            videos = videos[:, :length].repeat(1, 1, 3, 1, 1)
            videos = (videos * 255).byte() / 255 if method == "videogpt" else videos
            large = F.interpolate(videos.flatten(0, 1), (224, 314), mode="bilinear", align_corners=False)
            rows = Sums()((large[..., 45:269] * 2 - 1).unflatten(0, (3, length))).double()
            moments.append((rows.mean(0), rows.T.cov()))
        (mean, cov), (other, covered) = moments
        root = torch.linalg.eigvals(cov @ covered).real.clamp(min=0).sqrt().sum()
        wanted.append(((mean - other).square().sum() + (cov + covered).trace() - 2 * root).item())
    assert found == {"value": [pytest.approx(value, rel=1e-5) for value in wanted]}
    with pytest.warns(UserWarning, match="eps 0.001, not 1e-05" if method == "videogpt" else "divide by N$"):
        assert calculate_fvd(first, second, "cpu", method, True)["value"] == [pytest.approx(wanted[-1], rel=1e-5)]
    with pytest.warns(UserWarning):
        alone = calculate_fvd(first[:1], second[:1], "cpu", method, only_final=True)["value"]
    assert 0 < alone[0] < 2  # for one clip, the distance of the means


def test_bad_videos_and_missing_weights_give_a_one_line_error():
    for videos, line in (
        (torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8), r"expected floats in \[0, 1\], not uint8 from 0 to 0"),
        (ONES[:, :, :, :9] * 2, r"expected floats in \[0, 1\], not float32 from 2 to 2: divide bytes by 255"),
        (ONES[0], r"expected tensors of videos \(n, f, 3, h, w\) or \(n, f, 1, h, w\), not \(3, 3, 32, 32\)"),
        (ONES.numpy(), "expected tensors of videos .* not ndarray"),
    ):
        with pytest.raises(ValueError, match=line):
            calculate_psnr(videos, videos)
    with pytest.raises(ValueError, match="the two sets differ in shape"):
        calculate_psnr(ONES, ONES[:1])
    with pytest.raises(ValueError, match="SSIM needs frames of 11 x 11 pixels or more"):
        calculate_ssim(ONES[..., :10], ONES[..., :10])
    with pytest.raises(ValueError, match="FVD needs 10 frames or more, not 3"):
        calculate_fvd(ONES, ONES, "cpu")
    with pytest.raises(ValueError, match="method is 'tf'; it must be styleganv or videogpt"):
        calculate_fvd(ONES, ONES, "cpu", "tf")
    long = ONES[:, :1].repeat(1, 10, 1, 1, 1)
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=r"FVD needs i3d_torchscript\.pt: get it from"):
        calculate_fvd(long, long, "cpu")
    with pytest.raises(CheckpointError, match=r"LPIPS needs alexnet-owt-7be5be79\.pth"):
        calculate_lpips(ONES, ONES, "cpu")
