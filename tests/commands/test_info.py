"""`latte info` counts what the network has and does."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from latte.commands.info import count_cost
from latte.models.latte import Latte, LatteConfig

SMALL = LatteConfig(depth=2, hidden_size=16, num_heads=2, patch_size=2, input_size=8, num_frames=3)


@pytest.mark.parametrize("variant", [1, 2, 3, 4])
@pytest.mark.parametrize("changes", [{}, {"num_classes": 5}, {"patch_size": 4, "depth": 4, "mlp_ratio": 2.5}])
def test_the_formula_counts_what_the_network_has_and_does(variant, changes):
    config = replace(SMALL, variant=variant, **changes)
    model = Latte(config).eval().to("meta")  # on a CPU the counter misses attention
    side, of_clip = config.input_size, torch.zeros(1, dtype=torch.long, device="meta")
    x = torch.zeros(1, config.num_frames, config.in_channels, side, side, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, of_clip, of_clip if config.num_classes else None)
    counts = counter.get_flop_counts()["Global"]
    attention = sum(flops for op, flops in counts.items() if "attention" in str(op) or "bmm" in str(op))
    total, parameters = sum(counts.values()), sum(p.numel() for p in model.parameters())
    assert count_cost(config) == (parameters, total // 2, (total - attention) // 2) and attention > 0
