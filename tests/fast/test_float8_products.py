"""8-bit products: rounding and its bounds, what stays exact, the fast form and graphs, and a clean exit."""

import pytest
import torch
from goldens import relative_error
from recorded_graph import record
from small_latte import T, X, Y, draw, text_model, warm

from latte.fast.fast_run import FastRun
from latte.fast.float8_products import FLOAT8, LARGEST, float8_products, product, quantised
from latte.fast.graph_run import GraphRun
from latte.fast.trunk import fast, has_fast_form
from latte.plans.records import exact_plan


def test_rows_are_quantised_relative_to_their_largest_value():
    x = draw(0, 7, 96) * torch.tensor([1e-6, 1.0, 1e6, 3.0, 0.0, 1e-20, 5.0])[:, None]
    rows, scale = quantised(x)
    assert rows.dtype == FLOAT8 and scale.shape == (7, 1)
    back = rows.float() * scale
    close = (back - x).abs() <= x.abs() / 16 + scale * 2**-10 * 1.01  # below 2^-6 the numbers are 2^-9 apart
    assert close.all() and torch.equal(back[4], torch.zeros(96))
    assert torch.equal(rows.float().abs().amax(1)[[0, 1, 2, 3, 6]], torch.full((5,), LARGEST))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_matches_that_of_the_rounded_factors(dtype):
    x, weight, bias = draw(1, 2, 5, 32).to(dtype), draw(2, 48, 32).to(dtype), draw(3, 48).to(dtype)
    w, scale = quantised(weight)
    rows, own = quantised(x.reshape(-1, 32))
    wanted = (rows.double() * own.double()) @ (w.double() * scale.double()).t() + bias.double()
    out = product(x, w, scale, bias)
    assert out.shape == (2, 5, 48) and out.dtype == dtype
    assert relative_error(out.flatten(0, 1).double(), wanted) < (1e-6 if dtype == torch.float32 else 4e-3)
    assert 1e-3 < relative_error(out.float(), torch.nn.functional.linear(x, weight, bias).float()) < 0.05


def multiply_on_a_gpu(x, weight, scale, others, *, bias, out_dtype, use_fast_accum):
    """torch._scaled_mm for scales of rows, with what it requires on every GPU that has them."""
    assert x.dtype == weight.dtype == FLOAT8 and x.is_contiguous() and weight.t().is_contiguous()
    assert scale.shape == (len(x), 1) and others.shape == (1, weight.shape[1]) and scale.dtype == torch.float32
    assert out_dtype == torch.bfloat16 and (bias is None or bias.dtype == torch.bfloat16) and use_fast_accum
    out = (x.float() @ weight.float()) * scale * others
    return (out if bias is None else out + bias.float()).to(out_dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_hardware_multiplies_in_every_precision(dtype, monkeypatch):
    """Except for widths that it does not take."""
    x, weight, bias = draw(1, 2, 5, 32).to(dtype), draw(2, 48, 32).to(dtype), draw(3, 48).to(dtype)
    w, scale = quantised(weight)
    plain, without = product(x, w, scale, bias), product(x, w, scale, None)
    calls = []
    monkeypatch.setattr("latte.fast.float8_products.multiplies_in_float8", lambda device: True)
    monkeypatch.setattr(torch, "_scaled_mm", lambda *a, **k: calls.append(a) or multiply_on_a_gpu(*a, **k))
    for given, wanted in ((bias, plain), (None, without)):
        out = product(x, w, scale, given)
        assert out.dtype == dtype and out.shape == wanted.shape
        assert relative_error(out.float(), wanted.float()) < 6e-3  # of bfloat16
    assert len(calls) == 2
    product(x, w[:40], scale[:40], None)
    assert len(calls) == 2


def test_numbers_that_float8_holds_are_multiplied_exactly():
    x = torch.tensor([[LARGEST, 2.0, -4.0, 0.5]])
    w, scale = quantised(torch.tensor([[1.0, LARGEST, 0.25, -8.0]]))
    assert product(x, w, scale, None).item() == LARGEST + 2 * LARGEST - 1 - 4


def test_a_network_is_close_inside_the_context_and_exact_afterwards():
    network = warm()
    with torch.no_grad():
        exact = network(X, T, Y)
        keys = list(network.state_dict())
        with float8_products(network):
            near = network(X, T, Y)
            assert list(network.state_dict()) == keys
        assert torch.equal(network(X, T, Y), exact)
        with fast(network):
            again = network(X, T, Y)
            with float8_products(network):
                fast_near = network(X, T, Y)
            assert torch.equal(network(X, T, Y), again)
    assert {type(layer) for layer in network.blocks.modules()} == {type(layer) for layer in warm().blocks.modules()}
    error = relative_error(near, exact)
    assert 1e-3 < error < 0.1 and relative_error(fast_near, near) < error / 3


def test_the_fast_form_and_its_graphs_multiply_in_8_bits():
    network, plan, captured = text_model(), exact_plan([900, 700, 500]), []
    with torch.no_grad():
        condition = network.text_condition(plan.times(torch.device("cpu")), draw(9, 2, 4, 8), None)
        exact = FastRun(network, condition, 3)(X[:1], 2, 2)
        with float8_products(network):
            assert has_fast_form(network)
            run = FastRun(network, condition, 3)
            graphs = GraphRun(network, condition, plan, capture=lambda f: captured.append(f) or record(f))
            outs = [(run(X[:1], k, 2), graphs(X[:1], k, 2)) for k in range(3)]
        assert torch.equal(FastRun(network, condition, 3)(X[:1], 2, 2), exact)
    assert all(torch.equal(one, other) for one, other in outs) and len(captured) == 1
    assert 1e-3 < relative_error(outs[2][0], exact) < 0.1
