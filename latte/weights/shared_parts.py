"""Parts that a model takes from a bundled model: its folder names that model in shared.json and does not repeat them.

So a student does not repeat the VAE, the text encoder and the vocabulary of its teacher.
"""

from pathlib import Path

from latte.files import prefix_errors, read_json
from latte.weights.tensors import digest

BUNDLED = Path(__file__).parent.parent / "assets"  # the models that ship with the package
SHARED_FILE = "shared.json"  # the bundled model by the name of each part
SHAREABLE = ("vae", "text_encoder", "tokenizer")


def shared_parts(folder: Path) -> dict[str, str]:
    """The bundled model that each part of a model is taken from, by the part's name. Without a shared.json, none is.

    Raises:
        CheckpointError: The file names an unknown part, or a model that does not ship or lacks the part.
    """
    path = folder / SHARED_FILE
    if not path.is_file():
        return {}
    with prefix_errors(path):
        named = read_json(path)
        for part, model in named.items():
            if part not in SHAREABLE:
                raise ValueError(f"{part!r} cannot be shared; the parts that can are {', '.join(SHAREABLE)}")
            if model not in models_with(part):
                raise ValueError(f"no bundled model {model!r} has the part {part!r}")
    return named


def models_with(part: str) -> list[str]:
    """The names of the bundled models that hold a part themselves."""
    return [folder.parent.name for folder in BUNDLED.glob(f"*/{part}")]


def part_folder(folder: Path, part: str) -> Path:
    """The folder of a part of a model: its own or, if it has none, the one that it shares. It may not exist.

    Args:
        folder: The model's folder; for a checkpoint, that of its run.
        part: The part's name, such as "vae".

    Raises:
        CheckpointError: As shared_parts.
    """
    own = folder / part
    if own.is_dir() or (model := shared_parts(folder).get(part)) is None:
        return own
    return BUNDLED / model / part


def bundled_name(folder: Path) -> str | None:
    """The name of a bundled model or of a part of one, such as "shapes/vae", by its folder; None for another folder."""
    return str(folder.relative_to(BUNDLED)) if folder.is_relative_to(BUNDLED) else None


def parts_of(source: Path, model: str, trained_by: str | None = None) -> dict[str, str]:
    """The parts of a model that are those of a bundled model, as the entries of a shared.json.

    Args:
        source: The model's folder.
        model: The name of the bundled model.
        trained_by: For a model that was trained on stored embeddings, the name of the model whose text encoder made
            them.

    Returns:
        The name of the bundled model, for each part that is shared.
    """
    parts = (part for part in SHAREABLE if model in models_with(part))
    return {part: model for part in parts if is_part(part_folder(source, part), BUNDLED / model / part, trained_by)}


def is_part(own: Path, theirs: Path, trained_by: str | None) -> bool:
    """Whether a part of a model is that of a bundled one, or is missing because only its embeddings were stored."""
    return equal_folders(own, theirs) if own.is_dir() else theirs.name != "vae" and trained_by == theirs.parent.name


def equal_folders(one: Path, other: Path) -> bool:
    """Whether two folders of a part hold the same configuration, weights and vocabulary."""
    contents = (
        {path.name: digest(path) for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".model")}
        for folder in (one, other)
    )
    return next(contents) == next(contents)
