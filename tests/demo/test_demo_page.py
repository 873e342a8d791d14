"""`latte demo`: clicking through the real page makes videos; without gradio the error is one line."""

import re
import shlex
import shutil
import socket
import sys
from contextlib import ExitStack

import pytest
from awake_models import awake_pipeline, write_model

from latte.cli import main
from latte.demo.demo_page import DemoPage, import_gradio
from latte.demo.opened_models import OpenedModels
from latte.demo.sample_settings import Opening
from latte.sampling_settings import Guidance, Sampling
from latte.weights.sampling_defaults import save_sampling

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync", "disable-component-update")


@pytest.mark.parametrize(
    ("words", "say"),
    [
        ([], "the page needs gradio: pip install 'latte-video[demo]'"),
        (["--results", "none.json"], "--results none.json: there is no such file or folder"),
        (["--port", "70000"], "--port is 70000; it must be from 1 to 65535"),
    ],
)
def test_missing_requirements_give_a_one_line_error(words, say, monkeypatch, capsys):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", *words]) == 2
    said = capsys.readouterr()
    assert said.err == f"latte demo: error: {say}\n" and not said.out


def test_a_missing_model_stops_the_command_before_serving(monkeypatch, capsys):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setitem(sys.modules, "gradio", object())
    assert main(["demo", "no-such-model"]) == 2
    said = capsys.readouterr().err
    assert "no-such-model" in said and said.count("\n") == 1


@pytest.fixture
def browse(tmp_path, monkeypatch):
    """Serves the page of some models and opens it in Chromium: browse(*folders) -> the tab. It must ask nobody else."""
    pytest.importorskip("gradio", reason="gradio is not installed: the extra demo has it")
    pytest.importorskip("matplotlib")
    browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):  # import_gradio sets them
        monkeypatch.setenv(name, "")
    asked, own = [], ["data:", "blob:"]
    with ExitStack() as stack:

        def open_page(*folders):
            models = OpenedModels([str(folder) for folder in folders], Opening(device="cpu"))
            page = DemoPage(import_gradio(tmp_path), models, [], tmp_path)
            stack.callback(page.blocks.close)
            with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ValueError, match="another --port"):
                page.launch("127.0.0.1", taken.getsockname()[1])
            address = page.launch("127.0.0.1", None)
            engines = stack.enter_context(browsers.sync_playwright())
            browser = engines.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS])
            stack.callback(browser.close)
            tab = browser.new_page()
            tab.on("request", lambda request: asked.append(request.url))
            own.append(address)
            tab.goto(address)
            return tab

        yield open_page
    assert asked and [url for url in asked if not url.startswith(tuple(own))] == []


@pytest.fixture
def classes(tmp_path):
    """The folder of a class-conditional model that samples in two steps."""
    return two_steps(write_model(awake_pipeline(3, ["a", "b", "c"]), tmp_path / "classes"))


def two_steps(folder, scale=2.0):
    save_sampling(Sampling(Guidance(scale), 2), folder)
    return folder


def visible(found):
    """The first of the elements found that can be seen: those of other tabs are hidden."""
    return found.locator("visible=true").first


def make(tab, button="Make the video", videos=1):
    """Click the button; return the commands shown once all videos are there."""
    visible(tab.get_by_role("button", name=button)).click()
    shown = tab.locator(".made video").locator("visible=true")
    shown.nth(videos - 1).wait_for(timeout=60_000)
    assert shown.count() == videos
    commands = tab.locator(".cm-content").locator("visible=true")
    return [commands.nth(i).inner_text() for i in range(videos)]


def choose_class(tab, name, which=0):
    """Choose a class in one of the visible panels."""
    tab.get_by_label("class").locator("visible=true").nth(which).click()
    visible(tab.get_by_role("option", name=name)).click()


def test_clicks_make_a_video_of_a_class(browse, classes, tmp_path):
    tab = browse(classes)
    choose_class(tab, "b")
    (command,) = make(tab)
    assert command.startswith(f"latte sample {classes} --device cpu --classes b --seed 0")
    assert list(tmp_path.rglob("*.mp4"))  # not in a folder of gradio's


def test_clicks_make_a_video_of_an_unconditional_model(browse, tmp_path):
    folder = two_steps(write_model(awake_pipeline(), tmp_path / "unconditional"), scale=1.0)
    tab = browse(folder)
    assert not tab.get_by_label("class").locator("visible=true").count()
    visible(tab.get_by_label("seed")).fill("5")
    (command,) = make(tab)
    assert command.startswith(f"latte sample {folder} --device cpu --seed 5 --num-videos 1")


def test_clicks_make_a_video_of_a_prompt(browse, classes, published, tmp_path):
    """With the second model of the page: the prompt takes the place of the class."""
    folder = two_steps(shutil.copytree(published, tmp_path / "text"))
    tab = browse(classes, folder)
    visible(tab.get_by_label("model")).click()
    visible(tab.get_by_role("option", name=str(folder))).click()
    visible(tab.get_by_label("prompt", exact=True)).fill("a cat's run")
    assert not tab.get_by_label("class").locator("visible=true").count()
    (command,) = make(tab)
    assert shlex.split(command)[:7] == ["latte", "sample", str(folder), "--device", "cpu", "--prompt", "a cat's run"]
    visible(tab.get_by_label("prompt", exact=True)).fill(" ")
    visible(tab.get_by_role("button", name="Make the video")).click()
    tab.get_by_text("the prompt is empty: write what the video should show").first.wait_for(timeout=60_000)


def test_clicks_make_two_videos_side_by_side(browse, classes):
    tab = browse(classes)
    tab.get_by_role("tab", name="Compare").click()
    first, second = make(tab, "Make both videos", 2)
    assert first == second and "--classes a " in first
    tab.get_by_text("PSNR of B to A: 100.0 dB").wait_for(timeout=60_000)
    choose_class(tab, "c", which=1)
    visible(tab.get_by_role("button", name="Make both videos")).click()
    tab.get_by_text(re.compile(r"PSNR of B to A: \d\d\.\d dB; B took")).wait_for(timeout=60_000)
    commands = tab.locator(".cm-content").locator("visible=true")
    assert commands.nth(0).inner_text() == first and "--classes c " in commands.nth(1).inner_text()
