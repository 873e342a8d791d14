"""The training loop: loss, step, average, log, save. A stopped and resumed run ends with the same bits."""

import json
import math
import signal
import time
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from tqdm import tqdm

from latte.files import write_text
from latte.train import checkpoint
from latte.train.config import MAY_CHANGE, TrainConfig, resolve
from latte.train.data import Clips
from latte.train.objectives import OBJECTIVES
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
        with computing(config.precision, next(network.parameters()).device):
            value, terms = loss(network, step, range(start, start + config.micro))
        (share * value).backward()
        for name, term in {**terms, "loss": value.detach()}.items():
            logged[name] = logged.get(name, 0.0) + share * float(term)
    norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip_grad)
    if not math.isfinite(logged["loss"]) or not torch.isfinite(norm):
        raise ValueError(f"the loss of step {step} is not finite: look at the data, or lower learning_rate (a new run)")
    optimizer.step()
    return {**logged, "grad_norm": float(norm), "learning_rate": learning_rate(config, step)}


def train(
    config: TrainConfig, run: Path, clips: Clips, resume: bool = True, device: str | torch.device = "cpu"
) -> Path:
    """Train into the folder `run`, going on from its newest sound checkpoint; returns the folder of the result.

    run/ gets config.yaml, metrics.jsonl, checkpoints/ and, at the end, final/: averaged weights, and with a Latte its
    VAE and class names. ValueError: the folder holds checkpoints of a run with other settings or other data, or holds
    any and resume is off.
    """
    if not resume and checkpoint.found(run):
        raise ValueError(f"{run} already holds checkpoints: give another folder, or resume")
    torch.manual_seed(config.seed)
    loss = OBJECTIVES[config.kind](clips, config, device)
    network, ema = loss.network().train().to(device), loss.network().requires_grad_(False).to(device)
    ema.load_state_dict(network.state_dict())
    if torch.device(device).type == "cpu":
        attend_in_float32(network)
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    notes = {"config": asdict(network.config), "state": {"run": asdict(config), "data": loss.data()}}
    if clips.names:
        notes["classes"] = {"names": clips.names}
    first = restore(run, notes["state"], network, ema, optimizer)
    write_text(run / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
    if first < config.steps:
        loss.prepare()
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
                    notes["state"]["step"] = done
                    checkpoint.save(run, done, tables(network, ema, optimizer), notes, config.keep)
                if stop.wished and done < config.steps:
                    raise KeyboardInterrupt
    finally:
        bar.close()
        stop.restore()
    loss.finish(ema, run / "final")
    return run / "final"


def tables(network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Everything that the next step depends on, besides its number."""
    return {
        "model": network.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": checkpoint.optimizer_tensors(optimizer),
    }


def check_unused(run: Path, settings: dict) -> None:
    """ValueError: a folder without checkpoints holds files that a run there would replace.

    What may be there is the beginning of the same run, stopped before its first checkpoint.
    """
    named = [name for name in ("final", "metrics.jsonl", "config.yaml") if (run / name).exists()]
    try:
        begun = asdict(resolve(str(run / "config.yaml"), [])) if "config.yaml" in named else {}
    except ValueError:
        begun = {}
    same = all(begun.get(name) == value for name, value in settings.items() if name not in MAY_CHANGE)
    if named and ("final" in named or not same):
        raise ValueError(f"{run} holds {named[0]}, and no checkpoint to go on from: give another folder, or delete it")


def restore(run: Path, state: dict, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take up the newest sound checkpoint; the number of steps done. Metrics past it are cut: they will come again.

    ValueError: it belongs to a run with other settings, its data or VAE are no longer what they were, or it has done
    more steps than are asked for; or there is none, and the folder holds something else (see check_unused).
    """
    folder, step = checkpoint.latest(run), 0
    if folder is None:
        check_unused(run, state["run"])
    else:
        before = checkpoint.read_state(folder)
        for part, advice in (("run", "give another folder"), ("data", "bring it back, or give another folder")):
            names = before[part].keys() | state[part].keys()
            changed = sorted(name for name in names - MAY_CHANGE if before[part].get(name) != state[part].get(name))
            if changed:
                what = "settings" if part == "run" else "data"
                raise ValueError(f"{run} holds a run with other {what} ({', '.join(changed)}): {advice}")
        step = before["step"]
        if step > state["run"]["steps"]:
            raise ValueError(f"{run} has done {step} steps already: give steps={step} or more, or another folder")
        network.load_state_dict(checkpoint.read(folder, "model"))
        ema.load_state_dict(checkpoint.read(folder, "ema"))
        checkpoint.restore_optimizer(optimizer, checkpoint.read(folder, "optimizer"))
    metrics = run / "metrics.jsonl"
    if metrics.exists():
        lines = [line for line in metrics.read_text().splitlines() if line.endswith("}")]  # the last may be torn
        write_text(metrics, "".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= step))
    return step
