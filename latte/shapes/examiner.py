"""The examiner of the built-in shapes: what moves, how, in which colour, told from pixels by plain geometry.

No network, so no bias towards one: it separates the shape from the background, follows its centre and size, and
fits each kind of motion. A clip that no motion fits is "none"; so is a colour that is not of the palette.

What it lets pass at 64 x 64 pixels (at other sizes in proportion) is soft edges and a centre that trembles by about a
pixel; a thrown, swapped or frozen frame is more than that:

- centre: within 2 px rms of an even motion, 4 px in any frame; radius: within 10 % rms, 20 %, of an even change;
- progress: no step back by 3/4 of a mean step, and any three steps (of fifteen) together go 0.6 of one;
- colour: of a frame's inside, 80 % of the pixels nearest to one entry of the palette, and their mean 60 levels from it;
- colour and number of objects: the same in 7 of 8 frames.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from latte.shapes.draw import COLOURS, DIRECTIONS, MOTIONS, SHAPES, ShapeClip, coverage

AREAS = {"circle": np.pi, "square": 2.0, "triangle": 3 * 3**0.5 / 4, "star": 5 * 0.45 * np.sin(np.pi / 5)}  # r = 1

# The bounds lie between two measurements: of fair clips (440 reconstructions by a VAE at 36.8 dB; 400 real ones with
# soft edges, each frame's centre off by 0.7 px in x and in y and its radius by 1.5 %, as standard deviations; 200
# blurred and noisy ones) and of 200 corrupted clips of each kind.
CONTRAST = 40  # grey levels by which a shape differs from the background
PURITY = 0.8  # fair clips: 1.0 in all but two frames; half one colour and half another: at most 0.69
COLOUR_DISTANCE = 60  # fair: at most 28 in all but two frames; grey: 110 or more; drained to 35 %: 71 or more
NEARLY_ALL = 7 / 8  # of frames: the VAE gets the colour of the smallest shapes wrong in up to two of sixteen
CENTRE = 2.0  # pixels rms, and twice that in any frame; fair: 1.3, 2.8; one frame 6 px off: at least 4.1 there
RADIUS = 0.1  # likewise, as a share of the mean radius; fair: 0.02, 0.06; one frame 1.7 times as large: 0.28 there
STEP_BACK = 0.75  # mean steps; fair: 0.6 in all but 1 %; two neighbours swapped: at least 0.82
ADVANCE = 0.2  # mean speeds, over a fifth of the clip; fair: at least 0.31; frozen: 0
OVERLAP = 0.65  # of the drawing with what was seen; fair: at least 0.76, a second object beside it: 0.46 in the median


@dataclass(frozen=True)
class Findings:
    """What the examiner saw in one clip."""

    motion: str  # one of MOTIONS, or "none"
    colour: str  # one of COLOURS, in nearly all frames, or "none"
    shape: str  # one of SHAPES, or "none"
    count: int  # 1: one object in nearly all frames; else what most of the other frames show
    trajectory: np.ndarray  # (f, 2) as (x, y); nan where nothing was seen
    fit_error: float  # rms distance of the trajectory from the fitted motion, in pixels; nan for "none"
    colour_constancy: float  # share of frames in the clip's main colour


def segment(video: np.ndarray) -> np.ndarray:
    """Coverage of each pixel by what is not background: (f, 3, h, w) in grey levels -> (f, h, w) in [0, 1]."""
    border = np.concatenate([video[..., 0, :], video[..., -1, :], video[..., 0], video[..., -1]], -1)
    background = np.median(border, axis=(0, 2))
    distance = np.abs(video - background[:, None, None]).max(1)
    contrast = np.quantile(distance, 0.998, axis=(1, 2))[:, None, None]
    return np.where(contrast < CONTRAST, 0, np.clip(distance / np.maximum(contrast, 1) * 1.25 - 0.25, 0, 1))


def neighbours(frames: np.ndarray) -> list[np.ndarray]:
    """Each pixel's four neighbours, zero beyond the border: (f, h, w) -> four of (f, h, w)."""
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1)))
    return [padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]]


def follow(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the shape is and how large: (f, h, w) -> centres (f, 2), nan where there is next to nothing; areas (f,)."""
    size = alpha.shape[-1]
    at, area = np.arange(size) + 0.5, alpha.sum((1, 2))
    moments = np.stack([alpha.sum(1) @ at, alpha.sum(2) @ at], 1)
    seen = area > 15 * (size / 64) ** 2  # the smallest star covers 33 pixels, and 24 once reconstructed
    return np.where(seen[:, None], moments / np.maximum(area, 1)[:, None], np.nan), area


def count_objects(mask: np.ndarray) -> np.ndarray:
    """Connected parts (4 neighbours) of each frame of (f, h, w) bool, leaving out specks: (f,)."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        grown = np.where(mask, np.max([labels, *neighbours(labels)], axis=0), 0)
        grown = np.append(0, grown)[grown]  # a label numbers a pixel: leap to the label of that pixel
        if np.array_equal(grown, labels):
            break
        labels = grown
    speck = 12 * mask[0].size / 64**2
    counts = []
    for frame in labels:
        sizes = np.unique(frame[frame > 0], return_counts=True)[1]
        counts.append(int((sizes >= max(speck, 0.1 * sizes.max(initial=0))).sum()))
    return np.array(counts)


def judge_count(alpha: np.ndarray) -> int:
    """1 if nearly all frames of (f, h, w) show one object, else the count that most of the others show."""
    counts = count_objects(alpha > 0.4)
    others = counts[counts != 1]
    return 1 if len(others) <= (1 - NEARLY_ALL) * len(counts) else int(np.bincount(others).argmax())


def line_fit(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """values (f, k) as a straight line in time: (change from first to last frame (k,), residuals (f, k))."""
    time = np.linspace(-0.5, 0.5, len(values))
    slope = time @ (values - values.mean(0)) / (time @ time)
    return slope, values - values.mean(0) - np.outer(time, slope)


def circle_fit(trajectory: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """(angles (f,), radius, residuals (f, 2) from even motion on that circle); centre and radius by least squares."""
    design = np.column_stack([2 * trajectory, np.ones(len(trajectory))])
    solution = np.linalg.lstsq(design, (trajectory**2).sum(1), rcond=None)[0]
    centre = solution[:2]
    radius = float(np.sqrt(max(solution[2] + centre @ centre, 0)))
    offset = trajectory - centre
    angle = np.unwrap(np.arctan2(offset[:, 1], offset[:, 0]))
    even = angle - line_fit(angle[:, None])[1][:, 0]
    return angle, radius, offset - radius * np.stack([np.cos(even), np.sin(even)], 1)


def rms(residuals: np.ndarray) -> float:
    """The rms length of residuals (f, k)."""
    return float(np.sqrt((residuals**2).sum(1).mean()))


def close(residuals: np.ndarray, bound: float) -> bool:
    """Whether residuals (f, k) are at most `bound` rms, and twice that in any frame."""
    return rms(residuals) < bound and bool(np.linalg.norm(residuals, axis=1).max() < 2 * bound)


def goes_on(progress: np.ndarray) -> bool:
    """Whether progress (f,), up or down, never rests and never turns back."""
    steps = np.diff(progress)
    steps = steps / (steps.mean() or np.nan)  # nan: it came back to where it began, and is above no bound
    window = max(1, len(steps) // 5)
    advance = np.convolve(steps, np.full(window, 1 / window), "valid")
    return bool(steps.min() > -STEP_BACK and advance.min() > ADVANCE)


def judge_motion(trajectory: np.ndarray, area: np.ndarray, size: int, extent: float = 1.0) -> tuple[str, float]:
    """The motion that fits, and how well (rms pixels); bounds in pixels are shares of the frame's side.

    extent: the share of a whole motion that the clip reaches over, and so the least that it has to move.
    """
    unit, none = size / 64, ("none", float("nan"))
    if len(trajectory) < 3 or not np.isfinite(trajectory).all():
        return none
    radius = np.sqrt(area)
    (change,), uneven = line_fit(radius[:, None])
    shift, aside = line_fit(trajectory)
    if not close(uneven, RADIUS * radius.mean()):
        return none
    if abs(change) > 0.4 * extent * radius.mean():
        stays = np.abs(shift).max() < 6 * unit and close(aside, CENTRE * unit)
        return ("growing" if change > 0 else "shrinking", rms(aside)) if stays and goes_on(radius) else none
    way = max(DIRECTIONS, key=lambda way: np.dot(DIRECTIONS[way], shift))
    straight = np.abs(shift).max() > 14 * extent * unit and np.abs(shift).min() < 0.3 * np.abs(shift).max()
    if straight and close(aside, CENTRE * unit) and goes_on(trajectory @ DIRECTIONS[way]):
        return way, rms(aside)
    angle, orbit, aside = circle_fit(trajectory)
    sweep = angle[-1] - angle[0]
    if orbit > 6 * unit and abs(sweep) > np.radians(140 * extent) and close(aside, CENTRE * unit) and goes_on(angle):
        return "clockwise" if sweep > 0 else "anticlockwise", rms(aside)
    return none


def judge_shape(alpha: np.ndarray, trajectory: np.ndarray, area: np.ndarray) -> str:
    """The shape whose drawing, of the seen area at the seen place, overlaps best, and well, with what was seen."""
    seen = np.isfinite(trajectory).all(1)
    if not seen.any():
        return "none"

    def overlap(shape: str) -> float:
        drawn = coverage(shape, trajectory[seen], np.sqrt(area[seen] / AREAS[shape]), alpha.shape[-1])
        return float(np.minimum(drawn, alpha[seen]).sum() / np.maximum(drawn, alpha[seen]).sum())

    best, shape = max((overlap(shape), shape) for shape in SHAPES)
    return shape if best > OVERLAP else "none"


def name_colour(pixels: np.ndarray) -> str:
    """The entry of the palette that pixels (n, 3) really have, or "none"."""
    if not len(pixels):
        return "none"
    names, palette = list(COLOURS), np.array(list(COLOURS.values()))
    nearest = ((pixels[:, None] - palette) ** 2).sum(2).argmin(1)
    votes = np.bincount(nearest, minlength=len(names))
    main = int(votes.argmax())
    near = np.linalg.norm(pixels.mean(0) - palette[main]) < COLOUR_DISTANCE
    return names[main] if near and votes[main] >= PURITY * len(pixels) else "none"


def judge_colour(video: np.ndarray, alpha: np.ndarray) -> tuple[str, float]:
    """The colour that nearly all frames have, or "none"; and the share of frames that have the most frequent one."""
    inside = np.min([alpha, *neighbours(alpha)], axis=0) > 0.4  # the edge is a mixture with the background
    names = [name_colour(frame[:, mask].T) for frame, mask in zip(video, inside)]
    votes = Counter(name for name in names if name != "none")
    colour, frames = votes.most_common(1)[0] if votes else ("none", 0)
    return colour if frames >= NEARLY_ALL * len(names) else "none", frames / len(names)


def examine(video: np.ndarray, extent: float = 1.0) -> Findings:
    """Judge one clip, uint8 (f, 3, h, w) with square frames; extent: see judge_motion.

    ValueError: it is something else, or empty.
    """
    video = np.asarray(video)
    if video.ndim != 4 or video.dtype != np.uint8 or video.shape[1:] != (3, video.shape[3], video.shape[3]):
        raise ValueError(f"the examiner takes uint8 (f, 3, h, w), h equal to w, not {video.dtype} {video.shape}")
    if not video.size:
        raise ValueError(f"the examiner takes a clip with pixels, not {video.shape}")
    video = video.astype(np.float64)
    alpha = segment(video)
    trajectory, area = follow(alpha)
    motion, error = judge_motion(trajectory, area, video.shape[-1], extent)
    colour, constancy = judge_colour(video, alpha)
    shape = judge_shape(alpha, trajectory, area)
    return Findings(motion, colour, shape, judge_count(alpha), trajectory, error, constancy)


def share(hits: list[bool] | np.ndarray) -> float:
    """How many of them are true, in [0, 1]."""
    return float(np.mean(hits))


def score_clips(
    videos: list[np.ndarray],
    labels: list[int],
    truths: list[ShapeClip] | None = None,
    copies: bool = True,
    extent: float = 1.0,
) -> dict:
    """Shares over clips: motion as the label says, also class by class; colour constancy; one object.

    With truths also colour, shape, and all four right. trajectory_error: mean over the judged clips of the rms pixels
    from the truth, or from the fitted motion where that is not known, or where the videos are no copies of the truths
    but only show what their captions say; None if no clip was judged. extent: see judge_motion.
    """
    found = [examine(video, extent) for video in videos]
    asked = np.array([MOTIONS[label] for label in labels])
    moved = np.array([f.motion for f in found]) == asked
    scores = {
        "clips": len(found),
        "motion_accuracy": share(moved),
        "by_motion": {motion: share(moved[asked == motion]) for motion in MOTIONS if motion in asked},
        "colour_constancy": float(np.mean([f.colour_constancy for f in found])),
        "count_accuracy": share([f.count == 1 for f in found]),
    }
    errors = [f.fit_error for f in found]
    if truths is not None:
        pairs = list(zip(found, truths))
        scores["colour_accuracy"] = share([f.colour == t.colour for f, t in pairs])
        scores["shape_accuracy"] = share([f.shape == t.shape for f, t in pairs])
        scores["all_right"] = share(
            [(f.motion, f.colour, f.shape, f.count) == (t.motion, t.colour, t.shape, 1) for f, t in pairs]
        )
        errors = [rms(f.trajectory - t.trajectory) for f, t in pairs] if copies else errors
    judged = [error for error in errors if np.isfinite(error)]
    return scores | {"trajectory_error": float(np.mean(judged)) if judged else None}
