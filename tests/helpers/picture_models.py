"""Tiny DiT and PixArt-alpha weights under their original names, and forward passes of these models on one image."""

import torch
import torch.nn.functional as F

from latte.models.block import modulate
from latte.models.condition import sincos, spatial_position

D, HEADS, P = 16, 2, 2


def drawn(shapes, seed=0):
    """Random tensors of these shapes, by name."""
    random = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(shape, generator=random) for name, shape in shapes.items()}


def layers(table):
    """Shapes of the weights and biases of linear layers, from name -> (out, in)."""
    weights = {f"{name}.weight": shape for name, shape in table.items()}
    return weights | {f"{name}.bias": shape[:1] for name, shape in table.items()}


def dit(depth=2, classes=3):
    """The weights of a DiT, with the names of facebookresearch/DiT."""
    table = {"t_embedder.mlp.0": (D, 256), "t_embedder.mlp.2": (D, D)}
    for i in range(depth):
        table |= {f"blocks.{i}.attn.qkv": (3 * D, D), f"blocks.{i}.attn.proj": (D, D)}
        table |= {f"blocks.{i}.mlp.fc1": (4 * D, D), f"blocks.{i}.mlp.fc2": (D, 4 * D)}
        table |= {f"blocks.{i}.adaLN_modulation.1": (6 * D, D)}
    table |= {"final_layer.linear": (P * P * 8, D), "final_layer.adaLN_modulation.1": (2 * D, D)}
    shapes = layers(table) | {"x_embedder.proj.weight": (D, 4, P, P), "x_embedder.proj.bias": (D,)}
    state = drawn(shapes | {"y_embedder.embedding_table.weight": (classes + 1, D)})
    return state | {"pos_embed": spatial_position(2, 2, D)[None]}


def pixart(depth=2, text=8):
    """The weights of a PixArt-alpha, with its own names."""
    table = {"t_embedder.mlp.0": (D, 256), "t_embedder.mlp.2": (D, D), "t_block.1": (6 * D, D)}
    table |= {"y_embedder.y_proj.fc1": (D, text), "y_embedder.y_proj.fc2": (D, D), "final_layer.linear": (P * P * 8, D)}
    tables = {"final_layer.scale_shift_table": (2, D)}
    for i in range(depth):
        table |= {f"blocks.{i}.attn.qkv": (3 * D, D), f"blocks.{i}.attn.proj": (D, D)}
        table |= {f"blocks.{i}.cross_attn.q_linear": (D, D), f"blocks.{i}.cross_attn.kv_linear": (2 * D, D)}
        table |= {f"blocks.{i}.cross_attn.proj": (D, D), f"blocks.{i}.mlp.fc1": (4 * D, D)}
        table |= {f"blocks.{i}.mlp.fc2": (D, 4 * D)}
        tables[f"blocks.{i}.scale_shift_table"] = (6, D)
    shapes = layers(table) | tables | {"x_embedder.proj.weight": (D, 4, P, P), "x_embedder.proj.bias": (D,)}
    return drawn(shapes) | {"y_embedder.y_embedding": torch.zeros(5, text), "pos_embed": torch.zeros(1, 4, D)}


DIFFUSERS = {  # PixArt's names as diffusers writes them
    "x_embedder": "pos_embed",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "y_embedder.y_proj.fc": "caption_projection.linear_",
    "final_layer.linear": "proj_out",
    "final_layer.scale": "scale",
    "cross_attn.q_linear": "attn2.to_q",
    "cross_attn.proj": "attn2.to_out.0",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}


def in_diffusers_names(state):
    out = {}
    for name, tensor in state.items():
        if name in ("pos_embed", "y_embedder.y_embedding"):
            continue
        new = f"transformer_{name}" if name.startswith("blocks.") else name
        for theirs, name_there in DIFFUSERS.items():
            new = new.replace(theirs, name_there)
        for fused, parts in ((".attn.qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v")),
                             (".cross_attn.kv_linear", ("attn2.to_k", "attn2.to_v"))):  # fmt: skip
            if fused in new:
                split = zip(parts, tensor.chunk(len(parts)))
                out |= {new.replace(fused, f".{part}"): piece.clone() for part, piece in split}
                break
        else:
            out[new] = tensor
    return out


def torn(name, rows):
    """PixArt's weights under diffusers' names, one of them truncated in the first block."""
    state = in_diffusers_names(pixart())
    return state | {f"transformer_blocks.0.{name}": torch.zeros(rows) if rows else torch.tensor(0.0)}


def linear(x, state, name):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def heads(x):
    return x.unflatten(-1, (HEADS, -1)).transpose(-2, -3)


def attend(q, k, v):
    return F.scaled_dot_product_attention(heads(q), heads(k), heads(v)).transpose(-2, -3).flatten(-2)


def outer(state, x, t, body):
    """What DiT and PixArt share, for one image x (1, 4, 4, 4): embed it, apply `body`, and unpatchify."""
    tokens = F.conv2d(x, state["x_embedder.proj.weight"], state["x_embedder.proj.bias"], stride=P)
    tokens = tokens.flatten(2).transpose(1, 2) + spatial_position(2, 2, D)
    angle = t[:, None] * 10_000 ** (-torch.arange(128, dtype=torch.double) / 128)
    time = linear(torch.cat([angle.cos(), angle.sin()], 1).float(), state, "t_embedder.mlp.0")
    out = linear(body(tokens, linear(F.silu(time), state, "t_embedder.mlp.2")), state, "final_layer.linear")
    return torch.einsum("nhwpqc->nchpwq", out.unflatten(-1, (P, P, 8)).unflatten(1, (2, 2))).reshape(1, 1, 8, 4, 4)


def dit_of_one_frame(state, x, t, y):
    """The output of a DiT whose second block is temporal: with one frame, each token attends only to itself."""

    def body(tokens, time):
        c = F.silu(time + state["y_embedder.embedding_table.weight"][y])
        for i in range(2):
            tokens = tokens + (sincos(torch.arange(1), D) if i == 1 else 0)
            parts = linear(c, state, f"blocks.{i}.adaLN_modulation.1")[:, None].chunk(6, -1)
            q, k, v = linear(modulate(tokens, *parts[:2]), state, f"blocks.{i}.attn.qkv").chunk(3, -1)
            tokens = tokens + parts[2] * linear(v if i == 1 else attend(q, k, v), state, f"blocks.{i}.attn.proj")
            hidden = F.gelu(linear(modulate(tokens, *parts[3:5]), state, f"blocks.{i}.mlp.fc1"), approximate="tanh")
            tokens = tokens + parts[5] * linear(hidden, state, f"blocks.{i}.mlp.fc2")
        return modulate(tokens, *linear(c, state, "final_layer.adaLN_modulation.1")[:, None].chunk(2, -1))

    return outer(state, x, t, body)


def pixart_picture(state, x, t, text):
    """The output of a PixArt-alpha."""

    def body(tokens, time):
        shared = linear(F.silu(time), state, "t_block.1").unflatten(-1, (6, D))
        words = F.gelu(linear(text, state, "y_embedder.y_proj.fc1"), approximate="tanh")
        words = linear(words, state, "y_embedder.y_proj.fc2")
        for i in range(2):
            name = f"blocks.{i}"
            parts = (state[f"{name}.scale_shift_table"] + shared).unsqueeze(2).unbind(1)
            q, k, v = linear(modulate(tokens, *parts[:2]), state, f"{name}.attn.qkv").chunk(3, -1)
            tokens = tokens + parts[2] * linear(attend(q, k, v), state, f"{name}.attn.proj")
            k, v = linear(words, state, f"{name}.cross_attn.kv_linear").chunk(2, -1)
            q = linear(tokens, state, f"{name}.cross_attn.q_linear")
            tokens = tokens + linear(attend(q, k, v), state, f"{name}.cross_attn.proj")
            hidden = F.gelu(linear(modulate(tokens, *parts[3:5]), state, f"{name}.mlp.fc1"), approximate="tanh")
            tokens = tokens + parts[5] * linear(hidden, state, f"{name}.mlp.fc2")
        return modulate(tokens, *(state["final_layer.scale_shift_table"] + time[:, None]).chunk(2, 1))

    return outer(state, x, t, body)
