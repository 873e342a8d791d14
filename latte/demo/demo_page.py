"""The page of `latte demo`: make a video, compare two settings, view results."""

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from PIL import Image

from latte.demo.opened_models import MadeVideo, OnStep, OpenedModels
from latte.demo.result_text import result_text
from latte.demo.sample_settings import FPS, Settings, command_text, python_text
from latte.demo.settings_panel import SettingsPanel
from latte.eval.fidelity import psnr
from latte.files import one_line
from latte.video.write import write_video

HOW_TO_SHOW = "Name results to see them here: `latte demo --results ablations results.json`"
TITLE = "# Latte\nThe command below each video reproduces it bit for bit."
STYLE = """
.made video { image-rendering: pixelated; width: 100%; object-fit: contain }
.small p { opacity: .75; margin: 0 }
button[role="tab"][aria-selected="true"] { color: var(--body-text-color) }
footer { display: none !important }
"""


def import_gradio(folder: Path) -> Any:
    """Import gradio; it keeps its files in the folder, and sends no analytics.

    Raises:
        ValueError: It is not installed.
    """
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(folder))
    try:
        import gradio
    except ImportError as error:
        raise ValueError("the page needs gradio: pip install 'latte-video[demo]'") from error
    return gradio


class VideoSide:
    """The components that show a video, how it was made, and the plan of what sampling computes."""

    def __init__(self, gr: Any, height: int, label: str = "video"):
        options = {"autoplay": True, "loop": True, "interactive": False, "elem_classes": "made"}
        self.gr = gr
        self.video = gr.Video(label=label, height=height, buttons=["download"], **options)
        self.facts = gr.Markdown(elem_classes="small")

    def add_details(self) -> None:
        """Lay out the details below the video, or further down."""
        gr = self.gr
        self.plan = gr.Image(show_label=False, format="png", interactive=False, buttons=[])
        self.plan_line = gr.Markdown(elem_classes="small")
        code = {"interactive": False, "show_line_numbers": False, "wrap_lines": True, "lines": 1}
        code["value"] = "# make a video first"
        self.command = gr.Code(label="the same video on the command line", **code)
        with gr.Accordion("In Python", open=False):
            self.python = gr.Code(label="the same video in Python", language="python", **code)

    @property
    def made(self) -> list[Any]:
        """The components that a new video changes."""
        return [self.video, self.facts, self.command, self.python]


class DemoPage:
    """The page and its behaviour.

    Attributes:
        blocks: The page as a gradio object.

    Args:
        gr: The module gradio.
        models: The models that make videos.
        results: The results in the results tab, see result_text.
        folder: Where videos are kept while the page is served.
    """

    def __init__(self, gr: Any, models: OpenedModels, results: Sequence[Path], folder: Path):
        self.gr, self.models, self.folder = gr, models, folder
        self.results = {str(path): path for path in results}
        self.stopped: set[str | None] = set()  # sessions in which Stop was pressed
        with gr.Blocks(title="Latte", analytics_enabled=False, delete_cache=(3600, 3600)) as self.blocks:
            gr.Markdown(TITLE)
            with gr.Tab("Sample"):
                self.sample_tab()
            with gr.Tab("Compare"):
                self.compare_tab()
            with gr.Tab("Results"):
                self.results_tab()
            self.blocks.unload(self.stopper())

    def sample_tab(self) -> None:
        """One video, large."""
        gr = self.gr
        with gr.Row():
            with gr.Column(scale=2, min_width=360):
                panel, seed = SettingsPanel(gr, self.models), self.seed_number()
                with gr.Row():
                    make, stop = gr.Button("Make the video", variant="primary"), gr.Button("Stop", min_width=80)
            with gr.Column(scale=3, min_width=360):
                side = VideoSide(gr, 384)
                side.add_details()
        self.on_make(make, stop, seed, [panel], [side], None)

    def compare_tab(self) -> None:
        """Two videos of the same noise, side by side."""
        gr = self.gr
        with gr.Row(equal_height=True):
            seed = self.seed_number()
            make = gr.Button("Make both videos", variant="primary", min_width=200)
            stop = gr.Button("Stop", min_width=80)
        difference = gr.Markdown()
        panels, sides = [], []
        with gr.Row():
            for name, reuse in (("A", ""), ("B", "fast")):
                with gr.Column():
                    sides.append(VideoSide(gr, 300, f"video {name}"))
                    panels.append(SettingsPanel(gr, self.models, reuse))
                    sides[-1].add_details()
        self.on_make(make, stop, seed, panels, sides, difference)

    def results_tab(self) -> None:
        """A report of ablations, or results of evaluations."""
        gr = self.gr
        names = list(self.results)
        with gr.Row(visible=bool(names), equal_height=True):
            chosen = gr.Dropdown(names, value=next(iter(names), None), label="result", scale=4)
            again = gr.Button("Read again", min_width=120)
        text = gr.Markdown("" if names else HOW_TO_SHOW, latex_delimiters=[])
        for event in (chosen.input, again.click, *([self.blocks.load] if names else [])):
            event(self.reporting(self.read_result), chosen, text, api_visibility="private")

    def seed_number(self) -> Any:
        """The component for the seed."""
        return self.gr.Number(0, label="seed", minimum=0, precision=0, min_width=120)

    def on_make(
        self, make: Any, stop: Any, seed: Any, panels: list[SettingsPanel], sides: list[VideoSide], difference: Any
    ) -> None:
        """Connect the buttons, and let the display follow the settings; `difference` shows how two videos differ."""
        gr = self.gr
        inputs = {seed, *(part for panel in panels for part in panel.parts.values())}
        outputs = [component for side in sides for component in side.made] + ([difference] if difference else [])

        bar = gr.Progress()

        def run(values: dict[Any, Any], request: gr.Request, progress: Any = bar) -> list[Any]:
            self.stopped.discard(request.session_hash)
            chosen = [panel.read(values, values[seed]) for panel in panels]
            videos: list[MadeVideo] = []
            for side, settings in zip(sides, chosen):
                made = self.models.make(settings, self.on_step(request, progress, side.video.label))
                if made is None:
                    gr.Info("stopped", duration=3)
                    return [gr.skip()] * len(outputs)
                videos.append(made)
            shown = [part for pair in zip(chosen, videos) for part in self.shown(*pair)]
            return shown + ([compared(*videos)] if difference else [])

        private = {"api_visibility": "private"}
        make.click(self.reporting(run), inputs, outputs, show_progress_on=[side.video for side in sides], **private)
        stop.click(self.stopper(), queue=False, **private)
        for panel, side in zip(panels, sides):
            self.follow(panel, side)

    def follow(self, panel: SettingsPanel, side: VideoSide) -> None:
        """Let the components follow the model and each other, and the picture of the plan follow the settings."""
        parts, private = panel.parts, {"api_visibility": "private"}
        inputs, plan = set(parts.values()), [side.plan, side.plan_line]
        draw = lambda values: self.drawn(lambda: panel.read(values, 0))
        changed = parts["model"].input(
            self.reporting(panel.follow_model), parts["model"], list(parts.values()), **private
        )
        changed.then(draw, inputs, plan, **private)
        for name in ("sampler", "reuse"):
            follow = self.reporting(panel.follow_settings)
            parts[name].input(follow, inputs, list(parts.values()), show_progress="hidden", **private)
        others = ("model", "label", "prompt", "negative_prompt")
        of_plan = [part.input for name, part in parts.items() if name not in others]
        options = {"show_progress": "hidden", "trigger_mode": "always_last", **private}
        self.gr.on([*of_plan, self.blocks.load], draw, inputs, plan, **options)

    def stopper(self) -> Callable[[Any], None]:
        """A function that stops sampling in its session after the current step; gradio reads its annotation."""

        def stop(request: self.gr.Request) -> None:
            self.stopped.add(request.session_hash)

        return stop

    def on_step(self, request: Any, progress: Any, what: str) -> OnStep:
        """The function called after each step: it shows the progress, and tells whether to continue."""

        def show(step: int, steps: int) -> bool:
            progress((step, steps), desc=what, unit="steps")
            return request.session_hash not in self.stopped

        return show

    def shown(self, settings: Settings, made: MadeVideo) -> list[str]:
        """The values that a VideoSide shows for a video, in the order of its `made`."""
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".mp4", delete=False) as file:
            path = write_video(made.frames, file.name, FPS)
        f, _, h, w = made.frames.shape
        facts = f"{f} frames of {w} x {h} pixels, {made.seconds:.1f} s on {self.models.device}"
        pipe, opening = self.models.pipe(settings.model), self.models.opening
        return [str(path), facts, command_text(pipe, settings, opening), python_text(pipe, settings, opening)]

    def drawn(self, read: Callable[[], Settings]) -> tuple[Image.Image | None, str]:
        """The picture of a plan and a line about it, or the reason why there is none."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                said = self.models.draw(read(), path := Path(folder) / "plan.png")
                with Image.open(path) as picture:
                    return picture.convert("RGB"), said
        except (ValueError, OSError) as error:
            return None, f"\u26a0 {one_line(error)}"

    def read_result(self, name: str) -> str:
        """The text of the result with this name."""
        if name not in self.results:
            raise ValueError(f"{name!r} is not a result of this page")
        return result_text(self.results[name])

    def reporting(self, work: Callable) -> Callable:
        """The same function, but errors in the chosen settings are shown on the page in one line."""

        @wraps(work)
        def run(*values: Any) -> Any:
            try:
                return work(*values)
            except (ValueError, OSError) as error:
                raise self.gr.Error(one_line(error), title="", print_exception=False) from error

        return run

    def launch(self, host: str, port: int | None) -> str:
        """Serve the page in another thread; without a port, on the first free one from 7860 on.

        Returns:
            Its address.

        Raises:
            ValueError: It cannot listen there.
        """
        fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # others would be fetched
        theme = self.gr.themes.Base(primary_hue="stone", **fonts).set(block_info_text_color="*neutral_500")
        off = {"share": False, "ssr_mode": False, "mcp_server": False, "enable_monitoring": False, "pwa": False}
        try:
            return self.blocks.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, theme=theme, css=STYLE,
                footer_links=[], **off,
            )[1]  # fmt: skip
        except OSError as error:
            tried = f"port {port}" if port else "no port from 7860 to 7959"
            raise ValueError(f"cannot listen on {tried} of {host}: choose another --port or --host") from error

    def serve(self, host: str, port: int | None) -> None:
        """Serve the page until Ctrl-C."""
        print(f"open {self.launch(host, port)} in a browser; Ctrl-C stops", flush=True)
        self.blocks.block_thread()


def compared(a: MadeVideo, b: MadeVideo) -> str:
    """One line on how much two videos differ, and how long they took."""
    faster = f"B took {b.seconds / a.seconds:.2f} times as long as A"
    if a.frames.shape != b.frames.shape:
        return f"The videos have different sizes; {faster}."
    return f"PSNR of B to A: **{psnr(b.frames[None], a.frames[None]):.1f} dB**; {faster}."
