"""Opcodes of handmade, malicious .pt files."""

import struct
import zipfile

import numpy as np

FLOAT = b"ctorch\nFloatStorage\n"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def archive(folder, data, **storages):
    """Write a .pt file from a pickle and the bytes of its storages."""
    with zipfile.ZipFile(folder / "a.pt", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + data + b".")
        for name, content in storages.items():
            file.writestr(f"a/data/{name.strip('_')}", content)
    return folder / "a.pt"


def storage(numbers=4, name=b"0", kind=FLOAT):
    """Opcodes of a storage."""
    return (
        b"(U\x07storage" + kind + b"U" + bytes([len(name)]) + name + b"U\x03cpuJ" + struct.pack("<i", numbers) + b"tQ"
    )


def tensor(offset=b"K\x00", size=b"(K\x04t", stride=b"(K\x01t", values=None, rest=b"\x89ccollections\nOrderedDict\n)R"):
    """Opcodes of a tensor."""
    return TENSOR + b"(" + (storage() if values is None else values) + offset + size + stride + rest + b"tR"


def named(*values):
    """Opcodes of a dictionary of values."""
    return b"}(" + b"".join(b"U\x01" + bytes([97 + i]) + value for i, value in enumerate(values)) + b"u"


VALUES = np.arange(4, dtype=np.float32).tobytes()
