"""Videos in files of tensors: .pt as torch.save writes it, and .safetensors."""

import zipfile
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from latte.files import utf8_path
from latte.video.array_layout import frame_axes
from latte.weights.tensors import CheckpointError, read_untrusted

TENSOR_SUFFIXES = (".pt", ".pth", ".safetensors")
MOST_TENSORS = 8  # in a file of videos; a network has more


def holds_video_tensors(path: Path) -> bool:
    """Whether a file of tensors may hold videos rather than a network or features, by what it lists of its content."""
    if path.suffix.lower() not in TENSOR_SUFFIXES or not path.is_file():
        return False
    try:
        if path.suffix.lower() == ".safetensors":
            with utf8_path(path) as readable, safe_open(readable, "pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return "features" not in shapes and any(len(shape) in (4, 5) for shape in shapes.values())
        with zipfile.ZipFile(path) as archive:
            stored = [name for name in archive.namelist() if "/data/" in name]
        return 0 < len(stored) <= MOST_TENSORS and isinstance(find_video_tensor(path), Tensor)
    except Exception:  # a damaged file can raise almost anything; who reads it next says what is wrong with it
        return False


def find_video_tensor(path: Path) -> Tensor:
    """Read the tensor of videos (n, f, 3, h, w) or (n, f, h, w, 3) out of a file.

    Raises:
        CheckpointError: The file is damaged, or does not hold one such tensor. The message names what it holds.
    """
    table = read_untrusted(path)
    table = {"a tensor": table} if isinstance(table, Tensor) else table
    tensors = (
        {name: value for name, value in table.items() if isinstance(value, Tensor)} if isinstance(table, dict) else {}
    )
    videos = [value for value in tensors.values() if value.ndim == 5 and frame_axes(tuple(value.shape))]
    if len(videos) == 1:
        return videos[0]
    found = ", ".join(f"{name} {value.dtype} {tuple(value.shape)}" for name, value in list(tensors.items())[:6])
    raise CheckpointError(
        f"{path}: expected one tensor of videos (n, f, 3, h, w) or (n, f, h, w, 3), found {found or 'no tensors'}"
    )
