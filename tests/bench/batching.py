"""What batches cost on several corpora and as token buckets, as ratios to one corpus in batches of captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model.config import AdaptiveRegions
from model.data.captions import Captions
from model.data.order import Part
from model.data.store import FeatureStore
from model.data.token_order import Lengths, TokenOrder
from model.data.tokenizer import TokenTable, Vocabulary
from model.objectives.config import PretrainConfig, TokenBatches
from model.objectives.corpora import CorporaBatches, Corpus
from tests.bench.clock import cpu_cost

CORPORA, ROUNDS, STEPS = 4, 3, 16
BUCKETS, TOKENS = 2, 3_000


def batching(
    folder: Path, vocabulary: Vocabulary, captions: Captions, tokens: TokenTable, regions: int, batch_size: int
) -> Iterator[str]:
    """Every corpus is a store of its own of the same shards: what differs is how batches are made."""

    def corpora(count: int, adaptive: AdaptiveRegions | None = None) -> list[Corpus]:
        stores = [FeatureStore(folder, adaptive_regions=adaptive) for _ in range(count)]
        return [Corpus(f"corpus{n}/train", store, captions, tokens) for n, store in enumerate(stores)]

    def make(config: PretrainConfig, opened: list[Corpus]) -> CorporaBatches:
        return CorporaBatches(opened, vocabulary, regions, config)

    shares: dict[str, float | dict[str, float]] = {f"corpus{n}/train": float(n + 1) for n in range(CORPORA)}
    one = _cost(make(PretrainConfig(batch_size=batch_size), corpora(1)))
    for name, config, opened in (
        (f"{CORPORA} corpora", PretrainConfig(batch_size=batch_size, corpora=shares), corpora(CORPORA)),
        (
            "adaptive regions, about 80 of 100",
            PretrainConfig(batch_size=batch_size),
            corpora(1, AdaptiveRegions(score=0.2, least=10)),
        ),
        (
            f"buckets of {TOKENS:,} tokens",
            PretrainConfig(token_batches=TokenBatches(tokens=TOKENS, buckets=BUCKETS)),
            corpora(1),
        ),
    ):
        yield f"  batches of {name}: {_cost(make(config, opened)) / one:.2f} x the CPU time a pair of one corpus"
    yield from _filled()


def _cost(batches: CorporaBatches) -> float:
    """CPU time for each pair."""
    parts = [Part(number, BUCKETS) for number in range(BUCKETS)]
    pairs = sum(len(batches(step, part).words.ids) for step in range(STEPS) for part in parts)

    def run() -> None:
        for step in range(STEPS):
            for part in parts:
                batches(step, part)

    return cpu_cost(run, ROUNDS) / pairs


def _filled() -> Iterator[str]:
    """Captions of 12 +- 4 pieces and 36 +- 18 regions, in UNITER's budget."""
    rng, count = np.random.default_rng(0), 1_000_000
    words = np.clip(rng.normal(12, 4, count).round(), 3, 60).astype(np.int64) + 2
    regions = np.clip(rng.normal(36, 18, count).round(), 10, 100).astype(np.int64)
    shards = np.arange(count) // 1024
    made: list[TokenOrder] = []

    def plan() -> None:
        made.append(TokenOrder(0, 10_240, 16, shards, np.arange(count), Lengths(words, regions)))
        made[-1].step(0)

    cost = cpu_cost(plan, 1)
    filled = np.mean([made[-1].filled(step) for step in range(100)])
    planned = f"an epoch of {count:,} captions is planned in {cost:.2f} s"
    yield f"  token buckets: {100 * filled:.0f}% of the budget is filled; {planned}"
