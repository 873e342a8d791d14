"""Initialising a network from another model: which weights it takes, and how the others are initialised.

A Latte can start from a Latte, ours or the original's, or from an ImageNet DiT, whose blocks become, in order, the
spatial and temporal blocks of Latte's variants 1 and 2 (as with `pretrained` in the original's train.py). A LatteT2V
can start from a LatteT2V or from a PixArt-alpha. The latter has no temporal blocks: these start as identities, so that
a video of one frame is at first PixArt's image, and the frames of longer ones differ only by their position in time.
(The original left its temporal blocks at their random initialisation.)
"""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from latte.class_conditioning import read_classes
from latte.files import CheckpointError, prefix_errors
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_config import SIZES
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig, TextToVideo
from latte.train.resized_patches import EMBED, FINAL, resize_patch_layers
from latte.weights.convert_latte import MARKER, TEMPORAL, original_config, original_state, shape_of, unwrap
from latte.weights.convert_t2v import OUTSIDE, PIXART, pixart_state, t2v_config, t2v_state
from latte.weights.find_models import find_model, is_checkpoint, is_text_pipeline, model_root
from latte.weights.folder import read_config
from latte.weights.latte_folder import CLASSES_FILE
from latte.weights.load import load_model
from latte.weights.published import readers
from latte.weights.sharded_tensors import read_part
from latte.weights.shared_parts import part_folder
from latte.weights.state_files import state_files
from latte.weights.tensors import load_strictly, read_tensors

MUST_AGREE = ("variant", "depth", "hidden_size", "num_heads", "mlp_ratio", "tubelet")
MUST_AGREE += ("in_channels", "learn_sigma", "conditioning")
T2V_MUST_AGREE = ("num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels")
SIZE_EMBEDDERS = re.compile(r"(adaln_single\.emb\.(resolution|aspect_ratio)|csize|ar)_embedder\.")
T2V_SOURCES = "a PixArt-alpha or a LatteT2V"
LABEL, TIME = "condition.label.weight", "condition.time.mlp.2.bias"


def init_latte(network: Latte, source: str, names: list[str]) -> None:
    """Initialise a Latte from another model. Warnings say what could not be used as it is.

    A class gets the embedding of the source's class of that name, or of the same number, if the source has equally
    many classes without names. Other classes get the source's embedding of "no class" (the mean of its embeddings if it
    has none, 0 if it has no classes), and so does our "no class". A network without classes gets the source's "no
    class" added to the bias of its timestep embedding, which has the same effect.

    Args:
        network: The network, changed in place.
        source: The name or path of the other model.
        names: The names of the network's classes.

    Raises:
        CheckpointError: There is no such model, or its shape differs.
    """
    path, ours = find_model(source), network.config
    model, known = read_latte(path, ours)
    theirs, state, own = model.config, model.state_dict(), network.state_dict()
    for name in MUST_AGREE:
        check_equal(path, name, getattr(theirs, name), getattr(ours, name))
    if (theirs.input_size, theirs.num_frames) != (ours.input_size, ours.num_frames):
        shape = f"{ours.num_frames} frames of {ours.input_size} x {ours.input_size}"
        warn_init(path, f"position embeddings are recomputed for {shape}")
    if theirs.temporal_pos != ours.temporal_pos:
        warn_init(path, f"its temporal_pos is {theirs.temporal_pos!r}, this run's is {ours.temporal_pos!r}")
    fit_patches(path, theirs.patch_size, ours.patch_size, state)
    fit_estimate(path, theirs.self_condition, ours.self_condition, state)
    keep_own_last_layer(path, theirs.prediction, ours.prediction, state, own)
    convert_classes(path, state, theirs, ours, known, names)
    load_strictly(network, state, path)
    print(f"init: the weights of {path}")


def convert_classes(
    path: Path, state: dict[str, Tensor], theirs: LatteConfig, ours: LatteConfig, known: list[str], names: list[str]
) -> None:
    """Replace the class embeddings in `state`, of the classes `known`, by those of `names`: see init_latte."""
    table = state.pop(LABEL, None)
    if table is None:
        table, nothing = (), torch.zeros(ours.hidden_size)
    else:
        nothing = table[-1] if theirs.class_dropout_prob else table.mean(0)
    if names:
        by_number = not known and theirs.num_classes == len(names)
        rows = dict(zip(names if by_number else known, table))
        null = [nothing] if ours.class_dropout_prob else []
        state[LABEL] = torch.stack([rows.get(name, nothing) for name in names] + null)
        if new := [name for name in names if name not in rows]:
            warn_init(
                path, f'{len(new)} of {len(names)} classes are new ({new[0]!r}, ...): they start from its "no class"'
            )
        if by_number:
            warn_init(path, "its classes have no names: they are matched by number")
        if left := [name for name in known if name not in names]:
            warn_init(path, f"{len(left)} of its {len(known)} classes are dropped ({left[0]!r}, ...)")
        if theirs.num_classes and not known and not by_number:
            warn_init(path, f"its {theirs.num_classes} classes have no names and are dropped")
    elif theirs.num_classes and ours.conditioning == "adaln":
        state[TIME] = state[TIME] + nothing
        warn_init(path, f'its {theirs.num_classes} classes are dropped: this network starts from its "no class"')
    elif theirs.num_classes:
        warn_init(path, f"its {theirs.num_classes} classes, which are tokens, are dropped")


def read_latte(path: Path, like: LatteConfig) -> tuple[Latte, list[str]]:
    """Read a Latte, or a DiT as one, and the names of its classes.

    The number of heads does not show in weights: it is that of the published model of this width, or that of `like`.
    """
    if is_text_pipeline(path):
        raise CheckpointError(f"{path} is a text-to-video model: a Latte can start from a Latte or a DiT")
    if path.is_dir():
        model = load_model(path)
        return model, read_classes(path / CLASSES_FILE, model.config.num_classes)
    with prefix_errors(path):
        state = read_bare_weights(path, (MARKER,), "a Latte or a DiT")
        width = shape_of(state, "x_embedder.proj.weight", 4)[0]
        published = any(width == size[1] for size in SIZES.values())
        config = original_config(state, None if published else like.num_heads)
        converted = original_state(state, config.num_heads)
    if not any(name in state for name in TEMPORAL):
        warn_init(path, "a DiT, an image model: its blocks become the spatial and the temporal blocks, in order")
        config = replace(config, variant=like.variant if like.variant in (1, 2) else 1, num_frames=like.num_frames)
    with torch.device("meta"):
        model = Latte(config)
    load_strictly(model, converted, path)
    return model, []


def init_t2v(network: TextToVideo, source: str) -> None:
    """Initialise a text-to-video model from another. Warnings say what could not be used as it is.

    The text encoder is taken too if the source has one. Otherwise it keeps its random initialisation, and so do the
    layers that project captions if the source's captions have another width.

    Args:
        network: The network, changed in place.
        source: The name or path of a text-to-video folder, a run, or a transformer: a folder with config.json, or a
            file of weights with the names of diffusers or PixArt.

    Raises:
        CheckpointError: There is no such model, or its shape differs.
    """
    path = init_transformer(network.transformer, source)
    if has_text_encoder(path):
        load_strictly(network.text_encoder, readers(path)["text_encoder"]().state_dict(), path)
        print(f"init: the text encoder and the vocabulary of {path}")
    else:
        warn_init(path, "it has no text encoder: ours starts at random, with a vocabulary of the captions")


def init_transformer(network: LatteT2V, source: str) -> Path:
    """Initialise a transformer in the same way, without a text encoder, and return the path of the source."""
    path, ours, own = find_model(source), network.config, network.state_dict()
    if is_checkpoint(path) and is_text_pipeline(path):
        part, begun = path, readers(path)["transformer"]()
        theirs, state = begun.config, begun.state_dict()
    else:
        part = path / "transformer" if is_text_pipeline(path) else path
        theirs, state = read_t2v(part, ours)
    for name in T2V_MUST_AGREE:
        check_equal(part, name, getattr(theirs, name), getattr(ours, name))
    if theirs.sample_size != ours.sample_size:
        warn_init(part, f"position embeddings are recomputed for {ours.sample_size} x {ours.sample_size} latents")
    fit_patches(part, theirs.patch_size, ours.patch_size, state)
    fit_estimate(part, theirs.self_condition, ours.self_condition, state)
    keep_own_last_layer(part, theirs.prediction, ours.prediction, state, own)
    temporal = {name: tensor for name, tensor in own.items() if re.match(r"blocks\.\d*[13579]\.", name)}
    if not temporal.keys() & state.keys():
        ends = re.compile(r"blocks\.\d+\.(attns\.0\.proj|mlp\.fc2)\.")
        state |= {name: torch.zeros_like(z) if ends.match(name) else z for name, z in temporal.items()}
        warn_init(part, "an image model: the temporal blocks are new and start as identities")
    elif theirs.video_length != ours.video_length:
        warn_init(part, f"position embeddings are recomputed for {ours.video_length} frames")
    if theirs.caption_channels != ours.caption_channels:
        state |= {name: tensor for name, tensor in own.items() if name.startswith("caption.")}
        widths = f"{theirs.caption_channels} wide, this run's {ours.caption_channels}"
        warn_init(part, f"its captions are {widths}: the layers that project them start at random")
    load_strictly(network, state, part)
    print(f"init: the weights of {part}")
    return path


def has_text_encoder(path: Path) -> bool:
    """Whether a model has a text encoder, and with it a vocabulary."""
    learning = is_checkpoint(path) and (model_root(path) / "tokenizer").is_dir()
    return is_text_pipeline(path) and (learning or part_folder(path, "text_encoder").is_dir())


def read_t2v(path: Path, like: LatteT2VConfig) -> tuple[LatteT2VConfig, dict[str, Tensor]]:
    """Read a LatteT2V or a PixArt-alpha, whose weights get our names. The latter has no temporal blocks."""
    config = read_config(path, t2v_config) if path.is_dir() else None
    if config:
        state = read_part(state_files(path))
    else:
        markers = (PIXART["patch_embed"] + ".weight", OUTSIDE["patch_embed"] + ".weight")
        state = read_bare_weights(path, markers, T2V_SOURCES)
    with prefix_errors(path):
        sizes = [name for name in state if SIZE_EMBEDDERS.match(name)]
        if sizes:
            warn_init(path, f"the embeddings of an image's size and aspect ratio are dropped ({len(sizes)} tensors)")
        state = {name: tensor for name, tensor in state.items() if name not in sizes}
        if "patch_embed.weight" in state and config is not None:
            return config, state
        config = config or t2v_shape(state, like)
        pixart = PIXART["patch_embed"] + ".weight" in state
        return config, pixart_state(state, config.num_attention_heads) if pixart else t2v_state(state, config)


def t2v_shape(state: dict[str, Tensor], like: LatteT2VConfig) -> LatteT2VConfig:
    """Infer the configuration from weights with the names of diffusers or PixArt.

    Args:
        state: The weights by name.
        like: The configuration of the network that is initialised, for what weights do not show.

    Raises:
        ValueError: The weights are not those of such a model.
    """
    table = PIXART if PIXART["patch_embed"] + ".weight" in state else OUTSIDE
    find = lambda name, ndim: shape_of(state, table[name] + ".weight", ndim, T2V_SOURCES)
    width, channels, patch, _ = find("patch_embed", 4)
    published = LatteT2VConfig()
    heads = (published if width == published.hidden_size else like).num_attention_heads
    if width % heads:
        raise ValueError(f"its width {width} is not {heads} equal heads")
    numbers = [int(found[1]) for name in state if (found := re.match(r"(?:transformer_)?blocks\.(\d{1,9})\.", name))]
    return replace(
        like,
        num_layers=max(numbers, default=-1) + 1,
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        caption_channels=find("caption.fc1", 2)[1],
        in_channels=channels,
        out_channels=find("final_linear", 2)[0] // patch**2,
        patch_size=patch,
        prediction="eps",
    )


def read_bare_weights(path: Path, markers: tuple[str, ...], whose: str) -> dict[str, Tensor]:
    """Read the weights in a file, which may be nested in a checkpoint: the averaged ones if there are any.

    Args:
        path: The file.
        markers: Names of parameters; the network has one of them.
        whose: What the network is, for messages.

    Raises:
        CheckpointError: It is damaged, or holds no such network.
    """
    with prefix_errors(path):
        return unwrap(read_tensors(path), None, markers, whose)


def keep_own_last_layer(path: Path, theirs: str, ours: str, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Put the network's own last layer into `state` if the source predicts something else."""
    if theirs != ours:
        state |= {name: own[name] for name in FINAL}
        warn_init(path, f"it predicts {theirs!r}, this run {ours!r}: the last layer starts at random")


def fit_patches(path: Path, theirs: int, ours: int, state: dict[str, Tensor]) -> None:
    """Resize the layers next to the latents in `state` if the source's patches have another size."""
    if theirs != ours:
        resize_patch_layers(state, theirs, ours)
        warn_init(path, f"its patches of {theirs} x {theirs} are resized to {ours} x {ours}: see FlexiViT")


def fit_estimate(path: Path, theirs: bool, ours: bool, state: dict[str, Tensor]) -> None:
    """Add or drop the weights of the estimate's patches in `state` if only one network is self-conditioned."""
    weight = state[EMBED]
    if ours and not theirs:
        state[EMBED] = torch.cat([weight, torch.zeros_like(weight)], 1)
        warn_init(path, "it is not self-conditioned: at first, estimates have no effect")
    elif theirs and not ours:
        state[EMBED] = weight.chunk(2, 1)[0]
        warn_init(path, "it is self-conditioned, and this network is not: it starts as without an estimate")


def check_equal(path: Path, name: str, theirs: object, ours: object) -> None:
    """Raise a CheckpointError if a value of the source differs from the run's."""
    if theirs != ours:
        raise CheckpointError(f"{path} has {name} {theirs}, this run {ours}: set {name} to {theirs}")


def warn_init(path: Path, what: str) -> None:
    """Warn that something of the source is not used as it is."""
    warnings.warn(f"init: {path}: {what}", stacklevel=3)
