"""The built-in data set: captioned clips of one moving shape, drawn on demand with NumPy.

A clip is a pure function of (seed, index). Its class is the motion. It comes with its exact trajectory, colour and
shape, so that generated clips can be judged without a neural network (latte.shapes.examiner).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MOTIONS = ("left", "right", "up", "down", "clockwise", "anticlockwise", "growing", "shrinking")
PHRASES = {  # the motions in captions
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
DIRECTIONS = {  # unit vectors (x, y); y points down
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
BACKGROUND = (24, 48)  # range of grey levels
MIN_SIZE = 16  # pixels; smaller frames have no room for the motions

Distance = Callable[[np.ndarray, np.ndarray, float], np.ndarray]  # (x, y, radius) -> distance to the edge, in pixels


def star(points: int, inner: float, turn: float) -> Distance:
    """Return the signed distance function of a star, which is negative inside.

    A regular polygon is a star whose notches lie on the polygon's sides: inner = cos(pi / points).

    Args:
        points: The number of tips, which lie at the radius that the function is given.
        inner: The radius of the notches, as a fraction of that radius.
        turn: The angle of the first tip, in radians.
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


SHAPES: dict[str, Distance] = {
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": star(4, np.cos(np.pi / 4), np.pi / 4),
    "triangle": star(3, 0.5, -np.pi / 2),
    "star": star(5, 0.45, -np.pi / 2),
}


def coverage(shape: str, centre: np.ndarray, radius: np.ndarray, size: int) -> np.ndarray:
    """Rasterise a moving shape with antialiased edges.

    Args:
        shape: One of SHAPES.
        centre: (f, 2) as (x, y), in pixels.
        radius: (f,), in pixels.
        size: The side of a frame, in pixels.

    Returns:
        The fraction of each pixel that the shape covers, (f, size, size) in [0, 1].
    """
    y, x = np.mgrid[:size, :size] + 0.5
    alpha = np.zeros((len(radius), size, size))
    for frame, (cx, cy), r in zip(alpha, centre, radius):
        # for speed, only a box around the shape is computed: two pixels beyond the radius, even a sharp tip has ended
        box = tuple(slice(max(int(c - r) - 2, 0), max(int(c + r) + 3, 0)) for c in (cy, cx))
        frame[box] = np.clip(0.5 - SHAPES[shape](x[box] - cx, y[box] - cy, r), 0, 1)
    return alpha


@dataclass(frozen=True)
class ShapeClip:
    """A clip and its ground truth."""

    video: np.ndarray  # uint8 (f, 3, h, w)
    label: int  # index into MOTIONS
    motion: str
    shape: str
    colour: str
    caption: str  # "a red star moving left"
    trajectory: np.ndarray  # (f, 2), the centre of the shape as (x, y), in pixels
    radius: np.ndarray  # (f,), in pixels


def caption(colour: str, shape: str, motion: str) -> str:
    """The caption of a clip, such as "a red star moving left"."""
    return f"a {colour} {shape} {PHRASES[motion]}"


def is_held_out(clip: ShapeClip) -> bool:
    """Whether text-to-video training never sees this combination of motion, shape and colour.

    24 of the 192 combinations are held out, to test whether a model composes what it has only seen apart.
    """
    attributes = ((MOTIONS, clip.motion), (tuple(SHAPES), clip.shape), (tuple(COLOURS), clip.colour))
    return sum(weight * values.index(value) for weight, (values, value) in enumerate(attributes, 1)) % 8 == 0


def draw_path(motion: str, frames: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a random trajectory (f, 2) and radii (f,), in pixels, that keep the shape inside the frame."""
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
        # start near the top: with a random phase, both directions look alike on average, and small models mix them up
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
    """Draw a clip, which takes a few milliseconds.

    Args:
        seed: The data set.
        index: The clip's index in it, from 0, without an upper limit.
        motion: One of MOTIONS, instead of the random one. Shape, colour and background do not depend on it.
        frames: How many frames the full motion takes.
        size: The side of a frame, in pixels.
        window: Which of the frames to draw. The others cost nothing.

    Returns:
        The clip, with the ground truth of the frames in the window.

    Raises:
        ValueError: If size is below MIN_SIZE.
    """
    if size < MIN_SIZE:
        raise ValueError(f"frames of {size} pixels are too small for the shapes; use {MIN_SIZE} or more")
    rng = np.random.default_rng([seed, index])
    random_motion = MOTIONS[rng.integers(len(MOTIONS))]  # drawn in any case, so that all that follows stays the same
    shape, colour = (list(values)[rng.integers(len(values))] for values in (SHAPES, COLOURS))
    grey = rng.uniform(*BACKGROUND)
    motion = motion or random_motion
    centre, radius = (values[window] for values in draw_path(motion, frames, size, rng))
    alpha = coverage(shape, centre, radius, size)[:, None]
    video = (1 - alpha) * grey + alpha * np.array(COLOURS[colour])[:, None, None]
    drawn, label, words = video.round().astype(np.uint8), MOTIONS.index(motion), caption(colour, shape, motion)
    return ShapeClip(drawn, label, motion, shape, colour, words, centre, radius)
