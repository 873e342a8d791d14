"""A tokenizer.json in place of spiece.model: the same ids, or an error that says what it is."""

import base64
import json
import os
import random
from pathlib import Path

import pytest
from published import CAPTIONS

from latte import LattePipeline
from latte.text.tokenizer import Tokenizer, train_vocabulary
from latte.text.tokenizer_json import field, varint
from latte.weights.tensors import CheckpointError

TEXTS = [
    "A red  star,\tmoving LEFT",
    "",
    "  ",
    "naïve café ﬁﬂ Ⅷ ｆｕｌｌ　ｗｉｄｔｈ",
    "</s> <pad> <extra_id_0>",
    "日本語 🎉",
    "a" * 50,
]


def fields(message):
    """The fields of a protobuf message, as (number, value)."""

    def number(at):
        value = shift = 0
        while True:
            byte = message[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value, at

    at = 0
    while at < len(message):
        key, at = number(at)
        if key & 7 == 0:
            value, at = number(at)
        else:
            size, at = (4, at) if key & 7 == 5 else number(at)
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def as_json(vocabulary):
    """What the tokenizers library stores for a vocabulary, as transformers converts it."""
    pieces = Tokenizer(vocabulary).pieces
    rules = next(dict(fields(value)) for number, value in fields(vocabulary) if number == 3)
    vocab = [[pieces.id_to_piece(i), pieces.get_score(i)] for i in range(len(pieces))]
    extra = [f"<extra_id_{i}>" for i in reversed(range(3))]
    spaces = {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": name} for i, name in enumerate(["<pad>", "</s>", "<unk>", *extra])],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(rules[2]).decode()},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]},
        "model": {"type": "Unigram", "unk_id": 2, "vocab": [*vocab, *[[name, 0.0] for name in extra]]},
    }


def same(one, other, texts):
    """Check that two tokenizers give the same ids for texts, cleaned or not."""
    assert len(one) == len(other)
    for cleaned in (True, False):
        assert one(texts, 200, cleaned)[0].equal(other(texts, 200, cleaned)[0])
    assert all(one.pieces.encode(text) == other.pieces.encode(text) for text in texts)


@pytest.fixture(scope="module")
def vocabulary():
    return train_vocabulary(CAPTIONS, 100)


def test_tokenizer_json_gives_the_same_ids_as_spiece_model(vocabulary, published, tmp_path):
    values, rng = as_json(vocabulary), random.Random(0)
    texts = TEXTS + ["".join(rng.choices("red star ▁lfmé\u3000ﬁ,<>", k=rng.randrange(40))) for _ in range(50)]
    for change in (
        {},
        {"normalizer": {"type": "Sequence", "normalizers": [values["normalizer"], {"type": "Strip"}]}},
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}},
        {"model": {name: value for name, value in values["model"].items() if name != "type"}},
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**values, **change}))
        same(Tokenizer(vocabulary), Tokenizer(tmp_path), texts)
    same(Tokenizer(vocabulary), Tokenizer(tmp_path / "tokenizer.json"), texts)
    Tokenizer(tmp_path).save(tmp_path / "saved")
    same(Tokenizer(vocabulary), Tokenizer(tmp_path / "saved"), texts)
    (tmp_path / "spiece.model").write_bytes(b"this comes first")
    with pytest.raises(CheckpointError, match=r"spiece\.model is damaged"):
        Tokenizer(tmp_path)


def test_t5_has_the_same_ids_in_both_forms():
    folder = Path(os.environ.get("LATTE_TEST_DATA", "")) / "t5"
    if not (folder / "tokenizer.json").is_file() or not (folder / "spiece.model").is_file():
        pytest.skip("LATTE_TEST_DATA names no folder with t5/tokenizer.json and t5/spiece.model")
    one, other, rng = Tokenizer(folder / "spiece.model"), Tokenizer(folder / "tokenizer.json"), random.Random(1)
    words = [one.pieces.id_to_piece(rng.randrange(3, len(one))).replace("▁", " ") for _ in range(900)]
    letters = [
        "".join(chr(rng.choice([*range(32, 591), *range(0x3000, 0x30FF)])) for _ in range(30)) for _ in range(99)
    ]
    same(one, other, TEXTS + letters + ["".join(words[i : i + 9]) for i in range(0, 900, 9)])


@pytest.mark.parametrize(
    ("change", "say"),
    [
        (
            lambda v: {"model": {"type": "BPE", "vocab": {}, "merges": []}},
            "a tokenizer of type BPE; T5's is of type Uni",
        ),
        (lambda v: {"model": []}, "a tokenizer of type None"),
        (lambda v: {"model": {"vocab": v["model"]["vocab"][1:]}}, "first pieces are not <pad>, </s>, <unk>"),
        (lambda v: {"model": {"vocab": [*v["model"]["vocab"], ["x", "1"]]}}, "is not a T5 vocabulary"),
        (lambda v: {"model": {"vocab": [*v["model"]["vocab"], ["x", 1e99]]}}, "is not a T5 vocabulary"),
        (lambda v: {"model": {"vocab": [*v["model"]["vocab"], ["x", -1], ["x", -1]]}}, "damaged or is not a Sentence"),
        (lambda v: {"model": {**v["model"], "byte_fallback": True}}, "does not prepare text as SentencePiece does"),
        (lambda v: {"added_tokens": [{"content": "<cat>"}]}, "has the added token '<cat>', which T5 does not have"),
        (lambda v: {"normalizer": {"type": "Lowercase"}}, "does not prepare text as SentencePiece does"),
        (lambda v: {"normalizer": None}, "does not prepare text as SentencePiece does"),
        (lambda v: {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "table of characters"),
        (lambda v: {"normalizer": {"type": "Precompiled", "precompiled_charsmap": 5}}, "table of characters"),
        (lambda v: {"pre_tokenizer": {"type": "Whitespace"}}, "does not prepare text as SentencePiece does"),
        (lambda v: {"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never"}}, "does not prepare text"),
    ],
)
def test_other_tokenizers_are_named(change, say, vocabulary, tmp_path):
    values = as_json(vocabulary)
    (tmp_path / "tokenizer.json").write_text(json.dumps({**values, **change(values)}))
    with pytest.raises(CheckpointError, match=rf"tokenizer\.json.*{say}"):
        Tokenizer(tmp_path)


def test_a_folder_without_a_supported_tokenizer_lists_its_files(published, tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(
        CheckpointError, match=r"spiece\.model, only merges\.txt, vocab\.json; give the spiece\.model or"
    ):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not valid JSON"):
        Tokenizer(tmp_path)


def test_a_pipelines_vocabulary_can_be_a_tokenizer_json(published, tmp_path):
    folder = tmp_path / "model/tokenizer"
    pipe = LattePipeline.from_pretrained(published, transformer=None, vae=None, text_encoder=None)
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(as_json(pipe.tokenizer.vocabulary)))
    same(pipe.tokenizer, Tokenizer(folder), TEXTS)


def test_protobuf_encoding_of_numbers():
    assert [varint(value) for value in (0, 127, 128, 300)] == [b"\0", b"\x7f", b"\x80\x01", b"\xac\x02"]
    assert field(41, -1) == b"\xc8\x02" + b"\xff" * 9 + b"\x01" and field(2, 1.0) == b"\x15\0\0\x80\x3f"
