"""`latte bench features`: what the feature network knows of held-out clips, and how its distance grows with damage."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latte import __version__
from latte.commands.parser import Parser, add_device_option
from latte.device import usable_device
from latte.diffusion.randomness import generator
from latte.eval.exam import HELD_OUT
from latte.eval.frechet import Moments, distance
from latte.eval.networks.shape_features import SHIPPED, ShapeFeatures, load_shape_features, shape_features
from latte.files import writable, write_json
from latte.shapes.corruptions import CORRUPTIONS, corrupted
from latte.shapes.draw import ShapeClip, make_clip
from latte.train.objectives.shape_recognition import truth
from latte.video.pixels import from_uint8
from latte.weights.folder import WEIGHTS
from latte.weights.load import find_model
from latte.weights.tensors import digest

STRENGTHS = tuple(round(0.1 * i, 1) for i in range(1, 11))
SPLITS = 100


@torch.no_grad()
def knowledge(network: ShapeFeatures, clips: list[ShapeClip]) -> dict[str, float]:
    """Share of clips that are named rightly, by head; of numbers, the share of their variance that is explained."""
    device, scores = next(network.parameters()).device, {}
    videos = [from_uint8(torch.from_numpy(clip.video)[None].to(device)) for clip in clips]
    said, right = [network(video) for video in videos], [truth(clip) for clip in clips]
    for name in right[0]:
        answers = torch.cat([answer[name] for answer in said]).cpu()
        asked = torch.stack([answer[name] for answer in right])
        if asked.is_floating_point():
            scores[name] = float(1 - (answers - asked).square().mean() / (asked - asked.mean(0)).square().mean())
        else:
            scores[name] = float((answers.argmax(1) == asked).float().mean())
    return scores


def real_against_real(features: Tensor) -> dict[str, float]:
    """Mean and 95 % interval of the distance of two halves of real clips' features (2n, d), over SPLITS of them."""
    half, far = len(features) // 2, []
    for i in range(SPLITS):
        order = torch.randperm(len(features), generator=generator(0, i))
        far.append(distance(*(Moments.of(features[rows]) for rows in (order[:half], order[half:]))))
    low, high = np.quantile(far, [0.025, 0.975]).tolist()
    return {"mean": float(np.mean(far)), "low": low, "high": high}


def growth(network: ShapeFeatures, real: Tensor, videos: Tensor) -> dict[str, list[float]]:
    """Distance of real features (n, d) from those of other clips, uint8, spoilt in every way with each of STRENGTHS."""
    spoilt = lambda name, strength: Moments.of(shape_features(network, corrupted(videos, name, strength)))
    return {name: [distance(Moments.of(real), spoilt(name, s)) for s in STRENGTHS] for name in CORRUPTIONS}


def table(scores: dict) -> str:
    """Markdown: a row a corruption, a column a strength."""
    real = scores["real against real"]
    lines = [f"| {' | '.join(['corruption', *map(str, STRENGTHS)])} |", "|---" * (len(STRENGTHS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{far:.2f}' for far in row)} |" for name, row in scores["damage"].items()]
    lines.append(f"real against real: {real['mean']:.2f}, 95 % in {real['low']:.2f} to {real['high']:.2f}")
    return "\n".join([*lines, *(f"{name}: {share:.3f}" for name, share in scores["held-out clips"].items())])


def main(argv: list[str]) -> None:
    """Print the table and, if asked, write it with what it depends on."""
    parser = Parser(prog="latte bench features", description=__doc__)
    parser.add_argument("network", nargs="?", default=SHIPPED, help=f"a run of such a network (default: {SHIPPED})")
    parser.add_argument("--num-videos", type=int, default=512, help="clips on either side (default: 512)")
    parser.add_argument("--out", type=Path, help="a .json file for the numbers")
    add_device_option(parser)
    args = parser.parse_args(argv)
    if args.num_videos < 2:
        raise ValueError(f"--num-videos is {args.num_videos}; it must be 2 or more")
    if args.out and (args.out.is_dir() or not writable(args.out.parent)):
        raise ValueError(f"--out {args.out} is not a file that can be written: name one, such as scores.json")
    network = load_shape_features(args.network).to(usable_device(args.device))
    clips = [make_clip(HELD_OUT, i) for i in range(2 * args.num_videos)]
    videos = torch.stack([torch.from_numpy(clip.video) for clip in clips])
    features = shape_features(network, videos)
    scores = {
        "network": args.network,
        "sha256": digest(find_model(args.network) / WEIGHTS),
        "torch": torch.__version__,
        "latte": __version__,
        "real_seed": HELD_OUT,
        "clips": args.num_videos,
        "strengths": STRENGTHS,
        "held-out clips": knowledge(network, clips),
        "real against real": real_against_real(features),
        "damage": growth(network, features[: args.num_videos], videos[args.num_videos :]),
    }
    print(table(scores))
    if args.out:
        write_json(args.out, scores)
        print(f"wrote {args.out}")
