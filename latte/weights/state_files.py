"""The weight files of a part of a published folder: one file or shards, plain or a variant such as fp16."""

import os
import re
import warnings
from pathlib import Path

from latte.files import CheckpointError, prefix_errors, read_json
from latte.models.network_config import shown

STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")  # of the names of weight files
ENDS = ("safetensors", "bin")
MOST_TENSORS = 100_000  # in a file; a training checkpoint with a thousand blocks has half as many
PRECISIONS = ("fp32", "fp16", "bf16", "fp8")  # variants that are the plain weights, rounded
SHARD = r"(?:-\d+-of-\d+)?"


def state_files(folder: Path, variant: str | None = None) -> list[Path]:
    """List the weight files of a part: one file, or the shards in its index.

    Args:
        folder: The folder of the part.
        variant: A word in the names of the files, such as "fp16". None takes the plain files or, without them, the only
            variant present if it differs in precision only. A part without the variant is read from its plain files,
            with a warning.

    Raises:
        CheckpointError: There are none, or the index is not valid or names files elsewhere.
    """
    if files := listed_files(folder, variant):
        return files
    known = f"({', '.join(f'{stem}.safetensors' for stem in STEMS)})"
    if variant is not None:
        if files := listed_files(folder, None):
            warnings.warn(f"{folder} has no files of the variant {variant!r}: reading its plain files", stacklevel=2)
            return files
        raise CheckpointError(f"{folder} holds no weights of the variant {variant!r}, and no plain ones {known}")
    variants = sorted({variant_of(path.name) for path in folder.glob("*")} - {""})
    variants = [name for name in variants if listed_files(folder, name)]
    if len(variants) == 1 and variants[0] in PRECISIONS:
        return listed_files(folder, variants[0])
    if variants:
        raise CheckpointError(
            f"{folder} holds weights of {' and '.join(variants)} only: choose one (variant), or rename its files"
        )
    others = sorted(path.name for path in folder.glob("*") if path.suffix.lower().removeprefix(".") in ENDS)[:2]
    raise CheckpointError(f"{folder} holds no weights {known}{'; found ' + ', '.join(others) if others else ''}")


def listed_files(folder: Path, variant: str | None) -> list[Path]:
    """List the weight files of one variant, or the plain ones; none if there are none."""
    word = "" if variant is None else f".{variant}"
    for stem in STEMS:
        for end in ENDS:
            if os.path.isfile(file := folder / f"{stem}{word}.{end}"):
                return [file]
            for name in (f"{stem}.{end}.index{word}.json", f"{stem}{word}.{end}.index.json"):
                if os.path.isfile(folder / name):
                    return shards(folder / name)
    return []


def shards(index: Path) -> list[Path]:
    """List the shards in an index. Raises CheckpointError if it is not valid or names files elsewhere."""
    with prefix_errors(index):
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise ValueError("there is no table weight_map of file names")
        if len(names) > MOST_TENSORS:
            raise ValueError(f"it names more than {MOST_TENSORS} tensors, so it is not read")
        files = sorted(set(names.values()))
        if outside := [name for name in files if Path(name).name != name or not name.isprintable()]:
            raise ValueError(f"{shown(outside[0])} is not a file of this folder")
    return [index.parent / name for name in files]


def variant_of(name: str) -> str:
    """Return the variant of a weight file, or of an index, by its name; "" if it is a plain one or another file."""
    stem = rf"(?:{'|'.join(STEMS)}){SHARD}"
    for pattern in (
        rf"{stem}\.([\w-]+?){SHARD}\.(?:{'|'.join(ENDS)})(?:\.index\.json)?",
        rf"{stem}\.\w+\.index\.([\w-]+)\.json",
    ):
        if found := re.fullmatch(pattern, name):
            return found[1]
    return ""
