"""What a training run is: one typed table of settings."""

import math
from dataclasses import MISSING, dataclass, field, fields

from latte.models.fields import unknown_key
from latte.train.data.transforms import TRANSFORMS
from latte.train.data.windows import SELECTIONS, span
from latte.train.precision import PRECISIONS

LEAST = {  # the smallest sensible value; all numbers are finite
    "clips": 1,
    "image_size": 1,
    "num_frames": 1,
    "motion_frames": 0,
    "num_images": 0,
    "frame_interval": 1,
    "global_batch_size": 1,
    "micro_batch_size": 0,
    "steps": 1,
    "learning_rate": 0,
    "warmup": 0,
    "weight_decay": 0,
    "clip_grad": 1e-12,
    "clip_from": 0,
    "ema_decay": 0,
    "kl_weight": 0,
    "timestep_std": 0,
    "seed": 0,
    "log_every": 1,
    "sample_every": 0,
    "eval_every": 0,
    "eval_clips": 2,
    "save_every": 1,
    "keep": 1,
    "keep_every": 0,
    "skip_limit": 1,
    "num_workers": 0,
}
CHOICES = {
    "kind": ("latte", "t2v", "vae", "features"),
    "schedule": ("constant", "cosine"),
    "precision": tuple(PRECISIONS),
    "selection": tuple(SELECTIONS),
    "transform": tuple(TRANSFORMS),
}
OF_TEXT = ("text_encoder", "caption_dropout")
IDLE = {  # settings that would do nothing where another one has this value
    ("kind", "latte"): ("kl_weight", *OF_TEXT),
    ("kind", "t2v"): ("kl_weight", "classes"),
    ("kind", "vae"): (
        *("vae", "latents", "sample_latents", "num_images", "timestep_std", "classes", "eval_every", *OF_TEXT),
        *("gradient_checkpointing", "compile", "shard", "sample_guidance"),
    ),
    ("kind", "features"): (
        *("vae", "latents", "sample_latents", "num_images", "timestep_std", "classes", *OF_TEXT),
        *("kl_weight", "eval_every", "init", "num_workers", "gradient_checkpointing", "compile", "shard"),
        *("motion_frames", "sample_guidance"),
    ),
    ("timestep_std", 0.0): ("timestep_mean",),
    ("data", "shapes"): ("flip", "selection", "transform", "failed_share"),
    ("shard", True): ("deterministic_reduce",),
    ("eval_every", 0): ("eval_clips", "eval_real", "eval_i3d"),
}
TABLES = ("model", "text_encoder")  # settings that are tables themselves: "model.depth=4"
DERIVED = {  # fields of the network's configuration that are not the user's to set
    "latte": {
        "num_classes": "the folders of the data",
        "num_frames": "num_frames",
        "input_size": "image_size and the VAE",
        "in_channels": "the VAE",
    },
    "t2v": {
        "video_length": "num_frames",
        "sample_size": "image_size and the VAE",
        "in_channels": "the VAE",
        "out_channels": "the VAE",
        "caption_channels": "text_encoder.d_model",
    },
    "vae": {
        "in_channels": "the colours of a frame",
        "out_channels": "the colours of a frame",
        "scaling_factor": "the latents, once it is trained",
        "temporal_decoder": "training on single frames",
    },
    "features": {},
}
MAY_CHANGE = {  # on resuming
    *("steps", "log_every", "tensorboard", "sample_every", "save_every", "keep", "keep_every", "skip_limit"),
    *("micro_batch_size", "gradient_checkpointing", "compile", "shard", "num_workers"),
    *("sample_guidance", "eval_every", "eval_clips", "eval_real", "eval_i3d"),
}


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run; a run's folder keeps it as config.yaml. ValueError: values that cannot be meant."""

    kind: str = "latte"  # what is trained: "latte", of classes or none, "t2v", of captions, "vae", or "features"
    data: str = "shapes"  # "shapes", built in, or a folder of videos whose sub-folders are the classes
    classes: bool = True  # kind "latte": the data's classes are learned; false: unconditional
    clips: int = 4096  # in the data set: different ones of the shapes, windows of a folder's videos
    model: dict = field(default_factory=dict)  # fields of LatteConfig, LatteT2VConfig, VAEConfig, ShapeFeaturesConfig
    text_encoder: dict = field(default_factory=dict)  # kind "t2v": fields of T5Config; it is trained along
    caption_dropout: float = 0.1  # kind "t2v": share of captions replaced by the empty one
    init: str = ""  # model whose weights training starts from (latte.train.init); empty: from scratch
    vae: str = ""  # kinds "latte" and "t2v": folder of the VAE that gives the latents
    latents: str = "once"  # encoded before the first step; or "step", in each; or a folder that latte encode wrote
    sample_latents: bool = True  # draw a clip's latents from the VAE's posterior anew each time; false: take its mean
    timestep_std: float = 0.0  # timesteps are logit-normal with this deviation (Esser et al. 2024); 0: uniform
    timestep_mean: float = 0.0  # and with this mean: 0 is the middle of them, more is noisier
    image_size: int = 64  # side of the frames, in pixels
    num_frames: int = 16  # frames in a clip
    motion_frames: int = 0  # data "shapes": of a whole motion, whose windows are the clips; 0: num_frames, a VAE's 16
    num_images: int = 0  # joint image-video training: single frames of other clips that go with each clip
    frame_interval: int = 1  # of a video's frames, every so many are taken
    selection: str = "stride"  # how these are chosen: or "linspace", "crop", the original's (latte.train.data.windows)
    transform: str = "ours"  # how frames become square: or "ffs", "ucf101", "sky", "taichi", the original's
    flip: bool = False  # mirror half of the clips, left to right
    failed_share: float = 0.5  # of the videos may be too short or damaged; more of them end the run
    num_workers: int = 0  # processes that read videos ahead, where each step has its own
    global_batch_size: int = 16  # clips in an optimiser step
    micro_batch_size: int = 0  # clips that go through the network at once; 0: all that a process has
    steps: int = 1000  # optimiser steps
    learning_rate: float = 1e-4  # AdamW's, at its highest
    warmup: int = 0  # steps over which it rises from 0
    schedule: str = "constant"  # of the learning rate after that: "constant" or "cosine", to 0
    weight_decay: float = 0.0  # AdamW's
    clip_grad: float = 1.0  # gradients are scaled down to this norm
    clip_from: int = 0  # the first step, counted from 0, whose gradients are
    ema_decay: float = 0.9999  # of the averaged weights; (1 + n) / (10 + n) while that is smaller
    kl_weight: float = 1e-6  # kind "vae": of the latents' divergence from a standard Gaussian
    skip_limit: int = 10  # as many of the last 2 * skip_limit steps passed over, as they were not finite, end the run
    precision: str = "fp32"  # of matrix products, convolutions: or "tf32", "bf16", "fp16"; weights stay float32
    gradient_checkpointing: bool = False  # recompute activations: less memory, more time, the same numbers
    compile: bool = False  # the network by torch.compile: faster after the first steps, other rounding
    shard: bool = False  # weights, averages and optimiser are split over the processes (FSDP2)
    deterministic_reduce: bool = False  # gradients are summed exactly: the number of processes changes no bit
    seed: int = 0  # of everything random
    log_every: int = 20  # steps between lines of metrics.jsonl
    tensorboard: bool = False  # the same for TensorBoard, in tensorboard/, with the grids
    sample_every: int = 0  # steps between grids of samples of the averaged weights, in samples/; 0: none
    sample_guidance: float = 0.0  # scale in grids, distances, and in latte sample afterwards; 0: as usual, 4 or 7.5
    eval_every: int = 0  # steps between distances of samples from real clips, in metrics.jsonl (FVD or not); 0: none
    eval_clips: int = 256  # on either side of them
    eval_real: str = ""  # a folder of real videos, or statistics of some; empty: clips of the data
    eval_i3d: str = ""  # I3D's weights, for FVD; empty: the network of the built-in shapes
    save_every: int = 500  # steps between checkpoints
    keep: int = 2  # checkpoints that stay, the last ones
    keep_every: int = 0  # and those of every so many steps, for good; 0: none

    def __post_init__(self):
        def check(ok: bool, message: str) -> None:
            if not ok:
                raise ValueError(f"training configuration: {message}")

        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            check(value in allowed, f"{name} is {value!r}, not {' or '.join(map(repr, allowed))}")
        for name, least in LEAST.items():
            value = getattr(self, name)
            check(math.isfinite(value) and value >= least, f"{name} is {value}; it must be {least} or more")
        check(0 <= self.caption_dropout <= 1, f"caption_dropout is {self.caption_dropout}; it must be in 0 to 1")
        check(math.isfinite(self.timestep_mean), f"timestep_mean is {self.timestep_mean}; it must be a finite number")
        check(0 <= self.failed_share <= 1, f"failed_share is {self.failed_share}; it must be in 0 to 1")
        check(math.isfinite(self.sample_guidance), f"sample_guidance is {self.sample_guidance}; it must be finite")
        check(self.ema_decay < 1, f"ema_decay is {self.ema_decay}; it must be less than 1")
        micro = self.micro_batch_size or 1
        check(self.global_batch_size % micro == 0, "micro_batch_size does not divide global_batch_size")
        of_pixels = self.kind in ("vae", "features")
        check(of_pixels or self.vae != "", "a Latte trains on latents: name a VAE folder, vae=...")
        of_shapes = self.kind != "features" or self.data == "shapes"
        check(of_shapes, f"features are learned from what is known of the shapes: data is {self.data!r}, not 'shapes'")
        for (name, value), idle in IDLE.items():
            for setting in idle if getattr(self, name) == value else ():
                known = TrainConfig.__dataclass_fields__[setting]
                default = known.default if known.default_factory is MISSING else known.default_factory()
                advice = f"leave it at {default!r}"
                check(getattr(self, setting) == default, f"{setting} does nothing with {name}={value}: {advice}")
        if self.data == "shapes":
            reach = span(self.num_frames, self.frame_interval)
            needs = f"motion_frames of {reach} or more, not {self.motion_frames}"
            clips = f"{self.num_frames} frames of the shapes, frame_interval {self.frame_interval}"
            check(reach <= self.shape_frames, f"{clips}, need {needs}")
        else:
            check(not self.motion_frames, f"motion_frames does nothing with data={self.data}: leave it at 0")
        for name, source in DERIVED[self.kind].items():
            check(name not in self.model, f"model.{name} follows from {source}: leave it out")
        reads = of_pixels or self.latents == "step"
        check(reads or not self.num_workers, f"num_workers does nothing with latents={self.latents}: set it to 0")
        check(
            not self.deterministic_reduce or self.micro_batch_size,
            "deterministic_reduce needs micro_batch_size: what goes through the network at once changes the rounding",
        )
        check("vocab_size" not in self.text_encoder, "text_encoder.vocab_size follows from the captions: leave it out")

    @property
    def shape_frames(self) -> int:
        """Frames of a whole motion of the built-in shapes."""
        return self.motion_frames or (max(16, self.num_frames) if self.kind == "vae" else self.num_frames)


def typed(name: str, value):
    """`value` as the type of field `name`; YAML reads 1e-4 as text."""
    names = [f.name for f in fields(TrainConfig)]
    if name not in names:
        raise ValueError(unknown_key(str(name), names))
    wanted = TrainConfig.__dataclass_fields__[name].type
    if wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not wanted:
        raise ValueError(f"{name} is {value!r}; it must be of type {wanted.__name__}")
    return value
