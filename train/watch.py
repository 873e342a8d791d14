"""Sample grids of a run."""

from pathlib import Path

from torch import Tensor

from latte.video.page import contact_sheet, tile
from latte.video.write import write_video

SAMPLES = "samples"  # folder of a run
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
