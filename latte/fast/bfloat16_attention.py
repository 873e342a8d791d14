"""Attention in bfloat16 on a CPU by matrix products: as exact as a fused kernel, and faster, forward and backward.

As in FlashAttention (Dao et al. 2022, arXiv 2205.14135), what is multiplied is bfloat16; sums, scores and softmax are
float32. PyTorch's kernel for CPUs computes the same in twice the time, and its backward pass in bfloat16 takes five
times as long as in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from latte.models.attention import attend

LEAST_VALUES = 1 << 15  # of the queries: smaller products take longer to start than to compute
SCORES_AT_ONCE = 1 << 19  # they stay in a core's own cache
MOST_KEYS = {False: 2048, True: 256}  # by whether gradients follow, for which weights are kept


class Attention(torch.autograd.Function):
    """`attended`, with its gradients: queries, keys and values (n, tokens, e), attention weights (n, tokens, keys)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        weights = q.new_empty(*q.shape[:2], k.shape[1])
        ctx.save_for_backward(q, k, v, weights)
        return attended(q, k, v, mask, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        of_q, of_k, of_v, gradient = *map(torch.empty_like, (q, k, v)), gradient.contiguous()
        for some in parts(weights):
            of_weights = float32_product(gradient[some], v[some].mT, q.shape[-1] ** -0.5)
            of_scores = torch._softmax_backward_data(of_weights, weights[some].float(), -1, torch.float32).bfloat16()
            torch.bmm(of_scores, k[some], out=of_q[some])
            torch.bmm(of_scores.mT, q[some], out=of_k[some])
            torch.bmm(weights[some].mT, gradient[some], out=of_v[some])
        return of_q, of_k, of_v, None


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, weights: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of sequences in bfloat16.

    Args:
        q: Queries (n, tokens, e), contiguous.
        k: Keys (n, keys, e), contiguous.
        v: Values, as the keys.
        mask: Added to the scores (n, 1 or tokens, keys).
        weights: Where to keep the attention weights (n, tokens, keys).

    Returns:
        The attended values (n, tokens, e).
    """
    out = torch.empty_like(q)
    for some in parts(q.new_empty(()).expand(*q.shape[:2], k.shape[1]) if weights is None else weights):
        scores = float32_product(q[some], k[some].mT, q.shape[-1] ** -0.5)
        found = (scores if mask is None else scores.add_(mask[some])).softmax(-1).bfloat16()
        torch.bmm(found, v[some], out=out[some])
        if weights is not None:
            weights[some] = found
    return out


def parts(scores: Tensor) -> Iterator[slice]:
    """Cut sequences, whose scores are (n, tokens, keys), into parts with about SCORES_AT_ONCE scores."""
    step = max(1, SCORES_AT_ONCE // scores[0].numel())
    return (slice(start, start + step) for start in range(0, len(scores), step))


def float32_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale * a @ b in float32, for batches of matrices in bfloat16."""
    with bfloat16_inputs():
        return torch.baddbmm(torch.zeros(1, 1, 1), a.float(), b.float(), beta=0, alpha=scale)


@contextmanager
def bfloat16_inputs() -> Iterator[None]:
    """Within the context, float32 products on a CPU may round what they multiply to bfloat16, but not their sums.

    Of values that are bfloat16 already, the products are exact. Processors with units for bfloat16 are faster this way.
    """
    settings = torch.backends.mkldnn.matmul
    before, settings.fp32_precision = settings.fp32_precision, "bf16"
    try:
        yield
    finally:
        settings.fp32_precision = before


def attend_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, like latte.models.attention.attend, which computes what this does not.

    Args:
        q: Queries (n, heads, tokens, e).
        k: Keys (n, heads, keys, e).
        v: Values, same shape as the keys.
        mask: Added to the scores (n, 1, 1 or tokens, keys).

    Returns:
        The attended values, same shape as the queries.
    """
    if not pays(q, k, v):
        return attend(q, k, v, mask)
    flat = [z.flatten(0, 1).contiguous() for z in (q, k, v)]
    rows = None if mask is None else mask.expand(*q.shape[:2], -1, -1).flatten(0, 1)
    with torch.autocast("cpu", enabled=False):
        return (Attention.apply if with_gradients(q, k, v) else attended)(*flat, rows).view(q.shape)


def pays(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether products compute this attention, and faster than PyTorch's kernel."""
    in_bfloat16 = all(type(z) is Tensor and z.device.type == "cpu" and z.dtype == torch.bfloat16 for z in (q, k, v))
    fits = q.numel() >= LEAST_VALUES and k.shape[2] <= MOST_KEYS[with_gradients(q, k, v)]
    return in_bfloat16 and fits and multiplies_bfloat16()


@cache
def multiplies_bfloat16() -> bool:
    """Whether oneDNN multiplies matrices in bfloat16 on this processor."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def with_gradients(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether gradients follow, for which the attention weights are kept."""
    return torch.is_grad_enabled() and any(z.requires_grad for z in (q, k, v))
