"""The training options that act between the blocks of a network, without any change to the network."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from latte.models.denoiser import Denoiser
from latte.train.config import LatentTrainConfig
from latte.train.objectives.dispersive import dispersive_loss
from latte.train.objectives.recorded_blocks import recorded
from latte.train.objectives.self_alignment import alignment_loss, less_noisy, teacher_tokens
from latte.train.objectives.token_routing import gather_places, route, routed, staying


class BetweenBlocks:
    """Token routing, the dispersive loss and self-alignment on a micro-batch, as far as a run's settings ask for them.

    They act only in training mode, so that a loss that is merely measured uses all tokens.

    Args:
        config: The settings.
        denoiser: The network that learns.
        side: Height and width of its latents.
        step: The number of the training step, from 0.
        slots: The slots of the micro-batch.

    Raises:
        ValueError: The settings do not fit the network.
    """

    def __init__(
        self, config: LatentTrainConfig, denoiser: Denoiser, side: int, step: int = 0, slots: range = range(1)
    ):
        self.config, self.denoiser, self.step, self.slots = config, denoiser, step, slots
        depth = len(denoiser.blocks)
        self.skipped, self.places = range(0), None
        if config.route_share:
            self.skipped = route(config, denoiser)
            self.places = staying(config, (side // denoiser.patch_size) ** 2, step, slots)
        self.dispersive_depth = config.dispersive_block or max(1, depth // 4)
        self.align_depth = config.align_block or max(1, depth // 3)
        self.target_depth = config.align_teacher_block or max(1, 2 * depth // 3)
        self.tokens: dict[str, list[Tensor]] = {}
        for name, blocks in (
            ("dispersive_block", config.dispersive_weight and self.dispersive_depth),
            ("align_block", config.align_weight and self.align_depth),
            ("align_teacher_block", config.align_weight and self.target_depth),
        ):
            if blocks > depth:
                raise ValueError(f"{name} is {blocks}, but the network has {depth} blocks")
        if config.dispersive_weight and self.dispersive_depth - 1 in self.skipped:
            raise ValueError(
                f"the dispersive loss, after {self.dispersive_depth} blocks, compares tokens at the same places, but "
                f"routing leaves different ones in each clip there: choose a dispersive_block up to "
                f"{self.skipped.start}, or more than {self.skipped.stop}"
            )

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within this context, the network trains on the micro-batch as the settings ask."""
        with ExitStack() as stack:
            if self.denoiser.training and self.config.dispersive_weight:
                self.tokens["dispersive"] = stack.enter_context(recorded(self.denoiser, self.dispersive_depth))
            if self.denoiser.training and self.config.align_weight:
                head: Any = self.denoiser.alignment_head
                self.tokens["align"] = stack.enter_context(recorded(self.denoiser, self.align_depth, head))
            if self.denoiser.training and self.places is not None:
                stack.enter_context(routed(self.denoiser, self.skipped, self.places))
            yield

    def terms(
        self, target: nn.Module | None, measure: Callable[..., Any], index: Tensor, count: int
    ) -> dict[str, tuple[float, Tensor]]:
        """The additional terms of the loss, after the network has computed its own.

        Args:
            target: The averaged network, whose tokens the network is aligned with; None without self-alignment.
            measure: See latte.train.objectives.self_alignment.teacher_tokens.
            index: The steps of the schedule at which the network saw the clips (b,).
            count: Steps of the schedule.

        Returns:
            The weight and the value of each term, by the name to log.
        """
        cfg, found = self.config, {}
        if tokens := self.tokens.get("dispersive"):
            found["dispersive"] = cfg.dispersive_weight, dispersive_loss(tokens[0], cfg.dispersive_temperature)
        if (tokens := self.tokens.get("align")) and target is not None:
            earlier = less_noisy(cfg, index, count, self.step, self.slots)
            wanted = teacher_tokens(target, self.target_depth, measure, earlier)
            if self.places is not None and self.align_depth - 1 in self.skipped:
                wanted = gather_places(wanted, self.places)
            found["align"] = cfg.align_weight, alignment_loss(tokens[0], wanted)
        return found
