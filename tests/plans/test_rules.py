"""Rules and searches that make plans: schedules worked out by hand, and figures counted independently."""

from itertools import combinations

import pytest
import torch

from latte.diffusion.guidance import scale_bands
from latte.models.latte import LatteConfig
from latte.models.latte_t2v_config import LatteT2VConfig
from latte.pab import Broadcast, Spans, broadcast_plan
from latte.plans.cost import network_cost
from latte.plans.records import Evaluation, Plan, Reuse, Threshold, exact_plan, fitted
from latte.plans.rules import evenly, extrapolation, faster_cache, gate_guidance, repeat, repeat_blocks, tea_cache
from latte.plans.search import best_path, between
from latte.plans.tracks import Tracks

DDIM_50 = exact_plan(range(980, -1, -20))


def timesteps(plan, kind):
    """The timesteps at which a kind is reused."""
    return [evaluation.timestep for evaluation in plan.evaluations if kind in evaluation.reuse]


def test_steps_that_are_spread_evenly():
    assert evenly(5, 9) == [0, 2, 4, 6, 8] and evenly(9, 9) == list(range(9)) and evenly(1, 9) == [0]
    assert len(set(evenly(17, 50))) == 17 and evenly(17, 50)[-1] == 49
    with pytest.raises(ValueError, match="computed evaluations is 10; it must be from 1 to 9"):
        evenly(10, 9)


def test_taylor_extrapolation_weights():
    """At unit distance: f + f' h + f'' h^2 / 2 with backward differences; exact for a line at any distance."""
    assert extrapolation([5.0, 4.0], 6.0, 0) == (1.0,)
    assert extrapolation([5.0, 4.0], 7.0, 1) == (3.0, -2.0)
    assert extrapolation([3.0, 2.0, 1.0], 5.0, 2) == (1 + 2 + 2, -2 - 4, 2)
    assert extrapolation([3.0, 1.0], 4.0, 1, share=0.5) == (1.25, -0.25)
    assert extrapolation([3.0], 4.0, 2) == (1.0,)
    nodes, line = [500.0, 560.0, 700.0], lambda t: 3 * t - 7
    for order in (1, 2):
        weights = extrapolation(nodes, 420.0, order)
        assert sum(w * line(t) for w, t in zip(weights, nodes)) == pytest.approx(line(420.0))


def test_a_fixed_schedule_of_computed_steps():
    plan = repeat(exact_plan([900, 800, 700, 600, 500]), {0, 1, 3}, "network", 1)
    assert [evaluation.reuse.get("network") for evaluation in plan.evaluations] == [
        None, None, Reuse((2.0, -1.0)), None, Reuse((1.5, -0.5))
    ]  # fmt: skip
    assert timesteps(repeat(DDIM_50, 17), "network") == [
        t for k, t in enumerate(range(980, -1, -20)) if k not in evenly(17, 50)
    ]
    with pytest.raises(ValueError, match="there is no evaluation 7 to compute: the plan has 5"):
        repeat(plan, {0, 7})


def test_a_repeated_timestep_is_extrapolated_from_its_last_value():
    plan = repeat(exact_plan([900, 800, 800, 700]), {0, 1, 2}, "network", 1)
    assert plan[3].reuse["network"].weights == (1.0,)


def test_blocks_in_a_window():
    plan = repeat_blocks(DDIM_50, (500, 700), 3, {1})
    assert timesteps(plan, "block") == [660, 640, 600, 580, 540, 520]
    assert plan[17].reuse["block"] == Reuse(places=frozenset({1}))


def test_faster_cache_matches_its_published_schedule():
    """Counted from 1: attention at even n from 16; guidance from 18, except every fifth; see the specification."""
    plan = faster_cache(DDIM_50)
    numbered = dict(enumerate(plan.evaluations, 1))
    assert [n for n in numbered if "spatial" in numbered[n].reuse] == list(range(16, 51, 2))
    assert all(numbered[n].reuse["temporal"] == Reuse((1.5, -0.5)) for n in range(16, 51, 2))
    alone = [n for n in numbered if numbered[n].branch == "difference"]
    assert alone == [n for n in range(18, 50) if n % 5]
    bands = {n: numbered[n].bands for n in alone}
    assert bands[18] == (1.1, 1.0) and bands[19] == pytest.approx((1.21, 1.0)) and bands[21] == (1.1, 1.0)
    assert bands[44] == pytest.approx((1.1**4, 1.0)) and bands[46] == (1.0, 1.1)
    assert bands[49] == pytest.approx((1.0, 1.1**4))


def test_frequency_bands_match_faster_cache():
    """Shifted spectra and a mask around their centre, as FasterCache computes them."""
    torch.manual_seed(0)
    conditional, unconditional, later = torch.randn(3, 2, 3, 4, 10, 12)
    spectrum = lambda z: torch.fft.fftshift(torch.fft.fft2(z), dim=(-2, -1))
    y, x = torch.arange(10)[:, None], torch.arange(12)
    low = (x - 6) ** 2 + (y - 5) ** 2 <= 2**2
    change = spectrum(unconditional) - spectrum(conditional)
    rebuilt = spectrum(later) + 1.3 * change * low + 0.7 * change * ~low
    expected = torch.fft.ifft2(torch.fft.ifftshift(rebuilt, dim=(-2, -1))).real
    found = later - scale_bands(conditional - unconditional, 1.3, 0.7)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_tea_cache_always_computes_the_first_and_last_evaluation():
    plan = tea_cache(DDIM_50, 0.2)
    assert plan[0].reuse == plan[49].reuse == {} and all(plan[k].reuse["network"].threshold for k in range(1, 49))
    assert plan[1].reuse["network"].threshold.limit == 0.2


def track(plan, *layer):
    return Tracks(plan, {("mlp", 0): 0, ("mlp", 1): 1})[layer]


def test_kept_outputs_and_extrapolation_depth():
    plan = repeat(exact_plan(range(8)), {0, 1, 2, 4, 6}, "mlp", 1)
    found = track(plan, "mlp", 0)
    assert [found.computes(k) for k in range(8)] == [True, True, True, False, True, False, True, False]
    assert found.kept == (False, True, True, False, True, False, True, False) and found.depth == 2


def test_a_layer_inside_a_reused_one_is_skipped():
    """Its next reuse takes the output computed before that."""
    records = [{}, {"network": Reuse()}, {"mlp": Reuse()}, {"block": Reuse(places=frozenset({0}))}]
    plan = Plan(tuple(Evaluation(9 - k, reuse) for k, reuse in enumerate(records)))
    inner, other = track(plan, "mlp", 0), track(plan, "mlp", 1)
    assert inner.absent == (False, True, False, True) and other.absent == (False, True, False, False)
    assert inner.kept == (True, False, False, False) and other.computes(3)
    assert track(plan, "block", 0).made[3] == Reuse(places=frozenset({0})) and not track(plan, "block", 1).made[3]


def test_outputs_of_one_half_never_stand_for_both():
    plan = repeat(exact_plan([9, 8, 7, 6], (0, 7)), {0, 2}, "network")
    assert track(plan, "network", 0).made == (None, Reuse(), None, Reuse())
    plan = repeat(exact_plan([9, 8, 7, 6], (0, 7)), {0, 1}, "network", 1)
    assert [reuse is None for reuse in track(plan, "network", 0).made] == [True, True, True, False]
    assert track(plan, "network", 0).made[3] == Reuse((1.0,))


def test_processes_sharing_a_network_do_not_mix_halves():
    """One half does not reuse rows kept from both: they may belong to other videos."""
    plan = repeat(exact_plan([9, 8, 7, 6, 5], (7, 9)), {0}, "network")
    made = Tracks(plan, {}, same_halves=True)["network", 0].made
    assert made == (None, Reuse(), Reuse(), None, Reuse())


@pytest.mark.parametrize(
    ("records", "say"),
    [
        ([Evaluation(9, {"mlp": Reuse()})], "evaluation 0 of the plan reuses 'mlp', but nothing was computed"),
        ([Evaluation(9), Evaluation(8, {"hue": Reuse()})], "reuses 'hue', not one of spatial, temporal"),
        ([Evaluation(9, branch="half")], "branch is 'half', not one of both"),
        ([Evaluation(9, branch="difference")], "no earlier one computed them"),
        ([Evaluation(9), Evaluation(8, {"mlp": Reuse(())})], "reuses 'mlp' without weights"),
        ([Evaluation(9), Evaluation(8, {"mlp": Reuse(threshold=Threshold(1))})], "a threshold can only repeat"),
        (
            [Evaluation(9), Evaluation(8, {"network": Reuse(threshold=Threshold(1)), "mlp": Reuse()})],
            "with a threshold can only reuse the network",
        ),
    ],
)
def test_invalid_plans_are_rejected(records, say):
    with pytest.raises(ValueError, match=say):
        Plan(tuple(records))


def test_a_plan_is_fitted_to_the_guidance_of_a_call():
    plan = gate_guidance(repeat(exact_plan([9, 8, 7, 6]), {0, 2}), 2)
    made = fitted(plan, exact_plan([9, 8, 7, 6], (6.5, 10)))
    assert [evaluation.branch for evaluation in made.evaluations] == ["both", "both", "difference", "conditional"]
    assert made[1].reuse == plan[1].reuse
    with pytest.raises(ValueError, match="does not guide at timestep 6, but this call does"):
        fitted(made, exact_plan([9, 8, 7, 6]))


LATTE_1 = network_cost(LatteT2VConfig(num_layers=2), 16, 64, 64)


def test_flops_of_latte_1_match_independent_counts():
    """TFLOPs of a guided evaluation of all 28 + 28 blocks, scaled up from the two of each counted here."""
    of = lambda kind: 2 * 14 * sum(flops for (each, _), flops in LATTE_1.layers.items() if each == kind) / 1e12
    assert of("mlp") == pytest.approx(38.96, abs=0.01) and of("spatial") == pytest.approx(14.07, abs=0.01)
    assert of("temporal") == pytest.approx(9.81, abs=0.01)


def test_flops_of_plans_match_hand_computed_counts():
    """With ranges 2, 3 and 5, layers compute in 33, 27 and 23 of 50 evaluations; also whole evaluations and halves."""
    exact, of = sum(LATTE_1.of_plan(DDIM_50)), lambda plan: sum(LATTE_1.of_plan(plan))
    kinds = {kind: 2 * sum(f for (each, _), f in LATTE_1.layers.items() if each == kind) for kind in ("spatial", "temporal", "cross", "mlp")}  # fmt: skip  # noqa: E501
    assert exact == 100 * LATTE_1.total == 50 * (sum(kinds.values()) + 2 * (LATTE_1.rest + sum(LATTE_1.blocks)))
    plan = broadcast_plan(DDIM_50, {"spatial": Broadcast(2), "temporal": Broadcast(3), "cross": Broadcast(5)})
    assert exact - of(plan) == 17 * kinds["spatial"] + 23 * kinds["temporal"] + 27 * kinds["cross"]
    plan = broadcast_plan(DDIM_50, {"mlp": Spans(first=2)})
    assert exact - of(plan) == 10 * kinds["mlp"] / 2
    assert of(repeat(DDIM_50, 17)) == 17 * 2 * LATTE_1.total + 33 * 2 * LATTE_1.rest
    assert of(repeat(DDIM_50, 17, "clean")) == 17 * 2 * LATTE_1.total
    assert of(gate_guidance(DDIM_50, 25)) == 75 * LATTE_1.total
    assert of(tea_cache(DDIM_50)) == exact


def test_flops_match_the_networks_layers():
    config = LatteConfig(depth=4, hidden_size=16, num_heads=2, input_size=4, num_frames=3, num_classes=3)
    cost = network_cost(config, 3, 4, 4)
    assert cost.total == sum(cost.layers.values()) + sum(cost.blocks) + cost.rest
    tokens, d = 3 * 4, 16
    assert cost.layers["mlp", 0] == 2 * tokens * 8 * d * d
    assert cost.layers["spatial", 1] == 2 * tokens * 4 * d * d + 4 * tokens * 4 * d
    assert cost.layers["temporal", 1] == 2 * tokens * 4 * d * d + 4 * tokens * 3 * d
    assert set(cost.blocks) == {2 * d * 6 * d}


def test_best_path_matches_exhaustive_search():
    """Gaps sorted from the worst, compared lexicographically, over every choice of evaluations."""
    torch.manual_seed(0)
    n, costs = 8, [2, 2, 2, 2, 1, 1, 1, 1]
    errors = {(i, j): float(torch.rand(())) * (j - i) for i in range(n) for j in range(i + 2, min(i + 4, n) + 1)}
    for budget in (5, 6, 8, 12):
        rows = []
        for count in range(n):
            for rest in combinations(range(1, n), count):
                path = (0, *rest)
                gaps = [(i, j) for i, j in zip(path, (*path[1:], n)) if j > i + 1]
                if sum(costs[i] for i in path) <= budget and all(gap in errors for gap in gaps):
                    rows.append((tuple(sorted((errors[gap] for gap in gaps), reverse=True)), list(path)))
        assert best_path(errors, costs, budget) == min(rows)[1]
    with pytest.raises(ValueError, match="no plan costs 2 or less of 12"):
        best_path(errors, costs, 2)


def test_errors_are_interpolated_between_measurements():
    samples = {(1, 3): 1.0, (5, 7): 3.0, (1, 5): 4.0, (5, 9): 8.0}
    found = between(samples, 10)
    assert found[0, 2] == 1.0 and found[3, 5] == 2.0 and found[8, 10] == 3.0 and found[4, 8] == 7.0
    assert found[3, 6] == (2.0 + 6.0) / 2 and (0, 5) not in found
