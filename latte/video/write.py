"""Write videos: tensors, arrays or lists of pictures into the format that the file's suffix names."""

import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import numpy as np
from PIL import Image
from torch import Tensor

from latte.files import replacing
from latte.video.array_layout import EXPECTED, SLACK, as_rgb, channels_last
from latte.video.formats import WRITABLE_SUFFIXES, codec_errors
from latte.video.picture_modes import picture_to_rgb
from latte.video.pixels import as_array

Picture: TypeAlias = Tensor | np.ndarray | Image.Image
Frames: TypeAlias = Tensor | np.ndarray | Iterable[Picture]

MAX_SIDE = 16383  # pixels, the limit of webp and H.264
FPS_RANGE = (0.1, 1000.0)


@dataclass(frozen=True)
class Codec:
    """How FFmpeg encodes one kind of file."""

    name: str
    pixel_format: str
    options: dict[str, str] = field(default_factory=dict)
    max_fps: float = FPS_RANGE[1]


FFV1 = Codec("ffv1", "bgr0")
CODECS = {  # by suffix and whether the file is to be lossless
    # where a row has few blocks, x264's macroblock tree reads memory that was never written: files differ by chance
    (".mp4", False): Codec("libx264", "yuv420p", {"crf": "16", "x264-params": "mbtree=0"}),
    (".mp4", True): Codec("libx264rgb", "rgb24", {"crf": "0"}),
    (".mkv", False): FFV1,
    (".mkv", True): FFV1,
    # libwebp encodes each frame on its own; its animation encoder, which Pillow uses too, drops repeated frames
    (".webp", False): Codec("libwebp", "bgra", {"quality": "90"}),
    (".webp", True): Codec("libwebp", "bgra", {"lossless": "1"}),
    (".gif", False): Codec("gif", "pal8", max_fps=50),  # players slow down shorter delays
}


def write_video(frames: Frames, path: str | Path, fps: float = 8, lossless: bool = False) -> Path:
    """Write a video. Every frame is kept, including repeated ones, and an interrupted write leaves no file behind.

    Args:
        frames: A tensor or array (f, 3, h, w) or (f, h, w, 3), in grey also (f, h, w), (f, h, w, 1) or (f, 1, h, w), or
            a list of pictures. Integers are uint8; floats are in [0, 1].
        path: The suffix decides the format: .mp4 (H.264, yuv420p), .mkv (lossless FFV1), .gif, .webp, .npz (the array
            `video`) or .png (all frames in one row).
        fps: Frames per second, from 0.1 to 1000 (gif: to 50). Not stored in .npz and .png.
        lossless: Write .mp4 as lossless H.264 in RGB, or .webp in its lossless mode. .mkv, .npz and .png always are
            lossless; .gif cannot be.

    Returns:
        The path.

    Raises:
        ValueError: If the frames, the suffix or the rate are unsuitable (nothing is written then), or if the encoder
            fails.
    """
    path, array = Path(path), as_rgb_array(frames)
    suffix = path.suffix.lower()
    check_writable(path, suffix, array, fps, lossless)
    with replacing(path) as draft:
        if suffix == ".npz":
            with draft.open("wb") as file:
                np.savez_compressed(file, video=array)
        elif suffix == ".png":
            Image.fromarray(np.concatenate(list(array), 1)).save(draft)
        else:
            with codec_errors(path, "cannot be encoded", av.FFmpegError):
                write_stream(array, draft, fps, CODECS[suffix, lossless])
    return path


def to_numpy(picture: Picture) -> np.ndarray:
    """Convert one picture, or a complete video, to an array. Pictures become RGB: grey is repeated, alpha dropped."""
    if isinstance(picture, Image.Image):
        return picture_to_rgb(picture)
    return as_array(picture) if isinstance(picture, Tensor | np.ndarray) else np.asarray(picture)


def as_rgb_array(frames: Frames) -> np.ndarray:
    """Convert frames to contiguous uint8 (f, h, w, 3).

    Raises:
        ValueError: If there are no pixels, if sizes differ, if the shape is not that of frames, or if the values are
            neither uint8 nor floats in [0, 1].
    """
    if isinstance(frames, Tensor | np.ndarray):
        array = to_numpy(frames)
    else:
        pictures = [to_numpy(frame) for frame in frames]
        if len({picture.shape for picture in pictures}) > 1:
            raise ValueError("frames differ in size")
        array = np.asarray(pictures)
        array = array[..., None] if array.ndim == 3 else array  # grey frames, however many there are
    if not array.size:
        raise ValueError("there are no frames, or they have no pixels")
    if array.ndim not in (3, 4):
        raise ValueError(f"frames have shape {array.shape}; expected {EXPECTED}")
    array = channels_last(array)
    if array.dtype != np.uint8:
        if array.dtype.kind != "f":
            raise ValueError(f"frames are {array.dtype}; expected uint8, or floats in [0, 1]")
        if not np.isfinite(array).all():
            raise ValueError("frames hold NaN or infinite values, which are not finite numbers")
        low, high = array.min(), array.max()
        if low < -SLACK or high > 1 + SLACK:
            raise ValueError(f"frames hold values from {low:g} to {high:g}; expected uint8, or floats in [0, 1]")
        array = array.astype(np.promote_types(array.dtype, np.float32), copy=False)  # float16 rounds 255.498 to 255.5
        array = (array * 255).round().astype(np.uint8)
    return np.ascontiguousarray(as_rgb(array))


def check_writable(path: Path, suffix: str, array: np.ndarray, fps: float, lossless: bool) -> None:
    """Raise ValueError for what write_video cannot write."""
    if suffix not in WRITABLE_SUFFIXES:
        raise ValueError(f"{path}: cannot write {suffix or 'a file without suffix'}; use {' '.join(WRITABLE_SUFFIXES)}")
    if lossless and suffix == ".gif":
        raise ValueError(f"{path}: a gif cannot be lossless, as it has 256 colours per frame; use .mkv .webp .npz .png")
    codec = CODECS.get((suffix, lossless))
    slowest, fastest = FPS_RANGE[0], codec.max_fps if codec else FPS_RANGE[1]
    if not slowest <= fps <= fastest:
        raise ValueError(f"{path}: fps is {fps:g}; it must be from {slowest:g} to {fastest:g}")
    height, width = array.shape[1:3]
    if codec and max(height, width) > MAX_SIDE:
        raise ValueError(f"{path}: frames have {height} x {width} pixels; each side must be {MAX_SIDE} or less")


def write_stream(array: np.ndarray, path: Path, fps: float, codec: Codec) -> None:
    """Encode frames with FFmpeg. For yuv420p, which needs even sides, the last row or column is repeated."""
    if codec.pixel_format == "yuv420p":
        array = np.pad(array, ((0, 0), (0, array.shape[1] % 2), (0, array.shape[2] % 2), (0, 0)), mode="edge")
    loop_forever = {"loop": "0"} if path.suffix.lower() in (".gif", ".webp") else {}
    # bitexact: without a random id in mkv files, equal videos are equal files
    with av.open(f"file:{path}", "w", options={"fflags": "+bitexact", **loop_forever}) as container:
        stream = container.add_stream(codec.name, rate=Fraction(float(fps)).limit_denominator(1000))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = array.shape[1:3]
        stream.pix_fmt, stream.options = codec.pixel_format, dict(codec.options)
        for image in array:
            frame = to_palette(image) if codec.pixel_format == "pal8" else to_frame(image)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def to_frame(image: np.ndarray) -> av.VideoFrame:
    """Wrap an RGB frame (h, w, 3) for FFmpeg."""
    return av.VideoFrame.from_ndarray(image, format="rgb24")


def to_palette(image: np.ndarray) -> av.VideoFrame:
    """Quantise a frame (h, w, 3) to 256 colours of its own."""
    indexed = Image.fromarray(image).quantize(256)
    colours = np.asarray(indexed.getpalette(), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 0], palette[: len(colours), 1:] = 255, colours  # alpha first: opaque
    pixels: Any = (np.asarray(indexed), palette)  # PyAV takes this pair, but its type stub does not know
    return av.VideoFrame.from_ndarray(pixels, format="pal8")


def export_to_video(video_frames: Frames, output_video_path: str | Path | None = None, fps: int = 10) -> str:
    """Write an mp4, as the function of this name in diffusers does.

    Args:
        video_frames: As for write_video: usually a list of pictures, or of float arrays in [0, 1].
        output_video_path: Where to write. None chooses a new name in the temporary folder.
        fps: Frames per second.

    Returns:
        The path of the file.
    """
    return str(write_video(video_frames, output_video_path or temporary_name(".mp4"), fps))


def export_to_gif(image: Frames, output_gif_path: str | Path | None = None, fps: int = 10) -> str:
    """Write a gif that loops forever, as the function of this name in diffusers does.

    Args:
        image: As for write_video: usually a list of pictures.
        output_gif_path: Where to write. None chooses a new name in the temporary folder.
        fps: Frames per second, up to 50.

    Returns:
        The path of the file.
    """
    return str(write_video(image, output_gif_path or temporary_name(".gif"), fps))


def temporary_name(suffix: str) -> Path:
    """An unused name in the temporary folder. No file is created until the video is written."""
    return Path(tempfile.gettempdir()) / f"latte-{uuid.uuid4().hex}{suffix}"
