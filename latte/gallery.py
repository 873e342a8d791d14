"""Videos side by side: a contact sheet, a tiled clip, and a page that plays them."""

import html
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from latte.files import replacing, write_text

STYLE = """\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem }
figure { margin: 0 } figcaption { font-size: .85rem }
video { width: 100%; border-radius: 6px; image-rendering: pixelated }
td { padding: .1rem 1rem .1rem 0; vertical-align: top } td:first-child { opacity: .65 }
"""


def contact_sheet(videos: Tensor, captions: list[str], path: str | Path, columns: int = 8, scale: int = 1) -> Path:
    """Clips uint8 (n, f, 3, h, w) as one PNG, a row each: its caption, then `columns` frames evenly through time."""
    path, frames = Path(path), videos.shape[1]
    chosen = torch.linspace(0, frames - 1, min(columns, frames)).round().long()
    rows = rearrange(videos[:, chosen], "n f c h w -> (n h) (f w) c").cpu().numpy()
    rows = rows.repeat(scale, 0).repeat(scale, 1)
    font = ImageFont.load_default(13)
    margin = 12 + int(max(font.getlength(caption) for caption in captions))
    sheet = Image.new("RGB", (margin + rows.shape[1], rows.shape[0]), "white")
    sheet.paste(Image.fromarray(np.ascontiguousarray(rows)), (margin, 0))
    height, draw = videos.shape[3] * scale, ImageDraw.Draw(sheet)
    for i, caption in enumerate(captions):
        draw.text((6, i * height + height // 2 - 8), caption, "black", font)
    with replacing(path) as draft:
        sheet.save(draft)
    return path


def tile(videos: Tensor, columns: int) -> Tensor:
    """Clips (n, f, 3, h, w) as one (f, 3, rows * h, columns * w); places left over are white."""
    missing = -len(videos) % columns
    filled = torch.cat([videos, videos.new_full((missing, *videos.shape[1:]), 255)])
    return rearrange(filled, "(r k) f c h w -> f c (r h) (k w)", k=columns)


def write_page(folder: str | Path, videos: list[tuple[str, str]], title: str, facts: dict[str, str]) -> Path:
    """index.html in `folder`: a table of facts, and every (file name, caption) playing."""
    table = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>\n" for k, v in facts.items())
    figures = "".join(
        f'<figure><video src="{html.escape(name)}" autoplay loop muted playsinline></video>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>\n"
        for name, caption in videos
    )
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n"
        f"<table>{table}</table>\n<main>\n{figures}</main></html>\n"
    )
    return write_text(Path(folder) / "index.html", text)
