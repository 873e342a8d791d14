"""Kernel distances: against brute force, in expectation, and their standard errors."""

import pytest
import torch

from latte.diffusion.randomness import generator, normal
from latte.eval.kernel import mmd2


def brute(x, y, degree=3, offset=1.0, unbiased=True):
    """All kernel values at once."""
    kernel = lambda a, b: (a @ b.T / a.shape[1] + offset) ** degree
    off = lambda k: k[~torch.eye(len(k), dtype=torch.bool)].mean() if unbiased else k.mean()
    return (off(kernel(x, x)) + off(kernel(y, y)) - 2 * kernel(x, y).mean()).item()


@pytest.fixture
def sets():
    return normal((30, 6), 1).double(), normal((23, 6), 2).double() * 1.5 + 0.3


def test_distance_and_error_are_those_of_brute_force(sets):
    x, y = sets
    for options in ({}, {"degree": 2, "offset": 0.0}, {"unbiased": False}, {"degree": 1, "offset": 0.5}):
        found = mmd2(x, y, **options)
        assert found.value == pytest.approx(brute(x, y, **options), rel=1e-10)
        without = [
            torch.tensor([brute(*(x[torch.arange(30) != i], y), **options) for i in range(30)]),
            torch.tensor([brute(*(x, y[torch.arange(23) != j]), **options) for j in range(23)]),
        ]
        squared = sum((len(each) - 1) * each.double().var(correction=0) for each in without)
        assert found.error == pytest.approx(squared.sqrt().item(), rel=1e-4)
    torch_metrics = pytest.importorskip("torchmetrics.image.kid")
    assert mmd2(x[:23], y).value == pytest.approx(torch_metrics.poly_mmd(x[:23], y).item(), rel=1e-10)


def test_order_block_size_and_sides_do_not_matter(sets):
    x, y = sets
    found = mmd2(x, y)
    shuffled = [each[torch.randperm(len(each), generator=generator(3))] for each in sets]
    for other in (mmd2(*shuffled), mmd2(x, y, block=7), mmd2(y, x), mmd2(x.float(), y.float())):
        assert other == pytest.approx(found, rel=1e-6)
    assert mmd2(x, y, block=7) == pytest.approx(found, rel=1e-12)


def test_expectations_and_errors_on_known_distributions():
    """Draws from two point sets: the true distance is that of brute force over the points."""
    points, draws = (normal((5, 3), 4).double(), normal((4, 3), 5).double()), 200
    exact, kernel = brute(*points, unbiased=False), lambda a, b: (a @ b.T / 3 + 1) ** 3
    spare = sum((kernel(p, p).diagonal().mean() - kernel(p, p).mean()).item() for p in points)
    for n in (10, 40):
        places = [torch.randint(len(p), (draws, n), generator=generator(6, n, i)) for i, p in enumerate(points)]
        pairs = list(zip(*(p[place] for p, place in zip(points, places))))
        values, errors = torch.tensor([mmd2(x, y) for x, y in pairs]).T
        biased = torch.tensor([mmd2(x, y, unbiased=False).value for x, y in pairs])
        same = torch.tensor([mmd2(x[: n // 2], x[n // 2 :]).value for x, _ in pairs])
        for found, expected in ((values, exact), (biased, exact + spare / n), (same, 0)):
            assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / draws**0.5)
        if n == 10:
            assert biased.mean() - exact > 4 * biased.std() / draws**0.5
        assert (same < 0).any()
        assert errors.mean() == pytest.approx(values.std().item(), rel=0.2)


def test_invalid_features_are_rejected(sets):
    x, y = sets
    for a, b in ((x, y[:, :5]), (x[:2], y), (x[0], y), (x, y[:0])):
        with pytest.raises(ValueError, match=r"expected features \(n, d\) and \(m, d\) of 3 clips or more"):
            mmd2(a, b)
    with pytest.raises(ValueError, match="not finite"):
        mmd2(x, y.log())
