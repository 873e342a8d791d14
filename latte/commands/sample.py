"""`latte sample`: make videos with a model, and a page, a contact sheet and an animation to view them.

Processes that torchrun starts make each video together, and the first one writes the page.

With --n it makes a set for evaluation: lossless files, cycling through the classes or prompts. It makes the missing
videos, with one process or several at once, each of which makes videos of its own, and writes no page.
"""

import argparse
import math
import os
import re
import shlex
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor

from latte.arguments import MOST_VIDEOS, counted
from latte.commands.options.sampling import sample_parser
from latte.commands.sampling_options import model_record, open_sampler, reuse_record
from latte.device import default_device, usable_device
from latte.files import replacing_folder
from latte.folder_lock import exclusive
from latte.launch import launch
from latte.parallel import parallel, sampling_mesh
from latte.pipeline import LattePipeline
from latte.processes import Ranks, local_device, processes
from latte.sample_many import RECORD, sample_many
from latte.sampling_settings import WORDS
from latte.video.page import GRID_FILE, PAGE_FILE, SHEET_FILE, contact_sheet, is_page, tile, write_page
from latte.video.write import write_video
from latte.weights.find_models import bundled_models
from latte.weights.manifest import digest

SAMPLES = "samples"  # the folder by default
LARGEST_GRID = 8192  # pixels of a side; a WebP can have 16,383


def main(args: argparse.Namespace) -> None:
    """Sample and write; print what was made, from which weights, how fast, and what to try next."""
    check_out(args)
    args.device = args.device or default_device()
    args.model = args.model or ("shapes-t2v" if args.prompt else "shapes")
    args.device = local_device(args.device)
    if args.count:
        args.out = args.out or Path(SAMPLES)
        make_set(*open_sampler(args), args)
        return
    with processes(usable_device(args.device)) as ranks, quiet(not ranks.first):
        sampler = open_sampler(args)
        args.out = args.out or ranks.first_only(free_folder)
        # two pages in one folder would remove each other's videos
        with ranks.first_inside(lambda: exclusive(args.out, replaced=True)):
            ranks.first_only(lambda: check_out(args))  # another call may have finished there meanwhile
            make_page(*sampler, args, ranks)


@contextmanager
def quiet(silent: bool) -> Iterator[None]:
    """Within the context, if `silent`, no warning is shown: the first process shows the same ones."""
    with warnings.catch_warnings():
        if silent:
            warnings.simplefilter("ignore")
        yield


def make_set(pipe: LattePipeline, settings: dict[str, Any], files: list[Path], args: argparse.Namespace) -> None:
    """Complete a set of args.count videos for evaluation, together with the other processes; the first one reports."""
    rank, size, _ = launch()
    asked, _ = (prompts_call if pipe.takes_prompts else classes_call)(pipe, args, 1)
    labels = asked.get("prompt") or asked.get("class_labels")
    of_all = {name: asked[name] for name in ("negative_prompt", "num_frames", "video_length") if asked.get(name)}
    settings = {**settings, **of_all, "height": args.height, "width": args.width}
    about = {**model_record(args, files), "pab": None, **reuse_record(pipe, args)}
    start = time.perf_counter()
    made = sample_many(pipe, args.count, args.out, labels, settings, about, args.fps, rank, size, progress=rank == 0)
    seconds = time.perf_counter() - start
    if rank == 0:
        speed = f"made {made} in {seconds:.1f} s, {made / seconds:.2f} per second" if made else "all existed already"
        what = f"{counted(args.count, 'video')} in {args.out}"
        print(f"{what}: {speed}; lossless .mkv files, and their settings in {RECORD}")
        measure = f"latte eval {shlex.quote(str(args.out))} --real FOLDER"
        print(f"next: {measure}, with real videos; the same command with a larger --n adds to these")


def make_page(
    pipe: LattePipeline, settings: dict[str, Any], files: list[Path], args: argparse.Namespace, ranks: Ranks
) -> None:
    """Make the videos that the options ask for, each in all processes together; the first one writes a page of them."""
    asked, captions = (prompts_call if pipe.takes_prompts else classes_call)(pipe, args, args.num_videos)
    options = {**asked, **settings, "height": args.height, "width": args.width, "output_type": "uint8"}
    start = time.perf_counter()
    videos, layout = sample_together(pipe, options, ranks)
    seconds = time.perf_counter() - start
    if not ranks.first:
        return
    facts = page_facts(pipe, settings, files, args) | layout
    facts["speed"] = f"{seconds:.1f} s on {args.device}, {len(videos) / seconds:.2f} videos per second"
    page = show(videos, captions, args.out, args.fps, facts)
    f, _, h, w = videos.shape[1:]
    what = f"{counted(len(videos), 'video')} of {f} x {h} x {w} in {args.out}"
    print(f"{what}: an mp4 each, {SHEET_FILE}, {GRID_FILE}, {page.name}")
    for name, value in facts.items():
        print(f"  {name:8} {value}")
    train = "; latte train --help" if args.model in bundled_models() else ""  # they have not trained a model yet
    print(f"next: open {page}; latte sample {shlex.join(other_seed(args))}{train}")


def sample_together(pipe: LattePipeline, options: dict[str, Any], ranks: Ranks) -> tuple[Tensor, dict[str, str]]:
    """The videos of a call, and a fact for the page if several processes shared it."""
    if ranks.size == 1:
        return pipe(**options).frames, {}
    guided = pipe.conditioning.guides(pipe, pipe.asked_guidance(options))
    mesh = sampling_mesh(pipe.device.type, guided and pipe.weaker is None)
    weaker = nullcontext() if pipe.weaker is None else parallel(mesh, pipe.weaker)
    with parallel(mesh, pipe.transformer, pipe.vae), weaker:
        videos = pipe(**options, progress=ranks.first).frames
    halves, frames = mesh.shape
    split = f"the frames in {frames}" + (", the halves of guidance apart" if halves == 2 else "")
    return videos, {"shared": f"by {ranks.size} processes: {split}"}


def page_facts(pipe: LattePipeline, settings: dict, files: list[Path], args: argparse.Namespace) -> dict[str, str]:
    """What a page says about its videos: the model, its weights, and how they were sampled."""
    guidance, sampler = pipe.asked_guidance(settings), settings.get("sampler") or pipe.scheduler.sampler
    conditional = pipe.takes_prompts or pipe.transformer.config.num_classes
    between = " at t of {:g} to {:g}".format(*settings["guidance_interval"]) if "guidance_interval" in settings else ""
    how = "".join(f", {settings[name]}" for name in WORDS[2:-1] if name in settings)
    away = "" if pipe.weaker is None else f", away from {args.autoguidance or 'its weaker model'}"
    guided = f"guidance {guidance.strength:g}{between}{how}{away}" if conditional or away else "unconditional"
    noise = f", eta {settings['eta']:g}" if settings["eta"] else ""
    return {
        "model": args.model,
        "vae": args.vae or "its own",
        "weights": ", ".join(f"{Path(file.parent.name, file.name)} sha256 {digest(file)}" for file in files),
        "sampler": f"{sampler}, {settings['num_inference_steps']} steps{noise}, {guided}, seed {args.seed}",
        **({"reuse": f"Pyramid Attention Broadcast, {' '.join(args.pab)}"} if args.pab else {}),
        **({"plan": str(args.plan)} if args.plan else {}),
        **({"dtype": args.dtype} if args.dtype != "float32" else {}),
        **({"memory": args.memory} if args.memory != "normal" else {}),
    }


def other_seed(args: argparse.Namespace) -> list[str]:
    """The arguments of the same call with the next seed, and with a folder of its own."""
    parser = sample_parser()
    asked = parser.parse_args(args.given)
    asked.seed += 1
    if asked.out and not asked.overwrite:
        asked.out = free_folder(asked.out)
    return parser.words(asked)


def classes_call(pipe: LattePipeline, args: argparse.Namespace, each: int | None) -> tuple[dict[str, Any], list[str]]:
    """The arguments of the call for a class-conditional or unconditional model, and a caption for each video.

    `each` is the number of videos per class, or of an unconditional model; None means 2.
    """
    if args.prompt or args.negative_prompt:
        raise ValueError(f"--prompt does nothing for {args.model}, which is not a text-to-video model: use --classes")
    labels = chosen_labels(pipe, args, each or 2)
    asked = {"class_labels": labels, "num_videos": None if labels else each or 2}
    if labels:
        captions = [pipe.class_names[y] if pipe.class_names else f"class {y}" for y in labels]
    else:
        captions = [f"video {i}" for i in range(asked["num_videos"])]
    return {**asked, "num_frames": args.num_frames}, captions


def prompts_call(pipe: LattePipeline, args: argparse.Namespace, each: int | None) -> tuple[dict[str, Any], list[str]]:
    """The arguments of the call for a text-to-video model, and captions; `each`: videos per prompt (None means 1)."""
    if args.classes:
        raise ValueError(f"--classes does nothing for {args.model}, a text-to-video model: use --prompt")
    if not args.prompt:
        raise ValueError(f"{args.model} makes videos from prompts: give --prompt")
    each = each or 1
    asked = {"prompt": args.prompt, "negative_prompt": args.negative_prompt, "num_videos_per_prompt": each}
    return {**asked, "video_length": args.num_frames}, [prompt for prompt in args.prompt for _ in range(each)]


def check_out(args: argparse.Namespace) -> None:
    """Raise ValueError, before minutes of work, if the folder of --out holds files that would be mixed up or lost."""
    if args.overwrite and (args.count or args.out is None):
        raise ValueError("--overwrite replaces the page of an earlier call in --out: give --out FOLDER, without --n")
    if args.count or args.out is None:
        return
    page = args.out / PAGE_FILE
    if (args.out / RECORD).exists():
        raise ValueError(f"{args.out} holds videos for evaluation: choose another folder, --out")
    if page.exists() and not is_page(page):
        raise ValueError(f"{page} was not written by this command: choose another folder, --out")
    if not page.exists() and args.out.is_dir() and set(visible(args.out)):
        raise ValueError(f"{args.out} holds other files, and no page of this command: choose another folder, --out")
    if page.exists() and not args.overwrite:
        raise ValueError(f"{args.out} holds videos of an earlier call: choose another --out, or add --overwrite")


def free_folder(first: Path = Path(SAMPLES)) -> Path:
    """The first of samples, samples-2, samples-3 and so on that holds nothing yet."""
    folders = (first.with_name(f"{first.name}-{i}") if i > 1 else first for i in count(1))
    return next(path for path in folders if not path.exists() or (path.is_dir() and not set(visible(path))))


def visible(folder: Path) -> Iterator[str]:
    """The names in a folder, without hidden ones."""
    return (name for name in os.listdir(folder) if name[0] != ".")


def chosen_labels(pipe: LattePipeline, args: argparse.Namespace, each: int) -> list[int] | None:
    """The class of every video, `each` of a class side by side; None for an unconditional model."""
    count = pipe.transformer.config.num_classes
    if not count:
        if args.classes:
            raise ValueError("this model is unconditional: it has no --classes")
        return None
    names = range(count) if args.classes in (None, ["all"]) else args.classes
    if each * len(names) > MOST_VIDEOS:
        raise ValueError(f"--num-videos is {each}: that makes more than {MOST_VIDEOS} videos")
    return [pipe.class_index(name) for name in names for _ in range(each)]


def show(videos: Tensor, captions: list[str], folder: Path, fps: float, facts: dict[str, str]) -> Path:
    """Write videos and a page of them, in place of those of the previous page there.

    The previous page and its videos stay complete until the new ones are, unless the folder holds other files too: then
    the new files replace them one by one at the very end.

    The contact sheet and grid.webp show the first videos, as many as fit in a square of LARGEST_GRID pixels, 8 x 8 at
    most.

    Args:
        videos: uint8 (n, f, 3, h, w).
        captions: One per video.
        folder: Where to write.
        fps: Frames per second of the files.
        facts: What the page says about them.

    Returns:
        The path of the page.
    """
    page = folder / PAGE_FILE
    previous = set(re.findall(r'src="(\d{3,}-[^"/]+\.mp4)"', page.read_text() if is_page(page) else ""))
    there = set(visible(folder)) if folder.is_dir() else set()
    others = there - previous - {PAGE_FILE, SHEET_FILE, GRID_FILE}
    names = [f"{i:03d}-{re.sub(r'[^0-9A-Za-z]+', '-', caption)[:60]}.mp4" for i, caption in enumerate(captions)]
    most = min(8, max(1, LARGEST_GRID // max(videos.shape[3:])))
    first = videos[: most**2]
    with replacing_folder(folder, into=bool(others)) as draft:
        for name, video in zip(names, videos):
            write_video(video, draft / name, fps)
        contact_sheet(first, captions[: len(first)], draft / SHEET_FILE)
        write_video(tile(first, min(most, len(first), max(4, math.isqrt(len(first))))), draft / GRID_FILE, fps)
        write_page(draft, list(zip(names, captions)), f"{counted(len(videos), 'video')} by Latte", facts)
    for old in previous - set(names):
        (folder / old).unlink(missing_ok=True)
    return page
