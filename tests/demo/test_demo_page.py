"""`latte demo`: clicking through the real page makes a video; without gradio the error is one line."""

import shutil
import socket
import sys

import pytest
from awake_models import awake_pipeline, write_model

from latte.cli import main
from latte.demo.demo_page import DemoPage, import_gradio
from latte.demo.opened_models import OpenedModels
from latte.demo.sample_settings import Opening
from latte.weights.sampling_defaults import Guidance, Sampling, save_sampling

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


def test_clicks_make_a_video(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="gradio is not installed: the extra demo has it")
    pytest.importorskip("matplotlib")
    browsers = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    folder = write_model(awake_pipeline(3, ["a", "b", "c"]), tmp_path / "model")
    save_sampling(Sampling(Guidance(2.0), 2), folder)
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED"):  # import_gradio sets them
        monkeypatch.setenv(name, "")
    page = DemoPage(import_gradio(tmp_path), OpenedModels([str(folder)], Opening(device="cpu")), [], tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ValueError, match="choose another --port"):
        page.launch("127.0.0.1", taken.getsockname()[1])
    address = page.launch("127.0.0.1", None)
    try:
        with browsers.sync_playwright() as engines:
            browser = engines.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in FLAGS])
            tab, asked = browser.new_page(), []
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(address)
            tab.get_by_label("class").first.click()
            tab.get_by_role("option", name="b").click()
            tab.get_by_role("button", name="Make the video").click()
            tab.wait_for_selector(".made video", timeout=60_000)
            command = tab.locator(".cm-content:visible").first.inner_text()
            browser.close()
        assert list(tmp_path.rglob("*.mp4"))  # not in a folder of gradio's
    finally:
        page.blocks.close()
    assert command.startswith(f"latte sample {folder} --device cpu --classes b --seed 0")
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
