"""Prompts to token ids, by a SentencePiece vocabulary as T5 uses it."""

import io
import warnings
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from torch import Tensor

from latte.files import replacing
from latte.text.caption import clean
from latte.weights.tensors import CheckpointError

PAD, END = 0, 1  # T5's ids
VOCABULARY_FILE = "spiece.model"


def train_vocabulary(captions: list[str], most: int = 8000) -> bytes:
    """A SentencePiece vocabulary (unigram, as T5's) of at most so many pieces, a function of the captions alone.

    ValueError: there is nothing to make one of.
    """
    texts = [clean(caption) for caption in captions]
    if not any(texts):
        raise ValueError("there are no captions to make a vocabulary of")
    file = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=file, vocab_size=most, hard_vocab_limit=False, num_threads=1,
        pad_id=PAD, eos_id=END, unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    return file.getvalue()


class Tokenizer:
    """Text to ids of a vocabulary, a file's or one that train_vocabulary made; special tokens in a text are text.

    CheckpointError: there is no such file, or it is no vocabulary of T5's kind.
    """

    def __init__(self, path: str | Path | bytes):
        if isinstance(path, bytes):
            self.pieces = SentencePieceProcessor(model_proto=path)
            return
        path = Path(path)
        path = path / VOCABULARY_FILE if path.is_dir() else path
        if not path.is_file():
            raise CheckpointError(f"no vocabulary at {path}")
        try:
            self.pieces = SentencePieceProcessor(model_file=str(path))
        except RuntimeError as error:
            raise CheckpointError(f"{path} is damaged or is not a SentencePiece vocabulary") from error
        if (self.pieces.pad_id(), self.pieces.eos_id()) != (PAD, END):
            raise CheckpointError(f"{path} is no vocabulary of T5's kind: its padding is not 0, or its end not 1")

    def __len__(self) -> int:
        return self.pieces.get_piece_size()

    @property
    def vocabulary(self) -> bytes:
        """As train_vocabulary gives one, and a file holds it."""
        return self.pieces.serialized_model_proto()

    def save(self, folder: Path) -> None:
        """Write the vocabulary as a folder that Tokenizer reads."""
        with replacing(folder / VOCABULARY_FILE) as draft:
            draft.write_bytes(self.vocabulary)

    def __call__(self, prompts: list[str], max_length: int = 120, clean_caption: bool = True) -> tuple[Tensor, Tensor]:
        """ids and mask (n, max_length), each prompt ended by END and filled up with PAD, where the mask is 0.

        clean_caption: see latte.text.caption; else prompts are only lowered and stripped. A prompt that is
        too long is cut,
        with a warning that quotes what was. ValueError: max_length below 1.
        """
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}; a prompt takes 1 token or more")
        ids = torch.full((len(prompts), max_length), PAD)
        for row, prompt in zip(ids, prompts):
            tokens = self.pieces.encode(clean(prompt) if clean_caption else prompt.lower().strip())
            kept, cut = tokens[: max_length - 1], tokens[max_length - 1 :]
            if cut:
                lost = self.pieces.decode(cut)
                warnings.warn(f"a prompt takes {max_length} tokens at most; cut off: {lost!r}", stacklevel=2)
            row[: len(kept) + 1] = torch.tensor([*kept, END])
        return ids, (ids != PAD).long()
