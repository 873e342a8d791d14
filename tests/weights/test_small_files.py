"""Small model files that ask for much memory or time, and contents of the wrong type: a quick one-line error each."""

import json
import time
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latte.cli import main
from latte.eval.statistics import read_statistics
from latte.files import MOST_MESSAGE, CheckpointError, one_line, read_json
from latte.models.latte import LatteConfig
from latte.models.latte_t2v_config import LatteT2VConfig
from latte.models.network_config import shown
from latte.text.tokenizer import Tokenizer
from latte.weights import arrays, convert_latte, tensors
from latte.weights.arrays import read_arrays
from latte.weights.convert_latte import state_for_original
from latte.weights.find_models import find_model, own_vae
from latte.weights.load import load_model, save_model
from latte.weights.manifest import MANIFEST
from latte.weights.published import load_scheduler, load_t5, state_files
from latte.weights.sampling_defaults import read_sampling
from latte.weights.tensors import load_strictly, read_tensors


@pytest.fixture
def folder(tiny, tmp_path):
    """A model folder without a manifest, so that its files can be changed."""
    (save_model(tiny, tmp_path / "model") / MANIFEST).unlink()
    return tmp_path / "model"


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_position_table_shapes_are_compared_before_computing_them(tiny, tmp_path, monkeypatch):
    def never(*_):
        raise AssertionError("a table was computed")

    state = state_for_original(tiny)
    for function, name, rows in (("spatial_position", "pos_embed", 1_000_000), ("sincos", "temp_embed", 60_000)):
        save_file({**state, name: torch.zeros(1, rows, 1)}, tmp_path / "a.safetensors")
        with monkeypatch.context() as patched:
            patched.setattr(convert_latte, function, never)
            with pytest.raises(CheckpointError, match=f"{name} is not the fixed sin-cos table"):
                load_model(tmp_path / "a.safetensors", num_heads=2)


@pytest.mark.parametrize("values", [{"depth": 1000}, {"hidden_size": 65_536, "num_heads": 1}, {"num_classes": 10**6}])
def test_configurations_must_fit_the_weights(values, folder):
    change(folder / "config.json", **values)
    started = time.process_time()
    with pytest.raises(CheckpointError, match=r"too few for 1000 blocks|tensors (missing|of another shape|not of)"):
        load_model(folder)
    assert time.process_time() - started < 10  # PyTorch's imports alone may take five seconds


def test_a_deep_network_is_not_made_for_few_weights(folder, published, monkeypatch):
    monkeypatch.setattr("latte.weights.load.Latte", lambda *_: pytest.fail("a network was made"))
    change(folder / "config.json", depth=1000)
    with pytest.raises(CheckpointError, match="tensors are too few for 1000 blocks"):
        load_model(folder)
    config = published / "text_encoder" / "config.json"
    whole = config.read_text()
    change(config, num_layers=500)
    try:
        with pytest.raises(CheckpointError, match="tensors are too few for 500 blocks"):
            load_t5(published / "text_encoder")
    finally:
        config.write_text(whole)


def test_default_videos_are_bounded():
    with pytest.raises(ValueError, match="num_frames and input_size make 281474976710656 values"):
        LatteConfig(num_frames=65_536, input_size=65_536)
    with pytest.raises(ValueError, match="video_length and sample_size make"):
        LatteT2VConfig(video_length=65_536, sample_size=65_536)
    LatteConfig(num_frames=1024, input_size=256)


@pytest.mark.parametrize(
    "values",
    [
        {"depth": 10**400},
        {"depth": "x" * 100_000},
        {"variant": ["x" * 1000] * 1000},
        {"x" * 100_000: 1},
        {"mlp_ratio": float("nan")},
        {"mlp_ratio": 10**400},
        {"hidden_size": None},
        {"depth": {"a": {"a": {"a": [1] * 10_000}}}},
    ],
)
def test_messages_do_not_print_whole_values(values, folder):
    change(folder / "config.json", **values)
    with pytest.raises(CheckpointError, match=r"config\.json") as error:
        load_model(folder)
    assert len(str(error.value)) < 1000 and "cannot be used" not in str(error.value)


def test_long_values_and_messages_are_shortened():
    assert len(shown("x" * 10**6)) < 100 and shown(10**4000)[-3:] == "000" and len(shown(10**4000)) < 100
    assert shown([1, "a"]) == "[1, 'a']"
    long = one_line("start " + "x" * 10**7 + " the remedy")
    assert len(long) < MOST_MESSAGE + 20 and long.startswith("start ") and long.endswith(" the remedy")


def test_large_json_is_not_parsed(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"a": [' + "[]," * 1000 + "1]}")
    with pytest.raises(ValueError, match=r"config\.json .* 3010 bytes; more than 1000 are not read"):
        read_json(path, most_bytes=1000)
    assert len(read_json(path)["a"]) == 1001


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    "text", ['{"a":' * 100_000, "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\x00", '"\\ud800"', "nul"]
)
def test_invalid_json_is_reported_by_name(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").mkdir()
    with pytest.raises(ValueError, match=r"b\.json cannot be read: Is a directory"):
        read_json(tmp_path / "b.json")


def test_the_number_of_names_in_an_index_is_limited(tmp_path, monkeypatch):
    index = tmp_path / "model.safetensors.index.json"
    monkeypatch.setattr("latte.weights.state_files.MOST_TENSORS", 100)
    for names, words in (
        ({f"w{i}": f"model-{i}.safetensors" for i in range(101)}, "more than 100 tensors"),
        ({"w": ["x"]}, "no table weight_map"),
        ({"w": "x" * 100_000 + "/y"}, "is not a file of this folder"),
        ([], "no table weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": names}))
        with pytest.raises(CheckpointError, match=words) as error:
            state_files(tmp_path)
        assert len(str(error.value)) < 1000


def test_safetensors_headers_are_limited(tmp_path, monkeypatch):
    save_file({f"w{i}": torch.zeros(0) for i in range(50)}, tmp_path / "a.safetensors")
    assert len(read_tensors(tmp_path / "a.safetensors")) == 50
    monkeypatch.setattr(tensors, "MOST_HEADER_BYTES", 1000)
    with pytest.raises(CheckpointError, match=r"a\.safetensors: its header has \d+ bytes; more than 1000"):
        read_tensors(tmp_path / "a.safetensors")
    for content in (b"", b"\xff" * 8, b"\xff" * 200, (10).to_bytes(8, "little") + b"{" * 10):
        (tmp_path / "b.safetensors").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"b\.safetensors is (empty|damaged)"):
            read_tensors(tmp_path / "b.safetensors")


def npy(shape, descr="<f8", data=b"", version=1):
    """An .npy file with the given header."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(header).to_bytes(2 if version == 1 else 4, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        npy((1 << 40,), data=bytes(64)),
        npy((1 << 40, 1 << 40), data=bytes(64)),
        npy((-1,), data=bytes(64)),
        npy((2,), "<U1000000000", bytes(64)),
        npy((8,), "|O", b"\x80\x04cos\nsystem\n."),
        npy((2,), "<c8", bytes(64)),
        npy("x" * 100, data=bytes(64)),
        npy((9,), data=bytes(64)),
        npy((8,), data=bytes(64), version=3),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(64),
        b"not an array",
        b"",
    ],
)
def test_array_headers_that_lie_are_rejected(content, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("mean.npy", content)
    with pytest.raises(CheckpointError, match=r"a\.npz"):
        read_arrays(tmp_path / "a.npz")
    with pytest.raises(CheckpointError, match=r"a\.npz"):
        read_statistics(tmp_path / "a.npz")


def test_arrays_of_every_number_are_read(tmp_path):
    table = {kind: np.arange(6).reshape(2, 3).astype(kind) for kind in ("f2", "<f4", ">f8", "i4", "u1", "u2", "?")}
    table |= {"turned": np.asfortranarray(table["<f4"]), "scalar": np.array(3), "none": np.zeros((0, 2))}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **table)
        found = read_arrays(tmp_path / "a.npz")
        assert found.keys() == table.keys()
        assert all(np.array_equal(found[name].numpy(), table[name]) for name in table)


def test_archives_that_unpack_to_too_much_are_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "LEAST_ARRAY_BYTES", 10_000)
    for kind, words in ((zipfile.ZIP_DEFLATED, "claims 1000000 bytes in 1 arrays"), (zipfile.ZIP_LZMA, "claims")):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", kind) as archive:
            archive.writestr("mean.npy", bytes(1_000_000))
        with pytest.raises(CheckpointError, match=words):
            read_arrays(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("mean.npy", npy((8,), data=bytes(64)))
    with pytest.raises(CheckpointError, match="in a way that NumPy does not use"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sampling.json", '{"guidance_scale": 1' + "0" * 400 + "}"),
        ("sampling.json", '{"guidance_interval": [' + "[" * 900 + "]" * 900 + "]}"),
        ("sampling.json", '{"eta": 1' + "0" * 400 + "}"),
        ("sampling.json", '{"num_inference_steps": [1]}'),
        ("config.json", '{"depth": [2]}'),
        ("config.json", "[]"),
        ("scheduler/scheduler_config.json", '{"sampler": "ddim", "beta_start": 1' + "0" * 400 + "}"),
        ("scheduler/scheduler_config.json", '{"sampler": ["ddim"]}'),
        ("scheduler/scheduler_config.json", '{"_class_name": ["DDIMScheduler"]}'),
        ("scheduler/scheduler_config.json", '{"_class_name": "DDIMScheduler", "num_train_timesteps": 1e9}'),
        ("scheduler/scheduler_config.json", '{"_class_name": "DDIMScheduler", "trained_betas": {"a": []}}'),
    ],
)
def test_contents_of_the_wrong_type_are_named(name, content, folder):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=name.rpartition("/")[2]):
        if name.startswith("sampling"):
            read_sampling(folder, 4.0)
        elif name.startswith("scheduler"):
            load_scheduler(folder / "scheduler").schedule(10)
        else:
            load_model(folder)


def test_records_of_runs_may_hold_anything(tiny, tiny_vae, tmp_path):
    """A run's records of its steps and its VAE, and folders in place of files."""
    run = tmp_path / "run"
    save_model(tiny, run / "final")
    for content in ('{"steps": "many"}', '{"steps": {}}', "{}"):
        (run / "final" / "trained.json").write_text(content)
        assert find_model(run) == run / "final"
    checkpoint = save_model(tiny, run / "checkpoints" / "step-00000005")
    (run / "vae").mkdir()
    (run / "vae" / "config.json").write_text("{}")
    for content in ('{"data": []}', '{"data": {"vae": [1]}}', "{}"):
        (checkpoint / "state.json").write_text(content)
        with pytest.raises(CheckpointError, match="is not the VAE"):
            own_vae(checkpoint)
    (run / "final" / MANIFEST).unlink()
    (run / "final" / MANIFEST).mkdir()
    with pytest.raises(CheckpointError, match=r"manifest\.json is not a file"):
        load_model(run / "final")


@pytest.mark.parametrize("more", [{5: torch.zeros(2)}, {"epoch": 3}, {"args": Namespace()}, {"more": {}}])
def test_tables_with_non_tensor_entries_are_rejected(more, tiny, tmp_path):
    """As a network's own table, which is not renamed."""
    torch.save({**tiny.state_dict(), **more}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: .* not a tensor with a name"):
        load_strictly(tiny, read_tensors(tmp_path / "a.pt"), tmp_path / "a.pt")


def test_invalid_vocabularies_are_reported(tmp_path):
    for content in (b"", b"\x00" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a" * 10_000):
        (tmp_path / "spiece.model").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"spiece\.model"):
            Tokenizer(tmp_path)


def test_commands_say_it_in_one_short_line(folder, tmp_path, capsys):
    change(folder / "config.json", depth="x" * 10**6)
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) < 1000 and "Traceback" not in error
