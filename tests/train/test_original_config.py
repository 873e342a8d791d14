"""Training configurations of the original: their translation, keys without effect, and invalid ones."""

import shutil
from dataclasses import asdict, replace

import pytest
import yaml

from latte.cli import main
from latte.files import read_json
from latte.train.original_config import IGNORED, KEYS
from latte.train.presets import PRESETS
from latte.train.resolve import resolve

FFS = {  # Vchitect/Latte, configs/ffs/ffs_train.yaml
    "dataset": "ffs",
    "data_path": "/data/ffs",
    "pretrained_model_path": "/models/Latte",
    "results_dir": "./results",
    "pretrained": None,
    "model": "Latte-XL/2",
    "num_frames": 16,
    "image_size": 256,
    "num_sampling_steps": 250,
    "frame_interval": 3,
    "fixed_spatial": False,
    "attention_bias": True,
    "learn_sigma": True,
    "extras": 1,
    "save_ceph": True,
    "learning_rate": "1e-4",  # as YAML reads it
    "ckpt_every": 10000,
    "clip_max_norm": 0.1,
    "start_clip_iter": 20000,
    "local_batch_size": 5,
    "max_train_steps": 1000000,
    "global_seed": 3407,
    "num_workers": 8,
    "log_every": 100,
    "lr_warmup_steps": 0,
    "resume_from_checkpoint": None,
    "gradient_accumulation_steps": 1,
    "num_classes": None,
    "use_compile": False,
    "mixed_precision": False,
    "enable_xformers_memory_efficient_attention": False,
    "gradient_checkpointing": False,
}
IMAGES = {"frame_data_path": "/data/images", "frame_data_txt": "/data/list.txt", "use_image_num": 8}
XL = {"depth": 28, "hidden_size": 1152, "num_heads": 16, "patch_size": 2, "learn_sigma": True}
MEANINGS = [  # a change of theirs, and the resulting change here
    ({"dataset": "sky"}, {"flip": False, "selection": "crop", "transform": "sky"}),
    ({"dataset": "taichi_img", **IMAGES}, {"num_images": 8, "selection": "crop", "transform": "taichi"}),
    ({"num_workers": 3}, {"num_workers": 3}),
    ({"use_compile": True}, {"compile": True}),
    ({"data_path": "x"}, {"data": "x"}),
    ({"pretrained_model_path": "x"}, {"vae": "x/vae"}),
    ({"pretrained": "DiT-XL-2-256x256.pt"}, {"init": "DiT-XL-2-256x256.pt"}),
    ({"model": "LatteIMG-XL/2"}, {}),
    ({"model": "Latte-S/4"}, {"model": {**XL, "depth": 12, "hidden_size": 384, "num_heads": 6, "patch_size": 4}}),
    ({"learn_sigma": False}, {"model": {**XL, "learn_sigma": False}}),
    ({"extras": 2, "num_classes": 101}, {"classes": True}),
    ({"num_frames": 8}, {"num_frames": 8}),
    ({"image_size": 512}, {"image_size": 512}),
    ({"frame_interval": 1}, {"frame_interval": 1}),
    ({"learning_rate": 2e-4}, {"learning_rate": 2e-4}),
    ({"lr_warmup_steps": 7}, {"warmup": 7}),
    ({"clip_max_norm": 1}, {"clip_grad": 1.0}),
    ({"start_clip_iter": 0}, {"clip_from": 0}),
    ({"max_train_steps": 10}, {"steps": 10}),
    ({"global_seed": 1}, {"seed": 1}),
    ({"log_every": 7}, {"log_every": 7}),
    ({"ckpt_every": 7}, {"save_every": 7}),
    ({"local_batch_size": 4}, {"global_batch_size": 4}),
    ({"gradient_accumulation_steps": 3}, {"global_batch_size": 15, "micro_batch_size": 5}),
    ({"gradient_checkpointing": True}, {"gradient_checkpointing": True}),
]


def read(values, folder, *changes):
    (folder / "theirs.yaml").write_text(yaml.safe_dump(values))
    return resolve(str(folder / "theirs.yaml"), list(changes))


def notes(recorded):
    return {str(warning.message).partition(":")[0]: str(warning.message) for warning in recorded}


@pytest.fixture
def ffs(tmp_path, recwarn):
    return read(FFS, tmp_path)


def test_the_ffs_config_equals_the_preset(ffs):
    ours = replace(PRESETS["ffs"], data="/data/ffs", vae="/models/Latte/vae", model=XL)
    theirs = dict(selection="linspace", transform="ffs")  # ours are exact and antialiased
    assert ffs == replace(ours, global_batch_size=5, micro_batch_size=0, precision="fp32", **theirs)


@pytest.mark.parametrize(("theirs", "ours"), MEANINGS)
def test_each_key_changes_a_setting(theirs, ours, ffs, tmp_path, recwarn):
    assert read(FFS | theirs, tmp_path) == replace(ffs, **ours)


def test_every_key_is_covered_or_ignored():
    assert {key for theirs, _ in MEANINGS for key in theirs} | IGNORED.keys() == KEYS


@pytest.mark.parametrize("key", IGNORED)
def test_keys_without_effect_are_ignored_with_a_warning(key, ffs, tmp_path):
    with pytest.warns(UserWarning) as recorded:
        assert read(FFS | {key: 1}, tmp_path) == ffs
    assert notes(recorded)[key] == f"{key}: ignored: {IGNORED[key]}"
    with pytest.warns(UserWarning) as recorded:
        read(FFS | {key: None}, tmp_path)
    assert key not in notes(recorded)


def test_keys_that_gain_an_effect_here_give_a_warning(tmp_path):
    with pytest.warns(UserWarning) as recorded:
        read(FFS | {"lr_warmup_steps": 3, "gradient_checkpointing": True}, tmp_path)
    said = notes(recorded)
    assert {"learning_rate", "lr_warmup_steps", "gradient_checkpointing"} < said.keys()
    assert said["local_batch_size"].endswith("5 on each of 1 processes makes global_batch_size=5")


def test_precision_depends_on_the_runs_device(tmp_path, recwarn, monkeypatch):
    """A machine with a GPU can also train on its CPU, which has no TF32."""
    read(FFS, tmp_path)
    path = str(tmp_path / "theirs.yaml")
    for available in (False, True):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        precisions = [resolve(path, [], device).precision for device in ("cpu", "cuda", None)]
        assert precisions == ["fp32", "tf32", "tf32" if available else "fp32"]
    trained = []
    monkeypatch.setattr("latte.commands.train.open_data", lambda config: None)
    monkeypatch.setattr("latte.commands.train.train", lambda config, *_: trained.append(config.precision))
    assert main(["train", "--config", path, "--run", str(tmp_path / "run"), "--device", "cpu", "vae=shapes/vae"]) == 0
    assert trained == ["fp32"]


def test_the_batch_size_covers_all_processes(tmp_path, monkeypatch, recwarn):
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert read(FFS, tmp_path).global_batch_size == 40
    twice = read(FFS | {"gradient_accumulation_steps": 2}, tmp_path)
    assert (twice.global_batch_size, twice.micro_batch_size) == (80, 5)
    assert read(FFS, tmp_path, "global_batch_size=6", "model.depth=2").global_batch_size == 6


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({"ckpt_evry": 3}, "unknown key 'ckpt_evry', did you mean 'ckpt_every'"),
        ({"data_path": None}, "data_path is missing"),
        ({"model": None}, "model is missing"),
        ({"dataset": "kinetics"}, "dataset is 'kinetics', not one of ffs, sky, ucf101, taichi, ffs_img"),
        ({"dataset": ["ffs"]}, r"dataset is \['ffs'\]"),
        ({"extras": 78}, "cannot train text-to-video models; use kind=t2v instead"),
        ({"extras": True}, "extras is True, not one of 1, 2"),
        ({"model": "LatteT2V-XL/2"}, "no model is called 'LatteT2V-XL/2'"),
        ({"local_batch_size": 0}, "local_batch_size is 0; it must be a positive integer"),
        ({"gradient_accumulation_steps": "2"}, "gradient_accumulation_steps is '2'"),
        (
            {"ckpt_every": "often"},
            "ckpt_every \\(here: save_every\\): save_every is 'often'; it must be a whole number",
        ),
        ({"ckpt_every": 0}, "save_every is 0"),
    ],
)
def test_invalid_values_are_refused(change, say, tmp_path, recwarn):
    with pytest.raises(ValueError, match=say):
        read(FFS | change, tmp_path)


def test_our_own_files_are_not_taken_for_the_originals(tmp_path, recwarn):
    for config in PRESETS.values():
        assert read(asdict(config), tmp_path) == config
    with pytest.raises(ValueError, match="unknown key 'dataset'"):
        read({"data": "x", "vae": "y", "dataset": "ffs"}, tmp_path)
    assert not recwarn.list


def test_an_original_config_trains_unchanged(videos, vae, tmp_path, capsys):
    shutil.copytree(vae, tmp_path / "Latte/vae")
    small = {"num_frames": 4, "image_size": 16, "frame_interval": 2, "max_train_steps": 1, "local_batch_size": 2}
    small |= {"num_workers": 0}
    theirs = FFS | small | {"data_path": str(videos), "pretrained_model_path": str(tmp_path / "Latte")}
    (tmp_path / "ffs.yaml").write_text(yaml.safe_dump(theirs))
    tiny = ["model.depth=2", "model.hidden_size=16", "model.num_heads=2", "clips=3"]
    words = ["train", "--config", str(tmp_path / "ffs.yaml"), "--run"]
    assert main([*words, str(tmp_path / "run"), *tiny]) == 0
    assert read_json(tmp_path / "run/final/config.json")["num_classes"] == 0  # the two folders are not classes
    assert "latte train: warning: attention_bias: ignored: it had no effect" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "other"), *tiny, "data=nowhere"]) == 2
    assert not (tmp_path / "other").exists()
