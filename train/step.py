"""One optimiser step: the learning rate, the gradients of all micro-batches, their norm, the update and the EMA."""

import math
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from latte.device import arithmetic
from latte.processes import Ranks
from latte.train.base_config import TrainConfig
from latte.train.parallel import Gradients, micro_batches

GROWTH_INTERVAL = 2000  # steps without overflow after which the loss scale doubles, as in PyTorch's GradScaler


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of a step, counted from 0. The cosine is that of Loshchilov & Hutter 2017, arXiv 1608.03983."""
    if config.schedule == "trapezoid":
        return config.learning_rate * trapezoid(config, step)
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def warn_if_not_warm(config: TrainConfig) -> None:
    """Warn if the run ends before its warmup does, so that it never reaches its learning rate."""
    if config.warmup > config.steps:
        rises = f"the learning rate rises over warmup={config.warmup} steps, but the run ends after {config.steps}"
        warnings.warn(f"{rises}, at {learning_rate(config, config.steps - 1):.3g}: lower warmup", stacklevel=3)


def trapezoid(config: TrainConfig, step: int) -> float:
    """The learning rate's factor in a step: it rises linearly to 1, stays there, and falls to 0 in the last steps.

    The constant phase and the fall are those of WSD (MiniCPM: Hu et al. 2024, arXiv 2404.06395). The fall is linear, or
    1 - sqrt(elapsed fraction of it), which Haegele et al. 2024 (arXiv 2405.18392) found to be better.
    """
    rise = (step + 1) / config.warmup if step < config.warmup else 1.0
    over = max(0.0, 1 - (config.steps - step) / (config.cooldown * config.steps))
    fall = 1 - (over if config.cooldown_shape == "linear" else math.sqrt(over))
    return min(rise, fall)


def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Update the exponential moving average of the weights.

    Args:
        ema: The network with the averaged weights, changed in place.
        network: The network that learns. Weights that only it has are not averaged.
        decay: The largest decay. The decay is min(decay, (1 + step) / (10 + step)), so that short runs average too.
        step: The number of the step, from 0.
    """
    move_towards(ema, network, 1 - min(decay, (1 + step) / (10 + step)))


@torch.no_grad()
def move_towards(average: nn.Module, network: nn.Module, weight: float) -> None:
    """Move averaged weights, in place, towards the network's weights of the same names, by the fraction `weight`."""
    parameters = dict(network.named_parameters())
    pairs = [(local_part(old), local_part(parameters[name])) for name, old in average.named_parameters()]
    torch._foreach_lerp_(*map(list, zip(*pairs)), weight)


def local_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@dataclass
class StepHistory:
    """State that later steps depend on besides weights and optimiser. Checkpoints save it as "health" in state.json.

    With fp16, the gradients are those of scale * loss, since small gradients would underflow. If they overflow, the
    scale is halved and the step is skipped.

    Attributes:
        skipped: The steps whose loss or gradients were not finite.
        scale: The loss scale; 1 unless the precision is fp16.
        good: How many steps were taken since the scale last changed.
    """

    skipped: list[int] = field(default_factory=list)
    scale: float = 1.0
    good: int = 0

    def step_taken(self, fp16: bool) -> None:
        """Record a step whose loss and gradients were finite."""
        self.good += fp16
        if self.good == GROWTH_INTERVAL:
            self.scale, self.good = self.scale * 2, 0

    def step_skipped(self, step: int, fp16: bool, limit: int) -> None:
        """Record a step that was skipped.

        Raises:
            ValueError: `limit` of the last 2 * limit steps were skipped.
        """
        self.skipped.append(step)
        if fp16:
            self.scale, self.good = self.scale / 2, 0
        if len([recent for recent in self.skipped[-limit:] if recent > step - 2 * limit]) == limit:
            raise ValueError(
                f"the loss or the gradients of {limit} steps, up to step {step}, were not finite: check the data, or "
                "start a new run with a lower learning_rate"
            )


def optimizer_step(
    config: TrainConfig,
    gradients: Gradients,
    optimizer: torch.optim.Optimizer,
    step: int,
    ranks: Ranks,
    history: StepHistory,
) -> dict[str, float]:
    """Take an optimiser step over global_batch_size clips. It is skipped if its loss or gradients are not finite.

    Args:
        config: The run's settings.
        gradients: Computes the gradients.
        optimizer: The optimiser of the network's parameters.
        step: The number of the step, from 0.
        ranks: This process among all.
        history: Records whether the step was taken or skipped.

    Returns:
        The numbers to log, the same in every process.
    """
    for group in optimizer.param_groups:
        began = step >= group.get("begins", 0)
        group["lr"] = learning_rate(config, step) * group.get("rate", 1.0) * began
    optimizer.zero_grad(set_to_none=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    batches, sums = micro_batches(config, ranks), {}
    with arithmetic(config.precision):
        for slots in batches:
            share = len(slots) / config.global_batch_size
            loss, terms = gradients.accumulate(step, slots, share * history.scale, slots is batches[-1])
            for name, term in {**terms, "loss": loss.detach()}.items():
                sums[name] = sums.get(name, 0) + share * term.float()
        gradients.finish()
    total = ranks.sum(torch.stack(list(sums.values()))) / config.sequence_parallel  # equal if they share a clip
    logged = dict(zip(sums, total.tolist()))
    for parameter in parameters:
        if history.scale != 1 and parameter.grad is not None:
            local_part(parameter.grad).div_(history.scale)
    largest = config.clip_grad if step >= config.clip_from else math.inf
    norm = nn.utils.clip_grad_norm_(parameters, largest)
    norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if math.isfinite(logged["loss"]) and math.isfinite(norm):
        optimizer.step()
        history.step_taken(config.precision == "fp16")
    else:
        history.step_skipped(step, config.precision == "fp16", config.skip_limit)
    return {**logged, "grad_norm": norm, "learning_rate": learning_rate(config, step)}
