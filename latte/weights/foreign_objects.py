"""Objects other than tensors in a .pt file, such as the options of a training: they are left out, and never built."""

import io
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from safetensors import SafetensorError, safe_open
from torch.serialization import safe_globals

PICKLES = 4  # in a file of PyTorch before 1.6: two numbers, a table about the machine, and the objects


class Foreign:
    """Stands for an object that was not built. It accepts, and forgets, what the file would have built it from.

    Attributes:
        name: What the file would have called to build it, such as "argparse.Namespace".
    """

    name = ""

    def __new__(cls, *_: object) -> "Foreign":
        """Take the arguments that the file gives, and forget them."""
        return super().__new__(cls)

    def __init__(self, *_: object):
        pass

    def __setstate__(self, _: object) -> None:
        """Forget the attributes that the file gives."""


def leaving_out_objects(path: Path) -> AbstractContextManager:
    """While this is open, torch.load(path, weights_only=True) makes a Foreign of everything that it does not know."""
    names = {name for opcode, name in opcodes(path) if opcode == "GLOBAL"}
    return safe_globals([(type("Foreign", (Foreign,), {"name": name}), name) for name in map(current_name, names)])


def current_name(name: str) -> str:
    """The name in Python 3 of what a pickle names as "module name"."""
    module, _, attribute = name.partition(" ")
    module, attribute = NAME_MAPPING.get((module, attribute), (IMPORT_MAPPING.get(module, module), attribute))
    return f"{module}.{attribute}"


def mentions(path: Path, end: str) -> bool:
    """Whether a file holds a text that ends like this, such as the name of a tensor. No object or tensor is built."""
    if path.suffix != ".safetensors":
        return any(isinstance(value, str) and value.endswith(end) for _, value in opcodes(path))
    try:
        with safe_open(path, "pt") as file:
            return any(name.endswith(end) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError):  # whoever reads its tensors says that it is damaged
        return False


def opcodes(path: Path) -> Iterator[tuple[str, object]]:
    """List the opcodes of a .pt file, and their arguments, up to where it is damaged."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(PICKLES):
                yield from opcodes_of(file)
        return
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.filename.endswith("data.pkl") and record.compress_type == zipfile.ZIP_STORED:
                yield from opcodes_of(io.BytesIO(archive.read(record)))


def opcodes_of(file: IO[bytes]) -> Iterator[tuple[str, object]]:
    """List the opcodes of one pickle, up to where it is damaged."""
    try:
        for opcode, argument, _ in pickletools.genops(file):
            yield opcode.name, argument
    except Exception:  # a forged file can raise almost anything; whoever reads its objects says that it is damaged
        return
