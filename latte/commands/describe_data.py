"""What folders of training data hold: data lists, latents, and those that a run keeps; for `latte info PATH`."""

from collections import Counter
from pathlib import Path

from latte.arguments import counted
from latte.commands.describe_weights import Lines
from latte.eval.tensor_files import stored_shapes
from latte.files import read_json
from latte.train.data.latent_files import LATENT_FORMAT, LATENT_INDEX, open_latent_folder
from latte.train.data.video_list import VIDEO_LIST_FORMAT, open_video_list


def index_format(path: Path) -> str:
    """The format that the index.json of a folder names."""
    try:
        return str(read_json(path / LATENT_INDEX).get("format", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def kept_parts(path: Path) -> list[Path]:
    """The files of latents that a run keeps in a folder; none if it holds something else."""
    files = sorted(path.glob("part-*.safetensors"))
    try:
        return files if all({"mean", "deviation"} <= stored_shapes(file).keys() for file in files) else []
    except Exception:  # a damaged file can raise almost anything
        return []


def data_folders(path: Path) -> list[Path]:
    """The data lists and the folders of latents in a folder."""
    folders = sorted(file.parent for file in path.glob(f"*/{LATENT_INDEX}"))
    return [folder for folder in folders if index_format(folder) in (VIDEO_LIST_FORMAT, LATENT_FORMAT)]


def about_list(path: Path) -> Lines:
    """How many videos, of which classes and sizes."""
    listed = open_video_list(path, verify_files=False)
    yield "videos", f"{len(listed.videos)} in {listed.root}, {sum(video.frames for video in listed.videos)} frames"
    counts = Counter(video.label for video in listed.videos)
    yield "classes", ", ".join(f"{name} {counts[i]}" for i, name in enumerate(listed.classes))
    sizes = Counter(f"{video.width} x {video.height}" for video in listed.videos)
    others = [f"and {counted(len(sizes) - 3, 'other size')}"] if len(sizes) > 3 else []
    yield "pixels", ", ".join([*(f"{size}: {count}" for size, count in sizes.most_common(3)), *others])
    yield "captions", sum(bool(video.caption) for video in listed.videos) or "none"
    yield "checked for", f"frame_interval={listed.frame_interval}" if listed.frame_interval else None


def about_latents(path: Path) -> Lines:
    """What was encoded, and how."""
    latents = open_latent_folder(path)
    size = sum(file["bytes"] for file in latents.files.values())
    frames = sum(video.frames for video in latents.videos)
    yield "videos", f"{latents.num_videos}, {frames} frames, {size / 2**20:.1f} MiB"
    yield "classes", ", ".join(latents.names)
    yield "text", "embeddings of the captions" if latents.has_text else "none"
    yield "settings", ", ".join(f"{name}={value}" for name, value in latents.settings.items())


def about_kept_latents(path: Path) -> Lines:
    """How many clips a run has encoded, and of which shape."""
    files = kept_parts(path)
    shapes = [stored_shapes(file)["mean"] for file in files]
    size = sum(file.stat().st_size for file in files)
    yield "clips", f"{sum(shape[0] for shape in shapes)}, {size / 2**20:.1f} MiB"
    yield "shape", " x ".join(map(str, shapes[0][1:])) + ": frames x channels x height x width"


def about_data_folders(path: Path) -> Lines:
    """What each folder of data in a folder is, and how many videos it has."""
    for folder in data_folders(path):
        listed = index_format(folder) == VIDEO_LIST_FORMAT
        count = len(open_video_list(folder, verify_files=False).videos) if listed else None
        count = open_latent_folder(folder).num_videos if count is None else count
        yield folder.name, f"{'a data list' if listed else 'latents'} of {counted(count, 'video')}"
