"""Downloads from the Hugging Face hub and uploads to it, with a stand-in for the package: no test uses a network."""

import logging
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from awake_models import awake_pipeline, write_model

from latte import LattePipeline
from latte.cli import main
from latte.commands.sampling_options import named_part
from latte.weights.hub import find_file, wanted_files
from latte.weights.model_card import CARD
from latte.weights.tensors import CheckpointError

SNAPSHOT = "models--somebody--tiny/snapshots/abc"


class Hub(ModuleType):
    """The API of the package huggingface_hub, for repositories in a local folder."""

    def __init__(self, root: Path, cache: Path):
        super().__init__("huggingface_hub")
        self.root, self.cache, self.calls, self.error = root, cache, [], None
        self.HfApi = lambda token=None: SimpleNamespace(
            model_info=self.model_info, create_repo=self.create_repo, upload_folder=self.upload_folder
        )
        self.asked = []  # for how many seconds, and at which log level

    def model_info(self, name, timeout):
        self.asked.append((timeout, logging.getLogger("huggingface_hub").level))
        if self.error:
            raise self.error
        files = sorted(str(p.relative_to(self.root / name)) for p in (self.root / name).rglob("*") if p.is_file())
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    def snapshot_download(self, name, allow_patterns):
        snapshot = self.cache / f"models--{name.replace('/', '--')}/snapshots/abc"
        for file in allow_patterns:
            self.calls.append(file)
            (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / file).write_bytes((self.root / name / file).read_bytes())
        return str(snapshot)

    def hf_hub_download(self, name, file):
        return f"{self.snapshot_download(name, [file])}/{file}"

    def create_repo(self, name, private, exist_ok):
        if self.error:
            raise self.error
        self.calls.append(("create", name, private, exist_ok))

    def upload_folder(self, repo_id, folder_path, commit_message, create_pr):
        for path in Path(folder_path).rglob("*"):
            if path.is_file():
                target = self.root / repo_id / path.relative_to(folder_path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        self.calls.append((commit_message, create_pr))
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one class-conditional model, and an empty user cache."""
    found = Hub(tmp_path / "remote", tmp_path / "cache")
    write_model(awake_pipeline(3, ["left", "right", "up"]), tmp_path / "remote/somebody/tiny")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", found)
    monkeypatch.chdir(tmp_path)
    return found


def test_nothing_is_downloaded_unless_that_is_asked_for(hub):
    with pytest.raises(
        CheckpointError,
        match=r"by --download \(in Python: local_files_only=False\) or `hf download somebody/tiny`",
    ):
        LattePipeline.from_pretrained("somebody/tiny")
    assert not hub.calls
    pipe = LattePipeline.from_pretrained("somebody/tiny", local_files_only=False)
    assert pipe.class_names == ["left", "right", "up"] and pipe.name_or_path == "somebody/tiny"
    fetched = set(hub.calls)
    assert {"config.json", "model.safetensors", "manifest.json", "vae/model.safetensors", "classes.json"} <= fetched
    assert LattePipeline.from_pretrained("somebody/tiny").class_names == pipe.class_names  # now from the cache
    assert set(hub.calls) == fetched


def test_errors_without_the_package_or_the_network(hub, monkeypatch, capsys):
    hub.error, level = OSError("no route to the host.\nmore of it"), logging.getLogger("huggingface_hub").level
    said = (
        r"^huggingface\.co cannot be reached \(no route to the host\), and somebody/tiny is not in \S+/cache: try again"
    )
    for find in (LattePipeline.from_pretrained, lambda name, local_files_only: find_file(f"{name}/a.pt", False)):
        with pytest.raises(CheckpointError, match=said):
            find("somebody/tiny", local_files_only=False)
    assert hub.asked == [(5.0, logging.ERROR)] * 2  # asked once, briefly, without its own warnings
    assert logging.getLogger("huggingface_hub").level == level
    hub.error.response = SimpleNamespace(status_code=404)
    with pytest.raises(CheckpointError, match=r"^somebody/tiny cannot be downloaded from huggingface\.co: no route"):
        LattePipeline.from_pretrained("somebody/tiny", local_files_only=False)
    hub.error = None
    LattePipeline.from_pretrained("somebody/tiny", local_files_only=False)
    hub.error = OSError("no route to the host")
    with pytest.warns(UserWarning, match="cannot check huggingface.co, using the cache: no route to the host"):
        LattePipeline.from_pretrained("somebody/tiny", local_files_only=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["sample", "somebody/tiny", "--download"]) == 2
    said = capsys.readouterr().err
    assert "the hub needs the package huggingface_hub: pip install 'latte-video[hub]'" in said and said.count("\n") == 1


def test_the_command_downloads(hub, capsys):
    words = ["sample", "somebody/tiny", "--classes", "up", "--num-videos", "1", "--steps", "1", "--out", "made"]
    assert main([*words, "--device", "cpu"]) == 2
    assert "--download" in capsys.readouterr().err
    assert main([*words, "--device", "cpu", "--download"]) == 0 and Path("made/000-up.mp4").is_file()
    shutil.rmtree(hub.cache)
    capsys.readouterr()
    assert main(["eval", "somebody/tiny", "--device", "cpu", "--download"]) == 2
    assert "the examiner judges models of the built-in shapes" in capsys.readouterr().err
    shutil.rmtree(hub.cache)
    with pytest.raises(CheckpointError, match="--download"):
        named_part("somebody/tiny", "vae", local_files_only=True)
    assert named_part("somebody/tiny", "vae", local_files_only=False) == hub.cache / SNAPSHOT / "vae"
    assert (
        main(["convert", "somebody/tiny", "converted", "--download"]) == 0 and Path("converted/config.json").is_file()
    )


def test_a_single_file_of_the_hub(hub):
    (hub.root / "somebody/tiny/weights").mkdir()
    (hub.root / "somebody/tiny/weights/ffs.pt").write_bytes(b"12")
    address = "https://huggingface.co/somebody/tiny/blob/main/weights/ffs.pt"
    for name in (address, "somebody/tiny/weights/ffs.pt"):
        with pytest.raises(CheckpointError, match=r"weights/ffs.pt of somebody/tiny is neither here nor in .*cache"):
            find_file(name)
    for name in (address, "somebody/tiny/weights/ffs.pt"):
        assert find_file(name, local_files_only=False).read_bytes() == find_file(name).read_bytes() == b"12"
    with pytest.raises(CheckpointError, match="no file at somebody/tiny/"):
        find_file("somebody/tiny/../../secret.pt", local_files_only=False)


FILES = [
    *("README.md", "t2v.pt", "model_index.json", "pictures/one.mp4", "scheduler/scheduler_config.json"),
    *("transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"),
    *("transformer/diffusion_pytorch_model.fp16.safetensors", "transformer/diffusion_pytorch_model.bin"),
    *("text_encoder/model-00001-of-00002.safetensors", "text_encoder/model-00002-of-00002.safetensors"),
    *("text_encoder/model.safetensors.index.json", "vae/diffusion_pytorch_model.bin", "tokenizer/spiece.model"),
]


@pytest.mark.parametrize(("variant", "word"), [(None, ""), ("fp16", ".fp16"), ("int4", "")])
def test_which_files_of_a_repository_are_downloaded(variant, word):
    """Everything small and one form of each part's weights, but no other checkpoints and no pictures."""
    left_out = {"t2v.pt", "pictures/one.mp4", "transformer/diffusion_pytorch_model.bin"}
    other = "" if word else ".fp16"
    left_out.add(f"transformer/diffusion_pytorch_model{other}.safetensors")
    assert sorted(wanted_files(FILES, variant)) == sorted(set(FILES) - left_out)


def test_a_pipeline_is_uploaded_with_its_card(hub):
    pipe = LattePipeline.from_pretrained(hub.root / "somebody/tiny")
    assert pipe.push_to_hub("me/mine", private=True) == "https://hub/me/mine/commit/1"
    assert hub.calls == [("create", "me/mine", True, True), ("Upload LattePipeline", False)]
    card = (hub.root / "me/mine" / CARD).read_text()
    assert card.startswith("---\nlibrary_name: latte-video\ntags:\n- latte\n")
    assert "\nlatte sample me/mine --download\n" in card
    again = LattePipeline.from_pretrained("me/mine", local_files_only=False)
    assert again.class_names == pipe.class_names
    (hub.root / "somebody/tiny" / CARD).write_text("# Mine\n\nlatte sample . --cfg-scale 2\n")
    pipe.push_to_hub("me/mine", "second", create_pr=True)
    assert hub.calls[-1] == ("second", True)
    assert (hub.root / "me/mine" / CARD).read_text() == "# Mine\n\nlatte sample me/mine --download --cfg-scale 2\n"
    LattePipeline.from_pretrained("me/mine", local_files_only=False).push_to_hub("me/theirs")
    assert "latte sample me/theirs --download --cfg-scale 2\n" in (hub.root / "me/theirs" / CARD).read_text()
    hub.error = ValueError("401: not logged in")
    with pytest.raises(CheckpointError, match=r"me/mine cannot be uploaded to huggingface\.co: 401: not logged in"):
        pipe.push_to_hub("me/mine")
