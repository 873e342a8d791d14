"""Training data: folders of videos, and the content of each slot of a step."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_runs import TINY, run, small, small_t2v

from latte.cli import main
from latte.models.latte import Latte
from latte.models.vae import AutoencoderKL, VideoVAE
from latte.shapes.draw import make_clip
from latte.train.data import decoded_cache
from latte.train.data.batches import Batches
from latte.train.data.folders import open_clips
from latte.train.data.latents import open_data
from latte.train.loop import train
from latte.train.objectives import OBJECTIVES
from latte.train.resolve import resolve
from latte.video.pixels import to_uint8
from latte.video.write import write_video
from latte.weights.vae_folder import load_vae, save_vae


class Recorder(torch.nn.Module):
    """A network that records its inputs."""

    def __init__(self, config):
        super().__init__()
        self.config, self.seen = config, []
        self.denoiser = Latte(config)  # training looks at its blocks

    def forward(self, x, t, y, num_images):
        self.seen.append((x, t, y))
        return torch.cat([x, x], 2)


def test_folder_of_videos(vae, tmp_path):
    for name, motion in (("a/x.mp4", "left"), ("b/y.avi.mkv", "right"), ("b/z.mp4", "up")):
        write_video(make_clip(0, 1, motion, frames=10, size=24).video, tmp_path / "data" / name)
    (tmp_path / "data/a/broken.mp4").write_text("no")
    write_video(make_clip(0, 1, frames=3).video, tmp_path / "data/b/short.mkv")
    config = small(vae, f"data={tmp_path / 'data'}", "frame_interval=2", "steps=2")
    with pytest.warns(UserWarning) as caught:
        clips = open_clips(config)
    assert [str(w.message).partition(", such as ")[0] for w in caught] == [
        f"left out: {tmp_path}/data/a/broken.mp4 cannot be decoded: Invalid data found when processing input",
        f"{tmp_path}/data: 1 of 5 videos has fewer than the 7 frames that a clip needs",
    ]
    assert clips.names == ["a", "b"] and [video.label for video in clips.videos] == [0, 1, 1]
    sample = clips.clip(1, torch.Generator().manual_seed(0))
    assert sample.video.shape == (4, 3, 16, 16) and sample.label == 1
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(ValueError, match=r"short\.mkv with 3; 2 of 5 videos cannot be used, more than failed_share=0"),
    ):
        open_clips(replace(config, failed_share=0.3))
    advice = r" 13 frames that a clip needs, such as .* \(frame_interval=1 would keep 3 of them\); 5 of 5"
    with pytest.warns(UserWarning, match="left out"), pytest.raises(ValueError, match=advice):
        open_clips(replace(config, frame_interval=4))
    train(config, tmp_path / "run", clips)
    assert json.loads((tmp_path / "run/final/classes.json").read_text()) == {"names": ["a", "b"]}


def test_class_folders(vae, tmp_path):
    clip = make_clip(2, 0, frames=12, size=24).video
    for name in ("x.mkv", "raw/y.mkv"):
        write_video(clip, tmp_path / "one" / name)
    clips = open_clips(small(vae, f"data={tmp_path / 'one'}"))
    assert clips.names == [] and clips.num_videos == 2
    for name in ("a/x.mkv", "b/y.mkv"):
        write_video(clip, tmp_path / "two" / name)
    Image.new("RGB", (24, 24)).save(tmp_path / "two/cover.png")
    with pytest.warns(UserWarning, match="left out: 1 video is not in a class folder: .*two$"):
        clips = open_clips(small(vae, f"data={tmp_path / 'two'}"))
    assert clips.names == ["a", "b"] and clips.num_videos == 2
    (tmp_path / "two/cover.png").unlink()
    write_video(make_clip(2, 1, frames=12, size=24).video, tmp_path / "two/b/y.mkv")
    assert open_clips(small(vae, f"data={tmp_path / 'two'}")).fingerprint != clips.fingerprint
    (tmp_path / "two/b").rename(tmp_path / "two/b\u00a0c")
    with pytest.raises(ValueError, match="cannot be printed: rename it"):
        open_clips(small(vae, f"data={tmp_path / 'two'}"))


def test_changed_data_in_the_same_folder_is_rejected(vae, videos, tmp_path):
    data, vae = shutil.copytree(videos, tmp_path / "data"), shutil.copytree(vae, tmp_path / "vae")
    config = small(vae, "steps=2", f"data={data}")
    run(config, tmp_path / "run")
    (data / "b").rename(data / "0")
    with pytest.raises(ValueError, match=r"different data \(the names of classes, the videos\)"):
        run(config, tmp_path / "run")
    (data / "0").rename(data / "b")
    save_vae(VideoVAE(AutoencoderKL(load_vae(vae).config)), vae)
    with pytest.raises(ValueError, match=r"different data \(the VAE\)"):
        run(config, tmp_path / "run")


def test_still_images_of_joint_training(vae):
    """They are frames of other clips with their own classes; labels are dropped for the clip or for all its images."""
    config = small(vae, "global_batch_size=400", "clips=400", "num_images=3", "model.class_dropout_prob=0.5")
    loss = OBJECTIVES["latte"](open_clips(config), config)
    number = torch.arange(400)[:, None] * 4 + torch.arange(4)
    mean = number[:, :, None, None, None].expand(-1, -1, 4, 2, 2).float()
    source = loss.source
    source.mean, source.deviation, source.labels = mean, torch.zeros_like(mean), [i % 8 for i in range(400)]
    source.captions = [""] * 400
    latents = source.batch(0, range(5, 6))
    seen = latents.mean[0, :, 0, 0, 0].long()
    assert torch.equal(seen[:4], number[source.order.index(0, 5)])
    assert torch.equal(latents.labels[0], torch.cat([seen[:1], seen[4:]]) // 4 % 8)
    kept = torch.zeros(1, 4, dtype=torch.bool)
    assert torch.equal(loss.condition(loss.network(), latents.labels, [], kept)["y"], latents.labels)
    recorder = Recorder(loss.network().config)
    loss(recorder, 0, range(400))
    x, t, y = recorder.seen[0]
    assert x.shape == (400, 7, 4, 2, 2) and t.shape == (400,) and y.shape == (400, 4)
    dropped = y == 8
    assert torch.equal(dropped[:, 1], dropped[:, 3])
    assert 0.4 < dropped[:, 0].float().mean() < 0.6 and 0.1 < (dropped[:, 0] & dropped[:, 1]).float().mean() < 0.4


def test_a_logit_normal_timestep_is_the_sigmoid_of_a_normal_draw(vae):
    config = small(vae, "timestep_std=0.5", "timestep_mean=0.4")
    loss = OBJECTIVES["latte"](open_clips(config), config)
    for seed in range(20):
        z = torch.randn((), generator=torch.Generator().manual_seed(seed)).item()
        wanted = math.floor(1000 / (1 + math.exp(-(0.4 + 0.5 * z))))
        assert loss.draw_index(torch.Generator().manual_seed(seed)) == wanted


def test_timesteps_are_uniform_or_logit_normal(vae):
    def drawn(*changes):
        config = small(vae, *changes)
        loss = OBJECTIVES["latte"](open_clips(config), config)
        return torch.stack([loss.draw_index(torch.Generator().manual_seed(i)) for i in range(2000)]).double() / 1000

    uniform, normal = drawn("timestep_std=0", "timestep_mean=0"), drawn("timestep_std=0.5", "timestep_mean=0.4")
    assert abs(uniform.mean() - 0.5) < 0.02 and abs(uniform.std() - 12**-0.5) < 0.01
    logits = torch.logit(normal + 0.0005)
    assert abs(logits.mean() - 0.4) < 0.05 and abs(logits.std() - 0.5) < 0.03
    with pytest.raises(ValueError, match="timestep_mean does nothing with timestep_std=0"):
        small(vae, "timestep_std=0", "timestep_mean=1")


def test_a_slot_does_not_depend_on_the_others(vae):
    config = small(vae, "global_batch_size=1000", "clips=1000", "timestep_std=0", "timestep_mean=0")
    loss = OBJECTIVES["latte"](open_clips(config), config)
    source = loss.source
    source.mean, source.deviation = torch.zeros(1000, 4, 4, 2, 2), torch.ones(1000, 4, 4, 2, 2)
    source.labels, source.captions = [i % 8 for i in range(1000)], [""] * 1000
    recorder = Recorder(loss.network().config)
    loss(recorder, 3, range(1000))
    for slot in (0, 1, 6):
        loss(recorder, 3, range(slot, slot + 1))
        assert all(torch.equal(whole[slot : slot + 1], one) for whole, one in zip(recorder.seen[0], recorder.seen[-1]))
    _, t, y = recorder.seen[0]
    assert 0.07 < (y == 8).float().mean() < 0.13 and set(y.flatten().tolist()) == set(range(9))
    assert t.min() < 20 and t.max() > 980
    loss(recorder, 4, range(2))
    assert not torch.equal(recorder.seen[-1][0], recorder.seen[0][0][:2])


def test_clips_of_a_folder_are_windows_of_its_videos(vae, tmp_path, monkeypatch):
    video = torch.from_numpy(make_clip(0, 1, "left", frames=12, size=16).video)
    write_video(video, tmp_path / "a.mkv")
    write_video(video.flip(0), tmp_path / "b.mkv")
    draw = lambda i, seed, *changes: to_uint8(
        open_clips(small(vae, f"data={tmp_path}", *changes)).clip(i, torch.Generator().manual_seed(seed)).video
    )
    windows = [video[start : start + 8 : 2] for start in range(6)]
    drawn = [draw(0, seed, "frame_interval=2") for seed in range(8)]
    assert {next(i for i, w in enumerate(windows) if torch.equal(w, clip)) for clip in drawn} > {0, 5}
    assert torch.equal(draw(1, 3), draw(3, 3))
    assert any(torch.equal(draw(1, 3), video.flip(0)[start : start + 4]) for start in range(9))
    mirrored = [draw(0, seed, "flip=true", "num_frames=12") for seed in range(12)]
    assert {torch.equal(clip, video) for clip in mirrored} == {True, False}
    assert all(torch.equal(clip, video) or torch.equal(clip, video.flip(-1)) for clip in mirrored)
    kept = draw(0, 5, "image_size=8")
    monkeypatch.setattr(decoded_cache, "CACHE_BYTES", 0)
    assert torch.equal(draw(0, 5, "image_size=8"), kept)
    assert len(open_clips(small(vae, f"data={tmp_path}", "clips=1"))) == 2


def test_a_video_damaged_in_its_middle(vae, videos, tmp_path, monkeypatch):
    """It is left out if it is decoded when the folder is opened; otherwise another video takes its place later."""
    for name in ("a", "b"):
        write_video(make_clip(2, 5, frames=40, size=32).video, tmp_path / f"data/{name}.mp4")
    content = bytearray((tmp_path / "data/a.mp4").read_bytes())
    content[len(content) // 2 : 3 * len(content) // 4] = bytes(3 * len(content) // 4 - len(content) // 2)
    (tmp_path / "data/a.mp4").write_bytes(content)
    config = small(vae, f"data={tmp_path / 'data'}")
    with pytest.warns(UserWarning, match=r"left out: .*a\.mp4"):
        assert open_clips(config).num_videos == 1
    monkeypatch.setattr(decoded_cache, "CACHE_BYTES", 0)
    clips = open_clips(config)
    assert clips.num_videos == 2
    drawn = [clips.clip(0, torch.Generator().manual_seed(seed)) for seed in range(12)]
    failed = [sample for sample in drawn if sample.failed]
    assert failed and all(sample.failed[0][0].name == "a.mp4" for sample in failed)
    assert torch.equal(clips.clip(0, torch.Generator().manual_seed(11)).video, drawn[11].video)
    replaced = r"another video takes its place: .*a\.mp4 (is damaged|cannot be decoded)"  # by the window that is read
    for workers in (0, 2):
        batches = Batches(open_clips(config), replace(config, latents="step", num_workers=workers))
        batches.prepare([range(4)], 0)
        assert (batches.read_ahead is not None) == bool(workers)
        with pytest.warns(UserWarning, match=replaced) as caught:
            for step in range(12):
                batches.batch(step, range(4))
        assert len(caught) == 1 and len(batches.clips.failures.reasons) == 1
    strict = Batches(open_clips(replace(config, failed_share=0.4)), config)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="1 of 2 videos cannot be used, more than"):
        for step in range(12):
            strict.batch(step, range(4))


@pytest.mark.skipif("LATTE_TEST_DATA" not in os.environ, reason="LATTE_TEST_DATA names no folder of real clips")
def test_real_folders(vae, tmp_path):
    root = Path(os.environ["LATTE_TEST_DATA"])
    files = {
        "ucf/ApplyEyeMakeup/v.avi": "ucf101/v_ApplyEyeMakeup_320x240.avi",
        "ucf/Archery/v.avi": "ucf101/v_Archery_320x240.avi",
        "faces/a.mp4": "faces/liveportrait_d18.mp4",
        "faces/b.mp4": "faces/liveportrait_d19.mp4",
    }
    for link, file in files.items():
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / link).symlink_to(root / file)
    for folder, names in (("ucf", ["ApplyEyeMakeup", "Archery"]), ("faces", [])):
        config = small(vae, f"data={tmp_path / folder}", "steps=2", "frame_interval=3")
        clips = open_clips(config)
        assert clips.names == names and clips.num_videos == 2
        assert (train(config, tmp_path / "run" / folder, clips) / "model.safetensors").is_file()


def test_a_prepared_list_gives_the_clips_of_its_folder(vae, videos, tmp_path, monkeypatch):
    data = shutil.copytree(videos, tmp_path / "data")
    (data / "a/broken.mp4").write_text("no")
    words = ["prepare", "folder", str(data), "--out", str(tmp_path / "list"), "--num-frames=4", "--frame-interval=2"]
    assert main(words) == 0
    config = small(vae, f"data={tmp_path / 'list'}", "frame_interval=2", "flip=true")
    listed = open_clips(config)
    with pytest.warns(UserWarning, match=r"left out: .*broken\.mp4"):
        found = open_clips(replace(config, data=str(data)))
    with monkeypatch.context() as patch:
        patch.setattr(decoded_cache, "CACHE_BYTES", 0)
        uncached = open_clips(config)
    assert listed.cache.caches_all and not uncached.cache.caches_all
    assert listed.names == found.names == ["a", "b"] and listed.num_videos == found.num_videos == 3
    for i in range(6):
        random = lambda i=i: torch.Generator().manual_seed(i)
        samples = [clips.clip(i, random()) for clips in (listed, found, uncached)]
        assert all(torch.equal(sample.video, samples[0].video) for sample in samples)
        assert len({sample.label for sample in samples}) == 1
        assert torch.equal(listed.frame(i, random()).video, uncached.frame(i, random()).video)
    with pytest.raises(ValueError, match=r"3 of 3 videos have fewer than the 13 frames .* with 12 and"):
        open_clips(replace(config, num_frames=7, failed_share=0.0))
    (data / "b/z.mkv").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 videos has changed.*is missing"):
        open_clips(config)


def test_names_that_are_not_utf8_and_odd_files_in_training(vae, tmp_path, monkeypatch):
    """The run names them in its files and resumes; pipes are not opened; unread files are counted."""
    data = tmp_path / os.fsdecode(b"data\xe9 #2")
    for name in (b"caf\xe9/\xe9.mkv", b"b/x.mkv", b"b/y\tz.mkv"):
        write_video(make_clip(2, 0, frames=12, size=24).video, data / os.fsdecode(name))
    broken = data / os.fsdecode(b"b/no\xe9\n.mp4")
    broken.write_text("no")
    os.mkfifo(data / "b/pipe.mp4")
    (data / "b/notes.xyz").touch()
    words = [f"data={data}", "clips=3", "frame_interval=2"]
    config = small(vae, *words, "steps=1")
    with pytest.warns(UserWarning) as caught:
        clips = open_clips(config)
    said = "\n".join(str(warning.message) for warning in caught)
    assert "pipe.mp4 is a pipe" in said and "1 file is ignored because of its extension (.xyz)" in said
    assert clips.num_videos == 3 and clips.names == ["b", "caf\\xe9"]
    folder = tmp_path / os.fsdecode(b"run\xe9")
    train(config, folder, clips)
    log = (folder / "failed.txt").read_bytes()
    assert log.count(b"\n") == 1 and b"no\xe9 .mp4\t" in log
    with pytest.warns(UserWarning):
        again = open_clips(resolve(str(folder / "config.yaml"), ["steps=2"]))
    assert again.config.data == str(data)
    train(again.config, folder, again)
    assert (folder / "failed.txt").read_bytes() == log and len(again.failures.reasons) == 1
    words = ["encode", *TINY, *words, f"vae={vae}", "--config", "shapes", "--device", "cpu"]
    latents = tmp_path / os.fsdecode(b"latents\xe9")
    assert main([*words, "--out", str(latents)]) == 0
    assert main([*words, "--out", str(latents)]) == 0
    stored = resolve(str(folder / "config.yaml"), [f"latents={latents}", "steps=1"])
    train(stored, tmp_path / "other", open_data(stored))


def test_captions_that_are_not_utf8_are_left_out(vae, videos, tmp_path):
    data = shutil.copytree(videos, tmp_path / "data")
    for name, encoding in (("a/x", "utf-8-sig"), ("a/y", "utf-16"), ("b/z", "latin-1")):
        (data / f"{name}.txt").write_bytes("a café".encode(encoding))
    with pytest.warns(UserWarning) as caught:
        clips = open_clips(small_t2v(vae, f"data={data}", "failed_share=1"))
    said = "\n".join(str(warning.message) for warning in caught)
    assert clips.captions == ["a café"]
    assert all(f"{name}.txt is not a text in UTF-8; save it as one" in said for name in ("a/y", "b/z"))
