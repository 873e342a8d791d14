"""Tensors that stay in their file until they are needed."""

import zipfile
from collections import OrderedDict

import pytest
import torch

from latte.diffusion.randomness import normal
from latte.weights.pickles import Foreign
from latte.weights.stored_tensors import StoredTensor, open_tensors, read_stored
from latte.weights.tensors import CheckpointError, read_tensors


def test_stored_tensors_have_the_values_that_reading_the_whole_file_gives(tmp_path):
    whole = normal((6, 5), 0)
    content = {
        "step": 7,
        "net": OrderedDict(
            whole=whole, part=whole[2:4, ::2], turned=whole.T, half=whole.half(), none=torch.zeros(0, 3)
        ),
        "parameter": torch.nn.Parameter(whole[1]),
    }
    path = tmp_path / "a.pt"
    torch.save(content, path)
    opened, expected = open_tensors(path), read_tensors(path)
    assert opened["step"] == 7 and list(opened) == list(expected)
    for found, wanted in ((opened["net"], expected["net"]), (opened, expected)):
        for name, value in found.items():
            if isinstance(value, StoredTensor):
                read, view = value.read(), value.view
                assert torch.equal(read, wanted[name]) and read.dtype == wanted[name].dtype == view.dtype
                assert view.device.type == "meta" and read.stride() == wanted[name].stride() == view.stride()
    assert sum(isinstance(value, StoredTensor) for value in (*opened["net"].values(), *opened.values())) == 6
    assert read_stored(opened, path)["step"] == 7


def test_files_that_cannot_be_read_in_parts_are_read_whole(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(open_tensors(path)["a"], torch.ones(3))


def test_damaged_files_are_rejected(tmp_path):
    path = tmp_path / "a.pt"
    with pytest.raises(CheckpointError, match=r"a\.pt: there is no such file"):
        open_tensors(path)
    torch.save({"a": torch.tensor([1.0, float("nan")])}, path)
    opened = open_tensors(path)
    with pytest.raises(CheckpointError, match=r"a\.pt: a holds values that are not finite"):
        read_stored(opened, path)
    torch.save({"a": normal((100,), 0), "b": {1, 2}, "c": object}, path)
    assert isinstance(open_tensors(path)["c"], Foreign)
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged or is not a checkpoint"):
        open_tensors(path)
    values = content.index(normal((100,), 0).numpy().tobytes())
    path.write_bytes(content[:values] + b"x" + content[values + 1 :])
    with pytest.raises(CheckpointError, match=r"a\.pt: the checksum of .*data/0 is wrong; the file is damaged"):
        read_stored(open_tensors(path), path)


def test_forged_sizes_are_rejected_before_memory_is_reserved(tmp_path):
    path, forged = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"a": torch.ones(9)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(forged, "w") as target:
        for record in source.infolist():
            data = source.read(record)
            target.writestr(record.filename, data[:-4] if record.filename.endswith("data/0") else data)
    with pytest.raises(CheckpointError, match=r"b\.pt: .*data/0 has 32 bytes, not as many as are claimed"):
        read_stored(open_tensors(forged), forged)
