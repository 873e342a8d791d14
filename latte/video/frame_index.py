"""Which frames a video stream shows: counted and numbered in one place, for all ways of reading.

The packets of a file are not its frames. A packet may hold two frames, none, or one that is never shown. They are
counted as frames only where the codec and the timestamps leave no doubt; otherwise all frames are decoded to be counted.
"""

from array import array
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import av

from latte.video.damage import Damage, ffmpeg_errors
from latte.video.formats import DEFAULT_FPS
from latte.video.packets import INTRA_CODECS, UNIT_CODECS, StreamPacket
from latte.video.streams import decode, open_stream

MAX_CACHED_FRAMES = 1 << 22  # of all indices together: 32 MiB
# Codecs whose key frames can be relied on.
SEEKABLE_CODECS = (*INTRA_CODECS, *UNIT_CODECS, "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video", "h263", "flv")
PROGRESSIVE = (0, 1)  # values of field_order: unknown, progressive


class KeyFrame(NamedTuple):
    """A frame at which decoding can start."""

    number: int  # in display order, from 0
    pts: int  # presentation time, in the stream's time base


class FrameIndex(NamedTuple):
    """The frames that a stream shows.

    Attributes:
        times: Their presentation times in the stream's time base, in display order; -1 for an unknown one.
        keys: The frames at which decoding can start.
        fps: Frames per second.
        head_is_cut: The first packets refer to frames that were cut off, so that they cannot be shown.
        problem: What is wrong with the file as a whole, such as an end that is missing; empty if nothing is.
    """

    times: array
    keys: tuple[KeyFrame, ...]
    fps: float
    head_is_cut: bool
    problem: str

    def key_before(self, number: int) -> KeyFrame | None:
        """The last key frame at or before a frame; None if decoding must start at the first frame."""
        return next((key for key in reversed(self.keys) if 0 < key.number <= number), None)


_cache: OrderedDict[tuple[str, int, int, int], FrameIndex] = OrderedDict()


def index_frames(path: Path) -> FrameIndex:
    """Find the frames of a video file. The answer is kept as long as the file does not change.

    Raises:
        ValueError: If the file holds no film.
        av.FFmpegError: If it cannot be read.
    """
    about = path.stat()
    key = (str(path.absolute()), about.st_size, about.st_mtime_ns, about.st_ino)
    if (known := _cache.get(key)) is None:
        known = _cache[key] = parse(path)
        while len(_cache) > 1 and sum(len(index.times) for index in list(_cache.values())) > MAX_CACHED_FRAMES:
            _cache.popitem(last=False)
    return known


def parse(path: Path) -> FrameIndex:
    """Find the frames of a video file: by its packets if they can be trusted, or by decoding it."""
    with open_stream(path) as (container, stream):
        packets, problem, seconds = read_packets(container, stream)
        stored = [packet for packet in packets if packet.size]
        known = sorted(packet.pts for packet in stored if packet.pts is not None)
        head_is_cut = bool(known) and not (stored[0].is_key and stored[0].pts == known[0])
        if packets_are_frames(stream, stored, known):
            times = known
        else:
            times = times_by_decoding(path, head_is_cut)
        problem = problem or missing_end(container, stream, stored, seconds)
        fps = frame_rate(stream, times)
    return FrameIndex(
        array("q", times), tuple(key_frames(stream.codec_context.name, stored, times)), fps, head_is_cut, problem
    )


def read_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[list[StreamPacket], str, float | None]:
    """Read all packets without decoding them.

    Returns:
        The film's packets in the order in which they are stored; what FFmpeg reports first, if anything; and the second
        at which the last packet of any stream ends.
    """
    film, end = [], None
    streams = [stream] if claims_own_length(container, stream) else [s for s in container.streams if s.type != "data"]
    with ffmpeg_errors() as messages:
        try:
            for packet in container.demux(streams):
                if packet.stream_index == stream.index:
                    film.append(StreamPacket.of(packet, stream.codec_context.name))
                if packet.pts is not None and packet.time_base:
                    end = max(end or 0, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        except av.FFmpegError as error:
            messages.append((container.format.name, str(error.strerror)))
    # a parser's reports are about single frames, which the decoder reports again
    return film, next((text for by, text in messages if by == container.format.name), ""), end


def claims_own_length(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the header states the length of each stream, and not of all together."""
    return bool(stream.duration) and bool({"mov", "avi"} & set(container.format.name.split(",")))


def packets_are_frames(stream: av.VideoStream, packets: list[StreamPacket], known: list[int]) -> bool:
    """Whether each packet surely holds one frame, shown at the packet's time.

    Args:
        stream: The film.
        packets: Its packets.
        known: Their known times, sorted.
    """
    context = stream.codec_context
    if not packets or context.field_order not in PROGRESSIVE or len(set(known)) < len(packets):
        return False
    if packets[0].pts != known[0] or not packets[0].is_key:  # the first frames may refer to some that were cut off
        return False
    if context.has_b_frames and known == [packet.pts for packet in packets]:  # times of storage, not of display
        return False
    return all(packet.is_frame for packet in packets)


def times_by_decoding(path: Path, head_is_cut: bool) -> list[int]:
    """The times of all frames that a decoder gives, in its order; -1 for an unknown one."""
    with open_stream(path) as (container, stream):
        frames = decode(container, stream, Damage("take"), head_is_cut)
        return [-1 if frame.pts is None else frame.pts for frame in frames]


def key_frames(codec: str, packets: list[StreamPacket], times: list[int]) -> list[KeyFrame]:
    """The key frames that decode on their own: all packets before are shown earlier, all packets after later."""
    if (
        codec not in SEEKABLE_CODECS
        or any(packet.pts is None for packet in packets)
        or any(b <= a for a, b in zip(times, times[1:]))
    ):
        return []
    numbers = {time: number for number, time in enumerate(times)}
    found, earliest_after = [], None
    latest_before = []
    for packet in packets:
        latest_before.append(max(latest_before[-1], packet.pts) if latest_before else packet.pts)
    for i in range(len(packets) - 1, 0, -1):
        pts = packets[i].pts
        after = earliest_after is None or pts < earliest_after
        if packets[i].is_key and after and latest_before[i - 1] < pts and pts in numbers:
            found.append(KeyFrame(numbers[pts], pts))
        earliest_after = pts if after else earliest_after
    return found[::-1]


def missing_end(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: list[StreamPacket],
    end_of_all: float | None,
) -> str:
    """Say how much shorter the file is than its header says; empty if it is not."""
    shown = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discarded)
    if len(shown) < 2 or not stream.time_base:
        return ""
    period = float((shown[-1] - shown[0]) / (len(shown) - 1) * stream.time_base)
    formats = set(container.format.name.split(","))
    end = float(max(p.pts + p.duration for p in packets if p.pts is not None) * stream.time_base)
    if not any(packet.duration for packet in packets):
        end += period
    if claims_own_length(container, stream):
        claimed, found = float(stream.duration * stream.time_base), end - float(shown[0] * stream.time_base)
    elif formats & {"matroska", "flv", "asf"} and container.duration and end_of_all:
        claimed, found = container.duration / av.time_base, max(end, end_of_all)
    else:
        return ""
    if claimed - found <= 0.75 * period:
        return ""
    return f"it ends after {found:.2f} of the {claimed:.2f} seconds that its header states"


def frame_rate(stream: av.VideoStream, times: list[int]) -> float:
    """Frames per second: what the header says, if the frames bear it out."""
    header = header_rate(stream)
    if len(times) < 2 or not stream.time_base or times[-1] <= times[0]:
        return header or DEFAULT_FPS
    found = float((len(times) - 1) / ((times[-1] - times[0]) * stream.time_base))
    return header if header and abs(header / found - 1) < 0.02 + 1 / len(times) else found


def header_rate(stream: av.VideoStream) -> float:
    """Frames per second in the header, or 0. FFmpeg's average for a gif covers only its first delays, rounded."""
    if stream.frames and stream.duration and stream.time_base:
        return float(stream.frames / (stream.duration * stream.time_base))
    return float(stream.average_rate or 0)
