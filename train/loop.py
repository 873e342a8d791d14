"""The training loop: step, log, show, save. A stopped and resumed run ends with the same bits."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from tqdm import tqdm

from latte.files import write_text
from latte.processes import Ranks, processes
from latte.train import checkpoint, parallel
from latte.train.config import TrainConfig
from latte.train.data.clips import Clips
from latte.train.export import save_companions
from latte.train.metrics import Metrics, cut
from latte.train.run import Run
from latte.train.watch import Board


class StopSignals:
    """Turns signals into signals, answered at the next step boundary: SIGTERM, SIGINT to stop, SIGUSR1 to save."""

    def __init__(self):
        self.stop = self.save = False
        take = {signal.SIGTERM: self.to_stop, signal.SIGINT: self.to_stop, signal.SIGUSR1: self.to_save}
        self.before = {number: signal.signal(number, action) for number, action in take.items()}

    def to_stop(self, *_) -> None:
        self.stop = True

    def to_save(self, *_) -> None:
        self.save = True

    def agreed(self, ranks: Ranks) -> tuple[bool, bool]:
        """Whether any process is to stop, and any to save; the wish to save is then answered."""
        stop, save = (ranks.sum(torch.tensor([self.stop, self.save], dtype=torch.float32)) > 0).tolist()
        self.save = False
        return stop, save

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def train(
    config: TrainConfig, folder: Path, clips: Clips, resume: bool = True, device: str | torch.device = "cpu"
) -> Path:
    """Train into a folder, going on from its newest sound checkpoint; returns the folder of the result.

    It gets config.yaml, metrics.jsonl, checkpoints/, what these need to be sampled (a Latte's VAE; of text-to-video
    also the vocabulary and a scheduler) and, at the end, final/: averaged weights with all that, and a Latte's class
    names. Started by torchrun, it is one of several processes (latte.train.parallel). ValueError: the folder holds
    checkpoints of a run with other settings or other data, or holds any and resume is off.
    """
    if not resume and checkpoint.found(folder):
        raise ValueError(f"{folder} already holds checkpoints: give another folder, or resume")
    device = torch.device(device)
    with processes(device) as ranks, ignoring(signal.SIGUSR1):  # which there is nothing to answer with yet
        run = Run(config, folder, clips, device, ranks)
        first = run.restore()
        if ranks.first:
            write_text(folder / "config.yaml", yaml.safe_dump(asdict(config), sort_keys=False))
            cut(folder / "metrics.jsonl", first)
            save_companions(run.objective, folder)
        missed = run.missed(first)
        if first < config.steps:
            run.objective.prepare(parallel.micro_batches(config, ranks), first)
        if first < config.steps or any(missed):
            loop(run, first, missed)
        return run.finish()


@contextmanager
def ignoring(number: int) -> Iterator[None]:
    """Within it a signal does nothing."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def loop(run: Run, first: int, missed: tuple[bool, bool]) -> None:
    """All steps from `first` on, with what is logged and saved on the way, after what was missed before.

    KeyboardInterrupt: it was to stop.
    """
    config, signals, since, began = run.config, StopSignals(), first, time.perf_counter()  # of the rate
    bar = tqdm(
        total=config.steps,
        initial=first,
        desc=run.folder.name,
        unit="step",
        smoothing=0.05,
        disable=not run.ranks.first,
    )
    try:
        with ExitStack() as files:
            files.enter_context(bar)
            metrics = files.enter_context(Metrics(run.folder / "metrics.jsonl", run.ranks.first))
            wants_board = config.tensorboard and run.ranks.first
            board = files.enter_context(Board(run.folder / "tensorboard", first)) if wants_board else None
            monitor(run, first, missed, metrics, board)
            for step in range(first, config.steps):
                logged, done = run.step(step), step + 1
                stop, save = signals.agreed(run.ranks)
                rate = round((done - since) * config.global_batch_size / (time.perf_counter() - began), 2)
                bar.update()
                bar.set_postfix_str(progress(logged, rate, run.device), refresh=False)
                if done % config.log_every == 0 or done == config.steps:
                    line = {"step": done, **logged, "clips_per_second": rate}
                    metrics.write(line)
                    if board:
                        board.numbers(line)
                    since, began = done, time.perf_counter()
                if done % config.save_every == 0 or done == config.steps or stop or save:
                    run.save(done, ends=stop or done == config.steps)
                if stop and done < config.steps:
                    raise KeyboardInterrupt
                monitor(run, done, run.due(done), metrics, board)
    finally:
        signals.restore()


def monitor(run: Run, done: int, due: tuple[bool, bool], metrics: Metrics, board: Board | None) -> None:
    """Make the grid and the distance of a step, those of the two that are due."""
    grid, distance = due
    if grid and (picture := run.show(done)) and board:
        board.grid(picture, done)
    if distance and (numbers := run.judge()):
        line = {"step": done, **numbers}
        metrics.write(line)
        if board:
            board.numbers(line)


def progress(logged: dict[str, float], rate: float, device: torch.device) -> str:
    """What stands behind the progress bar."""
    parts = [f"loss={logged['loss']:.4f}", f"grad={logged['grad_norm']:.2f}", f"{rate:g} clips/s"]
    if device.type == "cuda":
        parts.append(f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    if "skipped" in logged:
        parts.append(f"{logged['skipped']} skipped")
    return ", ".join(parts)
