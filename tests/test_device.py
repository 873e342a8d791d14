"""Devices, as far as a CPU can show."""

import torch

from latte.device import to_device


class Elsewhere:
    """Stands in for a tensor on a GPU, as a generator on that GPU makes it: only tensors on the CPU can be pinned."""

    device = torch.device("cuda")

    def pin_memory(self):
        raise RuntimeError("cannot pin: only dense CPU tensors can be pinned")

    def to(self, device, non_blocking):
        return self


def test_noise_from_a_generator_on_the_device_is_not_pinned():
    noise = Elsewhere()
    assert to_device(noise, torch.device("cuda")) is noise
    assert to_device(torch.ones(2), torch.device("cpu")).tolist() == [1, 1]
