"""Videos that cannot be used: each is reported once, and too many of them end the run."""

import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from latte.arguments import counted


def logged_name(path: Path) -> str:
    """A path as it is written to a line of the log, where a tab follows it."""
    return re.sub(r"[\t\n\r]", " ", str(path))


@dataclass
class Failures:
    """The videos of a data set that could not be used, and why.

    Attributes:
        total: Number of videos in the data set, usable or not.
        share: Share of them, in [0, 1], that may fail (`failed_share`).
        reasons: Why each video failed.
        log: File that gets a line for each failed video; None until `keep_log` is called.
    """

    total: int
    share: float
    reasons: dict[Path, str] = field(default_factory=dict)
    log: Path | None = None

    def keep_log(self, log: Path, writes: bool) -> None:
        """Log failures to a file from now on, and adopt those that an earlier process logged there.

        Args:
            log: The file. It need not exist yet.
            writes: Whether to log the failures known so far. Only one process of a run should.
        """
        lines = log.read_text("utf-8", "surrogateescape").split("\n") if log.is_file() else []
        entries = (line.partition("\t") for line in lines)
        # in a damaged log, a line may be anything; it must not count as a video
        self.log, known = log, {logged_name(path) for path in self.reasons}
        logged = {name: why for name, tab, why in entries if tab and (name in known or os.path.lexists(name))}
        for path, reason in self.reasons.items() if writes else ():
            if logged_name(path) not in logged:
                self.write(path, reason)
        self.reasons |= {Path(name): reason for name, reason in logged.items() if name not in known}

    def write(self, path: Path, reason: str) -> None:
        """Append a line to the log. A full disk loses the line and must not end the run."""
        with suppress(OSError):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f"{logged_name(path)}\t{' '.join(reason.split())}\n")

    def note(self, failed: tuple[tuple[Path, str], ...], consequence: str) -> None:
        """Record failed videos, with one warning for each that was not known before.

        Args:
            failed: Pairs of a video and the reason why it failed.
            consequence: What is done about it, such as "left out"; the warning starts with it.
        """
        for path, reason in failed:
            if path not in self.reasons:
                self.reasons[path] = reason
                if self.log:
                    self.write(path, reason)
                warnings.warn(f"{consequence}: {reason}", stacklevel=3)

    def note_alike(self, reasons: Mapping[Path, str], message: str) -> None:
        """Record several videos that are left out for the same reason, with one warning, unless there are too many.

        Args:
            reasons: The videos, and the reason for each, for the log.
            message: What is wrong with all of them, and what to do.

        Raises:
            ValueError: More videos failed than `share` allows, with these or already before, for other reasons.
        """
        self.raise_if_too_many()
        for path, reason in reasons.items():
            if self.reasons.setdefault(path, reason) is reason and self.log:
                self.write(path, reason)
        if len(reasons) == self.total:
            raise ValueError(message)
        if len(self.reasons) > self.share * self.total:
            which = f"{len(self.reasons):,} of {counted(self.total, 'video')} cannot be used"
            raise ValueError(f"{message}; {which}, more than failed_share={self.share:g} allows")
        warnings.warn(f"{message}; {'it is' if len(reasons) == 1 else 'they are'} left out", stacklevel=3)

    def note_replaced(self, failed: tuple[tuple[Path, str], ...]) -> None:
        """Record failed videos that others replaced. Raises ValueError like `raise_if_too_many`."""
        self.note(failed, "another video takes its place")
        self.raise_if_too_many()

    def raise_if_too_many(self) -> None:
        """Raise ValueError if more videos failed than `share` allows."""
        if len(self.reasons) > self.share * self.total:
            last = list(self.reasons.values())[-1]
            share = f"{len(self.reasons):,} of {counted(self.total, 'video')}"
            raise ValueError(
                f"{share} cannot be used, more than failed_share={self.share:g} allows: repair the data or raise "
                f"failed_share; the last one: {last}"
            )
