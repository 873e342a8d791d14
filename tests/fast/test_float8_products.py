"""8-bit products: rounding and its bounds, what stays exact, and a clean exit."""

import pytest
import torch
from goldens import relative_error
from small_latte import T, X, Y, draw, warm

from latte.fast.float8_products import FLOAT8, LARGEST, float8_products, product, quantised
from latte.fast.trunk import has_fast_form


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


def test_numbers_that_float8_holds_are_multiplied_exactly():
    x = torch.tensor([[LARGEST, 2.0, -4.0, 0.5]])
    w, scale = quantised(torch.tensor([[1.0, LARGEST, 0.25, -8.0]]))
    assert product(x, w, scale, None).item() == LARGEST + 2 * LARGEST - 1 - 4


def test_a_network_is_close_inside_the_context_and_exact_afterwards():
    network = warm()
    with torch.no_grad():
        exact = network(X, T, Y)
        with float8_products(network):
            near = network(X, T, Y)
            assert not has_fast_form(network)  # whose products would be exact
        assert torch.equal(network(X, T, Y), exact) and has_fast_form(network)
    assert 1e-4 < relative_error(near, exact) < 0.1
