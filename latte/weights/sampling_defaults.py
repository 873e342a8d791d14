"""Sampling settings that apply when a call does not give them: from a model's sampling.json, or usual for its kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latte.files import read_json, write_json
from latte.models.latte import LatteConfig
from latte.models.network_config import shown
from latte.weights.tensors import prefix_errors

SAMPLING_FILE = "sampling.json"
TEXT_GUIDANCE = 7.5  # guidance scale of text-to-video models, as in Latte-1's configuration
CLASS_GUIDANCE = 4.0  # of class-conditional models that know guidance


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598), optionally within an interval of timesteps.

    Attributes:
        scale: The guidance scale; 1 means no guidance.
        interval: The lowest and the highest timestep at which to guide, both included, as in Kynkäänniemi et al. 2024
            (arXiv 2404.07724); None means all timesteps.
    """

    scale: float
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if type(self.scale) not in (int, float) or not -1e300 < self.scale < 1e300:
            raise ValueError(f"guidance_scale is {shown(self.scale)}; it must be a finite number")
        if self.interval is None:
            return
        ends = self.interval if isinstance(self.interval, list | tuple) else ()
        if len(ends) != 2 or not all(type(end) in (int, float) for end in ends) or not ends[0] <= ends[1]:
            interval = shown(self.interval)
            raise ValueError(f"guidance_interval is {interval}; it must be two timesteps, the lower one first")
        object.__setattr__(self, "interval", tuple(ends))

    def asked(self, scale: float | None, interval: tuple[float, float] | None) -> "Guidance":
        """Return the guidance of a call: its arguments, or these settings where an argument is None.

        Raises:
            ValueError: A value is not valid, or the call gives an interval without guidance.
        """
        scale = self.scale if scale is None else scale
        if interval is not None and scale == 1:
            raise ValueError("guidance_interval does nothing with guidance_scale 1, which does not guide")
        return Guidance(scale, self.interval if interval is None else interval)


def check_interval(interval: tuple[float, float], timesteps: Sequence[float]) -> None:
    """Raise ValueError if none of the timesteps that sampling visits lies in the interval."""
    if not any(interval[0] <= t <= interval[1] for t in timesteps):
        low, high = interval
        visited = f"the {len(timesteps)} timesteps that are visited, {max(timesteps):g} to {min(timesteps):g}"
        raise ValueError(f"guidance_interval {low:g} to {high:g} holds none of {visited}: widen it or take more steps")


@dataclass(frozen=True)
class Sampling:
    """Default arguments of a call to a pipeline.

    Attributes:
        guidance: The guidance scale and interval.
        num_inference_steps: The number of denoising steps, 1 to 1000.
        eta: Noise of the DDIM sampler (Song et al. 2020, arXiv 2010.02502, eq. 16), in [0, 1]; others have none.
    """

    guidance: Guidance
    num_inference_steps: int = 50
    eta: float = 0.0

    def __post_init__(self) -> None:
        steps, eta = self.num_inference_steps, self.eta
        if type(steps) is not int or not 1 <= steps <= 1000:
            raise ValueError(f"num_inference_steps is {shown(steps)}; it must be a whole number in 1 to 1000")
        if type(eta) not in (int, float) or not 0 <= eta <= 1:
            raise ValueError(f"eta is {shown(eta)}; it must be in 0 to 1")

    def eta_of(self, sampler: str, asked: float | None) -> float:
        """Return the eta of a call: what it asks for, or the default, which is 0 for any sampler but ddim."""
        return asked if asked is not None else self.eta if sampler == "ddim" else 0.0


def usual_guidance(config: LatteConfig) -> float:
    """The guidance scale of a Latte whose folder does not name one."""
    return CLASS_GUIDANCE if config.num_classes and config.class_dropout_prob else 1.0


def load_sampling(folder: Path, usual: float) -> Sampling:
    """Read the sampling.json of a folder, as read_sampling does; without one, the defaults apply."""
    return read_sampling(folder, usual) or Sampling(Guidance(usual))


def read_sampling(folder: Path, usual: float) -> Sampling | None:
    """Read the sampling.json of a folder.

    Args:
        folder: A model's folder.
        usual: The guidance scale if the file does not give one.

    Returns:
        The defaults, or None if there is no such file.

    Raises:
        CheckpointError: The file has an unknown key or a value that is not valid.
    """
    path = folder / SAMPLING_FILE
    if not path.is_file():
        return None
    with prefix_errors(path):
        values = read_json(path)
        guidance = Guidance(values.pop("guidance_scale", usual), values.pop("guidance_interval", None))
        if unknown := values.keys() - {"num_inference_steps", "eta"}:
            known = "guidance_scale, guidance_interval, num_inference_steps, eta"
            raise ValueError(f"unknown key {shown(min(unknown))}; the keys are {known}")
        return Sampling(guidance, **values)


def save_sampling(sampling: Sampling, folder: Path) -> None:
    """Write a sampling.json that load_sampling reads."""
    interval = sampling.guidance.interval
    values = {"guidance_scale": sampling.guidance.scale} | ({"guidance_interval": interval} if interval else {})
    write_json(
        folder / SAMPLING_FILE, values | {"num_inference_steps": sampling.num_inference_steps, "eta": sampling.eta}
    )
