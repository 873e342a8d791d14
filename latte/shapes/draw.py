"""The built-in data set: captioned clips of one moving shape, drawn by NumPy when they are asked for.

ShapeClip i of a seed is a function of (seed, i) alone. The motion is the class; with it come the exact trajectory,
colour
and shape, so that what a model makes can be judged without any network (latte.shapes.examiner).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MOTIONS = ("left", "right", "up", "down", "clockwise", "anticlockwise", "growing", "shrinking")
PHRASES = {
    **{way: f"moving {way}" for way in MOTIONS[:4]},
    **{way: f"circling {way}" for way in MOTIONS[4:6]},
    **{way: way for way in MOTIONS[6:]},
}
COLOURS = {
    "red": (230, 50, 50),
    "green": (60, 200, 70),
    "blue": (70, 100, 240),
    "yellow": (240, 210, 60),
    "magenta": (220, 70, 210),
    "cyan": (60, 210, 220),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
BACKGROUND = (24, 48)  # grey levels


def star(points: int, inner: float, turn: float) -> Callable[[np.ndarray, np.ndarray, float], np.ndarray]:
    """Distance to the edge, negative inside, of a star with `points` tips at radius r and notches at inner * r.

    A regular polygon is one whose notches lie on its sides. turn: the angle of the first tip.
    """
    half = np.pi / points
    notch = inner * np.exp(1j * half)
    normal = (1 - notch) * -1j / abs(1 - notch)
    normal = normal if (normal * np.conj(notch)).real > 0 else -normal

    def distance(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
        angle = np.abs((np.arctan2(y, x) - turn + half) % (2 * half) - half)
        folded = np.hypot(x, y) * np.exp(1j * angle) - r
        return folded.real * normal.real + folded.imag * normal.imag

    return distance


SHAPES = {
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": star(4, np.cos(np.pi / 4), np.pi / 4),
    "triangle": star(3, 0.5, -np.pi / 2),
    "star": star(5, 0.45, -np.pi / 2),
}


def coverage(shape: str, centre: np.ndarray, radius: np.ndarray, size: int) -> np.ndarray:
    """How much of each pixel the shape covers, in [0, 1]: centres (f, 2), radii (f,) -> (f, size, size)."""
    y, x = np.mgrid[:size, :size] + 0.5
    alpha = np.zeros((len(radius), size, size))
    for frame, (cx, cy), r in zip(alpha, centre, radius):
        # two pixels beyond the radius nothing is covered, not even by a star's sharp tip: left out, for speed
        box = tuple(slice(max(int(c - r) - 2, 0), max(int(c + r) + 3, 0)) for c in (cy, cx))
        frame[box] = np.clip(0.5 - SHAPES[shape](x[box] - cx, y[box] - cy, r), 0, 1)
    return alpha


@dataclass(frozen=True)
class ShapeClip:
    """A clip and the truth about it."""

    video: np.ndarray  # (f, 3, h, w) uint8
    label: int  # index into MOTIONS
    motion: str
    shape: str
    colour: str
    caption: str  # "a red star moving left"
    trajectory: np.ndarray  # (f, 2), the shape's centre as (x, y), in pixels
    radius: np.ndarray  # (f,), in pixels


def is_held_out(clip: "ShapeClip") -> bool:
    """Whether its combination of motion, shape and colour, one of 24 out of 192, is left out of captioned training."""
    kinds = ((MOTIONS, clip.motion), (tuple(SHAPES), clip.shape), (tuple(COLOURS), clip.colour))
    return sum(weight * table.index(name) for weight, (table, name) in enumerate(kinds, 1)) % 8 == 0


def path(motion: str, frames: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A trajectory (f, 2) and radii (f,), whole inside the frame."""
    time, unit = np.linspace(0, 1, frames), size / 64
    radius = np.full(frames, rng.uniform(9, 12) * unit)
    if motion in DIRECTIONS:
        direction = np.array(DIRECTIONS[motion])
        length = rng.uniform(24, 32) * unit
        low, high = radius[0] + 1, size - radius[0] - 1
        across = rng.uniform(low, high)
        middle = rng.uniform(low + length / 2, high - length / 2)
        axis = np.abs(direction)
        centre = axis * middle + (1 - axis) * across + direction * length * (time[:, None] - 0.5)
    elif motion in ("clockwise", "anticlockwise"):
        turn = 2 * np.pi * rng.uniform(0.55, 0.7) * (1 if motion == "clockwise" else -1)
        # from about the top: with any phase, both ways look alike on average, and no small model learned which is which
        angle = rng.uniform(-0.75, -0.25) * np.pi + turn * time
        orbit = rng.uniform(9, 12) * unit
        slack = size / 2 - orbit - radius[0] - 1
        centre = size / 2 + rng.uniform(-slack, slack, 2) + orbit * np.stack([np.cos(angle), np.sin(angle)], 1)
    else:
        small, large = rng.uniform(5, 7) * unit, rng.uniform(14, 18) * unit
        radius = small + (large - small) * (time if motion == "growing" else 1 - time)
        centre = np.broadcast_to(rng.uniform(large + 1, size - large - 1, 2), (frames, 2))
    return centre, radius


def make_clip(
    seed: int, index: int, motion: str | None = None, frames: int = 16, size: int = 64, window: slice = slice(None)
) -> ShapeClip:
    """Clip `index` of the data set `seed`; `motion` in place of the drawn one. Pure, a few milliseconds.

    window: which of the frames to draw; what is left out costs nothing. ValueError: size is below 16.
    """
    if size < 16:
        raise ValueError(f"frames of {size} pixels are too small for the shapes: 16 or more")
    rng = np.random.default_rng([seed, index])
    drawn = MOTIONS[rng.integers(len(MOTIONS))]
    shape, colour = (list(table)[rng.integers(len(table))] for table in (SHAPES, COLOURS))
    grey = rng.uniform(*BACKGROUND)
    motion = motion or drawn
    centre, radius = (values[window] for values in path(motion, frames, size, rng))
    alpha = coverage(shape, centre, radius, size)[:, None]
    video = (1 - alpha) * grey + alpha * np.array(COLOURS[colour])[:, None, None]
    caption = f"a {colour} {shape} {PHRASES[motion]}"
    label = MOTIONS.index(motion)
    return ShapeClip(video.round().astype(np.uint8), label, motion, shape, colour, caption, centre, radius)
