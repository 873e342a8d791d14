"""The parts of a report of measurements: the machine and the model they depend on, and Markdown tables."""

from collections.abc import Sequence
from pathlib import Path

import torch

from latte import __version__
from latte.device import device_name
from latte.eval.exam import HELD_OUT
from latte.pipeline import LattePipeline
from latte.weights.manifest import digest


def machine_record(device: torch.device) -> dict[str, str | int]:
    """What a speed depends on besides the code.

    Returns:
        The device's name, the number of CPU threads that PyTorch uses, and PyTorch's version.
    """
    return {"device": device_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__}


def origin(
    pipe: LattePipeline, settings: dict, files: list[Path], model: str, weights: str, dtype: str, memory: str
) -> dict:
    """What the results of a model depend on.

    Args:
        pipe: The model's pipeline.
        settings: Options of the pipeline's call.
        files: The files of weights, which are identified by their sha256.
        model: The name or path by which the model was given.
        weights: Which of a checkpoint's weights: "ema" or "model".
        dtype: The type of a text-to-video model's weights.
        memory: "normal" or "low".

    Returns:
        All of these, the device and the versions, ready for JSON.
    """
    return {
        "model": model,
        "weights": weights,
        "dtype": dtype,
        "memory": memory,
        "sha256": {f"{file.parent.name}/{file.name}": digest(file) for file in files},
        **({} if pipe.weaker is None else {"autoguidance": pipe.weaker_record()}),
        "device": device_name(pipe.device),
        "torch": torch.__version__,
        "latte": __version__,
        "real_seed": HELD_OUT,
        "sampler": settings.get("sampler") or pipe.scheduler.sampler,
        **settings,
    }


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table without a trailing line break.

    Args:
        header: the column titles; an empty string leaves a title out.
        rows: one sequence of cells per row, as many as there are titles.
    """
    line = lambda cells: f"| {' | '.join(cells)} |"
    return "\n".join([line(header), "|---" * len(header) + "|", *map(line, rows)])
