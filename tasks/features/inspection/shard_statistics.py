"""Compare feature shards with each other: another detector or colour order shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from tasks.features.inspection.region_statistics import Counts, RegionTally
from tasks.records import Record

_FEWEST_SHARDS, _FEWEST_IMAGES = 5, 8
_SPREADS = 5.0
_LEAST_SHARE = 0.02
_LEAST = {"failed": 0.01, "label_shift": 0.5}


class ShardStatistics(Record):
    """One feature shard: whole numbers from its receipt, means over the images read from it (None: none read)."""

    shard: int
    samples: int
    regions: int
    failed: int
    bytes: int
    images_read: int
    mean_regions: float | None = None
    mean_score: float | None = None
    mean_norm: float | None = None
    zeros: float | None = None
    label_shift: float | None = Field(
        default=None,
        description="distance of its label shares from the other shards', in units of what chance would give: about 1 "
        "where pictures are alike",
    )
    outliers: tuple[str, ...] = Field(default=(), description="names of its fields that stand out")


def with_means(line: ShardStatistics, shard: RegionTally, whole: RegionTally) -> ShardStatistics:
    """A shard's line with the means of its images read; `whole` counts all shards, this one too."""
    if not shard.regions:
        return line.model_copy(update={"images_read": shard.images})
    return line.model_copy(
        update={
            "images_read": shard.images,
            "mean_regions": shard.regions / shard.images,
            "mean_score": shard.score_sum / shard.regions,
            "mean_norm": shard.norm_sum / shard.regions,
            "zeros": shard.zeros / max(1, shard.values),
            "label_shift": label_shift(shard.labels, whole.labels - shard.labels),
        }
    )


def label_shift(shard: Counts, others: Counts) -> float | None:
    """Distance of a shard's label shares from the others', in units of random draws.

    The distance is the total variation, half the sum of differences of shares. Chance's is its expectation for
    multinomial draws of n and m regions, the sum of sqrt(p (1 - p) (1/n + 1/m) / (2 pi)) over the labels. Regions of
    a picture go together, so healthy shards lie somewhat above 1, and all about alike.

    Returns:
        None where there is nothing to compare.
    """
    drawn, rest = int(shard.sum()), int(others.sum())
    if not drawn or not rest:
        return None
    shares = (shard + others) / (drawn + rest)
    chance = float(np.sqrt(shares * (1 - shares) * (1 / drawn + 1 / rest) / (2 * np.pi)).sum())
    distance = float(np.abs(shard / drawn - others / rest).sum()) / 2
    return distance / chance if chance else None


def mark_outliers(lines: Sequence[ShardStatistics]) -> list[ShardStatistics]:
    """Mark fields five robust spreads or more from the other shards' median.

    The spread is 1.4826 times the median absolute deviation, a normal distribution's standard deviation. Differences
    of no consequence (2% of the median; of failures, a hundredth of the pictures; of label shifts, half of what chance
    gives) are never marked, nor is anything where fewer than five shards were read, or a shard of which fewer than
    eight images were.
    """
    marks: list[list[str]] = [[] for _ in lines]
    for name in ("mean_regions", "mean_score", "mean_norm", "zeros", "label_shift", "failed"):
        values = [_compared(line, name) for line in lines]
        known = np.array([value for value in values if value is not None])
        if len(known) < _FEWEST_SHARDS:
            continue
        median = float(np.median(known))
        spread = 1.4826 * float(np.median(np.abs(known - median)))
        least = _LEAST.get(name, _LEAST_SHARE * abs(median))
        for number, value in enumerate(values):
            if value is not None and abs(value - median) > max(_SPREADS * spread, least):
                marks[number].append(name)
    return [line.model_copy(update={"outliers": tuple(mark)}) for line, mark in zip(lines, marks, strict=True)]


def _compared(line: ShardStatistics, name: str) -> float | None:
    if name == "failed":
        pictures = line.samples + line.failed
        return line.failed / pictures if pictures >= _FEWEST_IMAGES else None
    value: float | None = getattr(line, name)
    return value if line.images_read >= _FEWEST_IMAGES else None
