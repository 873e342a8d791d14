"""`latte bench memory`: the memory that Latte-1 needs for a video, or that a training run needs, before it starts."""

import dataclasses
from argparse import Namespace
from functools import partial
from itertools import product
from pathlib import Path

from latte.commands.parser import write_result
from latte.device import device_name, usable_device
from latte.eval.bench.memory_need import memory_table
from latte.eval.bench.step_time import step_time
from latte.eval.bench.training_need import DEPTHS, Data, TrainingNeed, training_need, whole_and_sharded
from latte.eval.reporting import markdown_table
from latte.models.vae_config import VAEConfig
from latte.progress import Progress
from latte.train.base_config import AUTO, TrainConfig
from latte.train.data.folders import open_clips
from latte.train.data.latent_files import open_latent_folder
from latte.train.data.latents import SOURCES
from latte.train.data.layouts import find_any_videos
from latte.train.data.video_list import VIDEO_LIST, open_video_list
from latte.train.precision import choose_precision
from latte.train.resolve import resolve
from latte.weights.find_models import find_model
from latte.weights.folder import read_config
from latte.weights.manifest import CONFIG
from latte.weights.tensors import DTYPES, CheckpointError

PARTS = {  # parts of the memory of training, as the table names them
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimiser",
    "averages": "averages of the weights",
    "vae": "VAE",
    "activations": "activations that the backward pass needs",
    "working": "working memory of a block",
    "gathered": "whole weights of blocks at work",
    "updating": "working memory of the optimiser",
    "encoding": "encoding, before the forward pass",
    "most": "most at once",
}
UNITS = ((1, "s"), (60, "min"), (3600, "h"), (86400, "days"), (86400 * 365.25, "years"))


def bench_memory(args: Namespace) -> None:
    """Compute the memory that Latte-1 needs, part by part, or with --config that of training in each process."""
    if args.config is None:
        print(memory_table(args.num_frames, args.height, args.width, DTYPES[args.dtype]))
        size = f"{args.num_frames} x {args.height} x {args.width}"
        print(f"GB, one video of {size} with guidance, {args.dtype}; computed")
        return
    device = usable_device(args.device)
    config = resolve(args.config, args.changes, device)
    here = choose_precision(device) if config.precision == AUTO else config.precision
    if config.precision == AUTO:
        config = dataclasses.replace(config, precision="bf16")  # as on a GPU, for which memory is counted
    data, notes = known_data(config)
    needs = needs_of(config, data, args.processes)
    asked = needs[column(config, args.processes)]
    names = {name: words for name, words in PARTS.items() if any(getattr(need, name) for need in needs.values())}
    gb = lambda need, name: f"{getattr(need, name) / 1e9:.3g}"
    rows = [[words, *(gb(need, name) for need in needs.values())] for name, words in names.items()]
    print(markdown_table(["GB (10^9 bytes) in each process", *needs], rows))
    batch = f"{asked.micro_batches} x {asked.clips} clips a step"
    batch += f" in each of {args.processes} processes" if args.processes > 1 else ""
    print(f"{batch}, {config.precision}; these settings: {column(config, args.processes)}")
    more = "the CUDA libraries and fragmentation take a few GB more"
    print(f"the memory that a GPU would need, computed without running on one; {more}", flush=True)
    time = step_time(dataclasses.replace(config, precision=here), data, asked, device)
    whole = f"all {config.steps} steps {duration(time.seconds * config.steps)}"
    step = f"a step takes about {duration(time.seconds)} on {device_name(device)} in {here}"
    print(f"{step}, {whole}, without reading and encoding")
    print(f"  measured: {time.how}")
    for note in notes:
        print(note)
    about = {"config": args.config, "changes": args.changes, "processes": args.processes}
    bytes_of = {name: {**dataclasses.asdict(need), "most": need.most} for name, need in needs.items()}
    write_result(args.out, {**about, "bytes": bytes_of, "seconds": time.seconds, "measured": time.how})


def needs_of(config: TrainConfig, data: Data, processes: int) -> dict[str, TrainingNeed]:
    """The needs of training without and with gradient checkpointing and sharding, where it supports them."""
    bar = partial(Progress, desc="counting memory", unit="variant")
    if config.kind not in DEPTHS:  # without these settings
        return {column(each, processes): training_need(each, data, processes) for each in bar([config])}
    counted = {
        again: whole_and_sharded(dataclasses.replace(config, gradient_checkpointing=again), data, processes)
        for again in bar((False, True))
    }
    kinds = product((False, True) if processes > 1 else (False,), (False, True))
    return {column_name(shard, again): counted[again][shard] for shard, again in kinds}


def column(config: TrainConfig, processes: int) -> str:
    """The column of the table for some settings."""
    return column_name(processes > 1 and config.shard, config.gradient_checkpointing)


def column_name(shard: bool, gradient_checkpointing: bool) -> str:
    """The name of a column."""
    settings = {"shard": shard, "gradient_checkpointing": gradient_checkpointing}
    return ", ".join(f"{name}=true" for name, value in settings.items() if value) or "plain"


def known_data(config: TrainConfig) -> tuple[Data, list[str]]:
    """What is known about the VAE and the classes of a training run, and notes on what had to be assumed."""
    notes, vae, classes = [], VAEConfig(), 0
    if config.kind != "vae":
        try:
            vae = vae_config(find_model(config.vae))
        except CheckpointError:
            notes.append(f"there is no VAE {config.vae} yet: Stable Diffusion's shape is assumed (4 channels, 1/8)")
    if config.kind == "latte" and config.classes:
        try:
            classes = count_classes(config)
        except (OSError, ValueError) as error:
            notes.append(f"the classes, a few kB each, are not counted: {error}")
    return Data(vae, classes), notes


def vae_config(path: Path) -> VAEConfig:
    """The configuration in a VAE's folder; for a single file, that of Stable Diffusion."""
    return read_config(path, VAEConfig.from_dict) if (path / CONFIG).is_file() else VAEConfig()


def count_classes(config: TrainConfig) -> int:
    """How many classes the data has, without reading its videos."""
    root = Path(config.data)
    if config.latents not in SOURCES:
        return len(open_latent_folder(Path(config.latents)).names)
    if config.data == "shapes":
        return len(open_clips(config).names)
    if (root / VIDEO_LIST).is_file():
        return len(open_video_list(root, verify_files=False).classes)
    return len(find_any_videos(root).classes)


def duration(seconds: float) -> str:
    """A time in a suitable unit, with two digits."""
    size, unit = next((size, unit) for size, unit in reversed(UNITS) if seconds >= size or size == 1)
    return f"{float(f'{seconds / size:.2g}'):g} {unit}"
