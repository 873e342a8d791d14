"""The Fréchet distance: closed forms, real statistics, singular covariances, and its uncertainty."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from latte.eval.extrapolation import at_infinity, intercept, real_floor, student_95
from latte.eval.frechet import Moments, distance

EIGENVALUES = torch.logspace(-2, 1, 16).double()
KNOWN = {  # float64, computed by another method, on the statistics published by content-debiased-fvd
    ("ucf101_full_res256_len16_skip1", "kinetics_full_res256_len16_skip1"): 453.5744166846,
    ("ucf101_2048_res256_len16_skip1", "ucf101_full_res256_len16_skip1"): 33.2905926284,
    ("ffs_full_res256_len16_skip1", "sky_full_res256_len16_skip1"): 2273.2552566722,
    ("sky_full_res256_len16_skip1", "ucf101_full_res256_len16_skip1"): 2741.3963592656,
    ("sky_2048_res256_len16_skip1", "sky_full_res256_len16_skip1"): 0.2681538402,
    ("ffs_2048_res256_len16_skip1", "ffs_full_res256_len16_skip1"): 7.9200161510,
}


def rotation(seed: int, size: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).double())[0]


def clips(count: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    """Features of a Gaussian with covariance scale^2 * EIGENVALUES."""
    noise = torch.randn(count, len(EIGENVALUES), generator=torch.Generator().manual_seed(seed)).double()
    return noise * EIGENVALUES.sqrt() * scale + shift


def test_moments_are_the_mean_and_the_biased_covariance():
    features = clips(40, 0)
    found = Moments.of(features.float())
    assert found.count == 40 and found.mean.dtype == torch.float64
    assert torch.allclose(found.mean, features.mean(0), atol=1e-6)
    assert torch.allclose(found.cov, torch.from_numpy(np.cov(features.numpy().T, bias=True)), atol=1e-5)


def test_the_distance_of_commuting_gaussians_has_a_closed_form():
    turn, other = rotation(0, 16), EIGENVALUES.flip(0) * 3
    a = Moments(torch.zeros(16).double(), turn @ EIGENVALUES.diag() @ turn.T, 9)
    b = Moments(torch.full((16,), 0.5).double(), turn @ other.diag() @ turn.T, 9)
    wanted = 16 * 0.25 + (EIGENVALUES.sqrt() - other.sqrt()).square().sum().item()
    assert distance(a, b) == pytest.approx(wanted, rel=1e-12)
    assert distance(b, a) == pytest.approx(wanted, rel=1e-12)
    assert distance(a, a) == pytest.approx(0, abs=1e-9)


def test_the_distance_of_noncommuting_gaussians_matches_the_eigenvalue_formula():
    a, b = ((turn := rotation(seed, 6)) @ (EIGENVALUES[:6] + seed).diag() @ turn.T for seed in (1, 2))
    zero = torch.zeros(6).double()
    trace = torch.linalg.eigvals(a @ b).real.sqrt().sum()  # of the root of the product, from its eigenvalues
    wanted = (a.trace() + b.trace() - 2 * trace).item()
    assert distance(Moments(zero, a, 9), Moments(zero, b, 9)) == pytest.approx(wanted, rel=1e-10)


def test_singular_covariances_are_handled():
    """Five clips of sixteen features: the distance of a set to a shifted copy is the squared shift."""
    few = clips(5, 3)
    assert distance(Moments.of(few), Moments.of(few + 0.5)) == pytest.approx(16 * 0.25, rel=1e-9)
    flat = Moments(torch.zeros(16).double(), torch.zeros(16, 16).double(), 1)
    found = Moments.of(few)
    assert distance(flat, found) == pytest.approx((found.mean.square().sum() + found.cov.trace()).item(), rel=1e-12)


def test_no_distance_is_below_zero():
    """Rounding would make most self-distances negative, and the floor's lower bound on few heavy-tailed clips."""
    for seed in range(20):
        same = Moments.of(clips(50, seed))
        assert 0 <= distance(same, same) < 1e-9
    wild = torch.randn(9, 3, generator=torch.Generator().manual_seed(6)) ** 5
    assert real_floor(wild, 9).low == 0 < real_floor(wild, 9).value


def test_rotating_both_sides_changes_nothing():
    a, b, turn = clips(60, 4), clips(50, 5, 1.4, 0.2), rotation(6, 16)
    before, after = distance(Moments.of(a), Moments.of(b)), distance(Moments.of(a @ turn), Moments.of(b @ turn))
    assert after == pytest.approx(before, rel=1e-10)


@pytest.mark.parametrize("pair", KNOWN, ids=lambda pair: "-".join(name.split("_res")[0] for name in pair))
def test_distances_of_real_statistics(pair):
    root = os.environ.get("LATTE_TEST_DATA")
    if not root:
        pytest.skip("LATTE_TEST_DATA names no folder of real data")
    sides = []
    for name in pair:
        with np.load(Path(root) / "i3d_stats" / f"i3d_{name}_seed0.npz") as file:
            sides.append(Moments(torch.from_numpy(file["mean"]), torch.from_numpy(file["cov"]), int(file["n"])))
    assert distance(*sides) == pytest.approx(KNOWN[pair], rel=1e-7)


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="two features"):
        Moments.of(clips(1, 0))
    with pytest.raises(ValueError, match="not finite"):
        Moments.of(clips(9, 0) * float("nan"))
    with pytest.raises(ValueError, match="of 16 and of 4 numbers"):
        distance(Moments.of(clips(9, 0)), Moments.of(clips(9, 0)[:, :4]))
    with pytest.raises(ValueError, match=r"mean .* covariance"):
        Moments(torch.zeros(3), torch.zeros(4, 4), 9)


def test_the_line_is_extrapolated_to_infinite_n():
    shares = [0.25, 0.5, 0.5, 1.0]
    assert intercept(shares, [7 + 3 / share for share in shares]) == pytest.approx(7)


def test_the_interval_holds_the_truth_and_the_plain_distance_is_too_large():
    """Known Gaussians, 20 draws of 200 clips; the truth is 16 * 0.3^2 + (1 - 1.2)^2 tr S."""
    truth = 16 * 0.3**2 + 0.2**2 * EIGENVALUES.sum().item()
    plain, found = [], []
    for i in range(20):
        a, b = clips(200, 2 * i), clips(200, 2 * i + 1, 1.2, 0.3)
        plain.append(distance(Moments.of(a), Moments.of(b)))
        found.append(at_infinity(a, b, seed=i))
    values = np.array([estimate.value for estimate in found])
    assert np.mean(plain) > truth + 5 * np.std(plain) / 20**0.5
    assert abs(values.mean() - truth) < 2.5 * values.std() / 20**0.5
    assert sum(estimate.low <= truth <= estimate.high for estimate in found) >= 17
    widths = [estimate.high - estimate.low for estimate in found]
    assert 2 < np.mean(widths) / values.std() < 8  # neither overconfident nor vacuous


def test_given_moments_are_not_resampled():
    a, b = clips(200, 0), clips(200, 1, 1.2)
    exact = Moments(torch.zeros(16).double(), EIGENVALUES.diag() * 1.44, 1)
    found = at_infinity(a, exact)
    assert found == at_infinity(a, exact) and found != at_infinity(a, exact, seed=1)
    assert found.low < 0.04 * EIGENVALUES.sum() < found.high
    assert found.value < distance(Moments.of(a), exact)
    with pytest.raises(ValueError, match="39 clips are too few"):
        at_infinity(a[:39], b)


def test_the_floor_is_what_a_perfect_model_would_score():
    """With 800 or 150 real clips against 100 or 800: samples from the same distribution score the same."""
    real = clips(800, 7)
    for n, count in ((800, 100), (150, 100), (150, 800)):
        same = [distance(Moments.of(clips(n, 2 * i)), Moments.of(clips(count, 2 * i + 1))) for i in range(20)]
        found = real_floor(real[:n], count)
        assert found.value == pytest.approx(np.mean(same), rel=0.25)
        assert found.low < np.mean(same) < found.high
    with pytest.raises(ValueError, match="3 real clips are too few"):
        real_floor(real[:3], 2)


def test_students_distribution():
    assert [student_95(n) for n in (1, 9, 10)] == [12.706, 2.262, 2.228]
    assert student_95(11) == pytest.approx(2.2010, rel=1e-3) and student_95(30) == pytest.approx(2.0423, abs=2e-4)
    assert student_95(10**6) == pytest.approx(1.96, abs=1e-3)
