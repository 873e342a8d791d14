"""`latte ablate`: run the paper's ablations. Train every arm with every seed, sample, score, and write a report.

At the small scale, models are trained on the built-in shapes, which takes hours on a CPU. The paper's scale needs GPUs.
Work that is already done is not repeated.
"""

import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import torch

from latte.commands.parser import Parser, check_out_folder
from latte.eval.ablate.definitions import SCALES, Ablation, Scale, ablations
from latte.eval.ablate.report import write_report
from latte.eval.ablate.runs import ABOUT, Grid, do_missing_work, missing_work
from latte.eval.networks.i3d_weights import find_i3d
from latte.models.latte import LatteConfig
from latte.train.config import TrainConfig
from latte.train.data.folders import open_clips
from latte.train.presets import PRESETS, resolve
from latte.weights.load import find_model
from latte.weights.tensors import prefix_errors
from latte.weights.vae_folder import load_vae

LATTES = [name for name, preset in PRESETS.items() if preset.kind == "latte"]
VIDEOS = {"small": 64, "paper": 2048}  # sampled from each trained model by default, by scale


def build_parser() -> Parser:
    """The options of `latte ablate`."""
    parser = Parser(prog="latte ablate", description=__doc__)
    add = parser.add_argument
    words = "names of ablations (default: all), and settings of the base to change"
    add("names", nargs="*", metavar="NAME or key=value", help=words)
    add("--list", action="store_true", help="list the ablations and their arms, and do nothing else")
    add("--out", type=Path, default=Path("ablations"), help="folder for runs and report (default: ablations)")
    words = "small: the built-in shapes, on a CPU (default); paper: the paper's settings, on GPUs"
    add("--scale", choices=SCALES, default="small", help=words)
    add("--config", choices=LATTES, help="preset of the base (default: shapes, or ffs with --scale paper)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="train every arm with each of these (default: 0 1 2)")
    small = SCALES["small"].settings["steps"]
    add("--steps", type=int, help=f"training steps of each run (default: {small}; with --scale paper 150000)")
    words = f"videos to sample from each model (default: {VIDEOS['small']}; with --scale paper {VIDEOS['paper']})"
    add("--num-videos", type=int, help=words)
    add("--i3d", default="", help="path to I3D's weights, for the FVD of samples if the data is a folder of videos")
    add("--parallel", type=int, help="runs at a time (default: one per GPU, or one)")
    return parser


def base_config(scale: Scale, preset: str, changes: list[str]) -> TrainConfig:
    """The settings that arms depart from.

    Args:
        scale: Its settings are applied to the preset first.
        preset: A name of latte.train.presets.
        changes: The user's, as "key=value", applied after the scale's.

    Raises:
        ValueError: The preset does not train a Latte, or a setting is unknown or not valid.
    """
    settings = [f"{name}={value}" for name, value in scale.settings.items()]
    config = resolve(preset, settings + changes)
    if config.kind != "latte":
        raise ValueError(f"--config {preset}: kind is {config.kind!r}; the ablations are of kind 'latte'")
    return config


def check_ablation(num_videos: int, parallel: int | None, out: Path, seeds: list[int]) -> None:
    """Raise ValueError, before hours of work, for values that would only fail at the end of them."""
    if not 1 <= num_videos <= 1_000_000:
        raise ValueError(f"--num-videos is {num_videos}; it must be in 1 to 1000000")
    if parallel is not None and not 1 <= parallel <= 1024:
        raise ValueError(f"--parallel is {parallel}; it must be in 1 to 1024")
    if min(seeds) < 0:
        raise ValueError(f"--seeds has {min(seeds)}; seeds must be 0 or more")
    check_out_folder(out)


def check_data(base: TrainConfig, out: Path) -> None:
    """Raise ValueError if the VAE or, for a new folder, the videos cannot be read: every training would fail."""
    with prefix_errors(f"vae={base.vae}"):
        load_vae(find_model(base.vae))
    if not (out / ABOUT).is_file():
        open_clips(base)


def print_list(known: dict[str, Ablation]) -> None:
    """Print the ablations and their arms."""
    for name, ablation in known.items():
        arms = textwrap.wrap("; ".join(ablation.arms), 100)
        print(f"{name:18} {ablation.title}", *arms, sep=f"\n{'':19}")


def main(argv: list[str]) -> None:
    """Do what is missing of the trainings and evaluations, and write the report."""
    args = build_parser().parse_intermixed_args(argv)
    changes = [word for word in args.names if "=" in word]
    changes += [] if args.steps is None else [f"steps={args.steps}"]
    scale = SCALES[args.scale]
    base = base_config(scale, args.config or scale.preset, changes)
    if not base.classes:
        scale = replace(scale, sampling={**scale.sampling, "guidance_scale": 1.0}, guidance_scales=())
    if args.i3d:
        if base.data == "shapes":
            raise ValueError("--i3d does nothing on the built-in shapes, which have their own distance: leave it out")
        find_i3d(args.i3d)
    known = ablations(scale, asdict(LatteConfig.from_dict(base.model)))
    if args.list:
        print_list(known)
        return
    names = tuple(dict.fromkeys(name for name in args.names if "=" not in name)) or tuple(known)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no ablation is called {unknown[0]!r} at this scale; there are {', '.join(known)}")
    num_videos = VIDEOS[args.scale] if args.num_videos is None else args.num_videos
    check_ablation(num_videos, args.parallel, args.out, args.seeds)
    check_data(base, args.out)
    if base.data != "shapes" and not args.i3d:
        print("without --i3d the report will have losses and samples, but no FVD")
    grid = Grid(args.out, scale, base, names, tuple(dict.fromkeys(args.seeds)), num_videos, args.i3d)
    grid.write_settings()
    missing = missing_work(grid)
    print(f"{len(grid.evaluations)} evaluations, {len(missing.evaluations)} missing; ", end="")
    print(f"{len(missing.trainings)} trainings missing, {base.steps} steps each")
    failed = do_missing_work(grid, missing, args.parallel or max(1, torch.cuda.device_count()))
    print(f"wrote {', '.join(str(path) for path in write_report(grid, failed))}")
    if failed:
        path, reason = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} failed, the others are in the report; first {path}: {reason}")
