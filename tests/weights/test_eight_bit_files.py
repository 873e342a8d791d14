"""`latte convert --dtype int8`: what is rounded, by how much, and how small the files are."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from latte import LattePipeline
from latte.cli import main
from latte.models.latte import Latte
from latte.weights.load import load_model, save_model
from latte.weights.tensors import CheckpointError


def check_rounding(found: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    """Matrices to half a step of 1 / 127 of the largest value of their row, everything else as float16."""
    assert found.keys() == plain.keys()
    for name, tensor in plain.items():
        if name.endswith(".weight") and tensor.ndim == 2:
            step = tensor.abs().amax(1, keepdim=True) / 127
            assert ((found[name] - tensor).abs() <= 0.501 * step).all() and (
                not tensor.any() or not torch.equal(found[name], tensor)
            )
        else:
            assert torch.equal(found[name], tensor.half().float()), name


def test_a_latte_with_its_vae(tiny, tiny_vae, tmp_path):
    torch.manual_seed(0)
    LattePipeline(tiny, tiny_vae).save_pretrained(tmp_path / "plain")
    assert main(["convert", str(tmp_path / "plain"), str(tmp_path / "small"), "--dtype", "int8"]) == 0
    plain, small = (LattePipeline.from_pretrained(tmp_path / name) for name in ("plain", "small"))
    check_rounding(small.transformer.state_dict(), plain.transformer.state_dict())
    check_rounding(small.vae.model.state_dict(), plain.vae.model.state_dict())
    stored = load_file(tmp_path / "small/model.safetensors")
    assert stored["blocks.0.mlp.fc1.weight"].dtype == torch.int8
    assert stored["blocks.0.mlp.fc1.weight_scale"].shape == (len(stored["blocks.0.mlp.fc1.weight"]), 1)
    again = tmp_path / "again"  # once rounded, weights stay as they are
    assert main(["convert", str(tmp_path / "small"), str(again), "--dtype", "int8"]) == 0
    for name, tensor in load_model(again).state_dict().items():
        torch.testing.assert_close(tensor, small.transformer.state_dict()[name], rtol=1e-5, atol=1e-7)


def test_a_text_to_video_model(published, tmp_path):
    assert main(["convert", str(published), str(tmp_path / "small"), "--dtype", "int8"]) == 0
    plain, small = (LattePipeline.from_pretrained(folder) for folder in (published, tmp_path / "small"))
    for part in ("transformer", "text_encoder"):
        check_rounding(getattr(small, part).state_dict(), getattr(plain, part).state_dict())


def test_the_bundled_model_takes_half_its_size(tmp_path):
    assert main(["convert", "shapes", str(tmp_path / "small"), "--dtype", "int8"]) == 0
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "small", tmp_path / "small/vae")]
    assert sizes[0] < 5.2e6 and sizes[1] < 2.0e6
    plain, small = (LattePipeline.from_pretrained(model) for model in ("shapes", tmp_path / "small"))
    one, other = (
        pipe([3], num_inference_steps=8, seed=1, output_type="latent", progress=False) for pipe in (plain, small)
    )
    error = (one.frames - other.frames).square().mean().sqrt() / one.frames.square().mean().sqrt()
    assert 1e-4 < float(error) < 0.1


@pytest.mark.parametrize("option", [["--to", "original"], ["--autoguidance", "none"]])
def test_other_formats_have_no_eight_bits(option, tiny, tmp_path, capsys):
    save_model(tiny, tmp_path / "plain")
    target = tmp_path / ("x.pt" if "original" in option else "x")
    assert main(["convert", str(tmp_path / "plain"), str(target), "--dtype", "int8", *option]) == 2
    assert "--dtype int8 needs --to latte and no --autoguidance" in capsys.readouterr().err
    assert not target.exists()


def test_values_that_overflow_the_remaining_floats_are_reported(tiny, tmp_path):
    network = Latte(tiny.config)
    network.blocks[0].mlp.fc1.bias.data[0] = 1e6
    with pytest.raises(CheckpointError, match=r"blocks\.0\.mlp\.fc1\.bias overflows float16"):
        save_model(network, tmp_path / "x", torch.int8)
    network.blocks[0].mlp.fc1.bias.data[0] = 0
    network.blocks[0].mlp.fc1.weight.data[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"blocks\.0\.mlp\.fc1\.weight holds values that are not finite"):
        save_model(network, tmp_path / "x", torch.int8)
    assert not (tmp_path / "x").exists()
