"""How far a long piece of work is: a bar on a terminal, and a line now and then in a log file."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

LINE_SECONDS, MOST_LINE_SECONDS = 30.0, 300.0  # between the lines of a log: a 20th of the time so far, within these
SHORT_SECONDS = 5.0  # a part of something larger that is over sooner has no line in a log

T = TypeVar("T")


class Progress(tqdm):
    """tqdm's progress bar, on a terminal or in a notebook. Elsewhere, such as in a log file, it prints whole lines.

    The lines come after the first item, then every half minute at most, more rarely if it takes hours, and at the end.
    A part of something larger (leave=False) has none if it is over within SHORT_SECONDS. Of several processes that
    torchrun started, only the first one shows anything. An item may be counted in parts, such as update(0.1): complete
    items are shown, and the parts tell the time that is left.

    Args:
        iterable: What to go through. None: call `update` after each item instead.
        desc: What is done, such as "encoding".
        total: How many items there are. None: the length of the iterable.
        leave: Whether the bar stays when all is done.
        unit: What an item is, in the singular, such as "clip".
        options: Other options of tqdm, such as initial and disable.
    """

    def __init__(
        self,
        iterable: Any = None,
        desc: str | None = None,
        total: float | None = None,
        leave: bool | None = True,
        unit: str = "step",
        **options: Any,
    ):
        self.in_lines = not redraws(options.get("file") or sys.stderr)
        self.shown: float | None = None  # the count in the last line
        self.due = 0.0  # when the next line is
        if self.in_lines:
            options |= {"mininterval": 0, "miniters": 1}  # so that `update` is called after every item
        options["disable"] = options.get("disable") or os.environ.get("RANK", "0") != "0"
        super().__init__(iterable, desc or unit, total, leave, unit=unit, **options)
        if self.in_lines and not self.disable:
            self.due = self._time() + (0.0 if leave else SHORT_SECONDS)

    def update(self, n: float | None = 1) -> bool | None:
        """Count n items as done, and show that if it is time to."""
        if not self.in_lines or self.disable:
            return super().update(n)
        self.n += n or 0
        self.last_print_n = self.n  # which tells __iter__ what is counted
        if self._time() >= self.due:
            self.print_line()
        return None

    def skip(self, n: int) -> None:
        """Count n items as done before, which says nothing about the time that the others take."""
        if not self.disable:
            self.initial += n
            self.n += n

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items, and count each as done when the next one is asked for."""
        for item in items:
            yield item
            self.update()

    def print_line(self) -> None:
        """Print how far the work is as a line, unless the last one said so."""
        if self.n in (self.initial, self.shown):
            return
        elapsed, postfix = self.format_dict["elapsed"], f", {self.postfix}" if self.postfix else ""
        complete = whole(self.n)
        self.shown = self.n
        self.due = self._time() + min(max(elapsed / 20, LINE_SECONDS), MOST_LINE_SECONDS)
        rate = (self.n - self.initial) / max(elapsed, 1e-9)
        known = bool(self.total and rate)
        count = f"{complete} of {self.total} {self.unit}s" if known else f"{complete} {self.unit}s"
        left = f", {self.format_interval((self.total - self.n) / rate)} left" if known else ""
        speed = f"{rate:.3g} {self.unit}s/s" if rate > 1 else f"{1 / max(rate, 1e-9):.3g} s/{self.unit}"
        self.fp.write(f"{self.desc}: {count}, {self.format_interval(elapsed)} gone{left}, {speed}{postfix}\n")
        self.fp.flush()

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm draws the bar of: the number of complete items, and the speed by all parts that are done."""
        values = super().format_dict
        if isinstance(getattr(self, "n", 0), float) and values.get("elapsed"):
            rate = (self.n - self.initial) / values["elapsed"]
            values |= {"n": whole(self.n), "rate": rate}
        return values

    def close(self) -> None:
        """End the bar, or print the last line. Work that ended early says how far it came."""
        if self.in_lines and not self.disable:
            if self.leave or self.shown is not None or self._time() >= self.due:
                self.print_line()
            self.leave = False  # tqdm has nothing to draw then
        super().close()

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar; lines are not drawn again."""
        return not self.in_lines and bool(super().display(msg, pos))

    def clear(self, nolock: bool = False) -> None:
        """Remove the bar from the screen for a moment; lines stay."""
        if not self.in_lines:
            super().clear(nolock)


def whole(count: float) -> int:
    """The number of complete items; 0.1, ten times, is one."""
    return int(count + 1e-6)


def redraws(file: TextIO) -> bool:
    """Whether a line that was written can be written over: on a terminal and in a notebook."""
    return file.isatty() or type(file).__module__.startswith("ipykernel")
