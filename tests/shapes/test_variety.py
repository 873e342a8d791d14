"""The variety of a set of clips, on worked examples."""

import math

import pytest

from latte.shapes.clip_scores import score_clips
from latte.shapes.draw import COLOURS, SHAPES, make_clip
from latte.shapes.variety import entropy, shares


def test_shares_and_entropy_of_small_sets():
    names = ["red", "red", "green", "none"]
    assert shares(names, ("red", "green", "blue", "none")) == {"red": 0.5, "green": 0.25, "blue": 0, "none": 0.25}
    bits = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))  # "none" is left out
    assert entropy(names, ("red", "green", "blue")) == pytest.approx(bits / math.log2(3))
    assert entropy(["red", "blue", "green"] * 2, ("red", "green", "blue")) == pytest.approx(1)
    assert entropy(["red", "blue"], ("red", "green", "blue", "cyan")) == pytest.approx(0.5)  # one bit of two
    assert entropy(["red"] * 9, ("red", "green")) == entropy(["none"], ("red", "green")) == entropy([], "ab") == 0
    with pytest.raises(ValueError, match="two choices or more"):
        entropy(["red"], ["red"])


def test_a_set_of_one_colour_has_no_colour_variety():
    clips = [make_clip(5, i) for i in range(60)]
    magenta = [clip for clip in clips if clip.colour == "magenta"]
    some, few = (score_clips([clip.video for clip in of], [clip.label for clip in of]) for of in (clips[:24], magenta))
    assert some["colour_shares"] == shares([clip.colour for clip in clips[:24]], [*COLOURS, "none"])
    assert some["shape_shares"] == shares([clip.shape for clip in clips[:24]], [*SHAPES, "none"])
    assert 0.85 < some["colour_entropy"] < 1 and 0.85 < some["shape_entropy"] < 1
    assert few["colour_entropy"] == 0 and few["colour_shares"]["magenta"] == 1
