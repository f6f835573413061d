"""Inspect a split's features in numbers: statistics of regions and shards, and failed pictures.

Everything is read from the finished receipts and shards, so a split can be looked at while it is being extracted.
Memory depends on what is asked for, not on the size of the split.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pyarrow.parquet as pq
from pydantic import Field

from feature_extraction.samples.regions import RegionLayout
from feature_extraction.samples.tars import ShardError
from tasks.features.feature_sets import FeatureSet
from tasks.features.inspection.caption_agreement import CaptionAgreement, caption_agreement
from tasks.features.inspection.comparison import Comparison, compare_features
from tasks.features.inspection.config import InspectConfig
from tasks.features.inspection.region_statistics import RegionStatistics, RegionTally
from tasks.features.inspection.shard_statistics import ShardStatistics, mark_outliers, with_means
from tasks.features.inspection.shown_pictures import ShownPicture, show_pictures
from tasks.features.lookup import read_captions, read_layout, read_record
from tasks.features.open_features import OpenFeatures, open_features
from tasks.records import Record
from tasks.storage import paths
from tasks.storage.root import Root

_SHARD_SAMPLES = 32  # images read of a shard before more shards are left out
_MOST_FAILURES = 200
_MOST_COMPARED = 512  # images read of two sets, to compare them

LabelsOf = dict[int, dict[str, tuple[int, ...]]]
"""Shard -> key -> labels of an image's regions."""


class FailedPicture(Record):
    """A picture without regions, and the reason."""

    shard: int
    key: str
    detail: str


class Inspection(Record):
    """The features of a split in numbers."""

    dataset: str
    split: str
    extractor: str = Field(description="fingerprint")
    details: dict[str, Any] = Field(description="what the fingerprint was made of")
    max_regions: int = Field(description="R")
    feature_dim: int = Field(description="D")
    encoding: str
    class_scores: str = Field(
        default="none", description="what is stored of the classes' probabilities, as in the extractor's settings"
    )
    num_labels: int = Field(description="C")
    complete: bool = Field(description="False while some shard waits for its extraction")
    shards_read: int
    samples: int = Field(description="images with regions in the selected shards")
    statistics: RegionStatistics = Field(description="over the images read")
    captions: CaptionAgreement | None = Field(description="labels against captions, where there are captions")
    comparison: Comparison | None = Field(description="with the other feature set, where one was named")
    shards: tuple[ShardStatistics, ...] = Field(description="the selected shards")
    failed: int
    failures: tuple[FailedPicture, ...] = Field(description="the first of them")
    failure_reasons: dict[str, int] = Field(description="how often each, most frequent first")


def inspect_features(
    root: Root, features: FeatureSet, config: InspectConfig, against: FeatureSet | None = None
) -> tuple[Inspection, list[ShownPicture]]:
    """Read a split's statistics and pictures, and compare it with another feature set.

    Raises:
        UserError: no such features, shards or keys are there, or the two sets have no picture in common.
        ShardError: a shard is damaged, or not of the same form as the others.
    """
    found = open_features(root, features, config.selects)
    layout = found.layout()
    tallies, labels = tally_regions(found, layout, config.max_images)
    whole = RegionTally(len(found.extractor.labels), layout.max_regions)
    for tally in tallies.values():
        whole.merge(tally)
    failures, reasons = _read_failures(found)
    lines = [_shard_line(found, shard) for shard in found.receipts]
    lines = [with_means(line, tallies[line.shard], whole) if line.shard in tallies else line for line in lines]
    inspection = Inspection(
        dataset=features.dataset,
        split=features.split,
        extractor=found.extractor.fingerprint,
        details=found.extractor.details,
        max_regions=layout.max_regions,
        feature_dim=layout.feature_dim,
        encoding=layout.encoding,
        class_scores=layout.class_scores,
        num_labels=len(found.extractor.labels),
        complete=root.exists(paths.feature_manifest_path(features.extractor, features.dataset, features.split)),
        shards_read=len(tallies),
        samples=sum(found.samples(shard) for shard in found.receipts),
        statistics=whole.statistics(found.extractor.labels),
        captions=_captions(root, found, labels),
        comparison=None if against is None else _compare(found, open_features(root, against, config.selects), labels),
        shards=tuple(mark_outliers(lines)),
        failed=sum(line.failed for line in lines),
        failures=failures,
        failure_reasons=reasons,
    )
    return inspection, show_pictures(found, layout, config)


def tally_regions(
    found: OpenFeatures, layout: RegionLayout, max_images: int
) -> tuple[dict[int, RegionTally], LabelsOf]:
    """Count regions and labels by shard, reading about `max_images` images in all.

    Too many images: evenly spaced ones; too few of each shard: evenly spaced shards.

    Raises:
        ShardError: a shard is damaged, or its records are not of this layout.
    """
    filled = [shard for shard in found.receipts if found.samples(shard)]
    chosen = [filled[place] for place in spread_evenly(len(filled), max(1, max_images // _SHARD_SAMPLES))]
    share = max(1, max_images // len(chosen))
    tallies = {}
    labels: LabelsOf = {}
    for shard in chosen:
        labels[shard] = {}
        tally = RegionTally(len(found.extractor.labels), layout.max_regions)
        with found.shard(shard) as (stream, name):
            if read_layout(stream, name) != layout:
                raise ShardError(f"{name}: its records have another form than the shards before; extract it again")
            for position in spread_evenly(found.samples(shard), share):
                try:
                    sample = tally.add_record(*read_record(stream, name, layout, position))
                    labels[shard][sample.key] = tuple(sample.labels.tolist())
                except ShardError as error:
                    raise ShardError(f"{name}: {error}") from error
        tallies[shard] = tally
    return tallies, labels


def spread_evenly(total: int, wanted: int) -> list[int]:
    """Numbers below `total`, evenly spaced; all of them where fewer are there."""
    if wanted >= total:
        return list(range(total))
    return [number * total // wanted for number in range(wanted)]


def _captions(root: Root, found: OpenFeatures, labels: LabelsOf) -> CaptionAgreement | None:
    labels_of = {key: image for shard in labels.values() for key, image in shard.items()}
    captions = read_captions(root, found.features.dataset, found.features.split, labels_of.keys())
    return caption_agreement(labels_of, captions, found.extractor.labels)


def _compare(found: OpenFeatures, other: OpenFeatures, labels: LabelsOf) -> Comparison:
    """Compare the two sets on evenly spaced images."""
    read = [(shard, key) for shard, images in labels.items() if shard in other.receipts for key in images]
    keys: dict[int, set[str]] = {}
    for place in spread_evenly(len(read), _MOST_COMPARED):
        keys.setdefault(read[place][0], set()).add(read[place][1])
    return compare_features(found, other, keys)


def _shard_line(found: OpenFeatures, shard: int) -> ShardStatistics:
    receipt = found.receipts[shard]
    return ShardStatistics(
        shard=shard,
        samples=found.samples(shard),
        regions=receipt.counts.get("regions", 0),
        # An import also misses pictures that its source has no row for.
        failed=receipt.counts.get("failed", 0) + receipt.counts.get("missing", 0),
        bytes=receipt.files[paths.region_shard_name(shard)].bytes,
        images_read=0,
    )


def _read_failures(found: OpenFeatures) -> tuple[tuple[FailedPicture, ...], dict[str, int]]:
    """The first failed pictures, and a count of each reason: its detail up to a colon, without numbers."""
    first: list[FailedPicture] = []
    reasons: Counter[str] = Counter()
    for shard, receipt in found.receipts.items():
        name = paths.failed_regions_name(shard)
        if name not in receipt.files:
            continue
        try:
            with found.root.open(f"{found.features.folder}/{name}") as stream:
                table: Any = pq.read_table(stream, columns=["key", "detail"])
        except FileNotFoundError as error:
            raise ShardError(
                f"{found.root.path(found.features.folder)}/{name} is missing; extract this shard again"
            ) from error
        for key, detail in zip(table["key"].to_pylist(), table["detail"].to_pylist(), strict=True):
            reasons[re.sub(r"\d+", "…", detail.partition(":")[0])] += 1
            if len(first) < _MOST_FAILURES:
                first.append(FailedPicture(shard=shard, key=key, detail=detail))
    return tuple(first), dict(reasons.most_common())
