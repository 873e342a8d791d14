"""What a calibration tries: the plans of its ways, worked out by hand."""

import pytest

from latte.eval.reuse_ways import ATTENTION, Way, mixes_of, ways_of
from latte.models.latte import LatteConfig
from latte.plans.cost import network_cost
from latte.plans.records import Reuse, exact_plan
from latte.plans.rules import repeat
from latte.plans.tracks import Tracks

PLAN = exact_plan(range(900, 100, -100))
COST = network_cost(LatteConfig(depth=6, hidden_size=16, num_heads=2, input_size=4, num_frames=3), 3, 4, 4)


def test_the_ways_of_a_model():
    """Blocks are reused only between the first and the last one; a model of two blocks has none."""
    names = [str(way) for way in ways_of(COST)]
    first = ["network", "clean", "spatial + temporal + cross"]
    assert names[:9] == [f"{kinds}, order {order}" for kinds in first for order in (0, 1, 2)]
    others = ["mlp", "spatial + temporal + cross + mlp", "block 1 to 4"]
    assert names[9:] == [f"{kinds}, order {order}" for kinds in others for order in (0, 1)]
    small = network_cost(LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=4, num_frames=3), 3, 4, 4)
    assert not any("block" in way.kinds for way in ways_of(small))
    assert not Way(("cross",), 0).usable(COST) and not Way(("clean",), 0, ("cross",)).usable(COST)


def test_one_kind_is_repeated_as_by_the_rule():
    assert Way(("network",), 1).plan(PLAN, [0, 1, 4]) == repeat(PLAN, {0, 1, 4}, "network", 1)
    both = repeat(repeat(PLAN, {0, 4}, "mlp"), {0, 4}, "spatial")
    assert Way(("mlp", "spatial"), 0).plan(PLAN, [0, 4]) == both


def test_a_mix_reuses_layers_in_every_other_computed_evaluation():
    plan = Way(("clean",), 1, ("mlp",)).plan(PLAN, [0, 1, 3, 5, 6])
    assert [sorted(each.reuse) for each in plan.evaluations] == [
        [], ["mlp"], ["clean"], [], ["clean"], ["mlp"], [], ["clean"]
    ]  # fmt: skip
    assert plan[1].reuse["mlp"] == Reuse() and plan[2].reuse["clean"] == Reuse((2.0, -1.0))
    assert plan[5].reuse["mlp"].weights == pytest.approx((1 + 2 / 3, -2 / 3))  # from t = 900 and 600 to 400
    computed = Tracks(plan, COST.holds)
    assert [computed["mlp", 0].computes(k) for k in range(8)] == [True, False, False, True, False, False, True, False]
    assert [computed["spatial", 0].computes(k) for k in range(8)] == [k in (0, 1, 3, 5, 6) for k in range(8)]


def test_what_a_mix_computes_on_average():
    """The shares add up to the FLOPs of a plan with an even number of computed evaluations, all of both halves."""
    for mix in mixes_of(Way(("clean",), 0), COST):
        plan = mix.plan(PLAN, [0, 2, 4, 6])
        assert sum(COST.of_plan(plan)) == pytest.approx(8 * COST.total * mix.computed_share(COST))
    assert Way(("clean",), 0).computed_share(COST) == 1
    assert [mix.within for mix in mixes_of(Way(("clean",), 0), COST)] == [ATTENTION, ("mlp",), (*ATTENTION, "mlp")]


def test_only_some_blocks_are_reused():
    plan = Way(("block",), 0, places=frozenset({1, 2})).plan(PLAN, [0, 4])
    assert plan[0].reuse == {} and plan[1].reuse == {"block": Reuse(places=frozenset({1, 2}))}
    tracks = Tracks(plan, COST.holds)
    assert tracks["block", 0].computes(1) and not tracks["block", 1].computes(1) and tracks["block", 3].computes(1)
