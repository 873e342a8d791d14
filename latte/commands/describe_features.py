"""What files and folders of features and of statistics hold, for `latte info PATH`."""

from pathlib import Path

from latte.arguments import counted
from latte.commands.describe_weights import Lines
from latte.eval.statistics import features_by_width, is_statistics, metric_of, read_feature_set
from latte.files import one_line


def about_features(path: Path) -> Lines:
    """How many, and how wide; of a folder with several widths, for each of them."""
    if path.is_dir() and len(groups := features_by_width(path)) > 1:
        for width, parts in groups.items():
            clips = counted(sum(map(len, parts.values())), "clip")
            metrics = sorted({one_line(metric_of(file)) for file in parts} - {""})
            of = f", for {' and '.join(metrics)}" if metrics else ""
            yield "features", f"{clips} in {counted(len(parts), 'file')}, {counted(width, 'number')} each{of}"
        return
    found = read_feature_set(path)
    yield "clips", found.count or "unknown"
    yield "width", f"{found.width} numbers each"
    facts = {name: value for name, value in found.about.items() if not isinstance(value, dict | list)}
    yield "of", ", ".join(f"{name} {value}" for name, value in facts.items())


def statistics_files(path: Path) -> list[Path]:
    """The files of a folder of nothing but statistics, or features in .npz files; none if it holds something else."""
    inside = sorted(entry for entry in path.iterdir() if entry.name[0] != ".") if path.is_dir() else []
    return inside if all(map(is_statistics, inside)) else []


def about_statistics(path: Path) -> Lines:
    """How many files, and what the first one holds."""
    files = statistics_files(path)
    found = read_feature_set(files[0])
    clips = counted(found.count, "clip") if found.count else "an unknown number of clips"
    yield "files", len(files)
    yield "the first", f"{files[0].name}: {clips}, {found.width} numbers each"
