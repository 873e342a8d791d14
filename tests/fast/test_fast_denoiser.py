"""The fast form of a network matches the readable one, in every variant and however videos are split."""

import copy

import pytest
import torch
from goldens import relative_error
from small_latte import T, X, draw, text_model, warm
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import gelu

from latte.fast import fast_run, kernels, trunk
from latte.fast.blocks import parts
from latte.fast.fast_run import FastRun
from latte.fast.kernels import FastLinear, gelu_
from latte.fast.trunk import fast, has_fast_form

OPTIONS = [{"variant": v} for v in (1, 2, 3, 4)] + [
    {"conditioning": "tokens"},
    {"temporal_pos": "rope"},
    {"tubelet": 2},
    {"variant": 4, "temporal_pos": "rope", "conditioning": "tokens"},
]
Y = torch.tensor([1, 5])


@pytest.mark.parametrize("part", [1, 192 * 20, 192 * 40, 1 << 20])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_class_conditional_models_match(option, part, monkeypatch):
    """Parts of one token (of one frame or position), of a few frames, of one video, and of both videos."""
    monkeypatch.setattr(trunk, "PART", part)
    model = warm(**option)
    with torch.no_grad():
        plain = model(X, T, Y)
        with fast(model):
            assert relative_error(model(X, T, Y), plain) < 1e-6
        assert torch.equal(model(X, T, Y), plain)


@pytest.mark.parametrize("part", [1, 192 * 20, 1 << 20])
@pytest.mark.parametrize("mask", [None, torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])])
def test_text_models_match(mask, part, monkeypatch):
    monkeypatch.setattr(trunk, "PART", part)
    model, text = text_model(), draw(9, 2, 4, 8)
    with torch.no_grad():
        plain = model(X, T, text, mask)
        still = model(X, T, text, mask, temporal=False)
        with fast(model):
            assert relative_error(model(X, T, text, mask), plain) < 1e-6
            assert torch.equal(model(X, T, text, mask, temporal=False), still)
    assert relative_error(plain, still) > 0.01


@pytest.mark.parametrize("most", [0, 1 << 25])
@pytest.mark.parametrize("option", [{}, {"conditioning": "tokens"}, {"tubelet": 2}], ids=str)
def test_sampling_runs_match_over_known_timesteps(option, most, monkeypatch):
    """With the modulations of all timesteps precomputed, and one at a time; for all videos, and for the first."""
    monkeypatch.setattr(fast_run, "MOST_TABLED", most)
    model, times = warm(**option), torch.tensor([977, 500, 3])
    with torch.no_grad():
        run = FastRun(model, model.class_condition(model.condition(times.repeat_interleave(2), Y.repeat(3))), 3)
        assert (run.tables is None) is (most == 0)
        for k, t in enumerate(times):
            assert relative_error(run(X, k), model(X, t.expand(2), Y)) < 1e-6
            assert relative_error(run(X[:1], k), model(X[:1], t.expand(1), Y[:1])) < 1e-6


def test_guidance_halves_share_the_layers_before_the_text():
    """They share everything before the text, and nothing if classes or prefix tokens tell them apart."""
    text, times = draw(9, 2, 4, 8), torch.tensor([500, 3])
    model, twice = text_model(), torch.cat([X[:1]] * 2)
    with torch.no_grad():
        run = FastRun(model, model.text_condition(times, text, None), 2)
        calls = []
        run.blocks.run_layers = lambda *args, f=run.blocks.run_layers: (calls.append(len(args[0])), f(*args))
        assert relative_error(run(X[:1], 1, 2), model(twice, times[1].expand(2), text)) < 1e-6
        assert calls == [1, 2, 2, 2, 2]
        for option in ({}, {"conditioning": "tokens"}):
            model = warm(**option)
            run = FastRun(model, model.class_condition(model.condition(times.repeat_interleave(2), Y.repeat(2))), 2)
            assert relative_error(run(X[:1], 1, 2), model(twice, times[1].expand(2), Y)) < 1e-6


def test_adapters_have_no_fast_form():
    class Adapter(torch.nn.Linear):
        pass

    model = warm()
    model.blocks[0].attns[0].qkv = Adapter(48, 144)
    assert not has_fast_form(model)


def test_sampling_runs_of_a_text_model_match():
    model, text, times = text_model(), draw(9, 2, 4, 8), torch.tensor([500, 3])
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    with torch.no_grad():
        run = FastRun(model, model.text_condition(times, text, mask), 2)
        assert relative_error(run(X, 1), model(X, times[1].expand(2), text, mask)) < 1e-6
        assert relative_error(run(X[:1], 0), model(X[:1], times[:1], text[:1], mask[:1])) < 1e-6
        run.replace_text(model.text_condition(times[:1], 2 * text, mask))
        assert relative_error(run(X, 0), model(X, times[0].expand(2), 2 * text, mask)) < 1e-6


def test_gradients_and_autocast_take_the_readable_form():
    model = warm()
    with fast(model):
        out = model(X, T, Y)
        out.square().mean().backward()
    assert model.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(X, T, Y)
        with fast(model):
            assert torch.equal(model(X, T, Y), plain)


def test_modified_networks_have_no_fast_form():
    assert has_fast_form(warm()) and has_fast_form(text_model())
    assert not has_fast_form(warm().train()) and not has_fast_form(torch.nn.Linear(2, 2))
    model = warm()
    handle = model.blocks[1].mlp.register_forward_hook(lambda *_: None)
    assert not has_fast_form(model)
    handle.remove()
    model.blocks[1].attns[0].forward = lambda x: x
    assert not has_fast_form(model)
    del model.blocks[1].attns[0].forward
    model.blocks[1].mlp = torch.nn.Identity()
    assert not has_fast_form(model)
    with fast(wrapped := warm()):
        assert not has_fast_form(wrapped)


@pytest.mark.parametrize("kind", ["class", "text"])
def test_blocks_compile_one_by_one_without_graph_breaks(kind):
    """Each kind of block once. The network is then the readable one: the fast blocks would not call the compiled."""
    torch.compiler.reset()
    model, counter = text_model() if kind == "text" else warm(), CompileCounter()
    given = draw(9, 2, 4, 8) if kind == "text" else Y
    with torch.no_grad():
        plain = model(X, T, given)
        for block in model.blocks:
            block.compile(backend=counter, fullgraph=True)
        assert relative_error(model(X, T, given), plain) < 1e-6 and counter.frame_count == 2
    assert not has_fast_form(model)


@pytest.mark.parametrize("rows", [1, 7, 16, 1000])
def test_parts_cover_every_token_once(rows):
    for axis in (None, 1, 2):
        seen = torch.zeros(3, 5, 7, dtype=torch.int64)
        for where in parts((3, 5, 7, 48), axis, rows):
            seen[where] += 1
            small = seen[where].numel() <= max(rows, {None: 35, 1: 7, 2: 5}[axis])
            assert small, (axis, where)
        assert (seen == 1).all()


def test_gelu_in_place():
    x = torch.linspace(-30, 30, 300_001)
    exact = gelu(x.double(), approximate="tanh")
    assert (gelu_(x.clone()) - exact).abs().max() < 4e-6
    near = x.abs() < 4
    assert (gelu_(x.clone()) - exact)[near].abs().max() < 5e-7
    y = x.bfloat16()
    assert torch.equal(gelu_(y.clone()), gelu(y, approximate="tanh"))


@pytest.mark.parametrize(("vectors", "least"), [("AVX512", 3 << 19), ("AVX2", 1 << 24), ("DEFAULT", 1 << 24)])
def test_smaller_products_are_worth_it_on_cpus_with_avx512(vectors, least, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    assert FastLinear(torch.nn.Linear(96, 192), True).least == least // 192


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("pack", [False, True])
def test_gelu_is_part_of_the_product_where_that_is_faster(pack, fused, monkeypatch):
    monkeypatch.setattr(kernels, "fuses_gelu_on_cpu", lambda: fused)
    apart = []
    monkeypatch.setattr(kernels, "gelu_", lambda y: apart.append(y.shape) or gelu_(y))
    layer, x = torch.nn.Linear(96, 384), 4 * draw(0, 2048, 96)
    quick = FastLinear(layer, pack)
    exact = copy.deepcopy(layer).double()
    with torch.no_grad():
        for tokens in (2048, 3):  # enough for oneDNN's product, and too few
            some = x[:tokens]
            assert relative_error(quick.gelu(some), gelu(exact(some.double()), approximate="tanh")) < 1e-6
    assert apart == ([(3, 384)] if fused else [(2048, 384), (3, 384)])


@pytest.mark.parametrize("vectors", ["AVX512", "AVX2", "DEFAULT"])
def test_gelu_is_part_of_the_product_with_avx512(vectors, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    assert kernels.fuses_gelu_on_cpu() == (vectors == "AVX512")


@pytest.mark.parametrize("pack", [False, True])
def test_fast_linear_layers_track_weight_changes(pack):
    layer, x = torch.nn.Linear(96, 192), draw(0, 1024, 96)
    quick = FastLinear(layer, pack)
    assert quick.least <= x.numel()
    with torch.no_grad():
        for _ in range(2):
            assert relative_error(quick(x), layer(x)) < 1e-6
            layer.weight.mul_(2)
            layer.bias.add_(1)
        layer.weight.data = draw(1, 192, 96)
        assert relative_error(quick(x), layer(x)) < 1e-6
        assert relative_error(quick(x[:3]), layer(x[:3])) < 1e-6
        half, z = layer.bfloat16(), x.bfloat16()  # oneDNN packs it only on CPUs that compute in bfloat16
        assert relative_error(FastLinear(half, pack)(z).float(), half(z).float()) < 1e-2
