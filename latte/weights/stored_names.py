"""Whether a file of weights holds a name: found in its header or its pickle, without building anything from it."""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from safetensors import SafetensorError, safe_open

from latte.files import CheckpointError, utf8_path
from latte.weights.tensors import check_header
from latte.weights.torch_files import BoundedReader

PICKLES = 4  # in a file of PyTorch before 1.6: two numbers, a table about the machine, and the objects


def mentions(path: Path, end: str) -> bool:
    """Whether a file holds a text that ends like this, such as the name of a tensor. No object or tensor is built."""
    try:
        if path.suffix != ".safetensors":
            return any(isinstance(value, str) and value.endswith(end) for _, value in opcodes(path))
        check_header(path)
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            return any(name.endswith(end) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError, CheckpointError, zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError):
        return False  # whoever reads its tensors says that it is damaged


def opcodes(path: Path) -> Iterator[tuple[str, object]]:
    """List the opcodes of a .pt file, and their arguments, up to where it is damaged."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            bounded = BoundedReader(file, path.stat().st_size)
            for _ in range(PICKLES):
                yield from opcodes_of(bounded)
        return
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.filename.endswith("data.pkl") and record.compress_type == zipfile.ZIP_STORED:
                yield from opcodes_of(io.BytesIO(archive.read(record)))


def opcodes_of(file: IO[bytes] | BoundedReader) -> Iterator[tuple[str, object]]:
    """List the opcodes of one pickle, up to where it is damaged."""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            yield opcode.name, argument
    except Exception:  # a forged file can raise almost anything; whoever reads its objects says that it is damaged
        return
