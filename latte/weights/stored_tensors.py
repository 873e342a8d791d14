"""Tensors that stay in their file until they are needed, for networks that are larger than the memory they may take."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latte.weights.pickles import Foreign
from latte.weights.tensor_pickles import TensorReader, Values
from latte.weights.tensors import check_values, read_tensors, reading
from latte.weights.torch_files import ZIP, Storages, check_records, meta_storage, pickle_of


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor whose values are still in its file.

    Attributes:
        view: A tensor of its shape and type on the device "meta".
        storages: The values in the file.
        key: The name of the storage that holds its values.
    """

    view: Tensor
    storages: Storages
    key: str

    def read(self) -> Tensor:
        """Read the values. Raises CheckpointError, without the name of the file, if they are damaged."""
        memory = self.storages.read(self.key, self.view.untyped_storage().nbytes())
        place = self.view.storage_offset(), self.view.shape, self.view.stride()
        return torch.empty(0, dtype=self.view.dtype).set_(memory, *place)


class StoredReader(TensorReader):
    """Reads the pickle of an archive, with a StoredTensor in place of each tensor."""

    def __init__(self, storages: Storages):
        super().__init__(meta_storage)
        self.storages = storages

    def tensor(self, values: Values | Foreign, *given: object, **named: object) -> "StoredTensor | Foreign":
        """A tensor that is a view of stored values; see TensorReader."""
        view = super().tensor(values, *given, **named)
        return view if isinstance(view, Foreign) else StoredTensor(view, self.storages, values.name)


def open_tensors(path: Path) -> dict:
    """What a checkpoint holds, as `read_tensors` returns it, but with the values of its tensors left in the file.

    The file stays open as long as one of its tensors is there. Only files of PyTorch 1.6 or later, which are zip
    archives, can be read in parts; tensors of others are read now.

    Args:
        path: See `read_tensors`.

    Returns:
        StoredTensors or tensors by name, or a table with such tables in it.

    Raises:
        CheckpointError: See `read_tensors`. Values are checked when they are read.
    """
    if not path.is_file():
        return read_tensors(path)  # which says what is wrong
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return read_tensors(path)
    with reading(path):
        archive = zipfile.ZipFile(path)
        check_records(archive, path.stat().st_size)
        table = StoredReader(Storages(archive)).load(pickle_of(archive))
    return table if isinstance(table, dict) else read_tensors(path)


def read_stored(state: Mapping[str, object], path: Path) -> dict[str, object]:
    """Read the stored tensors of a table. Other values stay as they are.

    Args:
        state: StoredTensors and other values by name.
        path: Their file.

    Raises:
        CheckpointError: The values of a tensor are damaged or not finite. The message starts with `path`.
    """
    with reading(path):
        table = {name: value.read() if isinstance(value, StoredTensor) else value for name, value in state.items()}
    check_values(table, path, "")
    return table
