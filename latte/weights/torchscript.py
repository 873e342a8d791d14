"""The tensors of a TorchScript archive, whose pickle holds modules as objects with attributes."""

from torch import Tensor

from latte.files import CheckpointError
from latte.weights.pickles import Foreign

MOST_MODULES = 10_000  # in a scripted module
MOST_ATTRIBUTES = 1_000_000  # of all its modules


def script_tensors(module: Foreign) -> dict[str, Tensor]:
    """The tensors among the attributes of a scripted module and of its submodules, by name."""
    found, waiting, visits, entries = {}, [("", module)], 0, 0
    while waiting:
        prefix, owner = waiting.pop()
        attributes = owner.state if isinstance(owner.state, dict) else {}
        visits, entries = visits + 1, entries + len(attributes)
        if visits > MOST_MODULES or len(prefix) > 1000:  # modules that contain each other would never end
            raise CheckpointError(f"it has more than {MOST_MODULES} modules, so it is not read")
        if entries > MOST_ATTRIBUTES:  # for modules that are used in many places
            raise CheckpointError(f"its modules have more than {MOST_ATTRIBUTES} attributes, so it is not read")
        for name, value in attributes.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, Foreign) and value.state is not None:
                waiting.append((f"{prefix}{name}.", value))
    return found
