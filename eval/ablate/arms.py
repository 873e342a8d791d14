"""The parts of an ablation: arms, each a departure from a base, and claims about them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from latte.models.latte import LatteConfig
from latte.train.base_config import TrainConfig

EACH = object()  # in an arm of a sweep: the value that is swept over
OfBase = Callable[[TrainConfig], Any]  # in an arm: a value that follows from the base's settings


@dataclass(frozen=True)
class Arm:
    """How one side of a comparison departs from the base."""

    train: dict | object = field(default_factory=dict)  # settings of the training; EACH: those of the sweep's value
    sample: dict = field(default_factory=dict)  # arguments of the pipeline's call
    from_images: bool = False  # whether training starts from the weights of the scale's image model
    average: float = 0.0  # the length of the average that is sampled; 0: of the one that every run keeps


@dataclass(frozen=True)
class Sweep:
    """Arms and claims that an ablation repeats for each of several values, which depend on the scale.

    In labels, {} is replaced by the value; in settings, EACH is.
    """

    over: str  # which values: a key of `swept_values`
    arms: dict[str, Arm] = field(default_factory=dict)
    claims: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Ablation:
    """A comparison."""

    title: str
    finding: str = ""  # of the paper; empty: the paper has no such comparison, and it only runs if it is named
    arms: dict[str, Arm] = field(default_factory=dict)
    claims: tuple[tuple[str, str], ...] = ()  # pairs of arms, the better one first
    sweeps: tuple[Sweep, ...] = ()  # further arms and claims, which `ablations` expands
    note: str = ""  # what a reader of the results should know
    data_differs: bool = False  # whether arms are trained on different clips, so that their losses do not compare
    recipe_differs: bool = False  # or have different losses and numbers of steps, so that their costs matter

    @property
    def trains(self) -> bool:
        """Whether the arms differ in training, and not only in sampling."""
        return any(arm.train or arm.from_images for arm in self.arms.values())

    @property
    def losses_compare(self) -> bool:
        return not self.data_differs and not self.recipe_differs


def model_of(base: TrainConfig) -> LatteConfig:
    """The network configuration given by a base's settings."""
    return LatteConfig.from_dict(base.model)


def together(*arms: Arm) -> Arm:
    """The arm that combines the departures of several arms from the base."""
    train = {name: value for arm in arms for name, value in arm.train.items()}
    sample = {name: value for arm in arms for name, value in arm.sample.items()}
    return Arm(train, sample, any(arm.from_images for arm in arms), max((arm.average for arm in arms), default=0.0))
