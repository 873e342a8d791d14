"""A sampling run with the fast blocks, of which each process computes its part of the batch and of the frames."""

from torch import Tensor

from latte.fast.fast_run import FastRun
from latte.models.denoiser import Condition
from latte.parallel.sequence import SequenceParallel
from latte.plans.layer_cache import LayerCache


class SharedRun:
    """Like FastRun, for processes that share the calls of its network.

    Args:
        sharing: How they share them.
        condition: See FastRun.
        timesteps: See FastRun.
        cache: See FastRun. It holds this process's part of the outputs.
    """

    def __init__(self, sharing: SequenceParallel, condition: Condition, timesteps: int, cache: LayerCache | None):
        self.sharing = sharing
        self.unchecked: Condition | None = condition  # until the first call has compared it
        self.run = FastRun(sharing.network, condition, timesteps, cache, sharing)

    def replace_text(self, condition: Condition) -> None:
        """See FastRun.replace_text."""
        self.run.replace_text(condition)

    def __call__(self, x: Tensor, k: int, halves: int = 1) -> Tensor:
        """Like FastRun.__call__; all processes get the whole output."""
        if self.unchecked is not None:
            self.sharing.check_same(x, self.unchecked)
            self.unchecked = None

        def part(x: Tensor, rows: slice, own: slice) -> Tensor:
            times = halves if rows == slice(0, halves * count) else 1  # a half of guidance is not repeated
            return self.run(x[: len(x) // times], k, times, rows)

        count = len(x)
        return self.sharing.share(x.repeat(halves, 1, 1, 1, 1), part)
