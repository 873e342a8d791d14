"""Small files that ask for much: time and memory stay bounded wherever a value is unpacked or repeated."""

import json
import time
import zipfile

import pytest
import torch
from forged_pickles import TENSOR, VALUES, archive, named, storage, tensor

from latte.eval.statistics import read_statistics
from latte.weights import tensors, torchscript, weight_sets
from latte.weights.convert_latte import MARKER, unwrap
from latte.weights.hub import find_pipeline
from latte.weights.load import load_model, save_model
from latte.weights.sharded_tensors import read_part
from latte.weights.state_files import state_files
from latte.weights.tensors import CheckpointError, nested_tables, read_tensors

ENDLESS = tensor(size=b"(J\x00\x00\x00\x08t", stride=b"(K\x00t")  # one number, 2**27 times
TYPED = b"ctorch._tensor\n_rebuild_from_type_v2\n"


@pytest.mark.parametrize(
    "value",
    [
        b"ctorch\nSize\n" + ENDLESS + b"\x85R",
        b"ctorch\nSize\n" + ENDLESS + b"R",
        TENSOR + ENDLESS + b"R",
        TENSOR + ENDLESS + b"\x81",
        tensor(size=ENDLESS),
        tensor(stride=ENDLESS),
        ENDLESS + b"Q",
        b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x04" + ENDLESS + b"tQ",
        TYPED + b"(" + TENSOR + b"ctorch\nTensor\n" + ENDLESS + b"NtR",
        TYPED + b"(" + TENSOR + b"ctorch\nTensor\n(" + storage() + b"K\x00(K\x04t(K\x01t\x89Nt" + ENDLESS + b"tR",
    ],
)
def test_endless_tensors_are_not_unpacked(value, tmp_path):
    path, started = archive(tmp_path, named(tensor(), value), _0=VALUES), time.process_time()
    with pytest.raises(CheckpointError, match=r"a\.pt") as caught:
        read_tensors(path)
    assert time.process_time() - started < 5 and len(str(caught.value)) < 500


DOUBLED = b"(Nt" + b"2\x86" * 60  # a tuple of twice the previous tuple, 60 times: 2**60 items in total
LISTS = b"(Nl" + b"q\x00]h\x00ah\x00a" * 60
TYPED_TENSOR = TYPED + b"(" + TENSOR + b"ctorch\nTensor\n(" + storage() + b"K\x00(K\x04t(K\x01t\x89Nt"


@pytest.mark.parametrize("opcodes", [DOUBLED, LISTS])
def test_self_repeating_values_are_not_expanded(opcodes, tmp_path):
    model = tmp_path / "a.pt"
    for data in (
        named(tensor(), TYPED_TENSOR + opcodes + b"tR"),
        named(opcodes),
        b"}" + opcodes + b"Ns",
        b"}X\x03\x00\x00\x00ema" + opcodes + b"s",
    ):
        archive(tmp_path, data, _0=VALUES)
        with pytest.raises(CheckpointError) as caught:
            load_model(model)
        assert len(str(caught.value)) < 500
    number = b"]G" + b"\x00" * 8 + b"a"
    for name in ("mean", "cov", "n"):
        values = {"mean": number, "cov": b"]" + number + b"a", "n": b"K\x01", name: opcodes}
        pairs = b"".join(b"U" + bytes([len(key)]) + key.encode() + value + b"s" for key, value in values.items())
        (tmp_path / "a.pkl").write_bytes(b"\x80\x02}" + pairs + b".")
        with pytest.raises(CheckpointError) as caught:
            read_statistics(tmp_path / "a.pkl")
        assert len(str(caught.value)) < 500


def test_the_number_of_nested_table_entries_is_limited(monkeypatch):
    monkeypatch.setattr(tensors, "MOST_ENTRIES", 1000)
    inner = dict.fromkeys(map(str, range(90)))
    assert len(list(nested_tables({str(i): inner for i in range(5)}))) == 6
    with pytest.raises(CheckpointError, match="more than 1000 entries"):
        list(nested_tables({str(i): inner for i in range(20)}))


def test_the_number_of_weight_sets_is_limited(monkeypatch):
    monkeypatch.setattr(weight_sets, "MOST_SETS", 10)
    table = {f"{i}.{MARKER}": torch.zeros(0) for i in range(11)}
    with pytest.raises(ValueError, match="more than 10 sets of weights"):
        unwrap(table)


def test_the_number_of_scripted_module_attributes_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(torchscript, "MOST_ATTRIBUTES", 1000)
    names = [b"J" + i.to_bytes(4, "little") for i in range(100)]
    module = b"c__torch__\nM\n)\x81q\x00}(" + b"".join(name + b"N" for name in names) + b"ub0"
    outer = b"c__torch__\nM\n)\x81}(" + b"".join(name + b"h\x00" for name in names) + b"ub"
    path = archive(tmp_path, module + outer)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/constants.pkl", b"\x80\x02).")
    with pytest.raises(CheckpointError, match="more than 1000 attributes"):
        read_tensors(path)


def test_overlong_names_give_an_ordinary_error(tiny, tmp_path):
    long = "x" * 1000
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": long}}))
    folder = save_model(tiny, tmp_path / "model")
    (folder / "manifest.json").write_text(json.dumps({long: {"bytes": 1, "sha256": ""}}))
    for read in (
        lambda: read_part(state_files(tmp_path)),
        lambda: load_model(folder),
        lambda: load_model(long),
        lambda: read_tensors(tmp_path / long),
        lambda: read_statistics(tmp_path / f"{long}.pkl"),
        lambda: read_statistics(tmp_path / f"{long}.npz"),
        lambda: find_pipeline(f"owner/{long}"),
    ):
        with pytest.raises(CheckpointError) as caught:
            read()
        assert "x" * 100 in str(caught.value) and len(str(caught.value)) < 3000
    with pytest.warns(UserWarning, match="has no files of the variant"):
        state_files(folder, long)
