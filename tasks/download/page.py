"""What a download came to, as one HTML page that needs nothing else, and the same numbers as JSON for programs."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from html import escape

from pydantic import Field

from tasks.download.placeholders import MIN_URLS, Placeholder, read_thumbnails
from tasks.download.summary import HostSummary, OutcomeDetail, SplitSummary, Spread, summarize_download
from tasks.pages.charts import bar_chart, share_bar
from tasks.pages.page import html_page, web_text
from tasks.records import Outcome, Record
from tasks.storage.root import Root, now

PAGE = "download.html"
SUMMARY = "download.json"

_GOOD, _RETRYABLE, _FINAL, _UNKNOWN = "s2", "s1", "s0", "s3"  # classes of the style sheet
_THUMBNAIL_SIDE = 192  # pixels, twice what the page shows
_MOST_STATUSES = 12
_SLOWEST_HOSTS = 10
_LONGEST_TEXT = 200  # characters of a URL or detail that are shown
_NO_VALUE = "–"


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
    command = f"unicoder-vl download --only-failed {options or f'--root {shlex.quote(root.uri)}'}"
    sections = [_overview(summaries)] if len(summaries) != 1 else []
    sections += [_split_section(summary, _thumbnails(root, summary), command) for summary in summaries]
    minute = made.made_at[:16].replace("T", " ")
    page = html_page("Download report", f"Made at {minute} UTC from {root.uri}", "".join(sections))
    root.publish_bytes(PAGE, page.encode())
    root.publish_model(SUMMARY, made)
    return made


def _thumbnails(root: Root, summary: SplitSummary) -> dict[str, bytes]:
    shards = {group.key: int(group.key) // (summary.shard_size or 1) for group in summary.placeholders}
    return read_thumbnails(root, summary.dataset, summary.split, shards, _THUMBNAIL_SIDE)


# --- sections -------------------------------------------------------------------------------------------------------


def _overview(summaries: Sequence[SplitSummary]) -> str:
    if not summaries:
        return "<p>No split was asked for.</p>"
    rows = [
        [
            escape(summary.name),
            f"{summary.rows:,}",
            f"{summary.rows_read:,}",
            f"{summary.ok:,}",
            _share(summary.ok, summary.rows_read),
            f"{summary.images:,}",
            _bytes_text(summary.image_bytes),
            _NO_VALUE if summary.shards_missing is None else f"{summary.shards_missing:,}",
        ]
        for summary in summaries
    ]
    heads = ["split", "rows", "reported", "with an image", "share", "images", "size", "shards missing"]
    return f"<section><h2>All splits</h2>{_table(heads, rows)}</section>"


def _split_section(summary: SplitSummary, thumbnails: Mapping[str, bytes], command: str) -> str:
    parts = [_headline(summary)]
    if summary.rows_read:
        parts += [
            _outcomes(summary),
            _retry(summary, command),
            _pictures(summary),
            _hosts(summary),
            _placeholders(summary, thumbnails),
        ]
    return f"<section><h2>{escape(summary.name)}</h2>{''.join(parts)}</section>"


def _headline(summary: SplitSummary) -> str:
    if not summary.rows_read:
        return f'<p class="lead">{summary.rows:,} rows; no image shard stands yet.</p>'
    line = (
        f'<p class="lead"><b>{summary.ok:,}</b> of {summary.rows_read:,} rows have an image, '
        f"<b>{summary.success_rate:.1%}</b></p>"
    )
    if not summary.shards_missing:
        return line
    shards = summary.shards + summary.shards_missing
    return (
        f"{line}<p>{summary.shards_missing:,} of {shards:,} shards are missing: their "
        f"{summary.rows - summary.rows_read:,} of {summary.rows:,} rows are not in these numbers.</p>"
    )


def _outcomes(summary: SplitSummary) -> str:
    total = summary.rows_read
    unknown = summary.outcomes.get(Outcome.DUPLICATE, 0)
    lost = {name: rows for name, rows in summary.outcomes.items() if name not in (Outcome.OK, Outcome.DUPLICATE)}
    looks = {name.value: _RETRYABLE if name.retryable else _FINAL for name in lost}
    charts = ""
    if lost:
        title = f"Lost rows: {sum(lost.values()):,}, {_share(sum(lost.values()), total)}"
        charts += bar_chart(title, {name.value: rows for name, rows in lost.items()}, total, looks)
    if summary.http_statuses:
        charts += bar_chart(
            "Last answers: HTTP status", _few(summary.http_statuses), sum(summary.http_statuses.values())
        )
    parts = [
        ("with an image", summary.ok, _GOOD),
        ("lost, may pass", sum(rows for name, rows in lost.items() if name.retryable), _RETRYABLE),
        ("lost for good", sum(rows for name, rows in lost.items() if not name.retryable), _FINAL),
        ("same URL as a row of a missing shard", unknown, _UNKNOWN),
    ]
    details = {detail.outcome: detail for detail in summary.details}
    ordered = sorted(summary.outcomes.items(), key=lambda item: (item[0] is not Outcome.OK, -item[1]))
    rows = [
        [name.value, f"{count:,}", _share(count, total), _may_pass(name), *_detail(details.get(name))]
        for name, count in ordered
    ]
    heads = ["outcome", "rows", "share", "may pass", "most frequent detail", "an example"]
    return (
        share_bar("All rows", parts)
        + (f'<div class="charts pair">{charts}</div>' if charts else "")
        + _table(heads, rows, text=(3,), web=(4, 5))
    )


def _may_pass(outcome: Outcome) -> str:
    if outcome in (Outcome.OK, Outcome.DUPLICATE):
        return _NO_VALUE
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


def _retry(summary: SplitSummary, command: str) -> str:
    waiting = {outcome.value: rows for outcome, rows in summary.outcomes.items() if outcome.retryable}
    if not waiting:
        return ""
    return (
        f"<p>{sum(waiting.values()):,} rows ended in a way that may pass ({', '.join(waiting)}). To try these again, "
        f"and nothing else:</p><pre>{escape(command)}</pre>"
    )


def _pictures(summary: SplitSummary) -> str:
    if summary.short_side is None or summary.long_side is None:
        return ""
    mean = _bytes_text(summary.image_bytes / summary.images)
    sides = [("short side", summary.short_side), ("long side", summary.long_side)]
    return (
        f"<h3>Pictures kept</h3><p>{summary.images:,} pictures, {_bytes_text(summary.image_bytes)} in all, {mean} on "
        "average. Rows that share a URL share a picture.</p>"
        + _table(
            ["pixels", "5%", "median", "95%"],
            [[name, *_spread_texts(spread)] for name, spread in sides],
        )
    )


def _spread_texts(spread: Spread) -> list[str]:
    return [f"{value:,}" for value in (spread.low, spread.median, spread.high)]


def _hosts(summary: SplitSummary) -> str:
    blocks = []
    for title, hosts in (
        ("Hosts with the most failures", summary.failing_hosts),
        ("Hosts that took the most time", summary.slowest_hosts[:_SLOWEST_HOSTS]),
    ):
        if hosts:
            note = f'<p class="note">The first {len(hosts):,} of {summary.hosts:,} hosts.</p>'
            heads = ["host", "URLs", "ok", "share", "most frequent failure", "seconds", "seconds a URL"]
            blocks.append(
                f"<h3>{title}</h3>{note}{_table(heads, [_host(host) for host in hosts], text=(4,), web=(0,))}"
            )
    return "".join(blocks)


def _host(host: HostSummary) -> list[str]:
    return [
        web_text(host.host, _LONGEST_TEXT),
        f"{host.urls:,}",
        f"{host.ok:,}",
        _share(host.ok, host.urls),
        _NO_VALUE if host.failure is None else host.failure.value,
        f"{host.seconds:,.0f}",
        f"{host.seconds / host.urls:,.1f}",
    ]


def _placeholders(summary: SplitSummary, thumbnails: Mapping[str, bytes]) -> str:
    title = "<h3>Placeholders</h3>"
    if not summary.placeholder_groups:
        return f'{title}<p class="note">No picture came from {MIN_URLS} or more different URLs.</p>'
    shown = len(summary.placeholders)
    note = f'<p class="note">The {shown} largest groups.</p>' if shown < summary.placeholder_groups else ""
    heads = ["picture", "URLs", "hosts", "first row", "its URL", "sha256"]
    rows = [_placeholder(group, thumbnails.get(group.key)) for group in summary.placeholders]
    return (
        f"{title}<p>{summary.placeholder_groups:,} pictures came byte for byte from {MIN_URLS} or more different URLs "
        f"each, as a host’s “image not available” does: {summary.placeholder_rows:,} rows "
        f"({_share(summary.placeholder_rows, summary.rows_read)}). They are kept. To drop them, leave out the keys "
        f"listed in {escape(summary.placeholders_path)}.</p>{note}{_table(heads, rows, text=(3,), web=(4, 5))}"
    )


def _placeholder(group: Placeholder, thumbnail: bytes | None) -> list[str]:
    picture = "not here"
    if thumbnail is not None:
        picture = f'<img src="data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}" alt="">'
    hosts = f"{group.hosts:,}" if group.hosts else _NO_VALUE
    return [picture, f"{group.urls:,}", hosts, group.key, web_text(group.url, _LONGEST_TEXT), escape(group.sha256)]


# --- pieces ---------------------------------------------------------------------------------------------------------


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = (), web: Sequence[int] = ()
) -> str:
    """A table of HTML cells, numbers to the right. `text` are columns of words, `web` those of long foreign text."""
    kinds = dict.fromkeys(text, ' class="text"') | dict.fromkeys(web, ' class="text web"')
    head = "".join(f'<th scope="col"{kinds.get(column, "")}>{name}</th>' for column, name in enumerate(heads))
    lines = []
    for first, *cells in rows:
        numbered = enumerate(cells, 1)
        body = "".join(f"<td{kinds.get(column, '')}>{cell}</td>" for column, cell in numbered)
        lines.append(f'<tr><th scope="row"{kinds.get(0, "")}>{first}</th>{body}</tr>')
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _share(part: int, total: int) -> str:
    return f"{part / total:.2%}" if total else _NO_VALUE


def _bytes_text(count: float) -> str:
    """Decimal units, as disks are sold: `212.4 GB`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"
