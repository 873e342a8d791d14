"""How long a training step takes on this machine, estimated before the training from a small part of it."""

from copy import deepcopy
from dataclasses import dataclass

import torch

from latte.device import arithmetic
from latte.eval.bench.resources import OperationCount, seconds_of, weight_bytes
from latte.eval.bench.train_speed import matmul_rate
from latte.eval.bench.training_need import (
    CPU,
    Data,
    TrainingNeed,
    objective_of,
    planned_step,
    with_least_depth,
    without_values,
)
from latte.train.base_config import TrainConfig
from latte.train.step import update_ema

LEAST, LONGEST = 0.5, 5.0  # seconds of the measurement; if it takes more, only matrix products are measured
SIDES = {"cuda": 8192, "cpu": 512}  # of the matrices; on a CPU small, as some multiply bfloat16 very slowly


@dataclass(frozen=True)
class StepTime:
    """An estimate.

    Attributes:
        seconds: The seconds of a whole step in one process.
        how: What was measured, in words.
    """

    seconds: float
    how: str


def step_time(config: TrainConfig, data: Data, need: TrainingNeed, device: torch.device) -> StepTime:
    """Estimate the time of a step of one process, without reading and encoding its clips.

    A micro-batch goes through a network of least depth, forward and backward, and its time is scaled by the number of
    operations; that of the update is scaled by the number of weights. If this would take longer than LONGEST, a single
    clip is used. If that would be too long as well, the operations of the whole step are divided by the speed of large
    matrix products, which no training reaches.

    Args:
        config: The training.
        data: What is known about its data.
        need: What it needs, as training_need counts it.
        device: Where to measure.
    """
    small = with_least_depth(config)
    passes = 4 if config.gradient_checkpointing else 3  # forward, twice as much backward, and forward again
    rate = matmul_rate(config.precision, device, 3, SIDES[device.type])
    for clips in (need.clips, 1):
        objective = objective_of(small, data, CPU)
        with without_values(), OperationCount() as counted:
            planned_step(objective, clips, device.type).loss()
        if passes * counted.total / rate < LONGEST:
            break
    else:
        seconds = passes * need.operations * need.micro_batches / rate
        return StepTime(seconds, f"its operations at {rate / 1e9:.0f} GFLOP/s, the speed of large matrix products here")
    step = planned_step(objective_of(small, data, device), clips, device.type)
    averaged = deepcopy(step.network).requires_grad_(False)

    def compute() -> None:
        with arithmetic(config.precision):
            step.loss().backward()

    def update() -> None:
        step.optimizer.step()
        update_ema(averaged, step.network, config.ema_decay, 0)

    compute()  # work that is only done once does not count
    update()
    computing, updating = (seconds_of(work, device, LEAST) for work in (compute, update))
    share = need.operations * need.micro_batches / counted.total
    weights = need.weights * need.shares / weight_bytes([step.network])
    part = f"{clips} clip{'s' if clips > 1 else ''} through {blocks_of(small)}, {computing:.3g} s"
    return StepTime(computing * share + updating * weights, f"{part}, times {share:.3g} by the operations")


def blocks_of(config: TrainConfig) -> str:
    """What the measured network is, in words."""
    return "two of its blocks" if config.kind in ("latte", "t2v") else "its network"
