"""timm's MLP, imported without a warning that has nothing to do with it."""

import warnings

with warnings.catch_warnings():
    # timm imports torchvision, whose picture reader fails to load beside a CPU build of torch; it is not used here
    warnings.filterwarnings("ignore", "Failed to load image Python extension", UserWarning)
    from timm.layers import Mlp

__all__ = ["Mlp"]
