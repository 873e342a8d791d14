"""Conversion of autoencoder weights from older forms to the current published names, which are also ours.

The original latent diffusion code (Rombach et al. 2022) names layers differently, and stores the VAE alone or in the
checkpoint of a whole Stable Diffusion. Older releases of diffusers use today's names, except in attention.
"""

import re
import warnings
from pathlib import Path

from torch import Tensor

from latte.models.vae_config import VAEConfig
from latte.weights.convert_latte import shape_of
from latte.weights.tensors import nested_tables, rename_keys
from latte.weights.weight_sets import choose_weights, refuse_without_weights, weight_sets

MARKER = "encoder.conv_in.weight"  # every VAE has it, in all naming schemes
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # in diffusers, old: current
LATENT_DIFFUSION = {  # in latent diffusion's code: current
    r"^encoder\.down\.(\d+)\.block\.": r"encoder.down_blocks.\1.resnets.",
    r"^encoder\.down\.(\d+)\.downsample\.": r"encoder.down_blocks.\1.downsamplers.0.",
    r"^decoder\.up\.(\d+)\.block\.": r"decoder.up_blocks.\1.resnets.",
    r"^decoder\.up\.(\d+)\.upsample\.": r"decoder.up_blocks.\1.upsamplers.0.",
    r"coder\.mid\.block_1\.": "coder.mid_block.resnets.0.",
    r"coder\.mid\.block_2\.": "coder.mid_block.resnets.1.",
    r"coder\.mid\.attn_1\.norm\.": "coder.mid_block.attentions.0.group_norm.",
    r"coder\.mid\.attn_1\.([qkv])\.": r"coder.mid_block.attentions.0.to_\1.",
    r"coder\.mid\.attn_1\.proj_out\.": "coder.mid_block.attentions.0.to_out.0.",
    r"coder\.norm_out\.": "coder.conv_norm_out.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
}
UNUSED = "loss."  # the discriminator that latent diffusion trains a VAE with
OTHER_SCALES = "conditioner."  # in whole checkpoints of SDXL and later, whose VAEs look the same but have other scales


def vae_state(table: dict) -> dict[str, Tensor]:
    """Take the weights of a VAE out of a checkpoint: of the VAE alone, or of a model that it is a part of.

    Returns:
        Its weights by their current names, with the 1 x 1 convolutions of older attention as matrices.

    Raises:
        ValueError: There is no VAE, there are several, or it holds a tensor under two names.
    """
    sets = weight_sets(table, (MARKER,))
    if not sets:
        refuse_without_weights(table, MARKER, "a VAE")
    state = choose_weights(table, sets, None).state
    state = {name: tensor for name, tensor in state.items() if not name.startswith(UNUSED)}
    last = count(state, r"decoder\.up\.(\d{1,4})\.") - 1
    state = rename_keys(state, lambda name: current_name(name, last))
    linear = lambda name, tensor: tensor.flatten(1) if ".attentions." in name and tensor.ndim == 4 else tensor
    return {name: linear(name, tensor) for name, tensor in state.items()}


def count(state: dict[str, Tensor], pattern: str) -> int:
    """Count parts of a network by the numbers in names: 1 more than the largest that the pattern's group matches."""
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=-1)


def current_name(name: str, last: int) -> str:
    """Return the current name of a parameter. `last` is the number of the last level of latent diffusion's decoder."""
    if ".attentions." in name:
        return ".".join(OLD_ATTENTION.get(word, word) for word in name.split("."))
    name = re.sub(
        r"^decoder\.up\.(\d{1,4})\.", lambda found: f"decoder.up.{last - int(found[1])}.", name
    )  # it counts down
    for theirs, ours in LATENT_DIFFUSION.items():
        name = re.sub(theirs, ours, name)
    return name


def infer_vae_config(state: dict[str, Tensor], table: dict, path: Path) -> VAEConfig:
    """Infer the configuration of a VAE from the shapes of its weights. A warning says what is assumed.

    Args:
        state: Its weights by their current names.
        table: The checkpoint that they come from.
        path: The file, for the warning.

    Raises:
        ValueError: It is not a VAE, or one whose scale differs from Stable Diffusion's.
    """
    names = [str(name) for _, part in nested_tables(table) for name in part]
    if any(name.startswith(OTHER_SCALES) for name in names):
        raise ValueError("this is the checkpoint of a later model than Stable Diffusion: give its VAE's own folder")
    shape = lambda name: shape_of(state, name, 4, "a VAE")
    levels = count(state, r"encoder\.down_blocks\.(\d{1,4})\.")
    config = VAEConfig(
        in_channels=shape("encoder.conv_in.weight")[1],
        out_channels=shape("decoder.conv_out.weight")[0],
        latent_channels=shape("decoder.conv_in.weight")[1],
        block_out_channels=tuple(shape(f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)),
        layers_per_block=count(state, r"encoder\.down_blocks\.0\.resnets\.(\d{1,4})\."),
        temporal_decoder=any(".temporal_res_block." in name for name in state),
    )
    warnings.warn(
        f"{path} states neither the scale of its latents nor the groups of its norms: using Stable Diffusion's, "
        f"{config.scaling_factor} and {config.norm_num_groups}; for others, put the weights into a folder with their "
        "config.json",
        stacklevel=3,
    )
    return config
