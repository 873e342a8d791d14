"""`latte sample`: videos from a model, and a page, a contact sheet and a moving picture to look at them."""

import argparse
import math
import re
import time
from pathlib import Path

from torch import Tensor

from latte.checkpoint import find_model, weights_file
from latte.device import add_device_option, usable_device
from latte.files import writable
from latte.gallery import contact_sheet, is_page, tile, write_page
from latte.parser import Parser
from latte.pipeline import LattePipeline
from latte.tensors import digest
from latte.vae_io import vae_file
from latte.video import write_video

PAGE = "index.html"
GRID = 8192  # a webp ends at 16,383


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command that samples has."""
    add = parser.add_argument
    add("--vae", help="the VAE's folder, where the model's own has none")
    add("--num-sampling-steps", default="50", help="a count, or a respacing such as ddim50 (default: 50)")
    add("--cfg-scale", type=float, default=4.0, help="guidance scale; 1: none (default: 4)")
    add("--sampler", default="ddim", help="ddim (default) or ddpm")
    add("--eta", type=float, default=0.0, help="noise of ddim: 0 none (default), 1 as much as ddpm")
    add("--seed", type=int, default=0, help="video i depends on it, on i and on its class alone (default: 0)")
    add("--batch-size", type=int, default=4, help="videos that go through the networks at once (default: 4)")
    add("--weights", choices=("ema", "model"), default="ema", help="which of a checkpoint's two (default: ema)")
    add_device_option(parser)


def parser() -> Parser:
    """The words of `latte sample`."""
    parser = Parser(prog="latte sample", description=__doc__)
    add = parser.add_argument
    add("model", nargs="?", default="shapes", help="a model folder, an original .pt file, or what ships (shapes)")
    add("--out", type=Path, default=Path("samples"), help="folder to write to (default: samples)")
    add("--classes", nargs="+", help="numbers or names of classes, or all (default)")
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
    check(args)
    path = find_model(args.model)
    pipe = LattePipeline.from_pretrained(path, vae=args.vae, weights=args.weights, num_heads=args.num_heads)
    pipe.to(usable_device(args.device))
    labels, start = chosen_labels(pipe, args), time.perf_counter()
    videos = pipe(
        class_labels=labels,
        num_videos=None if labels else args.num_videos,
        num_inference_steps=args.num_sampling_steps,
        guidance_scale=args.cfg_scale,
        seed=args.seed,
        sampler=args.sampler,
        eta=args.eta,
        num_frames=args.num_frames,
        height=args.height,
        width=args.width,
        batch_size=args.batch_size,
        output_type="uint8",
        progress=True,
    ).frames
    seconds = time.perf_counter() - start
    captions = [f"video {i}" for i in range(len(videos))]
    if labels:
        captions = [pipe.class_names[y] if pipe.class_names else f"class {y}" for y in labels]
    guidance = f"guidance {args.cfg_scale:g}" if labels else "unconditional"
    vae = vae_file(find_model(args.vae) if args.vae else path / "vae")
    facts = {
        "weights": f"{args.model}, sha256 {digest(weights_file(path, args.weights))}",
        "vae": f"{args.vae or 'its own'}, sha256 {digest(vae)}",
        "sampler": f"{args.sampler}, {args.num_sampling_steps} steps, {guidance}, seed {args.seed}",
        "speed": f"{seconds:.1f} s on {args.device}, {len(videos) / seconds:.2f} videos a second",
    }
    page = show(videos, captions, args.out, args.fps, facts)
    f, _, h, w = videos.shape[1:]
    print(f"{len(videos)} videos of {f} x {h} x {w} in {args.out}: mp4 each, contact-sheet.png, grid.webp, {page.name}")
    for name, value in facts.items():
        print(f"  {name:8} {value}")
    print(f"next: open {page}; latte sample {args.model} --seed {args.seed + 1} --cfg-scale 1; latte train --help")


def check(args: argparse.Namespace) -> None:
    """ValueError, before minutes of work, for what would fail after them."""
    if args.num_videos < 1:
        raise ValueError(f"--num-videos is {args.num_videos}; it must be 1 or more")
    if not 0.1 <= args.fps <= 1000:
        raise ValueError(f"--fps is {args.fps:g}; it must be in 0.1 to 1000")
    if not writable(args.out):
        raise ValueError(f"--out {args.out} is not a folder that can be written to")
    if (args.out / PAGE).exists() and not is_page(args.out / PAGE):
        raise ValueError(f"{args.out / PAGE} is not one that was written here: choose another folder, --out")


def chosen_labels(pipe: LattePipeline, args: argparse.Namespace) -> list[int] | None:
    """The class of every video, num_videos of each in turn; None: the model has no classes."""
    count = pipe.transformer.config.num_classes
    if not count:
        if args.classes:
            raise ValueError("this model is unconditional: it knows no --classes")
        return None
    names = range(count) if args.classes in (None, ["all"]) else args.classes
    if args.num_videos * len(names) > 1_000_000:
        raise ValueError(f"--num-videos is {args.num_videos}: that makes more than a million videos")
    return [pipe.class_index(name) for name in names for _ in range(args.num_videos)]


def show(videos: Tensor, captions: list[str], folder: Path, fps: float, facts: dict[str, str]) -> Path:
    """Write uint8 videos (n, f, 3, h, w) one by one, in place of those of the page before, and a page of them.

    The contact sheet and grid.webp have the first of them, as many as fit in a square of GRID pixels, 8 x 8 at most.
    Returns the path of the page.
    """
    page = folder / PAGE
    for old in re.findall(r'src="(\d{3,}-[^"/]+\.mp4)"', page.read_text() if is_page(page) else ""):
        (folder / old).unlink(missing_ok=True)
    names = [f"{i:03d}-{re.sub(r'[^0-9A-Za-z]+', '-', caption)[:60]}.mp4" for i, caption in enumerate(captions)]
    for name, video in zip(names, videos):
        write_video(video, folder / name, fps)
    most = min(8, max(1, GRID // max(videos.shape[3:])))
    first = videos[: most**2]
    contact_sheet(first, captions[: len(first)], folder / "contact-sheet.png")
    write_video(tile(first, min(most, len(first), max(4, math.isqrt(len(first))))), folder / "grid.webp", fps)
    return write_page(folder, list(zip(names, captions)), f"{len(videos)} videos by Latte", facts)
