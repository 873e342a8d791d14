"""LPIPS (Zhang et al., arXiv 1801.03924), a perceptual distance between images: version 0.1, with AlexNet."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 31  # pixels per side; with fewer, nothing is left for the last convolution


class LPIPS(nn.Module):
    """LPIPS with AlexNet.

    Attributes:
        features: torchvision's AlexNet (arXiv 1404.5997) before its classifier, with the same parameter names.
        heads: for each ReLU of it, the learned weights of its channels.
    """

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )
        self.heads = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in (64, 192, 384, 256, 256))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute the distance of each pair of images.

        Args:
            first: (n, 3, h, w) in [-1, 1], 31 x 31 pixels or more.
            second: the same shape.

        Returns:
            (n,), 0 for equal images.
        """
        shift = first.new_tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
        scale = first.new_tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
        x, heads, distances = (torch.cat([first, second]) - shift) / scale, iter(self.heads), 0
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                a, b = (x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()).chunk(2)
                # upsampled before the mean: the `spatial` variant, which Pyramid Attention Broadcast is evaluated with
                each = F.interpolate(next(heads)((a - b).square()), first.shape[2:], mode="bilinear")
                distances = distances + each.mean((1, 2, 3))
        return distances
