"""Attention in float32 by oneDNN's products, on CPUs where they are much faster than those of PyTorch's kernel.

PyTorch's kernel multiplies by MKL (latte.fast.onednn). Scores stay in the cache, as in the kernel.
"""

import torch
from torch import Tensor

from latte.fast.onednn import onednn_is_faster, onednn_product
from latte.models.attention import attend

LEAST_SCORES = 1 << 14  # of a sequence: with fewer, starting the products takes what they save
SCORES_AT_ONCE = 1 << 19  # they stay in a core's own cache


def attend_by_onednn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Like latte.models.attention.attend, of which heads are axis 1 here, and which computes what this does not."""
    if not pays(q, k, v, mask):
        return attend(q, k, v, mask)
    (n, heads, tokens, e), keys = q.shape, k.shape[2]
    rows = None if mask is None else mask.expand(n, heads, tokens, keys)
    out = q.new_empty(n, tokens, heads, e).transpose(1, 2)  # heads side by side, as layers use it
    q, k, v = (q * e**-0.5).contiguous(), k.contiguous(), v.contiguous()  # oneDNN is slow with other strides
    step = max(1, SCORES_AT_ONCE // keys)
    for i in range(n):
        for head in range(heads):
            for some in (slice(start, start + step) for start in range(0, tokens, step)):
                scores = onednn_product(q[i, head, some], k[i, head])
                weights = (scores if rows is None else scores.add_(rows[i, head, some])).softmax(-1)
                out[i, head, some] = onednn_product(weights, v[i, head].mT)
    return out


def pays(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> bool:
    """Whether oneDNN computes this attention, and faster than PyTorch's kernel."""
    if not all(type(z) is Tensor and z.device.type == "cpu" and z.dtype == torch.float32 for z in (q, k, v)):
        return False
    if k.shape != v.shape or (mask is not None and mask.dtype != torch.float32):
        return False
    if torch.is_grad_enabled() and any(z.requires_grad for z in (q, k, v)):
        return False
    return q.shape[2] * k.shape[2] >= LEAST_SCORES and onednn_is_faster()
