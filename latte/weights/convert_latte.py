"""Conversion from and to the original Latte's checkpoints, and from DiT's.

One table maps our names to theirs and serves both directions; `{i}` is the number of a block. A key without a row in
the table is an error in either direction; a missing key is an error when the result is loaded.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from latte.models.condition import sincos, spatial_position
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_config import SIZES
from latte.weights.tensors import FLOATS, rename_keys
from latte.weights.weight_sets import choose_weights, refuse_without_weights, weight_sets

ORIGINAL = {  # ours: theirs, in Vchitect/Latte and in facebookresearch/DiT, whose names it keeps
    "condition.time.mlp.0": "t_embedder.mlp.0",
    "condition.time.mlp.2": "t_embedder.mlp.2",
    "condition.label": "y_embedder.embedding_table",
    "patch_embed": "x_embedder.proj",
    "blocks.{i}.attns.0.qkv": "blocks.{i}.attn.qkv",
    "blocks.{i}.attns.0.proj": "blocks.{i}.attn.proj",
    "blocks.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
    "blocks.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
    "blocks.{i}.modulation.linear": "blocks.{i}.adaLN_modulation.1",
    "final_modulation.linear": "final_layer.adaLN_modulation.1",
    "final_linear": "final_layer.linear",
}
MARKER = "x_embedder.proj.weight"  # every Latte and every DiT has it
TEMPORAL = ("temp_embed", "time_embed")  # current and older name of the temporal position table
COMPUTED = {"pos_embed", *TEMPORAL}  # fixed sin-cos tables, which our model computes and does not store


def rename_parameter(name: str, table: dict[str, str]) -> str:
    """Translate a parameter's name. Rows of the table lack the ".weight" or ".bias". Raises ValueError if none fits."""
    stem, _, end = name.rpartition(".")
    number = re.match(r"blocks\.(\d+)\.", stem)
    row = stem.replace(number[0], "blocks.{i}.", 1) if number else stem
    if row not in table or end not in ("weight", "bias"):
        raise ValueError(f"{name!r} has no place in the table of names")
    return f"{table[row].replace('{i}', number[1]) if number else table[row]}.{end}"


def heads_first(
    name: str, tensor: Tensor, num_heads: int, parts: tuple[str, ...] = ("query", "key", "value")
) -> Tensor:
    """Reorder the rows of a fused projection from (part, head, e) to our (head, part, e).

    Args:
        name: The tensor's name, for messages.
        tensor: A weight (parts * heads * e, d) or a bias (parts * heads * e,).
        num_heads: The number of heads.
        parts: The fused parts, in order.

    Raises:
        ValueError: The rows do not divide into these parts and heads.
    """
    rows = tensor.shape[0] if tensor.ndim else 0
    if not rows or rows % (len(parts) * num_heads):
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} is not {num_heads} heads of {' and '.join(parts)}")
    return tensor.unflatten(0, (len(parts), num_heads, -1)).transpose(0, 1).flatten(0, 2)


def parts_first(tensor: Tensor, num_heads: int, parts: int = 3) -> Tensor:
    """Reorder the rows of a fused projection from (head, part, e) to (part, head, e): the inverse of heads_first."""
    return tensor.unflatten(0, (num_heads, parts, -1)).transpose(0, 1).flatten(0, 2)


def original_state(source: dict[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Convert a state dict of the original Latte (variant 1) to ours.

    Its patch convolution (d, c, p, p) becomes our linear layer, and the rows of qkv are reordered.

    Raises:
        ValueError: A key is not in the table, or qkv does not have that many heads.
    """
    ours = {theirs: mine for mine, theirs in ORIGINAL.items()}
    learned = {name: tensor for name, tensor in source.items() if name not in COMPUTED}
    state = rename_keys(learned, lambda name: rename_parameter(name, ours))
    for name, tensor in state.items():
        if name == "patch_embed.weight":
            tensor = tensor.flatten(1)
        if ".qkv." in name:
            tensor = heads_first(name, tensor, num_heads)
        state[name] = tensor.contiguous()
    return state


def state_for_original(model: Latte) -> dict[str, Tensor]:
    """Convert our state dict to the original's, position tables included: the inverse of original_state.

    Raises:
        ValueError: The original has no such model: a variant other than 1, tubelets, conditioning by tokens, rotary
            positions, v-prediction, self-conditioning, or classes without label dropout.
    """
    cfg = model.config
    plain = LatteConfig(depth=cfg.depth, hidden_size=cfg.hidden_size, num_heads=cfg.num_heads)
    for name in ("variant", "tubelet", "conditioning", "temporal_pos", "prediction", "self_condition"):
        if getattr(cfg, name) != getattr(plain, name):
            raise ValueError(f"the original Latte has no {name} {getattr(cfg, name)!r} and cannot load this model")
    if cfg.num_classes and not cfg.class_dropout_prob:
        raise ValueError("the original always has an embedding for no class and cannot load a model without one")
    state = {}
    for name, tensor in model.state_dict().items():
        theirs = rename_parameter(name, ORIGINAL)
        if name == "patch_embed.weight":
            tensor = tensor.unflatten(1, (cfg.in_channels, cfg.patch_size, cfg.patch_size))
        if ".qkv." in name:
            tensor = parts_first(tensor, cfg.num_heads)
        state[theirs] = tensor.contiguous()
    side = cfg.input_size // cfg.patch_size
    state["pos_embed"] = spatial_position(side, side, cfg.hidden_size)[None]
    state["temp_embed"] = sincos(torch.arange(cfg.num_frames), cfg.hidden_size)[None]
    return state


def shape_of(source: dict[str, Tensor], name: str, ndim: int, whose: str = "an original Latte") -> torch.Size:
    """Return the shape of a tensor. Raises ValueError if it is missing, empty or not of `ndim` dimensions."""
    if name not in source:
        raise ValueError(f"these are not the weights of {whose}: {name} is missing")
    shape = source[name].shape
    if len(shape) != ndim or 0 in shape:
        raise ValueError(f"these are not the weights of {whose}: {name} has the shape {tuple(shape)}")
    return shape


def original_config(source: dict[str, Tensor], num_heads: int | None = None) -> LatteConfig:
    """Infer the configuration from the shapes in a checkpoint of the original.

    Args:
        source: The checkpoint's tensors by name.
        num_heads: The number of heads, which the shapes do not tell. None takes that of the published model of this
            width.

    Raises:
        ValueError: It is not a Latte, no published model has this width, or its positions are not the fixed ones.
    """
    dim, channels, patch, _ = shape_of(source, MARKER, 4)
    out = shape_of(source, "final_layer.linear.weight", 2)[0] // patch**2
    numbers = [int(found[1]) for name in source if (found := re.match(r"blocks\.(\d{1,9})\.", name))]
    label, temporal = "y_embedder.embedding_table.weight", [name for name in TEMPORAL if name in source]
    if len(temporal) > 1:
        raise ValueError(f"{' and '.join(temporal)} are one table under two names, so it is unclear which one to load")
    heads = {width: heads for _, width, heads in SIZES.values()}.get(dim) if num_heads is None else num_heads
    if heads is None:
        how = "give its number of heads with --num-heads (in Python: num_heads)"
        raise ValueError(f"no published Latte has width {dim}: {how}")
    config = LatteConfig(
        depth=max(numbers, default=-1) + 1,
        hidden_size=dim,
        num_heads=heads,
        mlp_ratio=shape_of(source, "blocks.0.mlp.fc1.weight", 2)[0] / dim,
        patch_size=patch,
        in_channels=channels,
        learn_sigma=out == 2 * channels,
        input_size=round(shape_of(source, "pos_embed", 3)[1] ** 0.5) * patch if "pos_embed" in source else 32,
        num_frames=shape_of(source, temporal[0], 3)[1] if temporal else 16,
        num_classes=shape_of(source, label, 2)[0] - 1 if label in source else 0,
    )
    side = config.input_size // patch
    check_positions(source, "pos_embed", side * side, dim, lambda: spatial_position(side, side, dim))
    for name in temporal:
        check_positions(source, name, config.num_frames, dim, lambda: sincos(torch.arange(config.num_frames), dim))
    return config


def check_positions(source: dict[str, Tensor], name: str, n: int, d: int, table: Callable[[], Tensor]) -> None:
    """Raise ValueError if a stored table (1, n, d) differs from `table()` (n, d) beyond the precision it is stored in.

    The table is computed only if the stored one has its shape, since a small file may ask for a large table.
    """
    if name not in source:
        return
    stored, near = source[name], False
    if stored.dtype in FLOATS and stored.shape == (1, n, d):
        tolerance = max(1e-4, torch.finfo(stored.dtype).eps)
        near = torch.allclose(stored[0].float(), table(), rtol=tolerance, atol=tolerance)
    if not near:
        raise ValueError(f"{name} is not the fixed sin-cos table; learned and other positions are not supported")


def unwrap(
    table: dict, weights: str | None = "ema", markers: tuple[str, ...] = (MARKER,), whose: str = "an original Latte"
) -> dict[str, Tensor]:
    """Take the weights of a Latte or another transformer out of a training checkpoint, see latte.weights.weight_sets.

    Averages that contain only the learned parameters are completed with the fixed position tables of another set.

    Args:
        table: A checkpoint of any trainer, or a bare table of tensors.
        weights: "ema" or "model", if it holds both; None takes the averaged ones if it holds any.
        markers: Names of parameters; the network has one of them.
        whose: What the network is, for messages.

    Raises:
        ValueError: The checkpoint does not hold them, or holds several, or they are not tensors with distinct names.
    """
    sets = weight_sets(table, markers)
    if not sets:
        refuse_without_weights(table, " or ".join(markers), whose)
    tables = [found.state for found in sets if COMPUTED & found.state.keys()]
    state = choose_weights(table, sets, weights).state
    if tables and not COMPUTED & state.keys():
        state |= {name: tables[0][name] for name in COMPUTED & tables[0].keys()}
    return state
