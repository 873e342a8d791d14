"""cd-fvd's ways to load videos: batches of clips in [0, 1], one clip from each video."""

import math
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from latte.arguments import counted
from latte.diffusion.randomness import generator
from latte.eval.video_folders import video_names
from latte.eval.video_order import in_order, rank
from latte.video.read import count_frames, read_video


@dataclass
class FolderClips:
    """Batches {"video": (b, 3, f, h, w)} of a folder's videos, in a new random order and with new clips at every pass.

    Attributes:
        root: The folder.
        names: The names of its videos that are long enough.
        lengths: Their numbers of frames, by name.
        take: Turns the number of a clip's first frame into those of all its frames.
        prepare: Turns uint8 frames (f, 3, h, w) into (f, 3, size, size) in [0, 1].
        needed: Frames of a video that a clip spans.
        seed: Seed of the random choices.
        batch_size: Clips per batch.
        num_workers: Threads that decode.
        passes: The number of passes made.
    """

    root: Path
    names: list[str]
    lengths: dict[str, int]
    take: Callable[[int], range]
    prepare: Callable[[Tensor], Tensor]
    needed: int
    seed: int
    batch_size: int
    num_workers: int
    passes: int = 0

    def __len__(self) -> int:
        return -(-len(self.names) // self.batch_size)

    def read(self, name: str, turn: int) -> Tensor:
        """A clip (3, f, h, w) of a video, drawn from the seed, the pass and the name."""
        room = self.lengths[name] - self.needed + 1
        start = int(torch.randint(room, (), generator=generator(self.seed, turn, rank(self.seed, name) >> 32)))
        return self.prepare(read_video(self.root / name, self.take(start))[0]).transpose(0, 1)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.passes += 1
        turn, names = self.passes, in_order(self.names, "seed", self.seed + self.passes)
        with ThreadPoolExecutor(max(1, self.num_workers)) as pool:
            for i in range(0, len(names), self.batch_size):
                batch = names[i : i + self.batch_size]
                yield {"video": torch.stack(list(pool.map(lambda name: self.read(name, turn), batch)))}


def numpy_batches(path: str | Path, batch_size: int) -> list[dict[str, Tensor]]:
    """Batches of a file of one array (n, f, h, w, 3), uint8. Raises ValueError if it is something else."""
    try:
        videos = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a .npy file of one array: {error}") from error
    if not isinstance(videos, np.ndarray) or videos.ndim != 5 or videos.dtype != np.uint8:
        kind = f"{videos.dtype} {videos.shape}" if isinstance(videos, np.ndarray) else "an archive of several arrays"
        raise ValueError(f"{path}: expected uint8 videos (n, f, h, w, 3), not {kind}")
    tensor = torch.from_numpy(videos).permute(0, 4, 1, 2, 3)
    return [{"video": part / 255.0} for part in tensor.split(batch_size)]


def folder_clips(
    path: str | Path,
    resolution: int,
    sequence_length: int,
    stride: int,
    pictures: bool,
    seed: int,
    batch_size: int,
    num_workers: int,
) -> FolderClips:
    """The clips that cd-fvd takes from a folder of video files, or from folders of frames.

    Args:
        path: The folder.
        resolution: Height and width that frames are resized to, in pixels.
        sequence_length: For folders of frames, frames per clip. For video files, frames that a clip spans.
        stride: For folders of frames, the stride. For video files, one in this many frames of the span is kept.
        pictures: Whether they are folders of frames.
        seed: Seed of the random choices.
        batch_size: Clips per batch.
        num_workers: Threads that decode.

    Raises:
        ValueError: No video is long enough. FileNotFoundError: There is no such folder.
    """
    root, names = video_names(path)
    names = [name for name in names if (root / name).is_dir() == pictures]
    lengths = {name: count_frames(root / name) for name in names}
    span = sequence_length * stride if pictures else sequence_length
    kept = [name for name in names if lengths[name] >= span + pictures]  # for folders of frames, one more is required
    if not kept:
        what = "folders of frames" if pictures else "video files"
        raise ValueError(f"{root} holds no {what} of {span + pictures} frames or more: {len(names)} were looked at")
    if len(kept) < len(names):
        count = counted(len(names) - len(kept), "video is", "videos are")
        warnings.warn(f"{count} too short and left out; cd-fvd takes the next one twice", stacklevel=3)
    if not pictures and stride > 1:
        warnings.warn(
            f"clips of video files have {-(-sequence_length // stride)} frames, one in {stride} of {sequence_length} "
            f"consecutive ones, as in cd-fvd; protocols of latte.eval have {sequence_length} at that stride",
            stacklevel=3,
        )
    prepare = (
        (lambda frames: crop_and_resize(frames, resolution))
        if pictures
        else (lambda frames: resize_and_crop_float(frames, resolution))
    )
    take = lambda start: range(start, start + span, stride)
    return FolderClips(root, kept, lengths, take, prepare, span, seed, batch_size, num_workers)


def resize_and_crop_float(frames: Tensor, size: int) -> Tensor:
    """For video files: resize the short side bilinearly with antialiasing, crop the centre; uint8 -> [0, 1]."""
    height, width = frames.shape[-2:]
    scale = size / min(height, width)
    target = (size, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), size)
    resized = F.interpolate(frames / 255.0, target, mode="bilinear", align_corners=False, antialias=True)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return resized[..., top : top + size, left : left + size]


def crop_and_resize(frames: Tensor, size: int) -> Tensor:
    """For pictures: crop the centre, resize with Pillow's Lanczos filter; uint8 -> floats in [0, 1]."""
    height, width = frames.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[..., top : top + side, left : left + side].permute(0, 2, 3, 1).contiguous().numpy()
    small = [Image.fromarray(frame).resize((size, size), Image.Resampling.LANCZOS) for frame in square]
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in small])).permute(0, 3, 1, 2) / 255.0
