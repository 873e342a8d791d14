"""The models on the `latte demo` page: each is opened when it is first used, and makes one video at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from torch import Tensor

from latte.demo.sample_settings import NOTHING, Opening, Settings, call_words, reusing
from latte.device import default_device, usable_device
from latte.outputs import require_vae
from latte.pipeline import LattePipeline
from latte.plans.cost import network_cost
from latte.plans.picture import draw_plan
from latte.sampling_call import call_plan
from latte.weights.hub import find_pipeline
from latte.weights.tensors import DTYPES

TOKENS = 120  # of a prompt, for counting FLOPs, as in `latte plan`
OnStep = Callable[[int, int], bool]  # (steps done, all steps) -> whether to continue


@dataclass(frozen=True)
class MadeVideo:
    """A video, uint8 (f, 3, h, w), and the seconds that it took."""

    frames: Tensor
    seconds: float


class OpenedModels:
    """Models by name, each opened at most once.

    Args:
        names: Names or paths of models.
        opening: How they are opened.
        local_files_only: See LattePipeline.from_pretrained.

    Raises:
        CheckpointError: There is no model with this name.
    """

    def __init__(self, names: Sequence[str], opening: Opening, local_files_only: bool = True):
        self.names, self.opening, self.local_files_only = list(dict.fromkeys(names)), opening, local_files_only
        self.device = usable_device(opening.device or default_device())
        self.pipes: dict[str, LattePipeline] = {}
        self.lock = Lock()
        for name in self.names:
            find_pipeline(name, local_files_only)

    def pipe(self, name: str) -> LattePipeline:
        """An open model.

        Raises:
            ValueError: It is not a model of the page, or has no VAE. CheckpointError: It cannot be read.
        """
        if name not in self.names:
            raise ValueError(f"{name!r} is not a model of this page, which has {', '.join(self.names)}")
        if name not in self.pipes:
            vae: dict[str, Any] = {} if self.opening.vae is None else {"vae": self.opening.vae}
            given = {"dtype": DTYPES[self.opening.dtype], "local_files_only": self.local_files_only, **vae}
            pipe = LattePipeline.from_pretrained(name, **given)
            require_vae(pipe.vae, name)
            self.pipes[name] = pipe.to(self.device)
        return self.pipes[name]

    def draw(self, settings: Settings, out: Path) -> str:
        """Draw the plan of what sampling computes, as `latte plan` does.

        Args:
            settings: The settings of a video.
            out: The picture to write.

        Returns:
            One line about its FLOPs.

        Raises:
            ValueError: The settings do not go together.
        """
        with self.lock:
            pipe = self.pipe(settings.model)
            words = call_words(pipe, settings)
            exact = call_plan(pipe, words)
            with reusing(pipe, settings):
                plan = call_plan(pipe, words)
            size = pipe.latent_shape(None, None, None, None)
            weaker = getattr(pipe.weaker, "config", None)
            cost = network_cost(pipe.transformer.config, size[0], *size[2:], TOKENS, weaker)
        flops, whole = sum(cost.of_plan(plan)), sum(cost.of_plan(exact))
        said = f"{flops / 1e9:.1f} of {whole / 1e9:.1f} GFLOPs, {whole / flops:.2f} times fewer"
        what = "everything is computed" if settings.reuse == NOTHING else said
        draw_plan(plan, exact, cost, out, f"{settings.model}: {what}")
        return f"{len(plan)} evaluations, {flops / 1e9:.1f} GFLOPs" if settings.reuse == NOTHING else said

    def make(self, settings: Settings, on_step: OnStep) -> MadeVideo | None:
        """Make a video.

        Args:
            settings: The settings of the video.
            on_step: Called after every step; False stops.

        Returns:
            The video; None if it was stopped.

        Raises:
            ValueError: The settings do not go together.
        """
        stopped = False

        def watch(pipe: LattePipeline, step: int, t: float, tensors: dict[str, Tensor]) -> None:
            nonlocal stopped
            stopped = stopped or not on_step(step + 1, pipe.num_timesteps or 0)
            pipe.interrupt = stopped

        with self.lock:
            pipe = self.pipe(settings.model)
            start = time.perf_counter()
            with reusing(pipe, settings):
                words = call_words(pipe, settings)
                output = pipe(**words, output_type="uint8", callback_on_step_end=watch, progress=False)
        return None if stopped else MadeVideo(output.frames[0], time.perf_counter() - start)
