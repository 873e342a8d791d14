"""Statistics and arrays in untrusted pickles and npz files."""

import pickle
import struct

import numpy as np
import pytest
from forged_program import Program

from latte.eval.statistics import read_statistics
from latte.files import CheckpointError
from latte.weights.arrays import read_array_pickle


def written(folder, content):
    (folder / "a.pkl").write_bytes(content)
    return folder / "a.pkl"


def test_arrays_are_read_from_pickles_of_every_protocol(tmp_path):
    good = {"mean": np.arange(6.0).reshape(2, 3), "n": np.float32(4), "turned": np.asfortranarray(np.eye(3, 2))}
    good |= {"big": np.arange(3, dtype=">f4"), "bytes": np.arange(3, dtype=np.uint8)}
    for protocol in range(6):
        found = read_array_pickle(written(tmp_path, pickle.dumps(good, protocol)))
        assert all(np.array_equal(found[name], good[name]) for name in good)
    python2 = (
        b"(dS'mean'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\xf0?"
        + rb"\x00" * 8
        + b"'\ntbs."
    )
    assert read_array_pickle(written(tmp_path, python2))["mean"].tolist() == [1, 0]


def test_forged_arrays_are_refused(tmp_path):
    for forged, words in {
        pickle.dumps({"mean": np.array([{}])}, 4): "an array of type O8",
        pickle.dumps({"mean": np.arange(6.0)}, 4)[:-20]: "is damaged",
        pickle.dumps({"mean": np.zeros(3, "c16")}, 4): "an array of type c16",
        pickle.dumps([1]): "holds an object of type list, not a dictionary",
        pickle.dumps(Program()): "holds builtins.exec",
    }.items():
        with pytest.raises(CheckpointError, match=words):
            read_array_pickle(written(tmp_path, forged))


def test_repeated_array_data_is_limited(tmp_path):
    """A megabyte of text that a thousand arrays would each turn into bytes, and a list of lists of one list."""
    text = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
    content = b"\x80\x02c_codecs\nencode\nq\x00" + text + b"q\x01" + b"h\x00h\x01U\x06latin1\x86R" * 1000 + b"."
    with pytest.raises(CheckpointError, match="repeats the data"):
        read_array_pickle(written(tmp_path, content))
    rows = [[0.0] * 10_000] * 10_000
    with pytest.raises(CheckpointError, match="not a list of numbers"):
        read_statistics(written(tmp_path, pickle.dumps({"mean": [0.0], "cov": rows})))
    nested = [[[[0.0] * 1000] * 1000] * 1000]
    with pytest.raises(CheckpointError, match="not a list of numbers"):
        read_statistics(written(tmp_path, pickle.dumps({"mean": nested, "cov": rows})))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mean": Program(), "cov": 1}, r"it holds builtins\.exec"),
        ({"raw_mean": np.zeros(2), "raw_cov": np.zeros((2, 2)), "num_items": float("inf")}, "known format"),
        ({"raw_mean": np.zeros(2), "raw_cov": np.zeros((2, 2)), "num_items": float("nan")}, "known format"),
        ({"raw_mean": np.zeros(2), "raw_cov": np.zeros((2, 2)), "num_items": 0}, "known format"),
        ({"raw_mean": np.zeros(2), "raw_cov": np.zeros((2, 2)), "num_items": -3}, "negative"),
        ({"raw_mean": np.zeros(2), "raw_cov": np.zeros((2, 2)), "num_items": 10**400}, "known format"),
        ({"raw_mean": np.zeros(2), "raw_cov": np.zeros((2, 2)), "num_items": [{}]}, "known format"),
        ({"raw_mean": np.zeros(1_000_000), "raw_cov": np.zeros(()), "num_items": 5}, r"\(1000000,\) and \(\)"),
        ({"mean": np.zeros(2), "cov": np.full((2, 2), np.nan)}, "not finite"),
        ({"mean": "x", "cov": None}, "known format"),
        ({"mean": {}, "cov": []}, "known format"),
        ({f"name {i}" * 100: 0 for i in range(1000)}, "neither mean nor mu"),
        ({(1, (2,)): 3}, "neither mean nor mu, only a key of type tuple"),
    ],
)
def test_invalid_statistics_give_a_short_one_line_error(values, words, tmp_path):
    path = written(tmp_path, pickle.dumps(values))
    with pytest.raises(CheckpointError, match=words) as error:
        read_statistics(path)
    assert str(error.value).startswith(str(path)) and len(str(error.value)) < 600


def test_lists_of_numbers_are_statistics(tmp_path):
    moments, _ = read_statistics(
        written(tmp_path, pickle.dumps({"mu": [1, 2.0], "sigma": [[1.0, 0], [0, 1.0]], "n": 7}))
    )
    assert moments.mean.tolist() == [1, 2] and moments.cov.shape == (2, 2) and moments.count == 7
