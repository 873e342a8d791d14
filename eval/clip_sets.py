"""Clips of a folder of videos, chosen by their names and a seed alone, and decoded ahead of their use."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.eval.protocol import Protocol
from latte.files import read_json
from latte.sample_many import RECORD
from latte.video.formats import STREAM_SUFFIXES
from latte.video.npz import open_npz
from latte.video.page import GRID_FILE, PAGE_FILE, SHEET_FILE, is_page
from latte.video.pixels import resize_and_crop
from latte.video.read import count_frames, list_pictures, list_videos, read_video
from latte.video.streams import open_stream
from latte.weights.tensors import digest

OF_ALL = {SHEET_FILE, GRID_FILE}
LOSSLESS = ("png", "bmp", "npz", "ffv1", "rawvideo", "huffyuv", "ffvhuff")


@dataclass(frozen=True)
class ClipWindow:
    """Frames start, start + stride, ... of a video."""

    name: str  # of the video, below its folder
    start: int
    stride: int
    frames: int
    sha256: str  # of its file or files, or whatever else says what is in it
    crop: int = 0  # pixels of a side: frames are resized to that, and the middle is cut out; 0: as they are


@dataclass(frozen=True)
class ClipSet:
    """One side of a comparison."""

    root: Path
    clips: tuple[ClipWindow, ...]
    short: tuple[str, ...]  # videos left out
    videos: int  # that were looked at
    codecs: dict[str, int]  # of the chosen clips' videos
    sizes: dict[str, int]  # of their frames, such as 320x240

    @property
    def fingerprint(self) -> str:
        """Changes with any clip; the same wherever the folder is."""
        return hashlib.sha256(repr([asdict(clip) for clip in self.clips]).encode()).hexdigest()[:16]

    @property
    def about(self) -> dict:
        """What a result holds of them; of videos that `latte sample --n` wrote, also what made them."""
        made = self.root / RECORD
        return {
            "folder": str(self.root),
            "videos": self.videos,
            "clips": len(self.clips),
            "too_short": len(self.short),
            "first_too_short": self.short[0] if self.short else None,
            "codecs": self.codecs,
            "sizes": self.sizes,
            "fingerprint": self.fingerprint,
            **({"made_by": read_json(made)} if made.is_file() else {}),
        }

    def read(self, clip: ClipWindow) -> Tensor:
        """uint8 (f, 3, h, w). ValueError names a video that cannot be decoded."""
        numbers = range(clip.start, clip.start + clip.frames * clip.stride, clip.stride)
        video = read_video(self.root / clip.name, numbers)[0]
        return resize_and_crop(video, clip.crop) if clip.crop else video

    def stream(self, chosen: Sequence[ClipWindow], workers: int = 4) -> Iterator[Tensor]:
        """Some of the clips in order, as read gives them, a few of them decoded ahead."""
        waiting = iter(chosen)
        with ThreadPoolExecutor(workers) as pool:
            ahead = [pool.submit(self.read, clip) for clip in islice(waiting, 2 * workers)]
            while ahead:
                yield ahead.pop(0).result()
                ahead += [pool.submit(self.read, clip) for clip in islice(waiting, 1)]


def rank(seed: int, name: str) -> int:
    """A number that depends on seed and name alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8])


def stored_as(path: Path) -> tuple[str, str]:
    """What the frames of a video were stored as: codec, and size such as 320x240."""
    if path.is_dir():
        kinds = sorted({picture.suffix.lower().lstrip(".") for picture in list_pictures(path)})
        with Image.open(list_pictures(path)[0]) as picture:
            return " and ".join(kinds), f"{picture.width}x{picture.height}"
    kind = path.suffix.lower()
    if kind == ".npz":
        with open_npz(path) as (_, shape, _):
            h, w = shape[1:3] if shape[3] == 3 else shape[2:]
            return "npz", f"{w}x{h}"
    if kind not in STREAM_SUFFIXES:
        with Image.open(path) as picture:
            return kind.lstrip("."), f"{picture.width}x{picture.height}"
    with open_stream(path) as (_, stream):
        return stream.codec_context.name, f"{stream.codec_context.width}x{stream.codec_context.height}"


def content(path: Path) -> str:
    """sha256 of a file, or of a folder's pictures in their order."""
    if not path.is_dir():
        return digest(path)
    return hashlib.sha256("".join(digest(picture) for picture in list_pictures(path)).encode()).hexdigest()


def start_of(protocol: Protocol, side: str, seed: int, name: str, frames: int) -> int:
    """The first frame of the clip that is taken of a video of that name and so many frames."""
    room = frames - (protocol.frames - 1) * protocol.stride(side)
    if protocol.start(side) == "zero":
        return 0
    return int(torch.randint(room, (), generator=generator(seed, rank(seed, name) >> 32)))


def videos_of(root: Path) -> list[Path]:
    """The videos of a folder, sorted; of one that `latte sample` wrote without the pictures that show them all."""
    if not is_page(root / PAGE_FILE):
        return list_videos(root)
    of_frames = root if {picture.name for picture in list_pictures(root)} <= OF_ALL else None
    return [path for path in list_videos(root) if path != of_frames and path.name not in OF_ALL]


def choose_clips(folder: str | Path, protocol: Protocol, side: str, seed: int, only: int | None = None) -> ClipSet:
    """One clip of each video of a folder, until there are protocol.clips; side: "real" or "generated".

    only: of a folder that `latte sample --n` wrote, so many videos, the first ones. ValueError: there is none long
    enough, or generated frames are lossy where the protocol forbids it. FileNotFoundError: no such folder.
    """
    root, stride, crop = Path(folder), protocol.stride(side), protocol.real_crop if side == "real" else 0
    names = [str(path.relative_to(root).as_posix()) for path in videos_of(root)][:only]
    names.sort(key=(lambda name: rank(seed, name)) if protocol.order == "seed" else None)
    clips, short, codecs, sizes = [], [], Counter(), Counter()
    for name in names:
        if len(clips) == protocol.clips:
            break
        frames = count_frames(root / name)
        if frames < protocol.frames * stride:
            short.append(name)
            continue
        start = start_of(protocol, side, seed, name, frames)
        clips.append(ClipWindow(name, start, stride, protocol.frames, content(root / name), crop))
        codec, size = stored_as(root / name)
        size = f"{crop}x{crop}" if crop else size
        codecs[codec], sizes[size] = codecs[codec] + 1, sizes[size] + 1
    if not clips:
        needed = f"{protocol.frames * stride} frames or more, which protocol {protocol.name} needs"
        raise ValueError(f"{root} holds no video of {needed}: {len(names)} videos were looked at")
    if protocol.lossless and side == "generated" and (lossy := sorted(set(codecs) - set(LOSSLESS))):
        raise ValueError(
            f"{root} holds videos in {lossy[0]}, which may lose what protocol {protocol.name} measures: write samples "
            "with `latte sample --n`, or leave out --protocol, or choose stylegan-v or latte"
        )
    return ClipSet(root, tuple(clips), tuple(short), len(clips) + len(short), dict(codecs), dict(sizes))
