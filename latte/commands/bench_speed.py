"""`latte bench speed`: the network in every form, caches and diffusers, timed in turn in one run."""

import argparse
import platform
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any, get_type_hints

import torch

from latte import __version__
from latte.arguments import check_count
from latte.commands.parser import Parser, check_out_file, check_out_folder, write_result
from latte.commands.sampling_options import add_sampling_options, call_settings, open_pipeline
from latte.device import usable_device
from latte.eval.bench.candidates import caches, exact_candidates
from latte.eval.bench.forward_speed import measure_forward
from latte.eval.bench.pab_cost import PAB_RANGES, parse_ranges
from latte.eval.bench.peer import Peer, peers
from latte.eval.bench.sampling_speed import job_of, measure_sampling, why_no_peer
from latte.eval.bench.speed_report import FORWARD, SAMPLING, plot_speed, speed_table
from latte.eval.bench.vae_speed import measure_decoding
from latte.eval.networks.lpips_weights import load_lpips, require_torchmetrics
from latte.eval.reporting import machine_record
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.pipeline import LattePipeline
from latte.weights.tensors import DTYPES

RANDOM = "random"  # the name of a text-to-video model with random weights
PARTS = ("forward", "sampling", "decoding")


def bench_speed(argv: list[str]) -> None:
    """Measure the speed of a model: one evaluation of its network, and whole samplings with their fidelity."""
    args = speed_options().parse_intermixed_args(argv)
    check_speed_options(args)
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        report = measure_speed(args)
    finally:
        torch.set_num_threads(threads)
    write_result(args.out, report)
    if args.plots is not None:
        for picture in plot_speed(report, args.plots):
            print(f"wrote {picture}")


def speed_options() -> argparse.ArgumentParser:
    """The options of the benchmark."""
    parser = Parser(prog="latte bench speed", description=bench_speed.__doc__)
    add = parser.add_argument
    add("model", help=f"a model; or {RANDOM}: text to video with random weights, in the shape that key=value give")
    add("changes", nargs="*", metavar="key=value", help=f"of {RANDOM}: such as num_layers=4 attention_head_dim=72")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to time (default: all)")
    add("--frames", type=int, nargs="+", help="frames of a video (default: as the model was trained)")
    add("--sizes", type=int, nargs="+", help="pixels of a side of a frame (default: as the model was trained)")
    add("--text-tokens", type=int, nargs="+", default=[20], help="random text tokens of an evaluation (default: 20)")
    add("--dtypes", nargs="+", choices=DTYPES, help="of the network; the first is the reference (default: --dtype)")
    add("--compile", action="store_true", help="also compile the networks by torch.compile, which takes minutes")
    defaults = f"{' '.join(PAB_RANGES[True])}; for a model with classes {' '.join(PAB_RANGES[False])}"
    add("--ranges", nargs="*", help=f"ranges of Pyramid Attention Broadcast in sampling (default: {defaults})")
    add("--num-videos", type=int, default=1, help="videos to sample (default: 1)")
    add("--rounds", type=int, default=3, help="how often each is timed, in turn (default: 3)")
    add("--threads", type=int, default=1, help="of the CPU; with 1, seconds are the processor's (default: 1)")
    add("--exam", action="store_true", help="let the examiner judge the samples of a model of the built-in shapes")
    add("--alexnet", type=Path, help="file of AlexNet's weights, for LPIPS")
    add("--peer-python", type=Path, help="an interpreter that has diffusers, whose Latte is then timed in turn, too")
    add("--plots", type=Path, help="write plots of the results to this folder")
    add("--out", type=Path, help="also write the results and what they depend on to this .json file")
    add_sampling_options(parser)
    return parser


def check_speed_options(args: argparse.Namespace) -> None:
    """Raise ValueError, before any work, for options that are out of range or do not go together."""
    for name in ("num_videos", "rounds", "threads"):
        check_count(f"--{name.replace('_', '-')}", getattr(args, name))
    for name in ("frames", "sizes", "text_tokens"):
        for value in getattr(args, name) or ():
            check_count(f"--{name.replace('_', '-')}", value)
    if args.changes and args.model != RANDOM:
        raise ValueError(f"{args.changes[0]} changes the shape of {RANDOM}, not of {args.model}: leave it out")
    for text in args.ranges or ():
        parse_ranges(text)
    check_out_file(args.out)
    if args.plots is not None:
        check_out_folder(args.plots)
    if args.peer_python is not None and not args.peer_python.is_file():
        raise ValueError(f"--peer-python {args.peer_python}: there is no such interpreter")


def measure_speed(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the options ask for, print it, and return it with everything that it depends on."""
    pipe, settings = open_model(args)
    pipe.transformer.requires_grad_(False)
    own = str(next(pipe.transformer.parameters()).dtype).removeprefix("torch.")
    dtypes = list(dict.fromkeys(args.dtypes or [own]))
    exact = exact_candidates(pipe, dtypes, args.compile)
    alexnet = None if args.alexnet is None else load_lpips(args.alexnet, pipe.device)
    sizes = video_sizes(pipe, args.frames, args.sizes)
    with ExitStack() as stack:
        started = stack.enter_context(peers(args.peer_python, pipe.transformer, pipe.device))
        about = {"model": args.model, "changes": args.changes, **machine(pipe.device, started), **settings}
        print(", ".join(f"{key} {value}" for key, value in about.items() if value not in ([], {}, None)))
        forward: list[dict] = []
        for frames, size in sizes if "forward" in args.parts else ():
            for tokens in dict.fromkeys(args.text_tokens if pipe.takes_prompts else [0]):
                forward.append(measure_forward(pipe, exact, started, frames, size, tokens, args.rounds))
                text = f", {tokens} text tokens" if tokens else ""
                print(f"\none evaluation: {frames} frames of {size} x {size}{text}")
                print(speed_table(forward[-1]["rows"], FORWARD), flush=True)
        sampling = None
        if "sampling" in args.parts:
            frames, size = sizes[0]
            ranges = PAB_RANGES[pipe.takes_prompts] if args.ranges is None else args.ranges
            listed = [*exact, *caches(ranges, dtypes[0])]
            shape = {"num_frames": frames, "height": size, "width": size}
            make = lambda count: job_of(pipe, count, shape, args.text_tokens[0], settings, args.exam)
            job, first = make(args.num_videos), make(settings["batch_size"])
            if started and (why := why_no_peer(job)):
                print(f"\ndiffusers is left out of the samplings: {why}")
            sampling = measure_sampling(job, first, listed, [] if started and why else started, args.rounds, alexnet)
            print(f"\nsampling: {args.num_videos} x {frames} frames of {size} x {size}, {sampling['steps']} steps")
            print(speed_table(sampling["rows"], SAMPLING))
        decoding = None
        if "decoding" in args.parts and pipe.vae is not None:
            decoding = measure_decoding(pipe, *sizes[0], args.rounds)
            print("\ndecoding of one video: {} frames of {} x {}".format(*sizes[0], sizes[0][1]))
            print(speed_table(decoding["rows"], FORWARD))
    return {**about, "forward": forward, "sampling": sampling, "decoding": decoding}


def open_model(args: argparse.Namespace) -> tuple[LattePipeline, dict[str, Any]]:
    """The pipeline on its device, and the settings of its call."""
    if args.model != RANDOM:
        pipe, settings, _ = open_pipeline(args)
    else:
        torch.manual_seed(args.seed)
        pipe = LattePipeline(LatteT2V(random_config(args.changes)).to(DTYPES[args.dtype]))
        pipe.to(usable_device(args.device))
        settings = call_settings(pipe, args)
    settings["batch_size"] = min(args.batch_size, args.num_videos)  # no batch is filled up with copies
    if "sampling" in args.parts:
        candidates = PAB_RANGES[pipe.takes_prompts] if args.ranges is None else args.ranges
        for text in candidates:  # raises for a range that the model does not have, before the work
            pipe.enable_pyramid_attention_broadcast(**parse_ranges(text))
            pipe.disable_pyramid_attention_broadcast()
        if pipe.vae is not None:
            require_torchmetrics("SSIM")
    return pipe, settings


def random_config(changes: Sequence[str]) -> LatteT2VConfig:
    """The shape of a model with random weights. Raises ValueError for words that are not key=value of it."""
    kinds, values = get_type_hints(LatteT2VConfig), {}
    known = [name for name in LatteT2VConfig.__dataclass_fields__ if kinds[name] is int]
    for word in changes:
        name, _, value = word.partition("=")
        if name not in known or not value.isdecimal():
            raise ValueError(f"{word}: expected key=NUMBER; the keys are {', '.join(known)}")
        values[name] = int(value)
    return LatteT2VConfig(**values)


def video_sizes(pipe: LattePipeline, frames: list[int] | None, sizes: list[int] | None) -> list[tuple[int, int]]:
    """(frames, pixels of a side): all frames at the first size, then the first frames at the other sizes."""
    trained_frames, side = pipe.conditioning.trained_size(pipe.transformer.config)
    factor = 8 if pipe.vae is None else pipe.vae.factor
    lengths, sides = frames or [trained_frames], sizes or [side * factor]
    found = [(length, sides[0]) for length in lengths] + [(lengths[0], size) for size in sides[1:]]
    for length, size in found:
        pipe.latent_shape(length, None, size, size)
    return list(dict.fromkeys(found))


def machine(device: torch.device, started: Sequence[Peer]) -> dict[str, Any]:
    """What the figures depend on besides the model: processor, versions, date."""
    about: dict[str, Any] = {**machine_record(device), "processor": processor(), "latte": __version__}
    about |= {"python": platform.python_version(), "date": date.today().isoformat()}
    return about | ({"peer": started[0].versions} if started else {})


def processor() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
