"""Arrays in a stranger's .npz: numbers alone, no pickle."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latte.tensors import CheckpointError

LARGEST = 1 << 30  # bytes that a file may unpack to; the largest that a metric needs has 0.3 billion


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an .npz by name, each as it is.

    CheckpointError: missing, damaged (it has checksums), with objects in it, which would be code that runs, with values
    that are not finite numbers, or of more than LARGEST bytes.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(record.file_size for record in archive.infolist())
        if claimed > LARGEST:
            raise CheckpointError(f"{path} claims {claimed} bytes of arrays; more than {LARGEST} are not read")
        with np.load(path, allow_pickle=False) as arrays:
            table = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except CheckpointError:
        raise
    except Exception as error:  # inside a reader, a forged file can make almost any
        raise CheckpointError(f"{path} is damaged or is not an .npz of plain arrays of numbers") from error
    for name, array in table.items():
        if not array.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite: of no use")
    return table
