"""What a packet of a video stream holds, as far as the codec shows it without decoding."""

from typing import NamedTuple

import av

# Every packet of these holds one frame.
INTRA_CODECS = (
    *("ffv1", "ffvhuff", "huffyuv", "utvideo", "magicyuv", "rawvideo", "v210"),
    *("mjpeg", "prores", "dnxhd", "png", "jpeg2000", "gif"),
)
# One access unit or temporal unit to a packet, which has one picture, unless it has two fields; libdav1d decodes AV1.
UNIT_CODECS = ("h264", "hevc", "libdav1d", "av1")
MIN_UNIT_BYTES = 12  # a smaller one may hold only a delimiter or the mark of the stream's end
VOP_START = b"\x00\x00\x01\xb6"  # of a frame in MPEG-4 part 2
MIN_VOP_BYTES = 32  # a smaller one may say that nothing is coded, so that no frame is shown


class StreamPacket(NamedTuple):
    """A packet, without its content.

    Attributes:
        pts: Its presentation time, or None.
        duration: How long it is shown, or 0.
        size: Its bytes. A packet of none repeats the frame before.
        is_key: The file says that decoding can start here.
        is_discarded: The file says that it is decoded, but not shown.
        is_frame: It surely holds exactly one frame that is shown.
    """

    pts: int | None
    duration: int
    size: int
    is_key: bool
    is_discarded: bool
    is_frame: bool

    @classmethod
    def of(cls, packet: av.Packet, codec: str) -> "StreamPacket":
        """Describe a packet of a stream in that codec."""
        shown = not packet.is_discard and not packet.is_corrupt and holds_one_frame(packet, codec)
        return cls(packet.pts, packet.duration or 0, packet.size, packet.is_keyframe, packet.is_discard, shown)


def holds_one_frame(packet: av.Packet, codec: str) -> bool:
    """Whether a packet surely holds exactly one frame that is shown."""
    if codec in INTRA_CODECS:
        return True
    if codec in UNIT_CODECS:
        return packet.size >= MIN_UNIT_BYTES
    if codec == "vp8":
        return packet.size > 0 and bool(memoryview(packet)[0] & 0x10)  # show_frame: RFC 6386, 9.1
    if codec == "vp9":
        return packet.size > 0 and shown_vp9_frames(memoryview(packet)) == 1
    return codec == "mpeg4" and packet.size >= MIN_VOP_BYTES and bytes(packet).count(VOP_START) == 1


def shown_vp9_frames(data: memoryview) -> int:
    """How many frames of a VP9 packet are shown (VP9 bitstream specification, 6.1.2 and annex B)."""
    starts = [0]
    marker = data[-1]
    if marker & 0xE0 == 0xC0:  # a superframe: the sizes of its frames stand before the last byte
        count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
        table = len(data) - 1 - count * width
        if table < 1 or data[table - 1] != marker:
            return shows_vp9_frame(data[0])
        for i in range(count - 1):
            field = table + i * width
            starts.append(starts[-1] + int.from_bytes(data[field : field + width], "little"))
    return sum(shows_vp9_frame(data[start]) for start in starts if start < len(data))


def shows_vp9_frame(first: int) -> bool:
    """Whether the VP9 frame that begins with this byte is shown, or shows an earlier one."""
    spare = 1 if first >> 4 & 3 == 3 else 0  # profile 3 has a reserved bit
    shows_earlier, shown = first >> (3 - spare) & 1, first >> (1 - spare) & 1
    return bool(shows_earlier or shown)
