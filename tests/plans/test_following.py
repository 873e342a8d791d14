"""Following plans: the fast form and the readable network agree with each other and with written-out results."""

import pytest
import torch
from awake_models import awake
from goldens import relative_error

from latte import LattePipeline
from latte.fast.switch import fast_paths
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.parallel.layout import Layout
from latte.parallel.sequence import attach
from latte.plans.layer_cache import ChangeWatch, LayerCache
from latte.plans.readable import following
from latte.plans.records import KINDS, Evaluation, Plan, Reuse, Threshold, exact_plan
from latte.plans.rules import faster_cache, gate_guidance, repeat, repeat_blocks, tea_cache
from latte.plans.tracks import holding_blocks

CLASSES = dict(depth=4, hidden_size=16, num_heads=2, input_size=4, num_frames=3, num_classes=3)
TEXT = dict(num_layers=2, num_attention_heads=2, attention_head_dim=8, caption_channels=6, sample_size=4,
            video_length=3)  # fmt: skip


def pipeline(kind):
    if kind == "text":
        return LattePipeline(awake(LatteT2V(LatteT2VConfig(**TEXT))))
    return LattePipeline(awake(Latte(LatteConfig(**CLASSES, variant=4 if kind == "split" else 1))))


def latents(pipe, **options):
    torch.manual_seed(3)
    text = {"prompt_embeds": torch.randn(2, 4, 6), "negative_prompt_embeds": torch.randn(2, 4, 6)}
    given = text if pipe.takes_prompts else {"class_labels": [0, 2]}
    options = {"num_inference_steps": 10, "batch_size": 2, "guidance_scale": 3.0, **options}
    return pipe(**given, seed=0, progress=False, output_type="latent", **options).frames


def with_plan(pipe, plan, fast=True, **options):
    pipe.enable_plan(plan)
    try:
        with fast_paths(fast):
            return latents(pipe, **options)
    finally:
        pipe.disable_plan()


def every_step(pipe, plan, fast, **options):
    """The latents after each step."""
    seen = []
    watch = lambda pipe, step, t, tensors: seen.append(tensors["latents"].clone())
    with_plan(pipe, plan, fast, callback_on_step_end=watch, **options)
    return seen


EVERY_OTHER = {0, 1, 3, 5, 7, 9}
RULES = {
    **{
        f"{kind}, order {order}": lambda plan, kind=kind, order=order: repeat(plan, EVERY_OTHER, kind, order)
        for kind in ("spatial", "temporal", "mlp", "block", "network", "clean")
        for order in (0, 1)
    },
    "places": lambda plan: Plan(
        tuple(
            evaluation.reusing(mlp=Reuse(places=frozenset({1, 2})), block=Reuse(places=frozenset({3}))) if k % 2 else
            evaluation for k, evaluation in enumerate(plan.evaluations)
        )
    ),
    "order 2": lambda plan: repeat(plan, {0, 1, 2, 5, 8}, "network", 2),
    "after the gate": lambda plan: Plan(repeat(plan, EVERY_OTHER, "spatial", 1).evaluations, after_gate=True),
    "gated": lambda plan: gate_guidance(plan, 4),
    "gated, few steps": lambda plan: gate_guidance(repeat(plan, EVERY_OTHER, "network", 1), 4),
    "blocks": lambda plan: repeat_blocks(plan, (150, 850), 2, {0, 2}),
    "FasterCache": faster_cache,
    "TeaCache": lambda plan: tea_cache(plan, 0.8, (1.0, 0.0)),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_the_fast_form_and_the_readable_network_agree(rule):
    for pipe in (pipeline("classes"), pipeline("text")):
        for options in ({}, {"guidance_interval": (400, 700)}):
            fast, slow = (with_plan(pipe, RULES[rule], fast, **options) for fast in (True, False))
            assert relative_error(fast, slow) < 1e-5 < relative_error(fast, latents(pipe, **options))


@pytest.mark.parametrize("kind", ["classes", "text", "split"])
def test_computing_everything_changes_no_bit(kind):
    """Both when everything is cached and when nothing is."""
    pipe = pipeline(kind)
    for fast in (True, False):
        with fast_paths(fast):
            plain = latents(pipe)
        assert torch.equal(with_plan(pipe, lambda plan: repeat(plan, len(plan)), fast), plain)
        kept = lambda plan: tea_cache(plan, 0.0, (1.0, 0.0))  # caches the network's output but never uses it
        assert torch.equal(with_plan(pipe, kept, fast), plain)


KEPT = {  # what has a fast form
    "classes": ("spatial", "temporal", "mlp", "block", "network", "clean"),
    "text": KINDS,
    "split": ("mlp", "block", "network", "clean"),
}


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(("model", "kind"), [(model, kind) for model, kinds in KEPT.items() for kind in kinds])
def test_keeping_outputs_changes_no_bit(model, kind, scale):
    """Until the last of ten evaluations, which takes the mean of all outputs before it.

    A text model that keeps layers does not share its first layer between the halves of guidance. So that layer's
    products have more rows; at this size, each row is rounded alike.
    """
    pipe, mean = pipeline(model), Reuse((1 / 9,) * 9)
    for fast in (True, False):
        plain = every_step(pipe, lambda plan: plan, fast, guidance_scale=scale)
        for gated in (False, True):
            keep = lambda plan, gated=gated: Plan((*plan.evaluations[:9], plan[9].reusing(**{kind: mean})), gated)
            *found, last = every_step(pipe, keep, fast, guidance_scale=scale)
            assert all(map(torch.equal, found, plain)) and not torch.equal(last, plain[9])


def test_split_head_models_follow_plans_in_both_forms():
    pipe = pipeline("split")
    for kind in ("spatial", "mlp", "block", "network"):
        made = [with_plan(pipe, lambda plan: repeat(plan, 5, kind), fast) for fast in (True, False)]  # noqa: B023
        assert relative_error(*made) < 1e-5 < relative_error(made[0], latents(pipe))


def conditions(network, times):
    """The network's condition at each time, for one video."""
    return [network.class_condition(network.condition(torch.tensor([t]), torch.tensor([1]))) for t in times]


def follow(network, plan, xs):
    """Outputs of the readable network for a sequence of inputs, following a plan."""
    cache, out = LayerCache(plan, holding_blocks(network)), []
    with torch.no_grad(), following(network, cache, plan.kinds):
        for k, x in enumerate(xs):
            cache.begin(k)
            out.append(network(x, torch.tensor([int(plan[k].timestep)]), torch.tensor([1])))
    return out


def test_reusing_the_network_matches_a_written_out_result():
    """The third input's tokens plus the blocks' two earlier contributions, extrapolated, under the third's norm."""
    network = pipeline("classes").transformer
    xs = torch.randn(3, 1, 3, 4, 4, 4)
    plan = Plan((Evaluation(700), Evaluation(600), Evaluation(500, {"network": Reuse((1.5, -0.5))})))
    with torch.no_grad():
        conds = conditions(network, (700, 600, 500))
        tokens = [network.embed(x, c) for x, c in zip(xs, conds)]
        added = [network.through_blocks(z, c, True) - z for z, c in zip(tokens[:2], conds)]
        expected = network.predict(tokens[2] + 1.5 * added[1] - 0.5 * added[0], conds[2], 2)
    torch.testing.assert_close(follow(network, plan, xs)[2], expected, atol=1e-5, rtol=1e-5)


def test_reusing_one_block_matches_a_written_out_result():
    """Block 2 adds to the second input's tokens what it added to the first's."""
    network = pipeline("classes").transformer
    x, y = torch.randn(2, 1, 3, 4, 4, 4)
    plan = Plan((Evaluation(700), Evaluation(600, {"block": Reuse(places=frozenset({2}))})))
    with torch.no_grad():
        (c, d), added = conditions(network, (700, 600)), None
        for z, condition in ((network.embed(x, c), c), (network.embed(y, d), d)):
            for i, block in enumerate(network.blocks):
                z = network.add_temporal_position(z) if i == network.first_temporal else z
                before, z = z, block(z, condition.blocks) if added is None or i != 2 else z + added
                added = z - before if added is None and i == 2 else added
        expected = network.predict(z, d, 2)
    torch.testing.assert_close(follow(network, plan, (x, y))[1], expected, atol=1e-5, rtol=1e-5)


def test_reusing_an_outer_layer_skips_its_inner_layers():
    network, calls = pipeline("classes").transformer, []
    network.blocks[1].mlp.fc1.register_forward_pre_hook(lambda *_: calls.append("mlp"))
    network.blocks[1].attns[0].qkv.register_forward_pre_hook(lambda *_: calls.append("attention"))
    x = torch.randn(1, 3, 4, 4, 4)
    records = ({}, {"network": Reuse()}, {"block": Reuse()}, {"mlp": Reuse()}, {"mlp": Reuse(), "network": Reuse()})
    follow(network, Plan(tuple(Evaluation(900 - 100 * k, reuse) for k, reuse in enumerate(records))), [x] * 5)
    assert calls == ["attention", "mlp", "attention"]


def test_the_change_threshold_matches_a_worked_example():
    """Changes of 10 %, each mapped to 0.2 by the polynomial: the third reaches the limit and restarts the sum."""
    watch, threshold, x = ChangeWatch(), Threshold(0.5, (1.0, 2.0, -0.01)), torch.ones(1, 2, 3, 4)
    found = []
    for k in range(8):
        watch.look(x * 1.1**k, threshold if k else None)
        found.append(watch.unchanged)
    assert found == [False, True, True, False, True, True, False, True]


def test_the_change_threshold_decides_what_is_computed():
    pipe = pipeline("classes")
    computed = lambda limit: with_plan(pipe, lambda plan: tea_cache(plan, limit, (1.0, 0.0)))
    ends = with_plan(pipe, lambda plan: repeat(plan, {0, 9}))
    assert torch.equal(computed(1e9), ends) and torch.equal(computed(0), latents(pipe))
    assert not torch.equal(computed(0.8), ends) and not torch.equal(computed(0.8), latents(pipe))


def test_guidance_along_a_cached_difference():
    """cond + (scale - 1) (cond - uncond), with the difference of the last evaluation that computed both."""
    from latte.diffusion.guidance_methods import GuidanceRule
    from latte.guided_denoiser import GuidedDenoiser

    outputs, sizes = torch.randn(5, 2, 3, 8, 4, 4), []

    def network(x, k, halves):
        sizes.append(halves)
        return outputs[k][:halves]

    plan = gate_guidance(exact_plan([900, 800, 700, 600, 500], (550, 1000)), 2)
    assert [evaluation.branch for evaluation in plan.evaluations] == [*["both"] * 2, *["difference"] * 2, "conditional"]
    denoise = GuidedDenoiser(network, plan, GuidanceRule([4.0] * 5, [0.5] * 5, flow=False))
    found = [denoise(torch.zeros(1, 3, 4, 4, 4), None) for _ in range(5)]
    noise = outputs[:, :, :, :4]
    difference = noise[1, 0] - noise[1, 1]
    for k in (2, 3):
        torch.testing.assert_close(found[k][0, :, :4], noise[k, 0] + 3 * difference)
        assert torch.equal(found[k][0, :, 4:], outputs[k, 0, :, 4:])
    torch.testing.assert_close(found[1][0, :, :4], noise[1, 1] + 4 * difference)
    assert torch.equal(found[4][0], outputs[4, 0]) and sizes == [2, 2, 1, 1, 1]


def test_mismatched_plans_are_rejected():
    pipe = pipeline("classes")
    detach = attach(pipe.transformer, [Layout()])
    with pytest.raises(ValueError, match="the plan reuses whole blocks, which several processes cannot do together"):
        with_plan(pipe, lambda plan: repeat_blocks(plan, (100, 800), 2))
    detach()
    plan = exact_plan([999, 0])
    with pytest.raises(ValueError, match=r"the plan is for 2 evaluations at 999 to 0, this call has 10 evaluations at"):
        with_plan(pipe, plan)
    pipe.enable_plan(plan)
    pipe.disable_plan()
    pipe.enable_pyramid_attention_broadcast(2)
    with pytest.raises(ValueError, match="disable it before enable_plan"):
        pipe.enable_plan(plan)
    pipe.disable_pyramid_attention_broadcast()
    with pytest.raises(
        ValueError, match="there is no plan 'slow': the model has no plans; `latte calibrate` makes one"
    ):
        pipe.enable_plan("slow")
