"""torch.compile of single blocks: every kind of block is compiled once, however deep the network, without a break."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.train.precision import autocast, keep_in_float32

T2V = {"num_attention_heads": 2, "attention_head_dim": 8, "sample_size": 8, "video_length": 4, "caption_channels": 8}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("variant", "kinds"), [(1, 2), (2, 2), (3, 1), (4, 1), ("t2v", 2)])
def test_each_kind_is_compiled_once(variant, kinds, precision):
    torch._dynamo.reset()
    counter, x, t = CompileCounter(), torch.randn(2, 4, 4, 8, 8), torch.tensor([5, 600])
    if variant == "t2v":
        network, given = LatteT2V(LatteT2VConfig(num_layers=10, **T2V)), torch.randn(2, 5, 8)
    else:
        config = LatteConfig(variant, 20, 16, 2, num_classes=3, class_dropout_prob=0.1)
        network, given = Latte(config), torch.tensor([1, 2])
    network.train()
    keep_in_float32(network)
    for block in network.blocks:
        block.compile(backend=counter, fullgraph=True)
    with autocast(precision, torch.device("cpu")):
        network(x, t, given).float().square().mean().backward()
    assert kinds <= counter.frame_count <= kinds + 1
