"""Pictures of any mode as RGB bytes. Pillow's own conversion turns deep pictures white, as it cuts their values off."""

import numpy as np
from PIL import Image

DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")  # 16 bits of grey


def picture_to_rgb(picture: Image.Image) -> np.ndarray:
    """Convert a picture to RGB.

    Grey is repeated, colours of a palette are looked up, and an alpha channel is dropped. 16-bit grey is scaled from
    [0, 65535], the range that PNG defines, to [0, 255], and rounded.

    Args:
        picture: In any mode of Pillow, but not of 32-bit values, whose black and white are not defined.

    Returns:
        uint8 (h, w, 3).

    Raises:
        ValueError: If the mode does not say which values are black and white, or has no conversion to RGB.
    """
    mode = picture.mode
    if mode in DEEP_MODES:
        grey = np.round(np.asarray(picture).astype(np.float32) / 257).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if mode in ("I", "F"):
        low, high = picture.getextrema()
        raise ValueError(
            f"a picture of mode {mode} holds 32-bit values, here from {low:g} to {high:g}, which do not say what is "
            "white: convert it to 8 bits (mode L) or 16 bits (mode I;16)"
        )
    return np.array(picture.convert("RGB"))
