"""The history as series of evaluations that can be compared: how measures moved, and whether one fell too far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from model.downstream.measures import Measure, MeasuredTask, TaskMeasures
from model.downstream.tasks import measured_task
from tasks.errors import StageError
from tasks.records import HistoryRow

_ROUNDING = 1e-9
"""A fall of exactly the margin is not too far."""


class Series(NamedTuple):
    """The common ground of comparable evaluations.

    Data is known by its name and its numbers, not by its bytes: features that were extracted anew are to be held
    against the old ones. Where images came or went, a series of its own begins.
    """

    task: str
    setting: str
    """With its variant, if it is one of an ablation."""
    data: str
    protocol: str
    """In words, with the number of examples, and what was left out."""

    def __str__(self) -> str:
        return f"{self.setting} on {self.data}, {self.protocol}"


@dataclass(frozen=True)
class TrendPoint:
    """What one evaluation measured by one protocol, and the earlier ones of its series."""

    row: HistoryRow
    task: MeasuredTask = field(repr=False)
    measures: TaskMeasures
    before: TrendPoint | None = field(default=None, repr=False)
    """The one before it."""
    best: TrendPoint | None = field(default=None, repr=False)
    """The earlier one of the best main measure, the first of equals."""

    @property
    def series(self) -> Series:
        return Series(self.task.name, self.row.name, f"{self.row.dataset}/{self.row.split}", self.measures.protocol)

    @property
    def main(self) -> float:
        """Value of the task's main measure."""
        return self.measures.value(self.task.main)

    @property
    def watched(self) -> float:
        """Value of the measure that a fall is told by."""
        return self.measures.value(self.task.watch)

    @property
    def fall(self) -> float | None:
        """By how much the watched measure is worse than that of the best earlier one; negative: better.

        None: there is none.
        """
        return None if self.best is None else -self.task.watch.gain(self.best.watched, self.watched)


@dataclass(frozen=True)
class Trend:
    """Points, oldest first; and how many rows hold metrics that this program does not know, which are none of them."""

    points: tuple[TrendPoint, ...]
    unreadable: int

    def of(self, row: HistoryRow) -> TrendPoint:
        """A history row's measures by its main protocol."""
        wanted = _same(_points(row)[0])
        return next(point for point in self.points if _same(point) == wanted)


def trend(rows: Sequence[HistoryRow]) -> Trend:
    """Every protocol of every history row, each beside the earlier ones of its series.

    What is measured again, because another protocol was asked for beside it, is there once.
    """
    points: dict[tuple[Series, str, str], TrendPoint] = {}
    last: dict[Series, TrendPoint] = {}
    best: dict[Series, TrendPoint] = {}
    unreadable = 0
    for row in rows:
        try:
            found = _points(row)
        except ValueError:
            unreadable += 1
            continue
        for one in found:
            series = one.series
            point = TrendPoint(row, one.task, one.measures, last.get(series), best.get(series))
            if points.setdefault(_same(point), point) is not point:
                continue
            last[series] = point
            if point.best is None or point.task.main.gain(point.best.main, point.main) > 0:
                best[series] = point
    return Trend(tuple(points.values()), unreadable)


def _points(row: HistoryRow) -> list[TrendPoint]:
    """What a row measured, by protocol.

    Raises:
        InputError: this program does not know its task.
        ValueError: nor its metrics.
    """
    task = measured_task(row.task)
    return [TrendPoint(row, task, measures) for measures in task.measures(row.metrics)]


def _same(point: TrendPoint) -> tuple[Series, str, str]:
    """What is equal for points of the same weights, data and protocol."""
    return point.series, point.row.checkpoint_fingerprint, point.row.data_fingerprint


def check_fall(point: TrendPoint, max_drop: float) -> None:
    """Raise StageError where a task's watched measure is worse than the best earlier evaluation by more than a margin.

    Args:
        max_drop: of the watched measure; of one in percent a fraction. See `EvaluateParams.max_drop`.
    """
    if point.best is None or point.fall is None or point.fall <= max_drop + _ROUNDING:
        return
    best, watch = point.best, point.task.watch
    fell, below = ("fell", "below") if watch.higher_is_better else ("rose", "above")
    points = " points" if watch.unit == "percent" else ""
    raise StageError(
        f"{point.task.subject} {fell}: {point.series}: {watch.label} {_with_main(point)} of "
        f"{checkpoint_text(point.row)} is {watch.text(point.fall)}{points} {below} the best so far, "
        f"{_with_main(best, named=False)} of {checkpoint_text(best.row)}, made {best.row.created_at[:10]}; "
        f"max_drop allows {watch.text(max_drop)}{_other_data(point)}"
    )


def _with_main(point: TrendPoint, named: bool = True) -> str:
    """`78.0 (accuracy 75.2)`: the watched measure, and the main one where it is another."""
    main, watch = point.task.main, point.task.watch
    text = watch.text(point.watched)
    return text if main == watch else f"{text} ({f'{main.label} ' if named else ''}{main.text(point.main)})"


def comparison_sentence(point: TrendPoint) -> str:
    """`accuracy 75.2, 1.3 above the best earlier one (...)`, for a log or a terminal."""
    main = point.task.main
    text = f"{main.label} {main.text(point.main)}" + ("" if main.higher_is_better else " (lower is better)")
    if point.best is None:
        return f"{text}, the first evaluation of {point.series}"
    change = point.main - point.best.main
    how = f"{main.text(abs(change))} {'above' if change > 0 else 'below'}" if abs(change) > _ROUNDING else "equal to"
    return f"{text}, {how} the best earlier one ({checkpoint_text(point.best.row)}){_other_data(point)}"


def comparison_table(point: TrendPoint) -> list[dict[str, Any]]:
    """The best earlier evaluation, this one, and the difference of every measure, as they are shown."""
    shown = [("this", point)] if point.best is None else [("best before", point.best), ("this", point)]
    lines: list[dict[str, Any]] = [
        {
            "evaluation": name,
            "run": one.row.run,
            "step": one.row.step,
            "checkpoint": one.row.checkpoint_fingerprint[:12],
            "data": f"{one.row.dataset}/{one.row.split} {one.row.data_fingerprint[:12]}",
            "made at (UTC)": one.row.created_at[:16].replace("T", " "),
            **{found.measure.label: _shown(found.measure, found.value) for found in one.measures.measured},
        }
        for name, one in shown
    ]
    if point.best is not None:
        changes = {
            now.measure.label: _shown(now.measure, now.value - before.value)
            for now in point.measures.measured
            if (before := point.best.measures.get(now.measure.name)) is not None
        }
        lines.append({"evaluation": "difference", **changes})
    return lines


def _shown(measure: Measure, value: float) -> float:
    return round(measure.scaled(value), measure.decimals + 1)


def checkpoint_text(row: HistoryRow) -> str:
    """The checkpoint, such as `finetune-15be9cd86f71 step 350`; rows of an older program name no step."""
    return row.run if row.step is None else f"{row.run} step {row.step:,}"


def _other_data(point: TrendPoint) -> str:
    """A warning about what differs between the two."""
    if point.best is None or point.best.row.data_fingerprint == point.row.data_fingerprint:
        return ""
    return "; features, captions or precision were others then"
