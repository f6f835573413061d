"""Statistics of regions: counts and histograms over many images.

A wrong colour order, vocabulary, box scale or layer shows in these before anything is trained on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from feature_extraction.samples.regions import Float, RegionLayout, RegionSample, decode_layout, decode_regions
from feature_extraction.samples.tars import ShardError
from tasks.records import Record

Counts = npt.NDArray[np.int64]
Edges = npt.NDArray[np.float64]

SHARE_EDGES: Edges = np.linspace(0, 1, 21)
"""Edges for scores and background probabilities."""
AREA_EDGES: Edges = np.array([0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
"""Edges for a box's share of its picture."""
NORM_EDGES: Edges = np.concatenate([[0.0], np.geomspace(1e-3, 1e6, 217)])
"""Edges for feature norms: 24 bins a factor of ten, and one for all below a thousandth."""

_OUTSIDE = 1.0  # pixels a box may reach over the edge of its picture: rounding, not another scale


class Histogram(Record):
    """Counts between edges, one edge more than counts; values beyond the edges count in the outer bins."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class LabelCount(Record):
    """Number of regions with a label. Names may repeat in a vocabulary; numbers do not."""

    label: int
    name: str
    regions: int


class RegionStatistics(Record):
    """Sums over the images read."""

    images: int
    regions: int
    regions_per_image: tuple[int, ...] = Field(description="number of images with 0, 1, 2, ... regions")
    min_regions: int = Field(description="fewest of an image")
    median_regions: float
    max_regions: int = Field(description="most of an image")
    labels: tuple[LabelCount, ...] = Field(description="those that occur, most frequent first")
    labels_absent: tuple[str, ...] = Field(description="labels that no region has, in class order")
    scores: Histogram
    best_scores: Histogram = Field(description="of each image's best region")
    background: Histogram
    areas: Histogram = Field(description="shares of the picture that a box covers")
    norms: Histogram = Field(description="L2 norms of the features")
    mean_score: float
    mean_background: float
    mean_norm: float
    zeros: float = Field(description="share of feature values that are exactly 0")
    saturated: float | None = Field(description="sqrt8: share of values stored as 255, at least 1/D; fp16: None")
    boxes_outside: int = Field(description="boxes that are empty, or leave their picture by more than a pixel")


@dataclass
class RegionTally:
    """Running counts of regions, in memory that does not grow with the images."""

    num_labels: int
    max_regions: int
    images: int = 0
    boxes_outside: int = 0
    values: int = 0
    zeros: int = 0
    saturated: int | None = None
    score_sum: float = 0.0
    background_sum: float = 0.0
    norm_sum: float = 0.0
    regions_per_image: Counts = field(init=False)
    labels: Counts = field(init=False)
    scores: Counts = field(default_factory=lambda: _empty(SHARE_EDGES))
    best_scores: Counts = field(default_factory=lambda: _empty(SHARE_EDGES))
    background: Counts = field(default_factory=lambda: _empty(SHARE_EDGES))
    areas: Counts = field(default_factory=lambda: _empty(AREA_EDGES))
    norms: Counts = field(default_factory=lambda: _empty(NORM_EDGES))

    def __post_init__(self) -> None:
        self.regions_per_image = np.zeros(self.max_regions + 1, np.int64)
        self.labels = np.zeros(self.num_labels, np.int64)

    @property
    def regions(self) -> int:
        return int(self.labels.sum())

    def add_record(self, key: str, record: bytes) -> RegionSample:
        """Add the regions of a `.rgn` record, and return them.

        Raises:
            ShardError: the record is damaged, or has a label beyond the vocabulary.
        """
        sample = decode_regions(key, record)
        layout, _, count = decode_layout(key, record)
        check_labels(sample, self.num_labels)
        self._add(sample)
        if layout.encoding == "sqrt8":
            self.saturated = (self.saturated or 0) + _num_saturated(record, layout, count)
        return sample

    def _add(self, sample: RegionSample) -> None:
        count = len(sample.boxes)
        self.images += 1
        self.regions_per_image[count] += 1
        if not count:
            return
        width, height = sample.size
        x0, y0, x1, y1 = sample.boxes.T
        self.boxes_outside += int(boxes_outside(sample.boxes, sample.size).sum())
        norms = np.linalg.norm(sample.features, axis=1)
        self.values += sample.features.size
        self.zeros += int(sample.features.size - np.count_nonzero(sample.features))
        self.score_sum += float(sample.scores.sum())
        self.background_sum += float(sample.background.sum())
        self.norm_sum += float(norms.sum(dtype=np.float64))
        self.labels += np.bincount(sample.labels, minlength=self.num_labels)
        for counts, values, edges in (
            (self.scores, sample.scores, SHARE_EDGES),
            (self.best_scores, sample.scores[:1], SHARE_EDGES),
            (self.background, sample.background, SHARE_EDGES),
            (self.areas, (x1 - x0) * (y1 - y0) / (width * height), AREA_EDGES),
            (self.norms, norms, NORM_EDGES),
        ):
            counts += _binned(values, edges)

    def merge(self, other: RegionTally) -> None:
        """Add the counts of another tally of the same feature set."""
        for name, value in vars(other).items():
            if name in ("num_labels", "max_regions"):
                assert value == getattr(self, name)
            elif name != "saturated":
                setattr(self, name, getattr(self, name) + value)
        if other.saturated is not None:
            self.saturated = (self.saturated or 0) + other.saturated

    def statistics(self, names: Sequence[str]) -> RegionStatistics:
        """The sums as a record; `names` are those of the labels, in class order."""
        found = np.flatnonzero(self.regions_per_image)
        order = np.argsort(-self.labels, kind="stable")
        return RegionStatistics(
            images=self.images,
            regions=self.regions,
            regions_per_image=tuple(self.regions_per_image[: found[-1] + 1].tolist()) if self.images else (),
            min_regions=int(found[0]) if self.images else 0,
            median_regions=_median(self.regions_per_image),
            max_regions=int(found[-1]) if self.images else 0,
            labels=tuple(
                LabelCount(label=label, name=names[label], regions=int(self.labels[label]))
                for label in order.tolist()
                if self.labels[label]
            ),
            labels_absent=tuple(name for name, count in zip(names, self.labels, strict=True) if not count),
            scores=_histogram(SHARE_EDGES, self.scores),
            best_scores=_histogram(SHARE_EDGES, self.best_scores),
            background=_histogram(SHARE_EDGES, self.background),
            areas=_histogram(AREA_EDGES, self.areas),
            norms=_histogram(NORM_EDGES, self.norms),
            mean_score=self.score_sum / max(1, self.regions),
            mean_background=self.background_sum / max(1, self.regions),
            mean_norm=self.norm_sum / max(1, self.regions),
            zeros=self.zeros / max(1, self.values),
            saturated=None if self.saturated is None else self.saturated / max(1, self.values),
            boxes_outside=self.boxes_outside,
        )


def boxes_outside(boxes: Float, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which boxes (R, 4) are empty, or leave their picture by more than a pixel.

    `size` is the picture's (width, height).
    """
    x0, y0, x1, y1 = boxes.T
    over = np.maximum.reduce([-x0, -y0, x1 - size[0], y1 - size[1]])
    return np.asarray((over > _OUTSIDE) | (x1 <= x0) | (y1 <= y0))


def check_labels(sample: RegionSample, num_labels: int) -> None:
    """Raise ShardError, naming the key, unless every label has a name in the extractor's vocabulary."""
    if sample.class_scores is not None and sample.class_scores.shape[1] != 1 + num_labels:
        raise ShardError(
            f"key {sample.key}: class scores of {sample.class_scores.shape[1] - 1} classes, but the extractor's "
            f"vocabulary has {num_labels} names; extract this shard again"
        )
    top = [] if sample.top_labels is None else sample.top_labels.ravel().tolist()
    for label in (*sample.labels.tolist(), *top):
        if not 0 <= label < num_labels:
            raise ShardError(
                f"key {sample.key}: label {label}, but the extractor's vocabulary has {num_labels} names, counted "
                "from 0; extract this shard again"
            )


def _num_saturated(record: bytes, layout: RegionLayout, count: int) -> int:
    stored = np.frombuffer(record, np.uint8, count * layout.feature_dim, layout.features_offset)
    return int(np.count_nonzero(stored == 255))


def _binned(values: npt.NDArray[np.floating[Any]], edges: Edges) -> Counts:
    """Counts of the values between edges; one on an edge counts to its right, one beyond the ends in the end bin."""
    last = len(edges) - 2
    bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, last)
    return np.bincount(bins, minlength=last + 1)


def _empty(edges: Edges) -> Counts:
    return np.zeros(len(edges) - 1, np.int64)


def _histogram(edges: Edges, counts: Counts) -> Histogram:
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _median(counts: Counts) -> float:
    """The median of numbers of which `counts[n]` are n; an even number of them has it between the middle two."""
    total = int(counts.sum())
    if not total:
        return 0.0
    upto = np.cumsum(counts)
    middle = [int(np.searchsorted(upto, place, side="right")) for place in ((total - 1) // 2, total // 2)]
    return sum(middle) / 2
