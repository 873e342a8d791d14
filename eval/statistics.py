"""Statistics and features that were computed elsewhere, read from files.

Statistics are the mean and covariance of features: an .npz file, or a pickle of StyleGAN-V or cd-fvd. Features are
rows of numbers: an .npz or .safetensors file with an array called `features`, or a folder of such .safetensors files.
"""

import warnings
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from latte.eval.features import METRIC, SET
from latte.eval.frechet import Moments
from latte.eval.tensor_files import holds_video_tensors
from latte.files import utf8_path
from latte.video.array_files import ARRAY_SUFFIXES, find_videos
from latte.video.pixels import as_tensor
from latte.weights.arrays import read_array_pickle, read_arrays
from latte.weights.manifest import digest
from latte.weights.pickles import Foreign
from latte.weights.tensors import CheckpointError, read_tensors

PICKLES = (".pkl", ".pickle")
FEATURES = ".safetensors"
MOST_WIDTH = 8192  # numbers per feature, in statistics: their covariance takes half a gigabyte
NAMES = {"mean": ("mean", "mu"), "cov": ("cov", "sigma"), "count": ("n", "num_items", "count")}


@dataclass(frozen=True)
class FeatureSet:
    """Features of one side of a comparison.

    Attributes:
        about: What they are features of, for the result.
        features: (n, d), or only their moments.
        given: Whether they were given directly, so that nothing is known about the network or the videos.
    """

    about: dict
    features: Tensor | Moments
    given: bool = False

    @property
    def count(self) -> int:
        """The number of clips they come from; 0 if unknown."""
        return self.features.count if isinstance(self.features, Moments) else len(self.features)

    @property
    def width(self) -> int:
        """Numbers per feature."""
        return len(self.features.mean) if isinstance(self.features, Moments) else self.features.shape[1]

    def moments(self, unbiased: bool) -> Moments:
        """The moments of the features; given moments are returned unchanged."""
        return self.features if isinstance(self.features, Moments) else Moments.of(self.features, unbiased)


def is_statistics(path: str | Path) -> bool:
    """Whether a path is a file of statistics (or an .npz of features), by its suffix; an .npz must not hold videos."""
    path = Path(path)
    return path.suffix.lower() in (".npz", *PICKLES) and not path.is_dir() and not holds_videos(path)


def holds_videos(path: Path) -> bool:
    """Whether a file of arrays or tensors holds videos, by their shapes; those of statistics and features differ."""
    if path.suffix.lower() not in ARRAY_SUFFIXES:
        return holds_video_tensors(path)
    try:
        return path.is_file() and bool(find_videos(path))
    except (ValueError, OSError):
        return path.suffix.lower() == ".npy" and path.is_file()  # no other kind of input is .npy


def is_features(path: str | Path) -> bool:
    """Whether a path is a file of statistics or features, or a folder of nothing but files of features."""
    path = Path(path)
    if path.is_dir():
        inside = [file for file in path.iterdir() if file.name[0] != "."]
        return bool(inside) and all(file.suffix.lower() == FEATURES for file in inside)
    return (path.suffix.lower() == FEATURES and not holds_videos(path)) or is_statistics(path)


def read_statistics(path: Path) -> tuple[Moments, dict]:
    """Read the moments of features from a file.

    Args:
        path: An .npz with `mean` (d,) or `mu`, `cov` (d, d) or `sigma`, and `n` if it is known; or a pickle with
            StyleGAN's `num_items`, `raw_mean` (sums) and `raw_cov` (sums of products).

    Returns:
        The moments (count 0: unknown), and a description of the file for the result.

    Raises:
        CheckpointError: The file is missing or damaged, or holds no statistics.
    """
    values = read_arrays(path) if path.suffix.lower() == ".npz" else read_array_pickle(path)
    try:
        if "raw_mean" in values:
            count = int(values["num_items"])
            mean, cov = (as_numbers(values[name], name) / count for name in ("raw_mean", "raw_cov"))
            if cov.shape == (*mean.shape, *mean.shape):
                cov -= mean.outer(mean)
        else:
            mean, cov = (as_numbers(lookup(values, name), name) for name in ("mean", "cov"))
            count = int(lookup(values, "count", 0))
        if count < 0:
            raise ValueError("its number of features is negative")
        moments = Moments(mean, cov, count)
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{path} holds no statistics of a known format: {error}") from error
    return moments, {"statistics": path.name, "sha256": digest(path), "clips": count}


def as_numbers(value: object, name: str) -> Tensor:
    """An array, or a list of numbers or of lists of numbers, in float64.

    Raises:
        ValueError: It is something else, or has more numbers than a covariance of MOST_WIDTH features.
    """
    if isinstance(value, Foreign):
        raise ValueError(f"it holds {value.name}, which is not an array")
    if isinstance(value, list):
        rows = [row if isinstance(row, list) else [row] for row in value]
        few = sum(map(len, rows)) <= MOST_WIDTH**2
        if not few or not all(type(number) in (int, float) for row in rows for number in row):
            raise ValueError(f"{name} is not a list of numbers")
    if isinstance(value, Tensor | np.ndarray) and prod(value.shape) > MOST_WIDTH**2:
        raise ValueError(
            f"{name} has the shape {tuple(value.shape)}; at most {MOST_WIDTH} numbers per feature are read"
        )
    if not isinstance(value, Tensor | np.ndarray | list | int | float):  # nested tuples may have any number of items
        raise ValueError(f"{name} is a {type(value).__name__}, which is not an array")
    return torch.from_numpy(np.array(value, np.float64))


def lookup(values: dict, name: str, default: object = None) -> object:
    """A value under any of its usual names. Raises KeyError if it is missing and there is no default."""
    for known in NAMES[name]:
        if known in values:
            return values[known]
    if default is None:
        raise KeyError(f"neither {' nor '.join(NAMES[name])}, only {', '.join(map(str, values))[:200] or 'nothing'}")
    return default


def read_feature_set(path: str | Path) -> FeatureSet:
    """Read a file of statistics, a file of features, or a folder of files of features.

    The files of a folder are read in the order of their names. A folder that `features=` filled qualifies if it
    holds the features of one set of videos by one network. Features of one number, such as flicker, are left out beside
    others, with a warning.

    Raises:
        CheckpointError: The file is missing or damaged, or holds neither; or the folder's files do not fit together.
    """
    path = Path(path)
    if path.suffix.lower() == ".npz" and path.is_file() and "features" in (arrays := read_arrays(path)):
        features, sha256 = as_features(arrays["features"], path), digest(path)
    elif is_statistics(path):
        moments, about = read_statistics(path)
        return FeatureSet(about, moments, given=True)
    else:
        found = features_by_width(path)
        if len(found) > 1 and found.pop(1, None):
            warnings.warn(f"{path}: features of 1 number, such as flicker, are left out", stacklevel=2)
        if len(found) > 1:
            widths = " and of ".join(map(str, found))
            raise CheckpointError(f"{path} holds features of {widths} numbers: name a folder with those of one network")
        (parts,) = found.values()
        if len(sets := {set_of(file) for file in parts}) > 1:
            raise CheckpointError(
                f"{path} holds features of {len(sets)} sets of clips, such as both sides of a comparison: name the"
                " videos instead, or a folder with the features of one set"
            )
        features, sha256 = torch.cat(list(parts.values())), [digest(file) for file in parts]
    return FeatureSet({"features": path.name, "sha256": sha256, "clips": len(features)}, features, given=True)


def features_by_width(path: Path) -> dict[int, dict[Path, Tensor]]:
    """The features (n, d) in a file or in the files of a folder, by d, the lowest first, and by file, sorted.

    Raises:
        CheckpointError: A file is missing or damaged, or holds no features.
    """
    inside = sorted(file for file in path.iterdir() if file.name[0] != ".") if path.is_dir() else [path]
    found: dict[int, dict[Path, Tensor]] = {}
    for file in (file for file in inside if file.suffix.lower() == FEATURES):
        part = as_features(read_tensors(file).get("features"), file)
        found.setdefault(part.shape[1], {})[file] = part
    return dict(sorted(found.items()))


def set_of(path: Path) -> str:
    """The digest of the set of clips that the features in a file belong to; empty if the file does not record it."""
    return recorded(path, SET)


def metric_of(path: Path) -> str:
    """The metric that the features in a file are for, such as "flicker"; empty if the file does not record it."""
    return recorded(path, METRIC)


def recorded(path: Path, name: str) -> str:
    """What a file of features records under a name, besides the features; empty if it does not."""
    with utf8_path(path) as readable, safe_open(readable, "pt") as file:
        return (file.metadata() or {}).get(name, "")


def feature_rows(side: FeatureSet, name: str) -> Tensor:
    """Features (n, d), one row per clip. Raises ValueError if the side, "real" or "generated", has only moments."""
    if isinstance(side.features, Moments):
        raise ValueError(f"the {name} side is statistics: a kernel distance needs videos or features")
    return side.features


def as_features(values: Tensor | np.ndarray | None, name: str | Path) -> Tensor:
    """Features (n, d) as a tensor on the CPU. Raises CheckpointError if they are something else."""
    if values is None:
        raise CheckpointError(f"{name} holds no array called features")
    try:
        values = as_tensor(values).detach().cpu()
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from error
    if values.ndim != 2 or not values.is_floating_point() or not values.isfinite().all():
        kind = str(values.dtype).removeprefix("torch.")
        raise CheckpointError(f"{name}: expected finite features (n, d), not {kind} {tuple(values.shape)}")
    return values
