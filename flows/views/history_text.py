"""The history as text: a table for each series of evaluations that can be compared, and its trend in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydantic import Field

from tasks.errors import UserError
from tasks.evaluation.history import read_history
from tasks.evaluation.trend import Measure, checkpoint_text, trend
from tasks.records import HistoryRow, Record
from tasks.storage.root import Root

_TREND_WIDTH = 60
_ROUNDING = 1e-9
_HEADS = (
    ("", "made at (UTC)"),
    ("", "run"),
    ("", "step"),
    ("image-to", "text R@1"),
    ("text-to", "image R@1"),
    ("recall", "sum"),
    ("against", "before"),
    ("against", "best"),
)
_TEXTS = 2
"""Columns of text, which come first and are aligned to the left. Numbers are to the right."""


@dataclass(frozen=True)
class HistoryFilter:
    """Which evaluations are shown; None: all. `last` counts the newest of each series."""

    run: str | None = None
    on: str | None = None
    setting: str | None = None
    last: int | None = None


class HistoryLine(Record):
    """An evaluation by one protocol. Recalls and changes are fractions; a recall sum is 6 at most."""

    row: HistoryRow
    protocol: str = Field(description="in words, with the numbers of images and captions")
    image_to_text_r1: float
    text_to_image_r1: float
    recall_sum: float
    against_before: float | None = Field(description="recall sum less that of the evaluation before it; None: none was")
    against_best: float | None = Field(description="recall sum less the best of those before it; None: none was")


class HistorySeries(Record):
    """Evaluations that can be compared: of one setting, data and protocol, oldest first."""

    name: str
    lines: tuple[HistoryLine, ...] = Field(description="the newest, as many as were asked for")
    recall_sums: tuple[float, ...] = Field(description="of all of them")
    best: HistoryLine


class HistoryResult(Record):
    """What --json prints."""

    root_uri: str
    series: tuple[HistorySeries, ...]
    unreadable: int = Field(description="rows whose metrics are of another program's kind: left out")


def read_measures(root: Root, chosen: HistoryFilter) -> HistoryResult:
    """The history by series, in the order of their first evaluations.

    Changes are against all earlier evaluations of a series, also where only some are shown.

    Raises:
        UserError: none is as the filter wants; or a line of the history is damaged.
    """
    found = trend(read_history(root))
    shown = [measure for measure in found.measures if _is_chosen(measure, chosen)]
    if found.measures and not shown:
        raise UserError(_nothing(found.measures, chosen))
    by_series: dict[str, list[Measure]] = {}
    for measure in shown:
        by_series.setdefault(str(measure.series), []).append(measure)
    return HistoryResult(
        root_uri=root.uri,
        series=tuple(
            HistorySeries(
                name=name,
                lines=tuple(_line(measure) for measure in measures[-(chosen.last or len(measures)) :]),
                recall_sums=tuple(measure.recall_sum for measure in measures),
                best=_line(max(measures, key=lambda measure: measure.recall_sum)),
            )
            for name, measures in by_series.items()
        ),
        unreadable=found.unreadable,
    )


def history_text(result: HistoryResult) -> str:
    """Tables and trends, in percent, at most 100 columns wide unless names are long."""
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
    """A digit a value, 0 for the lowest and 9 for the highest.

    Where there are more than `width`, each digit is for the lowest of some neighbours, so that a fall is seen.
    """
    groups = min(len(values), width)
    starts = [len(values) * group // groups for group in range(groups)]
    lowest = [min(values[start:stop]) for start, stop in pairwise([*starts, len(values)])]
    low, high = min(lowest), max(lowest)
    return "".join(str(round(9 * (value - low) / (high - low))) if high > low else "9" for value in lowest)


def _series_text(series: HistorySeries) -> str:
    cells = [_cells(line) for line in series.lines]
    heads = list(zip(*_HEADS, strict=True))
    widths = [max(map(len, column)) for column in zip(*heads, *cells, strict=True)]
    text = [_aligned(line, widths) for line in heads]
    text += [f"{_aligned(line, widths)} {_mark(one)}".rstrip() for line, one in zip(cells, series.lines, strict=True)]
    hidden = len(series.recall_sums) - len(series.lines)
    if hidden:
        text.append(f"({hidden:,} earlier)")
    first, best, last = series.recall_sums[0], series.best, series.recall_sums[-1]
    summary = (
        f"recall sum: first {_percent(first)}, best {_percent(best.recall_sum)} ({checkpoint_text(best.row)}), "
        f"last {_percent(last)}"
    )
    return "\n".join([series.name, *text, f"trend {trend_line(series.recall_sums)}", summary])


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    texts = [cell.ljust(width) for cell, width in zip(line[:_TEXTS], widths, strict=False)]
    numbers = [cell.rjust(width) for cell, width in zip(line[_TEXTS:], widths[_TEXTS:], strict=True)]
    return "  ".join(texts + numbers)


def _cells(line: HistoryLine) -> tuple[str, ...]:
    row = line.row
    return (
        row.created_at[:16].replace("T", " "),
        row.run,
        "" if row.step is None else f"{row.step:,}",
        _percent(line.image_to_text_r1),
        _percent(line.text_to_image_r1),
        _percent(line.recall_sum),
        _change(line.against_before),
        _change(line.against_best),
    )


def _mark(line: HistoryLine) -> str:
    if line.against_before is not None and line.against_before < -_ROUNDING:
        return "fell"
    return "best" if line.against_best is None or line.against_best > _ROUNDING else ""


def _line(measure: Measure) -> HistoryLine:
    return HistoryLine(
        row=measure.row,
        protocol=measure.series.protocol,
        image_to_text_r1=measure.metrics.image_to_text_recall[1],
        text_to_image_r1=measure.metrics.text_to_image_recall[1],
        recall_sum=measure.recall_sum,
        against_before=None if measure.before is None else measure.recall_sum - measure.before.recall_sum,
        against_best=None if measure.best is None else measure.recall_sum - measure.best.recall_sum,
    )


def _is_chosen(measure: Measure, chosen: HistoryFilter) -> bool:
    return (
        (chosen.run is None or measure.row.run.startswith(chosen.run))
        and (chosen.on is None or measure.series.data == chosen.on)
        and (chosen.setting is None or measure.row.setting == chosen.setting)
    )


def _nothing(measures: Sequence[Measure], chosen: HistoryFilter) -> str:
    """What was asked for, and what there is."""
    asked = (
        ("--run", chosen.run, sorted({measure.row.run for measure in measures})),
        ("--on", chosen.on, sorted({measure.series.data for measure in measures})),
        ("--setting", chosen.setting, sorted({measure.row.setting for measure in measures})),
    )
    wanted = [(option, value, known) for option, value, known in asked if value is not None]
    there = "; ".join(f"{option} has {', '.join(known)}" for option, _, known in wanted)
    return f"no evaluation with {' '.join(f'{option} {value}' for option, value, _ in wanted)}; {there}"


def _change(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:+.1f}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"
