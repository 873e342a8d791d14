"""The length of the `make soak` tests: SOAK=0.1 in the environment makes each a tenth as long."""

import os


def count(full: int) -> int:
    """How many of `full` repetitions to run: at least one."""
    return max(1, round(full * float(os.environ.get("SOAK", 1))))
