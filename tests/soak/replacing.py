"""Commands that replace existing output are killed, or run out of disk space, at many points."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest
import torch
from forks import fork, status
from killed_calls import Replacing, contents, count_changes, hidden, kill_at
from small_runs import TINY, TINY_T2V
from soak_length import count

from latte import LattePipeline
from latte.cli import main
from latte.models.latte import Latte, LatteConfig
from latte.shapes.draw import make_clip
from latte.video.write import write_video
from latte.weights.load import save_model
from latte.weights.published_export import save_published

PREPARE = ["prepare", "shapes", "--num-frames", "4", "--frame-interval", "1"]
SAMPLE = ["--num-sampling-steps", "2", "--num-videos", "1", "--device", "cpu", "--classes", "0", "1"]


def latte(*words):
    """Run a command."""
    torch.set_num_threads(1)
    status = main([str(word) for word in words])
    assert status == 0, words


@pytest.fixture(scope="module")
def models(tmp_path_factory, vae, published):
    """Models to convert: two Lattes, and a text-to-video model in the published layout."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        torch.manual_seed(seed)
        config = LatteConfig(depth=2, hidden_size=16, num_heads=2, input_size=2, num_frames=4, num_classes=3)
        save_model(Latte(config), folder / f"latte-{seed}")
        shutil.copytree(vae, folder / f"latte-{seed}/vae")
    parts = LattePipeline.from_pretrained(published).components
    save_published(folder / "t2v-0", {**parts, "text_encoder": None, "tokenizer": None})
    shutil.copytree(published, folder / "t2v-1")
    return folder


CASES = {}


def case(make):
    """Register a function that makes a `Replacing` from a folder, the models, and a VAE."""
    CASES[make.__name__] = make
    return make


@case
def convert(folder, models, vae):
    out = folder / "out"
    words = lambda seed: ("convert", models / f"latte-{seed}", out, "--overwrite")
    return Replacing(folder, lambda: latte(*words(0)), lambda: latte(*words(1), "--dtype", "float16"), out)


@case
def convert_a_vae(folder, models, vae):
    out = folder / "out"
    words = ("convert", vae, out)
    return Replacing(folder, lambda: latte(*words), lambda: latte(*words, "--overwrite", "--dtype", "float16"), out)


@case
def convert_text_to_video(folder, models, vae):
    out = folder / "out"
    words = ("convert", models / "t2v-1", out)
    return Replacing(folder, lambda: latte(*words), lambda: latte(*words, "--overwrite", "--dtype", "bfloat16"), out)


@case
def convert_to_diffusers(folder, models, vae):
    out = folder / "out"
    words = ("convert", models / "t2v-1", out, "--to", "diffusers")
    return Replacing(folder, lambda: latte(*words), lambda: latte(*words, "--overwrite", "--dtype", "bfloat16"), out)


@case
def convert_to_a_file(folder, models, vae):
    out = folder / "out.pt"
    words = lambda seed: ("convert", models / f"latte-{seed}", out, "--to", "original")
    return Replacing(folder, lambda: latte(*words(0)), lambda: latte(*words(1), "--overwrite"), out)


@case
def save_pretrained(folder, models, vae):
    out = folder / "out"
    save = lambda seed: LattePipeline.from_pretrained(models / f"latte-{seed}").save_pretrained(out)
    return Replacing(folder, lambda: save(0), lambda: save(1), out)


@case
def prepare(folder, models, vae):
    out = folder / "out"
    words = lambda clips: (*PREPARE, "--out", out, "--clips", clips)
    return Replacing(folder, lambda: latte(*words(3)), lambda: latte(*words(2)), out)


@case
def encode(folder, models, vae):
    out = folder / "out"
    words = ("encode", "--config", "shapes-t2v", *TINY_T2V[:-1], "text_encoder={}", f"vae={vae}", "--out", out)
    text = lambda: latte(*words, "--device", "cpu", "--text-encoder", models / "t2v-1")
    return Replacing(folder, lambda: latte(*words, "--device", "cpu"), text, out)


@case
def sample(folder, models, vae):
    out = folder / "out"
    words = lambda seed: ("sample", models / f"latte-{seed}", "--out", out, *SAMPLE)
    return Replacing(folder, lambda: latte(*words(0)), lambda: latte(*words(1), "--seed", "1"), out)


@case
def train_on(folder, models, vae):
    run = folder / "run"
    words = ("train", "--config", "shapes", "--run", run, *TINY, f"vae={vae}", "--device", "cpu")
    return Replacing(folder, lambda: latte(*words, "steps=2"), lambda: latte(*words, "steps=4"), run / "final")


@pytest.mark.parametrize("name", CASES)
def test_a_kill_leaves_the_old_or_the_new_output(name, models, vae, tmp_path):
    folder, log = tmp_path / "work", tmp_path / "log"
    folder.mkdir()
    made = CASES[name](folder, models, vae)
    made.first()
    shutil.copytree(folder, tmp_path / "before", symlinks=True)
    old = contents(made.target)
    changes = count_changes(made, log)
    new = contents(made.target)
    assert not hidden(folder) and new != old
    places = sorted({round(1 + i * (changes - 1) / max(1, count(60) - 1)) for i in range(count(60))})
    found = {"changes": changes, "kills": 0, "old": 0, "new": 0, "neither": 0}
    for number in places:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before", folder, symlinks=True)
        kill_at(made, number, log)
        found["kills"] += 1
        now = contents(made.target) if made.target.exists() else None
        found["old" if now == old else "new" if now == new else "neither"] += 1
    print(name, found)
    assert not found["neither"]
    made.command()
    assert not hidden(folder)


@contextmanager
def disk(folder, size):
    """Mount a disk of `size` bytes at `folder`."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


WRITING = {  # run with a full disk; OUT is on it, and MODELS, VAE, RUN and VIDEOS elsewhere
    "convert": "convert MODELS/latte-0 OUT/out",
    "convert_to_pt": "convert MODELS/latte-0 OUT/out.pt --to original",
    "convert_to_safetensors": "convert MODELS/latte-0 OUT/out.safetensors --to original",
    "convert_text_to_video": "convert MODELS/t2v-1 OUT/out",
    "convert_to_diffusers": "convert MODELS/t2v-1 OUT/out --to diffusers",
    "prepare": "prepare folder VIDEOS --out OUT/out --num-frames 4 --frame-interval 1 --frame-list 64",
    "prepare_shapes": "prepare shapes --out OUT/out --clips 3 --num-frames 4 --frame-interval 1",
    "encode": "encode --config shapes TINY vae=VAE --out OUT/out",
    "sample": "sample MODELS/latte-0 --out OUT/out --num-sampling-steps 2 --num-videos 1",
    "sample_n": "sample MODELS/latte-0 --out OUT/out --num-sampling-steps 2 --n 4",
    "train": "train --config shapes --run OUT/out TINY vae=VAE steps=3 sample_every=2",
    "eval": "eval VIDEOS --reference VIDEOS --out OUT/out.json",
    "eval_model": "eval shapes --num-videos 2 --out OUT/out.json",
    "plot": "plot RUN --out OUT/out.png",
    "ablate": "ablate --out OUT/out --seeds 0 --num-videos 2 guidance TINY vae=VAE steps=2",
}
WITHOUT_DEVICE = ("convert", "prepare", "plot", "ablate")
RESUMED = ("encode", "sample_n", "train", "ablate")  # keep what is complete, to resume from there


@pytest.fixture(scope="module")
def places(models, vae, tmp_path_factory):
    """The values of the words in capitals."""
    folder = tmp_path_factory.mktemp("places")
    for i in range(3):
        write_video(make_clip(2, i, frames=12, size=32).video, folder / f"videos/{i}.mkv")
    words = ("train", "--config", "shapes", "--run", folder / "run", *TINY, f"vae={vae}", "--device", "cpu")
    latte(*words, "steps=3")
    return {"MODELS": models, "VAE": vae, "RUN": folder / "run", "VIDEOS": folder / "videos"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("name", WRITING)
def test_a_full_disk_is_named(name, places, tmp_path):
    text, log, kinds = WRITING[name].replace(" TINY", " " + " ".join(TINY)), tmp_path / "log", {"full": 0, "named": 0}
    for word, path in {**places, "OUT": tmp_path / "disk"}.items():
        text = text.replace(word, str(path))
    words = [*text.split(), *([] if text.startswith(WITHOUT_DEVICE) else ["--device", "cpu"])]

    def work():
        torch.set_num_threads(1)
        os._exit(main(words))

    size, ended = 4096, 2
    while ended and size < 1 << 24:
        with disk(tmp_path / "disk", size):
            log.unlink(missing_ok=True)
            if not kinds["full"]:
                (tmp_path / "disk/.locks").write_bytes(bytes(size))  # full from the start
            ended = status(fork(work, log))
            last = log.read_text().replace("\r", "\n").strip().splitlines()[-1]
            if ended:
                kinds["full"] += 1
                named = f"error: {tmp_path / 'disk'}" in last and "no space left" in last
                kinds["named"] += named and "unexpected" not in last and ".part" not in last and ended == 2
                left = [path for path in (tmp_path / "disk").rglob("*") if path.name != ".locks"]
                assert not any(path.name[0] == "." for path in left), left
                assert name in RESUMED or not left, left
        size = round(size * (1 + 1 / max(0.7, count(2)))) // 4096 * 4096 + 4096
    print(name, kinds)
    assert not ended and kinds["full"] == kinds["named"] > 0, last
