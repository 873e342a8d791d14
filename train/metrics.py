"""metrics.jsonl, the numbers that a run logs: one JSON object per line, each with its step."""

import json
import math
import warnings
from pathlib import Path
from types import TracebackType

from latte.files import write_text

METRICS_FILE = "metrics.jsonl"


def read_lines(path: Path) -> list[dict[str, float | None]]:
    """Read metrics.jsonl. A line that was cut off while it was written is left out.

    Args:
        path: The file. It need not exist.

    Returns:
        The numbers of each line by name, among them "step". None stands for a number that was not finite.

    Raises:
        ValueError: A complete line does not hold numbers with a step.
    """
    found = []
    for number, text in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        if not text.endswith("}"):
            continue
        try:
            line = json.loads(text)
            valid = isinstance(line["step"], int) and all(isinstance(z, int | float | None) for z in line.values())
        except (ValueError, TypeError, KeyError, AttributeError):
            valid = False
        if not valid:
            raise ValueError(f"{path}: line {number} is not a line of metrics")
        found.append(line)
    return found


def remove_lines_after(path: Path, step: int) -> None:
    """Remove the lines of later steps, which a resumed run writes again, and lines that were cut off."""
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_lines(path) if line["step"] <= step))


class MetricsWriter:
    """Appends lines to metrics.jsonl, as a context manager.

    Args:
        path: The file.
        writes: Whether this process writes at all; only the first one does.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes, self.waiting = path, writes, b""

    def __enter__(self) -> "MetricsWriter":
        self.file = self.path.open("ab", buffering=0) if self.writes else None
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self.writes:
            self.file.close()

    def write(self, values: dict[str, float]) -> None:
        """Append a line. If the disk is full, warn, leave the file as it was, and try again with the next line."""
        if not self.writes:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        self.waiting += (json.dumps(finite) + "\n").encode()
        end = self.file.seek(0, 2)
        try:
            if self.file.write(self.waiting) < len(self.waiting):
                raise OSError("no space left on device")
            self.waiting = b""
        except OSError as error:
            self.file.truncate(end)
            warnings.warn(f"{self.path}: cannot write, will retry with the next line: {error}", stacklevel=2)
