"""What values mean in a settings file and on the command line, and what no file may hold."""

import re
from dataclasses import asdict

import pytest
import yaml

from latte.train.resolve import resolve

LOOKS_LIKE_OTHERS = [
    "clips #2",
    "1e3",
    "null",
    "yes",
    "007",
    "12:30",
    "2024-13-45",
    "[a]",
    "{a",
    "a: b",
    '"q"',
    " x ",
]


@pytest.mark.parametrize("text", LOOKS_LIKE_OTHERS)
def test_a_value_of_a_text_setting_is_text(text, tmp_path):
    """Always on the command line; in a file, as YAML quotes it, and unquoted whatever YAML would read in it."""
    config = resolve("folder-vae", [f"data={text}"])
    assert config.data == text
    written = tmp_path / "config.yaml"
    written.write_text(yaml.safe_dump(asdict(config)))
    assert resolve(str(written), []) == config
    if not re.search(r'[#{["]|: |^ ', text):
        written.write_text(f"kind: vae\ndata: {text}\n")
        assert resolve(str(written), []).data == text


def test_only_paths_expand_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = ("data", "vae", "latents", "init", "eval_real", "eval_i3d")
    values = asdict(resolve("folder", ["eval_every=1", *(f"{name}=~/{name}" for name in paths)]))
    assert [values[name] for name in paths] == [f"/home/me/{name}" for name in paths]
    (tmp_path / "a.yaml").write_text("data: ~/videos\nvae: ~\n")
    assert resolve(str(tmp_path / "a.yaml"), []).data == "/home/me/videos"
    with pytest.raises(ValueError, match="precision is '~/fp32'"):
        resolve("folder", ["precision=~/fp32"])
    assert resolve("folder-vae", ["data=a~/~"]).data == "a~/~"


NUMBERS = {"010": 10, "0070": 70, "08": 8, "1_000": 1000, "+5": 5, "0x1f": 31, '"12"': 12}


FRACTIONS = {"010": 10, "1e-4": 1e-4, "0.5": 0.5, "00.25": 0.25, ".5": 0.5, "1.": 1, "2_0.5E+1": 205, '"0.125"': 0.125}


@pytest.mark.parametrize("in_file", [False, True])
def test_numbers_are_decimal_in_settings_and_in_tables(in_file, tmp_path):
    def read(name, text):
        if not in_file:
            return resolve("folder", ["vae=x", f"{name}={text}"])
        table, dot, inner = name.partition(".")
        (tmp_path / "a.yaml").write_text(f"vae: x\n{table}: " + (f"{{{inner}: {text}}}" if dot else text))
        return resolve(str(tmp_path / "a.yaml"), [])

    for text, value in NUMBERS.items():
        assert read("steps", text).steps == value
        plain = value if text[0] != '"' else text.strip('"')
        assert read("model.depth", text).model["depth"] == plain
    for text, value in FRACTIONS.items():
        assert read("weight_decay", text).weight_decay == value and type(read("clip_grad", text).clip_grad) is float
        if text[0] != '"':
            assert read("model.dropout", text).model["dropout"] == value
    for text in ("1:30", "1:30.5", "0b11", "0o17", "1__0", "1e", "!!float 1:30", "!!int 1:30", "2024-01-01"):
        for name in ("steps", "weight_decay"):
            with pytest.raises(ValueError, match=f"{name}|invalid literal|could not convert"):
                read(name, text)
    assert read("model.x", "1:30").model["x"] == "1:30"  # no field of a network accepts it
    with pytest.raises(ValueError, match="gives 'depth' twice"):
        read("model", "{depth: 2, depth: 4}")


BAD_YAML = {
    "holds a value that contains itself": "x: &a [*a]",
    "more than 50 deep": "a: " + 60_000 * "[",
    "more than 10,000 values": "a0: &a0 [x,x,x]\n"
    + "".join(f"a{i + 1}: &a{i + 1} [*a{i},*a{i},*a{i}]\n" for i in range(12)),
    "has 300,001 bytes": "a: " + 299_998 * "b",
    "holds a value of 5,000 characters": "vae: x\nmodel: {depth: " + 5000 * "9" + "}",
    "seed is a number with thousands of digits": "vae: x\nseed: 0x" + 4000 * "f",
    "learning_rate is 9": "vae: x\nlearning_rate: " + 400 * "9",
    "kind is": "kind: [" + 900 * "a," + "]",
    "gives 'vae' twice": "vae: x\nvae: y",
    "month must be in": "vae: x\nmodel: {depth: 2024-13-45}",
    "is not valid YAML: invalid literal for int": 'vae: x\nmodel: {depth: !!int ""}',
    "is not valid YAML in line 2": "vae: x\nmodel: !!python/object:os.system {}",
    "does not hold settings by name": "? [a]\n: 3",
}


@pytest.mark.parametrize("say", BAD_YAML)
def test_hostile_yaml_gives_a_short_one_line_error(say, tmp_path):
    (tmp_path / "a.yaml").write_text(BAD_YAML[say])
    with pytest.raises(ValueError, match=re.escape(say)) as caught:
        resolve(str(tmp_path / "a.yaml"), [])
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    if "\n" not in BAD_YAML[say] and say != "kind is":
        with pytest.raises(ValueError):
            resolve("folder", [f"model={{{BAD_YAML[say]}}}"])


def test_aliases_and_other_encodings_of_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("<<: &all {steps: 7, vae: x}\nmodel: &m {depth: 3}\n")
    config = resolve(str(path), [])
    assert (config.steps, config.vae, config.model) == (7, "x", {"depth": 3})
    for encoding in ("utf-16", "utf-8-sig"):
        path.write_bytes("vae: café".encode(encoding))
        assert resolve(str(path), []).vae == "café"
    path.write_bytes("vae: café".encode("latin-1"))
    with pytest.raises(ValueError, match="is not valid YAML"):
        resolve(str(path), [])
