"""`latte sample` and `latte eval` on a class-conditional model: output, untouched files, and invalid arguments."""

import json
import os
import re
import shlex
import sys
import types
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from awake_models import awake_pipeline, write_model

import latte
from latte import LattePipeline, __main__
from latte.cli import main
from latte.commands import sample, sampling_options
from latte.commands.options.sampling import sample_options, sample_parser
from latte.commands.sample import other_seed, show
from latte.commands.sampling_options import default_batch_size
from latte.eval.exam import score_model
from latte.sample_record import RECORD
from latte.shapes.draw import MOTIONS
from latte.shapes.examiner import examine
from latte.video.read import read_video
from latte.weights.load import save_model
from latte.weights.manifest import digest
from latte.weights.vae_folder import save_vae


@pytest.fixture(scope="module")
def pipe():
    return awake_pipeline(len(MOTIONS), list(MOTIONS))


@pytest.fixture(scope="module")
def unconditional():
    return awake_pipeline()


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    return write_model(pipe, tmp_path_factory.mktemp("model"))


SAMPLE = ["--num-sampling-steps", "2", "--num-videos", "1", "--device", "cpu"]


@pytest.mark.parametrize(
    ("frames", "page", "many"),
    [(None, 4, 16), (64, 4, 16), (256, 1, 4), (1024, 1, 1)],  # of 4 tokens each
)
def test_videos_at_once_by_default(frames, page, many, pipe):
    words = {"num_frames": frames, "height": 16, "width": 16}
    assert default_batch_size(pipe, Namespace(count=None, **words)) == page
    assert default_batch_size(pipe, Namespace(count=9, **words)) == many
    assert default_batch_size(pipe, Namespace(count=None)) == 4  # for a command without size options


def test_the_command_writes_the_pipelines_videos(folder, pipe, tmp_path, capsys):
    words = ["sample", str(folder), "--out", str(tmp_path), *SAMPLE]
    assert main([*words, "--classes", "0", "1", "left"]) == 0
    assert main([*words, "--classes", "left", "7"]) == 2  # never overwrites without --overwrite
    assert "holds videos of an earlier call: choose another --out, or add --overwrite" in capsys.readouterr().err
    assert len(list(tmp_path.glob("*.mp4"))) == 3
    assert main([*words, "--overwrite", "--classes", "left", "7"]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"000-left.mp4", "001-shrinking.mp4", "contact-sheet.png", "grid.webp", "index.html"}
    said = capsys.readouterr().out
    assert "2 videos of 4 x 16 x 16" in said and digest(folder / "model.safetensors") in said and "next:" in said
    assert "latte train" not in said  # it is a model of the user's
    page = (tmp_path / "index.html").read_text()
    assert set(re.findall(r'src="([^"]+)"', page)) >= {"000-left.mp4", "001-shrinking.mp4"}
    videos = pipe([0, 7], num_inference_steps=2, batch_size=4, output_type="uint8").frames
    for name, video in zip(sorted(names), videos):
        written, video = read_video(tmp_path / name)[0].float(), video.float()
        assert (written - video).square().mean() < (written.flip(0) - video).square().mean()
        assert (written - video).abs().mean() < 12
    assert len(read_video(tmp_path / "grid.webp")[0]) == 4


def test_weights_in_half_precision(folder, tmp_path, capsys):
    """Both model and VAE are converted."""
    made, words = {}, ["sample", str(folder), "--num-sampling-steps", "2", "--device", "cpu"]
    for dtype in ("float32", "bfloat16"):
        out = tmp_path / dtype
        assert main([*words, "--n", "2", "--out", str(out), "--dtype", dtype]) == 0
        made[dtype] = torch.stack([read_video(path)[0].float() for path in sorted(out.glob("*.mkv"))])
        assert json.loads((out / RECORD).read_text())["dtype"] == dtype
    apart = (made["float32"] - made["bfloat16"]).abs().mean()
    assert 0 < apart < 8 and apart < (made["float32"] - made["float32"].flip(0)).abs().mean()
    assert main([*words, "--num-videos", "1", "--out", str(tmp_path / "page"), "--dtype", "bfloat16"]) == 0
    again = ["--out", f"{tmp_path / 'page'}-2", "--num-videos", "1", "--num-sampling-steps", "2", "--seed", "1"]
    again = shlex.join(["latte", "sample", str(folder), *again, "--dtype", "bfloat16", "--device", "cpu"])
    assert capsys.readouterr().out.endswith(f"; {again}\n")


def values(words):
    """The options of `latte sample` by name, apart from the arguments themselves."""
    return {name: value for name, value in vars(sample_options(words)).items() if name != "given"}


def test_the_next_command_changes_only_the_seed_and_the_folder(tmp_path):
    words = ["shapes", "--classes", "0", "left", "--steps", "20", "--num-videos", "1", "--cfg-scale", "2.5"]
    words += ["--cfg-interval", "0", "900.5", "--plan", "network:9", "--dtype", "bfloat16", "--sampler", "ddim"]
    words += ["--eta", "0.5", "--seed", "6", "--guidance-method", "apg", "--guidance-options", "momentum=-0.5"]
    words += ["--fps", "12", "--vae", "a vae", "--device", "cpu"]
    assert values(other_seed(sample_options(words))) == values(words) | {"seed": 7}
    out = tmp_path / "my videos"
    (out / "index.html").mkdir(parents=True)
    words += ["--out", str(out)]
    assert values(other_seed(sample_options(words))) == values(words) | {"seed": 7, "out": tmp_path / "my videos-2"}
    words += ["--overwrite"]
    assert values(other_seed(sample_options(words))) == values(words) | {"seed": 7}
    (tmp_path / "prompts.txt").write_text("a red star\na blue dot")
    words = ["--prompts", str(tmp_path / "prompts.txt"), "--negative-prompt=-blurry", "--pab", "spatial=2", "cross=3"]
    assert values(other_seed(sample_options(words))) == values(words) | {"seed": 1}


def test_arguments_are_written_as_they_were_parsed():
    for words in (
        ["shapes-t2v", "--prompt", "a star, version 2.0", "a dot", "--negative-prompt=-blurry", "--pab", "spatial=2"],
        ["--num-frames", "4", "--cfg-scale", "-1.5", "--eta", "1e-07", "--memory", "low", "--download"],
    ):
        parser = sample_parser()
        assert parser.parse_args(parser.words(parser.parse_args(words))) == parser.parse_args(words)


def test_a_slow_dtype_is_reported_once(folder, tmp_path, monkeypatch, capsys):
    for factor, said in ((28.4, 1), (1.2, 0)):
        monkeypatch.setattr(sampling_options, "slowdown", lambda *of, z=factor: z)
        for dtype in ("bfloat16", "float32"):
            words = ["--classes", "0", "--out", str(tmp_path / f"{dtype}-{said}"), *SAMPLE]
            assert main(["sample", str(folder), *words, "--dtype", dtype]) == 0
            line = f"warning: --dtype {dtype} is 28 times as slow as float32 here: leave it out\n"
            assert capsys.readouterr().err.count(line) == (said if dtype == "bfloat16" else 0)


def test_nothing_of_others_is_replaced(folder, tmp_path, capsys):
    words = ["sample", str(folder), "--out", str(tmp_path), *SAMPLE, "--classes", "0"]
    (tmp_path / "index.html").write_text('<video src="000-holiday.mp4">')
    (tmp_path / "000-holiday.mp4").write_text("mine")
    assert main(words) == 2
    assert "was not written by this command" in capsys.readouterr().err
    (tmp_path / "index.html").unlink()
    assert main(words) == 2  # training, for instance, would read its videos as data
    assert f"{tmp_path} holds other files, and no page of this command: choose an" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["000-holiday.mp4"]
    (tmp_path / "000-holiday.mp4").unlink()
    (tmp_path / ".notes").touch()
    assert main(words) == 0
    page = tmp_path / "index.html"
    page.write_text(page.read_text() + '<video src="holiday.mp4">')
    for name in ("holiday.mp4", "000-holiday.mp4"):  # beside a page, other files stay
        (tmp_path / name).write_text("mine")
    assert main([*words, "--overwrite"]) == 0
    assert {"holiday.mp4", "000-holiday.mp4", "000-left.mp4"} < {path.name for path in tmp_path.iterdir()}


def test_a_bundled_model_is_followed_by_training(tmp_path, capsys):
    words = ["--classes", "left", *SAMPLE, "--num-frames", "1", "--out", str(tmp_path / "out")]
    assert main(["sample", "shapes", *words]) == 0
    assert capsys.readouterr().out.endswith("; latte train --help\n")


def test_each_call_gets_a_folder_of_its_own(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples-2").mkdir()
    (tmp_path / "samples-2/notes.txt").write_text("mine")
    for name in ("samples", "samples-3"):
        assert main(["sample", str(folder), *SAMPLE, "--classes", "0"]) == 0
        assert f"in {name}:" in capsys.readouterr().out and (tmp_path / name / "000-left.mp4").is_file()
    assert os.listdir("samples-2") == ["notes.txt"]
    assert main(["sample", str(folder), *SAMPLE, "--overwrite"]) == 2
    assert "--overwrite replaces the page of an earlier call in --out" in capsys.readouterr().err
    monkeypatch.setattr(sample, "free_folder", lambda: Path("samples"))  # as if two calls had chosen the same folder
    assert main(["sample", str(folder), *SAMPLE, "--classes", "0"]) == 2
    assert "samples holds videos of an earlier call" in capsys.readouterr().err


def test_the_grid_has_the_first_of_many(tmp_path):
    page = show(torch.zeros(70, 2, 3, 16, 16, dtype=torch.uint8), ["a"] * 70, tmp_path, 8, {})
    assert page.read_text().count("<figure>") == 70
    assert read_video(tmp_path / "grid.webp")[0].shape == (2, 3, 128, 128)
    show(torch.zeros(5, 2, 3, 16, 4096, dtype=torch.uint8), ["a"] * 5, tmp_path, 8, {})
    assert read_video(tmp_path / "grid.webp")[0].shape == (2, 3, 32, 2 * 4096)


def test_a_video_is_bit_identical_alone_or_in_a_batch(folder, tmp_path):
    for out, classes in (("one", ["0"]), ("two", ["0", "1"])):
        assert main(["sample", str(folder), "--out", str(tmp_path / out), *SAMPLE, "--classes", *classes]) == 0
    assert (tmp_path / "one/000-left.mp4").read_bytes() == (tmp_path / "two/000-left.mp4").read_bytes()


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["--classes", "sideways"], "0 left, 1 right"),
        (["--height", "20"], "multiple of 16"),
        (["--height", "0"], "height is 0"),
        (["--num-frames", "99999999999999999999"], "num_frames is 99999999999999999999"),
        (["--num-videos", "0"], "--num-videos is 0"),
        (["--num-videos", "99999999999999999999"], "at most 1000000 in total"),
        (["--num-sampling-steps", "lots"], "lots"),
        (["--cfg-scale", "nan"], "guidance_scale is nan"),
        (["--fps", "0"], "--fps is 0"),
        (["--fps", "inf"], "--fps is inf; it must be from 0.1 to 1000"),
        (["--pab", "hue=2"], "--pab hue=2: expected KIND=RANGE"),
        (["--steps", "0"], "--steps is 0; it must be a whole number, from 1 to 1000"),
        (["--num-sampling-steps", "1001"], "--steps is 1001; it must be a whole number, from 1 to 1000"),
        (["--pab", "spatial=2", "spatial=3"], "--pab spatial=3: spatial is given twice"),
        (["--vae", "nowhere"], "nowhere"),
        (["--device", "abacus"], "device 'abacus': this machine has no such device"),
        (["--device", "meta"], "meta"),
        (["--num-vidoes", "2"], "did you mean --num-videos?"),
        (["--num-vid", "2"], "unrecognized arguments: --num-vid"),
        (["--seed", "one"], "invalid int value: 'one'"),
        (["--weights", "emma"], "did you mean ema?"),
    ],
)
def test_invalid_arguments_give_a_one_line_error(folder, tmp_path, capsys, words, say):
    try:
        status = main(["sample", str(folder), "--out", str(tmp_path / "out"), *SAMPLE, *words])
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("latte sample: error: ") and error.count("\n") == 1 and say in error
    assert not (tmp_path / "out").exists()


def test_an_unwritable_output_is_rejected_before_any_work(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file/below"):
        assert main(["sample", str(folder), "--out", str(out), *SAMPLE]) == 2
        assert "not a folder that can be written to" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_an_unconditional_model_rejects_classes_and_guidance(unconditional, tmp_path, capsys):
    folder = save_model(unconditional.transformer, tmp_path / "model")
    save_vae(unconditional.vae, folder / "vae")
    words = ["sample", str(folder), "--out", str(tmp_path / "out"), *SAMPLE]
    assert main([*words, "--classes", "left"]) == 2
    assert "it has no --classes" in capsys.readouterr().err
    assert main([*words, "--cfg-scale", "9"]) == 2
    assert "no condition to guide with" in capsys.readouterr().err
    assert main(words) == 0
    assert "unconditional" in capsys.readouterr().out and (tmp_path / "out/000-video-0.mp4").is_file()


def test_unexpected_errors_and_out_of_memory_give_one_line(monkeypatch, capsys):
    module = types.ModuleType("broken")
    monkeypatch.setitem(sys.modules, "latte.commands.info", module)
    for error, status, say in (
        (KeyError("x"), 1, "latte info: error: unexpected KeyError: 'x'"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "latte info: error: out of memory"),
        (ValueError("a\nb\x1b[31m"), 2, "latte info: error: a b?[31m"),
        (KeyboardInterrupt(), 130, "latte info: stopped; no result was written"),
        (KeyboardInterrupt("saved"), 130, "latte info: saved"),
    ):

        def fail(argv, error=error):
            raise error

        module.main = fail
        assert main(["info"]) == status
        said = capsys.readouterr().err
        assert said.startswith(say) and said.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "say"), [("plot", "no result was written"), ("encode", "run the same command again to resume")]
)
def test_interrupting_a_command_during_import_gives_one_line(command, say, tmp_path, monkeypatch, capsys):
    (tmp_path / f"{command}.py").write_text("raise KeyboardInterrupt")
    monkeypatch.delitem(sys.modules, f"latte.commands.{command}", raising=False)
    monkeypatch.setattr("latte.commands.__path__", [str(tmp_path)])
    words = {
        "plot": ["plot", str(tmp_path)],
        "encode": ["encode", "--config", "shapes", "--out", str(tmp_path / "out")],
    }
    assert main(words[command]) == 130
    assert capsys.readouterr().err == f"latte {command}: stopped; {say}\n"


def test_interrupting_before_the_command_is_known_gives_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "cli.py").write_text("raise KeyboardInterrupt")
    monkeypatch.delitem(sys.modules, "latte.cli")
    monkeypatch.setattr("latte.__path__", [str(tmp_path), *latte.__path__])
    assert __main__.run() == 130
    assert capsys.readouterr().err == "latte: stopped; no result was written\n"


def test_an_untrained_model_scores_low_in_evaluation(unconditional, folder, tmp_path):
    words = ["eval", str(folder), "--num-videos", "8", "--num-sampling-steps", "2", "--out", str(tmp_path / "s.json")]
    assert main([*words, "--device", "cpu"]) == 0
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["guidance_scale"] == 4.0 and report["seed"] == 0
    assert set(report["scores"]) == {"real clips", "VAE reconstructions", "samples"}
    assert report["scores"]["samples"]["motion_accuracy"] < 0.5
    with pytest.raises(ValueError, match="built-in shapes"):
        score_model(unconditional, 8)


def test_the_shipped_model_follows_the_requested_motions():
    """One clip per class with a fifth of the steps; scores.json has the results of full sampling."""
    pipe = LattePipeline.from_pretrained("shapes")
    videos = pipe(list(MOTIONS), num_inference_steps=20, batch_size=8, output_type="uint8").frames.numpy()
    found = [examine(video) for video in videos]
    assert sum(seen.motion == motion for seen, motion in zip(found, MOTIONS)) >= 7
    assert all(seen.count == 1 for seen in found) and np.mean([seen.colour_constancy for seen in found]) > 0.85
