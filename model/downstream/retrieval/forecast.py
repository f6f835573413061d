"""Forecast of a long scoring's duration, with ways to shorten it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from model.data.batch import Regions
from model.downstream.retrieval.config import ScoringConfig
from model.downstream.retrieval.pairs import PairScorer, Tokens

_LONG_SECONDS = 120.0
_WORTH = 50
"""Times as many pairs as are measured must be left: else measuring takes longer than it is worth."""
_SHARES = (0.25, 0.75)
"""Of the captions by length, those that are measured."""


def forecast(
    scorer: PairScorer,
    texts: list[Tokens],
    images: int,
    read: Callable[[list[int]], Regions],
    left: int,
    processes: int,
    config: ScoringConfig,
) -> tuple[float, str] | None:
    """Time a few pairs, and log the duration if it is long.

    Args:
        images: of the split.
        read: gives the regions of some of them.
        left: pairs that are still to be scored, by all processes.
        processes: that share them.

    Returns:
        Pairs a second, all processes together, and one line for people; None where it will not take long.
    """
    size = scorer.batch_size
    if left < _WORTH * size * (1 + len(_SHARES)):
        return None
    per_second = processes * _measure(scorer, texts, images, read)
    seconds = left / per_second
    if seconds < _LONG_SECONDS:
        return None
    end = time.strftime("%A %d %B %H:%M", time.localtime(time.time() + seconds))
    ways = []
    if scorer.would_gain_from_bf16:
        ways.append("scoring.precision=bf16, which this device computes, is two to three times as fast")
    if config.shortlist is None:
        ways.append('scoring.shortlist={"size": 100, "regions": 10} scores exactly only the best of a cheap first pass')
    text = (
        f"{left:,} pairs to score in {scorer.precision}, {size} at a time, about {per_second:,.1f} a second: "
        f"until {end}, {_duration(seconds)} from now"
    )
    return per_second, f"{text}. To shorten it: {'; or '.join(ways)}" if ways else text


def _measure(scorer: PairScorer, texts: list[Tokens], images: int, read: Callable[[list[int]], Regions]) -> float:
    """Pairs a second over a batch of images from all over the split, with captions of common lengths."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    chosen = [texts[order[int(share * len(texts))]] for share in _SHARES]
    regions = read(np.unique(np.linspace(0, images - 1, min(scorer.batch_size, images)).astype(int)).tolist())
    scorer.score(regions, chosen[:1])  # What is slow the first time.
    begun, pairs = time.perf_counter(), 0
    for text in chosen:
        scorer.score(regions, [text])
        pairs += len(regions.mask)
    return pairs / max(time.perf_counter() - begun, 1e-9)


def _duration(seconds: float) -> str:
    """`12 minutes`, `81 hours`."""
    return f"{seconds / 3600:,.0f} hours" if seconds > 2 * 3600 else f"{seconds / 60:.0f} minutes"
