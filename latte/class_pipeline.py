"""From classes to videos: a Latte, a VAE and a sampler behind one call, in diffusers' words."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from latte.diffusion.guidance import guided, predicting_noise
from latte.diffusion.randomness import normal
from latte.diffusion.schedule import Schedule, linear_schedule, respace
from latte.files import read_json
from latte.models.latte import Latte
from latte.models.vae import VideoVAE
from latte.pipeline import (
    MOST_VIDEOS,
    OUTPUT_TYPES,
    LatteOutput,
    LattePipeline,
    as_output,
    check_choice,
    check_count,
    check_vae,
    told,
)
from latte.scheduler import ALL, Scheduler
from latte.weights.hub import find_vae
from latte.weights.load import find_model, load_model, model_root, own_vae
from latte.weights.sampling_defaults import Guidance, Sampling, check_interval, load_sampling
from latte.weights.vae_folder import load_vae

GUIDANCE = 4.0  # scale where none is asked for


class ClassPipeline(LattePipeline):
    """Class-conditional or unconditional video generation. Its parts: `transformer`, `vae`, `class_names`."""

    made_of = "classes, or unconditional"

    def __init__(self, transformer: Latte, vae: VideoVAE | None = None, class_names: list[str] | None = None):
        self.transformer, self.vae, self.class_names = transformer.eval(), vae, class_names or []
        knows = transformer.config.num_classes and transformer.config.class_dropout_prob
        self.sampling = Sampling(Guidance(GUIDANCE if knows else 1.0))
        check_vae(vae, transformer)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        vae: str | Path | VideoVAE | None = None,
        torch_dtype: torch.dtype | None = None,
        weights: str = "ema",
        num_heads: int | None = None,
    ) -> "ClassPipeline":
        """Read a model (anything that latte.load_model takes, or a shipped name) and its VAE.

        vae: a folder, a shipped name or a VideoVAE; None: the folder `vae` inside the model's, where there is one, or
        of a checkpoint, inside the run's.
        """
        path = find_model(path)
        transformer = load_model(path, num_heads, weights)
        vae = own_vae(path) if vae is None else vae
        if isinstance(vae, str | Path):
            vae = load_vae(find_vae(vae, path))
        names = read_classes(path / "classes.json", transformer.config.num_classes)
        pipe = cls(transformer, vae, names)
        pipe.sampling = load_sampling(model_root(path), pipe.sampling.guidance.scale)
        return pipe if torch_dtype is None else pipe.to(dtype=torch_dtype)

    def class_index(self, label: int | str) -> int:
        """A class by number or name; ValueError lists the classes."""
        count = self.transformer.config.num_classes
        if isinstance(label, str) and label in self.class_names:
            return self.class_names.index(label)
        text = str(label)
        if not text.lstrip("-").isdecimal() or not 0 <= int(text) < count:
            known = ", ".join(f"{i} {name}" for i, name in enumerate(self.class_names)) or f"0 to {count - 1}"
            raise ValueError(f"no class {label!r}; the classes are {known}")
        return int(text)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: list[int | str] | int | str | None = None,
        num_videos: int | None = None,
        num_inference_steps: int | str | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        seed: int = 0,
        sampler: str = "ddim",
        eta: float | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        batch_size: int = 1,
        first: int = 0,
        output_type: str = "np",
        progress: bool = False,
        callback_on_step_end: Callable | None = None,
    ) -> LatteOutput:
        """Make one video per class label, or num_videos (None: one) of an unconditional model.

        num_inference_steps: a count, or a respacing such as "ddim50"; sampler: "ddim" (with eta) or another of
        latte.scheduler.ALL.
        height, width: of the pixels; None, and num_frames None: as the model was trained. guidance_scale 1: none; None:
        what the model's folder says, or GUIDANCE, or none without classes that were dropped in training.
        guidance_interval: timesteps between which it guides; None: the folder's, or all.
        output_type: "np" (b, f, h, w, 3) float in [0, 1], "pt" (b, f, 3, h, w) float in [0, 1], "uint8" (b, f, 3, h, w)
        bytes, "pil" lists of images, "latent" (b, c, f, h, w), diffusers' order.
        Video i depends on (seed, i) and its label alone: work goes in units of batch_size, the last one filled up, so
        that asking for more videos, or for fewer, changes no bit of the others; another batch_size rounds differently.
        first: the number of the first video, so that a call makes a part of what a larger one makes: the same bits
        where it is a multiple of batch_size.
        callback_on_step_end: see latte.pipeline.told.
        Raises ValueError for labels, sizes or options that the model does not have.
        """
        guidance = self.sampling.guidance.asked(guidance_scale, guidance_interval)
        eta = self.sampling.eta_of(sampler, eta)
        steps = self.sampling.num_inference_steps if num_inference_steps is None else num_inference_steps
        self.check(class_labels, num_videos, guidance.scale, sampler, eta, batch_size, first, output_type)
        labels = self.labels(class_labels, num_videos)
        cfg = self.transformer.config
        trained = cfg.num_frames, cfg.input_size
        shape = self.latent_shape("num_frames", num_frames, height, width, *trained, cfg.tubelet)
        schedule = respace(linear_schedule(), str(steps))
        if guidance.interval != self.sampling.guidance.interval:
            check_interval(guidance.interval, schedule.timesteps.tolist())
        numbers = range(first, first + len(labels))
        units = [range(i, i + batch_size) for i in numbers[::batch_size]]
        done = []
        with tqdm(total=len(units) * len(schedule), disable=not progress, unit="step", desc="sampling") as bar:

            def after(step: int, t: float, x: Tensor) -> None:
                bar.update()
                told(self, callback_on_step_end, step, t, x)

            for unit in units:
                y = [labels[min(i, numbers[-1]) - first] for i in unit]
                x = self.latents(unit, y, shape, schedule, guidance, seed, Scheduler(sampler), eta, after)
                done.append(self.decode(x[: numbers.stop - unit.start], output_type))
        return LatteOutput(as_output(torch.cat(done), output_type))

    def latents(
        self,
        unit: range,
        y: list[int],
        shape: tuple,
        schedule: Schedule,
        guidance: Guidance,
        seed: int,
        scheduler: Scheduler,
        eta: float,
        after: Callable[[int, float, Tensor], None],
    ) -> Tensor:
        """The latents (b, f, c, h, w) of the videos numbered in `unit`, of classes y; float32."""
        x = torch.stack([normal(shape, seed, i, 0) for i in unit]).to(self.device)
        model, classes = self.transformer, self.transformer.config.num_classes
        if model.config.prediction == "v":
            model = predicting_noise(model, linear_schedule())
        if classes:
            label = torch.tensor(y, device=self.device)
            model = guided(model, label, torch.full_like(label, classes), guidance.scale, guidance.interval)
        fresh = lambda step: torch.stack([normal(shape, seed, i, step + 1) for i in unit])
        return self.denoise(model, x, partial(scheduler.run, eta=eta), schedule, fresh, after)

    def check(
        self,
        class_labels,
        num_videos: int | None,
        guidance_scale: float,
        sampler: str,
        eta: float,
        batch_size: int,
        first: int,
        output_type: str,
    ) -> None:
        """One clear ValueError for a value or a combination that this model does not have."""
        cfg = self.transformer.config
        check_choice("output_type", output_type, OUTPUT_TYPES)
        check_choice("sampler", sampler, ALL)
        check_count("batch_size", batch_size, 4096)
        check_count("first", first, MOST_VIDEOS, 0)
        if num_videos is not None:
            check_count("num_videos", num_videos, MOST_VIDEOS)
        if guidance_scale != 1 and not cfg.num_classes:
            raise ValueError("this model is unconditional: there is nothing to guide it, leave guidance_scale out")
        if guidance_scale != 1 and not cfg.class_dropout_prob:
            raise ValueError("this model was trained without label dropout, so it knows no guidance: guidance_scale 1")
        if not 0 <= eta <= 1 or (eta and sampler != "ddim"):
            raise ValueError(f"eta is {eta}; it must be in 0 to 1, and is ddim's alone")
        if self.vae is None and output_type != "latent":
            raise ValueError("this model has no VAE to decode with: name one (vae), or take output_type='latent'")
        if cfg.num_classes and class_labels is None:
            raise ValueError(f"this model has {cfg.num_classes} classes: give class_labels")
        if class_labels is not None and num_videos is not None:
            raise ValueError("there is one video per label: repeat labels, and leave num_videos out")
        if not cfg.num_classes and class_labels is not None:
            raise ValueError("this model is unconditional: give num_videos, not class_labels")

    def labels(self, class_labels, num_videos: int | None) -> list[int]:
        """One class index per video; zeros where there are no classes."""
        if class_labels is None:
            return [0] * (num_videos or 1)
        several = class_labels if isinstance(class_labels, list | tuple) else [class_labels]
        if not several:
            raise ValueError("class_labels is empty: name at least one class")
        return [self.class_index(label) for label in several]


def read_classes(path: Path, count: int) -> list[str]:
    """The names in a classes.json; none where there is no such file. ValueError: not `count` different names."""
    if not path.is_file():
        return []
    names = read_json(path).get("names")
    good = isinstance(names, list) and all(isinstance(name, str) and name and name.isprintable() for name in names)
    if not good or len(set(names)) != len(names) or len(names) != count:
        raise ValueError(f'{path} must hold {{"names": [...]}} with {count} different names, as the model has classes')
    return names
