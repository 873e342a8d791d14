"""What Pyramid Attention Broadcast (arXiv 2408.12588) saves and what it costs, on a model of the built-in shapes."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from latte.eval.bench.resources import LiveTensors, weight_bytes
from latte.eval.exam import judge, questions
from latte.eval.fidelity import psnr, ssim
from latte.eval.reporting import markdown_table
from latte.pab import KINDS, broadcast_options
from latte.pipeline import LattePipeline

COLUMNS = {"seconds": ".1f", "speedup": ".2f", "peak_mb": ".1f", "psnr": ".1f", "ssim": ".3f"}  # of results, as shown


@contextmanager
def counting(model: torch.nn.Module) -> Iterator[dict[str, float]]:
    """Count what a model computes, in contrast to what it takes from the broadcast cache.

    Yields:
        A dictionary that is filled when the context ends: under "model" the evaluations of the model, and under each
        kind of layer (see latte.pab.KINDS) how often one layer of that kind computed, on average.
    """
    layers = [layer for layer in model.modules() if getattr(layer, "kind", None) in KINDS]
    of_kind, computed, counts = Counter(layer.kind for layer in layers), Counter(), {}
    # a layer that computes calls its submodules; one whose output is broadcast does not
    watched = [(next(layer.children()), layer.kind) for layer in layers] + [(model, "model")]
    count = lambda kind: lambda *_: computed.update([kind])
    hooks = [module.register_forward_pre_hook(count(kind)) for module, kind in watched]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
        counts.update({kind: computed[kind] / (of_kind[kind] or 1) for kind in ("model", *of_kind)})


def first_inputs(inputs: dict, count: int) -> dict:
    """The inputs of the first `count` videos."""
    return {name: values[:count] for name, values in inputs.items()}


def peak_bytes(pipe: LattePipeline, inputs: dict, settings: dict) -> int:
    """The peak memory in bytes, all weights included, while the latents of one batch are sampled."""
    batch = first_inputs(inputs, settings["batch_size"])
    sample = lambda: pipe(**batch, output_type="latent", progress=False, **settings)
    if pipe.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(pipe.device)
        sample()
        return torch.cuda.max_memory_allocated(pipe.device)
    with LiveTensors() as memory:
        sample()
    return weight_bytes(pipe.networks()) + memory.peak


def parse_ranges(text: str) -> dict[str, int]:
    """Options of `enable_pyramid_attention_broadcast` from "2/3/5": spatial, temporal, cross and MLP ranges.

    Raises:
        ValueError: there are too many numbers, or they are not whole numbers.
    """
    numbers = text.split("/")
    if len(numbers) > len(KINDS):
        raise ValueError(f"broadcast ranges {text}: there are {len(KINDS)} kinds, {'/'.join(KINDS)}")
    if not all(number.isdecimal() for number in numbers):
        raise ValueError(f"broadcast ranges {text}: expected whole numbers for {'/'.join(KINDS)}, such as 2/3/5")
    return broadcast_options({kind: int(number) for kind, number in zip(KINDS, numbers)})


def measure_broadcast(pipe: LattePipeline, count: int, ranges: Sequence[str], settings: dict) -> dict[str, dict]:
    """Sample the same videos without broadcasting and with each of some ranges, one after the other.

    Args:
        pipe: a model of the built-in shapes.
        count: the number of videos.
        ranges: such as "2/3/5", see `parse_ranges`.
        settings: further options of the pipeline's call.

    Returns:
        Results for "exact" (no broadcasting) and for each of `ranges`: "seconds" for all videos, from classes or
        prompts to pixels; "speedup" over exact; "peak_mb" in 10^6 bytes; "psnr" in dB and "ssim" to the exact videos;
        "computed", the share of evaluations in which each kind of layer computed; and the examiner's "scores".

    Raises:
        ValueError: a range is not valid for this model, or the model does not generate the built-in shapes.
    """
    inputs, truths = questions(pipe, count)
    for text in ranges:
        pipe.enable_pyramid_attention_broadcast(**parse_ranges(text))
    results, exact = {}, None
    for text in (None, *ranges):
        pipe.disable_pyramid_attention_broadcast()
        if text:
            pipe.enable_pyramid_attention_broadcast(**parse_ranges(text))
        pipe(**first_inputs(inputs, 1), progress=False, **settings | {"num_inference_steps": 2})  # warm-up
        start = time.perf_counter()
        with counting(pipe.transformer) as counts:
            videos = pipe(**inputs, output_type="uint8", progress=True, **settings).frames
        seconds = time.perf_counter() - start
        exact = videos if exact is None else exact
        results[text or "exact"] = {
            "seconds": seconds,
            "speedup": results["exact"]["seconds"] / seconds if text else 1.0,
            "peak_mb": peak_bytes(pipe, inputs, settings) / 1e6,
            "psnr": psnr(videos, exact),
            "ssim": ssim(videos, exact),
            "computed": {kind: counts[kind] / counts["model"] for kind in KINDS if kind in counts},
            "scores": judge(pipe, videos.numpy(), truths),
        }
    pipe.disable_pyramid_attention_broadcast()
    return results


def broadcast_table(results: dict[str, dict]) -> str:
    """The result of `measure_broadcast` as a Markdown table, one row per setting."""
    kinds = list(results["exact"]["computed"])
    scores = [name for name, value in results["exact"]["scores"].items() if isinstance(value, float)]
    shown = [name for name in scores if name.endswith(("accuracy", "constancy", "right"))]
    header = ["", *(f"{kind} computed" for kind in kinds), *COLUMNS, *(name.replace("_", " ") for name in shown)]
    rows = []
    for name, result in results.items():
        cells = [f"{100 * result['computed'][kind]:.0f} %" for kind in kinds]
        cells += [format(result[column], digits) for column, digits in COLUMNS.items()]
        rows.append([name, *cells, *(f"{result['scores'][score]:.3f}" for score in shown)])
    return markdown_table(header, rows)
