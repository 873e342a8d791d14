"""The training options that act between the blocks of a network, which knows nothing of them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from latte.models.denoiser import Denoiser
from latte.train.config import LatentTrainConfig
from latte.train.objectives.dispersive import dispersive_loss
from latte.train.objectives.recorded_blocks import recorded
from latte.train.objectives.token_routing import route, routed, staying


def denoiser_of(network: nn.Module) -> Denoiser:
    """The denoiser in a network that is trained: the network itself, or its transformer."""
    return next(module for module in network.modules() if isinstance(module, Denoiser))


class BetweenBlocks:
    """Token routing and the dispersive loss, as far as a run's settings ask for them.

    They act while the network is in training mode, so that a loss that is only measured is that of all its tokens.

    Args:
        config: The settings.
        denoiser: The network that learns.
        side: Height and width of its latents.

    Raises:
        ValueError: The settings do not fit the network.
    """

    def __init__(self, config: LatentTrainConfig, denoiser: Denoiser, side: int):
        self.config, self.denoiser, depth = config, denoiser, len(denoiser.blocks)
        self.places = (side // denoiser.patch_size) ** 2
        self.skipped = range(0)
        if config.route_share:
            self.skipped = route(config, denoiser)
            staying(config, self.places, 0, range(1))  # refuses a share that is no token
        self.dispersive = config.dispersive_block or max(1, depth // 4)
        if config.dispersive_weight and self.dispersive > depth:
            raise ValueError(f"dispersive_block is {self.dispersive}, but the network has {depth} blocks")
        if config.dispersive_weight and self.dispersive in self.skipped[1:]:
            raise ValueError(
                f"the dispersive loss, after {self.dispersive} blocks, compares tokens of the same places, but there "
                f"clips have different ones: choose a dispersive_block up to {self.skipped.start}, or from "
                f"{self.skipped.stop} on"
            )

    @contextmanager
    def attached(self, step: int, slots: range) -> Iterator[list[Tensor]]:
        """Inside it, the network trains on some slots of a step as the settings ask.

        Yields:
            The tokens that `terms` takes, once the network has computed them.
        """
        tokens: list[Tensor] = []
        with ExitStack() as stack:
            if self.denoiser.training and self.config.dispersive_weight:
                tokens = stack.enter_context(recorded(self.denoiser, self.dispersive))
            if self.denoiser.training and self.config.route_share:
                places = staying(self.config, self.places, step, slots)
                stack.enter_context(routed(self.denoiser, self.skipped, places))
            yield tokens

    def terms(self, tokens: list[Tensor]) -> dict[str, tuple[float, Tensor]]:
        """The further terms of the loss of these tokens, by the name to log: weight and value."""
        if not tokens:
            return {}
        loss = dispersive_loss(tokens[0], self.config.dispersive_temperature)
        return {"dispersive": (self.config.dispersive_weight, loss)}
