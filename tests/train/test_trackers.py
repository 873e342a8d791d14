"""TensorBoard, Weights & Biases and trackio: what they are shown of a run, and that none of them can end it."""

import json
import resource
import sys
from io import BytesIO
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image
from small_runs import TINY_VAE, run, small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latte.train.presets import resolve
from latte.train.run_folder import check_unused
from latte.train.trackers import TRACKED_FILE, Trackers, run_identity

WORDS = ["log_every=2", "sample_every=2", "save_every=2"]


class Service(ModuleType):
    """Stands in for the packages wandb and trackio, as far as a run uses them."""

    def __init__(self, name):
        super().__init__(name)
        self.begun, self.logged, self.done, self.error = [], [], 0, {}
        self.Image = self.Video = lambda path: path

    def init(self, **options):
        self.fail("init")
        self.begun.append(options)
        return SimpleNamespace(
            log=self.log, finish=self.finish, config=SimpleNamespace(update=lambda values, allow_val_change: None)
        )

    def log(self, values, step):
        self.fail("log")
        self.logged.append((step, values))

    def finish(self):
        self.fail("finish")
        self.done += 1

    def fail(self, where):
        if where in self.error:
            raise self.error[where]


@pytest.fixture(params=["wandb", "trackio"])
def service(request, monkeypatch):
    stand_in = Service(request.param)
    monkeypatch.setitem(sys.modules, request.param, stand_in)
    for name in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return stand_in


def settings(*changes):
    return resolve("shapes-vae", [*TINY_VAE, *changes])


def test_tensorboard_has_the_numbers_the_settings_and_the_videos(vae, tmp_path):
    run(small(vae, "steps=4", *WORDS, "tensorboard=true"), tmp_path)
    run(small(vae, "steps=6", *WORDS, "tensorboard=true", "schedule=cosine"), tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [event.step for event in board.Scalars("loss")] == [2, 4, 6]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])
    assert [event.step for event in board.Images("samples")] == [2, 4, 6]
    videos = board.Images("samples/video")
    moving = Image.open(BytesIO(videos[-1].encoded_image_string))
    assert [event.step for event in videos] == [2, 4, 6]
    assert moving.format == "GIF" and moving.n_frames == 4 and moving.size == (48, 48)
    (_, last) = board.Tensors("settings/text_summary")
    assert last.step == 4 and b"\nschedule: cosine\n" in last.tensor_proto.string_val[0]
    assert not (tmp_path / TRACKED_FILE).exists()


def test_services_are_shown_a_run_that_resumes_as_one(service, vae, tmp_path, monkeypatch):
    name = service.__name__
    run(small(vae, "steps=2", *WORDS, f"{name}=true"), tmp_path / "mine")
    monkeypatch.setenv(f"{name.upper()}_PROJECT", "other")
    run(small(vae, "steps=4", *WORDS, f"{name}=true"), tmp_path / "mine")
    lines = [json.loads(line) for line in (tmp_path / "mine/metrics.jsonl").read_text().splitlines()]
    numbers = [(step, values["loss"]) for step, values in service.logged if "loss" in values]
    assert numbers == [(line["step"], line["loss"]) for line in lines] and len(lines) == service.done * 2 - 2
    folder = tmp_path / "mine/samples"
    shown = [(step, values) for step, values in service.logged if "samples" in values]
    files = lambda step: {"samples": f"{folder}/step-{step:07d}.png", "samples/video": f"{folder}/step-{step:07d}.mp4"}
    assert shown == [(step, files(step)) for step in (2, 4)]
    first, second = service.begun
    identity = run_identity(tmp_path / "mine")
    assert first["project"] == "latte" and second["project"] == "other" and first["resume"] == "allow"
    assert first["config"]["steps"] == 2 and second["config"]["steps"] == 4
    for options in service.begun:
        assert identity in (options["id"] if name == "wandb" else options["name"])
        assert options["name"].startswith("mine")


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_service_that_fails_ends_no_run(service, where, tmp_path):
    service.error[where] = RuntimeError("not logged in\nmore of it")
    said = "nothing is written" if where == "init" else "no more is written"
    with pytest.warns(UserWarning, match=f"{said} for .*, training goes on: not logged in$") as warned:
        config = settings(f"{service.__name__}=true")
        with Trackers(config, tmp_path, 0) as trackers:
            for step in (1, 2, 3):
                trackers.line({"step": step, "loss": 0.5})
    assert len(warned) == 1 and len(service.logged) == (3 if where == "finish" else 0)


def test_a_package_that_is_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"^wandb=true needs its package: pip install 'latte-video\[wandb\]'$"):
        Trackers(settings("wandb=true"), tmp_path, 0).__enter__()
    with Trackers(settings("wandb=true"), tmp_path, 0, writes=False) as trackers:  # of several processes, one writes
        assert not trackers.open


def test_the_identity_of_a_run_stays_and_is_the_run_s(tmp_path):
    identity = run_identity(tmp_path)
    assert run_identity(tmp_path) == identity and len(identity) == 8
    (tmp_path / TRACKED_FILE).write_bytes(b"\xff junk")
    assert run_identity(tmp_path) != identity
    with pytest.raises(ValueError, match=f"holds {TRACKED_FILE} but no checkpoint"):
        check_unused(tmp_path, settings())


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")  # a traceback of its thread
def test_a_full_disk_ends_the_log_for_tensorboard_and_not_the_run(tmp_path):
    before, config = resource.getrlimit(resource.RLIMIT_FSIZE), settings("tensorboard=true")
    said = "no more is written for TensorBoard, training goes on: .*File too large"
    try:
        with pytest.warns(UserWarning, match=said), Trackers(config, tmp_path / "a", 0) as trackers:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60, before[1]))
            for step in range(9):
                trackers.line({"step": step, "loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/tensorboard").write_text("in its place")
    with (
        pytest.warns(UserWarning, match="nothing is written for TensorBoard"),
        Trackers(config, tmp_path / "b", 0) as none,
    ):
        none.line({"step": 1, "loss": 0.5})
