"""samples.json, the record of a set of videos: what they depend on, how many there are, and the sha256 of each file."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from latte.arguments import MOST_VIDEOS
from latte.files import MOST_JSON_BYTES, read_json, write_json
from latte.weights.manifest import digest

RECORD = "samples.json"
DIGESTS = "files"  # their sha256 by name, in the record
MOST_RECORD_BYTES = MOST_JSON_BYTES + 128 * MOST_VIDEOS  # of samples.json: the settings, and a line for each file
NEW_DIGESTS = ".digests"  # "SHA256  NAME" of the files that were written since; they go into the record at the end


def read_whole(folder: Path) -> dict[str, Any]:
    """Read samples.json. Raises as `read_json` does."""
    return read_json(folder / RECORD, MOST_RECORD_BYTES)


def check_record(values: dict[str, Any]) -> dict[str, Any]:
    """Return what a set depends on; raises ValueError if it is too large to read again, which only prompts cause."""
    if (size := len(json.dumps(values, indent=2))) > MOST_JSON_BYTES:
        most = f"at most {MOST_JSON_BYTES} are kept in {RECORD}"
        raise ValueError(f"the prompts and settings take {size} bytes; {most}: make several sets of fewer prompts")
    return values


def read_record(folder: Path) -> dict[str, Any]:
    """What a set's videos depend on, and how many there are: its samples.json without the digests."""
    values = read_whole(folder)
    values.pop(DIGESTS, None)
    return values


def holds_set(folder: Path) -> bool:
    """Whether a folder has the record of a set, rather than none or another file of that name."""
    return (folder / RECORD).is_file() and "count" in read_whole(folder)


def keeps_digests(folder: Path) -> bool:
    """Whether a set has digests at all; those of earlier versions have none."""
    return DIGESTS in read_whole(folder)


def read_digests(folder: Path) -> dict[str, str]:
    """The sha256 of the files of a set by name, as far as they are recorded; of any other folder, none."""
    kept = read_whole(folder).get(DIGESTS) if holds_set(folder) else {}
    digests = dict(kept) if isinstance(kept, dict) else {}
    if (folder / NEW_DIGESTS).is_file():
        text = ""
        with suppress(FileNotFoundError):  # without locks another process may have removed it
            text = (folder / NEW_DIGESTS).read_text(errors="replace")
        pairs = (line.partition("  ") for line in text.splitlines())
        digests |= {name: sha256 for sha256, gap, name in pairs if gap and len(sha256) == 64}
    return digests


def write_record(folder: Path, values: dict[str, Any], digests: dict[str, str] | None) -> None:
    """Write samples.json; without digests, as earlier versions did."""
    kept = {DIGESTS: dict(sorted(digests.items()))} if isinstance(digests, dict) else {}
    write_json(folder / RECORD, values | kept)


def add_digests(folder: Path, names: Iterable[str]) -> None:
    """Note the digests of files that were just written. A line that a killed process left half-written is ended."""
    lines = []
    for name in names:
        with suppress(FileNotFoundError):  # on a file system without locks another process may have removed it
            lines.append(f"{digest(folder / name)}  {name}\n")
    with (folder / NEW_DIGESTS).open("a") as file:
        file.write("\n" + "".join(lines))


def settle_digests(folder: Path) -> None:
    """Move new digests into the record.

    A record without digests gets them only when those of all files are known: files without one would be made again.
    """
    if not (folder / NEW_DIGESTS).is_file():
        return
    record, digests = read_record(folder), read_digests(folder)
    if keeps_digests(folder) or len(digests) >= record.get("count", 0):
        write_record(folder, record, digests)
        (folder / NEW_DIGESTS).unlink(missing_ok=True)
