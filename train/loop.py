"""The training loop: step, log, checkpoint, sample, evaluate; and how a run resumes.

Bit-exact resume: on a CPU, a run that was stopped and resumed ends with the bits of an uninterrupted one. How it works:
- Randomness has no state. Each step draws from (seed, step, slot): diffusion/randomness.py, train/data/batches.py.
- All state is in a checkpoint: weights, averages, optimiser, step, loss scale, skipped steps (train/run.py).
- A checkpoint is complete or absent: written as a draft, hashed, flushed and renamed (train/checkpoint.py).
- `Run.restore` loads the newest one that is not damaged, if settings and data are the same (train/run.py).
- Settings marked `resumable` in train/config.py may change on resuming, and `tunable` ones if the user asks for it; the
  run records that (train/changes.py).
- Lines of metrics.jsonl (train/metrics.py) and snapshots in averages/ that will be written again are removed.
- Samples and evaluations that were due when the run stopped are made first (`latte.train.due_outputs`).
- A checkpoint says which library computed the products; a new run decides that by measuring (latte.fast.onednn).
- With deterministic_reduce, the number of processes may change too (train/parallel.py).
"""

import signal
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType

import torch
import yaml

from latte.fast.onednn import choose_products
from latte.files import write_text
from latte.folder_lock import exclusive
from latte.processes import Ranks, processes
from latte.progress import Progress
from latte.train.base_config import TrainConfig
from latte.train.changes import write_changes
from latte.train.data.clips import TrainingData
from latte.train.due_outputs import Outputs, due_outputs, missing_outputs
from latte.train.export import save_companions
from latte.train.header import ending, header, unit
from latte.train.metrics import METRICS_FILE, MetricsWriter, remove_lines_after
from latte.train.precision import warn_if_slow
from latte.train.run import Run
from latte.train.run_folder import FAILED_VIDEOS, SETTINGS_FILE, set_misplaced_aside
from latte.train.snapshots import remove_snapshots_after
from latte.train.start import check_start, recorded_products, with_precision
from latte.train.step import warn_if_not_warm
from latte.train.trackers import Trackers


class StopSignals:
    """Remembers signals until the step ends: SIGTERM and SIGINT save and stop, SIGUSR1 saves. A context manager."""

    def __init__(self):
        self.stop = self.save = False

    def __enter__(self) -> "StopSignals":
        actions = {signal.SIGTERM: self.to_stop, signal.SIGINT: self.to_stop, signal.SIGUSR1: self.to_save}
        self.before = {number: signal.signal(number, action) for number, action in actions.items()}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def to_stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal to stop."""
        self.stop = True

    def to_save(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal to save."""
        self.save = True

    def received(self, ranks: Ranks) -> tuple[bool, bool]:
        """Whether any process was told to stop, and whether any was told to save since the last call."""
        stop, save = (ranks.sum(torch.tensor([self.stop, self.save], dtype=torch.float32)) > 0).tolist()
        self.save = False
        return stop, save


def train(
    config: TrainConfig,
    folder: Path,
    clips: TrainingData,
    resume: bool = True,
    device: str | torch.device = "cpu",
    asked: Collection[str] = (),
    say: Callable[[str], object] | None = None,
) -> Path:
    """Train in a run folder, or resume the run that is there.

    The folder gets config.yaml, metrics.jsonl, checkpoints/ and what is needed to sample from them (the VAE; for text
    to video also the vocabulary and a scheduler). At the end it gets final/, the averaged weights with the same parts
    and the names of the classes. If torchrun started this process, it is one of several (latte.train.parallel).

    Args:
        config: The settings.
        folder: The run folder. It need not exist.
        clips: The training data, as latte.train.data.latents.open_data opens it.
        resume: Whether a run with checkpoints may be resumed.
        device: The device to compute on.
        asked: The settings marked `tunable` in latte.train.config that may change when the run resumes. The run records
            what changed, and when (latte.train.changes).
        say: Called in the first process before the first step and at the end, with lines about the run (see
            latte.train.header).

    Returns:
        The folder of the trained model.

    Raises:
        ValueError: The folder holds a run with different settings or data, or holds checkpoints and resume is off; or
            the data do not fit the settings; or another process trains in the folder; or see latte.train.start.
        KeyboardInterrupt: A signal stopped the run, after a checkpoint was saved.
    """
    device = torch.device(device)
    with (
        processes(device) as ranks,
        ranks.first_inside(lambda: exclusive(folder)),  # the lock keeps other runs out
        signals_before_steps(),
    ):
        config = ranks.first_only(lambda: with_precision(config, folder, device))
        ranks.first_only(lambda: check_start(config, folder, asked, resume))
        if ranks.first:
            warn_if_slow(config.precision, device)
        onednn = ranks.first_only(lambda: recorded_products(folder))
        if onednn and not torch.backends.mkldnn.is_available() and ranks.first:
            warnings.warn(
                f"{folder} was begun with oneDNN, which this PyTorch lacks: rounding will differ", stacklevel=2
            )
        with choose_products(onednn):
            run = Run(config, folder, clips, device, ranks, asked)
            run.state["onednn"] = onednn
            return train_run(run, say if ranks.first else None)


def train_run(run: Run, say: Callable[[str], object] | None) -> Path:
    """Restore a run, take the steps that are left, and write its model; see `train`."""
    config, ranks, first = run.config, run.ranks, run.restore()
    ranks.first_only(lambda: write_beginning(run, first))
    run.failures.keep_log(run.folder / FAILED_VIDEOS, ranks.first)
    missing = ranks.first_only(lambda: missing_outputs(config, run.folder, first))
    if say:
        say(header(run, first))
    if first < config.steps:
        prepare(run, first)
    if first < config.steps or any(missing):
        take_steps(run, first, missing)
    result = run.finish()
    if say:
        say(ending(run, result))
    return result


def prepare(run: Run, first: int) -> None:
    """Encode the latents that the first step needs. If that is stopped, raises KeyboardInterrupt with advice."""
    if run.ranks.first:
        warn_if_not_warm(run.config)
    try:
        run.prepare(first)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped before step {first + 1}; the same command starts it again") from stop


def write_beginning(run: Run, first: int) -> None:
    """Write the files that precede the first step, and remove those that later steps will write again."""
    set_misplaced_aside(run.folder)
    write_text(run.folder / SETTINGS_FILE, yaml.safe_dump(asdict(run.config), sort_keys=False))
    write_changes(run.folder, run.changes)
    remove_lines_after(run.folder / METRICS_FILE, first)
    remove_snapshots_after(run.folder, first)
    save_companions(run.objective, run.folder)


@contextmanager
def signals_before_steps() -> Iterator[None]:
    """Until the first step, SIGTERM stops as Ctrl-C does, and SIGUSR1 is ignored, because nothing can be saved yet."""
    actions = {signal.SIGTERM: signal.default_int_handler, signal.SIGUSR1: signal.SIG_IGN}
    before = {number: signal.signal(number, action) for number, action in actions.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take_steps(run: Run, first: int, missing: Outputs) -> None:
    """Take the steps from `first` on, and write logs, checkpoints, samples and evaluations.

    Args:
        run: The run.
        first: How many steps are done.
        missing: The outputs of step `first` that are still missing, to be made before the next step.

    Raises:
        KeyboardInterrupt: A signal stopped the run, after a checkpoint was saved.
    """
    config, last_logged, last_time = run.config, first, time.perf_counter()
    options = {"unit": "step", "smoothing": 0.05, "disable": not run.ranks.first}
    with ExitStack() as stack:
        signals = stack.enter_context(StopSignals())
        bar = stack.enter_context(Progress(desc=run.folder.name, total=config.steps, initial=first, **options))
        metrics = stack.enter_context(MetricsWriter(run.folder / METRICS_FILE, run.ranks.first))
        trackers = stack.enter_context(Trackers(config, run.folder, first, run.ranks.first))
        write_outputs(run, first, missing, metrics, trackers)
        for step in range(first, config.steps):
            logged, done = run.step(step), step + 1
            stop, save = signals.received(run.ranks)
            clips = (done - last_logged) * config.global_batch_size
            rate = round(clips / (time.perf_counter() - last_time), 2)
            bar.set_postfix_str(progress_text(logged, f"{rate:g} {unit(config)}s/s", run.device), refresh=False)
            bar.update()
            if done % config.log_every == 0 or done == config.steps:
                line = {"step": done, **logged, "clips_per_second": rate}
                metrics.write(line)
                trackers.line(line)
                last_logged, last_time = done, time.perf_counter()
            run.save_snapshot(done)
            if done % config.save_every == 0 or done == config.steps or stop or save:
                run.save(done, ends=stop or done == config.steps)
            if stop and done < config.steps:
                raise KeyboardInterrupt(f"saved at step {done}; the same command resumes it" if run.ranks.first else "")
            write_outputs(run, done, due_outputs(config, done), metrics, trackers)


def write_outputs(run: Run, done: int, outputs: Outputs, metrics: MetricsWriter, trackers: Trackers) -> None:
    """Write the sample grid of a step, evaluate it, or both."""
    if outputs.grid and (picture := run.write_samples(done)):
        trackers.samples(done, picture)
    if outputs.evaluation and (scores := run.evaluate()):
        line = {"step": done, **scores}
        metrics.write(line)
        trackers.line(line)


def progress_text(logged: dict[str, float], rate: str, device: torch.device) -> str:
    """The text after the progress bar."""
    parts = [f"loss={logged['loss']:.4f}", f"grad={logged['grad_norm']:.2f}", rate]
    if device.type == "cuda":
        parts.append(f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB")
    if "skipped" in logged:
        parts.append(f"{logged['skipped']} skipped")
    return ", ".join(parts)
