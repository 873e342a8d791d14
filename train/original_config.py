"""Translates training configurations of the original Latte (Vchitect/Latte, configs/*/*_train.yaml) to our settings.

Each of its keys is in one of the tables below. Which keys had no effect was found by reading its training scripts.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from latte.models.latte_config import LatteConfig
from latte.models.network_config import shown, unknown_key
from latte.train.config import SETTINGS
from latte.train.config_tables import typed

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
COMBINED = (  # keys whose values `translate` converts
    *("dataset", "pretrained_model_path", "model", "learn_sigma", "extras"),
    *("local_batch_size", "gradient_accumulation_steps"),
)
REQUIRED = ("dataset", "data_path", "pretrained_model_path", "model", "extras", "local_batch_size")
HAD_NO_EFFECT = {  # keys of settings that the original had but did not use
    "learning_rate": "the original ignored it and trained with 1e-4; here it is the learning rate",
    "lr_warmup_steps": "the original ignored it and had no warmup; here the learning rate rises over these steps",
    "gradient_checkpointing": "it had no effect in the original, or made it fail; here it saves memory",
}
IGNORED = {  # keys that have no setting here, and why
    "frame_data_path": "the images of joint training are frames of the videos themselves",
    "frame_data_txt": "the images of joint training are frames of the videos themselves",
    "results_dir": "use --run to name the folder",
    "resume_from_checkpoint": "it could not work in the original; here a run resumes automatically",
    "num_sampling_steps": "it is a setting of sampling, and had no effect in training",
    "num_classes": "the number of classes follows from the folders of the data",
    "fixed_spatial": "it had no effect in the original, or froze all weights",
    "attention_bias": "it had no effect in the original; attention always has biases",
    "save_ceph": "it had no effect in the original",
    "load_from_ceph": "it had no effect in the original",
    "mixed_precision": "in the original it only changed the name of a folder; use precision=bf16",
    "enable_xformers_memory_efficient_attention": "it had no effect in the original, or made it fail; "
    "attention is memory-efficient here",
    "sequence_parallel_size": "use sequence_parallel to split the frames of a clip over processes",
}
TEXTS = {key for key, ours in RENAMED.items() if SETTINGS[ours].type is str} | {"dataset", "pretrained_model_path"}
KEYS = {*RENAMED, *COMBINED, *IGNORED}
DATA_SETS = {  # how their loaders make clips: whether they mirror half of them, and which frames they take
    "ffs": {"flip": True, "selection": "linspace"},
    "sky": {"flip": False, "selection": "crop"},
    "ucf101": {"flip": True, "selection": "linspace"},
    "taichi": {"flip": True, "selection": "crop"},
}
CLASSES = {1: False, 2: True}  # whether there are classes, by the value of `extras`


def is_original(values: dict) -> bool:
    """Whether settings are the original's: more of the keys are known only to the original than only to us."""
    ours = SETTINGS.keys()
    return len(values.keys() & (KEYS - ours)) > len(values.keys() & (ours - KEYS))


def translate(values: dict, ranks: int, on_cuda: bool) -> tuple[dict, list[str]]:
    """Translate the settings of the original.

    Args:
        values: The original's settings by key. Those that are None or false have no effect.
        ranks: The number of processes. local_batch_size is the batch of each, per step of gradient accumulation.
        on_cuda: Whether the run will compute on a GPU with CUDA, where the original's precision is "tf32".

    Returns:
        Our settings by name, and a note on each key that had no effect in the original or has none here.

    Raises:
        ValueError: A key is unknown or missing, or its value is not valid, such as a data set that the original lacks.
    """
    for key in values:
        if key not in KEYS:
            raise ValueError(
                unknown_key(str(key)[:100], sorted(KEYS), "the configurations in the original's configs/ folder")
            )
    present = {key: value for key, value in values.items() if value is not None}
    if missing := [key for key in REQUIRED if key not in present]:
        raise ValueError(f"{missing[0]} is missing")
    dataset = one_of("dataset", present["dataset"], [*DATA_SETS, *(f"{name}_img" for name in DATA_SETS)])
    extras = present["extras"]
    if extras == 78:
        raise ValueError("extras is 78: the original cannot train text-to-video models; use kind=t2v instead")
    local, accumulated = (
        positive_int(key, present.get(key, 1)) for key in ("local_batch_size", "gradient_accumulation_steps")
    )
    name = dataset.removesuffix("_img")
    settings = {
        **DATA_SETS[name],
        "transform": name,
        "latents": "step",
        "precision": "tf32" if on_cuda else "fp32",
        "vae": str(Path(str(present["pretrained_model_path"])) / "vae"),
        "model": model_fields(present["model"], present.get("learn_sigma", True)),
        "classes": CLASSES[one_of("extras", extras, CLASSES)],
        "global_batch_size": local * ranks * accumulated,
        "micro_batch_size": local if accumulated > 1 else 0,
    }
    for theirs, ours in RENAMED.items():
        if theirs in present:
            try:
                settings[ours] = typed(ours, present[theirs])
            except ValueError as error:
                raise ValueError(f"{theirs} (here: {ours}): {error}") from error
    notes = [f"{key}: {why}" for key, why in HAD_NO_EFFECT.items() if present.get(key)]
    notes += [f"{key}: ignored: {why}" for key, why in IGNORED.items() if present.get(key)]
    steps = f", in {accumulated} accumulation steps," if accumulated > 1 else ""
    batch = f"global_batch_size={settings['global_batch_size']}"
    notes.append(f"local_batch_size: {local} on each of {ranks} processes{steps} makes {batch}")
    return settings, notes


def one_of(key: str, value: Any, known: Iterable) -> Any:
    """Return the value of a key. Raises ValueError if it is not one of those known."""
    if isinstance(value, bool) or value not in list(known):
        raise ValueError(f"{key} is {shown(value)}, not one of {', '.join(map(str, known))}")
    return value


def positive_int(key: str, value: Any) -> int:
    """Return the value of a key. Raises ValueError if it is not a positive integer."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{key} is {shown(value)}; it must be a positive integer")
    return value


def model_fields(name: str, learn_sigma: bool) -> dict:
    """The fields of LatteConfig for a name like "Latte-XL/2". "LatteIMG-XL/2" is the same network."""
    config = LatteConfig.from_name(str(name).replace("LatteIMG-", "Latte-", 1))
    shape = {field: getattr(config, field) for field in ("depth", "hidden_size", "num_heads", "patch_size")}
    return {**shape, "learn_sigma": learn_sigma}
