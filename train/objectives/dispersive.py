"""The dispersive loss (Wang & He 2025, arXiv 2506.09027): the representations of the clips of a batch repel each other.

It is a contrastive loss without positive pairs, so it needs no second view, no other network and no weights.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dispersive_loss(features: Tensor, temperature: float) -> Tensor:
    """The logarithm of the mean of exp(-D / temperature) over all pairs of a batch, the InfoNCE variant with L2.

    D is the squared distance of two representations divided by their size, as in the authors' code; the mean includes
    each clip with itself, where D is 0. So the loss lies between -log b (all far apart) and 0 (all the same).

    Args:
        features: Representations (b, ...), of any shape.
        temperature: The larger it is, the farther a clip repels others.

    Returns:
        The loss, a scalar in float32.
    """
    z = features.flatten(1).float()
    scores = -F.pdist(z).square() / (z.shape[1] * temperature)
    alone = scores.new_zeros(len(z))
    return torch.cat([scores, scores, alone]).logsumexp(0) - 2 * math.log(len(z))
