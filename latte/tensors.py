"""Tensors in files: read from strangers without trust, written whole, with a manifest of what was written."""

import hashlib
import pickle
import zipfile
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latte.files import read_json, replacing, write_json

MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or does not fit: which file, what is wrong, what to do."""


def digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(folder: Path) -> str:
    """sha256 over the weight files of a folder and its config.json."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt"))
    parts = [digest(path) for path in [*files, folder / "config.json"]]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def read_tensors(path: Path) -> dict:
    """A .safetensors file or a .pt/.pth/.bin one, of which only tensors are read: no code in it can run.

    CheckpointError: missing, damaged (the checksums inside a .pt are verified), with more in it than tensors, with
    values that are not finite, or with a tensor that claims more than the file holds.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            table = load_file(path)
        else:
            verify_zip(path)
            table = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except (SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is damaged or is not a checkpoint of plain tensors: {reason[:160]}") from error
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, MemoryError) as error:  # a forged pickle
        raise CheckpointError(f"{path} is damaged or is not a checkpoint of plain tensors") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} holds a {type(table).__name__}, not a table of tensors")
    check_values(table, path)
    return table


def verify_zip(path: Path) -> None:
    """The records of a .pt written since PyTorch 1.6: stored as they are, and with sound checksums."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
            raise CheckpointError(f"{path} is compressed inside, as no checkpoint of PyTorch is: not read")
        if (record := archive.testzip()) is not None:
            raise CheckpointError(f"{path}: the checksum of {record} is wrong: the file is damaged, fetch it again")


def check_values(table: dict, path: Path, prefix: str = "") -> None:
    """CheckpointError for a tensor, at any depth, that claims more than its file holds, or is not finite."""
    size = path.stat().st_size
    for name, value in table.items():
        if isinstance(value, dict):
            check_values(value, path, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            if value.numel() * value.element_size() > size:
                shape = tuple(value.shape)
                raise CheckpointError(f"{path}: {prefix}{name} claims the shape {shape}, more than the file holds")
            if value.is_floating_point() and not value.isfinite().all():
                raise CheckpointError(f"{path}: {prefix}{name} holds values that are not finite: of no use")


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Give `model` these tensors; any missing, surplus or misshapen one is an error that names it and the file."""
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [
        f"{name} {tuple(state[name].shape)}, not {tuple(own[name])}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name]
    ]
    for what, names in (("missing", missing), ("not of this model", surplus), ("of another shape", sorted(wrong))):
        if names:
            raise CheckpointError(f"{path}: {len(names)} tensors {what}, first {names[0]}")
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)


def read_config(folder: Path, kind: type):
    """config.json of a folder as a `kind` (which has from_dict), after what the folder's manifest says was verified.

    CheckpointError: there is none, it does not make a `kind`, or a file is not what was written.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json: not a model folder")
    if (wrong := damage(folder)) is not None:
        raise CheckpointError(f"{folder}: {wrong}: write it again (or, if the change is meant, delete {MANIFEST})")
    try:
        return kind.from_dict(read_json(folder / "config.json"))
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error


def write_tensors(path: Path, state: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """A .safetensors file, in `dtype` or as the tensors are; as readable to others as any new file."""
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    with replacing(path) as draft:
        draft.touch()
        mode = draft.stat().st_mode
        save_file(state, draft, metadata={"format": "pt"})
        draft.chmod(mode)  # save_file lets nobody else read what it writes


def save_folder(module: nn.Module, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write module.config and module's weights, in `dtype`: config.json, model.safetensors and their manifest."""
    folder = Path(folder)
    (folder / MANIFEST).unlink(missing_ok=True)
    write_json(folder / "config.json", asdict(module.config))
    write_tensors(folder / "model.safetensors", module.state_dict(), dtype)
    write_manifest(folder, ["config.json", "model.safetensors"])
    return folder


def write_manifest(folder: Path, names: list[str]) -> None:
    """Sizes and sha256 of these files of a folder, as manifest.json in it."""
    about = {name: {"bytes": (folder / name).stat().st_size, "sha256": digest(folder / name)} for name in names}
    write_json(folder / MANIFEST, about)


def damage(folder: Path) -> str | None:
    """What differs from the folder's manifest; None: nothing, or there is no manifest."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        for name, about in read_json(folder / MANIFEST).items():
            path = folder / Path(name).name
            if not path.is_file() or path.stat().st_size != about["bytes"]:
                return f"{path.name} is missing or cut"
            if digest(path) != about["sha256"]:
                return f"{path.name} is not what was written"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read"
    return None
