"""Attention in bfloat16 by products: as exact as PyTorch's kernel, with gradients, and only where it pays."""

import pytest
import torch
import torch.nn.functional as F
from goldens import relative_error
from small_latte import T, X, draw, warm

from latte.fast import bfloat16_attention, blocks, onednn, training_blocks
from latte.fast.bfloat16_attention import attend_by_products, float32_product, pays
from latte.fast.trunk import fast
from latte.models.attention import AxialAttention, CrossAttention
from latte.train.precision import autocast, keep_in_float32

ROUNDING = 2**-8  # a rounding to bfloat16 changes a value by up to half of it
SHAPES = {
    "spatial": (6, 2, 9, 9, 8),
    "temporal": (2, 18, 5, 5, 8),
    "cross": (3, 2, 40, 7, 8),
    "one key": (2, 2, 3, 1, 4),
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(bfloat16_attention, "LEAST_VALUES", 0)
    monkeypatch.setattr(bfloat16_attention, "multiplies_bfloat16", lambda: True)  # others compute it, too, but slowly
    monkeypatch.setattr(bfloat16_attention, "SCORES_AT_ONCE", 200)  # parts that end between heads


def tensors(shape, scale=1.0):
    """Queries, keys and values in bfloat16, laid out as in the layers: heads after tokens."""
    n, heads, tokens, keys, e = shape
    made = (scale * draw(i, n, count, heads, e) for i, count in enumerate((tokens, keys, keys)))
    return [z.bfloat16().transpose(1, 2) for z in made]


def exact(q, k, v, mask=None):
    return F.scaled_dot_product_attention(q.double(), k.double(), v.double(), None if mask is None else mask.double())


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_outputs_are_as_exact_as_those_of_the_kernel(shape, masked, scale, quick, monkeypatch):
    monkeypatch.setattr(bfloat16_attention, "onednn_is_faster", lambda: quick)
    monkeypatch.setattr(bfloat16_attention, "LEAST_SCORES", 1)
    q, k, v = tensors(shape, scale)
    mask = torch.where(draw(9, shape[0], 1, 1, shape[3]) > 0.5, -10_000.0, 0.0).bfloat16() if masked else None
    ours, kernel = attend_by_products(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, mask)
    assert ours.shape == kernel.shape and ours.dtype == torch.bfloat16
    wanted = exact(q, k, v, mask)
    assert relative_error(ours, wanted) < min(ROUNDING, 2 * relative_error(kernel, wanted) + 1e-4)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_are_those_of_attention(shape, scale):
    inputs = [z.detach().requires_grad_() for z in tensors(shape, scale)]
    weight = draw(7, *inputs[0].shape).bfloat16()
    found = torch.autograd.grad(attend_by_products(*inputs), inputs, weight)
    wanted = torch.autograd.grad(exact(*inputs), inputs, weight.double())
    size = max(gradient.norm() for gradient in wanted)
    for a, b in zip(found, wanted):  # with one key, those of queries and keys are 0
        assert a.dtype == torch.bfloat16 and (a.double() - b).norm() < 2 * ROUNDING * max(b.norm(), 1e-2 * size)


@pytest.mark.parametrize("quick", [False, True])
def test_scores_are_float32(quick, monkeypatch):
    """1 + 2^-10 is no bfloat16: rounded scores would lose the difference between two keys."""
    monkeypatch.setattr(bfloat16_attention, "onednn_is_faster", lambda: quick)
    monkeypatch.setattr(bfloat16_attention, "LEAST_SCORES", 1)
    q, k = torch.ones(1, 1, 2).bfloat16(), torch.tensor([[[1.0, 2**-10], [1.0, 0.0]]]).bfloat16()
    assert float32_product(q, k, 1.0).tolist() == [[[1 + 2**-10, 1.0]]]
    assert float32_product(q, k, 0.5).tolist() == [[[0.5 + 2**-11, 0.5]]]


def test_defaults_of_type_and_device_do_not_matter():
    q, k, v = tensors(SHAPES["spatial"])
    wanted = attend_by_products(q, k, v)
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.bfloat16, torch.float64):
            torch.set_default_dtype(dtype)
            onednn.measured_faster.__wrapped__()
            with torch.device("meta"):
                assert torch.equal(attend_by_products(q, k, v), wanted)
                assert onednn.measured_faster.__wrapped__() in (True, False)
    finally:
        torch.set_default_dtype(before)


def test_it_computes_only_what_pays(monkeypatch):
    q, k, v = tensors((1, 1, 4, 300, 8))
    assert pays(q, k, v) and not pays(q.requires_grad_(), k, v)  # gradients would keep the weights of 300 keys
    with torch.no_grad():
        assert pays(q, k, v)
    q, k, v = tensors(SHAPES["spatial"])
    mask = torch.zeros(6, 1, 1, 9)
    assert pays(q, k, v, mask) and not pays(q, k, v, mask.bool()) and not pays(q, k, v, mask.clone().requires_grad_())
    assert not pays(q, k[:, :, :0], v[:, :, :0]) and not pays(q, k, v[..., :4])
    assert pays(q, k, v) and not pays(*(z.float() for z in (q, k, v))) and not pays(*(z.half() for z in (q, k, v)))
    assert not pays(*(z.to("meta") for z in (q, k, v)))
    with monkeypatch.context() as other:
        other.setattr(bfloat16_attention, "multiplies_bfloat16", lambda: False)
        assert not pays(q, k, v)
    monkeypatch.setattr(bfloat16_attention, "LEAST_VALUES", q.numel() + 1)
    assert not pays(q, k, v)
    assert torch.equal(attend_by_products(q, k, v), F.scaled_dot_product_attention(q, k, v))


@pytest.fixture
def calls(monkeypatch):
    """How many heads each call of `attended` had."""
    seen, compute = [], bfloat16_attention.attended
    monkeypatch.setattr(bfloat16_attention, "attended", lambda q, *rest: seen.append(len(q)) or compute(q, *rest))
    return seen


def test_the_fast_form_uses_it_in_bfloat16(calls):
    model, y = warm(), torch.tensor([1, 5])
    wanted = model(X, T, y).detach()
    with torch.no_grad(), fast(model):
        assert relative_error(model(X, T, y), wanted) < 1e-6 and not calls
        model.bfloat16()
        assert relative_error(model(X.bfloat16(), T, y), wanted) < 0.03 and len(calls) == len(model.blocks)


def test_replaced_attention_is_respected():
    layer = AxialAttention(8, 2, "spatial").bfloat16()
    assert blocks.attend_of(layer) is attend_by_products
    layer.attend = own = lambda q, k, v: q
    assert blocks.attend_of(layer) is own
    assert blocks.attend_of(CrossAttention(8, 2)) is not attend_by_products


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_attends_by_products_in_bfloat16(precision, calls):
    plain, y = warm().train(), torch.tensor([1, 5])
    results = []
    for attached in (False, True):
        model = warm().train()
        model.load_state_dict(plain.state_dict())
        if attached:
            training_blocks.attach(model)
        keep_in_float32(model)
        with autocast(precision, torch.device("cpu")):
            loss = model(X, T, y).float().square().mean()
        loss.backward()
        results.append([parameter.grad for parameter in model.parameters()])
        assert len(calls) == (len(model.blocks) if attached and precision == "bf16" else 0)
    size = max(gradient.norm() for gradient in results[0])
    limit = 0.03 if precision == "bf16" else 1e-5
    assert all((a - b).norm() <= limit * max(b.norm(), 0.01 * size) for a, b in zip(*results))


def test_other_devices_and_unattached_layers_attend_in_float32(calls):
    model = warm()
    training_blocks.attach(model, "cuda")
    assert not any("attend" in vars(module) for module in model.modules())
    keep_in_float32(model, "cpu")
    q, k, v = tensors(SHAPES["spatial"])
    layer = next(module for module in model.modules() if isinstance(module, AxialAttention))
    assert layer.attend(q, k, v).dtype == torch.float32 and not calls
    half = [z.half() for z in (q, k, v)]
    with torch.autocast("cpu", torch.float16):
        assert training_blocks.attend_on_cpu(*half).dtype == torch.float32
