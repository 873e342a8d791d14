"""`latte sample --n`: the same set from one process or several, for classes and prompts, and invalid arguments."""

import json

import pytest
import torch
from awake_models import awake_pipeline, digests, write_model
from forks import fork, status
from torch.distributed.run import get_args_parser

from latte.cli import main
from latte.models.latte import Latte
from latte.weights.load import save_model
from latte.weights.vae_folder import save_vae


@pytest.fixture(scope="module")
def classes():
    return awake_pipeline(3)


@pytest.fixture(scope="module")
def model(classes, tmp_path_factory):
    return write_model(classes, tmp_path_factory.mktemp("model"))


QUICKLY = ["--num-sampling-steps", "2", "--batch-size", "2", "--device", "cpu"]


def test_one_process_and_two_write_the_same_set(model, tmp_path, capsys):
    words = ["sample", str(model), *QUICKLY, "--out"]
    assert main([*words, str(tmp_path / "one"), "--n", "5"]) == 0
    said = capsys.readouterr().out
    assert "5 videos in " in said and f"\nnext: latte eval {tmp_path}/one --real FOLDER, with real videos; " in said
    assert main([*words, str(tmp_path / "one"), "--n", "5"]) == 0
    assert "all existed already" in capsys.readouterr().out
    place = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")  # as set by torchrun; the port is not used
    work = lambda: main([*words, str(tmp_path / "two"), "--count", "5"])
    log = tmp_path / "log"
    assert [status(pid) for pid in [fork(work, log, RANK=str(i), LOCAL_RANK=str(i), **place) for i in (0, 1)]] == [0, 0]
    assert log.read_text().count("5 videos in ") == 1
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert json.loads((tmp_path / "one/samples.json").read_text())["labels"] == [0, 1, 2]


def test_the_set_records_its_batch_size_and_rejects_another(model, tmp_path, capsys):
    words = ["sample", str(model), "--num-sampling-steps", "2", "--device", "cpu", "--out", str(tmp_path), "--n", "3"]
    assert main(words) == 0
    assert json.loads((tmp_path / "samples.json").read_text())["settings"]["batch_size"] == 16
    assert main([*words, "--batch-size", "2"]) == 2
    assert "these videos were made with batch_size 16, not 2" in capsys.readouterr().err


def test_torchrun_does_not_consume_our_options():
    words = [
        "-m",
        "latte",
        "sample",
        "shapes",
        "--count",
        "5",
        "--out",
        "x",
        "--prompts",
        "x",
        "--num-sampling-steps",
        "2",
    ]
    assert get_args_parser().parse_args(words).training_script_args == words[2:]


def test_command_takes_classes_and_a_file_of_prompts(model, published, tmp_path, capsys):
    labels = lambda name: json.loads((tmp_path / name / "samples.json").read_text())["labels"]
    words = lambda model, out, *more: ["sample", str(model), "--n", "1", *QUICKLY, "--out", str(tmp_path / out), *more]
    assert main(words(model, "two", "--classes", "2", "0")) == 0
    assert labels("two") == [2, 0]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n\n  a dog \n")
    assert main(words(published, "text", "--num-frames", "4", "--prompts", str(prompts))) == 0
    assert labels("text") == ["a cat", "a dog"]
    for content, say in ((b"\n", "holds no prompt"), (b"\xff", "not a text in UTF-8")):
        prompts.write_bytes(content)
        assert main(words(published, "bad", "--prompts", str(prompts))) == 2
        assert say in capsys.readouterr().err and not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["--n", "0"], "--n is 0"),
        (["--n", "2", "--num-videos", "1"], "--num-videos is for each class or prompt, --n is for all of them"),
        (["--n", "2", "--seed", "5"], "these videos were made with seed 0, not 5"),
        (["--n", "2", "--pab", "spatial=2"], "pab None, not ['spatial=2']"),
        ([], "holds videos for evaluation"),
        (["--n", "2", "--prompts", "nowhere.txt"], "error: there is no file nowhere.txt"),
        (["--n", "2", "--prompts", "a", "--prompt", "b"], "not allowed with"),
    ],
)
def test_invalid_arguments_give_a_one_line_error(model, tmp_path, capsys, words, say):
    out = tmp_path / "set"
    assert main(["sample", str(model), *QUICKLY, "--out", str(out), "--n", "1"]) == 0
    capsys.readouterr()
    before = digests(out)
    try:
        assert main(["sample", str(model), *QUICKLY, "--out", str(out), *words]) == 2
    except SystemExit as stopped:
        assert stopped.code == 2
    error = capsys.readouterr().err
    assert error.startswith("latte sample: error: ") and error.count("\n") == 1 and say in error
    assert digests(out) == before


def test_another_checkpoint_under_the_same_name_is_refused(model, classes, tmp_path, capsys):
    words = ["sample", str(tmp_path / "model"), *QUICKLY, "--out", str(tmp_path / "set")]
    for seed in (1, 2):
        torch.manual_seed(seed)
        folder = save_model(Latte(classes.transformer.config), tmp_path / "model")
        save_vae(classes.vae, folder / "vae")
        assert main([*words, "--n", str(seed)]) == 2 * (seed - 1)
    assert "these videos were made with sha256 [" in capsys.readouterr().err
