"""Thousands of forged and damaged model files: each is read or rejected in one line, quickly and in little memory.

Valid files of every kind are changed byte by byte, and in their structure: opcodes of pickles, entries of JSON, fields
of headers. Each is read by a child process of bounded memory and time. Files that end one in an unexpected way are
kept in the folder LATTE_SOAK_KEEP, if that variable is set.
"""

import json
import os
import pickle
import pickletools
import random
import resource
import signal
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from changed_bytes import NUMBERS, changed_bytes
from forks import fork, status
from safetensors.torch import save_file
from soak_length import count

import latte
from latte.eval import fvd
from latte.text.tokenizer import Tokenizer, train_vocabulary
from latte.weights.convert_latte import state_for_original
from latte.weights.load import load_model, save_model
from latte.weights.manifest import MANIFEST
from latte.weights.tensors import read_tensors
from latte.weights.vae_folder import load_vae, save_vae

MOST_MEMORY = 2 << 30  # bytes beyond what the process already uses
MOST_SECONDS = 20  # of CPU time, since others may use the CPU too
LONGEST_WAIT = 600  # wall-clock seconds, for a process that waits without computing
REFUSED, UNDOCUMENTED, TOO_LARGE = 10, 11, 12  # exit statuses
VALUES = [None, True, "", "x" * 1000, "é\ud800", [], {}, [[]], 0.5, 1e308, -1, 10**18, 10**400]
VALUES += [float("nan"), float("inf")]


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.rest = torch.nn.Conv3d(3, 4, 2), torch.nn.Sequential(torch.nn.BatchNorm3d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.conv(x))


@pytest.fixture
def sound(tiny, tiny_vae, published, tmp_path) -> list[tuple[Path, Callable[[], object]]]:
    """A valid file of every kind, and the function that reads it."""
    state = {name: tensor.detach() for name, tensor in state_for_original(tiny).items()}
    whole = {"ema": state, "model": state, "opt": {"state": {0: {"step": 3}}, "lr": [1e-4]}}
    torch.save(whole, tmp_path / "a.pt")
    torch.save(whole, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "a.safetensors")
    torch.jit.script(Module()).save(str(tmp_path / "script.pt"))
    gaussian = {"mean": np.zeros(8), "cov": np.eye(8), "n": 20, "more": [1.5, "text", (1, {2: 3})]}
    for protocol in (0, 2, 4, 5):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(gaussian, protocol))
    np.savez(tmp_path / "a.npz", mean=np.zeros(8), cov=np.eye(8), n=np.array(20))
    np.savez_compressed(tmp_path / "b.npz", mean=np.zeros(8), cov=np.eye(8), n=np.array(20))
    save_file({"features": torch.randn(9, 8)}, tmp_path / "features.safetensors")
    (tmp_path / "spiece.model").write_bytes(train_vocabulary(["a dog runs over the green hill"] * 3, 60))
    folder, vae = save_model(tiny, tmp_path / "model"), save_vae(tiny_vae, tmp_path / "vae")
    for path in (*published.rglob(MANIFEST), folder / MANIFEST, vae / MANIFEST):
        path.unlink(missing_ok=True)
    settings = {"guidance_scale": 2, "num_inference_steps": 5, "guidance_interval": [1, 9]}
    (folder / "sampling.json").write_text(json.dumps(settings))
    (folder / "classes.json").write_text('{"names": ["a", "b", "c"]}')
    weights = next(published.joinpath("transformer").glob("*.safetensors"))
    weights.rename(weights.with_name("model-00001-of-00001.safetensors"))
    index = published / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    names = read_tensors(weights.with_name("model-00001-of-00001.safetensors"))
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}))
    other = tmp_path / "other.npz"
    other.write_bytes((tmp_path / "a.npz").read_bytes())
    files = []
    for name in ("a.pt", "legacy.pt", "a.safetensors"):
        files.append((tmp_path / name, lambda name=name: load_model(tmp_path / name, 2)))
    files.append((tmp_path / "script.pt", lambda: read_tensors(tmp_path / "script.pt")))
    for name in ("0.pkl", "2.pkl", "4.pkl", "5.pkl", "a.npz", "b.npz", "features.safetensors"):
        files.append((tmp_path / name, lambda name=name: fvd(tmp_path / name, other)))
    files.append((tmp_path / "spiece.model", lambda: Tokenizer(tmp_path / "spiece.model")(["A dog, 12 hills\u0301!"])))
    for path in folder.glob("*.json"):
        files.append((path, lambda: latte.LattePipeline.from_pretrained(folder)))
    files.append((vae / "config.json", lambda: load_vae(vae)))
    for path in published.rglob("*.json"):
        files.append((path, lambda: latte.LattePipeline.from_pretrained(published)))
    return files


def changed_pickle(content: bytes, rng: random.Random) -> bytes:
    """Drop, repeat, replace or nest opcodes, or insert ones that a forger would use."""
    try:
        starts = [at for _, _, at in pickletools.genops(content)] + [len(content)]
    except Exception:
        return changed_bytes(content, rng)
    parts = [content[a:b] for a, b in pairwise(starts)]
    for _ in range(rng.choice([1, 1, 3])):
        at, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        depth = rng.choice([1, 1000, 100_000])
        number = b"\x8a\x09" + rng.choice(NUMBERS).to_bytes(9, "little", signed=True)
        nested = [opcode * depth for opcode in (b"\x85", b"]", b"2", b"(", b"}")]
        calls = [name + number + b"\x85R" for name in (b"cbuiltins\nbytearray\n", b"ctorch\nTensor\n")]
        more = [
            b"h\x00",
            b"h\x05",
            b"cos\nsystem\n",
            b"}U\x05numelK\x01sb",
            b"s",
            b"u",
            b"a",
            b"R",
            b"b",
            b"\x81",
            b"Q",
        ]
        more += [
            b"0",
            b"t",
            b"\x81",
            b"X\xff\xff\xff\x7f",
            b"r\xff\xff\xff\xff",
            number,
            parts[other],
            parts[at] * 2000,
        ]
        parts[at : at + rng.choice([0, 1])] = [rng.choice([b"", *nested, *calls, *more])]
    return b"".join(parts)


def changed_zip(content: bytes, rng: random.Random) -> bytes:
    """Change one record of an archive, and rewrite the archive with valid checksums."""
    try:
        with zipfile.ZipFile(BytesIO(content)) as old:
            records = [(record, old.read(record)) for record in old.infolist()]
    except Exception:
        return changed_bytes(content, rng)
    chosen, out = rng.randrange(len(records)), BytesIO()
    data = next((i for i, (record, _) in enumerate(records) if record.filename.endswith("data.pkl")), chosen)
    chosen = rng.choice([chosen, data, data])
    with zipfile.ZipFile(out, "w") as new:
        for i, (record, part) in enumerate(records):
            if i == chosen:
                part = (changed_pickle if record.filename.endswith(".pkl") else changed_bytes)(part or b"x", rng)
            for _ in range(rng.choice([1] * 20 + [0, 2])):
                new.writestr(record.filename, part, rng.choice([record.compress_type] * 9 + [zipfile.ZIP_DEFLATED]))
    return out.getvalue()


def changed_json(content: bytes, rng: random.Random) -> bytes:
    """Replace, delete or rename a value at any depth, or nest it."""
    try:
        values = json.loads(content)
    except ValueError:
        return changed_bytes(content, rng)
    for _ in range(rng.choice([1, 1, 3])):
        part = values
        while isinstance(part, dict | list) and part:
            key = rng.choice(list(part) if isinstance(part, dict) else range(len(part)))
            if not isinstance(part[key], dict | list) or rng.random() < 0.3:
                break
            part = part[key]
        if not isinstance(part, dict | list) or not part:
            break
        kind = rng.choice(["value", "value", "number", "delete", "rename"])
        if kind == "delete":
            del part[key]
        elif kind == "rename" and isinstance(part, dict):
            part[rng.choice(["x", "y" * 100_000, "é\ud800", "../../x"])] = part.pop(key)
        else:
            part[key] = rng.choice(VALUES if kind == "value" else [*NUMBERS, 3, 1000])
    text = json.dumps(values)
    odd = ["[" * 100_000, text + text, "\ufeff" + text, f'{{"x": {"[" * 900}{"]" * 900}}}']
    return rng.choice([text] * 9 + odd).encode("utf-8", "surrogatepass")


def changed_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Change the header, keeping its length field correct."""
    size = int.from_bytes(content[:8], "little")
    header = changed_json(content[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


STRUCTURES = {
    ".pt": changed_zip, ".npz": changed_zip, ".pkl": changed_pickle, ".json": changed_json,
    ".safetensors": changed_safetensors,
}  # fmt: skip


def read_in_child(read: Callable[[], object], log: Path) -> int:
    """Read in a child of bounded memory and time, and return its exit status, or minus the signal that ended it."""

    def work() -> None:
        signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
        signal.alarm(LONGEST_WAIT)
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_MEMORY, taken + MOST_MEMORY))
        ending = 0
        try:
            read()
        except Exception as error:
            chain = [error, error.__cause__, error.__context__]
            wanted = any(isinstance(cause, MemoryError) or "allocate" in str(cause) for cause in chain)
            documented = isinstance(error, ValueError) and len(str(error)) < 5000  # CheckpointError is a ValueError
            ending = TOO_LARGE if wanted else REFUSED if documented else UNDOCUMENTED
            if ending != REFUSED:
                traceback.print_exc()
        os._exit(ending)

    return status(fork(work, log))


@pytest.mark.filterwarnings("ignore")
def test_forged_model_files_are_read_or_rejected(sound, tmp_path):
    endings, kinds, log = Counter(), Counter(), tmp_path / "log"
    log.touch()
    for path, read in sound:
        read()  # here too, so that the children need not import what it imports
        assert read_in_child(read, log) == 0, (path, log.read_text()[-3000:])
    for i in range(count(4000)):
        (path, read), rng = sound[i % len(sound)], random.Random(i)
        content = path.read_bytes()
        change = STRUCTURES.get(path.suffix, changed_bytes) if rng.random() < 0.6 else changed_bytes
        forged = change(content, rng)
        path.write_bytes(forged)
        before = log.stat().st_size
        ending = read_in_child(read, log)
        path.write_bytes(content)
        endings[{0: "read", REFUSED: "refused"}.get(ending, ending)] += 1
        kinds[path.suffix] += 1
        if ending not in (0, REFUSED):
            kept = Path(os.environ.get("LATTE_SOAK_KEEP", tmp_path)) / f"{i}-{ending}-{path.name}"
            kept.write_bytes(forged)
            print(kept, log.read_bytes()[before:][-1500:].decode(errors="replace"))
    print(dict(endings), dict(kinds))
    assert endings.keys() <= {"read", "refused"} and endings["refused"] > endings["read"] / 2
