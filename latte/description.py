"""A pipeline's description of itself: its parts, its configuration, and a printed summary."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from latte.conditioning import Conditioning
from latte.sampling_settings import Sampling
from latte.weights.find_models import WEAKER


class ConfigTable(Mapping[str, Any]):
    """A read-only table of settings; as in diffusers, they are also attributes. It prints one setting per line.

    Args:
        values: The settings by name.
    """

    def __init__(self, values: Mapping[str, Any]):
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"the configuration has no {name!r}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        """One setting per line; the settings of a nested table come below its name."""
        return "\n".join(setting_lines(self))


class DescriptionMixin:
    """Access to a pipeline's parts and settings.

    Attributes:
        name_or_path: The path or name that from_pretrained read; None for a pipeline built from parts.
    """

    name_or_path: str | None = None
    conditioning: Conditioning
    transformer: Any
    sampling: Sampling
    saved_sampling: Any
    class_names: list[str]
    weaker: Any

    @property
    def components(self) -> dict[str, Any]:
        """The parts, by the names that LattePipeline(**components) takes, without `sampling`.

        The weaker model is included only if there is one.
        """
        names = (*self.conditioning.components, *([] if self.weaker is None else [WEAKER]))
        return {name: getattr(self, name) for name in names}

    @property
    def config(self) -> Mapping[str, Any]:
        """The pipeline's read-only configuration: its class, where it was read from, (module, class) or None for each
        part, and the settings of each part that has any, under the part's name plus "_config"."""
        parts = {name: part for name, part in self.components.items() if name != "class_names"}
        kinds = {name: None if part is None else kind_of(part) for name, part in parts.items()}
        settings = {f"{name}_config": table for name, part in parts.items() if (table := settings_of(part))}
        own = {"_class_name": type(self).__name__, "_name_or_path": self.name_or_path, **kinds, **settings}
        return ConfigTable(own | {"class_names": tuple(self.class_names), "sampling": asdict(self.saved_sampling)})

    def __repr__(self) -> str:
        """One line for the pipeline, and one for each part."""
        of = f" of {self.name_or_path}" if self.name_or_path else ""
        lines = [f"{type(self).__name__}{of}, for {self.conditioning.describe(self.transformer)}"]
        for name, part in self.components.items():
            lines.append(f"  {name}: {described(part)}")
        guidance = ", ".join(f"{name} {value}" for name, value in self.saved_sampling.guidance.settings.items())
        lines.append(f"  defaults of a call: {self.sampling.num_inference_steps} steps, {guidance}")
        return "\n".join(lines)


def setting_lines(table: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Yield one line per setting; the settings of a nested table come below its name."""
    for name, value in table.items():
        inner = value if isinstance(value, dict) else {}
        yield f"{indent}{name}:" if inner else f"{indent}{name}: {value!r}"
        yield from setting_lines(inner, f"{indent}  ")


def kind_of(part: Any) -> tuple[str, str]:
    """(module, class) of a part, also if torch.compile has wrapped it."""
    kind = type(getattr(part, "_orig_mod", part))
    return kind.__module__, kind.__name__


def settings_of(part: Any) -> dict[str, Any]:
    """The settings of a network or a scheduler as a table; empty if it has none."""
    config = getattr(part, "config", None)
    return dict(config) if isinstance(config, Mapping) else asdict(config) if config is not None else {}


def described(part: Any) -> str:
    """A part in words: its class, and the size, precision and place of its weights."""
    if part is None or part == []:
        return "none"
    if isinstance(part, list):
        shown = ", ".join(part[:8])
        return shown if len(part) <= 8 else f"{shown} and {len(part) - 8} more"
    name = kind_of(part)[1]
    if not isinstance(part, nn.Module):
        sampler = getattr(part, "sampler", None)
        return f"{name}, {sampler}" if sampler else f"{name}, {len(part)} pieces"
    first = next(part.parameters())
    count = sum(weight.numel() for weight in part.parameters()) + sum(
        buffer.numel() for buffer in part.buffers() if not buffer.is_floating_point()
    )
    dtype = str(first.dtype).removeprefix("torch.")
    return f"{name}, {count / 1e6:.2f} M parameters, {dtype} on {first.device}"
