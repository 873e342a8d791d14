"""How good the shapes' features are: what the network recognises, and how its distance grows with damage."""

import numpy as np
import torch
from torch import Tensor

from latte import __version__
from latte.diffusion.randomness import generator
from latte.eval.exam import HELD_OUT
from latte.eval.frechet import Moments, distance
from latte.eval.networks.shape_features import ShapeFeatures, load_shape_features, shape_features
from latte.eval.reporting import markdown_table
from latte.shapes.corruptions import CORRUPTIONS, corrupted
from latte.shapes.draw import ShapeClip, make_clip
from latte.train.objectives.shape_recognition import clip_targets
from latte.video.pixels import from_uint8
from latte.weights.find_models import find_model
from latte.weights.manifest import WEIGHTS, digest

STRENGTHS = tuple(round(0.1 * i, 1) for i in range(1, 11))  # of each corruption
SPLITS = 100  # random halvings of the real clips, for the real-vs-real distance


@torch.no_grad()
def score_heads(network: ShapeFeatures, clips: list[ShapeClip]) -> dict[str, float]:
    """Score the network's answers about clips, head by head.

    Returns:
        For a head that classifies, its accuracy; for one that regresses, the share of the variance that it explains.
    """
    device, scores = next(network.parameters()).device, {}
    videos = [from_uint8(torch.from_numpy(clip.video)[None].to(device)) for clip in clips]
    predictions, targets = [network(video) for video in videos], [clip_targets(clip) for clip in clips]
    for name in targets[0]:
        predicted = torch.cat([prediction[name] for prediction in predictions]).cpu()
        target = torch.stack([target[name] for target in targets])
        if target.is_floating_point():
            scores[name] = float(1 - (predicted - target).square().mean() / (target - target.mean(0)).square().mean())
        else:
            scores[name] = float((predicted.argmax(1) == target).float().mean())
    return scores


def real_vs_real(features: Tensor) -> dict[str, float]:
    """The distance between two random halves of real clips.

    Args:
        features: of the real clips, (2n, d).

    Returns:
        The "mean" over SPLITS halvings, and the "low" and "high" ends of the interval that holds 95 % of them.
    """
    half, distances = len(features) // 2, []
    for i in range(SPLITS):
        order = torch.randperm(len(features), generator=generator(0, i))
        distances.append(distance(*(Moments.of(features[rows]) for rows in (order[:half], order[half:]))))
    low, high = np.quantile(distances, [0.025, 0.975]).tolist()
    return {"mean": float(np.mean(distances)), "low": low, "high": high}


def distance_by_strength(network: ShapeFeatures, real: Tensor, videos: Tensor) -> dict[str, list[float]]:
    """The distance from real clips to other clips that are corrupted more and more.

    Args:
        network: computes the features.
        real: features of the real clips, (n, d).
        videos: the other clips, uint8 (n, f, 3, h, w).

    Returns:
        For each corruption, the distances at STRENGTHS.
    """
    moments = lambda name, strength: Moments.of(shape_features(network, corrupted(videos, name, strength)))
    return {name: [distance(Moments.of(real), moments(name, s)) for s in STRENGTHS] for name in CORRUPTIONS}


def check_features(name: str, count: int, device: torch.device) -> dict:
    """Measure a feature network of the built-in shapes.

    Args:
        name: the network that ships, or the folder of a run that trained one.
        count: held-out clips on either side of the distance.
        device: where to compute.

    Returns:
        The results of `score_heads`, `real_vs_real` and `distance_by_strength`, and all that they depend on.

    Raises:
        CheckpointError: there is no such network, or it is damaged.
    """
    network = load_shape_features(name).to(device)
    clips = [make_clip(HELD_OUT, i) for i in range(2 * count)]
    videos = torch.stack([torch.from_numpy(clip.video) for clip in clips])
    features = shape_features(network, videos)
    return {
        "network": name,
        "sha256": digest(find_model(name) / WEIGHTS),
        "torch": torch.__version__,
        "latte": __version__,
        "real_seed": HELD_OUT,
        "clips": count,
        "strengths": STRENGTHS,
        "held-out clips": score_heads(network, clips),
        "real against real": real_vs_real(features),
        "damage": distance_by_strength(network, features[:count], videos[count:]),
    }


def feature_table(scores: dict) -> str:
    """The result of `check_features` as Markdown: one row per corruption, one column per strength."""
    real = scores["real against real"]
    rows = [[name, *(f"{value:.2f}" for value in row)] for name, row in scores["damage"].items()]
    lines = [markdown_table(["corruption", *map(str, STRENGTHS)], rows)]
    lines.append(f"real-vs-real: {real['mean']:.2f}, 95 % in {real['low']:.2f} to {real['high']:.2f}")
    return "\n".join([*lines, *(f"{name}: {share:.3f}" for name, share in scores["held-out clips"].items())])
