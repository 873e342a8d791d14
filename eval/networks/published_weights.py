"""Published weights that metrics need: their file names, where to download them, and finding them on disk.

Nothing is downloaded. No sha256 is required either, because none could be verified. Instead, the sha256 of the file
that was used is part of every result. AlexNet's file name ends with the first eight digits of its sha256, as is
customary for PyTorch's hub.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from latte.files import refuse_pointer
from latte.weights.manifest import digest
from latte.weights.tensors import CheckpointError


class Published(NamedTuple):
    """A published file of weights."""

    file: str  # its published name
    url: str
    use: str  # the metric that needs it


TGAN2 = "https://github.com/rezoo/tgan2/releases/download/v1.0"
FIDELITY = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"
JEPA = "https://dl.fbaipublicfiles.com/jepa/vith16"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
ALEXNET = "alexnet-owt-7be5be79.pth"
PUBLISHED = {
    "i3d-torchscript": Published(
        "i3d_torchscript.pt",
        "https://huggingface.co/flateon/FVD-I3D-torchscript "
        "(first published at https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1)",
        "FVD",
    ),
    "i3d-pretrained-400": Published(
        "i3d_pretrained_400.pt",
        "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
        "FVD as VideoGPT, TATS, DIGAN and cd-fvd compute it",
    ),
    "videomae": Published(
        "vit_g_hybrid_pt_1200e_ssv2_ft.pth",
        "https://huggingface.co/OpenGVLab/InternVideoMAE_models/tree/main/mae-g",
        "CD-FVD",
    ),
    "vjepa": Published("vith16.pth.tar", f"{JEPA}/vith16.pth.tar", "JEDi"),
    "vjepa-probe": Published("ssv2-probe.pth.tar", f"{JEPA}/ssv2-probe.pth.tar", "JEDi"),
    "inception": Published(INCEPTION, f"{FIDELITY}/{INCEPTION}", "FID of frames"),
    "c3d": Published("conv3d_deepnetA_ucf.npz", f"{TGAN2}/conv3d_deepnetA_ucf.npz", "inception score of UCF101"),
    "c3d-mean": Published("mean2.npz", f"{TGAN2}/mean2.npz", "inception score of UCF101"),
    "alexnet": Published(ALEXNET, f"https://download.pytorch.org/models/{ALEXNET}", "LPIPS"),
}


@dataclass(frozen=True)
class Weights:
    """A file of weights on disk."""

    path: Path

    @cached_property
    def sha256(self) -> str:
        """The sha256 of the file, computed once, on first use."""
        return digest(self.path)


def advice_on(name: str) -> str:
    """What a file of PUBLISHED is for, and where to download it."""
    file, url, use = PUBLISHED[name]
    return f"{use} needs {file}: get it from {url}"


def find_weights(name: str, path: str | Path | None) -> Weights:
    """Find a published file of weights.

    Args:
        name: a key of PUBLISHED.
        path: the file, or a folder that holds it under its published name. None means that the user gave no path.

    Returns:
        The file.

    Raises:
        CheckpointError: there is no such file. The message is one line and says where to download it.
    """
    file, advice = PUBLISHED[name].file, f"{advice_on(name)}, and give its path"
    if path is None:
        raise CheckpointError(f"no path is given; {advice}")
    found = Path(path) / file if Path(path).is_dir() else Path(path)
    if not found.is_file():
        raise CheckpointError(f"{found}: there is no such file; {advice}")
    refuse_pointer(found)
    return Weights(found)
