"""Recall over time: the rows of the history as charts and as a table, the evaluation at hand marked."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from tasks.evaluation.setting_row import DIRECTIONS, Direction
from tasks.pages.charts import line_chart
from tasks.pages.page import NO_VALUE, minute, render
from tasks.records import HistoryRow

_NEWEST_EVALUATIONS = 50  # rows of the table; the charts have them all
_MARK = "◀ this page"

_HEADS = ("made at (UTC)", "setting", "data", "seed", "image-to-text R@1", "text-to-image R@1", "run", "code")


def history_section(rows: Sequence[HistoryRow], here: HistoryRow | None = None, about: str = "") -> Markup:
    """Charts of recall@1, a line per setting and data, and the newest rows.

    Args:
        rows: oldest first.
        here: the one that the page is about: ringed in the charts, marked in the table.
        about: a sentence to begin with.
    """
    if not rows:
        return Markup()
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
    return render(
        "reports/retrieval/recall_history.html",
        about=about,
        charts=charts,
        evaluations=len(rows),
        heads=_HEADS,
        rows=[_line(row, _is_here(row, here)) for row in reversed(shown)],
    )


def _is_here(row: HistoryRow, here: HistoryRow | None) -> bool:
    """Not by equality: a row that came from the file has lists where one from memory has tuples."""
    return here is not None and _identity(row) == _identity(here)


def _identity(row: HistoryRow) -> tuple[str, ...]:
    return row.created_at, row.setting, row.checkpoint_fingerprint, row.data_fingerprint


def _line(row: HistoryRow, is_here: bool) -> list[str]:
    made = Markup("{} <b>{}</b>").format(minute(row.created_at), _MARK) if is_here else minute(row.created_at)
    recalls = (_percent(_recall_at_1(row, direction)) for direction, _ in DIRECTIONS)
    return [made, row.name, _data(row), str(row.seed), *recalls, row.run, row.code_version]


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
    return NO_VALUE if fraction is None else f"{100 * fraction:.1f}"
