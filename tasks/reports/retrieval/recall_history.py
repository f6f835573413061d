"""Recall over time: the rows of the history as charts and as a table, the evaluation at hand marked."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tasks.evaluation.setting_row import DIRECTIONS, Direction
from tasks.pages.charts import line_chart
from tasks.pages.page import minute
from tasks.records import HistoryRow

_NEWEST_EVALUATIONS = 50  # rows of the table; the charts have them all
_NO_VALUE = "–"
_MARK = "◀ this page"

_HEADS = (
    ("made at (UTC)", ""),
    ("setting", ' class="text"'),
    ("data", ' class="text"'),
    ("seed", ""),
    ("image-to-text R@1", ""),
    ("text-to-image R@1", ""),
    ("run", ' class="text"'),
    ("code", ' class="text"'),
)


def history_section(rows: Sequence[HistoryRow], here: HistoryRow | None = None, about: str = "") -> str:
    """Charts of recall@1, a line per setting and data, and the newest rows.

    Args:
        rows: oldest first.
        here: the one that the page is about: ringed in the charts, marked in the table.
        about: a sentence to begin with.
    """
    if not rows:
        return ""
    charts = []
    for direction, label in DIRECTIONS:
        series: dict[str, list[tuple[float, float]]] = {}
        mark = None
        for number, row in enumerate(rows, 1):
            recall = _recall_at_1(row, direction)
            if recall is not None:
                series.setdefault(_series_name(row), []).append((number, recall))
                mark = (float(number), recall) if _is_here(row, here) else mark
        if series:
            title = f"{label} R@1" + (", this evaluation ringed" if mark else "")
            charts.append(line_chart(title, series, "evaluation, oldest first", percent=True, mark=mark))
    shown = rows[-_NEWEST_EVALUATIONS:]
    lines = "".join(_line(row, _is_here(row, here)) for row in reversed(shown))
    heads = "".join(f'<th scope="col"{kind}>{name}</th>' for name, kind in _HEADS)
    parts = [f"<p>{escape(about)}</p>"] if about else []
    parts.append(f'<div class="charts">{"".join(charts)}</div>')
    if len(rows) > len(shown):
        parts.append(f'<p class="note">The newest {len(shown):,} of {len(rows):,} evaluations.</p>')
    parts.append(
        f'<div class="wide"><table class="trend"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
    )
    return "".join(parts)


def _is_here(row: HistoryRow, here: HistoryRow | None) -> bool:
    """Not by equality: a row that came from the file has lists where one from memory has tuples."""
    return here is not None and _identity(row) == _identity(here)


def _identity(row: HistoryRow) -> tuple[str, ...]:
    return row.created_at, row.setting, row.checkpoint_fingerprint, row.data_fingerprint


def _line(row: HistoryRow, is_here: bool) -> str:
    recalls = "".join(f"<td>{_percent(_recall_at_1(row, direction))}</td>" for direction, _ in DIRECTIONS)
    made = f"{escape(minute(row.created_at))}{f' <b>{_MARK}</b>' if is_here else ''}"
    return (
        f'<tr><th scope="row">{made}</th>'
        f'<td class="text">{escape(row.name)}</td><td class="text">{escape(_data(row))}</td><td>{row.seed}</td>'
        f'{recalls}<td class="text">{escape(row.run)}</td><td class="text">{escape(row.code_version)}</td></tr>'
    )


def _data(row: HistoryRow) -> str:
    """Dataset and split, and the protocol where it is not over all images: numbers of two protocols make two lines."""
    protocol = str(row.metrics.get("protocol", "all"))
    name = f"{row.dataset}/{row.split}" + ("" if protocol == "all" else f" {protocol}")
    return f"{name} approximate" if row.metrics.get("approximate") else name


def _series_name(row: HistoryRow) -> str:
    return f"{row.name}, {_data(row)}"


def _recall_at_1(row: HistoryRow, direction: Direction) -> float | None:
    """None where the row's metrics are of another kind."""
    recalls = row.metrics.get(f"{direction}_recall")
    value = recalls.get("1") if isinstance(recalls, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _percent(fraction: float | None) -> str:
    return _NO_VALUE if fraction is None else f"{100 * fraction:.1f}"
