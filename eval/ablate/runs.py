"""The work of an ablation: what to train and evaluate, in which folders, and how to do what is missing.

In the folder of an ablation, base.yaml has the settings that arms depart from, and runs/ARM/seed-S is a run folder for
each training. The name ARM lists how the arm departs from the base. So arms of different ablations that are trained in
the same way share a run.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from latte.eval.ablate.arms import Ablation, Arm
from latte.eval.ablate.definitions import Scale, ablations
from latte.eval.ablate.scores import measure_trained_model, score_samples
from latte.eval.ablate.workers import WorkerDevice, Workers
from latte.files import read_json, write_json, write_text
from latte.models.latte import LatteConfig
from latte.progress import Progress
from latte.train.config import LatteTrainConfig, TrainConfig
from latte.train.data import latent_files
from latte.train.data.latent_files import latent_settings
from latte.train.metrics import METRICS_FILE, read_lines
from latte.train.resolve import resolve
from latte.train.snapshots import make_average
from latte.weights.find_models import FINAL

ABOUT, BASE, LOG = "ablation.json", "base.yaml", "train.log"
MEASUREMENTS = "measurements.json"  # in a run folder: measurements of the trained model
OLD_MEASUREMENTS = "trained.json"  # the earlier name of this file
FREE = LatteTrainConfig.resumable() - {"steps"} | {"seed"}  # settings that are not part of the comparison
IMAGES = "images"  # the name of the image model's runs


@dataclass(frozen=True)
class Training:
    """A training that an ablation needs."""

    folder: Path
    overrides: tuple[str, ...]  # of the base's settings, as "key=value"
    config: TrainConfig  # all settings
    image_model: "Training | None" = None  # the training whose weights it starts from

    @property
    def measurements(self) -> Path:
        """The file of measurements of the trained model, which also marks the training as done."""
        old = self.folder / OLD_MEASUREMENTS
        return old if old.is_file() else self.folder / MEASUREMENTS

    @property
    def done(self) -> bool:
        return self.measurements.is_file()


@dataclass(frozen=True)
class Evaluation:
    """Samples of a trained model, and their scores."""

    training: Training
    sampling: dict  # arguments of the pipeline's call
    file: Path  # of the scores; a picture of some samples is beside it
    average: float = 0.0  # the length of the average that is sampled; 0: of the one in final/

    def model(self) -> Path:
        """The folder of the model that is sampled. If it is another average, it is made at the first call."""
        run = self.training.folder
        if not self.average:
            return run / FINAL
        folder = run / f"average-{self.average:g}"
        if not folder.is_dir():
            make_average(run, self.average, folder)
        return folder


@dataclass(frozen=True)
class Grid:
    """Ablations at a scale, with their seeds, in a folder."""

    folder: Path
    scale: Scale
    base: TrainConfig
    names: tuple[str, ...]  # of the ablations
    seeds: tuple[int, ...]
    num_videos: int  # sampled per evaluation
    i3d: str = ""  # path to I3D's weights, for the FVD of samples, if the data is a folder of videos

    @cached_property
    def ablations(self) -> dict[str, Ablation]:
        """The ablations, by name."""
        known = ablations(self.scale, self.base)
        return {name: known[name] for name in self.names}

    def training(self, arm: Arm, seed: int) -> Training:
        """The training of an arm with a seed. Raises ValueError if its settings are not valid together."""
        image_model, settings = None, {**arm.train}
        if arm.from_images and isinstance(self.scale.image_model, dict):
            image_model = self.training_with(IMAGES, self.scale.image_model, seed)
            settings["init"] = str(image_model.folder / FINAL)
        elif arm.from_images:
            settings["init"] = self.scale.image_model
        settings = {name: value for name, value in settings.items() if value != self.base_value(name)}
        parts = [
            "init=images" if name == "init" else f"{name.removeprefix('model.')}={value}"
            for name, value in sorted(settings.items())
        ]
        return self.training_with(",".join(parts) or "base", settings, seed, image_model)

    @cached_property
    def trainings(self) -> dict[Path, Training]:
        """The trainings requested so far, by folder, because reading their settings is slow."""
        return {}

    def training_with(self, name: str, settings: dict, seed: int, image_model: Training | None = None) -> Training:
        """The training with some settings in place of the base's. Trainings with the same latents share them."""
        folder = self.folder / "runs" / name / f"seed-{seed}"  # its name says which settings
        if folder in self.trainings:
            return self.trainings[folder]
        text = lambda value: value if isinstance(value, str) else json.dumps(value)
        overrides = [f"{key}={text(value)}" for key, value in {**settings, "seed": seed}.items()]
        config = resolve(str(self.folder / BASE), overrides)
        if config.latents == "once":
            about = json.dumps([latent_settings(config), config.vae], sort_keys=True)
            overrides.append(f"latents={self.folder / 'latents' / hashlib.sha256(about.encode()).hexdigest()[:12]}")
            config = resolve(str(self.folder / BASE), overrides)
        return self.trainings.setdefault(folder, Training(folder, tuple(overrides), config, image_model))

    def base_value(self, name: str) -> object:
        """The base's value of a setting such as "steps" or "model.depth"."""
        table, dot, inner = name.partition(".")
        if not dot:
            return getattr(self.base, name)
        default = {field.name: field.default for field in fields(LatteConfig)}
        return getattr(self.base, table).get(inner, default.get(inner))

    def evaluation(self, arm: Arm, seed: int) -> Evaluation:
        """The evaluation of an arm with a seed."""
        training, default = self.training(arm, seed), self.scale.sampling
        parts = [f"average={arm.average:g}"] if arm.average else []
        parts += [f"{name}={value}" for name, value in sorted(arm.sample.items()) if value != default.get(name)]
        file = training.folder / "scores" / f"{','.join(parts) or 'base'}.json"
        return Evaluation(training, {**default, **arm.sample, "seed": seed}, file, arm.average)

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """All evaluations, seed by seed. Each is listed once, even if several ablations have it."""
        arms = [arm for ablation in self.ablations.values() for arm in ablation.arms.values()]
        found = [self.evaluation(arm, seed) for seed in self.seeds for arm in arms]
        return list({evaluation.file: evaluation for evaluation in found}.values())

    def write_settings(self) -> None:
        """Write ablation.json and base.yaml, which say what the folder is for.

        Raises:
            ValueError: the folder holds ablations with different settings. Those that a run may be resumed with may
                differ, except for the number of steps.
        """
        settings = {**asdict(self.base), **self.scale.sampling, "num_videos": self.num_videos}
        settings |= {"i3d": self.i3d} if self.i3d else {}
        about = json.loads(json.dumps({name: value for name, value in settings.items() if name not in FREE}))
        path = self.folder / ABOUT
        before = (
            {**LatteTrainConfig.defaults(), **read_json(path)} if path.is_file() else about
        )  # an old folder lacks newer settings
        if changed := sorted(name for name, value in about.items() if before.get(name) != value):
            said = f"{self.folder} holds an ablation with different settings: {', '.join(changed)}"
            raise ValueError(f"{said}: choose another folder")
        write_json(path, about)
        write_text(self.folder / BASE, yaml.safe_dump(asdict(self.base), sort_keys=False))


def run_latte(arguments: list[str], log: Path, workers: Workers, device: WorkerDevice) -> None:
    """Run `latte` in a separate process. Raises ValueError, with the last line of its output, if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        start = file.tell()
        command = [sys.executable, "-W", "ignore", "-m", "latte", *arguments]
        status = workers.run_process(command, device, file)
    if status:
        output = log.read_bytes()[start:].decode(errors="replace").replace("\r", "\n").strip().splitlines()
        raise ValueError(output[-1] if output else f"exit status {status}")


def encode_latents(grid: Grid, training: Training, workers: Workers, device: WorkerDevice) -> None:
    """Encode the latents of a training."""
    out = Path(training.config.latents)
    overrides = [override for override in training.overrides if not override.startswith("latents=")]
    base = ["--config", str(grid.folder / BASE), "--device", device.kind]
    run_latte(["encode", *base, "--out", str(out), *overrides], out.with_suffix(".log"), workers, device)


def run_training(grid: Grid, training: Training, workers: Workers, device: WorkerDevice) -> None:
    """Train, or resume, and measure the trained model. Raises ValueError if that or the image model fails."""
    if training.image_model is not None and not training.image_model.done:
        raise ValueError(f"this training starts from the weights of {training.image_model.folder}, which failed")
    options = ["--config", str(grid.folder / BASE), "--device", device.kind, "--run", str(training.folder)]
    run_latte(["train", *options, *training.overrides], training.folder / LOG, workers, device)
    write_json(training.measurements, measure_trained_model(training.folder, device.name))


def run_evaluation(grid: Grid, evaluation: Evaluation, workers: Workers, device: WorkerDevice) -> None:
    """Sample a trained model, and score the samples."""
    score_samples(evaluation.model(), evaluation.sampling, grid.num_videos, evaluation.file, device.name, grid.i3d)


class Missing(NamedTuple):
    """What is still to be done."""

    to_encode: list[Training]  # one for each set of latents that is not encoded yet
    trainings: list[Training]
    evaluations: list[Evaluation]  # without scores


def missing_work(grid: Grid) -> Missing:
    """What is still to be done."""
    needed = {t.folder: t for e in grid.evaluations for t in (e.training.image_model, e.training) if t}
    trainings = [training for training in needed.values() if not training.done]
    latents = {Path(training.config.latents): training for training in trainings}
    ours = {path: training for path, training in latents.items() if path.is_relative_to(grid.folder)}
    to_encode = [training for path, training in ours.items() if not (path / latent_files.LATENT_INDEX).is_file()]
    return Missing(to_encode, trainings, [each for each in grid.evaluations if not each.file.is_file()])


def do_missing_work(grid: Grid, missing: Missing, parallel: int) -> dict[Path, str]:
    """Encode, train and evaluate all that is missing.

    Args:
        grid: The ablations.
        missing: What there is to do, as `missing_work` found it.
        parallel: The number of workers.

    Returns:
        What failed, and why, by the folder or file that it was to make.
    """
    failed: dict[Path, str] = {}
    images = {e.training.image_model.folder for e in grid.evaluations if e.training.image_model}
    with Workers(parallel) as workers:
        do = partial(do_all, grid, workers, failed)
        do("encoding", "data set", encode_latents, {Path(t.config.latents): t for t in missing.to_encode})
        do("training", "step", run_training, {t.folder: t for t in missing.trainings if t.folder in images})
        do("training", "step", run_training, {t.folder: t for t in missing.trainings if t.folder not in images})
        do("evaluating", "model", run_evaluation, {e.file: e for e in missing.evaluations if e.training.done})
    return failed


def do_all(
    grid: Grid, workers: Workers, failed: dict[Path, str], desc: str, unit: str, work: Callable, items: dict[Path, Any]
) -> None:
    """Do work of one kind with a progress bar: items, by the path that each makes. Trainings count by their steps."""
    ended: set[Path] = set()

    def attempt(path: Path, item: Training | Evaluation, workers: Workers, device: WorkerDevice) -> None:
        try:
            work(grid, item, workers, device)
        except (ValueError, OSError, RuntimeError) as error:
            failed[path] = str(error)
        ended.add(path)
        if not workers.stopped:
            Progress.write(f"{path.relative_to(grid.folder)}: {failed.get(path, 'done')}", file=sys.stdout)
            sys.stdout.flush()

    def done(path: Path) -> int:
        if path in ended or unit != "step":
            return size(path) if path in ended else 0
        lines = read_lines(path / METRICS_FILE)
        return int(lines[-1]["step"]) if lines else 0

    size = lambda path: items[path].config.steps if unit == "step" else 1
    with Progress(desc=desc, total=sum(map(size, items)), unit=unit, disable=not items) as bar:
        bar.skip(sum(map(done, items)))
        workers.for_each(attempt, [*items.items()], lambda: bar.update(sum(map(done, items)) - bar.n))
