"""Videos side by side: a contact sheet, a tiled clip, and a page that plays them."""

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

# of every page: colours, light or dark as its reader's screen, the column, its heading
STYLE = """\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
  --page: light-dark(#f6f5f3, #161514); --card: light-dark(#fff, #211f1e); --ink: light-dark(#1d1b19, #ece8e3);
  --soft: light-dark(#6b645d, #a39b93); --line: light-dark(#e4e0da, #35322f) }
body { max-width: 72rem; margin: 2.5rem auto; padding: 0 1rem; background: var(--page); color: var(--ink) }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden }"""
INDEX, SHEET, GRID_OF_ALL = "index.html", "contact-sheet.png", "grid.webp"  # beside the videos of a page
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{generator}
<title>{title}</title>
<style>
{style}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 0 0 2rem; font-size: .9rem }}
dt {{ color: var(--soft) }}
dd {{ margin: 0 }}
dd, figcaption, h1 {{ overflow-wrap: anywhere }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: 1rem }}
figcaption {{ padding: .4rem .7rem .5rem; font-size: .85rem }}
video, img {{ display: block; width: 100%; image-rendering: pixelated }}
</style>
<h1>{title}</h1>
<dl>
{facts}</dl>
<main>
{figures}</main>
</html>
"""
GENERATOR = '<meta name="generator" content="latte-video">'  # by which a page of ours is known
GAP = 4  # pixels between the pictures of a contact sheet
LINE = 17  # pixels a line of its captions takes
MOVING_PICTURES = (".gif", ".webp", ".png")  # which a page shows as pictures


def contact_sheet(videos: Tensor, captions: list[str], path: str | Path, columns: int = 8, scale: int = 1) -> Path:
    """Clips uint8 (n, f, 3, h, w) as one PNG, a row each: its caption, then `columns` frames evenly through time.

    A caption is broken into as many lines as its row has room for, and cut after them. ValueError: no videos, other
    than one caption each, or columns or scale below 1.
    """
    check_layout(videos, columns)
    if len(captions) != len(videos) or scale < 1:
        raise ValueError(f"{len(videos)} videos, {len(captions)} captions at scale {scale}: one each, and 1 or more")
    frames, height = videos.shape[1], videos.shape[3] * scale
    chosen = linspace(0, frames - 1, min(columns, frames)).round().long()
    large = videos[:, chosen].cpu().repeat_interleave(scale, 3).repeat_interleave(scale, 4)
    rows = rearrange(F.pad(large, (GAP, 0, 0, GAP), value=255), "n f c h w -> (n h) (f w) c")[:-GAP]
    wrapped = [wrap(caption, max(1, height // LINE)) for caption in captions]
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
    """Clips (n, f, 3, h, w) as one (f, 3, rows * h, columns * w); places left over are white. ValueError: no clips."""
    check_layout(videos, columns)
    filled = F.pad(videos, (0, 0) * 4 + (0, -len(videos) % columns), value=255)
    return rearrange(filled, "(r k) f c h w -> f c (r h) (k w)", k=columns)


def write_page(folder: str | Path, videos: list[tuple[str, str]], title: str, facts: dict[str, str]) -> Path:
    """index.html in `folder`, light or dark as its reader's screen: a heading, facts, every (file name, caption).

    ValueError: no videos.
    """
    check_layout(videos)
    text = PAGE.format(
        generator=GENERATOR,
        style=STYLE,
        title=html.escape(plain(title)),
        facts="".join(f"<dt>{html.escape(plain(k))}</dt><dd>{html.escape(plain(v))}</dd>\n" for k, v in facts.items()),
        figures="".join(figure(name, caption) for name, caption in videos),
    )
    return write_text(Path(folder) / INDEX, text)


def is_page(path: Path) -> bool:
    """Whether write_page wrote that file."""
    return path.is_file() and GENERATOR in path.read_text(errors="replace")


def figure(name: str, caption: str) -> str:
    """A file in a page, and its caption under it."""
    source, caption = quote(os.fsencode(name)), html.escape(plain(caption))  # quoted: # and ? are part of a name
    if name.lower().endswith(MOVING_PICTURES):
        shown = f'<img src="{source}" alt="{caption}">'
    else:
        shown = f'<video src="{source}" autoplay loop muted playsinline></video>'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>\n"


def check_layout(videos: Sized, columns: int = 1) -> None:
    """ValueError for what cannot be laid out."""
    if not len(videos):
        raise ValueError("there are no videos to show")
    if columns < 1:
        raise ValueError(f"columns is {columns}; it must be 1 or more")


def plain(text: str) -> str:
    """One line of what can be printed: no control characters, no marks that turn the writing direction."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())


def wrap(caption: str, lines: int, width: int = 28) -> str:
    """A caption in lines of up to `width` letters, cut where it needs more than `lines`."""
    return "\n".join(textwrap.wrap(plain(caption), width, max_lines=lines, placeholder=" …"))
