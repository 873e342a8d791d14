"""Loading a Latte from any of the forms that it comes in, and saving it."""

from pathlib import Path

import torch

from latte.files import CheckpointError, prefix_errors, read_json
from latte.models.latte import Latte, LatteConfig
from latte.weights.convert_latte import original_config, original_state, unwrap
from latte.weights.find_models import EMA, find_model, is_checkpoint, is_text_pipeline
from latte.weights.folder import make_network, read_config, save_folder
from latte.weights.manifest import CONFIG, WEIGHTS
from latte.weights.state_files import state_files, variant_of
from latte.weights.tensors import load_strictly, read_tensors

NOT_A_LATTE = {  # a key of config.json: what kind of folder has it, and what to do with one
    "block_out_channels": "a VAE, not a Latte: name the Latte, and give the VAE with --vae (in Python: vae)",
    "caption_channels": "a part of a text-to-video model: name the folder above it",
    "d_model": "a part of a text-to-video model: name the folder above it",
    "widths": "a feature network, which generates no videos",
}


def weights_file(path: str | Path, weights: str = "ema", variant: str | None = None) -> Path:
    """Return the file that load_model takes the weights from. Raises CheckpointError if there is no such model."""
    path = find_model(path)
    if variant is not None and (not path.is_dir() or is_checkpoint(path)):
        raise CheckpointError(f"{path} has no variants of its files, such as {variant!r}: leave variant out")
    if not path.is_dir():
        return path
    if weights == "ema" and (path / EMA).is_file():
        return path / EMA
    alone = variant is None and not any(variant_of(file.name) for file in path.glob("*.safetensors"))
    files = [path / WEIGHTS] if alone else state_files(path, variant)
    if len(files) > 1:
        raise CheckpointError(f"{path} has its weights in {len(files)} files; a class-conditional Latte needs one file")
    return files[0]


def load_model(
    path: str | Path, num_heads: int | None = None, weights: str = "ema", variant: str | None = None
) -> Latte:
    """Load a Latte in evaluation mode, to be called as model(x, t, y).

    Args:
        path: A bundled model by name, a model folder, the folder of a training run or a checkpoint in it, or a file of
            the original Latte's weights: bare, or in a checkpoint of any trainer (see latte.weights.weight_sets).
        num_heads: The number of attention heads, which files of the original do not store; needed for a width that was
            never published.
        weights: "ema" or "model". If a checkpoint does not say which it holds, its only weights are taken.
        variant: The variant of the weight files in a model folder, see latte.weights.state_files.

    Raises:
        CheckpointError: The model is missing or damaged, it is not a Latte, or the weights do not fit.
        ValueError: `weights` is neither of the two.
    """
    if weights not in ("ema", "model"):
        raise ValueError(f"weights is {weights!r}, not 'ema' or 'model'")
    path, file = find_model(path), weights_file(path, weights, variant)
    if path.is_dir():
        check_is_latte(path)
        config, state = read_config(path, LatteConfig.from_dict), read_tensors(file)
        if num_heads not in (None, config.num_heads):
            raise CheckpointError(f"{path} has {config.num_heads} heads, not {num_heads}; leave num_heads out")
    else:
        with prefix_errors(file):
            state = unwrap(read_tensors(file), weights)
            config = original_config(state, num_heads)
            state = original_state(state, config.num_heads)
    model = make_network(Latte, config, state, file)
    load_strictly(model, state, file)
    return model.eval()


def check_is_latte(path: Path) -> None:
    """Raise CheckpointError if the folder holds something other than a Latte; the message says what, and what to do."""
    with prefix_errors(path / CONFIG):
        values = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    if is_text_pipeline(path):
        raise CheckpointError(f"{path} is a text-to-video model: load it with LattePipeline.from_pretrained")
    if what := next((what for key, what in NOT_A_LATTE.items() if key in values), None):
        raise CheckpointError(f"{path} is {what}")


def save_model(model: Latte, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a folder that load_model reads, with the weights in `dtype`. Raises CheckpointError as save_folder does."""
    return save_folder(model, folder, dtype)
