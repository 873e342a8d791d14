"""The training loop: loss, step, average, log, save. A stopped and resumed run ends with the same bits."""

import json
import math
import signal
import time
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from torch import nn
from tqdm import tqdm

from latte.files import write_json, write_text
from latte.train import checkpoint
from latte.train.config import TrainConfig
from latte.train.data import Clips
from latte.train.objectives import finish, objective
from latte.train.precision import attend_in_float32, computing


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
        average.lerp_(parameter, weight)


class Stop:
    """Turns SIGTERM and SIGINT into a wish, answered at the next step boundary."""

    def __init__(self):
        self.wished = False
        self.before = {number: signal.signal(number, self.wish) for number in (signal.SIGTERM, signal.SIGINT)}

    def wish(self, *_) -> None:
        self.wished = True

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def optimise(config: TrainConfig, loss, network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> dict:
    """One optimiser step over global_batch_size clips; the numbers to log."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    optimizer.zero_grad(set_to_none=True)
    share, logged = config.micro / config.global_batch_size, {}
    for start in range(0, config.global_batch_size, config.micro):
        with computing(config.precision):
            value, terms = loss(network, step, range(start, start + config.micro))
        (share * value).backward()
        for name, term in {**terms, "loss": value.detach()}.items():
            logged[name] = logged.get(name, 0.0) + share * float(term)
    norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip_grad)
    if not math.isfinite(logged["loss"]) or not torch.isfinite(norm):
        raise ValueError(f"the loss of step {step} is not finite: lower learning_rate, or look at the data")
    optimizer.step()
    return {**logged, "grad_norm": float(norm), "learning_rate": learning_rate(config, step)}


def train(config: TrainConfig, run: Path, clips: Clips, resume: bool = True) -> Path:
    """Train into the folder `run`, going on from its newest sound checkpoint; returns the folder of the result.

    run/ gets config.yaml, metrics.jsonl, checkpoints/ and, at the end, final/: averaged weights and classes.json.
    ValueError: the folder holds another configuration, or resume is off and it holds checkpoints.
    """
    start_folder(config, run, resume)
    torch.manual_seed(config.seed)
    loss = objective(config, clips)
    network, ema = loss.network().train(), loss.network().requires_grad_(False)
    ema.load_state_dict(network.state_dict())
    attend_in_float32(network)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay, foreach=False
    )
    first = restore(run, network, ema, optimizer)
    stop, began = Stop(), time.perf_counter()
    bar = tqdm(total=config.steps, initial=first, desc=run.name, unit="step", smoothing=0.05)
    try:
        with (run / "metrics.jsonl").open("a") as metrics:
            for step in range(first, config.steps):
                logged = optimise(config, loss, network, optimizer, step)
                update_ema(ema, network, config.ema_decay, step)
                done = step + 1
                bar.update()
                bar.set_postfix(loss=f"{logged['loss']:.4f}", grad=f"{logged['grad_norm']:.2f}", refresh=False)
                if done % config.log_every == 0 or done == config.steps:
                    rate = (done - first) * config.global_batch_size / (time.perf_counter() - began)
                    metrics.write(json.dumps({"step": done, **logged, "clips_per_second": round(rate, 2)}) + "\n")
                    metrics.flush()
                if done % config.save_every == 0 or done == config.steps or stop.wished:
                    save(config, run, done, network, ema, optimizer)
                if stop.wished and done < config.steps:
                    raise KeyboardInterrupt
    finally:
        bar.close()
        stop.restore()
    finish(ema, config, clips, run / "final")
    if clips.names:
        write_json(run / "final" / "classes.json", {"names": clips.names})
    return run / "final"


def start_folder(config: TrainConfig, run: Path, resume: bool) -> None:
    """Make the run's folder, or see that it belongs to the same run, and cut metrics that no checkpoint covers."""
    run.mkdir(parents=True, exist_ok=True)
    file = run / "config.yaml"
    if file.exists():
        before = yaml.safe_load(file.read_text())
        changed = [name for name, value in asdict(config).items() if before.get(name) != value]
        free = {"steps", "log_every", "save_every", "keep", "micro_batch_size", "gradient_checkpointing"}
        if set(changed) - free:
            names = ", ".join(sorted(set(changed) - free))
            raise ValueError(f"{run} holds a run with other settings ({names}): give another folder")
        if not resume and checkpoint.found(run):
            raise ValueError(f"{run} already holds checkpoints: give another folder, or resume")
    write_text(file, yaml.safe_dump(asdict(config), sort_keys=False))


def save(config: TrainConfig, run: Path, step: int, network: nn.Module, ema: nn.Module, optimizer) -> None:
    """Everything that the next step depends on."""
    tables = {
        "model": network.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": checkpoint.optimizer_tensors(optimizer),
    }
    notes = {"config": asdict(network.config), "state": {"step": step, "run": asdict(config)}}
    checkpoint.save(run, step, tables, notes, config.keep)


def restore(run: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take up the newest sound checkpoint; the number of steps done. Metrics past it are cut: they will come again."""
    folder = checkpoint.latest(run)
    step = 0
    if folder is not None:
        step = checkpoint.read_state(folder)["step"]
        network.load_state_dict(checkpoint.read(folder, "model"))
        ema.load_state_dict(checkpoint.read(folder, "ema"))
        checkpoint.restore_optimizer(optimizer, checkpoint.read(folder, "optimizer"))
    metrics = run / "metrics.jsonl"
    if metrics.exists():
        kept = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] <= step]
        write_text(metrics, "".join(f"{line}\n" for line in kept))
    return step
