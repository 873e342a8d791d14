"""The scheduler: which sampler runs over which timesteps. Published scheduler_config.json files are read too."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latte.arguments import TRAINING_STEPS, check_choice, check_count, is_whole
from latte.diffusion.samplers import SAMPLERS, NoisePredictor, StepNoise
from latte.diffusion.schedule import SPACINGS, Schedule, flow_schedule, linear_schedule, respace, spaced_timesteps
from latte.diffusion.solvers import SOLVERS
from latte.models.network_config import check_fields, known_fields, shown

ALL = {**SAMPLERS, **SOLVERS}
IN_SIGMA = ("euler", "euler_ancestral", "heun", "kdpm2_ancestral")  # these start at the std of their first noise level
STRIDING = ("ddim", "pndm")  # these know set_alpha_to_one and fixed_stride
MULTISTEP = ("dpm_multistep", "dpm_singlestep", "deis")  # these leave out the lowest of count + 1 timesteps
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
# diffusers' classes whose default spacing is "linspace"
LINSPACE = {kind for kind in PUBLISHED if kind not in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")}
FIXED = {  # entries of a published configuration, and the values that are supported
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


@dataclass(frozen=True)
class Scheduler:
    """A sampler and the timesteps that it visits.

    Attributes:
        sampler: A name of latte.scheduler.ALL.
        timestep_spacing: "even", "leading", "trailing" or "linspace": see latte.diffusion.schedule.spaced_timesteps.
        steps_offset: Added to "leading" timesteps.
        set_alpha_to_one: "ddim" and "pndm" end without noise. If False, they end at the noise level of timestep 0, as
            "deis" always does.
        fixed_stride: As in diffusers, a step of "ddim" or "pndm" goes down by num_train_timesteps // steps timesteps,
            which may not be where the next step begins; with False, it goes to where the next step begins. It does not
            apply to "even" spacing, to a flow, or to timesteps that are given one by one.
        last_noise: "ddpm" with a learned variance adds noise in its last step too, if that begins above timestep 0, as
            diffusers does. The original Latte adds none.
        num_train_timesteps: Length of the training schedule.
        beta_start: First beta of the training schedule.
        beta_end: Last beta of the training schedule.
        flow: The noise levels are those of flow matching (latte.diffusion.schedule.flow_schedule) in place of linear
            betas: for a network that predicts "flow". "ddim" and "euler" are then Euler's method on the linear path.
        shift: With a flow, the timestep shift (Esser et al. 2024, arXiv 2403.03206, eq. 23) of evenly spaced timesteps:
            a shift above 1 moves more of them to high noise, as larger videos need. It does not apply to timesteps
            given one by one.

    Raises:
        ValueError: There is no such sampler or spacing, a number is out of range, or a setting does nothing.
    """

    sampler: str = "ddim"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    fixed_stride: bool = True
    last_noise: bool = False
    num_train_timesteps: int = TRAINING_STEPS
    beta_start: float = 1e-4
    beta_end: float = 0.02
    flow: bool = False
    shift: float = 1.0

    def __post_init__(self) -> None:
        check_choice("sampler", self.sampler, tuple(ALL))
        check_choice("timestep_spacing", self.timestep_spacing, SPACINGS)
        if not 1 <= self.num_train_timesteps <= 1_000_000:
            raise ValueError(f"num_train_timesteps is {self.num_train_timesteps}; it must be from 1 to 1000000")
        if not self.flow and self.shift != 1:
            raise ValueError(f"shift {self.shift:g} does nothing without flow=True: leave it at 1")
        if self.flow and (self.beta_start, self.beta_end) != (Scheduler.beta_start, Scheduler.beta_end):
            raise ValueError("beta_start and beta_end do nothing with flow=True: leave them out")
        if not 0 < self.shift <= 1000:
            raise ValueError(f"shift is {self.shift:g}; it must be above 0 and at most 1000")
        self.training_schedule()

    @property
    def config(self) -> dict[str, Any]:
        """The settings as a table, which from_config reads; those of a flow only if there is one."""
        values = asdict(self)
        return values if self.flow else {name: value for name, value in values.items() if name not in ("flow", "shift")}

    @classmethod
    def from_config(cls, config: dict[str, Any], sampler: str | None = None) -> "Scheduler":
        """Make a scheduler from another one's `config` or from a published scheduler_config.json.

        Samplers that use a learned variance use the network's, whatever the published variance_type says.

        Args:
            config: A table of settings.
            sampler: Name of the sampler to use in place of the configured one.

        Raises:
            ValueError: The configuration asks for something that is not supported.
        """
        scheduler = cls(**(check_fields(cls, config) if "sampler" in config else published_values(config, sampler)))
        if sampler is None or sampler == scheduler.sampler:
            return scheduler
        # diffusers' single-step solver knows no other spacing than this one
        linspace = sampler == "dpm_singlestep" and scheduler.timestep_spacing != "even" and not scheduler.flow
        spacing = "linspace" if linspace else scheduler.timestep_spacing
        return replace(scheduler, sampler=sampler, timestep_spacing=spacing)

    def training_schedule(self) -> Schedule:
        """The schedule that the network was trained on."""
        if self.flow:
            return flow_schedule(self.num_train_timesteps)
        return linear_schedule(self.num_train_timesteps, self.beta_start, self.beta_end)

    def schedule(self, num_inference_steps: int | str, timesteps: Sequence[float] | None = None) -> Schedule:
        """The schedule that sampling runs over.

        Args:
            num_inference_steps: How many steps, or, with the spacing "even", a respacing string such as "ddim50".
            timesteps: Decreasing timesteps, in place of num_inference_steps.

        Raises:
            ValueError: There are too few timesteps, or the given ones do not decrease or are outside of the training
                schedule.
        """
        training, count, stride = self.training_schedule(), self.num_train_timesteps, 0
        if timesteps is None:
            multistep = self.sampler in MULTISTEP and self.timestep_spacing in ("leading", "linspace")
            spacing = (self.timestep_spacing, count, self.steps_offset, multistep)
            if self.timestep_spacing != "even" or is_whole(num_inference_steps):
                steps = int(num_inference_steps) if is_whole(num_inference_steps) else num_inference_steps
                check_count("num_inference_steps", steps, count - multistep)
            rising = spaced_timesteps(num_inference_steps, *spacing)
            rising = rising if self.sampler in IN_SIGMA else rising.round()
            stride = self.stride(rising)
            rising = self.shifted(rising)
        else:
            if not isinstance(timesteps, Iterable):
                raise ValueError(f"timesteps is {timesteps!r}; it must be a list of decreasing timesteps")
            rising = torch.tensor(list(timesteps), dtype=torch.float64).flip(0)
            inside = len(rising) > 0 and rising[0] >= 0 and rising[-1] <= count - 1
            if not inside or not (rising.diff() > 0).all():
                raise ValueError(f"timesteps must decrease strictly, from at most {count - 1} to 0: {timesteps}")
        ends_noisy = self.sampler == "deis" or (self.sampler in STRIDING and not self.set_alpha_to_one)
        return respace(training, rising, float(training.alphas_cumprod[0]) if ends_noisy else 1.0, stride)

    def stride(self, rising: Tensor) -> int:
        """How many timesteps each step goes down (see fixed_stride); 0 if it ends where the next step begins."""
        if not self.fixed_stride or self.flow or self.sampler not in STRIDING or self.timestep_spacing == "even":
            return 0
        stride = self.num_train_timesteps // len(rising)
        return 0 if (rising.diff() == stride).all() and rising[0] < stride else stride

    def shifted(self, rising: Tensor) -> Tensor:
        """Rising timesteps (n,) after the shift; raises ValueError if some of them then coincide."""
        if self.shift == 1:
            return rising
        shifted = flow_schedule(self.num_train_timesteps).shifted(rising, self.shift)
        if not (shifted.diff() > 0).all():
            raise ValueError(
                f"shift {self.shift:g} of {len(rising)} timesteps makes some of them equal: take fewer steps"
            )
        return shifted

    def start(self, noise: Tensor, schedule: Schedule) -> Tensor:
        """The latents (b, f, c, h, w) that sampling starts from, made from standard normal noise of that shape."""
        scaled = self.sampler in IN_SIGMA and self.timestep_spacing in ("trailing", "linspace")
        return noise * float(1 - schedule.alphas_cumprod[-1]) ** 0.5 if scaled else noise

    def run(
        self, denoise: NoisePredictor, x: Tensor, schedule: Schedule, noise: StepNoise, eta: float = 0.0
    ) -> Iterator[Tensor]:
        """The sampler's generator, which yields x (b, f, c, h, w) after every step: see latte.diffusion.samplers."""
        options: dict[str, dict[str, Any]] = {"ddim": {"eta": eta}, "ddpm": {"last_noise": self.last_noise}}
        return ALL[self.sampler](denoise, x, schedule, noise, **options.get(self.sampler, {}))


def usual_scheduler(prediction: str, timestep_spacing: str = "leading") -> Scheduler:
    """The scheduler of a network that comes without one.

    Args:
        prediction: What the network predicts: "eps", "v" or "flow".
        timestep_spacing: The spacing if the network predicts no flow; for a flow it is "trailing", equal steps down
            from 1.
    """
    flow = prediction == "flow"
    return Scheduler(timestep_spacing="trailing", flow=True) if flow else Scheduler(timestep_spacing=timestep_spacing)


def check_scheduler(scheduler: Scheduler, prediction: str) -> None:
    """Raise ValueError if a scheduler's noise levels are not those that a network of this prediction was trained on."""
    needed = prediction == "flow"
    if scheduler.flow != needed:
        raise ValueError(f"a network that predicts {prediction!r} needs a scheduler with flow={needed}")


def published_values(config: dict[str, Any], sampler: str | None) -> dict[str, Any]:
    """Our settings from a published scheduler_config.json; `sampler` stands in for a class that is unknown here."""
    for name, supported in FIXED.items():
        if config.get(name, supported[0]) not in supported:
            raise ValueError(
                f"{name} is {shown(config[name])} in the scheduler's config; only {supported[0]!r} is supported"
            )
    published: Any = config.get("_class_name")
    if published not in PUBLISHED and sampler is None:
        raise ValueError(f"the scheduler's class is {shown(published)}; supported are {', '.join(PUBLISHED)}")
    values = {
        "timestep_spacing": "linspace" if published in LINSPACE else "leading",
        "set_alpha_to_one": published != "PNDMScheduler",
        **known_fields(Scheduler, config),
        "sampler": PUBLISHED.get(published, "ddim"),
    }
    return check_fields(Scheduler, values)
