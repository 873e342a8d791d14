"""The dispersive loss against its closed forms."""

import math

import pytest
import torch

from latte.train.objectives.dispersive import dispersive_loss


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_three_points_on_a_line(temperature):
    features = torch.tensor([0.0, 1.0, 3.0]).reshape(3, 1, 1).expand(3, 2, 5)  # D: 1, 4, 9
    sums = 3 + 2 * sum(math.exp(-d / temperature) for d in (1, 4, 9))
    assert float(dispersive_loss(features, temperature)) == pytest.approx(math.log(sums / 9), rel=1e-6)


def test_limits_for_identical_and_distant_clips():
    same = torch.ones(4, 3, requires_grad=True)
    loss = dispersive_loss(same, 0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and same.grad.isfinite().all()
    assert float(dispersive_loss(1e3 * torch.eye(4), 0.5)) == pytest.approx(-math.log(4))


def test_gradient_descent_moves_clips_apart():
    features = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    dispersive_loss(features, 0.5).backward()
    moved = features.detach() - 0.1 * features.grad
    assert torch.pdist(moved.flatten(1)).square().mean() > torch.pdist(features.detach().flatten(1)).square().mean()
