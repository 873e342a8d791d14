"""Writing class-conditional and unconditional models as a folder that latte.LattePipeline.from_pretrained reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from latte.drafts import own_folder
from latte.files import replacing_folder, write_json
from latte.models.latte import Latte
from latte.models.vae import VideoVAE
from latte.sampling_settings import Sampling
from latte.scheduler import Scheduler
from latte.weights.find_models import WEAKER
from latte.weights.folder import check_replaceable, refuse_leftovers, write_network
from latte.weights.published import save_scheduler
from latte.weights.sampling_defaults import SAMPLING_FILE, save_sampling
from latte.weights.shared_parts import SHARED_FILE

CLASSES_FILE = "classes.json"


def save_latte(
    folder: str | Path,
    model: Latte,
    vae: VideoVAE | None = None,
    class_names: Sequence[str] = (),
    sampling: Sampling | None = None,
    scheduler: Scheduler | None = None,
    dtype: torch.dtype | None = None,
    weaker: Latte | None = None,
    variant: str | None = None,
    shared: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model folder: the weights, and a file or subfolder for each further part that is given.

    These are vae/, classes.json, sampling.json, scheduler/ and weaker/.

    Args:
        folder: Where to write. An existing model folder is replaced at the end, in one step.
        model: The denoiser.
        vae: The autoencoder.
        class_names: Names of the classes, in the order of their numbers.
        sampling: Defaults of the pipeline's call.
        scheduler: The scheduler, if it is not the original Latte's.
        dtype: The type to convert the weights to; None keeps their own types.
        weaker: The weaker model that it is guided away from (latte.autoguidance).
        variant: A word for the names of the weight files, such as "fp16"; None writes the plain names.
        shared: The entries of a shared.json (latte.weights.shared_parts), for parts that are not given here.

    Returns:
        The folder.

    Raises:
        CheckpointError: The folder holds something that would be lost, or a part of another model. Nothing was changed.
    """
    folder = Path(folder)
    for target in (folder, folder / "vae", folder / WEAKER):
        check_replaceable(target)
    given = {"vae": vae is not None, CLASSES_FILE: bool(class_names), SAMPLING_FILE: sampling is not None}
    given |= {"scheduler": scheduler is not None, WEAKER: weaker is not None, SHARED_FILE: bool(shared)}
    refuse_leftovers(folder, given)
    with replacing_folder(folder, keep=True) as draft:
        write_network(model, draft, dtype, variant)
        if vae is not None:
            write_network(vae.model, draft / "vae", dtype, variant)
        if weaker is not None:
            write_network(weaker, draft / WEAKER, dtype, variant)
        if class_names:
            write_json(draft / CLASSES_FILE, {"names": list(class_names)})
        if sampling is not None:
            save_sampling(sampling, draft)
        if scheduler is not None:
            save_scheduler(scheduler, own_folder(draft / "scheduler"))
        if shared:
            write_json(draft / SHARED_FILE, dict(shared))
    return folder
