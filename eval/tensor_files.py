"""Videos in files of tensors: .pt as torch.save writes it, and .safetensors."""

from functools import lru_cache
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from latte.files import utf8_path
from latte.video.array_layout import frame_axes
from latte.weights.tensors import CheckpointError, check_header, read_untrusted
from latte.weights.torch_files import read_torch_file

TENSOR_SUFFIXES = (".pt", ".pth", ".safetensors")
MOST_TENSORS = 8  # in a file of videos; a network has more


def holds_video_tensors(path: Path) -> bool:
    """Whether a file of tensors may hold videos rather than a network or features, by the content that it lists."""
    if path.suffix.lower() not in TENSOR_SUFFIXES or not path.is_file():
        return False
    state = path.stat()
    return lists_videos(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def lists_videos(path: Path, size: int, time: int) -> bool:
    """`holds_video_tensors` of a file of this size and time, whose list is read once."""
    try:
        shapes = stored_shapes(path)
    except Exception:  # a damaged file can raise almost anything; its next reader reports what is wrong
        return False
    few = "features" not in shapes and len(shapes) <= MOST_TENSORS
    return few and any(frame_axes(shape) for shape in shapes.values())


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a file. No values are read. Raises an Exception of any type if it is damaged."""
    if path.suffix.lower() == ".safetensors":
        check_header(path)
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return {name: tuple(value.shape) for name, value in tensors_of(read_torch_file(path, values=False)).items()}


def tensors_of(content: object) -> dict[str, Tensor]:
    """The tensors in the content of a file, by name."""
    table = {"a tensor": content} if isinstance(content, Tensor) else content
    return {k: value for k, value in table.items() if isinstance(value, Tensor)} if isinstance(table, dict) else {}


def find_video_tensor(path: Path) -> Tensor:
    """Read the tensor of videos (n, f, 3, h, w) or (n, f, h, w, 3) from a file.

    Raises:
        CheckpointError: The file is damaged, or does not hold one such tensor. The message lists what it holds.
    """
    tensors = tensors_of(read_untrusted(path))
    videos = [value for value in tensors.values() if value.ndim == 5 and frame_axes(tuple(value.shape))]
    if len(videos) == 1:
        return videos[0]
    found = ", ".join(f"{name} {value.dtype} {tuple(value.shape)}" for name, value in list(tensors.items())[:6])
    raise CheckpointError(
        f"{path}: expected one tensor of videos (n, f, 3, h, w) or (n, f, h, w, 3), found {found or 'no tensors'}"
    )
