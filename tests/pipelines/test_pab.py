"""Pyramid Attention Broadcast: recorded values, what a run computes and caches, and that no state remains."""

import pytest
import torch
from goldens import Golden, relative_error

from latte import LattePipeline
from latte.fast.switch import fast_paths
from latte.models.block import Block, modulate
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.pab import (
    KINDS,
    Broadcast,
    PyramidAttentionBroadcastMixin,
    Spans,
    pyramid_attention_broadcast,
)
from latte.weights.convert_t2v import t2v_config, t2v_state
from latte.weights.convert_vae import vae_state


@pytest.fixture
def golden():
    return Golden("t2v_pipeline")


@pytest.fixture
def pipe():
    weights, vae = Golden("t2v_transformer"), Golden("vae")
    config = t2v_config(weights.config)
    model, network = LatteT2V(config), AutoencoderKL(VAEConfig.from_dict(vae.config))
    model.load_state_dict(t2v_state(weights.weights, config))
    network.load_state_dict(vae_state(vae.weights))
    return LattePipeline(model, VideoVAE(network.eval()))


def latents(pipe, golden, steps=30, **options):
    given = {name: golden.inputs[name] for name in ("prompt_embeds", "negative_prompt_embeds", "latents")}
    return pipe(**given, num_inference_steps=steps, progress=False, **{"output_type": "latent", **options}).frames


def test_recorded_values_with_and_without_pab(pipe, golden):
    plain = latents(pipe, golden)
    assert relative_error(plain, golden.outputs["latent"]) < 1e-4
    assert relative_error(latents(pipe, golden, output_type="pt"), golden.outputs["frames"]) < 1e-4
    pipe.enable_pyramid_attention_broadcast(2, 3, 6, cross_attn_timestep_range=(100, 850))
    assert relative_error(latents(pipe, golden), golden.outputs["latent_pab"]) < 1e-4
    pipe.disable_pyramid_attention_broadcast()
    assert torch.equal(latents(pipe, golden), plain)


@pytest.mark.parametrize("after_gate", [False, True])
def test_ranges_of_one_change_no_bit(pipe, golden, after_gate):
    plain = latents(pipe, golden, steps=8)
    rules = dict.fromkeys(KINDS, Broadcast(1))
    with pyramid_attention_broadcast(pipe.transformer, rules, after_gate=after_gate) as state:
        latents(pipe, golden, steps=1)
        assert state.count == 0 and not state.cache.kept  # and nothing is cached
    pipe.enable_pyramid_attention_broadcast(1, 1, 1, 1, after_gate=after_gate)
    assert torch.equal(latents(pipe, golden, steps=8), plain)


@pytest.mark.parametrize("after_gate", [False, True])
def test_a_window_without_timesteps_changes_nothing(pipe, golden, after_gate):
    """Every layer is wrapped, but cached outputs are never used."""
    kept = []
    with fast_paths(False):
        plain = latents(pipe, golden, steps=8)
    rules = {kind: Broadcast(2, (990, 999)) for kind in KINDS}
    with pyramid_attention_broadcast(pipe.transformer, rules, after_gate=after_gate) as state:
        look = lambda *_: kept.append(len(state.cache.kept))
        assert torch.equal(latents(pipe, golden, steps=8, callback_on_step_end=look), plain)
    layers = [layer for layer in pipe.transformer.modules() if getattr(layer, "kind", None) in rules]
    assert kept == [len(layers)] * 8


@pytest.mark.parametrize("after_gate", [False, True])
def test_where_guidance_begins_or_ends_nothing_is_taken_again(pipe, golden, after_gate):
    some = {"steps": 8, "guidance_interval": (400, 700)}
    plain = latents(pipe, golden, **some)
    pipe.enable_pyramid_attention_broadcast(1, 1, 1, 1, after_gate=after_gate)
    assert torch.equal(latents(pipe, golden, **some), plain)
    pipe.enable_pyramid_attention_broadcast(2, 3, 6, after_gate=after_gate)
    reused = latents(pipe, golden, **some)
    assert reused.isfinite().all() and 1e-6 < relative_error(reused, plain) < 0.5


@pytest.mark.parametrize("kind", ["spatial_attn", "temporal_attn", "cross_attn", "mlp"])
def test_every_kind_range_and_window_has_an_effect(pipe, golden, kind):
    results = [latents(pipe, golden, steps=12)]
    for every, window in ((2, (100, 800)), (4, (100, 800)), (4, (300, 600))):
        pipe.enable_pyramid_attention_broadcast(**{f"{kind}_skip_range": every, f"{kind}_timestep_range": window})
        results.append(latents(pipe, golden, steps=12))
    differences = [relative_error(a, b) for i, a in enumerate(results) for b in results[:i]]
    assert min(differences) > 1e-6


def test_caching_before_and_after_the_gate_differs(pipe, golden):
    """The gate depends on t: before it, the current gate applies; after it, the stale one. Cross-attention has none."""
    results = []
    for after_gate in (False, True):
        pipe.enable_pyramid_attention_broadcast(3, after_gate=after_gate)
        results.append(latents(pipe, golden, steps=12))
    assert relative_error(*results) > 1e-5
    for after_gate in (False, True):
        pipe.enable_pyramid_attention_broadcast(cross_attn_skip_range=3, after_gate=after_gate)
        results.append(latents(pipe, golden, steps=12))
    assert torch.equal(results[2], results[3])


class Counting(torch.nn.Module):
    """Counts how often a layer really computes."""

    def __init__(self, layer, kind):
        super().__init__()
        self.layer, self.kind, self.calls = layer, kind, []

    def forward(self, *args):
        self.calls.append(len(self.calls))
        return self.layer(*args)


def counted(model):
    """Replace every layer of a model's blocks with a counting one: kind -> the layers of that kind."""
    found = {}
    for block in model.blocks:
        block.attns = torch.nn.ModuleList(Counting(attn, attn.kind) for attn in block.attns)
        block.mlp = Counting(block.mlp, "mlp")
        if block.cross is not None:
            block.cross = Counting(block.cross, "cross")
        for layer in (*block.attns, block.mlp, *([block.cross] if block.cross else [])):
            found.setdefault(layer.kind, []).append(layer)
    return found


@pytest.mark.parametrize("after_gate", [False, True])
def test_each_kind_computes_as_often_as_scheduled(pipe, golden, after_gate):
    """Temporal attention follows the temporal range: each layer declares its own kind."""
    layers = counted(pipe.transformer)
    for layer in [one for several in layers.values() for one in several]:
        layer.layer.kind = "counted"
    pipe.enable_pyramid_attention_broadcast(2, 3, 6, mlp_spans=Spans(first=2), after_gate=after_gate)
    latents(pipe, golden, steps=50)
    times = {kind: [len(layer.calls) for layer in several] for kind, several in layers.items()}
    assert times == {"spatial": [33] * 3, "temporal": [27] * 3, "cross": [22] * 3, "mlp": [40] * 2 + [50] * 4}


def test_no_state_survives_a_run(pipe, golden):
    names = set(pipe.transformer.state_dict())
    pipe.enable_pyramid_attention_broadcast(2, 3, 6, 2)
    first = latents(pipe, golden)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        latents(pipe, golden, callback_on_step_end=stop)
    assert "forward" not in vars(pipe.transformer.blocks[0].attns[0])
    assert torch.equal(latents(pipe, golden), first) and set(pipe.transformer.state_dict()) == names
    with pyramid_attention_broadcast(pipe.transformer, {"spatial": Broadcast(2)}) as run:
        latents(LattePipeline(**pipe.components), golden, steps=3)
        assert run.cache.kept
    assert not run.cache.kept and not pipe.transformer._forward_pre_hooks


def test_class_models_of_every_variant_support_broadcasting():
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=2, num_frames=4, num_classes=3)
    for variant in (1, 2, 3, 4):
        torch.manual_seed(0)
        model = Latte(LatteConfig(**{**vars(config), "variant": variant}))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        pipe = LattePipeline(model)
        make = lambda labels: pipe(labels, num_inference_steps=10, output_type="latent").frames  # noqa: B023
        plain = make([0, 1])
        pipe.enable_pyramid_attention_broadcast(2, 3)
        assert relative_error(make([0, 1]), plain) > 1e-6
        assert torch.equal(make([0, 1])[:1], make([0]))
        if variant == 4:
            with pytest.raises(ValueError, match="split heads share one gate"):
                pipe.enable_pyramid_attention_broadcast(2, after_gate=True)
        else:
            pipe.enable_pyramid_attention_broadcast(2, 3, after_gate=True)
            assert relative_error(make([0, 1]), plain) > 1e-6
        with pytest.raises(ValueError, match="no 'cross' layers to broadcast; it has spatial, temporal, mlp"):
            pipe.enable_pyramid_attention_broadcast(cross_attn_skip_range=2)


class Foreign:
    """A third-party pipeline, without a cache."""

    def __init__(self, transformer):
        self.transformer, self.current_timestep = transformer, None

    def __call__(self, x, text):
        for t in (900, 700, 500, 300):
            self.current_timestep = torch.tensor(t)
            x = x - self.transformer(x, torch.tensor([t]), text)[:, :, :4] / 10
        return x


class Adopted(PyramidAttentionBroadcastMixin, Foreign):
    """The same with the cache: its loop runs inside the context."""

    def __call__(self, x, text):
        with self.broadcasting():
            return super().__call__(x, text)


class Heir(Adopted):
    """A pipeline that inherits the cache."""


@pytest.mark.parametrize("kind", [Adopted, Heir])
def test_the_mixin_serves_other_pipelines(kind, pipe, golden):
    text, x = golden.inputs["prompt_embeds"], golden.inputs["latents"].transpose(1, 2)
    with torch.no_grad():
        plain, other = Foreign(pipe.transformer)(x, text), kind(pipe.transformer)
        assert torch.equal(other(x, text), plain)
        other.enable_pyramid_attention_broadcast(temporal_attn_skip_range=2)
        kept = other(x, text)
        assert relative_error(kept, plain) > 1e-6
        assert torch.equal(other(x, text), kept)
        other.disable_pyramid_attention_broadcast()
        assert torch.equal(other(x, text), plain)


class OneBlock(torch.nn.Module):
    """The smallest model it supports."""

    def __init__(self):
        super().__init__()
        self.block = Block(16, 2, "s", "adaln")
        torch.nn.init.normal_(self.block.modulation.linear.weight)

    def forward(self, x, t, c):
        return self.block(x, c)


@pytest.mark.parametrize("after_gate", [False, True])
def test_a_reused_output_is_added_with_the_right_gate(after_gate):
    """Written out: cached before the gate, the current gate times the old output; after it, the old product."""
    torch.manual_seed(0)
    model = OneBlock()
    block = model.block
    (x, z), (c, d) = torch.randn(2, 1, 3, 4, 16), torch.randn(2, 1, 1, 16)
    with torch.no_grad():
        ((shift, scale, gate), _), ((_, _, new_gate), mlp) = block.modulation(c), block.modulation(d)
        middle = z + (gate if after_gate else new_gate) * block.attns[0](modulate(x, shift, scale))
        expected = middle + block.branch(block.mlp, middle, mlp)
        with pyramid_attention_broadcast(model, {"spatial": Broadcast(2)}, after_gate=after_gate):
            model(x, torch.tensor([700]), c)
            again = model(z, torch.tensor([600]), d)
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)


def test_pab_works_with_torch_compile(pipe, golden):
    pipe.enable_pyramid_attention_broadcast(2, 3, 6, 2)
    plain = latents(pipe, golden, steps=5)
    pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    assert relative_error(latents(pipe, golden, steps=5), plain) < 1e-5


@pytest.mark.parametrize(
    ("options", "say"),
    [
        ({}, "nothing to broadcast"),
        ({"spatial_attn_skip_range": 0}, "skip_range is 0"),
        ({"spatial_attn_skip_range": 2.5}, "skip_range is 2.5"),
        ({"mlp_skip_range": 2, "mlp_timestep_range": (800, 100)}, "timestep range is"),
        ({"mlp_skip_range": 2, "mlp_timestep_range": (1, 2, 3)}, "timestep range is"),
        ({"mlp_skip_range": 2, "mlp_timestep_range": 100}, "timestep range is"),
        ({"mlp_skip_range": 2, "mlp_spans": Spans()}, "not both"),
        ({"mlp_skip_range": 2, "cross_attn_timestep_range": (1, 9)}, "nothing without cross_attn_skip_range"),
        ({"mlp_spans": Spans(), "mlp_timestep_range": (1, 9)}, "nothing without mlp_skip_range"),
    ],
)
def test_wrong_ranges_are_rejected(pipe, options, say):
    with pytest.raises(ValueError, match=say):
        pipe.enable_pyramid_attention_broadcast(**options)
