"""T5's vocabulary from a tokenizer.json: the pieces, scores and text rules of its SentencePiece model, unchanged.

The tokenizers library stores them in its own form. They are written here as the message that SentencePiece reads
(ModelProto in sentencepiece_model.proto), so that SentencePiece itself splits the text.
"""

import base64
import math
import struct
from pathlib import Path
from typing import Any

from latte.files import read_json

SPECIAL = ("<pad>", "</s>", "<unk>")  # T5's first pieces
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # types of pieces
TYPES = (CONTROL, CONTROL, UNKNOWN)  # of SPECIAL
EXTRA = "<extra_id_"  # starts the names of the blanks in T5's training texts, which no prompt has
HARMLESS = ("Precompiled", "Strip", "Replace")  # kinds of text rules; SentencePiece drops surplus spaces by itself


def vocabulary_from_json(path: Path) -> bytes:
    """Read a tokenizer.json.

    Returns:
        The vocabulary as the content of a spiece.model file.

    Raises:
        ValueError: It is not a vocabulary of T5's kind; the message says what it is.
    """
    values = read_json(path)
    model = values.get("model")
    kind = model.get("type", "Unigram") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != "Unigram":
        raise ValueError(f"{path} holds a tokenizer of type {kind!s:.20}; T5's is of type Unigram")
    pieces = model.get("vocab")
    if not isinstance(pieces, list) or not all(map(is_piece, pieces)) or tuple(p[0] for p in pieces[:3]) != SPECIAL:
        raise ValueError(f"{path} is not a T5 vocabulary: its first pieces are not {', '.join(SPECIAL)}")
    pieces = [(text, score) for text, score in pieces if not text.startswith(EXTRA)]
    added = [str(token.get("content")) for token in items(values, "added_tokens")]
    if odd := [name for name in added if name not in SPECIAL and not name.startswith(EXTRA)]:
        raise ValueError(f"{path} has the added token {odd[0]!r:.40}, which T5 does not have; give a spiece.model file")
    rules = [rule for rule in steps(values, "normalizer", "normalizers")]
    odd_rules = {rule.get("type") for rule in rules} - set(HARMLESS)
    tables = [rule for rule in rules if rule.get("type") == "Precompiled"]
    spaces = [step for step in steps(values, "pre_tokenizer", "pretokenizers") if step.get("type") == "Metaspace"]
    prefixed = (
        spaces and spaces[0].get("prepend_scheme", "always") != "never" and spaces[0].get("add_prefix_space", True)
    )
    if odd_rules or len(tables) != 1 or not prefixed or model.get("byte_fallback"):
        raise ValueError(f"{path} does not prepare text as SentencePiece does for T5; give a spiece.model file")
    try:
        table = base64.b64decode(tables[0].get("precompiled_charsmap", ""), validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the table of characters (precompiled_charsmap) is damaged") from error
    return model_message(pieces, table)


def is_piece(entry: Any) -> bool:
    """Whether this is a piece: its text and its score."""
    if not isinstance(entry, list) or len(entry) != 2:
        return False
    text, score = entry
    return isinstance(text, str) and isinstance(score, int | float) and math.isfinite(score) and abs(score) < 1e38


def items(values: dict, name: str) -> list[dict]:
    """The tables in the list values[name]; none if there is no such list."""
    found = values.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def steps(values: dict, name: str, inside: str) -> list[dict]:
    """The steps of a part of the tokenizer, which is one step or a Sequence of them."""
    part = values.get(name)
    if not isinstance(part, dict):
        return []
    return items(part, inside) if part.get("type") == "Sequence" else [part]


def model_message(pieces: list[tuple[str, float]], table: bytes) -> bytes:
    """Write a ModelProto: pieces (field 1), ids of the special ones (2), and rules for the text (3)."""
    types = [*TYPES, *[NORMAL] * len(pieces)]
    entries = [
        field(1, field(1, text.encode(errors="replace")) + field(2, float(score)) + field(3, kind))
        for (text, score), kind in zip(pieces, types)
    ]
    ids = {3: 1, 4: len(pieces), 40: 2, 41: -1, 42: 1, 43: 0}  # unigram, size, and ids of unknown, start, end, padding
    training = field(2, b"".join(field(number, value) for number, value in ids.items()))
    rules = {3: 1, 4: 1, 5: 1}  # a space before the text, no surplus spaces, spaces as a visible character
    return (
        b"".join(entries)
        + training
        + field(3, field(2, table) + b"".join(field(number, value) for number, value in rules.items()))
    )


def field(number: int, value: bytes | float) -> bytes:
    """One field of a protobuf message: bytes, a number of 32 bits (float) or an integer."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value % (1 << 64))


def varint(value: int) -> bytes:
    """An integer in protobuf's form: seven bits a byte, the lowest first."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
