"""Attention in float32 by oneDNN's products: equal to PyTorch's kernel, and only where it is meant to compute."""

import pytest
import torch
import torch.nn.functional as F
from goldens import relative_error
from small_latte import T, X, Y, draw, warm

from latte.fast import blocks, float32_attention
from latte.fast.float32_attention import attend_by_onednn, pays
from latte.fast.trunk import fast
from latte.models.attention import attend

SHAPES = {"spatial": (6, 2, 9, 9, 8), "cross": (3, 2, 40, 7, 8), "one key": (2, 2, 3, 1, 4)}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(float32_attention, "LEAST_SCORES", 1)
    monkeypatch.setattr(float32_attention, "SCORES_AT_ONCE", 20)  # parts that end between queries
    monkeypatch.setattr(float32_attention, "onednn_is_faster", lambda: True)  # it computes everywhere, but not faster


def tensors(shape):
    """Queries, keys and values, laid out as in the layers: heads after tokens."""
    n, heads, tokens, keys, e = shape
    return [2 * draw(i, n, count, heads, e).transpose(1, 2) for i, count in enumerate((tokens, keys, keys))]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_equals_pytorchs_kernel_and_leaves_its_inputs(shape, masked):
    q, k, v = tensors(shape)
    before = [z.clone() for z in (q, k, v)]
    mask = torch.where(draw(9, shape[0], 1, 1, shape[3]) > 0.5, -10_000.0, 0.0) if masked else None
    assert pays(q, k, v, mask)
    wanted = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), None if mask is None else mask.double())
    found = attend_by_onednn(q, k, v, mask)
    assert found.dtype == torch.float32 and found.shape == q.shape and relative_error(found, wanted) < 1e-6
    assert all(torch.equal(z, old) for z, old in zip((q, k, v), before))


def test_onednn_gets_contiguous_matrices(monkeypatch):
    """With rows further apart, oneDNN falls back to a kernel that is a hundred times slower."""
    given = []
    product = float32_attention.onednn_product
    seen = lambda x, weight: given.append((x, weight)) or product(x, weight)
    monkeypatch.setattr(float32_attention, "onednn_product", seen)
    attend_by_onednn(*tensors(SHAPES["cross"]))
    assert given and all(x.is_contiguous() and (w.is_contiguous() or w.mT.is_contiguous()) for x, w in given)


def test_it_computes_only_what_pays(monkeypatch):
    q, k, v = tensors(SHAPES["spatial"])
    mask = torch.zeros(6, 1, 1, 9)
    assert pays(q, k, v, mask) and not pays(q, k, v, mask.bool()) and not pays(q, k, v[..., :4])
    assert not any(pays(*(z.to(dtype) for z in (q, k, v))) for dtype in (torch.float64, torch.bfloat16))
    assert not pays(*(z.to("meta") for z in (q, k, v))) and not pays(q.clone().requires_grad_(), k, v)
    with torch.no_grad():
        assert pays(q.clone().requires_grad_(), k, v)
    monkeypatch.setattr(float32_attention, "LEAST_SCORES", 9 * 9 + 1)
    assert not pays(q, k, v) and torch.equal(attend_by_onednn(q, k, v), attend(q, k, v))
    monkeypatch.setattr(float32_attention, "LEAST_SCORES", 9 * 9)
    assert pays(q, k, v)
    monkeypatch.setattr(float32_attention, "onednn_is_faster", lambda: False)
    assert not pays(q, k, v)


def test_the_fast_form_attends_by_it(monkeypatch):
    network, calls = warm(), []
    counted = lambda *given: calls.append(given[0].shape) or attend_by_onednn(*given)
    monkeypatch.setattr(blocks, "attend_by_onednn", counted)
    with torch.no_grad():
        wanted = network(X, T, Y)
        with fast(network):
            found = network(X, T, Y)
    assert calls and relative_error(found, wanted) < 1e-6
