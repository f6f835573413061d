"""A task over time: the rows of the history as charts and as a table, the evaluation at hand marked."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from model.downstream.measures import Measure, MeasuredTask, TaskMeasures
from model.downstream.tasks import measured_task
from tasks.pages.charts import line_chart
from tasks.pages.page import NO_VALUE, minute, render
from tasks.records import FIRST_TASK, HistoryRow

_NEWEST_EVALUATIONS = 50  # rows of the table; the charts have them all
_MARK = "◀ this page"

_HEADS_BEFORE = ("made at (UTC)", "setting", "data", "seed")
_HEADS_AFTER = ("run", "code")
"""The task's measures stand between them."""
_TEXTS = ("setting", "data", "run", "code")


def history_section(
    rows: Sequence[HistoryRow], task: str = FIRST_TASK, here: HistoryRow | None = None, about: str = ""
) -> Markup:
    """A chart of each measure that a task shows in brief, a line per setting and data, and the newest rows.

    Args:
        rows: oldest first; those of other tasks are left out.
        task: which one.
        here: the one that the page is about: ringed in the charts, marked in the table.
        about: a sentence to begin with.
    """
    description = measured_task(task)
    rows = [row for row in rows if row.task == task]
    if not rows:
        return Markup()
    measured = [_measures(row, description) for row in rows]
    charts = []
    for measure in description.brief:
        series: dict[str, list[tuple[float, float]]] = {}
        mark = None
        for number, (row, found) in enumerate(zip(rows, measured, strict=True), 1):
            if found is not None:
                value = found.value(measure)
                series.setdefault(f"{row.name}, {_data(row, found)}", []).append((number, value))
                mark = (float(number), value) if _is_here(row, here) else mark
        if series:
            title = measure.label + (", this evaluation ringed" if mark else "")
            percent = measure.unit == "percent"
            charts.append(line_chart(title, series, "evaluation, oldest first", percent=percent, mark=mark))
    shown = list(zip(rows, measured, strict=True))[-_NEWEST_EVALUATIONS:]
    heads = [*_HEADS_BEFORE, *(measure.label for measure in description.brief), *_HEADS_AFTER]
    return render(
        "reports/history.html",
        about=about,
        charts=charts,
        evaluations=len(rows),
        heads=heads,
        rows=[_line(row, found, description.brief, _is_here(row, here)) for row, found in reversed(shown)],
        text=[place for place, head in enumerate(heads) if head in _TEXTS],
    )


def _is_here(row: HistoryRow, here: HistoryRow | None) -> bool:
    """Not by equality: a row that came from the file has lists where one from memory has tuples."""
    return here is not None and _identity(row) == _identity(here)


def _identity(row: HistoryRow) -> tuple[str, ...]:
    return row.created_at, row.task, row.setting, row.checkpoint_fingerprint, row.data_fingerprint


def _line(row: HistoryRow, found: TaskMeasures | None, brief: Sequence[Measure], is_here: bool) -> list[str]:
    made = Markup("{} <b>{}</b>").format(minute(row.created_at), _MARK) if is_here else minute(row.created_at)
    values = (NO_VALUE if found is None else measure.text(found.value(measure)) for measure in brief)
    return [made, row.name, _data(row, found), str(row.seed), *values, row.run, row.code_version]


def _measures(row: HistoryRow, task: MeasuredTask) -> TaskMeasures | None:
    """What a row measured by its main protocol; None where its metrics are of another kind."""
    try:
        return task.measures(row.metrics)[0]
    except ValueError:
        return None


def _data(row: HistoryRow, found: TaskMeasures | None) -> str:
    """Dataset and split, and the protocol where it is not the usual one: numbers of two protocols make two lines."""
    return f"{row.dataset}/{row.split} {found.qualifier if found else ''}".rstrip()
