"""Attention over short sequences on a GPU: several sequences share one tile.

Temporal attention has thousands of sequences of some 16 frames. A kernel made for long ones gives each a tile of 64 or
128 rows, most of them empty. Here a tile holds as many sequences as fit; a mask keeps them apart.
"""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from latte.models.attention import AxialAttention, attend

MOST_FRAMES, MOST_WIDTH = 64, 128  # of a sequence, and of a head
ROWS = {2: 128, 4: 64}  # of a tile, by the bytes of a value: its queries, keys and values share 96 KiB
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32)


@cache
def kernel() -> Callable | None:
    """The Triton kernel; None if Triton is missing. Triton loads slowly, so it is imported only when needed."""
    try:
        import triton
        import triton.language as tl
    except ImportError:
        return None

    @triton.jit
    def attend_in_tiles(
        q_start, k_start, v_start, out_start,
        q_batch, q_sequence, q_frame, k_batch, k_sequence, k_frame, v_batch, v_sequence, v_frame,
        out_batch, out_sequence, out_frame, sequences, scale,
        FRAMES: tl.constexpr, FRAME_ROWS: tl.constexpr, PACKED: tl.constexpr, WIDTH: tl.constexpr,
        COLUMNS: tl.constexpr, WIDEN: tl.constexpr,
    ):  # fmt: skip
        row, column = tl.arange(0, FRAME_ROWS * PACKED), tl.arange(0, COLUMNS)
        frame, which = row % FRAME_ROWS, row // FRAME_ROWS
        sequence = tl.program_id(0).to(tl.int64) * PACKED + which
        batch = tl.program_id(1).to(tl.int64)
        exists = (sequence < sequences) & (frame < FRAMES)
        inside = exists[:, None] & (column[None, :] < WIDTH)
        place = (batch * q_batch + sequence * q_sequence + frame * q_frame)[:, None] + column[None, :]
        q = tl.load(q_start + place, mask=inside, other=0.0)
        place = (batch * k_batch + sequence * k_sequence + frame * k_frame)[:, None] + column[None, :]
        k = tl.load(k_start + place, mask=inside, other=0.0)
        place = (batch * v_batch + sequence * v_sequence + frame * v_frame)[:, None] + column[None, :]
        v = tl.load(v_start + place, mask=inside, other=0.0)
        if WIDEN:
            q, k, v = q.to(tl.float32), k.to(tl.float32), v.to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        together = (which[:, None] == which[None, :]) & (frame[None, :] < FRAMES)
        scores = tl.where(together, scores, -1e30)
        weights = tl.exp(scores - tl.max(scores, 1)[:, None])
        weights = weights / tl.sum(weights, 1)[:, None]
        out = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        place = (batch * out_batch + sequence * out_sequence + frame * out_frame)[:, None] + column[None, :]
        tl.store(out_start + place, out.to(out_start.dtype.element_ty), mask=inside)

    return attend_in_tiles


def runs_kernels(device: torch.device) -> bool:
    """Whether Triton computes on a device: on CUDA, and on a CPU with its interpreter."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return (device.type == "cuda" or (interpreted and device.type == "cpu")) and kernel() is not None


def fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel can compute these queries, keys and values."""
    shape, tensors = q.shape, (q, k, v)
    if torch.is_grad_enabled() and any(z.requires_grad for z in tensors):
        return False
    if torch.compiler.is_compiling() or q.dtype not in PRECISIONS or any(z.dtype != q.dtype for z in tensors):
        return False
    alike = k.shape == v.shape == shape and all(z.stride(-1) == 1 for z in tensors) and q.numel() > 0
    return alike and shape[2] <= MOST_FRAMES and shape[3] <= MOST_WIDTH and shape[0] < 65_536 and runs_kernels(q.device)


def attend_short(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention, like latte.models.attention.attend, which is used where the kernel does not apply.

    Scores and their softmax are float32. In float16 and bfloat16 the attention weights are rounded before the product
    with the values, as in other kernels; float32 is never rounded to TensorFloat-32.

    Args:
        q: Queries (b, n, f, e): n sequences of f <= 64 frames, with heads up to 128 wide. Any strides.
        k: Keys, same shape.
        v: Values, same shape.

    Returns:
        The attended values (b, n, f, e), laid out as (b, f, n, e), which the next layer takes without a copy.
    """
    if not fits(q, k, v):
        return attend(q, k, v)
    b, n, f, e = q.shape
    out = q.new_empty(b, f, n, e).transpose(1, 2)
    frame_rows = 1 << (f - 1).bit_length()
    packed = min(ROWS[q.element_size()] // frame_rows, max(1, 1 << (n - 1).bit_length()))
    packed = max(packed, 16 // frame_rows)  # a product of tiles has 16 rows or more
    columns = max(16, 1 << (e - 1).bit_length())
    strides = [z.stride(axis) for z in (q, k, v, out) for axis in (0, 1, 2)]
    run: Any = kernel()  # Triton's interpreter cannot multiply bfloat16, hence WIDEN
    with torch.cuda.device(q.device) if q.is_cuda else torch.no_grad():
        run[(-(-n // packed), b)](
            q, k, v, out, *strides, n, e**-0.5, FRAMES=f, FRAME_ROWS=frame_rows, PACKED=packed, WIDTH=e,
            COLUMNS=columns, WIDEN=not q.is_cuda and q.dtype == torch.bfloat16, num_warps=4,
        )  # fmt: skip
    return out


def pack_frames(network: nn.Module) -> None:
    """Let a network's temporal attention use the kernel wherever it applies.

    Args:
        network: Changed in place: `attend` of these layers is replaced on the instances, unless it already was.
    """
    for layer in network.modules():
        if isinstance(layer, AxialAttention) and layer.kind == "temporal" and "attend" not in vars(layer):
            layer.attend = attend_short
