"""The settings of sampling: guidance, the number of steps, and the noise. Nothing here loads PyTorch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latte.arguments import check_choice, check_timesteps
from latte.diffusion.guidance_options import SHAPES, check_method
from latte.models.network_config import shown


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598), or a method of latte.diffusion.guidance_methods.

    Attributes:
        scale: The guidance scale; 1 means no guidance. For "cfg++", it goes from 0 (unconditional) to 1 (conditional).
        interval: The lowest and the highest timestep at which to guide, both included, as in Kynkäänniemi et al. 2024
            (arXiv 2404.07724); None means all timesteps.
        method: "cfg", "apg", "cfg-zero" or "cfg++".
        options: Options of the method, by name; missing ones have the defaults of
            latte.diffusion.guidance_options.OPTIONS.
        schedule: How the scale depends on the timestep: "constant", "linear", "cosine" or "beta".
        autoguidance_scale: The scale of autoguidance (latte.autoguidance), which replaces classifier-free guidance in a
            pipeline with a weaker model. None takes `scale`.
    """

    scale: float
    interval: tuple[float, float] | None = None
    method: str = "cfg"
    options: Mapping[str, float] = field(default_factory=dict)
    schedule: str = "constant"
    autoguidance_scale: float | None = None

    def __post_init__(self) -> None:
        scales = {"guidance_scale": self.scale}
        if self.autoguidance_scale is not None:
            scales["autoguidance_scale"] = self.autoguidance_scale
        for name, scale in scales.items():
            if type(scale) not in (int, float) or not -1e300 < scale < 1e300:
                raise ValueError(f"{name} is {shown(scale)}; it must be a finite number")
            if self.method == "cfg++" and not 0 <= scale <= 1:
                raise ValueError(f"{name} is {scale:g}; with guidance_method cfg++ it must be from 0 to 1")
        check_choice("guidance_schedule", self.schedule, tuple(SHAPES))
        if not isinstance(self.options, Mapping):
            raise ValueError(f"guidance_options is {shown(self.options)}; it must be a table of names and numbers")
        check_method(self.method, self.options)
        if self.method == "cfg++" and self.schedule != "constant":
            raise ValueError(f"guidance_schedule {self.schedule} does nothing with cfg++, which has one of its own")
        if self.interval is None:
            return
        check_timesteps("guidance_interval", self.interval)
        object.__setattr__(self, "interval", tuple(self.interval))

    @property
    def strength(self) -> float:
        """In a call: the effective scale, which is that of autoguidance if it is set."""
        return self.scale if self.autoguidance_scale is None else self.autoguidance_scale

    @property
    def guides(self) -> bool:
        """In a call: whether the result differs from the conditional model's."""
        return self.strength != 1 or self.method == "cfg++"

    @property
    def said(self) -> str:
        """In a call: the effective scale, with its name."""
        return f"{WORDS[0] if self.autoguidance_scale is None else WORDS[-1]} {self.strength:g}"

    def asked(
        self, scale: float | None = None, interval: tuple[float, float] | None = None, method: str | None = None,
        options: Mapping[str, float] | None = None, schedule: str | None = None,
        autoguidance_scale: float | None = None, away: bool = False,
    ) -> "Guidance":  # fmt: skip
        """Return the guidance of a call: its arguments, or these settings where an argument is None.

        Args:
            scale, interval, method, options, schedule, autoguidance_scale: Arguments of the call.
            away: Whether the pipeline has a weaker model to guide away from. If autoguidance has its own scale, there
                is no classifier-free guidance, and `scale` is 1.

        Raises:
            ValueError: A value is not valid, or the call gives settings of guidance but no guidance.
        """
        if autoguidance_scale is not None and not away:
            raise ValueError("autoguidance_scale does nothing without a weaker model: set one with enable_autoguidance")
        own_scale = self.autoguidance_scale if autoguidance_scale is None else autoguidance_scale
        if away and own_scale is not None:
            if scale not in (None, 1):
                raise ValueError(
                    f"guidance_scale {scale} is for classifier-free guidance, but this model is guided away from a "
                    "weaker one: set autoguidance_scale, or leave the weaker one out (weaker=None, --autoguidance none)"
                )
            scale = 1.0
        kept = self.options if method in (None, self.method) else {}
        values = (scale, interval, method, kept if options is None else options, schedule)
        mine = (self.scale, self.interval, self.method, self.options, self.schedule)
        merged = (own if value is None else value for value, own in zip(values, mine))
        guidance = Guidance(*merged, autoguidance_scale=own_scale if away else None)
        given = set_words(interval, method, options, schedule)
        if given and not guidance.guides:
            raise ValueError(f"{given[0]} does nothing with {guidance.said}, which does not guide")
        return guidance

    def asked_in(self, settings: Mapping[str, Any], away: bool = False) -> "Guidance":
        """Return the guidance of a call, given its arguments by name; unrelated ones are ignored."""
        return self.asked(*(settings.get(name) for name in WORDS), away=away)

    @property
    def settings(self) -> dict[str, Any]:
        """As arguments of a call and entries of sampling.json: the scale, and every setting that is not the default."""
        how = (self.interval, self.method, dict(self.options), self.schedule, self.autoguidance_scale)
        values = zip(WORDS, (self.scale, *how))
        return {name: value for name, value in values if name == WORDS[0] or value not in (None, "cfg", {}, "constant")}


WORDS = ("guidance_scale", "guidance_interval", "guidance_method", "guidance_options", "guidance_schedule")
WORDS += ("autoguidance_scale",)


def set_words(
    interval: tuple[float, float] | None, method: str | None, options: Mapping | None, schedule: str | None
) -> list[str]:
    """The names of those settings of guidance besides its scale that are given and change something."""
    values = zip(WORDS[1:], (interval, method, options, schedule))
    return [name for name, value in values if value not in (None, "cfg", {}, "constant")]


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
        guidance: How calls are guided.
        num_inference_steps: The number of denoising steps, 1 to 1000.
        eta: Noise of the DDIM sampler (Song et al. 2020, arXiv 2010.02502, eq. 16), in [0, 1]; other samplers have
            none.
    """

    guidance: Guidance
    num_inference_steps: int = 50
    eta: float = 0.0

    def __post_init__(self) -> None:
        steps, eta = self.num_inference_steps, self.eta
        if type(steps) is not int or not 1 <= steps <= 1000:
            raise ValueError(f"num_inference_steps is {shown(steps)}; it must be a whole number from 1 to 1000")
        if type(eta) not in (int, float) or not 0 <= eta <= 1:
            raise ValueError(f"eta is {shown(eta)}; it must be from 0 to 1")

    @property
    def settings(self) -> dict[str, Any]:
        """As arguments of a call and entries of sampling.json."""
        return self.guidance.settings | {"num_inference_steps": self.num_inference_steps, "eta": self.eta}

    def eta_of(self, sampler: str, asked: float | None) -> float:
        """Return the eta of a call: what it asks for, or the default, which is 0 for any sampler but ddim."""
        return asked if asked is not None else self.eta if sampler == "ddim" else 0.0


def sampling_of(values: Mapping[str, Any], usual: float) -> Sampling:
    """The defaults that the entries of a sampling.json say.

    Args:
        values: The entries.
        usual: The guidance scale if they do not give one.

    Raises:
        ValueError: A key is unknown, or a value is not valid.
    """
    given = {name.removeprefix("guidance_"): values[name] for name in WORDS if name in values}
    rest = {name: value for name, value in values.items() if name not in WORDS}
    if unknown := rest.keys() - {"num_inference_steps", "eta"}:
        known = ", ".join((*WORDS, "num_inference_steps", "eta"))
        raise ValueError(f"unknown key {shown(min(unknown))}; the keys are {known}")
    return Sampling(Guidance(**{"scale": usual, **given}), **rest)
