"""A small Latte with random weights, and inputs for it."""

import torch

from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig

TINY = dict(depth=4, hidden_size=48, num_heads=4, input_size=8, num_frames=4, num_classes=5)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, T, Y = draw(0, 2, 4, 4, 8, 8), torch.tensor([3, 977]), torch.tensor([1, 5])


def warm(**option) -> Latte:
    """A model in which every weight matters; a fresh one returns zeros."""
    model = Latte(LatteConfig(**{**TINY, **option})).eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.data = 0.1 * draw(i, *parameter.shape)
    return model


def text_model() -> LatteT2V:
    shape = dict(num_layers=2, num_attention_heads=2, attention_head_dim=24, caption_channels=8, sample_size=8)
    model = LatteT2V(LatteT2VConfig(**shape, video_length=4)).eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.data = 0.1 * draw(i, *parameter.shape)
    return model
