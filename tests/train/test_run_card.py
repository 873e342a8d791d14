"""The model card of a training result."""

from types import SimpleNamespace

import torch
from small_runs import run, small

from latte.cli import main
from latte.models.latte import Latte, LatteConfig
from latte.models.latte_t2v import LatteT2V, LatteT2VConfig, TextToVideo, TextToVideoConfig
from latte.models.t5 import T5Config
from latte.train.resolve import resolve
from latte.train.run_card import described, named, settings_shown
from latte.weights.model_card import CARD, INSTALL, ModelCard, card_text


def test_a_card_describes_how_the_model_was_trained(vae, tmp_path, monkeypatch):
    words = ["num_frames=8", "eval_every=2", "eval_clips=3"]
    final = run(small(vae, *words, "steps=1"), tmp_path / "run")
    assert "## Scores\n\nThe model was not evaluated during training (`eval_every`)." in (final / CARD).read_text()
    run(small(vae, *words, "steps=2", "learning_rate=0.002"), tmp_path / "run", asked=["learning_rate"])
    card = (final / CARD).read_text()
    assert card.startswith("---\nlibrary_name: latte-video\ntags:\n- latte\n- video-generation\n---\n\n")
    assert "A class-conditional [Latte](https://arxiv.org/abs/2401.03048) with 15.6 k parameters, " in card
    assert f"for videos of 8 frames of 16 x 16 pixels.\n\n## Use\n\n```\n{INSTALL}\nlatte sample .\n" in card
    assert "| data | shapes |\n| videos | " in card and "| classes | left, right, up, down," in card
    assert "| global_batch_size | 4 |" in card and f"| vae | {vae.name} |" in card and "| model.depth | 2 |" in card
    assert "| after step 1 | learning_rate from 0.0" in card and "to 0.002, steps from 1 to 2 |" in card
    assert "| step | 2 |\n| shapes_distance | " in card.split("## Scores")[1]
    assert str(tmp_path) not in card and "log_every" not in card
    monkeypatch.chdir(final)
    words = ["--classes", "up", "--num-videos", "1", "--steps", "1", "--device", "cpu", "--out", str(tmp_path / "made")]
    assert main(["sample", ".", *words]) == 0 and (tmp_path / "made/000-up.mp4").is_file()


def test_a_card_shows_relative_paths_and_the_end_of_absolute_ones():
    paths = {"runs/folder-vae/final": "runs/folder-vae/final", "data/videos": "data/videos", "shapes": "shapes"}
    paths |= {"/home/me/runs/folder-vae/final": "folder-vae/final", "/home/me/videos": "videos"}
    for path, shown in paths.items():
        config = resolve("folder", [f"vae={path}", f"data={path}"])
        assert settings_shown(config)["vae"] == named(config.data) == shown


def test_each_kind_has_its_own_command(tiny_vae):
    """Without training: the sentence and the command depend only on the network and the captions."""
    captioned = SimpleNamespace(
        config=resolve("shapes-t2v", ["vae=vae"]), clips=SimpleNamespace(captions=["a  cat's\nrun"])
    )
    with torch.device("meta"):
        cfg = dict(num_layers=1, num_attention_heads=2, attention_head_dim=8, caption_channels=8)
        transformer = LatteT2V(LatteT2VConfig(**cfg))
        both = TextToVideo(TextToVideoConfig(transformer.config, T5Config(d_model=8, d_kv=4, d_ff=16, num_layers=1)))
    summary, use, task = described(both, captioned)
    assert use == ["""latte sample . --prompt 'a cat'"'"'s run'"""] and task == "text-to-video"
    assert summary.endswith("for videos of 16 frames of 64 x 64 pixels.")
    summary, use, task = described(transformer, captioned)
    assert use == ["""latte sample . --text-encoder FOLDER --prompt 'a cat'"'"'s run'"""] and task == "text-to-video"
    captioned.clips.text_encoder = {"name": "Latte-1", "sha256": "0"}
    assert described(transformer, captioned)[1][0].startswith("latte sample . --text-encoder Latte-1 --prompt ")
    assert "embeddings of captions" in summary
    summary, use, task = described(tiny_vae.model, captioned)
    assert use == ["latte train --config folder --run runs/mine data=VIDEOS vae=."] and not task
    latte = Latte(LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=8, num_classes=0))
    assert described(latte, captioned)[0].startswith("An unconditional [Latte]")
    assert described(torch.nn.Linear(1, 1), captioned)[1] == ["latte bench features ."]
    assert "\n## Use\n" not in card_text(ModelCard(summary, []))
