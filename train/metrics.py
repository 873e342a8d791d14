"""metrics.jsonl, the numbers that a run logs: one JSON object per line, each with its step."""

import json
import math
import warnings
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from latte.files import set_aside, write_text

METRICS_FILE = "metrics.jsonl"


def read_lines(path: Path) -> list[dict[str, float | None]]:
    """Read metrics.jsonl. Damaged lines are left out with a warning, a truncated last line without one.

    Args:
        path: The file. It need not exist.

    Returns:
        The numbers of each line by name, among them "step". None stands for a number that was not finite.

    Raises:
        OSError: The file cannot be read.
    """
    lines, damaged = parse_lines(path.read_bytes() if path.exists() else b"")
    if damaged:
        warnings.warn(f"{path}: {damaged}; left out", stacklevel=2)
    return lines


def parse_lines(content: bytes) -> tuple[list[dict[str, float | None]], str]:
    """Parse the content of metrics.jsonl: its valid lines, and a description of the damaged ones, if any."""
    texts = content.split(b"\n")
    cut_off = texts.pop().startswith(b"{")
    parsed = [parse_line(text) for text in texts]
    wrong = [number for number, line in enumerate(parsed, 1) if line is None and texts[number - 1].strip()]
    if content and not content.endswith(b"\n") and not cut_off:
        wrong.append(len(texts) + 1)
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return [line for line in parsed if line], f"line {wrong[0]}{more} is not a line of metrics" if wrong else ""


def parse_line(text: bytes) -> dict[str, float | None] | None:
    """Parse a line of metrics.jsonl; None if it is damaged."""
    try:
        line = json.loads(text)
        finite = {name: z if z is None or math.isfinite(z) else None for name, z in line.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
    return finite if type(finite.get("step")) is int and 0 <= finite["step"] < 2**63 else None


def remove_lines_after(path: Path, step: int) -> None:
    """Remove the lines of later steps, which a resumed run writes again, and truncated lines.

    If there are damaged lines, the original file is set aside.
    """
    if not path.exists():
        return
    lines, damaged = parse_lines(path.read_bytes())
    if damaged:
        warnings.warn(f"{path}: {damaged}; left out, and the original file is now {set_aside(path).name}", stacklevel=2)
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines if line["step"] <= step))


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
            with suppress(OSError):  # a truncated line is left out when the file is read
                self.file.truncate(end)
            warnings.warn(f"{self.path}: cannot write, will retry with the next line: {error}", stacklevel=2)
