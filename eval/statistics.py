"""Means and covariances that others computed: .npz files, and the pickles of StyleGAN-V and cd-fvd."""

from pathlib import Path

import numpy as np
import torch

from latte.eval.frechet import Moments
from latte.eval.networks.pickles import read_pickle
from latte.weights.tensors import CheckpointError, digest, read_arrays

SUFFIXES = (".npz", ".pkl", ".pickle")
NAMES = {"mean": ("mean", "mu"), "cov": ("cov", "sigma"), "count": ("n", "num_items", "count")}


def is_statistics(path: Path) -> bool:
    """Whether it is a file of what others computed, by its name."""
    return path.suffix in SUFFIXES and not path.is_dir()


def read_statistics(path: Path) -> tuple[Moments, dict]:
    """Moments out of a file, and what is known of it.

    An .npz holds mean (d,) or mu, cov (d, d) or sigma, and n if it is known (0: it is not); a pickle holds StyleGAN's
    num_items, raw_mean (sums) and raw_cov (sums of products). CheckpointError names the file and what is wrong.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file")
    values = read_arrays(path) if path.suffix == ".npz" else read_pickle(path)
    try:
        if "raw_mean" in values:
            count = int(values["num_items"])
            mean = torch.as_tensor(np.asarray(values["raw_mean"], np.float64)) / count
            cov = torch.as_tensor(np.asarray(values["raw_cov"], np.float64)) / count - mean.outer(mean)
        else:
            mean, cov = (torch.as_tensor(np.asarray(pick(values, name), np.float64)) for name in ("mean", "cov"))
            count = int(pick(values, "count", 0))
        moments = Moments(mean, cov, count)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path} holds no statistics that are known here: {error}") from error
    return moments, {"statistics": path.name, "sha256": digest(path), "clips": count}


def pick(values: dict, name: str, default: object = None) -> object:
    """A value under any of its usual names. KeyError: it is not there, and there is no default."""
    for known in NAMES[name]:
        if known in values:
            return values[known]
    if default is None:
        raise KeyError(f"neither {' nor '.join(NAMES[name])}, only {', '.join(map(str, values)) or 'nothing'}")
    return default
