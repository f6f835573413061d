"""The history as text: a table for each series of comparable evaluations, with its trend in a line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from model.downstream.measures import Measure, MeasuredTask
from model.downstream.tasks import measured_task
from tasks.errors import UserError
from tasks.evaluation.history import read_history
from tasks.evaluation.trend import Series, TrendPoint, checkpoint_text, trend
from tasks.records import FIRST_TASK, HistoryRow, Record
from tasks.storage.root import Root

_TREND_WIDTH = 60
_ROUNDING = 1e-9
_HEADS_BEFORE = (("", "made at (UTC)"), ("", "run"), ("", "step"))
_HEADS_AFTER = (("against", "before"), ("against", "best"))
"""Two lines each. The task's measures stand between them."""
_TEXTS = 2
"""Columns of text, which come first and are aligned to the left. Numbers are to the right."""


@dataclass(frozen=True)
class HistoryFilter:
    """Selects evaluations; None: all. `last` counts the newest of each series."""

    task: str | None = None
    run: str | None = None
    on: str | None = None
    setting: str | None = None
    last: int | None = None


class HistoryLine(Record):
    """An evaluation by one protocol. In JSON its values stand beside the other fields, too, each under its name."""

    model_config = ConfigDict(extra="ignore")

    row: HistoryRow
    protocol: str = Field(description="in words, with the number of examples")
    values: dict[str, float] = Field(
        description="by name: the measures that the task shows in brief, and its main one; percents are fractions"
    )
    against_before: float | None = Field(
        description="main measure less that of the evaluation before it; None: none was"
    )
    against_best: float | None = Field(description="main measure less the best of those before it; None: none was")

    @model_serializer(mode="wrap")
    def _with_values(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return self.values | content


class HistorySeries(Record):
    """Evaluations that can be compared: of one task, setting, data and protocol, oldest first."""

    model_config = ConfigDict(extra="ignore")

    name: str
    task: str = FIRST_TASK
    lines: tuple[HistoryLine, ...] = Field(description="the newest, as many as were asked for")
    values: tuple[float, ...] = Field(description="the main measure of all of them")
    best: HistoryLine

    @model_serializer(mode="wrap")
    def _with_named_values(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        return {measured_task(self.task).series_name: self.values} | content


class HistoryResult(Record):
    """The JSON that --json prints."""

    root_uri: str
    series: tuple[HistorySeries, ...]
    unreadable: int = Field(description="rows whose metrics are of another program's kind: left out")


def read_series(root: Root, chosen: HistoryFilter) -> HistoryResult:
    """The history by series, in the order of their first evaluations.

    Changes are against all earlier evaluations of a series, also where only some are shown.

    Raises:
        UserError: none is as the filter wants; or a line of the history is damaged.
    """
    found = trend(read_history(root))
    shown = [point for point in found.points if _is_chosen(point, chosen)]
    if found.points and not shown:
        raise UserError(_nothing(found.points, chosen))
    by_series: dict[Series, list[TrendPoint]] = {}
    for point in shown:
        by_series.setdefault(point.series, []).append(point)
    return HistoryResult(
        root_uri=root.uri,
        series=tuple(
            HistorySeries(
                name=str(series),
                task=series.task,
                lines=tuple(_line(point) for point in points[-(chosen.last or len(points)) :]),
                values=tuple(point.main for point in points),
                best=_line(max(points, key=lambda point: point.task.main.gain(0, point.main))),
            )
            for series, points in by_series.items()
        ),
        unreadable=found.unreadable,
    )


def history_text(result: HistoryResult) -> str:
    """Tables and trends, at most 100 columns wide unless names are long or the task has many measures in brief."""
    parts = [_series_text(series) for series in result.series]
    if not parts:
        parts.append(
            f"no evaluation yet under {result.root_uri}; "
            f"run: unicoder-vl evaluate --run RUN --on DATASET/SPLIT --root {result.root_uri}"
        )
    if result.unreadable:
        parts.append(f"left out, as this program does not know their metrics: {result.unreadable:,} rows")
    return "\n\n".join(parts)


def trend_line(values: Sequence[float], width: int = _TREND_WIDTH) -> str:
    """One digit a value, 0 for the lowest and 9 for the highest.

    Where there are more than `width`, each digit is for the lowest of some neighbours, so that a fall is seen.
    """
    groups = min(len(values), width)
    starts = [len(values) * group // groups for group in range(groups)]
    lowest = [min(values[start:stop]) for start, stop in pairwise([*starts, len(values)])]
    low, high = min(lowest), max(lowest)
    return "".join(str(round(9 * (value - low) / (high - low))) if high > low else "9" for value in lowest)


def _series_text(series: HistorySeries) -> str:
    task = measured_task(series.task)
    main = task.main
    cells = [_cells(line, task) for line in series.lines]
    measures = [_halves(measure.label) for measure in _columns(task)]
    heads = list(zip(*_HEADS_BEFORE, *measures, *_HEADS_AFTER, strict=True))
    widths = [max(map(len, column)) for column in zip(*heads, *cells, strict=True)]
    text = [_aligned(line, widths) for line in heads]
    text += [
        f"{_aligned(line, widths)} {_mark(one, main)}".rstrip() for line, one in zip(cells, series.lines, strict=True)
    ]
    hidden = len(series.values) - len(series.lines)
    if hidden:
        text.append(f"({hidden:,} earlier)")
    first, best, last = series.values[0], series.best, series.values[-1]
    summary = (
        f"{main.label}: first {main.text(first)}, best {main.text(best.values[main.name])} "
        f"({checkpoint_text(best.row)}), last {main.text(last)}"
    )
    digits = trend_line([main.gain(0, value) for value in series.values])
    return "\n".join([series.name, *text, f"trend {digits}", summary])


def _columns(task: MeasuredTask) -> tuple[Measure, ...]:
    """What a line tells: the measures in brief, and the main one."""
    return task.brief if task.main in task.brief else (*task.brief, task.main)


def _halves(label: str) -> tuple[str, str]:
    """A label in two lines, cut where the longer one is shortest: `image-to`, `text R@1`."""
    cuts = [match.start() for match in re.finditer("[ -]", label)]
    if not cuts:
        return "", label
    cut = min(cuts, key=lambda place: max(place, len(label) - place - 1))
    return label[:cut], label[cut + 1 :]


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    texts = [cell.ljust(width) for cell, width in zip(line[:_TEXTS], widths, strict=False)]
    numbers = [cell.rjust(width) for cell, width in zip(line[_TEXTS:], widths[_TEXTS:], strict=True)]
    return "  ".join(texts + numbers)


def _cells(line: HistoryLine, task: MeasuredTask) -> tuple[str, ...]:
    row = line.row
    return (
        row.created_at[:16].replace("T", " "),
        row.run,
        "" if row.step is None else f"{row.step:,}",
        *(measure.text(line.values[measure.name]) for measure in _columns(task)),
        *("" if change is None else task.main.change(change) for change in (line.against_before, line.against_best)),
    )


def _mark(line: HistoryLine, main: Measure) -> str:
    """Whether it is worse than the one before, or the best so far."""
    if line.against_before is not None and main.gain(0, line.against_before) < -_ROUNDING:
        return "fell" if main.higher_is_better else "rose"
    return "best" if line.against_best is None or main.gain(0, line.against_best) > _ROUNDING else ""


def _line(point: TrendPoint) -> HistoryLine:
    return HistoryLine(
        row=point.row,
        protocol=point.series.protocol,
        values={measure.name: point.measures.value(measure) for measure in _columns(point.task)},
        against_before=None if point.before is None else point.main - point.before.main,
        against_best=None if point.best is None else point.main - point.best.main,
    )


def _is_chosen(point: TrendPoint, chosen: HistoryFilter) -> bool:
    return (
        (chosen.task is None or point.task.name == chosen.task)
        and (chosen.run is None or point.row.run.startswith(chosen.run))
        and (chosen.on is None or point.series.data == chosen.on)
        and (chosen.setting is None or point.row.setting == chosen.setting)
    )


def _nothing(points: Sequence[TrendPoint], chosen: HistoryFilter) -> str:
    """What was asked for, and what is there."""
    asked = (
        ("--task", chosen.task, sorted({point.task.name for point in points})),
        ("--run", chosen.run, sorted({point.row.run for point in points})),
        ("--on", chosen.on, sorted({point.series.data for point in points})),
        ("--setting", chosen.setting, sorted({point.row.setting for point in points})),
    )
    wanted = [(option, value, known) for option, value, known in asked if value is not None]
    there = "; ".join(f"{option} has {', '.join(known)}" for option, _, known in wanted)
    return f"no evaluation with {' '.join(f'{option} {value}' for option, value, _ in wanted)}; {there}"
