"""What a task measured, as a section of a page: a table for each protocol."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from model.downstream.tasks import measured_task
from tasks.records import HistoryRow
from tasks.reports.measure_table import Table, TableRow, make_table, measures_row, table_html
from tasks.reports.parts import task_part


def measures_tables(rows: Sequence[HistoryRow], published: Sequence[TableRow] = ()) -> list[Table]:
    """A table for each protocol, the main one first, with a row for each evaluation.

    Args:
        rows: evaluations of one task.
        published: beside those by the main protocol.

    Raises:
        ValueError: a row's metrics are not those of its task.
    """
    tables: dict[str, list[TableRow]] = {}
    for row in rows:
        for measures in measured_task(row.task).measures(row.metrics):
            tables.setdefault(measures.protocol, []).append(measures_row(row.name, measures, row.seed))
    return [make_table(found, () if number else published) for number, found in enumerate(tables.values())]


def evaluation_section(row: HistoryRow) -> tuple[str, Markup]:
    """Heading and tables of one evaluation of any task, beside what papers print."""
    tables = measures_tables([row], task_part(row.task).published(row))
    return f"{row.task[:1].upper()}{row.task[1:]}", measures_section(tables)


def measures_section(tables: Sequence[Table]) -> Markup:
    """Each table, below its protocol where there are several."""
    blocks = []
    for table in tables:
        if len(tables) > 1:
            blocks.append(Markup("<h3>{}</h3>").format(f"{table.protocol[:1].upper()}{table.protocol[1:]}"))
        blocks.append(table_html(table))
    return Markup().join(blocks)
