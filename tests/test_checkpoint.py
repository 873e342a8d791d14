"""Weights in and out, and what is said about the ones that cannot be read."""

import hashlib
import io
import json
import os
import pickle
import random
import zipfile
from argparse import Namespace

import pytest
import torch
from goldens import Golden, relative_error
from safetensors.torch import save, save_file

import latte
from latte import checkpoint
from latte.checkpoint import find_model, load_model, save_model, weights_file
from latte.cli import main
from latte.convert import COMPUTED, state_for_original
from latte.files import read_json, replacing, write_json
from latte.folder import damage, write_manifest
from latte.models.latte import Latte, LatteConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.tensors import CheckpointError, load_strictly, read_tensors, write_tensors
from latte.vae_io import load_vae, save_vae


def out_of(model, golden):
    return model(golden.inputs["x"], golden.inputs["t"], golden.inputs["y"])


@pytest.fixture
def golden():
    return Golden("latte_class")


@pytest.mark.parametrize("wrap", ["ema", "model", "bare", "compiled", "both"])
def test_every_form_of_an_original_checkpoint(golden, tmp_path, wrap):
    state = golden.weights
    other = {name: tensor if name in COMPUTED else tensor + 1 for name, tensor in state.items()}
    stored = {
        "ema": {"ema": state, "opt": {"step": 3}},
        "model": {"model": state},
        "bare": state,
        "compiled": {"ema": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}},
        "both": {"ema": state, "model": other},
    }[wrap]
    torch.save(stored, tmp_path / "original.pt")
    model = latte.load_model(tmp_path / "original.pt", num_heads=4, weights="model" if wrap == "model" else "ema")
    assert relative_error(out_of(model, golden), golden.outputs["out"]) < 1e-5
    if wrap == "both":
        model = latte.load_model(tmp_path / "original.pt", num_heads=4, weights="model")
        assert relative_error(out_of(model, golden), golden.outputs["out"]) > 1e-2


def test_converted_folder_gives_the_same_bits(golden, tmp_path):
    source = golden.write_weights(tmp_path)
    assert main(["convert", str(source), str(tmp_path / "ours"), "--num-heads", "4"]) == 0
    direct, converted = latte.load_model(source, num_heads=4), latte.load_model(tmp_path / "ours")
    assert converted.config == direct.config and converted.config.num_classes == 5
    assert torch.equal(out_of(direct, golden), out_of(converted, golden))
    written = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert written == ["config.json", "manifest.json", "model.safetensors"]
    assert all(path.stat().st_mode & 0o044 for path in (tmp_path / "ours").iterdir())


@pytest.mark.parametrize("name", ["back.pt", "back.safetensors"])
def test_written_back_for_the_original(golden, tmp_path, name, capsys):
    source = golden.write_weights(tmp_path)
    words = ["--to", "original", "--num-heads", "4"]
    assert main(["convert", str(source), str(tmp_path / name), *words]) == 0
    assert hashlib.sha256(source.read_bytes()).hexdigest() in capsys.readouterr().out
    back = read_tensors(tmp_path / name)
    back = back["ema"] if name.endswith(".pt") else back
    assert back.keys() == golden.weights.keys()
    for key, tensor in golden.weights.items():
        tables = key in ("pos_embed", "temp_embed")
        assert torch.equal(back[key], tensor) or (tables and relative_error(back[key], tensor) < 1e-6), key


@pytest.mark.parametrize(
    "change", [{"variant": 2}, {"tubelet": 2}, {"conditioning": "tokens"}, {"temporal_pos": "rope"}]
)
def test_what_the_original_has_not_stays_ours(change, tmp_path):
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, num_frames=4, **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        state_for_original(Latte(config))


def forge(folder, kind):
    """A checkpoint with one thing wrong that only a look inside shows."""
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


def test_values_that_cannot_be_right(golden, tmp_path):
    for name, wrong, words in (
        ("nan", torch.full((64, 16), float("nan")), "not finite"),
        ("huge", torch.zeros(1).expand(1 << 40, 1), "more than the file holds"),
    ):
        torch.save({**golden.weights, "blocks.0.attn.proj.weight": wrong}, tmp_path / f"{name}.pt")
        with pytest.raises(CheckpointError, match=f"{name}.pt: blocks.0.attn.proj.weight.*{words}"):
            latte.load_model(tmp_path / f"{name}.pt", num_heads=4)


def test_changed_folder_is_seen(golden, tmp_path):
    folder = save_model(latte.load_model(golden.write_weights(tmp_path), num_heads=4), tmp_path / "ours")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what was written"):
        latte.load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"depth": "many"},
        {"depth": 10**9},
        {"hidden_size": -4},
        {"num_classes": True},
        {"sizes": 3},
        {"mlp_ratio": None},
    ],
)
def test_absurd_configuration_is_told(change, golden, tmp_path):
    folder = save_model(latte.load_model(golden.write_weights(tmp_path), num_heads=4), tmp_path / "ours")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **change}))
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=f"config.json: .*{next(iter(change))}"):
        latte.load_model(folder)


def test_half_precision_folder(golden, tmp_path):
    model = latte.load_model(golden.write_weights(tmp_path), num_heads=4)
    half = latte.load_model(save_model(model, tmp_path / "half", torch.float16))
    error = relative_error(out_of(half, golden), golden.outputs["out"])
    assert 1e-6 < error < 1e-2


class Bomb:
    def __reduce__(self):
        return (open, ("bomb-went-off", "w"))


def test_bad_checkpoints_end_in_one_line(golden, tmp_path, capsys, monkeypatch):
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
        "malicious2.pt": "io.open, which is not a tensor and is not read: if you trust it",
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


def test_head_count_is_asked_for(golden, tmp_path):
    with pytest.raises(ValueError, match="num_heads"):
        latte.load_model(golden.write_weights(tmp_path))


@pytest.fixture
def tiny():
    """A Latte whose weights are all its own."""
    return Latte(LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=4, num_frames=4, num_classes=3)).eval()


@pytest.fixture
def vae():
    return VideoVAE(AutoencoderKL(VAEConfig(block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4)))


def refused(state, folder, words, num_heads=2, name="bad.pt"):
    """Loading these tensors ends in one line with these words."""
    torch.save(state, folder / name)
    with pytest.raises(CheckpointError, match=words) as told:
        load_model(folder / name, num_heads=num_heads)
    assert "\n" not in str(told.value) and str(told.value).startswith(str(folder / name))


def test_only_what_was_written_is_read(tiny, tmp_path):
    folder = save_model(tiny, tmp_path / "ours")
    write_tensors(folder / "ema.safetensors", tiny.state_dict())
    assert damage(folder) == "ema.safetensors is not one of its files"
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is not one of its files"):
        load_model(folder)
    (folder / "classes.json").write_text("{}")  # what is no weight file may stand beside
    save_model(tiny, folder)
    assert not (folder / "ema.safetensors").exists() and (folder / "classes.json").exists()
    assert load_model(folder).config == tiny.config
    for files in ({}, {"depth": 3}, {"../x": {"bytes": 1, "sha256": ""}}, {"x": [1]}, {"\ud800": {}}):
        (folder / "manifest.json").write_text(json.dumps(files))
        with pytest.raises(CheckpointError, match=r"not one of its files|manifest\.json cannot be read"):
            load_model(folder)


@pytest.mark.parametrize("content", ["ema.safetensors", "notes.txt", "config.json", "manifest.json"])
def test_a_folder_with_something_else_in_it_is_not_written_to(content, tiny, tmp_path, capsys):
    (tmp_path / "theirs").mkdir()
    write_json(tmp_path / "theirs" / content, {"name": "theirs"})
    source = save_model(tiny, tmp_path / "ours")
    assert main(["convert", str(source), str(tmp_path / "theirs")]) == 2
    assert "theirs is not empty and not a model folder written here" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == [content]


def test_a_training_checkpoint_is_not_overwritten(tiny, tmp_path):
    folder = save_model(tiny, tmp_path / "step-1")
    write_tensors(folder / "optimizer.safetensors", {"step": torch.zeros(1)})
    write_manifest(folder, ["config.json", "model.safetensors", "optimizer.safetensors"])
    with pytest.raises(CheckpointError, match="not empty"):
        save_model(tiny, folder)


@pytest.mark.parametrize("name", ["ours", "fresh"])
def test_interrupted_writing_leaves_what_is_not_read_but_can_be_written_again(name, tiny, tmp_path, monkeypatch):
    save_model(tiny, tmp_path / "ours")
    other, folder = Latte(LatteConfig(**{**vars(tiny.config), "num_heads": 4})), tmp_path / name

    def stop(path, *_):
        path.write_bytes(b"old or new")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("latte.folder.write_tensors", stop)
        save_model(other, folder)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_model(folder)
    assert damage(folder) == "model.safetensors is not one of its files"
    assert load_model(save_model(other, folder)).config.num_heads == 4


def test_the_file_that_is_read(tiny, tmp_path, monkeypatch):
    folder = save_model(tiny, tmp_path / "run/final")
    assert weights_file(tmp_path / "run") == folder / "model.safetensors"
    (folder / "manifest.json").unlink()
    write_tensors(folder / "ema.safetensors", {name: tensor + 1 for name, tensor in tiny.state_dict().items()})
    assert weights_file(folder) == folder / "ema.safetensors"
    assert weights_file(folder, "model") == folder / "model.safetensors"
    assert weights_file(folder / "ema.safetensors") == folder / "ema.safetensors"
    for weights, plus in (("ema", 1), ("model", 0)):
        loaded = load_model(tmp_path / "run", weights=weights)  # a run's folder, as the pipeline takes it
        assert torch.equal(loaded.final_linear.bias, tiny.final_linear.bias + plus)


def test_what_ships_is_known_by_name(tiny, vae, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "BUNDLED", tmp_path)
    save_model(tiny, tmp_path / "demo")
    save_vae(vae, tmp_path / "demo/vae")
    assert load_model("demo").config == tiny.config
    assert find_model("demo/vae") == tmp_path / "demo/vae"
    with pytest.raises(CheckpointError, match=r"no model at dem; .* one that ships: demo$"):
        load_model("dem")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.to(torch.int8), "plain floating-point numbers, first .*int8"),
        (lambda w: w > 0, "plain floating-point numbers"),
        (lambda w: w.to(torch.complex64), "plain floating-point numbers"),
        (lambda w: w.to(torch.float8_e4m3fn), "plain floating-point numbers"),
        (lambda w: w.to_sparse(), "not an ordinary tensor"),
        (lambda w: w.to("meta"), "not an ordinary tensor"),
        (lambda w: w.double() + 1e300, "overflows float32"),
    ],
)
def test_weights_of_another_kind_are_refused(change, words, tiny, tmp_path):
    state = state_for_original(tiny)
    state["blocks.0.mlp.fc1.weight"] = change(state["blocks.0.mlp.fc1.weight"].detach())
    refused(state, tmp_path, words)


@pytest.mark.filterwarnings("ignore:.*quantiz", "ignore:TypedStorage")
def test_quantized_weights_are_refused(tiny):
    state = tiny.state_dict()
    state["final_linear.weight"] = torch.quantize_per_tensor(state["final_linear.weight"], 0.1, 0, torch.qint8)
    with pytest.raises(CheckpointError, match=r"file: 1 tensors .* final_linear\.weight \(torch\.qint8\)"):
        load_strictly(tiny, state, "file")


@pytest.mark.parametrize("name", ["half.pt", "half.safetensors"])
def test_what_half_precision_cannot_hold_is_not_written(name, tiny, tmp_path, capsys):
    folder = save_model(tiny, tmp_path / "ours")
    tiny.blocks[0].mlp.fc1.weight.data[0, 0] = 1e6
    for write in (save_model, lambda model, path, dtype: write_tensors(path / "x", model.state_dict(), dtype)):
        with pytest.raises(CheckpointError, match=r"^blocks\.0\.mlp\.fc1\.weight overflows float16: choose float32 or"):
            write(tiny, folder, torch.float16)
        assert load_model(folder).blocks[0].mlp.fc1.weight.abs().max() < 1e6  # what was there is still there
    big = save_model(tiny, tmp_path / "big")
    words = ["convert", str(big), str(tmp_path / name), "--to", "original"]
    assert main([*words, "--dtype", "float16"]) == 2
    assert "overflows float16: choose float32 or bfloat16" in capsys.readouterr().err
    assert not (tmp_path / name).exists()
    assert main([*words, "--dtype", "bfloat16"]) == 0
    assert load_model(tmp_path / name, num_heads=2).config == tiny.config  # bfloat16 position tables are near enough


def test_tables_that_would_be_guessed_at_are_refused(tiny, tmp_path):
    state = state_for_original(tiny)
    frames, bias = state["temp_embed"], state["x_embedder.proj.bias"]
    for change, words in (
        ({"module.x_embedder.proj.bias": bias + 1}, "'module.x_embedder.proj.bias' is there twice"),
        ({"time_embed": frames}, "temp_embed and time_embed"),
        ({"temp_embed": frames + 0.01}, "temp_embed is not the fixed sin-cos table"),
        ({"pos_embed": state["pos_embed"] * 1.01}, "pos_embed is not the fixed sin-cos table"),
        ({"pos_embed": torch.zeros(1, 5, 16)}, "pos_embed is not the fixed sin-cos table"),
        ({5: bias}, "table of tensors"),
        ({"x": 5}, "table of tensors"),
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
    ("name", "shape"),
    [
        ("x_embedder.proj.weight", ()),
        ("x_embedder.proj.weight", (16, 4, 2)),
        ("x_embedder.proj.weight", (16, 4, 0, 0)),
        ("x_embedder.proj.weight", (16, 4, 2, 3)),
        ("final_layer.linear.weight", ()),
        ("y_embedder.embedding_table.weight", ()),
        ("y_embedder.embedding_table.weight", (0, 16)),
        ("pos_embed", (4,)),
        ("temp_embed", ()),
        ("temp_embed", (1, 0, 16)),
        ("blocks.0.attn.qkv.weight", ()),
        ("blocks.0.attn.qkv.weight", (7, 16)),
        ("blocks.0.attn.qkv.weight", (0, 16)),
        ("blocks.999999999.attn.qkv.bias", (48,)),
        ("blocks." + "9" * 5000 + ".attn.qkv.bias", (48,)),
        ("blocks..attn.qkv.bias", (48,)),
    ],
)
def test_shapes_that_no_latte_has_are_told(name, shape, tiny, tmp_path):
    refused({**state_for_original(tiny), name: torch.zeros(shape)}, tmp_path, ".")


def test_no_heads_are_not_the_published_number(tmp_path):
    model = Latte(LatteConfig(depth=2, hidden_size=384, num_heads=6, input_size=4, num_frames=2))
    refused(state_for_original(model), tmp_path, "num_heads is 0", num_heads=0)


def test_small_files_do_not_become_large_models(tiny, tmp_path):
    """Neither by tensors that share a storage nor by records of a zip that lie on one another."""
    storage = torch.zeros(4096)
    state = state_for_original(tiny)
    shared = {name: t if name in COMPUTED else storage[: t.numel()].view(t.shape) for name, t in state.items()}
    for wrapped in (shared, {"ema": shared}):
        refused(wrapped, tmp_path, "more than the file holds")
    torch.save({"x": torch.zeros(10_000)}, tmp_path / "one.pt")
    with zipfile.ZipFile(tmp_path / "one.pt", "a") as archive:
        archive.writestr("one/more", b"")
        archive.filelist += [record for record in archive.filelist if record.file_size > 1000]
    with pytest.raises(CheckpointError, match="records claim more than the file holds"):
        read_tensors(tmp_path / "one.pt")
    torch.save({"ema": state, "model": state, "opt": {"state": {0: torch.zeros(3)}}}, tmp_path / "both.pt")
    assert load_model(tmp_path / "both.pt", num_heads=2).config == tiny.config


def test_readers_may_fail_as_they_like(tmp_path, monkeypatch):
    (tmp_path / "x.pt").write_bytes(b"x")
    (tmp_path / "x.safetensors").write_bytes(b"x")
    for error in (AssertionError(), RecursionError("deep"), NotImplementedError("one\ntwo")):
        for reader, name in (("torch.load", "x.pt"), ("latte.tensors.load_file", "x.safetensors")):
            with monkeypatch.context() as patched:
                patched.setattr(reader, lambda *_, error=error, **__: (_ for _ in ()).throw(error))
                with pytest.raises(CheckpointError, match=r"damaged or is not a checkpoint of plain tensors$"):
                    read_tensors(tmp_path / name)


def test_what_a_checkpoint_holds_besides_tensors_is_named(tiny, tmp_path):
    state = {"ema": state_for_original(tiny), "args": Namespace(depth=2)}
    refused(state, tmp_path, r'holds argparse\.Namespace, which is not a tensor .* torch\.save\(\{"ema": state_dict\}')
    torch.save(state, tmp_path / "again.pt")
    with pytest.raises(CheckpointError) as told:
        read_tensors(tmp_path / "again.pt")
    assert "weights_only" not in str(told.value) and "\x1b" not in str(told.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"depth":' + "9" * 5000 + "}", "[]", "{"])
def test_json_that_is_none(text, tiny, tmp_path):
    folder = save_model(tiny, tmp_path / "ours")
    (folder / "manifest.json").unlink()
    for content in (text.encode(), text.encode("utf-16")):
        (folder / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError) as told:
            load_model(folder)
        assert str(told.value).count("config.json") == 1


def folder_with_company(model, vae, folder):
    """A model folder as training leaves it."""
    save_model(model, folder)
    save_vae(vae, folder / "vae")
    write_json(folder / "classes.json", {"names": ["a", "b", "c"]})
    return folder


def test_converting_a_folder_takes_its_company_along(tiny, vae, tmp_path):
    source = folder_with_company(tiny, vae, tmp_path / "final")
    for target in ("half", "half", "final"):  # a new one, one written before, itself
        assert main(["convert", str(source), str(tmp_path / target), "--dtype", "float16"]) == 0
        assert read_json(tmp_path / target / "classes.json") == {"names": ["a", "b", "c"]}
        for part, load in ((".", load_model), ("vae", load_vae)):
            stored = read_tensors(tmp_path / target / part / "model.safetensors")
            assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
            load(tmp_path / target / part)


def test_another_models_company_is_not_adopted(tiny, vae, tmp_path, capsys):
    target = folder_with_company(tiny, vae, tmp_path / "old")
    lone = save_model(tiny, tmp_path / "lone")
    before = (target / "model.safetensors").stat().st_mtime_ns
    assert main(["convert", str(lone), str(target)]) == 2
    assert "holds the vae of another model" in capsys.readouterr().err
    (target / "vae/manifest.json").unlink()
    assert main(["convert", str(target), str(target)]) == 2
    assert "vae is not empty" in capsys.readouterr().err
    assert (target / "model.safetensors").stat().st_mtime_ns == before


def test_a_vae_is_converted_as_well(vae, tmp_path, capsys):
    source = save_vae(vae, tmp_path / "vae")
    assert main(["convert", str(source), str(tmp_path / "half"), "--dtype", "float16"]) == 0
    assert ": VAE, " in capsys.readouterr().out
    assert load_vae(tmp_path / "half").config == vae.config
    stored = read_tensors(tmp_path / "half/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert main(["convert", str(source), str(tmp_path / "x.pt"), "--to", "original"]) == 2
    assert "has one form" in capsys.readouterr().err


def test_two_processes_write_one_file(tmp_path, monkeypatch):
    with replacing(tmp_path / "x.json") as mine:
        mine.write_text("mine")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with replacing(tmp_path / "x.json") as theirs:
            theirs.write_text("theirs")
    assert (tmp_path / "x.json").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def mutant(content, rng):
    """A few bits flipped, anywhere or in the head, which holds the structure; or a piece cut, zeroed or repeated."""
    data, at = bytearray(content), rng.randrange(len(content))
    kind = rng.choice(["flip", "head", "cut", "zero", "splice"])
    if kind == "cut":
        return bytes(data[:at])
    if kind == "zero":
        data[at : at + 16] = bytes(16)
    elif kind == "splice":
        other = rng.randrange(len(content))
        data[at : at + rng.choice([0, 8])] = data[other : other + rng.choice([0, 8, 100])]
    else:
        for _ in range(rng.choice([1, 4])):
            at = rng.randrange(len(data) if kind == "flip" else min(len(data), 2000))
            data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def test_mutants_load_or_are_told(tiny, tmp_path):
    state, rng, loaded = {name: t.detach() for name, t in state_for_original(tiny).items()}, random.Random(0), 0
    files = {"legacy.pt": io.BytesIO(), "zip.pt": io.BytesIO()}
    for name, file in files.items():
        torch.save(state, file, _use_new_zipfile_serialization=name == "zip.pt")
    files = {name: file.getvalue() for name, file in files.items()}
    files["x.safetensors"] = save(state)
    for i in range(210):
        name = list(files)[i % 3]
        (tmp_path / name).write_bytes(mutant(files[name], rng))
        try:
            load_model(tmp_path / name, num_heads=2)
            loaded += 1
        except CheckpointError as error:
            assert "\n" not in str(error), error
    assert 10 < loaded < 150
