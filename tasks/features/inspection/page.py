"""The features of a split as one HTML page that needs nothing else: pictures, statistics, shards, failures."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from markupsafe import Markup

from tasks.features.inspection.agreement import captions_section, comparison_section
from tasks.features.inspection.charts import label_charts, region_charts
from tasks.features.inspection.doubts import doubts, flat, warnings
from tasks.features.inspection.drawing import to_jpeg
from tasks.features.inspection.inspection import Inspection
from tasks.features.inspection.shard_statistics import ShardStatistics
from tasks.features.inspection.shown_pictures import ShownPicture
from tasks.pages.page import NO_VALUE, render

_TOP_LABELS = 40
_MOST_SHARDS = 100  # rows of the table; those that stand out are always shown
_MOST_ABSENT = 200

_KIND = ("imported_from", "detector", "config.backend", "config.model", "config.selection")
"""Of the extractor's details, what says in short which one it is."""

_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("samples", "images", ",d"),
    ("regions", "regions", ",d"),
    ("failed", "failed", ",d"),
    ("bytes", "bytes", ",d"),
    ("images_read", "images read", ",d"),
    ("mean_regions", "regions an image", ".2f"),
    ("mean_score", "mean score", ".3f"),
    ("mean_norm", "mean norm", ".2f"),
    ("zeros", "zeros", ".1%"),
    ("label_shift", "label shift", ".2f"),
)


def inspection_page(inspection: Inspection, pictures: Sequence[ShownPicture], made: str) -> Markup:
    """The whole page. `made` says when and from where it was made."""
    statistics = inspection.statistics
    return render(
        "features/inspection/page.html",
        title=f"Regions of {inspection.dataset}/{inspection.split}",
        note=made,
        inspection=inspection,
        statistics=statistics,
        warnings=warnings(inspection.details),
        doubts=doubts(inspection),
        extractor=", ".join(_extractor(inspection)),
        details=[("fingerprint", inspection.extractor), *_details(inspection)],
        outliers=[line.shard for line in inspection.shards if line.outliers],
        pictures=pictures,
        jpeg=_jpeg_base64,
        named=_named,
        comparison=comparison_section(inspection.comparison),
        region_charts=region_charts(statistics) if statistics.regions else [],
        label_charts=label_charts(statistics, _TOP_LABELS, columns=3) if statistics.regions else [],
        most_absent=_MOST_ABSENT,
        captions=captions_section(inspection.captions),
        columns=_COLUMNS,
        shards=_shown_shards(inspection.shards),
    )


def _extractor(inspection: Inspection) -> list[str]:
    """Model, selection, weights and versions in short."""
    details = dict(_details(inspection))
    parts = [details[name] for name in _KIND if name in details]
    if details.get("weights_sha256", NO_VALUE) != NO_VALUE:
        parts.append(f"weights {details['weights_sha256'][:12]}…")
    for name, value in details.items():
        if name.startswith("versions."):
            version, at, commit = value.partition("@")  # Its first digits are enough, and fit a narrow screen.
            parts.append(f"{name.partition('.')[2]} {version}{at}{commit[:7]}")
    return parts


def _details(inspection: Inspection) -> list[tuple[str, str]]:
    return [(name, NO_VALUE if value is None else str(value)) for name, value in flat(inspection.details)]


def _named(picture: ShownPicture) -> str:
    return ", ".join(f"{region.name} {region.score:.2f}" for region in picture.regions) or "no region to show"


def _jpeg_base64(picture: ShownPicture) -> str:
    return base64.b64encode(to_jpeg(picture.image)).decode()


def _shown_shards(lines: Sequence[ShardStatistics]) -> list[ShardStatistics]:
    """Those that stand out, and the first others."""
    plain = [line.shard for line in lines if not line.outliers][:_MOST_SHARDS]
    shown = {*plain, *(line.shard for line in lines if line.outliers)}
    return [line for line in lines if line.shard in shown]
