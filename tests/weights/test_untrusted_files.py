"""Untrusted files: damage, forgeries and mismatched weights each end in a one-line error."""

import io
import pickle
import random
import re
import zipfile
from argparse import Namespace

import pytest
import torch
from changed_bytes import changed_bytes
from safetensors.torch import save, save_file

import latte
from latte.cli import main
from latte.models.latte import Latte, LatteConfig
from latte.weights.convert_latte import COMPUTED, state_for_original
from latte.weights.load import load_model, save_model
from latte.weights.tensors import CheckpointError, load_strictly, read_tensors


def forge(folder, kind):
    """Write a checkpoint with one fault that only its content reveals."""
    file = folder / f"{kind}.pt"
    state = {"x_embedder.proj.weight": torch.ones(64, 4, 2, 2)}
    if kind == "flipped":
        torch.save(state, file)
        content = bytearray(file.read_bytes())
        at = content.find(torch.ones(8).numpy().tobytes())
        content[at + 5] ^= 1
        file.write_bytes(content)
    if kind == "compressed":
        torch.save(state, folder / "plain.pt")
        with zipfile.ZipFile(folder / "plain.pt") as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for record in old.namelist():
                new.writestr(record, old.read(record))
    return file


@pytest.mark.parametrize(("kind", "words"), [("flipped", "checksum"), ("compressed", "compressed inside")])
def test_damage_inside_a_zip_is_seen(kind, words, tmp_path):
    with pytest.raises(CheckpointError, match=words):
        latte.load_model(forge(tmp_path, kind))


def test_impossible_values_are_rejected(golden, tmp_path):
    for name, wrong, words in (
        ("nan", torch.full((64, 16), float("nan")), "not finite"),
        ("huge", torch.zeros(1).expand(1 << 40, 1), "more than twice the file"),
    ):
        torch.save({**golden.weights, "blocks.0.attn.proj.weight": wrong}, tmp_path / f"{name}.pt")
        with pytest.raises(CheckpointError, match=f"{name}.pt: blocks.0.attn.proj.weight.*{words}"):
            latte.load_model(tmp_path / f"{name}.pt", num_heads=4)


class Bomb:
    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


def test_bad_checkpoints_give_a_one_line_error(golden, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = golden.write_weights(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "malicious.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"ema": Bomb()}, tmp_path / "malicious2.pt")
    torch.save({"ema": {"weight": torch.zeros(2)}}, tmp_path / "other.pt")
    save_file({**golden.weights, "blocks.0.lora": torch.zeros(1)}, tmp_path / "surplus.safetensors")
    missing = {name: tensor for name, tensor in golden.weights.items() if name != "blocks.1.mlp.fc1.bias"}
    save_file(missing, tmp_path / "missing.safetensors")
    (tmp_path / "empty").mkdir()
    said = {
        "nothing.pt": "no model at nothing.pt",
        "cut.safetensors": "damaged",
        "text.pt": "damaged or is not",
        "malicious.pt": "damaged or is not",
        "malicious2.pt": "io.open, which is not a tensor and is not loaded: if you trust it",
        "other.pt": "not the weights of an original Latte",
        "surplus.safetensors": "blocks.0.lora",
        "missing.safetensors": "blocks.1.mlp.fc1.bias",
        "empty": "no config.json",
    }
    for name, words in said.items():
        assert main(["convert", name, "out", "--num-heads", "4"]) == 2, name
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, (name, error)
    assert not (tmp_path / "bomb-went-off").exists()
    assert not (tmp_path / "out").exists()


def refused(state, folder, words, num_heads=2, name="bad.pt"):
    """Assert that loading these tensors gives a one-line error with these words."""
    torch.save(state, folder / name)
    with pytest.raises(CheckpointError, match=words) as error:
        load_model(folder / name, num_heads=num_heads)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(folder / name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.to(torch.int8), "plain floating-point numbers, first .*int8"),
        (lambda w: w > 0, "plain floating-point numbers"),
        (lambda w: w.to(torch.complex64), "plain floating-point numbers"),
        (lambda w: w.to(torch.float8_e8m0fnu), "plain floating-point numbers"),
        (lambda w: w.to_sparse(), "not a dense tensor"),
        (lambda w: w.to("meta"), "not a dense tensor"),
        (lambda w: w.double() + 1e300, "overflows float32"),
    ],
)
def test_unsuitable_weights_are_rejected(change, words, tiny, tmp_path):
    state = state_for_original(tiny)
    state["blocks.0.mlp.fc1.weight"] = change(state["blocks.0.mlp.fc1.weight"].detach())
    refused(state, tmp_path, words)


@pytest.mark.filterwarnings("ignore:.*quantiz", "ignore:TypedStorage")
def test_quantized_weights_are_refused(tiny):
    state = tiny.state_dict()
    state["final_linear.weight"] = torch.quantize_per_tensor(state["final_linear.weight"], 0.1, 0, torch.qint8)
    with pytest.raises(CheckpointError, match=r"file: 1 tensors .* final_linear\.weight \(torch\.qint8\)"):
        load_strictly(tiny, state, "file")


def test_ambiguous_tables_are_refused(tiny, tmp_path):
    state = state_for_original(tiny)
    frames, bias = state["temp_embed"], state["x_embedder.proj.bias"]
    for change, words in (
        ({"module.x_embedder.proj.bias": bias + 1}, "'module.x_embedder.proj.bias' is there twice"),
        ({"time_embed": frames}, "temp_embed and time_embed"),
        ({"temp_embed": frames + 0.01}, "temp_embed is not the fixed sin-cos table"),
        ({"pos_embed": state["pos_embed"] * 1.01}, "pos_embed is not the fixed sin-cos table"),
        ({"pos_embed": torch.zeros(1, 5, 16)}, "pos_embed is not the fixed sin-cos table"),
        ({5: bias}, "no plain table of tensors"),
        ({"x": 5}, "no plain table of tensors"),
        ({"x\nlatte: all is well\x1b[31m": bias}, "no place"),
        ({"x\n\x1b[31m": bias * float("nan")}, r"x \?\[31m holds values that are not finite"),
    ):
        refused({**state, **change}, tmp_path, words)
    torch.save({name: tensor for name, tensor in state.items() if name not in COMPUTED}, tmp_path / "without.pt")
    assert load_model(tmp_path / "without.pt", num_heads=2).config.num_frames == 16
    older = {name.replace("temp_", "time_"): tensor for name, tensor in state.items()}
    torch.save(older, tmp_path / "older.pt")
    assert load_model(tmp_path / "older.pt", num_heads=2).config == tiny.config


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("x_embedder.proj.weight", (), "x_embedder.proj.weight"),
        ("x_embedder.proj.weight", (16, 4, 2), "x_embedder.proj.weight"),
        ("x_embedder.proj.weight", (16, 4, 0, 0), "x_embedder.proj.weight"),
        ("x_embedder.proj.weight", (16, 4, 2, 3), "first patch_embed.weight (16, 24), not (16, 16)"),
        ("final_layer.linear.weight", (), "final_layer.linear.weight"),
        ("y_embedder.embedding_table.weight", (), "y_embedder.embedding_table.weight"),
        ("y_embedder.embedding_table.weight", (0, 16), "y_embedder.embedding_table.weight"),
        ("pos_embed", (4,), "pos_embed"),
        ("temp_embed", (), "temp_embed"),
        ("temp_embed", (1, 0, 16), "temp_embed"),
        ("blocks.0.attn.qkv.weight", (), "qkv.weight of shape () is not 2 heads"),
        ("blocks.0.attn.qkv.weight", (7, 16), "qkv.weight of shape (7, 16) is not 2 heads"),
        ("blocks.0.attn.qkv.weight", (0, 16), "qkv.weight of shape (0, 16) is not 2 heads"),
        ("blocks.999999999.attn.qkv.bias", (48,), "depth is 1000000000; it must be from 1 to 1000"),
        ("blocks." + "9" * 5000 + ".attn.qkv.bias", (48,), "1 tensors not of this model, first blocks.9999"),
        ("blocks..attn.qkv.bias", (48,), "blocks..attn.qkv.bias"),
    ],
)
def test_shapes_that_no_latte_has_are_rejected(name, shape, words, tiny, tmp_path):
    refused({**state_for_original(tiny), name: torch.zeros(shape)}, tmp_path, re.escape(words))


def test_zero_heads_are_not_replaced_by_the_published_number(tmp_path):
    model = Latte(LatteConfig(depth=2, hidden_size=384, num_heads=6, input_size=4, num_frames=2))
    refused(state_for_original(model), tmp_path, "num_heads is 0", num_heads=0)


def test_small_files_do_not_become_large_models(tiny, tmp_path):
    """Neither through tensors that share a storage nor through overlapping records of a zip."""
    storage = torch.zeros(4096)
    state = state_for_original(tiny)
    shared = {name: t if name in COMPUTED else storage[: t.numel()].view(t.shape) for name, t in state.items()}
    for wrapped in (shared, {"ema": shared}):
        refused(wrapped, tmp_path, "more than twice the file")
    torch.save({"x": torch.zeros(10_000)}, tmp_path / "one.pt")
    with zipfile.ZipFile(tmp_path / "one.pt", "a") as archive:
        archive.writestr("one/more", b"")
        archive.filelist += [record for record in archive.filelist if record.file_size > 1000]
    with pytest.raises(CheckpointError, match="records claim more than the file holds"):
        read_tensors(tmp_path / "one.pt")
    torch.save({"ema": state, "model": state, "opt": {"state": {0: torch.zeros(3)}}}, tmp_path / "both.pt")
    assert load_model(tmp_path / "both.pt", num_heads=2).config == tiny.config


def test_any_exception_in_a_reader_gives_one_line(tmp_path, monkeypatch):
    (tmp_path / "x.pt").write_bytes(b"x")
    (tmp_path / "x.safetensors").write_bytes(b"x")
    for error in (AssertionError(), RecursionError("deep"), NotImplementedError("one\ntwo")):
        for reader, name in (
            ("latte.weights.tensors.read_torch_file", "x.pt"),
            ("latte.weights.tensors.load_file", "x.safetensors"),
        ):
            with monkeypatch.context() as patched:
                patched.setattr(reader, lambda *_, error=error, **__: (_ for _ in ()).throw(error))
                with pytest.raises(
                    CheckpointError,
                    match=r"plain tensors: download it or save it again$",
                ):
                    read_tensors(tmp_path / name)


def test_non_tensor_contents_of_a_checkpoint_are_named(tiny, tmp_path):
    refused(
        {"args": Namespace(depth=2)}, tmp_path, r"args.? is an object of argparse\.Namespace, which is not a tensor"
    )
    state = {"ema": Namespace(depth=2), "model": Namespace(depth=2)}
    refused(state, tmp_path, r'argparse\.Namespace, which is not a tensor .* torch\.save\(\{"ema": state_dict\}')
    torch.save(Namespace(depth=2), tmp_path / "again.pt")
    with pytest.raises(CheckpointError) as error:
        read_tensors(tmp_path / "again.pt")
    assert "weights_only" not in str(error.value) and "\x1b" not in str(error.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"depth":' + "9" * 5000 + "}", "[]", "{"])
def test_invalid_json_is_rejected(text, tiny, tmp_path):
    folder = save_model(tiny, tmp_path / "ours")
    (folder / "manifest.json").unlink()
    for content in (text.encode(), text.encode("utf-16")):
        (folder / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            load_model(folder)
        assert str(error.value).count("config.json") == 1


def test_mutated_files_load_or_are_rejected(tiny, tmp_path):
    state, rng, loaded = {name: t.detach() for name, t in state_for_original(tiny).items()}, random.Random(0), 0
    files = {"legacy.pt": io.BytesIO(), "zip.pt": io.BytesIO()}
    for name, file in files.items():
        torch.save(state, file, _use_new_zipfile_serialization=name == "zip.pt")
    files = {name: file.getvalue() for name, file in files.items()}
    files["x.safetensors"] = save(state)
    for i in range(210):
        name = list(files)[i % 3]
        (tmp_path / name).write_bytes(changed_bytes(files[name], rng))
        try:
            load_model(tmp_path / name, num_heads=2)
            loaded += 1
        except CheckpointError as error:
            assert "\n" not in str(error), error
    assert 10 < loaded < 150
