"""Cleaning a caption neither fails nor takes long, whatever it holds, and ordinary captions keep their result."""

import random
import re
import time
import warnings

import pytest

from latte.text.caption import clean, dropped_words
from latte.text.markup import DOMAIN, without_addresses, without_tags

ODD = {
    "a dog <![ a cat": "a dog a cat",
    "a dog <![foo[ a cat": "a dog foo a cat",
    "a dog &#" + 5000 * "9" + "; a cat": "a dog a cat",
    "a dog &amp;#" + 5000 * "9" + "x a cat": None,
    "a dog &#xd800; \ud800 \udce9 \0": None,
    "<!DOCTYPE [<!ENTITY": None,
    "<![CDATA[ a dog": None,
    "": "",
    "<": None,
}


@pytest.mark.parametrize("caption", ODD, ids=lambda caption: repr(caption[:20]))
def test_odd_captions_do_not_fail(caption):
    cleaned = clean(caption)
    assert ODD[caption] is None or re.sub(r"[\W_]+", " ", cleaned) == ODD[caption]


REPEATED = ["a", "a.", "é", ".", "<a ", "<a/", "<!--", '<a href="', "a-", "x1.", "&", "Ã©"]


def test_cleaning_is_linear_in_length():
    """With the earlier, quadratic rules, four times the length took 16 times as long."""

    def seconds(length: int) -> float:
        start = time.process_time()
        for part in REPEATED:
            clean(part * (length // len(part)))
        for text in (length * "a." + "com@", length * "1" + "_", "1:00" + length * " " + "x"):
            clean(text)
        return time.process_time() - start

    seconds(10)
    assert seconds(4000) < 9 * seconds(1000)


def test_address_removal_matches_the_single_regular_expression():
    parts = [
        "http",
        "https:",
        "www:",
        "/",
        "//",
        ".com",
        ".ru",
        ".co",
        "%",
        "@",
        "é",
        "_",
        " ",
        "a",
        "x",
        "1",
        "-",
        ".",
        "it",
    ]
    draw = random.Random(0)
    for _ in range(3000):
        text = "".join(draw.choice(parts) for _ in range(draw.randrange(1, 20)))
        for scheme in ("https?:", "www:?"):
            pattern = rf"\b(?:{scheme}(?:/{{1,3}}|[a-zA-Z0-9%])|{DOMAIN})"
            assert without_addresses(text, scheme) == re.sub(pattern, "", text), (text, scheme)


def test_markup_without_a_parser():
    """Long texts with many tags are not parsed; the result is the same for plain tags and comments."""
    text = "<p>a <b>dog</b> <!-- no --> 3 < 4</p> "
    assert without_tags(text) == "a dog  3 < 4 "
    assert without_tags(300 * text) == 300 * "a dog  3 < 4 "


def test_words_removed_by_cleaning_are_reported(pipe):
    dropped = dropped_words("A photo.png of a dog dog #12, see http://x.com/cafe")
    assert " ".join(dropped) == "photo png 12 http x com cafe"
    for sane in ("a dog isn't 3.5 metres long", "a café at “night”", "a%20red+ball", "Tom &amp; Jerry"):
        assert dropped_words(sane) == []
    with pytest.warns(UserWarning, match="cleaning removes from a prompt: 'photo png'"):
        pipe.encode_prompt("a dog photo.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.encode_prompt("a dog photo.png", clean_caption=False)
        pipe.encode_prompt("a red dog")
