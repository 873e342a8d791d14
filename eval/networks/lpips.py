"""LPIPS, a perceptual distance of images (Zhang et al., arXiv 1801.03924), version 0.1 on AlexNet."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 31  # pixels a side that leave one for the last convolution


class LPIPS(nn.Module):
    """Images in [-1, 1], twice (n, 3, h, w) -> distances (n,).

    `features` is the part of torchvision's AlexNet (arXiv 1404.5997) before its classifier, with its names.
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
        shift = first.new_tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
        scale = first.new_tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
        x, heads, distances = (torch.cat([first, second]) - shift) / scale, iter(self.heads), 0
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                a, b = (x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt()).chunk(2)
                # at every pixel, then the mean: the `spatial` kind, as in Pyramid Attention Broadcast's evaluation
                each = F.interpolate(next(heads)((a - b).square()), first.shape[2:], mode="bilinear")
                distances = distances + each.mean((1, 2, 3))
        return distances
