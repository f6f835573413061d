"""Compare two feature sets of the same pictures: the regions they find, and the labels they give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from feature_extraction.samples.regions import Float, RegionSample
from feature_extraction.samples.tars import ShardError
from tasks.errors import UserError
from tasks.features.inspection.region_statistics import RegionStatistics, RegionTally
from tasks.features.lookup import find_records, read_layout
from tasks.features.open_features import OpenFeatures
from tasks.records import Record

_SAME_BOX = 0.5  # IoU
_TIE = 1e-6
_MOST_SWAPS = 12


class LabelSwap(Record):
    """One set's label, and the other set's for the same regions."""

    here: str
    there: str
    regions: int


class Comparison(Record):
    """A feature set against another one, over pictures that both have."""

    other: str = Field(description="the other one's extractor")
    images: int
    here: RegionStatistics
    there: RegionStatistics
    matched: float = Field(description="share of the regions here that lie where one there does: IoU 0.5 or more")
    same_label: float = Field(description="share of the matched ones with one name in both")
    cosine: float | None = Field(description="mean cosine of the features of matched ones; None where D differs")
    swaps: tuple[LabelSwap, ...] = Field(description="most frequent pairs of different names")


def compare_features(here: OpenFeatures, there: OpenFeatures, keys: Mapping[int, Collection[str]]) -> Comparison:
    """Compare regions picture by picture.

    Args:
        here: the set that is looked at.
        there: one of the same split, opened with the same shards.
        keys: number of a shard -> images to compare.

    Raises:
        UserError: none of the images is in both.
        ShardError: a shard is damaged.
    """
    tallies = [_tally(opened) for opened in (here, there)]
    names = [opened.extractor.labels for opened in (here, there)]
    swaps: Counter[tuple[str, str]] = Counter()
    matched = same = 0
    cosines: list[float] = []
    for shard, wanted in keys.items():
        if shard not in there.receipts:
            continue
        others = dict(_read(there, shard, wanted, tallies[1]))
        for key, sample in _read(here, shard, others.keys(), tallies[0]):
            other = others[key]
            called = [names[0][label] for label in sample.labels.tolist()]
            called_there = [names[1][label] for label in other.labels.tolist()]
            alike = np.array([[a == b for b in called_there] for a in called], np.bool_)
            mine, theirs = match_boxes(sample.boxes, other.boxes, alike)
            matched += len(mine)
            pairs = [(called[a], called_there[b]) for a, b in zip(mine.tolist(), theirs.tolist(), strict=True)]
            same += sum(a == b for a, b in pairs)
            swaps.update(pair for pair in pairs if pair[0] != pair[1])
            if sample.features.shape[1] == other.features.shape[1]:
                cosines += _cosines(sample.features[mine], other.features[theirs]).tolist()
    if not tallies[0].images:
        raise UserError(f"{here.features} and {there.features} have no picture in common; compare sets of one split")
    return Comparison(
        other=there.extractor.fingerprint[:12],
        images=tallies[0].images,
        here=tallies[0].statistics(names[0]),
        there=tallies[1].statistics(names[1]),
        matched=matched / max(1, tallies[0].regions),
        same_label=same / max(1, matched),
        cosine=float(np.mean(cosines)) if cosines else None,
        swaps=tuple(LabelSwap(here=a, there=b, regions=count) for (a, b), count in swaps.most_common(_MOST_SWAPS)),
    )


def match_boxes(
    boxes: Float, others: Float, alike: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """For boxes (R, 4): those with IoU 0.5 or more among `others` (S, 4), and the best match of each.

    Of equal ones, as classwise selection has, one that is `alike` (R, S) is taken.
    """
    if not len(boxes) or not len(others):
        nothing = np.zeros(0, np.intp)
        return nothing, nothing
    corners = np.maximum(boxes[:, None, :2], others[None, :, :2]), np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(corners[1] - corners[0], 0, None).prod(axis=2)
    union = _areas(boxes)[:, None] + _areas(others)[None] - shared
    overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    best = (overlap + _TIE * alike).argmax(axis=1)
    found = np.flatnonzero(overlap[np.arange(len(boxes)), best] >= _SAME_BOX)
    return found, best[found]


def _tally(opened: OpenFeatures) -> RegionTally:
    return RegionTally(len(opened.extractor.labels), opened.layout().max_regions)


def _read(
    opened: OpenFeatures, shard: int, keys: Collection[str], tally: RegionTally
) -> Iterator[tuple[str, RegionSample]]:
    """Read the wanted regions of a shard, and count them."""
    if not opened.samples(shard):
        return
    with opened.shard(shard) as (stream, name):
        for key, record in find_records(stream, name, read_layout(stream, name), opened.samples(shard), keys):
            try:
                yield key, tally.add_record(key, record)
            except ShardError as error:
                raise ShardError(f"{name}: {error}") from error


def _areas(boxes: Float) -> npt.NDArray[np.floating[Any]]:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _cosines(features: Float, others: Float) -> npt.NDArray[np.floating[Any]]:
    lengths = np.linalg.norm(features, axis=1) * np.linalg.norm(others, axis=1)
    return np.asarray((features * others).sum(axis=1) / np.maximum(lengths, 1e-12))
