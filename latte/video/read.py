"""Read videos: all of a file, chosen frames, blocks of frames, or only their number.

In memory a video is a uint8 tensor (f, 3, h, w) of RGB frames.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from latte.files import walk_tree
from latte.video.array_files import ARRAY_SUFFIXES, array_shape, is_video_array, read_array
from latte.video.formats import DEFAULT_FPS, PICTURE_SUFFIXES, STREAM_SUFFIXES, codec_errors, video_kind
from latte.video.picture_modes import picture_to_rgb
from latte.video.streams import open_stream, read_stream, to_upright_rgb

T = TypeVar("T")

# Pillow chooses a decoder by content, not by suffix. Only these are tried: others may start programs.
PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures directly inside a folder in the order of their numbers: frame 9 precedes frame 10."""

    def natural(path: Path) -> list[int | str]:
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]

    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted((path for path in visible if path.suffix.lower() in PICTURE_SUFFIXES), key=natural)


def list_videos(folder: str | Path) -> list[Path]:
    """Find all videos in a folder and its subfolders.

    Links are followed. Hidden files and folders are skipped, which includes files that are still being written. An
    animated webp is a video; any other webp is a frame of the folder that it is in.

    Args:
        folder: Where to search.

    Returns:
        Every video file and every folder of frames (which may be `folder` itself), sorted.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of videos at {folder}")
    visible = [path for path in walk_tree(folder) if not re.search(r"(^|/)\.", path.relative_to(folder).as_posix())]
    animated = {path for path in visible if path.suffix.lower() == ".webp" and is_animated(path)}
    files = [path for path in visible if path.suffix.lower() in (*STREAM_SUFFIXES, ".npz") or is_video_array(path)]
    frame_folders = [path for path in (folder, *visible) if path.is_dir() and set(list_pictures(path)) - animated]
    return sorted([*files, *animated, *frame_folders])


def is_animated(path: Path) -> bool:
    """Whether a webp file has several frames. A file that cannot be opened is not animated."""
    try:
        with decoding(path):
            return count_picture_frames(path) > 1
    except ValueError:
        return False


def read_video(path: str | Path, indices: Sequence[int] | None = None) -> tuple[Tensor, float]:
    """Read a video, or some of its frames.

    Frames are turned upright as the file's rotation flag says, and converted to RGB. An alpha channel is dropped.

    Args:
        path: An mp4, avi, mkv, webm, mov, m4v, gif, webp, npz or npy file, or a folder of numbered pictures. Of the
            arrays in an npz, `video` is read, or the only one that is a video. It is in RGB or grey, with the channels
            first or last. Bytes are in [0, 255]; floats in [0, 1] or, if some are below -0.25, in [-1, 1].
        indices: Frame numbers, from 0, in any order and with repetitions. None reads all frames.

    Returns:
        The frames, uint8 (f, 3, h, w), in the order of `indices`; and the frame rate in frames per second.

    Raises:
        FileNotFoundError: If nothing exists at the path.
        ValueError: If the file is of an unsupported kind, is damaged, is empty or lacks a requested frame.
    """
    path, numbers = Path(path), None if indices is None else [int(i) for i in indices]
    kind = video_kind(path)
    if numbers is not None and (not numbers or min(numbers) < 0):
        raise ValueError(f"{path}: indices must be a non-empty list of frame numbers from 0; got {numbers}")
    with decoding(path):
        frames, fps = read_frames(path, kind, numbers)
        return stack_frames(frames), fps


def read_blocks(path: str | Path, size: int = 32) -> Iterator[Tensor]:
    """Read a video block by block, so that a long one needs little memory.

    Only webp, npz and npy files are decompressed at once.

    Args:
        path: A video, as for read_video.
        size: The number of frames per block. The last block may have fewer.

    Yields:
        Consecutive frames, uint8 (f, 3, h, w) with f <= size.

    Raises:
        FileNotFoundError: As read_video.
        ValueError: As read_video.
    """
    path = Path(path)
    kind = video_kind(path)
    if kind in STREAM_SUFFIXES:
        with decoding(path), open_stream(path) as (container, stream):
            frames = map(to_upright_rgb, container.decode(stream))
            yield stack_frames(list(islice(frames, size)))  # raises ValueError if the stream is empty
            while block := list(islice(frames, size)):
                yield stack_frames(block)
    elif kind == "folder":
        count = count_frames(path)
        for start in range(0, count, size):
            yield read_video(path, range(start, min(start + size, count)))[0]
    else:
        yield from read_video(path)[0].split(size)


def count_frames(path: str | Path) -> int:
    """Count the frames of a video without decoding them: streams are parsed packet by packet.

    Args:
        path: A video, as for read_video.

    Returns:
        The number of frames that read_video returns.

    Raises:
        FileNotFoundError: As read_video.
        ValueError: As read_video.
    """
    path = Path(path)
    kind = video_kind(path)
    with decoding(path):
        if kind == "folder":
            return len(list_pictures(path))
        if kind in ARRAY_SUFFIXES:
            return array_shape(path)[0]
        if kind == ".webp":
            return count_picture_frames(path)
        with open_stream(path) as (container, stream):
            return sum(packet.size > 0 for packet in container.demux(stream))


def decoding(path: Path) -> AbstractContextManager[None]:
    """Turn whatever a decoder raises into a ValueError that names the file."""
    return codec_errors(path, "cannot be decoded")


def read_frames(path: Path, kind: str, numbers: Sequence[int] | None) -> tuple[Sequence[np.ndarray], float]:
    """Decode frames (h, w, 3) of any kind of video, and return its frame rate too."""
    if kind == "folder":
        return [read_picture(picture) for picture in select(list_pictures(path), numbers)], DEFAULT_FPS
    if kind in ARRAY_SUFFIXES:
        return select(list(read_array(path)), numbers), DEFAULT_FPS
    if kind == ".webp":
        pictures, fps = read_webp(path)
        return select(pictures, numbers), fps
    decoded, fps = read_stream(path, numbers)
    return select(decoded, numbers), fps


def select(frames: Sequence[T] | Mapping[int, T], numbers: Sequence[int] | None) -> Sequence[T]:
    """Pick frames by number, or all of them. Raises ValueError if one is missing."""
    if numbers is None:
        return list(frames.values()) if isinstance(frames, Mapping) else frames
    try:
        return [frames[i] for i in numbers]
    except LookupError as error:
        raise ValueError(f"it has no frame number {max(numbers)}; frames are counted from 0") from error


def stack_frames(frames: Sequence[np.ndarray]) -> Tensor:
    """Stack frames (h, w, 3) as (f, 3, h, w). Raises ValueError if there are none or if their sizes differ."""
    if len({frame.shape for frame in frames}) != 1:
        raise ValueError("its frames differ in size" if len(frames) else "it holds no frames")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def read_picture(path: Path) -> np.ndarray:
    """Read a picture (h, w, 3), turned upright as its EXIF orientation says."""
    with decoding(Path(path.name)), Image.open(path, formats=PICTURE_FORMATS) as image:
        return picture_to_rgb(ImageOps.exif_transpose(image))


def read_webp(path: Path) -> tuple[list[np.ndarray], float]:
    """Read all frames (h, w, 3) of a webp file, animated or not, and their mean frame rate."""
    frames, milliseconds = [], 0
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(np.array(frame.convert("RGB")))
            milliseconds += frame.info.get("duration", 0)
    return frames, 1000 * len(frames) / milliseconds if milliseconds else DEFAULT_FPS


def count_picture_frames(path: Path) -> int:
    """The number of frames in a picture file."""
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        return getattr(image, "n_frames", 1)
