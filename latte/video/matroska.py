"""The checksums of Matroska files, which FFmpeg writes but does not verify when it reads."""

import mmap
import zlib
from pathlib import Path

SEGMENT, CRC32 = 0x18538067, 0xBF  # element IDs: RFC 9559, 5.1; RFC 8794, 11.3.1


def failed_crc(path: Path, format_name: str) -> str:
    """Say which part of a Matroska file does not match its CRC-32; empty if all that have one do.

    The parts are the clusters of frames and the headers beside them. Files of other formats have none.
    """
    if "matroska" not in format_name:
        return ""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        start, end = 0, len(view)
        while start < end:
            name, body, size = read_element_header(view, start)
            if name == SEGMENT:  # its children follow
                start = body
                continue
            if not size:  # of unknown size, as in a live recording, or not an element
                return ""
            stop = body + size
            if stop <= end and size > 6 and view[body] == CRC32 and view[body + 1] == 0x84:
                stored = int.from_bytes(view[body + 2 : body + 6], "little")
                if zlib.crc32(view[body + 6 : stop]) != stored:
                    return f"its bytes {start} to {stop} do not match their CRC-32"
            start = stop
    return ""


def read_element_header(data: memoryview, start: int) -> tuple[int, int, int]:
    """The ID of an EBML element, where its content starts, and the content's size; 0 for an unknown one."""
    after = start + number_width(data, start)
    width = number_width(data, after)
    size = int.from_bytes(data[after : after + width], "big") & (1 << 7 * width) - 1
    known = width and size != (1 << 7 * width) - 1
    return int.from_bytes(data[start:after], "big"), after + width, size if known else 0


def number_width(data: memoryview, start: int) -> int:
    """The bytes of an EBML number, which the leading zeros of its first byte tell; 0 beyond the end."""
    return 9 - data[start].bit_length() if start < len(data) and data[start] else 0
