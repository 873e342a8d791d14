"""Attention in bfloat16 on a CPU by matrix products: as exact as a fused kernel, and faster, forward and backward.

As in FlashAttention (Dao et al. 2022, arXiv 2205.14135), what is multiplied is bfloat16; sums, scores and softmax are
float32. PyTorch's kernel for CPUs computes the same in more time, and its backward pass in bfloat16 takes five times as
long as in float32.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from latte.fast.onednn import multiplies_bfloat16, onednn_is_faster, onednn_product
from latte.models.attention import attend

LEAST_VALUES = 1 << 15  # of the queries: smaller products take longer to start than to compute
SCORES_AT_ONCE = 1 << 19  # they stay in a core's own cache
LEAST_SCORES = 1 << 14  # of a sequence, from which oneDNN's start, some 10 microseconds, does not matter
MOST_KEYS, MOST_KEYS_TRAINED = 2048, 256  # in training, the attention weights are kept for the backward pass


class AttentionByProducts(torch.autograd.Function):
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
        gradient = gradient.contiguous()
        of_q, of_k, of_v = (torch.empty_like(z) for z in (q, k, v))
        for some in parts(len(q), weights[0].numel()):
            of_weights = float32_product(gradient[some], v[some], q.shape[-1] ** -0.5)
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
        mask: Added to the scores (n, 1 or tokens, keys); finite.
        weights: Where to keep the attention weights (n, tokens, keys).

    Returns:
        The attended values (n, tokens, e).
    """
    out = torch.empty_like(q)
    for some in parts(len(q), q.shape[1] * k.shape[1]):
        scores = float32_product(q[some], k[some], q.shape[-1] ** -0.5)
        found = (scores if mask is None else scores.add_(mask[some])).softmax(-1).bfloat16()
        torch.bmm(found, v[some], out=out[some])
        if weights is not None:
            weights[some] = found
    return out


def parts(sequences: int, scores: int) -> Iterator[slice]:
    """Cut sequences into parts with about SCORES_AT_ONCE scores; each sequence has `scores`."""
    step = max(1, SCORES_AT_ONCE // scores)
    return (slice(start, start + step) for start in range(0, sequences, step))


def float32_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """The products scale * a @ b^T in float32 of matrices (n, rows, e) and (n, columns, e) in bfloat16."""
    a, b = a.float().mul_(scale), b.float()
    if type(a) is Tensor and a.shape[1] * b.shape[1] >= LEAST_SCORES and onednn_is_faster():
        return torch.stack([onednn_product(left, right) for left, right in zip(a, b)])
    return torch.bmm(a, b.mT)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, like latte.models.attention.attend, which computes what this does not.

    Args:
        q: Queries (n, heads, tokens, e).
        k: Keys (n, heads, keys, e).
        v: Values, same shape as the keys.
        mask: Added to the scores (n, 1, 1 or tokens, keys); finite.

    Returns:
        The attended values, same shape as the queries.
    """
    if not pays(q, k, v, mask):
        return attend(q, k, v, mask)
    flat = [z.flatten(0, 1).contiguous() for z in (q, k, v)]
    rows = None if mask is None else mask.expand(*q.shape[:2], -1, -1).flatten(0, 1)
    with torch.autocast("cpu", enabled=False):
        if with_gradients(q, k, v):
            return AttentionByProducts.apply(*flat, rows).view(q.shape)
        return attended(*flat, rows).view(q.shape)


def pays(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> bool:
    """Whether products compute this attention, and faster than PyTorch's kernel."""
    if not all(z.device.type == "cpu" and z.dtype == torch.bfloat16 and is_plain(z) for z in (q, k, v)):
        return False
    if k.shape != v.shape or (mask is not None and (mask.requires_grad or not mask.is_floating_point())):
        return False
    most = MOST_KEYS_TRAINED if with_gradients(q, k, v) else MOST_KEYS
    return q.numel() >= LEAST_VALUES and 0 < k.shape[2] <= most and multiplies_bfloat16()


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is no distributed tensor or the like. One without values stands for a plain one."""
    return type(tensor) in (Tensor, FakeTensor)


def with_gradients(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether gradients follow, for which the attention weights are kept."""
    return torch.is_grad_enabled() and any(z.requires_grad for z in (q, k, v))
