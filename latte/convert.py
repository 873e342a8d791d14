"""Checkpoints of others: one table of names per source, ours <- theirs, `{i}` counting the layers.

A key that no row takes is an error, either way, and so is, when the result is loaded, one that is missing.
"""

import re

import torch
from torch import Tensor

from latte.models.condition import sincos, spatial_position
from latte.models.latte import SIZES, Latte, LatteConfig

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


def renamed(name: str, table: dict[str, str]) -> str:
    """A parameter's name through a table of rows without their ".weight" or ".bias". ValueError: no row takes it."""
    stem, _, end = name.rpartition(".")
    number = re.match(r"blocks\.(\d+)\.", stem)
    row = stem.replace(number[0], "blocks.{i}.", 1) if number else stem
    if row not in table or end not in ("weight", "bias"):
        raise ValueError(f"{name!r} has no place in the table of names")
    return f"{table[row].replace('{i}', number[1]) if number else table[row]}.{end}"


def original_state(source: dict[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Our state dict out of the original's (variant 1). ValueError: a key that the table does not know.

    Their patch convolution (d, c, p, p) is our linear layer; their qkv rows (3, head, e) are ours as (head, 3, e).
    """
    ours = {theirs: mine for mine, theirs in ORIGINAL.items()}
    state = {}
    for name, tensor in source.items():
        if name in COMPUTED:
            continue
        mine = renamed(name, ours)
        if mine == "patch_embed.weight":
            tensor = tensor.flatten(1)
        if ".qkv." in mine:
            tensor = tensor.unflatten(0, (3, num_heads, -1)).transpose(0, 1).flatten(0, 2)
        state[mine] = tensor.contiguous()
    return state


def state_for_original(model: Latte) -> dict[str, Tensor]:
    """The inverse: what the original's load_state_dict takes, position tables with it.

    ValueError: the original has no such model (another variant than 1, tubelets, all-token conditioning, rotary).
    """
    cfg = model.config
    plain = LatteConfig(depth=cfg.depth, hidden_size=cfg.hidden_size, num_heads=cfg.num_heads)
    for name in ("variant", "tubelet", "conditioning", "temporal_pos"):
        if getattr(cfg, name) != getattr(plain, name):
            raise ValueError(f"the original Latte has no {name} {getattr(cfg, name)!r}: this model stays in our form")
    state = {}
    for name, tensor in model.state_dict().items():
        theirs = renamed(name, ORIGINAL)
        if name == "patch_embed.weight":
            tensor = tensor.unflatten(1, (cfg.in_channels, cfg.patch_size, cfg.patch_size))
        if ".qkv." in name:
            tensor = tensor.unflatten(0, (cfg.num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        state[theirs] = tensor.contiguous()
    side = cfg.input_size // cfg.patch_size
    state["pos_embed"] = spatial_position(side, side, cfg.hidden_size)[None]
    state["temp_embed"] = sincos(torch.arange(cfg.num_frames), cfg.hidden_size)[None]
    return state


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
