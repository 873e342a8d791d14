"""Fast convolutions match those they replace, with fewer multiplications."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from latte.eval.networks import fast_convolutions
from latte.eval.networks.fast_convolutions import PointwiseConv3d, WinogradConv3d, use_fast_convolutions


@pytest.mark.parametrize("frames", [*range(1, 10), 30])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind, kernel", [(WinogradConv3d, 3), (PointwiseConv3d, 1)])
def test_outputs_are_the_same(kind, kernel, bias, frames):
    torch.manual_seed(frames)
    conv = nn.Conv3d(5, 7, kernel, padding=kernel // 2, bias=bias).double()
    for x in (torch.randn(2, 5, frames, 6, 4).double(), torch.randn(1, frames, 6, 4, 5).double().movedim(-1, 1)):
        assert torch.allclose(kind(conv)(x), conv(x), atol=1e-13)


def test_rounding_in_float32_is_small():
    torch.manual_seed(0)
    conv, x = nn.Conv3d(128, 96, 3, padding=1), torch.randn(1, 128, 8, 14, 14)
    exact = conv.double()(x.double())
    assert (WinogradConv3d(conv.float())(x) - exact).norm() < 5e-6 * exact.norm()


def test_gradients_are_refused():
    conv, x = nn.Conv3d(3, 4, 3, padding=1), torch.randn(1, 3, 8, 5, 5, requires_grad=True)
    with pytest.raises(RuntimeError, match="automatic differentiation"):
        WinogradConv3d(conv)(x)


@pytest.mark.parametrize("outputs", [1, 3 * 4 * 4 * 5 * 5])  # computed at once: one of 8 tiles, or three
def test_tiles_can_be_computed_in_chunks_of_any_size(outputs, monkeypatch):
    torch.manual_seed(0)
    conv, x = nn.Conv3d(3, 4, 3, padding=1).double(), torch.randn(1, 3, 30, 5, 5).double()
    monkeypatch.setattr(fast_convolutions, "AT_ONCE", outputs)
    assert torch.allclose(WinogradConv3d(conv)(x), conv(x), atol=1e-13)


def multiplications(module: nn.Module, x: torch.Tensor) -> int:
    """The number of multiplications in the convolutions of a module."""
    with FlopCounterMode(display=False) as counter:
        module(x)
    return sum(n for name, n in counter.get_flop_counts()["Global"].items() if "convolution" in str(name))


@pytest.mark.parametrize("frames, share", [(8, 1 / 2), (4, 1 / 2), (5, 12 / 15), (2, 1)])
def test_multiplications_are_halved(frames, share):
    conv, x = nn.Conv3d(3, 4, 3, padding=1), torch.randn(1, 3, frames, 6, 6)
    assert multiplications(WinogradConv3d(conv), x) == share * multiplications(conv, x)


def test_other_convolutions_are_not_replaced():
    others = [
        nn.Conv3d(4, 4, 3, padding=1, stride=2),
        nn.Conv3d(4, 4, 3, padding=1, groups=2),
        nn.Conv3d(4, 4, 3, padding=2, dilation=2),
        nn.Conv3d(4, 4, 3, padding=1, padding_mode="replicate"),
        nn.Conv3d(4, 4, 3, padding=(1, 0, 1)),
        nn.Conv3d(4, 4, 1, stride=2),
    ]
    fitting = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 4, 1))
    network = nn.Sequential(fitting, *others).double()
    x = torch.randn(1, 4, 40, 64, 64).double()
    before = network(x)
    assert use_fast_convolutions(network) is network
    assert [type(module) for module in fitting] == [WinogradConv3d, PointwiseConv3d]
    assert list(network)[1:] == others
    assert torch.allclose(network(x), before, atol=1e-12)
