"""The configuration of a distillation, derived from the teacher as far as possible."""

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latte.files import read_json
from latte.models.latte_t2v import LatteT2VConfig, TextToVideoConfig
from latte.models.t5 import T5Config
from latte.sampling_settings import Guidance
from latte.train.config import LatteTrainConfig, T2VTrainConfig, TrainConfig
from latte.train.config_tables import complete, from_settings
from latte.train.data.latent_files import open_latent_folder
from latte.train.data.latents import SOURCES
from latte.train.resolve import read_settings, with_changes
from latte.train.run_folder import SETTINGS_FILE
from latte.train.settings import require
from latte.weights.convert_t2v import t2v_config
from latte.weights.find_models import FINAL, bundled_models, is_checkpoint, is_text_pipeline, model_root, own_vae
from latte.weights.folder import read_config
from latte.weights.hub import find_pipeline
from latte.weights.load import load_model
from latte.weights.manifest import CONFIG
from latte.weights.sampling_defaults import TEXT_GUIDANCE, load_sampling, own_weaker, usual_guidance
from latte.weights.shared_parts import bundled_name, part_folder
from latte.weights.vae_folder import load_vae

TRAINING = {"steps": 2000, "warmup": 100, "ema_decay": 0.99}
FOLLOWING_MOMENTUM = 0.5  # of Muon, where one network follows another
RATES = {"consistency": 3e-4, "moments": 5e-5}  # the learning rate of each kind of distillation
DATA = ("data", "clips", "latents", "sample_latents", "frame_interval", "motion_frames", "selection", "transform")
DATA += ("flip", "damaged", "failed_share", "num_workers")  # settings of the data that a teacher learned from
UNLIKE = ("self_condition",)  # fields of the teacher's network that a student does not share


def student_config(
    teacher: str,
    steps: int,
    changes: list[str],
    scale: float | None = None,
    interval: tuple[float, float] | None = None,
) -> TrainConfig:
    """The settings of training a student: the teacher's network and VAE, the size of its videos, and its guidance.

    Args:
        teacher: The model, as latte.LattePipeline.from_pretrained takes it.
        steps: Sampling steps of the student.
        changes: Settings as on the command line.
        scale: Scale of classifier-free guidance that the student learns; None: the guidance of the teacher's folder,
            which may be autoguidance.
        interval: The timesteps between which the teacher is guided; None: those of its folder.

    Raises:
        ValueError: The model does not exist, a student cannot learn from it, or a setting does not fit.
    """
    path = find_pipeline(teacher)
    name = teacher if teacher in bundled_models() or Path(teacher).exists() else str(path)
    of_text = is_text_pipeline(path)
    values = data_settings(path) | (text_settings(path) if of_text else class_settings(path))
    guides = of_text or bool(values["classes"])
    usual = TEXT_GUIDANCE if of_text else values.pop("usual_guidance")
    sampling = load_sampling(model_root(path), usual)
    away = scale is None and own_weaker(path, sampling) is not None
    values |= guidance_settings(path, sampling.guidance.asked(away=away), scale, interval, guides, away)
    if (vae := own_vae(path)) is not None:
        values |= {"vae": bundled_name(vae) or str(vae)}
        values["image_size"] = values.pop("latent_side") * load_vae(vae).factor
    values.pop("latent_side", None)
    values |= {"teacher": name, "init": name, "student_steps": steps, **TRAINING}
    values = with_changes(values, changes)
    kind = values.get("distillation", "consistency")
    values.setdefault("learning_rate", RATES.get(kind, RATES["consistency"]))  # another kind is rejected below
    if kind == "moments" and values.get("optimizer") == "muon":
        values.setdefault("muon_momentum", FOLLOWING_MOMENTUM)
    if kind == "consistency":
        values.setdefault("teacher_steps", max(1, round(64 / steps)) * steps)
    known = "data" in values or values.get("latents", "once") not in SOURCES
    require(known, f"{teacher} does not say which data it was trained on: give data=... or latents=...")
    require(bool(values.get("vae")), f"{teacher} comes without a VAE: name its folder, vae=...")
    latents = values.get("latents", "once")
    if of_text and latents not in SOURCES and open_latent_folder(Path(latents)).has_text:
        values.pop("text_encoder", None)
    return from_settings(values)


def data_settings(path: Path) -> dict[str, Any]:
    """Settings of the data that a teacher learned from, if its folder or its run folder records them."""
    run = path.parent if path.name == FINAL else model_root(path)
    for file in (run / SETTINGS_FILE, path / "training.yaml"):
        if file.is_file() and "kind" in (values := read_settings(str(file))):
            return {name: value for name, value in complete(values).items() if name in DATA}
    return {}


def class_settings(path: Path) -> dict[str, Any]:
    """Settings that follow from a class-conditional or unconditional teacher."""
    config = load_model(path).config
    dropped = {"class_dropout_prob": 0.0} if config.num_classes else {}
    return {
        "kind": LatteTrainConfig.kind,
        "model": own_fields(config, LatteTrainConfig.derived, *UNLIKE) | dropped,
        "classes": bool(config.num_classes),
        "num_frames": config.num_frames,
        "latent_side": config.input_size,
        "usual_guidance": usual_guidance(config),
    }


def text_settings(path: Path) -> dict[str, Any]:
    """Settings that follow from a text-to-video teacher."""
    encoder: T5Config | None = None
    if is_checkpoint(path):
        both = "text_encoder" in read_json(path / CONFIG)
        read = read_config(path, (TextToVideoConfig if both else LatteT2VConfig).from_dict)
        config, encoder = (read.transformer, read.text_encoder) if both else (read, None)
    else:
        config = read_config(path / "transformer", t2v_config)
        if (folder := part_folder(path, "text_encoder")).is_dir():
            encoder = read_config(folder, T5Config.from_dict)
    return {
        "kind": T2VTrainConfig.kind,
        "model": own_fields(config, T2VTrainConfig.derived, *UNLIKE),
        "text_encoder": {} if encoder is None else own_fields(encoder, ("vocab_size",)),
        "num_frames": config.video_length,
        "latent_side": config.sample_size,
    }


def own_fields(config: Any, derived: Collection[str], *others: str) -> dict[str, Any]:
    """The fields of a network's configuration, without those that follow from the data, and without some others."""
    return {name: value for name, value in asdict(config).items() if name not in (*derived, *others)}


def guidance_settings(
    path: Path, own: Guidance, scale: float | None, interval: tuple[float, float] | None, guides: bool,
    away: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Settings of the guidance that the student learns; `away` means away from the teacher's weaker model.

    Raises:
        ValueError: The teacher is guided in a way that a student cannot learn, or cannot be guided.
    """
    if not guides and not away:
        if scale not in (None, 1) or interval is not None:
            raise ValueError(f"{path} is unconditional: it has no condition to guide with; leave --cfg-scale out")
        return {}
    if scale is None and (own.method != "cfg" or own.schedule != "constant"):
        how = own.method if own.method != "cfg" else f"a schedule, {own.schedule}"
        raise ValueError(f"{path} is guided by {how}; a student learns plain guidance: give --cfg-scale")
    guidance = Guidance(own.strength if scale is None else scale, own.interval if interval is None else interval)
    if guidance.scale == 1:
        return {}
    low, high = guidance.interval or (0.0, 1000.0)
    found = {"teacher_guidance": float(guidance.scale), "guided_from": float(low), "guided_to": float(high)}
    return found | ({"teacher_autoguidance": True} if away else {})
