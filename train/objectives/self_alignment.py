"""Self-representation alignment (SRA: Jiang et al. 2025, arXiv 2505.02831): a network learns from its own average.

Tokens after an early block, through a small head, learn to match those of the averaged network after a later block, at
a less noisy timestep of the same clip. The head is trained with the network, and left out of the averaged weights.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latte.diffusion.randomness import generator
from latte.models.denoiser import Denoiser, denoiser_of
from latte.train.config import LatentTrainConfig
from latte.train.data.clip_order import Draw
from latte.train.objectives.recorded_blocks import recorded

BETA = 0.05  # where the smooth L1 loss turns from squares to absolute values, as in the authors' code


def add_head(denoiser: Denoiser) -> None:
    """Add the head to a network, as `alignment_head`, with fresh weights: two layers, the first twice as wide."""
    dim = denoiser.final_linear.in_features
    head = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))
    for layer in (head[0], head[2]):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    device = next(denoiser.parameters()).device
    denoiser.alignment_head = head if device.type == "cpu" else head.to(device)  # fake tensors cannot be moved


def less_noisy(config: LatentTrainConfig, index: Tensor, count: int, step: int, slots: range) -> Tensor:
    """Steps of the schedule for the teacher: earlier by up to the fraction align_gap of all steps, drawn per slot.

    Args:
        config: The settings, of which align_gap and seed are used.
        index: The steps at which the network sees its clips (slots,).
        count: Steps of the schedule.
        step: The number of the training step, from 0.
        slots: The slots.
    """
    drawn = [torch.rand((), generator=generator(config.seed, step, slot, Draw.TEACHER)) for slot in slots]
    earlier = (torch.stack(drawn) * config.align_gap * count).long().to(index.device)
    return (index - earlier).clamp(min=0)


@torch.no_grad()
def teacher_tokens(teacher: nn.Module, blocks: int, measure: Callable[..., Any], index: Tensor) -> Tensor:
    """The tokens (b, f, s, d) of clips in the averaged network.

    Args:
        teacher: The averaged network. Its later blocks are not computed.
        blocks: The number of blocks after which the tokens are taken.
        measure: measure(network, index=index) gives a network the noisy clips and measures its loss, which is not used.
        index: The step of the schedule for each clip (b,).
    """
    with recorded(denoiser_of(teacher), blocks, last=True) as tokens:
        measure(teacher, index=index)
    return tokens[0]


def alignment_loss(tokens: Tensor, target: Tensor) -> Tensor:
    """The smooth L1 distance of the head's tokens and the teacher's, averaged: a scalar in float32."""
    return F.smooth_l1_loss(tokens.float(), target.float(), beta=BETA)
