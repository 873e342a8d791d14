"""`latte sample`: videos from a model, and a page, a contact sheet and a moving picture to look at them."""

import argparse
import math
import re
import time
from pathlib import Path

from torch import Tensor

from latte.checkpoint import is_text_pipeline, weights_file
from latte.convert_main import DTYPES
from latte.device import add_device_option, usable_device
from latte.files import writable
from latte.gallery import contact_sheet, is_page, tile, write_page
from latte.pab import KINDS
from latte.parser import Parser
from latte.pipeline import LattePipeline
from latte.published import find_pipeline, find_vae, state_files
from latte.scheduler import ALL, Scheduler
from latte.tensors import digest
from latte.vae_io import vae_file
from latte.video import write_video

PAGE = "index.html"
GUIDANCE = {False: 4.0, True: 7.5}  # scale where none is asked for, of classes and of prompts
GRID = 8192  # a webp ends at 16,383


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """The options that every command that samples has."""
    add = parser.add_argument
    add("--vae", help="the VAE's folder, where the model's own has none")
    add("--num-sampling-steps", default="50", help="a count, or a respacing such as ddim50 (default: 50)")
    add("--cfg-scale", type=float, help="guidance scale; 1: none (default: 4, with prompts 7.5)")
    add("--sampler", choices=ALL, help=f"{', '.join(ALL)} (default: a text-to-video folder's own, else ddim)")
    add("--eta", type=float, default=0.0, help="noise of ddim: 0 none (default), 1 as much as ddpm")
    add("--seed", type=int, default=0, help="video i depends on it, on i and on its class alone (default: 0)")
    add("--batch-size", type=int, default=4, help="videos that go through the networks at once (default: 4)")
    add("--weights", choices=("ema", "model"), default="ema", help="which of a checkpoint's two (default: ema)")
    add_device_option(parser)


def parser() -> Parser:
    """The words of `latte sample`."""
    parser = Parser(prog="latte sample", description=__doc__)
    add = parser.add_argument
    add("model", nargs="?", help="a folder, an original .pt, or what ships (default: shapes; with --prompt shapes-t2v)")
    add("--out", type=Path, default=Path("samples"), help="folder to write to (default: samples)")
    add("--classes", nargs="+", help="numbers or names of classes, or all (default)")
    add("--prompt", nargs="+", help="what a text-to-video model is to show; one video or more of each")
    add("--negative-prompt", default="", help="what it is to stay away from")
    add("--num-videos", type=int, help="of each class (default: 2) or prompt (1), or in all of an unconditional model")
    add("--num-frames", type=int, help="frames of a video (default: as trained)")
    add("--height", type=int, help="in pixels (default: as trained)")
    add("--width", type=int, help="in pixels (default: as trained)")
    add("--fps", type=float, default=8, help="frames per second of the files (default: 8)")
    add("--num-heads", type=int, help="attention heads, for an original file of an unpublished width")
    add("--dtype", choices=DTYPES, default="float32", help="of a text-to-video model's weights (default: float32)")
    add("--memory", choices=("normal", "low"), default="normal", help="low: an 8-bit text encoder, a VAE in parts")
    add("--pab", nargs="+", metavar="KIND=RANGE", help="reuse outputs over steps, such as spatial=2 temporal=3 cross=6")
    add_sampling_options(parser)
    return parser


def main(argv: list[str]) -> None:
    """Sample and write; prints what was made, from which weights, how fast, and what to try next."""
    args = parser().parse_args(argv)
    check(args)
    args.model = args.model or ("shapes-t2v" if args.prompt else "shapes")
    path = find_pipeline(args.model)
    of_text = is_text_pipeline(path)
    check_kind(args, of_text)
    if of_text:
        options = {"torch_dtype": DTYPES[args.dtype], "memory": args.memory, **({"vae": args.vae} if args.vae else {})}
    else:
        options = {"vae": args.vae, "weights": args.weights, "num_heads": args.num_heads}
    pipe = LattePipeline.from_pretrained(path, **options).to(usable_device(args.device))
    if args.pab:
        pipe.enable_pyramid_attention_broadcast(**broadcast_ranges(args.pab))
    sampler = args.sampler or (pipe.scheduler.sampler if of_text else "ddim")
    start = time.perf_counter()
    videos, captions, about = (prompted if of_text else of_classes)(pipe, args)
    seconds = time.perf_counter() - start
    weights = state_files(path / "transformer")[0] if of_text else weights_file(path, args.weights)
    vae = vae_file(find_vae(args.vae, path) if args.vae else path / "vae")
    facts = {
        "weights": f"{args.model}, sha256 {digest(weights)}",
        "vae": f"{args.vae or 'its own'}, sha256 {digest(vae)}",
        "sampler": f"{sampler}, {args.num_sampling_steps} steps, {about}, seed {args.seed}",
        "speed": f"{seconds:.1f} s on {args.device}, {len(videos) / seconds:.2f} videos a second",
    }
    page = show(videos, captions, args.out, args.fps, facts)
    f, _, h, w = videos.shape[1:]
    print(f"{len(videos)} videos of {f} x {h} x {w} in {args.out}: mp4 each, contact-sheet.png, grid.webp, {page.name}")
    for name, value in facts.items():
        print(f"  {name:8} {value}")
    print(f"next: open {page}; latte sample {args.model} --seed {args.seed + 1} --cfg-scale 1; latte train --help")


def of_classes(pipe: LattePipeline, args: argparse.Namespace) -> tuple[Tensor, list[str], str]:
    """uint8 videos (n, f, 3, h, w) of classes, or of none, what each shows, and how they were guided."""
    labels, scale = chosen_labels(pipe, args), GUIDANCE[False] if args.cfg_scale is None else args.cfg_scale
    videos = pipe(
        class_labels=labels,
        num_videos=None if labels else args.num_videos or 2,
        num_inference_steps=args.num_sampling_steps,
        guidance_scale=scale,
        seed=args.seed,
        sampler=args.sampler or "ddim",
        eta=args.eta,
        num_frames=args.num_frames,
        height=args.height,
        width=args.width,
        batch_size=args.batch_size,
        output_type="uint8",
        progress=True,
    ).frames
    if not labels:
        return videos, [f"video {i}" for i in range(len(videos))], "unconditional"
    captions = [pipe.class_names[y] if pipe.class_names else f"class {y}" for y in labels]
    return videos, captions, f"guidance {scale:g}"


def prompted(pipe: LattePipeline, args: argparse.Namespace) -> tuple[Tensor, list[str], str]:
    """The same of prompts, batch_size of them at a time."""
    if args.sampler:
        pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, args.sampler)
    scale = GUIDANCE[True] if args.cfg_scale is None else args.cfg_scale
    captions = [prompt for prompt in args.prompt for _ in range(args.num_videos or 1)]
    names = ("negative_prompt", "eta", "seed", "height", "width", "batch_size")
    videos = pipe(
        captions,
        num_inference_steps=int(args.num_sampling_steps),
        guidance_scale=scale,
        video_length=args.num_frames,
        output_type="uint8",
        **{name: getattr(args, name) for name in names},
    ).frames
    return videos, captions, f"guidance {scale:g}"


def broadcast_ranges(words: list[str]) -> dict[str, int]:
    """ "spatial=2" and the like as options of enable_pyramid_attention_broadcast. ValueError: no such word."""
    ranges = {}
    for word in words:
        kind, _, every = word.partition("=")
        if kind not in KINDS or not every.isdecimal():
            raise ValueError(f"--pab {word}: expected KIND=RANGE, such as spatial=2; the kinds are {', '.join(KINDS)}")
        ranges[f"{kind}_skip_range" if kind == "mlp" else f"{kind}_attn_skip_range"] = int(every)
    return ranges


def check_kind(args: argparse.Namespace, of_text: bool) -> None:
    """ValueError: words that this kind of model has no use for, or a prompt that it needs."""
    if of_text and not args.prompt:
        raise ValueError(f"{args.model} makes videos of prompts: give --prompt")
    if of_text and not args.num_sampling_steps.isdecimal():
        raise ValueError(f"--num-sampling-steps is {args.num_sampling_steps!r}; with prompts it is a count")
    unused = ("classes", "num_heads") if of_text else ("prompt",)
    if wrong := [name for name in unused if getattr(args, name) is not None]:
        kind = "prompts" if of_text else "classes, or unconditional"
        raise ValueError(f"--{wrong[0].replace('_', '-')}: {args.model} is a model of {kind}")
    defaults = {"weights": "ema"} if of_text else {"dtype": "float32", "memory": "normal", "negative_prompt": ""}
    if wrong := [name for name, value in defaults.items() if getattr(args, name) != value]:
        raise ValueError(f"--{wrong[0].replace('_', '-')} does nothing for {args.model}: leave it out")


def check(args: argparse.Namespace) -> None:
    """ValueError, before minutes of work, for what would fail after them."""
    if args.num_videos is not None and args.num_videos < 1:
        raise ValueError(f"--num-videos is {args.num_videos}; it must be 1 or more")
    if not 1 <= args.batch_size <= 4096:
        raise ValueError(f"--batch-size is {args.batch_size}; it must be in 1 to 4096")
    broadcast_ranges(args.pab or [])
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
    each = args.num_videos or 2
    if each * len(names) > 1_000_000:
        raise ValueError(f"--num-videos is {each}: that makes more than a million videos")
    return [pipe.class_index(name) for name in names for _ in range(each)]


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
