"""`latte convert`: from the original, back to it, and from folder to folder."""

import hashlib
from dataclasses import replace

import pytest
import torch
from goldens import out_of, relative_error

import latte
from latte import LattePipeline
from latte.cli import main
from latte.files import read_json, write_json
from latte.models.latte import Latte, LatteConfig
from latte.sampling_settings import Guidance, Sampling
from latte.scheduler import Scheduler
from latte.weights.convert_latte import COMPUTED, original_config, state_for_original
from latte.weights.load import load_model, save_model
from latte.weights.manifest import digest
from latte.weights.published import load_scheduler, save_scheduler
from latte.weights.sampling_defaults import save_sampling
from latte.weights.tensors import CheckpointError, cast, read_tensors, write_tensors
from latte.weights.vae_folder import load_vae, save_vae

SCHEDULER = Scheduler("euler", "trailing")


def test_conversion_is_bit_exact(golden, tmp_path):
    source = golden.write_weights(tmp_path)
    assert main(["convert", str(source), str(tmp_path / "ours"), "--num-heads", "4"]) == 0
    direct, converted = latte.load_model(source, num_heads=4), latte.load_model(tmp_path / "ours")
    assert converted.config == direct.config and converted.config.num_classes == 5
    assert torch.equal(out_of(direct, golden), out_of(converted, golden))
    written = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert written == ["config.json", "manifest.json", "model.safetensors"]
    assert all(path.stat().st_mode & 0o044 for path in (tmp_path / "ours").iterdir())


@pytest.mark.parametrize("name", ["back.pt", "back.safetensors"])
def test_conversion_back_to_the_original_format(golden, tmp_path, name, capsys):
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
    "change",
    [
        *({"variant": variant} for variant in (2, 3, 4)),
        {"tubelet": 2},
        {"conditioning": "tokens"},
        {"temporal_pos": "rope"},
        {"prediction": "v"},
    ],
)
def test_models_that_the_original_does_not_have_are_refused(change):
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, num_frames=4, **change)
    with pytest.raises(ValueError, match=next(iter(change))):
        state_for_original(Latte(config))


def test_sizes_without_position_tables_are_the_published_ones(tiny):
    """All other sizes follow from the shapes."""
    state = {name: tensor for name, tensor in state_for_original(tiny).items() if name not in COMPUTED}
    config = original_config(state, num_heads=2)
    assert config == replace(tiny.config, input_size=32, num_frames=16)


def test_classes_without_label_dropout_are_refused(tmp_path, capsys):
    """The original's table always has a row for no class, which guidance uses."""
    model = unguided()
    with pytest.raises(ValueError, match="always has an embedding for no class"):
        state_for_original(model)
    source = save_model(model, tmp_path / "ours")
    assert main(["convert", str(source), str(tmp_path / "x.pt"), "--to", "original"]) == 2
    assert "always has an embedding for no class" in capsys.readouterr().err and not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("theirs", [], "theirs is not empty and not a model folder written here; choose a new folder"),
        ("x.bin", ["--to", "original"], "x.bin: the original reads .pt or .safetensors files"),
        ("x.pt", [], "x.pt looks like a file of the original: add --to original"),
    ],
)
def test_the_target_is_checked_before_the_source_is_read(target, options, message, tiny, tmp_path, capsys):
    source = save_model(tiny, tmp_path / "ours")
    (source / "model.safetensors").write_bytes(b"damaged")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "notes.txt").touch()
    assert main(["convert", str(source), str(tmp_path / target), *options]) == 2
    assert message in capsys.readouterr().err


def test_half_precision_folder(golden, tmp_path):
    model = latte.load_model(golden.write_weights(tmp_path), num_heads=4)
    half = latte.load_model(save_model(model, tmp_path / "half", torch.float16))
    error = relative_error(out_of(half, golden), golden.outputs["out"])
    assert 1e-6 < error < 1e-2


@pytest.mark.parametrize("content", ["ema.safetensors", "notes.txt", "config.json", "manifest.json"])
def test_a_folder_with_other_files_is_not_overwritten(content, tiny, tmp_path, capsys):
    (tmp_path / "theirs").mkdir()
    write_json(tmp_path / "theirs" / content, {"name": "theirs"})
    source = save_model(tiny, tmp_path / "ours")
    assert main(["convert", str(source), str(tmp_path / "theirs")]) == 2
    assert "theirs is not empty and not a model folder written here" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == [content]


@pytest.mark.parametrize("name", ["half.pt", "half.safetensors"])
def test_weights_that_overflow_half_precision_are_not_written(name, tiny, tmp_path, capsys):
    folder = save_model(tiny, tmp_path / "ours")
    tiny.blocks[0].mlp.fc1.weight.data[0, 0] = 1e6
    for write in (save_model, lambda model, path, dtype: write_tensors(path / "x", cast(model.state_dict(), dtype))):
        with pytest.raises(CheckpointError, match=r"^blocks\.0\.mlp\.fc1\.weight overflows float16: choose float32 or"):
            write(tiny, folder, torch.float16)
        assert load_model(folder).blocks[0].mlp.fc1.weight.abs().max() < 1e6  # the earlier weights are still there
    big = save_model(tiny, tmp_path / "big")
    words = ["convert", str(big), str(tmp_path / name), "--to", "original"]
    assert main([*words, "--dtype", "float16"]) == 2
    assert "overflows float16: choose float32 or bfloat16" in capsys.readouterr().err
    assert not (tmp_path / name).exists()
    assert main([*words, "--dtype", "bfloat16"]) == 0
    assert load_model(tmp_path / name, num_heads=2).config == tiny.config  # bfloat16 position tables are close enough


def unguided():
    """A model with classes that was trained without label dropout, and so does not support guidance."""
    sizes = dict(depth=2, hidden_size=16, num_heads=2, input_size=4, num_frames=4)
    return Latte(LatteConfig(**sizes, num_classes=3, class_dropout_prob=0.0)).eval()


def folder_with_extras(model, vae, folder):
    """Write a model folder with everything that may accompany the weights."""
    save_model(model, folder)
    save_vae(vae, folder / "vae")
    write_json(folder / "classes.json", {"names": ["a", "b", "c"]})
    save_sampling(Sampling(Guidance(3, (500, 1000)), 7, 0.5), folder)
    save_scheduler(SCHEDULER, folder / "scheduler")
    return folder


def test_conversion_copies_everything_beside_the_weights(tiny, tiny_vae, tmp_path):
    source = folder_with_extras(tiny, tiny_vae, tmp_path / "final")
    for target in ("half", "half", "final"):  # a new one, one written before, itself
        assert main(["convert", str(source), str(tmp_path / target), "--dtype", "float16", "--overwrite"]) == 0
        assert read_json(tmp_path / target / "classes.json") == {"names": ["a", "b", "c"]}
        assert LattePipeline.from_pretrained(tmp_path / target).sampling == Sampling(Guidance(3, (500, 1000)), 7, 0.5)
        assert load_scheduler(tmp_path / target / "scheduler") == SCHEDULER
        for part, load in ((".", load_model), ("vae", load_vae)):
            stored = read_tensors(tmp_path / target / part / "model.safetensors")
            assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
            load(tmp_path / target / part)


def test_converting_an_unconditional_model_does_not_enable_guidance(tiny_vae, tmp_path):
    config = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=4, num_frames=4)
    source = save_model(Latte(config), tmp_path / "source")
    write_json(source / "sampling.json", {"num_inference_steps": 7})
    assert main(["convert", str(source), str(tmp_path / "target")]) == 0
    assert LattePipeline.from_pretrained(tmp_path / "target", vae=tiny_vae).sampling == Sampling(Guidance(1.0), 7)


def test_converting_a_model_without_guidance_does_not_enable_it(tiny_vae, tmp_path):
    source = save_model(unguided(), tmp_path / "source")
    write_json(source / "sampling.json", {"num_inference_steps": 2})
    assert main(["convert", str(source), str(tmp_path / "target")]) == 0
    pipe = LattePipeline.from_pretrained(tmp_path / "target", vae=tiny_vae)
    assert pipe.sampling == Sampling(Guidance(1.0), 2)
    assert pipe([0], output_type="latent", progress=False).frames.shape == (1, 4, 4, 4, 4)


@pytest.mark.parametrize(("name", "words"), [("out", []), ("out.pt", ["--to", "original"])])
def test_a_model_is_replaced_only_on_request(name, words, tiny, tmp_path, capsys):
    old = save_model(tiny, tmp_path / "old")
    new = save_model(Latte(replace(tiny.config, num_classes=5)), tmp_path / "new")
    target = tmp_path / name
    convert = lambda source, *more: main(["convert", str(source), str(target), *words, *more])
    written = lambda: (target / "model.safetensors" if target.is_dir() else target).read_bytes()
    assert convert(old) == 0
    before = written()
    assert convert(new) == 2 and written() == before
    said = f"latte convert: error: {target} holds a model already: choose another target"
    assert capsys.readouterr().err == f"{said}, or add --overwrite to replace one of the same kind\n"
    assert convert(new, "--overwrite") == 0 and written() != before


def test_the_vae_of_another_model_is_not_adopted(tiny, tiny_vae, tmp_path, capsys):
    target = folder_with_extras(tiny, tiny_vae, tmp_path / "old")
    lone = save_model(tiny, tmp_path / "lone")
    before = (target / "model.safetensors").stat().st_mtime_ns
    assert main(["convert", str(lone), str(target), "--overwrite"]) == 2
    assert "holds vae, which this model does not have" in capsys.readouterr().err
    (target / "vae/manifest.json").unlink()
    assert main(["convert", str(target), str(target), "--overwrite"]) == 2
    assert "vae is not empty" in capsys.readouterr().err
    assert (target / "model.safetensors").stat().st_mtime_ns == before


def test_a_vae_is_converted_as_well(tiny_vae, tmp_path, capsys):
    source = save_vae(tiny_vae, tmp_path / "vae")
    assert main(["convert", str(source), str(tmp_path / "half"), "--dtype", "float16"]) == 0
    said = capsys.readouterr().out
    assert ": VAE, " in said and digest(source / "model.safetensors") in said
    assert load_vae(tmp_path / "half").config == tiny_vae.config
    stored = read_tensors(tmp_path / "half/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert main(["convert", str(source), str(tmp_path / "x.pt"), "--to", "original"]) == 2
    assert "has no format 'original'; choose --to latte" in capsys.readouterr().err
    assert main(["convert", str(source), str(tmp_path / "x"), "--num-heads", "2"]) == 2
    assert "--num-heads and --weights are for a Latte" in capsys.readouterr().err
