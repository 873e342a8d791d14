"""Video files of the built-in shapes, for evaluation."""

from pathlib import Path

import torch

from latte.shapes.corruptions import corrupted
from latte.shapes.draw import make_clip
from latte.video.write import write_video


def put_shapes(folder: Path, first: int, count: int, corruption: str = "", suffix: str = ".mkv") -> Path:
    """Write clips first, first + 1, ... to a folder, corrupted if a corruption is named; return the folder."""
    for i in range(first, first + count):
        video = torch.from_numpy(make_clip(9, i).video)
        write_video(corrupted(video[None], corruption, 1.0)[0] if corruption else video, folder / f"{i}{suffix}")
    return folder
