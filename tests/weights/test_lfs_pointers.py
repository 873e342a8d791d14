"""A clone without Git LFS: pointers take the place of large files, and every reader says so."""

import shutil

import pytest
import torch

from latte import LattePipeline
from latte.cli import main
from latte.eval.networks.i3d_weights import find_i3d
from latte.eval.networks.published_weights import PUBLISHED, find_weights
from latte.eval.statistics import read_feature_set
from latte.files import read_json, refuse_pointer
from latte.text.tokenizer import Tokenizer
from latte.train.data.captions import Captions
from latte.train.data.layouts import read_split
from latte.video.formats import READABLE_SUFFIXES
from latte.video.read import count_frames, read_blocks, read_video
from latte.weights.arrays import read_array_pickle, read_arrays
from latte.weights.load import load_model, save_model
from latte.weights.tensors import CheckpointError, read_tensors
from latte.weights.vae_folder import load_vae

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a1' * 32}\nsize 2694789123\n"
SAY = r"is a Git LFS pointer, not the file itself: fetch the file with `git lfs pull`"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        *[(f"x.{end}", read_tensors) for end in ("safetensors", "pt", "bin", "ckpt")],
        *[(f"x.{end}", load_model) for end in ("safetensors", "pt")],
        ("x.npz", read_arrays),
        ("x.npz", read_feature_set),
        ("x.pkl", read_array_pickle),
        ("x.pkl", read_feature_set),
        ("config.json", read_json),
        ("spiece.model", Tokenizer),
        ("x.txt", read_split),
        ("x.txt", lambda path: Captions(path.parent).of(path.with_suffix(".mp4"))),
        ("i3d.pt", find_i3d),
        *[("x", lambda path, name=name: find_weights(name, path)) for name in PUBLISHED],
        *[(f"x{end}", read_video) for end in READABLE_SUFFIXES],
        ("x.mp4", lambda path: read_video(path, [1])),
        ("x.mp4", count_frames),
        ("x.mp4", lambda path: list(read_blocks(path))),
    ],
)
def test_every_reader_names_a_pointer(name, read, tmp_path):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(ValueError, match=rf"{name} {SAY}") as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


def test_the_picture_that_is_a_pointer_is_named(tmp_path):
    (tmp_path / "frame1.png").write_text(POINTER)
    with pytest.raises(ValueError, match=rf"frame1\.png {SAY}"):
        read_video(tmp_path)


def test_pointers_in_folders_with_a_manifest(tiny, tmp_path):
    """The manifest would call the file truncated, but the remedy is to fetch it, not to write the folder again."""
    folder = save_model(tiny, tmp_path / "ours")
    (folder / "model.safetensors").write_text(POINTER)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors {SAY}"):
        load_model(folder)


def test_pointers_in_a_text_to_video_folder(published, tmp_path, capsys):
    for part, file in (
        ("transformer", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model-00002-of-00002.safetensors"),
        ("tokenizer", "spiece.model"),
        ("vae", "diffusion_pytorch_model.safetensors"),
    ):
        copy = shutil.copytree(published, tmp_path / part)
        (copy / part / file).write_text(POINTER)
        with pytest.raises(CheckpointError, match=f"{file} {SAY}"):
            LattePipeline.from_pretrained(copy)
    with pytest.raises(CheckpointError, match=SAY):
        load_vae(tmp_path / "vae/vae")
    (tmp_path / "ffs.pt").write_text(POINTER)
    assert main(["convert", str(tmp_path / "ffs.pt"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "git lfs pull" in said and said.count("\n") == 1
    (tmp_path / "prompts.txt").write_text(POINTER)
    words = ["sample", str(published), "--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "videos")]
    assert main(words) == 2 and "git lfs pull" in capsys.readouterr().err and not (tmp_path / "videos").exists()


def test_other_files_are_not_pointers(tmp_path):
    for content in (b"", b"version", b"version 1\n", torch.zeros(9).numpy().tobytes()):
        (tmp_path / "x").write_bytes(content)
        refuse_pointer(tmp_path / "x")
    refuse_pointer(tmp_path / "nothing")
    refuse_pointer(tmp_path)
