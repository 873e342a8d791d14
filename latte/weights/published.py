"""Text-to-video models in folders, as they are published and as we write them: a sub-folder for every part."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from latte.files import read_json, write_json
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig, TextToVideo, TextToVideoConfig
from latte.models.t5 import T5Config, T5Encoder
from latte.models.vae import VideoVAE
from latte.scheduler import Scheduler
from latte.text.tokenizer import Tokenizer
from latte.weights.convert_t2v import t2v_config, t2v_state, t5_state
from latte.weights.eight_bits import in_eight_bits, rows_in_eight_bits
from latte.weights.folder import CONFIG, MANIFEST, check_target, invalidate, read_config, save_folder
from latte.weights.load import is_checkpoint, model_root, own_vae, weights_file
from latte.weights.sampling_defaults import SAMPLING_FILE, TEXT_GUIDANCE, load_sampling, save_sampling
from latte.weights.tensors import CheckpointError, cast, load_strictly, prefix_errors, read_tensors
from latte.weights.vae_folder import load_vae, vae_file

TEMPORAL_VAE = "vae_temporal_decoder"
SCHEDULER = "scheduler_config.json"

STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
HALF = (torch.float16, torch.bfloat16)


def state_files(folder: Path) -> list[Path]:
    """The weight files of a part: one, or the shards that its index lists. CheckpointError: none, or elsewhere."""
    for stem in STEMS:
        for end in ("safetensors", "bin"):
            if (folder / f"{stem}.{end}").is_file():
                return [folder / f"{stem}.{end}"]
            index = folder / f"{stem}.{end}.index.json"
            if index.is_file():
                with prefix_errors(index):
                    names = read_json(index).get("weight_map")
                    if not isinstance(names, dict) or not names or not all(isinstance(n, str) for n in names.values()):
                        raise ValueError("it has no table weight_map")
                    shards = sorted(set(names.values()))
                    if strange := [name for name in shards if Path(name).name != name or not name.isprintable()]:
                        raise ValueError(f"{strange[0]!r} is not a file of this folder")
                return [folder / name for name in shards]
    raise CheckpointError(f"{folder} holds no weights ({', '.join(f'{stem}.safetensors' for stem in STEMS)})")


def read_state(folder: Path, convert: Callable[[str, Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `convert` makes of each tensor of a part, shard by shard. CheckpointError: missing, damaged, or twice."""
    state = {}
    for file in state_files(folder):
        for name, tensor in read_tensors(file).items():
            if name in state:
                raise CheckpointError(f"{file}: {name} is in another shard too")
            state |= convert(name, tensor) if isinstance(tensor, Tensor) else {name: tensor}
    return state


def load_part(
    folder: Path, to_config: Callable, network: Callable, to_state: Callable, ours: str, convert: Callable
) -> nn.Module:
    """A network out of a folder with config.json and weights, in our names (one of which is `ours`) or in others'."""
    config = read_config(folder, to_config)
    state = read_state(folder, convert)
    with prefix_errors(folder):
        state = state if ours in state else to_state(state, config)
    with torch.device("meta"):
        module = network(config)
    load_strictly(module, state, folder, None)
    return module.eval()


def load_t2v(folder: str | Path, dtype: torch.dtype = torch.float32) -> LatteT2V:
    """A LatteT2V in evaluation mode. CheckpointError says what is missing, damaged or does not fit."""
    convert = lambda name, tensor: {name: as_read(name, tensor, dtype)}
    return load_part(Path(folder), t2v_config, LatteT2V, t2v_state, "patch_embed.weight", convert)


def load_t5(folder: str | Path, dtype: torch.dtype = torch.float32, eight_bits: bool = False) -> T5Encoder:
    """A T5 encoder in evaluation mode, in half precision but for its last projections, `wo`; errors: see load_t2v.

    eight_bits: its matrices become whole numbers (latte.weights.eight_bits) one by one as they are read.
    """

    def convert(name: str, tensor: Tensor) -> dict[str, Tensor]:
        linear = re.fullmatch(r"(.+\.(?:q|k|v|o|wi_0|wi_1|wo))\.weight", name)
        if eight_bits and linear and tensor.ndim == 2 and tensor.is_floating_point():
            return dict(zip((name, f"{linear[1]}.scale"), rows_in_eight_bits(tensor)))
        return {name: as_read(name, tensor, dtype)}

    network = lambda config: in_eight_bits(T5Encoder(config)) if eight_bits else T5Encoder(config)
    to_state = lambda state, config: t5_state(state)
    return load_part(Path(folder), T5Config.from_dict, network, to_state, "tokens.weight", convert)


def load_learning(checkpoint: Path, dtype: torch.dtype = torch.float32) -> tuple[LatteT2V, T5Encoder | None]:
    """The averaged weights of a text-to-video training that is not done, and the encoder's if one learns along.

    In evaluation mode. CheckpointError: the checkpoint is damaged.
    """
    both = "text_encoder" in read_json(checkpoint / CONFIG)
    network, kind = (TextToVideo, TextToVideoConfig) if both else (LatteT2V, LatteT2VConfig)
    config, file = read_config(checkpoint, kind.from_dict), checkpoint / "ema.safetensors"
    with torch.device("meta"):
        module = network(config)
    state = {name: as_read(name, tensor, dtype) for name, tensor in read_tensors(file).items()}
    load_strictly(module.eval(), state, file, None)
    return (module.transformer, module.text_encoder) if both else (module, None)


def as_read(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in `dtype`, but a T5's last projections in float32 where that is half precision: they overflow.

    What is no floating-point number stays, to be refused. CheckpointError: it overflows.
    """
    if not tensor.is_floating_point():
        return tensor
    return cast({name: tensor}, torch.float32 if dtype in HALF and ".wo." in name else dtype)[name]


def load_scheduler(folder: str | Path) -> Scheduler:
    """scheduler_config.json of a folder. CheckpointError: there is none, or it asks for what is not done here."""
    path = Path(folder) / SCHEDULER
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {SCHEDULER}")
    with prefix_errors(path):
        return Scheduler.from_config(read_json(path))


def save_scheduler(scheduler: Scheduler, folder: Path) -> None:
    """Write a folder that load_scheduler reads."""
    write_json(folder / SCHEDULER, scheduler.config)


def readers(path: Path, dtype: torch.dtype = torch.float32, low: bool = False) -> dict[str, Callable]:
    """What reads each part of a text-to-video folder, or of a checkpoint; low: the text encoder in 8 bits."""
    learning = cache(lambda: load_learning(path, dtype)) if is_checkpoint(path) else None
    texts = ("text_encoder", "tokenizer")
    silent = not any((model_root(path) / part).is_dir() for part in texts)
    return {
        "transformer": lambda: learning()[0] if learning else load_t2v(path / "transformer", dtype),
        "vae": lambda: load_vae(own_vae(path) or path / "vae", dtype),
        TEMPORAL_VAE: lambda: load_vae(path / TEMPORAL_VAE, dtype),
        "text_encoder": lambda: learning()[1] if learning else load_t5(path / "text_encoder", dtype, low),
        "tokenizer": lambda: Tokenizer(model_root(path) / "tokenizer"),
        "scheduler": lambda: load_scheduler(model_root(path) / "scheduler"),
        **(dict.fromkeys(texts, lambda: without_text(path)) if silent else {}),
    }


def without_text(path: Path) -> None:
    """CheckpointError: a model that learned from embeddings, which others made, cannot read prompts."""
    raise CheckpointError(f"{path} has no text encoder: pass text_encoder and tokenizer of the model it learned with")


def part_files(path: Path, part: str) -> list[Path]:
    """The files that a part's weights come from. CheckpointError: there is no such part."""
    if part in ("vae", TEMPORAL_VAE):
        return [vae_file((own_vae(path) if part == "vae" else None) or path / part)]
    return [weights_file(path)] if is_checkpoint(path) else state_files(path / part)


def rewrite(source: Path, target: Path, dtype: torch.dtype) -> Iterator[tuple[str, Path, int]]:
    """A text-to-video folder, published or of ours, or a checkpoint, in our form: part by part, weights in `dtype`.

    Yields each part's name, a file that it came from, and its number of parameters. CheckpointError, before anything is
    written: `target` holds something else, or the source has no such part.
    """
    read = readers(source, dtype)
    vaes = (["vae"] if own_vae(source) else []) + ([TEMPORAL_VAE] if (source / TEMPORAL_VAE).is_dir() else [])
    files = {name: part_files(source, name) for name in ("transformer", "text_encoder", *vaes)}
    for name in files:
        check_target(target / name)
    parts = {
        *files,
        *("tokenizer", "scheduler"),
        *([SAMPLING_FILE] if (model_root(source) / SAMPLING_FILE).is_file() else []),
    }
    others = sorted(path.name for path in target.iterdir() if path.name[0] != ".") if target.is_dir() else []
    if strangers := [name for name in others if name not in parts]:
        raise CheckpointError(f"{target} holds {strangers[0]}, which {source} has not: choose a new folder")
    for other in ("tokenizer", "scheduler"):
        if (target / other).exists() and not (target / "transformer" / MANIFEST).exists():
            raise CheckpointError(f"{target / other} is there, and was not written here: choose a new folder")
    tokenizer, scheduler = read["tokenizer"](), read["scheduler"]()
    for name in files:
        invalidate(target / name)  # stopped on the way, it is no mixture that can be read
    for name in files:
        network = read[name]()
        module = network.model if isinstance(network, VideoVAE) else network
        save_folder(module, target / name, None)
        for file in files[name]:
            yield name, file, sum(parameter.numel() for parameter in module.parameters())
    tokenizer.save(target / "tokenizer")
    save_scheduler(scheduler, target / "scheduler")
    if (model_root(source) / SAMPLING_FILE).is_file():
        save_sampling(load_sampling(model_root(source), TEXT_GUIDANCE), target)
