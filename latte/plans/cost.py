"""The cost of a plan in FLOPs, known before anything is computed."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.plans.records import LAYERS, Plan
from latte.plans.tracks import Layer, Tracks, holding_blocks, layers_of

WEAKER_KIND = "weaker"  # beside LAYERS and "rest": the weaker network of autoguidance


@dataclass(frozen=True)
class Cost:
    """FLOPs (two for each multiply-accumulate) of one evaluation, for one half of guidance of one video.

    Attributes:
        layers: FLOPs of each layer.
        blocks: FLOPs of the rest of each block, its modulation.
        rest: FLOPs of everything outside the blocks.
        holds: For each layer, the number of its block.
        weaker: FLOPs of the whole weaker network of autoguidance, which replaces one half; None if there is none.
    """

    layers: dict[Layer, int]
    blocks: tuple[int, ...]
    rest: int
    holds: dict[Layer, int]
    weaker: int | None = None

    @property
    def total(self) -> int:
        """FLOPs of the whole network, without a weaker one."""
        return sum(self.layers.values()) + sum(self.blocks) + self.rest

    def of_plan(self, plan: Plan) -> list[int]:
        """FLOPs of each evaluation of a plan; threshold tests are assumed to fail, so the network computes."""
        total = [0] * len(plan)
        for k, _, flops in self.parts(plan):
            total[k] += flops
        return total

    def parts(self, plan: Plan) -> Iterator[tuple[int, str, int]]:
        """Yield (evaluation index, kind of layer, FLOPs) for everything that computes; "rest" is not in a layer."""
        tracks = Tracks(plan, self.holds)
        items = [*self.layers.items(), *((("block", i), flops) for i, flops in enumerate(self.blocks))]
        for k, evaluation in enumerate(plan.evaluations):
            halves = evaluation.halves if self.weaker is None else 1
            if tracks["clean", 0].computes(k):
                yield k, "rest", halves * self.rest
            for layer, flops in items:
                if tracks[layer].computes(k):
                    yield k, layer[0] if layer[0] in LAYERS else "rest", halves * flops
        for k in self.weaker_at(plan):
            yield k, WEAKER_KIND, self.weaker or 0

    def weaker_at(self, plan: Plan) -> list[int]:
        """The evaluations in which the weaker network runs: the guided ones that compute anything."""
        track = Tracks(plan, self.holds)["clean", 0]
        guided = [k for k, evaluation in enumerate(plan.evaluations) if evaluation.branch == "both"]
        return [k for k in guided if track.computes(k)] if self.weaker is not None else []

    def of_kinds(self, plan: Plan) -> dict[str, list[int]]:
        """For each kind of layer, its FLOPs in each evaluation of a plan; "rest" is all else, "weaker" the weaker
        one."""
        found = {kind: [0] * len(plan) for kind in (*LAYERS, "rest", WEAKER_KIND)}
        for k, kind, flops in self.parts(plan):
            found[kind][k] += flops
        return {kind: values for kind, values in found.items() if any(values) or kind == "rest"}


@lru_cache(maxsize=64)
def network_cost(
    config: LatteConfig | LatteT2VConfig, frames: int, height: int, width: int, tokens: int = 120,
    weaker: LatteConfig | LatteT2VConfig | None = None,
) -> Cost:  # fmt: skip
    """Count a network's FLOPs without allocating its weights; recent results are cached.

    Args:
        config: The network's configuration.
        frames: Number of frames of the latents.
        height: Height of the latents.
        width: Width of the latents.
        tokens: Number of text tokens, for a text-to-video model.
        weaker: Configuration of the weaker network that autoguidance leads away from.

    Returns:
        The cost. The keys and values of the text are counted in every evaluation.
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
    away = None if weaker is None else network_cost(weaker, frames, height, width, tokens).total
    return Cost(layers, modulations, counts["Global"] - sum(of(block) for block in blocks), holds, away)
