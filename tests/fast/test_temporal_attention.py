"""The attention kernel for short sequences, in Triton's interpreter, against PyTorch's attention."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from interpreted_attention import qkv

from latte.fast import temporal_attention
from latte.fast.temporal_attention import attend_short, pack_frames
from latte.models.attention import AxialAttention
from latte.models.latte import Latte, LatteConfig


def test_the_kernel_equals_pytorchs_attention():
    """In a separate process: Triton decides at import whether to interpret."""
    pytest.importorskip("triton", reason="Triton is not installed")
    script = Path(__file__).parents[1] / "helpers/interpreted_attention.py"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    most = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 1e-2}
    assert len(found["errors"]) == 18 and found["mixed"] is False
    assert all(error < most[name.split()[0]] for name, error in found["errors"].items()), found


@pytest.mark.parametrize("why", ["long", "wide", "gradients", "float64", "no kernel"])
def test_unsupported_inputs_fall_back_to_pytorch(why, monkeypatch):
    b, f, s, h, e = 1, 65 if why == "long" else 4, 2, 2, 130 if why == "wide" else 8
    q, k, v = qkv(b, f, s, h, e, torch.float64 if why == "float64" else torch.float32)
    monkeypatch.setattr(temporal_attention, "runs_kernels", lambda device: why != "no kernel")
    q.requires_grad_(why == "gradients")
    out = attend_short(q, k, v)
    assert torch.equal(out, F.scaled_dot_product_attention(q, k, v)) and out.requires_grad == (why == "gradients")


def test_the_kernel_is_attached_only_to_temporal_attention():
    network = Latte(LatteConfig(4, 2, 16, 2)).eval()
    mine = lambda q, k, v: q
    layers = [layer for layer in network.modules() if isinstance(layer, AxialAttention)]
    next(layer for layer in layers if layer.kind == "temporal").attend = mine
    pack_frames(network)
    used = [vars(layer).get("attend") for layer in layers]
    assert [layer.kind for layer in layers] == ["spatial", "temporal"] * 2
    assert used == [None, mine, None, attend_short]
