"""One optimiser step: learning rate, gradients of all units, their norm, the update, the average."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from latte.device import arithmetic
from latte.processes import Ranks
from latte.train.config import TrainConfig
from latte.train.parallel import FixedPoint, Replicas, Shards, micro_batches

Gradients = Replicas | Shards | FixedPoint

GROWTH = 2000  # steps without overflow after which the loss's scale doubles, as PyTorch's GradScaler has it


def learning_rate(config: TrainConfig, step: int) -> float:
    """Of optimiser step `step`, counted from 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential average of the weights; its decay rises with the number of steps, so that short runs average too."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for average, parameter in zip(ema.parameters(), network.parameters()):
        local(average).lerp_(local(parameter), weight)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@dataclass
class Health:
    """What earlier steps left behind for later ones, besides weights: a checkpoint keeps it.

    In fp16 gradients are computed of scale * loss, or small ones would be 0; where they overflow, the scale halves.
    """

    skipped: list[int] = field(default_factory=list)  # steps whose loss or gradients were not finite
    scale: float = 1.0
    good: int = 0  # steps since the scale last changed

    def sound(self, fp16: bool) -> None:
        """Note a step that was taken."""
        self.good += fp16
        if self.good == GROWTH:
            self.scale, self.good = self.scale * 2, 0

    def skip(self, step: int, fp16: bool, limit: int) -> None:
        """Note a step that was not. ValueError: of the last 2 * limit steps, `limit` were not."""
        self.skipped.append(step)
        if fp16:
            self.scale, self.good = self.scale / 2, 0
        if len([late for late in self.skipped[-limit:] if late > step - 2 * limit]) == limit:
            raise ValueError(
                f"the losses or gradients of {limit} steps, up to {step}, are not finite: look at the data, "
                "or lower learning_rate (a new run)"
            )


def optimise(
    config: TrainConfig, gradients: Gradients, optimizer: torch.optim.Optimizer, step: int, ranks: Ranks, health: Health
) -> dict[str, float]:
    """One step over global_batch_size clips; the numbers to log, the same in every process.

    A step whose loss or gradients are not finite changes nothing and is noted in `health`.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    optimizer.zero_grad(set_to_none=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    units, sums = micro_batches(config, ranks), {}
    with arithmetic(config.precision):
        for slots in units:
            share = len(slots) / config.global_batch_size
            value, terms = gradients.add(step, slots, share * health.scale, slots is units[-1])
            for name, term in {**terms, "loss": value.detach()}.items():
                sums[name] = sums.get(name, 0) + share * term.float()
        gradients.finish()
    logged = dict(zip(sums, ranks.sum(torch.stack(list(sums.values()))).tolist()))
    for parameter in parameters:
        if health.scale != 1 and parameter.grad is not None:
            local(parameter.grad).div_(health.scale)
    most = config.clip_grad if step >= config.clip_from else math.inf
    norm = nn.utils.clip_grad_norm_(parameters, most)
    norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if math.isfinite(logged["loss"]) and math.isfinite(norm):
        optimizer.step()
        health.sound(config.precision == "fp16")
    else:
        health.skip(step, config.precision == "fp16", config.skip_limit)
    return {**logged, "grad_norm": norm, "learning_rate": learning_rate(config, step)}
