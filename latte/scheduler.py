"""How a pipeline samples: which sampler, over which timesteps; read from a published scheduler_config.json too."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from latte.diffusion.samplers import SAMPLERS
from latte.diffusion.schedule import Schedule, at_timesteps, linear_schedule, spaced
from latte.diffusion.solvers import SOLVERS
from latte.models.fields import check_fields

ALL = {**SAMPLERS, **SOLVERS}
IN_SIGMA = ("euler", "euler_ancestral", "heun", "kdpm2_ancestral")  # these begin at the deviation of their first level
BETWEEN = ("dpm_multistep", "dpm_singlestep", "deis")  # these leave out the lowest of count + 1 timesteps
PUBLISHED = {  # diffusers' class: ours
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DPMSolverMultistepScheduler": "dpm_multistep",
    "DPMSolverSinglestepScheduler": "dpm_singlestep",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral",
    "HeunDiscreteScheduler": "heun",
    "KDPM2AncestralDiscreteScheduler": "kdpm2_ancestral",
    "PNDMScheduler": "pndm",
    "DEISMultistepScheduler": "deis",
}
LINSPACE = {kind for kind in PUBLISHED if kind not in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")}  # by default
FIXED = {  # entries of a published configuration that ask for what is not done here, unless they say one of these
    "beta_schedule": ("linear",),
    "prediction_type": ("epsilon",),
    "trained_betas": (None,),
    "clip_sample": (False,),
    "thresholding": (False,),
    "rescale_betas_zero_snr": (False,),
    "use_karras_sigmas": (False,),
    "use_exponential_sigmas": (False,),
    "use_beta_sigmas": (False,),
    "use_flow_sigmas": (False, None),
    "use_lu_lambdas": (False,),
    "solver_order": (2,),
    "algorithm_type": ("dpmsolver++", "deis"),
    "solver_type": ("midpoint", "logrho"),
    "final_sigmas_type": ("zero",),
    "interpolation_type": ("linear",),
    "skip_prk_steps": (True,),
}
SPACINGS = ("leading", "trailing", "linspace")


@dataclass(frozen=True)
class Scheduler:
    """A sampler and its timesteps. ValueError: no such sampler, spacing or number."""

    sampler: str = "ddim"
    timestep_spacing: str = "leading"
    steps_offset: int = 0  # added to "leading" timesteps
    set_alpha_to_one: bool = True  # ddim and pndm end without noise; False: at the level of timestep 0
    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self):
        choices = {"sampler": tuple(ALL), "timestep_spacing": SPACINGS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not one of {', '.join(allowed)}")
        if not 1 <= self.num_train_timesteps <= 1_000_000:
            raise ValueError(f"num_train_timesteps is {self.num_train_timesteps}; it must be in 1 to 1000000")
        linear_schedule(self.num_train_timesteps, self.beta_start, self.beta_end)

    @property
    def config(self) -> dict:
        """Its settings, for from_config."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: dict, sampler: str | None = None) -> "Scheduler":
        """Out of another's `config` or a published scheduler_config.json; `sampler` takes the place of its own.

        The network's learned variance is used by every sampler that has a use for it, whatever variance_type says.
        ValueError: it asks for what this does not do.
        """
        if "sampler" in config:
            values = check_fields(cls, config)
        else:
            for name, only in FIXED.items():
                if config.get(name, only[0]) not in only:
                    raise ValueError(f"{name} is {config[name]!r} in the scheduler's config; here it is {only[0]!r}")
            kind = config.get("_class_name")
            if kind not in PUBLISHED and sampler is None:
                raise ValueError(f"the scheduler's class is {kind!r}; known are {', '.join(PUBLISHED)}")
            names = cls.__dataclass_fields__.keys() - {"sampler"}
            spacing = "linspace" if kind in LINSPACE else "leading"
            default = {"timestep_spacing": spacing, "set_alpha_to_one": kind != "PNDMScheduler"}
            values = {**default, **{name: value for name, value in config.items() if name in names}}
            values = check_fields(cls, {**values, "sampler": PUBLISHED.get(kind, "ddim")})
        scheduler = cls(**values)
        if sampler is None or sampler == scheduler.sampler:
            return scheduler
        # diffusers' single-step solver knows no spacing but this
        other = {"timestep_spacing": "linspace"} if sampler == "dpm_singlestep" else {}
        return replace(scheduler, sampler=sampler, **other)

    def whole(self) -> Schedule:
        """The chain that the network was trained on."""
        return linear_schedule(self.num_train_timesteps, self.beta_start, self.beta_end)

    def schedule(self, count: int, timesteps: Sequence[float] | None = None) -> Schedule:
        """The chain over `count` timesteps, or over given ones, from high to low. ValueError: there are not such."""
        whole, count_all = self.whole(), self.num_train_timesteps
        if timesteps is None:
            between = self.sampler in BETWEEN and self.timestep_spacing != "trailing"
            rising = spaced(count, self.timestep_spacing, count_all, self.steps_offset, between)
            rising = rising if self.sampler in IN_SIGMA else rising.round()
        else:
            rising = torch.tensor(list(timesteps), dtype=torch.float64).flip(0)
            inside = len(rising) > 0 and rising[0] >= 0 and rising[-1] <= count_all - 1
            if not inside or not (rising.diff() > 0).all():
                raise ValueError(f"timesteps must fall, without repetition, within {count_all - 1} to 0: {timesteps}")
        ends_noisy = self.sampler in ("ddim", "pndm") and not self.set_alpha_to_one
        return at_timesteps(whole, rising, float(whole.alphas_cumprod[0]) if ends_noisy else 1.0)

    def start(self, noise: Tensor, schedule: Schedule) -> Tensor:
        """The first x out of unit noise."""
        scaled = self.sampler in IN_SIGMA and self.timestep_spacing != "leading"
        return noise * float(1 - schedule.alphas_cumprod[-1]) ** 0.5 if scaled else noise

    def run(self, denoise: Callable, x: Tensor, schedule: Schedule, noise: Callable, eta: float = 0.0):
        """The sampler's generator of x after every step; eta is ddim's."""
        return ALL[self.sampler](denoise, x, schedule, noise, **({"eta": eta} if self.sampler == "ddim" else {}))
