"""How many frames a packet of a video stream holds, as far as the codec tells without decoding."""

import re
from typing import NamedTuple

import av

# Every packet of these holds one frame.
INTRA_CODECS = (
    *("ffv1", "ffvhuff", "huffyuv", "utvideo", "magicyuv", "rawvideo", "v210"),
    *("mjpeg", "prores", "dnxhd", "png", "jpeg2000", "gif"),
)
# One access unit or temporal unit per packet, which has one picture, unless it has two fields; libdav1d decodes AV1.
UNIT_CODECS = ("h264", "hevc", "libdav1d", "av1")
MIN_UNIT_BYTES = 12  # a smaller one may hold only a delimiter or the mark of the stream's end
VOP_START = b"\x00\x00\x01\xb6"  # of a frame in MPEG-4 part 2
PACKED_MARK = re.compile(rb"DivX\d+(?:b|Build)\d+p")  # FFmpeg takes packets apart only after this mark
MAX_EMPTY_VOP_BYTES = 19  # FFmpeg's limit for one that only says that nothing is coded: no frame is shown


class StreamPacket(NamedTuple):
    """A packet, without its content.

    Attributes:
        pts: Its presentation time, or None.
        duration: How long it is shown, or 0.
        size: Its size in bytes. An empty packet repeats the previous frame.
        is_key: The file says that decoding can start here.
        is_discarded: The file says that it is decoded, but not shown.
        frames: How many shown frames it holds; None if that is uncertain.
        is_marked: It says that packets may hold two frames, as MPEG-4 in AVI does. Only asked of key frames.
    """

    pts: int | None
    duration: int
    size: int
    is_key: bool
    is_discarded: bool
    frames: int | None
    is_marked: bool

    @classmethod
    def of(cls, packet: av.Packet, context: av.VideoCodecContext) -> "StreamPacket":
        """Describe a packet of a stream."""
        frames = None if packet.is_discard or packet.is_corrupt or not packet.size else count_shown(packet, context)
        marked = context.name == "mpeg4" and packet.is_keyframe and bool(PACKED_MARK.search(bytes(packet)))
        about = packet.pts, packet.duration or 0, packet.size, packet.is_keyframe, packet.is_discard
        return cls(*about, frames, marked)


def count_shown(packet: av.Packet, context: av.VideoCodecContext) -> int | None:
    """How many frames of a packet are shown; None if that is uncertain."""
    codec = context.name
    if codec in INTRA_CODECS:
        return 1
    if codec in UNIT_CODECS:
        return 1 if packet.size >= MIN_UNIT_BYTES else None
    if codec == "vp8":
        return memoryview(packet)[0] >> 4 & 1  # show_frame: RFC 6386, 9.1
    if codec == "vp9":
        return count_shown_vp9(memoryview(packet))
    if codec == "mpeg4":
        return count_coded_vops(bytes(packet), context.width * context.height // 256)
    return None


def count_coded_vops(data: bytes, macroblocks: int) -> int | None:
    """How many frames are coded in MPEG-4 data: encoders pack B frames into the packet before. None: uncertain.

    A frame takes at least one bit per macroblock.
    """
    sizes = [len(part) for part in data.split(VOP_START)[1:]]
    if macroblocks // 8 <= MAX_EMPTY_VOP_BYTES and any(size <= MAX_EMPTY_VOP_BYTES for size in sizes):
        return None
    coded = sum(size > MAX_EMPTY_VOP_BYTES for size in sizes)
    return coded if coded <= 2 else None


def count_unpacked(packets: list[StreamPacket]) -> int:
    """How many frames FFmpeg takes out of the packets of an MPEG-4 stream, some of which hold two.

    A packet gives one frame at most: the second one waits for the next packet, and is lost if there is none.
    """
    shown, waiting = 0, False
    for packet in packets:
        if packet.frames == 2:
            shown, waiting = shown + 1, True
        elif waiting:
            shown, waiting = shown + 1, packet.frames == 1
        else:
            shown += packet.frames or 0
    return shown


def count_shown_vp9(data: memoryview) -> int:
    """How many frames of a VP9 packet are shown (VP9 bitstream specification, 6.1.2 and annex B)."""
    starts = [0]
    marker = data[-1]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    table = len(data) - 1 - count * width
    if marker & 0xE0 == 0xC0 and table > 0 and data[table - 1] == marker:  # a superframe: the sizes are at its end
        for field in range(table, table + (count - 1) * width, width):
            starts.append(starts[-1] + int.from_bytes(data[field : field + width], "little"))
    return sum(shows_vp9_frame(data[start]) for start in starts if start < len(data))


def shows_vp9_frame(first: int) -> bool:
    """Whether the VP9 frame that begins with this byte is shown, or shows an earlier one."""
    spare = 1 if first >> 4 & 3 == 3 else 0  # profile 3 has a reserved bit
    shows_earlier, shown = first >> (3 - spare) & 1, first >> (1 - spare) & 1
    return bool(shows_earlier or shown)
