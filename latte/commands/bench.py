"""`latte bench`: run a benchmark. For its options: latte bench BENCHMARK --help."""

import tempfile
from pathlib import Path

from latte.arguments import check_count
from latte.commands.bench_speed import bench_speed
from latte.commands.parser import Parser, add_device_option, check_out_file, write_result
from latte.commands.sampling_options import add_sampling_options, open_pipeline
from latte.device import usable_device
from latte.eval.bench.eval_speed import evaluation_table, measure_evaluation, write_shape_videos
from latte.eval.bench.feature_check import check_features, feature_table
from latte.eval.bench.memory_need import memory_table
from latte.eval.bench.pab_cost import PAB_RANGES, broadcast_table, measure_broadcast
from latte.eval.bench.resources import weight_bytes
from latte.eval.bench.train_speed import ROW_HEADER, SOURCES, format_row, measure_training, with_existing_vae
from latte.eval.networks.i3d import LEAST_FRAMES
from latte.eval.networks.shape_features import SHIPPED
from latte.eval.reporting import machine_record, origin
from latte.train.precision import PRECISIONS
from latte.train.presets import resolve
from latte.weights.tensors import DTYPES

TRAINING = "shapes"  # the preset whose speed is measured by default


def bench_pab(argv: list[str]) -> None:
    """Measure what Pyramid Attention Broadcast saves and what it costs, on a model of the built-in shapes."""
    parser = Parser(prog="latte bench pab", description=bench_pab.__doc__)
    add = parser.add_argument
    add("model", nargs="?", default="shapes-t2v", help="a model of the built-in shapes (default: shapes-t2v)")
    defaults = f"{' '.join(PAB_RANGES[True])}; for a model with classes {' '.join(PAB_RANGES[False])}"
    add("--ranges", nargs="+", help=f"broadcast ranges spatial/temporal/cross/mlp (default: {defaults})")
    add("--num-videos", type=int, default=64, help="videos to sample with each setting (default: 64)")
    add("--out", type=Path, help="also write the results and what they depend on to this .json file")
    add_sampling_options(parser)
    args = parser.parse_args(argv)
    check_count("--num-videos", args.num_videos)
    check_out_file(args.out)
    pipe, settings, files = open_pipeline(args)
    ranges = args.ranges or PAB_RANGES[pipe.takes_prompts]
    results = measure_broadcast(pipe, args.num_videos, ranges, settings)
    about = origin(pipe, settings, files, args.model, args.weights, args.dtype, args.memory)
    about["weights_mb"] = weight_bytes(pipe.networks()) / 1e6
    print(broadcast_table(results))
    print(f"{args.num_videos} videos a row on {about['device']}, of weights {about['weights_mb']:.1f} MB")
    write_result(args.out, {**about, "results": results})


def bench_train(argv: list[str]) -> None:
    """Measure how fast a Latte trains: clips per second, and the share of the machine's matrix product speed."""
    parser = Parser(prog="latte bench train", description=bench_train.__doc__)
    add = parser.add_argument
    add("--config", default=TRAINING, help=f"preset or YAML file of a training (default: {TRAINING})")
    add("--precisions", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"], help="(default: fp32 bf16)")
    add("--compiled", nargs="+", choices=("no", "yes"), default=["no"], help="with torch.compile (default: no)")
    words = "start a step from latents in memory, or from videos (default: both)"
    add("--sources", nargs="+", choices=SOURCES, default=list(SOURCES), help=words)
    add("--steps", type=int, default=10, help="steps to time (default: 10)")
    add("--warmup", type=int, default=3, help="steps before them (default: 3)")
    add("--out", type=Path, help="also write the results to this .json file")
    add_device_option(parser)
    add("changes", nargs="*", metavar="key=value", help="settings of the training to change")
    args = parser.parse_intermixed_args(argv)
    if args.steps < 1 or args.warmup < 0:
        raise ValueError(f"--steps {args.steps} --warmup {args.warmup}: at least one step, and no negative number")
    check_out_file(args.out)
    device, rows = usable_device(args.device), []
    with tempfile.TemporaryDirectory() as scratch:
        config = resolve(args.config, args.changes, device)
        if config.kind != "latte":
            raise ValueError(f"--config {args.config} trains kind={config.kind}; the benchmark is of kind=latte")
        config = with_existing_vae(config, Path(scratch))
        print(ROW_HEADER)
        measured = (args.precisions, args.compiled, args.sources, device, args.steps, args.warmup)
        for row in measure_training(config, *measured):
            rows.append(row)
            print(format_row(row), flush=True)
    about = machine_record(device)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    write_result(args.out, {**about, "settings": {"config": args.config, "changes": args.changes}, "rows": rows})


def bench_eval(argv: list[str]) -> None:
    """Measure the speed of decoding, of features and of distances, each beside a plain implementation."""
    parser = Parser(prog="latte bench eval", description=bench_eval.__doc__)
    add = parser.add_argument
    add("--videos", type=Path, help="folder of videos to decode (default: 8 of the built-in shapes, 256 px, H.264)")
    add("--clips", type=int, default=8, help="clips to decode (default: 8)")
    add("--frames", type=int, default=16, help=f"frames of a clip, {LEAST_FRAMES} or more (default: 16)")
    add("--repeats", type=int, default=3, help="how often to time each; the fastest counts (default: 3)")
    add("--out", type=Path, help="also write the results to this .json file")
    add_device_option(parser)
    args = parser.parse_args(argv)
    if args.clips < 1 or args.repeats < 1:
        raise ValueError(f"--clips {args.clips} --repeats {args.repeats}: both must be 1 or more")
    if args.frames < LEAST_FRAMES:
        raise ValueError(f"--frames {args.frames}: I3D takes {LEAST_FRAMES} or more")
    check_out_file(args.out)
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


def bench_memory(argv: list[str]) -> None:
    """Compute what Latte-1 needs in memory, part by part. No weights are needed."""
    parser = Parser(prog="latte bench memory", description=bench_memory.__doc__)
    parser.add_argument("--num-frames", type=int, default=16, help="frames of the video (default: 16)")
    parser.add_argument("--height", type=int, default=512, help="in pixels (default: 512)")
    parser.add_argument("--width", type=int, default=512, help="in pixels (default: 512)")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="type of the weights (default: float16)")
    args = parser.parse_args(argv)
    for name, unit in (("num_frames", 1), ("height", 16), ("width", 16)):
        value = getattr(args, name)
        if not 1 <= value <= 65_536 or value % unit:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be a multiple of {unit}, up to 65536")
    print(memory_table(args.num_frames, args.height, args.width, DTYPES[args.dtype]))
    print(f"GB, one video of {args.num_frames} x {args.height} x {args.width} with guidance, {args.dtype}; computed")


def bench_features(argv: list[str]) -> None:
    """Measure what the shapes' feature network recognises in held-out clips, and how its distance grows with damage."""
    parser = Parser(prog="latte bench features", description=bench_features.__doc__)
    add = parser.add_argument
    add("network", nargs="?", default=SHIPPED, help=f"run folder of such a network (default: {SHIPPED}, which ships)")
    add("--num-videos", type=int, default=512, help="clips on either side of the distance (default: 512)")
    add("--out", type=Path, help="also write the results and what they depend on to this .json file")
    add_device_option(parser)
    args = parser.parse_args(argv)
    if args.num_videos < 2:
        raise ValueError(f"--num-videos is {args.num_videos}; it must be 2 or more")
    check_out_file(args.out)
    scores = check_features(args.network, args.num_videos, usable_device(args.device))
    print(feature_table(scores))
    write_result(args.out, scores)


BENCHMARKS = {
    "speed": (bench_speed, "how fast a model samples in every form, what that costs, and diffusers beside it"),
    "pab": (bench_pab, "what Pyramid Attention Broadcast saves and costs"),
    "train": (bench_train, "how fast a Latte trains"),
    "eval": (bench_eval, "how fast videos are decoded and compared"),
    "memory": (bench_memory, "what Latte-1 needs in memory"),
    "features": (bench_features, "how the distance of the shapes' features grows with damage"),
}


def main(argv: list[str]) -> None:
    """Run one benchmark; what follows its name are that benchmark's own options."""
    parser = Parser(prog="latte bench", description=__doc__)
    help = "; ".join(f"{name}: {what}" for name, (_, what) in BENCHMARKS.items())
    parser.add_argument("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help=help)
    run, _ = BENCHMARKS[parser.parse_args(argv[:1]).benchmark]
    run(argv[1:])
