"""`latte eval`: measure generated videos."""

import argparse
import time
from functools import cache, partial
from pathlib import Path

import torch

from latte.arguments import check_count
from latte.commands.options.evaluating import VIDEOS, eval_parser
from latte.commands.options.sampling import add_plan_options, add_sampling_options, read_prompts
from latte.commands.parser import Parser, check_result_file, write_result
from latte.commands.sampling_options import model_record, open_sampler, reuse_record
from latte.device import default_device, usable_device
from latte.eval.exam import OTHERS, score_model, score_table
from latte.eval.features import Detector
from latte.eval.fidelity import compare_pairs
from latte.eval.fvd_result import FVDResult, compare_results
from latte.eval.inputs import Reading, Videos
from latte.eval.leaderboard import write_leaderboard
from latte.eval.model_clips import ModelVideos
from latte.eval.networks.c3d_weights import c3d_detector
from latte.eval.networks.i3d_weights import i3d_detector
from latte.eval.networks.inception_weights import inception_detector
from latte.eval.networks.shape_features import shapes_detector
from latte.eval.networks.videomae_weights import videomae_detector
from latte.eval.networks.vjepa_weights import vjepa_detector
from latte.eval.protocol import PROTOCOLS, Protocol, choose_protocol
from latte.eval.protocol_table import ProtocolTable, measure_protocols
from latte.eval.reporting import origin
from latte.eval.seed_spread import SeedSpread, measure_sets
from latte.eval.statistics import holds_videos, is_features, read_feature_set
from latte.eval.vae_fidelity import compare_reconstructions
from latte.eval.video_comparison import compare_given, compare_videos
from latte.eval.video_inception_score import DEFAULT_SCORE
from latte.files import CheckpointError, prefix_errors, read_json, writable
from latte.processes import Ranks, local_device, processes
from latte.train.data.video_list import read_list_head
from latte.train.student import data_settings
from latte.video.formats import STREAM_SUFFIXES
from latte.weights.find_models import bundled_models, find_model, is_model_folder, is_text_pipeline, own_vae
from latte.weights.hub import find_pipeline, find_vae
from latte.weights.vae_folder import is_vae

ONE_SET = {"inception", "c3d", "c3d_mean", "is_protocol", "vjepa", "vjepa_probe"}  # metrics beside a single distance


def main(args: argparse.Namespace) -> None:
    """Measure, print the result, and write it if --out is given."""
    check_eval_options(args, eval_parser())
    if args.compare:
        print(compare_files(*args.compare))
        return
    if args.leaderboard:
        print(*(f"wrote {path}" for path in write_leaderboard(args.leaderboard)), sep="\n")
        return
    check_result_file(args.out)
    if args.real:
        result = measure_videos(args)
    elif args.reference:
        result = measure_pairs(args)
    else:
        result = examine_model(args)
    if result:
        write_result(args.out, result)


def check_eval_options(args: argparse.Namespace, parser: Parser) -> None:
    """Raise ValueError for options that have no effect on what is asked for, and for paths of the wrong kind."""
    names = {name for name in vars(args) if getattr(args, name) != parser.get_default(name)}
    sampling = Parser()
    add_plan_options(sampling)
    add_sampling_options(sampling)
    of_sampling = {"ranges", *vars(sampling.parse_args([]))}
    with_real = {"real", "protocol", "i3d", "bn_eps", "inception", "c3d", "c3d_mean", "is_protocol", "features"}
    with_real |= {"real_crop", "frames", "model", "num_videos", "out", "seed", "device", "videomae", "sets", "parts"}
    with_real |= {"vjepa", "vjepa_probe"}
    if args.compare:
        useful, where = {"compare"}, "with --compare"
    elif args.leaderboard:
        useful, where = {"leaderboard"}, "with --leaderboard"
    elif args.reference:
        args.vae_folder = find_compared_vae(args.model, not args.download)
        useful, where = {"model", "reference", "alexnet", "out", "device"}, "with --reference"
        useful |= {"real_crop", "download"} if args.vae_folder is not None else set()
    elif args.real and is_features(args.real) and is_features(args.model):
        useful, where = {"real", "model", "out", "seed", "sets", "parts"}, "with statistics or features on both sides"
    elif args.real and is_model(args.model):
        useful, where = with_real | of_sampling | {"samples", "prompts"}, f"with --real and {args.model}, a model"
    elif args.real:
        useful, where = with_real, f"with {args.model}, a folder of videos"
    else:
        useful, where = of_sampling | {"model", "num_videos", "out"}, "without --real or --reference"
    for name in ("sets", "parts", *({"protocol"} if args.protocol == "all" else ())):
        if name in names & useful:  # only the distance itself is measured
            where = "with --protocol all" if name == "protocol" else f"with --{name}"
            useful = useful - ONE_SET - ({"sets", "parts"} if name == "protocol" else set())
    if idle := sorted(names - useful):
        raise ValueError(f"--{idle[0].replace('_', '-')} does nothing {where}: leave it out")
    if args.protocol == "all" and is_model(args.model) and not args.samples:
        raise ValueError("--protocol all takes several clips of each video: keep the model's with --samples FOLDER")
    if args.i3d and args.videomae:
        raise ValueError("--i3d and --videomae belong to two different distances: give one of them")
    needs = {"bn_eps": "i3d", "c3d_mean": "c3d", "is_protocol": "c3d", "vjepa": "vjepa_probe", "vjepa_probe": "vjepa"}
    for name, needed in needs.items():
        if getattr(args, name) and not getattr(args, needed):
            raise ValueError(f"--{name.replace('_', '-')} needs --{needed.replace('_', '-')}")
    check_paths(args)


def check_paths(args: argparse.Namespace) -> None:
    """Raise ValueError, before any video is opened, for a missing model or set, and for folders of the wrong kind."""
    for path in (Path(args.model), args.real, args.reference):
        if path and path.is_file() and path.suffix.lower() in STREAM_SUFFIXES:
            raise ValueError(f"{path} is one video: name a folder of videos")
    if args.real and is_model(args.model) and not (Path(args.model).exists() or args.download):
        find_pipeline(args.model)
    for path in args.sets or ():
        if not path.exists():
            raise ValueError(f"--sets {path}: there is no such folder or file")
    if args.features and args.features.exists() and not args.features.is_dir():
        raise ValueError(f"--features {args.features} is a file: name a folder, such as cache")
    for name, path in (("samples", args.samples), ("features", args.features)):
        complete = name == "features" and path and any(path.glob("*.safetensors"))  # possibly, and then only read
        if path and not (complete or writable(path)):
            raise ValueError(f"--{name} {path} is not a folder that can be written to: choose another")


def is_model(name: str) -> bool:
    """Whether a name is a model's, and not a folder or a file of videos, or of statistics or features."""
    path = Path(name)
    return (
        name in bundled_models()
        or is_model_folder(path)
        or not (path.is_dir() or is_features(path) or holds_videos(path))
    )


def compare_files(*paths: Path) -> str:
    """One line on which of two results is better."""
    results = []
    for path in paths:
        if not path.is_file():
            raise ValueError(f"--compare {path}: there is no such file: name two results that --out wrote")
        with prefix_errors(path):
            results.append(FVDResult.from_dict(read_json(path)))
    return compare_results([str(path) for path in paths], results)


def measure_videos(args: argparse.Namespace) -> dict | None:
    """Print the distance from real videos; None in all processes of torchrun but the first."""
    if is_features(args.real) and is_features(args.model) and not (args.sets or args.parts):
        result = compare_given(read_feature_set(args.real), read_feature_set(args.model), args.seed)
        if args.seed and result.seed is None:
            raise ValueError("--seed does nothing with statistics on both sides: leave it out")
        print(result)
        return result.to_dict()
    args.device = local_device(args.device or default_device())
    generated = (lambda: open_model(args)) if is_model(args.model) else args.model
    with processes(usable_device(args.device)) as ranks:
        result = measure_with(args, generated, ranks)
    if not ranks.first:
        return None
    print(result)
    return result.to_dict()


def measure_with(args: argparse.Namespace, generated: Videos, ranks: Ranks) -> FVDResult | ProtocolTable | SeedSpread:
    """The distance, its table over protocols, or its deviation over sets."""
    device, adjust = usable_device(args.device), (args.num_videos, args.bn_eps, args.real_crop, args.frames)
    names = PROTOCOLS if args.protocol == "all" else [args.protocol]
    readings = [
        Reading(choose_protocol(name, *adjust), args.seed, args.features, ranks, progress=True) for name in names
    ]
    if args.protocol == "all":
        one = cache(lambda: open_detector(args, device, readings[0].protocol))  # only I3D depends on the protocol
        make = partial(open_detector, args, device) if args.i3d else lambda protocol: one()
        return measure_protocols(args.real, generated, make, readings)
    reading, detector = readings[0], partial(open_detector, args, device, readings[0].protocol)
    if args.sets or args.parts:
        sets = {str(name): name for name in (args.model, *(args.sets or ()))}
        sets = {name: generated if name == args.model else videos for name, videos in sets.items()}
        return measure_sets(args.real, sets, detector, reading, args.parts or 1)
    main = detector()
    others = {"fid": inception_detector(args.inception, device)} if args.inception else {}
    if args.vjepa:
        others["jedi"] = vjepa_detector(args.vjepa, args.vjepa_probe, device)
    if args.c3d:
        others["inception_score"] = c3d_detector(args.c3d, args.c3d_mean, device)
    score_protocol = args.is_protocol or DEFAULT_SCORE
    return compare_videos(args.real, generated, main, reading, others=others, score_protocol=score_protocol)


def open_detector(args: argparse.Namespace, device: torch.device, protocol: Protocol) -> Detector:
    """The network of the distance, set up as a protocol prescribes."""
    if args.videomae:
        return videomae_detector(args.videomae, device)
    return i3d_detector(args.i3d, protocol, device) if args.i3d else shapes_detector(device)


def open_model(args: argparse.Namespace) -> ModelVideos:
    """Open the model whose videos are measured, one per class or prompt in turn."""
    pipe, settings, files = open_sampler(args)
    of_text = pipe.takes_prompts
    if of_text != bool(args.prompts):
        wrong = "makes videos from prompts: give" if of_text else "is not a text-to-video model; leave out"
        raise ValueError(f"{args.model} {wrong} --prompts")
    labels = read_prompts(args.prompts) if of_text else list(range(pipe.transformer.config.num_classes)) or None
    about = {**model_record(args, files), **reuse_record(pipe, args)}
    return ModelVideos(pipe, labels, settings, about, args.samples)


def find_compared_vae(name: str, local_files_only: bool) -> Path | None:
    """The VAE that the first argument names with --reference, or None for videos.

    Raises:
        ValueError: It names a model that is no VAE.
        CheckpointError: There is nothing of that name.
    """
    path = Path(name)
    if path.exists() and not (is_vae(path) or is_model_folder(path)):
        return None
    try:
        path = find_model(path) if path.exists() else find_vae(name, Path(), local_files_only)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or name a folder of videos") from error
    if not is_vae(path):
        advice = f"name its VAE, {name}/vae, or videos" if own_vae(path) else "name a VAE or videos"
        raise ValueError(f"--reference compares a VAE or videos with videos, but {name} is neither: {advice}")
    return path


def measure_pairs(args: argparse.Namespace) -> dict:
    """Print the fidelity to reference videos: of other videos, or of a VAE's reconstructions."""
    vae, options = args.vae_folder, {"alexnet": args.alexnet, "device": args.device}
    if vae is None:
        result = compare_pairs(args.model, args.reference, progress=True, **options)
    else:
        result = compare_reconstructions(vae, args.reference, crop=args.real_crop, progress=True, **options)
    print(result)
    return result.to_dict()


def require_shapes(model: str, local_files_only: bool) -> None:
    """Raise ValueError if a text-to-video model is known to be trained on videos other than the built-in shapes."""
    path = find_pipeline(model, local_files_only)
    data = data_settings(path).get("data", "shapes") if is_text_pipeline(path) else "shapes"
    if data != "shapes" and read_list_head(Path(data)).kind != "shapes":
        raise ValueError(f"{model} learned from {data}: {OTHERS}")


def examine_model(args: argparse.Namespace) -> dict:
    """Print the examiner's scores of a model."""
    count = VIDEOS if args.num_videos is None else args.num_videos
    check_count("--num-videos", count)
    if not is_model(args.model):
        raise ValueError(
            f"{args.model} holds no model: if it holds videos, name what to compare them with, such as --real FOLDER"
        )
    require_shapes(args.model, not args.download)
    pipe, settings, files = open_sampler(args)
    start = time.perf_counter()
    scores = score_model(pipe, count, **settings)
    about = origin(pipe, settings, files, args.model, args.weights, args.dtype, args.memory) | reuse_record(pipe, args)
    print(score_table(scores))
    print(f"{time.perf_counter() - start:.0f} s on {about['device']}")
    return {**about, "scores": scores}
