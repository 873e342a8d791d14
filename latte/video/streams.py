"""Video streams, decoded by PyAV on one thread each: all frames, or those of some numbers and few others."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, dropwhile, islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

# Decoders go by content, not by suffix: only these are tried, none of which runs a program or opens another file.
FORMATS = {"format_whitelist": "mov,mp4,avi,matroska,webm,gif"}
FPS = 8.0  # of what does not say
SEEKABLE = ("h264", "hevc", "mpeg4", "ffv1")  # codecs of which every packet is one frame that is shown
REORDERED = 32  # packets that may come before one that is shown earlier; H.264 and HEVC allow 16


class KeyFrame(NamedTuple):
    """Where decoding may begin: a frame's number, and the time when it is shown, in the stream's units."""

    number: int
    pts: int


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A file and its first video stream, set to decode on one thread. ValueError: it has none."""
    with av.open(f"file:{path}", options=FORMATS) as container:  # file: for names such as 10:30.mp4
        if not container.streams.video:
            raise ValueError("it holds no video stream")
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "NONE", 1
        yield container, stream


def upright(frame: av.VideoFrame) -> np.ndarray:
    """A decoded frame (h, w, 3), turned as its rotation flag says: a phone films portrait clips lying."""
    # by default each frame starts threads to be converted, which on a busy machine takes 20 times as long as converting
    return np.rot90(frame.reformat(format="rgb24", threads=1).to_ndarray(), round(frame.rotation / 90))


def read_stream(path: Path, wanted: list[int] | None = None) -> tuple[dict[int, np.ndarray], float]:
    """Frames (h, w, 3) by number, all or those of the wanted that there are, and their mean rate.

    Only the frames from the key frame before the first wanted one to the last wanted one are decoded.
    """
    key = key_frame_before(path, min(wanted)) if wanted else None
    frames, fps = read_from(key, path, wanted)
    return (frames, fps) if frames or key is None else read_from(None, path, wanted)  # None: the container cannot seek


def read_from(key: KeyFrame | None, path: Path, wanted: list[int] | None) -> tuple[dict[int, np.ndarray], float]:
    """The same from a key frame on, or from the beginning; nothing where seeking did not lead to that key frame."""
    first = key.number if key else 0
    numbers = range(first, max(wanted) + 1) if wanted else count()
    chosen = set(wanted or ())
    with open_stream(path) as (container, stream):
        frames = container.decode(stream)
        if key:
            container.seek(key.pts, stream=stream)
            frames = dropwhile(lambda frame: frame.pts != key.pts, frames)
        kept = {n: upright(frame) for n, frame in zip(numbers, frames) if not chosen or n in chosen}
        return kept, mean_rate(stream)


def key_frame_before(path: Path, number: int) -> KeyFrame | None:
    """The last key frame that is not after frame `number` and needs nothing before it; None: only the first frame.

    Packets are read up to that number, none is decoded. A key frame counts if all packets before it are shown before
    it, and all after it, after it: then as many frames go before it as packets.
    """
    with open_stream(path) as (container, stream):
        if number == 0 or stream.codec_context.name not in SEEKABLE:
            return None
        packets = (packet for packet in container.demux(stream) if packet.size)
        seen = [(p.pts, p.is_keyframe, p.is_discard) for p in islice(packets, number + REORDERED)]
    if any(pts is None or discard for pts, _, discard in seen):
        return None
    times = [pts for pts, *_ in seen]
    for i in range(min(number, len(seen) - 1), 0, -1):
        pts, is_key, _ = seen[i]
        if is_key and max(times[:i]) < pts == min(times[i:]):
            return KeyFrame(i, pts)
    return None


def mean_rate(stream: av.VideoStream) -> float:
    """Frames per second. The container's own average is taken over a gif's first delays, which are rounded."""
    if stream.frames and stream.duration:
        return float(stream.frames / (stream.duration * stream.time_base))
    return float(stream.average_rate or FPS)
