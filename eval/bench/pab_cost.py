"""`latte bench pab`: what Pyramid Attention Broadcast saves and what it costs, on a model of the built-in shapes."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from latte.commands.parser import Parser
from latte.commands.sampling_options import add_sampling_options, opened
from latte.eval.bench.peak_memory import LiveTensors, weight_bytes
from latte.eval.exam import judge, origin, questions
from latte.eval.fidelity import psnr, ssim
from latte.files import writable, write_json
from latte.pab import KINDS, broadcast_ranges
from latte.pipeline import LattePipeline
from latte.text_pipeline import TextPipeline

RANGES = {True: ("2/3/5", "2/3/6", "3/4/7", "4/6/9"), False: ("2/3", "3/4", "4/6")}  # of prompts, of classes
COLUMNS = {"seconds": ".1f", "speedup": ".2f", "peak_mb": ".1f", "psnr": ".1f", "ssim": ".3f"}


@contextmanager
def counting(model: torch.nn.Module) -> Iterator[dict[str, float]]:
    """How many evaluations of the model, and of each kind's layers on average, were computed and not taken again."""
    layers = [layer for layer in model.modules() if getattr(layer, "kind", None) in KINDS]
    of_kind, computed, counts = Counter(layer.kind for layer in layers), Counter(), {}
    # a layer that computes calls its parts; one that is broadcast does not
    watched = [(next(layer.children()), layer.kind) for layer in layers] + [(model, "model")]
    note = lambda kind: lambda *_: computed.update([kind])
    hooks = [module.register_forward_pre_hook(note(kind)) for module, kind in watched]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
        counts.update({kind: computed[kind] / (of_kind[kind] or 1) for kind in ("model", *of_kind)})


def peak_bytes(pipe: LattePipeline, asked: dict, settings: dict) -> int:
    """The most bytes at once, all weights included, while the latents of one batch are made."""
    few = first(asked, settings["batch_size"])
    make = lambda: pipe(**few, output_type="latent", progress=False, **settings)
    if pipe.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(pipe.device)
        make()
        return torch.cuda.max_memory_allocated(pipe.device)
    with LiveTensors() as memory:
        make()
    return weight_bytes(pipe.networks()) + memory.peak


def first(asked: dict, count: int) -> dict:
    """The same for fewer videos."""
    return {name: values[:count] for name, values in asked.items()}


def measure(pipe: LattePipeline, count: int, ranges: list[str], settings: dict) -> dict[str, dict]:
    """Without broadcasting ("exact") and with each of `ranges`, such as "2/3/5": see COLUMNS, with the exam's scores.

    "computed": shares of evaluations in which the layers of a kind computed. Seconds are those of all the videos, from
    classes or prompts to pixels, one setting after the other. ValueError: see latte.eval.exam, or no such ranges.
    """
    asked, truths = questions(pipe, count)
    ssim(*[torch.from_numpy(truths[0].video)[None]] * 2)  # what it lacks is told before the work
    for words in ranges:
        pipe.enable_pyramid_attention_broadcast(**options(words))
    results, exact = {}, None
    for words in (None, *ranges):
        pipe.disable_pyramid_attention_broadcast()
        if words:
            pipe.enable_pyramid_attention_broadcast(**options(words))
        pipe(**first(asked, 1), progress=False, **settings | {"num_inference_steps": 2})  # to warm up
        start = time.perf_counter()
        with counting(pipe.transformer) as counts:
            videos = pipe(**asked, output_type="uint8", progress=True, **settings).frames
        seconds = time.perf_counter() - start
        exact = videos if exact is None else exact
        results[words or "exact"] = {
            "seconds": seconds,
            "speedup": results["exact"]["seconds"] / seconds if words else 1.0,
            "peak_mb": peak_bytes(pipe, asked, settings) / 1e6,
            "psnr": psnr(videos, exact),
            "ssim": ssim(videos, exact),
            "computed": {kind: counts[kind] / counts["model"] for kind in KINDS if kind in counts},
            "scores": judge(pipe, videos.numpy(), truths),
        }
    pipe.disable_pyramid_attention_broadcast()
    return results


def options(words: str) -> dict[str, int]:
    """ "2/3/5" as options of enable_pyramid_attention_broadcast: spatial, temporal, cross, MLP."""
    numbers = words.split("/")
    if len(numbers) > len(KINDS):
        raise ValueError(f"--ranges {words}: there are {len(KINDS)} kinds, {'/'.join(KINDS)}")
    return broadcast_ranges([f"{kind}={number}" for kind, number in zip(KINDS, numbers)])


def table(results: dict[str, dict]) -> str:
    """Markdown: one row a setting."""
    kinds = list(results["exact"]["computed"])
    scores = [name for name, value in results["exact"]["scores"].items() if isinstance(value, float)]
    shown = [name for name in scores if name.endswith(("accuracy", "constancy", "right"))]
    names = ["", *(f"{kind} computed" for kind in kinds), *COLUMNS, *(name.replace("_", " ") for name in shown)]
    lines = [" | ".join(names), " | ".join("---" for _ in names)]
    for name, result in results.items():
        cells = [f"{100 * result['computed'][kind]:.0f} %" for kind in kinds]
        cells += [format(result[column], digits) for column, digits in COLUMNS.items()]
        lines.append(" | ".join([name, *cells, *(f"{result['scores'][score]:.3f}" for score in shown)]))
    return "\n".join(f"| {line} |" for line in lines)


def main(argv: list[str]) -> None:
    """Print the table and, if asked, write it with everything that it depends on."""
    parser = Parser(prog="latte bench pab", description=__doc__)
    add = parser.add_argument
    add("model", nargs="?", default="shapes-t2v", help="a model of the built-in shapes (default: shapes-t2v)")
    add("--ranges", nargs="+", help=f"spatial/temporal/cross/mlp (default: {' '.join(RANGES[True])})")
    add("--num-videos", type=int, default=64, help="videos of each setting (default: 64)")
    add("--out", type=Path, help="a .json file for the results and their settings")
    add_sampling_options(parser)
    args = parser.parse_args(argv)
    if args.out and (args.out.is_dir() or not writable(args.out.parent)):
        raise ValueError(f"--out {args.out} is not a file that can be written: name one, such as cost.json")
    pipe, settings, files = opened(args)
    results = measure(pipe, args.num_videos, args.ranges or RANGES[isinstance(pipe, TextPipeline)], settings)
    about = origin(pipe, settings, files, args.model, args.weights, args.dtype, args.memory)
    about["weights_mb"] = weight_bytes(pipe.networks()) / 1e6
    print(table(results))
    print(f"{args.num_videos} videos a row on {about['device']}, of weights {about['weights_mb']:.1f} MB")
    if args.out:
        write_json(args.out, {**about, "results": results})
        print(f"wrote {args.out}")
