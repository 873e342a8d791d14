"""The examiner's scores of a set of clips: how often it finds what they should show, and how much they vary."""

from typing import Any

import numpy as np

from latte.shapes.draw import COLOURS, MOTIONS, SHAPES, ShapeClip
from latte.shapes.examiner import NONE, examine, rms_length
from latte.shapes.variety import entropy, shares


def fraction(hits: list[bool] | np.ndarray) -> float:
    """The fraction of true values, in [0, 1]."""
    return float(np.mean(hits))


def score_clips(
    videos: list[np.ndarray],
    labels: list[int],
    truths: list[ShapeClip] | None = None,
    copies: bool = True,
    extent: float = 1.0,
) -> dict[str, Any]:
    """Score clips by how often the examiner finds what they should show.

    Args:
        videos: Clips, uint8 (f, 3, h, w).
        labels: The motion that each should show, as an index into MOTIONS.
        truths: What each should show in full, if that is known.
        copies: Whether the videos reproduce the truths, as reconstructions do, and not only show what their captions
            say.
        extent: The fraction of a full motion that each clip covers, in (0, 1].

    Returns:
        Values for JSON. Fractions of all clips are `motion_accuracy`, `by_motion` (the same for each class),
        `count_accuracy` (one object), and with truths `colour_accuracy`, `shape_accuracy` and `all_right` (all four).
        `colour_constancy` and `shape_constancy` are means over clips. `colour_shares` and `shape_shares` give the
        fraction of clips that show each, including "none", and `colour_entropy` and `shape_entropy` how evenly they are
        spread (see latte.shapes.variety). `trajectory_error` is a mean rms distance in pixels: from the true trajectory
        for copies, over the clips that show a shape in every frame; otherwise from the fitted motion, over the clips
        that have one. It is None if there are no such clips.
    """
    found = [examine(video, extent) for video in videos]
    expected = np.array([MOTIONS[label] for label in labels])
    right = np.array([f.motion for f in found]) == expected
    scores: dict[str, Any] = {
        "clips": len(found),
        "motion_accuracy": fraction(right),
        "by_motion": {motion: fraction(right[expected == motion]) for motion in MOTIONS if motion in expected},
        "colour_constancy": float(np.mean([f.colour_constancy for f in found])),
        "shape_constancy": float(np.mean([f.shape_constancy for f in found])),
        "count_accuracy": fraction([f.count == 1 for f in found]),
    }
    for kind, choices in (("colour", COLOURS), ("shape", SHAPES)):
        names = [getattr(f, kind) for f in found]
        scores[f"{kind}_entropy"] = entropy(names, list(choices))
        scores[f"{kind}_shares"] = shares(names, [*choices, NONE])
    errors = [f.fit_error for f in found]
    if truths is not None:
        pairs = list(zip(found, truths))
        scores["colour_accuracy"] = fraction([f.colour == t.colour for f, t in pairs])
        scores["shape_accuracy"] = fraction([f.shape == t.shape for f, t in pairs])
        scores["all_right"] = fraction(
            [(f.motion, f.colour, f.shape, f.count) == (t.motion, t.colour, t.shape, 1) for f, t in pairs]
        )
        errors = [rms_length(f.trajectory - t.trajectory) for f, t in pairs] if copies else errors
    finite = [error for error in errors if np.isfinite(error)]
    return scores | {"trajectory_error": float(np.mean(finite)) if finite else None}
