"""Untrusted pickles: nothing they name is called, and a small file takes little memory and time."""

import io
import pickle
import struct
import time
import tracemalloc
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict
from fractions import Fraction
from pathlib import PosixPath

import numpy as np
import pytest
import torch
from forged_pickles import TENSOR, VALUES, archive, named, storage, tensor
from forged_program import Program
from torch import nn

from latte.eval.statistics import read_statistics
from latte.files import CheckpointError
from latte.weights import pickles, tensor_pickles
from latte.weights.pickles import Foreign, PickleReader
from latte.weights.tensors import read_tensors
from latte.weights.torch_files import read_torch_file


def plain(content):
    return PickleReader({}).load(io.BytesIO(content))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_are_read_as_they_are(protocol):
    shared = [1, 2]
    data = {
        "none": None, "yes": True, "no": False, "n": -3, "large": 1 << 70, "x": 2.5, "text": "é\n", "empty": (),
        "one": (1,), "two": (1, "b"), "three": (1, 2, 3), "four": (1, 2, 3, 4), "list": [shared, shared, []],
        "ordered": OrderedDict(a=1, b=2), "tables": {1: {}, None: {"x": [{}]}}, "default": defaultdict(list),
    }  # fmt: skip
    found = plain(pickle.dumps(data, protocol))
    assert found == {**data, "default": {}}
    assert found["list"][0] is found["list"][1]
    assert list(plain(pickle.dumps(OrderedDict(b=1, a=2), protocol))) == ["b", "a"]
    if protocol > 2:
        assert plain(pickle.dumps([b"x" * 300, {1, 2}, frozenset({3})], protocol)) == [b"x" * 300, [1, 2], [3]]


def test_objects_are_named_and_not_built():
    state = Namespace(x=Fraction(1, 2), path=PosixPath("a"), scalar=np.float32(2), run=Program())
    for protocol in range(2, 6):
        found = plain(pickle.dumps({"args": state, "n": 1}, protocol))
        assert found["n"] == 1 and isinstance(found["args"], Foreign) and found["args"].name == "argparse.Namespace"
    assert found["args"].state["run"].name == "builtins.exec"


def bytes_of_depth(opcode, depth=50_000, first=b"N"):
    return b"\x80\x02" + first + opcode * depth


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}" + bytes_of_depth(b"\x85")[2:] + b"K\x01s.",  # nested tuples as a key
        bytes_of_depth(b"\x85") + b".",  # nested tuples
        b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",  # nested lists
        b"\x80\x02" + b"}K\x01" * 50_000 + b"N" + b"s" * 50_000 + b".",  # nested tables
        b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".",  # marks
        b"\x80\x02cm\nf\n]q\x00h\x00a\x85R.",  # a list that holds itself, given to a call
    ],
)
def test_deep_nesting_is_harmless(content):
    started = time.process_time()
    plain(content)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R.", None),  # a call that asks for 4 GiB
        (b"X\xff\xff\xff\x7fabc.", ValueError),  # text that claims 2 GiB
        (b"B\xff\xff\xff\x7fabc.", ValueError),
        (b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc.", ValueError),
        (b"Nr\xff\xff\xff\xff.", None),  # the memo's last number, for which Python reserves a list of that length
        (b"Np99999999999\n.", IndexError),
        (b"I" + b"9" * 100_000 + b"\n.", ValueError),
        (b"]" + b"(" + b"N" * 1000 + b"l0" * 3 + b".", IndexError),
        (b"(t(", KeyError),
        (b"", KeyError),
        (b"N", KeyError),
        (b"]K\x01K\x02s.", CheckpointError),
        (b"}K\x01a.", CheckpointError),
        (b"}K\x01s.", IndexError),
        (b"]}b.", CheckpointError),  # attributes of a list
        (b"K\x01Q.", CheckpointError),  # data outside of the file
        (b"\x82\x01.", KeyError),  # the registry of extensions
        (b"\x97.", KeyError),  # a buffer outside of the file
    ],
)
def test_small_pickles_take_little_memory(content, error):
    tracemalloc.start()
    try:
        if error is None:
            plain(content)
        else:
            with pytest.raises(error):
                plain(content)
        assert tracemalloc.get_traced_memory()[1] < 60 << 20
    finally:
        tracemalloc.stop()


def test_the_length_of_pickles_is_limited(monkeypatch):
    monkeypatch.setattr(pickles, "MOST_STEPS", 1000)
    plain(b"N" * 900 + b".")
    copies = b"ccollections\nOrderedDict\nq\x00]q\x01(" + b"NN\x86" * 50 + b"e" + b"h\x00h\x01\x85R" * 30 + b"."
    for content in (b"N" * 1001 + b".", copies):
        with pytest.raises(CheckpointError, match="more than 1000 objects"):
            plain(content)


def test_a_valid_handmade_file_is_read(tmp_path):
    found = read_tensors(archive(tmp_path, named(tensor(), tensor(size=b"(K\x02t", stride=b"(K\x02t")), _0=VALUES))
    assert found["a"].tolist() == [0, 1, 2, 3] and found["b"].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (tensor(size=b"(K\x05t"), "claims more numbers than are stored"),
        (tensor(offset=b"K\x01"), "claims more numbers"),
        (tensor(stride=b"(K\x02t"), "claims more numbers"),
        (tensor(stride=b"(J\xff\xff\xff\xfft"), "impossible shape"),
        (tensor(size=b"(J\xff\xff\xff\xfft"), "impossible shape"),
        (tensor(size=b"(K\x02K\x02t"), "impossible shape"),
        (tensor(size=b"(G\x40\x00\x00\x00\x00\x00\x00\x00t"), "impossible shape"),
        (tensor(size=b"(\x8a\x07" + b"\xff" * 6 + b"\x0fK\x7fK\x7ft", stride=b"(K\x00K\x00K\x00t"), "too large"),
        (tensor(size=b"(\x8a\x07" + b"\xff" * 6 + b"\x0ft", stride=b"(K\x00t"), "more than twice"),
        (tensor(size=b"(" + b"K\x01" * 30 + b"t", stride=b"(" + b"K\x00" * 30 + b"t"), "30 dimensions"),
        (tensor(size=b"(J\xff\xff\xff\x0ft", stride=b"(K\x00t"), "more than twice the file"),
        (tensor(rest=b"\x89N}U\x04conj\x88s"), "conjugate"),
        (tensor(values=storage(5)), "has 16 bytes"),
        (tensor(values=storage(1 << 30)), "has 16 bytes"),
        (tensor(values=storage(name=b"x")), "damaged"),
        (tensor(values=storage(-4)), "not numbers"),
        (tensor(values=b"N"), "damaged"),
        (tensor() + b"}U\x05numelK\x01sb", "sets attributes"),
        (tensor() + b"U\x05numelK\x01s", "sets items"),
        (b"ctorch._utils\n_rebuild_parameter_with_state\n(" + tensor()
         + b"\x89N}U\x05numelK\x01stR", "attributes .numel"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(" + TENSOR + b"ctorch\nTensor\n(" + storage()
         + b"K\x00(K\x04t(K\x01t\x89Nt}U\x08isfiniteK\x01stR", "attributes .isfinite"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(" + TENSOR + b"ctorch\nTensor\n(" + storage()
         + b"K\x00(K\x04t(K\x01t\x89NtN}U\x08isfiniteK\x01s\x86tR", "attributes .isfinite"),
        (b"ctorch\nTensor\n(K\x7ftR", "damaged"),  # a call of the class, which would allocate memory
        (b"ctorch.nn.parameter\nParameter\n(K\x7ft\x81", "damaged"),
        (b"ctorch\nFloatStorage\n(K\x7ftR", "damaged"),
        (b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(K\x7ftR", "a is not a dense tensor: it is without values"),
        (b"cos\nsystem\n(U\x04exitt\x81", "os.system"),
    ],
)  # fmt: skip
def test_forged_tensors_are_refused(value, words, tmp_path):
    path = archive(tmp_path, named(value), _0=VALUES)
    with pytest.raises(CheckpointError, match=words) as error:
        read_tensors(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_the_number_of_views_and_empty_tensors_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_pickles, "MOST_TENSORS", 100)
    empty = tensor(size=b"(K\x00t")
    for count in (100, 101):
        path = archive(tmp_path, b"}U\x01w" + tensor() + b"sU\x01x](" + empty * (count - 1) + b"es", _0=VALUES)
        if count == 100:
            assert read_tensors(path)["w"].numel() == 4
        else:
            with pytest.raises(CheckpointError, match="more than 100 tensors"):
                read_tensors(path)


def test_keys_that_are_not_names_stay_unhashed(tmp_path):
    deep = b"}" + b"N" + b"\x85" * 50_000 + b"K\x01s"
    for data in (deep, b"}U\x03ema" + deep + b"s"):
        with pytest.raises(CheckpointError, match="holds a key of type tuple, which is not a tensor"):
            read_tensors(archive(tmp_path, data))
    colliding = (
        b"}(" + b"".join(b"\x8a\x0a" + (i * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for i in range(5_000)) + b"u"
    )
    started = time.process_time()
    with pytest.raises(CheckpointError, match="a key of type int"):
        read_tensors(archive(tmp_path, colliding))
    assert time.process_time() - started < 5
    data = b"}" + b"(K\x01K\x02tNs" + b"U\x01w" + tensor() + b"s"
    assert read_tensors(archive(tmp_path, data, _0=VALUES))["w"].numel() == 4


def test_objects_beside_tensors_are_not_built(tmp_path):
    args = Namespace(lr=1e-4, path=PosixPath("x"), scale=np.float64(1), run=Program())
    torch.save({"ema": {"w": torch.ones(2)}, "args": args, "loss": [np.float64(2)]}, tmp_path / "a.pt")
    found = read_tensors(tmp_path / "a.pt")
    assert found["ema"]["w"].tolist() == [1, 1] and found["args"].name == "argparse.Namespace"
    for state in ({"ema": {"w": Program()}}, {"args": args}):
        torch.save(state, tmp_path / "a.pt")
        with pytest.raises(
            CheckpointError, match=r"object of (builtins\.exec|argparse\.Namespace), which is not a tensor"
        ):
            read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_read_as_pytorch_reads_them(zipped, protocol, tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    state = OrderedDict(
        whole=base, part=base[1:3, ::2], turned=base.T, scalar=torch.tensor(3), none=torch.zeros(0, 3),
        parameter=nn.Parameter(torch.ones(2)), half=torch.ones(3).half(), brain=torch.ones(3).bfloat16(),
        double=torch.ones(1).double(), byte=torch.ones(2, dtype=torch.uint8), yes=torch.tensor([True]),
        complex=torch.ones(2, dtype=torch.complex64), expanded=torch.ones(1).expand(2),
    )  # fmt: skip
    if zipped:
        state["eight"] = torch.ones(3).to(torch.float8_e4m3fn)
    state._metadata = {"": {"version": 1}}
    model = {"ema": state, "step": 3, "opt": {"state": {0: {"exp_avg": base}}, "param_groups": [{"lr": 1e-4}]}}
    torch.save(model, tmp_path / "a.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "a.pt")
    wanted = torch.load(tmp_path / "a.pt", weights_only=False)
    assert found["step"] == 3 and found["ema"].keys() == state.keys()
    for name, right in wanted["ema"].items():
        mine = found["ema"][name]
        assert mine.dtype == right.dtype and mine.stride() == right.stride() and mine.shape == right.shape
        assert mine.tolist() == right.tolist()
    assert found["ema"]["whole"].data_ptr() == found["opt"]["state"][0]["exp_avg"].data_ptr()


def test_legacy_files_cannot_claim_memory(tmp_path):
    torch.save({"w": torch.ones(8)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pt").read_bytes()
    assert content.count(b"K\x08N") == 1  # the storage's number of values
    for forged, words in (
        (content.replace(b"K\x08N", b"J\xff\xff\xff\x7fN"), "claims more than the file holds"),
        (content.replace(b"K\x08N", b"K\x09N"), "damaged"),
        (content[:-1], "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fabc", "damaged"),
    ):
        (tmp_path / "b.pt").write_bytes(forged)
        with pytest.raises(CheckpointError, match=words):
            read_tensors(tmp_path / "b.pt")


class Scripted(nn.Module):
    """A module to script, with a submodule and a constant."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 2, stride=(1, 2, 2))
        self.rest = nn.Sequential(nn.BatchNorm3d(4))
        self.scale = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.conv(x)) * self.scale


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """A module and its TorchScript archive."""
    module, path = Scripted(), tmp_path_factory.mktemp("scripted") / "scripted.pt"
    torch.jit.script(module).save(str(path))
    return module, path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_only_tensors_are_read_from_a_torchscript_archive(scripted, tmp_path):
    module, path = scripted
    found, wanted = read_tensors(path), module.state_dict()
    assert found.keys() == wanted.keys() and all(found[name].equal(wanted[name]) for name in wanted)
    data = path.read_bytes()
    for forged in (data.replace(b"_rebuild_tensor_v2", b"_rebuild_parameter"), data[: len(data) // 2]):
        (tmp_path / "a.pt").write_bytes(forged)
        with pytest.raises(CheckpointError, match=r"a\.pt"):
            read_tensors(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_archives_that_unpack_to_more_than_they_hold_are_refused(scripted, tmp_path):
    four = b"K\x04K\x03K\x02K\x02"  # the convolution's channels
    module = b"c__torch__\nM\n)\x81q\x00}U\x01mh\x00sb"
    for name, change in {
        "compressed": lambda record, data: (zipfile.ZIP_DEFLATED, data),
        "claims more": lambda record, data: (record.compress_type, data.replace(four, b"K\xff" + four[2:])),
        "modules": lambda record, data: (0, b"\x80\x02" + module + b"." if "data.pkl" in record.filename else data),
    }.items():
        with zipfile.ZipFile(scripted[1]) as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
            for record in old.infolist():
                kind, data = change(record, old.read(record))
                new.writestr(record.filename, data, kind)
        with pytest.raises(CheckpointError, match=rf"b\.pt: .*{name}"):
            read_tensors(tmp_path / "b.pt")


def test_folders_in_place_of_files_are_reported(tmp_path):
    for name in ("a.pt", "a.safetensors", "a.pkl", "a.npz"):
        (tmp_path / name).mkdir()
        reader = read_statistics if name in ("a.pkl", "a.npz") else read_tensors
        with pytest.raises(CheckpointError, match=name):
            reader(tmp_path / name)


def test_whole_objects_are_named(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match=r"an object of torch\.nn\.modules\.linear\.Linear, which is not a tensor"
    ):
        read_tensors(tmp_path / "a.pt")
    assert isinstance(read_torch_file(tmp_path / "a.pt"), Foreign)
