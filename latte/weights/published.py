"""Reading the folders of text-to-video models, in the published layout or ours: a subfolder for every part."""

import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latte.files import CheckpointError, prefix_errors, read_json, write_json
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig, TextToVideo, TextToVideoConfig
from latte.models.t5 import T5Config, T5Encoder
from latte.scheduler import Scheduler
from latte.text.tokenizer import Tokenizer
from latte.weights.convert_t2v import T5_DECODER, t2v_config, t2v_state, t5_state
from latte.weights.eight_bits import in_eight_bits, rows_in_eight_bits
from latte.weights.find_models import EMA, STEPS_FILE, WEAKER, is_checkpoint, model_root, own_vae
from latte.weights.folder import make_network, read_config
from latte.weights.load import weights_file
from latte.weights.manifest import CONFIG
from latte.weights.sharded_tensors import read_part
from latte.weights.shared_parts import part_folder
from latte.weights.state_files import state_files
from latte.weights.tensors import cast, load_strictly, read_tensors
from latte.weights.vae_folder import load_vae, vae_files

TEMPORAL_VAE = "vae_temporal_decoder"  # a second VAE, which Latte-1 comes with
SCHEDULER_FILE = "scheduler_config.json"
HALF = (torch.float16, torch.bfloat16)


def load_part(
    folder: Path,
    to_config: Callable,
    network: Callable,
    to_state: Callable,
    marker: str,
    convert: Callable,
    variant: str | None,
) -> nn.Module:
    """Load a network from a folder with config.json and weights.

    Args:
        folder: The folder of the part.
        to_config: Makes a configuration from the table in config.json.
        network: Makes the network from its configuration.
        to_state: Makes our state dict from a published one and the configuration.
        marker: A key that only our own state dicts have.
        convert: See latte.weights.sharded_tensors.read_part.
        variant: See latte.weights.state_files.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit the configuration.
    """
    config = read_config(folder, to_config)
    state = read_part(state_files(folder, variant), convert)
    with prefix_errors(folder):
        state = state if marker in state else to_state(state, config)
    module = make_network(network, config, state, folder)
    load_strictly(module, state, folder, None)
    return module.eval()


def load_t2v(folder: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> LatteT2V:
    """Load a LatteT2V in evaluation mode.

    Args:
        folder: The transformer/ of a text-to-video folder.
        dtype: The type to convert the weights to.
        variant: See latte.weights.state_files.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit.
    """
    convert = lambda name, tensor: {name: cast_weight(name, tensor, dtype)}
    return load_part(Path(folder), t2v_config, LatteT2V, t2v_state, "patch_embed.weight", convert, variant)


def load_t5(
    folder: str | Path, dtype: torch.dtype = torch.float32, eight_bits: bool = False, variant: str | None = None
) -> T5Encoder:
    """Load a T5 encoder in evaluation mode.

    Args:
        folder: The text_encoder/ of a text-to-video folder, or a folder of a whole T5, whose decoder is left out.
        dtype: The type to convert the weights to. In half precision, the last projection of each block (`wo`) stays in
            float32.
        eight_bits: Quantize the matrices one by one as they are read (see latte.weights.eight_bits).
        variant: See latte.weights.state_files.

    Raises:
        CheckpointError: A file is missing or damaged, or the weights do not fit.
    """

    def convert(name: str, tensor: Tensor) -> dict[str, Tensor]:
        if name.startswith(T5_DECODER):
            return {}
        linear = re.fullmatch(r"(.+\.(?:q|k|v|o|wi_0|wi_1|wo))\.weight", name)
        if eight_bits and linear and tensor.ndim == 2 and tensor.is_floating_point():
            return dict(zip((name, f"{linear[1]}.scale"), rows_in_eight_bits(tensor)))
        return {name: cast_weight(name, tensor, dtype)}

    path = Path(folder)
    if (path / CONFIG).is_file() and "block_out_channels" in read_json(path / CONFIG):
        raise CheckpointError(f"{folder} is a VAE, not a T5 encoder")
    network = lambda config: in_eight_bits(T5Encoder(config)) if eight_bits else T5Encoder(config)
    to_state = lambda state, config: t5_state(state)
    return load_part(path, T5Config.from_dict, network, to_state, "tokens.weight", convert, variant)


def load_checkpoint(checkpoint: Path, dtype: torch.dtype = torch.float32) -> tuple[LatteT2V, T5Encoder | None]:
    """Load the averaged (EMA) weights of an unfinished text-to-video training run, in evaluation mode.

    Returns:
        The transformer, and the text encoder if it is trained too.

    Raises:
        CheckpointError: The checkpoint is damaged.
    """
    both = "text_encoder" in read_json(checkpoint / CONFIG)
    network, kind = (TextToVideo, TextToVideoConfig) if both else (LatteT2V, LatteT2VConfig)
    config, file = read_config(checkpoint, kind.from_dict), checkpoint / EMA
    state = {name: cast_weight(name, tensor, dtype) for name, tensor in read_tensors(file).items()}
    module = make_network(network, config, state, file)
    load_strictly(module.eval(), state, file, None)
    return (module.transformer, module.text_encoder) if both else (module, None)


def cast_weight(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a weight to `dtype`. In half precision, T5's `wo` stays in float32, since its products overflow.

    Tensors of other types than floating-point numbers are left to load_strictly to reject.

    Raises:
        CheckpointError: A value overflows.
    """
    if not tensor.is_floating_point():
        return tensor
    return cast({name: tensor}, torch.float32 if dtype in HALF and ".wo." in name else dtype)[name]


def load_scheduler(folder: str | Path) -> Scheduler:
    """Read the scheduler_config.json of a folder, published or ours.

    What the network predicts is written in its own config.json. A published scheduler may repeat it (v_prediction), but
    may not contradict the transformer/ beside it.

    Raises:
        CheckpointError: There is no such file, or it asks for something that Scheduler does not support.
    """
    path = Path(folder) / SCHEDULER_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {SCHEDULER_FILE}")
    with prefix_errors(path):
        values, network = read_json(path), path.parents[1] / "transformer" / CONFIG
        predicts_v = network.is_file() and read_json(network).get("prediction") == "v"
        if predicts_v and values.get("prediction_type") == "v_prediction":
            del values["prediction_type"]
        return Scheduler.from_config(values)


def save_scheduler(scheduler: Scheduler, folder: Path) -> None:
    """Write a folder in our layout that load_scheduler reads."""
    write_json(folder / SCHEDULER_FILE, scheduler.config)


def readers(
    path: Path, dtype: torch.dtype = torch.float32, low: bool = False, variant: str | None = None
) -> dict[str, Callable]:
    """Return a function for every part of a text-to-video model that reads it.

    Args:
        path: A text-to-video folder, or a training checkpoint.
        dtype: The type to convert the weights to.
        low: Quantize the text encoder to 8 bits.
        variant: See latte.weights.state_files.

    Returns:
        Part name -> function without arguments, which returns the part or raises CheckpointError.

    Raises:
        CheckpointError: A variant is requested for a training checkpoint, or the folder's shared.json is not valid.
    """
    if variant is not None and is_checkpoint(path):
        raise CheckpointError(f"{path} is a training checkpoint, which has no variant {variant!r}: leave it out")
    trained = cache(lambda: load_checkpoint(path, dtype)) if is_checkpoint(path) else None
    folders = text_folders(path)
    return {
        "transformer": lambda: trained()[0] if trained else load_t2v(path / "transformer", dtype, variant),
        "vae": lambda: load_vae(own_vae(path) or path / "vae", dtype, variant),
        TEMPORAL_VAE: lambda: load_vae(path / TEMPORAL_VAE, dtype, variant),
        "text_encoder": lambda: trained()[1] if trained else load_t5(folders["text_encoder"], dtype, low, variant),
        "tokenizer": lambda: Tokenizer(folders["tokenizer"]),
        "scheduler": lambda: load_scheduler(model_root(path) / "scheduler"),
        WEAKER: lambda: load_t2v(path / WEAKER, dtype, variant),
        **(dict.fromkeys(folders, lambda: refuse_textless(path)) if is_textless(path) else {}),
    }


def text_folders(path: Path) -> dict[str, Path]:
    """The folders of the parts of a model that read its prompts, by their names; they may not exist."""
    return {part: part_folder(model_root(path), part) for part in ("text_encoder", "tokenizer")}


def is_textless(path: Path) -> bool:
    """Whether a model can read no prompts, because it was trained on stored embeddings."""
    return not any(folder.is_dir() for folder in text_folders(path).values())


def refuse_textless(path: Path) -> None:
    """Raise CheckpointError: the model was trained on stored embeddings and has no text encoder of its own."""
    record = path / STEPS_FILE
    name = read_json(record).get("text_encoder") if record.is_file() else None
    by = f", {name}" if isinstance(name, str) else ""
    raise CheckpointError(
        f"{path} has no text encoder: name the one that it was trained with{by} (text_encoder, --text-encoder)"
    )


def part_files(path: Path, part: str, variant: str | None = None) -> list[Path]:
    """List the files that the weights of a part come from. Raises CheckpointError if one of them is not there."""
    if part == "text_encoder" and is_textless(path):
        refuse_textless(path)
    if part in ("vae", TEMPORAL_VAE):
        files = vae_files((own_vae(path) if part == "vae" else None) or path / part, variant)
    else:
        files = [weights_file(path)] if is_checkpoint(path) else state_files(part_folder(path, part), variant)
    if missing := [file for file in files if not os.path.isfile(file)]:
        raise CheckpointError(f"{missing[0]}: there is no such file, so {path} has no complete {part}")
    return files


def networks_of(parts: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The parts of a model that have weights, as they are stored: an autoencoder without its chunking."""
    networks = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    return {name: part.model if name in ("vae", TEMPORAL_VAE) else part for name, part in networks.items()}
