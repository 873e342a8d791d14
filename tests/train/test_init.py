"""Initialisation from other models: their weights are used correctly, and warnings name what is not used."""

import warnings
from dataclasses import replace

import pytest
import torch
from einops import rearrange
from picture_models import HEADS, D, dit, dit_of_one_frame, in_diffusers_names, pixart, pixart_picture, torn
from safetensors.torch import load_file, save_file
from small_runs import TINY, run, small, small_t2v
from torch.nn.functional import interpolate

from latte.cli import main
from latte.files import write_json
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_config import SIZES
from latte.models.latte_t2v import LatteT2VConfig, TextToVideo, TextToVideoConfig
from latte.models.t5 import T5Config
from latte.train.init import init_latte, init_t2v
from latte.weights.convert_latte import state_for_original
from latte.weights.load import save_model
from latte.weights.published import load_t2v, load_t5
from latte.weights.tensors import CheckpointError

SHAPE = dict(depth=2, hidden_size=D, num_heads=HEADS, input_size=4, num_frames=4)


def begun(source, names=(), **changes):
    network = Latte(LatteConfig(**{**SHAPE, "num_classes": len(names), **changes})).eval()
    init_latte(network, str(source), list(names))
    return network


def t2v(source, d_model=8, **changes):
    shape = dict(num_layers=2, num_attention_heads=HEADS, attention_head_dim=D // HEADS, sample_size=4, video_length=4)
    encoder = T5Config(vocab_size=20, d_model=d_model, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    config = LatteT2VConfig(**{**shape, "caption_channels": d_model, **changes})
    network = TextToVideo(TextToVideoConfig(config, encoder)).eval()
    init_t2v(network, str(source))
    return network


def saved(state, path):
    torch.save(state, path)
    return path


def close(a, b):
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def said(recwarn):
    return lambda: " / ".join(str(warning.message) for warning in recwarn.list)


@torch.no_grad()
def test_a_latte_can_start_from_a_dit(tmp_path, said, capsys):
    state = dit()
    network = begun(saved(state, tmp_path / "DiT.pt"), "abc")
    x, t = torch.randn(1, 4, 4, 4), torch.tensor([321])
    for y in range(4):
        assert close(network(x[None], t, torch.tensor([y])), dit_of_one_frame(state, x, t, y))
    assert "a DiT, an image model: its blocks become" in said() and "matched by number" in said()
    assert capsys.readouterr().out.startswith("init: the weights of ")
    late = begun(tmp_path / "DiT.pt", "abc", variant=2)
    assert torch.equal(late.blocks[1].mlp.fc1.weight, network.blocks[1].mlp.fc1.weight)


@torch.no_grad()
def test_an_unconditional_latte_starts_from_the_null_class(tmp_path, said):
    state = dit(classes=7)
    network = begun(saved(state, tmp_path / "DiT.pt"))
    x, t = torch.randn(1, 4, 4, 4), torch.tensor([5])
    assert close(network(x[None], t), dit_of_one_frame(state, x, t, 7))
    assert "its 7 classes are dropped" in said()


def test_classes_are_matched_by_name(tiny, tmp_path, said):
    folder, rows = save_model(tiny, tmp_path / "ours"), tiny.condition.label.weight
    write_json(folder / "classes.json", {"names": ["a", "b", "c"]})
    table = begun(folder, ["c", "d"]).condition.label.weight
    assert torch.equal(table, rows[[2, 3, 3]])
    assert "1 of 2 classes are new ('d', ...)" in said() and "2 of its 3 classes are dropped ('a', ...)" in said()
    assert torch.equal(begun(folder, "cab").condition.label.weight, rows[[2, 0, 1, 3]])
    assert torch.equal(begun(folder, "cab", class_dropout_prob=0.0).condition.label.weight, rows[[2, 0, 1]])
    (folder / "classes.json").unlink()
    assert torch.equal(begun(folder, "cab").condition.label.weight, rows)
    assert torch.equal(begun(folder, "cabd").condition.label.weight, rows[[3] * 5])
    assert "its 3 classes have no names and are dropped" in said()
    sure = Latte(LatteConfig(**SHAPE, num_classes=2, class_dropout_prob=0.0))
    mean = begun(save_model(sure, tmp_path / "sure"), "cab").condition.label.weight
    assert torch.allclose(mean, sure.condition.label.weight.mean(0).expand(4, -1))
    words = Latte(LatteConfig(**SHAPE, num_classes=2, conditioning="tokens"))
    bias = begun(save_model(words, tmp_path / "words"), conditioning="tokens").condition.time.mlp[2].bias
    assert torch.equal(bias, words.condition.time.mlp[2].bias) and "2 classes, which are tokens, are dropped" in said()
    plain = Latte(LatteConfig(**SHAPE))
    assert begun(save_model(plain, tmp_path / "plain"), "ab").condition.label.weight.eq(0).all()


@torch.no_grad()
def test_other_lengths_sizes_and_original_checkpoints_are_supported(tiny, tmp_path, said):
    for parameter in tiny.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs = state_for_original(tiny)
    path = saved({"model": {k: torch.zeros_like(v) for k, v in theirs.items()}, "ema": theirs}, tmp_path / "ucf101.pt")
    network = begun(path, "abc", num_frames=6, input_size=8)
    x, t, y = torch.randn(1, 6, 4, 8, 8), torch.tensor([7]), torch.tensor([2])
    assert torch.equal(network(x, t, y), tiny(x, t, y))
    assert "position embeddings are recomputed for 6 frames of 8 x 8" in said() and "DiT" not in said()
    lone = saved({"model": theirs}, tmp_path / "lone.pt")
    assert torch.equal(begun(lone, "abc")(x, t, y), tiny(x, t, y))


def test_a_different_prediction_keeps_its_own_last_layer(tmp_path, said):
    network = begun(saved(dit(), tmp_path / "DiT.pt"), "abc", prediction="v")
    assert network.final_linear.weight.eq(0).all() and network.final_modulation.linear.weight.ne(0).any()
    assert "it predicts 'eps', this run 'v': the last layer starts at random" in said()


def enlarged(x):
    """Each 2 x 2 patch enlarged to 4 x 4."""
    patches = rearrange(x, "b f c (h p) (w r) -> (b f h w) c p r", p=2, r=2)
    patches = interpolate(patches, size=(4, 4), mode="bilinear", antialias=True)
    return rearrange(patches, "(b f h w) c p r -> b f c (h p) (w r)", b=len(x), f=x.shape[1], h=x.shape[3] // 2)


@torch.no_grad()
def test_larger_patches_are_resized(tmp_path, said):
    fine = begun(saved(dit(), tmp_path / "DiT.pt"), "abc")
    coarse = begun(tmp_path / "DiT.pt", "abc", patch_size=4, input_size=8)
    assert "its patches of 2 x 2 are resized to 4 x 4" in said()
    x, t, y = torch.randn(1, 2, 4, 4, 4), torch.tensor([321]), torch.tensor([1])
    assert close(coarse(enlarged(x), t, y), enlarged(fine(x, t, y)))


@torch.no_grad()
def test_smaller_patches_are_resized(tmp_path, said):
    state = pixart()
    smaller = t2v(saved(state, tmp_path / "PixArt.pth"), patch_size=1).transformer
    assert "its patches of 2 x 2 are resized to 1 x 1" in said()
    for own, name in ((smaller.final_linear.weight, "weight"), (smaller.final_linear.bias, "bias")):
        parts = state[f"final_layer.linear.{name}"]
        assert close(own, parts.view(4, 8, *parts.shape[1:]).mean(0))
    assert close(smaller.patch_embed.weight, state["x_embedder.proj.weight"].sum((2, 3)))


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({"depth": 4}, "has depth 2, this run 4"),
        ({"hidden_size": 32}, "has hidden_size 16, this run 32"),
        ({"mlp_ratio": 2.0}, r"has mlp_ratio 4\.0, this run 2\.0"),
        ({"in_channels": 8}, "has in_channels 4, this run 8"),
        ({"variant": 3}, "has variant 1, this run 3"),
        ({"conditioning": "tokens"}, "has conditioning adaln, this run tokens"),
        ({"learn_sigma": False}, "has learn_sigma True, this run False"),
        ({"num_heads": 5, "hidden_size": 20}, "hidden_size 16 cannot be divided into 5 heads"),
    ],
)
def test_mismatched_shapes_are_rejected(change, say, tmp_path):
    with warnings.catch_warnings(action="ignore"), pytest.raises(CheckpointError, match=rf"DiT\.pt.*{say}"):
        begun(saved(dit(), tmp_path / "DiT.pt"), "abc", **change)


def test_the_published_number_of_heads_is_assumed(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "T", (2, D, 4))
    with warnings.catch_warnings(action="ignore"), pytest.raises(CheckpointError, match="has num_heads 4, this run 2"):
        begun(saved(dit(), tmp_path / "DiT.pt"), "abc")


@torch.no_grad()
def test_a_text_to_video_model_can_start_from_a_pixart(tmp_path, said):
    state = pixart()
    network = t2v(saved({"epoch": 3, "state_dict": state}, tmp_path / "PixArt.pth"))
    x, t, text = torch.randn(1, 4, 4, 4), torch.tensor([321]), torch.randn(1, 5, 8)
    picture = pixart_picture(state, x, t, text)
    assert close(network.transformer(x[None], t, text), picture)
    clip = network.transformer(x[None].expand(1, 3, -1, -1, -1), t, text, temporal=False)
    assert close(clip, picture.expand(1, 3, -1, -1, -1))
    tokens, c = torch.randn(1, 3, 4, D), torch.randn(1, 1, 6 * D)
    for block in network.transformer.blocks[1::2]:
        assert torch.equal(block(tokens, c), tokens) and block.attns[0].qkv.weight.ne(0).all()
    assert "temporal blocks are new and start as identities" in said() and "has no text encoder" in said()


def test_pixart_in_diffusers_names_gives_the_same_weights(tmp_path, said):
    state = pixart()
    sizes = {"csize_embedder.mlp.0.weight": torch.zeros(2, 2), "ar_embedder.mlp.2.bias": torch.zeros(2)}
    networks = [t2v(saved(state | sizes, tmp_path / "PixArt.pth"))]
    assert "of an image's size and aspect ratio are dropped (2 tensors)" in said()
    folder = tmp_path / "PixArt/transformer"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {
        "_class_name": "PixArtTransformer2DModel", "num_layers": 2, "num_attention_heads": HEADS, "sample_size": 64,
        "attention_head_dim": D // HEADS, "caption_channels": 8, "norm_type": "ada_norm_single",
    })  # fmt: skip
    file = folder / "diffusion_pytorch_model.safetensors"
    named = in_diffusers_names(state) | {"adaln_single.emb.resolution_embedder.linear_1.weight": torch.zeros(2, 2)}
    save_file(named, file)
    networks += [t2v(path) for path in (file, folder, folder.parent)]
    assert "position embeddings are recomputed for 4 x 4 latents" in said()
    spatial = [
        {k: v for k, v in network.transformer.state_dict().items() if not k.startswith(("blocks.1.", "blocks.3."))}
        for network in networks
    ]
    assert all(torch.equal(each[k], spatial[0][k]) for each in spatial[1:] for k in spatial[0])


@torch.no_grad()
def test_a_text_to_video_model_for_other_lengths(published, tmp_path, said):
    pipe = load_t2v(published / "transformer")
    encoder = load_t5(published / "text_encoder")
    network = TextToVideo(
        TextToVideoConfig(replace(pipe.config, video_length=3, sample_size=16), encoder.config)
    ).eval()
    init_t2v(network, str(published))
    assert "position embeddings are recomputed for 3 frames" in said() and "for 16 x 16 latents" in said()
    for mine, given in ((network.transformer, pipe), (network.text_encoder, encoder)):
        assert all(torch.equal(a, b.float()) for a, b in zip(mine.parameters(), given.parameters(), strict=True))


def test_captions_of_another_width_get_new_layers(tmp_path, said):
    state = pixart(text=12)
    network = t2v(saved(state, tmp_path / "PixArt.pth"))
    assert network.transformer.caption.fc1.weight.shape == (D, 8)
    assert not torch.equal(network.transformer.caption.fc2.weight, state["y_embedder.y_proj.fc2.weight"])
    assert torch.equal(network.transformer.final_linear.weight, state["final_layer.linear.weight"])
    assert "its captions are 12 wide, this run's 8: the layers that project them start at random" in said()


@pytest.mark.parametrize(
    ("source", "change", "say"),
    [
        (pixart, {"num_layers": 3}, "has num_layers 2, this run 3"),
        (pixart, {"attention_head_dim": 16}, "has attention_head_dim 8, this run 16"),
        (pixart, {"num_attention_heads": 3}, "its width 16 is not 3 equal heads"),
        (pixart, {"out_channels": 4}, "has out_channels 8, this run 4"),
        (dit, {}, r"not the weights of a PixArt-alpha or a LatteT2V: y_embedder\.y_proj\.fc1\.weight is missing"),
        (lambda: {"foo.weight": torch.zeros(2)}, {}, r"pos_embed\.proj\.weight is missing"),
        (lambda: pixart() | {"foo.weight": torch.zeros(2)}, {}, r"'foo\.weight' has no place in the table of names"),
        (lambda: {k: v for k, v in pixart().items() if "blocks.0.mlp" not in k}, {}, "4 tensors missing"),
        (lambda: torn("attn1.to_k.bias", 7), {}, r"blocks\.0\.attns\.0\.q\.bias .* are not 2 heads of one width"),
        (lambda: torn("attn1.to_k.bias", 0), {}, r"blocks\.0\.attns\.0\.q\.bias .* are not 2 heads of one width"),
    ],
)
def test_unsuitable_pixart_weights_are_rejected(source, change, say, tmp_path):
    with warnings.catch_warnings(action="ignore"), pytest.raises(CheckpointError, match=rf"PixArt\.pth.*{say}"):
        t2v(saved(source(), tmp_path / "PixArt.pth"), **change)


def test_training_starts_from_the_given_weights(vae, tmp_path, capsys, recwarn):
    path = str(saved(dit(), tmp_path / "DiT.pt"))
    words = [
        "train",
        "--config",
        "shapes",
        "--run",
        str(tmp_path / "run"),
        *TINY,
        f"vae={vae}",
        f"init={path}",
        "steps=1",
        "learning_rate=0",
    ]
    assert main([*words, "model.depth=4"]) == 2
    assert "has depth 2, this run 4" in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "run").exists()
    assert main(words) == 0
    output = capsys.readouterr()
    assert output.out.count("init: ") == 1 and "warning: init: " in output.err
    trained = load_file(tmp_path / "run/final/model.safetensors")
    assert torch.equal(trained["blocks.1.mlp.fc1.weight"], dit()["blocks.1.mlp.fc1.weight"])
    given = saved(pixart(1), tmp_path / "PixArt.pth")
    final = run(small_t2v(vae, f"init={given}", "steps=1", "warmup=1", "learning_rate=0"), tmp_path / "t2v")
    assert len(recwarn.list) == 3  # the temporal blocks, the last layer, the text encoder
    trained = load_file(final / "transformer/model.safetensors")
    assert torch.equal(trained["blocks.0.mlp.fc1.weight"], pixart(1)["blocks.0.mlp.fc1.weight"])
    with pytest.raises(CheckpointError, match="is a text-to-video model: a Latte can start from a Latte or a DiT"):
        run(small(vae, f"init={final}"), tmp_path / "other")
