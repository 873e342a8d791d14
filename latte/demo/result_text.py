"""Results on the `latte demo` page, as Markdown: a report of ablations, results of evaluations, or any page."""

import base64
import mimetypes
import re
from pathlib import Path

from latte.eval.exam import score_table
from latte.eval.leaderboard import markdown_page, read_entries, read_tables
from latte.files import read_json, read_utf8

REPORT = "report.md"  # of `latte ablate`
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.(?:png|webp|gif|jpg))\)")
MOST_PICTURE_BYTES = 8 << 20


def result_text(path: Path) -> str:
    """The text of a result.

    Args:
        path: A folder of `latte ablate`, a folder of results of `latte eval --out`, one such result, or Markdown.

    Returns:
        Markdown that needs no other file.

    Raises:
        ValueError: It holds no result. FileNotFoundError: There is no such file or folder.
    """
    if (path / REPORT).is_file():
        return with_pictures(read_utf8(path / REPORT), path)
    if path.is_dir():
        tables, others = read_tables(path)
        return markdown_page(tables, [f"left out: {name}.json ({why})" for name, why in others.items()])
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no result {path}: name a folder of `latte ablate` or a result of `latte eval`"
        )
    if path.suffix.lower() == ".md":
        return with_pictures(read_utf8(path), path.parent)
    return evaluation_text(path)


def evaluation_text(path: Path) -> str:
    """A result of `latte eval --out`, as the command printed it; other tables of JSON, as they are."""
    values = read_json(path)
    try:
        shown = "\n\n".join(str(result) for entry in read_entries(values, path.stem) for result in entry.results)
    except ValueError:
        scores = values.pop("scores", None)
        exam = score_table(scores) + "\n\n" if isinstance(scores, dict) and scores else ""
        shown = exam + "\n".join(f"{name:24}{value}" for name, value in values.items())
    return f"### {path.name}\n\n```text\n{shown}\n```"


def with_pictures(text: str, folder: Path) -> str:
    """Markdown with the pictures that lie in the folder embedded in the text."""

    def inline(found: re.Match[str]) -> str:
        picture = (folder / found[2]).resolve()
        inside = picture.is_relative_to(folder.resolve()) and picture.is_file()
        if not inside or picture.stat().st_size > MOST_PICTURE_BYTES:
            return found[0]
        kind = mimetypes.guess_type(picture.name)[0]
        return f"![{found[1]}](data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()})"

    return PICTURE.sub(inline, text)
