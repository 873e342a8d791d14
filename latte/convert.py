"""Checkpoints of others: one table of names per source, ours <- theirs, `{i}` counting the layers.

A key of theirs that no row takes is an error, and so is, when the result is loaded, one of ours that is missing.
"""

import re

import torch
from torch import Tensor

from latte.models.latte import SIZES, LatteConfig

ORIGINAL = {  # Vchitect/Latte, and facebookresearch/DiT, whose names it keeps
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
COMPUTED = {"pos_embed", "temp_embed", "time_embed"}  # fixed sin-cos tables: computed here, not stored


def original_state(source: dict[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Our state dict out of the original's (variant 1). KeyError: a key that the table does not know."""
    ours = {theirs: mine for mine, theirs in ORIGINAL.items()}
    state = {}
    for name, tensor in source.items():
        if name in COMPUTED:
            continue
        stem, _, end = name.rpartition(".")
        numbers = re.findall(r"\d+", stem) if stem.startswith("blocks.") else []
        row = stem.replace(f"blocks.{numbers[0]}.", "blocks.{i}.", 1) if numbers else stem
        if row not in ours or end not in ("weight", "bias"):
            raise KeyError(f"not a weight of the original Latte: {name!r}")
        if row == "x_embedder.proj" and end == "weight":
            tensor = tensor.flatten(1)  # their convolution (d, c, p, p) is our linear layer
        if row.endswith("qkv"):
            tensor = tensor.unflatten(0, (3, num_heads, -1)).transpose(0, 1).flatten(0, 2)
        state[(ours[row].replace("{i}", numbers[0]) if numbers else ours[row]) + "." + end] = tensor
    return {name: tensor.contiguous() for name, tensor in state.items()}


def original_config(source: dict[str, Tensor], num_heads: int | None = None) -> LatteConfig:
    """The configuration that an original checkpoint's shapes imply; the head count is not among them.

    num_heads None: the published one of that width. ValueError: no published model is so wide, or it is no Latte.
    """
    try:
        dim, channels, patch, _ = source["x_embedder.proj.weight"].shape
        out = source["final_layer.linear.weight"].shape[0] // patch**2
        depth = 1 + max(int(name.split(".")[1]) for name in source if name.startswith("blocks."))
    except (KeyError, ValueError) as error:
        raise ValueError(
            "these are not the weights of an original Latte: x_embedder, blocks or final_layer missing"
        ) from error
    heads = num_heads or {width: heads for _, width, heads in SIZES.values()}.get(dim)
    if heads is None:
        raise ValueError(f"no published Latte has width {dim}: say how many heads it has (num_heads)")
    table = source.get("y_embedder.embedding_table.weight")
    positions, frames = source.get("pos_embed"), source.get("temp_embed", source.get("time_embed"))
    side = round(positions.shape[1] ** 0.5) * patch if positions is not None else 32
    return LatteConfig(
        depth=depth,
        hidden_size=dim,
        num_heads=heads,
        patch_size=patch,
        in_channels=channels,
        learn_sigma=out == 2 * channels,
        input_size=side,
        num_frames=frames.shape[1] if frames is not None else 16,
        num_classes=0 if table is None else len(table) - 1,
    )


def unwrap(state: dict, weights: str = "ema") -> dict[str, Tensor]:
    """The weights inside a training checkpoint or in a bare table of tensors; compile's name prefix goes."""
    wrapped = {name for name in ("ema", "model") if isinstance(state.get(name), dict)}
    if wrapped:
        if weights not in wrapped:
            raise ValueError(
                f"the checkpoint holds {sorted(wrapped)}, not {weights!r}: choose weights={sorted(wrapped)[0]!r}"
            )
        state = state[weights]
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError("the checkpoint does not hold a table of tensors")
    return {re.sub(r"^(_orig_mod\.|module\.)+", "", name): tensor for name, tensor in state.items()}
