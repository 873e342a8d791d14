"""Random damage to the content of a file."""

import random
import struct

NUMBERS = [0, 1, -1, 255, 65_536, 1_000_000, 2**31 - 1, 2**32, 2**62, 2**63 - 1]


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, zero, repeat or write a large number."""
    data, at = bytearray(content), rng.randrange(len(content))
    kind = rng.choice(["flip", "head", "cut", "zero", "splice", "number"])
    if kind == "cut":
        return bytes(data[:at])
    if kind == "zero":
        data[at : at + 16] = bytes(16)
    elif kind == "splice":
        other = rng.randrange(len(content))
        data[at : at + rng.choice([0, 8])] = data[other : other + rng.choice([0, 8, 100])]
    elif kind == "number":
        form = rng.choice(["<B", "<H", "<I", "<Q"])
        data[at : at + struct.calcsize(form)] = struct.pack(form, rng.choice(NUMBERS) % 256 ** struct.calcsize(form))
    else:
        for _ in range(rng.choice([1, 4])):
            at = rng.randrange(len(data) if kind == "flip" else min(len(data), 2000))
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)
