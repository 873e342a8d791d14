"""`latte bench`: run a benchmark."""

import json
import tempfile
from argparse import Namespace
from pathlib import Path

import torch

from latte.commands.bench_memory import bench_memory
from latte.commands.bench_speed import bench_speed
from latte.commands.options.benchmarks import PAB_RANGES
from latte.commands.parser import write_result
from latte.commands.sampling_options import open_pipeline
from latte.device import usable_device
from latte.eval.bench.eval_speed import evaluation_table, measure_evaluation, write_shape_videos
from latte.eval.bench.feature_check import check_features, feature_table
from latte.eval.bench.guidance_variety import (
    AUTO,
    WAYS,
    candidates,
    measure_ways,
    name_of,
    plot_variety,
    variety_table,
)
from latte.eval.bench.pab_cost import broadcast_table, measure_broadcast
from latte.eval.bench.read_speed import measure_reading, reading_table
from latte.eval.bench.resources import weight_bytes
from latte.eval.bench.train_speed import ROW_HEADER, format_row, measure_training, with_existing_vae
from latte.eval.networks.shape_features import load_shape_features
from latte.eval.reporting import machine_record, origin
from latte.files import read_json, write_json
from latte.sampling_settings import WORDS
from latte.train.resolve import resolve
from latte.video.find import list_videos
from latte.video.formats import STREAM_SUFFIXES


def bench_pab(args: Namespace) -> None:
    """Measure what Pyramid Attention Broadcast saves and what it costs, on a model of the built-in shapes."""
    pipe, settings, files = open_pipeline(args)
    ranges = args.ranges or PAB_RANGES[pipe.takes_prompts]
    results = measure_broadcast(pipe, args.num_videos, ranges, settings)
    about = origin(pipe, settings, files, args.model, args.weights, args.dtype, args.memory)
    about["weights_mb"] = weight_bytes(pipe.networks()) / 1e6
    print(broadcast_table(results))
    print(f"{args.num_videos} videos per row on {about['device']}, weights {about['weights_mb']:.1f} MB")
    write_result(args.out, {**about, "results": results})


def bench_guidance(args: Namespace) -> None:
    """Measure quality against variety for each way to guide, on a model of the built-in shapes."""
    pipe, settings, files = open_pipeline(args)
    settings = {name: value for name, value in settings.items() if name not in WORDS}
    about = origin(pipe, settings, files, args.model, args.weights, args.dtype, args.memory)
    about.pop("autoguidance", None)  # rows that use it record it themselves
    if args.ways is not None and AUTO in args.ways and pipe.weaker is None:
        raise ValueError(f"{args.model} has no weaker model for the way autoguidance: name one with --autoguidance")
    ways = args.ways or [way for way in WAYS if way != AUTO or pipe.weaker is not None]
    about = json.loads(json.dumps({**about, "videos": args.num_videos}))
    done = rows_before(args.out, about)
    listed = list(candidates(ways, args.scales, args.plus_scales))
    network, rows = load_shape_features().to(pipe.device), []
    for row in measure_ways(pipe, args.num_videos, listed, settings, network, done):
        rows.append(row)
        print(f"{len(rows)} of {len(listed)}: {name_of(row)}", flush=True)
        others = [old for old in done if name_of(old) not in [name_of(new) for new in rows]]
        if args.out is not None:
            write_json(args.out, {**about, "rows": [*rows, *others]})
    print(variety_table(rows))
    print(f"{args.num_videos} videos per row on {about['device']}")
    if args.plot is not None:
        print(f"wrote {plot_variety(rows, args.plot)}")


def rows_before(path: Path | None, about: dict) -> list[dict]:
    """The rows that a file holds; raises ValueError if they were measured in another way."""
    if path is None or not path.exists():
        return []
    before = read_json(path)
    rows = before.pop("rows", [])
    for name in (name for name in {**before, **about} if before.get(name) != about.get(name)):
        was, now = before.get(name), about.get(name)
        raise ValueError(f"{path} was measured with {name} {was}, not {now}: name another --out")
    return rows


def bench_train(args: Namespace) -> None:
    """Measure how fast a Latte trains: clips per second, and the share of the machine's matrix product speed."""
    device, rows = usable_device(args.device), []
    with tempfile.TemporaryDirectory() as scratch:
        config = resolve(args.config, args.changes, device)
        if config.kind != "latte":
            raise ValueError(f"--config {args.config} trains kind={config.kind}; the benchmark needs kind=latte")
        config = with_existing_vae(config, Path(scratch))
        print(ROW_HEADER)
        measured = (args.precisions, args.compiled, args.sources, device, args.steps, args.warmup, args.blocks)
        for row in measure_training(config, *measured):
            rows.append(row)
            print(format_row(row), flush=True)
    about = machine_record(device)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    write_result(args.out, {**about, "settings": {"config": args.config, "changes": args.changes}, "rows": rows})


def bench_eval(args: Namespace) -> None:
    """Measure the speed of decoding, of features and of distances, each compared with a plain implementation."""
    device = usable_device(args.device)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.videos or write_shape_videos(Path(scratch), args.clips, args.frames, 256)
        rows = measure_evaluation(folder, args.clips, args.frames, device, args.repeats)
    about = {"frames": args.frames, **machine_record(device)}
    print(evaluation_table(rows))
    print(f"features agree to a relative {rows['agreement']['relative_error']:.1e}")
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if rows["distance"]["obvious"] is None:
        print("the plain distance needs SciPy: pip install scipy")
    write_result(args.out, {**about, "rows": rows})


def bench_video(args: Namespace) -> None:
    """Measure how fast clips are read from videos, compared with other readers."""
    videos = [path for path in list_videos(args.videos) if path.suffix.lower() in STREAM_SUFFIXES]
    milliseconds = measure_reading(videos, args.clips, args.frames, args.repeats)
    about = {"clips": args.clips, "frames": args.frames, **machine_record(torch.device("cpu"))}
    print(reading_table(milliseconds))
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    write_result(args.out, {**about, "milliseconds": milliseconds})


def bench_features(args: Namespace) -> None:
    """Measure what the shapes' feature network recognises in held-out clips, and how its distance grows with damage."""
    scores = check_features(args.network, args.num_videos, usable_device(args.device))
    print(feature_table(scores))
    write_result(args.out, scores)


BENCHMARKS = {
    "speed": bench_speed,
    "pab": bench_pab,
    "guidance": bench_guidance,
    "train": bench_train,
    "eval": bench_eval,
    "video": bench_video,
    "memory": bench_memory,
    "features": bench_features,
}


def main(args: Namespace) -> None:
    """Run the named benchmark."""
    BENCHMARKS[args.benchmark](args)
