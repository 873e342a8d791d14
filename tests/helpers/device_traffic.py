"""Counts what makes the host wait for the device: values read from it, and copies to and from it."""

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[2]
MAKES = {"tensor", "as_tensor", "new_tensor"}  # copy numbers to the device, unseen by dispatch
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.is_nonzero.default}


class DeviceTraffic(TorchDispatchMode):
    """Counts, by file and line, every operation in its context that would make the host wait, on any device.

    The meta device stands in for a GPU: it computes nothing, so reading a value from it is an error, and tensors
    on the CPU are distinct from it. `.item()`, `.tolist()`, `.cpu()` and `bool(tensor)` of a CPU tensor do not count.

    Attributes:
        seen: The number of occurrences of each kind of traffic, by "kind file:line".
    """

    def __init__(self, device: str = "meta"):
        super().__init__()
        self.device, self.seen = device, Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {z.device.type for z in tree_leaves((args, kwargs)) if isinstance(z, torch.Tensor)}
        if function in READS and self.device in given:
            self.record("read")
        wanted = kwargs.get("device")
        wanted = torch.device(wanted).type if wanted is not None else None
        waits = not kwargs.get("non_blocking", False)
        copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        places = given | ({wanted} if wanted else set())
        if copies and waits and len(places) > 1:
            self.record("copy")
        return function(*args, **kwargs)

    def record(self, kind: str) -> None:
        """Count one occurrence, at the innermost line of the project."""
        inside = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT)]
        frames = [f for f in inside if f.filename != __file__ and "site-packages" not in f.filename]
        ours = [f for f in frames if not Path(f.filename).is_relative_to(ROOT / "tests")] or frames
        self.seen[f"{kind} {Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno}"] += 1


class MadeOfNumbers(TorchFunctionMode):
    """Makes a DeviceTraffic also count tensors created on the device from numbers of the host."""

    def __init__(self, traffic: DeviceTraffic):
        super().__init__()
        self.traffic = traffic

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in MAKES and out.device.type == self.traffic.device:
            self.traffic.record("made")
        return out
