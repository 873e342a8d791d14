"""The components on the `latte demo` page that choose the settings of one video."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from latte.demo.opened_models import OpenedModels
from latte.demo.sample_settings import BROADCAST, USUAL_RANGES, Choices, Settings, default_settings, model_choices
from latte.diffusion.guidance_options import OPTIONS
from latte.scheduler import ALL

MOST_STEPS, MOST_SCALE, MOST_RANGE = 250, 15, 10  # of sliders
OF_GUIDANCE = ("guidance_scale", "guidance_method", "guidance_low", "guidance_high")


def shown_values(settings: Settings, choices: Choices) -> dict[str, dict[str, Any]]:
    """What each component shows for settings of a model: its value, its choices, and whether it is visible."""
    of_text, broadcast = choices.takes_prompts, settings.reuse == BROADCAST
    shown: dict[str, dict[str, Any]] = {
        "label": {
            "choices": list(choices.classes),
            "value": None if of_text or not choices.classes else settings.subject,
            "visible": bool(choices.classes),
        },
        "prompt": {"value": settings.subject if of_text else "", "visible": of_text},
        "negative_prompt": {"value": settings.negative_prompt, "visible": of_text and not choices.away},
        "reuse": {"value": settings.reuse, "choices": choices.reuse},
    }
    shown |= {name: {"value": getattr(settings, name)} for name in ("model", "sampler", "steps")}
    shown["eta"] = {"value": settings.eta, "visible": settings.sampler == "ddim"}
    shown |= {name: {"value": getattr(settings, name), "visible": choices.guides} for name in OF_GUIDANCE}
    shown["guidance_scale"]["info"] = "away from the model's weaker model" if choices.away else None
    ranges = {name: getattr(settings, name) for name in USUAL_RANGES}
    return shown | {
        name: {"value": value, "visible": broadcast and name in choices.kinds} for name, value in ranges.items()
    }


def chosen_settings(values: Mapping[str, Any], seed: int, takes_prompts: bool) -> Settings:
    """Make Settings from the values of the components by name."""
    given = dict(values)
    prompt, label = given.pop("prompt"), given.pop("label")
    subject = (prompt if takes_prompts else label) or ""
    if not takes_prompts:
        given["negative_prompt"] = ""
    return Settings(subject=subject, seed=seed, **given)


class SettingsPanel:
    """The components of one video's settings, which follow the model and each other.

    Attributes:
        parts: The components by name: those of Settings, with "prompt" and "label" in place of "subject".

    Args:
        gr: The module gradio.
        models: The models to choose from; the first one is chosen.
        reuse: The initial choice of what is reused, if the model has such a plan.
    """

    def __init__(self, gr: Any, models: OpenedModels, reuse: str = ""):
        self.gr, self.models = gr, models
        pipe = models.pipe(models.names[0])
        settings, choices = default_settings(pipe, models.names[0]), model_choices(pipe)
        if reuse in choices.plans:
            settings = replace(settings, reuse=reuse)
        self.parts: dict[str, Any] = {}
        self.build(shown_values(settings, choices))

    def build(self, shown: Mapping[str, dict[str, Any]]) -> None:
        """Lay the components out."""
        gr = self.gr
        add = lambda kind, name, label, **options: self.parts.update(
            {name: kind(label=label, **options, **shown[name])}
        )
        slider = lambda name, label, low, high, step: add(
            gr.Slider, name, label, minimum=low, maximum=high, step=step, buttons=[]
        )
        add(gr.Dropdown, "model", "model", choices=self.models.names)
        add(gr.Dropdown, "label", "class")
        add(gr.Textbox, "prompt", "prompt", lines=2)
        add(gr.Textbox, "negative_prompt", "negative prompt")
        with gr.Row():
            add(gr.Dropdown, "sampler", "sampler", choices=list(ALL), min_width=140)
            slider("steps", "steps", 1, MOST_STEPS, 1)
        with gr.Row():
            add(gr.Dropdown, "guidance_method", "guidance method", choices=list(OPTIONS), min_width=140)
            slider("guidance_scale", "guidance scale", 0, MOST_SCALE, 0.1)
        with gr.Accordion("Guidance interval, eta", open=False):
            with gr.Row():
                slider("guidance_low", "guide from timestep", 0, 1000, 10)
                slider("guidance_high", "to timestep", 0, 1000, 10)
            slider("eta", "eta: 0 adds no noise, 1 as much as ddpm", 0, 1, 0.05)
        words = (
            "A plan works only with the steps that it was made for. "
            f"{BROADCAST} works with any: a layer computes in every n-th step."
        )
        add(gr.Radio, "reuse", "reuse", info=words)
        with gr.Row():
            for kind in USUAL_RANGES:
                add(gr.Number, kind, kind, minimum=1, maximum=MOST_RANGE, step=1, precision=0, min_width=70)

    def read(self, values: Mapping[Any, Any], seed: int) -> Settings:
        """The settings that are chosen, from the value of each component."""
        chosen = {name: values[part] for name, part in self.parts.items()}
        return chosen_settings(chosen, seed, self.models.pipe(chosen["model"]).takes_prompts)

    def follow_model(self, model: str) -> list[Any]:
        """The components for another model, with the settings of its folder."""
        pipe = self.models.pipe(model)
        return self.updates(default_settings(pipe, model))

    def follow_settings(self, values: Mapping[Any, Any]) -> list[Any]:
        """The components for the current choices: those without an effect are hidden."""
        return self.updates(self.read(values, 0))

    def updates(self, settings: Settings) -> list[Any]:
        """The update of each component."""
        shown = shown_values(settings, model_choices(self.models.pipe(settings.model)))
        return [self.gr.update(**shown[name]) for name in self.parts]
