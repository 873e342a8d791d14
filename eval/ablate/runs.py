"""The runs of an ablation: what is to be trained and scored, in which folders, and doing what is missing of it.

FOLDER/base.yaml holds the settings that arms depart from, FOLDER/runs/ARM/seed-S a training each. What an arm departs
by is its folder's name, so that arms of several ablations that are the same are one run.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import yaml

from latte.eval.ablate.definitions import Ablation, Arm, Scale, ablations
from latte.eval.ablate.scores import measure_run, score_samples
from latte.eval.ablate.workers import WorkerDevice, Workers
from latte.files import read_json, write_json, write_text
from latte.models.latte import LatteConfig
from latte.train.config import MAY_CHANGE, TrainConfig
from latte.train.data import latent_files
from latte.train.data.latent_files import latent_settings
from latte.train.presets import resolve
from latte.train.run import DEFAULTS

ABOUT, BASE, TRAINED, LOG = "ablation.json", "base.yaml", "trained.json", "train.log"
FREE = MAY_CHANGE - {"steps"} | {"seed"}  # settings that are no part of what is compared
IMAGES = "images"  # name of the image model's runs


@dataclass(frozen=True)
class Training:
    """A training: `words` are the changes of the base that it is trained with."""

    folder: Path
    words: tuple[str, ...]
    config: TrainConfig
    before: "Training | None" = None  # whose weights it begins with

    @property
    def done(self) -> bool:
        return (self.folder / TRAINED).is_file()


@dataclass(frozen=True)
class Exam:
    """A trained run's samples, of some sampling, and what they are worth."""

    run: Training
    sampling: dict
    file: Path


@dataclass(frozen=True)
class Grid:
    """An ablation as asked for: chosen comparisons at a scale, over seeds, in a folder."""

    folder: Path
    scale: Scale
    base: TrainConfig
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    count: int  # videos sampled of each run
    i3d: str = ""  # I3D's weights, for the FVD of samples of a folder's videos

    @cached_property
    def ablations(self) -> dict[str, Ablation]:
        """The chosen ones."""
        known = ablations(self.scale, asdict(LatteConfig.from_dict(self.base.model)))
        return {name: known[name] for name in self.names}

    def run(self, arm: Arm, seed: int) -> Training:
        """The training of an arm. ValueError: its settings do not go together."""
        before, settings = None, {**arm.train}
        if arm.begins and isinstance(self.scale.image_model, dict):
            before = self.named(IMAGES, self.scale.image_model, seed)
            settings["init"] = str(before.folder / "final")
        elif arm.begins:
            settings["init"] = self.scale.image_model
        settings = {name: value for name, value in settings.items() if value != self.of_base(name)}
        parts = [
            "init=images" if name == "init" else f"{name.removeprefix('model.')}={value}"
            for name, value in sorted(settings.items())
        ]
        return self.named(",".join(parts) or "base", settings, seed, before)

    def named(self, name: str, settings: dict, seed: int, before: Training | None = None) -> Training:
        """The training with these settings in place of the base's, its latents encoded once for all that share them."""
        words = [f"{key}={json.dumps(value)}" for key, value in {**settings, "seed": seed}.items()]
        config = resolve(str(self.folder / BASE), words)
        if config.latents == "once":
            about = json.dumps([latent_settings(config), config.vae], sort_keys=True)
            words.append(f"latents={self.folder / 'latents' / hashlib.sha256(about.encode()).hexdigest()[:12]}")
        config = resolve(str(self.folder / BASE), words)
        return Training(self.folder / "runs" / name / f"seed-{seed}", tuple(words), config, before)

    def of_base(self, name: str) -> object:
        """The base's value of a setting such as "steps" or "model.depth"."""
        table, dot, inner = name.partition(".")
        if not dot:
            return getattr(self.base, name)
        default = {field.name: field.default for field in fields(LatteConfig)}
        return getattr(self.base, table).get(inner, default.get(inner))

    def exam(self, arm: Arm, seed: int) -> Exam:
        """What an arm is scored by."""
        run, own = self.run(arm, seed), self.scale.sampling
        parts = [f"{name}={value}" for name, value in sorted(arm.sample.items()) if value != own.get(name)]
        file = run.folder / "scores" / f"{','.join(parts) or 'base'}.json"
        return Exam(run, {**own, **arm.sample, "seed": seed}, file)

    @cached_property
    def exams(self) -> list[Exam]:
        """All that there is to do, each once, seed by seed."""
        arms = [arm for ablation in self.ablations.values() for arm in ablation.arms.values()]
        return list(
            {exam.file: exam for seed in self.seeds for exam in (self.exam(arm, seed) for arm in arms)}.values()
        )

    def begin(self) -> None:
        """Write what the folder is for. ValueError: it holds an ablation of another base.

        Settings that a run may be resumed with may change, but for the number of steps.
        """
        asked = {**asdict(self.base), **self.scale.sampling, "num_videos": self.count}
        asked |= {"i3d": self.i3d} if self.i3d else {}
        about = json.loads(json.dumps({name: value for name, value in asked.items() if name not in FREE}))
        path = self.folder / ABOUT
        before = {**DEFAULTS, **read_json(path)} if path.is_file() else about  # of settings newer than the folder
        if changed := sorted(name for name, value in about.items() if before.get(name) != value):
            said = f"{self.folder} holds an ablation with other settings: {', '.join(changed)}"
            raise ValueError(f"{said}: give another folder")
        write_json(path, about)
        write_text(self.folder / BASE, yaml.safe_dump(asdict(self.base), sort_keys=False))


def command(words: list[str], log: Path, workers: Workers, place: WorkerDevice) -> None:
    """Run `latte` with these words at a place. ValueError: it failed, with its last line."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        start = file.tell()
        status = workers.call([sys.executable, "-W", "ignore", "-m", "latte.cli", *words], place, file)
    if status:
        said = log.read_bytes()[start:].decode(errors="replace").replace("\r", "\n").strip().splitlines()
        raise ValueError(said[-1] if said else f"status {status}")


def encode(grid: Grid, run: Training, workers: Workers, place: WorkerDevice) -> None:
    """Encode a run's latents."""
    out, words = Path(run.config.latents), [word for word in run.words if not word.startswith("latents=")]
    base = ["--config", str(grid.folder / BASE), "--device", place.kind]
    command(["encode", *base, "--out", str(out), *words], out.with_suffix(".log"), workers, place)


def train(grid: Grid, run: Training, workers: Workers, place: WorkerDevice) -> None:
    """Train, going on from where it stopped, and measure. ValueError: it failed, or what it begins with did."""
    if run.before is not None and not run.before.done:
        raise ValueError(f"{run.before.folder} failed, with whose weights it begins")
    base = ["--config", str(grid.folder / BASE), "--device", place.kind]
    command(["train", *base, "--run", str(run.folder), *run.words], run.folder / LOG, workers, place)
    write_json(run.folder / TRAINED, measure_run(run.folder, place.device))


def examine(grid: Grid, exam: Exam, workers: Workers, place: WorkerDevice) -> None:
    """Sample and score."""
    score_samples(exam.run.folder, exam.sampling, grid.count, exam.file, place.device, grid.i3d)


def missing(grid: Grid) -> tuple[list[Training], list[Training], list[Exam]]:
    """(a run for each set of latents not encoded yet, runs not trained yet, exams not scored yet)."""
    wanted = {run.folder: run for exam in grid.exams for run in (exam.run.before, exam.run) if run}
    runs = [run for run in wanted.values() if not run.done]
    latents = {Path(run.config.latents): run for run in runs}
    ours = {where: run for where, run in latents.items() if where.is_relative_to(grid.folder)}
    fresh = [run for where, run in ours.items() if not (where / latent_files.LATENT_INDEX).is_file()]
    return fresh, runs, [exam for exam in grid.exams if not exam.file.is_file()]


def complete(grid: Grid, parallel: int) -> dict[Path, str]:
    """Do all that is missing, `parallel` at a time; what failed, and why, by the folder or file that it is to make."""
    failed: dict[Path, str] = {}

    def attempt(what: Callable, item: Training | Exam, path: Path, workers: Workers, place: WorkerDevice) -> None:
        try:
            what(grid, item, workers, place)
        except (ValueError, OSError, RuntimeError) as error:
            failed[path] = str(error)
        if not workers.stopped:
            print(f"{path.relative_to(grid.folder)}: {failed.get(path, 'done')}", flush=True)

    fresh, runs, exams = missing(grid)
    first = {exam.run.before.folder for exam in grid.exams if exam.run.before}
    with Workers(parallel) as workers:
        workers.each(attempt, [(encode, run, Path(run.config.latents)) for run in fresh])
        workers.each(attempt, [(train, run, run.folder) for run in runs if run.folder in first])
        workers.each(attempt, [(train, run, run.folder) for run in runs if run.folder not in first])
        workers.each(attempt, [(examine, exam, exam.file) for exam in exams if exam.run.done])
    return failed
