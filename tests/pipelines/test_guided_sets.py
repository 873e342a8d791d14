"""Sets of videos made with each way to guide, an interval or a weaker model: interrupted and completed."""

from importlib import import_module

import pytest
from awake_models import SIZE, awake, awake_pipeline, digests, write_model

from latte import LattePipeline
from latte.cli import main
from latte.models.latte import Latte, LatteConfig

WAYS = {
    "apg": ["--guidance-method", "apg"],
    "cfg-zero": ["--guidance-method", "cfg-zero"],
    "cfg++": ["--guidance-method", "cfg++", "--cfg-scale", "0.7"],
    **{shape: ["--guidance-schedule", shape] for shape in ("linear", "cosine", "beta")},
    "interval": ["--cfg-interval", "100", "900"],
    "autoguidance": ["--autoguidance", "{root}/weaker"],
}


def command(root, out, *words):
    """`latte sample` for five videos in three batches."""
    few = ["--n", "5", "--steps", "3", "--batch-size", "2", "--cfg-scale", "2", "--device", "cpu"]
    return ["sample", str(root / "model"), *few, *(word.format(root=root) for word in words), "--out", str(out)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a model, a weaker model, and a set of videos with plain guidance."""
    folder, pipe = tmp_path_factory.mktemp("root"), awake_pipeline(2)
    weaker = awake(Latte(LatteConfig(num_classes=2, **{**SIZE, "hidden_size": 8})))
    write_model(pipe, folder / "model")
    write_model(LattePipeline(weaker, pipe.vae), folder / "weaker")
    assert main(command(folder, folder / "plain")) == 0
    return folder


@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_set_is_completed_with_the_same_bytes(way, root, tmp_path, monkeypatch):
    """It is stopped between the two videos of the second batch."""
    module, written = import_module("latte.sample_many"), []
    write = module.write_video

    def write_three(*args):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(write(*args))

    whole, parts = (command(root, tmp_path / name, *WAYS[way]) for name in ("whole", "parts"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_video", write_three)
        assert main(parts) == 130
    assert sorted(path.name for path in (tmp_path / "parts").glob("*.mkv")) == [f"00000{i}.mkv" for i in range(3)]
    assert main(parts) == main(whole) == 0
    found, expected, plain = (digests(folder) for folder in (tmp_path / "parts", tmp_path / "whole", root / "plain"))
    assert found == expected and found.keys() == plain.keys()
    assert all(found[name] != plain[name] for name in plain if name.endswith(".mkv"))
