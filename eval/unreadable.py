"""Videos that cannot be read: they are left out, and too many of them are an error."""

import warnings

from latte.arguments import counted

UNREADABLE = (ValueError, OSError)  # what reading a video raises
MOST_UNREADABLE = 0.5  # of the videos that were looked at, as in training by default


def note_unreadable(unreadable: dict[str, str], name: str, error: Exception) -> None:
    """Record a video and the reason why it cannot be read, and warn of it."""
    unreadable[name] = str(error)
    warnings.warn(f"left out: {error}", stacklevel=2)


def check_unreadable(unreadable: dict[str, str], total: int, source: object) -> None:
    """Raise ValueError if more than the share MOST_UNREADABLE of `total` videos cannot be read."""
    if len(unreadable) > MOST_UNREADABLE * total:
        last = list(unreadable.values())[-1]
        share = f"{len(unreadable):,} of {counted(total, 'video')}"
        raise ValueError(f"{source}: {share} cannot be read, more than half: repair them; last, {last}")
