"""Conversion of LatteT2V and T5 between our key names and the published ones, and from PixArt-alpha's.

Each table maps our names to theirs and serves both directions. Every key is mapped or rejected by name. LatteT2V was
published by its authors and by diffusers, under the same names except for one tensor that is never used.
"""

import re
from collections.abc import Callable

import torch
from torch import Tensor

from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.network_config import known_fields, shown
from latte.models.t5 import T5Encoder
from latte.weights.convert_latte import heads_first, parts_first
from latte.weights.eight_bits import Int8Linear
from latte.weights.tensors import rename_keys

OUTSIDE = {  # ours: theirs, outside of blocks
    "patch_embed": "pos_embed.proj",
    "time.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "time.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "time_modulation": "adaln_single.linear",
    "caption.fc1": "caption_projection.linear_1",
    "caption.fc2": "caption_projection.linear_2",
    "final_modulation": "",
    "final_linear": "proj_out",
}
INSIDE: dict[str, str | None] = {  # inside a block; None: the block itself
    "attns.0.q": "attn1.to_q",
    "attns.0.k": "attn1.to_k",
    "attns.0.v": "attn1.to_v",
    "attns.0.proj": "attn1.to_out.0",
    "cross.q": "attn2.to_q",
    "cross.k": "attn2.to_k",
    "cross.v": "attn2.to_v",
    "cross.proj": "attn2.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "modulation": None,
}
FUSED = {  # our fused projections: the parts that are published one by one
    "attns.0.qkv": ("attns.0.q", "attns.0.k", "attns.0.v"),
    "cross.kv": ("cross.k", "cross.v"),
}
ENDS = {"table": "scale_shift_table"}  # ours: theirs; other ends of names are the same
UNUSED = {"caption_projection.y_embedding"}  # PixArt's null caption, in the files of Latte's authors
PIXART = {  # the names in PixArt-alpha's own .pth files; all its blocks are spatial
    "patch_embed": "x_embedder.proj",
    "time.mlp.0": "t_embedder.mlp.0",
    "time.mlp.2": "t_embedder.mlp.2",
    "time_modulation": "t_block.1",
    "caption.fc1": "y_embedder.y_proj.fc1",
    "caption.fc2": "y_embedder.y_proj.fc2",
    "final_modulation": "final_layer",
    "final_linear": "final_layer.linear",
}
PIXART_BLOCK: dict[str, str | None] = {
    "attns.0.qkv": "attn.qkv",
    "attns.0.proj": "attn.proj",
    "cross.q": "cross_attn.q_linear",
    "cross.kv": "cross_attn.kv_linear",
    "cross.proj": "cross_attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "modulation": None,
}
PIXART_UNUSED = {"pos_embed", "y_embedder.y_embedding"}  # a table that our model computes, and the null caption
FIXED = {  # entries of a published config.json that every LatteT2V shares
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "double_self_attention": False,
    "only_cross_attention": False,
}
T5 = {
    "tokens": "shared",
    "distance": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "norm": "encoder.final_layer_norm",
}
T5_BLOCK = {
    "attention_norm": "layer.0.layer_norm",
    "q": "layer.0.SelfAttention.q",
    "k": "layer.0.SelfAttention.k",
    "v": "layer.0.SelfAttention.v",
    "o": "layer.0.SelfAttention.o",
    "mlp_norm": "layer.1.layer_norm",
    "wi_0": "layer.1.DenseReluDense.wi_0",
    "wi_1": "layer.1.DenseReluDense.wi_1",
    "wo": "layer.1.DenseReluDense.wo",
}
T5_DECODER = ("decoder.", "lm_head.")  # prefixes of the names in a whole T5 that its encoder does not have
SHARED, TIED = "shared.weight", "encoder.embed_tokens.weight"  # the same tensor, if both are stored


def our_name(name: str, outside: dict[str, str], inside: dict[str, str], found: re.Match | None, number: int) -> str:
    """Translate a published name into ours.

    Args:
        name: The published name.
        outside: The table of names outside of blocks.
        inside: The table of names inside a block.
        found: The match of a name inside a block, whose group "rest" is the name within it; None outside.
        number: Our number of that block.

    Raises:
        ValueError: No row of the tables fits.
    """
    stem, _, end = name.rpartition(".")
    end = {theirs: mine for mine, theirs in ENDS.items()}.get(end, end)
    rows = [(outside, stem, "")] + ([(inside, found["rest"], f"blocks.{number}.")] if found else [])
    for table, row, prefix in rows:
        mine = [mine for mine, theirs in table.items() if theirs == row]
        if mine and end in ("weight", "bias", "table", "scale"):
            return f"{prefix}{mine[0]}.{end}"
    raise ValueError(f"{name!r} has no place in the table of names")


def published_name(name: str, outside: dict[str, str], inside: dict[str, str], block: Callable[[int], str]) -> str:
    """Translate one of our names into the published one, the inverse of our_name; block(i) is their name of block i."""
    stem, _, end = name.rpartition(".")
    found = re.match(r"blocks\.(\d+)\.", stem)
    table, row = (inside, stem[found.end() :]) if found else (outside, stem)
    if row not in table or end not in ("weight", "bias", "table"):
        raise ValueError(f"{name!r} has no place in the table of names")
    parts = (block(int(found[1])) if found else None, table[row], ENDS.get(end, end))
    return ".".join(part for part in parts if part)


def t2v_config(values: dict) -> LatteT2VConfig:
    """Make a configuration from a published config.json. Raises ValueError if it describes another kind of model."""
    for name, only in FIXED.items():
        if values.get(name, only) != only:
            raise ValueError(f"{name} is {shown(values[name])}; a LatteT2V has {only!r}")
    given = {name: value for name, value in values.items() if value is not None}
    return LatteT2VConfig.from_dict(known_fields(LatteT2VConfig, given))


def t2v_state(source: dict[str, Tensor], config: LatteT2VConfig) -> dict[str, Tensor]:
    """Convert a published state dict of a LatteT2V to ours.

    The patch convolution (d, c, p, p) becomes a linear layer, and separate projections become fused ones with rows in
    the order (head, part, e).

    Raises:
        ValueError: A key is not in the tables, or projections that belong together do not fit.
    """

    def rename(name: str) -> str:
        found = re.fullmatch(r"(temporal_)?transformer_blocks\.(\d{1,9})(?:\.(?P<rest>.+))?\.\w+", name)
        return our_name(name, OUTSIDE, INSIDE, found, 2 * int(found[2]) + bool(found[1]) if found else 0)

    state = rename_keys({name: tensor for name, tensor in source.items() if name not in UNUSED}, rename)
    if "patch_embed.weight" in state:
        state["patch_embed.weight"] = state["patch_embed.weight"].flatten(1)
    heads = config.num_attention_heads
    for name in list(state):
        for fused, parts in FUSED.items():
            if f".{parts[0]}." in name:
                names = [name.replace(parts[0], part) for part in parts]
                if missing := [part for part in names if part not in state]:
                    raise ValueError(f"{missing[0]} is missing beside {name}")
                rows = [state.pop(part) for part in names]
                if len({part.shape for part in rows}) > 1 or not rows[0].ndim or rows[0].shape[0] % heads:
                    raise ValueError(f"{' and '.join(names)} are not {heads} heads of one width")
                split = [part.unflatten(0, (heads, -1)) for part in rows]
                state[name.replace(parts[0], fused)] = torch.stack(split, 1).flatten(0, 2)
    return state


def t2v_state_for_diffusers(model: LatteT2V) -> dict[str, Tensor]:
    """Convert the weights of a LatteT2V to the published names and shapes: the inverse of t2v_state.

    Returns:
        A state dict for diffusers' LatteTransformer3DModel.
    """
    cfg, state = model.config, {}
    kinds = ("transformer_blocks", "temporal_transformer_blocks")
    for name, tensor in model.state_dict().items():
        fused = next((fused for fused in FUSED if f".{fused}." in name), None)
        if fused is None:
            pieces = {name: tensor}
        else:
            parts = FUSED[fused]
            split = parts_first(tensor, cfg.num_attention_heads, len(parts)).chunk(len(parts))
            pieces = {name.replace(fused, part): piece.clone() for part, piece in zip(parts, split)}
        for ours, piece in pieces.items():
            theirs = published_name(ours, OUTSIDE, INSIDE, lambda i: f"{kinds[i % 2]}.{i // 2}")
            state[theirs] = piece.contiguous()
    patches = f"{OUTSIDE['patch_embed']}.weight"
    state[patches] = state[patches].unflatten(1, (cfg.in_channels, cfg.patch_size, cfg.patch_size))
    return state


def pixart_state(source: dict[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Convert a state dict of PixArt-alpha to that of a LatteT2V, without its temporal blocks.

    Raises:
        ValueError: A key is not in the tables, or a projection does not have that many heads.
    """

    def rename(name: str) -> str:
        found = re.fullmatch(r"blocks\.(\d{1,9})(?:\.(?P<rest>.+))?\.\w+", name)
        return our_name(name, PIXART, PIXART_BLOCK, found, 2 * int(found[1]) if found else 0)

    state = rename_keys({name: tensor for name, tensor in source.items() if name not in PIXART_UNUSED}, rename)
    for name, tensor in state.items():
        if name == "patch_embed.weight":
            state[name] = tensor.flatten(1)
        if ".qkv." in name:
            state[name] = heads_first(name, tensor, num_heads)
        if ".kv." in name:
            state[name] = heads_first(name, tensor, num_heads, ("key", "value"))
    return state


def t5_state(source: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert a published state dict of a T5 encoder to ours.

    Raises:
        ValueError: A key is not in the tables, or the two copies of the embedding differ.
    """

    def rename(name: str) -> str:
        found = re.fullmatch(r"encoder\.block\.(\d{1,9})\.(?P<rest>.+)\.\w+", name)
        return our_name(name, T5, T5_BLOCK, found, int(found[1]) if found else 0)

    state = {name: tensor for name, tensor in source.items() if name != TIED}
    if TIED in source and not torch.equal(state.setdefault(SHARED, source[TIED]), source[TIED]):
        raise ValueError(f"{TIED} is not {SHARED}, as in a T5 v1.1")
    return rename_keys(state, rename)


def t5_state_for_transformers(model: T5Encoder) -> dict[str, Tensor]:
    """Convert the weights of a T5 encoder to the published names: the inverse of t5_state.

    Returns:
        The state dict that transformers' T5EncoderModel stores in a file: without the tied copy of the embedding.

    Raises:
        ValueError: The encoder is in 8 bits.
    """
    if any(isinstance(module, Int8Linear) for module in model.modules()):
        raise ValueError('the text encoder is in 8 bits, which cannot be exported; load it without memory="low"')
    rename = lambda name: published_name(name, T5, T5_BLOCK, lambda i: f"encoder.block.{i}")
    return rename_keys(model.state_dict(), rename)
