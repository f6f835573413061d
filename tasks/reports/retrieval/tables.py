"""Retrieval's tables: recall in both directions, what goes with it, and the recall sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model.downstream.measures import Measure, Measured
from model.downstream.retrieval.measures import (
    DIRECTIONS,
    RECALL_SUM,
    Direction,
    precision_of,
    rank_of,
    recall_at,
)
from model.downstream.retrieval.protocols import protocol_name
from tasks.evaluation.retrieval.published import PublishedRow
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.reports.measure_table import Table, TableRow


def retrieval_table(rows: Sequence[SettingRow], published: Sequence[PublishedRow] = ()) -> Table:
    """Our rows, and published ones below; every row has the same depths and a sum, or a dash for what it lacks."""
    every: list[SettingRow | PublishedRow] = [*rows, *published]
    depths = sorted({k for row in every for direction, _ in DIRECTIONS for k in _recalls(row, direction)})
    columns: list[Measure] = []
    for direction, _ in DIRECTIONS:
        columns += [recall_at(direction, k) for k in depths]
        columns += [measure for measure in _more(direction) if any(_value(row, measure) is not None for row in rows)]
    return Table(
        (*columns, RECALL_SUM),
        tuple(_our_row(row, columns) for row in rows),
        tuple(_published_row(row, columns) for row in published),
        qualifier=rows[-1].protocol if rows else "",
    )


def protocol_of(row: SettingRow) -> str:
    """Candidates and queries in words, such as `1,000 images x 5,000 captions`; see `protocol_name`."""
    text = protocol_name(row.protocol, row.images, row.captions, row.folds, split_images=row.split_images)
    return text if row.positives is None else f"{text}; ground truth: {row.positives}"


def _more(direction: Direction) -> tuple[Measure, ...]:
    """What a SettingRow may have beside recalls, in fields of the same names."""
    return (
        precision_of(direction, "map_at_r"),
        precision_of(direction, "r_precision"),
        rank_of(direction, "median"),
        rank_of(direction, "mean"),
    )


def _value(row: SettingRow, measure: Measure) -> float | None:
    value: float | None = getattr(row, measure.name)
    return value


def _our_row(row: SettingRow, columns: Sequence[Measure]) -> TableRow:
    values = _recall_values(row)
    for direction, _ in DIRECTIONS:
        more = ((measure.name, _value(row, measure)) for measure in _more(direction))
        values |= {name: value for name, value in more if value is not None}
    return TableRow(
        name=row.setting,
        measured=_measured(values, columns, row.intervals or {}),
        protocol=protocol_of(row),
        seed=row.seed,
        approximate=row.approximate,
    )


def _published_row(row: PublishedRow, columns: Sequence[Measure]) -> TableRow:
    return TableRow(f"{row.model}, {row.setting}", _measured(_recall_values(row), columns, {}), source=row.source)


def _measured(
    values: Mapping[str, float], columns: Sequence[Measure], intervals: Mapping[str, tuple[float, float]]
) -> dict[str, Measured]:
    """Values by column, and the sum of recalls where none is missing: sums over other depths say nothing."""
    recalls = [measure.name for measure in columns if measure.name.rpartition("_r")[2].isdecimal()]
    if all(name in values for name in recalls):
        values = {**values, RECALL_SUM.name: sum(values[name] for name in recalls)}
    return {
        measure.name: Measured(measure=measure, value=values[measure.name], interval=intervals.get(measure.name))
        for measure in (*columns, RECALL_SUM)
        if measure.name in values
    }


def _recalls(row: SettingRow | PublishedRow, direction: Direction) -> dict[int, float]:
    return row.image_to_text if direction == "image_to_text" else row.text_to_image


def _recall_values(row: SettingRow | PublishedRow) -> dict[str, float]:
    return {
        recall_at(direction, k).name: recall
        for direction, _ in DIRECTIONS
        for k, recall in _recalls(row, direction).items()
    }
