"""The plan of a sampling run: one record for each evaluation of the network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

LAYERS = ("spatial", "temporal", "cross", "mlp")  # kinds of layers in a block
KINDS = (*LAYERS, "block", "network", "clean")  # what may be reused, from the smallest to the largest
BRANCHES = ("both", "conditional", "difference")  # see Evaluation
NEVER = (1.0, 0.0)  # an interval of timesteps that holds none


@dataclass(frozen=True)
class Threshold:
    """A test of the data: an output is reused while the input has changed little since it was computed.

    The relative L1 change of the network's first modulated tokens, passed through a polynomial, adds up over the
    evaluations; the output is computed anew where the sum reaches the limit (TeaCache: Liu et al. 2024, arXiv
    2411.19108). To read the number, the processor waits for the GPU: one synchronisation an evaluation.

    Attributes:
        limit: Of the sum.
        polynomial: Its coefficients, the highest power first.
    """

    limit: float
    polynomial: tuple[float, ...] = (1.0, 0.0)


@dataclass(frozen=True)
class Reuse:
    """How an output is made of earlier ones: a weighted sum of those that were computed last, the newest first.

    Attributes:
        weights: (1,) repeats the last output; (1 + a, -a) extrapolates it along its last change.
        places: Which layers of the kind, by their order in the network; None, all of them.
        threshold: Reuse only where this test of the data allows it; for "network" alone.
    """

    weights: tuple[float, ...] = (1.0,)
    places: frozenset[int] | None = None
    threshold: Threshold | None = None

    def covers(self, place: int) -> bool:
        """Whether the layer with this place in the order of its kind is reused."""
        return self.places is None or place in self.places


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the network.

    Attributes:
        timestep: Its timestep.
        reuse: For each kind that does not compute, how its output is made. "spatial", "temporal", "cross" and "mlp" are
            layers, "block" is what a block adds to its tokens, "network" what all blocks add, and "clean" the clean
            latents that the evaluation predicts, guidance included: then nothing of the network is computed.
        branch: "both" halves of guidance; the "conditional" one alone, without guidance; or the conditional one, guided
            along the "difference" of both halves when they were computed last.
        bands: With "difference", the factors of its low and of its high spatial frequencies.
    """

    timestep: float
    reuse: Mapping[str, Reuse] = field(default_factory=dict)
    branch: str = "both"
    bands: tuple[float, float] = (1.0, 1.0)

    @property
    def halves(self) -> int:
        """How many halves of guidance pass the network."""
        return 2 if self.branch == "both" else 1

    def reused(self, kind: str, place: int = 0) -> Reuse | None:
        """How the output of a layer is to be made of earlier ones; None if it computes."""
        reuse = self.reuse.get(kind)
        return reuse if reuse is not None and reuse.covers(place) else None

    def reusing(self, **kinds: Reuse) -> "Evaluation":
        """The same evaluation with further kinds reused."""
        return replace(self, reuse={**self.reuse, **kinds})


@dataclass(frozen=True)
class Plan:
    """What a run computes: a sequence of evaluations, in their order.

    Attributes:
        evaluations: One record each.
        after_gate: What is kept of a layer: what it gives, before its gate; or what the block adds to its tokens,
            after it. Cross-attention has no gate.

    Raises:
        ValueError: A record cannot be followed.
    """

    evaluations: tuple[Evaluation, ...]
    after_gate: bool = False

    def __post_init__(self) -> None:
        guided = False
        for k, evaluation in enumerate(self.evaluations):
            check_evaluation(k, evaluation, guided)
            guided = guided or (evaluation.branch == "both" and "clean" not in evaluation.reuse)
        tested = any(reuse.threshold for evaluation in self.evaluations for reuse in evaluation.reuse.values())
        if tested and len(self.kinds) > 1:
            raise ValueError(f"a plan with a threshold reuses the network alone; this one also reuses {self.kinds}")

    def __len__(self) -> int:
        return len(self.evaluations)

    def __getitem__(self, k: int) -> Evaluation:
        return self.evaluations[k]

    @property
    def kinds(self) -> list[str]:
        """The kinds that are reused somewhere."""
        return [kind for kind in KINDS if any(kind in evaluation.reuse for evaluation in self.evaluations)]

    def times(self, device: torch.device) -> Tensor:
        """The timesteps (n,), whole numbers where they all are, as samplers give them to a network."""
        values = [evaluation.timestep for evaluation in self.evaluations]
        whole = all(value == int(value) for value in values)
        return torch.tensor([int(value) for value in values] if whole else values, device=device)


def check_evaluation(k: int, evaluation: Evaluation, guided: bool) -> None:
    """Raise ValueError if a record cannot be followed; guided: an earlier one computed both halves of guidance."""
    where = f"evaluation {k} of the plan"
    if evaluation.branch not in BRANCHES:
        raise ValueError(f"{where}: branch is {evaluation.branch!r}, not one of {', '.join(BRANCHES)}")
    if evaluation.branch == "difference" and not guided:
        raise ValueError(f"{where} takes the difference of both halves of guidance, and none computed them before")
    for kind, reuse in evaluation.reuse.items():
        if kind not in KINDS:
            raise ValueError(f"{where} reuses {kind!r}, not one of {', '.join(KINDS)}")
        if k == 0:
            raise ValueError(f"{where} reuses {kind!r}, and nothing was computed before")
        if not reuse.weights:
            raise ValueError(f"{where} reuses {kind!r} without weights")
        if reuse.threshold is not None and (kind != "network" or reuse.weights != (1.0,)):
            raise ValueError(f"{where}: a threshold is for repeating the network's last output alone, not for {kind!r}")


def exact_plan(timesteps: Sequence[float], interval: tuple[float, float] | None = None) -> Plan:
    """The plan that computes everything, with guidance inside an interval of timesteps only."""
    inside = lambda t: interval is None or interval[0] <= t <= interval[1]
    return Plan(tuple(Evaluation(t, branch="both" if inside(t) else "conditional") for t in timesteps))


def fitted(plan: Plan, exact: Plan) -> Plan:
    """A plan for the very evaluations of a call.

    Args:
        plan: The plan.
        exact: What the call computes without it. Where that does not guide, neither does the result.

    Raises:
        ValueError: The plan is for other timesteps, or does not guide where the call does.
    """
    mine, theirs = ([evaluation.timestep for evaluation in each.evaluations] for each in (plan, exact))
    if mine != theirs:
        shown = [f"{len(each)} evaluations at {each[0]:g} to {each[-1]:g}" for each in (mine, theirs)]
        raise ValueError(f"the plan is for {shown[0]}, this call has {shown[1]}: calibrate one for these steps")
    found = []
    for planned, asked in zip(plan.evaluations, exact.evaluations):
        if asked.branch == "both" and planned.branch == "conditional":
            raise ValueError(f"the plan does not guide at timestep {asked.timestep:g}, and this call does")
        found.append(replace(planned, branch="conditional") if asked.branch == "conditional" else planned)
    return Plan(tuple(found), plan.after_gate)


def evaluated_timesteps(run: Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Iterator[Tensor]]) -> list[float]:
    """The timesteps at which a sampler evaluates the network, found by running it on a single number.

    Args:
        run: (denoise, x (1, 1, 1, 1, 1)) -> the sampler's generator.

    Returns:
        One timestep for each evaluation, in order.
    """
    found: list[float] = []

    def record(x: Tensor, t: Tensor) -> Tensor:
        found.append(float(t[0]))
        return torch.zeros_like(x)

    for _ in run(record, torch.zeros(1, 1, 1, 1, 1)):
        pass
    return found
