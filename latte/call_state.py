"""The visible state of a running pipeline call: its progress, its numbers, and the switch that stops it."""

from typing import Any

from torch import Tensor

from latte.progress import Progress


class CallStateMixin:
    """The state of a call, named as in diffusers; a callback reads it and may set `interrupt`.

    Attributes:
        current_timestep: During a call, the timestep of the network's current evaluation.
        guidance_scale: The scale of the last call; None before the first.
        num_timesteps: The number of steps of the last call; None before the first.
    """

    current_timestep: float | Tensor | None = None
    guidance_scale: float | None = None
    num_timesteps: int | None = None
    _interrupt: bool = False
    _progress_bar_options: dict[str, Any]

    @property
    def interrupt(self) -> bool:
        """Whether the call stops after the current step. Set it in a callback; `_interrupt` is the same switch."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = bool(value)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the guidance scale of the last call is above 1."""
        return self.guidance_scale is not None and self.guidance_scale > 1

    def set_progress_bar_config(self, **options: Any) -> None:
        """Set tqdm options, such as disable=True, for the progress bars of later calls."""
        self._progress_bar_options = options

    def progress_bar(
        self, iterable: Any = None, total: int | None = None, shown: bool = True, unit: str = "step"
    ) -> Progress:
        """A tqdm progress bar with the options of set_progress_bar_config; without a terminal, it prints lines."""
        options = {"unit": unit, "desc": "sampling", "disable": not shown, **self._progress_bar_options}
        return Progress(iterable, total=total, **options)
