"""The examiner of the built-in shapes: what moves, how, in which colour, told from pixels by plain geometry.

No network, so no bias towards one: it separates the shape from the background, follows its centre and size, and
fits each kind of motion. A clip that no motion fits is "none".
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from latte.shapes import COLOURS, DIRECTIONS, MOTIONS, SHAPES, Clip, coverage

CONTRAST = 40  # grey levels by which a shape differs from the background
AREAS = {"circle": np.pi, "square": 2.0, "triangle": 3 * 3**0.5 / 4, "star": 5 * 0.45 * np.sin(np.pi / 5)}  # r = 1


@dataclass(frozen=True)
class Findings:
    """What the examiner saw in one clip."""

    motion: str  # one of MOTIONS, or "none"
    colour: str
    shape: str
    count: int  # objects, in most frames
    trajectory: np.ndarray  # (f, 2) as (x, y); nan where nothing was seen
    fit_error: float  # rms distance of the trajectory from the fitted motion, in pixels; nan for "none"
    colour_constancy: float  # share of frames in the clip's main colour


def segment(video: np.ndarray) -> np.ndarray:
    """Coverage of each pixel by what is not background, (f, h, w) in [0, 1]."""
    border = np.concatenate([video[..., 0, :], video[..., -1, :], video[..., 0], video[..., -1]], -1)
    background = np.median(border, axis=(0, 2))
    distance = np.abs(video - background[:, None, None]).max(1)
    contrast = np.quantile(distance, 0.998, axis=(1, 2))[:, None, None]
    return np.where(contrast < CONTRAST, 0, np.clip(distance / np.maximum(contrast, 1) * 1.25 - 0.25, 0, 1))


def count_objects(mask: np.ndarray) -> np.ndarray:
    """Connected parts (4 neighbours) of each frame of (f, h, w) bool, leaving out specks: (f,)."""
    labels = np.where(mask, np.arange(1, mask[0].size + 1).reshape(mask[0].shape), 0)
    while True:
        padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)))
        around = [
            padded[:, 1:-1, 1:-1],
            padded[:, 2:, 1:-1],
            padded[:, :-2, 1:-1],
            padded[:, 1:-1, 2:],
            padded[:, 1:-1, :-2],
        ]
        grown = np.where(mask, np.max(around, axis=0), 0)
        if np.array_equal(grown, labels):
            break
        labels = grown
    counts = []
    for frame in labels:
        sizes = np.unique(frame[frame > 0], return_counts=True)[1]
        counts.append(int((sizes >= max(12, 0.2 * sizes.max(initial=0))).sum()))
    return np.array(counts)


def line_fit(values: np.ndarray) -> tuple[np.ndarray, float]:
    """values (f,) or (f, k) as a straight line in time: (change from first to last frame, rms residual)."""
    time = np.linspace(-0.5, 0.5, len(values))
    slope = time @ (values - values.mean(0)) / (time @ time)
    residual = values - values.mean(0) - np.multiply.outer(time, slope)
    return slope, float(np.sqrt((residual**2).reshape(len(values), -1).sum(1).mean()))


def circle_fit(trajectory: np.ndarray) -> tuple[float, float, float]:
    """(swept angle, radius, rms distance from even motion on that circle); centre and radius by least squares."""
    design = np.column_stack([2 * trajectory, np.ones(len(trajectory))])
    solution = np.linalg.lstsq(design, (trajectory**2).sum(1), rcond=None)[0]
    centre = solution[:2]
    radius = float(np.sqrt(max(solution[2] + centre @ centre, 0)))
    offset = trajectory - centre
    angle = np.unwrap(np.arctan2(offset[:, 1], offset[:, 0]))
    sweep, _ = line_fit(angle)
    even = angle.mean() + sweep * np.linspace(-0.5, 0.5, len(angle))
    ideal = radius * np.stack([np.cos(even), np.sin(even)], 1)
    return float(sweep), radius, float(np.sqrt(((offset - ideal) ** 2).sum(1).mean()))


def judge_motion(trajectory: np.ndarray, area: np.ndarray, size: int) -> tuple[str, float]:
    """The motion that fits, and how well (rms pixels); bounds are shares of the frame's side."""
    unit, none = size / 64, ("none", float("nan"))
    if not np.isfinite(trajectory).all():
        return none
    radius = np.sqrt(area)
    change, rough = line_fit(radius)
    shift, error = line_fit(trajectory)
    if abs(change) > 0.4 * radius.mean() and rough < 0.12 * radius.mean():
        return ("growing" if change > 0 else "shrinking", error) if np.abs(shift).max() < 10 * unit else none
    if error < 2.0 * unit and np.abs(shift).max() > 14 * unit and np.abs(shift).min() < 0.3 * np.abs(shift).max():
        return max(DIRECTIONS, key=lambda way: np.dot(DIRECTIONS[way], shift)), error
    sweep, orbit, error = circle_fit(trajectory)
    if error < 3.0 * unit and orbit > 8 * unit and abs(sweep) > np.radians(220):
        return "clockwise" if sweep > 0 else "anticlockwise", error
    return none


def judge_shape(alpha: np.ndarray, trajectory: np.ndarray, area: np.ndarray) -> str:
    """The shape whose drawing, of the seen area at the seen place, overlaps best with what was seen."""
    seen = np.flatnonzero(np.isfinite(trajectory).all(1))
    if not len(seen):
        return "none"

    def overlap(shape: str) -> float:
        drawn = coverage(shape, trajectory[seen], np.sqrt(area[seen] / AREAS[shape]), alpha.shape[-1])
        return float(np.minimum(drawn, alpha[seen]).sum() / np.maximum(drawn, alpha[seen]).sum())

    return max(SHAPES, key=overlap)


def examine(video: np.ndarray) -> Findings:
    """Judge one clip, uint8 (f, 3, h, w), square frames."""
    video = np.asarray(video)
    if video.ndim != 4 or video.shape[1] != 3 or video.dtype != np.uint8:
        raise ValueError(f"the examiner takes uint8 (f, 3, h, w), not {video.dtype} {video.shape}")
    video, size = video.astype(np.float64), video.shape[-1]
    alpha = segment(video)
    area = alpha.sum((1, 2))
    seen = area > 30 * (size / 64) ** 2
    y, x = np.mgrid[:size, : video.shape[-1]] + 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        trajectory = np.stack([(alpha * x).sum((1, 2)) / area, (alpha * y).sum((1, 2)) / area], 1)
    trajectory[~seen] = np.nan
    motion, error = judge_motion(trajectory, area, size)
    names, palette = list(COLOURS), np.array(list(COLOURS.values()))
    colours = []
    for frame, mask in zip(video, alpha > 0.8):
        if mask.any():
            mean = frame[:, mask].mean(1)
            colours.append(names[int(((palette - mean) ** 2).sum(1).argmin())])
    colour, votes = Counter(colours).most_common(1)[0] if colours else ("none", 0)
    count = Counter(count_objects(alpha > 0.4).tolist()).most_common(1)[0][0]
    shape = judge_shape(alpha, trajectory, area)
    return Findings(motion, colour, shape, count, trajectory, error, votes / len(video))


def score(videos: list[np.ndarray], labels: list[int], truths: list[Clip] | None = None) -> dict[str, float]:
    """Shares over clips: motion as the label says, colour constancy, one object; with truths also colour and shape.

    trajectory_error: rms pixels from the truth where it is known, else from the fitted motion, over judged clips.
    """
    found = [examine(video) for video in videos]
    scores = {
        "clips": len(found),
        "motion_accuracy": float(np.mean([f.motion == MOTIONS[label] for f, label in zip(found, labels)])),
        "colour_constancy": float(np.mean([f.colour_constancy for f in found])),
        "count_accuracy": float(np.mean([f.count == 1 for f in found])),
    }
    if truths is None:
        errors = [f.fit_error for f in found]
    else:
        scores["colour_accuracy"] = float(np.mean([f.colour == t.colour for f, t in zip(found, truths)]))
        scores["shape_accuracy"] = float(np.mean([f.shape == t.shape for f, t in zip(found, truths)]))
        right = [
            (f.motion, f.colour, f.shape, f.count) == (t.motion, t.colour, t.shape, 1) for f, t in zip(found, truths)
        ]
        scores["all_right"] = float(np.mean(right))
        errors = [np.sqrt(((f.trajectory - t.trajectory) ** 2).sum(1).mean()) for f, t in zip(found, truths)]
    finite = np.array(errors)[np.isfinite(errors)]
    scores["trajectory_error"] = float(finite.mean()) if len(finite) else float("nan")
    return scores
