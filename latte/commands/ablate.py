"""`latte ablate`: the paper's ablations. Trains every arm with every seed, samples, scores, and writes a report.

In small on the built-in shapes, which a CPU does in hours, or in the paper's own size, on GPUs.
"""

import textwrap
from dataclasses import asdict, replace
from pathlib import Path

import torch

from latte.commands.parser import Parser
from latte.eval.ablate.definitions import SCALES, Scale, ablations
from latte.eval.ablate.report import write_report
from latte.eval.ablate.runs import ABOUT, Grid, complete, missing
from latte.eval.networks.i3d_weights import find_i3d
from latte.files import writable
from latte.models.latte import LatteConfig
from latte.train.config import TrainConfig
from latte.train.data.folders import open_clips
from latte.train.presets import PRESETS, resolve
from latte.weights.load import find_model
from latte.weights.tensors import prefix_errors
from latte.weights.vae_folder import load_vae

LATTES = [name for name, preset in PRESETS.items() if preset.kind == "latte"]
VIDEOS = {"small": 64, "paper": 2048}  # sampled of each run, where no number is asked for, by the scale


def base_of(scale: Scale, preset: str, changes: list[str]) -> TrainConfig:
    """The settings that arms depart from: the preset's, with the scale's and then the user's changes. ValueError: not
    those of a Latte, or unknown ones."""
    words = [f"{name}={value}" for name, value in scale.settings.items()]
    config = resolve(preset, words + changes)
    if config.kind != "latte":
        raise ValueError(f"--config {preset}: kind is {config.kind!r}; the ablations are of kind 'latte'")
    return config


def main(argv: list[str]) -> None:
    """Do what is missing of the runs and scores, and write the report."""
    parser = Parser(prog="latte ablate", description=__doc__)
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME or key=value", help="ablations (default: all), and changes of the base")
    add("--list", action="store_true", help="show the ablations and their arms, and do nothing")
    add("--out", type=Path, default=Path("ablations"), help="folder of runs and report (default: ablations)")
    add("--scale", choices=SCALES, default="small", help="small: the shapes, on a CPU (default); paper: needs GPUs")
    add("--config", choices=LATTES, help="preset of the base (default: shapes, or ffs at --scale paper)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a run of every arm for each (default: 0 1 2)")
    add(
        "--steps",
        type=int,
        help=f"training steps of a run (default: {SCALES['small'].settings['steps']}; paper: 150000)",
    )
    words = f"sampled of each run (default: {VIDEOS['small']}; paper: {VIDEOS['paper']})"
    add("--num-videos", type=int, help=words)
    add("--i3d", default="", help="path to I3D's weights: FVD of the samples, where the data is a folder of videos")
    add("--parallel", type=int, help="runs at a time (default: one on each GPU, or one)")
    args = parser.parse_intermixed_args(argv)
    changes = [word for word in args.names if "=" in word]
    changes += [] if args.steps is None else [f"steps={args.steps}"]
    scale = SCALES[args.scale]
    base = base_of(scale, args.config or scale.preset, changes)
    if not base.classes:
        scale = replace(scale, sampling={**scale.sampling, "guidance_scale": 1.0}, guidance_scales=())
    if args.i3d:
        if base.data == "shapes":
            raise ValueError("--i3d does nothing on the built-in shapes, which have their own distance: leave it out")
        find_i3d(args.i3d)
    known = ablations(scale, asdict(LatteConfig.from_dict(base.model)))
    if args.list:
        for name, ablation in known.items():
            arms = textwrap.wrap("; ".join(ablation.arms), 100)
            print(f"{name:18} {ablation.title}", *arms, sep=f"\n{'':19}")
        return
    names = tuple(dict.fromkeys(name for name in args.names if "=" not in name)) or tuple(known)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no ablation is called {unknown[0]!r} at this scale; there are {', '.join(known)}")
    args.num_videos = VIDEOS[args.scale] if args.num_videos is None else args.num_videos
    check(args.num_videos, args.parallel, args.out, args.seeds)
    with prefix_errors(f"vae={base.vae}"):
        load_vae(find_model(base.vae))
    if not (args.out / ABOUT).is_file():  # once, as every run would fail
        open_clips(base)
    if base.data != "shapes" and not args.i3d:
        print("without --i3d the report will have losses and samples, and no FVD")
    grid = Grid(args.out, scale, base, names, tuple(dict.fromkeys(args.seeds)), args.num_videos, args.i3d)
    grid.begin()
    _, runs, exams = missing(grid)
    print(f"{len(grid.exams)} to score, {len(exams)} missing; {len(runs)} to train, {base.steps} steps each")
    failed = complete(grid, args.parallel or max(1, torch.cuda.device_count()))
    print(f"wrote {', '.join(str(path) for path in write_report(grid, failed))}")
    if failed:
        path, reason = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} failed, the others are in the report; first {path}: {reason}")


def check(count: int, parallel: int | None, out: Path, seeds: list[int]) -> None:
    """ValueError, before hours of work, for what would fail after them."""
    if not 1 <= count <= 1_000_000:
        raise ValueError(f"--num-videos is {count}; it must be in 1 to 1000000")
    if parallel is not None and not 1 <= parallel <= 1024:
        raise ValueError(f"--parallel is {parallel}; it must be in 1 to 1024")
    if min(seeds) < 0:
        raise ValueError(f"--seeds has {min(seeds)}; seeds are 0 or more")
    if not writable(out):
        raise ValueError(f"--out {out} is not a folder that can be written to")
