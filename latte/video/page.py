"""Lay out videos for viewing: a contact sheet, several videos tiled into one, and an HTML page that plays them."""

import html
import os
import textwrap
from collections.abc import Sized
from pathlib import Path
from urllib.parse import quote

import numpy as np
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, linspace

from latte.files import replacing, write_text

PAGE_FILE, SHEET_FILE, GRID_FILE = "index.html", "contact-sheet.png", "grid.webp"  # beside the videos of a folder
OVERVIEWS = {SHEET_FILE, GRID_FILE}  # pictures of all videos, beside them
GAP = 4  # pixels between the frames of a contact sheet
LINE_HEIGHT = 17  # pixels per line of its captions
IMAGE_SUFFIXES = (".gif", ".webp", ".png")  # browsers play these in <img>, not in <video>
HEAD = 4096  # characters of a page, among which GENERATOR is
GENERATOR = '<meta name="generator" content="latte-video">'  # marks pages that write_page wrote

# Every page of this project starts with this style. It follows the reader's light or dark theme.
STYLE = """\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
  --page: light-dark(#f6f5f3, #161514); --card: light-dark(#fff, #211f1e); --ink: light-dark(#1d1b19, #ece8e3);
  --soft: light-dark(#6b645d, #a39b93); --line: light-dark(#e4e0da, #35322f) }
body { max-width: 72rem; margin: 2.5rem auto; padding: 0 1rem; background: var(--page); color: var(--ink) }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden }"""
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{generator}
<title>{title}</title>
<style>
{style}
details {{ margin: 1.5rem 0; font-size: .9rem }}
summary {{ color: var(--soft); cursor: pointer }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: .75rem 0 }}
dt {{ color: var(--soft) }}
dd {{ margin: 0 }}
dd, figcaption, h1 {{ overflow-wrap: anywhere }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1rem }}
figcaption {{ padding: .4rem .7rem .5rem; font-size: .85rem }}
video, img {{ display: block; width: 100%; image-rendering: pixelated }}
</style>
<h1>{title}</h1>
<main>
{figures}</main>
<details>
<summary>How they were made</summary>
<dl>
{facts}</dl>
</details>
</html>
"""


def contact_sheet(videos: Tensor, captions: list[str], path: str | Path, columns: int = 8, scale: int = 1) -> Path:
    """Write a picture with one row per video: its caption, then frames evenly spaced in time.

    Args:
        videos: uint8 (n, f, 3, h, w).
        captions: One per video. Long ones are wrapped, and cut where the row has no room left.
        path: The PNG file to write.
        columns: Frames per row, or all frames if the videos have fewer.
        scale: Integer magnification.

    Returns:
        The path.

    Raises:
        ValueError: If there are no videos, if there is not one caption per video, or if columns or scale is below 1.
    """
    check_layout(videos, columns)
    if len(captions) != len(videos):
        raise ValueError(f"{len(videos)} videos and {len(captions)} captions; give one caption per video")
    if scale < 1:
        raise ValueError(f"scale is {scale}; it must be 1 or more")
    frames, height = videos.shape[1], videos.shape[3] * scale
    chosen = linspace(0, frames - 1, min(columns, frames)).round().long()
    large = videos[:, chosen].cpu().repeat_interleave(scale, 3).repeat_interleave(scale, 4)
    rows = rearrange(F.pad(large, (GAP, 0, 0, GAP), value=255), "n f c h w -> (n h) (f w) c")[:-GAP]
    wrapped = [wrap_caption(caption, max(1, height // LINE_HEIGHT)) for caption in captions]
    font = ImageFont.load_default(13)
    margin = 12 + int(max(font.getlength(line) for text in wrapped for line in text.split("\n")))
    sheet = Image.new("RGB", (margin + rows.shape[1], rows.shape[0]), "white")
    sheet.paste(Image.fromarray(np.ascontiguousarray(rows.numpy())), (margin, 0))
    draw = ImageDraw.Draw(sheet)
    for i, text in enumerate(wrapped):
        draw.multiline_text((8, i * (height + GAP) + height // 2), text, "black", font, anchor="lm")
    with replacing(path) as draft:
        sheet.save(draft)
    return Path(path)


def tile(videos: Tensor, columns: int) -> Tensor:
    """Tile videos into one that shows all of them at once.

    Args:
        videos: uint8 (n, f, 3, h, w).
        columns: Videos per row. Empty cells of the last row are white.

    Returns:
        uint8 (f, 3, rows * h, columns * w).

    Raises:
        ValueError: If there are no videos, or if columns is below 1.
    """
    check_layout(videos, columns)
    filled = F.pad(videos, (0, 0) * 4 + (0, -len(videos) % columns), value=255)
    return rearrange(filled, "(r k) f c h w -> f c (r h) (k w)", k=columns)


def write_page(folder: str | Path, videos: list[tuple[str, str]], title: str, facts: dict[str, str]) -> Path:
    """Write an HTML page that plays the videos of a folder.

    Args:
        folder: Where the videos are and the page goes.
        videos: (file name, caption) of each video.
        title: The heading.
        facts: What the page states about the videos, such as the model and the seed. They are folded below the videos.

    Returns:
        The path of the page.

    Raises:
        ValueError: If there are no videos.
    """
    check_layout(videos)
    text = PAGE.format(
        generator=GENERATOR,
        style=STYLE,
        title=escape(title),
        facts="".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in facts.items()),
        figures="".join(html_figure(name, caption) for name, caption in videos),
    )
    return write_text(Path(folder) / PAGE_FILE, text)


def is_page(path: Path) -> bool:
    """Whether the file is a page that write_page wrote. One that cannot be read is not."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return GENERATOR in file.read(HEAD)
    except OSError:
        return False


def html_figure(name: str, caption: str) -> str:
    """A video and its caption, in HTML."""
    source, caption = quote(os.fsencode(name)), escape(caption)  # quoted, as # and ? may be part of a file name
    if name.lower().endswith(IMAGE_SUFFIXES):
        player = f'<img src="{source}" alt="{caption}">'
    else:
        player = f'<video src="{source}" autoplay loop muted playsinline></video>'
    return f"<figure>{player}<figcaption>{caption}</figcaption></figure>\n"


def check_layout(videos: Sized, columns: int = 1) -> None:
    """Raise ValueError if there is nothing to lay out, or no column to put it in."""
    if not len(videos):
        raise ValueError("there are no videos to show")
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be 1 or more")


def escape(text: str) -> str:
    """Text for HTML."""
    return html.escape(printable(text))


def printable(text: str) -> str:
    """Text on one line, without control characters and marks that change the writing direction."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())


def wrap_caption(caption: str, lines: int, width: int = 28) -> str:
    """Wrap a caption to `width` characters per line, and cut it after `lines` lines."""
    return "\n".join(textwrap.wrap(printable(caption), width, max_lines=lines, placeholder=" …"))
