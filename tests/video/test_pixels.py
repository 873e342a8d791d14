"""Arrays and tensors in NumPy and PyTorch, whatever their layout."""

import numpy as np
import torch

from latte.video.pixels import as_array, as_tensor
from latte.video.write import as_rgb_array


def test_arrays_are_viewed_where_possible():
    array, tensor = np.ones((2, 3), np.uint8), torch.zeros(2)
    assert as_tensor(array).data_ptr() == array.ctypes.data and as_tensor(tensor) is tensor
    assert as_array(array) is array
    assert as_array(torch.ones(2, dtype=torch.complex64).mul(1j).conj().imag).tolist() == [-1, -1]


def test_white_in_float16_stays_white():
    """Decoders overshoot by rounding errors, and 1.002 times 255 is 255.5 in float16."""
    assert as_rgb_array(np.full((1, 2, 2, 3), 1 + 1 / 512, np.float16)).min() == 255
