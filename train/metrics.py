"""metrics.jsonl: a line every few steps, which a full disk delays and a restart does not repeat."""

import json
import math
import warnings
from pathlib import Path

from latte.files import write_text


def lines(path: Path) -> list[dict]:
    """What stands in the file; a torn line, and a file that is not there, have nothing to say."""
    whole = [line for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    return [json.loads(line) for line in whole]


def cut(path: Path, step: int) -> None:
    """Leave out lines past `step`, which will come again, and a torn one."""
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines(path) if line["step"] <= step))


class Metrics:
    """The file, as a context; lines that the disk has no room for wait for the next one.

    writes: whether this process is the one that does.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes, self.waiting = path, writes, b""

    def __enter__(self) -> "Metrics":
        self.file = self.path.open("ab", buffering=0) if self.writes else None
        return self

    def __exit__(self, *_) -> None:
        if self.writes:
            self.file.close()

    def write(self, values: dict) -> None:
        """Append a line. Where that fails, a warning says so, and nothing of it is left in the file."""
        if not self.writes:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        self.waiting += (json.dumps(finite) + "\n").encode()
        end = self.file.seek(0, 2)
        try:
            if self.file.write(self.waiting) < len(self.waiting):
                raise OSError("no space left for it")
            self.waiting = b""
        except OSError as error:
            self.file.truncate(end)
            warnings.warn(f"{self.path}: a line waits to be written: {error}", stacklevel=2)
