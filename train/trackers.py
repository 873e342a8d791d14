"""Trackers that show a run's numbers and samples, besides metrics.jsonl: TensorBoard, Weights & Biases, trackio."""

import os
import re
import threading
import uuid
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import yaml
from PIL import Image

from latte.files import write_text
from latte.train.base_config import TrainConfig
from latte.video.read import read_video
from latte.video.write import write_video

TENSORBOARD = "tensorboard"  # folder of a run
TRACKED_FILE = "tracked.txt"  # in a run's folder: identifies the run to services
GLOBAL_STEP = "global_step"  # the horizontal axis of the charts of Weights & Biases
PROJECT = "latte"  # the default project of services, which an environment variable can override


class Tracker(Protocol):
    """A tracker of a run. Any of its calls may fail; training then continues without it.

    Attributes:
        name: Its name, as shown to users.
        package: The name of the module that it needs.

    Args:
        folder: The run's folder.
        settings: Every setting of the run.
        first: How many steps were done before.
    """

    name: str
    package: str

    def __init__(self, folder: Path, settings: dict[str, Any], first: int): ...

    def line(self, step: int, values: dict[str, float]) -> None:
        """Show the numbers of a line of metrics.jsonl."""

    def samples(self, step: int, picture: Path, video: Path) -> None:
        """Show a grid of samples, as a PNG and as an MP4."""

    def close(self) -> None:
        """Write pending values."""


class TensorBoard:
    """Files for TensorBoard in the run's folder. Values of later steps that an earlier process wrote are hidden."""

    name, package = "TensorBoard", "torch.utils.tensorboard"

    def __init__(self, folder: Path, settings: dict[str, Any], first: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / TENSORBOARD), purge_step=first + 1)
        self.hook, threading.excepthook = threading.excepthook, self.thread_failed
        self.writer.add_text("settings", f"```\n{yaml.safe_dump(settings, sort_keys=False)}```", first)

    def thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Ignore an OSError of the writer thread: the next call raises it again."""
        if not (issubclass(failure.exc_type, OSError) and type(failure.thread).__module__.startswith("tensorboard.")):
            self.hook(failure)

    def line(self, step: int, values: dict[str, float]) -> None:
        """Show numbers."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def samples(self, step: int, picture: Path, video: Path) -> None:
        """Show the PNG, and the video as an animated GIF, the only format that TensorBoard plays."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        pixels = np.asarray(Image.open(picture).convert("RGB"))
        self.writer.add_image("samples", pixels, step, dataformats="HWC")
        frames, fps = read_video(video)
        with TemporaryDirectory() as draft:
            moving = write_video(frames, Path(draft, "grid.gif"), fps).read_bytes()
        height, width = frames.shape[2:]
        shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=moving)
        self.writer.file_writer.add_summary(Summary(value=[Summary.Value(tag="samples/video", image=shown)]), step)

    def close(self) -> None:
        """Write pending values."""
        try:
            self.writer.close()
        finally:
            threading.excepthook = self.hook


class Service:
    """The common part of Weights & Biases and trackio: a module, and the run that it started."""

    module: Any
    run: Any

    def log(self, values: dict[str, Any], step: int) -> None:
        """Send values of a step."""
        self.run.log(values, step=step)

    def line(self, step: int, values: dict[str, float]) -> None:
        """Show numbers."""
        self.log(values, step)

    def samples(self, step: int, picture: Path, video: Path) -> None:
        """Show both files."""
        shown = {"samples": self.module.Image(str(picture)), "samples/video": self.module.Video(str(video))}
        self.log(shown, step)

    def close(self) -> None:
        """Send pending values."""
        self.run.finish()


class WandB(Service):
    """Weights & Biases. A resumed run continues in the same place. WANDB_PROJECT, WANDB_MODE and the like apply."""

    name, package = "Weights & Biases", "wandb"

    def __init__(self, folder: Path, settings: dict[str, Any], first: int):
        import wandb

        self.module, identity = wandb, run_identity(folder)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self.run = wandb.init(
            project=project, name=folder.resolve().name, id=identity, resume="allow", dir=str(folder), config=settings,
        )  # fmt: skip
        self.run.config.update(settings, allow_val_change=True)
        self.run.define_metric(GLOBAL_STEP)
        self.run.define_metric("*", step_metric=GLOBAL_STEP)

    def log(self, values: dict[str, Any], step: int) -> None:
        """Send values of a step, with the step as one of them: the service ignores values logged for a past step.

        After a resume, the steps since the last checkpoint are such steps.
        """
        self.run.log({GLOBAL_STEP: step, **values})


class Trackio(Service):
    """trackio, which keeps its data on this machine. TRACKIO_PROJECT overrides the project name "latte"."""

    name, package = "trackio", "trackio"

    def __init__(self, folder: Path, settings: dict[str, Any], first: int):
        import trackio

        self.module, identity = trackio, run_identity(folder)
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        name = f"{folder.resolve().name}-{identity}"
        self.run = trackio.init(project=project, name=name, resume="allow", config=settings)


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}  # by setting


def require_packages(config: TrainConfig) -> None:
    """Import the packages that a run's trackers need. Raises ValueError if one is not installed."""
    for name, kind in TRACKERS.items():
        try:
            if getattr(config, name):
                import_module(kind.package)
        except ImportError as error:
            raise ValueError(f"{name}=true needs its package: pip install 'latte-video[{name}]'") from error


def run_identity(folder: Path) -> str:
    """Eight hexadecimal digits that identify a run's folder, even after it is renamed."""
    path = folder / TRACKED_FILE
    kept = re.fullmatch(rb"([0-9a-f]{8})\n", path.read_bytes()) if path.is_file() else None
    if kept is None:
        write_text(path, uuid.uuid4().hex[:8] + "\n")
        return run_identity(folder)
    return kept[1].decode()


class Trackers:
    """The trackers that a run asks for, as a context manager.

    A tracker that fails, as on a full disk or without a network, is dropped with a warning: metrics.jsonl has the same
    numbers.

    Args:
        config: The settings of the run.
        folder: Its folder.
        first: How many steps were done before.
        writes: Whether this process writes at all; only the first one does.
    """

    def __init__(self, config: TrainConfig, folder: Path, first: int, writes: bool = True):
        self.config, self.folder, self.first = config, folder, first
        self.asked = [kind for name, kind in TRACKERS.items() if writes and getattr(config, name)]
        self.open: list[Tracker] = []

    def __enter__(self) -> "Trackers":
        for kind in self.asked:
            try:
                self.open.append(kind(self.folder, asdict(self.config), self.first))
            except Exception as error:  # services and their network code document no common base class
                self.warn(kind, "nothing is written", error)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.each(lambda tracker: tracker.close())

    def line(self, values: dict[str, float]) -> None:
        """Show the numbers of a line of metrics.jsonl, under its step."""
        numbers = {name: value for name, value in values.items() if name != "step"}
        self.each(lambda tracker: tracker.line(int(values["step"]), numbers))

    def samples(self, step: int, picture: Path) -> None:
        """Show a grid of samples: its PNG, and the MP4 beside it."""
        self.each(lambda tracker: tracker.samples(step, picture, picture.with_suffix(".mp4")))

    def each(self, work: Callable[[Tracker], None]) -> None:
        """Apply `work` to each tracker, and drop those that fail."""
        for tracker in list(self.open):
            try:
                work(tracker)
            except Exception as error:  # as above
                self.open.remove(tracker)
                self.warn(type(tracker), "nothing more is written", error)

    def warn(self, kind: type[Tracker], what: str, error: Exception) -> None:
        """Warn that a tracker failed."""
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"{self.folder}: {what} for {kind.name}, training continues: {said}", stacklevel=4)
