"""Training steps with fused passes and per-block compilation: the same gradients and losses as plain steps."""

import copy
import os
import shutil

import pytest
import torch
import torch.nn.functional as F
from forks import together
from goldens import relative_error
from safetensors.torch import load_file
from small_runs import run, small

from latte.fast import bfloat16_attention, onednn, training_products
from latte.fast.norm_modulate import NormModulate, gelu, norm_modulate
from latte.fast.onednn import onednn_product
from latte.fast.training_blocks import attach
from latte.fast.training_products import Product, linear_forward
from latte.models.block import AdaLN, modulate
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.train import start
from latte.train.checkpoint import read_state
from latte.train.metrics import read_lines
from latte.train.precision import autocast, keep_in_float32
from latte.train.start import recorded_products
from latte.train.step import update_ema

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of PyTorch has no oneDNN"
)
SHAPES = {"each video": (3, 1, 1, 24), "each frame": (3, 5, 1, 24), "all": (1, 1, 1, 24), "no axes": (24,)}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr("latte.fast.norm_modulate.PART", 24 * 4)  # parts that end within and between videos
    monkeypatch.setattr("latte.fast.norm_modulate.LEAST_SHARE", 0)


def gradients(function, *inputs):
    """(output, gradients of a weighted sum of it)."""
    inputs = [z.clone().requires_grad_() for z in inputs]
    out = function(*inputs)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=out.dtype)
    return [out, *torch.autograd.grad((out * weight).sum(), inputs)]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_norm_modulate_and_its_gradients(shape):
    torch.manual_seed(0)
    x, shift, scale = torch.randn(3, 5, 7, 24), torch.randn(shape), torch.randn(shape)
    for ours, plain in zip(gradients(norm_modulate, x, shift, scale), gradients(modulate, x, shift, scale)):
        assert ours.shape == plain.shape and relative_error(ours, plain) < 1e-6
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert relative_error(norm_modulate(strided, shift, scale), modulate(x, shift, scale)) < 1e-6


def test_norm_modulate_passes_gradcheck():
    torch.manual_seed(0)
    x, shift, scale = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(2, 2, 3, 4), *[(2, 1, 1, 4)] * 2]
    )
    assert torch.autograd.gradcheck(norm_modulate, (x, shift, scale))


def test_unsupported_shapes_use_the_plain_computation():
    x, shift = torch.randn(3, 5, 7, 24), torch.randn(1, 5, 1, 24)
    assert torch.equal(norm_modulate(x, shift, shift), modulate(x, shift, shift))


@pytest.mark.parametrize("least", [5 * 7 * 24, 5 * 7 * 24 + 1])
def test_small_shares_use_the_plain_computation(least, monkeypatch):
    monkeypatch.setattr("latte.fast.norm_modulate.LEAST_SHARE", least)
    calls, apply = [], NormModulate.apply
    monkeypatch.setattr(NormModulate, "apply", lambda *given: calls.append(given) or apply(*given))
    x, shift, scale = torch.randn(3, 5, 7, 24), torch.randn(3, 1, 1, 24), torch.randn(3, 1, 1, 24)
    assert relative_error(norm_modulate(x, shift, scale), modulate(x, shift, scale)) < 1e-6
    assert len(calls) == (least == 5 * 7 * 24)


def test_gelu_and_its_gradient():
    x = torch.cat([torch.linspace(-12, 12, 1001), torch.tensor([0.0, 1e4, -1e4, 1e-20])])
    for ours, plain in zip(gradients(gelu, x), gradients(lambda z: F.gelu(z, approximate="tanh"), x)):
        assert ours.isfinite().all() and relative_error(ours, plain) < 1e-6
        assert (ours - plain).abs().max() < 2e-6 * max(1, plain.abs().max())
    assert torch.equal(gelu(x.bfloat16()), F.gelu(x.bfloat16(), approximate="tanh"))


def test_gelu_and_its_gradient_in_bfloat16():
    """Output and derivative are rounded once; then so is their product with the gradient."""
    x = torch.cat([torch.linspace(-12, 12, 1001), torch.tensor([0.0, 1e4, -1e4, 1e-20])]).bfloat16()
    plain, ours = gradients(lambda z: F.gelu(z, approximate="tanh"), x.float()), gradients(gelu, x)
    assert [z.dtype for z in ours] == [torch.bfloat16] * 2
    assert ((ours[0].float() - plain[0]).abs() <= 2**-8 * plain[0].abs() + 1e-6).all()
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=torch.bfloat16).float()
    exact = torch.autograd.functional.jvp(lambda z: F.gelu(z, approximate="tanh"), x.double(), weight.double())[1]
    assert ((ours[1].double() - exact).abs() <= 3 * 2**-9 * exact.abs() + 4e-6).all()


LAYOUTS = {
    "rows": lambda: torch.randn(40, 24),
    "tokens": lambda: torch.randn(2, 5, 4, 24),
    "strided": lambda: torch.randn(2, 4, 5, 24).transpose(1, 2),
    "one row": lambda: torch.randn(1, 24),
}


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_by_onednn_and_their_gradients(layout, bias, monkeypatch):
    monkeypatch.setattr(training_products, "LEAST_PRODUCTS", 0)
    torch.manual_seed(0)
    x, layer = LAYOUTS[layout](), torch.nn.Linear(24, 40, bias=bias)
    inputs = [x, *(parameter.detach() for parameter in layer.parameters())]
    exact = gradients(F.linear, *inputs)
    found = gradients(lambda x, weight, bias=None: Product.apply(x, weight, bias), *inputs)
    assert len(found) == len(exact) and all(relative_error(a, b) < 1e-6 for a, b in zip(found, exact))
    assert relative_error(linear_forward(layer, x), exact[0]) < 1e-6
    total = Product.apply(x, layer.weight, layer.bias).sum()  # its gradient is an expanded tensor
    assert relative_error(torch.autograd.grad(total, layer.weight)[0], x.flatten(0, -2).sum(0).expand(40, 24)) < 1e-6


@needs_onednn
@pytest.mark.parametrize("frozen", [{"x"}, {"weight"}, {"bias"}, {"weight", "bias"}, {"x", "bias"}], ids=sorted)
def test_products_by_onednn_skip_what_is_frozen(frozen):
    torch.manual_seed(0)
    given = {"x": torch.randn(8, 24), "weight": torch.randn(40, 24), "bias": torch.randn(40)}
    for name in given.keys() - frozen:
        given[name].requires_grad_()
    learning = [given[name] for name in given if name not in frozen]
    wanted = torch.autograd.grad(F.linear(*given.values()).square().sum(), learning)
    found = torch.autograd.grad(Product.apply(*given.values()).square().sum(), learning)
    assert all(relative_error(a, b) < 1e-6 for a, b in zip(found, wanted))


@pytest.mark.parametrize("products", [True], indirect=True)
def test_products_by_onednn_are_for_large_float32_products_of_plain_tensors(products, monkeypatch):
    _, shapes = products
    layer, x = torch.nn.Linear(24, 40), torch.randn(8, 24)
    with autocast("bf16", torch.device("cpu")):
        assert linear_forward(layer, x).dtype == torch.bfloat16 and not shapes
    assert linear_forward(copy.deepcopy(layer).double(), x.double()).dtype == torch.float64 and not shapes
    assert linear_forward(copy.deepcopy(layer).to("meta"), x.to("meta")).is_meta and not shapes
    assert torch.equal(linear_forward(layer, x[0]), layer(x[0])) and not shapes
    assert relative_error(linear_forward(layer, x), layer(x)) < 1e-6 and shapes == [(40, 24)]
    monkeypatch.setattr(training_products, "LEAST_PRODUCTS", 8 * 24 * 40 + 1)
    assert torch.equal(linear_forward(layer, x), layer(x)) and len(shapes) == 1


def test_products_of_the_library_are_used_where_onednn_is_not_faster(monkeypatch):
    monkeypatch.setattr(training_products, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(training_products, "onednn_is_faster", lambda: False)
    layer, x = torch.nn.Linear(24, 40), torch.randn(8, 24)
    assert torch.equal(linear_forward(layer, x), layer(x))


@needs_onednn
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_with_these_products_is_bit_exact(precision, vae, tmp_path, monkeypatch):
    for module, name in ((training_products, "LEAST_PRODUCTS"), (bfloat16_attention, "LEAST_VALUES")):
        monkeypatch.setattr(module, name, 0)
    monkeypatch.setattr(training_products, "onednn_is_faster", lambda: True)
    calls = {"products": 0, "attention": 0}

    def count(name, compute):
        def counted(*given):
            calls[name] += 1
            return compute(*given)

        return counted

    monkeypatch.setattr(training_products, "onednn_product", count("products", onednn_product))
    monkeypatch.setattr(bfloat16_attention, "attended", count("attention", bfloat16_attention.attended))
    words = [f"precision={precision}", "save_every=2"]
    run(small(vae, "steps=4", *words), tmp_path / "whole")
    assert calls["products" if precision == "fp32" else "attention"] and bool(calls["attention"]) == (
        precision == "bf16"
    )
    run(small(vae, "steps=2", *words), tmp_path / "parts")
    run(small(vae, "steps=4", *words), tmp_path / "parts")
    for name in ("model", "ema", "optimizer"):
        whole, parts = (
            load_file(tmp_path / part / f"checkpoints/step-0000004/{name}.safetensors") for part in ("whole", "parts")
        )
        assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)


@needs_onednn
def test_a_resumed_run_computes_by_the_library_that_it_began_with(vae, tmp_path, monkeypatch):
    """Otherwise a machine that measures another speed than before would change bits."""
    monkeypatch.setattr(training_products, "LEAST_PRODUCTS", 0)
    faster = lambda yes: monkeypatch.setattr(onednn, "measured_faster", lambda: yes)
    last = lambda name, step: tmp_path / name / f"checkpoints/step-000000{step}"
    for yes in (True, False):
        faster(yes)
        run(small(vae, "steps=4"), tmp_path / f"whole {yes}")
        run(small(vae, "steps=2"), tmp_path / f"parts {yes}")
        faster(not yes)
        run(small(vae, "steps=4"), tmp_path / f"parts {yes}")
        assert read_state(last(f"parts {yes}", 4))["onednn"] == yes
    names = ("whole True", "parts True", "whole False", "parts False")
    models = {name: load_file(last(name, 4) / "model.safetensors") for name in names}
    differ = lambda a, b: [key for key in models[a] if not torch.equal(models[a][key], models[b][key])]
    assert not differ("whole True", "parts True") and not differ("whole False", "parts False")
    assert differ("whole True", "whole False")
    for yes in (True, False):
        faster(not yes)
        assert recorded_products(tmp_path / f"parts {yes}") == yes
    shutil.rmtree(last("parts True", 4))
    assert recorded_products(tmp_path / "parts True")  # the one before says so, too
    state = last("parts True", 2) / "state.json"
    state.write_text(state.read_text().replace('"onednn"', '"other"'))  # damaged, so there is none
    assert [faster(yes) or recorded_products(tmp_path / "parts True") for yes in (True, False)] == [True, False]


@needs_onednn
def test_checkpoints_that_name_no_library_are_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(start, "recorded_states", lambda folder: iter([{"step": 4}]))  # as runs of 0.1.0
    for yes in (True, False):
        monkeypatch.setattr(onednn, "measured_faster", lambda yes=yes: yes)
        assert recorded_products(tmp_path) == yes


@needs_onednn
def test_two_processes_train_by_these_products_like_one(vae, tmp_path, monkeypatch):
    monkeypatch.setattr(training_products, "LEAST_PRODUCTS", 0)
    # the first process finds oneDNN faster, the second one does not: both compute as the first
    monkeypatch.setattr(onednn, "measured_faster", lambda: os.environ.get("RANK", "0") == "0")
    words = ["steps=2", "deterministic_reduce=true", "micro_batch_size=2"]
    together(2, lambda: run(small(vae, *words), tmp_path / "two"), tmp_path / "log")
    run(small(vae, *words), tmp_path / "one")
    one, two = (load_file(tmp_path / name / "checkpoints/step-0000002/model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_attached_networks_keep_their_precision(dtype):
    network = a_latte().to(dtype)
    attach(network)
    network(X.to(dtype), T, torch.tensor([1, 2])).sum().backward()
    assert all(parameter.grad.dtype == dtype for parameter in network.parameters() if parameter.grad is not None)


def awake(network):
    """The network with weights that are nowhere zero, so that every gradient matters."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.train()


def a_latte(variant=1, depth=2, conditioning="adaln"):
    return awake(
        Latte(LatteConfig(variant, depth, 16, 2, num_classes=3, class_dropout_prob=0.1, conditioning=conditioning))
    )


X, T = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(5)), torch.tensor([5, 600])
NETWORKS = {
    **{f"variant {v} {c}": lambda v=v, c=c: a_latte(v, conditioning=c) for v in (1, 4) for c in ("adaln", "tokens")},
    "joint": a_latte,
    "t2v": lambda: awake(LatteT2V(LatteT2VConfig(num_layers=1, num_attention_heads=2, attention_head_dim=8,
                                                 sample_size=8, video_length=4, caption_channels=8))),
}  # fmt: skip


def outcome(network, name, precision="fp32"):
    """(loss, gradients by name) of one step."""
    label = {"t2v": torch.ones(2, 5, 8), "joint": torch.tensor([[1, 2], [0, 1]])}.get(name, torch.tensor([1, 2]))
    network.zero_grad()
    with autocast(precision, torch.device("cpu")):
        loss = network(X, T, label, **({"num_images": 1} if name == "joint" else {})).float().square().mean()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.fixture(params=[False, True], ids=["MKL", "oneDNN"])
def products(request, monkeypatch):
    """Whether oneDNN computes all float32 products of linear layers; and the list of shapes that it has computed."""
    shapes, compute = [], training_products.onednn_product
    spy = lambda x, weight, bias=None: shapes.append(tuple(weight.shape)) or compute(x, weight, bias)
    monkeypatch.setattr(training_products, "onednn_product", spy)
    monkeypatch.setattr(training_products, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(training_products, "onednn_is_faster", lambda: request.param)
    return request.param, shapes


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fast_step_has_the_same_gradients(name, products):
    plain = NETWORKS[name]()
    fast = copy.deepcopy(plain)
    attach(fast)
    (loss, wanted), (ours, found) = outcome(plain, name), outcome(fast, name)
    assert ours == pytest.approx(loss, rel=1e-6) and found.keys() == wanted.keys()
    scale = max(gradient.norm() for gradient in wanted.values())
    for key, gradient in wanted.items():  # a gradient that cancels out is compared with the largest one
        assert (found[key] - gradient).norm() <= 2e-6 * max(gradient.norm(), 1e-2 * scale), key
    used, shapes = products
    assert bool(shapes) == used and (not used or {(48, 16), (16, 16), (64, 16), (16, 64)} <= set(shapes))


def test_bfloat16_differences_are_within_rounding():
    plain = a_latte()
    exact, _ = outcome(plain, "")
    keep_in_float32(plain)
    fast = copy.deepcopy(plain)
    attach(fast)
    (loss, wanted), (ours, found) = outcome(plain, "", "bf16"), outcome(fast, "", "bf16")
    assert abs(ours - loss) < 0.01 * exact
    assert all(relative_error(found[key], wanted[key]) < 0.02 for key in wanted if wanted[key].norm() > 1e-4)


def test_blocks_of_a_kind_stay_alike_in_float32_layers():
    """If `forward` differed between instances, torch.compile would compile each separately, and give up after eight."""
    network = a_latte(depth=4)
    keep_in_float32(network)
    modulations = [block.modulation for block in network.blocks]
    assert len({type(module) for module in modulations}) == 1 and isinstance(modulations[0], AdaLN)
    assert not any("forward" in vars(module) for module in modulations)
    with autocast("bf16", torch.device("cpu")):
        assert modulations[0](torch.ones(1, 1, 16, dtype=torch.bfloat16))[0][0].dtype == torch.float32


def test_runs_are_fast_by_default_with_the_same_losses(vae, tmp_path, monkeypatch):
    losses, attached = {}, []
    monkeypatch.setattr("latte.train.run.training_blocks.attach", lambda network: attached.append(attach(network)))
    for fast in ("true", "false"):
        run(small(vae, "steps=4", f"fast={fast}"), tmp_path / fast)
        losses[fast] = [line["loss"] for line in read_lines(tmp_path / fast / "metrics.jsonl")]
    assert losses["true"] == pytest.approx(losses["false"], rel=1e-5) and len(attached) == 1


def test_fused_ema_matches_the_ema_of_each_weight():
    network, ema = a_latte(), a_latte()
    for parameter in network.parameters():
        parameter.data.add_(0.5)
    wanted = [a.detach().lerp(p.detach(), 1 - 2 / 11) for a, p in zip(ema.parameters(), network.parameters())]
    update_ema(ema, network, 0.9, step=1)
    assert all(torch.equal(a, b) for a, b in zip(ema.parameters(), wanted))
