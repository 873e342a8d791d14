"""Transformers whose weights are larger than the memory that a metric may take.

V-JEPA has 2.4 GiB of weights and VideoMAE 3.8 GiB in float32. On a CPU their blocks stay in the file, and each is read
once for a batch of clips. Other devices hold all of them, and memory of the host one at a time.
"""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch
from torch import nn

from latte.weights.stored_tensors import StoredTensor, read_stored
from latte.weights.tensors import check_fit, load_strictly

BLOCK = "blocks."  # the start of the names of the blocks' tensors, followed by a number


class StoredBlocks(nn.Module):
    """Blocks of a network that are read from its file, one after the other, whenever they are iterated over.

    Args:
        blocks: The blocks on the device "meta".
        states: Their tensors by name, one table per block.
        path: The file that the tensors lie in.
    """

    def __init__(self, blocks: nn.ModuleList, states: list[dict], path: Path):
        super().__init__()
        self.parts, self.path = list(zip(blocks, states, strict=True)), path

    def __iter__(self) -> Iterator[nn.Module]:
        for block, state in self.parts:
            whole = deepcopy(block)
            load_strictly(whole, read_stored(state, self.path), self.path)
            yield whole.eval().requires_grad_(False)


def load_transformer(network: nn.Module, state: dict, path: Path, device: torch.device) -> nn.Module:
    """Load a network whose `blocks` hold most of its weights, in evaluation mode, without gradients.

    All weights are read once here, so a damaged file is noticed before any clip is.

    Args:
        network: On the device "meta".
        state: Its tensors by name, which `open_tensors` left in the file.
        path: The file.
        device: Where it will compute.

    Raises:
        CheckpointError: A tensor is missing, surplus or damaged, or does not fit the network.
    """
    views = {name: value.view if isinstance(value, StoredTensor) else value for name, value in state.items()}
    check_fit(network, views, path)
    states: list[dict] = [{} for _ in network.blocks]
    rest = {}
    for name, value in state.items():
        if name.startswith(BLOCK):
            number, inner = name.removeprefix(BLOCK).split(".", 1)
            states[int(number)][inner] = value
        else:
            rest[name] = value
    stored = StoredBlocks(network.blocks, states, path)
    network.blocks = stored
    load_strictly(network, read_stored(rest, path), path)
    if device.type != "cpu":
        network.blocks = nn.ModuleList(block.to(device) for block in stored)
    else:
        for _ in stored:
            pass
    return network.to(device).eval().requires_grad_(False)
