"""The settings on the `latte demo` page, and the call, command and Python program that make the same video."""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from latte.arguments import check_choice
from latte.pab import broadcast_options
from latte.pipeline import LattePipeline
from latte.plans.plan_file import plan_names
from latte.plans.records import LAYERS
from latte.plans.tracks import layers_of

NOTHING, BROADCAST = "nothing", "Pyramid Attention Broadcast"  # to reuse; else the name of a plan
EVERY_TIMESTEP = (0, 1000)  # between which guidance applies
USUAL_RANGES = {"spatial": 2, "temporal": 3, "cross": 6, "mlp": 1}  # the first three as Latte-1's in VideoSys
FPS = 8  # as in the files of `latte sample`
CALL_OPTIONS = {  # arguments of a call, and their names in `latte sample`
    "class_labels": "--classes",
    "prompt": "--prompt",
    "negative_prompt": "--negative-prompt",
    "num_inference_steps": "--steps",
    "guidance_scale": "--cfg-scale",
    "autoguidance_scale": "--autoguidance-scale",
    "guidance_interval": "--cfg-interval",
    "guidance_method": "--guidance-method",
    "sampler": "--sampler",
    "eta": "--eta",
    "seed": "--seed",
}


@dataclass(frozen=True)
class Opening:
    """How the models of a page are opened: arguments of LattePipeline.from_pretrained, and the device.

    Attributes:
        vae: Name or folder of the VAE; None means the model's own.
        dtype: Name of the weights' precision.
        device: Where they compute; None means the default device.
    """

    vae: str | None = None
    dtype: str = "float32"
    device: str | None = None

    @property
    def options(self) -> dict[str, str]:
        """The options that are not the default, by their names in `latte sample`."""
        given = {"--vae": self.vae, "--dtype": self.dtype, "--device": self.device}
        return {name: value for name, value in given.items() if value not in (None, "float32")}


@dataclass(frozen=True)
class Settings:
    """The settings of one video.

    Attributes:
        model: Its name or path.
        subject: The name or number of a class, or a prompt; empty for an unconditional model.
        negative_prompt: What to guide away from.
        sampler, steps, eta: See LattePipeline.__call__.
        guidance_scale, guidance_method, guidance_low, guidance_high: The same; guidance applies between two timesteps.
            The scale is autoguidance's for a model with a weaker one.
        reuse: NOTHING, BROADCAST, or the name of a plan in the model's folder.
        spatial, temporal, cross, mlp: Ranges of BROADCAST: such a layer computes once in this many evaluations.
        seed: The seed of the noise.

    Raises:
        ValueError: A setting was left empty.
    """

    model: str
    subject: str = ""
    negative_prompt: str = ""
    sampler: str = "ddim"
    steps: int = 50
    eta: float = 0.0
    guidance_scale: float = 1.0
    guidance_method: str = "cfg"
    guidance_low: float = EVERY_TIMESTEP[0]
    guidance_high: float = EVERY_TIMESTEP[1]
    reuse: str = NOTHING
    spatial: int = USUAL_RANGES["spatial"]
    temporal: int = USUAL_RANGES["temporal"]
    cross: int = USUAL_RANGES["cross"]
    mlp: int = USUAL_RANGES["mlp"]
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is None:
                raise ValueError(f"{field.name.replace('_', ' ')} is empty: set it")


@dataclass(frozen=True)
class Choices:
    """The possible settings for a model.

    Attributes:
        classes: Names or numbers of its classes; none for a text-to-video or an unconditional model.
        takes_prompts: Whether it is a text-to-video model.
        guides: Whether it supports guidance.
        kinds: The kinds of its layers.
        plans: Names of the plans in its folder.
        away: Whether it is guided away from a weaker model.
    """

    classes: tuple[str, ...]
    takes_prompts: bool
    guides: bool
    kinds: tuple[str, ...]
    plans: tuple[str, ...]
    away: bool = False

    @property
    def reuse(self) -> list[str]:
        """The choices of what to reuse."""
        return [NOTHING, BROADCAST, *self.plans]


def model_choices(pipe: LattePipeline) -> Choices:
    """The possible settings for an open model."""
    there = {kind for kind, _ in layers_of(pipe.transformer)}
    count = 0 if pipe.takes_prompts else pipe.transformer.config.num_classes
    classes = tuple(pipe.class_names) or tuple(map(str, range(count)))
    kinds, away = tuple(kind for kind in LAYERS if kind in there and kind in USUAL_RANGES), pipe.weaker is not None
    guides = pipe.takes_prompts or bool(count) or away
    return Choices(classes, pipe.takes_prompts, guides, kinds, plan_names(pipe.plan_folder), away)


def default_settings(pipe: LattePipeline, model: str) -> Settings:
    """The settings that a model's folder holds, with its first class, or with a caption of the built-in shapes."""
    own, guidance = pipe.sampling, pipe.asked_guidance({})
    low, high = guidance.interval or EVERY_TIMESTEP
    subject = "a red star moving left" if pipe.takes_prompts else next(iter(model_choices(pipe).classes), "")
    return Settings(
        model, subject, sampler=pipe.scheduler.sampler, steps=own.num_inference_steps, eta=own.eta,
        guidance_scale=guidance.strength, guidance_method=guidance.method, guidance_low=low, guidance_high=high,
    )  # fmt: skip


def call_words(pipe: LattePipeline, settings: Settings) -> dict[str, Any]:
    """The arguments of a call: what to show, the seed, and every setting that differs from the model's folder.

    Raises:
        ValueError: The prompt is empty.
    """
    own = default_settings(pipe, settings.model)
    differs = lambda *names: any(getattr(settings, name) != getattr(own, name) for name in names)
    words = subject_words(pipe, settings)
    if differs("steps"):
        words["num_inference_steps"] = settings.steps
    if differs("guidance_scale"):
        its_own = pipe.asked_guidance({}).autoguidance_scale is not None
        words["autoguidance_scale" if its_own else "guidance_scale"] = settings.guidance_scale
    words |= {name: getattr(settings, name) for name in ("guidance_method", "sampler") if differs(name)}
    if differs("guidance_low", "guidance_high"):
        words["guidance_interval"] = (settings.guidance_low, settings.guidance_high)
    if settings.sampler == "ddim" and differs("eta"):
        words["eta"] = settings.eta
    return words | {"seed": settings.seed}


def subject_words(pipe: LattePipeline, settings: Settings) -> dict[str, Any]:
    """The arguments of a call that say what to show."""
    if not pipe.takes_prompts:
        return {"class_labels": [settings.subject]} if pipe.transformer.config.num_classes else {"num_videos": 1}
    if not settings.subject.strip():
        raise ValueError("the prompt is empty: write what the video should show")
    takes = settings.negative_prompt and pipe.weaker is None
    negative = {"negative_prompt": settings.negative_prompt} if takes else {}
    return {"prompt": settings.subject, **negative}


def ranges(pipe: LattePipeline, settings: Settings) -> dict[str, int]:
    """The range of each kind of layer that is reused; raises ValueError if Broadcast is chosen and none is."""
    if settings.reuse != BROADCAST:
        return {}
    kinds = model_choices(pipe).kinds
    found = {kind: getattr(settings, kind) for kind in kinds if getattr(settings, kind) != 1}
    if not found:
        raise ValueError(f"{BROADCAST} reuses nothing, since every range is 1: make one larger")
    return found


@contextmanager
def reusing(pipe: LattePipeline, settings: Settings) -> Iterator[None]:
    """Within the context, the pipeline reuses what the settings say; afterwards, nothing.

    Raises:
        ValueError: The model's folder has no such plan. Other files are not read, since strangers may use the page.
    """
    check_choice("reuse", settings.reuse, tuple(model_choices(pipe).reuse))
    try:
        if settings.reuse == BROADCAST:
            pipe.enable_pyramid_attention_broadcast(**broadcast_options(ranges(pipe, settings)))
        elif settings.reuse != NOTHING:
            pipe.enable_plan(settings.reuse)
        yield
    finally:
        pipe.disable_pyramid_attention_broadcast()
        pipe.disable_plan()


def command_words(pipe: LattePipeline, settings: Settings, opening: Opening) -> list[str]:
    """The `latte sample` command for the bit-identical video, as words after `latte`."""
    words = call_words(pipe, settings)
    several = [] if pipe.takes_prompts else ["--num-videos", "1"]
    found = ["sample", settings.model, *(word for pair in opening.options.items() for word in pair)]
    for name, value in words.items():
        if name in CALL_OPTIONS:
            found += option_words(CALL_OPTIONS[name], value)
    if settings.reuse == BROADCAST:
        found += ["--pab", *(f"{kind}={every}" for kind, every in ranges(pipe, settings).items())]
    elif settings.reuse != NOTHING:
        found += ["--plan", settings.reuse]
    return [*found, *several, "--batch-size", "1"]


def command_text(pipe: LattePipeline, settings: Settings, opening: Opening) -> str:
    """The same, as a shell command."""
    return shlex.join(["latte", *command_words(pipe, settings, opening)])


def option_words(option: str, value: Any) -> list[str]:
    """An option and its values, joined into one word if the value looks like an option."""
    values = [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
    if isinstance(value, str | list) and values[0].startswith("-"):
        return [f"{option}={values[0]}"]
    return [option, *values]


def python_text(pipe: LattePipeline, settings: Settings, opening: Opening) -> str:
    """A Python program that makes the bit-identical video."""
    options = opening.options
    dtype = options.get("--dtype")
    given = [repr(settings.model), *([f"dtype=torch.{dtype}"] if dtype else [])]
    given += [f"vae={opening.vae!r}"] if opening.vae else []
    lines = ["import torch", ""] if dtype else []
    lines += ["from latte import LattePipeline", "from latte.video import export_to_video", ""]
    lines.append(f"pipe = LattePipeline.from_pretrained({', '.join(given)}).to({str(pipe.device)!r})")
    if settings.reuse == BROADCAST:
        lines.append(f"pipe.enable_pyramid_attention_broadcast({arguments(broadcast_options(ranges(pipe, settings)))})")
    elif settings.reuse != NOTHING:
        lines.append(f"pipe.enable_plan({settings.reuse!r})")
    lines.append(f"video = pipe({arguments(call_words(pipe, settings))}).frames[0]")
    return "\n".join([*lines, f'export_to_video(video, "video.mp4", fps={FPS})'])


def arguments(words: Mapping[str, Any]) -> str:
    """Arguments by name, as Python writes them."""
    return ", ".join(f"{name}={value!r}" for name, value in words.items())
