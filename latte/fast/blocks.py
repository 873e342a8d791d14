"""A transformer block on parts of a video; on a CPU they stay in its cache.

Spatial attention mixes the tokens of one frame, temporal attention the frames of one place, and everything else treats
each token separately. So a block of one kind of attention can be computed on some frames, or on some places, from its
first norm to the end of its MLP before the next part begins. The residual is updated in place.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from latte.fast.bfloat16_attention import attend_by_products
from latte.fast.float32_attention import attend_by_onednn
from latte.fast.kernels import FastLinear
from latte.models.attention import AxialAttention, CrossAttention, SplitAttention, attend, rotate
from latte.models.block import Block, FeedForward

Slices = tuple[slice, slice, slice]  # of the axes b, f and s
WHOLE = slice(None)
EVERYTHING = (WHOLE, WHOLE, WHOLE)


def parts(shape: torch.Size, axis: int | None, rows: int) -> Iterator[Slices]:
    """Cut tokens (b, f, s, d) into parts of about `rows` tokens, along an axis that a layer does not mix.

    Args:
        shape: The shape of the tokens.
        axis: 1, frames; 2, places within a frame; None cuts between videos only.
        rows: The approximate number of tokens in a part.
    """
    b, f, s = shape[:3]
    if b * f * s <= rows:
        yield EVERYTHING
        return
    if f * s <= rows or axis is None:
        step = max(1, rows // (f * s))
        yield from ((slice(i, i + step), WHOLE, WHOLE) for i in range(0, b, step))
        return
    length, other = (f, s) if axis == 1 else (s, f)
    count = -(-length // max(1, rows // other))
    step = -(-length // count)  # parts of nearly equal size
    for i in range(b):
        for start in range(0, length, step):
            cut = slice(start, start + step)
            yield (slice(i, i + 1), cut, WHOLE) if axis == 1 else (slice(i, i + 1), WHOLE, cut)


def of(z: Tensor, where: Slices) -> Tensor:
    """The rows of a modulation (b or 1, f or 1, 1, d) that belong to a part of the tokens; (d,) belongs to all."""
    if z.ndim == 1 or where == EVERYTHING:
        return z
    return z[where[0] if z.shape[0] > 1 else WHOLE, where[1] if z.shape[1] > 1 else WHOLE]


class Exchange(Protocol):
    """How processes that share the frames of videos exchange tokens: latte.parallel.sequence.SequenceParallel.

    Attributes:
        runs: Runs of blocks that need one exchange before them and one after them, instead of two in each block.
    """

    runs: list[range]

    @property
    def is_needed(self) -> bool:
        """Whether the frames are split in the current call."""

    def all_frames(self, x: Tensor) -> Tensor:
        """Tokens of this process's frames (b, own f, s, d) -> of its patches (b, f, own s, d)."""

    def all_patches(self, x: Tensor) -> Tensor:
        """The reverse of all_frames."""


class FastLayer:
    """A layer of a block; it ends in the product `proj`, whose input is what `inner` returns.

    All of them map tokens (b, f, s, d) to (b, f, s, d).
    """

    proj: FastLinear
    inner: Callable[..., Tensor]

    def __call__(self, *given: Any) -> Tensor:
        return self.proj(self.inner(*given))

    def add_to(self, x: Tensor, gate: Tensor | float, *given: Any) -> None:
        """x += gate * self(*given), in place."""
        self.proj.add_to(x, self.inner(*given), gate)


class FastAttention(FastLayer):
    """latte.models.attention.AxialAttention, without its layout helpers.

    Args:
        layer: The readable layer.
        pack: See FastLinear.
        exchange: If processes share the frames, what temporal attention exchanges before and after it.
    """

    def __init__(self, layer: AxialAttention, pack: bool, exchange: Exchange | None = None):
        self.layer, self.spatial = layer, layer.kind == "spatial"
        self.exchange = None if self.spatial else exchange
        self.qkv, self.proj = FastLinear(layer.qkv, pack), FastLinear(layer.proj, pack)

    def inner(self, x: Tensor) -> Tensor:
        """The attended values, heads side by side."""
        if self.exchange is None or not self.exchange.is_needed:
            return self.attended(x)
        return self.exchange.all_patches(self.attended(self.exchange.all_frames(x).contiguous())).contiguous()

    def attended(self, x: Tensor) -> Tensor:
        """Like inner, for tokens of all frames, or of all patches."""
        q, k, v = self.qkv(x).unflatten(-1, (self.layer.heads, 3, -1)).unbind(4)
        if self.layer.rope:
            q, k = rotate(q, k)
        fold = (0, 1) if self.spatial else (2, 3)  # (b f) h s e, or b (s h) f e
        y = attend_of(self.layer)(*(z.flatten(*fold).transpose(1, 2) for z in (q, k, v)))
        return y.transpose(1, 2).reshape(x.shape)


def attend_of(layer: AxialAttention | CrossAttention) -> Callable[..., Tensor]:
    """The function by which a layer attends; on a CPU, products instead of PyTorch's kernel where they are faster."""
    if layer.attend is not attend:
        return layer.attend
    by_products = {torch.bfloat16: attend_by_products, torch.float32: attend_by_onednn}
    return by_products.get(layer.proj.weight.dtype, attend)


class FastSplit:
    """latte.models.attention.SplitAttention."""

    def __init__(self, layer: SplitAttention, pack: bool, exchange: Exchange | None = None):
        self.spatial, self.temporal = FastAttention(layer.spatial, pack), FastAttention(layer.temporal, pack, exchange)

    def __call__(self, x: Tensor) -> Tensor:
        return self.spatial(x).add_(self.temporal(x))

    def add_to(self, x: Tensor, gate: Tensor | float, normed: Tensor) -> None:
        """See FastLayer.add_to."""
        self.spatial.add_to(x, gate, normed)
        self.temporal.add_to(x, gate, normed)


class FastCross(FastLayer):
    """latte.models.attention.CrossAttention; keys and values are computed once per text."""

    def __init__(self, layer: CrossAttention, pack: bool):
        self.layer, self.q, self.proj = layer, FastLinear(layer.q, pack), FastLinear(layer.proj, pack)

    def text(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of text embeddings (b, 1 or f, l, d), each (b, 1 or f, h, l, e)."""
        k, v = self.layer.kv(text).unflatten(-1, (self.layer.heads, 2, -1)).unbind(-2)
        return k.transpose(2, 3).contiguous(), v.transpose(2, 3).contiguous()

    def inner(self, x: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """The attended values, heads side by side."""
        b, f, s, d = x.shape
        texts, h = k.shape[1], self.layer.heads
        q = self.q(x).view(b * texts, f // texts * s, h, d // h).transpose(1, 2)
        mask = None if bias is None else bias.flatten(0, 1)[:, None, None].to(q.dtype)
        y = attend_of(self.layer)(q, k.flatten(0, 1), v.flatten(0, 1), mask)
        return y.transpose(1, 2).reshape(b, f, s, d)


class FastMlp(FastLayer):
    """latte.models.block.FeedForward."""

    def __init__(self, layer: FeedForward, pack: bool):
        self.up, self.proj = FastLinear(layer.fc1, pack), FastLinear(layer.fc2, pack)

    def inner(self, x: Tensor) -> Tensor:
        """The hidden values."""
        return self.up.gelu(x)


@dataclass(frozen=True)
class Branch:
    """One layer of a block with its surroundings: its norm's modulation, its gate, and where it may be cut.

    Attributes:
        layer: The readable layer, by which caches know it.
        compute: (normed tokens, *text) -> the layer's output (b, f, s, d).
        axis: The axis along which tokens may be cut: 1, frames; 2, places; 0, either; None, only between videos.
        norm: The index of the block's norm that modulates its input; None if it has no norm and no gate.
    """

    layer: nn.Module
    compute: Any
    axis: int | None
    norm: int | None


def branches(block: Block, pack: bool, exchange: Exchange | None = None) -> list[Branch]:
    """The layers of a block, in order; pack and exchange: see FastAttention."""
    found: list[Branch] = []
    for attn in block.attns:
        if isinstance(attn, SplitAttention):
            found.append(Branch(attn, FastSplit(attn, pack, exchange), None, 0))
        else:
            found.append(Branch(attn, FastAttention(attn, pack, exchange), 1 if attn.kind == "spatial" else 2, 0))
    if block.cross is not None:
        found.append(Branch(block.cross, FastCross(block.cross, pack), 1, None))
    return [*found, Branch(block.mlp, FastMlp(block.mlp, pack), 0, 1)]


def in_runs(layers: list[Branch]) -> list[tuple[int | None, list[Branch]]]:
    """Group consecutive layers that may be cut along the same axis; each group is computed part by part."""
    runs: list[tuple[int | None, list[Branch]]] = []
    for branch in layers:
        if runs and branch.axis is not None and runs[-1][0] is not None and branch.axis in (0, runs[-1][0]):
            runs[-1][1].append(branch)
        else:
            runs.append((branch.axis, [branch]))
    return [(1 if axis == 0 else axis, run) for axis, run in runs]
