"""The objective of the feature network: it recognises what clips of the built-in shapes show, and their corruptions."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.eval.networks.shape_features import ShapeFeatures, ShapeFeaturesConfig
from latte.shapes.corruptions import CORRUPTIONS
from latte.shapes.draw import COLOURS, DIRECTIONS, SHAPES, ShapeClip
from latte.train.base_config import TrainConfig
from latte.train.data.clip_order import ClipOrder, Draw
from latte.train.data.shape_clips import ShapeClips
from latte.video.pixels import from_uint8, to_uint8

TRACKED_FRAMES = 4  # frames whose centre and radius are predicted, evenly spaced from the first to the last
CENTRE, RADIUS = (0.5, 0.14), (0.16, 0.04)  # mean and standard deviation, as fractions of the frame's side
TEMPO = (1, 0.1)  # the same, relative to the mean speed of the motion
DAMAGE = 6  # the target for a corruption of strength 1


def path_length(clip: ShapeClip) -> float:
    """Return the length of the centre's path plus the change of the radius, as a fraction of the frame's side."""
    length = np.linalg.norm(np.diff(clip.trajectory, axis=0), axis=1).sum() + np.abs(np.diff(clip.radius)).sum()
    return float(length / clip.video.shape[-1])


def mean_path_length(motion: str) -> float:
    """Return the mean of path_length over clips of a motion, from the ranges in latte.shapes.draw.draw_path."""
    if motion in DIRECTIONS:
        return 28 / 64
    return 2 * np.pi * 0.625 * 10.5 / 64 if "clockwise" in motion else 10 / 64


def clip_targets(clip: ShapeClip) -> dict[str, Tensor]:
    """Return what the network should predict about a clip.

    Args:
        clip: A clip without corruption.

    Returns:
        motion, shape, colour: Indices, ().
        track: The centre (x, y) and the radius at TRACKED_FRAMES frames, (3 * TRACKED_FRAMES,).
        tempo: The speed relative to other clips of the same motion, (1,).
        Over all clips, track and tempo have mean 0 and standard deviation about 1.
    """
    frames = np.linspace(0, len(clip.radius) - 1, TRACKED_FRAMES).round().astype(int)
    side = clip.video.shape[-1]
    centre = (clip.trajectory[frames] / side - CENTRE[0]) / CENTRE[1]
    radius = (clip.radius[frames] / side - RADIUS[0]) / RADIUS[1]
    tempo = (path_length(clip) / mean_path_length(clip.motion) - TEMPO[0]) / TEMPO[1]
    return {
        "motion": torch.tensor(clip.label),
        "shape": torch.tensor(list(SHAPES).index(clip.shape)),
        "colour": torch.tensor(list(COLOURS).index(clip.colour)),
        "track": torch.tensor(np.column_stack([centre, radius]).ravel(), dtype=torch.float32),
        "tempo": torch.tensor([tempo], dtype=torch.float32),
    }


class Recognition:
    """Predict what clips show, and how strongly copies of them are corrupted.

    The loss is the sum of the cross-entropies of motion, shape and colour and of the mean squared errors of track and
    tempo, all on clean clips, and of the mean squared error of the damage on clean and corrupted clips. The damage of a
    clip is one number per kind of corruption: DAMAGE times the square root of its strength. A corrupted clip has one
    corruption, and the root is drawn uniformly, because weak corruptions are the hard ones to see.
    """

    def __init__(
        self, clips: ShapeClips, config: TrainConfig, device: torch.device | str = "cpu", resumed: Path | None = None
    ):
        self.clips, self.config, self.device = clips, config, device
        self.order = ClipOrder(len(clips), config)

    def prepare(self, micro_batches: list[range], first: int) -> None:
        """Do nothing: clips are drawn when they are needed."""

    def network(self) -> ShapeFeatures:
        """Make a feature network with fresh weights. Raises ValueError if a field of config.model is wrong."""
        return ShapeFeatures(ShapeFeaturesConfig.from_dict(self.config.model))

    def batch(self, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        """Return clean clips (b, f, 3, h, w) in [-1, 1], and their targets (see clip_targets) along a first axis b."""
        clips = [self.clips.shape_clip(self.order.index(step, slot)) for slot in slots]
        rows = [clip_targets(clip) for clip in clips]
        videos = from_uint8(torch.stack([torch.from_numpy(clip.video) for clip in clips]))
        targets = {name: torch.stack([row[name] for row in rows]).to(self.device) for name in rows[0]}
        return videos.to(self.device), targets

    def corrupt(self, video: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Corrupt a clip (f, 3, h, w) in [-1, 1] in one way; return it with its damage (len(CORRUPTIONS),)."""
        kind, damage = int(torch.randint(len(CORRUPTIONS), (), generator=random)), torch.zeros(len(CORRUPTIONS))
        root = float(torch.rand((), generator=random))
        damage[kind] = DAMAGE * root
        return from_uint8(list(CORRUPTIONS.values())[kind](to_uint8(video), root**2, random)), damage

    def __call__(self, network: ShapeFeatures, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss on the clips of some slots and on their corrupted copies, and its terms to log."""
        clean, targets = self.batch(step, slots)
        generators = [generator(self.config.seed, step, slot, Draw.DAMAGE) for slot in slots]
        corrupted, damage = map(torch.stack, zip(*map(self.corrupt, clean.cpu(), generators)))
        targets["damage"] = torch.cat([torch.zeros_like(damage), damage]).to(self.device)
        losses = {}
        for name, predicted in network(torch.cat([clean, corrupted.to(self.device)])).items():
            target = targets[name]
            error = F.mse_loss if target.is_floating_point() else F.cross_entropy
            losses[name] = error(predicted[: len(target)].float(), target)
        return sum(losses.values()), {name: loss.detach() for name, loss in losses.items()}
