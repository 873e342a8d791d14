"""I3D: golden values, both published formats, folded batch norms, and errors for other files."""

from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from goldens import FOLDER, relative_error
from safetensors.torch import load_file, save_file
from torch import nn

from latte.eval.networks.fast_convolutions import PointwiseConv3d, WinogradConv3d
from latte.eval.networks.i3d import I3D, Pool, Unit, pad_same
from latte.eval.networks.i3d_weights import i3d_detector, i3d_features, own_name, squash, squash_tf1
from latte.eval.protocol import adjusted
from latte.weights.tensors import CheckpointError


def recorded_weights() -> dict[str, torch.Tensor]:
    """The weights used for the golden values: one draw per tensor, in order of name."""
    random = torch.Generator().manual_seed(0)
    state = {}
    shapes = {name: value.shape for name, value in I3D().state_dict().items() if value.ndim}
    for name in sorted(shapes):
        draw = torch.randn(shapes[name], generator=random)
        if name.endswith("conv3d.weight"):
            draw = draw * (2 / draw[0].numel()) ** 0.5
        elif name.endswith("running_var"):
            draw = 1 + 0.2 * draw.abs()
        else:
            draw = 0.1 * draw + name.endswith("bn.weight")
        state[name] = draw
    return state


def recorded_clip(frames: int) -> torch.Tensor:
    """(1, f, 3, 224, 224) in [-1, 1]."""
    random = torch.Generator().manual_seed(frames)
    return (torch.rand(1, 3, frames, 224, 224, generator=random) * 2 - 1).transpose(1, 2)


def hassony(key: str) -> str:
    """Our parameter name as the key in i3d_torchscript.pt."""
    key = key.replace("logits.", "conv3d_0c_1x1.").replace("Conv3d_", "conv3d_").replace("Mixed_", "mixed_")
    for ours, theirs in {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b3b": "branch_3.1"}.items():
        key = key.replace(f".{ours}.", f".{theirs}.")
    return key.replace(".b2a.", ".branch_2.0.").replace(".b2b.", ".branch_2.1.").replace(".bn.", ".batch3d.")


def load_i3d(path: Path, eps: float, device: str = "cpu") -> I3D:
    """The network inside the FVD detector."""
    return i3d_detector(path, adjusted("exact", eps=eps), torch.device(device)).features.args[0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """The recorded weights as a file in the format of i3d_pretrained_400.pt."""
    path = tmp_path_factory.mktemp("i3d") / "i3d_pretrained_400.pt"
    torch.save(recorded_weights(), path)
    return path


@torch.no_grad()
def test_golden_values(weights):
    golden = load_file(FOLDER / "i3d.safetensors")
    plain = I3D().eval()
    plain.load_state_dict(plain.state_dict() | recorded_weights())  # the state_dict adds counters, which no file has
    fast = load_i3d(weights, 1e-3)
    for frames in (16, 9):
        clip, wanted = recorded_clip(frames), golden[f"logits_{frames}"]
        assert relative_error(fast(clip), wanted) < 1e-5
        if frames == 9:
            assert relative_error(plain(clip), wanted) < 1e-5
            assert relative_error(plain.fold_batch_norms()(clip), wanted) < 1e-5
            assert relative_error(load_i3d(weights, 1e-1)(clip), wanted) > 1e-3


def test_both_file_formats_give_the_same_network(weights, tmp_path):
    state = {hassony(name): value for name, value in recorded_weights().items()}
    assert {own_name(name) for name in state} == recorded_weights().keys()
    save_file(state, tmp_path / "other.safetensors")
    files = weights.parent, tmp_path / "other.safetensors"  # the first is found by its folder
    ours, theirs = (load_i3d(file, 1e-3).state_dict() for file in files)
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def test_invalid_files_and_inputs_are_rejected(weights, tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_i3d(tmp_path / "i3d.pt", 1e-3)
    state = recorded_weights()
    del state["Mixed_4b.b0.bn.bias"]
    torch.save(state, tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match=r"short\.pt: 1 tensors missing, first Mixed_4b\.b0\.bn\.bias"):
        load_i3d(tmp_path / "short.pt", 1e-3)
    with pytest.raises(ValueError, match="9 frames or more"):
        I3D()(torch.zeros(1, 8, 3, 224, 224))
    with pytest.raises(ValueError, match="not 16 of 3 x 128 x 224"):
        I3D()(torch.zeros(1, 16, 3, 128, 224))


@torch.no_grad()
def test_merging_the_batch_norm_keeps_the_outputs():
    torch.manual_seed(0)
    unit = Unit(3, 5, 3, 2, 1e-3).eval()
    for tensor in (unit.bn.weight, unit.bn.bias, unit.bn.running_mean, unit.bn.running_var):
        tensor.uniform_(0.5, 2)
    x = torch.randn(2, 3, 7, 8, 9)
    before = unit(x)
    unit.fold_batch_norm()
    assert before.shape == (2, 5, 4, 4, 5) and before.max() > 0
    assert torch.allclose(unit(x), before, atol=1e-5)


def test_padding_matches_tensorflow():
    x = torch.ones(1, 1, 16, 224, 225)
    padded = pad_same(x, (7, 7, 3), (2, 2, 2))
    assert padded.shape[2:] == (21, 229, 227)
    assert padded[0, 0, :, 100, 100].tolist() == [0] * 2 + [1] * 16 + [0] * 3
    assert padded[0, 0, 10, 100, [0, 1, 225, 226]].tolist() == [0, 1, 1, 0]


def test_resizing_rules():
    """On a ramp, the values of a resized image are the sampled positions."""
    ramp = torch.arange(112.0).expand(1, 3, 112, 112)
    inner = slice(2, -2)
    at = torch.arange(224.0)
    assert torch.allclose(squash(ramp)[0, 0, 0, inner], ((at + 0.5) / 2 - 0.5)[inner], atol=1e-4)
    assert torch.allclose(squash_tf1(ramp)[0, 0, 0, inner], (at / 2)[inner], atol=1e-4)


def test_fast_convolutions_are_for_the_cpu_only(weights):
    fast, elsewhere = load_i3d(weights, 1e-3), load_i3d(weights, 1e-3, "meta")
    kinds = Counter(type(module) for module in fast.modules())
    assert (kinds[WinogradConv3d], kinds[PointwiseConv3d], kinds[nn.Conv3d]) == (19, 38, 1)  # the first has a stride
    assert Counter(type(module) for module in elsewhere.modules())[nn.Conv3d] == 58
    assert not any(isinstance(module, nn.BatchNorm3d) for model in (fast, elsewhere) for module in model.modules())


@pytest.mark.parametrize("sizes", [(16, 224, 224), (9, 14, 7), (5, 7, 8)])
@pytest.mark.parametrize("shape", [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2))])
def test_pools_halve_and_round_up(sizes, shape):
    kernel, stride = shape
    x = torch.rand(1, 2, *sizes)
    assert Pool(*shape)(x).equal(F.max_pool3d(pad_same(x, *shape), kernel, stride))


def test_features_do_not_depend_on_the_batch(weights):
    model = load_i3d(weights, 1e-3)
    videos = torch.randint(0, 256, (2, 9, 3, 32, 48), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    both = i3d_features(model, videos, "squash")
    assert both.shape == (2, 400) and both.dtype == torch.float32
    assert relative_error(i3d_features(model, videos[1:], "squash")[0], both[1]) < 1e-5
    assert relative_error(i3d_features(model, videos, "squash-tf1"), both) > 1e-4


def test_on_a_cpu_the_stem_takes_one_clip_at_a_time(weights, monkeypatch):
    seen = []
    for name in ("stem", "trunk"):
        monkeypatch.setattr(I3D, name, lambda self, x: seen.append(len(x)) or torch.zeros(len(x), 1))
    i3d_features(load_i3d(weights, 1e-3), torch.zeros(3, 9, 3, 16, 16, dtype=torch.uint8), "squash")
    assert seen == [1, 1, 1, 3]
