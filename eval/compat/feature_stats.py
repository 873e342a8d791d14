"""cd-fvd's FeatureStats: sums of features and of their products, and its pickles."""

import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latte.eval.frechet import Moments
from latte.files import replacing
from latte.weights.arrays import read_array_pickle
from latte.weights.tensors import CheckpointError

FIELDS = ("capture_all", "capture_mean_cov", "max_items", "num_items", "num_features", "all_features", "raw_mean")


class FeatureStats:
    """Mean and covariance of features, added up in float64, and the features themselves if they are kept.

    Args:
        capture_all: Whether the features are kept.
        capture_mean_cov: Whether their sums are.
        max_items: Features beyond this number are ignored. None: no limit.
    """

    def __init__(self, capture_all: bool = False, capture_mean_cov: bool = False, max_items: int | None = None):
        self.capture_all, self.capture_mean_cov, self.max_items = capture_all, capture_mean_cov, max_items
        self.num_items = 0
        self.num_features: int | None = None
        self.all_features: list[np.ndarray] | None = None
        self.raw_mean: np.ndarray | None = None
        self.raw_cov: np.ndarray | None = None

    def set_num_features(self, num_features: int) -> None:
        """Set the width of the features. Raises ValueError if it was different before."""
        if self.num_features not in (None, num_features):
            raise ValueError(f"features of {num_features} numbers cannot join features of {self.num_features}")
        if self.num_features is None:
            self.num_features, self.all_features = num_features, []
            self.raw_mean, self.raw_cov = np.zeros(num_features), np.zeros((num_features, num_features))

    def is_full(self) -> bool:
        """Whether there are max_items features."""
        return self.max_items is not None and self.num_items >= self.max_items

    def append(self, x: np.ndarray) -> None:
        """Add features (n, d), as many as there is room for."""
        x = np.asarray(x, np.float32)
        if x.ndim != 2:
            raise ValueError(f"expected features (n, d), not {x.shape}")
        if self.max_items is not None:
            x = x[: max(0, self.max_items - self.num_items)]
        if not len(x):
            return
        self.set_num_features(x.shape[1])
        self.num_items += len(x)
        if self.capture_all and self.all_features is not None:
            self.all_features.append(x)
        if self.capture_mean_cov and self.raw_mean is not None and self.raw_cov is not None:
            wide = x.astype(np.float64)
            self.raw_mean += wide.sum(0)
            self.raw_cov += wide.T @ wide

    def append_torch(self, x: Tensor, rank: int = 0, num_gpus: int = 1) -> None:
        """Add features (n, d). Raises ValueError for several GPUs: `torchrun -m latte eval` shares work among them."""
        if num_gpus != 1:
            raise ValueError("features of several GPUs are not gathered here: torchrun -m latte eval shares them")
        self.append(x.detach().float().cpu().numpy())

    def get_all(self) -> np.ndarray:
        """The kept features (n, d). Raises ValueError if none were kept."""
        if not self.capture_all or not self.all_features:
            raise ValueError("no features were kept: construct with compute_feats=True, and add some")
        return np.concatenate(self.all_features)

    def get_all_torch(self) -> Tensor:
        """`get_all` as a tensor."""
        return torch.from_numpy(self.get_all())

    def get_mean_cov(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean (d,) and the covariance (d, d), divided by n. Raises ValueError if there are no features."""
        if not self.capture_mean_cov or self.raw_mean is None or self.raw_cov is None or not self.num_items:
            raise ValueError("there are no features yet: compute, add or load some")
        mean = self.raw_mean / self.num_items
        return mean, self.raw_cov / self.num_items - np.outer(mean, mean)

    def moments(self) -> Moments:
        """`get_mean_cov` as the Fréchet distance takes it."""
        mean, cov = map(torch.from_numpy, self.get_mean_cov())
        return Moments(mean, cov, self.num_items)

    def save(self, pkl_file: str | Path) -> None:
        """Write the pickle that cd-fvd reads, and `latte eval --real` as well."""
        with replacing(Path(pkl_file)) as draft:
            draft.write_bytes(pickle.dumps(self.__dict__))

    @staticmethod
    def load(pkl_file: str | Path) -> "FeatureStats":
        """Read such a pickle; only arrays and numbers are built.

        Raises:
            CheckpointError: The file is missing or damaged, or holds something else.
        """
        values = read_array_pickle(Path(pkl_file))
        if missing := [name for name in (*FIELDS, "raw_cov") if name not in values]:
            raise CheckpointError(f"{pkl_file} holds no statistics of cd-fvd: {missing[0]} is missing")
        found = FeatureStats()
        for name in (*FIELDS, "raw_cov"):
            value = values[name]
            setattr(found, name, value.numpy() if isinstance(value, Tensor) else value)
        return found
