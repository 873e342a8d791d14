"""Links in model folders: writing there never changes their targets."""

import os
import shutil
from pathlib import Path

import pytest
from published import write_published

from latte.cli import main
from latte.weights.latte_folder import save_latte
from latte.weights.load import load_model
from latte.weights.vae_folder import load_vae


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_links(folder: Path, target: Path, relative: bool = True) -> Path:
    """A copy of the folder with each file as a link, like the snapshots in the Hugging Face cache."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        link = target / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(path, link.parent) if relative else path)
    return target


@pytest.mark.parametrize("kind", ["files", "folder", "relative folder", "folder of links", "all"])
@pytest.mark.parametrize("inside", [False, True])
def test_link_targets_are_never_changed(kind, inside, tiny, tiny_vae, tmp_path, monkeypatch):
    elsewhere = save_latte(tmp_path / "elsewhere/model", tiny, tiny_vae)
    (elsewhere / "vae/notes.txt").write_text("mine")
    folder, before = tmp_path / "mine", content(tmp_path / "elsewhere")
    if kind == "files":
        as_links(elsewhere, folder)
    elif kind == "all":
        folder.symlink_to(shutil.copytree(elsewhere, tmp_path / "named"))  # a folder that the user names is replaced
    else:
        linked = as_links(elsewhere, tmp_path / "cache") if "links" in kind else elsewhere
        shutil.copytree(elsewhere, folder, ignore=shutil.ignore_patterns("vae"))
        where = os.path.relpath(linked / "vae", folder) if "relative" in kind else linked / "vae"
        (folder / "vae").symlink_to(where)
    if inside:
        monkeypatch.chdir(folder)  # it then cannot be renamed
    assert main(["convert", str(folder), str(folder), "--overwrite", "--dtype", "float16"]) == 0
    assert content(tmp_path / "elsewhere") == before
    assert load_vae(folder / "vae").config == tiny_vae.config and load_model(folder).config == tiny.config
    for part in (folder, folder / "vae"):
        file = part / "model.safetensors"
        assert not file.is_symlink() and file.stat().st_size < 0.7 * len(before[f"model/{file.relative_to(folder)}"])
    if not (inside and "relative" in kind):  # the draft is then deeper than the link, which leads nowhere from there
        assert (folder / "vae/notes.txt").read_text() == "mine"
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".gitignore"]


def test_linked_parts_of_a_text_to_video_folder(tmp_path):
    write_published(tmp_path / "published")
    assert main(["convert", str(tmp_path / "published"), str(tmp_path / "elsewhere")]) == 0
    folder, before = tmp_path / "mine", content(tmp_path / "elsewhere")
    folder.mkdir()
    for part in (tmp_path / "elsewhere").iterdir():
        (folder / part.name).symlink_to(part)
    for _ in range(2):
        assert main(["convert", str(tmp_path / "published"), str(folder), "--overwrite", "--dtype", "bfloat16"]) == 0
        assert content(tmp_path / "elsewhere") == before
        assert not [path for path in folder.iterdir() if path.is_symlink()]
