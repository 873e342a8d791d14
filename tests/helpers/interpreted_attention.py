"""Runs the short-sequence kernel in Triton's interpreter (TRITON_INTERPRET=1) and prints its errors as JSON."""

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from latte.fast.temporal_attention import attend_short, fits

CASES = [  # videos, frames, places, heads, head width
    (2, 16, 5, 3, 72),
    (1, 16, 16, 4, 64),
    (1, 5, 3, 2, 72),
    (1, 64, 2, 1, 64),
    (1, 1, 3, 1, 16),
    (1, 33, 1, 2, 24),
]


def qkv(b: int, f: int, s: int, h: int, e: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values as AxialAttention slices them from one product: strided views (b, s h, f, e)."""
    torch.manual_seed(b + f + s + h + e)
    rows = torch.randn(b, f, s, h, 3, e).to(dtype)
    return [z.flatten(2, 3).transpose(1, 2) for z in rows.unbind(4)]


def error(case: tuple[int, ...], dtype: torch.dtype) -> float:
    """Relative error of the kernel against PyTorch's attention in float32."""
    q, k, v = qkv(*case, dtype)
    assert fits(q, k, v)
    ours, wanted = attend_short(q, k, v), F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert ours.dtype == dtype and ours.shape == q.shape and ours.transpose(1, 2).is_contiguous()
    return float((ours.float() - wanted).norm() / wanted.norm())


def mixed() -> bool:
    """Whether a sequence influences another one in its tile."""
    q, k, v = qkv(1, 4, 3, 1, 16)
    before = attend_short(q, k, v).clone()
    k[:, 1], v[:, 1] = 1e4, 1e4
    after = attend_short(q, k, v)
    assert not torch.equal(after[:, 1], before[:, 1])
    return not torch.equal(after[:, [0, 2]], before[:, [0, 2]])


if __name__ == "__main__":
    types = (torch.float32, torch.float16, torch.bfloat16)
    errors = {f"{str(kind)[6:]} {case}": error(case, kind) for kind in types for case in CASES}
    print(json.dumps({"errors": errors, "mixed": mixed()}))
