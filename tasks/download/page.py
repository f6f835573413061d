"""What a download came to, as one HTML page that needs nothing else, and the same numbers as JSON for programs."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from pydantic import Field

from tasks.download.placeholders import MIN_URLS, Placeholder, read_thumbnails
from tasks.download.summary import HostSummary, OutcomeDetail, SplitSummary, Spread, summarize_download
from tasks.pages.charts import bar_chart, share_bar
from tasks.pages.page import NO_VALUE, minute, number, render, web_text
from tasks.records import Outcome, Record
from tasks.storage.root import Root, now

PAGE = "download.html"
SUMMARY = "download.json"

_GOOD, _RETRYABLE, _FINAL, _UNKNOWN = "s2", "s1", "s0", "s3"  # classes of the style sheet
_THUMBNAIL_SIDE = 192  # pixels, twice what the page shows
_MOST_STATUSES = 12
_SLOWEST_HOSTS = 10
_LONGEST_TEXT = 200  # characters of a URL or detail that are shown


class DownloadSummary(Record):
    """What ROOT/download.json holds."""

    splits: tuple[SplitSummary, ...]
    page: str = Field(description="full name of the HTML page")
    made_at: str = Field(description="UTC, ISO 8601")


def make_download_report(root: Root, splits: Sequence[tuple[str, str]], options: str | None = None) -> DownloadSummary:
    """Write ROOT/download.html and ROOT/download.json, and each split's placeholders.parquet.

    Splits whose shards are not all there are reported as far as they go.

    Args:
        root: where the outcome tables lie.
        splits: (dataset, split) each, in the order shown.
        options: of the command line that downloads them, for the command that tries failures again; None: the root
            alone.

    Raises:
        UserError: a split has no manifest, or its outcome tables are not what they should be.
    """
    summaries = tuple(summarize_download(root, dataset, split) for dataset, split in splits)
    made = DownloadSummary(splits=summaries, page=root.path(PAGE), made_at=now())
    page = render(
        "download/page.html",
        title="Download report",
        note=f"Made at {minute(made.made_at)} UTC from {root.uri}",
        overview=[_overview(summary) for summary in summaries],
        splits=[_split(summary, _thumbnails(root, summary)) for summary in summaries],
        command=f"unicoder-vl download --only-failed {options or f'--root {shlex.quote(root.uri)}'}",
        min_urls=MIN_URLS,
    )
    root.publish_bytes(PAGE, page.encode())
    root.publish_model(SUMMARY, made)
    return made


def _thumbnails(root: Root, summary: SplitSummary) -> dict[str, bytes]:
    shards = {group.key: int(group.key) // (summary.shard_size or 1) for group in summary.placeholders}
    return read_thumbnails(root, summary.dataset, summary.split, shards, _THUMBNAIL_SIDE)


# --- what the templates show ----------------------------------------------------------------------------------------


def _overview(summary: SplitSummary) -> list[str]:
    return [
        summary.name,
        f"{summary.rows:,}",
        f"{summary.rows_read:,}",
        f"{summary.ok:,}",
        _share(summary.ok, summary.rows_read),
        f"{summary.images:,}",
        _bytes_text(summary.image_bytes),
        number(summary.shards_missing),
    ]


def _split(summary: SplitSummary, thumbnails: Mapping[str, bytes]) -> dict[str, Any]:
    """A split's summary, with its charts, and the rows of its tables."""
    if not summary.rows_read:
        return {"summary": summary}
    sides = [("short side", summary.short_side), ("long side", summary.long_side)]
    return {
        "summary": summary,
        "parts": _parts(summary),
        "charts": _charts(summary),
        "outcomes": _outcomes(summary),
        "waiting": {outcome.value: rows for outcome, rows in summary.outcomes.items() if outcome.retryable},
        "size": _bytes_text(summary.image_bytes),
        "mean_size": _bytes_text(summary.image_bytes / max(1, summary.images)),
        "sides": [[name, *_spread_texts(spread)] for name, spread in sides if spread is not None],
        "hosts": [
            ("Hosts with the most failures", [_host(host) for host in summary.failing_hosts]),
            ("Hosts that took the most time", [_host(host) for host in summary.slowest_hosts[:_SLOWEST_HOSTS]]),
        ],
        "placeholders": [_placeholder(group, thumbnails.get(group.key)) for group in summary.placeholders],
    }


def _lost(summary: SplitSummary) -> dict[Outcome, int]:
    return {name: rows for name, rows in summary.outcomes.items() if name not in (Outcome.OK, Outcome.DUPLICATE)}


def _parts(summary: SplitSummary) -> Markup:
    lost = _lost(summary)
    parts = [
        ("with an image", summary.ok, _GOOD),
        ("lost, may pass", sum(rows for name, rows in lost.items() if name.retryable), _RETRYABLE),
        ("lost for good", sum(rows for name, rows in lost.items() if not name.retryable), _FINAL),
        ("same URL as a row of a missing shard", summary.outcomes.get(Outcome.DUPLICATE, 0), _UNKNOWN),
    ]
    return share_bar("All rows", parts)


def _charts(summary: SplitSummary) -> list[Markup]:
    charts = []
    lost, total = _lost(summary), summary.rows_read
    if lost:
        looks = {name.value: _RETRYABLE if name.retryable else _FINAL for name in lost}
        title = f"Lost rows: {sum(lost.values()):,}, {_share(sum(lost.values()), total)}"
        charts.append(bar_chart(title, {name.value: rows for name, rows in lost.items()}, total, looks))
    statuses = summary.http_statuses
    if statuses:
        charts.append(bar_chart("Last answers: HTTP status", _few(statuses), sum(statuses.values())))
    return charts


def _outcomes(summary: SplitSummary) -> list[list[str]]:
    details = {detail.outcome: detail for detail in summary.details}
    ordered = sorted(summary.outcomes.items(), key=lambda item: (item[0] is not Outcome.OK, -item[1]))
    return [
        [name.value, f"{count:,}", _share(count, summary.rows_read), _may_pass(name), *_detail(details.get(name))]
        for name, count in ordered
    ]


def _may_pass(outcome: Outcome) -> str:
    if outcome in (Outcome.OK, Outcome.DUPLICATE):
        return NO_VALUE
    return "yes" if outcome.retryable else "no"


def _few(statuses: Mapping[int, int]) -> dict[str, int]:
    """The most frequent statuses by name; the others are one."""
    ordered = sorted(statuses.items(), key=lambda item: -item[1])
    few = {str(status): urls for status, urls in ordered[:_MOST_STATUSES]}
    rest = sum(urls for _, urls in ordered[_MOST_STATUSES:])
    return few | ({"other": rest} if rest else {})


def _detail(detail: OutcomeDetail | None) -> tuple[str, str]:
    return (
        ("", "")
        if detail is None
        else (web_text(detail.detail, _LONGEST_TEXT), web_text(detail.example_url, _LONGEST_TEXT))
    )


def _spread_texts(spread: Spread) -> list[str]:
    return [f"{value:,}" for value in (spread.low, spread.median, spread.high)]


def _host(host: HostSummary) -> list[str]:
    return [
        web_text(host.host, _LONGEST_TEXT),
        f"{host.urls:,}",
        f"{host.ok:,}",
        _share(host.ok, host.urls),
        NO_VALUE if host.failure is None else host.failure.value,
        f"{host.seconds:,.0f}",
        f"{host.seconds / host.urls:,.1f}",
    ]


def _placeholder(group: Placeholder, thumbnail: bytes | None) -> list[str]:
    picture = "not here"
    if thumbnail is not None:
        data = base64.b64encode(thumbnail).decode()
        picture = Markup('<img src="data:image/jpeg;base64,{}" alt="">').format(data)
    hosts = f"{group.hosts:,}" if group.hosts else NO_VALUE
    return [picture, f"{group.urls:,}", hosts, group.key, web_text(group.url, _LONGEST_TEXT), group.sha256]


# --- pieces ---------------------------------------------------------------------------------------------------------


def _share(part: int, total: int) -> str:
    return f"{part / total:.2%}" if total else NO_VALUE


def _bytes_text(count: float) -> str:
    """Decimal units, as disks are sold: `212.4 GB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"
