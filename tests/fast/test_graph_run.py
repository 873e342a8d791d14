"""Steps recorded once and replayed are bit-identical to computed steps, whatever a plan reuses."""

import weakref

import pytest
import torch
from recorded_graph import record
from small_latte import X, draw, text_model, warm

from latte.fast import fast_run
from latte.fast.fast_run import FastRun
from latte.fast.graph_run import GraphRun
from latte.fast.static_cache import StaticCache
from latte.plans.layer_cache import LayerCache
from latte.plans.records import Evaluation, Plan, Reuse, Threshold, exact_plan
from latte.plans.tracks import holding_blocks

TIMES = [900, 700, 500, 300, 200, 100, 50]
AGAIN, LINE = Reuse(), Reuse((2.0, -1.0))


def plan(*reuses, branches="both"):
    """One evaluation per mapping of what it reuses."""
    branches = [branches] * len(reuses) if isinstance(branches, str) else branches
    return Plan(tuple(Evaluation(t, reuse, branch) for t, reuse, branch in zip(TIMES, reuses, branches)))


BOTH_FIRST = ["both", "both"] + ["conditional"] * 3
BOTH_LATER = ["conditional"] * 2 + ["both"] * 2 + ["conditional"] * 2
PLANS = {
    "exact": exact_plan(TIMES),
    "guidance inside an interval": exact_plan(TIMES, (200, 700)),
    "broadcast": plan({}, {"spatial": AGAIN}, {"temporal": AGAIN}, {"spatial": AGAIN}, {}, {"mlp": AGAIN}),
    "along a line": plan({}, {}, {"mlp": LINE}, {}, {"mlp": LINE}, {}, {"mlp": LINE}),
    "from the first output on": plan({}, {"spatial": LINE}, {}, {"spatial": LINE}),
    "blocks": plan({}, {"block": Reuse(places=frozenset({0}))}, {}, {"block": LINE}, {}, {"block": AGAIN}),
    "network": plan({}, {"network": AGAIN}, {}, {"network": LINE}, {"network": AGAIN}),
    "halves": plan({}, {"mlp": AGAIN}, {"mlp": AGAIN}, {}, {"mlp": AGAIN}, branches=BOTH_FIRST),
    "later both": plan({}, {"mlp": AGAIN}, {}, {"mlp": AGAIN}, {}, {"mlp": AGAIN},
                       branches=BOTH_LATER),
}  # fmt: skip


def condition_of(model, the_plan):
    times = the_plan.times(torch.device("cpu"))
    if hasattr(model, "text_condition"):
        return model.text_condition(times, draw(9, 2, 4, 8), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]))
    count = len(times)
    embeddings = model.condition(times.repeat_interleave(2), torch.tensor([1, 5]).repeat(count))
    return model.class_condition(embeddings)


CASES = [("text", name, 1 << 25) for name in PLANS]
CASES += [(kind, "along a line", tabled) for kind in ("class", "tokens") for tabled in (0, 1 << 25)]


@pytest.mark.parametrize(("kind", "name", "tabled"), CASES)
def test_replayed_steps_are_bit_identical(kind, name, tabled, monkeypatch):
    monkeypatch.setattr(fast_run, "MOST_TABLED", tabled)
    make = {"text": text_model, "class": warm, "tokens": lambda: warm(conditioning="tokens")}[kind]
    the_plan, captured = PLANS[name], []
    with torch.no_grad():
        model = make()
        condition = condition_of(model, the_plan)
        plain = FastRun(model, condition, len(the_plan), LayerCache(the_plan, holding_blocks(model)))
        graphs = GraphRun(model, condition, the_plan, capture=lambda f: captured.append(f) or record(f))
        outs = []
        for k, evaluation in enumerate(the_plan.evaluations):
            halves = 2 if evaluation.branch == "both" else 1
            x = draw(k, *X[:1].shape)
            outs.append((graphs(x, k, halves), plain(x.clone(), k, halves)))
        assert all(torch.equal(ours, wanted) for ours, wanted in outs)  # and no later step overwrote any
    kinds = len({graphs.cache.kind(k) for k in range(len(the_plan))})
    assert len(captured) == kinds + 2 * (name == "later both")  # slots grow there: two kinds are recorded again


def test_a_run_is_freed_at_once():
    """Its graphs hold much memory, so it must not wait for the garbage collector."""
    with torch.no_grad():
        model = text_model()
        run = GraphRun(model, condition_of(model, PLANS["exact"]), PLANS["exact"])
    alive = weakref.ref(run)
    del run
    assert alive() is None


def test_new_text_takes_effect():
    the_plan, model = exact_plan(TIMES[:5]), text_model()
    times, x, captured = the_plan.times(torch.device("cpu")), draw(1, *X[:1].shape), []
    with torch.no_grad():
        text = lambda seed, length: model.text_condition(times, draw(seed, 2, length, 8), None)
        graphs = GraphRun(model, text(1, 4), the_plan, capture=lambda f: captured.append(f) or record(f))
        plain = FastRun(model, text(1, 4), 5)
        for k, seed, length in ((0, 1, 4), (1, 1, 4), (2, 2, 4), (3, 3, 6), (4, 4, 6)):
            for run in (graphs, plain):
                run.replace_text(text(seed, length))
            assert torch.equal(graphs(x, k, 2), plain(x.clone(), k, 2))
    assert len(captured) == 2


def test_data_dependent_plans_are_rejected():
    tested = plan({}, {"network": Reuse(threshold=Threshold(0.1))})
    with pytest.raises(ValueError, match="depends on the data"):
        StaticCache(tested, {}, [("network", 0)])


def test_kinds_of_step_are_few():
    alternating = plan({}, {"mlp": AGAIN}, {}, {"mlp": AGAIN}, {}, {"mlp": AGAIN}, {})
    cache = StaticCache(alternating, {("mlp", i): i for i in range(3)}, [("mlp", i) for i in range(3)])
    assert len({cache.kind(k) for k in range(6)}) == 2
