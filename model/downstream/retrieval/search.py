"""Rank images for one text, or captions for one image: every candidate is scored, and nothing is written.

Memory holds one number a candidate, and the features of a few hundred images at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from feature_extraction.samples.regions import RegionLayout
from feature_extraction.samples.tars import ShardError
from model.config import AdaptiveRegions
from model.data.batch import Regions
from model.data.captions import Captions
from model.data.feed import prefetch
from model.data.order import Index
from model.data.region_records import find_bad_value, to_regions
from model.data.shards import TAR_HEADER
from model.data.store import FeatureStore
from model.data.tokenizer import TokenTable, Vocabulary, load_tokens, tokenize
from model.downstream.retrieval.alike import first_alike
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.pairs import PairScorer, Tokens
from model.downstream.retrieval.scores import Floats
from model.errors import InputError
from model.families.model import VisionLanguageModel

OnPairs = Callable[[int, int], object]
"""Called with the pairs that are done and with all that there are to do."""

_Score = Callable[[Index, int, Callable[[int], object]], Floats]
"""Scores (N,) of candidates by their rows, with so many regions; the last argument is told of more pairs done."""

_IMAGES_AT_ONCE = 256
"""Images whose features are held at a time: 53 MB of them at 100 x 2048."""
_CAPTIONS_AT_ONCE = 65_536


@dataclass(frozen=True)
class QueryText:
    """A text as the model reads it: `unknown` words become [UNK], and `cut` is the end that is not read."""

    tokens: Tokens
    unknown: tuple[str, ...]
    cut: str


@dataclass(frozen=True)
class Ranking:
    """Candidates best first, equal ones in the order of the split: rows (N,) and scores (N,) f32."""

    rows: Index
    scores: Floats


def read_text(vocabulary: Vocabulary, text: str, max_text_tokens: int) -> QueryText:
    """Tokenize a query as [CLS] words [SEP], cut as captions are in training.

    Raises:
        InputError: there is no word in it, or none that the vocabulary knows.
    """
    vocabulary.tokenizer.no_truncation()
    found = vocabulary.tokenizer.encode(text, add_special_tokens=False)
    ids, places, most = found.ids, found.offsets, max_text_tokens - 2
    if not ids:
        raise InputError(f"the query {text!r} has no word; say what should be in the picture")
    nothing = vocabulary.tokenizer.token_to_id(vocabulary.words.rules.unk_token)
    unknown = [text[slice(*place)] for number, place in zip(ids[:most], places, strict=False) if number == nothing]
    if len(unknown) == len(ids[:most]):
        raise InputError(
            f"the vocabulary of this run knows no word of the query {text!r}; use words that its captions have"
        )
    return QueryText(
        tokens=tokenize(vocabulary, [text], max_text_tokens)[0],
        unknown=tuple(dict.fromkeys(unknown)),
        cut=text[places[most][0] :] if len(ids) > most else "",
    )


def record_regions(
    record: bytes, layout: RegionLayout, num_labels: int, max_regions: int, adaptive: AdaptiveRegions | None = None
) -> Regions:
    """Read the first `max_regions` regions of one `.rgn` record, as `FeatureStore.read` does.

    Raises:
        ShardError: a value of the record is damaged.
    """
    head = np.zeros((1, TAR_HEADER + layout.features_offset), np.uint8)
    head[0, TAR_HEADER:] = np.frombuffer(record, np.uint8, layout.features_offset)
    if (fault := find_bad_value(head, layout, num_labels)) is not None:
        raise ShardError(f"a record has {fault[1]}; extract its shard again")
    features = np.frombuffer(
        record, layout.feature_dtype, layout.max_regions * layout.feature_dim, head.shape[1] - TAR_HEADER
    )
    shape = (1, layout.max_regions, layout.feature_dim)
    return to_regions(head, torch.from_numpy(features.reshape(shape)[:, :max_regions].copy()), layout, adaptive)


class Ranker:
    """A model and one split. With `config.shortlist` a first pass over few regions chooses which pairs are scored."""

    def __init__(
        self,
        model: VisionLanguageModel,
        vocabulary: Vocabulary,
        store: FeatureStore,
        captions: Captions,
        config: ScoringConfig,
        device: torch.device,
    ) -> None:
        """
        Args:
            model: in evaluation mode, on the device; features and vocabulary fit it (`model.families.fit`).
        """
        self._vocabulary, self._store, self._captions = vocabulary, store, captions
        self._max_regions, self._max_text_tokens = model.bert.max_regions, model.config.max_text_tokens
        self._scorer, self._shortlist = PairScorer(model, config, device), config.shortlist

    def shortens(self, candidates: int) -> bool:
        """Whether there are too many candidates to score all with all of their regions."""
        short = self._shortlist
        return short is not None and short.size < candidates and short.regions < self._max_regions

    def read(self, text: str) -> QueryText:
        """Read a query in the model's vocabulary. Raises as `read_text`."""
        return read_text(self._vocabulary, text, self._max_text_tokens)

    def images(self, text: QueryText, on_pairs: OnPairs) -> Ranking:
        """Rank images of the store, given by their rows in it.

        Raises:
            InputError: a score is not finite.
            ShardError: a feature shard is damaged.
        """

        def score(rows: Index, max_regions: int, add: Callable[[int], object]) -> Floats:
            parts = [rows[start : start + _IMAGES_AT_ONCE] for start in range(0, len(rows), _IMAGES_AT_ONCE)]
            read = prefetch(lambda part: self._store.read(parts[part], max_regions), 0, len(parts), ahead=1)
            return np.concatenate([self._scorer.score(some, [text.tokens], on_pairs=add)[:, 0] for some in read])

        return self._rank(len(self._store), score, on_pairs)

    def captions(self, image: Callable[[int], Regions], on_pairs: OnPairs) -> Ranking:
        """Rank captions of the split, given by their rows in it.

        Args:
            image: gives the first so many regions of one image.
            on_pairs: is told how far it is.

        Raises:
            InputError: a score is not finite.
        """

        def score(rows: Index, max_regions: int, add: Callable[[int], object]) -> Floats:
            regions, scores = image(max_regions), []
            distinct, of = np.unique(self._first_alike[rows], return_inverse=True)
            for start in range(0, len(distinct), _CAPTIONS_AT_ONCE):
                texts = [self._tokens[row] for row in distinct[start : start + _CAPTIONS_AT_ONCE].tolist()]
                scores.append(self._scorer.score(regions, texts, on_pairs=add)[0])
            add(len(rows) - len(distinct))
            return np.concatenate(scores)[of]

        return self._rank(len(self._captions.texts), score, on_pairs)

    @cached_property
    def _tokens(self) -> TokenTable:
        return load_tokens(self._vocabulary, self._captions, self._max_text_tokens)

    @cached_property
    def _first_alike(self) -> Index:
        """For each caption (captions,), the first one with the same tokens."""
        return first_alike(self._tokens[row].tobytes() for row in range(len(self._tokens)))

    def _rank(self, count: int, score: _Score, on_pairs: OnPairs) -> Ranking:
        rows, done = np.arange(count), 0
        shortlist = self._shortlist if self.shortens(count) else None
        total = count + (0 if shortlist is None else shortlist.size)

        def add(pairs: int) -> None:
            nonlocal done
            done += pairs
            on_pairs(done, total)

        if shortlist is not None:
            first = score(rows, shortlist.regions, add)
            rows = np.sort(_best_first(first)[: shortlist.size])
        scores = score(rows, self._max_regions, add)
        if not np.isfinite(scores).all():
            raise InputError("a score is not finite: the checkpoint or its features are broken; train or extract again")
        order = _best_first(scores)
        return Ranking(rows[order], scores[order])


def _best_first(scores: Floats) -> Index:
    return np.argsort(-scores, kind="stable")
