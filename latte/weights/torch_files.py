"""Untrusted files of torch.save and of TorchScript: their tensors are read, and no code in them is run.

All of them hold a pickle of tensors (latte.weights.tensor_pickles), whose values lie beside it: in records of a zip
archive, or in files from before PyTorch 1.6 behind the pickle. torch.load is not used: a file can make it reserve
memory at will, or make tensors whose methods are replaced by attributes.
"""

import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch

from latte.files import CheckpointError
from latte.weights.pickles import Foreign
from latte.weights.tensor_pickles import TensorReader
from latte.weights.torchscript import script_tensors

OBJECTS = "/data.pkl"  # end of the name of a record
ZIP = b"PK\x03\x04"  # the start of an archive
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the start of files from before PyTorch 1.6
CHUNK = 1 << 20  # bytes read at once


def read_torch_file(path: Path, values: bool = True) -> object:
    """Read a .pt file, of any version of PyTorch, or a TorchScript archive.

    Args:
        path: The file.
        values: Whether to read the values of tensors. If not, tensors are on the device "meta": they have a shape and a
            type, but take no memory.

    Returns:
        Its content: see PickleReader. Tensors that share memory in the file share it here too. Objects of other types
        are Foreign. For a TorchScript archive, the tensors of its module by name.

    Raises:
        CheckpointError: It holds something that is not read; the message does not name the file.
        Exception: Of any type, if it is damaged.
    """
    with opened(path) as file:
        is_archive = isinstance(file, zipfile.ZipFile)
        return read_archive(file, values) if is_archive else read_legacy(file, values)


@contextmanager
def opened(path: Path) -> Iterator["zipfile.ZipFile | BoundedReader"]:
    """Open a PyTorch file: as an archive, or as a sequence of pickles if it is from before PyTorch 1.6."""
    with path.open("rb") as file:
        zipped = file.read(len(ZIP)) == ZIP
        file.seek(0)
        if not zipped:
            yield BoundedReader(file, path.stat().st_size)
            return
        with zipfile.ZipFile(file) as archive:
            check_records(archive, path.stat().st_size)
            yield archive


def as_bytes(memory: torch.UntypedStorage) -> memoryview:
    """The bytes of a storage, to read into."""
    return memoryview(torch.empty(0, dtype=torch.uint8).set_(memory).numpy())


def fill(target: memoryview, source: IO[bytes]) -> None:
    """Read a record of a zip archive up to its end, where its checksum is verified. Raises EOFError if it is short."""
    at = 0
    while chunk := source.read(CHUNK):
        target[at : at + len(chunk)] = chunk
        at += len(chunk)
    if at != len(target):
        raise EOFError("the file is cut")


def check_records(archive: zipfile.ZipFile, size: int) -> None:
    """Check that the uncompressed records of a file of `size` bytes do not overlap."""
    stored = [record for record in archive.infolist() if record.compress_type == zipfile.ZIP_STORED]
    if sum(record.file_size for record in stored) > size:
        raise CheckpointError("its records claim more than the file holds, so it is not read")


def read_record(archive: zipfile.ZipFile, name: str, size: int | None = None) -> torch.UntypedStorage:
    """Read a record of an archive and verify its checksum.

    Raises:
        CheckpointError: The record is compressed, its checksum is wrong, or it does not have `size` bytes.
    """
    record = archive.getinfo(name)
    if record.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError("it is compressed inside, which PyTorch never does, so it is not read")
    if size not in (None, record.file_size):
        raise CheckpointError(f"{name[:100]} has {record.file_size} bytes, not as many as are claimed")
    memory = torch.UntypedStorage(record.file_size)
    try:
        with archive.open(record) as source:
            fill(as_bytes(memory), source)
    except zipfile.BadZipFile as error:
        advice = "the file is damaged, download it again"
        raise CheckpointError(f"the checksum of {record.filename[:100]} is wrong; {advice}") from error
    return memory


def root_of(archive: zipfile.ZipFile) -> str:
    """The folder that the records of an archive lie in. Raises ValueError if there is none, or several."""
    (root,) = [name.removesuffix(OBJECTS) for name in archive.namelist() if name.endswith(OBJECTS)]
    return root


def pickle_of(archive: zipfile.ZipFile) -> io.BytesIO:
    """The pickle of an archive's objects."""
    return io.BytesIO(bytes(as_bytes(read_record(archive, root_of(archive) + OBJECTS))))


def read_archive(archive: zipfile.ZipFile, values: bool) -> object:
    """Read the pickle of an archive, with its tensors; see read_torch_file."""
    storages = Storages(archive)
    read = storages.read_once if values else meta_storage
    content = TensorReader(read).load(pickle_of(archive))
    scripted = isinstance(content, Foreign) and f"{storages.root}/constants.pkl" in archive.namelist()
    return script_tensors(content) if scripted else content


def meta_storage(key: str, size: int, width: int) -> torch.UntypedStorage:
    """A storage of `size` bytes that takes no memory."""
    return torch.UntypedStorage(size, device="meta")


class Storages:
    """The values of an archive's tensors, by the names of their storages."""

    def __init__(self, archive: zipfile.ZipFile):
        self.archive, self.root = archive, root_of(archive)
        order = f"{self.root}/byteorder"  # of the machine that wrote the file; without it, little-endian
        self.swapped = order in archive.namelist() and bytes(as_bytes(read_record(archive, order))) == b"big"
        self.held: dict[str, torch.UntypedStorage] = {}

    def read(self, key: str, size: int) -> torch.UntypedStorage:
        """Read a storage of `size` bytes. Raises CheckpointError if it is damaged, or big-endian."""
        if not size:
            return torch.UntypedStorage(0)
        if self.swapped:
            raise CheckpointError("it was written on a big-endian machine: save its tensors as .safetensors there")
        return read_record(self.archive, f"{self.root}/data/{key}", size)

    def read_once(self, key: str, size: int, _: int) -> torch.UntypedStorage:
        """Read a storage, which all tensors of that name share."""
        if key not in self.held:
            self.held[key] = self.read(key, size)
        return self.held[key]


class BoundedReader:
    """A file whose `read` reserves no more memory than there are bytes left."""

    def __init__(self, file: IO[bytes], size: int):
        self.file, self.size, self.readline, self.readinto = file, size, file.readline, file.readinto

    def read(self, count: int) -> bytes:
        """At most `count` bytes."""
        return self.file.read(count if count < CHUNK else min(count, self.size - self.file.tell()))


def read_legacy(file: BoundedReader, values: bool) -> object:
    """Read a file from before PyTorch 1.6: five pickles, then the values of the storages that the last one lists."""
    device = "cpu" if values else "meta"
    storages: dict[str, tuple[torch.UntypedStorage, int]] = {}  # the memory, and bytes per number
    left = file.size

    def reserve(key: str, size: int, width: int) -> torch.UntypedStorage:
        nonlocal left
        if key not in storages:
            left -= size
            if left < 0:
                raise CheckpointError(f"storage {key[:100]} claims more than the file holds, so it is not read")
            storages[key] = torch.UntypedStorage(size, device=device), width
        memory, _ = storages[key]
        if memory.nbytes() != size:
            raise CheckpointError(f"storage {key[:100]} has two sizes, so it is not read")
        return memory

    reader = TensorReader(reserve)
    if reader.load(file) != MAGIC or reader.load(file) != PROTOCOL:
        raise ValueError("it does not start like a PyTorch file")
    reader.load(file)  # about the machine
    content, keys = reader.load(file), reader.load(file)
    if sorted(keys) != sorted(storages):
        raise ValueError("it does not list the storages that it uses")
    for memory, width in map(storages.__getitem__, keys if values else ()):
        (count,) = struct.unpack("<q", file.read(8))
        if count * width != memory.nbytes() or file.readinto(as_bytes(memory)) != memory.nbytes():
            raise EOFError("the file is cut, or a storage has another size")
    return content
