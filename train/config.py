"""What a training run is: one typed table, the presets, and how the command line changes them."""

import math
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path

import yaml

from latte.models.config import unknown
from latte.train.precision import PRECISIONS

LEAST = {  # the smallest sensible value; all numbers are finite
    "clips": 1,
    "image_size": 1,
    "num_frames": 1,
    "num_images": 0,
    "frame_interval": 1,
    "global_batch_size": 1,
    "micro_batch_size": 0,
    "steps": 1,
    "learning_rate": 0,
    "warmup": 0,
    "weight_decay": 0,
    "clip_grad": 1e-12,
    "ema_decay": 0,
    "kl_weight": 0,
    "timestep_std": 0,
    "seed": 0,
    "log_every": 1,
    "save_every": 1,
    "keep": 1,
}
CHOICES = {"kind": ("latte", "t2v", "vae"), "schedule": ("constant", "cosine"), "precision": tuple(PRECISIONS)}
OF_TEXT = ("text_encoder", "caption_dropout")
IDLE = {  # settings that would do nothing where another one has this value
    ("kind", "latte"): ("kl_weight", *OF_TEXT),
    ("kind", "t2v"): ("kl_weight",),
    ("kind", "vae"): ("vae", "sample_latents", "num_images", "gradient_checkpointing", "timestep_std", *OF_TEXT),
    ("timestep_std", 0.0): ("timestep_mean",),
    ("data", "shapes"): ("flip", "frame_interval"),
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
}
MAY_CHANGE = {"steps", "log_every", "save_every", "keep", "micro_batch_size", "gradient_checkpointing"}  # on resuming


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run; a run's folder keeps it as config.yaml. ValueError: values that cannot be meant."""

    kind: str = "latte"  # what is trained: "latte", of classes or none, "t2v", of captions, or "vae", the autoencoder
    data: str = "shapes"  # "shapes", built in, or a folder of videos whose sub-folders are the classes
    clips: int = 4096  # in the data set: different ones of the shapes, windows of a folder's videos
    model: dict = field(default_factory=dict)  # fields of LatteConfig, LatteT2VConfig or VAEConfig
    text_encoder: dict = field(default_factory=dict)  # kind "t2v": fields of T5Config; it is trained along
    caption_dropout: float = 0.1  # kind "t2v": share of captions replaced by the empty one
    init: str = ""  # model whose weights training starts from, of the same shape; empty: from scratch
    vae: str = ""  # kinds "latte" and "t2v": folder of the VAE that gives the latents
    sample_latents: bool = True  # draw a clip's latents from the VAE's posterior anew each time; false: take its mean
    timestep_std: float = 0.0  # timesteps are logit-normal with this deviation (Esser et al. 2024); 0: uniform
    timestep_mean: float = 0.0  # and with this mean: 0 is the middle of them, more is noisier
    image_size: int = 64  # side of the frames, in pixels
    num_frames: int = 16  # frames in a clip
    num_images: int = 0  # joint image-video training: single frames of other clips that go with each clip
    frame_interval: int = 1  # of a video's frames, every so many are taken
    flip: bool = False  # mirror half of the clips, left to right
    global_batch_size: int = 16  # clips in an optimiser step
    micro_batch_size: int = 0  # clips that go through the network at once; 0: all of them
    steps: int = 1000  # optimiser steps
    learning_rate: float = 1e-4  # AdamW's, at its highest
    warmup: int = 0  # steps over which it rises from 0
    schedule: str = "constant"  # of the learning rate after that: "constant" or "cosine", to 0
    weight_decay: float = 0.0  # AdamW's
    clip_grad: float = 1.0  # gradients are scaled down to this norm
    ema_decay: float = 0.9999  # of the averaged weights; (1 + n) / (10 + n) while that is smaller
    kl_weight: float = 1e-6  # kind "vae": of the latents' divergence from a standard Gaussian
    precision: str = "fp32"  # of matrix products and convolutions: "fp32" or "bf16"; weights and losses stay float32
    gradient_checkpointing: bool = False  # recompute activations: less memory, more time, the same numbers
    seed: int = 0  # of everything random
    log_every: int = 20  # steps between lines of metrics.jsonl
    save_every: int = 500  # steps between checkpoints
    keep: int = 2  # checkpoints that stay

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
        check(self.ema_decay < 1, f"ema_decay is {self.ema_decay}; it must be less than 1")
        check(self.global_batch_size % self.micro == 0, "micro_batch_size does not divide global_batch_size")
        check(self.kind == "vae" or self.vae != "", "a Latte trains on latents: name a VAE folder, vae=...")
        for (name, value), idle in IDLE.items():
            for setting in idle if getattr(self, name) == value else ():
                known = TrainConfig.__dataclass_fields__[setting]
                default = known.default if known.default_factory is MISSING else known.default_factory()
                advice = f"leave it at {default!r}"
                check(getattr(self, setting) == default, f"{setting} does nothing with {name}={value}: {advice}")
        for name, source in DERIVED[self.kind].items():
            check(name not in self.model, f"model.{name} follows from {source}: leave it out")
        check("vocab_size" not in self.text_encoder, "text_encoder.vocab_size follows from the captions: leave it out")

    @property
    def micro(self) -> int:
        return self.micro_batch_size or self.global_batch_size


# the small VAE that ships: 8x down, 4 channels, narrow where frames are large
SHAPES_VAE = TrainConfig(
    kind="vae",
    model={"block_out_channels": [16, 32, 64, 64], "layers_per_block": 1, "norm_num_groups": 8},
    num_frames=1,
    clips=20000,
    steps=3600,
    learning_rate=1.5e-3,
    warmup=100,
    schedule="cosine",
    kl_weight=1e-3,
    ema_decay=0.999,
    precision="bf16",
)
# the small class-conditional Latte that ships, from scratch; how that one came about: docs/log.md
SHAPES = TrainConfig(
    vae="shapes/vae",
    model={"depth": 8, "hidden_size": 176, "num_heads": 4, "patch_size": 4, "prediction": "v"},
    sample_latents=False,
    timestep_std=1.0,
    timestep_mean=0.5,
    steps=24000,
    learning_rate=1.5e-3,
    warmup=200,
    schedule="cosine",
    ema_decay=0.999,
)
# the small text-to-video model that ships
SHAPES_T2V = replace(
    SHAPES,
    kind="t2v",
    model={"num_layers": 4, "num_attention_heads": 6, "attention_head_dim": 32, "patch_size": 4, "prediction": "v"},
    text_encoder={"d_model": 96, "d_kv": 24, "d_ff": 192, "num_layers": 2, "num_heads": 4},
)
PRESETS = {
    "shapes-vae": SHAPES_VAE,
    "shapes": SHAPES,
    "shapes-t2v": SHAPES_T2V,
    # the same two for a folder of videos, where Stable Diffusion's VAE is not at hand
    "folder-vae": replace(SHAPES_VAE, data="videos", flip=True, kl_weight=1e-4, steps=3000),
    "folder": replace(
        SHAPES,
        data="videos",
        vae="runs/folder-vae/final",
        clips=256,
        global_batch_size=8,
        steps=3000,
        timestep_std=0.0,
        timestep_mean=0.0,
    ),
}


def resolve(source: str, changes: list[str]) -> TrainConfig:
    """A preset's name or a run's config.yaml, with changes such as "steps=100" or "model.depth=4" on top.

    ValueError: no such preset or file, an unknown key (with the closest one), a value of the wrong type.
    """
    values = asdict(PRESETS[source]) if source in PRESETS else read_yaml(source)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"{change!r}: a setting is changed as key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{change!r}: the value is not YAML: {error}") from error
        table, dot, inner = name.partition(".")
        if dot and table in TABLES:
            values[table] = {**typed(table, values.get(table, {})), inner: value}
        else:
            values[name] = value
    return TrainConfig(**{name: typed(name, value) for name, value in values.items()})


def read_yaml(source: str) -> dict:
    """A file's table of settings."""
    if not Path(source).is_file():
        raise ValueError(f"no preset and no file is called {source!r}; the presets are {', '.join(PRESETS)}")
    try:
        values = yaml.safe_load(Path(source).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{source} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{source} does not hold a table of settings")
    return values


def typed(name: str, value):
    """`value` as the type of field `name`; YAML reads 1e-4 as text."""
    names = [f.name for f in fields(TrainConfig)]
    if name not in names:
        raise ValueError(unknown(str(name), names))
    wanted = type(getattr(SHAPES_VAE, name))
    if wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not wanted:
        raise ValueError(f"{name} is {value!r}; it must be of type {wanted.__name__}")
    return value
