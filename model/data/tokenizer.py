"""Turn captions into word-piece ids with BERT's own tokenizer."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import tokenizers

from model.config import WordRules
from model.data.bert_tokenizer import bert_tokenizer
from model.data.index import Arrays, load_or_make
from model.data.word_pieces import WordPieces, read_words

if TYPE_CHECKING:
    from model.data.captions import Captions

CONTINUES = "##"
"""How a word piece begins that is not the first of its word. No word begins so: each # is a word of its own."""
_CHUNK = 16_384
_REPORT_SECONDS = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the ids that masking and batching need."""

    tokenizer: tokenizers.Tokenizer
    words: WordPieces
    size: int
    pad_id: int
    sep_id: int
    mask_id: int

    @property
    def digest(self) -> str:
        """Sha256 of all that decides how a caption is cut: pieces and rules."""
        rules = json.loads(self.tokenizer.to_str())
        # Set anew at each call.
        del rules["truncation"], rules["padding"]
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()

    @property
    def special_ids(self) -> tuple[int, ...]:
        ids = (self.tokenizer.token_to_id(token) for token in self.words.rules.special_tokens)
        return tuple(number for number in ids if number is not None)  # `read_words` has checked that all are there.

    def word_numbers(self, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The number of each piece's word in its row, from 0 on (B, T); -1 for [CLS], [SEP], [MASK] and padding.

        A word is what BERT's basic tokenizer calls so: punctuation marks are words, [UNK] is one.
        """
        numbers: npt.NDArray[np.int64] = np.cumsum(self.begins_word[ids], axis=-1, dtype=np.int64) - 1
        return np.where(self._is_mark[ids], -1, numbers)

    @cached_property
    def begins_word(self) -> npt.NDArray[np.bool_]:
        """Which pieces (V,) are the first of a word."""
        continues = np.array([piece.startswith(CONTINUES) for piece in self.words.pieces])
        return ~continues & ~self._is_mark

    @cached_property
    def _is_mark(self) -> npt.NDArray[np.bool_]:
        is_mark = np.zeros(self.size, np.bool_)
        is_mark[list(self.special_ids)] = True
        is_mark[self.tokenizer.token_to_id(self.words.rules.unk_token)] = False
        return is_mark


@dataclass(frozen=True)
class TokenTable:
    """Ragged token ids: caption i is ids[starts[i]:starts[i + 1]], [CLS] and [SEP] included."""

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> npt.NDArray[np.int32]:
        return self.ids[self.starts[index] : self.starts[index + 1]]


def load_vocabulary(source: str | Path, rules: WordRules | None = None) -> Vocabulary:
    """Load word pieces, and the rules by which captions are cut into them.

    Args:
        source: a BERT vocab.txt, one word piece a line; a folder that has one; or a name on the Hugging Face hub.
        rules: to go by, instead of those stated beside the pieces (see `model.data.word_pieces`).

    Raises:
        InputError: as `read_words`.
    """
    words = read_words(source, rules)
    numbered = {piece: number for number, piece in enumerate(words.pieces)}
    tokenizer = bert_tokenizer(numbered, **words.rules.model_dump())
    pad, _, _, sep, mask = (numbered[token] for token in words.rules.special_tokens)
    return Vocabulary(tokenizer, words, len(words.pieces), pad, sep, mask)


def load_tokens(vocabulary: Vocabulary, captions: Captions, max_text_tokens: int) -> TokenTable:
    """Tokenize a split's captions, or load what an earlier run kept of it.

    Raises:
        InputError: the cache folder cannot be written.
    """
    if captions.digest is None:
        return tokenize(vocabulary, captions.texts, max_text_tokens)
    identity = tokens_identity(vocabulary, captions.digest, max_text_tokens)

    def make() -> Arrays:
        table = tokenize(vocabulary, captions.texts, max_text_tokens)
        return {"ids": table.ids, "starts": table.starts}

    arrays = load_or_make(captions.index_folder, "tokens", identity, make)
    return TokenTable(arrays["ids"], arrays["starts"])


def tokens_identity(vocabulary: Vocabulary, captions_digest: str, max_text_tokens: int) -> dict[str, str]:
    """All that the tokens of a split depend on."""
    return {
        "captions": captions_digest,
        "vocabulary": vocabulary.digest,
        "max_text_tokens": str(max_text_tokens),
        "tokenizers": tokenizers.__version__,
    }


def tokenize(vocabulary: Vocabulary, captions: Sequence[str], max_text_tokens: int) -> TokenTable:
    """[CLS] words [SEP] of every caption, on all cores; longer ones lose their last words, never the [SEP]."""
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    begun = reported = time.monotonic()
    vocabulary.tokenizer.enable_truncation(max_text_tokens)
    for start in range(0, len(captions), _CHUNK):
        rows = [one.ids for one in vocabulary.tokenizer.encode_batch_fast(list(captions[start : start + _CHUNK]))]
        lengths.append(np.array([len(row) for row in rows]))
        ids.append(np.fromiter(chain.from_iterable(rows), np.int32, int(lengths[-1].sum())))
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            _log.info("%d of %d captions tokenised", start + len(rows), len(captions))
    if reported != begun:
        _log.info("%d captions tokenised in %.0f s", len(captions), time.monotonic() - begun)
    return TokenTable(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))
