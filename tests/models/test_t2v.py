"""LatteT2V and the T5 encoder against values recorded from diffusers and transformers: tests/goldens/README.md."""

import copy
import math

import pytest
import torch
from goldens import Golden, relative_error

from latte.models.latte_t2v import LatteT2V, LatteT2VConfig
from latte.models.t5 import T5Config, T5Encoder, clamp_overflow
from latte.weights.convert_t2v import t2v_config, t2v_state, t5_state


@pytest.fixture
def golden():
    return Golden("t2v_transformer")


@pytest.fixture
def model(golden):
    config = t2v_config(golden.config)
    model = LatteT2V(config)
    model.load_state_dict(t2v_state(golden.weights, config))
    return model.eval()


@torch.no_grad()
def out_of(model, golden, frames=4, **options):
    x = golden.inputs["x"].transpose(1, 2)[:, :frames]
    return model(x, golden.inputs["t"], golden.inputs["text"], **options).transpose(1, 2)


def test_forward_of_the_published_model(model, golden):
    assert relative_error(out_of(model, golden), golden.outputs["out"]) < 1e-5
    assert relative_error(out_of(model, golden, frames=1), golden.outputs["out_one_frame"]) < 1e-5
    assert relative_error(out_of(model, golden, temporal=False), golden.outputs["out_no_temporal"]) < 1e-5


@pytest.mark.parametrize(("sample_size", "stretch"), [(4, 1), (64, 1), (126, 1), (128, 2), (200, 3)])
def test_positions_of_large_latents_are_stretched(sample_size, stretch):
    """As in PixArt-alpha: patch i of n is at i (sample_size / patch / n) / stretch, stretch = sample_size // 64 > 0."""
    shape = {
        "num_layers": 2,
        "num_attention_heads": 1,
        "attention_head_dim": 8,
        "caption_channels": 4,
        "video_length": 1,
    }
    model = LatteT2V(LatteT2VConfig(sample_size=sample_size, **shape))
    found = model.spatial_position(torch.zeros(1), 3, 5)
    for row in range(3):
        for column in range(5):
            places = [sample_size / 2 / n / stretch * i for i, n in ((column, 5), (row, 3))]
            angles = [place / 10000 ** (k / 2) for place in places for k in range(2)]
            expected = [math.sin(a) for a in angles[:2]] + [math.cos(a) for a in angles[:2]]
            expected += [math.sin(a) for a in angles[2:]] + [math.cos(a) for a in angles[2:]]
            torch.testing.assert_close(found[row * 5 + column], torch.tensor(expected), rtol=0, atol=1e-4)


def test_published_size_has_the_published_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in LatteT2V(LatteT2VConfig()).parameters()) == 1_057_246_880
        assert sum(p.numel() for p in T5Encoder(T5Config()).parameters()) == 4_762_310_656


def test_padding_is_not_attended_to(model, golden):
    text = golden.inputs["text"]
    mask = torch.ones(2, 7)
    mask[:, 5:] = 0
    cut = dict(golden.inputs, text=text[:, :5])
    other = torch.cat([text[:, :5], torch.randn(2, 2, 32)], 1)
    x, t = golden.inputs["x"].transpose(1, 2), golden.inputs["t"]
    with torch.no_grad():
        short, padded = model(x, t, cut["text"]), model(x, t, other, mask)
    assert relative_error(padded, short) < 1e-5
    assert relative_error(out_of(model, golden, mask=torch.ones(2, 7)), golden.outputs["out"]) < 1e-5


def test_still_images_match_being_denoised_alone(model, golden):
    """Joint training: a still image is denoised as a picture that skips the temporal blocks, the clip as if alone."""
    x, t, text = golden.inputs["x"].transpose(1, 2), golden.inputs["t"], golden.inputs["text"]
    texts = torch.stack([text, text.flip(1), text.flip(0)], 1)
    with torch.no_grad():
        joint = model(x, t, texts, num_images=2)
        assert relative_error(joint[:, :2], model(x[:, :2], t, text)) < 1e-5
        for i in (1, 2):
            alone = model(x[:, 1 + i : 2 + i], t, texts[:, i], temporal=False)
            assert relative_error(joint[:, 1 + i : 2 + i], alone) < 1e-5


def test_checkpointed_gradients_are_the_same(model, golden):
    grads = []
    for again in (False, True):
        model.train().gradient_checkpointing = again
        model.zero_grad()
        x = golden.inputs["x"].transpose(1, 2)
        model(x, golden.inputs["t"], golden.inputs["text"]).square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads))


def test_compiles_without_graph_breaks(model, golden):
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert relative_error(out_of(compiled, golden), golden.outputs["out"]) < 1e-5


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({"text": torch.zeros(2, 7, 16)}, "text has shape"),
        ({"text": torch.zeros(1, 7, 32)}, "text has shape"),
        ({"mask": torch.ones(2, 6)}, "mask has shape"),
        ({"num_images": 4}, "num_images is 4 of 4 frames; it must be less"),
        ({"t": torch.zeros(3)}, "timesteps have shape"),
        ({"x": torch.zeros(2, 4, 4, 8, 7)}, "cannot be cut into patches"),
        ({"x": torch.zeros(2, 4, 3, 8, 8)}, "latents have shape"),
    ],
)
def test_wrong_shapes_are_rejected(change, say, model, golden):
    x, t, text = golden.inputs["x"].transpose(1, 2), golden.inputs["t"], golden.inputs["text"]
    with pytest.raises(ValueError, match=say):
        model(**{"x": x, "t": t, "text": text, **change})


def test_mismatched_checkpoints_and_configurations_are_rejected(golden):
    config = t2v_config({**golden.config, "_class_name": "LatteTransformer3DModel", "num_vector_embeds": None})
    assert t2v_state({**golden.weights, "caption_projection.y_embedding": torch.zeros(3)}, config)
    lone = {name: tensor for name, tensor in golden.weights.items() if name != "transformer_blocks.0.attn2.to_v.bias"}
    with pytest.raises(ValueError, match=r"blocks\.0\.cross\.v\.bias is missing"):
        t2v_state(lone, config)
    for name in ("transformer_blocks.0.attn3.to_q.weight", "transformer_blocks.0.scale_shift_table.weight", "odd"):
        with pytest.raises(ValueError, match="has no place"):
            t2v_state({name: torch.zeros(1)}, config)
    with pytest.raises(ValueError, match="norm_type is 'ada_norm'"):
        t2v_config({"norm_type": "ada_norm"})
    with pytest.raises(ValueError, match="norm_eps is 1e-05"):
        t2v_config({"norm_eps": 1e-5})
    with pytest.raises(ValueError, match="feed_forward_proj is 'relu'"):
        T5Config.from_dict({"feed_forward_proj": "relu"})
    for wrong in ({"num_layers": 0}, {"out_channels": 5}, {"attention_head_dim": 3, "num_attention_heads": 1}):
        with pytest.raises(ValueError, match="LatteT2VConfig: "):
            LatteT2VConfig(**wrong)


@pytest.fixture
def text():
    return Golden("t5_encoder")


@pytest.fixture
def encoder(text):
    encoder = T5Encoder(T5Config.from_dict(text.config))
    encoder.load_state_dict(t5_state(text.weights))
    return encoder.eval()


def test_t5_encoder(encoder, text):
    ids, mask = text.inputs["ids"], text.inputs["mask"]
    with torch.no_grad():
        assert relative_error(encoder(ids, mask), text.outputs["out"]) < 1e-5
        length = int(mask[0].sum())
        alone = encoder(ids[:1, :length])
    assert relative_error(alone, text.outputs["out"][:1, :length]) < 1e-5


def test_t5_in_half_precision_keeps_its_last_projection_in_float32(encoder, text):
    casts = [lambda e: e.to(torch.bfloat16), lambda e: e.to("cpu", torch.float16), lambda e: e.half()]
    for half in (cast(copy.deepcopy(encoder)) for cast in casts):
        for (name, tensor), reference in zip(half.state_dict().items(), encoder.state_dict().values()):
            assert torch.equal(tensor, reference) == (".wo." in name)
    with torch.no_grad():
        out = half(text.inputs["ids"], text.inputs["mask"])
    keep = text.inputs["mask"].bool()
    assert out.dtype == torch.float16 and relative_error(out[keep].float(), text.outputs["out"][keep]) < 1e-2


def test_configurations_of_absurd_size_are_refused():
    with pytest.raises(ValueError, match="num_layers is 1000000; it must be from 1 to 500"):
        T5Config(num_layers=1_000_000)
    assert LatteT2VConfig(video_length=16, sample_size=2048).video_length == 16
    with pytest.raises(ValueError, match="make 67174416 values, which are too many"):
        LatteT2VConfig(video_length=16, sample_size=2049, patch_size=1)


def test_initial_weights():
    """Their standard deviations: Xavier's sqrt(2 / (in + out)), PixArt-alpha's 0.02, and those of T5's code."""
    torch.manual_seed(0)
    shape = {"num_attention_heads": 8, "attention_head_dim": 16, "caption_channels": 96, "sample_size": 4}
    model = LatteT2V(LatteT2VConfig(num_layers=1, **shape))
    model.init_weights()
    spatial, temporal = model.blocks
    deviations = {  # of a weight: (in, out) of a layer, or the deviation itself
        **dict.fromkeys((model.time.mlp[0], model.time.mlp[2], model.time_modulation, model.caption.fc1), 0.02),
        **dict.fromkeys((spatial.cross.proj, model.final_linear), 0.0),
        **dict.fromkeys((spatial.attns[0].qkv, temporal.attns[0].qkv), (128, 384)),
        spatial.attns[0].proj: (128, 128),
        spatial.cross.kv: (128, 256),
        temporal.mlp.fc2: (512, 128),
        model.patch_embed: (16, 128),
    }
    for layer, found in deviations.items():
        expected = math.sqrt(2 / sum(found)) if isinstance(found, tuple) else found
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05) and not layer.bias.any()
    for table in (spatial.modulation.table, temporal.modulation.table, model.final_modulation.table):
        assert table.std().item() == pytest.approx(128**-0.5, rel=0.15)
    encoder = T5Encoder(T5Config(500, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_heads=32))
    encoder.init_weights()
    (block,) = encoder.blocks
    deviations = {encoder.tokens: 1, encoder.distance: 1 / 8, block.q: 1 / 32, block.k: 1 / 8, block.v: 1 / 8}
    deviations |= {block.wi_0: 1 / 8, block.wi_1: 1 / 8, block.o: 512**-0.5, block.wo: 96**-0.5}
    for layer, expected in deviations.items():
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.06)


def test_a_tied_embedding_must_be_tied():
    rows = torch.randn(4, 2)
    assert torch.equal(t5_state({"encoder.embed_tokens.weight": rows})["tokens.weight"], rows)
    assert t5_state({"shared.weight": rows, "encoder.embed_tokens.weight": rows.clone()}).keys() == {"tokens.weight"}
    with pytest.raises(ValueError, match=r"encoder\.embed_tokens\.weight is not shared\.weight"):
        t5_state({"shared.weight": rows, "encoder.embed_tokens.weight": rows + 1})


def test_overflowing_values_are_clamped_in_half_precision():
    x = torch.tensor([1.0, float("inf"), -float("inf"), 65000.0]).half()
    assert clamp_overflow(x).tolist() == [1.0, 64512.0, -64512.0, 64512.0]
    calm = torch.tensor([1.0, 65000.0]).half()
    assert torch.equal(clamp_overflow(calm), calm) and torch.equal(clamp_overflow(x.float()), x.float())
