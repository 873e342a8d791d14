"""The options of the commands that measure: `latte eval` and `latte ablate`."""

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path

from latte.commands.options.choices import (
    ABLATIONS,
    DEFAULT_SCORE,
    PROTOCOLS,
    SCALE_STEPS,
    SCORE_PROTOCOLS,
)
from latte.commands.options.sampling import (
    add_plan_options,
    add_sampling_options,
    check_plan_options,
    check_sampling_ranges,
)
from latte.commands.options.training import check_changes
from latte.commands.parser import Parser, check_model, check_out_folder
from latte.train.presets import PRESETS

EVALUATE = """Measure generated videos.

With --real, the distance from real videos: FVD if --i3d gives its weights, otherwise the shapes distance. Each distance
is reported with its protocol, an extrapolation to infinite N with a 95 % interval, the real-vs-real floor, and caveats.
With --reference, the fidelity to reference videos: of videos of the same names, or of a VAE's reconstructions. With
neither, the examiner's scores of a model of the built-in shapes.
"""
ABLATE = """Run ablations: train every arm with every seed, sample, score, and write a report.

Without names, these are the paper's. "modern" compares parts of a recipe that is newer than the paper.

At the small scale, models are trained on the built-in shapes, which takes hours on a CPU. The paper's scale needs GPUs.
Work that is already done is not repeated.
"""
VIDEOS = 256  # that the examiner judges
ABLATION_VIDEOS = {"small": 64, "paper": 2048}  # sampled from each trained model by default, by scale


def eval_parser() -> Parser:
    """The options of `latte eval`."""
    parser = Parser(prog="latte eval", description=EVALUATE, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "model",
        nargs="?",
        default="shapes",
        help="a model, generated videos as --real takes them, or a VAE (default: shapes)",
    )
    add("--num-videos", type=int, help=f"clips of each kind (default: {VIDEOS}; with --real, the protocol's number)")
    add("--out", type=Path, help="write the result, with everything that it depends on, to this .json file")
    add = parser.add_argument_group("distance from real videos").add_argument
    words = "real videos (a folder or a file of arrays), their statistics (.npz, .pkl) or features (.npz, .safetensors)"
    add("--real", type=Path, help=words)
    words = "which clips to take and how to resize them (default: exact, any codec); see docs/evaluation.md"
    add("--protocol", choices=(*PROTOCOLS, "all"), help=f"{words}; all: a table of every protocol")
    add("--frames", type=int, metavar="N", help="frames per clip, for videos too short for the protocol's")
    words = "resize and centre-crop real frames, or a VAE's, to SIZE x SIZE, as in training (default: unchanged)"
    add("--real-crop", type=int, metavar="SIZE", help=words)
    words = "other sets of the same model, sampled with other seeds: mean and deviation of the distance"
    add("--sets", type=Path, nargs="+", metavar="SET", help=words)
    add("--parts", type=int, metavar="N", help="split each generated set at random into N: mean and deviation")
    add("--i3d", type=Path, help="I3D's weights, for FVD: path to i3d_torchscript.pt or i3d_pretrained_400.pt")
    add("--bn-eps", type=float, help="eps of I3D's batch norms (default: 1e-3; VideoGPT, TATS and cd-fvd use 1e-5)")
    words = "VideoMAE's weights, for CD-FVD in place of FVD: path to vit_g_hybrid_pt_1200e_ssv2_ft.pth"
    add("--videomae", type=Path, help=words)
    add("--vjepa", type=Path, help="V-JEPA's weights, for JEDi in addition to the distance: path to vith16.pth.tar")
    add("--vjepa-probe", type=Path, help="the probe of V-JEPA's classifier: path to ssv2-probe.pth.tar")
    add("--inception", type=Path, help="for the FID of frames: path to weights-inception-2015-12-05-6726825d.pth")
    add("--c3d", type=Path, help="for the inception score: path to conv3d_deepnetA_ucf.npz")
    add("--c3d-mean", type=Path, help="C3D's mean clip: path to mean2.npz")
    words = f"how many clips are scored, in how many groups (default: {DEFAULT_SCORE})"
    add("--is-protocol", choices=SCORE_PROTOCOLS, help=words)
    add("--features", type=Path, help="a folder where features are cached")
    add("--samples", type=Path, help="keep a model's videos, lossless, in this folder (default: they are not kept)")
    add("--prompts", type=Path, metavar="FILE", help="prompts for a text-to-video model, one per line")
    add = parser.add_argument_group("fidelity to reference videos").add_argument
    words = "a folder of references of the same names, or of videos that a VAE reconstructs: PSNR, SSIM, LPIPS, flicker"
    add("--reference", type=Path, help=words)
    add("--alexnet", type=Path, help="for LPIPS: path to alexnet-owt-7be5be79.pth")
    add = parser.add_argument_group("comparing results").add_argument
    words = "two .json files from --out: say which is better, and whether their intervals show it"
    add("--compare", type=Path, nargs=2, metavar="RESULT", help=words)
    words = "write a page into a folder of such files, with tables that rank comparable results"
    add("--leaderboard", type=Path, metavar="FOLDER", help=words)
    sampling = parser.add_argument_group("sampling a model (--seed also chooses the clips)")
    add_plan_options(sampling)
    add_sampling_options(sampling)
    return parser


def eval_options(argv: list[str]) -> argparse.Namespace:
    """Parse the options of `latte eval`; see check_plan_options. Raises ValueError for a value out of range."""
    args = eval_parser().parse_args(argv)
    if not (args.compare or args.leaderboard or args.reference):
        check_model(args.model, args.download)
    check_sampling_ranges(args)
    check_plan_options(args)
    return args


def ablate_parser() -> Parser:
    """The options of `latte ablate`."""
    parser = Parser(prog="latte ablate", description=ABLATE)
    add = parser.add_argument
    words = "names of ablations (default: the paper's), and settings of the base configuration to change"
    add("names", nargs="*", metavar="NAME or key=value", help=words)
    add("--list", action="store_true", help="list the ablations and their arms, and do nothing else")
    add("--out", type=Path, default=Path("ablations"), help="folder for runs and report (default: ablations)")
    words = "small: the built-in shapes, on a CPU (default); paper: the paper's settings, on GPUs"
    add("--scale", choices=SCALE_STEPS, default="small", help=words)
    presets = [name for name, preset in PRESETS.items() if preset.kind == "latte"]
    add("--config", choices=presets, help="preset of the base (default: shapes-plain, or ffs with --scale paper)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="train every arm with each of these (default: 0 1 2)")
    words = f"training steps of each run (default: {SCALE_STEPS['small']}; with --scale paper {SCALE_STEPS['paper']})"
    add("--steps", type=int, help=words)
    small, paper = ABLATION_VIDEOS.values()
    words = f"videos to sample from each model (default: {small}; with --scale paper {paper})"
    add("--num-videos", type=int, help=words)
    add("--i3d", help="path to I3D's weights, for the FVD of samples if the data is a folder of videos")
    add("--parallel", type=int, help="runs at a time (default: one per GPU, or one)")
    return parser


def ablate_options(argv: list[str]) -> argparse.Namespace:
    """Parse the options of `latte ablate`.

    Raises:
        ValueError: There is no such ablation, or a value would only fail at the end of hours of work.
    """
    args = ablate_parser().parse_intermixed_args(argv)
    check_ablations([word for word in args.names if "=" not in word], ABLATIONS)
    if args.num_videos is None:
        args.num_videos = ABLATION_VIDEOS[args.scale]
    if args.list:
        return args
    if not 1 <= args.num_videos <= 1_000_000:
        raise ValueError(f"--num-videos is {args.num_videos}; it must be from 1 to 1000000")
    if args.parallel is not None and not 1 <= args.parallel <= 1024:
        raise ValueError(f"--parallel is {args.parallel}; it must be from 1 to 1024")
    if min(args.seeds) < 0:
        raise ValueError(f"--seeds has {min(args.seeds)}; seeds must be 0 or more")
    check_out_folder(args.out)
    check_changes(None, [word for word in args.names if "=" in word])
    return args


def check_ablations(names: Sequence[str], known: Collection[str]) -> None:
    """Raise ValueError for a name that is not among the known ablations."""
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no ablation is called {unknown[0]!r} at this scale; the names are {', '.join(known)}")
