"""Plans judged by the time of their evaluations: the times are tables, written by hand."""

import pytest
from awake_models import awake_pipeline

from latte.eval import calibration
from latte.eval.calibration import Calibration, describe
from latte.eval.replay import Replay
from latte.eval.reuse_ways import Way
from latte.eval.step_times import StepTimes, evaluation_kinds
from latte.models.latte import LatteConfig
from latte.plans.cost import network_cost
from latte.plans.records import Plan, exact_plan
from latte.plans.rules import gate_guidance, repeat

PLAN = exact_plan(range(900, 100, -100))
COST = network_cost(LatteConfig(depth=4, hidden_size=16, num_heads=2, input_size=4, num_frames=3), 3, 4, 4)


@pytest.fixture(scope="module")
def replay():
    return Replay(awake_pipeline(3), [0, 1], 6)


def seconds(plan: Plan, whole: float) -> list[float]:
    """Layers take as long to reuse as to compute; a reused network takes the share `whole` of its time."""
    times = {"network": whole, "clean": 0.0}
    return [next((times[kind] for kind in each.reuse if kind in times), 1.0) for each in plan.evaluations]


def timed(replay: Replay, budget: float, whole: float) -> Calibration:
    found = Calibration(replay, budget, clock=lambda: 0.0)
    found.times = StepTimes(found.cost, lambda plan: seconds(plan, whole))
    return found


def test_evaluations_of_a_kind_do_the_same_work():
    """In the first plan, 0 and 2 compute and are kept, 6 and 7 compute only, and the others reuse."""
    kinds = evaluation_kinds(repeat(PLAN, {0, 2, 6, 7}, "network", 1), COST)
    assert kinds[0] == kinds[2] and kinds[1] == kinds[3] == kinds[4] == kinds[5]
    assert kinds[6] == kinds[7] == evaluation_kinds(PLAN, COST)[0] and len(set(kinds)) == 3
    others = [repeat(PLAN, {0, 2, 6}, kind, order) for kind in ("network", "mlp", "clean") for order in (0, 1)]
    others += [gate_guidance(others[0], 3), gate_guidance(PLAN, 3)]
    assert len({evaluation_kinds(plan, COST)[5] for plan in others}) == len(others)


def test_each_kind_is_timed_until_there_are_enough_times():
    """The median of three or more; kinds that are known are not timed again."""
    plan, calls = repeat(PLAN, {0, 4}, "network"), []

    def seconds_of(plan: Plan) -> list[float]:
        calls.append(plan)
        return [10.0 * len(calls), 1.0, 2.0, 3.0, 40.0, 5.0, 6.0, 7.0]

    times = StepTimes(COST, seconds_of)
    assert times.of_plan(plan) == [30.0, 4.0, 4.0, 4.0, 30.0, 4.0, 4.0, 4.0] and calls == [plan] * 2
    assert times.of_plan(repeat(PLAN, {0, 3}, "network"))[3] == 30.0 and len(calls) == 2


def test_the_table_decides_how_much_is_computed(replay):
    """Of 6 evaluations, c are computed: (c + (6 - c) / 2) / 6 is 0.75 for c = 3, and c / 6 is 0.75 for c = 4.5."""
    way = Way(("network",), 0)
    computed = lambda plan: sum(not each.reuse for each in plan.evaluations)
    assert computed(timed(replay, 0.75, 0.0).even(way)) == 4
    assert computed(timed(replay, 0.75, 0.5).even(way)) == 3
    assert timed(replay, 0.75, 0.8).even(way) is None
    assert Calibration(replay, 0.75).even(Way(("mlp",), 0)) is not None
    assert timed(replay, 0.75, 0.0).even(Way(("mlp",), 0)) is None


def test_the_table_decides_what_is_reused(replay, monkeypatch):
    """Layers are reused with a budget of FLOPs, but not where this saves no time."""
    monkeypatch.setattr(calibration, "STARTS", 2)
    monkeypatch.setattr(calibration, "LENGTHS", (2,))
    flops, times = list(Calibration(replay, 0.75).search()), list(timed(replay, 0.75, 0.5).search())
    layers = lambda found: [each for each in found if each.name.startswith(("spatial", "mlp"))]
    assert layers(flops) and not layers(times)
    assert all(each.time is None for each in flops) and all(each.time <= 0.75 for each in times)
    assert times == list(timed(replay, 0.75, 0.5).search())  # nothing but the table decides
    best = times[-1]
    assert str(best).startswith(f"{best.name}: {1 / best.time:.2f} times as fast, {1 / best.share:.2f} times fewer")
    about = [describe(found[-1], replay, [0, 1], 0) for found in (flops, times)]
    assert [each["cost"] for each in about] == ["flops", "time"]
    assert about[1]["share_of_time"] == round(best.time, 4) and "share_of_time" not in about[0]


def test_evaluations_are_timed_by_the_clock(replay):
    """A clock that a second passes on between two calls."""
    calls = iter(range(100))
    assert replay.seconds_of(replay.exact, lambda: next(calls)) == [1.0] * 6 and next(calls) == 7
