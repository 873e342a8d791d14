"""How a model is sampled where a call does not say: as its folder's sampling.json asks, or as usual for its kind."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from latte.files import read_json, write_json
from latte.weights.tensors import prefix_errors

SAMPLING_FILE = "sampling.json"
CLASS_GUIDANCE = 4.0  # scale where neither a call nor the model's folder names one
TEXT_GUIDANCE = 7.5  # the same for text-to-video: Latte-1's


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


@dataclass(frozen=True)
class Sampling:
    """What a call takes where it does not say."""

    guidance: Guidance
    num_inference_steps: int = 50
    eta: float = 0.0  # of ddim

    def __post_init__(self):
        steps, eta = self.num_inference_steps, self.eta
        if type(steps) is not int or not 1 <= steps <= 1000:
            raise ValueError(f"num_inference_steps is {steps!r}; it must be a whole number in 1 to 1000")
        if type(eta) not in (int, float) or not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta!r}; it must be in 0 to 1")

    def eta_of(self, sampler: str, asked: float | None) -> float:
        """What a call asks for, or else its own, which is ddim's alone."""
        return asked if asked is not None else self.eta if sampler == "ddim" else 0.0


def load_sampling(folder: Path, usual: float) -> Sampling:
    """What a folder's sampling.json asks for; the usual scale without one. CheckpointError: it makes no sense."""
    path = folder / SAMPLING_FILE
    if not path.is_file():
        return Sampling(Guidance(usual))
    with prefix_errors(path):
        values = read_json(path)
        guidance = Guidance(values.pop("guidance_scale", usual), values.pop("guidance_interval", None))
        if unknown := values.keys() - {"num_inference_steps", "eta"}:
            raise ValueError(f"{min(unknown)!r} is nothing that a model is sampled by")
        return Sampling(guidance, **values)


def save_sampling(sampling: Sampling, folder: Path) -> None:
    """Write a sampling.json that load_sampling reads."""
    interval = sampling.guidance.interval
    values = {"guidance_scale": sampling.guidance.scale} | ({"guidance_interval": interval} if interval else {})
    write_json(
        folder / SAMPLING_FILE, values | {"num_inference_steps": sampling.num_inference_steps, "eta": sampling.eta}
    )
