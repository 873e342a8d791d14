"""C3D (Tran et al., arXiv 1412.0767) fine-tuned on UCF101, for the inception score of videos."""

import torch.nn.functional as F
from torch import Tensor, nn

FRAMES, SIZE = 16, 112  # of the clips that it takes: frames, and pixels per side
# each convolution's channels in multiples of the first's, or None for max pooling by two
LAYERS = {
    "conv1a": 1,
    "pool1": None,
    "conv2a": 2,
    "pool2": None,
    "conv3a": 4,
    "conv3b": 4,
    "pool3": None,
    "conv4a": 8,
    "conv4b": 8,
    "pool4": None,
    "conv5a": 8,
    "conv5b": 8,
    "pool5": None,
}


class C3D(nn.Module):
    """C3D, a classifier of clips.

    Args:
        width: channels of the first convolution.
        hidden: width of the two hidden linear layers.
        classes: the number of logits, 101 for UCF101.
    """

    def __init__(self, width: int = 64, hidden: int = 4096, classes: int = 101):
        super().__init__()
        channels = 3
        for name, units in LAYERS.items():
            if units is not None:
                self.add_module(name, nn.Conv3d(channels, units * width, 3, padding=1))
                channels = units * width
        self.fc6 = nn.Linear(channels * 4 * 4, hidden)
        self.fc7 = nn.Linear(hidden, hidden)
        self.fc8 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map clips (b, 3, 16, 112, 112), BGR pixels in 0..255 minus the training mean, to logits (b, classes)."""
        for name, units in LAYERS.items():
            if units is not None:
                x = F.relu(self.get_submodule(name)(x))
            else:  # ceil_mode as in Caffe: 112 -> 56, 28, 14, 7, 4; the first pool keeps all frames
                x = F.max_pool3d(x, (1, 2, 2) if name == "pool1" else 2, ceil_mode=True)
        return self.fc8(F.relu(self.fc7(F.relu(self.fc6(x.flatten(1))))))
