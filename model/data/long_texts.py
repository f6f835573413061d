"""Leave captions out that are longer than an encoder takes, as UNITER's training does, instead of cutting them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from model.data.captions import Captions
from model.data.index import Arrays, load_or_make
from model.data.order import Index
from model.data.tokenizer import TokenTable, Vocabulary, load_tokens, tokens_identity
from model.errors import InputError

_log = logging.getLogger(__name__)


class Picked(Sequence[str]):
    """Some of a list of strings."""

    def __init__(self, whole: Sequence[str], rows: Index) -> None:
        self._whole, self._rows = whole, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self._whole[place] for place in self._rows[row].tolist()]
        return self._whole[int(self._rows[row])]


def load_short(
    name: str, captions: Captions, vocabulary: Vocabulary, max_text_tokens: int
) -> tuple[Captions, TokenTable]:
    """The captions of at most `max_text_tokens` tokens, marks included, and their tokens; `dropped` counts the others.

    Args:
        name: of the split, for messages.

    Raises:
        InputError: all captions are longer.
    """

    def make() -> Arrays:
        # One token more than a caption may have tells the longer ones, and no other is cut.
        table = load_tokens(vocabulary, captions, max_text_tokens + 1)
        lengths = np.diff(table.starts)
        short = lengths <= max_text_tokens
        ids = table.ids[np.repeat(short, lengths)]
        return {"rows": np.flatnonzero(short), "ids": ids, "starts": np.concatenate([[0], np.cumsum(lengths[short])])}

    if captions.digest is None:
        arrays, digest = make(), None
    else:
        identity = tokens_identity(vocabulary, captions.digest, max_text_tokens)
        arrays = load_or_make(captions.index_folder, "short", identity, make)
        digest = hashlib.sha256(json.dumps(["short", identity], sort_keys=True).encode()).hexdigest()
    rows: Index = arrays["rows"]
    dropped = len(captions.image_rows) - len(rows)
    if len(rows) == 0:
        raise InputError(
            f"{name}: all {dropped} captions have more than encoder.max_text_tokens={max_text_tokens} tokens, and "
            "long_texts is drop; set it to cut, or max_text_tokens higher"
        )
    if dropped == 0:
        return captions, load_tokens(vocabulary, captions, max_text_tokens)
    _log.info(
        "%s: %d of %d captions have more than %d tokens and are not learnt from (long_texts is drop)",
        name,
        dropped,
        len(captions.image_rows),
        max_text_tokens,
    )
    kept = replace(
        captions,
        ids=Picked(captions.ids, rows),
        texts=Picked(captions.texts, rows),
        image_rows=captions.image_rows[rows],
        digest=digest,
        dropped=dropped,
    )
    return kept, TokenTable(arrays["ids"], arrays["starts"])
