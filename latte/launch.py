"""What torchrun's environment variables say about this process. Nothing here loads PyTorch."""

import os
from typing import NamedTuple

ADVICE = "start all processes with torchrun; or unset RANK and WORLD_SIZE to use one process"
LAUNCH_DEFAULTS = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}


class Launch(NamedTuple):
    """This process according to torchrun's environment variables; without torchrun, it is the only one.

    Attributes:
        rank: The number of this process, from 0.
        size: The number of processes.
        local_size: The number of processes on this machine.
    """

    rank: int
    size: int
    local_size: int


def launch() -> Launch:
    """Read torchrun's environment variables. No process group is needed, and none is joined.

    Raises:
        ValueError: One of them is not a number.
    """
    values = {name: os.environ.get(name, default) for name, default in LAUNCH_DEFAULTS.items()}
    if wrong := [f"{name} is {value!r}" for name, value in values.items() if not value.isdecimal()]:
        raise ValueError(f"{wrong[0]}, not a number: {ADVICE}")
    return Launch(*map(int, values.values()))
