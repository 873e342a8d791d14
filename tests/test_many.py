"""Sets of videos for evaluation: the same bytes by any number of processes, killed or not, and nobody else's folder."""

import errno
import hashlib
import json
import os
import random
import signal
import time

import pytest
import torch
from forks import fork, kill_workers, status
from published import PROMPTS, QUICK
from torch.distributed.run import get_args_parser

from latte import LattePipeline, many
from latte.checkpoint import save_model
from latte.cli import main
from latte.many import sample_many
from latte.models.latte import Latte, LatteConfig
from latte.models.vae import AutoencoderKL, VAEConfig, VideoVAE
from latte.vae_io import save_vae
from latte.video import list_videos, read_video

VAE = VAEConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=1.0)
SIZE = dict(depth=2, hidden_size=16, num_heads=2, input_size=2, num_frames=4)
SETTINGS = {"num_inference_steps": 2, "batch_size": 2, "seed": 3}
LABELS = [0, 2, 1]


def awake(network):
    """Zero-initialised outputs would make every video its own noise."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.fixture(scope="module")
def classes():
    return LattePipeline(awake(Latte(LatteConfig(num_classes=3, **SIZE))), VideoVAE(awake(AutoencoderKL(VAE))))


@pytest.fixture(scope="module")
def model(classes, tmp_path_factory):
    folder = save_model(classes.transformer, tmp_path_factory.mktemp("model"))
    save_vae(classes.vae, folder / "vae")
    return folder


def make(pipe, folder, count=9, labels=LABELS, **options):
    return sample_many(pipe, count, folder, labels, SETTINGS, **options)


def files(folder):
    """Every file, hidden ones too, and its sha256."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(classes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert make(classes, folder) == 9
    return folder


def test_a_part_of_a_call_has_the_bits_of_the_whole(classes):
    labels = [LABELS[i % 3] for i in range(8)]
    for options in ({}, {"eta": 1.0}):
        options = {**SETTINGS, **options, "output_type": "latent"}
        eight = classes(labels, **options).frames
        assert torch.equal(classes(labels[2:6], first=2, **options).frames, eight[2:6])
        assert torch.equal(classes(labels[4:5], first=4, **options).frames, eight[4:5])
    assert not torch.equal(classes(labels[2:6], first=3, **options).frames, eight[2:6])
    with pytest.raises(ValueError, match="first is -1"):
        classes([0], first=-1)


def test_a_part_of_a_call_of_prompts(pipe):
    prompts = [PROMPTS[0]] * 4
    four = pipe(prompts, eta=0.5, batch_size=2, **QUICK).frames
    torch.testing.assert_close(pipe(prompts[2:], eta=0.5, first=2, **QUICK).frames, four[2:], rtol=1e-4, atol=1e-4)
    text = pipe.encode_prompt(prompts)
    given = lambda rows: dict(prompt_embeds=text.prompt[rows], negative_prompt_embeds=text.negative[rows], **QUICK)
    four = pipe(**given(slice(0, 4)), batch_size=2).frames
    assert torch.equal(pipe(**given(slice(2, 4)), first=2).frames, four[2:])
    assert not torch.allclose(pipe(**given(slice(2, 4))).frames, four[2:], atol=1e-2)
    with pytest.raises(ValueError, match="nothing with a generator"):
        pipe(PROMPTS[0], generator=torch.Generator(), first=1, **QUICK)
    with pytest.raises(ValueError, match="first is -1"):
        pipe(PROMPTS[0], first=-1, **QUICK)


def test_files_are_the_pipelines_videos(classes, whole):
    names = [f"{i:06d}.mkv" for i in range(9)]
    assert sorted(files(whole)) == [".locks", *names, "samples.json"]
    assert [path.name for path in list_videos(whole)] == names
    videos = classes([LABELS[i % 3] for i in range(9)], output_type="uint8", **SETTINGS).frames
    for name, video in zip(names, videos):
        frames, fps = read_video(whole / name)
        assert torch.equal(frames, video) and fps == 8
    record = json.loads((whole / "samples.json").read_text())
    assert record["count"] == 9 and record["labels"] == LABELS and record["settings"] == SETTINGS
    assert record["transformer"]["depth"] == 2 and record["torch"] == torch.__version__


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_writes_the_same_bytes(classes, whole, size, tmp_path):
    work = lambda rank: lambda: make(classes, tmp_path / "set", rank=rank, world_size=size)
    assert [status(pid) for pid in [fork(work(rank), tmp_path / "log") for rank in range(size)]] == [0] * size
    assert files(tmp_path / "set") == files(whole)


def test_everything_is_computed_in_one_thread(classes, tmp_path, monkeypatch):
    """More of them round differently, and torchrun sets their number."""
    calls, seen, before = type(classes).__call__, [], torch.get_num_threads()

    def watched(self, *args, **options):
        seen.append(torch.get_num_threads())
        return calls(self, *args, **options)

    monkeypatch.setattr(type(classes), "__call__", watched)
    torch.set_num_threads(3)
    try:
        make(classes, tmp_path / "set", 1)
        assert seen == [1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_set_grows_and_what_is_there_stays(classes, whole, tmp_path):
    folder = tmp_path / "set"
    assert make(classes, folder, 5) == 5 and len(list_videos(folder)) == 5
    times = {path: path.stat().st_mtime_ns for path in list_videos(folder)}
    assert make(classes, folder) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert files(folder) == files(whole)
    assert make(classes, folder) == make(classes, folder, 3) == 0
    assert files(folder) == files(whole)


def test_what_was_lost_is_made_again(classes, whole, tmp_path):
    folder = tmp_path / "set"
    make(classes, folder)
    kept = folder / "000007.mkv"
    before = kept.stat().st_mtime_ns
    for i in (0, 3, 6, 8):
        (folder / f"{i:06d}.mkv").unlink()
    (folder / ".000003.part1.mkv").write_text("half")
    (folder / ".000099.part1.mkv").write_text("of a process that makes more of them")
    assert make(classes, folder) == 4
    assert kept.stat().st_mtime_ns == before
    (folder / ".000099.part1.mkv").unlink()  # which is not this call's to remove
    assert files(folder) == files(whole)


def test_no_unit_is_made_twice(classes, tmp_path, monkeypatch):
    """Also where two begin at the same unit; the units that each one made are in its log."""
    calls = type(classes).__call__

    def slow(self, *args, **options):
        print(options["first"], flush=True)
        time.sleep(0.05)
        return calls(self, *args, **options)

    monkeypatch.setattr(type(classes), "__call__", slow)
    work = lambda: make(classes, tmp_path / "set", 16)
    assert [status(pid) for pid in [fork(work, tmp_path / f"{n}.log") for n in range(2)]] == [0, 0]
    made = [sorted(map(int, (tmp_path / f"{n}.log").read_text().split())) for n in range(2)]
    assert sorted(made[0] + made[1]) == list(range(0, 16, 2)) and all(made)


def test_one_takes_over_from_another_that_dies(classes, whole, tmp_path, monkeypatch):
    """The second finds the first's unit locked, makes the others, waits, and makes that one too."""
    calls = type(classes).__call__

    def stuck(self, *args, **options):
        (tmp_path / "begun").touch()
        time.sleep(60)

    monkeypatch.setattr(type(classes), "__call__", stuck)
    first = fork(lambda: make(classes, tmp_path / "set"), tmp_path / "log")
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    monkeypatch.setattr(type(classes), "__call__", calls)
    second = fork(lambda: make(classes, tmp_path / "set"), tmp_path / "log")
    while len(list_videos(tmp_path / "set")) < 7:
        time.sleep(0.01)
    time.sleep(0.2)
    assert os.waitpid(second, os.WNOHANG)[0] == 0 and not (tmp_path / "set/000000.mkv").exists()
    os.kill(first, signal.SIGKILL)
    assert status(first) == -signal.SIGKILL and status(second) == 0
    assert files(tmp_path / "set") == files(whole)


def test_a_file_system_without_locks(classes, whole, tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(many.fcntl, "lockf", lockf)
    work = lambda rank: lambda: make(classes, tmp_path / "set", rank=rank, world_size=2)
    assert [status(pid) for pid in [fork(work(rank), tmp_path / "log") for rank in range(2)]] == [0, 0]
    assert files(tmp_path / "set") == files(whole)


def test_killed_workers_leave_the_same_bytes(classes, tmp_path):
    """Six, at random moments, of one to three at a time; tests/soak.py kills more."""
    make(classes, tmp_path / "whole", 80)
    work = lambda rank, size: make(classes, tmp_path / "set", 80, rank=rank, world_size=size)
    counts = kill_workers(work, tmp_path / "set", 6, random.Random(0), tmp_path / "log")
    assert counts["kills"] == 6
    assert files(tmp_path / "set") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({"settings": {**SETTINGS, "seed": 4}}, "with settings.seed 3, not 4: choose another folder"),
        ({"settings": {**SETTINGS, "batch_size": 4}}, "settings.batch_size 2, not 4"),
        ({"settings": {**SETTINGS, "eta": 0.5}}, "settings.eta None, not 0.5"),
        ({"labels": [0, 1, 2]}, r"labels \[0, 2, 1\], not \[0, 1, 2\]"),
        ({"about": {"sha256": ["ab"]}}, "sha256 None, not"),
        ({"fps": 9}, "fps 8, not 9"),
        ({"count": 0}, "count is 0"),
        ({"count": 10**9}, "count is 1000000000"),
        ({"labels": []}, "labels is empty"),
        ({"settings": {"batch_size": 0}}, "batch_size is 0"),
    ],
)
def test_another_set_is_refused(classes, whole, change, say):
    before = files(whole)
    with pytest.raises(ValueError, match=say):
        sample_many(**{"pipe": classes, "count": 12, "folder": whole, "labels": LABELS, "settings": SETTINGS, **change})
    assert files(whole) == before


def test_another_model_is_refused(classes, whole):
    other = LattePipeline(Latte(LatteConfig(num_classes=3, **{**SIZE, "depth": 4})), classes.vae)
    with pytest.raises(ValueError, match=r"transformer\.depth 2, not 4"):
        make(other, whole)


def test_folders_of_others_are_refused(classes, tmp_path):
    (tmp_path / "holiday.mkv").write_text("mine")
    with pytest.raises(ValueError, match=r"holds holiday\.mkv and no samples\.json"):
        make(classes, tmp_path)
    (tmp_path / "holiday.mkv").unlink()
    for text, say in (("{", "not valid JSON"), ('{"count": "many"}', "count is many")):
        (tmp_path / "samples.json").write_text(text)
        with pytest.raises(ValueError, match=say):
            make(classes, tmp_path)
    assert list(files(tmp_path)) == ["samples.json"]


def test_a_wrong_call_leaves_a_folder_that_can_be_used(classes, tmp_path):
    with pytest.raises(ValueError, match="no class 7"):
        make(classes, tmp_path / "set", labels=[7])
    assert make(classes, tmp_path / "set", 1) == 1


def test_models_without_classes_and_of_prompts(classes, pipe, tmp_path):
    lone = LattePipeline(awake(Latte(LatteConfig(**SIZE))), classes.vae)
    assert make(lone, tmp_path / "lone", 3, None) == 3
    video = lone(num_videos=3, output_type="uint8", **SETTINGS).frames[2]
    assert torch.equal(read_video(tmp_path / "lone/000002.mkv")[0], video)
    settings = {"num_inference_steps": 2, "batch_size": 2, "video_length": 4, "seed": 1}
    for folder, steps in (("text", (3,)), ("again", (1, 3))):
        for count in steps:
            sample_many(pipe, count, tmp_path / folder, list(PROMPTS), settings)
    assert files(tmp_path / "text") == files(tmp_path / "again")
    frames = pipe(list(PROMPTS), output_type="uint8", progress=False, **settings).frames
    assert torch.equal(read_video(tmp_path / "text/000001.mkv")[0], frames[1])


QUICKLY = ["--num-sampling-steps", "2", "--batch-size", "2", "--device", "cpu"]


def test_command_alone_and_as_two_processes(model, tmp_path, capsys):
    words = ["sample", str(model), *QUICKLY, "--out"]
    assert main([*words, str(tmp_path / "one"), "--n", "5"]) == 0
    assert "5 videos in " in capsys.readouterr().out
    assert main([*words, str(tmp_path / "one"), "--n", "5"]) == 0
    assert "all were there already" in capsys.readouterr().out
    place = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")  # what torchrun says, whose port is not used
    work = lambda: main([*words, str(tmp_path / "two"), "--count", "5"])
    log = tmp_path / "log"
    assert [status(pid) for pid in [fork(work, log, RANK=str(i), LOCAL_RANK=str(i), **place) for i in (0, 1)]] == [0, 0]
    assert log.read_text().count("5 videos in ") == 1
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert json.loads((tmp_path / "one/samples.json").read_text())["labels"] == [0, 1, 2]


def test_torchrun_leaves_the_words_alone():
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
        (["--n", "2", "--num-videos", "1"], "--num-videos is of each, and --n in all"),
        (["--n", "2", "--seed", "5"], "settings.seed 0, not 5"),
        (["--n", "2", "--pab", "spatial=2"], "pab None, not ['spatial=2']"),
        ([], "holds videos for evaluation"),
        (["--n", "2", "--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--n", "2", "--prompts", "a", "--prompt", "b"], "not allowed with"),
    ],
)
def test_bad_words_end_in_one_line(model, tmp_path, capsys, words, say):
    out = tmp_path / "set"
    assert main(["sample", str(model), *QUICKLY, "--out", str(out), "--n", "1"]) == 0
    capsys.readouterr()
    before = files(out)
    try:
        assert main(["sample", str(model), *QUICKLY, "--out", str(out), *words]) == 2
    except SystemExit as stopped:
        assert stopped.code == 2
    error = capsys.readouterr().err
    assert error.startswith("latte sample: error: ") and error.count("\n") == 1 and say in error
    assert files(out) == before


def test_another_checkpoint_under_the_same_name_is_refused(model, classes, tmp_path, capsys):
    words = ["sample", str(tmp_path / "model"), *QUICKLY, "--out", str(tmp_path / "set")]
    for seed in (1, 2):
        torch.manual_seed(seed)
        folder = save_model(Latte(classes.transformer.config), tmp_path / "model")
        save_vae(classes.vae, folder / "vae")
        assert main([*words, "--n", str(seed)]) == 2 * (seed - 1)
    assert "these videos were made with sha256 [" in capsys.readouterr().err
