"""How the fast form computes on a GPU: few operations, and products that end in GELU or add to the residual.

The meta device stands in for a GPU; what only CUDA has is switched on by hand.
"""

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from goldens import relative_error
from small_latte import X, Y, draw, text_model, warm
from torch._decomp import get_decompositions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from latte.fast import kernels
from latte.fast.fast_run import FastRun
from latte.fast.float8_products import float8_products
from latte.fast.kernels import FastLinear
from latte.fast.trunk import PART, tokens_at_once
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig

PAIRS = 2  # of blocks: 4 spatial or temporal attentions, of which 2 with cross-attention, and 4 MLPs
PRODUCTS = 4 * 2 + 2 * 2 + 4 * 2  # of tokens, in all blocks


class Operations(TorchDispatchMode):
    """Counts the operations in its context by name; views count, too."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[f"{function.overloadpacket} {(kwargs or {}).get('approximate', '')}".strip()] += 1
        return function(*args, **(kwargs or {}))


def operations(fast=True, float8=False):
    """The operations of one guided evaluation on the meta device, at the size of Latte-1 but with fewer blocks."""
    with torch.device("meta"), torch.no_grad():
        model = LatteT2V(LatteT2VConfig(num_layers=PAIRS)).eval().half()
        x, times, text = torch.empty(1, 16, 4, 64, 64), torch.tensor([500]), torch.empty(2, 120, 4096).half()
        with float8_products(model) if float8 else nullcontext():
            run = FastRun(model, model.text_condition(times, text, None), 1)
            run(x, 0, 2)  # the first evaluation also computes the positions
            with Operations() as counted:
                if fast:
                    assert run(x, 0, 2).shape == (2, 16, 8, 64, 64)
                else:
                    model(x.half().repeat(2, 1, 1, 1, 1), times.expand(2), text)
    return counted.seen


def test_off_the_cpu_there_are_fewer_operations_than_in_the_readable_network():
    """All tokens are one part; parts that suit a CPU's cache would need thousands of operations."""
    assert operations().total() < operations(fast=False).total()
    assert tokens_at_once(torch.device("cpu"), 1 << 10) == PART >> 10


def test_products_end_in_gelu_and_residual_on_cuda(monkeypatch):
    """Each attention, cross-attention and MLP adds to the residual; no GELU is left on its own."""
    elsewhere = operations()
    assert elsewhere["aten.gelu_ tanh"] == 2 * PAIRS and elsewhere["aten.addmm_"] == 5 * PAIRS
    monkeypatch.setattr(kernels, "has_tanh_epilogue", lambda device: True)
    seen = operations()
    assert seen["aten._addmm_activation"] == 2 * PAIRS and seen["aten.addmm_"] == 5 * PAIRS
    assert not [name for name in seen if "gelu" in name]


def test_all_products_of_tokens_are_8_bit_if_asked(monkeypatch):
    monkeypatch.setattr("latte.fast.float8_products.multiplies_in_float8", lambda device: True)
    seen = operations(float8=True)
    assert seen["aten._scaled_mm"] == PRODUCTS and not {"aten._addmm_activation", "aten.addmm_"} & set(seen)


def tanh_epilogue(bias, x, weight, *, use_gelu):
    """torch._addmm_activation as it is on CUDA."""
    assert use_gelu
    return F.gelu(torch.addmm(bias, x, weight), approximate="tanh")


def test_gelu_in_a_product_is_the_tanh_approximation_on_cuda_alone():
    """According to PyTorch's own definition in terms of other operations."""
    operation = torch.ops.aten._addmm_activation
    define = get_decompositions([operation])[operation.default]
    for device, name in (("cuda", "aten.gelu tanh"), ("cpu", "aten.gelu")):
        with FakeTensorMode(), torch.device(device), Operations() as counted:
            define(torch.empty(8), torch.empty(2, 4), torch.empty(4, 8), use_gelu=True)
        assert counted.seen[name] == 1 and kernels.has_tanh_epilogue(torch.device(device)) is (device == "cuda")
    assert not kernels.has_tanh_epilogue(torch.device("meta"))


def test_a_layer_with_gelu(monkeypatch):
    """Elsewhere the two are computed apart; the operation itself takes the layer's weights as they lie."""
    layer, x = torch.nn.Linear(24, 48), draw(0, 2, 3, 5, 24)
    with torch.no_grad():
        plain = layer(x)
        assert relative_error(FastLinear(layer, False).gelu(x), F.gelu(plain, approximate="tanh")) < 1e-6
        monkeypatch.setattr(kernels, "has_tanh_epilogue", lambda device: True)
        assert relative_error(FastLinear(layer, False).gelu(x), F.gelu(plain)) < 1e-6  # this is a CPU
        assert FastLinear(layer.to("meta"), False).gelu(x.to("meta")).shape == plain.shape


@pytest.mark.parametrize("gate", [1.0, draw(3, 32), draw(4, 2, 1, 1, 32)], ids=["no gate", "one gate", "gates"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-6), (torch.float16, 5e-4), (torch.bfloat16, 4e-3)])
def test_products_that_add_to_the_residual_are_exact_to_rounding(gate, dtype, most, monkeypatch):
    layer, x, y = torch.nn.Linear(16, 32), draw(0, 2, 4, 16, 16), draw(1, 2, 4, 16, 32)
    half = lambda z: z if isinstance(z, float) else z.to(dtype)
    with torch.no_grad():
        layer.to(dtype)
        exact = [half(z).double() for z in (x, y, layer.weight, layer.bias)]
        wanted = exact[1] + (gate if isinstance(gate, float) else half(gate).double()) * F.linear(exact[0], *exact[2:])
        for in_product in (False, True):
            monkeypatch.setattr(kernels, "adds_in_product", lambda device, found=in_product: found)
            residual = half(y).clone()
            with Operations() as counted:
                FastLinear(layer, False).add_to(residual, half(x), half(gate))
            assert relative_error(residual.double(), wanted) < most
            shared = isinstance(gate, float) or gate.ndim == 1
            assert counted.seen["aten.addmm_"] == (in_product and shared)
        few, residual = half(x)[:1, :1, :2], half(y)[:1, :1, :2].clone()
        gate = gate if isinstance(gate, float) or gate.ndim == 1 else gate[:1]
        with Operations() as counted:  # scaling the weights would take longer than the gate
            FastLinear(layer, False).add_to(residual, few, half(gate))
        assert counted.seen["aten.addmm_"] == isinstance(gate, float)


@pytest.mark.parametrize("kind", ["text", "class", "tokens", "split heads"])
def test_networks_with_these_products_match(kind, monkeypatch):
    monkeypatch.setattr(torch, "_addmm_activation", tanh_epilogue)
    monkeypatch.setattr(kernels, "MANY_TOKENS", 0)
    for name in ("adds_in_product", "has_tanh_epilogue"):
        monkeypatch.setattr(kernels, name, lambda device: True)
    option = {"tokens": {"conditioning": "tokens"}, "split heads": {"variant": 4}}.get(kind, {})
    model, times = text_model() if kind == "text" else warm(**option), torch.tensor([977, 500])
    given = (draw(9, 2, 4, 8), None) if kind == "text" else (Y,)
    with torch.no_grad(), Operations() as counted:
        if kind == "text":
            condition = model.text_condition(times, *given)
        else:
            condition = model.class_condition(model.condition(times.repeat_interleave(2), Y.repeat(2)))
        run = FastRun(model, condition, 2)
        assert relative_error(run(X, 1), model(X, times[1].expand(2), *given)) < 1e-6
        few = relative_error(run(X[:1], 0), model(X[:1], times[:1], *(z if z is None else z[:1] for z in given)))
    assert few < 1e-6 and counted.seen["aten.addmm_"] > 0
