"""`latte eval`: how good generated videos are.

Of a model of the built-in shapes, what the examiner says; of a model or a folder of videos beside real ones (--real),
how far they are from these, and how sure that is; beside the videos that they stand in for (--reference), how near.
"""

import argparse
import time
from pathlib import Path

from latte.commands.parser import Parser
from latte.commands.sampling_options import add_sampling_options, opened
from latte.eval.exam import evaluate, origin, table
from latte.eval.fvd import compared
from latte.eval.inception_score import SCORE_PROTOCOLS as INCEPTION_SCORES
from latte.eval.model_clips import is_model
from latte.eval.pairs import compare_pairs
from latte.eval.protocol import PROTOCOLS
from latte.eval.statistics import is_statistics
from latte.eval.videos import compare_videos
from latte.files import read_json, writable, write_json
from latte.video.formats import STREAM_SUFFIXES

VIDEOS = 256  # that the examiner judges


def parser() -> Parser:
    """The words of `latte eval`."""
    parser = Parser(prog="latte eval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model", nargs="?", default="shapes", help="a model, or a folder of generated videos (default: shapes)")
    add("--num-videos", type=int, help=f"clips of each kind (default: {VIDEOS}; with --real what the protocol says)")
    add("--out", type=Path, help="a .json file for the numbers and all that they depend on")
    add = parser.add_argument_group("beside real videos").add_argument
    add("--real", type=Path, help="a folder of real videos, or statistics of them (.npz, StyleGAN's .pkl)")
    add("--protocol", choices=PROTOCOLS, help="which clips, how resized (default: exact); see docs/evaluation.md")
    words = "cut real frames to SIZE x SIZE, resized and from their middle, as training does (default: as they are)"
    add("--real-crop", type=int, metavar="SIZE", help=words)
    add("--i3d", type=Path, help="path to I3D's weights, for FVD: i3d_torchscript.pt or i3d_pretrained_400.pt")
    add("--bn-eps", type=float, help="of I3D's batch norms (default: 1e-3; 1e-5 as VideoGPT, TATS and cd-fvd have it)")
    add("--inception", type=Path, help="path to weights-inception-2015-12-05-6726825d.pth, for the FID of frames")
    add("--c3d", type=Path, help="path to conv3d_deepnetA_ucf.npz, for the inception score of UCF101")
    add("--c3d-mean", type=Path, help="path to mean2.npz, which belongs to it")
    add("--is-protocol", choices=INCEPTION_SCORES, help="how many clips, in how many groups (default: stylegan-v)")
    add("--features", type=Path, help="a folder where features are kept, and found again")
    add("--samples", type=Path, help="a folder for a model's videos, lossless; without it none is kept")
    add("--prompts", type=Path, metavar="FILE", help="what a text-to-video model is to show, a line each")
    add = parser.add_argument_group("beside videos that they stand in for").add_argument
    add("--reference", type=Path, help="a folder of these, matched by name: PSNR, SSIM, LPIPS, flicker")
    add("--alexnet", type=Path, help="path to alexnet-owt-7be5be79.pth, for LPIPS")
    add = parser.add_argument_group("two results").add_argument
    add("--compare", type=Path, nargs=2, metavar="RESULT", help="two .json files: which is better, if that can be said")
    add_sampling_options(parser.add_argument_group("sampling a model (--seed also chooses clips)"))
    return parser


def main(argv: list[str]) -> None:
    """Print the numbers and, if asked, write them with everything that they depend on."""
    words = parser()
    args = words.parse_args(argv)
    check(args, words)
    if args.compare:
        for path in args.compare:
            if not path.is_file():
                raise ValueError(f"--compare {path}: there is no such file: name two results that --out wrote")
        print(compared([str(path) for path in args.compare], [read_json(path) for path in args.compare]))
        return
    if args.out and (args.out.is_dir() or not writable(args.out.parent)):
        raise ValueError(f"--out {args.out} is not a file that can be written: name one, such as scores.json")
    work = compare_videos if args.real else compare_pairs if args.reference else examine_model
    result = work(args)
    if args.out and result:
        write_json(args.out, result)
        print(f"wrote {args.out}")


def check(args: argparse.Namespace, words: Parser) -> None:
    """ValueError: options that have nothing to do in what is asked for."""
    names = {name for name in vars(args) if getattr(args, name) != words.get_default(name)}
    sampling = Parser()
    add_sampling_options(sampling)
    of_sampling = set(vars(sampling.parse_args([])))
    beside_real = {"real", "protocol", "i3d", "bn_eps", "inception", "c3d", "c3d_mean", "is_protocol", "features"}
    beside_real |= {"real_crop", "model", "num_videos", "out", "seed", "device"}
    if args.compare:
        useful, where = {"compare"}, "with --compare"
    elif args.reference:
        useful, where = {"model", "reference", "alexnet", "out", "device"}, "with --reference"
    elif args.real and is_statistics(args.real) and is_statistics(Path(args.model)):
        useful, where = {"real", "model", "out"}, "with statistics on both sides"
    elif args.real and is_model(args.model):
        useful, where = beside_real | of_sampling | {"samples", "prompts"}, f"with --real and {args.model}, a model"
    elif args.real:
        useful, where = beside_real, f"with {args.model}, a folder of videos"
    else:
        useful, where = of_sampling | {"model", "num_videos", "out"}, "without --real or --reference"
    if idle := sorted(names - useful):
        raise ValueError(f"--{idle[0].replace('_', '-')} does nothing {where}: leave it out")
    for path in (Path(args.model), args.real, args.reference):
        if path and path.is_file() and path.suffix.lower() in STREAM_SUFFIXES:
            raise ValueError(f"{path} is one video: name a folder of videos")
    if args.features and args.features.exists() and not args.features.is_dir():
        raise ValueError(f"--features {args.features} is a file: name a folder, such as cache")
    for name, needed in {"bn_eps": "i3d", "c3d_mean": "c3d", "is_protocol": "c3d"}.items():
        if getattr(args, name) and not getattr(args, needed):
            raise ValueError(f"--{name.replace('_', '-')} does nothing without --{needed}")


def examine_model(args: argparse.Namespace) -> dict:
    """The examiner's scores of a model, printed and returned with their settings."""
    pipe, settings, files = opened(args)
    start = time.perf_counter()
    scores = evaluate(pipe, VIDEOS if args.num_videos is None else args.num_videos, **settings)
    about = origin(pipe, settings, files, args)
    print(table(scores))
    print(f"{time.perf_counter() - start:.0f} s on {about['device']}")
    return {**about, "scores": scores}
