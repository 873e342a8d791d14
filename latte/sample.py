"""`latte sample`: videos from a model, and a page, a contact sheet and a moving picture to look at them."""

import argparse
import re
import time
from pathlib import Path

import torch

from latte.checkpoint import find_model
from latte.device import add_device_option, usable_device
from latte.gallery import contact_sheet, tile, write_page
from latte.pipeline import LattePipeline
from latte.tensors import digest
from latte.video import write_video


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command that samples has."""
    add = parser.add_argument
    add("--vae", help="the VAE's folder, where the model's own has none")
    add("--num-sampling-steps", default="50", help="a count, or a respacing such as ddim50 (default: 50)")
    add("--cfg-scale", type=float, default=4.0, help="guidance scale; 1: none (default: 4)")
    add("--sampler", default="ddim", help="ddim (default) or ddpm")
    add("--eta", type=float, default=0.0, help="noise of ddim: 0 none (default), 1 as much as ddpm")
    add("--seed", type=int, default=0, help="video i depends on it, on i and on its class alone (default: 0)")
    add("--batch-size", type=int, default=8, help="videos that go through the networks at once (default: 8)")
    add("--weights", choices=("ema", "model"), default="ema", help="which of a checkpoint's two (default: ema)")
    add_device_option(parser)


def parser() -> argparse.ArgumentParser:
    """The words of `latte sample`."""
    parser = argparse.ArgumentParser(prog="latte sample", description=__doc__)
    add = parser.add_argument
    add("model", nargs="?", default="shapes", help="a model folder, an original .pt file, or one that ships (shapes)")
    add("--out", type=Path, default=Path("samples"), help="folder to write to (default: samples)")
    add("--classes", nargs="+", default=["all"], help="numbers or names of classes, or all (default)")
    add("--num-videos", type=int, default=2, help="of each class, or in all from an unconditional model (default: 2)")
    add("--num-frames", type=int, help="frames of a video (default: as trained)")
    add("--height", type=int, help="in pixels (default: as trained)")
    add("--width", type=int, help="in pixels (default: as trained)")
    add("--fps", type=float, default=8, help="frames per second of the files (default: 8)")
    add("--num-heads", type=int, help="attention heads, for an original file of an unpublished width")
    add_sampling_options(parser)
    return parser


def main(argv: list[str]) -> None:
    """Sample and write; prints what was made, from which weights, how fast, and what to try next."""
    args = parser().parse_args(argv)
    if args.num_videos < 1:
        raise ValueError(f"--num-videos is {args.num_videos}; it must be 1 or more")
    if not args.fps > 0:
        raise ValueError(f"--fps is {args.fps:g}; it must be more than 0")
    if args.out.exists() and not args.out.is_dir():
        raise ValueError(f"--out {args.out} is a file; name a folder")
    path = find_model(args.model)
    pipe = LattePipeline.from_pretrained(path, vae=args.vae, weights=args.weights, num_heads=args.num_heads)
    pipe.to(usable_device(args.device))
    count = pipe.transformer.config.num_classes
    chosen = range(count) if args.classes == ["all"] else args.classes
    labels = [pipe.class_index(label) for label in chosen for _ in range(args.num_videos)] if count else None
    start = time.perf_counter()
    videos = pipe(
        class_labels=labels,
        num_videos=args.num_videos,
        num_inference_steps=args.num_sampling_steps,
        guidance_scale=args.cfg_scale if count else 1.0,
        seed=args.seed,
        sampler=args.sampler,
        eta=args.eta,
        num_frames=args.num_frames,
        height=args.height,
        width=args.width,
        batch_size=min(args.batch_size, len(labels or range(args.num_videos))),
        output_type="uint8",
        progress=True,
    ).frames
    seconds = time.perf_counter() - start
    captions = [pipe.class_names[y] if pipe.class_names else f"class {y}" for y in labels or []]
    file = path if path.is_file() else path / "model.safetensors"
    facts = {
        "weights": f"{args.model}, sha256 {digest(file)}",
        "sampler": f"{args.sampler}, {args.num_sampling_steps} steps, guidance {args.cfg_scale:g}, seed {args.seed}",
        "speed": f"{seconds:.1f} s on {args.device}, {len(videos) / seconds:.2f} videos a second",
    }
    page = show(videos, captions or [f"video {i}" for i in range(len(videos))], args.out, args.fps, facts)
    f, _, h, w = videos.shape[1:]
    print(f"{len(videos)} videos of {f} x {h} x {w} in {args.out}: mp4 each, contact-sheet.png, all.webp, {page.name}")
    for name, value in facts.items():
        print(f"  {name:8} {value}")
    print(f"next: open {page}; latte sample {args.model} --seed {args.seed + 1} --cfg-scale 1; latte train --help")


def show(videos: torch.Tensor, captions: list[str], folder: Path, fps: float, facts: dict[str, str]) -> Path:
    """Write uint8 videos (n, f, 3, h, w) one by one and together; the path of the page."""
    names = [f"{i:03d}-{re.sub(r'[^0-9A-Za-z]+', '-', caption)}.mp4" for i, caption in enumerate(captions)]
    for name, video in zip(names, videos):
        write_video(video, folder / name, fps)
    contact_sheet(videos, captions, folder / "contact-sheet.png")
    write_video(tile(videos, min(4, len(videos))), folder / "all.webp", fps)
    return write_page(folder, list(zip(names, captions)), f"{len(videos)} videos by Latte", facts)
