"""FFmpeg's reports while it decodes a damaged video. FFmpeg conceals the damage and continues."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Literal

import av

from latte.video.formats import DamagedVideoError

# What to do with a damaged video: refuse it with DamagedVideoError, or take what FFmpeg makes of it.
WhenDamaged = Literal["raise", "take"]

# Warnings that mean damage. Most others are about unusual files that are sound.
DAMAGE = re.compile("corrupt|conceal|skipping nal", re.IGNORECASE)

_lock, _listeners = Lock(), 0
_previous: tuple[int | None, bool] = None, True  # FFmpeg's level, and whether repeated messages are left out


class Damage:
    """The reports on one video.

    Args:
        when_damaged: "raise": the first report ends the decoding; "take": reports are counted.

    Attributes:
        counts: How many reports there are of each kind, such as "corrupt frames".
        first: The first one, in words.
    """

    def __init__(self, when_damaged: WhenDamaged = "raise"):
        if when_damaged not in ("raise", "take"):
            raise ValueError(f"damaged is {when_damaged!r}; it must be 'raise' or 'take'")
        self.takes = when_damaged == "take"
        self.counts: Counter[str] = Counter()
        self.first = ""

    def note(self, kind: str, text: str) -> None:
        """Count a report. Raises DamagedVideoError unless damaged videos are taken."""
        self.counts[kind] += 1
        self.first = self.first or " ".join(text.split())
        if not self.takes:
            raise DamagedVideoError(f"is damaged: {self.first}; damaged='take' reads it as it is")

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in self.counts.items())
        return f"{counts}; the first: {self.first}" if counts else ""


@contextmanager
def listening() -> Iterator[None]:
    """Let FFmpeg log errors and warnings inside the block, for `av.logging.Capture`.

    PyAV logs nothing by default, and by default leaves out a message that equals the last one, even for another file.
    """
    global _listeners, _previous
    with _lock:
        if not _listeners:
            _previous = av.logging.get_level(), av.logging.get_skip_repeated()
            if _previous[0] is None or _previous[0] < av.logging.WARNING:
                av.logging.set_level(av.logging.WARNING)
            av.logging.set_skip_repeated(False)
        _listeners += 1
    try:
        yield
    finally:
        with _lock:
            _listeners -= 1
            if not _listeners:
                av.logging.set_level(_previous[0])
                av.logging.set_skip_repeated(_previous[1])


def errors_in(logs: list[tuple[int, str, str]]) -> list[tuple[str, str]]:
    """Pairs of (reporter, such as "h264" or "avi"; report of damage) in logs that `av.logging.Capture` collected."""
    return [(by, text.strip()) for level, by, text in logs if level <= av.logging.ERROR or DAMAGE.search(text)]
