"""`latte bench eval`: clips a second of decoding, of features and of the distance, each beside the obvious way."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from latte.commands.parser import Parser, add_device_option
from latte.device import device_name, usable_device
from latte.eval.clip_sets import ClipSet, choose_clips
from latte.eval.features import batch_size
from latte.eval.frechet import Moments, distance
from latte.eval.networks.i3d import CLASSES, I3D, LEAST_FRAMES
from latte.eval.networks.i3d_weights import i3d_features, made_fast
from latte.eval.protocol import adjusted
from latte.files import write_json
from latte.shapes.draw import make_clip
from latte.video.read import read_video
from latte.video.write import write_video


def drawn(folder: Path, count: int, frames: int, size: int) -> Path:
    """Videos of the built-in shapes, as H.264, where none are given: twice as long as a clip."""
    for i in range(count):
        write_video(make_clip(0, i, frames=2 * frames, size=size).video, folder / f"{i}.mp4")
    return folder


def seconds(work: Callable, repeats: int) -> float:
    """Of the fastest of some calls, after one that does not count."""
    work()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken)


def lively(network: I3D) -> I3D:
    """With weights that let a signal through, as drawn: of PyTorch's own nothing would be left at the end."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return network


def decode_all(clips: ClipSet) -> list[torch.Tensor]:
    """The obvious way: every frame of every video, one after the other."""
    found = [(clip, read_video(clips.root / clip.name)[0]) for clip in clips.clips]
    return [video[clip.start :: clip.stride][: clip.frames] for clip, video in found]


@torch.no_grad()
def one_by_one(model: I3D, clips: list[torch.Tensor]) -> torch.Tensor:
    """The obvious way: a clip at a time through the network as it is defined."""
    return torch.cat([i3d_features(model, [clip], "squash") for clip in clips])


def by_root(a: Moments, b: Moments) -> float:
    """The obvious way: a root of the product of the covariances, by SciPy."""
    from scipy.linalg import sqrtm

    root = np.real(sqrtm((a.cov @ b.cov).numpy()))
    return float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * np.trace(root))


def measure(
    folder: Path, count: int, frames: int, device: torch.device, repeats: int
) -> dict[str, dict[str, float | None]]:
    """Seconds a clip ("decoding", "features") or a distance, ours and the obvious way's, and their ratio."""
    clips = choose_clips(folder, adjusted("stylegan-v", clips=count, frames=frames), "real", 0)
    videos = list(clips.stream(clips.clips))
    ours = {"decoding": seconds(lambda: list(clips.stream(clips.clips)), repeats) / len(videos)}
    plain = {"decoding": seconds(lambda: decode_all(clips), repeats) / len(videos)}
    network = lively(I3D()).eval().requires_grad_(False).to(device)
    few = (videos * 8)[: batch_size(frames)]
    wanted = one_by_one(network, few[:1])
    plain["features"] = seconds(lambda: one_by_one(network, few), repeats) / len(few)
    fast = made_fast(network, device)
    ours["features"] = seconds(lambda: i3d_features(fast, few, "squash"), repeats) / len(few)
    error = float((i3d_features(fast, few, "squash")[:1] - wanted).norm() / wanted.norm())
    random = torch.Generator().manual_seed(0)
    a, b = (Moments.of(torch.randn(2048, CLASSES, generator=random).double()) for _ in range(2))
    ours["distance"] = seconds(lambda: distance(a, b), repeats)
    try:
        plain["distance"] = seconds(lambda: by_root(a, b), repeats)
    except ImportError:
        plain["distance"] = None
    ratio = {name: plain[name] and plain[name] / ours[name] for name in ours}
    rows = {name: {"seconds": ours[name], "obvious": plain[name], "ratio": ratio[name]} for name in ours}
    return rows | {"agreement": {"relative_error": error}}


def main(argv: list[str]) -> None:
    """Print the table."""
    parser = Parser(prog="latte bench eval", description=__doc__.split(":", 1)[1].strip())
    add = parser.add_argument
    add("--videos", type=Path, help="a folder of videos to decode (default: 8 of the built-in shapes, 256 px, H.264)")
    add("--clips", type=int, default=8, help="that are decoded (default: 8)")
    add("--frames", type=int, default=16, help=f"of a clip, {LEAST_FRAMES} or more (default: 16)")
    add("--repeats", type=int, default=3, help="of which the fastest counts (default: 3)")
    add("--out", type=Path, help="also write the figures as JSON")
    add_device_option(parser)
    args = parser.parse_args(argv)
    if args.clips < 1 or args.repeats < 1:
        raise ValueError(f"--clips {args.clips} --repeats {args.repeats}: both must be 1 or more")
    if args.frames < LEAST_FRAMES:
        raise ValueError(f"--frames {args.frames}: I3D takes {LEAST_FRAMES} or more")
    device = usable_device(args.device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.videos or drawn(Path(scratch), args.clips, args.frames, 256)
        rows = measure(folder, args.clips, args.frames, device, args.repeats)
    print("| | a second | the obvious way | ratio |\n|---|---|---|---|")
    units = {"decoding": "clips decoded", "features": "clips' features by I3D", "distance": "distances"}
    for name, unit in units.items():
        row = rows[name]
        other, ratio = (f"{1 / row['obvious']:.2f}", f"{row['ratio']:.2f}") if row["obvious"] else ("-", "-")
        print(f"| {unit} | {1 / row['seconds']:.2f} | {other} | {ratio} |")
    print(f"features agree to a relative {rows['agreement']['relative_error']:.1e}")
    about = {
        "frames": args.frames,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if rows["distance"]["obvious"] is None:
        print("the obvious way to a distance needs scipy: pip install scipy")
    if args.out:
        write_json(args.out, {**about, "rows": rows})
