"""Reading tensors from untrusted files, and writing them atomically."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latte.files import CheckpointError, prefix_errors, refuse_pointer, replacing, utf8_path
from latte.models.network_config import shown
from latte.weights.pickles import Foreign
from latte.weights.scaled_weights import FLOATS8, take_scales, unscaled
from latte.weights.tensor_pickles import SPECIAL
from latte.weights.torch_files import ZIP, read_torch_file

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}  # by their names in options
FLOATS = (*FLOATS8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
SAVE_TENSORS = 'if you trust it, load it elsewhere and save its tensors with torch.save({"ema": state_dict}, ...)'
NOT_LOADED = f"which is not a tensor and is not loaded: {SAVE_TENSORS}"
MOST_NESTED, MOST_TABLES = 4, 10_000  # levels of tables searched for weights, and tables in total
MOST_ENTRIES = 2_000_000  # of these tables in total
MOST_HEADER_BYTES = 1 << 23  # of a .safetensors file: room for 100,000 tensors; usual ones have at most 0.3 MB


def read_tensors(path: Path, shard: bool = False) -> dict:
    """Read an untrusted checkpoint. Only tensors are loaded, so no code in the file can run.

    A truncated file of any format is detected. In a .pt written by PyTorch 1.6 or later, which is a zip archive with
    checksums, so is any changed byte of a tensor. The other formats have no checksums: a changed value that is still a
    finite number goes unnoticed, so compare the sha256 of the file with the one its publisher gives.

    Args:
        path: A .safetensors file, or a .pt, .pth, .bin or .ckpt file of any version of PyTorch, or a TorchScript
            archive. Its content decides which, not its suffix.
        shard: Leave 8-bit numbers as they are stored, since their scales may lie in another file.

    Returns:
        What the file holds: tensors by name, or a table with such tables in it ("ema", "model"). Objects of other types
        are not built; a Foreign takes their place.

    Raises:
        CheckpointError: The file is missing or damaged, it holds objects but no tensors, some values are not finite,
            tensors have attributes, 8-bit numbers have scales of an unknown form (latte.weights.scaled_weights), or
            they claim more memory than the file can account for.
    """
    if not os.path.isfile(path):  # which also handles names that are too long
        raise CheckpointError(f"{path}: there is no such file")
    refuse_pointer(path)
    table = read_untrusted(path)
    if isinstance(table, Foreign):
        raise CheckpointError(f"{path} holds an object of {table.name}, {NOT_LOADED}")
    if not isinstance(table, dict):
        kind = f"an object of type {type(table).__name__}"
        raise CheckpointError(f"{path} holds {kind}, not a table of tensors: {SAVE_TENSORS}")
    with prefix_errors(path):
        tables = {id(part): ("".join(f"{key}." for key in keys), part) for keys, part in nested_tables(table)}.values()
    entries = [(prefix, key, value) for prefix, part in tables for key, value in part.items()]
    for prefix, key, value in entries if not any(isinstance(value, Tensor) for *_, value in entries) else ():
        if isinstance(key, Foreign):
            raise CheckpointError(f"{path} holds {key.name}, {NOT_LOADED}")
        if isinstance(value, Foreign) and value.name not in SPECIAL:
            raise CheckpointError(f"{path}: {shown(f'{prefix}{key}')} is an object of {value.name}, {NOT_LOADED}")
    for prefix, part in tables:
        check_values(part, path, prefix)
        with prefix_errors(path):
            apply_scales({} if shard and part is table else part)
    return table


def nested_tables(table: dict) -> Iterator[tuple[tuple[str, ...], dict]]:
    """List a table and the tables nested in it, up to MOST_NESTED levels, under string keys ("ema", "state_dict").

    Yields:
        The keys that lead to a table, outermost first, and the table.

    Raises:
        CheckpointError: There are more than MOST_TABLES tables, or more than MOST_ENTRIES entries in all of them.
    """
    found: list[tuple[tuple[str, ...], dict]] = [((), table)]
    entries = 0
    for keys, part in found:  # which grows
        entries += len(part)
        if entries > MOST_ENTRIES:  # one table may have many names
            raise CheckpointError(f"the checkpoint holds more than {MOST_ENTRIES} entries, so it is not read")
        yield keys, part
        if len(keys) < MOST_NESTED:
            found += [
                ((*keys, key), inner) for key, inner in part.items() if isinstance(inner, dict) and isinstance(key, str)
            ]
        if len(found) > MOST_TABLES:
            raise CheckpointError(f"the checkpoint holds more than {MOST_TABLES} tables, so it is not read")


def read_untrusted(path: Path) -> object:
    """Return what a file holds. Errors of any kind become a CheckpointError, which names the file."""
    with reading(path):
        if is_safetensors(path):
            check_header(path)
            with utf8_path(path) as readable:
                return load_file(readable)
        return read_torch_file(path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a reader of an untrusted file raises into a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a forged file can raise almost anything inside a reader
        raise CheckpointError(f"{path} {nature(path)}") from error


def nature(path: Path) -> str:
    """What a file is that is not a checkpoint of plain tensors, by its first bytes, and what to do."""
    with path.open("rb") as file:
        start = file.read(512).lstrip()
    if not path.stat().st_size:
        return "is empty: download it or save it again"
    if start.lower().startswith((b"<!doctype html", b"<html")):
        return "is a web page: download the file that it links to"
    if start.startswith(b"{"):
        return "is JSON: give the file of weights"
    if start.startswith(b"\x1f\x8b"):
        return "is a gzip archive: unpack it first"
    return "is damaged or is not a checkpoint of plain tensors: download it or save it again"


def is_safetensors(path: Path) -> bool:
    """Whether a file starts like a .safetensors file, with a size and a JSON object, whatever its suffix."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and not start.startswith(ZIP)


def check_header(path: Path) -> None:
    """Check that the header of a .safetensors file, which is parsed as a whole, is of a sensible size."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if MOST_HEADER_BYTES < size <= path.stat().st_size:
        raise CheckpointError(f"its header has {size} bytes; more than {MOST_HEADER_BYTES} are not read")


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is of plain values, which lie in CPU memory or in a file: it is not sparse or nested."""
    return tensor.layout == torch.strided and tensor.device.type in ("cpu", "meta") and not tensor.is_nested


def check_values(table: dict, path: Path, prefix: str) -> None:
    """Check every tensor of a table: dense, finite, and no larger in total than the file can account for.

    A single number may be infinite or NaN: trainers store the best score so far beside the weights. `load_strictly`
    checks those that are weights.

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
        if isinstance(tensor, Foreign) and tensor.name in SPECIAL:
            raise CheckpointError(f"{path}: {prefix}{name} is not a dense tensor: it is {SPECIAL[tensor.name]}")
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
        values = tensor.float() if tensor.dtype in FLOATS8 else tensor  # PyTorch has no isfinite for 8-bit floats
        if tensor.ndim and tensor.dtype in FLOATS and not values.isfinite().all():
            raise CheckpointError(f"{path}: {prefix}{name} holds values that are not finite")


def apply_scales(table: dict) -> None:
    """Replace 8-bit numbers that have scales by their products. Raises ValueError if the form is not a known one."""
    for name, scale in take_scales(table).items():
        with prefix_errors(name):
            table[name] = unscaled(table[name], scale)


def rename_keys(state: dict, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """Return the tensors of `state` under the names `rename(name)`.

    Raises:
        ValueError: `state` is not a table of named tensors, or two tensors would have the same name.
    """
    if not state or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError("it is no plain table of tensors, such as one network's weights")
    renamed = {}
    for name, tensor in state.items():
        new = rename(name)
        if new in renamed:
            raise ValueError(f"{shown(name)} is there twice, under two spellings, so it is unclear which one to load")
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
        dtype: The type to convert them to; None keeps each tensor's own.

    Raises:
        CheckpointError: A tensor is missing, surplus, of another shape, not of floating-point numbers, or overflows
            `dtype`. The message says how many such tensors there are and names the first.
    """
    check_fit(model, state, path)
    for name, tensor in state.items():
        if not tensor.ndim and tensor.dtype in FLOATS and not tensor.isfinite():
            raise CheckpointError(f"{path}: {name} is not finite")
    with prefix_errors(path):
        model.load_state_dict(cast(state, dtype), assign=True)


def check_fit(model: nn.Module, state: dict, path: Path) -> None:
    """Check that every tensor of `model` and of `state` matches; see `load_strictly`. Tensors may be on "meta"."""
    own = model.state_dict()
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            kind = tensor.name if isinstance(tensor, Foreign) else type(tensor).__name__
            raise CheckpointError(f"{path}: {shown(name)} is a {kind}, not a tensor with a name")
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


def write_tensors(path: Path, state: dict[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """Write tensors by name as a .safetensors file, atomically and with the permissions of any new file.

    Args:
        path: The file.
        state: The tensors.
        notes: The metadata to store; by default, that the tensors are PyTorch's. Several entries have no fixed order.
    """
    state = {name: tensor.contiguous() for name, tensor in cast(state, None).items()}
    needed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    with replacing(path, needed, alone=True) as draft:  # save_file writes a temporary file beside it
        draft.touch()
        mode = draft.stat().st_mode
        save_file(state, draft, metadata=notes or {"format": "pt"})
        draft.chmod(mode)  # save_file makes its files unreadable to other users
