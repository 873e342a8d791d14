"""The examiner of the built-in shapes: it tells from pixels what moves, how, and in which colour.

The examiner uses no neural network, only geometry, so it is not biased towards any network. It separates the shape from
the background, tracks its centre and size, and fits each kind of motion. Motions that fit none of them are reported as
"none", and so are colours outside the palette.

At 64 x 64 pixels (at other sizes in proportion) it tolerates soft edges and a centre that jitters by about a pixel, but
not a displaced, swapped or frozen frame:

- centre: within 2 px rms of uniform motion, and within 4 px in every frame;
- radius: within 10 % rms of uniform change, and within 20 % in every frame;
- progress: no step back by more than 3/4 of the mean step; any three steps (of fifteen) advance by 0.6 steps in total;
- colour: in each frame, 80 % of the inner pixels are nearest to one entry of the palette, and their mean is within 60
  grey levels of it;
- colour and number of objects: the same in 7 of 8 frames;
- outline: in each frame, the shape that overlaps best covers 65 % of what it and the seen shape cover together. In a
  small frame, shapes that overlap nearly as well count too, because a VAE rounds the smallest stars and squares.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from latte.shapes.draw import COLOURS, DIRECTIONS, SHAPES, coverage

NONE = "none"  # no known motion, colour or shape fits

# areas at radius 1
AREAS = {"circle": np.pi, "square": 2.0, "triangle": 3 * 3**0.5 / 4, "star": 5 * 0.45 * np.sin(np.pi / 5)}

# Each bound lies between two measurements. Acceptable clips: 440 reconstructions by a VAE (PSNR 36.8 dB); 400 real
# clips with soft edges, each frame's centre off by 0.7 px in x and y and its radius by 1.5 % (standard deviations);
# and 200 blurred and noisy ones. Corrupted clips: 200 of each kind.
MIN_CONTRAST = 40  # grey levels between a shape and the background
MIN_PURITY = 0.8  # acceptable: 1.0 in all but two frames; half one colour and half another: at most 0.69
MAX_COLOUR_DISTANCE = 60  # acceptable: at most 28 in all but two frames; grey: 110 or more; 35 % saturation: 71
MOST_FRAMES = 7 / 8  # the VAE changes the colour of the smallest shapes in up to two of sixteen frames
CENTRE_ERROR = 2.0  # pixels rms, twice that per frame; acceptable: 1.3, 2.8; one frame displaced by 6 px: at least 4.1
RADIUS_ERROR = 0.1  # the same, relative to the mean radius; acceptable: 0.02, 0.06; one frame 1.7 times as large: 0.28
MAX_STEP_BACK = 0.75  # mean steps; acceptable: 0.6 in all but 1 % of clips; two neighbours swapped: at least 0.82
MIN_ADVANCE = 0.2  # mean speeds, over a fifth of the clip; acceptable: at least 0.31; frozen: 0
MIN_OVERLAP = 0.65  # of the drawn and the seen shape; acceptable: at least 0.76; with a second object: median 0.46
# The next two are from 360 clips, 160 of them growing or shrinking, as above.
SMALL_AREA = 85  # pixels; acceptable: above it, the true shape overlaps best in all but 4 of 25,000 frames
SMALL_MARGIN = 0.22  # acceptable: at most 0.201 below the best; a triangle or star drawn exactly: 0.26 above all others


@dataclass(frozen=True)
class Findings:
    """What the examiner saw in one clip."""

    motion: str  # one of MOTIONS, or "none"
    colour: str  # one of COLOURS, in most frames, or "none"
    shape: str  # one of SHAPES, or "none"
    count: int  # 1 if most frames show one object; otherwise the most frequent other number
    trajectory: np.ndarray  # (f, 2), centres as (x, y) in pixels; NaN where nothing was seen
    fit_error: float  # rms distance from the fitted motion, in pixels; NaN if the motion is "none"
    colour_constancy: float  # fraction of frames in the clip's most frequent colour
    shape_constancy: float  # fraction of frames in the clip's most frequent shape


def segment(video: np.ndarray) -> np.ndarray:
    """Separate the foreground: (f, 3, h, w) in grey levels -> its coverage of each pixel, (f, h, w) in [0, 1]."""
    border = np.concatenate([video[..., 0, :], video[..., -1, :], video[..., 0], video[..., -1]], -1)
    background = np.median(border, axis=(0, 2))
    distance = np.abs(video - background[:, None, None]).max(1)
    contrast = np.quantile(distance, 0.998, axis=(1, 2))[:, None, None]
    return np.where(contrast < MIN_CONTRAST, 0, np.clip(distance / np.maximum(contrast, 1) * 1.25 - 0.25, 0, 1))


def neighbours(frames: np.ndarray) -> list[np.ndarray]:
    """Return the four neighbours of each pixel, four arrays (f, h, w), which are 0 beyond the border."""
    padded = np.pad(frames, ((0, 0), (1, 1), (1, 1)))
    return [padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]]


def track(alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Track the shape: coverage (f, h, w) -> centres (f, 2) in pixels, NaN where nothing is seen, and areas (f,)."""
    size = alpha.shape[-1]
    positions, area = np.arange(size) + 0.5, alpha.sum((1, 2))
    moments = np.stack([alpha.sum(1) @ positions, alpha.sum(2) @ positions], 1)
    seen = area > 15 * (size / 64) ** 2  # the smallest star covers 33 pixels, and its reconstruction 24
    return np.where(seen[:, None], moments / np.maximum(area, 1)[:, None], np.nan), area


def count_objects(mask: np.ndarray) -> np.ndarray:
    """Count the 4-connected components of each frame of a mask (f, h, w), without specks: (f,)."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        grown = np.where(mask, np.max([labels, *neighbours(labels)], axis=0), 0)
        grown = np.append(0, grown)[grown]  # pointer jumping: a label is the number of a pixel, which has a label too
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
    """Return 1 if most frames of (f, h, w) show one object, otherwise the most frequent other count."""
    counts = count_objects(alpha > 0.4)
    others = counts[counts != 1]
    return 1 if len(others) <= (1 - MOST_FRAMES) * len(counts) else int(np.bincount(others).argmax())


def fit_line(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit values (f, k) linearly in time: the change from the first to the last frame (k,), and residuals (f, k)."""
    time = np.linspace(-0.5, 0.5, len(values))
    slope = time @ (values - values.mean(0)) / (time @ time)
    return slope, values - values.mean(0) - np.outer(time, slope)


def fit_circle(trajectory: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Fit uniform motion on a circle by least squares: angles (f,) in radians, the radius, and residuals (f, 2)."""
    design = np.column_stack([2 * trajectory, np.ones(len(trajectory))])
    solution = np.linalg.lstsq(design, (trajectory**2).sum(1), rcond=None)[0]
    centre = solution[:2]
    radius = float(np.sqrt(max(solution[2] + centre @ centre, 0)))
    offset = trajectory - centre
    angle = np.unwrap(np.arctan2(offset[:, 1], offset[:, 0]))
    uniform = angle - fit_line(angle[:, None])[1][:, 0]
    return angle, radius, offset - radius * np.stack([np.cos(uniform), np.sin(uniform)], 1)


def rms_length(residuals: np.ndarray) -> float:
    """The root mean square length of residuals (f, k)."""
    return float(np.sqrt((residuals**2).sum(1).mean()))


def fits(residuals: np.ndarray, bound: float) -> bool:
    """Whether residuals (f, k) are within `bound` in the rms, and within twice that in every frame."""
    return rms_length(residuals) < bound and bool(np.linalg.norm(residuals, axis=1).max() < 2 * bound)


def advances_steadily(progress: np.ndarray) -> bool:
    """Whether progress (f,), rising or falling, never pauses and never reverses."""
    steps = np.diff(progress)
    steps = steps / (steps.mean() or np.nan)  # NaN, which passes no bound, if it returns to where it started
    window = max(1, len(steps) // 5)
    advance = np.convolve(steps, np.full(window, 1 / window), "valid")
    return bool(steps.min() > -MAX_STEP_BACK and advance.min() > MIN_ADVANCE)


def judge_motion(trajectory: np.ndarray, area: np.ndarray, size: int, extent: float = 1.0) -> tuple[str, float]:
    """Find the motion that fits a tracked shape.

    Args:
        trajectory: Centres (f, 2), in pixels.
        area: (f,), in pixels.
        size: The side of a frame, in pixels. Bounds in pixels scale with it.
        extent: The fraction of a full motion that the clip covers, in (0, 1]. A clip must move at least that much.

    Returns:
        One of MOTIONS and the rms distance from it in pixels, or "none" and NaN.
    """
    unit, no_motion = size / 64, (NONE, float("nan"))
    if len(trajectory) < 3 or not np.isfinite(trajectory).all():
        return no_motion
    radius = np.sqrt(area)  # up to a factor that depends on the shape
    (growth,), radius_residuals = fit_line(radius[:, None])
    shift, residuals = fit_line(trajectory)
    if not fits(radius_residuals, RADIUS_ERROR * radius.mean()):
        return no_motion
    if abs(growth) > 0.4 * extent * radius.mean():
        stays = np.abs(shift).max() < 6 * unit and fits(residuals, CENTRE_ERROR * unit)
        motion = "growing" if growth > 0 else "shrinking"
        return (motion, rms_length(residuals)) if stays and advances_steadily(radius) else no_motion
    direction = max(DIRECTIONS, key=lambda name: np.dot(DIRECTIONS[name], shift))
    straight = np.abs(shift).max() > 14 * extent * unit and np.abs(shift).min() < 0.3 * np.abs(shift).max()
    if straight and fits(residuals, CENTRE_ERROR * unit) and advances_steadily(trajectory @ DIRECTIONS[direction]):
        return direction, rms_length(residuals)
    angle, orbit, residuals = fit_circle(trajectory)
    sweep = angle[-1] - angle[0]
    circling = orbit > 6 * unit and abs(sweep) > np.radians(140 * extent)
    if circling and fits(residuals, CENTRE_ERROR * unit) and advances_steadily(angle):
        return "clockwise" if sweep > 0 else "anticlockwise", rms_length(residuals)
    return no_motion


def judge_shape(alpha: np.ndarray, trajectory: np.ndarray, area: np.ndarray) -> tuple[str, float]:
    """Draw each shape with the tracked centres and areas, and compare it with coverage (f, h, w).

    Returns:
        The shape that overlaps best over the clip, or "none"; and the fraction of frames in the most frequent shape,
        each frame judged by itself.
    """
    seen = np.isfinite(trajectory).all(1)
    if not seen.any():
        return NONE, 0.0
    shown, centres, areas, size = alpha[seen], trajectory[seen], area[seen], alpha.shape[-1]
    shared, joint = np.zeros((2, len(SHAPES), len(shown)))  # pixels that both cover, and that one of them covers
    for i, shape in enumerate(SHAPES):
        drawn = coverage(shape, centres, np.sqrt(areas / AREAS[shape]), size)
        shared[i], joint[i] = np.minimum(drawn, shown).sum((1, 2)), np.maximum(drawn, shown).sum((1, 2))
    best, shape = max(zip(shared.sum(1) / joint.sum(1), SHAPES))
    overlap = shared / joint
    most = overlap.max(0)
    margin = np.where(areas < SMALL_AREA * (size / 64) ** 2, SMALL_MARGIN, 0)
    votes = (overlap >= most - margin) & (most > MIN_OVERLAP)
    return shape if best > MIN_OVERLAP else NONE, float(votes.sum(1).max() / len(alpha))


def classify_colour(pixels: np.ndarray) -> str:
    """Return the entry of the palette that most pixels (n, 3) are close to, or "none"."""
    if not len(pixels):
        return NONE
    names, palette = list(COLOURS), np.array(list(COLOURS.values()))
    nearest = ((pixels[:, None] - palette) ** 2).sum(2).argmin(1)
    votes = np.bincount(nearest, minlength=len(names))
    main = int(votes.argmax())
    near = np.linalg.norm(pixels.mean(0) - palette[main]) < MAX_COLOUR_DISTANCE
    return names[main] if near and votes[main] >= MIN_PURITY * len(pixels) else NONE


def judge_colour(video: np.ndarray, alpha: np.ndarray) -> tuple[str, float]:
    """Return the colour of most frames, or "none"; and the fraction of frames in the most frequent colour."""
    inside = np.min([alpha, *neighbours(alpha)], axis=0) > 0.4  # without the edge, which blends with the background
    names = [classify_colour(frame[:, mask].T) for frame, mask in zip(video, inside)]
    votes = Counter(name for name in names if name != NONE)
    colour, frames = votes.most_common(1)[0] if votes else (NONE, 0)
    return colour if frames >= MOST_FRAMES * len(names) else NONE, frames / len(names)


def examine(video: np.ndarray, extent: float = 1.0) -> Findings:
    """Judge one clip.

    Args:
        video: uint8 (f, 3, h, w), with square frames.
        extent: The fraction of a full motion that the clip covers, in (0, 1].

    Raises:
        ValueError: If the clip has another type or shape, or no pixels.
    """
    video = np.asarray(video)
    if video.ndim != 4 or video.dtype != np.uint8 or video.shape[1:] != (3, video.shape[3], video.shape[3]):
        raise ValueError(f"the examiner needs uint8 (f, 3, h, w) with h equal to w; got {video.dtype} {video.shape}")
    if not video.size:
        raise ValueError(f"the examiner needs a clip with pixels; got shape {video.shape}")
    video = video.astype(np.float64)
    alpha = segment(video)
    trajectory, area = track(alpha)
    motion, error = judge_motion(trajectory, area, video.shape[-1], extent)
    colour, colour_constancy = judge_colour(video, alpha)
    shape, shape_constancy = judge_shape(alpha, trajectory, area)
    count = judge_count(alpha)
    return Findings(motion, colour, shape, count, trajectory, error, colour_constancy, shape_constancy)
