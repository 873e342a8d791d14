"""`latte ablate`: run ablations. Train every arm with every seed, sample, score, and write a report.

At the small scale, models are trained on the built-in shapes, which takes hours on a CPU. The paper's scale needs GPUs.
Work that is already done is not repeated.
"""

import textwrap
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import torch

from latte.commands.options.evaluating import check_ablations
from latte.eval.ablate.arms import Ablation
from latte.eval.ablate.definitions import SCALES, Scale, ablations
from latte.eval.ablate.report import write_report
from latte.eval.ablate.runs import ABOUT, Grid, do_missing_work, missing_work
from latte.eval.networks.i3d_weights import find_i3d
from latte.files import prefix_errors
from latte.train.base_config import TrainConfig
from latte.train.data.folders import open_clips
from latte.train.resolve import resolve
from latte.weights.find_models import find_model
from latte.weights.vae_folder import load_vae


def base_config(scale: Scale, preset: str, changes: list[str]) -> TrainConfig:
    """The base settings, which the arms change.

    Args:
        scale: Its settings are applied to the preset first.
        preset: A name of latte.train.presets.
        changes: The user's changes, as "key=value", applied after the scale's.

    Raises:
        ValueError: The preset does not train a Latte, or a setting is unknown or not valid.
    """
    settings = [f"{name}={value}" for name, value in scale.settings.items()]
    config = resolve(preset, settings + changes)
    if config.kind != "latte":
        raise ValueError(f"--config {preset}: kind is {config.kind!r}; the ablations need kind 'latte'")
    return config


def check_data(base: TrainConfig, out: Path) -> None:
    """Raise ValueError if the VAE or, for a new folder, the videos cannot be read: every training would fail."""
    with prefix_errors(f"vae={base.vae}"):
        load_vae(find_model(base.vae))
    if not (out / ABOUT).is_file():
        open_clips(base)


def print_list(known: dict[str, Ablation]) -> None:
    """Print the ablations and their arms."""
    for name, ablation in known.items():
        whole = [arm.replace(" ", "\xa0") for arm in ablation.arms]  # so that a line never ends inside a name
        arms = textwrap.wrap("; ".join(whole), 100, break_long_words=False, break_on_hyphens=False)
        print(f"{name:18} {ablation.title}", *(line.replace("\xa0", " ") for line in arms), sep=f"\n{'':19}")


def main(args: Namespace) -> None:
    """Run the missing trainings and evaluations, and write the report."""
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
    known = ablations(scale, base)
    if args.list:
        print_list(known)
        return
    names = tuple(dict.fromkeys(name for name in args.names if "=" not in name))
    names = names or tuple(name for name, ablation in known.items() if ablation.finding)
    check_ablations(names, known)
    check_data(base, args.out)
    if base.data != "shapes" and not args.i3d:
        print("without --i3d the report will have losses and samples, but no FVD")
    grid = Grid(args.out, scale, base, names, tuple(dict.fromkeys(args.seeds)), args.num_videos, args.i3d or "")
    grid.write_settings()
    missing = missing_work(grid)
    print(f"{len(grid.evaluations)} evaluations, {len(missing.evaluations)} missing; ", end="")
    print(f"{len(missing.trainings)} trainings missing, up to {base.steps} steps each")
    failed = do_missing_work(grid, missing, args.parallel or max(1, torch.cuda.device_count()))
    print(f"wrote {', '.join(str(path) for path in write_report(grid, failed))}")
    if failed:
        path, reason = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} failed, the others are in the report; first {path}: {reason}")
