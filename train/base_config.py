"""The settings that all kinds of training share, and the checks of a configuration."""

from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar

from latte.train.data.windows import span
from latte.train.settings import check_bounds, default_of, overruled_by, require, setting

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")  # of matrix products and convolutions (latte.train.precision)
AUTO = "auto"  # bf16 where the device computes fast in it, else fp32


@dataclass(frozen=True)
class TrainConfig:
    """The settings that all kinds of training share. A run folder keeps them in config.yaml.

    Raises:
        ValueError: A value is outside its bounds, or has no effect in combination with the others.
    """

    kind: str = field(default="", init=False)  # what is trained: a key of KINDS
    # "shapes" (built in), or a folder of videos whose sub-folders are the classes
    data: str = setting("shapes", path=True, movable=True)
    clips: int = setting(4096, least=1)  # size of the data set: shapes, or windows of the videos, one or more of each
    model: dict = field(default_factory=dict)  # fields of LatteConfig, LatteT2VConfig, VAEConfig or ShapeFeaturesConfig
    image_size: int = setting(64, least=1)  # height and width of the frames, in pixels
    num_frames: int = setting(16, least=1)  # frames per clip
    global_batch_size: int = setting(16, least=1)  # clips per optimiser step, over all processes
    micro_batch_size: int = setting(0, least=0, resumable=True)  # clips per forward pass; 0: all of a process's clips
    steps: int = setting(1000, least=1, resumable=True)  # optimiser steps
    learning_rate: float = setting(1e-4, least=0, tunable=True)  # peak learning rate of the optimiser
    warmup: int = setting(0, least=0, tunable=True)  # steps over which the learning rate rises linearly from 0
    # the learning rate after the warmup; "trapezoid": constant, then a cooldown to 0
    schedule: str = setting("constant", choices=("constant", "cosine", "trapezoid"), tunable=True)
    # fraction of the steps in which a trapezoid falls to 0
    cooldown: float = setting(0.2, least=1e-6, most=1, tunable=True, used_with=("schedule", "trapezoid"))
    # shape of that cooldown (latte.train.step)
    cooldown_shape: str = setting(
        "linear", choices=("linear", "sqrt"), tunable=True, used_with=("schedule", "trapezoid")
    )
    weight_decay: float = setting(0.0, least=0, tunable=True)  # of the optimiser
    clip_grad: float = setting(1.0, least=1e-12, tunable=True)  # maximum norm of the gradients
    clip_from: int = setting(0, least=0, tunable=True)  # the first step, counted from 0, whose gradients are clipped
    # decay of the averaged weights; at step n, min(this, (1 + n) / (10 + n))
    ema_decay: float = setting(0.9999, least=0, below=1, tunable=True)
    # the run ends if this many of the last 2 * skip_limit steps were skipped because they were not finite
    skip_limit: int = setting(10, least=1, resumable=True)
    # of matrix products and convolutions; "auto": bf16 where it is fast, else fp32; the run records which
    precision: str = setting("fp32", choices=(*PRECISIONS, AUTO), tunable=True)
    deterministic_reduce: bool = setting(False, unused_with=("shard", True))  # sum gradients exactly, in any order
    seed: int = setting(0, least=0)  # of all random numbers
    log_every: int = setting(20, least=1, resumable=True)  # steps between lines of metrics.jsonl
    tensorboard: bool = setting(False, resumable=True)  # also log them, and the sample grids, to TensorBoard
    wandb: bool = setting(False, resumable=True)  # and to Weights & Biases
    trackio: bool = setting(False, resumable=True)  # and to trackio
    sample_every: int = setting(0, least=0, resumable=True)  # steps between grids of samples in samples/; 0: none
    save_every: int = setting(500, least=1, resumable=True)  # steps between checkpoints
    keep: int = setting(2, least=1, resumable=True)  # how many of the newest checkpoints to keep
    keep_every: int = setting(0, least=0, resumable=True)  # also keep the checkpoints at multiples of this; 0: none

    # the values that shared code reads for kinds without these settings
    optimizer: ClassVar[str] = "adamw"
    average_every: ClassVar[int] = 0
    init: ClassVar[str] = ""
    vae: ClassVar[str] = ""
    latents: ClassVar[str] = "once"
    classes: ClassVar[bool] = True
    motion_frames: ClassVar[int] = 0
    num_images: ClassVar[int] = 0
    frame_interval: ClassVar[int] = 1
    selection: ClassVar[str] = "stride"
    gradient_checkpointing: ClassVar[bool] = False
    compile: ClassVar[bool] = False
    fast: ClassVar[bool] = False
    shard: ClassVar[bool] = False
    shard_group: ClassVar[int] = 0
    sequence_parallel: ClassVar[int] = 1
    eval_every: ClassVar[int] = 0
    dispersive_weight: ClassVar[float] = 0.0
    align_weight: ClassVar[float] = 0.0
    route_share: ClassVar[float] = 0.0
    teacher: ClassVar[str] = ""
    distillation: ClassVar[str] = "consistency"

    derived: ClassVar[dict[str, str]] = {}  # fields of the network's configuration, and what determines them

    def __post_init__(self) -> None:
        for known in fields(self):
            check_bounds(known, getattr(self, known.name))
        micro = self.micro_batch_size or 1
        require(self.data != "", "data is empty: give data=FOLDER, or data=shapes")
        require(self.global_batch_size % micro == 0, "micro_batch_size does not divide global_batch_size")
        for known in fields(self):
            self._check_used(known)
        for name, source in self.derived.items():
            require(name not in self.model, f"model.{name} follows from {source}: leave it out")
        if self.data == "shapes":
            reach = span(self.num_frames, self.frame_interval)
            needs = f"motion_frames of {reach} or more, not {self.motion_frames}"
            clips = f"{self.num_frames} frames of the shapes, frame_interval {self.frame_interval}"
            require(reach <= self.shape_frames, f"{clips}, need {needs}")
        require(
            not self.deterministic_reduce or self.micro_batch_size > 0,
            "deterministic_reduce needs micro_batch_size: rounding depends on how many clips a forward pass takes",
        )

    def _check_used(self, known: Field) -> None:
        if other := overruled_by(known, vars(self)):
            name, default = known.name, default_of(known)
            advice = f"{name} does nothing with {other}={getattr(self, other)}: leave it at {default!r}"
            require(getattr(self, name) == default, advice)

    @property
    def shape_frames(self) -> int:
        """Frames in a motion of the built-in shapes, from which clips are cut."""
        return self.motion_frames or self.num_frames

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Every setting of this kind with its default value."""
        return {known.name: default_of(known) for known in fields(cls)}

    @classmethod
    def resumable(cls) -> set[str]:
        """The settings that may change when a run resumes."""
        return {known.name for known in fields(cls) if known.metadata.get("resumable")}

    @classmethod
    def movable(cls) -> set[str]:
        """The paths that may change when a run resumes: digests identify data and VAE; the checkpoint replaces init."""
        return {known.name for known in fields(cls) if known.metadata.get("movable")}

    @classmethod
    def tunable(cls) -> set[str]:
        """The settings that may change when a run resumes, if the user asks for it."""
        return {known.name for known in fields(cls) if known.metadata.get("tunable")}
