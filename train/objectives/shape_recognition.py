"""What a step of the feature network minimises: the errors of its answers about clips of the built-in shapes."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from latte.diffusion.randomness import generator
from latte.eval.networks.shape_features import ShapeFeatures, ShapeFeaturesConfig
from latte.models.fields import check_fields
from latte.shapes.corruptions import CORRUPTIONS
from latte.shapes.draw import COLOURS, DIRECTIONS, MOTIONS, PHRASES, SHAPES, ShapeClip
from latte.train.config import TrainConfig
from latte.train.data.clip_order import ClipOrder, Draw
from latte.train.data.shape_clips import ShapeClips
from latte.train.watch import SHOWN
from latte.video.pixels import from_uint8, to_uint8
from latte.weights.folder import save_folder

MOMENTS = 4  # of the clip, first and last frame included, whose centre and radius are asked for
CENTRE, RADIUS = (0.5, 0.14), (0.16, 0.04)  # mean and deviation, in sides of a frame
TEMPO = (1, 0.1)  # likewise, in mean tempos of the motion
DAMAGE = 6  # what strength 1 counts as
WHITENED = 32  # batches of clips whose features get mean 0 and covariance 1 in the end


def travel(clip: ShapeClip) -> float:
    """How far a clip goes, in sides of a frame: its centre's way, or its radius's, per 15 steps."""
    way = np.linalg.norm(np.diff(clip.trajectory, axis=0), axis=1).sum() + np.abs(np.diff(clip.radius)).sum()
    return float(way / clip.video.shape[-1])


def usual_travel(motion: str) -> float:
    """The mean of travel over clips of a motion, from the ranges of latte.shapes.draw.draw_path."""
    if motion in DIRECTIONS:
        return 28 / 64
    return 2 * np.pi * 0.625 * 10.5 / 64 if "clockwise" in motion else 10 / 64


def truth(clip: ShapeClip) -> dict[str, Tensor]:
    """The right answers about a clip: indices, or (size,) numbers of mean 0 and deviation about 1 over all clips.

    track: centre and radius at MOMENTS; tempo: how fast it is among clips of its motion.
    """
    at = np.linspace(0, len(clip.radius) - 1, MOMENTS).round().astype(int)
    side = clip.video.shape[-1]
    centre = (clip.trajectory[at] / side - CENTRE[0]) / CENTRE[1]
    radius = (clip.radius[at] / side - RADIUS[0]) / RADIUS[1]
    tempo = (travel(clip) / usual_travel(clip.motion) - TEMPO[0]) / TEMPO[1]
    return {
        "motion": torch.tensor(clip.label),
        "shape": torch.tensor(list(SHAPES).index(clip.shape)),
        "colour": torch.tensor(list(COLOURS).index(clip.colour)),
        "track": torch.tensor(np.column_stack([centre, radius]).ravel(), dtype=torch.float32),
        "tempo": torch.tensor([tempo], dtype=torch.float32),
    }


class Recognition:
    """The network's errors about clips, and about the same clips spoilt (latte.shapes.corruptions).

    Cross-entropy of motion, shape and colour, and the mean squared error of track and tempo, on the sound ones; the
    mean squared error of the damage on both: the strength of each corruption, of which a spoilt clip has one, as its
    root, which is drawn evenly: weak ones are what is hard to see.
    """

    def __init__(self, clips: ShapeClips, config: TrainConfig, device: torch.device | str = "cpu"):
        self.clips, self.config, self.device = clips, config, device
        self.order = ClipOrder(len(clips), config)

    def prepare(self, units: list[range], first: int) -> None:
        """Nothing is to be done before the first step."""

    def network(self) -> ShapeFeatures:
        """A fresh one."""
        return ShapeFeatures(ShapeFeaturesConfig(**check_fields(ShapeFeaturesConfig, self.config.model)))

    def data(self) -> dict:
        """What a resumed run must find as it was."""
        return {"clips": self.clips.fingerprint}

    def batch(self, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        """Sound clips (b, f, 3, h, w) in [-1, 1], and the right answers about them."""
        clips = [self.clips.shape_clip(self.order.index(step, slot)) for slot in slots]
        answers = [truth(clip) for clip in clips]
        videos = from_uint8(torch.stack([torch.from_numpy(clip.video) for clip in clips]))
        right = {name: torch.stack([answer[name] for answer in answers]).to(self.device) for name in answers[0]}
        return videos.to(self.device), right

    def spoil(self, video: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """A clip (f, 3, h, w) in [-1, 1], spoilt in one way of CORRUPTIONS, and its damage (len(CORRUPTIONS),)."""
        way, damage = int(torch.randint(len(CORRUPTIONS), (), generator=random)), torch.zeros(len(CORRUPTIONS))
        root = float(torch.rand((), generator=random))
        damage[way] = DAMAGE * root
        return from_uint8(list(CORRUPTIONS.values())[way](to_uint8(video), root**2, random)), damage

    def __call__(self, network: ShapeFeatures, step: int, slots: range) -> tuple[Tensor, dict[str, Tensor]]:
        sound, right = self.batch(step, slots)
        places = [generator(self.config.seed, step, slot, Draw.DAMAGE) for slot in slots]
        spoilt, damage = map(torch.stack, zip(*(self.spoil(*pair) for pair in zip(sound.cpu(), places))))
        right["damage"] = torch.cat([torch.zeros_like(damage), damage]).to(self.device)
        losses = {}
        for name, said in network(torch.cat([sound, spoilt.to(self.device)])).items():
            error = F.mse_loss if right[name].is_floating_point() else F.cross_entropy
            losses[name] = error(said[: len(right[name])].float(), right[name])
        return sum(losses.values()), {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def show(self, network: ShapeFeatures) -> tuple[Tensor, list[str]]:
        """Clips of the first batch, uint8 (n, f, 3, h, w), and what the network says that they show."""
        videos, _ = self.batch(0, range(min(SHOWN, self.config.global_batch_size)))
        said = network(videos)
        indices = (said[name].argmax(1).tolist() for name in ("colour", "shape", "motion"))
        tables = (list(COLOURS), list(SHAPES), [PHRASES[motion] for motion in MOTIONS])
        words = [[table[i] for i in column] for table, column in zip(tables, indices)]
        return to_uint8(videos.cpu()), [f"a {colour} {shape} {motion}" for colour, shape, motion in zip(*words)]

    def save_companions(self, folder: Path) -> None:
        """Nothing: the weights need no other part."""

    @torch.no_grad()
    def finish(self, network: ShapeFeatures, folder: Path) -> None:
        """Write the network, its features whitened on sound clips: a distance of 1 is one of their deviations."""
        slots = range(self.config.global_batch_size)
        seen = torch.cat([network.features(self.batch(step, slots)[0]) for step in range(WHITENED)])
        network.whiten(seen)
        save_folder(network, folder)
