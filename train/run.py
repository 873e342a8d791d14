"""A run: its networks, optimiser and objective, one step of it, and its state in a folder."""

import copy
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from latte.files import write_json
from latte.processes import Ranks
from latte.train import checkpoint, parallel
from latte.train.config import MAY_CHANGE, TrainConfig
from latte.train.data.clips import Clips
from latte.train.distance import Distance
from latte.train.metrics import lines
from latte.train.objectives import objective
from latte.train.parallel import FixedPoint, Loss, Replicas, Shards
from latte.train.precision import check_precision, keep_in_float32
from latte.train.presets import resolve
from latte.train.step import Health, optimise, update_ema
from latte.train.watch import write_grid
from latte.weights.load import STEPS_FILE

FIRST_SCALE = 2.0**14  # of the loss in fp16
MOST_UNSAVED = 3
GUARDED = {"init", "vae", "data"}  # on resuming they may be spelt otherwise: a checkpoint, digests stand in their place
FAILED = "failed.txt"  # videos that could not be read, and why
DEFAULTS = asdict(TrainConfig(vae="-"))


class Run:
    """A run's networks, their state in its folder, and this process's part in it."""

    def __init__(self, config: TrainConfig, folder: Path, clips: Clips, device: torch.device, ranks: Ranks):
        self.config, self.folder, self.device, self.ranks = config, folder, device, ranks
        parallel.micro_batches(config, ranks)
        check_precision(config.precision, device)
        ranks.agree("data", clips.fingerprint)
        torch.manual_seed(config.seed)
        begun = ranks.broadcast(bool(checkpoint.found(folder)) if ranks.first else None)
        self.objective = objective(clips, config, device, folder if begun else None)
        self.failures = clips.failures
        self.network = self.objective.network().train().to(device)
        self.ema = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.plan = copy.deepcopy(self.ema).to("meta") if config.shard else None  # of the network while it is whole
        for network in (self.network, self.ema) if config.shard else ():
            parallel.shard(network, ranks, device)
        keep_in_float32(self.network)
        if config.compile:
            self.network.compile()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        kind = Shards if config.shard else FixedPoint if config.deterministic_reduce else Replicas
        self.gradients = kind(Loss(self.objective, self.network, config.precision), ranks)
        self.health = Health(scale=FIRST_SCALE if config.precision == "fp16" else 1.0)
        self.unsaved = 0  # saves in a row that failed
        judges = config.eval_every and ranks.first
        self.distance = Distance(config, clips, device) if judges else None
        self.notes = {"config": asdict(self.network.config)}
        self.state = {"run": asdict(config), "data": self.objective.data()}
        if clips.names:
            self.notes["classes"] = {"names": clips.names}

    def step(self, step: int) -> dict[str, float]:
        """Take step `step`, counted from 0; the numbers to log."""
        skipped = len(self.health.skipped)
        logged = optimise(self.config, self.gradients, self.optimizer, step, self.ranks, self.health)
        if len(self.health.skipped) == skipped:
            update_ema(self.ema, self.network, self.config.ema_decay, step)
        return {**logged, **({"skipped": len(self.health.skipped)} if self.health.skipped else {})}

    def save(self, done: int, ends: bool = False) -> None:
        """Write a checkpoint after `done` steps; ends: the process ends with it.

        A full disk costs no more than that, with a warning; OSError: at the end, or after MOST_UNSAVED in a row.
        """
        tables = {
            "model": parallel.gather_weights(self.network),
            "ema": parallel.gather_weights(self.ema),
            "optimizer": parallel.gather_optimizer(self.network, self.optimizer),
        }
        if not self.ranks.first:
            return
        state = {**self.state, "step": done, "health": asdict(self.health)}
        try:
            keeping = (self.config.keep, self.config.keep_every)
            checkpoint.save(self.folder, done, tables, {**self.notes, "state": state}, *keeping)
            self.unsaved = 0
        except (OSError, SafetensorError) as error:
            self.unsaved += 1
            if ends or self.unsaved == MOST_UNSAVED:
                which = f"the last step, {done}," if ends else f"{MOST_UNSAVED} checkpoints in a row"
                advice = "make room and give the same command: it goes on from the last checkpoint"
                raise OSError(f"{self.folder}: {which} could not be saved: {error}: {advice}") from error
            warnings.warn(f"{self.folder}: step {done} is not saved, training goes on: {error}", stacklevel=2)

    def restore(self) -> int:
        """Take up the newest sound checkpoint; the number of steps done.

        From here on failed.txt is kept too. ValueError: it belongs to a run with other settings, its data or VAE are no
        longer what they were, or it has done more steps than are asked for; or there is none, and the folder holds
        something else (see check_unused).
        """
        folder = self.ranks.broadcast(checkpoint.latest(self.folder) if self.ranks.first else None)
        if folder is None:
            check_unused(self.folder, self.state["run"])
            self.failures.keep(self.folder / FAILED, self.ranks.first)
            return 0
        before = checkpoint.read_state(folder)
        before["run"] = DEFAULTS | before["run"]  # of settings that are newer than the run
        free = (MAY_CHANGE | GUARDED) - ({"micro_batch_size"} if self.config.deterministic_reduce else set())
        if not {before["run"]["latents"], self.config.latents} & {"once", "step"}:
            free |= {"latents"}  # both are folders, whose fingerprints tell
        for part, advice in (("run", "give another folder"), ("data", "bring it back, or give another folder")):
            names = before[part].keys() | self.state[part].keys()
            differ = {name for name in names if before[part].get(name) != self.state[part].get(name)}
            changed = sorted(differ - free if part == "run" else differ)
            if changed:
                what = "settings" if part == "run" else "data"
                raise ValueError(f"{self.folder} holds a run with other {what} ({', '.join(changed)}): {advice}")
        step, asked = before["step"], self.config.steps
        if step > asked:
            raise ValueError(
                f"{self.folder} has done {step} steps already: give steps={step} or more, or another folder"
            )
        read = lambda name: checkpoint.read(folder, name) if self.ranks.first else {}
        parallel.scatter_weights(self.network, read("model"), self.ranks)
        parallel.scatter_weights(self.ema, read("ema"), self.ranks)
        parallel.scatter_optimizer(self.network, self.optimizer, read("optimizer"), self.ranks)
        self.health = Health(**before["health"])
        self.failures.keep(self.folder / FAILED, self.ranks.first)
        return step

    def due(self, done: int) -> tuple[bool, bool]:
        """Whether a grid, and a distance, are due after so many steps."""
        every = self.config.sample_every, self.config.eval_every
        return tuple(bool(number and done and done % number == 0) for number in every)

    def missed(self, done: int) -> tuple[bool, bool]:
        """Those that were due when an earlier process ended, and are not there."""
        grid, distance = self.due(done)
        seen = (self.folder / f"samples/step-{done:07d}.png").is_file()
        judged = any(line["step"] == done and "loss" not in line for line in lines(self.folder / "metrics.jsonl"))
        return self.ranks.broadcast((grid and not seen, distance and not judged) if self.ranks.first else None)

    def averaged(self) -> nn.Module | None:
        """A whole network with the averaged weights, in the first process."""
        if self.plan is None:
            return self.ema if self.ranks.first else None
        tensors = parallel.gather_weights(self.ema)
        if not self.ranks.first:
            return None
        network = copy.deepcopy(self.plan)
        network.load_state_dict(tensors, assign=True)
        return network.to(self.device)

    def show(self, done: int) -> Path | None:
        """Write what the averaged weights make, in the first process; where that fails, a warning says so."""
        if (network := self.averaged()) is None:
            return None
        try:
            return write_grid(*self.objective.show(network), self.folder / "samples", done)
        except (OSError, ValueError, torch.OutOfMemoryError) as error:
            warnings.warn(f"{self.folder}: no grid of step {done}, training goes on: {error}", stacklevel=2)
            return None

    def judge(self) -> dict[str, float]:
        """How far what the averaged weights make is from real clips, by name; {} where another process judges."""
        if (network := self.averaged()) is None:
            return {}
        try:
            return self.distance(self.objective.samples(network, self.config.eval_clips))
        except (OSError, ValueError, torch.OutOfMemoryError) as error:
            warnings.warn(f"{self.folder}: no distance this time, training goes on: {error}", stacklevel=2)
            return {}

    def finish(self) -> Path:
        """Write final/ with the averaged weights."""
        final = self.folder / "final"
        if (network := self.averaged()) is not None:
            self.objective.finish(network, final)
            write_json(final / STEPS_FILE, {"steps": self.config.steps})
        return final


def check_unused(run: Path, settings: dict) -> None:
    """ValueError: a folder without checkpoints holds what a run there would replace.

    What may be there is the beginning of the same run, stopped before its first checkpoint.
    """
    names = ("final", "metrics.jsonl", "config.yaml", "vae", "tokenizer", "scheduler")
    named = [name for name in names if (run / name).exists()]
    try:
        begun = asdict(resolve(str(run / "config.yaml"), [])) if "config.yaml" in named else {}
    except ValueError:
        begun = {}
    same = all(begun.get(name) == value for name, value in settings.items() if name not in MAY_CHANGE)
    if named and ("final" in named or not same):
        raise ValueError(f"{run} holds {named[0]}, and no checkpoint to go on from: give another folder, or delete it")
