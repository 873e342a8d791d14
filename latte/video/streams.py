"""Decode video streams with PyAV: all frames, or chosen ones without decoding much else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, dropwhile, islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from latte.video.formats import DEFAULT_FPS

# FFmpeg chooses a demuxer by content, not by suffix. Only these are tried: none of them opens a second file.
FORMATS = {"format_whitelist": "mov,mp4,avi,matroska,webm,gif"}
SEEKABLE_CODECS = ("h264", "hevc", "mpeg4", "ffv1")  # every packet holds exactly one displayed frame
REORDER_WINDOW = 32  # packets to read past a frame: H.264 and HEVC store a frame up to 16 packets late


class KeyFrame(NamedTuple):
    """A frame at which decoding can start."""

    number: int  # in display order, from 0
    pts: int  # presentation time, in the stream's time base


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open a video file for decoding on a single thread.

    Yields:
        The container and its first video stream.

    Raises:
        ValueError: If the file holds no video stream.
    """
    with av.open(f"file:{path}", options=FORMATS) as container:  # "file:" allows for names such as 10:30.mp4
        if not container.streams.video:
            raise ValueError("it holds no video stream")
        stream = container.streams.video[0]
        # data loaders already run one process per core
        stream.thread_type, stream.thread_count = "NONE", 1
        yield container, stream


def to_upright_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Convert a decoded frame to RGB (h, w, 3), turned upright as its rotation flag says."""
    # By default, converting starts threads for every frame, which takes 20 times as long on a busy machine.
    return np.rot90(frame.reformat(format="rgb24", threads=1).to_ndarray(), round(frame.rotation / 90))


def read_stream(path: Path, numbers: Sequence[int] | None = None) -> tuple[dict[int, np.ndarray], float]:
    """Decode a stream, or only the part of it between a key frame and the last requested frame.

    Args:
        path: A file that FFmpeg decodes.
        numbers: The requested frames, in display order from 0. None decodes all frames.

    Returns:
        RGB frames (h, w, 3) by number, without those that do not exist; and the mean frame rate.
    """
    key = key_frame_before(path, min(numbers)) if numbers else None
    frames, fps = decode_from(key, path, numbers)
    if key and not frames:  # the container cannot seek to the key frame
        return decode_from(None, path, numbers)
    return frames, fps


def decode_from(key: KeyFrame | None, path: Path, numbers: Sequence[int] | None) -> tuple[dict[int, np.ndarray], float]:
    """Decode from a key frame, or from the start. Returns no frames if seeking did not lead to the key frame."""
    first = key.number if key else 0
    decoded = range(first, max(numbers) + 1) if numbers else count()
    requested = set(numbers or ())
    with open_stream(path) as (container, stream):
        frames: Iterator[av.VideoFrame] = container.decode(stream)
        if key:
            container.seek(key.pts, stream=stream)
            frames = dropwhile(lambda frame: frame.pts != key.pts, frames)
        pairs = zip(decoded, frames)
        return {n: to_upright_rgb(frame) for n, frame in pairs if not requested or n in requested}, mean_rate(stream)


def key_frame_before(path: Path, number: int) -> KeyFrame | None:
    """Find the last key frame, at or before frame `number`, that decodes on its own.

    Packets up to that number are parsed and none is decoded. A key frame qualifies only if every packet before it is
    displayed earlier and every packet after it later: then its frame number equals its packet number.

    Returns:
        The key frame, or None if decoding must start at the first frame.
    """
    with open_stream(path) as (container, stream):
        if number == 0 or stream.codec_context.name not in SEEKABLE_CODECS:
            return None
        packets = (packet for packet in container.demux(stream) if packet.size)
        parsed = [(p.pts, p.is_keyframe, p.is_discard) for p in islice(packets, number + REORDER_WINDOW)]
    times = [pts for pts, _, discard in parsed if pts is not None and not discard]
    if len(times) < len(parsed):
        return None
    for i in range(min(number, len(parsed) - 1), 0, -1):
        is_key = parsed[i][1]
        if is_key and max(times[:i]) < times[i] == min(times[i:]):
            return KeyFrame(i, times[i])
    return None


def mean_rate(stream: av.VideoStream) -> float:
    """Frames per second. FFmpeg's own average for a gif covers only its first delays, which are rounded."""
    if stream.frames and stream.duration and stream.time_base:
        return float(stream.frames / (stream.duration * stream.time_base))
    return float(stream.average_rate or DEFAULT_FPS)
