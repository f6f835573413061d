"""The features of a split as one HTML page that needs nothing else: pictures, statistics, shards, failures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from tasks.features.inspection.agreement import captions_section, comparison_section
from tasks.features.inspection.charts import label_charts, region_charts
from tasks.features.inspection.doubts import doubts, flat, warnings
from tasks.features.inspection.drawing import to_jpeg
from tasks.features.inspection.inspection import Inspection
from tasks.features.inspection.shard_statistics import ShardStatistics
from tasks.features.inspection.shown_pictures import ShownPicture
from tasks.pages.page import html_page, web_text

_TOP_LABELS = 40
_MOST_SHARDS = 100  # rows of the table; those that stand out are always shown
_MOST_ABSENT = 200
_NO_VALUE = "–"

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


def inspection_page(inspection: Inspection, pictures: Sequence[ShownPicture], made: str) -> str:
    """The whole page. `made` says when and from where it was made."""
    sections = [
        ("", _headline(inspection)),
        ("Pictures", _pictures(pictures)),
        ("Against another set", comparison_section(inspection.comparison)),
        ("Statistics", _statistics(inspection)),
        ("Labels", _labels(inspection)),
        ("Labels and captions", captions_section(inspection.captions)),
        ("Shards", _shards(inspection)),
        ("Failed pictures", _failures(inspection)),
    ]
    body = "".join(
        f"<section>{f'<h2>{name}</h2>' if name else ''}{content}</section>" for name, content in sections if content
    )
    return html_page(f"Regions of {inspection.dataset}/{inspection.split}", made, body)


# --- sections -------------------------------------------------------------------------------------------------------


def _headline(inspection: Inspection) -> str:
    statistics = inspection.statistics
    lines = "".join(f'<p class="warn"><b>Warning:</b> {escape(text)}</p>' for text in warnings(inspection.details))
    lines += "".join(f'<p class="warn"><b>Look:</b> {web_text(text)}</p>' for text in doubts(inspection))
    lines += (
        f'<p class="lead"><b>{inspection.samples:,}</b> images with regions, up to {inspection.max_regions} × '
        f"{inspection.feature_dim:,} as {escape(inspection.encoding)}, {inspection.num_labels:,} labels.</p>"
        f"{_extractor(inspection)}"
    )
    if statistics.images < inspection.samples:
        lines += (
            f"<p>Statistics are over {statistics.images:,} of {inspection.samples:,} images, evenly spaced in "
            f"{inspection.shards_read:,} of {len(inspection.shards):,} shards.</p>"
        )
    if not inspection.complete:
        lines += "<p>The split has no feature manifest: its extraction has not come to its end yet.</p>"
    outliers = [line for line in inspection.shards if line.outliers]
    if outliers:
        numbers = ",".join(str(line.shard) for line in outliers[:8]) + (",…" if len(outliers) > 8 else "")
        differ = "1 shard differs" if len(outliers) == 1 else f"{len(outliers)} shards differ"
        lines += f'<p class="warn"><b>{differ} from the others:</b> look at the table, and with --shards {numbers}.</p>'
    if statistics.boxes_outside:
        lines += (
            f'<p class="warn"><b>{statistics.boxes_outside:,} of {statistics.regions:,} boxes</b> are empty or leave '
            "their picture by more than a pixel: boxes are in pixels of the stored image.</p>"
        )
    return lines


def _extractor(inspection: Inspection) -> str:
    """Model, selection, weights and versions on a line; behind it all that the fingerprint was made of."""
    details = dict(flat(inspection.details))
    parts = [_value(details[name]) for name in _KIND if name in details]
    if details.get("weights_sha256"):
        parts.append(f"weights {_value(details['weights_sha256'])[:12]}…")
    for name, value in details.items():
        if name.startswith("versions."):
            version, at, commit = str(value).partition("@")  # Its first digits are enough, and fit a narrow screen.
            parts.append(f"{name.partition('.')[2]} {version}{at}{commit[:7]}")
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="text web">{web_text(_value(value))}</td></tr>'
        for name, value in [("fingerprint", inspection.extractor), *details.items()]
    )
    return (
        f"<details><summary>{escape(', '.join(parts)) or 'Extractor'}</summary>"
        f'<div class="wide"><table><tbody>{rows}</tbody></table></div></details>'
    )


def _pictures(pictures: Sequence[ShownPicture]) -> str:
    if not pictures:
        return ""
    cards = "".join(f"<li>{_picture(picture)}</li>" for picture in pictures)
    return f'<ol class="gallery large">{cards}</ol>'


def _picture(picture: ShownPicture) -> str:
    data = base64.b64encode(to_jpeg(picture.image)).decode()
    texts = [f"{region.name} {region.score:.2f}" for region in picture.regions]
    named = escape(", ".join(texts)) or "no region to show"
    captions = "<br>".join(web_text(f"“{caption}”") for caption in picture.captions) or "no caption"
    here = "" if picture.here else " The picture is not on this disk."
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{picture.image.width}" '
        f'height="{picture.image.height}" alt="{named}"><figcaption><span class="caption">{captions}</span><br>'
        f"<small>{escape(picture.key)}, shard {picture.shard}: {len(picture.regions)} of {picture.num_regions} "
        f"regions drawn.{here}<br>{named}</small>{_best_labels(picture)}</figcaption></figure>"
    )


def _best_labels(picture: ShownPicture) -> str:
    """The most likely labels of each region, where they are stored, behind a line to open."""
    regions = [region for region in picture.regions if region.best]
    if not regions:
        return ""
    lines = "".join(
        f"<li>{escape(', '.join(f'{name} {score:.2f}' for name, score in region.best))}</li>" for region in regions
    )
    return f"<details><summary>{len(regions[0].best)} best labels of each</summary><ol>{lines}</ol></details>"


def _statistics(inspection: Inspection) -> str:
    statistics = inspection.statistics
    if not statistics.regions:
        return "<p>No image that was read has a region.</p>"
    line = (
        f"<p>{statistics.min_regions} to {statistics.max_regions} regions an image, median "
        f"{statistics.median_regions:g}, mean {statistics.regions / statistics.images:.2f}. Mean score "
        f"{statistics.mean_score:.3f}, mean background {statistics.mean_background:.3f}, mean feature norm "
        f"{statistics.mean_norm:.2f}. Of all feature values {statistics.zeros:.2%} are 0"
    )
    if statistics.saturated is not None:
        # The largest value of a region always is: more than one in D says that features were cut off.
        line += (
            f" and {statistics.saturated:.3%} are stored as 255, where one a region is {1 / inspection.feature_dim:.3%}"
        )
    charts = region_charts(statistics)
    return f'<div class="charts">{"".join(charts)}</div>{line}.</p>'


def _labels(inspection: Inspection) -> str:
    statistics = inspection.statistics
    if not statistics.regions:
        return ""
    charts = "".join(label_charts(statistics, _TOP_LABELS, columns=3))
    absent = statistics.labels_absent
    line = f"<p><b>{len(absent):,}</b> of {inspection.num_labels:,} labels never occur in what was read.</p>"
    if absent:
        listed = ", ".join(absent[:_MOST_ABSENT]) + (", …" if len(absent) > _MOST_ABSENT else "")
        line += f"<details><summary>Which</summary><p>{escape(listed)}</p></details>"
    return f'<div class="charts">{charts}</div>{line}'


def _shards(inspection: Inspection) -> str:
    lines = inspection.shards
    plain = [line for line in lines if not line.outliers]
    shown = {line.shard for line in plain[:_MOST_SHARDS]} | {line.shard for line in lines if line.outliers}
    heads = "".join(f'<th scope="col">{title}</th>' for _, title, _ in _COLUMNS)
    body = "".join(_shard_row(line) for line in lines if line.shard in shown)
    note = (
        "Marked is what lies five robust spreads or more from the median of all shards. Label shift: how far a "
        "shard’s labels are from the others’, in units of what chance would give."
    )
    if len(shown) < len(lines):
        note = f"{len(shown):,} of {len(lines):,} shards, all marked ones among them. {note}"
    return (
        f'<p class="note">{note}</p><div class="wide"><table><thead><tr><th scope="col">shard</th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _shard_row(line: ShardStatistics) -> str:
    cells = []
    for name, _, form in _COLUMNS:
        value = getattr(line, name)
        text = _NO_VALUE if value is None else format(value, form)
        cells.append(f'<td class="warn">{text} ◀</td>' if name in line.outliers else f"<td>{text}</td>")
    return f'<tr><th scope="row">{line.shard:05d}</th>{"".join(cells)}</tr>'


def _failures(inspection: Inspection) -> str:
    if not inspection.failed:
        return "<p>None.</p>"
    reasons = "".join(
        f"<li>{web_text(reason)} <b>{count:,}</b></li>" for reason, count in inspection.failure_reasons.items()
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(failure.key)}</th><td>{failure.shard:05d}</td>'
        f'<td class="text web">{web_text(failure.detail)}</td></tr>'
        for failure in inspection.failures
    )
    part = "" if len(inspection.failures) == inspection.failed else f" The first {len(inspection.failures):,}:"
    return (
        f"<p><b>{inspection.failed:,}</b> pictures have no regions.{part}</p>"
        f'<ul class="legend">{reasons}</ul><br><div class="wide"><table><thead><tr><th scope="col">image</th>'
        '<th scope="col">shard</th><th scope="col" class="text">reason</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


# --- pieces ---------------------------------------------------------------------------------------------------------


def _value(value: object) -> str:
    return _NO_VALUE if value is None else str(value)
