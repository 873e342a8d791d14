"""The list of videos that `latte prepare` writes: its fingerprint, and lists that training rejects."""

import json
import shutil

import pytest

from latte.train.data.prepare_videos import ClipRule, prepare_data_set
from latte.train.data.video_list import open_video_list


def listed(data, out):
    prepare_data_set("folder", data, out, ClipRule(num_frames=4))
    return out


def test_the_fingerprint_does_not_depend_on_the_location_of_the_videos(videos, tmp_path):
    data = shutil.copytree(videos, tmp_path / "data")
    listed(data, tmp_path / "out")
    first = open_video_list(tmp_path / "out").fingerprint
    shutil.move(data, tmp_path / "moved")
    listed(tmp_path / "moved", tmp_path / "out")
    assert open_video_list(tmp_path / "out").fingerprint == first
    (tmp_path / "moved/a/x.txt").write_text("a shape")
    listed(tmp_path / "moved", tmp_path / "out")
    assert open_video_list(tmp_path / "out").fingerprint != first


def test_damaged_and_outdated_lists_are_rejected(videos, tmp_path):
    data = shutil.copytree(videos, tmp_path / "data")
    listed(data, tmp_path / "out")
    file = tmp_path / "out/index.json"
    values = json.loads(file.read_text())

    def changed(**change):
        file.write_text(json.dumps({**values, **change}))
        return file

    with pytest.raises(FileNotFoundError, match=r"no list of videos at .*nowhere"):
        open_video_list(tmp_path / "nowhere")
    first, *rest = values["videos"]
    for change, message in [
        ({"format": "other"}, "is not a list of videos by `latte prepare`"),
        ({"classes": ["b", "a"]}, "is damaged or was edited"),
        ({"classes": "ab"}, "is damaged"),
        ({"videos": [{**first, "frames": 99}, *rest]}, "is damaged"),
        ({"videos": [{**first, "frames": "12"}, *rest]}, "is damaged"),
        ({"videos": [{**first, "class": 2}, *rest]}, "is damaged"),
        ({"videos": [{**first, "more": 1}, *rest]}, "is damaged"),
        ({"videos": [{"path": "a"}]}, "is damaged"),
        ({"videos": ["a"]}, "is damaged"),
        ({"videos": rest}, "is damaged"),
        ({"videos": [{**first, "path": "../x.mkv"}, *rest]}, "'../x.mkv' leads out of the folder"),
        ({"videos": [{**first, "path": "/etc/x.mkv"}, *rest]}, "'/etc/x.mkv' leads out of the folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_video_list(changed(**change))
    file.write_text(json.dumps(values)[:-9])
    with pytest.raises(ValueError, match=r"index\.json is not valid JSON"):
        open_video_list(file)
    changed()
    with (data / "a/y.mkv").open("ab") as video:
        video.write(b"more")
    with pytest.raises(ValueError, match=r"1 of 3 videos has changed; .*a/y\.mkv has \d+ bytes, not \d+"):
        open_video_list(file)
    (data / "a/x.mkv").unlink()
    with pytest.raises(ValueError, match=r"2 of 3 videos .*a/x\.mkv is missing: run `latte prepare` again"):
        open_video_list(file)
    assert len(open_video_list(file, verify_files=False).videos) == 3
    shutil.rmtree(data)
    with pytest.raises(FileNotFoundError, match="which does not exist: run `latte prepare` again"):
        open_video_list(file)
