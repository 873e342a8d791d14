"""What measurements are reported with: the machine they ran on, and Markdown tables."""

from collections.abc import Sequence

import torch

from latte.device import device_name


def machine_record(device: torch.device) -> dict[str, str | int]:
    """What a speed depends on besides the code.

    Returns:
        The device's name, the number of CPU threads that PyTorch uses, and PyTorch's version.
    """
    return {"device": device_name(device), "threads": torch.get_num_threads(), "torch": torch.__version__}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table without a trailing line break.

    Args:
        header: the column titles; an empty string leaves a title out.
        rows: one sequence of cells per row, as many as there are titles.
    """
    line = lambda cells: f"| {' | '.join(cells)} |"
    return "\n".join([line(header), "|---" * len(header) + "|", *map(line, rows)])
