"""Two sets of videos, from wherever they come, and the numbers between them: the work behind `latte eval --real`."""

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from latte.device import usable_device
from latte.eval.clip_sets import ClipSet, choose_clips
from latte.eval.features import Detector, Store, fill
from latte.eval.frame_metrics import other_detectors, other_numbers
from latte.eval.fvd import Side, given, measure
from latte.eval.inception_score import SCORE_PROTOCOLS as INCEPTION_SCORES
from latte.eval.model_clips import ModelClips, is_model, model_clips
from latte.eval.networks.c3d import FRAMES
from latte.eval.networks.i3d_weights import i3d_detector
from latte.eval.networks.shape_features import shapes_detector
from latte.eval.protocol import Protocol, adjusted
from latte.eval.statistics import is_statistics
from latte.processes import Ranks, local_device, processes

INCEPTION_SCORE = "stylegan-v"  # whose protocol, where none is named
ONE_SIDED = ("inception_score", "real")  # what has no use for a side


def compare_videos(args: argparse.Namespace) -> dict | None:
    """The result for these words, printed too; None in all processes of torchrun but the first."""
    paths = {"real": args.real, "generated": Path(args.model)}
    if all(map(is_statistics, paths.values())):
        return compare_statistics(*paths.values())
    protocol = adjusted(args.protocol or "exact", clips=args.num_videos, eps=args.bn_eps, real_crop=args.real_crop)
    if not args.protocol:  # of videos as they come; a caveat tells what a codec may have lost
        protocol = replace(protocol, name=f"{protocol.name}, any codec", lossless=False)
    args.device = local_device(args.device)
    device = usable_device(args.device)
    detector = i3d_detector(args.i3d, protocol, device) if args.i3d else shapes_detector(device)
    others = other_detectors(args, device)
    with processes(device) as ranks:
        if ranks.size > 1 and not args.features:
            raise ValueError("several processes meet in a folder of features: give --features")
        statistics = {name: given(path) for name, path in paths.items() if is_statistics(path)}
        check_given(statistics, detector, args)
        clips = {name: chosen(name, args, protocol, ranks) for name in paths if name not in statistics}
        sets = {name: (statistics | clips)[name] for name in paths}
        check(sets, args, protocol)
        sides, found = {}, {}
        for name, clips in sets.items():
            if isinstance(clips, Side):
                sides[name], found[name] = clips, {}
                continue
            wanted = {"distance": detector} | {key: others[key] for key in others if (key, name) != ONE_SIDED}
            found[name] = dict(zip(wanted, features(clips, list(wanted.values()), args.features, ranks)))
            sides[name] = Side(clips.about, found[name]["distance"])
        if not ranks.first:
            return None
    result = measure(sides["real"], sides["generated"], protocol, detector, args.seed)
    if found["generated"]:
        result |= other_numbers(others, found["real"], found["generated"], args.is_protocol or INCEPTION_SCORE)
    print(as_text(result))
    return result


def compare_statistics(real: Path, generated: Path) -> dict:
    """The result of two files of statistics, printed too: which network and protocol they are by, nobody knows."""
    record = {"metric": "given", "name": "distance of given statistics", "network": "by a network not known here"}
    result = measure(given(real), given(generated), None, Detector(record, None), None)
    print(as_text(result))
    return result


def check_given(sides: dict[str, Side], detector: Detector, args: argparse.Namespace) -> None:
    """ValueError, before any work, if statistics cannot be of a detector's features."""
    for name, side in sides.items():
        width = len(side.features.mean)
        if width != detector.width:
            of = f"the {name} statistics are of {width} numbers, the {detector.record['name']} is of {detector.width}"
            raise ValueError(of if args.i3d else f"{of}: give --i3d, if they are I3D's")


def chosen(name: str, args: argparse.Namespace, protocol: Protocol, ranks: Ranks) -> ClipSet | ModelClips:
    """What a side is of: clips of a folder, or of a model."""
    if name == "generated" and is_model(args.model):
        return model_clips(args, protocol, ranks)
    return choose_clips(args.real if name == "real" else Path(args.model), protocol, name, args.seed)


def check(sets: dict[str, ClipSet | ModelClips | Side], args: argparse.Namespace, protocol: Protocol) -> None:
    """ValueError, before the work, for numbers that could not be had after it."""
    for name, side in sets.items():
        if not isinstance(side, Side) and len(side.clips) < 2:
            why = "--num-videos 1" if args.num_videos == 1 else f"there is one {name} clip, {side.clips[0].name}"
            raise ValueError(f"{why}: a distance is of two clips or more on each side")
    if args.real_crop and isinstance(sets["real"], Side):
        raise ValueError("--real-crop needs real videos, and no statistics")
    for option in ("inception", "c3d"):
        if getattr(args, option) and any(isinstance(side, Side) for side in sets.values()):
            raise ValueError(f"--{option} needs videos on both sides, and no statistics")
    if args.c3d:
        name = args.is_protocol or INCEPTION_SCORE
        needed, there = INCEPTION_SCORES[name].videos, len(sets["generated"].clips)
        if there < needed:
            raise ValueError(f"the inception score of {name} is of {needed} clips; {there} are given")
        if protocol.frames != FRAMES:
            raise ValueError(f"the inception score is of clips of {FRAMES} frames; protocol {protocol.name} has others")


def features(clips: ClipSet | ModelClips, detectors: list[Detector], folder: Path | None, ranks: Ranks) -> list[Tensor]:
    """Each detector's features of every clip of a set; each process computes its share of what is missing."""
    stores = [Store(folder, clips, detector) for detector in detectors]
    fill(stores, ranks.rank, ranks.size, progress=ranks.first)
    ranks.wait()
    return [store.all() for store in stores]


def as_text(result: dict) -> str:
    """A result for people: the numbers, then what must be known of them."""
    line = lambda name, values: f"  {name:36}{values}"
    interval = lambda of: f"{of['value']:10.2f}   95 %: {of['low']:.2f} to {of['high']:.2f}"
    real, generated, detector = result["real"], result["generated"], result["detector"]
    lines = [f"{detector['name']} of {generated['clips']} generated from {real['clips']} real clips"]
    lines.append(line("distance", f"{result['distance']:10.2f}"))
    if "infinite" in result:
        lines.append(line("extrapolated to infinite N", interval(result["infinite"])))
    if "floor" in result:
        lines.append(line("real from other real", interval(result["floor"])))
    if "kernel" in result:
        lines.append(line("kernel distance (KVD)", "{value:10.4g}   +- {error:.2g}".format(**result["kernel"])))
    if "fid" in result:
        lines.append(line(f"FID of {result['fid']['frames']['generated']} frames", f"{result['fid']['value']:10.2f}"))
        lines.append(line("", f"  by Inception, sha256 {result['fid']['sha256']}"))
    if "inception_score" in result:
        score = result["inception_score"]
        lines.append(line(f"inception score ({score['protocol']})", f"{score['mean']:10.2f}   +- {score['std']:.2f}"))
        lines.append(line("", f"  by C3D, sha256 {score['sha256']}, its mean {score['mean_sha256']}"))
    if "flicker" in result:
        both = result["flicker"]
        beside = f"   real {both['real']:.4f}" if "real" in both else ""
        lines.append(line("flicker (1: still)", f"{both['generated']:10.4f}{beside}"))
    how = f"protocol {result['protocol']['name']}, seed {result['seed']}, " if result["protocol"] else ""
    lines.append(f"  {how}{detector['network']}")
    return "\n".join([*lines, *(f"  note: {caveat}" for caveat in result["caveats"])])
