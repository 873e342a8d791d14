"""Writing text-to-video folders in the published layout, which diffusers' LattePipeline loads."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latte.files import replacing_folder, write_json
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.t5 import T5Config, T5Encoder
from latte.models.vae_config import VAEConfig
from latte.sampling_settings import Sampling
from latte.scheduler import PUBLISHED, Scheduler
from latte.text.tokenizer import VOCABULARY_FILE, Tokenizer
from latte.weights.convert_t2v import FIXED, t2v_state_for_diffusers, t5_state_for_transformers
from latte.weights.find_models import PARTS, WEAKER
from latte.weights.folder import weights_name
from latte.weights.manifest import CONFIG, MANIFEST, read_manifest, write_manifest
from latte.weights.published import SCHEDULER_FILE, TEMPORAL_VAE, cast_weight, networks_of
from latte.weights.sampling_defaults import SAMPLING_FILE, save_sampling
from latte.weights.tensors import CheckpointError, write_tensors

MODEL_INDEX = "model_index.json"
DIFFUSERS_VERSION = "0.30.0"  # the first one with LattePipeline
DIFFUSERS_STEM = "diffusion_pytorch_model"  # of the names of weight files, where transformers has "model"
SENTINELS = 100  # tokens that transformers' T5Tokenizer adds after the vocabulary
SPACED = ("timestep_spacing", "steps_offset")
SECOND_ORDER = {"solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"}
SCHEDULER_ENTRIES: dict[str, tuple[tuple[str, ...], dict]] = {  # sampler: settings of its class; entries that it needs
    "ddim": ((*SPACED, "set_alpha_to_one"), {"clip_sample": False}),
    "ddpm": (SPACED, {"clip_sample": False}),
    "pndm": ((*SPACED, "set_alpha_to_one"), {"skip_prk_steps": True}),
    "dpm_multistep": (SPACED, SECOND_ORDER),
    "dpm_singlestep": ((), SECOND_ORDER),
    "deis": (SPACED, {"solver_order": 2, "algorithm_type": "deis", "solver_type": "logrho"}),
    "euler": (SPACED, {"interpolation_type": "linear"}),
    "euler_ancestral": (SPACED, {}),
    "heun": (SPACED, {}),
    "kdpm2_ancestral": (SPACED, {}),
}


def save_published(
    folder: str | Path,
    parts: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    sampling: Sampling | None = None,
    variant: str | None = None,
) -> Path:
    """Write a folder that diffusers' LattePipeline.from_pretrained loads, and our own from_pretrained too.

    A part that is None or absent is left out and is null in model_index.json; diffusers then needs None passed for it
    too. The folder is written completely or not at all. Samplers of diffusers ignore a variance that the network
    learned, so its DDPMScheduler samples differently from our "ddpm".

    Args:
        folder: Where to write; it must be new, empty, or a folder that this function wrote before.
        parts: Parts by the names in PARTS, as a pipeline's `components`; and, as Latte-1 has it, a second autoencoder
            vae_temporal_decoder, and a weaker model, which get a subfolder but no entry in the index.
        dtype: The type to convert the weights to; None keeps their own types. In half precision, T5's `wo` stays in
            float32, as transformers keeps it too.
        sampling: The defaults for sampling.json, which only our pipeline reads; None writes no such file.
        variant: A word for the names of the weight files, such as "fp16"; None writes the plain names.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder holds something else, or a weight overflows `dtype`. Nothing was changed.
        ValueError: A part has no published form.
    """
    folder = Path(folder)
    check_published_target(folder)
    transformer, text_encoder, tokenizer, scheduler = (
        parts.get(name) for name in ("transformer", "text_encoder", "tokenizer", "scheduler")
    )
    networks = networks_of(parts)
    configs = {name: published_config(network) for name, network in networks.items()}
    if scheduler is not None:
        prediction = "eps" if transformer is None else transformer.config.prediction
        configs["scheduler"] = scheduler_config(scheduler, prediction)
    with replacing_folder(folder) as draft:
        for name, network in networks.items():
            save_network(network, configs[name], draft / name, dtype, variant)
        if scheduler is not None:
            write_json(draft / "scheduler" / SCHEDULER_FILE, configs["scheduler"])
            write_manifest(draft / "scheduler", [SCHEDULER_FILE])
        if tokenizer is not None:
            save_tokenizer(tokenizer, text_encoder, draft / "tokenizer")
        if sampling is not None:
            save_sampling(sampling, draft)
        write_json(draft / MODEL_INDEX, model_index(configs, tokenizer is not None))
    return folder


def check_published_target(folder: Path) -> None:
    """Raise CheckpointError if the folder holds anything that save_published did not write."""
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.exists() else set()
    if not names:
        return
    parts = [folder / name for name in names & {*PARTS, TEMPORAL_VAE, WEAKER}]
    try:
        ours = MODEL_INDEX in names and names - {part.name for part in parts} <= {MODEL_INDEX, SAMPLING_FILE}
        for part in parts:
            ours = ours and {path.name for path in part.iterdir()} == {*read_manifest(part), MANIFEST}
    except (ValueError, OSError):
        ours = False
    if not ours:
        raise CheckpointError(f"{folder} is not empty and not a published folder written here; choose a new folder")


def model_index(configs: dict[str, dict], has_tokenizer: bool) -> dict:
    """Return the table of model_index.json: for every part its library and class, or two nulls."""
    classes = {name: ("diffusers", config.get("_class_name")) for name, config in configs.items()}
    if "text_encoder" in configs:
        classes["text_encoder"] = ("transformers", "T5EncoderModel")
    if has_tokenizer:
        classes["tokenizer"] = ("transformers", "T5Tokenizer")
    parts = {name: list(classes.get(name, (None, None))) for name in sorted(PARTS)}
    return {"_class_name": "LattePipeline", "_diffusers_version": DIFFUSERS_VERSION, **parts}


def published_config(network: nn.Module) -> dict:
    """Return the table of a network's published config.json. Raises ValueError if it has no published form."""
    kinds: dict[type, Callable] = {LatteT2VConfig: transformer_config, VAEConfig: vae_config, T5Config: t5_config}
    return kinds[type(network.config)](network.config)


def transformer_config(config: LatteT2VConfig) -> dict:
    """Return the entries of LatteTransformer3DModel, and our "prediction" for a v-model, which diffusers ignores.

    Raises:
        ValueError: The network is self-conditioned, which diffusers' never is.
    """
    sizes = asdict(config)
    prediction = sizes.pop("prediction")
    if sizes.pop("self_condition"):
        raise ValueError("diffusers' Latte has no self-conditioning and cannot load this model")
    constants = {name: value for name, value in FIXED.items() if not name.endswith("_attention")}
    return {
        "_class_name": "LatteTransformer3DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        **constants,
        **sizes,
        "cross_attention_dim": config.hidden_size,
        "dropout": 0.0,
        "num_embeds_ada_norm": 1000,
        **({} if prediction == "eps" else {"prediction": prediction}),
    }


def vae_config(config: VAEConfig) -> dict:
    """Return the entries of AutoencoderKL or AutoencoderKLTemporalDecoder."""
    sizes, levels = asdict(config), len(config.block_out_channels)
    common = {"down_block_types": ["DownEncoderBlock2D"] * levels, "force_upcast": True}
    if not sizes.pop("temporal_decoder"):
        plain = {"up_block_types": ["UpDecoderBlock2D"] * levels, "act_fn": "silu"}
        return {"_class_name": "AutoencoderKL", "_diffusers_version": DIFFUSERS_VERSION, **sizes, **common, **plain}
    if (groups := sizes.pop("norm_num_groups")) != VAEConfig.norm_num_groups:
        raise ValueError(f"norm_num_groups is {groups}; diffusers' temporal decoder has {VAEConfig.norm_num_groups}")
    name = "AutoencoderKLTemporalDecoder"
    return {"_class_name": name, "_diffusers_version": DIFFUSERS_VERSION, **sizes, **common}


def t5_config(config: T5Config) -> dict:
    """Return the entries of transformers' T5EncoderModel, for a T5 v1.1."""
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        **asdict(config),
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
        "dropout_rate": 0.1,
        "is_encoder_decoder": False,
        "use_cache": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def scheduler_config(scheduler: Scheduler, prediction: str) -> dict:
    """Return the table of a published scheduler_config.json.

    Args:
        scheduler: The scheduler.
        prediction: What the network predicts, "eps", "v" or "flow".

    Raises:
        ValueError: The sampler's class in diffusers does not support this timestep spacing or fixed_stride=False, or
            the scheduler is for a flow.
    """
    if scheduler.flow or prediction == "flow":
        raise ValueError("diffusers' Latte has no scheduler for a flow: keep this project's layout")
    classes = {sampler: name for name, sampler in PUBLISHED.items()}
    settings, entries = SCHEDULER_ENTRIES[scheduler.sampler]
    spacings = ("leading", "trailing", "linspace") if settings else ("linspace",)
    if scheduler.timestep_spacing not in spacings:
        raise ValueError(
            f"diffusers' {classes[scheduler.sampler]} has no timestep_spacing {scheduler.timestep_spacing!r}; "
            f"choose one of {', '.join(spacings)}"
        )
    if "set_alpha_to_one" in settings and not scheduler.fixed_stride:
        raise ValueError(f"diffusers' {classes[scheduler.sampler]} has no fixed_stride=False: set it to True")
    names = ("num_train_timesteps", "beta_start", "beta_end", *settings)
    return {
        "_class_name": classes[scheduler.sampler],
        "_diffusers_version": DIFFUSERS_VERSION,
        "beta_schedule": "linear",
        "prediction_type": "v_prediction" if prediction == "v" else "epsilon",
        **{name: getattr(scheduler, name) for name in names},
        **entries,
    }


def save_network(
    network: nn.Module, config: dict, folder: Path, dtype: torch.dtype | None, variant: str | None
) -> None:
    """Write the config.json, weights and manifest of one part."""
    file = weights_name(variant)
    if not isinstance(network, T5Encoder):
        file = DIFFUSERS_STEM + file.removeprefix("model")
    if isinstance(network, LatteT2V):
        state = t2v_state_for_diffusers(network)
    elif isinstance(network, T5Encoder):
        state = t5_state_for_transformers(network)
    else:
        state = network.state_dict()  # our autoencoders have the published names
    if dtype is not None:
        state = {name: cast_weight(name, tensor, dtype) for name, tensor in state.items()}
    write_tensors(folder / file, state)
    write_json(folder / CONFIG, config)
    write_manifest(folder, [CONFIG, file])


def save_tokenizer(tokenizer: Tokenizer, text_encoder: T5Encoder | None, folder: Path) -> None:
    """Write the files of transformers' T5Tokenizer, with no more sentinel tokens than the text encoder has rows for."""
    spare = SENTINELS if text_encoder is None else text_encoder.config.vocab_size - len(tokenizer)
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    sizes = {"extra_ids": max(0, min(SENTINELS, spare)), "model_max_length": 512}
    tokenizer.save(folder)
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", **special, **sizes})
    write_manifest(folder, [VOCABULARY_FILE, "special_tokens_map.json", "tokenizer_config.json"])
