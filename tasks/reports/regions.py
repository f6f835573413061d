"""The features that were scored, in two pictures: how many regions an image has, and what their labels are."""

from __future__ import annotations

from tasks.features.feature_sets import FeatureSet
from tasks.features.inspection.charts import label_charts, regions_chart
from tasks.features.inspection.inspection import tally_regions
from tasks.features.inspection.region_statistics import RegionTally
from tasks.features.open_features import open_features
from tasks.storage.root import Root

_MOST_IMAGES = 400
"""Evenly spaced ones are read where a split has more: features are large, and a histogram needs no more."""
_TOP_LABELS = 14


def regions_section(root: Root, features: FeatureSet) -> str:
    """A histogram of regions per image, and one of labels.

    Raises:
        UserError: there are no such features.
        ShardError: a shard is damaged.
    """
    found = open_features(root, features, lambda _: True)
    layout = found.layout()
    tallies, _ = tally_regions(found, layout, _MOST_IMAGES)
    whole = RegionTally(len(found.extractor.labels), layout.max_regions)
    for tally in tallies.values():
        whole.merge(tally)
    statistics = whole.statistics(found.extractor.labels)
    images = sum(found.samples(shard) for shard in found.receipts)
    if not statistics.regions:
        return f"<p>None of {statistics.images:,} images that were read has a region.</p>"
    read = f"all {images:,}" if statistics.images == images else f"{statistics.images:,} of {images:,}, evenly spaced,"
    charts = [regions_chart(statistics), *label_charts(statistics, _TOP_LABELS, columns=1)]
    return (
        f'<p class="note">From {read} images of the split that was scored: {statistics.min_regions} to '
        f"{statistics.max_regions} regions an image, median {statistics.median_regions:g}; "
        f"{len(statistics.labels):,} of {len(found.extractor.labels):,} labels occur. "
        f'<code>unicoder-vl inspect</code> shows more.</p><div class="charts">{"".join(charts)}</div>'
    )
