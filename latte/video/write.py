"""Videos into files: from a tensor, an array or a list of pictures, by the file's suffix."""

import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from torch import Tensor

from latte.files import replacing

LONGEST_SIDE = 16383  # of what webp and H.264 can hold


@dataclass(frozen=True)
class Codec:
    """How a kind of file is encoded."""

    name: str
    pixels: str
    options: dict[str, str] = field(default_factory=dict)
    fps: float = 1000  # at most


FFV1 = Codec("ffv1", "bgr0")
CODECS = {  # by (suffix, lossless)
    (".mp4", False): Codec("libx264", "yuv420p", {"crf": "16"}),
    (".mp4", True): Codec("libx264rgb", "rgb24", {"crf": "0"}),
    (".mkv", False): FFV1,
    (".mkv", True): FFV1,
    # libwebp codes every frame by itself; its animation encoder, which Pillow uses too, drops those that repeat
    (".webp", False): Codec("libwebp", "bgra", {"quality": "90"}),
    (".webp", True): Codec("libwebp", "bgra", {"lossless": "1"}),
    (".gif", False): Codec("gif", "pal8", fps=50),  # players slow down what has shorter delays
}
WRITABLE = (".mp4", ".mkv", ".gif", ".webp", ".npz", ".png")


@contextmanager
def codec_errors(path: Path, what: str, errors: type[Exception]) -> Iterator[None]:
    """Turns the errors of a decoder or an encoder into a ValueError of one line: the file, what of it, and why."""
    try:
        yield
    except errors as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise ValueError(f"{path} {what}: {reason}") from error


def to_numpy(values: Tensor | Image.Image | np.ndarray) -> np.ndarray:
    """A tensor, a picture (grey or with alpha too: as RGB) or what NumPy takes for an array."""
    if isinstance(values, Image.Image):
        return np.asarray(values.convert("RGB"))
    if isinstance(values, Tensor):  # NumPy knows no bfloat16
        values = (values.float() if values.is_floating_point() else values).detach().cpu()
    return np.asarray(values)


def as_array(frames: Tensor | np.ndarray | Iterable) -> np.ndarray:
    """Frames as bytes (f, h, w, 3), from a tensor, an array or a list of pictures; floats are in [0, 1].

    ValueError: no frames, frames that differ in size, another shape, other integers than bytes, non-finite values.
    """
    if not isinstance(frames, Tensor | np.ndarray):
        frames = [to_numpy(frame) for frame in frames]
        if len({frame.shape for frame in frames}) > 1:
            raise ValueError("frames differ in size")
    frames = to_numpy(frames)
    if not frames.size:
        raise ValueError("there are no frames, or they have no pixels")
    if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]):
        raise ValueError(f"frames have shape {frames.shape}; expected (f, h, w, 3) or (f, 3, h, w)")
    if frames.shape[3] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.dtype != np.uint8:
        if frames.dtype.kind != "f":
            raise ValueError(f"frames are {frames.dtype}; expected bytes (uint8) or floats in [0, 1]")
        if not np.isfinite(frames).all():
            raise ValueError("frames hold values that are not finite")
        frames = (frames.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(frames)


def write_video(
    frames: Tensor | np.ndarray | Iterable, path: str | Path, fps: float = 8, lossless: bool = False
) -> Path:
    """Write a clip by its suffix: .mp4 (H.264, yuv420p), .mkv (lossless FFV1), .gif, .webp, .npz, .png (a row).

    lossless: .mkv always is; .mp4 then is H.264 in RGB and .webp its lossless mode. Every frame is kept, also one that
    repeats the last. Nothing half-written stays. ValueError, before anything is written: another suffix, a rate that is
    not in 0.1 to 1000 (gif: 50), a side of more than 16383 pixels, what as_array refuses; or the encoder fails.
    """
    path, array = Path(path), as_array(frames)
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


def check_writable(path: Path, suffix: str, array: np.ndarray, fps: float, lossless: bool) -> None:
    """ValueError for what write_video cannot write."""
    if suffix not in WRITABLE:
        raise ValueError(f"{path}: cannot write {suffix or 'a file without suffix'}; use {' '.join(WRITABLE)}")
    if lossless and suffix == ".gif":
        raise ValueError(f"{path}: a gif has 256 colours a frame, it cannot be lossless; use .mkv .webp .npz .png")
    codec = CODECS.get((suffix, lossless))
    fastest = codec.fps if codec else 1000
    if not 0.1 <= fps <= fastest:
        raise ValueError(f"{path}: fps is {fps:g}; it must be in 0.1 to {fastest:g}")
    height, width = array.shape[1:3]
    if codec and max(height, width) > LONGEST_SIDE:
        raise ValueError(f"{path}: frames of {height} x {width} pixels; a side may have {LONGEST_SIDE}")


def write_stream(array: np.ndarray, path: Path, fps: float, codec: Codec) -> None:
    """Encode; an odd side is made even by repeating the last row or column, which yuv420p needs."""
    if codec.pixels == "yuv420p":
        array = np.pad(array, ((0, 0), (0, array.shape[1] % 2), (0, array.shape[2] % 2), (0, 0)), mode="edge")
    endless = {"loop": "0"} if path.suffix.lower() in (".gif", ".webp") else {}
    # bitexact: no random id in an mkv, so that equal clips are equal files
    with av.open(f"file:{path}", "w", options={"fflags": "+bitexact", **endless}) as container:
        stream = container.add_stream(codec.name, rate=Fraction(float(fps)).limit_denominator(1000))
        stream.height, stream.width = array.shape[1:3]
        stream.pix_fmt, stream.options = codec.pixels, codec.options
        for image in array:
            frame = paletted(image) if codec.pixels == "pal8" else av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def paletted(image: np.ndarray) -> av.VideoFrame:
    """A frame (h, w, 3) in 256 colours of its own."""
    indexed = Image.fromarray(image).quantize(256)
    colours = np.asarray(indexed.getpalette(), np.uint8).reshape(-1, 3)
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 0], palette[: len(colours), 1:] = 255, colours  # opaque
    return av.VideoFrame.from_ndarray((np.asarray(indexed), palette), format="pal8")


def export_to_video(video_frames, output_video_path: str | Path | None = None, fps: int = 10) -> str:
    """Write frames (a list of pictures or of arrays in [0, 1], or one array) as mp4; the path, temporary if None."""
    return str(write_video(video_frames, output_video_path or temporary(".mp4"), fps))


def export_to_gif(image: list, output_gif_path: str | Path | None = None, fps: int = 10) -> str:
    """The same as an endless gif."""
    return str(write_video(image, output_gif_path or temporary(".gif"), fps))


def temporary(suffix: str) -> Path:
    """A name that nobody has, in the folder of temporary files; nothing is made until the clip is written."""
    return Path(tempfile.gettempdir()) / f"latte-{uuid.uuid4().hex}{suffix}"
