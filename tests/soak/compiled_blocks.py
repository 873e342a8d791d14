"""torch.compile of single blocks: each kind of block is compiled once, at any depth, without graph breaks.

And the code that inductor generates computes what the network does.
"""

import shutil

import pytest
import torch
from small_latte import T, X, Y, warm
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


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler for inductor")
def test_inductor_output_matches_eager(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = warm(variant=3, depth=1)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(X, T, Y), model(X, T, Y), rtol=1e-4, atol=1e-5)
