"""The speed of training steps: clips per second, and their share of the speed of the machine's matrix products."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from latte.device import arithmetic
from latte.eval.bench.original_blocks import check_has_original, original_blocks
from latte.eval.bench.products import fastest
from latte.eval.bench.resources import timed
from latte.models.latte import Latte, LatteConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.processes import Ranks
from latte.train.base_config import TrainConfig
from latte.train.data.clips import Clips
from latte.train.data.folders import open_clips
from latte.train.data.latents import Latents
from latte.train.objectives.token_routing import route, routed, staying
from latte.train.parallel import micro_batches
from latte.train.precision import COMPUTE_DTYPES
from latte.train.run import Run
from latte.weights.find_models import find_model
from latte.weights.tensors import CheckpointError
from latte.weights.vae_folder import save_vae

SIDES = {"cuda": 8192, "cpu": 2048}  # of the square matrices that the machine's speed is measured with
SOURCES = ("latents", "video")  # what a step starts from: latents in memory, or videos that are read and encoded
BLOCKS = ("fast", "readable", "original")  # how blocks compute: fast ones as readable if compiled or fast=false
ROW_HEADER = f"{'precision':9} {'compiled':8} {'source':8} {'blocks':8}"
ROW_HEADER += f" {'s/step':>8} {'clips/s':>8} {'TFLOP/s':>8} {'of matmul':>9}"


class RandomLatents:
    """A source of latents that are in memory before the step, so that reading and encoding take no time."""

    def __init__(self, config: TrainConfig, channels: int, side: int, device: torch.device):
        shape = (config.global_batch_size, config.num_frames + config.num_images, channels, side, side)
        self.mean, self.labels = torch.randn(shape, device=device), torch.zeros(shape[0], 1 + config.num_images)

    def batch(self, step: int, slots: range) -> Latents:
        """The latents of some slots of the batch, the same at every step."""
        some = slice(slots.start, slots.stop)
        return Latents(self.mean[some], torch.ones_like(self.mean[some]), self.labels[some].long(), [])


def matmul_rate(precision: str, device: torch.device, repeats: int = 10, side: int | None = None) -> float:
    """Floating-point operations per second of a large matrix product in some precision: the fastest of `repeats`.

    On a CPU it is computed by the faster of PyTorch and oneDNN.
    """
    side, dtype = side or SIDES[device.type], COMPUTE_DTYPES[precision]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with arithmetic(precision):
        return 2 * side**3 / min(timed(fastest(torch.ops.aten.mm.default, (a, b)), device, repeats))


def step_flops(config: LatteConfig, num_images: int, train: TrainConfig | None = None) -> int:
    """The floating-point operations of a training step on one clip.

    Args:
        config: of the network.
        num_images: still images that are trained beside the clip.
        train: of the training, whose tokens may skip blocks (train.route_share).

    Returns:
        Three times the operations of the forward pass, which are counted: the backward pass has twice as many.
    """
    with torch.device("meta"):
        network = Latte(config)
    routing: AbstractContextManager[None] = nullcontext()
    if train is not None and train.route_share:
        places = staying(train, (config.input_size // config.patch_size) ** 2, 0, range(1))
        routing = routed(network, route(train, network), places)
    with torch.device("meta"), routing, FlopCounterMode(display=False) as counter, torch.no_grad():
        frames = config.num_frames + num_images
        x = torch.zeros(1, frames, config.in_channels, config.input_size, config.input_size)
        label = torch.zeros(1, 1 + num_images, dtype=torch.long) if config.num_classes else None
        network(x, torch.zeros(1, dtype=torch.long), label, num_images=num_images)
    return 3 * sum(counter.get_flop_counts()["Global"].values())


def measure_steps(
    config: TrainConfig, clips: Clips, source: str, device: torch.device, steps: int, warmup: int, blocks: str = "fast"
) -> dict[str, float | None]:
    """Time training steps.

    Args:
        config: of the training, of kind "latte".
        clips: the training data.
        source: one of SOURCES.
        device: where to train.
        steps: the number of steps that are timed.
        warmup: the number of steps before them.
        blocks: one of BLOCKS.

    Returns:
        The median "seconds" of a step and, derived from it, "clips_per_second", "tflops" (10^12 floating-point
        operations per second) and "share_of_matmul" (these relative to `matmul_rate`); on CUDA also "peak_gib", the
        peak memory in units of 2^30 bytes, which is None elsewhere.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    config = replace(config, latents="step", steps=warmup + steps, fast=config.fast and blocks == "fast")
    run = Run(config, Path("unused"), clips, device, Ranks())
    if blocks == "original":
        check_has_original(run.network, config.num_images)
    if source == "latents":
        run.objective.source = RandomLatents(config, run.objective.channels, run.objective.side, device)
    else:
        run.objective.prepare(micro_batches(config, Ranks()), 0)
    numbers = iter(range(warmup + steps))
    with original_blocks(run.network) if blocks == "original" else nullcontext():
        timed(lambda: run.step(next(numbers)), device, warmup)
        seconds = sorted(timed(lambda: run.step(next(numbers)), device, steps))[steps // 2]
    flops = step_flops(run.network.config, config.num_images, config) * config.global_batch_size / seconds
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "seconds": seconds,
        "clips_per_second": config.global_batch_size / seconds,
        "tflops": flops / 1e12,
        "share_of_matmul": flops / matmul_rate(config.precision, device),
        "peak_gib": memory,
    }


def measure_training(
    config: TrainConfig,
    precisions: Sequence[str],
    compiled: Sequence[str],
    sources: Sequence[str],
    device: torch.device,
    steps: int,
    warmup: int,
    blocks: Sequence[str] = ("fast",),
) -> Iterator[dict]:
    """Time training steps in every combination of precision, compilation, source and blocks.

    Args:
        config: the training that is varied, of kind "latte".
        precisions: of latte.train.base_config.PRECISIONS.
        compiled: "yes" or "no": by torch.compile, or not.
        sources: of SOURCES.
        device: where to train.
        steps: the number of steps that are timed.
        warmup: the number of steps before them.
        blocks: of BLOCKS.

    Yields:
        The combination, and the result of `measure_steps`.

    Raises:
        ValueError: Two kinds of blocks would compute alike, or the original code has no such blocks.
    """
    clips = open_clips(config)
    if {"fast", "readable"} <= set(blocks) and (not config.fast or "yes" in compiled):
        reason = "fast=false" if not config.fast else "--compiled yes"
        raise ValueError(f"with {reason}, fast blocks compute as the readable ones: leave one of them out of --blocks")
    for precision, compile, source, kind in product(precisions, compiled, sources, blocks):
        variant = replace(config, precision=precision, compile=compile == "yes")
        row = measure_steps(variant, clips, source, device, steps, warmup, kind)
        ran = "readable" if kind == "fast" and not (config.fast and compile == "no") else kind
        yield {"precision": precision, "compiled": compile, "source": source, "blocks": ran, **row}


def format_row(row: dict) -> str:
    """A row of `measure_training` as a line below ROW_HEADER."""
    setting = f"{row['precision']:9} {row['compiled']:8} {row['source']:8} {row['blocks']:8}"
    speeds = f"{row['seconds']:8.3f} {row['clips_per_second']:8.2f} {row['tflops']:8.3f}"
    return f"{setting} {speeds} {row['share_of_matmul']:9.1%}"


def with_existing_vae(config: TrainConfig, folder: Path) -> TrainConfig:
    """Replace a VAE that does not exist, with a warning: the speed is the same with random weights.

    Args:
        config: of a training.
        folder: where to write a VAE of Stable Diffusion's shape with random weights, if `config.vae` does not exist.

    Returns:
        The configuration, with a VAE that exists.
    """
    try:
        find_model(config.vae)
        return config
    except CheckpointError:
        said = f"no VAE at {config.vae}: using one of Stable Diffusion's shape instead, with random weights"
        warnings.warn(said, stacklevel=2)
        return replace(config, vae=str(save_vae(VideoVAE(AutoencoderKL(VAEConfig())), folder / "vae")))
