"""VideoMAE and V-JEPA: keys and shapes of the published files, a written-out forward pass, and preprocessing."""

import math
from pathlib import Path

import pytest
import torch
from goldens import relative_error
from random_weights import random_state, smooth_videos
from torch import Tensor

from latte.diffusion.randomness import normal
from latte.eval.networks.i3d_weights import squash
from latte.eval.networks.published_weights import PUBLISHED
from latte.eval.networks.stored_blocks import load_transformer
from latte.eval.networks.videomae import VideoMAE
from latte.eval.networks.videomae_weights import read_videomae, videomae_detector, videomae_features
from latte.eval.networks.vjepa import VJEPA, Probe
from latte.eval.networks.vjepa_weights import open_part, vjepa_detector
from latte.weights.tensors import CheckpointError

MAE = {"width": 8, "depth": 2, "heads": 2, "hidden": 12, "side": 28}
JEPA = {"width": 8, "depth": 2, "heads": 2, "hidden": 12, "side": 32}
CPU = torch.device("cpu")


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def block_shapes(width: int, hidden: int, biases: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    layers = {"attn.proj": (width, width), "mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    found = {f"{name}.weight": shape for name, shape in layers.items()}
    found |= {f"{name}.bias": shape[:1] for name, shape in layers.items()}
    found |= {f"norm{i}.{kind}": (width,) for i in (1, 2) for kind in ("weight", "bias")}
    return found | {"attn.qkv.weight": (3 * width, width)} | biases


def test_networks_have_the_keys_and_shapes_of_the_published_files():
    """As built by songweige/content-debiased-fvd and facebookresearch/jepa."""
    with torch.device("meta"):
        mae, encoder, probe = VideoMAE(), VJEPA(), Probe()
    block = block_shapes(1408, 6144, {"attn.q_bias": (1408,), "attn.v_bias": (1408,)})
    wanted = {f"blocks.{i}.{name}": shape for i in range(40) for name, shape in block.items()}
    wanted |= {"patch_embed.proj.weight": (1408, 3, 2, 14, 14), "patch_embed.proj.bias": (1408,)}
    wanted |= {"fc_norm.weight": (1408,), "fc_norm.bias": (1408,), "head.weight": (174, 1408), "head.bias": (174,)}
    assert shapes(mae) == wanted
    block = block_shapes(1280, 5120, {"attn.qkv.bias": (3840,)})
    wanted = {f"blocks.{i}.{name}": shape for i in range(32) for name, shape in block.items()}
    wanted |= {"patch_embed.proj.weight": (1280, 3, 2, 16, 16), "patch_embed.proj.bias": (1280,)}
    assert shapes(encoder) == wanted | {"pos_embed": (1, 1568, 1280), "norm.weight": (1280,), "norm.bias": (1280,)}
    cross = "pooler.cross_attention_block."
    pooled = {name.replace("attn.proj", "xattn.proj"): shape for name, shape in block.items() if "qkv" not in name}
    wanted = {f"{cross}{name}": shape for name, shape in pooled.items()}
    wanted |= {f"{cross}xattn.q.weight": (1280, 1280), f"{cross}xattn.q.bias": (1280,)}
    wanted |= {f"{cross}xattn.kv.weight": (2560, 1280), f"{cross}xattn.kv.bias": (2560,)}
    wanted |= {"pooler.query_tokens": (1, 1, 1280), "linear.weight": (174, 1280), "linear.bias": (174,)}
    assert shapes(probe) == wanted


def normed(x: Tensor, state: dict[str, Tensor], name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    return torch.einsum("bni,oi->bno", x, state[f"{name}.weight"]) + state[f"{name}.bias"]


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    width, parts = q.shape[-1] // heads, []
    for i in range(heads):
        part = slice(i * width, (i + 1) * width)
        logits = torch.einsum("bnd,bmd->bnm", q[..., part], k[..., part]) / math.sqrt(width)
        parts.append(torch.einsum("bnm,bmd->bnd", logits.softmax(-1), v[..., part]))
    return torch.cat(parts, -1)


def hidden_layer(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    x = linear(x, state, f"{name}.fc1")
    return linear(x * (1 + torch.erf(x / math.sqrt(2))) / 2, state, f"{name}.fc2")


def tokens_of(videos: Tensor, state: dict[str, Tensor], patch: int) -> Tensor:
    """Tokens in order of time, row and column: each a block of pixels times the weights."""
    _, f, _, h, w = videos.shape
    blocks = [
        videos[:, t : t + 2, :, y : y + patch, x : x + patch]
        for t in range(0, f, 2)
        for y in range(0, h, patch)
        for x in range(0, w, patch)
    ]
    weight = state["patch_embed.proj.weight"]
    return (
        torch.stack([torch.einsum("btchw,octhw->bo", block, weight) for block in blocks], 1)
        + state["patch_embed.proj.bias"]
    )


def blocks_of(x: Tensor, state: dict[str, Tensor], depth: int, heads: int) -> Tensor:
    for i in range(depth):
        name = f"blocks.{i}"
        bias = state.get(f"{name}.attn.qkv.bias")
        if bias is None:
            q, v = state[f"{name}.attn.q_bias"], state[f"{name}.attn.v_bias"]
            bias = torch.cat([q, torch.zeros(len(q)), v])
        inner = normed(x, state, f"{name}.norm1", 1e-6)
        q, k, v = (torch.einsum("bni,oi->bno", inner, state[f"{name}.attn.qkv.weight"]) + bias).chunk(3, -1)
        x = x + linear(attended(q, k, v, heads), state, f"{name}.attn.proj")
        x = x + hidden_layer(normed(x, state, f"{name}.norm2", 1e-6), state, f"{name}.mlp")
    return x


@torch.no_grad()
def test_videomae_matches_a_reference_implementation(tmp_path):
    state = random_state(VideoMAE(**MAE))
    torch.save({"module": state}, tmp_path / PUBLISHED["videomae"].file)
    network = read_videomae(tmp_path / PUBLISHED["videomae"].file, CPU, **MAE)
    clips = smooth_videos(2, 16, 40, 50)
    frames = torch.stack([squash(clip / 255, 28) for clip in clips])
    x = tokens_of(frames, state, 14)
    assert x.shape == (2, 8 * 2 * 2, 8)
    for token in range(x.shape[1]):
        for j in range(8):
            angle = token / 10000 ** (2 * (j // 2) / 8)
            x[:, token, j] += math.sin(angle) if j % 2 == 0 else math.cos(angle)
    wanted = normed(blocks_of(x, state, 2, 2).mean(1), state, "fc_norm", 1e-6)
    assert relative_error(network(frames), wanted) < 1e-5
    detector = videomae_detector(tmp_path, CPU, **MAE)
    assert relative_error(detector.features(clips), wanted) < 1e-5
    assert detector.record["metric"] == "cd-fvd" and len(detector.record["sha256"]) == 64 and detector.width == 8
    assert relative_error(videomae_features(network, clips.flip(1)), wanted) > 1e-2  # frame order matters


@torch.no_grad()
def test_videomae_interpolates_positions_for_longer_clips():
    """As cd-fvd does, by (tokens + 0.1) / 8: position i of n is at (i + 0.5) * 8 / (n + 0.1) - 0.5 of the eight."""
    network = VideoMAE(**MAE)
    eight, twelve = (network.positions(frames).unflatten(1, (-1, 2, 2)) for frames in (16, 24))
    assert eight.shape == (1, 8, 2, 2, 8) and twelve.shape == (1, 12, 2, 2, 8)
    for i in (0, 5, 11):
        at = min(max((i + 0.5) * 8 / 12.1 - 0.5, 0), 7)
        low = int(at)
        between = eight[:, low].lerp(eight[:, min(low + 1, 7)], at - low)
        assert torch.allclose(twelve[:, i], between, atol=1e-5)
    with pytest.raises(ValueError, match="an even number of frames of 3 x 28 x 28: got 15 of 3 x 28 x 28"):
        network(torch.zeros(1, 15, 3, 28, 28))
    with pytest.raises(ValueError, match="got 16 of 3 x 28 x 30"):
        network(torch.zeros(1, 16, 3, 28, 30))


def write_vjepa(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Files as published: nested and prefixed, alongside an optimizer's state."""
    encoder = random_state(VJEPA(**JEPA))
    probe = {name: value + 0.5 for name, value in random_state(Probe(8, 2, 12)).items()}
    state = {f"module.backbone.{name}": value for name, value in encoder.items()}
    torch.save({"target_encoder": state, "encoder": {}, "opt": {"lr": 1.0}, "epoch": 300}, folder / "vith16.pth.tar")
    state = {f"module.{name}": value for name, value in probe.items()}
    torch.save({"classifier": state, "epoch": 20}, folder / "ssv2-probe.pth.tar")
    return encoder, probe


@torch.no_grad()
def test_vjepa_matches_a_reference_implementation(tmp_path):
    encoder, probe = write_vjepa(tmp_path)
    detector = vjepa_detector(tmp_path, tmp_path, CPU, **JEPA)
    clips = smooth_videos(2, 16, 40, 50)
    frames = torch.stack([squash(clip / 255, 32) for clip in clips])
    for channel, (mean, deviation) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        frames[:, :, channel] = (frames[:, :, channel] - mean) / deviation
    tokens = blocks_of(tokens_of(frames, encoder, 16) + encoder["pos_embed"], encoder, 2, 2)
    tokens = normed(tokens, encoder, "norm", 1e-6)
    name = "pooler.cross_attention_block."
    state = {key.removeprefix(name): value for key, value in probe.items()}
    query = probe["pooler.query_tokens"].expand(2, 1, 8)
    keys, values = linear(normed(tokens, state, "norm1", 1e-5), state, "xattn.kv").chunk(2, -1)
    query = query + linear(attended(linear(query, state, "xattn.q"), keys, values, 2), state, "xattn.proj")
    wanted = (query + hidden_layer(normed(query, state, "norm2", 1e-5), state, "mlp"))[:, 0]
    found = detector.features(clips)
    assert found.shape == (2, 8) and relative_error(found, wanted) < 1e-5
    assert relative_error(found[:1], found[1:]) > 1e-4 and detector.record["metric"] == "jedi"
    assert len(detector.features(normal((1, 8, 3, 20, 20), 0).byte())) == 1  # a different length


@torch.no_grad()
def test_other_devices_hold_all_blocks(tmp_path):
    encoder, _ = write_vjepa(tmp_path)
    path = tmp_path / "vith16.pth.tar"
    networks = []
    for device in (CPU, torch.device("meta")):
        with torch.device("meta"):
            network = VJEPA(**JEPA)
        networks.append(load_transformer(network, open_part(path, "target_encoder"), path, device))
    stored, held = networks
    assert shapes(held) == shapes(VJEPA(**JEPA)) and {value.device.type for value in held.parameters()} == {"meta"}
    assert not any(name.startswith("blocks") for name in stored.state_dict())
    for i, block in enumerate(stored.blocks):
        for name, value in block.state_dict().items():
            assert torch.equal(value, encoder[f"blocks.{i}.{name}"])
    assert not any(value.requires_grad or part.training for part in networks for value in part.parameters())


def test_a_damaged_block_is_noticed_before_a_clip_is_read(tmp_path):
    encoder, _ = write_vjepa(tmp_path)
    path = tmp_path / "vith16.pth.tar"
    content = bytearray(path.read_bytes())
    values = encoder["blocks.1.mlp.fc2.bias"].numpy().tobytes()
    content[content.index(values)] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"vith16\.pth\.tar: the checksum of .* is wrong; .* download it again"):
        vjepa_detector(tmp_path, tmp_path, CPU, **JEPA)


def test_invalid_files_are_rejected(tmp_path):
    write_vjepa(tmp_path)
    with pytest.raises(CheckpointError, match=r"ssv2-probe\.pth\.tar holds no target_encoder, only classifier, epoch"):
        vjepa_detector(tmp_path / "ssv2-probe.pth.tar", tmp_path, CPU, **JEPA)
    with pytest.raises(CheckpointError, match=r"JEDi needs ssv2-probe\.pth\.tar: get it from"):
        vjepa_detector(tmp_path, tmp_path / "gone", CPU)
    with pytest.raises(CheckpointError, match=r"CD-FVD needs vit_g_hybrid_pt_1200e_ssv2_ft\.pth: get it from"):
        videomae_detector(None, CPU)
    torch.save({"module": {"head.bias": torch.zeros(174)}}, tmp_path / "v.pth")
    with pytest.raises(CheckpointError, match=r"v\.pth: \d+ tensors missing, first blocks\.0\.attn\.proj\.bias"):
        videomae_detector(tmp_path / "v.pth", CPU, **MAE)
