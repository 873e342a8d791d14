"""The options of `latte bench`, one function for each benchmark."""

from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from latte.arguments import MOST_SIZE, check_count
from latte.commands.options.choices import (
    BLOCKS,
    DTYPES,
    GPU_FORMS,
    GUIDANCE_WAYS,
    LEAST_FRAMES,
    LEAST_MANIFOLD,
    SHAPE_FEATURES,
    SOURCES,
)
from latte.commands.options.sampling import NO_AUTOGUIDANCE, add_sampling_options, check_sampling_ranges
from latte.commands.options.training import check_changes
from latte.commands.parser import Parser, add_device_option, check_model, check_out_file, check_out_folder
from latte.models.latte_config import LatteConfig
from latte.models.latte_t2v_config import LatteT2VConfig
from latte.models.vae_config import VAEConfig
from latte.plans.named_rules import check_rule_words
from latte.train.base_config import PRECISIONS
from latte.train.presets import PRESETS

PAB_RANGES = {True: ("2/3/5", "2/3/6", "3/4/7", "4/6/9"), False: ("2/3", "3/4", "4/6")}  # for prompts, for classes
RANDOM = {"random": LatteT2VConfig, "random-latte": LatteConfig}  # the names of models with random weights
RANDOM_VAES = {"random": VAEConfig(), "random-temporal": VAEConfig(temporal_decoder=True)}  # values of --vae for them
PARTS = ("forward", "sampling", "decoding")  # of `latte bench speed`
TRAINING = "shapes"  # the preset whose speed is measured by default


def speed_options(argv: list[str]) -> Namespace:
    """Measure the speed of a model: one evaluation of its network, sampling runs with their fidelity, and decoding."""
    parser = Parser(prog="latte bench speed", description=speed_options.__doc__)
    add = parser.add_argument
    words = "a model; or random (text to video) or random-latte: random weights, in the shape given by key=value"
    add("model", help=f"{words}, and with --vae {' or '.join(RANDOM_VAES)} a full-size VAE")
    words = "for random, such as num_layers=4 attention_head_dim=72; for random-latte, such as depth=12 num_classes=101"
    add("changes", nargs="*", metavar="key=value", help=words)
    add("--parts", nargs="+", choices=PARTS, help="what to time (default: all that the model has)")
    add("--frames", type=int, nargs="+", help="frames of a video (default: as in training)")
    add("--sizes", type=int, nargs="+", help="sides of a frame in pixels (default: as in training)")
    add("--text-tokens", type=int, nargs="+", default=[20], help="random text tokens of an evaluation (default: 20)")
    add("--dtypes", nargs="+", choices=DTYPES, help="of the network; the first is the reference (default: --dtype)")
    add("--compile", action="store_true", help="also compile the networks' blocks, one by one, with torch.compile")
    defaults = f"{' '.join(PAB_RANGES[True])}; for a model with classes {' '.join(PAB_RANGES[False])}"
    add("--ranges", nargs="*", help=f"ranges of Pyramid Attention Broadcast in sampling (default: {defaults})")
    words = "plans to sample with, as --plan of `latte sample` takes them, such as fast network:17 (default: none)"
    add("--plans", nargs="*", default=[], metavar="FILE|NAME|RULES", help=words)
    add("--num-videos", type=int, default=1, help="videos to sample (default: 1)")
    add("--rounds", type=int, default=3, help="how often each is timed, in turn (default: 3)")
    add("--threads", type=int, default=1, help="CPU threads; with 1, seconds are CPU time (default: 1)")
    add("--exam", action="store_true", help="let the examiner judge the samples of a model of the built-in shapes")
    add("--alexnet", type=Path, help="file of AlexNet's weights, for LPIPS")
    add("--original", action="store_true", help="also time the operations of the original code")
    words = "on a GPU, also time forms of the network that are no defaults: packed frames, CUDA graphs, 8-bit products"
    add("--gpu-forms", nargs="+", choices=GPU_FORMS, default=[], help=words)
    words = "a Python interpreter with diffusers, whose Latte and VAEs are then timed too, in turn"
    add("--peer-python", type=Path, help=words)
    add("--plots", type=Path, help="write plots of the results to this folder")
    add("--out", type=Path, help="also write the results and what they depend on to this .json file")
    add_sampling_options(parser)
    args = parser.parse_intermixed_args(argv)
    if args.model not in RANDOM:
        check_model(args.model, args.download)
    args.asked_parts, args.parts = args.parts or [], args.parts or list(PARTS)
    check_speed_options(args)
    return args


def check_speed_options(args: Namespace) -> None:
    """Raise ValueError, before any work, for options that are out of range or do not go together."""
    for name in ("num_videos", "rounds", "threads"):
        check_count(f"--{name.replace('_', '-')}", getattr(args, name))
    for name in ("frames", "sizes", "text_tokens"):
        for value in getattr(args, name) or ():
            check_count(f"--{name.replace('_', '-')}", value)
    check_sampling_ranges(args)
    for plan in args.plans:
        check_rule_words(plan)
    names = " or ".join(RANDOM)
    if args.model in RANDOM:
        random_shape(args.model, args.changes)
        if "decoding" in args.asked_parts and args.vae is None:
            vaes = " or ".join(RANDOM_VAES)
            raise ValueError(f"--parts decoding: {args.model} has no VAE: add --vae with a folder, {vaes}")
    elif args.changes:
        raise ValueError(f"{args.changes[0]} changes the shape of {names}, not of {args.model}: leave it out")
    elif args.vae in RANDOM_VAES and not Path(args.vae).exists():
        raise ValueError(f"--vae {args.vae} is for {names}: give {args.model} the folder of a VAE")
    check_out_file(args.out)
    if args.plots is not None:
        check_out_folder(args.plots)
    if args.peer_python is not None and not args.peer_python.is_file():
        raise ValueError(f"--peer-python {args.peer_python}: there is no such interpreter")


def random_shape(model: str, changes: list[str]) -> LatteT2VConfig | LatteConfig:
    """The shape of a model with random weights. Raises ValueError for words that are not a key=NUMBER."""
    values, known = {}, [field.name for field in fields(RANDOM[model]) if field.type is int]
    for word in changes:
        name, _, value = word.partition("=")
        if name not in known or not value.isdecimal():
            raise ValueError(f"{word}: expected key=NUMBER; the keys are {', '.join(known)}")
        values[name] = int(value)
    return RANDOM[model](**values)


def pab_options(argv: list[str]) -> Namespace:
    """Measure what Pyramid Attention Broadcast saves and what it costs, on a model of the built-in shapes."""
    parser = Parser(prog="latte bench pab", description=pab_options.__doc__)
    add = parser.add_argument
    add("model", nargs="?", default="shapes-t2v", help="a model of the built-in shapes (default: shapes-t2v)")
    defaults = f"{' '.join(PAB_RANGES[True])}; for a model with classes {' '.join(PAB_RANGES[False])}"
    add("--ranges", nargs="+", help=f"broadcast ranges spatial/temporal/cross/mlp (default: {defaults})")
    add("--num-videos", type=int, default=64, help="videos to sample with each setting (default: 64)")
    add("--out", type=Path, help="also write the results and what they depend on to this .json file")
    add_sampling_options(parser)
    args = parser.parse_args(argv)
    check_model(args.model, args.download)
    check_sampling_ranges(args)
    check_count("--num-videos", args.num_videos)
    check_out_file(args.out)
    return args


def guidance_options(argv: list[str]) -> Namespace:
    """Measure quality against variety for each way to guide, at several scales, on a model of the built-in shapes."""
    parser = Parser(prog="latte bench guidance", description=guidance_options.__doc__)
    add = parser.add_argument
    add("model", nargs="?", default="shapes", help="a model of the built-in shapes (default: shapes)")
    words = "ways to guide (default: all; autoguidance, if the model has a weaker one, or --autoguidance names it)"
    add("--ways", nargs="+", choices=GUIDANCE_WAYS, help=words)
    words = "guidance scales of every way but cfg++ (default: 1.5 2 3 4.5)"
    add("--scales", nargs="+", type=float, default=[1.5, 2.0, 3.0, 4.5], help=words)
    words = "guidance scales of cfg++, from 0 to 1 (default: 0.25 0.5 0.75 1)"
    add("--plus-scales", nargs="+", type=float, default=[0.25, 0.5, 0.75, 1.0], help=words)
    add("--num-videos", type=int, default=256, help="videos to sample in each row (default: 256)")
    words = "write each row to this .json file as it is measured; rows that it holds are not measured again"
    add("--out", type=Path, help=words)
    add("--plot", type=Path, help="also write the plot to this .png file (needs matplotlib)")
    add_sampling_options(parser, guidance_shown=False)
    args = parser.parse_args(argv)
    check_model(args.model, args.download)
    check_sampling_ranges(args)
    check_count("--num-videos", args.num_videos, least=LEAST_MANIFOLD)
    words = ("guidance_method", "guidance_options", "guidance_schedule", "autoguidance_scale")
    for name in ("cfg_scale", "cfg_interval", *words):
        if getattr(args, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} has no effect here: --ways and --scales set the guidance of each row"
            )
    named = args.autoguidance not in (None, NO_AUTOGUIDANCE)
    if args.ways is not None and args.autoguidance is not None and ("autoguidance" in args.ways) != named:
        raise ValueError("the way autoguidance and --autoguidance MODEL go together: give both or neither")
    if 1.0 in args.scales:
        raise ValueError("--scales holds 1, which does not guide: that row is always there")
    if not all(0 <= scale <= 1 for scale in args.plus_scales):
        raise ValueError("--plus-scales holds a number that is not from 0 to 1")
    check_out_file(args.out)
    check_out_file(args.plot)
    return args


def train_options(argv: list[str]) -> Namespace:
    """Measure how fast a Latte trains: clips per second, and the share of the machine's matrix product speed."""
    parser = Parser(prog="latte bench train", description=train_options.__doc__)
    add = parser.add_argument
    add("--config", default=TRAINING, help=f"preset or YAML file of a training run (default: {TRAINING})")
    add("--precisions", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"], help="(default: fp32 bf16)")
    add("--compiled", nargs="+", choices=("no", "yes"), default=["no"], help="with torch.compile (default: no)")
    words = "start a step from latents in memory, or from videos (default: both)"
    add("--sources", nargs="+", choices=SOURCES, default=list(SOURCES), help=words)
    words = (
        "fast: as in training; readable: as the models are written; original: as in the original code (default: fast)"
    )
    add("--blocks", nargs="+", choices=BLOCKS, default=["fast"], help=words)
    add("--steps", type=int, default=10, help="steps to time (default: 10)")
    add("--warmup", type=int, default=3, help="steps before them (default: 3)")
    add("--out", type=Path, help="also write the results to this .json file")
    add_device_option(parser)
    add("changes", nargs="*", metavar="key=value", help="settings of the training to change")
    args = parser.parse_intermixed_args(argv)
    if args.steps < 1 or args.warmup < 0:
        raise ValueError(f"--steps {args.steps} --warmup {args.warmup}: at least one step, and no negative number")
    check_out_file(args.out)
    check_changes(args.config, args.changes)
    return args


def eval_options(argv: list[str]) -> Namespace:
    """Measure the speed of decoding, of features and of distances, each compared with a plain implementation."""
    parser = Parser(prog="latte bench eval", description=eval_options.__doc__)
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
    return args


def video_options(argv: list[str]) -> Namespace:
    """Measure how fast clips are read from videos on one thread, compared with PyAV and, if installed, decord."""
    parser = Parser(prog="latte bench video", description=video_options.__doc__)
    add = parser.add_argument
    add("videos", type=Path, help="folder of videos")
    add("--clips", type=int, default=12, help="clips to read, at random places (default: 12)")
    add("--frames", type=int, default=16, help="consecutive frames of a clip (default: 16)")
    add("--repeats", type=int, default=5, help="how often to read them; the fastest counts (default: 5)")
    add("--out", type=Path, help="also write the results to this .json file")
    args = parser.parse_args(argv)
    for name in ("clips", "frames", "repeats"):
        check_count(f"--{name}", getattr(args, name))
    check_out_file(args.out)
    return args


LATTE_1 = {"num_frames": 16, "height": 512, "width": 512, "dtype": "float16"}  # the options without --config
OF_TRAINING = ("processes", "out", "device", "changes")  # those with it


def memory_options(argv: list[str]) -> Namespace:
    """Compute the memory that Latte-1 needs for a video, or with --config that of training, and the time of a step."""
    parser = Parser(prog="latte bench memory", description=memory_options.__doc__)
    add = parser.add_argument
    add("--num-frames", type=int, help="frames of the video (default: 16)")
    add("--height", type=int, help="in pixels (default: 512)")
    add("--width", type=int, help="in pixels (default: 512)")
    add("--dtype", choices=DTYPES, help="type of the weights (default: float16)")
    words = f"a training configuration: {', '.join(PRESETS)}, or a file; its data and its VAE need not exist"
    add("--config", help=words)
    add("--processes", type=int, help="with --config: how many processes train, one on each GPU (default: 1)")
    add("--out", type=Path, help="with --config: also write the results to this .json file")
    add("--device", help="with --config: where to time a step, such as cpu or cuda (default: cuda if it is available)")
    add("changes", nargs="*", metavar="key=value", help="with --config: settings of the training to change")
    args = parser.parse_intermixed_args(argv)
    without, other = ("", LATTE_1) if args.config else ("out", OF_TRAINING)
    for name in (name for name in other if getattr(args, name)):
        words = "key=value" if name == "changes" else f"--{name.replace('_', '-')}"
        raise ValueError(f"{words} does nothing with{without} --config: leave it out")
    if args.config:
        check_changes(args.config, args.changes)
    args.processes = 1 if args.processes is None else args.processes
    check_count("--processes", args.processes)
    check_out_file(args.out)
    for name, default in LATTE_1.items():
        setattr(args, name, default if getattr(args, name) is None else getattr(args, name))
    for name, unit in (("num_frames", 1), ("height", 16), ("width", 16)):
        value = getattr(args, name)
        if not 1 <= value <= MOST_SIZE or value % unit:
            raise ValueError(
                f"--{name.replace('_', '-')} is {value}; it must be a multiple of {unit}, up to {MOST_SIZE}"
            )
    return args


def features_options(argv: list[str]) -> Namespace:
    """Measure what the shapes' feature network recognises in held-out clips, and how its distance grows with damage."""
    parser = Parser(prog="latte bench features", description=features_options.__doc__)
    add = parser.add_argument
    words = f"run folder of such a network (default: {SHAPE_FEATURES}, which ships)"
    add("network", nargs="?", default=SHAPE_FEATURES, help=words)
    add("--num-videos", type=int, default=512, help="clips on either side of the distance (default: 512)")
    add("--out", type=Path, help="also write the results and what they depend on to this .json file")
    add_device_option(parser)
    args = parser.parse_args(argv)
    if args.num_videos < 2:
        raise ValueError(f"--num-videos is {args.num_videos}; it must be 2 or more")
    check_out_file(args.out)
    return args


BENCHMARKS = {
    "speed": (speed_options, "how fast a model samples in every form, with what fidelity, compared with diffusers"),
    "pab": (pab_options, "what Pyramid Attention Broadcast saves and costs"),
    "guidance": (guidance_options, "quality against variety for each way to guide"),
    "train": (train_options, "how fast a Latte trains"),
    "eval": (eval_options, "how fast videos are decoded and compared"),
    "video": (video_options, "how fast clips are read from videos"),
    "memory": (memory_options, "the memory that Latte-1 or a training run needs, before it starts"),
    "features": (features_options, "how the distance of the shapes' features grows with damage"),
}


def bench_options(argv: list[str]) -> Namespace:
    """Parse the name of a benchmark, which becomes .benchmark, and that benchmark's own options, which follow it."""
    description = "Run a benchmark. For its options: latte bench BENCHMARK --help."
    parser = Parser(prog="latte bench", description=description)
    help = "; ".join(f"{name}: {what}" for name, (_, what) in BENCHMARKS.items())
    parser.add_argument("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help=help)
    name = parser.parse_args(argv[:1]).benchmark
    parse, _ = BENCHMARKS[name]
    args = parse(argv[1:])
    args.benchmark = name
    return args
