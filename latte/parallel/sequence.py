"""Dynamic sequence parallelism (Zhao et al. 2024, arXiv 2403.10266), attached to a denoiser from outside.

Each process holds some of the frames. Only temporal attention needs all of them: for it, one all-to-all exchanges
frames for patches, and another one exchanges them back. Patches include the tokens in front of them, if there are any.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from latte.models.attention import AxialAttention
from latte.models.denoiser import Condition, Denoiser
from latte.parallel.layout import Layout
from latte.parallel.split import Split
from latte.processes import Ranks
from latte.replaced_methods import replace_methods

FRAMES, PATCHES = 1, 2  # axes of tokens (b, f, s, d)


def temporal_runs(kinds: Sequence[str]) -> list[range]:
    """The longest runs of two or more blocks without spatial attention, between which nothing needs to be exchanged."""
    starts = [i for i, kind in enumerate(kinds) if kind == "t" and (i == 0 or kinds[i - 1] != "t")]
    runs = [range(i, next((j for j in range(i, len(kinds)) if kinds[j] != "t"), len(kinds))) for i in starts]
    return [run for run in runs if len(run) > 1]


class SequenceParallel:
    """A denoiser whose trunk this process computes for its part of the batch and of the frames.

    Args:
        network: The denoiser.
        choices: Layouts; each call takes the first one that divides its batch evenly.
        ranks: All processes; with them, the first call checks that they were given the same input. None: no check.
    """

    def __init__(self, network: Denoiser, choices: Sequence[Layout], ranks: Ranks | None = None):
        self.network, self.choices, self.unchecked = network, choices, ranks
        self.whole_trunk, self.whole_position = network.trunk, network.add_temporal_position
        self.runs = temporal_runs([str(block.kinds) for block in network.blocks])
        self.attached: dict[tuple[nn.Module, str], Callable] = {}  # replacements of methods that nothing else replaces
        self.split, self.frames, self.patches = Split(), 0, 0  # of the last call with temporal attention

    def replacements(self) -> Iterator[tuple[nn.Module, str, Callable]]:
        """Yield (module, name of a method, its replacement on that instance)."""
        yield self.network, "trunk", self.trunk
        yield self.network, "add_temporal_position", self.add_temporal_position
        blocks: list[Any] = list(self.network.blocks)
        for run in self.runs:
            first, last = blocks[run[0]], blocks[run[-1]]
            yield first, "forward", lambda x, *rest, forward=first.forward: forward(self.all_frames(x), *rest)
            yield last, "forward", lambda x, *rest, forward=last.forward: self.all_patches(forward(x, *rest))
        for block in (block for i, block in enumerate(blocks) if not any(i in run for run in self.runs)):
            for layer in block.modules():
                if isinstance(layer, AxialAttention) and layer.kind == "temporal":
                    call = lambda x, forward=layer.forward: self.all_patches(forward(self.all_frames(x)))
                    yield layer, "forward", call

    def trunk(self, x: Tensor, condition: Condition, temporal: bool) -> Tensor:
        """Like Denoiser.trunk; the output (b, f, c, h, w) is the same in all processes."""
        self.check_same(x, condition)

        def part(x: Tensor, rows: slice, own: slice) -> Tensor:
            given = Condition._make(z if z is None else z[rows] for z in condition).select(own)
            return self.whole_trunk(x, given, temporal)

        return self.share(x, part, temporal)

    def share(self, x: Tensor, compute: Callable[[Tensor, slice, slice], Tensor], temporal: bool = True) -> Tensor:
        """Compute a batch together.

        Args:
            x: Latents (b, f, c, h, w), the same in all processes.
            compute: From this process's part of x, the rows of x that it holds and the frames (or tubelets), to the
                output for them.
            temporal: Whether temporal attention is computed.

        Returns:
            The whole output (b, f, c, h, w), in all processes.

        Raises:
            ValueError: There are fewer frames than processes that share them.
        """
        layout = next(choice for choice in self.choices if len(x) % choice.batch.size == 0)
        q, frames = self.network.tubelet, x.shape[1] // self.network.tubelet
        if temporal and frames < layout.frames.size and layout is self.choices[0]:
            raise ValueError(
                f"{layout.frames.size} processes cannot share the {frames} frames of a video: start fewer processes"
            )
        rows, own = layout.batch.own(len(x)), layout.frames.own(frames)
        if temporal:  # still images exchange nothing, and must not change the state that recomputed blocks read
            self.split, self.frames = layout.frames, frames
        out = compute(x[rows, own.start * q : own.stop * q], rows, own).unflatten(1, (-1, q))
        return layout.batch.gather(layout.frames.gather(out, 1, frames), 0, len(x)).flatten(1, 2)

    @property
    def is_needed(self) -> bool:
        """Whether the frames are split, so that temporal attention exchanges tokens."""
        return self.split.size > 1

    def add_temporal_position(self, x: Tensor) -> Tensor:
        """Like Denoiser.add_temporal_position, for this process's frames."""
        positions = self.whole_position(x.new_zeros(1, self.frames, 1, x.shape[-1]))
        return x + positions[:, self.split.own(self.frames)]

    def all_frames(self, x: Tensor) -> Tensor:
        """Tokens (b, own f, s, d) -> (b, f, own s, d)."""
        self.patches = x.shape[PATCHES]
        return self.split.switch(x, FRAMES, self.frames)

    def all_patches(self, x: Tensor) -> Tensor:
        """Tokens (b, f, own s, d) -> (b, own f, s, d)."""
        return self.split.switch(x, PATCHES, self.patches)

    def check_same(self, x: Tensor, condition: Condition) -> None:
        """In the first call, raise ValueError if the processes do not have the same input."""
        if self.unchecked is not None:
            given = [z for z in (x, condition.blocks, condition.text, condition.tokens) if z is not None]
            self.unchecked.agree("noise, classes or prompts", checksum(given))
            self.unchecked = None


def sharing_of(network: nn.Module) -> SequenceParallel | None:
    """How processes share the calls of a network; None if they do not."""
    owner = getattr(vars(network).get("trunk"), "__self__", None)
    return owner if isinstance(owner, SequenceParallel) else None


def checksum(tensors: Sequence[Tensor]) -> str:
    """The sum of the tensors' bytes as integers, so that rounding plays no role."""
    sums = [z.detach().contiguous().flatten().view(torch.uint8).sum(dtype=torch.int64) for z in tensors]
    return " ".join(str(total) for total in torch.stack(sums).tolist())


def attach(network: Denoiser, choices: Sequence[Layout], ranks: Ranks | None = None) -> Callable[[], None]:
    """Let the processes share the calls of a denoiser, which all must make; returns a function that detaches it.

    The output and the gradients' mean over the processes equal those of one process, up to rounding.

    Args: See SequenceParallel.
    """
    sharing = SequenceParallel(network, choices, ranks)
    replacements = list(sharing.replacements())
    own = {(module, name): function for module, name, function in replacements if name not in vars(module)}
    sharing.attached.update(own)
    return replace_methods(replacements)


@contextmanager
def sequence_parallel(network: Denoiser, choices: Sequence[Layout], ranks: Ranks | None = None) -> Iterator[None]:
    """Within the context, the processes share the calls of a denoiser: see attach."""
    detach = attach(network, choices, ranks)
    try:
        yield
    finally:
        detach()
