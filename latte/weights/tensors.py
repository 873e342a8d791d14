"""Reading tensors from untrusted files, and writing them atomically."""

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

from latte.files import CheckpointError, refuse_pointer, replacing
from latte.weights.foreign_objects import Foreign, leaving_out_objects

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}  # by name, as options take it
FLOATS8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
FLOATS = (*FLOATS8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
NOT_LOADED = (
    "which is not a tensor and is not loaded: "
    'if you trust it, load it elsewhere and save its tensors with torch.save({"ema": state_dict}, ...)'
)
MOST_NESTED, MOST_TABLES = 4, 10_000  # levels of tables in which weights are looked for, and tables in all
SCALE = re.compile(r"(^|[._])scaled?(_[a-z0-9]+)*$")  # ends of names: weight_scale, weight_scale_inv, scaled_fp8
MOST_ARRAY_BYTES = 1 << 30  # an .npz may unpack to this much; the largest one that a metric needs has 0.3 billion bytes


@contextmanager
def prefix_errors(path: str | Path) -> Iterator[None]:
    """Turn a ValueError raised inside into a CheckpointError whose message starts with `path`.

    Args:
        path: The file being read, or the setting that names it.

    Raises:
        CheckpointError: In place of any ValueError from the block.
    """
    try:
        yield
    except ValueError as error:
        text = str(error)
        raise CheckpointError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def digest(path: Path) -> str:
    """Return the sha256 of a file as a hexadecimal string."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> dict:
    """Read an untrusted checkpoint. Only tensors are loaded, so no code in the file can run.

    A truncated file of any format is detected. In a .pt written by PyTorch 1.6 or later, which is a zip archive with
    checksums, so is any changed byte. The other formats have no checksums: a changed value that is still a finite
    number goes unnoticed, so compare the sha256 of the file with the one its publisher gives.

    Args:
        path: A .safetensors file, or a .pt, .pth or .bin file.

    Returns:
        What the file holds: tensors by name, or a table with such tables in it ("ema", "model"). In place of objects
        other than tensors, it holds a Foreign.

    Raises:
        CheckpointError: The file is missing or damaged, some values are not finite, floats of 8 bits have scales, or
            the tensors claim more memory than the file can account for.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    refuse_pointer(path)
    table = read_untrusted(path)
    if isinstance(table, Foreign):
        raise CheckpointError(f"{path} holds an object of {table.name}, {NOT_LOADED}")
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} holds an object of type {type(table).__name__}, not a table of tensors")
    parts = {id(part): ("".join(f"{key}." for key in keys), part) for keys, part in nested_tables(table)}
    for prefix, part in parts.values():
        check_scales(part, path, prefix)
        check_values(part, path, prefix)
    return table


def nested_tables(table: dict) -> Iterator[tuple[tuple[str, ...], dict]]:
    """List a table, and the tables in it at any of MOST_NESTED levels that lie under texts ("ema", "state_dict").

    Yields:
        The keys of a table, from outside, and the table.

    Raises:
        CheckpointError: There are more than MOST_TABLES.
    """
    found: list[tuple[tuple[str, ...], dict]] = [((), table)]
    for keys, part in found:  # which grows
        yield keys, part
        if len(keys) < MOST_NESTED:
            found += [
                ((*keys, key), inner) for key, inner in part.items() if isinstance(inner, dict) and isinstance(key, str)
            ]
        if len(found) > MOST_TABLES:
            raise CheckpointError(f"the checkpoint holds more than {MOST_TABLES} tables, so it is not read")


def read_untrusted(path: Path) -> object:
    """Return what a file holds. Errors are reworded, since PyTorch's own advise loading the file unsafely."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        verify_zip(path)
        # PyTorch warns about how the file was made
        with warnings.catch_warnings(action="ignore"), leaving_out_objects(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a forged file can raise almost anything inside a reader
        alien = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if alien is None:
            reason = "is damaged or is not a checkpoint of plain tensors: download it or save it again"
            raise CheckpointError(f"{path} {reason}") from error
        raise CheckpointError(f"{path} holds {alien[1]}, {NOT_LOADED}") from error


def verify_zip(path: Path) -> None:
    """Check that the records of a zipped .pt are uncompressed, do not overlap and match their checksums."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise CheckpointError(f"{path} is compressed inside, which PyTorch never does, and is not loaded")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise CheckpointError(f"{path}: its records claim more than the file holds, so it is not loaded")
        if (record := archive.testzip()) is not None:
            raise CheckpointError(f"{path}: the checksum of {record} is wrong; the file is damaged, download it again")


def is_dense(tensor: Tensor) -> bool:
    """Whether all values of the tensor lie in CPU memory: it is not sparse, nested or without storage."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested


def check_values(table: dict, path: Path, prefix: str) -> None:
    """Check every tensor of a table: dense, finite, and no larger in sum than the file can account for.

    Views that share one storage could make a small file expand to a huge model. A tied tensor, such as the embedding
    of T5, has two names and is stored once, so the limit is twice the size of the file.

    Args:
        table: Tensors by name. Values of other types are ignored.
        path: The file that the tensors come from.
        prefix: What to put before a tensor's name in a message.

    Raises:
        CheckpointError: A tensor fails a check; the message names it.
    """
    left = 2 * path.stat().st_size
    for name, tensor in table.items():
        if not isinstance(tensor, Tensor):
            continue
        if not is_dense(tensor):
            raise CheckpointError(f"{path}: {prefix}{name} is not a dense tensor: {tensor.layout} on {tensor.device}")
        left -= tensor.numel() * tensor.element_size()
        if left < 0:
            shape = tuple(tensor.shape)
            raise CheckpointError(
                f"{path}: {prefix}{name} of shape {shape} brings the tensors to more than twice the file's size"
            )
        values = tensor.float() if tensor.dtype in FLOATS8 else tensor  # PyTorch examines no 8-bit floats
        if tensor.dtype in FLOATS and not values.isfinite().all():
            raise CheckpointError(f"{path}: {prefix}{name} holds values that are not finite")


def check_scales(table: dict, path: Path, prefix: str) -> None:
    """Raise CheckpointError for 8-bit floats that scales go with: every program that writes these has its own rules."""
    if any(isinstance(tensor, Tensor) and tensor.dtype in FLOATS8 for tensor in table.values()):
        for name in table:
            if SCALE.search(str(name)):
                raise CheckpointError(
                    f"{path}: {prefix}{name} scales float8 weights, and scaled ones are not read; give the file of "
                    "these weights in float16, bfloat16 or float32"
                )


def rename_keys(state: dict, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Return the tensors of `state` under the names `rename(name)`.

    Raises:
        ValueError: `state` is not a table of named tensors, or two tensors would have the same name.
    """
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError("the checkpoint does not hold a table of tensors")
    renamed = {}
    for name, tensor in state.items():
        new = rename(name)
        if new in renamed:
            raise ValueError(f"{name!r} is there twice, under two spellings, so it is unclear which one to load")
        renamed[new] = tensor
    return renamed


def cast(state: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return the tensors on the CPU, in `dtype` (None: each in its own).

    Raises:
        CheckpointError: A value overflows `dtype`; the message names the tensor.
    """
    out = {name: tensor.detach().to("cpu", dtype) for name, tensor in state.items()}
    for name, tensor in out.items():
        if tensor.dtype != state[name].dtype and not tensor.isfinite().all():
            advice = ": choose float32 or bfloat16" if dtype == torch.float16 else ""
            raise CheckpointError(f"{name} overflows {str(dtype).removeprefix('torch.')}{advice}")
    return out


def load_strictly(
    model: nn.Module, state: dict[str, Tensor], path: Path, dtype: torch.dtype | None = torch.float32
) -> None:
    """Load `state` into `model`; every tensor of both must match.

    Args:
        model: The network, which may be on the meta device.
        state: Its tensors by name.
        path: The file or folder that they come from, for messages.
        dtype: What to convert them to; None keeps the type of each.

    Raises:
        CheckpointError: A tensor is missing, surplus, of another shape, not of floating-point numbers, or overflows
            `dtype`. The message says how many such tensors there are and names the first.
    """
    own = model.state_dict()
    allowed = {name: (*FLOATS, own[name].dtype) if name in own else FLOATS for name in state}
    odd = [name for name, tensor in state.items() if tensor.dtype not in allowed[name] or not is_dense(tensor)]
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


def write_tensors(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors by name as a .safetensors file, atomically and with the permissions of any new file."""
    state = {name: tensor.contiguous() for name, tensor in cast(state, None).items()}
    with replacing(path) as draft:
        draft.touch()
        mode = draft.stat().st_mode
        save_file(state, draft, metadata={"format": "pt"})
        draft.chmod(mode)  # save_file makes its files unreadable to other users


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Read an untrusted .npz file. Arrays of Python objects, which could run code, are refused.

    Args:
        path: The file. Its format has checksums, so any damage is detected.

    Returns:
        The arrays by name, each in its own type.

    Raises:
        CheckpointError: The file is missing or damaged, it holds objects, some values are not finite, or it unpacks to
            more than MOST_ARRAY_BYTES.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    refuse_pointer(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(record.file_size for record in archive.infolist())
        if size > MOST_ARRAY_BYTES:
            raise CheckpointError(f"{path} claims {size} bytes of arrays; more than {MOST_ARRAY_BYTES} are not read")
        with np.load(path, allow_pickle=False) as arrays:
            table = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except CheckpointError:
        raise
    except Exception as error:  # a forged file can raise almost anything inside a reader
        raise CheckpointError(f"{path} is damaged or is not an .npz of plain arrays of numbers") from error
    for name, array in table.items():
        if not array.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return table
