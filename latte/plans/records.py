"""The plan of a sampling run: one record for each evaluation of the network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ATTENTION = ("spatial", "temporal", "cross")  # kinds of attention layers
LAYERS = (*ATTENTION, "mlp")  # kinds of layers in a block
KINDS = (*LAYERS, "block", "network", "clean")  # what may be reused, from the smallest to the largest
BRANCHES = ("both", "conditional", "difference")  # see Evaluation
NEVER = (1.0, 0.0)  # an empty interval of timesteps


@dataclass(frozen=True)
class Threshold:
    """A data-dependent test: an output is reused while the input has changed little since it was computed.

    The relative L1 change of the network's first modulated tokens is passed through a polynomial and summed over the
    evaluations. When the sum reaches the limit, the output is recomputed (TeaCache: Liu et al. 2024, arXiv 2411.19108).
    To read the number, the CPU waits for the GPU: one synchronisation per evaluation.

    Attributes:
        limit: The limit of the sum.
        polynomial: The coefficients of the polynomial, highest power first.
    """

    limit: float
    polynomial: tuple[float, ...] = (1.0, 0.0)


@dataclass(frozen=True)
class Reuse:
    """How an output is formed from earlier ones: a weighted sum of the last computed outputs, newest first.

    Attributes:
        weights: (1,) repeats the last output; (1 + a, -a) extrapolates it along its last change.
        places: Indices of the layers of this kind, in network order. None means all of them.
        threshold: Reuse only if this data-dependent test allows it. Only for "network".
    """

    weights: tuple[float, ...] = (1.0,)
    places: frozenset[int] | None = None
    threshold: Threshold | None = None

    def covers(self, place: int) -> bool:
        """Whether the layer with this index among the layers of its kind is reused."""
        return self.places is None or place in self.places


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the network.

    Attributes:
        timestep: Its timestep.
        reuse: For each kind that is not computed, how its output is formed. "spatial", "temporal", "cross" and "mlp"
            are layers, "block" is what a block adds to its tokens, "network" what all blocks add together, and "clean"
            the predicted clean latents, guidance included; then the network is not run at all.
        branch: "both" computes both halves of guidance. "conditional" computes the conditional half only, without
            guidance. "difference" computes the conditional half only and guides with the last computed difference of
            the halves.
        bands: With "difference", the factors of its low and high spatial frequencies.
    """

    timestep: float
    reuse: Mapping[str, Reuse] = field(default_factory=dict)
    branch: str = "both"
    bands: tuple[float, float] = (1.0, 1.0)

    @property
    def halves(self) -> int:
        """How many halves of guidance go through the network."""
        return 2 if self.branch == "both" else 1

    def reused(self, kind: str, place: int = 0) -> Reuse | None:
        """How a layer's output is formed from earlier ones; None if the layer computes."""
        reuse = self.reuse.get(kind)
        return reuse if reuse is not None and reuse.covers(place) else None

    def reusing(self, **kinds: Reuse) -> "Evaluation":
        """The same evaluation with further kinds reused."""
        return replace(self, reuse={**self.reuse, **kinds})


@dataclass(frozen=True)
class Plan:
    """What a run computes: a sequence of evaluations, in their order.

    Attributes:
        evaluations: One record per evaluation.
        after_gate: Which output of a layer is cached: False, the one before its gate; True, the one after it, which the
            block adds to its tokens. Cross-attention has no gate.

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
        if self.tested and len(self.kinds) > 1:
            raise ValueError(f"a plan with a threshold can only reuse the network; this one also reuses {self.kinds}")

    def __len__(self) -> int:
        return len(self.evaluations)

    def __getitem__(self, k: int) -> Evaluation:
        return self.evaluations[k]

    @property
    def kinds(self) -> list[str]:
        """The kinds that are reused somewhere."""
        return [kind for kind in KINDS if any(kind in evaluation.reuse for evaluation in self.evaluations)]

    @property
    def tested(self) -> bool:
        """Whether data-dependent tests decide what is reused."""
        return any(reuse.threshold for evaluation in self.evaluations for reuse in evaluation.reuse.values())

    def times(self, device: "torch.device") -> "torch.Tensor":
        """The timesteps (n,) as samplers pass them to a network: integers if all of them are whole numbers."""
        import torch  # here, so that the command line knows the rules that make plans without it

        values = [evaluation.timestep for evaluation in self.evaluations]
        whole = all(value == int(value) for value in values)
        return torch.tensor([int(value) for value in values] if whole else values, device=device)


def check_evaluation(k: int, evaluation: Evaluation, guided: bool) -> None:
    """Raise ValueError if a record cannot be followed. `guided`: an earlier record computed both halves."""
    where = f"evaluation {k} of the plan"
    if evaluation.branch not in BRANCHES:
        raise ValueError(f"{where}: branch is {evaluation.branch!r}, not one of {', '.join(BRANCHES)}")
    if evaluation.branch == "difference" and not guided:
        raise ValueError(f"{where} needs the difference of both halves of guidance, but no earlier one computed them")
    for kind, reuse in evaluation.reuse.items():
        if kind not in KINDS:
            raise ValueError(f"{where} reuses {kind!r}, not one of {', '.join(KINDS)}")
        if k == 0:
            raise ValueError(f"{where} reuses {kind!r}, but nothing was computed before it")
        if not reuse.weights:
            raise ValueError(f"{where} reuses {kind!r} without weights")
        if reuse.threshold is not None and (kind != "network" or reuse.weights != (1.0,)):
            raise ValueError(f"{where}: a threshold can only repeat the network's last output, not {kind!r}")


def exact_plan(timesteps: Sequence[float], interval: tuple[float, float] | None = None) -> Plan:
    """The plan that computes everything, with guidance inside an interval of timesteps only."""
    inside = lambda t: interval is None or interval[0] <= t <= interval[1]
    return Plan(tuple(Evaluation(t, branch="both" if inside(t) else "conditional") for t in timesteps))


def fitted(plan: Plan, exact: Plan) -> Plan:
    """Fit a plan to a call's evaluations.

    Args:
        plan: The plan.
        exact: The plan of everything that the call computes. Where it does not guide, neither does the result.

    Raises:
        ValueError: The plan is for other timesteps, or does not guide where the call does.
    """
    mine, theirs = ([evaluation.timestep for evaluation in each.evaluations] for each in (plan, exact))
    if mine != theirs:
        shown = [f"{len(each)} evaluations at {each[0]:g} to {each[-1]:g}" for each in (mine, theirs)]
        raise ValueError(
            f"the plan is for {shown[0]}, this call has {shown[1]}: sample with {len(mine)} evaluations, or calibrate a"
            " plan for these"
        )
    found = []
    for planned, asked in zip(plan.evaluations, exact.evaluations):
        if asked.branch == "both" and planned.branch == "conditional":
            raise ValueError(f"the plan does not guide at timestep {asked.timestep:g}, but this call does")
        found.append(replace(planned, branch="conditional") if asked.branch == "conditional" else planned)
    return Plan(tuple(found), plan.after_gate)
