"""Sample grids and TensorBoard logs of a run."""

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image
from torch import Tensor

from latte.video.page import contact_sheet, tile
from latte.video.write import write_video

SAMPLES, TENSORBOARD = "samples", "tensorboard"  # folders of a run
SHOWN = 8  # videos in a grid
FPS = 8.0


def write_grid(videos: Tensor, captions: list[str], folder: Path, step: int) -> Path:
    """Write videos side by side as step-N.mp4, and some of their frames as step-N.png.

    Args:
        videos: uint8 (n, f, 3, h, w).
        captions: One for each video.
        folder: Where to write the files.
        step: N.

    Returns:
        The path of the PNG.
    """
    name = f"step-{step:07d}"
    columns = next(k for k in range(1, len(videos) + 1) if k * k >= len(videos))
    write_video(tile(videos, columns), folder / f"{name}.mp4", FPS)
    return contact_sheet(videos, captions, folder / f"{name}.png")


class TensorBoard:
    """Writes the lines of metrics.jsonl and the sample grids for TensorBoard, as a context manager.

    If its files cannot be written, as on a full disk, it warns and writes no more: metrics.jsonl has the same numbers.

    Args:
        folder: Where to write TensorBoard's files.
        first: How many steps were done before. What an earlier process wrote for later steps is hidden.

    Raises:
        ValueError: The package is not installed.
    """

    def __init__(self, folder: Path, first: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("tensorboard=true needs its package: pip install tensorboard") from error
        self.folder, self.writer = folder, None
        try:
            self.writer = SummaryWriter(str(folder), purge_step=first + 1)
        except OSError as error:
            warnings.warn(f"{folder}: nothing is written for TensorBoard, training goes on: {error}", stacklevel=2)

    def __enter__(self) -> "TensorBoard":
        self.hook, threading.excepthook = threading.excepthook, self.thread_failed
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.attempt(lambda: self.writer.close())
        threading.excepthook = self.hook

    def thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Keep quiet about an OSError of the thread that writes: it comes again in `attempt`, in one line."""
        if not (issubclass(failure.exc_type, OSError) and type(failure.thread).__module__.startswith("tensorboard.")):
            self.hook(failure)

    def attempt(self, work: Callable[[], None]) -> None:
        """Write something, unless writing has failed before."""
        if self.writer is None:
            return
        try:
            work()
        except OSError as error:
            self.writer = None
            warnings.warn(f"{self.folder}: no more is written for TensorBoard, training goes on: {error}", stacklevel=3)

    def add_line(self, line: dict[str, float]) -> None:
        """Add the numbers of a line of metrics.jsonl."""
        for name, value in line.items():
            if name != "step":
                self.attempt(lambda name=name, value=value: self.writer.add_scalar(name, value, line["step"]))

    def add_grid(self, picture: Path, step: int) -> None:
        """Add the PNG of a sample grid."""
        pixels = np.asarray(Image.open(picture).convert("RGB"))
        self.attempt(lambda: self.writer.add_image("samples", pixels, step, dataformats="HWC"))
