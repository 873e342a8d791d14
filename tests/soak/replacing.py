"""Commands that replace what is there are killed, or run out of disk space, at many places."""

import shutil

import pytest
import torch
from killed_calls import Replacing, contents, count_changes, hidden, kill_at
from small_runs import TINY, TINY_T2V
from soak_length import count

from latte import LattePipeline
from latte.cli import main
from latte.models.latte import Latte, LatteConfig
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
    """Register a function that makes a `Replacing` of a folder, the models, and a VAE."""
    CASES[make.__name__] = make
    return make


@case
def convert(folder, models, vae):
    out = folder / "out"
    words = lambda seed: ("convert", models / f"latte-{seed}", out)
    return Replacing(folder, lambda: latte(*words(0)), lambda: latte(*words(1), "--dtype", "float16"), out)


@case
def convert_a_vae(folder, models, vae):
    out = folder / "out"
    words = ("convert", vae, out)
    return Replacing(folder, lambda: latte(*words), lambda: latte(*words, "--dtype", "float16"), out)


@case
def convert_text_to_video(folder, models, vae):
    out = folder / "out"
    words = ("convert", models / "t2v-1", out)
    return Replacing(folder, lambda: latte(*words), lambda: latte(*words, "--dtype", "bfloat16"), out)


@case
def convert_to_diffusers(folder, models, vae):
    out = folder / "out"
    words = ("convert", models / "t2v-1", out, "--to", "diffusers")
    return Replacing(folder, lambda: latte(*words), lambda: latte(*words, "--dtype", "bfloat16"), out)


@case
def convert_to_a_file(folder, models, vae):
    out = folder / "out.pt"
    words = lambda seed: ("convert", models / f"latte-{seed}", out, "--to", "original")
    return Replacing(folder, lambda: latte(*words(0)), lambda: latte(*words(1)), out)


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
def test_a_kill_leaves_the_old_or_the_new(name, models, vae, tmp_path):
    folder, log = tmp_path / "work", tmp_path / "log"
    folder.mkdir()
    made = CASES[name](folder, models, vae)
    made.first()
    shutil.copytree(folder, tmp_path / "before", symlinks=True)
    old = contents(made.target)
    changes = count_changes(made, log)
    new = contents(made.target)
    assert not hidden(folder) and new != old
    places = sorted({round(1 + i * (changes - 1) / max(1, count(30) - 1)) for i in range(count(30))})
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
