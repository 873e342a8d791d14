"""How a model is guided where a call does not say: as its folder's sampling.json asks, or as usual for its kind."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from latte.files import read_json, write_json
from latte.tensors import naming

SAMPLING = "sampling.json"


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance: its scale, and the timesteps, both included, between which it guides (None: all)."""

    scale: float
    interval: tuple[float, float] | None = None

    def __post_init__(self):
        if type(self.scale) not in (int, float) or not math.isfinite(self.scale):
            raise ValueError(f"guidance_scale is {self.scale!r}; it must be a finite number")
        if self.interval is None:
            return
        ends = self.interval if isinstance(self.interval, list | tuple) else ()
        if len(ends) != 2 or not all(type(end) in (int, float) for end in ends) or not ends[0] <= ends[1]:
            raise ValueError(f"guidance_interval is {self.interval!r}; it must be two timesteps, the lower one first")
        object.__setattr__(self, "interval", tuple(ends))

    def asked(self, scale: float | None, interval: tuple[float, float] | None) -> "Guidance":
        """With what a call names in place of its own. ValueError: no numbers, or an interval of no guidance."""
        scale = self.scale if scale is None else scale
        if interval is not None and scale == 1:
            raise ValueError("guidance_interval does nothing with guidance_scale 1, which does not guide")
        return Guidance(scale, self.interval if interval is None else interval)


def check_interval(interval: tuple[float, float] | None, timesteps: Iterable[float]) -> None:
    """ValueError: none of a call's timesteps lies in the interval that it names."""
    if interval is not None and not any(interval[0] <= t <= interval[1] for t in timesteps):
        low, high = interval
        raise ValueError(f"guidance_interval {low:g} to {high:g} holds none of the timesteps, which are 0 to 999")


def load_guidance(folder: Path, usual: float) -> Guidance:
    """What a folder's sampling.json asks for; the usual scale without one. CheckpointError: it makes no sense."""
    path = folder / SAMPLING
    if not path.is_file():
        return Guidance(usual)
    with naming(path):
        values = read_json(path)
        return Guidance(values.get("guidance_scale"), values.get("guidance_interval"))


def save_guidance(guidance: Guidance, folder: Path) -> None:
    """Write a sampling.json that load_guidance reads."""
    values = {"guidance_scale": guidance.scale}
    write_json(folder / SAMPLING, values | ({"guidance_interval": guidance.interval} if guidance.interval else {}))
