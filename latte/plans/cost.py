"""What a plan costs, in FLOPs, before anything is computed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.plans.records import LAYERS, Plan
from latte.plans.tracks import Layer, Tracks, holding_blocks, layers_of


@dataclass(frozen=True)
class Cost:
    """FLOPs (two for each multiply-accumulate) of one evaluation, for one half of guidance of one video.

    Attributes:
        layers: Of each layer.
        blocks: Of the rest of each block, its modulation.
        rest: Of what is around the blocks.
        holds: For each layer, the number of its block.
    """

    layers: dict[Layer, int]
    blocks: tuple[int, ...]
    rest: int
    holds: dict[Layer, int]

    @property
    def total(self) -> int:
        """Of the whole network."""
        return sum(self.layers.values()) + sum(self.blocks) + self.rest

    def of_plan(self, plan: Plan) -> list[int]:
        """FLOPs of each evaluation of a plan; a threshold's test is taken to fail, so that its network computes."""
        tracks = Tracks(plan, self.holds)
        items = [*self.layers.items(), *((("block", i), flops) for i, flops in enumerate(self.blocks))]
        return [
            evaluation.halves * sum(flops for layer, flops in self.parts(tracks, k, items))
            for k, evaluation in enumerate(plan.evaluations)
        ]

    def parts(self, tracks: Tracks, k: int, items: list[tuple[Layer, int]]) -> Iterator[tuple[Layer | None, int]]:
        """What computes in evaluation k, and its FLOPs; None stands for what is around the blocks."""
        if tracks["clean", 0].computes(k):
            yield None, self.rest
        yield from ((layer, flops) for layer, flops in items if tracks[layer].computes(k))

    def of_kinds(self, plan: Plan) -> dict[str, list[int]]:
        """For each kind of layer, its FLOPs in each evaluation of a plan; "rest" is all else."""
        tracks = Tracks(plan, self.holds)
        items = [*self.layers.items(), *((("block", i), flops) for i, flops in enumerate(self.blocks))]
        found = {kind: [0] * len(plan) for kind in (*LAYERS, "rest")}
        for k, evaluation in enumerate(plan.evaluations):
            for layer, flops in self.parts(tracks, k, items):
                kind = layer[0] if layer is not None and layer[0] in LAYERS else "rest"
                found[kind][k] += evaluation.halves * flops
        return {kind: values for kind, values in found.items() if any(values) or kind == "rest"}


def network_cost(config: LatteConfig | LatteT2VConfig, frames: int, height: int, width: int, tokens: int = 120) -> Cost:
    """Count a network's operations, without its weights.

    Args:
        config: Of the network.
        frames: Frames of the latents.
        height: Of the latents.
        width: Of the latents.
        tokens: Of the text, for a text-to-video model.

    Returns:
        Its cost. The keys and values of a text are counted in every evaluation.
    """
    with torch.device("meta"):
        network: nn.Module = (LatteT2V(config) if isinstance(config, LatteT2VConfig) else Latte(config)).eval()
        x, t = torch.zeros(1, frames, config.in_channels, height, width), torch.zeros(1, dtype=torch.long)
        if isinstance(config, LatteT2VConfig):
            condition = torch.zeros(1, tokens, config.caption_channels)
        else:
            condition = torch.zeros(1, dtype=torch.long) if config.num_classes else None
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x, t, condition)
    counts = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    names = {module: f"{type(network).__name__}.{name}" for name, module in network.named_modules()}
    of = lambda module: counts.get(names[module], 0)
    layers = {layer: of(module) for layer, module in layers_of(network).items()}
    holds, blocks = holding_blocks(network), list(network.blocks)  # type: ignore[arg-type]
    inner = [sum(flops for layer, flops in layers.items() if holds[layer] == i) for i in range(len(blocks))]
    modulations = tuple(of(block) - inner[i] for i, block in enumerate(blocks))
    return Cost(layers, modulations, counts["Global"] - sum(of(block) for block in blocks), holds)
