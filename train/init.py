"""Where a training begins: which of another model's weights a network takes, and what it has in place of the others.

A Latte begins with a Latte, ours or the original's, or with an ImageNet DiT, whose blocks are, in their order, those of
Latte's variants 1 and 2, spatial and temporal ones alike (so did `pretrained` in the original's train.py). A LatteT2V
begins with a LatteT2V or with a PixArt-alpha, which has no temporal blocks: they begin as identities, so that a video
of one frame is at first PixArt's picture; longer ones differ by the position in time. (The original left the temporal
blocks as they were drawn.)
"""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from latte.class_conditioning import read_classes
from latte.models.latte import SIZES, Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig, TextToVideo
from latte.weights.convert_latte import TEMPORAL, original_config, original_state, shape_of, unwrap
from latte.weights.convert_t2v import OUTSIDE, PIXART, pixart_state, t2v_config, t2v_state
from latte.weights.folder import read_config
from latte.weights.load import find_model, is_checkpoint, is_text_pipeline, load_model, model_root
from latte.weights.published import read_part, readers
from latte.weights.tensors import CheckpointError, load_strictly, prefix_errors, read_tensors

WRAPPERS = ("ema", "state_dict_ema", "model", "state_dict")  # under which trainings save weights, averaged ones first
MUST_AGREE = (
    *("variant", "depth", "hidden_size", "num_heads", "mlp_ratio", "patch_size", "tubelet"),
    *("in_channels", "learn_sigma", "conditioning"),
)
T2V_MUST_AGREE = (
    *("num_layers", "num_attention_heads", "attention_head_dim", "patch_size", "in_channels", "out_channels"),
)
OF_SIZES = re.compile(r"(adaln_single\.emb\.(resolution|aspect_ratio)|csize|ar)_embedder\.")
LABEL, TIME, LAST = "condition.label.weight", "condition.time.mlp.2.bias", ("final_linear.weight", "final_linear.bias")


def begin_latte(network: Latte, source: str, names: list[str]) -> None:
    """Give `network`, whose classes have these names, the weights of `source`; what it cannot take is warned of.

    A class begins with the row of the source's class of that name, or, where the source has no names and as many
    classes, of that number; another one with the source's row for "no class" (the mean of its rows, if it has none; 0,
    if it has no classes), and so does "no class" itself. A network without classes begins as a source that is told "no
    class": that row goes into the bias of the timestep's embedding. CheckpointError: no such model, or one of another
    shape.
    """
    path, ours = find_model(source), network.config
    model, known = read_latte(path, ours)
    theirs, state, own = model.config, model.state_dict(), network.state_dict()
    for name in MUST_AGREE:
        check_same(path, name, getattr(theirs, name), getattr(ours, name))
    if (theirs.input_size, theirs.num_frames) != (ours.input_size, ours.num_frames):
        shape = f"{ours.num_frames} frames of {ours.input_size} x {ours.input_size}"
        tell(path, f"positions are computed anew, for {shape}")
    if theirs.temporal_pos != ours.temporal_pos:
        tell(path, f"it learned with temporal_pos {theirs.temporal_pos!r}, this run has {ours.temporal_pos!r}")
    keep_last_layer(path, theirs.prediction, ours.prediction, state, own)
    take_classes(path, state, theirs, ours, known, names)
    load_strictly(network, state, path)
    print(f"init: the weights of {path}")


def take_classes(
    path: Path, state: dict[str, Tensor], theirs: LatteConfig, ours: LatteConfig, known: list[str], names: list[str]
) -> None:
    """Turn the source's weights of its classes, `known`, into those of `names`: see begin_latte."""
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
            tell(path, f'{len(new)} of {len(names)} classes are new, first {new[0]!r}: they begin as its "no class"')
        if by_number:
            tell(path, "its classes have no names: they are taken for these, in their order")
        if left := [name for name in known if name not in names]:
            tell(path, f"{len(left)} of its {len(known)} classes are left out, first {left[0]!r}")
        if theirs.num_classes and not known and not by_number:
            tell(path, f"its {theirs.num_classes} classes, which have no names, are left out")
    elif theirs.num_classes and ours.conditioning == "adaln":
        state[TIME] = state[TIME] + nothing
        tell(path, f'its {theirs.num_classes} classes are left out, and this network begins as its "no class"')
    elif theirs.num_classes:
        tell(path, f"its {theirs.num_classes} classes, which are tokens, are left out")


def read_latte(path: Path, like: LatteConfig) -> tuple[Latte, list[str]]:
    """A Latte, or a DiT as one, and its classes' names; heads, which weights do not tell: as published, or `like`'s."""
    if is_text_pipeline(path):
        raise CheckpointError(f"{path} is a text-to-video model: a Latte begins with a Latte or a DiT")
    if path.is_dir():
        model = load_model(path)
        return model, read_classes(path / "classes.json", model.config.num_classes)
    with prefix_errors(path):
        state = bare(path)
        width = shape_of(state, "x_embedder.proj.weight", 4)[0]
        published = any(width == size[1] for size in SIZES.values())
        config = original_config(state, None if published else like.num_heads)
        converted = original_state(state, config.num_heads)
    if not any(name in state for name in TEMPORAL):
        tell(path, "a DiT, of pictures: spatial and temporal blocks alike begin with its blocks, in their order")
        config = replace(config, variant=like.variant if like.variant in (1, 2) else 1, num_frames=like.num_frames)
    with torch.device("meta"):
        model = Latte(config)
    load_strictly(model, converted, path)
    return model, []


def begin_t2v(network: TextToVideo, source: str) -> None:
    """Give `network` the weights of `source`, a text-to-video folder or a transformer; a warning tells the exceptions.

    A transformer is a folder with config.json, or a file of weights in diffusers' or PixArt's names. Of a folder with
    transformer/, or a run, the text encoder is taken too, if it is there; else it begins afresh, and so do the
    caption's layers where the source's captions are of another width. CheckpointError: no such model, or one of
    another shape.
    """
    path = begin_transformer(network.transformer, source)
    if has_text(path):
        load_strictly(network.text_encoder, readers(path)["text_encoder"]().state_dict(), path)
        print(f"init: the text encoder and the vocabulary of {path}")
    else:
        tell(path, "it brings no text encoder: that is new, and its vocabulary is of the captions")


def begin_transformer(network: LatteT2V, source: str) -> Path:
    """The same for a transformer alone; the path of the source."""
    path, ours, own = find_model(source), network.config, network.state_dict()
    if is_checkpoint(path) and is_text_pipeline(path):
        part, begun = path, readers(path)["transformer"]()
        theirs, state = begun.config, begun.state_dict()
    else:
        part = path / "transformer" if is_text_pipeline(path) else path
        theirs, state = read_t2v(part, ours)
    for name in T2V_MUST_AGREE:
        check_same(part, name, getattr(theirs, name), getattr(ours, name))
    if theirs.sample_size != ours.sample_size:
        tell(part, f"positions are computed anew, for {ours.sample_size} x {ours.sample_size} latents")
    keep_last_layer(part, theirs.prediction, ours.prediction, state, own)
    temporal = {name: tensor for name, tensor in own.items() if re.match(r"blocks\.\d*[13579]\.", name)}
    if not temporal.keys() & state.keys():
        ends = re.compile(r"blocks\.\d+\.(attns\.0\.proj|mlp\.fc2)\.")
        state |= {name: torch.zeros_like(z) if ends.match(name) else z for name, z in temporal.items()}
        tell(part, "a model of pictures: the temporal blocks are new, and begin as identities")
    elif theirs.video_length != ours.video_length:
        tell(part, f"positions are computed anew, for {ours.video_length} frames")
    if theirs.caption_channels != ours.caption_channels:
        state |= {name: tensor for name, tensor in own.items() if name.startswith("caption.")}
        widths = f"{theirs.caption_channels} wide, this run's {ours.caption_channels}"
        tell(part, f"its captions are {widths}: their layers are new")
    load_strictly(network, state, part)
    print(f"init: the weights of {part}")
    return path


def has_text(path: Path) -> bool:
    """Whether a text encoder, and so a vocabulary, comes with the model there."""
    learning = is_checkpoint(path) and (model_root(path) / "tokenizer").is_dir()
    return is_text_pipeline(path) and (learning or (path / "text_encoder").is_dir())


def read_t2v(path: Path, like: LatteT2VConfig) -> tuple[LatteT2VConfig, dict[str, Tensor]]:
    """Shape and weights, in our names, of a LatteT2V or a PixArt-alpha; the latter without temporal blocks."""
    config = read_config(path, t2v_config) if path.is_dir() else None
    state = read_part(path, lambda name, tensor: {name: tensor}) if path.is_dir() else bare(path)
    with prefix_errors(path):
        sizes = [name for name in state if OF_SIZES.match(name)]
        if sizes:
            tell(path, f"what it was told of a picture's size and aspect is left out ({len(sizes)} tensors)")
        state = {name: tensor for name, tensor in state.items() if name not in sizes}
        if "patch_embed.weight" in state and config is not None:
            return config, state
        config = config or t2v_shape(state, like)
        pixart = PIXART["patch_embed"] + ".weight" in state
        return config, pixart_state(state, config.num_attention_heads) if pixart else t2v_state(state, config)


def t2v_shape(state: dict[str, Tensor], like: LatteT2VConfig) -> LatteT2VConfig:
    """The shape of weights in others' names; what they cannot tell is as in `like`. ValueError: they have none."""
    table = PIXART if PIXART["patch_embed"] + ".weight" in state else OUTSIDE
    find = lambda name, ndim: shape_of(state, table[name] + ".weight", ndim, "a PixArt-alpha or a LatteT2V")
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


def bare(path: Path) -> dict[str, Tensor]:
    """The weights in a file, from under the name that a training gave them. CheckpointError: none, or damaged."""
    with prefix_errors(path):
        table = read_tensors(path)
        return unwrap(next((table[name] for name in WRAPPERS if isinstance(table.get(name), dict)), table))


def keep_last_layer(path: Path, theirs: str, ours: str, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Where the two predict different things, the network's own last layer in `state`, in place of the source's."""
    if theirs != ours:
        state |= {name: own[name] for name in LAST}
        tell(path, f"it predicts {theirs!r}, this run {ours!r}: the last layer is new")


def check_same(path: Path, name: str, theirs: object, ours: object) -> None:
    """CheckpointError: they differ."""
    if theirs != ours:
        raise CheckpointError(f"{path} has {name} {theirs}, this run {ours}: its weights do not fit, make these equal")


def tell(path: Path, what: str) -> None:
    """Warn of something that is not taken as it is."""
    warnings.warn(f"init: {path}: {what}", stacklevel=3)
