"""Products alone: the same results by PyTorch and by oneDNN, and the faster of the two for the floor and the rate."""

from functools import partial

import pytest
import torch
from goldens import relative_error
from small_latte import draw
from speed_models import shorten, text_pipeline

from latte.eval.bench import candidates, products
from latte.eval.bench.forward_speed import Evaluation
from latte.eval.bench.products import by_onednn, fastest, products_alone
from latte.fast.onednn import multiplies_bfloat16
from latte.fast.switch import fast_paths

BMM, MM, ADDMM = (getattr(torch.ops.aten, name).default for name in ("bmm", "mm", "addmm"))
X, WEIGHT, BIAS = draw(0, 70, 24), draw(1, 40, 24).t(), draw(2, 40)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_by_onednn(dtype):
    if dtype == torch.bfloat16 and not multiplies_bfloat16():
        pytest.skip("oneDNN does not multiply bfloat16 on this processor")
    x, weight, bias = (z.to(dtype) for z in (X, WEIGHT, BIAS))
    bound = {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    for args in ((x, weight), (x, weight.contiguous()), (draw(3, 24, 70).to(dtype).t(), weight)):
        assert relative_error(by_onednn(MM, args, None)(), args[0] @ args[1]) < bound
    assert relative_error(by_onednn(ADDMM, (bias, x, weight), {})(), bias + x @ weight) < bound


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (MM, (X.double(), WEIGHT.double()), None),
        (MM, (X.to("meta"), WEIGHT.to("meta")), None),
        (ADDMM, (BIAS, X, WEIGHT), {"beta": 2}),
        (ADDMM, (X @ WEIGHT, X, WEIGHT), None),
        (BMM, (X[None], WEIGHT[None]), None),
    ],
)
def test_other_products_stay_with_pytorch(function, args, kwargs):
    assert by_onednn(function, args, kwargs) is None
    torch.testing.assert_close(fastest(function, args, kwargs)(), function(*args, **(kwargs or {})))


@pytest.mark.parametrize(("by_pytorch", "by_other"), [([1, 3, 3], [9, 2, 2]), ([9, 2, 2], [1, 3, 3])])
def test_the_faster_way_is_chosen_by_its_later_calls(by_pytorch, by_other, monkeypatch):
    other = lambda: "oneDNN's"
    monkeypatch.setattr(products, "by_onednn", lambda *_: other)
    left = {True: iter(by_other), False: iter(by_pytorch)}
    monkeypatch.setattr(products, "seconds_of", lambda way, device: next(left[way is other]))
    assert (fastest(MM, (X, WEIGHT)) is other) == (by_other[-1] < by_pytorch[-1])


def test_floor_and_rate_compute_the_fastest_way(monkeypatch):
    asked, ran = [], []

    def chosen(function, args, kwargs=None):
        asked.append(function)
        return partial(ran.append, function)

    for module in (products, candidates):
        monkeypatch.setattr(module, "fastest", chosen)
    shorten(monkeypatch)
    evaluation = Evaluation(text_pipeline(num_layers=2), frames=3, size=32, tokens=5)
    with fast_paths(False):
        again = products_alone(partial(evaluation.compute, evaluation.network()))
    again()
    assert ADDMM in ran and set(asked) == set(ran)
    assert len(asked) < len(ran)  # equal products are compared once
    ran.clear()
    timer, operations = candidates.product_timer("float32", torch.device("cpu"))
    timer()
    assert (ran, operations) == ([MM], 2 * 32**3)
