"""Changed data is detected, whatever its size and times, and unchanged data is not read again."""

import json
import os
import shutil

import pytest
from forks import start_together, status
from PIL import Image
from small_runs import run, small

from latte.cli import main
from latte.files import read_json, write_json
from latte.train import checkpoint
from latte.train.data import content_digests
from latte.train.data.content_digests import ContentDigests
from latte.train.data.folders import open_clips
from latte.train.data.video_list import open_video_list
from latte.weights.manifest import MANIFEST, write_manifest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def change(path):
    """Change a byte in the middle of a file, in place, and restore its modification time."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_digests_are_cached_until_the_content_changes(tmp_path, monkeypatch):
    root, read = tmp_path / "data", []
    (root / "frames").mkdir(parents=True)
    for name in ("a.mp4", os.fsdecode(b"caf\xe9.mp4")):
        (root / name).write_bytes(b"video " * 20)
    Image.new("RGB", (4, 4)).save(root / "frames/1.png")
    digest = content_digests.digest
    monkeypatch.setattr(content_digests, "digest", lambda path: read.append(path.name) or digest(path))

    def digests():
        read.clear()
        with ContentDigests(root) as known:
            return [known.of(path) for path in sorted(root.iterdir())]

    first = digests()
    assert digests() == first and len(read) == 3  # newly written files may change within the same clock tick
    monkeypatch.setattr("latte.weights.manifest.CLOCK_TICK", -1)
    digests()
    assert digests() == first and read == []
    change(root / "a.mp4")
    assert digests()[0] != first[0] and read == ["a.mp4"]
    (root / "frames/1.png").rename(root / "frames/2.png")
    assert digests()[2] != first[2] and read == ["2.png"]
    for damaged in ("{}", '{"a.mp4": [1, 2]}', "no", "[]"):
        content_digests.cache_file(root).write_text(damaged)
        assert digests()[1:2] == first[1:2]
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert digests()[1:2] == first[1:2] and len(read) == 3


def test_an_older_run_resumes_and_a_changed_video_of_the_same_size_is_detected(vae, videos, tmp_path):
    data = shutil.copytree(videos, tmp_path / "data")
    folder, words = tmp_path / "run", f"data={data}"
    run(small(vae, "steps=1", words), folder)
    saved, clips = checkpoint.latest(folder), open_clips(small(vae, words))
    state = read_json(saved / "state.json")
    assert state["data"]["clips"] == clips.fingerprint != clips.former_fingerprint
    state["data"]["clips"] = clips.former_fingerprint
    write_json(saved / "state.json", state)
    write_manifest(saved, sorted(path.name for path in saved.iterdir() if path.name != MANIFEST))
    run(small(vae, "steps=2", words), folder)
    assert read_json(checkpoint.latest(folder) / "state.json")["data"]["clips"] == clips.fingerprint
    changed = bytearray((data / "a/y.mkv").read_bytes())
    changed[-1] ^= 1  # in the index after the frames: it decodes as before
    (data / "a/y.mkv").write_bytes(changed)
    with pytest.raises(ValueError, match=r"different data \(the videos\)"):
        run(small(vae, "steps=2", words), folder)


def test_a_prepared_list_records_content_digests(vae, videos, tmp_path):
    """A list of an earlier version does not, but gives the same fingerprint as long as nothing changed."""
    data = shutil.copytree(videos, tmp_path / "data")
    words = ["prepare", "folder", str(data), "--num-frames=4"]
    assert main([*words, "--out", str(tmp_path / "list")]) == 0
    assert main([*words, "--out", str(tmp_path / "quick"), "--quick"]) == 0
    full, quick = open_video_list(tmp_path / "list"), open_video_list(tmp_path / "quick")
    assert all(len(video.sha256) == 64 for video in full.videos) and not any(video.sha256 for video in quick.videos)
    assert full.former_fingerprint == quick.former_fingerprint == quick.fingerprint != full.fingerprint
    clips = {name: open_clips(small(vae, f"data={tmp_path / name}")) for name in ("list", "quick")}
    assert clips["list"].fingerprint == clips["quick"].fingerprint == full.fingerprint
    change(data / "b/z.mkv")
    changed = {name: open_clips(small(vae, f"data={tmp_path / name}")) for name in ("list", "quick")}
    assert changed["quick"].fingerprint != full.fingerprint
    with pytest.raises(ValueError, match=r"1 of 3 videos has changed; .*b/z\.mkv has different content: run `latte pr"):
        _ = changed["list"].fingerprint
    values = json.loads((tmp_path / "list/index.json").read_text())
    values["videos"][0]["sha256"] = "0"
    (tmp_path / "list/index.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="is damaged or was edited"):
        open_video_list(tmp_path / "list")


def test_resuming_does_not_read_all_data_again(videos, tmp_path, monkeypatch):
    """A video is read again only if it was written to."""
    monkeypatch.setattr("latte.weights.manifest.CLOCK_TICK", -1)
    config = small("x", f"data={videos}")
    first = open_clips(config).fingerprint
    monkeypatch.setattr(content_digests, "digest", lambda path: pytest.fail(f"{path} was read again"))
    assert open_clips(config).fingerprint == first


def test_all_processes_name_the_video_that_changed(vae, videos, tmp_path):
    data = shutil.copytree(videos, tmp_path / "data")
    assert main(["prepare", "folder", str(data), "--num-frames=4", "--out", str(tmp_path / "list")]) == 0
    change(data / "b/z.mkv")
    config = small(vae, f"data={tmp_path / 'list'}", "steps=1", "micro_batch_size=2")
    pids = start_together(2, lambda: run(config, tmp_path / "run"), tmp_path / "log")
    assert [status(pid) for pid in pids] == [1, 1] and not (tmp_path / "run").exists()
    assert (tmp_path / "log").read_text().count("b/z.mkv has different content: run `latte prepare` again\n") == 2
