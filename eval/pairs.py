"""Videos beside those that they stand in for, pair by pair: the work behind `latte eval --reference`."""

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from latte import __version__
from latte.device import device_name, usable_device
from latte.eval.clip_sets import videos_of
from latte.eval.fidelity import flicker, load_lpips, lpips, psnr, ssim
from latte.eval.networks.published_weights import find_weights
from latte.video.read import read_video
from latte.weights.tensors import digest


def paired(folder: Path, reference: Path) -> list[tuple[Path, Path]]:
    """Videos of the same name below two folders, whatever a file's suffix.

    ValueError: one has a video that the other lacks, or two of one name. FileNotFoundError: no such folder.
    """
    ours, theirs = by_name(folder), by_name(reference)
    lone = sorted(ours.keys() ^ theirs.keys())
    if lone or not ours:
        what = f"only one of them has {lone[0]}" if lone else "they hold no videos"
        raise ValueError(f"{folder} and {reference} are not pairs: {what}")
    return [(ours[name], theirs[name]) for name in sorted(ours)]


def by_name(root: Path) -> dict[Path, Path]:
    """The videos of a folder. ValueError: two that differ in their suffix alone."""
    named = {}
    for video in videos_of(root):
        name = video.relative_to(root)
        name = name if video.is_dir() or not name.suffix else name.with_suffix("")
        if name in named:
            raise ValueError(f"{named[name]} and {video} are of one name: which one is meant?")
        named[name] = video
    return named


def compare_pairs(args: argparse.Namespace) -> dict:
    """Means over the pairs, printed and returned. ValueError: a pair differs in size or length, or is too small."""
    device, weights = usable_device(args.device), find_weights("alexnet", args.alexnet).path if args.alexnet else None
    network = load_lpips(weights, device) if weights else None
    rows = []
    for pair in tqdm(paired(Path(args.model), args.reference), unit="pair", desc="comparing"):
        videos, exact = (read_video(path)[0][None] for path in pair)
        if videos.shape != exact.shape:
            raise ValueError(f"{pair[0]} and {pair[1]} differ: {tuple(videos.shape[1:])} and {tuple(exact.shape[1:])}")
        row = {"psnr": psnr(videos, exact), "ssim": ssim(videos, exact)}
        if network is not None:
            row["lpips"] = lpips(videos, exact, network)
        if videos.shape[1] > 1:
            row |= {"flicker": flicker(videos), "reference_flicker": flicker(exact)}
        rows.append(row)
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    print(f"{len(rows)} pairs; " + ", ".join(f"{name} {value:.4f}" for name, value in means.items()))
    about = {"pairs": len(rows), "videos": args.model, "reference": str(args.reference), **means}
    if network is not None:
        about["alexnet_sha256"] = digest(weights)
        print(f"LPIPS by {weights}, sha256 {about['alexnet_sha256']}")
    return about | {"device": device_name(device), "versions": {"latte": __version__, "torch": torch.__version__}}
