"""A Latte out of whatever it comes in, and into a folder of ours: config.json beside model.safetensors."""

from pathlib import Path

import torch

from latte.convert import original_config, original_state, unwrap
from latte.models.latte import Latte, LatteConfig
from latte.tensors import CheckpointError, load_strictly, read_config, read_tensors, save_folder

BUNDLED = Path(__file__).parent / "assets"


def find_model(name: str | Path) -> Path:
    """A path as it is, or the name of a model that ships ("shapes"); of a training run's folder, what it trained.

    CheckpointError: there is nothing; it names what ships.
    """
    shipped = sorted(str(path.parent.relative_to(BUNDLED)) for path in BUNDLED.rglob("config.json"))
    if str(name) in shipped:
        return BUNDLED / str(name)
    if not Path(name).exists():
        raise CheckpointError(f"no model at {name}; give a path, or one that ships: {', '.join(shipped) or 'none'}")
    path = Path(name)
    trained = [path / "final", *sorted(path.glob("checkpoints/step-*"), reverse=True)]
    inside = [folder for folder in trained if (folder / "config.json").is_file()]
    return inside[0] if inside and not (path / "config.json").exists() else path


def load_model(path: str | Path, num_heads: int | None = None, weights: str = "ema") -> Latte:
    """A Latte in evaluation mode, called as model(x, t, y), from any of:

    a folder of ours, or a checkpoint folder of a training run; the original's .pt or .safetensors file, wrapped in
    {"ema", "model"} or bare. `weights`: "ema" or "model", where both are stored. `num_heads`: for original weights of
    an unpublished width. CheckpointError says what is missing, damaged or does not fit.
    """
    path = Path(path)
    if weights not in ("ema", "model"):
        raise ValueError(f"weights is {weights!r}, not 'ema' or 'model'")
    if path.is_dir():
        config = read_config(path, LatteConfig)
        ema = path / "ema.safetensors"
        file = ema if weights == "ema" and ema.is_file() else path / "model.safetensors"
        state = read_tensors(file)
        if num_heads not in (None, config.num_heads):
            raise CheckpointError(f"{path} has {config.num_heads} heads, not {num_heads}")
    else:
        file, stored = path, read_tensors(path)
        try:
            state = unwrap(stored, weights)
            config = original_config(state, num_heads)
            state = original_state(state, config.num_heads)
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path}: {error}") from error
    with torch.device("meta"):
        model = Latte(config)
    load_strictly(model, state, file)
    return model.eval()


def save_model(model: Latte, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write a folder that load_model reads, its weights in `dtype`."""
    return save_folder(model, folder, dtype)
