"""The built-in data and its examiner: the truth is found in clean and worn clips, and not in corrupted ones."""

import numpy as np
import pytest

from latte.eval.examiner import examine, score
from latte.shapes import COLOURS, MOTIONS, SHAPES, make_clip

CLIPS = [make_clip(5, i) for i in range(160)]


def worn(video: np.ndarray, seed: int) -> np.ndarray:
    """Blurred, noisy and blocky, as a weak autoencoder leaves it."""
    out, rng = video.astype(float), np.random.default_rng(seed)
    for axis in (2, 3, 2, 3):
        out = 0.25 * np.roll(out, 1, axis) + 0.5 * out + 0.25 * np.roll(out, -1, axis)
    blocks = np.kron(rng.normal(0, 4, (len(video), 3, 8, 8)), np.ones((8, 8)))
    return (out + rng.normal(0, 6, out.shape) + blocks).clip(0, 255).round().astype(np.uint8)


def test_clips_are_a_function_of_seed_and_index():
    again, other = make_clip(5, 7), make_clip(6, 7)
    assert np.array_equal(again.video, CLIPS[7].video) and not np.array_equal(other.video, CLIPS[7].video)
    assert CLIPS[0].video.shape == (16, 3, 64, 64) and CLIPS[0].video.dtype == np.uint8
    assert {clip.motion for clip in CLIPS} == set(MOTIONS)
    assert {clip.shape for clip in CLIPS} == set(SHAPES) and {clip.colour for clip in CLIPS} == set(COLOURS)
    asked = make_clip(5, 7, motion="growing")
    assert (asked.motion, asked.shape, asked.colour) == ("growing", again.shape, again.colour)
    assert asked.caption == f"a {again.colour} {again.shape} growing"


def test_the_truth_lies_in_the_frame():
    for clip in CLIPS:
        low, high = clip.trajectory.min(0) - clip.radius.max(), clip.trajectory.max(0) + clip.radius.max()
        assert (low > 0).all() and (high < 64).all(), clip.caption
    circle = next(clip for clip in CLIPS if clip.shape == "circle" and clip.motion == "left")
    assert examine(circle.video).trajectory == pytest.approx(circle.trajectory, abs=0.05)


def test_examiner_on_real_and_on_worn_clips():
    labels = [clip.label for clip in CLIPS]
    clean = score([clip.video for clip in CLIPS], labels, CLIPS)
    assert clean["all_right"] >= 0.99 and clean["trajectory_error"] < 0.1
    rough = score([worn(clip.video, i) for i, clip in enumerate(CLIPS)], labels, CLIPS)
    assert rough["all_right"] >= 0.97 and rough["trajectory_error"] < 0.5


def of(motion):
    return [clip for clip in CLIPS if clip.motion == motion]


def test_examiner_is_not_fooled():
    opposite = {"left": "right", "up": "down", "clockwise": "anticlockwise", "growing": "shrinking"}
    for motion, back in opposite.items():
        assert all(examine(clip.video[::-1]).motion == back for clip in of(motion)), motion
    rng = np.random.default_rng(0)
    shuffled = [examine(clip.video[rng.permutation(16)]).motion for clip in CLIPS]
    assert np.mean([found == "none" for found in shuffled]) > 0.95
    assert all(examine(np.repeat(clip.video[:1], 16, 0)).motion == "none" for clip in CLIPS[:40])
    empty = examine(np.full((16, 3, 64, 64), 30, np.uint8))
    assert (empty.motion, empty.colour, empty.count) == ("none", "none", 0)


def test_two_objects_and_flicker_are_seen():
    left, right = (
        next(c for c in of("growing") if good(c.trajectory[0, 0])) for good in (lambda x: x < 28, lambda x: x > 36)
    )
    small_left, small_right = left.video[:3].repeat(5, 0), right.video[:3].repeat(5, 0)
    assert examine(np.maximum(small_left, small_right)).count == 2
    clip = next(c for c in CLIPS if c.colour == "red")
    flicker = clip.video.copy()
    flicker[::4] = flicker[::4, ::-1]  # red turns blue in every fourth frame
    assert examine(clip.video).colour_constancy == 1.0
    assert examine(flicker).colour_constancy == 0.75


def test_wrong_input_is_told():
    with pytest.raises(ValueError, match="uint8"):
        examine(np.zeros((16, 64, 64, 3)))
