"""The plan of a sampling run: one record for each evaluation of the network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

KINDS = ("spatial", "temporal", "cross", "mlp", "block", "network")  # what may be reused
NEVER = (1.0, 0.0)  # an interval of timesteps that holds none
BRANCHES = ("both", "conditional")  # which halves of guidance are computed


@dataclass(frozen=True)
class Reuse:
    """How an output is made of earlier ones: a weighted sum of those that were computed last, the newest first.

    Attributes:
        weights: (1,) repeats the last output; (1 + a, -a) extrapolates it along its last change.
        places: Which layers of the kind, by their order in the network; None, all of them.
    """

    weights: tuple[float, ...] = (1.0,)
    places: frozenset[int] | None = None

    def covers(self, place: int) -> bool:
        """Whether the layer with this place in the order of its kind is reused."""
        return self.places is None or place in self.places


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the network.

    Attributes:
        timestep: Its timestep.
        reuse: For each kind of layer that does not compute, how its output is made; "block" stands for all that a block
            adds to its tokens, "network" for all that the blocks add.
        branch: "both" halves of guidance, or the "conditional" one alone.
    """

    timestep: float
    reuse: Mapping[str, Reuse] = field(default_factory=dict)
    branch: str = "both"

    def reused(self, kind: str, place: int) -> Reuse | None:
        """How the output of a layer is made of earlier ones; None if it computes."""
        reuse = self.reuse.get(kind)
        return reuse if reuse is not None and reuse.covers(place) else None


@dataclass(frozen=True)
class Plan:
    """What a run computes: a sequence of evaluations, in their order."""

    evaluations: tuple[Evaluation, ...]

    def __len__(self) -> int:
        return len(self.evaluations)

    def __getitem__(self, k: int) -> Evaluation:
        return self.evaluations[k]

    def times(self, device: torch.device) -> Tensor:
        """The timesteps (n,), whole numbers where they all are, as samplers give them to a network."""
        values = [evaluation.timestep for evaluation in self.evaluations]
        whole = all(value == int(value) for value in values)
        return torch.tensor([int(value) for value in values] if whole else values, device=device)

    def keeps(self, k: int, kind: str, place: int) -> bool:
        """Whether a later evaluation needs what a layer computes in evaluation k."""
        newer = 0
        for evaluation in self.evaluations[k + 1 :]:
            reuse = evaluation.reused(kind, place)
            if reuse is None:
                newer += 1
            elif newer < len(reuse.weights):
                return True
        return False


def exact_plan(timesteps: Sequence[float], interval: tuple[float, float] | None = None) -> Plan:
    """The plan that computes everything, with guidance inside an interval of timesteps only."""
    inside = lambda t: interval is None or interval[0] <= t <= interval[1]
    return Plan(tuple(Evaluation(t, branch="both" if inside(t) else "conditional") for t in timesteps))


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
