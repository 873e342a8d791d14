"""The settings of a training run: one dataclass for each kind of training.

The kinds are a class-conditional Latte ("latte"), a text-to-video model ("t2v"), the VAE whose latents both learn from
("vae"), and the network whose features the built-in metric compares ("features"). Every class has only the settings
that affect its kind. Where shared code reads a setting that a kind does not have, TrainConfig gives the value that
turns it off.

Bounds, choices and whether a setting may change when a run resumes are metadata of the field, see latte.train.settings:
`resumable` and `movable` ones may change, `tunable` ones if the user asks for it, and all others never.
"""

from dataclasses import Field, dataclass, field, fields
from typing import ClassVar

from latte.sampling_settings import Guidance, Sampling, sampling_of
from latte.train.base_config import TrainConfig
from latte.train.data.windows import SELECTIONS
from latte.train.settings import require, setting

MOST_STUDENT_STEPS = 64  # the point of a student is to take few
BUILT_IN = ("data", "shapes")  # the data for which some settings have no effect


@dataclass(frozen=True)
class VideoTrainConfig(TrainConfig):
    """The settings of the kinds that can learn from a folder of videos, or start from another model's weights."""

    # the model whose weights training starts from (latte.train.init); empty: from scratch
    init: str = setting("", path=True, movable=True)
    motion_frames: int = setting(0, least=0)  # data "shapes": frames of a motion that clips are cut from; 0: num_frames
    frame_interval: int = setting(1, least=1)  # stride between the frames of a clip
    # how frames are chosen: "stride", or "linspace" or "crop" as in the original (latte.train.data.windows)
    selection: str = setting("stride", choices=tuple(SELECTIONS), unused_with=BUILT_IN)
    # how frames become square (latte.train.data.transforms): "ours", or as in the original for one of its data sets
    transform: str = setting("ours", choices=("ours", "ffs", "ucf101", "sky", "taichi"), unused_with=BUILT_IN)
    flip: bool = setting(False, unused_with=BUILT_IN)  # mirror half of the clips horizontally
    # the run ends if a larger fraction of the videos is too short or damaged
    failed_share: float = setting(0.5, least=0, most=1, resumable=True, unused_with=BUILT_IN)
    # videos that FFmpeg decodes only with errors: "raise" leaves them out, "take" uses FFmpeg's error concealment
    damaged: str = setting("raise", choices=("raise", "take"), unused_with=BUILT_IN)
    num_workers: int = setting(0, least=0, resumable=True)  # processes that read videos ahead

    def __post_init__(self) -> None:
        super().__post_init__()
        unused = self.data != "shapes" and self.motion_frames
        require(not unused, f"motion_frames does nothing with data={self.data}: leave it at 0")


@dataclass(frozen=True)
class LatentTrainConfig(VideoTrainConfig):
    """The settings of the kinds that learn the diffusion of latents."""

    vae: str = setting("", path=True, movable=True)  # folder of the VAE that encodes the latents; required
    # encode them "once", before the first step, or in each "step"; or read them from a folder
    latents: str = setting("once", path=True)
    sample_latents: bool = setting(True)  # draw the latents from the VAE's posterior at each step; false: use its mean
    # standard deviation of logit-normal timesteps (arXiv 2403.03206, eq. 19); 0: uniform timesteps
    timestep_std: float = setting(0.0, least=0, tunable=True)
    # their mean: 0 is the middle, larger values are noisier
    timestep_mean: float = setting(0.0, unused_with=("timestep_std", 0.0), tunable=True)
    # weighting of the squared error by noise level: "none", or "min-snr" (arXiv 2303.09556; latte.diffusion.loss)
    loss_weighting: str = setting("none", choices=("none", "min-snr"), tunable=True, used_with=("teacher", ""))
    # min-snr caps the signal-to-noise ratio at this
    snr_gamma: float = setting(5.0, least=1e-6, unused_with=("loss_weighting", "none"), tunable=True)
    # "muon" updates the matrices in transformer blocks (latte.train.optimizer), and AdamW all other parameters
    optimizer: str = setting("adamw", choices=("adamw", "muon"))
    # decay of Muon's momentum
    muon_momentum: float = setting(0.95, least=0, below=1, tunable=True, used_with=("optimizer", "muon"))
    # orthogonalise queries, keys and values separately for each head
    muon_per_head: bool = setting(True, tunable=True, used_with=("optimizer", "muon"))
    # joint training: the number of single frames, from other clips, that go with each clip
    num_images: int = setting(0, least=0, used_with=("teacher", ""))
    # token routing (latte.train.objectives.token_routing): the fraction of tokens that skip some blocks; 0: none
    route_share: float = setting(0.0, least=0, below=1, tunable=True, used_with=("teacher", ""))
    # they skip blocks[route_start:route_end]; as in Python, a negative number counts from the end
    route_start: int = setting(2, unused_with=("route_share", 0.0), tunable=True)
    route_end: int = setting(-2, unused_with=("route_share", 0.0), tunable=True)
    # weight of the loss that pushes the clips of a micro-batch apart (latte.train.objectives.dispersive); 0: none
    dispersive_weight: float = setting(0.0, least=0, tunable=True, used_with=("teacher", ""))
    dispersive_temperature: float = setting(0.5, least=1e-6, unused_with=("dispersive_weight", 0.0), tunable=True)
    # it is computed on the tokens after this many blocks; 0: a quarter of the blocks
    dispersive_block: int = setting(0, least=0, unused_with=("dispersive_weight", 0.0), tunable=True)
    # weight of the loss that aligns tokens with the averaged network's (latte.train.objectives.self_alignment); 0: none
    align_weight: float = setting(0.0, least=0, used_with=("teacher", ""))
    align_block: int = setting(0, least=0, unused_with=("align_weight", 0.0))  # after this many blocks; 0: a third
    # with those after this many blocks of the averaged network; 0: two thirds
    align_teacher_block: int = setting(0, least=0, unused_with=("align_weight", 0.0))
    # how much less noisy the averaged network's clips may be, as a fraction of all timesteps
    align_gap: float = setting(0.2, least=0, most=1, unused_with=("align_weight", 0.0))
    # distillation (latte.train.objectives.distillation): the model that a few-step student learns from; empty: none
    teacher: str = setting("", path=True, movable=True)
    # "consistency": follow the teacher's path (latte.train.objectives.consistency_distillation); "moments": match the
    # mean of the student's predictions to the teacher's (latte.train.objectives.moment_matching)
    distillation: str = setting("consistency", choices=("consistency", "moments"), unused_with=("teacher", ""))
    # with "moments": begin the student's steps in states that it reaches itself, not in noisy clips
    backward_simulation: bool = setting(False, used_with=("distillation", "moments"))
    # sampling steps of the student
    student_steps: int = setting(4, least=1, most=MOST_STUDENT_STEPS, unused_with=("teacher", ""))
    # DDIM steps of the teacher that they replace, a multiple of student_steps
    teacher_steps: int = setting(
        64, least=1, most=500, unused_with=("teacher", ""), used_with=("distillation", "consistency")
    )
    teacher_guidance: float = setting(1.0, unused_with=("teacher", ""))  # guidance scale that the student learns
    # guide the teacher away from the weaker model in its folder (latte.autoguidance), not the null condition
    teacher_autoguidance: bool = setting(False, unused_with=("teacher_guidance", 1.0))
    # the lowest and the highest timestep at which the teacher is guided
    guided_from: float = setting(0.0, least=0, unused_with=("teacher_guidance", 1.0))
    guided_to: float = setting(1000.0, least=0, unused_with=("teacher_guidance", 1.0))
    gradient_checkpointing: bool = setting(False, resumable=True)  # recompute activations, to save memory
    compile: bool = setting(False, resumable=True)  # use torch.compile on every block, which rounds differently
    # compute norms, GELU and, on a CPU, products and attention faster (latte.fast), which rounds differently
    fast: bool = setting(True, resumable=True)
    shard: bool = setting(False, resumable=True)  # split weights, averages and optimiser over the processes (FSDP2)
    # how many processes split one copy of the weights, so that there are several copies (HSDP); 0: all processes
    shard_group: int = setting(0, least=0, resumable=True, unused_with=("shard", False))
    # how many processes split the frames of each clip between them; they do not add clips to a step
    sequence_parallel: int = setting(1, least=1, resumable=True)
    # steps between snapshots of two averages, from which `latte average` makes averages of other lengths; 0: none
    average_every: int = setting(0, least=0)
    # guidance scale of samples; 0: the pipeline's default
    sample_guidance: float = setting(0.0, resumable=True, used_with=("teacher", ""), unused_with=("classes", False))
    # further defaults of sampling with that guidance, as in sampling.json: guidance_interval, num_inference_steps, ...
    sample_settings: dict = field(
        default_factory=dict, metadata={"resumable": True, "unused_with": ("sample_guidance", 0.0)}
    )
    eval_every: int = setting(0, least=0, resumable=True)  # steps between evaluations (such as FVD); 0: none
    eval_clips: int = setting(256, least=2, resumable=True, unused_with=("eval_every", 0))  # each: real and generated
    # videos or statistics; empty: the data
    eval_real: str = setting("", path=True, resumable=True, unused_with=("eval_every", 0))
    # I3D's weights; empty: shapes distance
    eval_i3d: str = setting("", path=True, resumable=True, unused_with=("eval_every", 0))

    @property
    def prediction(self) -> str:
        """What the network learns to predict: "eps", "v" or "flow"."""
        return self.model.get("prediction", "eps")

    def sampling_defaults(self) -> Sampling | None:
        """The defaults of sampling of the run's model; None leaves the pipeline's. Raises ValueError if invalid."""
        if self.teacher:
            return Sampling(Guidance(1.0), self.student_steps, eta=float(self.distillation == "moments"))
        given = {"guidance_scale": self.sample_guidance, **self.sample_settings}
        return sampling_of(given, self.sample_guidance) if self.sample_guidance else None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.vae != "", "a Latte trains on latents: name a VAE folder, vae=...")
        whole = self.teacher_steps % self.student_steps == 0
        fits = not self.teacher or self.distillation != "consistency" or whole
        require(fits, f"teacher_steps is {self.teacher_steps}; it must be a multiple of student_steps")
        idle = self.distillation == "moments" and self.warmup >= self.steps
        alone = f"warmup is {self.warmup}: only the auxiliary network learns in these steps, set it below steps"
        require(not idle, alone)
        require(self.guided_from <= self.guided_to, "guided_from is above guided_to: no timestep is guided")
        scales = {"guidance_scale", "autoguidance_scale"} & self.sample_settings.keys()
        require(not scales, f"sample_settings has {min(scales, default='')}: the scale is sample_guidance")
        self.sampling_defaults()
        estimates = self.teacher and self.model.get("self_condition")
        require(not estimates, "a student is not self-conditioned: set model.self_condition=false")
        unused = self.num_workers and self.latents != "step"
        require(not unused, f"num_workers does nothing with latents={self.latents}: set it to 0")
        shared, frames = self.sequence_parallel, self.num_frames
        require(shared <= frames, f"sequence_parallel is {shared}; a clip has only {frames} frames to share")
        for name in ("dispersive_weight", "align_weight"):
            split = shared > 1 and getattr(self, name)
            require(not split, f"{name} compares whole clips: it needs sequence_parallel=1")
        alone = self.dispersive_weight and self.micro_batch_size < 2
        need = "dispersive_weight compares the clips of a micro-batch: set micro_batch_size, to 2 or more"
        require(not alone, need)
        exact = self.deterministic_reduce and shared > 1
        require(not exact, "deterministic_reduce needs sequence_parallel=1: rounding depends on how clips are shared")


@dataclass(frozen=True)
class LatteTrainConfig(LatentTrainConfig):
    """Settings of training a Latte, class-conditional or unconditional."""

    kind: str = field(default="latte", init=False)
    classes: bool = setting(True)  # learn the classes of the data; false: unconditional

    derived: ClassVar[dict[str, str]] = {
        "num_classes": "the folders of the data",
        "num_frames": "num_frames",
        "input_size": "image_size and the VAE",
        "in_channels": "the VAE",
    }


@dataclass(frozen=True)
class T2VTrainConfig(LatentTrainConfig):
    """Settings of training a text-to-video model and its text encoder."""

    kind: str = field(default="t2v", init=False)
    text_encoder: dict = field(default_factory=dict)  # fields of T5Config
    # fraction of captions replaced by the empty caption
    caption_dropout: float = setting(0.1, least=0, most=1, tunable=True, used_with=("teacher", ""))

    derived: ClassVar[dict[str, str]] = {
        "video_length": "num_frames",
        "sample_size": "image_size and the VAE",
        "in_channels": "the VAE",
        "out_channels": "the VAE",
        "caption_channels": "text_encoder.d_model",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        named = "vocab_size" in self.text_encoder
        require(not named, "text_encoder.vocab_size follows from the captions: leave it out")


@dataclass(frozen=True)
class VAETrainConfig(VideoTrainConfig):
    """Settings of training a VAE."""

    kind: str = field(default="vae", init=False)
    # weight of the KL divergence of the latents from a standard Gaussian
    kl_weight: float = setting(1e-6, least=0, tunable=True)
    # weight of the error of half-size frames decoded from half-size latents (scale equivariance)
    equivariance_weight: float = setting(0.0, least=0, tunable=True)
    # weight of the error between the first channels of the latents and a small copy of the frame
    thumbnail_weight: float = setting(0.0, least=0, tunable=True, unused_with=("freeze_encoder", True))
    # what that copy's pixels, in [-1, 1], are multiplied by: the more, the more its channels outweigh the others
    thumbnail_scale: float = setting(4.0, least=0, tunable=True, unused_with=("thumbnail_weight", 0.0))
    # the same for the details of brightness within the square of a latent, in three more channels; 0: without them
    detail_scale: float = setting(0.0, least=0, tunable=True, unused_with=("thumbnail_weight", 0.0))
    # make the channels of the latents uncorrelated, each with standard deviation 1, once the VAE is trained
    whiten_latents: bool = setting(False, resumable=True, unused_with=("freeze_encoder", True))
    # train only the decoder, so that models trained on init's latents remain usable; kl_weight then has no effect
    freeze_encoder: bool = setting(False)

    derived: ClassVar[dict[str, str]] = {
        "in_channels": "the colours of a frame",
        "out_channels": "the colours of a frame",
        "scaling_factor": "the latents, once it is trained",
        "temporal_decoder": "training on single frames",
    }

    @property
    def shape_frames(self) -> int:
        """Frames of a motion of the built-in shapes: at least 16, since a VAE's clips may be single frames."""
        return self.motion_frames or max(16, self.num_frames)


@dataclass(frozen=True)
class FeaturesTrainConfig(TrainConfig):
    """Settings of training the feature network of the built-in shapes' metric."""

    kind: str = field(default="features", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        shapes = self.data == "shapes"
        require(shapes, f"features are learned from properties of the shapes: data is {self.data!r}, not 'shapes'")


KINDS: dict[str, type[TrainConfig]] = {
    kind.kind: kind for kind in (LatteTrainConfig, T2VTrainConfig, VAETrainConfig, FeaturesTrainConfig)
}
SETTINGS: dict[str, Field] = {known.name: known for kind in KINDS.values() for known in fields(kind)}
