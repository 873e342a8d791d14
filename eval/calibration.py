"""Search for a plan of a model: which steps to compute, what to reuse in the others, and when guidance is gated.

Everything is measured on the final videos of a few prompts or classes, against those of the exact plan.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from latte.eval.fidelity import psnr
from latte.eval.replay import Replay
from latte.eval.reuse_ways import USUAL, WHOLE, Way, mixes_of, ways_of
from latte.eval.step_times import StepTimes
from latte.plans.cost import Cost, network_cost
from latte.plans.records import Plan
from latte.plans.rules import evenly, gate_guidance
from latte.plans.search import best_path, between

LENGTHS = (2, 4, 8)  # of the gaps that are measured
STARTS = 8  # how many gaps of each length
GATES = (0.15, 0.3, 0.45, 0.6, 0.8)  # fractions of the guided evaluations after which guidance is gated


@dataclass(frozen=True)
class Found:
    """A plan and its measurements.

    Attributes:
        name: How it was made.
        plan: The plan.
        share: Its share of the exact plan's FLOPs.
        psnr: PSNR to the exact videos, in dB: the mean over videos of the mean over frames.
        time: Its share of the exact plan's time, if the budget is one of time.
    """

    name: str
    plan: Plan
    share: float
    psnr: float
    time: float | None = None

    def __str__(self) -> str:
        faster = "" if self.time is None else f"{1 / self.time:.2f} times as fast, "
        return f"{self.name}: {faster}{1 / self.share:.2f} times fewer FLOPs, PSNR {self.psnr:.2f} dB"


class Calibration:
    """A search under a budget.

    Args:
        replay: The videos.
        share: The share of the exact plan's FLOPs, or time, that the plan may take, above 0 and up to 1.
        clock: The budget is one of time, which this clock measures in seconds. None: it is one of FLOPs.

    Raises:
        ValueError: The share is out of range.
    """

    def __init__(self, replay: Replay, share: float, clock: Callable[[], float] | None = None):
        self.unit = "FLOPs" if clock is None else "time"
        if not 0 < share <= 1:
            raise ValueError(
                f"the budget is {share:g}; it must be a share of the exact {self.unit}, above 0 and up to 1"
            )
        self.replay, self.share, self.exact = replay, share, replay.exact
        self.cost = cost_of(replay)
        self.times = None if clock is None else StepTimes(self.cost, partial(replay.seconds_of, clock=clock))

    def part(self, plan: Plan) -> float:
        """What a plan takes, as a share of what the exact plan takes."""
        return part_of(self.times or self.cost, plan, self.exact)

    def measured(self, name: str, plan: Plan) -> Found:
        """Sample along a plan, and compare."""
        videos = self.replay.decode(self.replay.sample(plan))
        time = None if self.times is None else self.part(plan)
        return Found(name, plan, part_of(self.cost, plan, self.exact), psnr(videos, self.replay.videos), time)

    def even(self, way: Way) -> Plan | None:
        """The plan of a way with as many evenly spread evaluations as the budget allows; None if it allows none."""
        if self.times is not None:  # from a plan that holds many evaluations of each kind
            self.times.of_plan(way.plan(self.exact, evenly(-(-len(self.exact) // 2), len(self.exact))))
        plans = (way.plan(self.exact, evenly(count, len(self.exact))) for count in range(len(self.exact), 0, -1))
        return next((plan for plan in plans if self.part(plan) <= self.share), None)

    def search(self) -> Iterator[Found]:
        """Yield every plan that is tried, as it is measured, and the best of them again at the end.

        First each way with even steps; then the best way that leaves no layer to compute, mixed with reuse of layers;
        then the best of the usual ways and the best of all, and the best mix, with the steps whose worst error is
        least; then these ways with guidance gated, and more steps in exchange.
        """
        tried: dict[Way, Found] = {}
        yield from self.evens(ways_of(self.cost), tried)
        if not tried:
            raise ValueError(f"no plan takes {self.share:g} of the exact {self.unit} or less: allow more")
        mixes: dict[Way, Found] = {}
        if (outer := best_of(tried, [way for way in tried if way.kinds[0] in WHOLE])) is not None:
            yield from self.evens(mixes_of(outer, self.cost), mixes)
        found = [*tried.values(), *mixes.values()]
        usual = best_of(tried, [way for way in tried if way.kinds in USUAL])
        for way in {way: None for way in (usual, best_of(tried, tried)) if way is not None}:
            errors = between(dict(self.edges(way)), len(self.exact))
            choices = [(way, *gate) for gate in self.gated()]
            if way == outer and (mix := best_of(mixes, mixes)) is not None:
                choices.append((mix, *next(self.gated())))
            for each, name, guided in choices:
                plan = self.chosen(each, guided, errors)
                if plan is not None:
                    found.append(self.measured(f"{each}, chosen steps{name}", plan))
                    yield found[-1]
        yield max(found, key=lambda each: each.psnr)

    def evens(self, ways: Sequence[Way], found: dict[Way, Found]) -> Iterator[Found]:
        """Yield the plan of each way with even steps, if the budget allows one, and add it to those found."""
        for way, plan in [(way, self.even(way)) for way in ways]:
            if plan is not None:
                found[way] = self.measured(f"{way}, even steps", plan)
                yield found[way]

    def edges(self, way: Way) -> Iterator[tuple[tuple[int, int], float]]:
        """Measured errors of gaps (i, j): evaluation i is computed, those up to j - 1 reuse it, the rest are computed.

        For extrapolation, the earlier outputs lie one gap length apart before i.
        """
        end = len(self.exact)
        for length in (length for length in LENGTHS if length < end):
            starts = sorted({min(max(i, 1), end - length) for i in evenly(min(STARTS, end - length), end - length + 1)})
            for i in starts:
                known = {max(i - m * length, 0) for m in range(way.order + 1)}
                plan = way.plan(self.exact, sorted({*known, *range(i + length, end)}))
                latents = self.replay.sample(plan, start=i + 1, before=known)
                yield (i, i + length), self.replay.error(latents)

    def gated(self) -> Iterator[tuple[str, Callable[[Plan], Plan]]]:
        """Descriptions, and functions that gate a plan's guidance after some of the guided evaluations."""
        yield "", lambda plan: plan
        guided = [k for k, evaluation in enumerate(self.exact.evaluations) if evaluation.branch == "both"]
        shares = GATES if len(guided) > 2 else ()
        for after in dict.fromkeys(guided[round(share * (len(guided) - 1))] for share in shares):
            yield f", guidance gated from evaluation {after}", lambda plan, k=after: gate_guidance(plan, max(k, 1))

    def chosen(self, way: Way, gate: Callable[[Plan], Plan], errors: dict[tuple[int, int], float]) -> Plan | None:
        """The plan within the budget whose worst error is least; None if there is none."""
        evaluations = gate(self.exact).evaluations
        halves = [each.halves if self.cost.weaker is None else 1 for each in evaluations]  # of the network itself
        whole = sum(self.cost.of_plan(self.exact)) / self.cost.total
        most = round(self.share * whole / way.computed_share(self.cost))
        for budget in range(min(sum(halves), most), 0, -1):
            try:
                plan = gate(way.plan(self.exact, best_path(errors, halves, budget)))
            except ValueError:
                return None
            if self.part(plan) <= self.share:
                return plan
        return None


def part_of(costs: Cost | StepTimes, plan: Plan, exact: Plan) -> float:
    """The cost of a plan, as a share of the exact plan's."""
    return sum(costs.of_plan(plan)) / sum(costs.of_plan(exact))


def best_of(found: Mapping[Way, Found], ways: Iterable[Way]) -> Way | None:
    """The way whose plan has the highest PSNR; None if there is no way."""
    return max(ways, key=lambda way: found[way].psnr, default=None)


def cost_of(replay: Replay) -> Cost:
    """The cost of the network that made the replayed videos."""
    _, frames, _, h, w = replay.latents.shape
    text = replay.request.prompt_embeds
    tokens = 120 if text is None else text.prompt.shape[1]
    weaker = getattr(replay.pipe.weaker, "config", None)
    return network_cost(replay.pipe.transformer.config, frames, h, w, tokens, weaker)


def describe(found: Found, replay: Replay, labels: Sequence[int | str] | int, seed: int) -> dict:
    """The record of a calibrated plan, for its file."""
    guidance = replay.guidance.settings
    return {
        "made": found.name,
        "cost": "flops" if found.time is None else "time",
        "share_of_flops": round(found.share, 4),
        **({} if found.time is None else {"share_of_time": round(found.time, 4)}),
        "psnr": round(found.psnr, 2),
        "videos": list(labels) if not isinstance(labels, int) else labels,
        "seed": seed,
        "sampler": replay.call.scheduler.sampler,
        **{name: guidance[name] for name in ("guidance_scale", "autoguidance_scale") if name in guidance},
        **({} if replay.pipe.weaker is None else {"autoguidance": replay.pipe.weaker_record()}),
    }
