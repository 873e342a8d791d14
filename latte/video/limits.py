"""Limits on the size of videos, checked before memory is taken: a small file can ask for any amount of it."""

MAX_FRAME_PIXELS = 1 << 24  # 4096 x 4096, or 5760 x 2880
MAX_READ_BYTES = 4 << 30  # of all frames that one call returns, and of the arrays that are held in memory
BLOCK_BYTES = 64 << 20  # of the frames that are decoded at a time


def check_frame_size(height: int, width: int) -> None:
    """Raise ValueError if frames have more than MAX_FRAME_PIXELS pixels."""
    if height * width > MAX_FRAME_PIXELS:
        limit = f"{MAX_FRAME_PIXELS:,} pixels"
        raise ValueError(f"its frames have {height} x {width} pixels, more than the limit of {limit}: scale it down")


def check_read_size(
    frames: int, height: int, width: int, channels: int = 3, advice: str = "read fewer frames, or use read_blocks"
) -> None:
    """Raise ValueError if so many frames, with a byte for each channel of a pixel, are more than a call may return."""
    check_frame_size(height, width)
    if (size := channels * frames * height * width) > MAX_READ_BYTES:
        raise ValueError(
            f"{frames} frames of {height} x {width} pixels take {size} bytes, more than the limit of {MAX_READ_BYTES}: "
            f"{advice}"
        )
