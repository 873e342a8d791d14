"""Token ids of prompts, from a SentencePiece vocabulary like T5's."""

import io
import warnings
from pathlib import Path

import torch
from torch import Tensor

from latte.files import CheckpointError, refuse_pointer, replacing
from latte.text.caption import clean
from latte.text.tokenizer_json import vocabulary_from_json

PAD, END = 0, 1  # ids of T5's padding and end of text
VOCABULARY_FILE, JSON_FILE = "spiece.model", "tokenizer.json"


def train_vocabulary(captions: list[str], most: int = 8000) -> bytes:
    """Train a SentencePiece vocabulary (a unigram model, like T5's). It depends on the captions alone.

    Args:
        captions: The texts to train on, which are cleaned first.
        most: The largest number of pieces.

    Returns:
        The vocabulary as the content of a spiece.model file.

    Raises:
        ValueError: There is no text to train on.
    """
    from sentencepiece import SentencePieceTrainer  # only texts need it

    texts = [clean(caption) for caption in captions]
    if not any(texts):
        raise ValueError("there are no captions to train a vocabulary on; give at least one that is not empty")
    file = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=file, vocab_size=most, hard_vocab_limit=False, num_threads=1,
        pad_id=PAD, eos_id=END, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return file.getvalue()


def read_vocabulary(path: Path) -> tuple[Path, bytes]:
    """Read a vocabulary: a spiece.model file or a tokenizer.json, or a folder that holds either.

    Returns:
        The file, and the vocabulary as the content of a spiece.model file.

    Raises:
        CheckpointError: There is no such file, or it is a Git LFS pointer or a tokenizer of another kind.
    """
    files = [path / VOCABULARY_FILE, path / JSON_FILE] if path.is_dir() else [path]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        inside = ", ".join(sorted(other.name for other in path.iterdir())[:5]) if path.is_dir() else ""
        found = f", only {inside}" if inside else ""
        raise CheckpointError(
            f"no vocabulary at {files[0]}{found}; give the {VOCABULARY_FILE} or the {JSON_FILE} of T5 v1.1, or the "
            "folder that holds it"
        )
    refuse_pointer(file)
    if file.suffix.lower() != ".json":
        return file, file.read_bytes()
    try:
        return file, vocabulary_from_json(file)
    except ValueError as error:
        raise CheckpointError(error) from error


class Tokenizer:
    """Turns prompts into token ids. The names of special tokens, such as "</s>", are ordinary text in a prompt.

    Args:
        path: A spiece.model file, a tokenizer.json of T5, a folder that holds either, or a vocabulary from
            train_vocabulary.

    Raises:
        CheckpointError: There is no such file, it is damaged, or it is not a vocabulary of T5's kind.
    """

    def __init__(self, path: str | Path | bytes):
        from sentencepiece import SentencePieceProcessor  # only texts need it

        name, vocabulary = ("the vocabulary", path) if isinstance(path, bytes) else read_vocabulary(Path(path))
        try:
            self.pieces = SentencePieceProcessor(model_proto=vocabulary)
        except Exception as error:  # SentencePiece's reader raises several types
            raise CheckpointError(f"{name} is damaged or is not a SentencePiece vocabulary") from error
        if (self.pieces.pad_id(), self.pieces.eos_id()) != (PAD, END):
            raise CheckpointError(f"{name} is not a T5 vocabulary: its padding and end ids are not {PAD} and {END}")

    def __len__(self) -> int:
        """The number of pieces."""
        return self.pieces.get_piece_size()

    @property
    def vocabulary(self) -> bytes:
        """The vocabulary as the content of a spiece.model file."""
        return self.pieces.serialized_model_proto()

    def save(self, folder: Path) -> None:
        """Write the vocabulary to a folder, as the file spiece.model."""
        with replacing(folder / VOCABULARY_FILE) as draft:
            draft.write_bytes(self.vocabulary)

    def __call__(self, prompts: list[str], max_length: int = 120, clean_caption: bool = True) -> tuple[Tensor, Tensor]:
        """Tokenize prompts.

        Args:
            prompts: n texts. One that is too long is truncated, with a warning that quotes the lost part.
            max_length: The number of ids per prompt, including END.
            clean_caption: Clean prompts as latte.text.caption does; otherwise only lower-case and strip them.

        Returns:
            ids (n, max_length), where each prompt ends with END and is padded with PAD, and a mask of the same shape,
            which is 0 at padding and 1 elsewhere.

        Raises:
            ValueError: max_length is below 1.
        """
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}; it must be 1 or more")
        ids = torch.full((len(prompts), max_length), PAD)
        for row, prompt in zip(ids, prompts):
            tokens = self.pieces.encode(clean(prompt) if clean_caption else prompt.lower().strip())
            kept, cut = tokens[: max_length - 1], tokens[max_length - 1 :]
            if cut:
                lost = self.pieces.decode(cut)
                warnings.warn(f"a prompt takes at most {max_length} tokens; cut off: {lost!r}", stacklevel=2)
            row[: len(kept) + 1] = torch.tensor([*kept, END])
        return ids, (ids != PAD).long()
