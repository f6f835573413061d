"""Pretraining on several corpora: their batches as one stream, and what the metrics say of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from model.data.captions import Captions
from model.data.order import WHOLE, Part
from model.data.store import FeatureStore
from model.data.tokenizer import TokenTable, Vocabulary
from model.errors import InputError
from model.objectives.batches import PretrainBatches
from model.objectives.config import PretrainConfig
from model.objectives.matching_watch import MatchingWatch
from model.objectives.objective import PretrainBatch
from model.objectives.text_rows import MaskedText
from model.objectives.turns import Turns, corpus_names, loss_names


class Corpus(NamedTuple):
    """What one corpus of a run is read from."""

    name: str
    store: FeatureStore
    captions: Captions
    tokens: TokenTable


def check_alike(corpora: Sequence[Corpus], max_regions: int) -> None:
    """Raise InputError, naming both, unless all corpora have features of one extractor and enough regions."""
    first = corpora[0]
    one = first.store.manifest
    for corpus in corpora[1:]:
        other = corpus.store.manifest
        for what, here, there in (
            ("features of width", one.feature_dim, other.feature_dim),
            ("a number of labels of", len(one.labels), len(other.labels)),
            ("features of extractor", one.extractor[:12], other.extractor[:12]),
        ):
            if here != there:
                raise InputError(
                    f"{first.name} has {what} {here}, but {corpus.name} {there}; corpora of one run come from one "
                    "extractor: extract both with the same settings, or train on one of them"
                )
        for number, (here, there) in enumerate(zip(one.labels, other.labels, strict=True)):
            if here != there:
                raise InputError(
                    f"label {number} is {here!r} in {first.name}, but {there!r} in {corpus.name}; corpora of one run "
                    "come from one extractor: extract both with the same settings, or train on one of them"
                )
        if other.max_regions < max_regions:
            raise InputError(
                f"encoder.max_regions={max_regions}, but {corpus.name} holds at most {other.max_regions} regions an "
                f"image; extract it with max_regions={max_regions}, or set encoder.max_regions={other.max_regions}"
            )


class CorporaBatches:
    """Makes the batch of a step: from the one corpus of the run, or from the one that is drawn for the step."""

    def __init__(
        self,
        corpora: Sequence[Corpus],
        vocabulary: Vocabulary,
        max_regions: int,
        config: PretrainConfig,
        marks: int = 0,
        picture_regions: int = 0,
        text: MaskedText | None = None,
    ) -> None:
        """
        Args:
            corpora: in the order of their numbers, see `corpus_names`.
            marks, picture_regions: see `PretrainBatches`.
            text: rows of text alone, as many as pairs in each step.
        """
        self._text = text
        self._turns, self._stores = Turns(config), [corpus.store for corpus in corpora]
        self._batches = [
            PretrainBatches(
                store, captions, tokens, vocabulary, max_regions, _own_config(config, name), marks, picture_regions
            )
            for name, store, captions, tokens in corpora
        ]
        self._rows, self._batch_size = torch.eye(len(corpora)), config.batch_size

    def __call__(self, step: int, part: Part = WHOLE) -> PretrainBatch:
        """The batch of a step, or one part of it."""
        turn = self._turns(step)
        batch = self._batches[turn.corpus].visit(turn.visit, part, turn.active)
        batch = replace(batch, corpus=self._rows[turn.corpus])
        if self._text is None or not any(one.reads_text for one in turn.active):
            return batch
        words, targets = self._text(step, part)
        return replace(batch, text=words, targets=batch.targets | {"mlm-text": targets})

    def filled(self, step: int) -> float | None:
        """Share of a step's tokens that are words and regions; None where batches are so many captions."""
        turn = self._turns(step)
        order = self._batches[turn.corpus].token_order
        return None if order is None else order.filled(turn.visit)

    def samples_a_step(self) -> float:
        """Mean number of captions of a step."""
        orders = [batches.token_order for batches in self._batches]
        shares = self._turns.corpus_shares()
        return sum(
            share * (self._batch_size if order is None else order.samples_a_step())
            for share, order in zip(shares, orders, strict=True)
        )

    @property
    def skipped_samples(self) -> int:
        """Of all corpora, see `FeatureStore`."""
        return sum(store.skipped_samples for store in self._stores)


def _own_config(config: PretrainConfig, name: str) -> PretrainConfig:
    """The config of one corpus of several: what it gives depends on the run's seed and its name, not on the others."""
    if not config.corpora:
        return config
    seed = int(np.random.SeedSequence([config.seed, *name.encode()]).generate_state(1, np.uint64)[0]) >> 1
    return config.model_copy(update={"corpora": {}, "seed": seed})


class PretrainingWatch:
    """Adds to a line of metrics what several corpora have in common, and watches whether matching learns.

    With several corpora the losses of a line are named DATASET/SPLIT/OBJECTIVE. Beside them come each objective's loss
    and accuracy over all corpora, `loss` as the sum of these, and as DATASET/SPLIT/steps how many steps have read each
    corpus since the run began.
    """

    def __init__(self, config: PretrainConfig, batches: CorporaBatches | None = None) -> None:
        """
        Args:
            batches: of the run; where they are so many tokens, `filled_share` of a line says how full its steps were.
        """
        self._config, self._turns = config, Turns(config)
        self._batches = None if batches is None or config.token_batches is None else batches
        pairs = config.batch_size if self._batches is None else self._batches.samples_a_step()
        self._matching = MatchingWatch(config, pairs)

    def __call__(self, step: int, means: Mapping[str, float], targets: Mapping[str, float]) -> dict[str, float]:
        """What to add to the line of a step, see `Training.watch`."""
        return self._filled(step) | self._losses(step, means, targets)

    def _filled(self, step: int) -> dict[str, float]:
        """How full the steps of this line were."""
        if self._batches is None:
            return {}
        first = (step - 1) // self._config.log_steps * self._config.log_steps
        shares = [share for one in range(first, step) if (share := self._batches.filled(one)) is not None]
        return {"filled_share": sum(shares) / len(shares)}

    def _losses(self, step: int, means: Mapping[str, float], targets: Mapping[str, float]) -> dict[str, float]:
        corpora = corpus_names(self._config)
        if not corpora:
            return self._matching(step, means, targets)
        assert tuple(targets) == loss_names(self._config)
        added: dict[str, float] = {}
        counts: dict[str, float] = {}
        for one in self._config.chosen:
            seen = [(f"{name}/{one}", count) for name in corpora if (count := targets[f"{name}/{one}"])]
            counts[one] = sum(count for _, count in seen)
            for end in ("", "_accuracy"):
                if seen and f"{seen[0][0]}{end}" in means:
                    added[f"{one}{end}"] = sum(means[f"{name}{end}"] * count for name, count in seen) / counts[one]
        if losses := [added[one] for one in self._config.chosen if one in added]:
            added["loss"] = sum(losses)
        visits = zip(corpora, self._turns.visits(step), strict=True)
        added |= {f"{name}/steps": float(count) for name, count in visits}
        return added | self._matching(step, added, counts)
