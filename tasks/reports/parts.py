"""What reports show of a task in a way of its own: one line a task that has any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from tasks.reports.measure_table import Table, TableRow, make_table, measures_row

if TYPE_CHECKING:
    from tasks.records import HistoryRow
    from tasks.reports.sweeps import VariantRow

PARTS: dict[str, str] = {
    "retrieval": "tasks.reports.retrieval.part",
}
"""Task -> the module whose `PART` it is, imported when it is first asked for."""


def measured_tables(variants: Sequence[VariantRow]) -> list[Table]:
    """Rows named by variant, a table for each protocol."""
    tables: dict[str, list[tuple[VariantRow, int]]] = {}
    for variant in variants:
        for place, measures in enumerate(variant.measured):
            tables.setdefault(measures.protocol, []).append((variant, place))
    return [
        make_table([measures_row(variant.name, variant.measured[place], variant.seed) for variant, place in found])
        for found in tables.values()
    ]


def none_published(row: HistoryRow) -> Sequence[TableRow]:
    """What is beside an evaluation where no paper has the like."""
    return ()


def no_ablation_published(ablation: str, dataset: str) -> tuple[str, Table] | None:
    """What is beside a sweep where no paper has the like."""
    return None


@dataclass(frozen=True)
class TaskPart:
    """A task's ways, where they are not everyone's.

    Attributes:
        published: what papers print of the data of an evaluation, to stand below it.
        sweep_tables: the tables of a sweep's variants, that of the main protocol first.
        sweep_published: what papers print of an ablation (layers, boxes, settings, objectives), for a sweep on a
            dataset: a heading and a table of published rows; None: nothing.
    """

    published: Callable[[HistoryRow], Sequence[TableRow]] = none_published
    sweep_tables: Callable[[Sequence[VariantRow]], list[Table]] = measured_tables
    sweep_published: Callable[[str, str], tuple[str, Table] | None] = no_ablation_published


def task_part(task: str) -> TaskPart:
    """A task's part."""
    if task not in PARTS:
        return TaskPart()
    part: TaskPart = import_module(PARTS[task]).PART
    return part
