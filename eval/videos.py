"""Two sets of videos, from wherever they come, and the distance between them: the work behind `latte eval --real`."""

import argparse
from pathlib import Path

from latte.device import usable_device
from latte.eval.clips import choose_clips
from latte.eval.detector import i3d_detector
from latte.eval.features import Detector, Store, fill
from latte.eval.fvd import Side, described, given, measure
from latte.eval.protocol import Protocol, adjusted
from latte.eval.shape_features import shapes_detector
from latte.eval.statistics import SUFFIXES
from latte.train.parallel import Ranks, local_device, processes


def compare_videos(args: argparse.Namespace) -> dict | None:
    """The result for these words, printed too; None in all processes of torchrun but the first."""
    protocol = adjusted(args.protocol or "exact", clips=args.num_videos, eps=args.bn_eps)
    device = usable_device(local_device(args.device))
    if args.bn_eps and not args.i3d:
        raise ValueError("--bn-eps is I3D's alone: give --i3d too")
    detector = i3d_detector(args.i3d, protocol, device) if args.i3d else shapes_detector(device)
    with processes(device) as ranks:
        if ranks.size > 1 and not args.features:
            raise ValueError("several processes meet in a folder of features: give --features")
        real = side(args.real, "real", protocol, detector, args, ranks)
        generated = side(Path(args.model), "generated", protocol, detector, args, ranks)
        if not ranks.first:
            return None
    result = measure(real, generated, protocol, detector, args.seed)
    print(told(result))
    return result


def side(path: Path, name: str, protocol: Protocol, detector: Detector, args: argparse.Namespace, ranks: Ranks) -> Side:
    """Features of a folder of videos, or given statistics."""
    if path.suffix in SUFFIXES and not path.is_dir():
        return given(path)
    clips = choose_clips(path, protocol, name, args.seed)
    store = Store(args.features, clips, detector)
    fill(store, ranks.rank, ranks.size, progress=ranks.first)
    ranks.told(None)  # until all have written their share
    return Side(described(clips), store.all())


def told(result: dict) -> str:
    """A result for people: the numbers, then what must be known of them."""

    def line(name: str, values: str) -> str:
        return f"{name:38}{values}"

    def interval(of: dict) -> str:
        return f"{of['value']:9.2f}   95 %: {of['low']:.2f} to {of['high']:.2f}"

    real, generated = result["real"], result["generated"]
    clips = f"{generated.get('clips')} generated, {real.get('clips')} real clips"
    lines = [
        line(f"{result['detector']['name']}, {clips}", ""),
        line("  distance", f"{result['distance']:9.2f}"),
        line("  of endlessly many clips", interval(result["infinite"])) if "infinite" in result else "",
        line("  real from other real, as many clips", interval(result["floor"])) if "floor" in result else "",
        f"  protocol {result['protocol']['name']}, seed {result['seed']}, {result['detector']['network']}",
        *(f"  note: {caveat}" for caveat in result["caveats"]),
    ]
    return "\n".join(text for text in lines if text)
