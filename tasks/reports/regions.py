"""The scored features in two pictures: regions per image, and their labels."""

from __future__ import annotations

from markupsafe import Markup

from tasks.features.feature_sets import FeatureSet
from tasks.features.inspection.charts import label_charts, regions_chart
from tasks.features.inspection.inspection import tally_regions
from tasks.features.inspection.region_statistics import RegionTally
from tasks.features.open_features import open_features
from tasks.pages.page import render
from tasks.storage.root import Root

_MOST_IMAGES = 400
"""Evenly spaced ones are read where a split has more: features are large, and a histogram needs no more."""
_TOP_LABELS = 14


def regions_section(root: Root, features: FeatureSet) -> Markup:
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
        return Markup("<p>None of {:,} images that were read has a region.</p>").format(statistics.images)
    read = f"all {images:,}" if statistics.images == images else f"{statistics.images:,} of {images:,}, evenly spaced,"
    charts = [regions_chart(statistics), *label_charts(statistics, _TOP_LABELS, columns=1)]
    num_labels = len(found.extractor.labels)
    return render("reports/regions.html", read=read, statistics=statistics, num_labels=num_labels, charts=charts)
