"""What lies at a path, in a few lines: a run, a model, data, features, statistics, results or videos."""

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from latte.arguments import counted
from latte.commands.describe_data import (
    about_data_folders,
    about_kept_latents,
    about_latents,
    about_list,
    data_folders,
    index_format,
    kept_parts,
)
from latte.commands.describe_features import about_features, about_statistics, statistics_files
from latte.commands.describe_weights import WEIGHTS, Lines, about_model, about_pipeline, about_weights, is_weights
from latte.commands.options.models import named_path
from latte.eval.ablate.runs import ABOUT as ABLATION
from latte.eval.fvd_result import FVDResult
from latte.eval.leaderboard import read_entries, read_tables
from latte.eval.protocol_table import ProtocolTable
from latte.eval.seed_spread import SeedSpread
from latte.eval.statistics import is_features
from latte.files import read_json
from latte.sample_record import RECORD
from latte.train import checkpoint
from latte.train.data.latent_files import LATENT_FORMAT, LATENT_INDEX
from latte.train.data.video_list import VIDEO_LIST_FORMAT
from latte.train.header import TRAINED
from latte.train.metrics import METRICS_FILE, read_lines
from latte.train.resolve import resolve
from latte.train.run_folder import SETTINGS_FILE
from latte.video.find import scan_videos
from latte.video.formats import PICTURE_SUFFIXES, video_kind
from latte.video.frame_folders import list_pictures
from latte.video.inspect import inspect_video
from latte.video.page import PAGE_FILE, is_page
from latte.weights.find_models import (
    CHECKPOINTS,
    FINAL,
    is_checkpoint,
    is_text_pipeline,
)
from latte.weights.manifest import CONFIG

SHOWN = 40  # lines about a result file, and names in one of them


def describe_path(name: str) -> str:
    """Describe what lies at a path, or a model by its name.

    Raises:
        ValueError: There is nothing, or nothing of a known kind.
    """
    path = named_path(name)
    if path.name == LATENT_INDEX and index_format(path.parent) in (VIDEO_LIST_FORMAT, LATENT_FORMAT):
        path = path.parent
    what, about = next(((what, about) for what, known, about in KINDS if known(path)), ("", None))
    if about is None:
        kinds = "a run, a model, a data list, latents, features, statistics, results or videos"
        raise ValueError(f"{path} is not {kinds}, as far as can be told")
    lines = [(name, value) for name, value in about(path) if value not in (None, "")]
    return "\n".join([f"{path}: {what}", *(f"  {name:11} {value}" for name, value in lines)])


def about_run(path: Path) -> Lines:
    """Its settings, its progress and its newest metrics."""
    config = resolve(str(path / SETTINGS_FILE), [])
    yield "trains", f"{TRAINED[config.kind]} on {config.data}"
    clip = f"{counted(config.num_frames, 'frame')} of {config.image_size} x {config.image_size} pixels"
    yield "clips", f"{clip}, {config.global_batch_size} per step, precision {config.precision}"
    done = saved_steps(path)
    finished = f"; the result is {path / FINAL}" if (path / FINAL).is_dir() else ""
    goes_on = f"; resume: `{shlex.join(['latte', 'train', '--run', str(path)])}`" if done < config.steps else ""
    yield "steps", f"{done} of {config.steps} saved{finished}{goes_on}"
    for line in read_lines(path / METRICS_FILE)[-1:]:
        yield "last logged", numbers(line)


def about_checkpoints(path: Path) -> Lines:
    """Their steps, and the run."""
    yield "steps", ", ".join(str(checkpoint.step_of(entry)) for entry in run_checkpoints(path))
    yield "the run", path.parent


def run_checkpoints(path: Path) -> list[Path]:
    """The checkpoints in the folder of that name in a run; none if this is something else."""
    return checkpoint.list_checkpoints(path.parent) if path.name == CHECKPOINTS else []


def about_runs(path: Path) -> Lines:
    """What each run in a folder trains, and its progress."""
    for file in sorted(path.glob(f"*/{SETTINGS_FILE}")):
        config, run = resolve(str(file), []), file.parent
        yield run.name, f"{TRAINED[config.kind]} on {config.data}, {saved_steps(run)} of {config.steps} steps saved"


def saved_steps(run: Path) -> int:
    """The step of the newest checkpoint of a run; 0 if it has none."""
    return max(map(checkpoint.step_of, checkpoint.list_checkpoints(run)), default=0)


def about_ablation(path: Path) -> Lines:
    """How much of it is done."""
    about = read_json(path / ABLATION)
    yield "base", ", ".join(f"{name} {about[name]}" for name in ("data", "steps", "num_videos") if name in about)
    runs = sorted({file.parent.parent.name for file in path.glob(f"runs/*/*/{SETTINGS_FILE}")})
    yield "arms", "; ".join(runs)
    yield "scores", counted(len([*path.glob("runs/*/*/scores/*.json")]), "file")


def about_results(path: Path) -> Lines:
    """The tables of its leaderboard: how many results each has, and the lowest distance."""
    tables, _ = read_tables(path)
    for table in tables:
        best = min(table.entries, key=lambda entry: entry.value)
        count = counted(len(table.entries), "result")
        apart = f", which differ from those above in {table.apart}" if table.apart else ""
        yield "comparable", f"{count} of {table.title}{apart}; the lowest is {best.value:.2f} ({best.name})"
    yield "to see them", f"`{shlex.join(['latte', 'eval', '--leaderboard', str(path)])}`"


def about_samples(path: Path) -> Lines:
    """The videos of a set for evaluation, and how they were made."""
    record = read_json(path / RECORD)
    yield "videos", len([*path.glob("*.mkv")])
    yield "model", record.get("model")
    settings = record.get("settings", {})
    yield "settings", ", ".join(f"{name}={value}" for name, value in settings.items() if value is not None)
    yield "device", f"{record.get('device')}, torch {record.get('torch')}"


def about_page(path: Path) -> Lines:
    """What `latte sample` made."""
    names = sorted(file.name for file in path.glob("*.mp4"))
    yield "videos", len(names)
    yield "the first", names[0] if names else None
    yield "to see them", f"open {path / PAGE_FILE}"


def about_video(path: Path) -> Lines:
    """Its frames and its codec."""
    facts = inspect_video(path)
    yield "frames", f"{facts.frames} of {facts.width} x {facts.height} pixels, {facts.codec}"
    yield "damage", facts.damage


def about_videos(path: Path) -> Lines:
    """How many, in which folders, and what the first one that is not broken holds."""
    found = scan_videos(path)
    stills = [video for video in found.videos if video.is_dir() and len(list_pictures(video)) == 1]
    yield "videos", len(found.videos) - len(stills) or None
    beside = [file for file in found.others if file.suffix.lower() in PICTURE_SUFFIXES]
    yield "pictures", len(stills) + len(beside) or None
    below = [video.relative_to(path).parts for video in found.videos]
    folders = Counter(parts[0] for parts in below if len(parts) > 1)
    some = ", ".join(f"{name} {count}" for name, count in sorted(folders.items())[:SHOWN])
    yield "folders", f"{some}, ... ({len(folders)})" if len(folders) > SHOWN else some
    broken: list[Path] = []
    for video in [video for video in found.videos if video not in stills] or stills:
        try:
            facts = inspect_video(video, quick=True)
        except (ValueError, OSError):
            broken.append(video)
            continue
        which = "the first" if not broken else str(video.relative_to(path))
        yield which, f"{counted(facts.frames, 'frame')} of {facts.width} x {facts.height} pixels, {facts.codec}"
        break
    names = ", ".join(str(video.relative_to(path)) for video in broken[:SHOWN])
    looked = min(len(broken) + 1, len(found.videos))
    others = "" if looked == len(found.videos) else f" (only the first {looked} were looked at)"
    yield "broken", names + others if broken else None
    yield "unreadable", len(found.unreadable) or None


def about_json(path: Path) -> Lines:
    """The table of one or several distances; of another result, its numbers without digests."""
    values = read_json(path)
    for kind in (FVDResult, ProtocolTable, SeedSpread):
        try:
            yield "result", str(kind.from_dict(values))
            return
        except ValueError:  # another result
            pass
    if not isinstance(values, dict):
        yield "holds", f"a list of {len(values)}" if isinstance(values, list) else json.dumps(values)
        return
    flat = [(name, value) for name, value in flattened(values) if "sha256" not in name]
    yield from flat[:SHOWN]
    yield "and", f"{len(flat) - SHOWN} more" if len(flat) > SHOWN else None


def about_metrics(path: Path) -> Lines:
    """Its first and its last line."""
    lines = read_lines(path)
    yield "lines", len(lines)
    for name, some in (("first", lines[:1]), ("last", lines[-1:])):
        for line in some:
            yield name, numbers(line)


def flattened(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield (name, value) of the entries of nested tables, with names such as "scores.samples.clips"."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + str(name), f"a list of {len(value)}" if isinstance(value, list) and len(value) > 4 else value


def numbers(line: dict[str, float | None]) -> str:
    """A line of metrics in words."""
    short = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)
    return ", ".join(f"{name} {short(value)}" for name, value in line.items())


def holds_results(path: Path) -> bool:
    """Whether a folder holds results of distances, not deeper in it."""
    for file in path.glob("*.json"):
        try:
            if read_entries(read_json(file), file.name):
                return True
        except (ValueError, OSError, AttributeError):  # another file
            continue
    return False


def is_video(path: Path) -> bool:
    """Whether a path is a single video: a file, or a folder of nothing but pictures."""
    if path.is_dir():
        suffixes = [entry.suffix.lower() for entry in path.iterdir() if entry.name[0] != "."]
        return bool(suffixes) and all(suffix in PICTURE_SUFFIXES for suffix in suffixes)
    try:
        return bool(video_kind(path))
    except (ValueError, OSError):
        return False


# how each kind is recognised, the first that fits, and what is said about it
KINDS: tuple[tuple[str, Callable[[Path], bool], Callable[[Path], Lines]], ...] = (
    ("a training run", lambda path: (path / SETTINGS_FILE).is_file(), about_run),
    ("an ablation", lambda path: (path / ABLATION).is_file(), about_ablation),
    ("a data list", lambda path: index_format(path) == VIDEO_LIST_FORMAT, about_list),
    ("latents for training", lambda path: index_format(path) == LATENT_FORMAT, about_latents),
    ("videos for evaluation", lambda path: (path / RECORD).is_file(), about_samples),
    ("a checkpoint of a run", is_checkpoint, about_model),
    ("the checkpoints of a run", lambda path: bool(run_checkpoints(path)), about_checkpoints),
    ("a page of samples", lambda path: is_page(path / PAGE_FILE), about_page),
    ("a text-to-video model", lambda path: path.is_dir() and is_text_pipeline(path), about_pipeline),
    ("a model", lambda path: (path / CONFIG).is_file(), about_model),
    ("metrics of a run", lambda path: path.suffix == ".jsonl", about_metrics),
    ("results", lambda path: path.suffix == ".json" and path.is_file(), about_json),
    ("a folder of runs", lambda path: any(path.glob(f"*/{SETTINGS_FILE}")), about_runs),
    ("a folder of data", lambda path: bool(data_folders(path)), about_data_folders),
    ("latents that a run keeps", lambda path: bool(kept_parts(path)), about_kept_latents),
    ("features or statistics", lambda path: path.suffix not in WEIGHTS and is_features(path), about_features),
    ("a folder of statistics", lambda path: bool(statistics_files(path)), about_statistics),
    ("weights", is_weights, about_weights),
    ("a video", is_video, about_video),
    ("a folder of videos", lambda path: path.is_dir() and bool(scan_videos(path).videos), about_videos),
    ("a folder of results", holds_results, about_results),
)
