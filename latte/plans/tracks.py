"""Each layer's course through a plan: where it computes, what it reuses, and which outputs are kept."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from latte.models.block import Block
from latte.plans.records import LAYERS, Evaluation, Plan, Reuse

Layer = tuple[str, int]  # kind, and index among the layers of that kind


@dataclass(frozen=True)
class Track:
    """One layer's course through a plan.

    Attributes:
        made: For each evaluation, how the output is formed from earlier ones; None if the layer computes.
        absent: For each evaluation, whether a block or network that contains the layer is reused, so that the layer is
            not called.
        kept: For each evaluation, whether a later one needs the layer's output from it.
        depth: The largest number of outputs needed at once.
    """

    made: tuple[Reuse | None, ...]
    absent: tuple[bool, ...]
    kept: tuple[bool, ...]
    depth: int

    def computes(self, k: int) -> bool:
        """Whether the layer computes in evaluation k; a threshold's test is assumed to fail."""
        reuse = self.made[k]
        return not self.absent[k] and (reuse is None or reuse.threshold is not None)


def follow(
    evaluations: Sequence[Evaluation], kind: str, place: int, absent: Sequence[bool], same_halves: bool = False
) -> Track:
    """The track of a layer. It reuses only outputs that cover its halves of guidance; without them it computes.

    Args:
        evaluations: The plan's evaluations.
        kind: The layer's kind.
        place: Its index among the layers of that kind.
        absent: See Track.
        same_halves: See Tracks.
    """
    computed: list[int] = []
    made: list[Reuse | None] = []
    kept: set[int] = set()
    depth = 0
    for k, evaluation in enumerate(evaluations):
        reuse = None if absent[k] else evaluation.reused(kind, place)
        sources = computed[-1 : -1 - len(reuse.weights) : -1] if reuse is not None else []
        mine, theirs = evaluation.halves, [evaluations[source].halves for source in sources]
        fits = [halves == mine or (halves > mine and not same_halves) for halves in theirs]
        if reuse is not None and not (fits and fits[0]):
            reuse = None
        elif reuse is not None and (len(fits) < len(reuse.weights) or not all(fits)):
            reuse, sources = replace(reuse, weights=(1.0,)), sources[:1]
        if reuse is not None:
            kept.update(sources)
            depth = max(depth, len(sources))
        if not absent[k] and (reuse is None or reuse.threshold is not None):
            computed.append(k)
        made.append(reuse)
    return Track(tuple(made), tuple(absent), tuple(k in kept for k in range(len(evaluations))), depth)


class Tracks:
    """The tracks of a network's layers, computed on demand.

    Args:
        plan: The plan.
        blocks: For each layer, the number of the block that holds it.
        same_halves: Whether an evaluation of one half of guidance may not reuse the output of both.
    """

    def __init__(self, plan: Plan, blocks: Mapping[Layer, int], same_halves: bool = False):
        self.plan, self.blocks, self.same_halves = plan, blocks, same_halves
        self.found: dict[Layer, Track] = {}

    def __getitem__(self, layer: Layer) -> Track:
        if layer not in self.found:
            self.found[layer] = follow(self.plan.evaluations, *layer, self.absent(layer), self.same_halves)
        return self.found[layer]

    def absent(self, layer: Layer) -> list[bool]:
        """For each evaluation, whether a block or network that contains the layer is reused."""
        kind, _ = layer
        holders: dict[str, Layer | None] = {"clean": None, "network": ("clean", 0), "block": ("network", 0)}
        holder = holders.get(kind, ("block", self.blocks.get(layer, -1)))
        if holder is None:
            return [False] * len(self.plan)
        track = self[holder]
        reused = [reuse is not None and reuse.threshold is None for reuse in track.made]
        return [a or b for a, b in zip(reused, track.absent)]


def layers_of(model: nn.Module) -> dict[Layer, nn.Module]:
    """The layers of a network that declare their kind, in order."""
    places: Counter[str] = Counter()
    found: dict[Layer, nn.Module] = {}
    for module in model.modules():
        kind = getattr(module, "kind", None)
        if kind in LAYERS:
            found[kind, places[kind]] = module
            places[kind] += 1
    return found


def blocks_of(model: nn.Module) -> list[Block]:
    """The blocks of a network, in order."""
    return [module for module in model.modules() if isinstance(module, Block)]


def holding_blocks(model: nn.Module) -> dict[Layer, int]:
    """For each layer of a network that is in a block, the number of that block."""
    inside = {module: i for i, block in enumerate(blocks_of(model)) for module in block.modules()}
    return {layer: inside[module] for layer, module in layers_of(model).items() if module in inside}
