"""8-bit numbers with scales: each weight is the product of the stored floats or integers and their scale.

| stored beside `layer.weight` | by | a scale for |
|---|---|---|
| `layer.scale_weight`, and `scaled_fp8` once | ComfyUI until 2025 | the matrix, or each row |
| `layer.weight_scale`, `layer.comfy_quant` | ComfyUI; without the second: compressed-tensors, ModelOpt | the same |
| `layer.weight_scale_inv` | DeepSeek-V3, transformers | the matrix, each row, or each block of 128 x 128 |

Integers (int8) have `layer.weight_scale`, as in compressed-tensors, without zero points. `latte convert --dtype int8`
writes them. Scales of activations (`input_scale`, `scale_input`) are for computing in 8 bits, and change no weight.
"""

import json
import re

import torch
from torch import Tensor

FLOATS8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
SCALE = re.compile(r"(?:^|[._])scaled?(?:_[a-z0-9]+)*$")  # ends of names of scales, known and unknown
WEIGHT_SCALES = ("weight_scale", "scale_weight", "weight_scale_inv")
FORMAT = "comfy_quant"  # JSON in bytes
UNUSED = ("scaled_fp8", "input_scale", "scale_input")
PARAMETER = "scale_shift_table"  # a parameter of a transformer, not a scale
BLOCK = 128  # rows and columns


def is_scale(name: object) -> bool:
    """Whether this is the name of a scale of weights, or of other data stored with scales."""
    last = str(name).rpartition(".")[2]
    return last == FORMAT or (last != PARAMETER and SCALE.search(str(name)) is not None)


def is_eight_bits(value: object) -> bool:
    """Whether this is a tensor of 8-bit floats or signed integers."""
    return isinstance(value, Tensor) and value.dtype in (*FLOATS8, torch.int8)


def take_scales(table: dict) -> dict[str, Tensor]:
    """Remove the scales of 8-bit numbers from a table of tensors by name, in place.

    Returns:
        Name of a weight -> its scale, for `unscaled`. Empty if the table has no 8-bit numbers or no scales.

    Raises:
        ValueError: The scales are in none of the known forms.
    """
    weights = {name for name, value in table.items() if is_weight(table, name) and not is_scale(name)}
    others = [name for name in table if is_scale(name)] if weights else []
    scales = {}
    for name in others:
        layer, dot, last = str(name).rpartition(".")
        weight, value = f"{layer}{dot}weight", table.pop(name)
        if f"{weight}_zero_point" in table:
            refuse(f"{weight} is stored as integers with a zero point, {weight}_zero_point, which is not supported")
        if last in WEIGHT_SCALES and weight in weights - scales.keys() and fits(value, table[weight], last):
            scales[weight] = value
        elif last not in UNUSED and not (last == FORMAT and is_plain_format(value)):
            refuse(f"{name} scales 8-bit weights in a way that is not known")
    if others and (bare := sorted(weights - scales.keys())):
        refuse(f"{bare[0]} is stored in 8 bits without a scale, beside {others[0]}")
    return scales


def is_weight(table: dict, name: object) -> bool:
    """Whether a tensor of a table is a weight of 8-bit floats, or of 8-bit integers that have a scale."""
    value = table[name]
    scaled = isinstance(name, str) and f"{name}_scale" in table
    return is_eight_bits(value) and (value.dtype != torch.int8 or scaled)


def refuse(reason: str) -> None:
    """Raise ValueError with the reason and what to do."""
    raise ValueError(f"{reason}; give the file of these weights in float16, bfloat16 or float32")


def fits(scale: object, weight: Tensor, last: str) -> bool:
    """Whether a scale is one number, one for each row, or (if the end of its name says so) one for each block."""
    if not isinstance(scale, Tensor) or scale.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False
    blocks = tuple(-(-n // BLOCK) for n in weight.shape)
    in_blocks = weight.ndim == 2 and last == "weight_scale_inv" and tuple(scale.shape) == blocks
    return scale.numel() == 1 or is_for_rows(scale, weight) or in_blocks


def is_for_rows(scale: Tensor, weight: Tensor) -> bool:
    """Whether a scale has the shape (n, 1) or (n, 1, ...), of as many dimensions as a weight of n rows."""
    return weight.ndim > 1 and tuple(scale.shape) == (weight.shape[0], *[1] * (weight.ndim - 1))


def is_plain_format(value: object) -> bool:
    """Whether ComfyUI's description of a layer says that its weight is stored as it is read here."""
    if not isinstance(value, Tensor) or value.dtype != torch.uint8 or value.numel() > 1000:
        return False
    try:
        about = json.loads(bytes(value.flatten().tolist()))
    except (ValueError, RecursionError):
        return False
    known = isinstance(about, dict) and about.keys() <= {"format", "full_precision_matrix_mult"}
    return known and about.get("format") in ("float8_e4m3fn", "float8_e5m2")


def unscaled(weight: Tensor, scale: Tensor | None) -> Tensor:
    """Multiply a weight by its scale, in float32. Without a scale it is returned as it is.

    Raises:
        ValueError: A product is not finite.
    """
    if scale is None:
        return weight
    if scale.numel() > 1 and not is_for_rows(scale, weight):
        for axis, size in enumerate(weight.shape):
            scale = scale.repeat_interleave(BLOCK, axis).narrow(axis, 0, size)
    product = weight.float() * (scale.float() if scale.numel() > 1 else scale.float().reshape(()))
    if not product.isfinite().all():
        raise ValueError("the product of an 8-bit weight and its scale is not finite")
    return product
