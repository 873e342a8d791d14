"""Tokens between two blocks of a network, recorded from outside while an objective computes its loss."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from latte.models.denoiser import Condition, Denoiser
from latte.replaced_methods import replaced_methods


@contextmanager
def recorded(
    denoiser: Denoiser, blocks: int, head: nn.Module | None = None, last: bool = False
) -> Iterator[list[Tensor]]:
    """Within this context, each pass of clips through a denoiser is recorded; passes of still images are not.

    Enter it before token_routing.routed, which runs the blocks in parts; one of these parts is then recorded.

    Args:
        denoiser: The denoiser.
        blocks: The number of blocks after which tokens are recorded.
        head: A module that the recorded tokens go through. The denoiser calls it, which gathers its weights under
            FSDP2.
        last: Skip all later blocks, if nothing else of the output is needed.

    Yields:
        A list to which each pass adds its tokens (b, f, s, d), without those of the condition. They are part of the
        graph, so a loss on them trains the earlier blocks.
    """
    found: list[Tensor] = []
    plain = denoiser.through_blocks

    def through_blocks(
        x: Tensor, condition: Condition, temporal: bool, numbers: range = range(len(denoiser.blocks))
    ) -> Tensor:
        if temporal and blocks - 1 in numbers:
            x = plain(x, condition, temporal, range(numbers.start, blocks))
            tokens = x if condition.tokens is None else x[:, :, condition.tokens.shape[2] :]
            found.append(tokens if head is None else head(tokens))
            numbers = range(blocks, numbers.stop)
        return x if last else plain(x, condition, temporal, numbers)

    with replaced_methods([(denoiser, "through_blocks", through_blocks)]):
        yield found
