"""Which frames a video stream shows: counted and numbered in one place, for all ways of reading.

The packets of a file are not its frames. A packet may hold two frames, none, or one that is never shown. They are
counted as frames only where the codec and the timestamps leave no doubt; otherwise the video is decoded to count them.
"""

from array import array
from collections import OrderedDict
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import av

from latte.video.damage import Damage, errors_in
from latte.video.formats import DEFAULT_FPS
from latte.video.geometry import pixel_aspect
from latte.video.matroska import failed_crc
from latte.video.packets import INTRA_CODECS, UNIT_CODECS, StreamPacket, count_unpacked
from latte.video.streams import decode, open_stream

MAX_CACHED_FRAMES = 1 << 22  # of all indices together: 32 MiB
# Codecs whose key frames can be relied on.
SEEKABLE_CODECS = (*INTRA_CODECS, *UNIT_CODECS, "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video", "h263", "flv")
TS_PACKET_SIZES = (188, 192, 204)  # bytes, in the three kinds of transport streams
PROGRESSIVE = (0, 1)  # values of field_order: unknown, progressive
COUNTS_DISCARDED = (63, 0, 0)  # from this libavformat on, an mp4's duration may include packets that are not shown


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
        pixel_aspect: Width of a stored pixel over its height.
        codec: FFmpeg's name of the decoder.
        head_is_cut: The first packets refer to frames that were cut off, so that they cannot be shown.
        problem: What is wrong with the file as a whole, such as an end that is missing; empty if nothing is.
    """

    times: array
    keys: tuple[KeyFrame, ...]
    fps: float
    pixel_aspect: Fraction
    codec: str
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
        packets, problem, end = read_packets(container, stream)
        stored = [packet for packet in packets if packet.size]
        head_is_cut = not starts_with_key_frame(stored)
        times = times_by_packets(stream, stored)
        if times is None:
            times = times_by_decoding(path, head_is_cut)
        return FrameIndex(
            array("q", times),
            tuple(key_frames(stream.codec_context.name, stored, times)),
            frame_rate(stream, times),
            pixel_aspect(stream),
            stream.codec_context.name,
            head_is_cut,
            problem
            or failed_crc(path, container.format.name)
            or lost_key_frame(stream, stored)
            or missing_end(container, stream, stored, end),
        )


def read_packets(
    container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[list[StreamPacket], str, float]:
    """Read all packets without decoding them.

    Returns:
        The film's packets in the order in which they are stored; what FFmpeg reports first, if anything; and the second
        at which the last packet of any stream ends.
    """
    film, end = [], 0.0
    streams = [stream] if claims_own_length(container, stream) else [s for s in container.streams if s.type != "data"]
    failure = ""
    with av.logging.Capture() as logs:
        try:
            for packet in container.demux(streams):
                if packet.stream_index == stream.index:
                    film.append(StreamPacket.of(packet, stream.codec_context))
                known = [time for time in (packet.pts, packet.dts) if time is not None]  # AVI has only the latter
                if known and packet.time_base:
                    end = max(end, float((max(known) + (packet.duration or 0)) * packet.time_base))
        except av.FFmpegError as error:
            failure = str(error.strerror)
    # a parser's reports are about single frames, which the decoder reports again
    problems = [text for by, text in errors_in(logs) if by == container.format.name]
    return film, next(iter(problems), failure), end


def claims_own_length(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the header states the length of each stream, and not of all together."""
    return bool(stream.duration) and bool({"mov", "avi"} & set(container.format.name.split(",")))


def starts_with_key_frame(packets: list[StreamPacket]) -> bool:
    """Whether the first packet is a key frame, and no later one is shown before it."""
    known = [packet.pts for packet in packets if packet.pts is not None]
    return not packets or (packets[0].is_key and packets[0].pts == min(known, default=None))


def times_by_packets(stream: av.VideoStream, packets: list[StreamPacket]) -> list[int] | None:
    """The times of all frames in display order, -1 for an unknown one; None if the packets leave a doubt."""
    context = stream.codec_context
    counts = {packet.frames for packet in packets}
    if None in counts or context.field_order not in PROGRESSIVE or not starts_with_key_frame(packets):
        return None
    shown = [packet.pts for packet in packets if packet.frames]
    known = sorted({pts for pts in shown if pts is not None})
    in_order_of_storage = context.has_b_frames and known == shown
    if counts <= {0, 1} and len(known) == len(shown) and not in_order_of_storage:
        return known
    if not packets[0].is_marked:  # other decoders may drop frames whose times are equal or unknown
        return None
    return [-1] * count_unpacked(packets)


def times_by_decoding(path: Path, head_is_cut: bool) -> list[int]:
    """The times of all frames that a decoder gives, in its order; -1 for an unknown one."""
    with open_stream(path) as (container, stream):
        frames = decode(container, stream, Damage("take"), head_is_cut)
        return [-1 if frame.pts is None else frame.pts for frame in frames]


def key_frames(codec: str, packets: list[StreamPacket], times: list[int]) -> list[KeyFrame]:
    """The key frames that decode on their own: all packets before are shown earlier, all packets after later."""
    shown = [packet.pts for packet in packets if packet.pts is not None]
    if codec not in SEEKABLE_CODECS or len(shown) < len(packets) or not increases(times):
        return []
    numbers = {time: number for number, time in enumerate(times)}
    latest_before = list(accumulate(shown, lambda latest, pts: max(latest, pts)))
    found: list[KeyFrame] = []
    earliest_after = float("inf")
    for packet, pts, latest in zip(packets[:0:-1], shown[:0:-1], latest_before[-2::-1]):
        if packet.is_key and latest < pts < earliest_after and pts in numbers:
            found.append(KeyFrame(numbers[pts], pts))
        earliest_after = min(earliest_after, pts)
    return found[::-1]


def increases(times: list[int]) -> bool:
    """Whether each time is later than the one before."""
    return all(a < b for a, b in pairwise(times))


def lost_key_frame(stream: av.VideoStream, packets: list[StreamPacket]) -> str:
    """Say that the container calls the first packet a key frame, and its content does not; empty if they agree."""
    if not packets or packets[0].is_key:
        return ""
    stated = any(entry.is_keyframe and entry.timestamp == packets[0].pts for entry in stream.index_entries)
    return "its first frame should be a key frame, but is not" if stated else ""


def missing_end(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    packets: list[StreamPacket],
    end: float,
) -> str:
    """Say how much shorter the file is than its header says, or that it is cut; empty if it is not."""
    if container.format.name == "mpegts" and all(container.size % size for size in TS_PACKET_SIZES):
        return "it ends in the middle of a packet"
    shown = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discarded)
    if len(shown) < 2 or not stream.time_base:
        return ""
    period = float((shown[-1] - shown[0]) / (len(shown) - 1) * stream.time_base)
    formats = set(container.format.name.split(","))
    end += max(0, period - float(packets[-1].duration * stream.time_base))
    if claims_own_length(container, stream):
        claimed = float((stream.duration or 0) * stream.time_base)
        first = shown[0]
        if av.library_versions["libavformat"] >= COUNTS_DISCARDED:
            first = min(packet.pts for packet in packets if packet.pts is not None)
        end -= 0 if "avi" in formats else max(0, first) * float(stream.time_base)
    elif formats & {"matroska", "flv", "asf"} and container.duration:
        claimed = container.duration / av.time_base
    else:
        return ""
    if claimed - end <= 0.75 * period:
        return ""
    return f"it ends after {end:.2f} of the {claimed:.2f} seconds that its header states"


def frame_rate(stream: av.VideoStream, times: list[int]) -> float:
    """Frames per second: what the header says, if the frames bear it out."""
    header = header_rate(stream, len(times))
    if len(times) < 2 or not stream.time_base or times[0] == times[-1] or sorted(times) != list(times):
        return header or DEFAULT_FPS
    found = float((len(times) - 1) / ((times[-1] - times[0]) * stream.time_base))
    return header if header and abs(header / found - 1) < 0.02 + 1 / len(times) else found


def header_rate(stream: av.VideoStream, shown: int) -> float:
    """Frames per second in the header, or 0. FFmpeg's average for a gif covers only its first delays, rounded."""
    if stream.frames == shown and stream.duration and stream.time_base:  # edit lists hide frames, not their duration
        return float(stream.frames / (stream.duration * stream.time_base))
    return float(stream.average_rate or 0)
