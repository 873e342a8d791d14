"""The progress of long work: a bar on a terminal, an occasional line in a log file."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

LINE_SECONDS, MOST_LINE_SECONDS = 30.0, 300.0  # between log lines: a 20th of the time so far, in this range
SHORT_SECONDS = 5.0  # a subtask that ends sooner has no line in a log

T = TypeVar("T")


class Progress(tqdm):
    """tqdm's progress bar, on a terminal or in a notebook. Elsewhere, such as in a log file, it prints whole lines.

    A line is printed after the first item, then at most every half minute (less often if the work takes hours), and at
    the end. A subtask (leave=False) has no lines if it ends within SHORT_SECONDS. Of several processes started by
    torchrun, only the first one shows anything. An item may be counted in fractions, such as update(0.1): only complete
    items are shown, but the fractions count for the remaining time. The first update does not: it takes longer, since
    much is loaded or compiled in it.

    Args:
        iterable: What to iterate over. None: call `update` after each item instead.
        desc: A word for the work, such as "encoding".
        total: How many items there are. None: the length of the iterable.
        leave: Whether the bar stays when all is done.
        unit: The name of an item, in the singular, such as "clip".
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
        self.due = 0.0  # when the next line is due
        self.warm: tuple[float, float] | None = None  # the count and the time when the first update was done
        if self.in_lines:
            options |= {"mininterval": 0, "miniters": 1}  # so that `update` is called after every item
        options["disable"] = options.get("disable") or os.environ.get("RANK", "0") != "0"
        super().__init__(iterable, desc or unit, total, leave, unit=unit, **options)
        if self.in_lines and not self.disable:
            self.due = self._time() + (0.0 if leave else SHORT_SECONDS)

    def update(self, n: float | None = 1) -> bool | None:
        """Count n items as done, and show the progress if it is time to."""
        if n and self.warm is None and not self.disable:
            self.warm = self.n + n, self._time()
        if not self.in_lines or self.disable:
            return super().update(n)
        self.n += n or 0
        self.last_print_n = self.n  # which tells __iter__ what is counted
        if self._time() >= self.due:
            self.print_line()
        return None

    def skip(self, n: int) -> None:
        """Count n items as done earlier, so that they do not enter the estimate of the remaining time."""
        if not self.disable:
            self.initial += n
            self.n += n
            self.warm = self.warm and (self.warm[0] + n, self.warm[1])

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items, and count each as done when the next one is asked for."""
        for item in items:
            yield item
            self.update()

    def print_line(self) -> None:
        """Print the progress as a line, unless the last line already shows it."""
        if self.n in (self.initial, self.shown):
            return
        elapsed, postfix = self.format_dict["elapsed"], f", {self.postfix}" if self.postfix else ""
        complete = whole(self.n)
        self.shown = self.n
        self.due = self._time() + min(max(elapsed / 20, LINE_SECONDS), MOST_LINE_SECONDS)
        rate, number = self.rate, self.total or complete
        units = self.unit if number == 1 else f"{self.unit}s"
        count = f"{complete} of {number} {units}" if self.total else f"{complete} {units}"
        known = rate and self.total
        left = f", {self.format_interval(max(0, self.total - self.n) / rate)} left" if known else ""
        speed = f", {rate:.3g} {self.unit}s/s" if rate > 1 else f", {1 / rate:.3g} s/{self.unit}" if rate else ""
        self.fp.write(f"{self.desc}: {count}, {self.format_interval(elapsed)} elapsed{left}{speed}{postfix}\n")
        self.fp.flush()

    @property
    def rate(self) -> float:
        """Items per second after the first update; 0 before a second one, unless the work is done by then."""
        warm_count, warm_time = self.warm or (self.n, 0.0)
        if self.n > warm_count:
            return (self.n - warm_count) / max(self._time() - warm_time, 1e-9)
        done = self.total and self.n >= self.total
        return (self.n - self.initial) / max(self._time() - self.start_t, 1e-9) if done else 0.0

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that tqdm draws the bar from: the number of complete items, and the speed."""
        values = super().format_dict
        if values.get("elapsed"):
            values |= {"n": whole(self.n), "rate": self.rate}
        return values

    def close(self) -> None:
        """End the bar, or print the last line. For work that ended early, it shows how far the work got."""
        if self.in_lines and not self.disable:
            if self.leave or self.shown is not None or self._time() >= self.due:
                self.print_line()
            self.leave = False  # tqdm has nothing to draw then
        super().close()

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar; printed lines are not redrawn."""
        return not self.in_lines and bool(super().display(msg, pos))

    def clear(self, nolock: bool = False) -> None:
        """Remove the bar from the screen for a moment; lines stay."""
        if not self.in_lines:
            super().clear(nolock)


def whole(count: float) -> int:
    """The number of complete items; ten times 0.1 counts as one."""
    return int(count + 1e-6)


def redraws(file: TextIO) -> bool:
    """Whether a printed line can be overwritten: on a terminal and in a notebook."""
    return file.isatty() or type(file).__module__.startswith("ipykernel")
