"""The options of every command. Nothing here loads PyTorch, so help texts and option errors appear at once.

A command `NAME` has its options here and its work in `latte.commands.NAME`, which is imported after they are parsed.
"""

from argparse import Namespace
from collections.abc import Callable

from latte.commands.options.benchmarks import bench_options
from latte.commands.options.evaluating import ablate_options, eval_options
from latte.commands.options.models import convert_options, info_options
from latte.commands.options.planning import calibrate_options, plan_options
from latte.commands.options.sampling import demo_options, sample_options
from latte.commands.options.training import (
    average_options,
    distill_options,
    encode_options,
    plot_options,
    prepare_options,
    train_options,
)

OPTIONS: dict[str, Callable[[list[str]], Namespace]] = {
    "sample": sample_options,
    "demo": demo_options,
    "prepare": prepare_options,
    "train": train_options,
    "distill": distill_options,
    "encode": encode_options,
    "average": average_options,
    "plot": plot_options,
    "convert": convert_options,
    "eval": eval_options,
    "ablate": ablate_options,
    "bench": bench_options,
    "info": info_options,
    "plan": plan_options,
    "calibrate": calibrate_options,
}
