"""Rows of text alone beside the pairs of pretraining (VL-BERT, section 3.3): as many, masked as captions are."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from model.config import TextSource
from model.data.batch import Words
from model.data.draws import draw_uniforms
from model.data.order import WHOLE, Part
from model.data.passages import TextCorpus, load_passages
from model.data.tokenizer import Vocabulary
from model.objectives.config import PretrainConfig
from model.objectives.masking import WordDraws, choose_and_mask, ordinary_pieces
from model.objectives.targets import Targets


class MaskedText:
    """Makes the rows of text of a step, and what is to be predicted of them; a function of seed, epoch and passage.

    digest: of all passages' word pieces, for the run's identity.
    """

    def __init__(self, corpus: TextCorpus, vocabulary: Vocabulary, config: PretrainConfig, digest: str = "") -> None:
        self._corpus, self._vocabulary, self._config, self.digest = corpus, vocabulary, config, digest
        self._pieces = ordinary_pieces(vocabulary, config.word_masking)

    def __call__(self, step: int, part: Part = WHOLE) -> tuple[Words, Targets]:
        rows, seed = self._corpus.rows(step, part), self._config.seed
        ids = rows.words.ids.numpy()
        draws = WordDraws(
            choice=draw_uniforms(seed, "text_word", rows.turns, ids.shape[1]),
            treatment=draw_uniforms(seed, "text_word_fate", rows.turns, ids.shape[1]),
            piece=draw_uniforms(seed, "text_word_piece", rows.turns, ids.shape[1]),
        )
        rule = self._config.word_masking
        masked, chosen = choose_and_mask(ids, rows.numbers if rule.whole_words else None, draws, rule, self._pieces)
        at, places = np.nonzero(chosen)
        return Words(torch.from_numpy(masked), rows.words.mask), Targets.labels(at, places, ids[at, places])


def open_text(source: TextSource, vocabulary: Vocabulary, max_text_tokens: int, config: PretrainConfig) -> MaskedText:
    """Open a downloaded text corpus for a run, which reads as many rows a step as pairs.

    Raises:
        InputError: see `load_passages` and `TextCorpus`.
    """
    table = load_passages(source, vocabulary, max_text_tokens)
    content = hashlib.sha256()
    for shard in table.shards:
        content.update(np.ascontiguousarray(shard.ids).tobytes())
        content.update(np.ascontiguousarray(shard.starts).tobytes())
    corpus = TextCorpus(table, vocabulary, source.name, config.seed, config.batch_size, max_text_tokens)
    return MaskedText(corpus, vocabulary, config, content.hexdigest())
