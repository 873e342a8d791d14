"""The manifest of a model folder, which lists its files with their sha256, and what it says about damage.

Nothing here loads PyTorch.
"""

import hashlib
import os
import time
from functools import lru_cache
from pathlib import Path

from latte.files import CheckpointError, read_json, write_json

MANIFEST, CONFIG, WEIGHTS = "manifest.json", "config.json", "model.safetensors"
CLOCK_TICK = 2_000_000_000  # nanoseconds: the coarsest resolution of file times, that of FAT


def digest(path: Path) -> str:
    """Return the sha256 of a file as a hexadecimal string."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settled(*files: Path) -> bool:
    """Whether files are old enough for a later change to show in their times, so that digests can be cached.

    It uses ctime, which the file system sets; mtime can be set by anybody.
    """
    return time.time_ns() - max((file.stat().st_ctime_ns for file in files), default=0) > CLOCK_TICK


def cached_digest(path: Path) -> str:
    """The sha256 of a file, computed once if the file does not change: a command may verify a model several times."""
    if not settled(path):
        return digest(path)
    about = path.stat()
    return digest_at(path.absolute(), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache(maxsize=256)
def digest_at(path: Path, *state: int) -> str:
    """The sha256 of a file in a state that its inode, size and times identify."""
    return digest(path)


def weight_files(folder: Path) -> list[Path]:
    """List the files of a folder that could be taken for its weights, except hidden ones, which are drafts."""
    kinds = (".safetensors", ".bin", ".pt")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in kinds and not path.name.startswith("."))


def digest_folder(folder: Path) -> str:
    """Return one sha256 over the weight files of a folder and its config.json.

    Raises:
        CheckpointError: It is not a folder.
    """
    if folder.is_file():
        raise CheckpointError(f"{folder} is a file, but a folder is needed: `latte convert {folder} NEW` writes one")
    parts = [digest(path) for path in [*weight_files(folder), folder / CONFIG]]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def write_manifest(folder: Path, names: list[str]) -> None:
    """Write manifest.json: the size and sha256 of the named files of the folder."""
    about = {name: {"bytes": (folder / name).stat().st_size, "sha256": digest(folder / name)} for name in names}
    write_json(folder / MANIFEST, about)


def read_manifest(folder: Path) -> dict[str, dict]:
    """Read manifest.json: file name -> {"bytes", "sha256"}. Raises ValueError if it is not such a table."""
    files = read_json(folder / MANIFEST)
    for name, about in files.items():
        plain = name.isprintable() and Path(name).name == name
        if not plain or not isinstance(about, dict) or about.keys() != {"bytes", "sha256"}:
            raise ValueError(f"{folder / MANIFEST} is not a table of files")
    return files


def damage(folder: Path) -> str | None:
    """Compare a folder with its manifest.

    Weight files that the manifest does not list count as damage, since they could be loaded by mistake. Other files
    and folders (class names, a VAE, notes) need not be listed.

    Returns:
        The first difference, in words, or None if there is none or the folder has no manifest.
    """
    if not (folder / MANIFEST).exists():
        return None
    if not (folder / MANIFEST).is_file():
        return f"{MANIFEST} is not a file"
    try:
        files = read_manifest(folder)
    except (ValueError, OSError):
        return f"{MANIFEST} cannot be read"
    for name, about in files.items():
        path = folder / name
        if not os.path.isfile(path) or path.stat().st_size != about["bytes"]:
            return f"{name} is missing or truncated"
        if cached_digest(path) != about["sha256"]:
            return f"{name} is not what was written"
    unlisted = [path.name for path in weight_files(folder) if path.name not in files]
    return f"{unlisted[0]} is not one of its files" if unlisted else None
