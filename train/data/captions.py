"""The captions of a folder's videos: a text file beside each, or a table for all videos in a folder and below it.

A table is captions.json, {"clip.mp4": "a dog runs"} or a list of objects; or metadata.csv or metadata.jsonl, as in
Hugging Face's `videofolder`. The names in a table are relative to the table's folder.
"""

import csv
import io
import json
import os
import unicodedata
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from latte.arguments import counted
from latte.files import read_utf8
from latte.models.network_config import shown
from latte.video.formats import READABLE_SUFFIXES

TABLES = ("captions.json", "metadata.jsonl", "metadata.csv")
NAME_KEYS, TEXT_KEYS = ("file_name", "video", "path"), ("text", "caption")  # of the columns, or of an object
MOST_BYTES = 1 << 28  # of a table


def caption_file(video: Path) -> Path:
    """The text file of a video's caption, which has the video's name (for clip.mp4, clip.txt or clip.TXT)."""
    names = [video.with_name(without_extension(video.name) + suffix) for suffix in (".txt", ".TXT")]
    return names[1] if names[1].is_file() and not names[0].is_file() else names[0]


def without_extension(name: str) -> str:
    """A video's name without its extension. A folder of frames may have a dot in its name, as in scene.01."""
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in READABLE_SUFFIXES else name


def without_captions(files: list[Path], videos: list[Path]) -> list[Path]:
    """Leave out the files that hold captions of videos."""
    captions = {caption_file(video) for video in videos}
    return [path for path in files if path not in captions and path.name not in TABLES]


class Captions:
    """The captions of the videos below a folder. A table is read when the first video needs it.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self.asked: list[Path] = []  # videos whose captions were requested
        self.tables: dict[Path, dict[str, str] | ValueError] = {}  # of each folder, or why it cannot be read

    def of(self, video: Path) -> str:
        """The caption of a video, from its own file or else from the nearest table; empty if there is none.

        Raises:
            OSError: A file of captions cannot be read.
            ValueError: It is not in UTF-8, or a table is damaged. The message names the file and the line.
        """
        self.asked.append(video)
        file = caption_file(video)
        if file.is_file() and (caption := read_utf8(file).strip()):
            return caption
        for folder in video.parents:
            if not folder.is_relative_to(self.root):
                break
            table = self.table(folder)
            if (key := key_in(table, folder, video)) is not None:
                return table[key]
        return ""

    def table(self, folder: Path) -> dict[str, str]:
        """The captions that a folder's table has, by name. Raises as `of`."""
        if folder not in self.tables:
            try:
                self.tables[folder] = read_tables(folder)
            except ValueError as error:
                self.tables[folder] = error
        if isinstance(found := self.tables[folder], ValueError):
            raise found
        return found

    def warn_of_unused(self) -> None:
        """Warn of names in tables that match none of the videos, most often because they are written differently."""
        for folder, table in self.tables.items():
            if not table or isinstance(table, ValueError):
                continue
            used = {key_in(table, folder, video) for video in self.asked if video.is_relative_to(folder)}
            if names := table.keys() - used:
                of_all = f"of {counted(len(table), 'caption')}"
                said = f"{folder}: {counted(len(names), f'{of_all} names', f'{of_all} name')} none of the videos"
                warnings.warn(f"{said}, such as {shown(min(names))}; names are relative to that folder", stacklevel=3)


def key_in(table: dict[str, str], folder: Path, video: Path) -> str | None:
    """The name that a folder's table has for a video, with or without its extension; None if it has none."""
    name = table_key(video.relative_to(folder).as_posix()) if table else ""
    return next((key for key in (name, without_extension(name)) if key in table), None)


def table_key(name: str) -> str:
    """A name in uniform form: macOS decomposes accented letters in file names, and names in tables may begin with ./"""
    return unicodedata.normalize("NFC", PurePosixPath(name).as_posix())


def read_tables(folder: Path) -> dict[str, str]:
    """The captions of a folder's table by name; empty without one. Raises ValueError if there are several."""
    paths = [path for path in (folder / name for name in TABLES) if path.is_file()]
    tables = {path: table for path in paths if (table := read_table(path))}
    if len(tables) > 1:
        names = " and ".join(path.name for path in tables)
        raise ValueError(f"{folder} has captions in {names}: keep one of them")
    return next(iter(tables.values()), {})


def read_table(path: Path) -> dict[str, str]:
    """Read a table of captions.

    Returns:
        The captions by name, without empty ones. A file whose first entry lacks a name or a text is ignored, with a
        warning: other data sets use these file names for something else.

    Raises:
        OSError: It cannot be read.
        ValueError: It is too large, not in UTF-8 or damaged, or gives a video two captions.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{path} has {size:,} bytes; more than {MOST_BYTES:,} are not read")
    captions: dict[str, str] = {}
    for place, row in ROWS[path.suffix](path, read_utf8(path)):
        name, caption = (first_of(row, keys) for keys in (NAME_KEYS, TEXT_KEYS))
        if wrong := [keys[0] for keys, z in ((NAME_KEYS, name), (TEXT_KEYS, caption)) if not isinstance(z, str)]:
            problem = f"{path}, {place} has no {wrong[0]}, or it is not a text"
            if captions:
                raise ValueError(problem)
            warnings.warn(f"{problem}: this file is not read as captions", stacklevel=2)
            return {}
        if captions.setdefault(key := table_key(name), caption.strip()) != caption.strip():
            raise ValueError(f"{path}, {place} gives {shown(key)} a second caption: keep one")
    return {name: caption for name, caption in captions.items() if caption}


def first_of(row: Any, keys: tuple[str, ...]) -> Any:
    """The value of the first of these keys that an object has, with null as empty text; None if it has none of them."""
    if not isinstance(row, dict):
        return None
    return next(("" if row[key] is None else row[key] for key in keys if key in row), None)


def json_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The entries of a JSON file: its objects if it is a list, otherwise its names with their texts."""
    values = parse_json(text, f"{path}")
    if isinstance(values, dict):
        for name, caption in values.items():
            yield f"entry {shown(name)}", {NAME_KEYS[0]: name, TEXT_KEYS[0]: caption}
    elif isinstance(values, list):
        for number, row in enumerate(values, 1):
            yield f"entry {number}", row
    else:
        raise ValueError(f"{path} holds neither captions by name nor a list of them")


def json_line_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """The objects of a file with one object per line."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", parse_json(line, f"{path}, line {number}")


def csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a table whose first line names its columns."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        for row in reader:
            if row and len(row) != len(header):
                cells = f"{len(row)} cells, not the {len(header)} of the first line"
                raise ValueError(f"{path}, line {reader.line_num} has {cells}: put a text with a comma into quotes")
            if row:
                yield f"line {reader.line_num}", dict(zip(header, row))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text. Raises ValueError, which says where, if it is invalid or repeats a name."""

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} occurs twice")
        return values

    try:
        return json.loads(text, object_pairs_hook=table)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error


ROWS = {".json": json_rows, ".jsonl": json_line_rows, ".csv": csv_rows}  # they yield places in the file and values
