"""TensorBoard, Weights & Biases and trackio: what they receive from a run, and that none of them can end it."""

import json
import resource
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image
from small_runs import TINY_VAE, run, small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from latte.train.resolve import resolve
from latte.train.run_folder import check_unused
from latte.train.start import check_start
from latte.train.trackers import TRACKED_FILE, Trackers, run_identity

WORDS = ["log_every=2", "sample_every=2", "save_every=2"]


class Service(ModuleType):
    """Stands in for the packages wandb and trackio, as far as a run uses them.

    wandb's own step only increases, and values logged for a step before the last are dropped.
    """

    def __init__(self, name):
        super().__init__(name)
        self.begun, self.logged, self.axes, self.done, self.error = [], [], [], 0, {}
        self.Image = self.Video = lambda path: path

    def init(self, **options):
        self.fail("init")
        self.begun.append(options)
        config = SimpleNamespace(update=lambda values, allow_val_change: None)
        axis = lambda name, step_metric=None: self.axes.append((name, step_metric))
        return SimpleNamespace(log=self.log, finish=self.finish, config=config, define_metric=axis)

    def log(self, values, step=None):
        self.fail("log")
        values = dict(values)
        if self.__name__ == "wandb":
            assert step is None and self.axes[:2] == [("global_step", None), ("*", "global_step")]
            step = values.pop("global_step")
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
    return stand_in


def settings(*changes):
    return resolve("shapes-vae", [*TINY_VAE, *changes])


@pytest.fixture(scope="module")
def shown(vae, tmp_path_factory):
    """A run reported to every tracker, which resumes once: (its folder, the stand-ins for the services)."""
    folder, services = tmp_path_factory.mktemp("runs") / "mine", {name: Service(name) for name in ("wandb", "trackio")}
    with pytest.MonkeyPatch.context() as patch:
        for name, package in services.items():
            patch.setitem(sys.modules, name, package)
            patch.delenv(f"{name.upper()}_PROJECT", raising=False)
        words = [*WORDS, "tensorboard=true", "wandb=true", "trackio=true"]
        run(small(vae, "steps=2", *words), folder)
        for name in services:
            patch.setenv(f"{name.upper()}_PROJECT", "other")
        run(small(vae, "steps=4", *words, "schedule=cosine"), folder)
    return folder, services


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_has_the_numbers_the_settings_and_the_videos(shown):
    folder, _ = shown
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [2, 4]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(
        [each["loss"] for each in lines_of(folder)]
    )
    assert [event.step for event in board.Images("samples")] == [2, 4]
    videos = board.Images("samples/video")
    moving = Image.open(BytesIO(videos[-1].encoded_image_string))
    assert [event.step for event in videos] == [2, 4]
    assert moving.format == "GIF" and moving.n_frames == 4 and moving.size == (48, 48)
    last = board.Tensors("settings/text_summary")[-1]
    assert last.step == 2 and b"\nschedule: cosine\n" in last.tensor_proto.string_val[0]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services_see_a_resumed_run_as_one(shown, name):
    folder, service = shown[0], shown[1][name]
    numbers = [(step, values["loss"]) for step, values in service.logged if "loss" in values]
    assert numbers == [(line["step"], line["loss"]) for line in lines_of(folder)] and service.done == 2
    grids = [(step, values) for step, values in service.logged if "samples" in values]
    files = lambda step: {"samples": f"step-{step:07d}.png", "samples/video": f"step-{step:07d}.mp4"}
    expected = [(step, {key: f"{folder}/samples/{file}" for key, file in files(step).items()}) for step in (2, 4)]
    assert grids == expected and all(Path(file).is_file() for _, both in expected for file in both.values())
    first, second = service.begun
    assert first["project"] == "latte" and second["project"] == "other" and first["resume"] == "allow"
    assert first["config"]["steps"] == 2 and second["config"]["steps"] == 4
    for options in service.begun:
        assert run_identity(folder) in (options["id"] if name == "wandb" else options["name"])
        assert options["name"].startswith("mine")


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_failing_service_does_not_end_the_run(service, where, tmp_path):
    service.error[where] = RuntimeError("not logged in\nmore of it")
    said = "nothing is written" if where == "init" else "nothing more is written"
    with pytest.warns(UserWarning, match=f"{said} for .*, training continues: not logged in$") as warned:
        config = settings(f"{service.__name__}=true")
        with Trackers(config, tmp_path, 0) as trackers:
            for step in (1, 2, 3):
                trackers.line({"step": step, "loss": 0.5})
    assert len(warned) == 1 and len(service.logged) == (3 if where == "finish" else 0)


def test_a_missing_package_gives_a_one_line_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"^wandb=true needs its package: pip install 'latte-video\[wandb\]'$"):
        check_start(settings("wandb=true"), tmp_path)
    check_start(settings(), tmp_path)
    with Trackers(settings("wandb=true"), tmp_path, 0, writes=False) as trackers:  # only one process writes
        assert not trackers.open


def test_a_runs_identity_is_stable_and_unique(tmp_path):
    identity = run_identity(tmp_path)
    assert run_identity(tmp_path) == identity and len(identity) == 8
    (tmp_path / TRACKED_FILE).write_bytes(b"\xff junk")
    assert run_identity(tmp_path) != identity
    with pytest.raises(ValueError, match=f"holds {TRACKED_FILE} but no checkpoint"):
        check_unused(tmp_path, settings())


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")  # a traceback from its thread
def test_a_full_disk_ends_the_log_for_tensorboard_and_not_the_run(tmp_path):
    before, config = resource.getrlimit(resource.RLIMIT_FSIZE), settings("tensorboard=true")
    said = "nothing more is written for TensorBoard, training continues: .*File too large"
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
