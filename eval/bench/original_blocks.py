"""The blocks of Latte as the original code computes them, operation by operation, to compare with in benchmarks.

The operations are those of models/latte.py in Vchitect/Latte at 3780cd4: conditions are repeated for every frame or
place, tokens are copied between the layouts of the two attentions, queries, keys and values are copied, and attention
is written out (`attention_mode='math'`, its default).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from latte.models.attention import AxialAttention
from latte.models.block import Block, modulate
from latte.models.denoiser import denoiser_of
from latte.models.latte import Latte
from latte.replaced_methods import replaced_methods


@contextmanager
def original_blocks(network: nn.Module) -> Iterator[None]:
    """Within the context, the blocks of a network compute as the original's, from the same weights, on clips alone.

    Args:
        network: See check_has_original.
    """
    check_has_original(network)
    blocks = denoiser_of(network).blocks
    with replaced_methods((block, "forward", partial(block_forward, block)) for block in blocks):
        yield


def check_has_original(network: nn.Module, num_images: int = 0) -> None:
    """Check that the original code can be compared with a network.

    Args:
        network: Must be a Latte of variant 1 with adaLN and sin-cos positions, or hold one.
        num_images: Still images in joint training, for which the comparison is not made.

    Raises:
        ValueError: It cannot be compared.
    """
    denoiser, only = denoiser_of(network), {"variant": 1, "conditioning": "adaln", "temporal_pos": "sincos"}
    config = denoiser.config if isinstance(denoiser, Latte) else None
    if config is None or any(getattr(config, name) != value for name, value in only.items()):
        words = " ".join(f"{name}={value}" for name, value in only.items())
        raise ValueError(f"the original code has no such blocks; it has those of a Latte with {words}")
    if num_images:
        raise ValueError("the original's blocks are compared on clips alone: set num_images=0")


def block_forward(block: Block, x: Tensor, c: Tensor, *_: object) -> Tensor:
    """Tokens (b, f, s, d) of clips through a block: like Block.forward, for a condition (b, 1, d)."""
    b, f, s, _ = x.shape
    fold, copies = ("(b f) s d", f) if block.kinds == "s" else ("(b s) f d", s)
    rows = repeat(c, "b 1 d -> (b n) 1 d", n=copies)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = block.modulation.linear(F.silu(rows)).chunk(6, dim=-1)
    y = rearrange(x, f"b f s d -> {fold}")
    y = y + gate * attention(block.attns[0], modulate(y, shift, scale))
    y = y + mlp_gate * block.mlp.fc2(F.gelu(block.mlp.fc1(modulate(y, mlp_shift, mlp_scale)), approximate="tanh"))
    return rearrange(y, f"{fold} -> b f s d", b=b, **({"f": f} if block.kinds == "s" else {"s": s}))


def attention(layer: AxialAttention, x: Tensor) -> Tensor:
    """Attention over sequences of tokens (n, tokens, d), written out."""
    n, tokens, d = x.shape
    heads = layer.qkv(x).reshape(n, tokens, layer.heads, 3, d // layer.heads)
    q, k, v = heads.permute(3, 0, 2, 1, 4).contiguous().unbind(0)
    scores = (q @ k.transpose(-2, -1)) * (d // layer.heads) ** -0.5
    return layer.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, tokens, d))
