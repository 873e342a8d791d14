"""Conditioning by classes, or by nothing: the labels of a call, and the guided network of a class-conditional Latte."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from latte.arguments import MOST_VIDEOS, check_count
from latte.conditioning import Request
from latte.files import read_json
from latte.guided_denoiser import GuidedDenoiser, Network, guided_denoiser
from latte.models.latte import LatteConfig
from latte.network_forms import fast_run, runs_fast
from latte.plans.layer_cache import LayerCache
from latte.plans.records import Plan
from latte.sampling_settings import Guidance
from latte.scheduler import usual_scheduler
from latte.weights.find_models import WEAKER, find_model, model_root, own_vae
from latte.weights.hub import find_vae
from latte.weights.latte_folder import CLASSES_FILE, save_latte
from latte.weights.load import load_model
from latte.weights.published import load_scheduler
from latte.weights.sampling_defaults import load_sampling, own_weaker, usual_guidance
from latte.weights.vae_folder import load_vae

if TYPE_CHECKING:
    from latte.pipeline import LattePipeline

ORIGINAL_SCHEDULER = usual_scheduler("eps", "even")  # the original Latte's respacing
OF_TEXT = (
    *("prompt_embeds", "negative_prompt_embeds", "clean_caption", "mask_feature", "text_mask"),
    "enable_temporal_attentions",
)


class ClassConditioning:
    """Conditioning for a Latte with classes, or an unconditional one."""

    components: tuple[str, ...] = ("transformer", "vae", "scheduler", "class_names")
    tensors: tuple[str, ...] = ()

    def trained_size(self, config: LatteConfig) -> tuple[int, int]:
        """(frames, side of the latents) that a model was trained at."""
        return config.num_frames, config.input_size

    def describe(self, transformer: Any) -> str:
        """What the model makes videos for, in words."""
        return "classes" if transformer.config.num_classes else "unconditional sampling"

    def check_parts(self, pipe: "LattePipeline") -> None:
        """Raise ValueError if a part belongs to a text-to-video model."""
        for name in ("text_encoder", "tokenizer"):
            if getattr(pipe, name) is not None:
                raise ValueError(
                    f"{name} belongs to a text-to-video model; this one is for {self.describe(pipe.transformer)}"
                )

    def check_request(
        self, pipe: "LattePipeline", request: Request, guidance: Guidance, given: Sequence[str] = ()
    ) -> int:
        """The number of videos; raises ValueError for arguments that this model does not have."""
        cfg, labels = pipe.transformer.config, asked_labels(request)
        if request.negative_prompt:
            raise ValueError("negative_prompt is for text-to-video models: leave it out")
        request.check_unused(OF_TEXT, "a model of classes, or an unconditional one")
        if request.num_videos is not None:
            check_count("num_videos", request.num_videos, MOST_VIDEOS)
        unconditional = guidance.guides and pipe.weaker is None  # whether guidance needs predictions without a class
        if unconditional and not cfg.num_classes:
            raise ValueError("this model is unconditional: it has no condition to guide with; leave guidance_scale out")
        if unconditional and not cfg.class_dropout_prob:
            raise ValueError(
                "this model was trained without label dropout, so it cannot be guided: set guidance_scale=1"
            )
        if cfg.num_classes and labels is None:
            raise ValueError(f"this model has {cfg.num_classes} classes: give class_labels")
        if not cfg.num_classes and labels is not None:
            named = "class_labels" if request.prompt is None else "a prompt"
            raise ValueError(f"this model is unconditional: give num_videos, not {named}")
        if labels is not None and request.num_videos is not None:
            raise ValueError("there is one video per label: repeat labels, and leave num_videos out")
        return len(class_indices(pipe, request))

    def save(self, pipe: "LattePipeline", folder: str | Path, published: bool, variant: str | None) -> None:
        """Write the parts as a folder; raises ValueError for the published layout, which has no such models."""
        if published:
            raise ValueError(
                "diffusers has no class-conditional or unconditional Latte: leave out published, or write the "
                "original's file with `latte convert --to original`"
            )
        usual = usual_scheduler(pipe.transformer.config.prediction, "even")
        scheduler = None if pipe.scheduler == usual else pipe.scheduler
        own = (pipe.class_names, pipe.saved_sampling, scheduler)
        save_latte(folder, pipe.transformer, pipe.vae, *own, weaker=pipe.weaker, variant=variant)

    def guides(self, pipe: "LattePipeline", guidance: Guidance) -> bool:
        """Whether a call is guided."""
        return guidance.guides and (bool(pipe.transformer.config.num_classes) or pipe.weaker is not None)

    def denoisers(
        self, pipe: "LattePipeline", request: Request, guidance: Guidance, plan: Plan,
        scales: Sequence[float] | None = None,
    ) -> Callable[[Sequence[int]], GuidedDenoiser]:  # fmt: skip
        """The network, guided towards each video's class."""
        classes, labels = pipe.transformer.config.num_classes, class_indices(pipe, request)
        with_null = self.guides(pipe, guidance) and pipe.weaker is None

        def denoiser(rows: Sequence[int]) -> GuidedDenoiser:
            y = None
            if classes:
                given = [labels[i] for i in rows]
                y = torch.tensor(given + [classes] * len(given) * with_null, device=pipe.device)
            network_of = lambda network, plan, cache: class_network(pipe, network, y, plan, cache)
            return guided_denoiser(pipe, network_of, guidance, plan, scales)

        return denoiser


def class_network(
    pipe: "LattePipeline", network: Any, y: Tensor | None, plan: Plan, cache: LayerCache | None
) -> tuple[Network, bool]:
    """A network at the evaluations of a plan, for classes y (n,) or none; and whether it is the fast form."""
    times = plan.times(pipe.device)
    if runs_fast(pipe, network, plan):
        every = torch.repeat_interleave(times, 1 if y is None else len(y))
        condition = network.class_condition(network.condition(every, None if y is None else y.repeat(len(plan))))
        return fast_run(pipe, network, condition, plan, cache), True

    def plain(x: Tensor, k: int, halves: int) -> Tensor:
        x = torch.cat([x] * halves)
        return network(x, times[k].expand(len(x)), *(() if y is None else (y[: len(x)],)))

    return plain, False


def asked_labels(request: Request) -> Sequence[int | str] | int | str | None:
    """The labels that a call gives as class_labels, or as its first argument."""
    if request.prompt is not None and request.class_labels is not None:
        raise ValueError(
            "prompt (the first argument) and class_labels are given: this model takes classes, leave prompt out"
        )
    return request.class_labels if request.prompt is None else request.prompt


def class_indices(pipe: "LattePipeline", request: Request) -> list[int]:
    """One class index per video, copies of a label side by side; zeros for an unconditional model."""
    labels = asked_labels(request)
    if labels is None:
        return [0] * ((request.num_videos or 1) * request.copies)
    labels = labels.tolist() if hasattr(labels, "tolist") else labels  # arrays, tensors and their numbers
    several = list(labels) if isinstance(labels, Iterable) and not isinstance(labels, str) else [labels]
    if not several:
        raise ValueError("class_labels is empty: name at least one class")
    what = "" if request.prompt is None else " (given as prompt, but this model takes classes)"
    return [class_index(label, pipe, what) for label in several for _ in range(request.copies)]


def class_index(label: int | str, pipe: "LattePipeline", what: str = "") -> int:
    """A class by number or name; raises ValueError, which lists the classes, if there is no such class.

    `what` is text for the message, behind the label, on how the label was given.
    """
    count = pipe.transformer.config.num_classes
    if isinstance(label, str) and label in pipe.class_names:
        return pipe.class_names.index(label)
    text = str(label)
    if not text.isdecimal() or not int(text) < count:
        known = ", ".join(f"{i} {name}" for i, name in enumerate(pipe.class_names)) or f"0 to {count - 1}"
        raise ValueError(f"no class {label!r}{what}; the classes are {known}")
    return int(text)


def read_class_parts(
    path: Path, parts: dict[str, Any], dtype: torch.dtype, weights: str, num_heads: int | None,
    variant: str | None = None, local_files_only: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Read the parts of a class-conditional model that `parts` does not name.

    Args:
        path: Anything that latte.load_model takes.
        parts: Parts by name; a VAE may be given as the name of a folder.
        dtype: The dtype of the weights that are read.
        weights: "ema" or "model", if a checkpoint holds both.
        num_heads: Number of attention heads, for an original file of an unpublished width.
        variant: The variant of the weight files, see latte.weights.state_files.
        local_files_only: Look up a VAE on the hub in the cache only.

    Returns:
        The parts, and under "sampling" the model folder's sampling defaults.

    Raises:
        CheckpointError: A part is missing, damaged or does not fit.
    """
    path = find_model(path)
    if "transformer" in parts:
        transformer = parts["transformer"]
    else:
        transformer = load_model(path, num_heads, weights, variant).to(dtype)
    if transformer is None:
        raise ValueError("a class-conditional pipeline cannot leave its transformer out")
    vae = parts["vae"] if "vae" in parts else own_vae(path)
    if isinstance(vae, str | Path):
        vae = load_vae(find_vae(vae, path, local_files_only), dtype, variant)
    names = read_classes(path / CLASSES_FILE, transformer.config.num_classes)
    root = model_root(path)
    sampling = load_sampling(root, usual_guidance(transformer.config))
    if (root / "scheduler").is_dir():
        parts = {"scheduler": load_scheduler(root / "scheduler"), **parts}
    if WEAKER not in parts and (folder := own_weaker(path, sampling)) is not None:
        parts = {WEAKER: load_model(folder, variant=variant).to(dtype), **parts}
    return {"class_names": names, **parts, "transformer": transformer, "vae": vae, "sampling": sampling}


def read_classes(path: Path, count: int) -> list[str]:
    """The names in a classes.json; an empty list if there is no such file.

    Raises:
        ValueError: The file does not hold `count` different names.
    """
    if not path.is_file():
        return []
    names: Any = read_json(path).get("names")
    good = isinstance(names, list) and all(isinstance(name, str) and name and name.isprintable() for name in names)
    if not good or len(set(names)) != len(names) or len(names) != count:
        raise ValueError(f'{path} must hold {{"names": [...]}} with {count} different names, as the model has classes')
    return names
