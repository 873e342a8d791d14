"""Training of text-to-video models: the inputs of a step, resuming, and sampling from the result."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file
from small_runs import run, same, small_t2v, tensors

from latte import LattePipeline
from latte.cli import main
from latte.models.latte_t2v import TextToVideo, TextToVideoConfig
from latte.shapes.draw import COLOURS, MOTIONS, PHRASES, SHAPES, is_held_out, make_clip
from latte.train.data.folders import open_clips
from latte.train.objectives import OBJECTIVES, Captioned, objective
from latte.video.write import write_video


def test_a_resumed_run_is_bit_exact_and_can_be_sampled(vae, tmp_path):
    whole = run(small_t2v(vae), tmp_path / "whole")
    run(small_t2v(vae), tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts/checkpoints/step-0000012")
    run(small_t2v(vae), tmp_path / "parts")
    a, b = (tensors(tmp_path / name / "checkpoints/step-0000012") for name in ("whole", "parts"))
    assert same(a, b) and any(key.startswith("ema.text_encoder.") for key in a)
    pipe = LattePipeline.from_pretrained(tmp_path / "whole")
    frames = pipe(["a red star moving left", "a cyan circle growing"], num_inference_steps=2, progress=False).frames
    assert len(frames) == 2 and len(frames[0]) == 4 and frames[0][0].size == (16, 16)
    assert pipe.transformer.config.prediction == "v" and whole == tmp_path / "whole/final"
    words = ["sample", str(tmp_path / "whole"), "--prompt", "a red star", "--num-sampling-steps=2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0 and (tmp_path / "out/000-a-red-star.mp4").is_file()


def test_transformer_and_text_encoder_both_learn(vae, tmp_path):
    first, last = (tensors(run(small_t2v(vae, f"steps={n}"), tmp_path / str(n)).parent / "checkpoints" / name)
                   for n, name in ((1, "step-0000001"), (12, "step-0000012")))  # fmt: skip
    moved = [key for key in first if key.startswith("model.") and not torch.equal(first[key], last[key])]
    assert len(moved) == sum(key.startswith("model.") for key in first)


CHANGES = {
    "caption_dropout": 0.9,
    "text_encoder": "{d_model: 8, d_kv: 4, d_ff: 32, num_layers: 1, num_heads: 2}",
    "seed": 1,
    "model.prediction": "eps",
    "num_images": 2,
}


@pytest.mark.parametrize("name", CHANGES)
def test_settings_change_the_run(name, vae, tmp_path):
    run(small_t2v(vae, "steps=3"), tmp_path / "a")
    run(small_t2v(vae, "steps=3", f"{name}={CHANGES[name]}"), tmp_path / "b")
    a, b = (load_file(tmp_path / run / "final/transformer/model.safetensors") for run in "ab")
    assert not same(a, b)


def test_the_conditions_of_a_step(vae):
    config = small_t2v(vae, "num_images=1", "clips=40")
    loss = Captioned(open_clips(config), config)
    some = loss.clips.captions
    captions, labels = [[some[0], some[3]], [some[5], some[1]]], torch.zeros(2, 2, dtype=torch.long)
    condition = loss.condition(None, labels, captions, torch.tensor([[False, True], [True, False]]))
    pieces = loss.tokenizer.pieces
    read = lambda row: pieces.decode([i for i in row.tolist() if i > 1])
    assert [[read(row) for row in rows] for rows in condition["ids"]] == [[some[0], ""], ["", some[1]]]
    assert condition["encoder_mask"][0, 1].sum() == 1 and condition["mask"][0, 1].equal(loss.mask[3])


def test_an_images_caption_affects_only_that_image(vae):
    config = small_t2v(vae, "num_images=2")
    loss = Captioned(open_clips(config), config)
    network = loss.network().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, t, own = torch.randn(1, 6, 4, 2, 2), torch.tensor([500]), torch.ones(1, 3, 5, dtype=torch.long)
    ids = torch.randint(2, 20, (1, 3, 5))
    other = ids.clone()
    other[0, 2] = other[0, 2] % 18 + 2
    with torch.no_grad():
        a, b = (network(x, t, z, own, own, 2) for z in (ids, other))
    changed = [not torch.allclose(a[:, i], b[:, i], atol=1e-6) for i in range(6)]
    assert changed == [False] * 5 + [True]


def test_some_combinations_are_held_out(vae):
    clips = open_clips(small_t2v(vae, "clips=300"))
    everything = {f"a {c} {s} {PHRASES[m]}" for m in MOTIONS for s in SHAPES for c in COLOURS}
    apart = {clip.caption for clip in (make_clip(0, i, window=slice(0)) for i in range(3000)) if is_held_out(clip)}
    assert len(apart) == 24 and apart < everything
    assert len(clips.captions) > 120 and not apart & set(clips.captions)
    assert clips.clip(7, torch.Generator()).caption == make_clip(0, clips.numbers[7]).caption


def test_a_folder_of_captioned_videos(vae, tmp_path):
    video = torch.randint(0, 255, (6, 3, 16, 16), dtype=torch.uint8)
    for name, caption in (("a", "A dog runs\n"), ("b", "a cat sleeps"), ("c", None)):
        write_video(video, tmp_path / f"videos/{name}.mp4")
        if caption:
            (tmp_path / f"videos/{name}.txt").write_text(caption)
    config = small_t2v(vae, f"data={tmp_path / 'videos'}")
    missing = (
        r"videos: {} of 3 videos ha\w+ no caption, such as .*{}\.mp4: write it to {}\.txt beside it, or to caption"
    )
    with pytest.warns(UserWarning, match=missing.format(1, "c", "c") + r"s\.json; it is left out") as caught:
        clips = open_clips(config)
    assert len(caught) == 1
    with pytest.raises(ValueError, match=r"2 of 3 videos have fewer than the 31 frames"):
        open_clips(replace(config, num_frames=4, frame_interval=10))  # the reason is the length, not the caption
    assert clips.captions == ["A dog runs", "a cat sleeps"]
    assert [clips.clip(i, torch.Generator())[2] for i in range(4)] == clips.captions * 2
    before = clips.fingerprint
    (tmp_path / "videos/b.txt").write_text("a cow sleeps")
    with pytest.warns(UserWarning):
        assert open_clips(config).fingerprint != before
    for name in "ab":
        (tmp_path / f"videos/{name}.txt").unlink()
        with pytest.raises(ValueError, match=missing.format(2 if name == "a" else 3, "[ac]", "[ac]")):
            open_clips(config)


def test_invalid_settings_are_refused(vae, tmp_path, capsys):
    for change, say in (
        ("model.caption_channels=4", "follows from text_encoder.d_model"),
        ("text_encoder.d_modle=4", "did you mean 'd_model'"),
        ("caption_dropout=2", "caption_dropout is 2"),
        ("text_encoder.vocab_size=9", "vocab_size follows from the captions"),
        ("kl_weight=1", "unknown key 'kl_weight' for kind=t2v: it is a setting of kind=vae"),
        ("model.patch_size=4", "cannot be cut into patches of 4 x 4"),
    ):
        with pytest.raises(ValueError, match=say):
            run(small_t2v(vae, change), tmp_path / "run")
    config = Captioned(open_clips(small_t2v(vae)), small_t2v(vae)).network().config
    assert TextToVideoConfig.from_dict(asdict(config)) == config
    for values in ({"transformer": asdict(config.transformer)}, {"transformer": 1, "text_encoder": 2}):
        with pytest.raises(ValueError, match="transformer and text_encoder, each a table"):
            TextToVideoConfig.from_dict(values)
    with pytest.raises(ValueError, match="text encoder's d_model is 8"):
        TextToVideo(TextToVideoConfig(type(config.transformer)(caption_channels=4), config.text_encoder))


def test_training_can_start_from_another_runs_weights_and_vocabulary(vae, tmp_path):
    first = run(small_t2v(vae), tmp_path / "first")
    other = run(small_t2v(vae, f"init={first}", "steps=1", "learning_rate=0", "seed=3"), tmp_path / "other")
    for name in ("transformer/model.safetensors", "text_encoder/model.safetensors", "tokenizer/spiece.model"):
        assert (first / name).read_bytes() == (other / name).read_bytes()


def test_a_resumed_run_keeps_its_vocabulary_under_any_objective(vae, tmp_path, monkeypatch):
    run(small_t2v(vae, "steps=1", "clips=40"), tmp_path / "first")
    config = small_t2v(vae, f"init={tmp_path / 'first'}", "clips=12")
    run(config, tmp_path / "run")
    monkeypatch.setitem(OBJECTIVES, "t2v", type("Varied", (Captioned,), {}))
    resumed = objective(open_clips(config), config, torch.device("cpu"), tmp_path / "run")
    assert resumed.tokenizer.vocabulary == (tmp_path / "run/tokenizer/spiece.model").read_bytes()


def test_an_unfinished_run_behaves_as_if_it_ended_at_its_checkpoint(vae, tmp_path, capsys):
    final = run(small_t2v(vae, "steps=3"), tmp_path / "run")
    sample = lambda model: LattePipeline.from_pretrained(model)("a red star", num_inference_steps=2, output_type="pt")
    whole = sample(final).frames
    done = shutil.move(final, tmp_path / "ended")
    assert torch.equal(sample(tmp_path / "run").frames, whole) and whole.std() > 0
    checkpoint = tmp_path / "run/checkpoints/step-0000003"
    words = ["sample", str(checkpoint), "--prompt", "a red star", "--num-sampling-steps", "2", "--device", "cpu"]
    assert main([*words, "--dtype", "bfloat16", "--memory", "low", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/000-a-red-star.mp4").is_file()
    begun = [
        run(small_t2v(vae, f"init={model}", "steps=1"), tmp_path / f"of-{model.name}") for model in (checkpoint, done)
    ]
    for name in ("transformer/model.safetensors", "text_encoder/model.safetensors", "tokenizer/spiece.model"):
        assert (begun[0] / name).read_bytes() == (begun[1] / name).read_bytes()
    assert main(["convert", str(checkpoint), str(tmp_path / "converted")]) == 0
    run(small_t2v(vae, "steps=3"), tmp_path / "run")
    names = [path.relative_to(done) for path in sorted(done.rglob("*")) if path.is_file()]
    assert [path.relative_to(final) for path in sorted(final.rglob("*")) if path.is_file()] == names
    for name in names:
        assert (final / name).read_bytes() == (done / name).read_bytes()
        own = name.name in ("trained.json", "README.md")
        assert own or (tmp_path / "converted" / name).read_bytes() == (done / name).read_bytes()


def test_an_untrained_model_scores_low_in_evaluation(vae, tmp_path, capsys):
    model = run(small_t2v(vae, "steps=1", "num_frames=8"), tmp_path / "run")
    words = ["eval", str(model), "--num-videos", "20", "--num-sampling-steps", "2", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "scores.json")]) == 0
    report = json.loads((tmp_path / "scores.json").read_text())
    scores, apart = report["scores"], sum(is_held_out(make_clip(report["real_seed"], i)) for i in range(20))
    assert {name: values["clips"] for name, values in scores.items()} == {
        "real clips": 20, "VAE reconstructions": 20, "samples": 20, "unseen": apart,
    }  # fmt: skip
    assert scores["samples"]["all_right"] == 0 and scores["real clips"]["trajectory_error"] < 1
    assert "shape_accuracy" in capsys.readouterr().out
    assert main([*words, "--weights", "model"]) == 2 and "--weights does nothing" in capsys.readouterr().err
