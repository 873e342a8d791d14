"""Tensors in files: read from strangers without trust, and written whole."""

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latte.files import one_line, replacing

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or does not fit: which file, what is wrong, what to do, in one line."""

    def __init__(self, message: object):
        super().__init__(one_line(message))  # it may quote names out of a stranger's file


@contextmanager
def prefix_errors(path: str | Path) -> Iterator[None]:
    """Every ValueError inside becomes a CheckpointError that begins with the path, or the setting that names one."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict:
    """A .safetensors file or a .pt/.pth/.bin one, of which only tensors are read: no code in it can run.

    CheckpointError: missing, damaged, with more in it than tensors, with values that are not finite, or with tensors
    that claim more than the file holds. Damage that is seen: a cut file, of any kind; any changed byte of a .pt since
    PyTorch 1.6, which is a zip with checksums. Damage that cannot be: a changed value in a .safetensors or an older
    .pt, which have none, as long as it is a finite number; compare the file's sha256 with its publisher's.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    table = read_foreign(path)
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} holds a {type(table).__name__}, not a table of tensors")
    parts = [(f"{name}.", part) for name, part in table.items() if isinstance(part, dict)]  # such as "ema" and "model"
    for prefix, part in [("", table), *parts]:
        check_values(part, path, prefix)
    return table


def read_foreign(path: Path) -> object:
    """What a file holds. CheckpointError, in our words: PyTorch's own advise to read it unsafely."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        verify_zip(path)
        with warnings.catch_warnings(action="ignore"):  # PyTorch's, on what this file is made with
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # inside a reader, a forged file can make almost any
        alien = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if alien is None:
            raise CheckpointError(f"{path} is damaged or is not a checkpoint of plain tensors") from error
        advice = 'if you trust it, load it elsewhere and write its tensors with torch.save({"ema": state_dict}, ...)'
        raise CheckpointError(f"{path} holds {alien[1]}, which is not a tensor and is not read: {advice}") from error


def verify_zip(path: Path) -> None:
    """The records of a .pt written since PyTorch 1.6: stored as they are, side by side, and with sound checksums."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise CheckpointError(f"{path} is compressed inside, as no checkpoint of PyTorch is: not read")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise CheckpointError(f"{path}: its records claim more than the file holds: not read")
        if (record := archive.testzip()) is not None:
            raise CheckpointError(f"{path}: the checksum of {record} is wrong: the file is damaged, fetch it again")


def ordinary(tensor: Tensor) -> bool:
    """Whether all its values lie in memory: not sparse, not nested, not without storage."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested


def check_values(table: dict, path: Path, prefix: str) -> None:
    """CheckpointError names a tensor that is not ordinary, not finite, or brings the table's size above the file's.

    The last is what views can do that share a storage: a small file would become a large model. A tied tensor, as T5's
    embedding is, has two names and is stored once: twice the file's size is the limit.
    """
    left = 2 * path.stat().st_size
    for name, tensor in table.items():
        if not isinstance(tensor, Tensor):
            continue
        if not ordinary(tensor):
            raise CheckpointError(f"{path}: {prefix}{name} is not an ordinary tensor: {tensor.layout}, {tensor.device}")
        left -= tensor.numel() * tensor.element_size()
        if left < 0:
            shape = tuple(tensor.shape)
            raise CheckpointError(
                f"{path}: {prefix}{name} of shape {shape} takes its table to more than twice the file's size"
            )
        if tensor.dtype in FLOATS and not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {prefix}{name} holds values that are not finite: of no use")


def rename_keys(state: dict, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """The tensors under rename(name). ValueError: not a table of named tensors, or two of them with one name then."""
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError("the checkpoint does not hold a table of tensors")
    renamed = {}
    for name, tensor in state.items():
        new = rename(name)
        if new in renamed:
            raise ValueError(f"{name!r} is there twice, under two spellings: which one counts cannot be told")
        renamed[new] = tensor
    return renamed


def cast(state: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors on the CPU, in `dtype` (None: each in its own). CheckpointError names one that does not fit in it."""
    out = {name: tensor.detach().to("cpu", dtype) for name, tensor in state.items()}
    for name, tensor in out.items():
        if tensor.dtype != state[name].dtype and not tensor.isfinite().all():
            advice = ": choose float32 or bfloat16" if dtype == torch.float16 else ""
            raise CheckpointError(f"{name} overflows {str(dtype).removeprefix('torch.')}{advice}")
    return out


def load_strictly(
    model: nn.Module, state: dict[str, Tensor], path: Path, dtype: torch.dtype | None = torch.float32
) -> None:
    """Give `model` these tensors, in `dtype` (None: each in its own).

    CheckpointError names the file and a tensor that is missing, surplus, misshapen, of another type than
    floating-point numbers, or too large for `dtype`.
    """
    own = model.state_dict()
    plain = {name: (*FLOATS, own[name].dtype) if name in own else FLOATS for name in state}
    odd = [name for name, tensor in state.items() if tensor.dtype not in plain[name] or not ordinary(tensor)]
    wrong = [
        f"{name} {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own.keys() & state.keys() - set(odd)
        if state[name].shape != own[name].shape
    ]
    for what, names in (
        ("missing", own.keys() - state.keys()),
        ("not of this model", state.keys() - own.keys()),
        ("not of plain floating-point numbers", [f"{name} ({state[name].dtype})" for name in odd]),
        ("of another shape", wrong),
    ):
        if names:
            raise CheckpointError(f"{path}: {len(names)} tensors {what}, first {min(names)}")
    with prefix_errors(path):
        model.load_state_dict(cast(state, dtype), assign=True)


def write_tensors(path: Path, state: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """A .safetensors file, in `dtype` or as the tensors are; as readable to others as any new file.

    CheckpointError names a tensor that does not fit in `dtype`.
    """
    state = {name: tensor.contiguous() for name, tensor in cast(state, dtype).items()}
    with replacing(path) as draft:
        draft.touch()
        mode = draft.stat().st_mode
        save_file(state, draft, metadata={"format": "pt"})
        draft.chmod(mode)  # save_file lets nobody else read what it writes


MOST_ARRAY_BYTES = 1 << 30  # bytes that a file may unpack to; the largest that a metric needs has 0.3 billion


def read_arrays(path: Path) -> dict[str, Tensor]:
    """The arrays of an .npz by name, each as it is.

    CheckpointError: missing, damaged (it has checksums), with objects in it, which would be code that runs, with values
    that are not finite numbers, or of more than MOST_ARRAY_BYTES bytes.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(record.file_size for record in archive.infolist())
        if claimed > MOST_ARRAY_BYTES:
            raise CheckpointError(f"{path} claims {claimed} bytes of arrays; more than {MOST_ARRAY_BYTES} are not read")
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


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
