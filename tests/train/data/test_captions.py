"""Captions in text files and in tables: where they are found, and how damage is reported."""

import json
import unicodedata
import warnings

import pytest
from small_runs import small_t2v
from tiny_data_sets import put

from latte.train.data import captions as module
from latte.train.data.captions import Captions
from latte.train.data.folders import open_clips
from latte.train.data.video_list import open_video_list

TWO = {"a.mp4": "a dog, running", "sub/b.mp4": "line\none"}
FORMS = {  # of the same two captions
    "captions.json": [
        json.dumps(TWO),
        json.dumps({"./a.mp4": "a dog, running\n", "sub/b": "line\none"}),
        *(
            json.dumps([{name: key, text: value, "id": 3} for key, value in TWO.items()])
            for name in ("file_name", "video", "path")
            for text in ("caption", "text")
        ),
    ],
    "metadata.jsonl": [
        "\n".join(json.dumps({"file_name": key, "text": value}) for key, value in TWO.items()) + "\n\n",
        "\r\n".join(json.dumps({"text": value, "file_name": key}) for key, value in TWO.items()),
    ],
    "metadata.csv": [
        'file_name,text\na.mp4,"a dog, running"\nsub/b.mp4,"line\none"\n',
        'id,text,file_name\r\n1,"a dog, running",a.mp4\r\n\r\n2,"line\none",sub/b.mp4\r\n',
    ],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FORMS.items() for text in texts])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_all_formats_give_the_same_captions(name, text, encoding, tmp_path, recwarn):
    (tmp_path / name).write_bytes(text.encode(encoding))
    captions = Captions(tmp_path)
    assert [captions.of(tmp_path / video) for video in TWO] == ["a dog, running", "line\none"]
    captions.warn_of_unused()
    assert not recwarn.list


def test_a_text_file_in_upper_case(tmp_path):
    (tmp_path / "CLIP.TXT").write_text("a dog")
    assert Captions(tmp_path).of(tmp_path / "CLIP.AVI") == "a dog"


def test_a_dot_in_the_name_of_a_folder_of_frames_starts_no_extension(tmp_path):
    (tmp_path / "captions.json").write_text(json.dumps({"scene": "all", "scene.02": "two", "clip.v1": "first"}))
    (tmp_path / "scene.txt").write_text("all")
    (tmp_path / "scene.01.txt").write_text("one")
    captions = Captions(tmp_path)
    names = ("scene.01", "scene.02", "scene.03", "clip.v1.webm")
    assert [captions.of(tmp_path / name) for name in names] == ["one", "two", "", "first"]


def test_the_nearest_caption_wins(tmp_path):
    """First the text file beside the video, then a table in its folder, then a table in a parent folder."""
    composed, apart = (unicodedata.normalize(form, "s/café.mp4") for form in ("NFC", "NFD"))
    (tmp_path / "s").mkdir()
    (tmp_path / "captions.json").write_text(json.dumps({"s/1.mp4": "1", "s/2.mp4": "2", "s/3.mp4": "3", composed: "é"}))
    (tmp_path / "s/metadata.csv").write_text("file_name,text\n1.mp4,one\n2.mp4,two\n5.mp4,\u2028five\n")
    (tmp_path / "s/1.txt").write_text("own")
    (tmp_path / "s/5.txt").write_text(" \n")
    captions = Captions(tmp_path)
    assert [captions.of(tmp_path / f"s/{n}.mp4") for n in (1, 2, 3, 4, 5)] == ["own", "two", "3", "", "five"]
    assert captions.of(tmp_path / apart) == "é" and Captions(tmp_path / "s").of(tmp_path / "s/3.mp4") == ""


DAMAGED = {
    ("captions.json", '{"a.mp4": "x",\n "b.mp4": }'): r"captions\.json is not valid JSON: Expecting value: line 2",
    ("captions.json", '{"a.mp4": "x", "a.mp4": "y"}'): "'a.mp4' occurs twice",
    ("captions.json", '"x"'): "holds neither captions by name nor a list",
    ("captions.json", 9999 * "["): "is not valid JSON",
    ("captions.json", '[{"path": "a", "text": "x"}, {"path": "b"}]'): "entry 2 has no text, or it is not a text",
    ("captions.json", '{"a": "x", "b": ["y", "z"]}'): "entry 'b' has no text, or it is not a text",
    ("metadata.jsonl", '{"file_name": "a", "text": "x"}\n\n{"file_name"'): r"metadata\.jsonl, line 3 is not valid JSON",
    ("metadata.jsonl", '{"file_name": "a", "text": "x"}\n{"text": "y"}'): "line 2 has no file_name",
    ("metadata.csv", "file_name,text\na.mp4,x\nb.mp4,one, two\n"): r"metadata\.csv, line 3 has 3 cells, not the 2",
    ("metadata.csv", "file_name,text\na.mp4,x\nb.mp4\n"): "line 3 has 1 cells, not the 2",
    ("metadata.csv", 'file_name,text\na.mp4,"x" y\n'): r"metadata\.csv, line 2: ",
    ("metadata.csv", "file_name,text\na.mp4,x\na.mp4,y\n"): "line 3 gives 'a.mp4' a second caption",
    ("metadata.csv", "file_name,text\na.mp4,caf\udce9\n"): r"metadata\.csv is not a text in UTF-8; save it as one",
    ("metadata.csv", "file_name,text\na.mp4,x\n" + 999 * "\n"): "has 1,022 bytes; more than 1,000 are not read",
}


@pytest.mark.parametrize(("name", "text"), DAMAGED)
def test_damage_is_named_with_its_place(name, text, tmp_path, monkeypatch):
    if "1,000" in DAMAGED[name, text]:
        monkeypatch.setattr(module, "MOST_BYTES", 1000)
    (tmp_path / name).write_text(text, errors="surrogateescape")
    captions = Captions(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match=DAMAGED[name, text]):
            captions.of(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.json", '{"info": {}, "annotations": []}'),
        ("captions.json", "[[1, 2]]"),
        ("metadata.jsonl", "3"),
        ("metadata.csv", "videoid,name\n1,a dog\n"),
    ],
)
def test_files_with_a_table_name_but_other_content_are_ignored(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.warns(UserWarning, match=rf"{name}, (entry|line) .* this file is not read as captions"):
        assert Captions(tmp_path).of(tmp_path / "a.mp4") == ""


def test_several_tables_are_rejected_and_empty_ones_ignored(tmp_path, recwarn):
    (tmp_path / "metadata.csv").touch()
    (tmp_path / "captions.json").mkdir()
    assert Captions(tmp_path).of(tmp_path / "a.mp4") == "" and not recwarn.list
    for name in ("metadata.csv", "metadata.jsonl"):
        (tmp_path / name).write_text(FORMS[name][0])
    with pytest.raises(ValueError, match=r"captions in metadata\.jsonl and metadata\.csv: keep one of them"):
        Captions(tmp_path).of(tmp_path / "a.mp4")


def test_prepare_and_training_take_captions_from_a_table(prepare, vae, tmp_path):
    data = tmp_path / "data"
    for name in ("a.mp4", "sub/b.mp4", "c.mp4"):
        put(data / name)
    (data / "metadata.csv").write_text("file_name,text\na.mp4,a dog\nsub/b.mp4,\nb.mp4,wrong\nc.mp4,a cat\n")
    status, out, err = prepare("folder", data)
    assert status == 0 and "3 videos, no classes, 2 with captions" in out and "1 video has no caption" in out
    assert "1 of 3 captions names none of the videos, such as 'b.mp4'" in err and " ignored " not in out
    assert [video.caption for video in open_video_list(tmp_path / "out").videos] == ["a dog", "a cat", ""]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clips = open_clips(small_t2v(vae, f"data={data}"))
    said = [str(warning.message) for warning in caught]
    assert clips.captions == ["a cat", "a dog"] and len(said) == 2
    assert "'b.mp4'" in said[0] and "1 of 3 videos has no caption, such as " in said[1]
    assert "b.mp4: write it to b.txt beside it, or to captions.json; it is left out" in said[1]


def test_a_video_with_an_unreadable_caption_is_left_out(vae, tmp_path, monkeypatch):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        put(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(f"caption of {name}")

    def read(path):
        if path.name == "b.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return path.read_text()

    monkeypatch.setattr(module, "read_utf8", read)
    with pytest.warns(UserWarning, match=r"left out: .*Permission denied: .*b\.txt"):
        clips = open_clips(small_t2v(vae, f"data={tmp_path}"))
    assert clips.captions == ["caption of a.mp4", "caption of c.mp4"]
