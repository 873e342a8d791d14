"""Videos out of files; latte.video.write puts them in. In memory a clip is uint8 (f, 3, h, w); pixels are RGB."""

import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence
from torch import Tensor

from latte.files import below
from latte.video.streams import FPS, open_stream, read_stream, upright
from latte.video.write import codec_errors

STREAMS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".gif")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
READABLE = (*STREAMS, ".webp", ".npz")
PICTURE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")  # the only decoders that are tried, whatever the suffix
LARGEST = 4 << 30  # bytes that an npz may unpack to


def natural(path: Path) -> list:
    """Sorting key that puts frame 10 after frame 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their numbers."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in PICTURES and p.name[0] != "."), key=natural)


def list_videos(folder: str | Path) -> list[Path]:
    """Every video file, and every folder of frames, at or below `folder`, sorted. FileNotFoundError: no such folder.

    Links are followed. A webp is a frame of its folder, unless it moves. What is hidden, as unfinished files are, is
    passed over.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of videos at {folder}")
    inside = [path for path in below(folder) if not re.search(r"(^|/)\.", path.relative_to(folder).as_posix())]
    moving = {path for path in inside if path.suffix.lower() == ".webp" and moves(path)}
    files = [path for path in inside if path.suffix.lower() in (*STREAMS, ".npz")]
    frames = [path for path in (folder, *inside) if path.is_dir() and set(pictures(path)) - moving]
    return sorted([*files, *moving, *frames])


def moves(path: Path) -> bool:
    """Whether a webp has several frames; one that cannot be opened has not."""
    try:
        with decoding(path), Image.open(path, formats=PICTURE_FORMATS) as image:
            return image.n_frames > 1
    except ValueError:
        return False


def read_video(path: str | Path, indices: Sequence[int] | None = None) -> tuple[Tensor, float]:
    """All frames of a video, or those of the given numbers (in their order), and its frames per second.

    mp4, avi, mkv, webm, mov, gif, webp, npz (array `video`, or its first), or a folder of numbered pictures -> uint8
    (f, 3, h, w), turned upright and without alpha. FileNotFoundError; ValueError for another kind of file, for what is
    damaged, holds no frames, or has no frame of that number.
    """
    path, kind = located(path)
    wanted = None if indices is None else [int(i) for i in indices]
    if wanted is not None and (not wanted or min(wanted) < 0):
        raise ValueError(f"{path}: frame numbers must be 0 or more, and at least one; got {wanted}")
    with decoding(path):
        if kind == "folder":
            frames, fps = read_folder(path, wanted), FPS
        elif kind == ".npz":
            frames, fps = pick(read_npz(path), wanted), FPS
        elif kind == ".webp":
            frames, fps = read_webp(path, wanted)
        else:
            found, fps = read_stream(path, wanted)
            frames = list(found.values()) if wanted is None else pick(found, wanted)
        return as_tensor(frames), fps


def read_blocks(path: str | Path, size: int = 32) -> Iterator[Tensor]:
    """All frames of a video in order, up to `size` at a time, so that a long one takes little memory; as read_video."""
    path, kind = located(path)
    if kind in STREAMS:
        with decoding(path), open_stream(path) as (container, stream):
            frames = map(upright, container.decode(stream))
            yield as_tensor(list(islice(frames, size)))  # which says if there are none
            while block := list(islice(frames, size)):
                yield as_tensor(block)
    elif kind == "folder":
        count = count_frames(path)
        for start in range(0, count, size):
            yield read_video(path, range(start, min(start + size, count)))[0]
    else:  # npz and webp unpack as a whole
        yield from read_video(path)[0].split(size)


def count_frames(path: str | Path) -> int:
    """How many frames read_video would give; nothing is decoded: streams are walked through packet by packet."""
    path, kind = located(path)
    with decoding(path):
        if kind == "folder":
            return len(pictures(path))
        if kind == ".npz":
            with open_npz(path) as (_, shape, _):
                return shape[0]
        if kind == ".webp":
            with Image.open(path, formats=PICTURE_FORMATS) as image:
                return image.n_frames
        with open_stream(path) as (container, stream):
            return sum(packet.size > 0 for packet in container.demux(stream))


def located(path: str | Path) -> tuple[Path, str]:
    """A path and its kind: "folder" or a suffix. FileNotFoundError: nothing is there; ValueError: not of our kinds."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}")
    kind = "folder" if path.is_dir() else path.suffix.lower()
    if kind not in ("folder", *READABLE):
        raise ValueError(f"{path}: not a video by its suffix, which must be one of {' '.join(READABLE)}")
    return path, kind


def decoding(path: Path) -> AbstractContextManager[None]:
    """Whatever a decoder raises on a file, of the many classes there are, is a ValueError that names the file."""
    return codec_errors(path, "cannot be decoded", Exception)


def as_tensor(frames: Sequence[np.ndarray]) -> Tensor:
    """Frames (h, w, 3) -> (f, 3, h, w); ValueError: there are none, or their sizes differ."""
    if len({frame.shape for frame in frames}) != 1:
        raise ValueError("its frames differ in size" if len(frames) else "it holds no frames")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def pick(frames: Sequence | dict[int, np.ndarray], wanted: Sequence[int] | None) -> Sequence:
    """The wanted ones of numbered frames, or all. ValueError: one is not there."""
    try:
        return frames if wanted is None else [frames[i] for i in wanted]
    except LookupError as error:
        raise ValueError(f"it has no frame of number {max(wanted)}") from error


def read_folder(path: Path, wanted: list[int] | None) -> list[np.ndarray]:
    """Frames (h, w, 3) of a folder of pictures; only the wanted ones are opened."""
    return [read_picture(picture) for picture in pick(pictures(path), wanted)]


def read_picture(path: Path) -> np.ndarray:
    """A picture (h, w, 3), turned as its camera's flag says."""
    with decoding(Path(path.name)), Image.open(path, formats=PICTURE_FORMATS) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def read_webp(path: Path, wanted: list[int] | None) -> tuple[Sequence[np.ndarray], float]:
    """Frames (h, w, 3) of a moving or still webp, and their mean rate."""
    frames, milliseconds = [], 0
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(np.array(frame.convert("RGB")))
            milliseconds += frame.info.get("duration", 0)
    return pick(frames, wanted), 1000 * len(frames) / milliseconds if milliseconds else FPS


def read_npz(path: Path) -> np.ndarray:
    """Frames (f, h, w, 3) of an npz."""
    with open_npz(path) as (file, shape, order):
        data = file.read(prod(shape) + 1)  # one more than there should be: the end is where zip checks its sum
    if len(data) != prod(shape):
        raise ValueError(f"its array is not of the {prod(shape)} bytes that its header claims")
    array = np.frombuffer(data, np.uint8).reshape(shape, order=order)
    return array if shape[3] == 3 else array.transpose(0, 2, 3, 1)


@contextmanager
def open_npz(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...], str]]:
    """The array `video` of an npz, or its first, by its header alone: a file at its values, its shape and their order.

    ValueError: no array, none of bytes (f, h, w, 3) or (f, 3, h, w), or one of more than LARGEST bytes.
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not names:
            raise ValueError("it holds no array")
        with archive.open("video.npy" if "video.npy" in names else names[0]) as file:
            shape, fortran, dtype = read_header(file)
            if dtype != np.uint8 or len(shape) != 4 or 3 not in shape[1::2] or min(shape) < 1:
                raise ValueError(f"expected bytes (f, h, w, 3), found {dtype} {shape}")
            if prod(shape) > LARGEST:
                raise ValueError(f"it claims {prod(shape)} bytes of frames; more than {LARGEST} are not read")
            yield file, shape, "F" if fortran else "C"


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and dtype of an .npy. Version 1 only, which has all that bytes need in 64 kB at most."""
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version")
        return np.lib.format.read_array_header_1_0(file)
    except ValueError as error:  # NumPy's words may recommend allow_pickle, which runs what a stranger wrote
        raise ValueError("it holds no array whose header can be read") from error
