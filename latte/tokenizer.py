"""Prompts to token ids, by a SentencePiece vocabulary as T5 uses it."""

import warnings
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from latte.caption import clean
from latte.files import replacing
from latte.tensors import CheckpointError

PAD, END = 0, 1  # T5's ids
FILE = "spiece.model"


class Tokenizer:
    """Text to ids of a vocabulary file; what looks like a special token in a text is text.

    CheckpointError: there is no such file, or it is no vocabulary of T5's kind.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        path = path / FILE if path.is_dir() else path
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

    def save(self, folder: Path) -> None:
        """Write the vocabulary as a folder that Tokenizer reads."""
        with replacing(folder / FILE) as draft:
            draft.write_bytes(self.pieces.serialized_model_proto())

    def __call__(self, prompts: list[str], max_length: int = 120, clean_caption: bool = True) -> tuple[Tensor, Tensor]:
        """ids and mask (n, max_length), each prompt ended by END and filled up with PAD, where the mask is 0.

        clean_caption: see latte.caption; else prompts are only lowered and stripped. A prompt that is too long is cut,
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
