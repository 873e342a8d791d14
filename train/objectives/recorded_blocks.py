"""Tokens between two blocks of a network, recorded from outside while an objective computes its loss."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from latte.models.denoiser import Condition, Denoiser


def denoiser_of(network: nn.Module) -> Denoiser:
    """The denoiser in a network that is trained: the network itself, or its transformer."""
    return next(module for module in network.modules() if isinstance(module, Denoiser))


@contextmanager
def attached(denoiser: Denoiser, through_blocks: Callable[..., Tensor]) -> Iterator[None]:
    """Within this context, a function replaces Denoiser.through_blocks on one denoiser."""
    earlier = vars(denoiser).get("through_blocks")
    vars(denoiser)["through_blocks"] = through_blocks
    try:
        yield
    finally:
        del vars(denoiser)["through_blocks"]
        if earlier is not None:
            vars(denoiser)["through_blocks"] = earlier


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

    with attached(denoiser, through_blocks):
        yield found
