"""The list of videos that `latte prepare` writes and training reads: what it vouches for, and what is refused."""

import json
import shutil

import pytest

from latte.train.data.survey import Rule, prepare
from latte.train.data.video_list import open_index


def listed(data, out):
    prepare("folder", data, out, Rule(num_frames=4))
    return out


def test_the_fingerprint_is_of_the_videos_not_of_their_place(videos, tmp_path):
    data = shutil.copytree(videos, tmp_path / "data")
    listed(data, tmp_path / "out")
    first = open_index(tmp_path / "out").fingerprint
    shutil.move(data, tmp_path / "moved")
    listed(tmp_path / "moved", tmp_path / "out")
    assert open_index(tmp_path / "out").fingerprint == first
    (tmp_path / "moved/a/x.txt").write_text("a shape")
    listed(tmp_path / "moved", tmp_path / "out")
    assert open_index(tmp_path / "out").fingerprint != first


def test_lists_that_are_refused(videos, tmp_path):
    data = shutil.copytree(videos, tmp_path / "data")
    listed(data, tmp_path / "out")
    file = tmp_path / "out/index.json"
    values = json.loads(file.read_text())

    def changed(**change):
        file.write_text(json.dumps({**values, **change}))
        return file

    with pytest.raises(FileNotFoundError, match=r"no list of videos at .*nowhere"):
        open_index(tmp_path / "nowhere")
    first, *rest = values["videos"]
    for change, say in [
        ({"format": "other"}, "is not a list that `latte prepare` wrote"),
        ({"classes": ["b", "a"]}, "is damaged or was changed by hand"),
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
        with pytest.raises(ValueError, match=say):
            open_index(changed(**change))
    file.write_text(json.dumps(values)[:-9])
    with pytest.raises(ValueError, match=r"index\.json is not valid JSON"):
        open_index(file)
    changed()
    with (data / "a/y.mkv").open("ab") as video:
        video.write(b"more")
    with pytest.raises(ValueError, match=r"1 of 3 videos are not what they were; .*a/y\.mkv has \d+ bytes, not \d+"):
        open_index(file)
    (data / "a/x.mkv").unlink()
    with pytest.raises(ValueError, match=r"2 of 3 videos .*a/x\.mkv is gone: prepare it again"):
        open_index(file)
    assert len(open_index(file, check=False).videos) == 3
    shutil.rmtree(data)
    with pytest.raises(FileNotFoundError, match="which is gone: prepare it again"):
        open_index(file)
