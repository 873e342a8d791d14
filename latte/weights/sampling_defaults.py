"""Default sampling settings of a call: from a model's sampling.json, or the usual ones for its kind."""

from pathlib import Path

from latte.files import CheckpointError, prefix_errors, read_json, write_json
from latte.models.latte_config import LatteConfig
from latte.sampling_settings import Guidance, Sampling, sampling_of
from latte.weights.find_models import WEAKER, weaker_folder

SAMPLING_FILE = "sampling.json"
TEXT_GUIDANCE = 7.5  # guidance scale of text-to-video models, as in Latte-1's configuration
CLASS_GUIDANCE = 4.0  # of class-conditional models trained for guidance


def usual_guidance(config: LatteConfig) -> float:
    """The guidance scale of a Latte whose folder does not name one."""
    return CLASS_GUIDANCE if config.num_classes and config.class_dropout_prob else 1.0


def load_sampling(folder: Path, usual: float) -> Sampling:
    """Read the sampling.json of a folder, as read_sampling does; without one, the defaults apply."""
    return read_sampling(folder, usual) or Sampling(Guidance(usual))


def read_sampling(folder: Path, usual: float) -> Sampling | None:
    """Read the sampling.json of a folder.

    Args:
        folder: A model's folder.
        usual: The guidance scale if the file does not give one.

    Returns:
        The defaults, or None if there is no such file.

    Raises:
        CheckpointError: The file has an unknown key or a value that is not valid.
    """
    path = folder / SAMPLING_FILE
    if not path.is_file():
        return None
    with prefix_errors(path):
        return sampling_of(read_json(path), usual)


def own_weaker(path: Path, sampling: Sampling | None) -> Path | None:
    """The folder of the weaker model that comes with a model (latte.autoguidance), or None if it comes without one.

    Args:
        path: The model's folder.
        sampling: Its defaults.

    Raises:
        CheckpointError: The defaults set its scale, but the weaker model is missing: guidance would change silently.
    """
    if (path / WEAKER).is_dir():
        return weaker_folder(path)
    if sampling is not None and sampling.guidance.autoguidance_scale is not None:
        raise CheckpointError(
            f"{path / SAMPLING_FILE} sets autoguidance_scale, but {path / WEAKER} is missing: restore it, or leave "
            "it out (weaker=None, --autoguidance none)"
        )
    return None


def save_sampling(sampling: Sampling, folder: Path) -> None:
    """Write a sampling.json that load_sampling reads."""
    write_json(folder / SAMPLING_FILE, sampling.settings)
