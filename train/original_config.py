"""Training configurations of the original Latte (Vchitect/Latte, configs/*/*_train.yaml) in our settings.

Every key of theirs is in one of the tables below; which of them did nothing there was read in its training scripts.
"""

from dataclasses import fields
from pathlib import Path

import torch

from latte.models.fields import unknown_key
from latte.models.latte import LatteConfig
from latte.train.config import TrainConfig, typed

RENAMED = {
    "data_path": "data",
    "pretrained": "init",
    "num_frames": "num_frames",
    "image_size": "image_size",
    "frame_interval": "frame_interval",
    "use_image_num": "num_images",
    "learning_rate": "learning_rate",
    "lr_warmup_steps": "warmup",
    "clip_max_norm": "clip_grad",
    "start_clip_iter": "clip_from",
    "max_train_steps": "steps",
    "gradient_checkpointing": "gradient_checkpointing",
    "num_workers": "num_workers",
    "use_compile": "compile",
    "global_seed": "seed",
    "log_every": "log_every",
    "ckpt_every": "save_every",
}
DERIVED = (  # what translate makes another value, or several settings, of
    *("dataset", "pretrained_model_path", "model", "learn_sigma", "extras"),
    *("local_batch_size", "gradient_accumulation_steps"),
)
NEEDED = ("dataset", "data_path", "pretrained_model_path", "model", "extras", "local_batch_size")
WAS_IDLE = {  # settings of ours that the original had and did not follow
    "learning_rate": "the original trained with 1e-4 whatever this said; here it is the rate",
    "lr_warmup_steps": "the original's rate was constant from the first step on; here it rises over these",
    "gradient_checkpointing": "it did nothing in the original, or stopped it; here it saves memory",
}
PASSED_OVER = {  # and why
    "frame_data_path": "the images of joint training are frames of the videos themselves",
    "frame_data_txt": "the images of joint training are frames of the videos themselves",
    "results_dir": "--run names the folder",
    "resume_from_checkpoint": "it could not work in the original; here a run goes on by itself",
    "num_sampling_steps": "it is of sampling, and did nothing in training",
    "num_classes": "the folders of the data say how many classes there are",
    "fixed_spatial": "it did nothing in the original, or froze all weights",
    "attention_bias": "it did nothing in the original; attention has its biases",
    "save_ceph": "it did nothing in the original",
    "load_from_ceph": "it did nothing in the original",
    "mixed_precision": "in the original it only changed a folder's name; precision=bf16 is what it says",
    "enable_xformers_memory_efficient_attention": "it did nothing in the original, or stopped it; "
    "attention is memory-efficient here",
    "sequence_parallel_size": "a clip's frames stay in one process",
}
KEYS = {*RENAMED, *DERIVED, *PASSED_OVER}
FLIPS = {"ffs": True, "sky": False, "ucf101": True, "taichi": True}  # whose loaders mirror half of the clips
SELECTIONS = {"ffs": "linspace", "sky": "crop", "ucf101": "linspace", "taichi": "crop"}
CLASSES = {1: False, 2: True}  # what `extras` says of classes


def is_original(values: dict) -> bool:
    """Whether a table of settings is the original's: more of its keys are only theirs than are only ours."""
    ours = {field.name for field in fields(TrainConfig)}
    return len(values.keys() & (KEYS - ours)) > len(values.keys() & (ours - KEYS))


def translate(values: dict, ranks: int) -> tuple[dict, list[str]]:
    """Our settings, and a note on each key that did nothing in the original or does nothing here.

    local_batch_size is of each of `ranks` processes: times their number, and times the steps of accumulation, it is
    our global_batch_size. Keys without a value, or off, say nothing. ValueError: an unknown key (with the
    closest one),
    one that is missing, or a value that means nothing, such as a data set that the original has not.
    """
    for key in values:
        if key not in KEYS:
            raise ValueError(unknown_key(str(key), sorted(KEYS)))
    given = {key: value for key, value in values.items() if value is not None}
    if missing := [key for key in NEEDED if key not in given]:
        raise ValueError(f"{missing[0]} is missing")
    dataset, extras = one_of("dataset", given["dataset"], [*FLIPS, *(f"{name}_img" for name in FLIPS)]), given["extras"]
    if extras == 78:
        raise ValueError("extras is 78: the original has no training of text-to-video; here kind=t2v has")
    local, accumulated = (
        positive_int(key, given.get(key, 1)) for key in ("local_batch_size", "gradient_accumulation_steps")
    )
    name = dataset.removesuffix("_img")
    settings = {
        "flip": FLIPS[name],
        "selection": SELECTIONS[name],
        "transform": name,
        "latents": "step",
        "precision": "tf32" if torch.cuda.is_available() else "fp32",
        "vae": str(Path(str(given["pretrained_model_path"])) / "vae"),
        "model": network(given["model"], given.get("learn_sigma", True)),
        "classes": CLASSES[one_of("extras", extras, CLASSES)],
        "global_batch_size": local * ranks * accumulated,
        "micro_batch_size": local if accumulated > 1 else 0,
    }
    for theirs, ours in RENAMED.items():
        if theirs in given:
            try:
                settings[ours] = typed(ours, given[theirs])
            except ValueError as error:
                raise ValueError(f"{theirs}, here {error}") from error
    notes = [f"{key}: {why}" for key, why in WAS_IDLE.items() if given.get(key)]
    notes += [f"{key}: passed over: {why}" for key, why in PASSED_OVER.items() if given.get(key)]
    steps = f" in each of {accumulated} steps of accumulation" if accumulated > 1 else ""
    batch = f"global_batch_size={settings['global_batch_size']}"
    notes.append(f"local_batch_size: {local} on each of {ranks} processes{steps} makes {batch}")
    return settings, notes


def one_of(key: str, value, known):
    """The value. ValueError: it is none of those known."""
    if isinstance(value, bool) or value not in list(known):
        raise ValueError(f"{key} is {value!r}, not one of {', '.join(map(str, known))}")
    return value


def positive_int(key: str, value) -> int:
    """The value. ValueError: it is not a positive integer above 0."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{key} is {value!r}; it must be a whole number above 0")
    return value


def network(name: str, learn_sigma: bool) -> dict:
    """Fields of LatteConfig for "Latte-XL/2" and its like; "LatteIMG-XL/2" is the same network, trained jointly."""
    config = LatteConfig.from_name(str(name).replace("LatteIMG-", "Latte-", 1))
    shape = {field: getattr(config, field) for field in ("depth", "hidden_size", "num_heads", "patch_size")}
    return {**shape, "learn_sigma": learn_sigma}
