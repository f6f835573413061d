"""Captions to word-piece ids, with BERT's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import BertTokenizerFast

from model.errors import InputError

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the ids that masking and batching need."""

    tokenizer: BertTokenizerFast
    size: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    @property
    def special_ids(self) -> tuple[int, ...]:
        return tuple(self.tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL)


@dataclass(frozen=True)
class TokenTable:
    """Ragged token ids: caption i is ids[starts[i]:starts[i + 1]], [CLS] and [SEP] included."""

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        return self.ids[self.starts[index] : self.starts[index + 1]]


def load_vocabulary(path: str | Path) -> Vocabulary:
    """Read a BERT vocabulary file: one word piece a line.

    Raises:
        InputError: the file is missing, lacks a special token or repeats a piece.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"vocabulary {path} is not a file; give a BERT vocab.txt, one word piece a line")
    pieces = file.read_text(encoding="utf-8").splitlines()
    missing = [token for token in _SPECIAL if token not in pieces]
    if missing:
        raise InputError(f"vocabulary {path} lacks {', '.join(missing)}; give a BERT vocab.txt")
    # Positional: the keyword `vocab_file` is silently ignored and leaves five words, everything else [UNK].
    tokenizer = BertTokenizerFast(str(file))
    if len(tokenizer) != len(pieces):
        raise InputError(
            f"vocabulary {path} has {len(pieces)} lines but the tokenizer read {len(tokenizer)}; "
            "remove repeated or empty lines"
        )
    ids = tokenizer.convert_tokens_to_ids
    return Vocabulary(tokenizer, len(pieces), ids("[PAD]"), ids("[CLS]"), ids("[SEP]"), ids("[MASK]"))


def tokenize(vocabulary: Vocabulary, captions: Sequence[str], max_text_tokens: int) -> TokenTable:
    """[CLS] words [SEP] of every caption; longer ones lose their last words, never the [SEP]."""
    if not captions:
        return TokenTable(np.zeros(0, np.int32), np.zeros(1, np.int64))
    rows = vocabulary.tokenizer(
        list(captions),
        truncation=True,
        max_length=max_text_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=starts[1:])
    return TokenTable(np.fromiter((i for row in rows for i in row), np.int32, int(starts[-1])), starts)
