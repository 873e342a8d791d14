"""Whether a file of weights holds a name: found in its header or its pickle, without building anything from it."""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open

from latte.files import utf8_path
from latte.weights.tensors import check_header, is_safetensors
from latte.weights.torch_files import BoundedReader, opened, pickle_of

PICKLES = 4  # in a file of PyTorch before 1.6: two numbers, a table about the machine, and the objects


def mentions(path: Path, end: str) -> bool:
    """Whether a file holds a text with this ending, such as the name of a tensor. No object or tensor is built."""
    try:
        if not is_safetensors(path):
            return any(text.endswith(end) for text in texts(path))
        check_header(path)
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            return any(name.endswith(end) for name in file.keys())  # noqa: SIM118
    except Exception:  # a forged file can raise almost anything; reading its tensors reports the damage
        return False


def texts(path: Path) -> Iterator[str]:
    """List the texts in the pickles of a file of PyTorch."""
    with opened(path) as file:
        pickles = [pickle_of(file)] if isinstance(file, zipfile.ZipFile) else [file] * PICKLES
        for one in pickles:
            yield from texts_of(one)


def texts_of(file: io.BytesIO | BoundedReader) -> Iterator[str]:
    """List the texts in one pickle."""
    for _, argument, _ in pickletools.genops(file):
        if isinstance(argument, str):
            yield argument
