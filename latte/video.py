"""Videos in and out of files. In memory a clip is uint8 (f, 3, h, w); pixels are RGB."""

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageSequence, UnidentifiedImageError
from torch import Tensor

from latte.files import replacing

STREAMS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".gif")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
READABLE = (*STREAMS, ".webp", ".npz")


def to_uint8(video: Tensor) -> Tensor:
    """[-1, 1] floats -> bytes, clamped and rounded."""
    return ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(video: Tensor) -> Tensor:
    """Bytes -> [-1, 1] float32."""
    return video.float() / 127.5 - 1


def natural(path: Path) -> list:
    """Sorting key that puts frame 10 after frame 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their numbers."""
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in PICTURES), key=natural)


def list_videos(folder: str | Path) -> list[Path]:
    """Every video file, and every folder of frames, at or below `folder`, sorted. FileNotFoundError: no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of videos at {folder}")
    files = [path for path in folder.rglob("*") if path.suffix.lower() in (*STREAMS, ".npz")]
    frames = [path for path in [folder, *folder.rglob("*")] if path.is_dir() and pictures(path)]
    return sorted([*files, *frames])


def read_video(path: str | Path, indices: Sequence[int] | None = None) -> tuple[Tensor, float]:
    """All frames of a video, or those of the given numbers (in their order), and its frames per second.

    mp4, avi, mkv, webm, mov, gif, webp, npz (array `video`, or its first), or a folder of numbered pictures -> uint8
    (f, 3, h, w). FileNotFoundError; ValueError for what is damaged, holds no frames, or has no frame of that number.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no video at {path}")
    wanted = None if indices is None else [int(i) for i in indices]
    if wanted is not None and (not wanted or min(wanted) < 0):
        raise ValueError(f"{path}: frame numbers must be 0 or more, and at least one; got {wanted}")
    with decoding(path, wanted):
        if path.is_dir():
            frames, fps = read_folder(path, wanted), 8.0
        elif path.suffix.lower() == ".npz":
            frames, fps = pick(read_npz(path), wanted), 8.0
        elif path.suffix.lower() == ".webp":
            with Image.open(path) as image:
                fps = 1000 / (image.info.get("duration") or 125)
                frames = pick([np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)], wanted)
        else:
            frames, fps = read_stream(path, wanted)
    return as_tensor(frames, path), fps


@contextmanager
def decoding(path: Path, wanted: list[int] | None = None) -> Iterator[None]:
    """Turns what the decoders raise into one ValueError that names the file."""
    try:
        yield
    except IndexError as error:
        number = f" (number {max(wanted)})" if wanted else ""
        raise ValueError(f"{path} has fewer frames than asked for{number}") from error
    except (av.FFmpegError, UnidentifiedImageError, OSError, EOFError, KeyError) as error:
        raise ValueError(f"{path} cannot be decoded as a video: {error}") from error


def as_tensor(frames: Sequence[np.ndarray], path: Path) -> Tensor:
    """Frames (h, w, 3) -> (f, 3, h, w); ValueError: there are none, or their sizes differ."""
    if len({frame.shape for frame in frames}) != 1:
        raise ValueError(f"{path} holds no frames" if not len(frames) else f"{path}: its frames differ in size")
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()


def video_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """A file's first video stream, set to decode on one thread."""
    if not container.streams.video:
        raise ValueError(f"{path} holds no video stream")
    stream = container.streams.video[0]
    stream.thread_type, stream.thread_count = "NONE", 1
    return stream


def pick(frames: Sequence, wanted: list[int] | None) -> Sequence:
    return frames if wanted is None else [frames[i] for i in wanted]


def read_folder(path: Path, wanted: list[int] | None) -> list[np.ndarray]:
    """Frames (h, w, 3) of a folder of pictures; only the wanted ones are opened."""
    return [np.array(Image.open(picture).convert("RGB")) for picture in pick(pictures(path), wanted)]


def read_npz(path: Path) -> list[np.ndarray]:
    """Frames (h, w, 3) of an array (f, h, w, 3) or (f, 3, h, w) of bytes."""
    with np.load(path, allow_pickle=False) as file:
        array = file["video"] if "video" in file else file[file.files[0]]
    if array.ndim != 4 or array.dtype != np.uint8 or 3 not in (array.shape[1], array.shape[3]):
        raise ValueError(f"{path}: expected bytes (f, h, w, 3), found {array.dtype} {array.shape}")
    return list(array if array.shape[3] == 3 else array.transpose(0, 2, 3, 1))


def read_stream(path: Path, wanted: list[int] | None) -> tuple[list[np.ndarray], float]:
    """Frames (h, w, 3) of a stream, on one thread; decoding stops after the last wanted frame."""
    with av.open(str(path)) as container:
        stream = video_stream(container, path)
        last, chosen, kept, frames = None if wanted is None else max(wanted), set(wanted or []), {}, []
        for number, frame in enumerate(container.decode(stream)):
            if wanted is None:
                frames.append(frame.to_ndarray(format="rgb24"))
            elif number in chosen:
                kept[number] = frame.to_ndarray(format="rgb24")
            if last is not None and number >= last:
                break
        if wanted is not None:
            if last not in kept:
                raise IndexError(last)
            frames = [kept[i] for i in wanted]
        return frames, float(stream.average_rate or 8)


def read_blocks(path: str | Path, size: int = 32) -> Iterator[Tensor]:
    """All frames of a video in order, up to `size` at a time, so that a long one takes little memory; as read_video."""
    path = Path(path)
    if path.suffix.lower() in STREAMS and path.is_file():
        with decoding(path), av.open(str(path)) as container:
            frames = (frame.to_ndarray(format="rgb24") for frame in container.decode(video_stream(container, path)))
            while block := list(islice(frames, size)):
                yield as_tensor(block, path)
    else:
        count = count_frames(path)
        for start in range(0, count, size):
            yield read_video(path, range(start, min(start + size, count)))[0]


def count_frames(path: str | Path) -> int:
    """How many frames read_video would give; streams are walked through packet by packet, not decoded."""
    path = Path(path)
    if path.is_dir():
        return len(pictures(path))
    if path.suffix.lower() in STREAMS and path.is_file():
        with decoding(path), av.open(str(path)) as container:
            return sum(packet.size > 0 for packet in container.demux(video_stream(container, path)))
    return len(read_video(path)[0])


def as_array(frames: Tensor | np.ndarray | Iterable) -> np.ndarray:
    """Frames as bytes (f, h, w, 3), from a tensor, an array or a list of pictures; floats are in [0, 1]."""
    if isinstance(frames, Tensor):
        frames = frames.detach().cpu().numpy()
    if not isinstance(frames, np.ndarray):
        frames = np.stack([np.asarray(frame) for frame in frames])
    if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]):
        raise ValueError(f"frames have shape {frames.shape}; expected (f, h, w, 3) or (f, 3, h, w)")
    if frames.shape[3] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.dtype != np.uint8:
        if not np.isfinite(frames).all():
            raise ValueError("frames hold values that are not finite")
        frames = (frames.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(frames)


def write_video(
    frames: Tensor | np.ndarray | Iterable, path: str | Path, fps: float = 8, lossless: bool = False
) -> Path:
    """Write a clip by its suffix: .mp4 (H.264, yuv420p), .mkv (lossless FFV1), .gif, .webp, .npz, .png (a row).

    lossless: .mkv always is; .mp4 then is H.264 in RGB and .webp its lossless mode. Nothing half-written stays.
    """
    path, array = Path(path), as_array(frames)
    suffix, milliseconds = path.suffix.lower(), round(1000 / fps)
    images = [Image.fromarray(frame) for frame in array]
    with replacing(path) as draft:
        if suffix in (".mp4", ".mkv"):
            write_stream(array, draft, fps, lossless or suffix == ".mkv")
        elif suffix == ".gif":
            images[0].save(draft, save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
        elif suffix == ".webp":
            options = {"lossless": True} if lossless else {"quality": 90}
            images[0].save(draft, save_all=True, append_images=images[1:], duration=milliseconds, loop=0, **options)
        elif suffix == ".npz":
            np.savez_compressed(draft, video=array)
        elif suffix == ".png":
            Image.fromarray(np.concatenate(list(array), 1)).save(draft)
        else:
            what = suffix or "a file without suffix"
            raise ValueError(f"{path}: cannot write {what}; use .mp4 .mkv .gif .webp .npz .png")
    return path


def write_stream(array: np.ndarray, path: Path, fps: float, lossless: bool) -> None:
    """H.264 or FFV1; an odd side is made even by repeating the last row or column, which yuv420p needs."""
    codec = "ffv1" if path.suffix == ".mkv" else "libx264rgb" if lossless else "libx264"
    if codec == "libx264":
        array = np.pad(array, ((0, 0), (0, array.shape[1] % 2), (0, array.shape[2] % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = array.shape[1:3]
        stream.pix_fmt = {"libx264": "yuv420p", "libx264rgb": "rgb24", "ffv1": "bgr0"}[codec]
        stream.options = {"libx264": {"crf": "16"}, "libx264rgb": {"crf": "0"}, "ffv1": {}}[codec]
        for image in array:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def export_to_video(video_frames, output_video_path: str | Path | None = None, fps: int = 10) -> str:
    """Write frames (a list of pictures or of arrays in [0, 1], or one array) as mp4; the path, temporary if None."""
    return str(write_video(video_frames, output_video_path or tempfile.mkstemp(suffix=".mp4")[1], fps))


def export_to_gif(image: list, output_gif_path: str | Path | None = None, fps: int = 10) -> str:
    """The same as an endless gif."""
    return str(write_video(image, output_gif_path or tempfile.mkstemp(suffix=".gif")[1], fps))
