"""Videos beside those that they stand in for, pair by pair: the work behind `latte eval --reference`."""

import argparse
from pathlib import Path

from tqdm import tqdm

from latte.device import usable_device
from latte.eval.fidelity import load_lpips, lpips, psnr, ssim
from latte.eval.flicker import flicker
from latte.video import list_videos, read_video


def paired(folder: Path, reference: Path) -> list[tuple[Path, Path]]:
    """Videos of the same name below two folders, whatever their suffix.

    ValueError: one has a video that the other lacks. FileNotFoundError: no such folder.
    """
    by_name = lambda root: {video.relative_to(root).with_suffix(""): video for video in list_videos(root)}
    ours, theirs = by_name(folder), by_name(reference)
    lone = sorted(ours.keys() ^ theirs.keys())
    if lone or not ours:
        what = f"only one of them has {lone[0]}" if lone else "they hold no videos"
        raise ValueError(f"{folder} and {reference} are not pairs: {what}")
    return [(ours[name], theirs[name]) for name in sorted(ours)]


def compare_pairs(args: argparse.Namespace) -> dict:
    """Means over the pairs, printed and returned. ValueError: a pair differs in size or length, or is too small."""
    network = load_lpips(args.alexnet, usable_device(args.device)) if args.alexnet else None
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
    return {"pairs": len(rows), "videos": args.model, "reference": str(args.reference), **means}
