"""`latte bench train`: clips a second of training steps, and their share of the machine's own matrix products."""

import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from latte.commands.parser import Parser, add_device_option
from latte.device import arithmetic, device_name, usable_device
from latte.files import write_json
from latte.models.latte import Latte, LatteConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.processes import Ranks
from latte.train.config import TrainConfig
from latte.train.data.clips import Clips
from latte.train.data.folders import open_clips
from latte.train.data.latents import Latents
from latte.train.parallel import micro_batches
from latte.train.precision import PRECISIONS
from latte.train.presets import resolve
from latte.train.run import Run
from latte.weights.load import find_model
from latte.weights.tensors import CheckpointError
from latte.weights.vae_folder import save_vae

SIDES = {"cuda": 8192, "cpu": 2048}  # of the matrices that the machine's rate is measured on
DEFAULT_CONFIG = "shapes"
SOURCES = ("latents", "video")


class Ready:
    """Latents that are there before the step: their reading and encoding takes no time."""

    def __init__(self, config: TrainConfig, channels: int, side: int, device: torch.device):
        shape = (config.global_batch_size, config.num_frames + config.num_images, channels, side, side)
        self.mean, self.labels = torch.randn(shape, device=device), torch.zeros(shape[0], 1 + config.num_images)

    def batch(self, step: int, slots: range) -> Latents:
        """Of some slots."""
        some = slice(slots.start, slots.stop)
        return Latents(self.mean[some], torch.ones_like(self.mean[some]), self.labels[some].long(), [])


def timed(work, device: torch.device, repeats: int) -> list[float]:
    """Seconds of each of some calls of work()."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return seconds


def matmul_rate(precision: str, device: torch.device, repeats: int = 10) -> float:
    """Floating-point operations a second of a large square matrix product, the best of some."""
    side, dtype = SIDES[device.type], PRECISIONS[precision]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    with arithmetic(precision):
        return 2 * side**3 / min(timed(lambda: a @ b, device, repeats))


def step_flops(config: LatteConfig, num_images: int) -> int:
    """Floating-point operations of a step on one clip: its forward, counted, and twice as many backward."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        frames = config.num_frames + num_images
        x = torch.zeros(1, frames, config.in_channels, config.input_size, config.input_size)
        label = torch.zeros(1, 1 + num_images, dtype=torch.long) if config.num_classes else None
        Latte(config)(x, torch.zeros(1, dtype=torch.long), label, num_images=num_images)
    return 3 * sum(counter.get_flop_counts()["Global"].values())


def measure(
    config: TrainConfig, clips: Clips, source: str, device: torch.device, steps: int, warmup: int
) -> dict[str, float]:
    """Seconds of a step (the middle one of some), and what follows from them."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run = Run(replace(config, latents="step", steps=warmup + steps), Path("unused"), clips, device, Ranks())
    if source == "latents":
        run.objective.source = Ready(config, run.objective.channels, run.objective.side, device)
    else:
        run.objective.prepare(micro_batches(config, Ranks()), 0)
    numbers = iter(range(warmup + steps))
    timed(lambda: run.step(next(numbers)), device, warmup)
    seconds = sorted(timed(lambda: run.step(next(numbers)), device, steps))[steps // 2]
    flops = step_flops(run.network.config, config.num_images) * config.global_batch_size / seconds
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "seconds": seconds,
        "clips_per_second": config.global_batch_size / seconds,
        "tflops": flops / 1e12,
        "share_of_matmul": flops / matmul_rate(config.precision, device),
        "peak_gib": memory,
    }


def with_vae(config: TrainConfig, folder: Path) -> TrainConfig:
    """The configuration; where its VAE is not there, with one of Stable Diffusion's shape and weights as drawn."""
    try:
        find_model(config.vae)
        return config
    except CheckpointError:
        print(f"no VAE at {config.vae}: one of Stable Diffusion's shape takes its place, with weights as drawn")
        return replace(config, vae=str(save_vae(VideoVAE(AutoencoderKL(VAEConfig())), folder / "vae")))


def main(argv: list[str]) -> None:
    """Measure every combination in one run."""
    parser = Parser(prog="latte bench train", description=__doc__.split(":", 1)[1].strip())
    parser.add_argument(
        "--config", default=DEFAULT_CONFIG, help=f"a training's preset or file (default: {DEFAULT_CONFIG})"
    )
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"])
    parser.add_argument("--compiled", nargs="+", choices=("no", "yes"), default=["no"], help="by torch.compile")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--steps", type=int, default=10, help="that are timed (default: 10)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (default: 3)")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    add_device_option(parser)
    parser.add_argument("changes", nargs="*", metavar="key=value", help="settings to change")
    args = parser.parse_intermixed_args(argv)
    if args.steps < 1 or args.warmup < 0:
        raise ValueError(f"--steps {args.steps} --warmup {args.warmup}: at least one step, and no negative number")
    device, rows = usable_device(args.device), []
    with tempfile.TemporaryDirectory() as scratch:
        config = with_vae(resolve(args.config, args.changes), Path(scratch))
        if config.kind != "latte":
            raise ValueError(f"{args.config} trains kind={config.kind}: the benchmark is of kind=latte")
        clips = open_clips(config)
        print(
            f"{'precision':9} {'compiled':8} {'source':8} {'s/step':>8} {'clips/s':>8} {'TFLOP/s':>8} {'of matmul':>9}"
        )
        for precision, compiled, source in product(args.precisions, args.compiled, args.sources):
            changed = replace(config, precision=precision, compile=compiled == "yes")
            row = measure(changed, clips, source, device, args.steps, args.warmup)
            rows.append({"precision": precision, "compiled": compiled, "source": source, **row})
            speeds = f"{row['seconds']:8.3f} {row['clips_per_second']:8.2f} {row['tflops']:8.3f}"
            print(f"{precision:9} {compiled:8} {source:8} {speeds} {row['share_of_matmul']:9.1%}", flush=True)
    about = {"device": device_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if args.out:
        write_json(args.out, {**about, "settings": {"config": args.config, "changes": args.changes}, "rows": rows})
