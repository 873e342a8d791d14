"""Model folders: config.json beside model.safetensors; and reading whatever else a Latte comes in."""

import json
import os
import pickle
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from latte.convert import original_config, original_state, unwrap
from latte.models.latte import Latte, LatteConfig

BUNDLED = Path(__file__).parent / "assets"


def find_model(name: str | Path) -> Path:
    """A path as it is, or the name of a model that ships ("shapes"); FileNotFoundError names what there is."""
    shipped = sorted(str(path.parent.relative_to(BUNDLED)) for path in BUNDLED.rglob("config.json"))
    if str(name) in shipped:
        return BUNDLED / str(name)
    if not Path(name).exists():
        raise FileNotFoundError(f"no model at {name}; give a path, or one that ships: {', '.join(shipped) or 'none'}")
    return Path(name)


def read_tensors(path: Path) -> dict:
    """A .safetensors file or a .pt/.pth/.bin one, of which only tensors are read: no code in it can run.

    FileNotFoundError; ValueError where the file is damaged or holds more than tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} is damaged or is not a checkpoint of plain tensors: {reason[:160]}") from error


def read_json(path: Path) -> dict:
    """A JSON object; ValueError names the file that is not one."""
    try:
        values = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return values


def load_model(path: str | Path, num_heads: int | None = None, weights: str = "ema") -> Latte:
    """A Latte in evaluation mode, called as model(x, t, y), from any of:

    a folder of ours, or a checkpoint folder of a training run; the original's .pt or .safetensors file, wrapped in
    {"ema", "model"} or bare. `weights`: "ema" or "model", where both are stored. `num_heads`: for original weights of
    an unpublished width. FileNotFoundError or ValueError says what is missing, damaged or does not fit.
    """
    path = Path(path)
    if weights not in ("ema", "model"):
        raise ValueError(f"weights is {weights!r}, not 'ema' or 'model'")
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} holds no config.json: not a model folder")
        ema = path / "ema.safetensors"
        file = ema if weights == "ema" and ema.is_file() else path / "model.safetensors"
        state, config = read_tensors(file), LatteConfig.from_dict(read_json(path / "config.json"))
        if num_heads not in (None, config.num_heads):
            raise ValueError(f"{path} has {config.num_heads} heads, not {num_heads}")
    else:
        state, file = unwrap(read_tensors(path), weights), path
        config = original_config(state, num_heads)
        try:
            state = original_state(state, config.num_heads)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"{path}: {error.args[0]}") from error
    with torch.device("meta"):
        model = Latte(config)
    load_strictly(model, {name: tensor.float() for name, tensor in state.items()}, file)
    return model.eval()


def load_strictly(model: torch.nn.Module, state: dict[str, Tensor], file: Path) -> None:
    """Give `model` these tensors; any missing, surplus or misshapen one is a ValueError that names it and the file."""
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [
        f"{name} {tuple(state[name].shape)}, not {tuple(own[name])}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name]
    ]
    for what, names in (("missing", missing), ("not of this model", surplus), ("of another shape", sorted(wrong))):
        if names:
            raise ValueError(f"{file}: {len(names)} tensors {what}, first {names[0]}")
    model.load_state_dict(state, assign=True)


def save_model(model: Latte, folder: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write config.json and model.safetensors, in `dtype`, each beside its name first and then renamed."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "config.json.part").write_text(json.dumps(asdict(model.config), indent=2) + "\n")
    for name in ("model.safetensors", "config.json"):
        os.replace(folder / f"{name}.part", folder / name)
    return folder
