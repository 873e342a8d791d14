"""Tokens between two blocks of a network, recorded from outside while an objective computes its loss."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from latte.models.denoiser import Condition, Denoiser


@contextmanager
def attached(denoiser: Denoiser, through_blocks: Callable[..., Tensor]) -> Iterator[None]:
    """Inside it, a function takes the place of Denoiser.through_blocks on one denoiser."""
    earlier = vars(denoiser).get("through_blocks")
    vars(denoiser)["through_blocks"] = through_blocks
    try:
        yield
    finally:
        del vars(denoiser)["through_blocks"]
        if earlier is not None:
            vars(denoiser)["through_blocks"] = earlier


@contextmanager
def recorded(denoiser: Denoiser, blocks: int) -> Iterator[list[Tensor]]:
    """Inside it, each pass of clips through a denoiser is recorded; still images are not.

    It is entered before token_routing.routed, of whose parts it then sees one.

    Args:
        denoiser: The denoiser.
        blocks: After how many blocks.

    Yields:
        A list that grows by the tokens (b, f, s, d) of a pass, without those of the condition. They are part of the
        graph, so a loss of them trains the blocks before.
    """
    found: list[Tensor] = []
    plain = denoiser.through_blocks

    def through_blocks(
        x: Tensor, condition: Condition, temporal: bool, numbers: range = range(len(denoiser.blocks))
    ) -> Tensor:
        if temporal and blocks - 1 in numbers:
            x = plain(x, condition, temporal, range(numbers.start, blocks))
            found.append(x if condition.tokens is None else x[:, :, condition.tokens.shape[2] :])
            numbers = range(blocks, numbers.stop)
        return plain(x, condition, temporal, numbers)

    with attached(denoiser, through_blocks):
        yield found
