"""Sets of clips that a protocol takes of video files.

The choice depends on the names of the videos and a seed alone, so it is the same on every machine.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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

OVERVIEWS = {SHEET_FILE, GRID_FILE}  # pictures of all videos that `latte sample` writes beside them
LOSSLESS = ("png", "bmp", "npz", "ffv1", "rawvideo", "huffyuv", "ffvhuff")


@dataclass(frozen=True)
class ClipWindow:
    """A clip of a video: its frames start, start + stride, ...

    Attributes:
        name: The video, as a path below its folder.
        start: The first frame.
        stride: From one frame to the next.
        frames: How many there are.
        sha256: Of the video's file or files, or of whatever else determines its content.
        crop: Pixels to which frames are resized and centre-cropped; 0: unchanged.
    """

    name: str
    start: int
    stride: int
    frames: int
    sha256: str
    crop: int = 0

    def of(self, video: Tensor) -> Tensor:
        """The clip, uncropped, out of all frames (f, 3, h, w) of its video."""
        return video[self.start :: self.stride][: self.frames]


@dataclass(frozen=True)
class ClipSet:
    """Clips of video files.

    Attributes:
        root: The folder that the names of the clips are below.
        clips: The clips, in the protocol's order.
        short: The names of videos that were left out as too short.
        videos: How many videos were looked at.
        codecs: The codecs of the chosen clips' videos, and how many have each.
        sizes: The sizes of their frames, such as "320x240", likewise.
    """

    root: Path
    clips: tuple[ClipWindow, ...]
    short: tuple[str, ...]
    videos: int
    codecs: dict[str, int]
    sizes: dict[str, int]

    @property
    def fingerprint(self) -> str:
        """Changes with any clip, and is the same wherever the folder is."""
        return fingerprint(self.clips)

    @property
    def about(self) -> dict:
        """A description for the result; for videos of `latte sample --n` also the record of how they were made."""
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
        """Decode a clip, uint8 (f, 3, h, w). Raises ValueError, with the file's name, if it cannot be decoded."""
        numbers = range(clip.start, clip.start + clip.frames * clip.stride, clip.stride)
        video = read_video(self.root / clip.name, numbers)[0]
        return resize_and_crop(video, clip.crop) if clip.crop else video

    def stream(self, chosen: Sequence[ClipWindow], workers: int = 4) -> Iterator[Tensor]:
        """Yield some of the clips in order, as `read` returns them; a few are decoded ahead."""
        waiting = iter(chosen)
        with ThreadPoolExecutor(workers) as pool:
            ahead = [pool.submit(self.read, clip) for clip in islice(waiting, 2 * workers)]
            while ahead:
                yield ahead.pop(0).result()
                ahead += [pool.submit(self.read, clip) for clip in islice(waiting, 1)]


def fingerprint(clips: Sequence[ClipWindow]) -> str:
    """A hash of which clips they are and of their content."""
    return hashlib.sha256(repr([asdict(clip) for clip in clips]).encode()).hexdigest()[:16]


def rank(seed: int, name: str) -> int:
    """A number that depends on the seed and the name alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8])


def stored_as(path: Path) -> tuple[str, str]:
    """What the frames of a video are stored as: the codec, and the size such as "320x240"."""
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
    """The sha256 of a file, or of a folder's pictures in their order."""
    if not path.is_dir():
        return digest(path)
    return hashlib.sha256("".join(digest(picture) for picture in list_pictures(path)).encode()).hexdigest()


def start_of(protocol: Protocol, side: str, seed: int, name: str, frames: int) -> int:
    """The first frame of the clip that a protocol takes of a video with that name and so many frames."""
    room = frames - (protocol.frames - 1) * protocol.stride(side)
    if protocol.start(side) == "zero":
        return 0
    return int(torch.randint(room, (), generator=generator(seed, rank(seed, name) >> 32)))


def choose_windows(
    names: Sequence[str],
    protocol: Protocol,
    side: str,
    seed: int,
    frames_of: Callable[[str], int],
    content_of: Callable[[str], str],
    source: object,
) -> tuple[tuple[ClipWindow, ...], tuple[str, ...]]:
    """One clip of each video, until there are protocol.clips.

    Args:
        names: Of the videos.
        protocol: Says which clips to take.
        side: "real" or "generated".
        seed: For the protocol's random choices.
        frames_of: How many frames a video has.
        content_of: A hash of its content.
        source: What holds the videos, for the message of the error.

    Returns:
        The clips, and the names of the videos that were too short.

    Raises:
        ValueError: No video is long enough for a clip.
    """
    names = sorted(names, key=lambda name: rank(seed, name)) if protocol.order == "seed" else sorted(names)
    stride, crop = protocol.stride(side), protocol.real_crop if side == "real" else 0
    clips, short = [], []
    for name in names:
        if len(clips) == protocol.clips:
            break
        frames = frames_of(name)
        if frames < protocol.frames * stride:
            short.append(name)
            continue
        start = start_of(protocol, side, seed, name, frames)
        clips.append(ClipWindow(name, start, stride, protocol.frames, content_of(name), crop))
    if not clips:
        needed = f"{protocol.frames * stride} frames or more, which protocol {protocol.name} needs"
        raise ValueError(f"{source} holds no video of {needed}: {len(names)} videos were looked at")
    return tuple(clips), tuple(short)


def videos_of(root: Path) -> list[Path]:
    """The videos of a folder, sorted, without the overview pictures that `latte sample` writes beside them."""
    if not is_page(root / PAGE_FILE):
        return list_videos(root)
    of_frames = root if {picture.name for picture in list_pictures(root)} <= OVERVIEWS else None
    return [path for path in list_videos(root) if path != of_frames and path.name not in OVERVIEWS]


def video_names(videos: str | Path | Sequence[str | Path]) -> tuple[Path, list[str]]:
    """A folder and the names of its videos below it; of a list of files, their nearest common folder."""
    if isinstance(videos, str | Path):
        root = Path(videos)
        return root, [path.relative_to(root).as_posix() for path in videos_of(root)]
    paths = [Path(os.path.abspath(path)) for path in videos]
    if not paths:
        raise ValueError("the list of videos is empty: name at least two files")
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise ValueError(f"{twice[0]} is listed twice: name each video once")
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return root, [path.relative_to(root).as_posix() for path in paths]


def choose_clips(
    videos: str | Path | Sequence[str | Path], protocol: Protocol, side: str, seed: int, only: int | None = None
) -> ClipSet:
    """Take one clip of each video, until there are protocol.clips.

    Args:
        videos: A folder of videos, at any depth, or a list of video files.
        protocol: Says which clips to take.
        side: "real" or "generated".
        seed: For the protocol's random choices.
        only: Use the first so many videos of the folder; for folders of `latte sample --n`.

    Raises:
        ValueError: No video is long enough, or generated videos are lossy and the protocol forbids it.
        FileNotFoundError: No such folder or file.
    """
    root, names = video_names(videos)
    frames_of, content_of = lambda name: count_frames(root / name), lambda name: content(root / name)
    clips, short = choose_windows(names[:only], protocol, side, seed, frames_of, content_of, root)
    codecs, sizes = Counter(), Counter()
    for clip in clips:
        codec, size = stored_as(root / clip.name)
        size = f"{clip.crop}x{clip.crop}" if clip.crop else size
        codecs[codec], sizes[size] = codecs[codec] + 1, sizes[size] + 1
    if protocol.lossless and side == "generated" and (lossy := lossy_codecs(codecs)):
        raise ValueError(
            f"{root} holds videos in {lossy[0]}, which may lose what protocol {protocol.name} measures: write samples "
            "with `latte sample --n`, or leave out the protocol, or choose stylegan-v or latte"
        )
    return ClipSet(root, clips, short, len(clips) + len(short), dict(codecs), dict(sizes))


def lossy_codecs(codecs: Iterable[str]) -> list[str]:
    """Those of some codecs that are not known to be lossless, sorted."""
    return sorted(set(codecs) - set(LOSSLESS))
