"""LatteT2V and T5 as others publish them: tables of names, ours <- theirs; every key is taken or refused by name.

Published once by the original and once by diffusers, in the same names but for one tensor that nothing reads.
"""

import re
from dataclasses import fields

import torch
from torch import Tensor

from latte.models.fields import check_fields
from latte.models.latte_t2v import LatteT2VConfig
from latte.weights.convert_latte import heads_first
from latte.weights.tensors import rename_keys

OUTSIDE = {
    "patch_embed": "pos_embed.proj",
    "time.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "time.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "time_modulation": "adaln_single.linear",
    "caption.fc1": "caption_projection.linear_1",
    "caption.fc2": "caption_projection.linear_2",
    "final_modulation": "",
    "final_linear": "proj_out",
}
INSIDE: dict[str, str | None] = {  # of a block
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
FUSED = {"attns.0.qkv": ("attns.0.q", "attns.0.k", "attns.0.v"), "cross.kv": ("cross.k", "cross.v")}
UNUSED = {"caption_projection.y_embedding"}  # PixArt's null caption, in the original's own files
PIXART = {  # PixArt-alpha's own .pth files, outside and inside of blocks, all of which are spatial
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
PIXART_UNUSED = {"pos_embed", "y_embedder.y_embedding"}  # a table that is computed here, and the null caption
FIXED = {  # entries of a published config.json that say what our model always is
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
SHARED, TIED = "shared.weight", "encoder.embed_tokens.weight"  # the same tensor, where both are stored


def ours(name: str, outside: dict[str, str], inside: dict[str, str], found: re.Match | None, number: int) -> str:
    """Our name for theirs; `found` is its block, as we count `number`, and the "rest". ValueError: no row takes it."""
    stem, _, end = name.rpartition(".")
    end = {"scale_shift_table": "table"}.get(end, end)
    rows = [(outside, stem, "")] + ([(inside, found["rest"], f"blocks.{number}.")] if found else [])
    for table, row, prefix in rows:
        mine = [mine for mine, theirs in table.items() if theirs == row]
        if mine and end in ("weight", "bias", "table", "scale"):
            return f"{prefix}{mine[0]}.{end}"
    raise ValueError(f"{name!r} has no place in the table of names")


def t2v_config(values: dict) -> LatteT2VConfig:
    """From a published config.json. ValueError: it describes a model that LatteT2V is not."""
    for name, only in FIXED.items():
        if values.get(name, only) != only:
            raise ValueError(f"{name} is {values[name]!r}; a LatteT2V has {only!r}")
    known = {field.name for field in fields(LatteT2VConfig)}
    return LatteT2VConfig(
        **check_fields(LatteT2VConfig, {k: v for k, v in values.items() if k in known and v is not None})
    )


def t2v_state(source: dict[str, Tensor], config: LatteT2VConfig) -> dict[str, Tensor]:
    """Our state dict out of a published one: fused projections with rows (head, qkv, e), a linear patch embedding."""

    def rename(name: str) -> str:
        found = re.fullmatch(r"(temporal_)?transformer_blocks\.(\d{1,9})(?:\.(?P<rest>.+))?\.\w+", name)
        return ours(name, OUTSIDE, INSIDE, found, 2 * int(found[2]) + bool(found[1]) if found else 0)

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


def pixart_state(source: dict[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """A LatteT2V's state dict, but for its temporal blocks, out of PixArt-alpha's own. ValueError: an unknown key."""

    def rename(name: str) -> str:
        found = re.fullmatch(r"blocks\.(\d{1,9})(?:\.(?P<rest>.+))?\.\w+", name)
        return ours(name, PIXART, PIXART_BLOCK, found, 2 * int(found[1]) if found else 0)

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
    """Our state dict out of a published T5 encoder's."""

    def rename(name: str) -> str:
        found = re.fullmatch(r"encoder\.block\.(\d{1,9})\.(?P<rest>.+)\.\w+", name)
        return ours(name, T5, T5_BLOCK, found, int(found[1]) if found else 0)

    state = {name: tensor for name, tensor in source.items() if name != TIED}
    if TIED in source and not torch.equal(state.setdefault(SHARED, source[TIED]), source[TIED]):
        raise ValueError(f"{TIED} is not {SHARED}, as in a T5 v1.1")
    return rename_keys(state, rename)
