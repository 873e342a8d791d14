"""Contact sheets, tiled videos and HTML pages."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from latte.shapes.draw import make_clip
from latte.video.page import contact_sheet, printable, tile, wrap_caption, write_page

CLIP = torch.from_numpy(make_clip(0, 3).video)


def test_contact_sheet(tmp_path):
    videos = torch.stack([CLIP, CLIP.flip(0), 255 - CLIP])
    captions = ["a", "line\nof <b>\0 words" * 99, "x" * 500]
    sheet = np.asarray(Image.open(contact_sheet(videos, captions, tmp_path / "sheet.png", columns=4)))
    assert np.array_equal(sheet[:64, -64:], CLIP[15].permute(1, 2, 0)) and sheet.shape[0] == 3 * 64 + 2 * 4
    assert np.array_equal(sheet[136:, -64:], 255 - CLIP[15].permute(1, 2, 0)) and sheet.shape[1] < 600
    double = np.asarray(Image.open(contact_sheet(videos, captions, tmp_path / "sheet.png", columns=4, scale=2)))
    assert np.array_equal(double[:128:2, -128::2], CLIP[15].permute(1, 2, 0))


def test_captions_are_printable_and_short():
    assert printable("a\x1b[31m\nb\u202ec\ud800") == "a [31m b c"
    lines = wrap_caption("word " * 99, 3).split("\n")
    assert len(lines) == 3 and max(map(len, lines)) <= 28 and lines[-1].endswith("…")


def test_tile():
    videos = torch.stack([CLIP, CLIP.flip(0), 255 - CLIP])
    tiled = tile(videos, 2)
    assert tiled.shape == (16, 3, 128, 128) and torch.equal(tiled[:, :, 64:, :64], videos[2])
    assert torch.equal(tiled[:, :, :64, 64:], videos[1]) and (tiled[:, :, 64:, 64:] == 255).all()


def test_page_shows_every_file_and_escapes_captions(tmp_path):
    names = [f"{i}.mp4" for i in range(20)] + ["a #1?.mp4", 'q".webm', "moving.webp"]
    files = [(name, f"clip {name} <script>\0</script>") for name in names]
    page = write_page(tmp_path, files, "title <i>", {"fact": "1 & 2\x07"}).read_text()
    assert re.findall(r"<(?:video|img) src=\"([^\"]*)\"", page) == [
        *names[:20],
        "a%20%231%3F.mp4",
        "q%22.webm",
        "moving.webp",
    ]
    assert page.count("<figcaption>clip ") == 23 and '<img src="moving.webp"' in page
    assert "&lt;script&gt; &lt;/script&gt;" in page and "<script" not in page and "\0" not in page
    assert "<h1>title &lt;i&gt;</h1>" in page and "<dt>fact</dt><dd>1 &amp; 2</dd>" in page
    assert "color-scheme: light dark" in page
    assert page.index("<main>") < page.index("</main>") < page.index("<details>") < page.index("<dt>")  # and folded


@pytest.mark.parametrize(
    ("call", "say"),
    [
        (lambda folder: contact_sheet(torch.empty(0, 4, 3, 8, 8), [], folder / "a.png"), "no videos"),
        (lambda folder: contact_sheet(CLIP[None], [], folder / "a.png"), "1 videos and 0 captions"),
        (lambda folder: contact_sheet(CLIP[None], ["a"], folder / "a.png", columns=0), "columns is 0"),
        (lambda folder: contact_sheet(CLIP[None], ["a"], folder / "a.png", scale=0), "scale is 0"),
        (lambda folder: tile(torch.empty(0, 4, 3, 8, 8), 2), "no videos"),
        (lambda folder: tile(CLIP[None], 0), "columns is 0"),
        (lambda folder: write_page(folder, [], "title", {}), "no videos"),
    ],
)
def test_impossible_layouts_are_rejected(call, say, tmp_path):
    with pytest.raises(ValueError, match=say):
        call(tmp_path)
    assert not list(tmp_path.iterdir())
