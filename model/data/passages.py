"""Rows of text alone, from a corpus of passages (VL-BERT section 3.3).

A row is a passage and as many following ones, around the end of the corpus, as make `min_words` words, cut to
`max_text_tokens` word pieces. It has no [CLS] and no [SEP].

Passages are cut into pieces once per vocabulary, shard by shard, and kept in the cache folder (`index.py`): they are
mapped, so processes of one machine share their memory, and a corpus may be larger than it. Of a passage only the first
`max_text_tokens` pieces are kept, since no row shows more.

Step s takes places [s B, (s + 1) B) of the run, and part i of c the i-th of c equal slices of them. Place p is position
p mod N of epoch p // N, and `permutation.py` says which of the N passages it shows. Every passage begins a row once an
epoch, whatever the number of processes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import tokenizers

from feature_extraction.samples.tars import ShardError
from model.config import TextSource
from model.data.batch import Words, pad_words
from model.data.index import Arrays, load_or_make
from model.data.order import WHOLE, Index, Part
from model.data.permutation import permute
from model.data.remote import connect, fetching
from model.data.text_shards import (
    MIN_WORDS,
    TEXT_FORMAT,
    TextManifest,
    TextShardEntry,
    parse_text_manifest,
    read_text_shard,
)
from model.data.tokenizer import TokenTable, Vocabulary
from model.errors import InputError

_CHUNK_CHARACTERS = 4_000_000
"""Tokenised at once. An encoded text takes some hundred times its pieces' bytes."""
_REPORT_SECONDS = 30.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PassageTable:
    """Word pieces of every passage, without [CLS] and [SEP]: a table a shard, all of one length but the last."""

    shards: tuple[TokenTable, ...]

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def __getitem__(self, passage: int) -> npt.NDArray[Any]:
        shard, row = divmod(passage, len(self.shards[0]))
        return self.shards[shard][row]


@dataclass(frozen=True)
class TextRows:
    """B rows of text alone.

    Attributes:
        words: pieces padded to T, without [CLS] and [SEP].
        numbers: (B, T) the number of each piece's word in its row; -1 for padding. See `Vocabulary.word_numbers`.
        turns: (B, 2) epoch and first passage of each row: what its masks are drawn from.
    """

    words: Words
    numbers: Index
    turns: Index


class TextCorpus:
    """Makes the rows of text alone of a step. Safe to share among threads."""

    def __init__(
        self,
        table: PassageTable,
        vocabulary: Vocabulary,
        name: str,
        seed: int,
        batch_size: int,
        max_text_tokens: int,
        min_words: int = MIN_WORDS,
    ) -> None:
        """
        Args:
            name: dataset/split, for messages.
            batch_size: B, rows of a step over all parts.
            max_text_tokens: T, most pieces of a row; not more than the table was made with.

        Raises:
            InputError: the whole corpus is shorter than one row.
        """
        self._table, self._vocabulary, self._count = table, vocabulary, len(table)
        self._seed, self._batch_size = seed, batch_size
        self._max_text_tokens, self._min_words = max_text_tokens, min_words
        pieces = words = 0
        for shard in table.shards:
            pieces += len(shard.ids)
            words += int(vocabulary.begins_word[shard.ids].sum())
            if pieces >= max_text_tokens or words >= min_words:
                break
        else:
            raise InputError(
                f"the text of {name} has {words} words, and a row of text takes {min_words}; download a longer text"
            )

    def __len__(self) -> int:
        """Number of passages: rows of an epoch."""
        return self._count

    def rows(self, step: int, part: Part = WHOLE) -> TextRows:
        """The rows of a step, or of one part of it."""
        size = self._batch_size // part.count
        first = step * self._batch_size + part.index * size
        places = np.stack(np.divmod(np.arange(first, first + size), self._count), 1)
        turns = np.stack([places[:, 0], permute(self._seed, "passage", places, self._count)], 1)
        words = pad_words([self.row(passage) for passage in turns[:, 1].tolist()], self._vocabulary.pad_id)
        return TextRows(words, self._vocabulary.word_numbers(words.ids.numpy()), turns)

    def row(self, passage: int) -> npt.NDArray[Any]:
        """The pieces of the row that a passage begins."""
        found: list[npt.NDArray[Any]] = []
        words, room = 0, self._max_text_tokens
        while words < self._min_words and room > 0:
            pieces = self._table[passage][:room]
            found.append(pieces)
            words += int(np.count_nonzero(self._vocabulary.begins_word[pieces]))
            room -= len(pieces)
            passage = (passage + 1) % self._count
        return np.concatenate(found)


# --- cutting a corpus into pieces -----------------------------------------------------------------------------------


def load_passages(source: TextSource, vocabulary: Vocabulary, max_text_tokens: int) -> PassageTable:
    """Cut a corpus into word pieces, or load what an earlier run kept of it.

    Raises:
        InputError: the corpus is not there or not finished, cannot be fetched, or the cache folder cannot be written.
        ShardError: a file of it is damaged.
    """
    manifest = _read_manifest(source)
    folder = None if source.cache_path is None else Path(source.cache_path)
    begun = reported = time.monotonic()
    tables, done = [], 0
    for entry in manifest.shards:
        tables.append(_load_shard(source, entry, vocabulary, max_text_tokens, folder))
        done += entry.passages
        if time.monotonic() - reported > _REPORT_SECONDS:
            reported = time.monotonic()
            _log.info("%s: %d of %d passages tokenised", source.name, done, manifest.passages)
    if reported != begun:
        _log.info("%s: %d passages tokenised in %.0f s", source.name, done, time.monotonic() - begun)
    return PassageTable(tuple(tables))


def _load_shard(
    source: TextSource, entry: TextShardEntry, vocabulary: Vocabulary, max_text_tokens: int, folder: Path | None
) -> TokenTable:
    identity = {
        "text": entry.sha256,
        "format": TEXT_FORMAT,
        "vocabulary": vocabulary.digest,
        "max_text_tokens": str(max_text_tokens),
        "tokenizers": tokenizers.__version__,
    }

    def make() -> Arrays:
        path = f"{source.text_path.rstrip('/')}/{entry.name}"
        with _opened(path) as stream:
            table = _tokenize(vocabulary, read_text_shard(stream, path), max_text_tokens)
        if len(table) != entry.passages:
            raise ShardError(f"{path} has {len(table)} passages, but the manifest says {entry.passages}; make it again")
        return {"ids": table.ids, "starts": table.starts}

    arrays = load_or_make(folder, "passages", identity, make)
    return TokenTable(arrays["ids"], arrays["starts"])


def _tokenize(vocabulary: Vocabulary, groups: Iterable[list[str]], max_text_tokens: int) -> TokenTable:
    """The first pieces of every passage, without [CLS] and [SEP], on all cores."""
    dtype = np.uint16 if vocabulary.size <= 1 << 16 else np.int32
    ids, lengths = [np.zeros(0, dtype)], [np.zeros(1, np.int64)]
    vocabulary.tokenizer.enable_truncation(max_text_tokens)
    for texts in _chunks(groups):
        encoded = vocabulary.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        rows = [one.ids for one in encoded]
        lengths.append(np.array([len(row) for row in rows]))
        ids.append(np.fromiter(chain.from_iterable(rows), dtype, int(lengths[-1].sum())))
    return TokenTable(np.concatenate(ids), np.cumsum(np.concatenate(lengths)))


def _chunks(groups: Iterable[list[str]]) -> Iterator[list[str]]:
    """Row groups cut where their texts are long."""
    for group in groups:
        chunk: list[str] = []
        size = 0
        for text in group:
            if chunk and size + len(text) > _CHUNK_CHARACTERS:
                yield chunk
                chunk, size = [], 0
            chunk.append(text)
            size += len(text)
        yield chunk


def _read_manifest(source: TextSource) -> TextManifest:
    path = f"{source.text_path.rstrip('/')}/manifest.json"
    with _opened(path) as stream:
        return parse_text_manifest(stream.read(), path)


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    """A file of a corpus, local or on an object store."""
    try:
        if "://" not in path:
            with Path(path).open("rb") as stream:
                yield stream
            return
        fs, remote = connect(path)
        with fetching(path), fs.open(remote, "rb") as stream:
            yield stream
    except FileNotFoundError as error:
        raise InputError(f"there is no {path}; run unicoder-vl download --text to its end") from error
