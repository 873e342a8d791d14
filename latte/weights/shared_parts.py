"""Parts that a model takes from a bundled model: its folder names them in shared.json and does not repeat them.

So a student does not repeat the VAE, the text encoder and the vocabulary of its teacher.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from latte.files import prefix_errors, read_json
from latte.weights.manifest import CONFIG, digest, digest_folder

BUNDLED = Path(__file__).parent.parent / "assets"  # the models that ship with the package
SHARED_FILE = "shared.json"  # for each shared part: the bundled "model" that holds it, and its "sha256"
VAE, TEXT_ENCODER, TOKENIZER = SHAREABLE = ("vae", "text_encoder", "tokenizer")


def shared_parts(folder: Path) -> dict[str, Path]:
    """The folder of each part that a model shares, by the part's name. Without a shared.json, it shares none.

    Raises:
        CheckpointError: The file names an unknown part, or one that no bundled model has or that has changed.
    """
    path = folder / SHARED_FILE
    if not os.path.isfile(path):  # unlike Path.is_file, this takes a name of any length
        return {}
    with prefix_errors(path):
        return {part: shared_folder(part, about) for part, about in read_json(path).items()}


def shared_folder(part: str, about: Any) -> Path:
    """The folder that an entry of a shared.json names. Raises ValueError if it is not valid."""
    if part not in SHAREABLE:
        raise ValueError(f"{part!r} cannot be shared; the parts that can are {', '.join(SHAREABLE)}")
    if not isinstance(about, dict) or about.keys() != {"model", "sha256"}:
        raise ValueError(f"{part!r} needs the name of a bundled model and a sha256")
    if about["model"] not in [owned.parent.name for owned in BUNDLED.glob(f"*/{part}")]:
        raise ValueError(f"no bundled model {about['model']!r} has the part {part!r}")
    folder = BUNDLED / about["model"] / part
    if part_digest(folder) != about["sha256"]:
        raise ValueError(f"the {part} of {about['model']} is not the one that was shared: give another one")
    return folder


def part_folder(folder: Path, part: str) -> Path:
    """The folder of a part of a model: its own or, if it has none, the one that it shares. It may not exist.

    Args:
        folder: The model's folder; for a checkpoint, that of its run.
        part: The part's name, such as "vae".

    Raises:
        CheckpointError: As shared_parts.
    """
    own = folder / part
    return own if os.path.isdir(own) else shared_parts(folder).get(part, own)


def bundled_name(folder: Path) -> str | None:
    """The name of a bundled model or of a part of one, such as "shapes/vae", by its folder; None for another folder."""
    return str(folder.relative_to(BUNDLED)) if folder.is_relative_to(BUNDLED) else None


def part_digest(folder: Path) -> str:
    """One sha256 over the configuration and the weights of a part, or over the files of a vocabulary."""
    if (folder / CONFIG).is_file():
        return digest_folder(folder)
    return hashlib.sha256(" ".join(digest(file) for file in sorted(folder.iterdir())).encode()).hexdigest()


def parts_of(source: Path, model: str, encoder: str | None = None) -> dict[str, dict[str, str]]:
    """The parts of a model that are those of a bundled model, as the entries of a shared.json.

    Args:
        source: The model's folder.
        model: The name of the bundled model, which may share them itself.
        encoder: For a model that was trained on stored embeddings and has no text encoder, the sha256 of the one that
            made them.
    """
    shared = {}
    for part in SHAREABLE:
        own, theirs = part_folder(source, part), part_folder(BUNDLED / model, part)
        if not theirs.is_dir():
            continue
        made = part != VAE and encoder == part_digest(part_folder(BUNDLED / model, TEXT_ENCODER))
        if part_digest(own) == part_digest(theirs) if own.is_dir() else made:
            shared[part] = {"model": theirs.parent.name, "sha256": part_digest(theirs)}
    return shared
