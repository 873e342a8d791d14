"""What people watch while it trains: a grid of samples from fixed seeds, and TensorBoard."""

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from latte.video.page import contact_sheet, tile
from latte.video.write import write_video

SHOWN = 8  # videos in a grid
FPS = 8.0


def write_grid(videos: Tensor, captions: list[str], folder: Path, step: int) -> Path:
    """Clips uint8 (n, f, 3, h, w) as step-N.mp4, side by side, and step-N.png, frames of each; the path of the PNG."""
    name = f"step-{step:07d}"
    columns = next(k for k in range(1, len(videos) + 1) if k * k >= len(videos))
    write_video(tile(videos, columns), folder / f"{name}.mp4", FPS)
    return contact_sheet(videos, captions, folder / f"{name}.png")


class Board:
    """TensorBoard's files in a folder, as a context: the numbers of metrics.jsonl, and the grids.

    first: steps done before; what an earlier process wrote past them is hidden. ValueError: the package is missing.
    """

    def __init__(self, folder: Path, first: int):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("tensorboard=true needs its package: pip install tensorboard") from error
        self.writer = SummaryWriter(str(folder), purge_step=first + 1)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_) -> None:
        self.writer.close()

    def numbers(self, values: dict) -> None:
        """A line of metrics.jsonl."""
        for name, value in values.items():
            if name != "step":
                self.writer.add_scalar(name, value, values["step"])

    def grid(self, picture: Path, step: int) -> None:
        """A grid's PNG."""
        self.writer.add_image("samples", np.asarray(Image.open(picture).convert("RGB")), step, dataformats="HWC")
