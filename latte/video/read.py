"""Read videos: all of a file, chosen frames, blocks of frames, or only their number.

In memory a video is a uint8 tensor (f, 3, h, w) of RGB frames.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from latte.files import refuse_pointer
from latte.video.array_files import ARRAY_SUFFIXES, array_shape, read_array
from latte.video.damage import Damage, WhenDamaged
from latte.video.formats import (
    DEFAULT_FPS,
    STREAM_SUFFIXES,
    codec_errors,
    video_kind,
)
from latte.video.frame_folders import list_frames
from latte.video.frame_index import index_frames, times_by_decoding
from latte.video.limits import check_frame_size, check_read_size
from latte.video.picture_modes import picture_to_rgb
from latte.video.stream_frames import note_problem, read_stream, read_stream_blocks

T = TypeVar("T")

ANIMATED_FORMATS = ("PNG", "WEBP")  # a JPEG may also hold several pictures, of which the first one is meant
# Pillow chooses a decoder by content, not by suffix. Only these are tried: others may start programs.
PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")


def read_video(
    path: str | Path,
    indices: Sequence[int] | None = None,
    damaged: WhenDamaged = "raise",
    square_pixels: bool = True,
) -> tuple[Tensor, float]:
    """Read a video, or some of its frames.

    The frames are those that a player shows, in that order: what an edit list or a cut hides is not counted. They are
    turned and mirrored as the file says, resampled to square pixels, and converted to RGB. An alpha channel is dropped.

    Args:
        path: A file with one of READABLE_SUFFIXES, or a folder of numbered pictures. Of the arrays in an npz, `video`
            is read, or the only one that is a video. It is in RGB or grey, with the channels first or last. Integers
            are in [0, 255]; floats in [0, 1], in [-1, 1] if some are below -0.25, or in [0, 255] if some exceed 127.
        indices: Frame numbers, from 0, in any order and with repetitions. None reads all frames.
        damaged: What to do if FFmpeg reports errors in the frames that it decodes, or if the file is shorter than its
            header says: "raise" refuses the video; "take" returns what FFmpeg makes of it.
        square_pixels: Resample frames whose pixels are not square, as players do. False returns the stored pixels,
            which PSNR and its like compare.

    Returns:
        The frames, uint8 (f, 3, h, w), in the order of `indices`; and the frame rate in frames per second.

    Raises:
        FileNotFoundError: If nothing exists at the path.
        DamagedVideoError: If the file is damaged. It is a ValueError.
        ValueError: If the file is of an unsupported kind, cannot be decoded, is empty, lacks a requested frame or is
            too large: MAX_FRAME_PIXELS per frame, MAX_READ_BYTES in all.
    """
    path, numbers = Path(path), None if indices is None else [int(i) for i in indices]
    kind = video_kind(path)
    if numbers is not None and (not numbers or min(numbers) < 0):
        raise ValueError(f"{path}: indices must be a non-empty list of frame numbers from 0; got {numbers}")
    with decoding(path):
        frames, fps = read_frames(path, kind, numbers, Damage(damaged), square_pixels)
        return stack_frames(frames), fps


def read_blocks(path: str | Path, size: int = 32, damaged: WhenDamaged = "raise") -> Iterator[Tensor]:
    """Read a video block by block, so that a long one needs little memory.

    Only webp, npz and npy files are decompressed at once.

    Args:
        path: A video, as for read_video.
        size: The number of frames per block. The last block may have fewer, and so may blocks of large frames.
        damaged: As for read_video.

    Yields:
        Consecutive frames, uint8 (f, 3, h, w) with f <= size.

    Raises:
        FileNotFoundError: As read_video.
        ValueError: As read_video.
    """
    path = Path(path)
    kind = video_kind(path)
    if kind in STREAM_SUFFIXES:
        with decoding(path):
            yield from map(stack_frames, read_stream_blocks(path, size, Damage(damaged)))
    elif kind == "folder":
        count = count_frames(path)
        for start in range(0, count, size):
            yield read_video(path, range(start, min(start + size, count)))[0]
    else:
        yield from read_video(path)[0].split(size)


def count_frames(path: str | Path, damaged: WhenDamaged = "raise") -> int:
    """Count the frames that read_video returns. Streams are decoded only if their packets leave a doubt.

    Args:
        path: A video, as for read_video.
        damaged: As for read_video, except that damage inside frames is not seen. "take" decodes every stream.

    Returns:
        The number of frames.

    Raises:
        FileNotFoundError: As read_video.
        ValueError: As read_video.
    """
    path = Path(path)
    kind = video_kind(path)
    damage = Damage(damaged)
    with decoding(path):
        if kind == "folder":
            return len(list_frames(path))
        if kind in ARRAY_SUFFIXES:
            return array_shape(path)[0]
        if kind == ".webp":
            return count_picture_frames(path)
        index = index_frames(path)
        note_problem(index, damage)
        return len(times_by_decoding(path, index.head_is_cut) if damage.takes else index.times)


def decoding(path: Path) -> AbstractContextManager[None]:
    """Turn whatever a decoder raises into a ValueError that names the file."""
    return codec_errors(path, "cannot be decoded")


def read_frames(
    path: Path, kind: str, numbers: Sequence[int] | None, damage: Damage | None = None, square_pixels: bool = True
) -> tuple[Sequence[np.ndarray], float]:
    """Decode frames (h, w, 3) of any kind of video, and return its frame rate too."""
    if kind == "folder":
        return read_pictures(select(list_frames(path), numbers)), DEFAULT_FPS
    if kind in ARRAY_SUFFIXES:
        return select(list(read_array(path)), numbers), DEFAULT_FPS
    if kind == ".webp":
        pictures, fps = read_webp(path)
        return select(pictures, numbers), fps
    decoded, fps = read_stream(path, numbers, damage or Damage(), square_pixels)
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
    video = np.empty((len(frames), *(frames[0].shape[i] for i in (2, 0, 1))), np.uint8)
    for number, frame in enumerate(frames):  # faster, and with less memory, than stacking first
        video[number] = frame.transpose(2, 0, 1)
    return torch.from_numpy(video)


def read_pictures(paths: Sequence[Path]) -> list[np.ndarray]:
    """Read pictures (h, w, 3). Raises ValueError if all of them, if as large as the first, are too large."""
    first = [read_picture(path) for path in paths[:1]]
    if first:
        check_read_size(len(paths), *first[0].shape[:2])
    return first + [read_picture(path) for path in paths[1:]]


def read_picture(path: Path) -> np.ndarray:
    """Read a picture (h, w, 3), turned upright as its EXIF orientation says."""
    refuse_pointer(path)
    with decoding(Path(path.name)), Image.open(path, formats=PICTURE_FORMATS) as image:
        check_frame_size(image.height, image.width)
        if image.format in ANIMATED_FORMATS and (frames := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"it is an animation of {frames} frames, not a picture: take it out of the folder")
        return picture_to_rgb(ImageOps.exif_transpose(image))


def read_webp(path: Path, most: int | None = None) -> tuple[list[np.ndarray], float]:
    """Read the first frames (h, w, 3) of a webp file, animated or not, or all, and their mean frame rate."""
    frames, milliseconds = [], 0
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        count = getattr(image, "n_frames", 1)
        check_read_size(min(count, most or count), image.height, image.width)
        for frame in islice(ImageSequence.Iterator(image), most):
            frames.append(picture_to_rgb(ImageOps.exif_transpose(frame)))
            milliseconds += frame.info.get("duration", 0)
    return frames, 1000 * len(frames) / milliseconds if milliseconds else DEFAULT_FPS


def count_picture_frames(path: Path) -> int:
    """The number of frames in a picture file."""
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        return getattr(image, "n_frames", 1)
