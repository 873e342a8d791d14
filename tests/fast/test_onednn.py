"""Float32 products by oneDNN or by PyTorch: the same results, and a choice by speed."""

import pytest
import torch
from goldens import relative_error
from torch._subclasses.fake_tensor import FakeTensorMode

from latte.fast import onednn
from latte.fast.onednn import Matrices, choose_products, measured_faster, onednn_is_faster

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")


@pytest.mark.parametrize("quick", [False, True])
def test_products_with_several_matrices(quick, monkeypatch):
    monkeypatch.setattr(onednn, "onednn_is_faster", lambda: quick)
    torch.manual_seed(0)
    x, matrices, bias = torch.randn(5, 33, 24), torch.randn(5, 24, 40), torch.randn(40)
    kept, out = Matrices(matrices, 30), torch.empty(5, 33, 40)
    assert kept.columns == 40 and (kept.weights is None) != quick and (kept.plain is None) == quick
    with torch.no_grad():
        kept.product(x, out)
        assert relative_error(out, x.double() @ matrices.double()) < 1e-6
        exact = x[0].double() @ matrices[0].double()
        assert relative_error(kept.first(x[0]), exact) < 1e-6
        assert relative_error(kept.first(x[0], bias), exact + bias) < 1e-6


def test_other_precisions_and_devices_keep_the_matrices(monkeypatch):
    monkeypatch.setattr(onednn, "onednn_is_faster", lambda: True)
    with FakeTensorMode():
        fake = torch.ones(2, 3, 4)
    for matrices in (torch.ones(2, 3, 4, dtype=torch.float64), torch.ones(2, 3, 4, device="meta"), fake):
        assert Matrices(matrices, 8).plain is matrices


@pytest.mark.parametrize(("ratio", "faster"), [(1.0, False), (1.4, False), (2.0, True)])
def test_onednn_is_used_if_it_is_much_faster(ratio, faster, monkeypatch):
    clock = [0.0]

    def takes(seconds):
        return lambda *given: clock.__setitem__(0, clock[0] + seconds)

    monkeypatch.setattr(onednn.time, "thread_time", lambda: clock[0])
    monkeypatch.setattr(onednn, "onednn_product", takes(1.0))
    monkeypatch.setattr(onednn.F, "linear", takes(ratio))
    assert measured_faster.__wrapped__() == faster


def test_a_choice_replaces_the_measurement(monkeypatch):
    monkeypatch.setattr(onednn, "measured_faster", lambda: False)
    with choose_products(True):
        assert onednn_is_faster()
        with choose_products(False):
            assert not onednn_is_faster()
        assert onednn_is_faster()
    assert not onednn_is_faster()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with choose_products(True):
        assert not onednn_is_faster()
