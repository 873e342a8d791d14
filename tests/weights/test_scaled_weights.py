"""8-bit numbers with separate scales, as ComfyUI, compressed-tensors, ModelOpt, DeepSeek and `latte convert` store."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from latte.cli import main
from latte.weights.convert_latte import COMPUTED, state_for_original
from latte.weights.load import load_model
from latte.weights.published import load_t2v, load_t5
from latte.weights.scaled_weights import take_scales, unscaled
from latte.weights.tensors import CheckpointError
from latte.weights.vae_folder import load_vae, save_vae

FLOAT8 = torch.float8_e4m3fn
MATRIX = "blocks.0.mlp.fc1"


def scale_of(weight, form):
    """The scale to quantise by: one for all, one per row, or one per block."""
    if form in ("all", "one"):
        return (weight.abs().max() / 448).clamp(min=1e-9).reshape([1] * (form == "one"))
    if form == "row":
        return (weight.flatten(1).abs().amax(1) / 448).clamp(min=1e-9).reshape(-1, *[1] * (weight.ndim - 1))
    return torch.rand([-(-n // 128) for n in weight.shape]) + 0.5


def spread(scale, weight):
    """The scales of 128 x 128 blocks, expanded to one number per weight."""
    i, j = (torch.arange(n) // 128 for n in weight.shape)
    return scale[i][:, j]


def quantized(state, end, form, only=".weight"):
    """The state in scaled float8, with its scales; and the weights that it stands for."""
    out, right = {}, {}
    for name, tensor in state.items():
        if not name.endswith(only) or tensor.ndim < 2 or "table" in name or "conv" in name:
            out[name] = right[name] = tensor.float()
            continue
        scale = scale_of(tensor.float(), form)
        each = spread(scale, tensor) if form == "block" else scale
        out[name] = (tensor.float() / each).to(FLOAT8)
        out[f"{name.removesuffix('weight')}{end}"] = scale
        right[name] = out[name].float() * each
    return out, right


@pytest.mark.parametrize(
    ("end", "form", "more"),
    [
        ("scale_weight", "one", {"scaled_fp8": torch.zeros(2).to(FLOAT8), f"{MATRIX}.scale_input": torch.ones(1)}),
        ("scale_weight", "all", {"scaled_fp8": torch.zeros(0).to(FLOAT8)}),
        ("weight_scale", "all", {f"{MATRIX}.input_scale": torch.ones(())}),
        ("weight_scale", "row", {f"{MATRIX}.comfy_quant": {"format": "float8_e4m3fn"}}),
        (
            "weight_scale",
            "all",
            {f"{MATRIX}.comfy_quant": {"format": "float8_e5m2", "full_precision_matrix_mult": True}},
        ),
        ("weight_scale_inv", "all", {}),
        ("weight_scale_inv", "row", {}),
    ],
)
@pytest.mark.parametrize("words", ["", "ema", "model.diffusion_model."])
def test_scaled_weights_are_multiplied_out(end, form, more, words, tiny, tmp_path):
    stored, right = quantized(state_for_original(tiny), end, form)
    for name, value in more.items():
        stored[name] = torch.tensor(list(json.dumps(value).encode())).byte() if isinstance(value, dict) else value
    if words.endswith("."):
        save_file({words + name: tensor for name, tensor in stored.items()}, tmp_path / "x.safetensors")
    else:
        torch.save({words: stored, "step": 3} if words else stored, tmp_path / "x.pt")
    found = state_for_original(load_model(next(tmp_path.glob("x.*")), num_heads=2))
    assert all(torch.equal(found[name], tensor) for name, tensor in right.items() if name not in COMPUTED)


def test_blockwise_scales(tmp_path):
    weight = torch.randn(200, 300).to(FLOAT8)
    scale = torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.25, 8.0]])
    table = {"x.weight": weight, "x.weight_scale_inv": scale}
    assert torch.equal(unscaled(weight, take_scales(table)["x.weight"]), weight.float() * spread(scale, weight))
    assert table.keys() == {"x.weight"}
    for shape in ((1, 300), (300, 1)):  # of one row or column of blocks
        weight, scale = torch.randn(shape).to(FLOAT8), torch.rand([-(-n // 128) for n in shape])
        product = unscaled(weight, take_scales({"weight": weight, "weight_scale_inv": scale})["weight"])
        assert torch.equal(product, weight.float() * spread(scale, weight))


@pytest.mark.parametrize(
    ("extra", "say"),
    [
        ({"weight_scale": None}, "{}.weight is stored in 8 bits without a scale, beside"),
        ({"weight_scale": torch.ones(16)}, "{}.weight_scale scales 8-bit weights in a way that is not known"),
        ({"weight_scale": torch.ones(64)}, "{}.weight_scale scales"),  # of rows or of columns
        ({"weight_scale": torch.ones(32, 2)}, "{}.weight_scale scales"),
        ({"weight_scale": torch.ones(1).to(FLOAT8)}, "{}.weight_scale scales"),
        ({"weight_scale": torch.ones(1, dtype=torch.int64)}, "{}.weight_scale scales"),
        ({"scale_weight": torch.ones(1)}, "{}.scale_weight scales"),  # a second scale
        ({"weight_scale_2": torch.ones(1)}, "{}.weight_scale_2 scales"),
        ({"pre_quant_scale": torch.ones(16)}, "{}.pre_quant_scale scales"),
        ({"weight._scale": torch.ones(1)}, "{}.weight._scale scales"),
        ({"comfy_quant": torch.tensor(list(b'{"format": "nvfp4"}')).byte()}, "{}.comfy_quant scales"),
        ({"comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn", "convrot": 1}')).byte()}, "{}.comfy_quant"),
        ({"comfy_quant": torch.tensor(list(b"[" * 999)).byte()}, "{}.comfy_quant scales"),
        ({"comfy_quant": torch.zeros(3)}, "{}.comfy_quant scales"),
        (
            {"weight_scale": torch.tensor(float("inf"))},
            "{}.weight: the product of an 8-bit weight and its scale is not finite",
        ),
        ({"weight_scale": torch.tensor(3e38)}, "the product of an 8-bit weight and its scale is not finite"),
        ({"bias_scale": torch.ones(1)}, "{}.bias_scale scales"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_other_forms_are_refused(extra, say, tiny, tmp_path, capsys):
    stored, _ = quantized(state_for_original(tiny), "weight_scale", "all")
    for name, value in extra.items():
        stored[f"{MATRIX}.{name}"] = value
    torch.save({name: value for name, value in stored.items() if value is not None}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=re.escape(say.format(MATRIX))) as caught:
        load_model(tmp_path / "x.pt", num_heads=2)
    assert str(tmp_path / "x.pt") in str(caught.value) and "\n" not in str(caught.value)


def test_scaled_text_encoders_and_transformers(published, tmp_path, capsys):
    """Also if a weight and its scale are in different shards, and if the transformer has a scale_shift_table."""
    folder = shutil.copytree(published / "text_encoder", tmp_path / "t5")
    state = {name: z for file in folder.glob("*.safetensors") for name, z in load_file(file).items()}
    stored, right = quantized(state, "scale_weight", "one")
    (folder / "model.safetensors.index.json").unlink()
    for file in folder.glob("*.safetensors"):
        file.unlink()
    save_file(stored, folder / "model.safetensors")
    whole = load_t5(folder).state_dict()
    assert torch.equal(whole["blocks.0.wo.weight"], right["encoder.block.0.layer.1.DenseReluDense.wo.weight"])
    assert torch.equal(whole["tokens.weight"], right["shared.weight"])
    small = load_t5(folder, eight_bits=True).state_dict()
    assert torch.allclose(small["blocks.0.q.weight"] * small["blocks.0.q.scale"], whole["blocks.0.q.weight"], atol=0.02)
    names = {name: f"model-0000{1 + name.endswith('scale_weight')}-of-00002.safetensors" for name in stored}
    for shard in set(names.values()):
        save_file({name: z for name, z in stored.items() if names[name] == shard}, folder / shard)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert all(torch.equal(z, whole[name]) for name, z in load_t5(folder).state_dict().items())

    folder = shutil.copytree(published / "transformer", tmp_path / "transformer")
    file = folder / "diffusion_pytorch_model.safetensors"
    state, plain = load_file(file), load_t2v(folder).state_dict()
    save_file({name: z.to(FLOAT8) for name, z in state.items()}, file)
    rounded = load_t2v(folder).state_dict()
    assert all(torch.equal(z, plain[name].to(FLOAT8).float()) for name, z in rounded.items())
    stored, _ = quantized(state, "weight_scale", "row")
    save_file(stored, file)
    found = load_t2v(folder).state_dict()
    assert all(torch.allclose(z, plain[name], rtol=0.07, atol=1e-3) for name, z in found.items())


@pytest.mark.filterwarnings("ignore")
def test_scaled_autoencoders(tiny_vae, tmp_path):
    folder = save_vae(tiny_vae, tmp_path / "vae")
    (folder / "manifest.json").unlink()
    state = load_file(folder / "model.safetensors")
    name = "decoder.mid_block.attentions.0.to_q"
    stored = {
        **state,
        f"{name}.weight": (state[f"{name}.weight"] / 0.5).to(FLOAT8),
        f"{name}.weight_scale": torch.tensor(0.5),
    }
    save_file(stored, folder / "model.safetensors")
    found = load_vae(folder).model.state_dict()[f"{name}.weight"]
    assert torch.equal(found, stored[f"{name}.weight"].float() * 0.5)
    torch.save({"state_dict": {f"first_stage_model.{key}": z for key, z in stored.items()}}, tmp_path / "vae.ckpt")
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("form", ["row", "one", "all"])
def test_integers_of_eight_bits(form, tiny, tmp_path):
    state, name = state_for_original(tiny), f"{MATRIX}.weight"
    scale = scale_of(state[name], form) * 448 / 127
    stored = (state[name] / scale).round().to(torch.int8)
    torch.save({**state, name: stored, f"{name}_scale": scale}, tmp_path / "x.pt")
    found = state_for_original(load_model(tmp_path / "x.pt", num_heads=2))
    assert torch.equal(found[name], stored.float() * scale)
    assert take_scales({"position_ids": torch.arange(3, dtype=torch.int8), "logit_scale": torch.ones(())}) == {}


@pytest.mark.parametrize(
    ("extra", "say"),
    [
        ({}, "not of plain floating-point numbers"),
        ({"weight_scale": torch.ones(1), "weight_zero_point": torch.ones(1).to(torch.int8)}, "with a zero point"),
        ({"weight_scale": torch.ones(7)}, "weight_scale scales 8-bit weights in a way that is not known"),
        ({"scale_weight": torch.ones(1)}, "fc1.scale_weight. has no place"),
        ({"SCB": torch.ones(64)}, "fc1.SCB. has no place"),  # bitsandbytes
    ],
)
def test_other_integers_are_refused(extra, say, tiny, tmp_path):
    state = state_for_original(tiny)
    state[f"{MATRIX}.weight"] = state[f"{MATRIX}.weight"].to(torch.int8)
    torch.save(state | {f"{MATRIX}.{name}": value for name, value in extra.items()}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=say) as caught:
        load_model(tmp_path / "x.pt", num_heads=2)
    assert "\n" not in str(caught.value)
