"""Published folders that were fetched only in part: half-precision variants, shards, a whole T5."""

import json
import shutil

import pytest
import torch
from awake_models import awake_pipeline
from published import PROMPTS, QUICK
from safetensors.torch import load_file, save_file

from latte import LattePipeline
from latte.cli import main
from latte.weights.published import load_t2v, load_t5
from latte.weights.state_files import listed_files, state_files
from latte.weights.tensors import CheckpointError

NETWORKS = ("transformer", "text_encoder", "vae", "vae_temporal_decoder")


def stem(part):
    return "model" if part == "text_encoder" else "diffusion_pytorch_model"


def state_of(folder):
    return {name: tensor for file in state_files(folder) for name, tensor in load_file(file).items()}


def clear(folder):
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()


def as_variant(source, target, variant, dtype, keep=False, change=0.0):
    """A copy of a folder with its weights in files of a variant, beside the plain ones or in place of them."""
    shutil.copytree(source, target)
    for part in NETWORKS:
        folder = target / part
        state = {name: (tensor.float() + change).to(dtype) for name, tensor in state_of(folder).items()}
        if not keep:
            clear(folder)
        save_file(state, folder / f"{stem(part)}.{variant}.safetensors")
    return target


def test_half_precision_files_alone_are_read(published, tmp_path, capsys):
    half = as_variant(published, tmp_path / "half", "fp16", torch.float16)
    pipe, right = LattePipeline.from_pretrained(half), LattePipeline.from_pretrained(published)
    for part in ("transformer", "text_encoder"):
        rounded = getattr(right, part).half().float().state_dict()
        assert all(torch.equal(z, rounded[name]) for name, z in getattr(pipe, part).float().state_dict().items())
    assert next(pipe.transformer.parameters()).dtype == torch.float32
    assert pipe(PROMPTS[0], **QUICK).frames.isfinite().all()
    assert (
        LattePipeline.from_pretrained(half, torch.float16, variant="fp16").vae.model.quant_conv.bias.dtype
        == torch.float16
    )
    assert main(["convert", str(half), str(tmp_path / "ours")]) == 0
    assert "transformer/diffusion_pytorch_model.fp16.safetensors, sha256" in capsys.readouterr().out


def test_the_variant_that_is_asked_for_is_read(published, tmp_path):
    both = as_variant(published, tmp_path / "both", "fp16", torch.float16, keep=True, change=0.5)
    plain, half = (LattePipeline.from_pretrained(both, variant=variant) for variant in (None, "fp16"))
    for part in ("transformer", "text_encoder"):
        name, weight = next(iter(getattr(plain, part).state_dict().items()))
        moved = getattr(half, part).state_dict()[name] - weight
        assert torch.allclose(moved, torch.tensor(0.5), atol=5e-3), name
    moved = half.vae.model.quant_conv.bias - plain.vae.model.quant_conv.bias
    assert torch.allclose(moved, torch.tensor(0.5), atol=5e-3)
    clear(both / "vae")
    save_file({}, both / "vae/diffusion_pytorch_model.safetensors")
    with pytest.warns(UserWarning, match="vae has no files of the variant 'fp16': reading its plain files"):
        assert state_files(both / "vae", "fp16") == [both / "vae/diffusion_pytorch_model.safetensors"]


def test_an_ambiguous_variant_must_be_chosen(published, tmp_path, tiny, capsys):
    folder = as_variant(published, tmp_path / "half", "fp16", torch.float16) / "transformer"
    file = folder / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(file, folder / "diffusion_pytorch_model.bf16.safetensors")
    with pytest.raises(CheckpointError, match="holds weights of bf16 and fp16 only: choose one"):
        load_t2v(folder)
    assert load_t2v(folder, variant="bf16").config == load_t2v(folder, variant="fp16").config
    with pytest.raises(CheckpointError, match="no weights of the variant 'fp8', and no plain ones"):
        load_t2v(folder, variant="fp8")
    (folder / "diffusion_pytorch_model.bf16.safetensors").unlink()
    file.rename(folder / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(CheckpointError, match="holds weights of non_ema only: choose one"):
        load_t2v(folder)
    assert load_t2v(folder, variant="non_ema").config
    assert main(["sample", str(tmp_path / "half"), "--prompt", "a", "--out", str(tmp_path / "out")]) == 2
    assert "holds weights of non_ema only" in capsys.readouterr().err


def test_a_class_conditional_model_is_written_and_read_as_a_variant(tmp_path):
    pipe = awake_pipeline(3, ["left", "right", "up"])
    pipe.save_pretrained(tmp_path)
    pipe.to(torch.float16).save_pretrained(tmp_path, variant="fp16")  # replacing the plain files
    for folder in (tmp_path, tmp_path / "vae"):
        assert [file.name for file in folder.glob("*.safetensors")] == ["model.fp16.safetensors"]
    for variant in (None, "fp16"):
        half = LattePipeline.from_pretrained(tmp_path, torch.float16, variant=variant)
        assert torch.equal(half.transformer.final_linear.weight, pipe.transformer.final_linear.weight)
    save_file(load_file(tmp_path / "model.fp16.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not one of its files"):
        LattePipeline.from_pretrained(tmp_path)
    pipe.save_pretrained(tmp_path / "plain")
    with pytest.warns(UserWarning, match="plain has no files of the variant 'fp16': reading its plain files"):
        LattePipeline.from_pretrained(tmp_path / "plain", variant="fp16", vae=None)
    with pytest.raises(CheckpointError, match=r"model\.safetensors has no variants of its files, such as 'fp16'"):
        LattePipeline.from_pretrained(tmp_path / "plain/model.safetensors", variant="fp16")
    with pytest.raises(ValueError, match=r"variant is '\.\./x'; it must be a word for a file's name"):
        pipe.save_pretrained(tmp_path / "other", variant="../x")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("layout", ["ours", "published"])
def test_a_text_to_video_model_is_written_as_a_variant(layout, published, tmp_path):
    pipe = LattePipeline.from_pretrained(published)
    pipe.save_pretrained(tmp_path / "both", published=layout == "published", variant="bf16")
    names = {file.name for file in (tmp_path / "both").rglob("*.safetensors")}
    assert names == {"model.bf16.safetensors", *(["diffusion_pytorch_model.bf16.safetensors"] * (layout != "ours"))}
    again = LattePipeline.from_pretrained(tmp_path / "both", variant="bf16")
    for name in ("transformer", "text_encoder", "vae"):
        ours, theirs = (each.components[name].state_dict() for each in (pipe, again))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("model.safetensors.index.fp16.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("model.safetensors.index.fp16.json", "model-0000{}-of-00002.fp16.safetensors"),
        ("model.fp16.safetensors.index.json", "model.fp16-0000{}-of-00002.safetensors"),
        ("pytorch_model.bin.index.fp16.json", "pytorch_model.fp16-0000{}-of-00002.bin"),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.fp16-{}-of-2.safetensors"),
    ],
)
def test_sharded_variants(index, shard, published, tmp_path):
    folder = shutil.copytree(published / "text_encoder", tmp_path / "t5")
    state = {name: tensor.half() for name, tensor in state_of(folder).items()}
    clear(folder)
    halves = {shard.format(i + 1): list(state)[i::2] for i in range(2)}
    for name, keys in halves.items():
        write = torch.save if name.endswith("bin") else save_file
        write({key: state[key].clone() for key in keys}, folder / name)
    with pytest.raises(CheckpointError, match=f"holds no weights .*found {sorted(halves)[0]}"):
        load_t5(folder)
    table = {"weight_map": {key: name for name, keys in halves.items() for key in keys}}
    (folder / index).write_text(json.dumps(table))
    right = load_t5(published / "text_encoder").state_dict()
    for variant in (None, "fp16"):
        assert [file.name for file in state_files(folder, variant)] == sorted(halves)
        found = load_t5(folder, variant=variant).state_dict()
        assert all(torch.equal(tensor, right[name].half().float()) for name, tensor in found.items())
    (folder / sorted(halves)[0]).unlink()
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_t5(folder)
    assert not listed_files(tmp_path, "fp16")


def test_forms_of_a_text_encoder(published, tmp_path):
    """A whole T5 with its decoder, and the embedding under either name or both."""
    right, state = load_t5(published / "text_encoder").state_dict(), state_of(published / "text_encoder")
    rest = {name: tensor for name, tensor in state.items() if name != "shared.weight"}
    shared, tied = {"shared.weight": state["shared.weight"]}, {"encoder.embed_tokens.weight": state["shared.weight"]}
    decoder = {
        "decoder.block.0.layer.1.EncDecAttention.q.weight": torch.zeros(2, 2),
        "decoder.embed_tokens.weight": torch.zeros(3),
        "lm_head.weight": torch.zeros(2),
    }
    for form in (shared, tied, shared | tied, shared | tied | decoder):
        folder = shutil.copytree(published / "text_encoder", tmp_path / "t5", dirs_exist_ok=True)
        clear(folder)
        torch.save({**rest, **form}, folder / "pytorch_model.bin")
        for low in (False, True):
            found = load_t5(folder, eight_bits=low).state_dict()
            assert found["tokens.weight"].equal(right["tokens.weight"])
            assert low or all(torch.equal(tensor, right[name]) for name, tensor in found.items())
    for name, say in (("encoder.block.0.x.weight", "no place"), ("decoders.weight", "no place")):
        torch.save({**rest, **shared, name: torch.zeros(1)}, folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=f"{name}' has {say} in the table"):
            load_t5(folder)
    torch.save({**rest, **shared, "encoder.embed_tokens.weight": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight is not shared\.weight"):
        load_t5(folder)


def test_float8_text_encoders_are_read(published, tmp_path):
    folder = shutil.copytree(published / "text_encoder", tmp_path / "t5")
    state = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state_of(folder).items()}
    clear(folder)
    save_file(state, folder / "model.safetensors")
    right = load_t5(published / "text_encoder").state_dict()
    found = load_t5(folder, torch.float16).state_dict()
    assert found["blocks.0.q.weight"].dtype == torch.float16 and found["blocks.0.wo.weight"].dtype == torch.float32
    rounded = {name: tensor.to(torch.float8_e4m3fn).float() for name, tensor in right.items()}
    assert all(torch.equal(tensor.float(), rounded[name]) for name, tensor in found.items())
    assert load_t5(folder, eight_bits=True).state_dict()["blocks.0.q.weight"].dtype == torch.int8
