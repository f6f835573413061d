"""A table of measures: rows of settings, columns of measures; as HTML for a page, as text for a terminal or a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from model.downstream.measures import Measure, Measured, TaskMeasures
from tasks.pages.page import NO_VALUE, render

_INTERVALS = "Small numbers are 95% bootstrap intervals."
_WIDTH = 7
"""Characters of a column in a terminal, at least."""


@dataclass(frozen=True)
class TableRow:
    """One row: a setting and what was measured in it.

    Attributes:
        name: the setting, or what it is beside: chance, a published model.
        measured: values by the names of measures.
        protocol: what was measured over what; empty: not known.
        seed: of the training run; None where nothing was trained.
        approximate: what was left out; None: nothing.
        source: of a published row, the paper.
    """

    name: str
    measured: Mapping[str, Measured]
    protocol: str = ""
    seed: int | None = None
    approximate: str | None = None
    source: str = ""

    def text(self, measure: Measure) -> str:
        found = self.measured.get(measure.name)
        return NO_VALUE if found is None else measure.text(found.value)

    def half_width(self, measure: Measure) -> str | None:
        """Half of the interval; None: there is none."""
        found = self.measured.get(measure.name)
        if found is None or found.interval is None:
            return None
        low, high = found.interval
        return measure.text((high - low) / 2)

    @property
    def has_intervals(self) -> bool:
        return any(one.interval is not None for one in self.measured.values())


@dataclass(frozen=True)
class Table:
    """Rows of one protocol.

    Attributes:
        columns: measures, those of a group next to each other.
        rows: ours, in the order shown.
        published: of the same data and protocol; they come below ours under a line of their own.
        qualifier: the protocol in a word; empty: the task's usual one.
    """

    columns: tuple[Measure, ...]
    rows: tuple[TableRow, ...]
    published: tuple[TableRow, ...] = ()
    qualifier: str = ""

    @property
    def protocol(self) -> str:
        """That of the last row: what comes before it, such as chance, is there to be compared with it."""
        return self.rows[-1].protocol if self.rows else ""


def make_table(rows: Sequence[TableRow], published: Sequence[TableRow] = ()) -> Table:
    """A table of all that its rows measured, in the order in which it is met, group by group."""
    found = {name: one.measure for row in (*rows, *published) for name, one in row.measured.items()}
    groups = list(dict.fromkeys(measure.group for measure in found.values()))
    columns = sorted(found.values(), key=lambda measure: groups.index(measure.group))
    return Table(tuple(columns), tuple(rows), tuple(published))


def measures_row(name: str, measures: TaskMeasures, seed: int | None) -> TableRow:
    """What an evaluation measured, as a row."""
    measured = {one.measure.name: one for one in measures.measured}
    return TableRow(name, measured, protocol=measures.protocol, seed=seed)


def published_row(name: str, values: Mapping[Measure, float], source: str) -> TableRow:
    """What a paper prints; `source` says where, and whether somebody has looked it up there."""
    measured = {measure.name: Measured(measure=measure, value=value) for measure, value in values.items()}
    return TableRow(name, measured, source=source)


def table_html(table: Table) -> Markup:
    """The table as HTML. Of several training runs, the best value of each column is bold."""
    rows = table.rows
    if not rows:
        return Markup("<p>No evaluation yet.</p>")
    notes = _notes(table.columns, rows)
    if any(row.has_intervals for row in rows):
        notes.append(_INTERVALS)
    if table.published:
        notes.append(f"Published: {_sources(table.published)}.")
    bodies = [_named(rows), table.published] if table.published else [_named(rows)]
    approximate = dict.fromkeys(f"{row.name}: {row.approximate}" for row in rows if row.approximate)
    return _html("setting", table.columns, bodies, _best(rows, table.columns), " ".join(notes), list(approximate))


def published_html(table: Table) -> Markup:
    """Published rows alone, with their sources below."""
    return _html("published", table.columns, [table.published], {}, f"Sources: {_sources(table.published)}.")


def table_text(table: Table) -> str:
    """The table as aligned text for a terminal, with the protocol below.

    Where there are intervals, half their width is below each value.
    """
    rows = table.rows
    if not rows:
        return "no evaluation yet"
    columns = [measure for measure in table.columns if measure.shown != "pages"]
    warnings = [f"approximate: {row.approximate}" for row in rows if row.approximate]
    lines = [_text("setting", columns, _named(rows)), "", " ".join(_notes(columns, rows)), *dict.fromkeys(warnings)]
    return "\n".join(lines)


def published_text(table: Table) -> str:
    """`published_html` as aligned text for a terminal."""
    return f"{_text('published', table.columns, table.published)}\n\nSources: {_sources(table.published)}."


def table_cells(table: Table) -> list[dict[str, str]]:
    """The rows with a text for each cell, `39.0 ± 9.0`, by short heads of columns."""
    columns = [measure for measure in table.columns if measure.shown == "always"]
    return [
        {"setting": row.name, **{measure.short_column: _with_half(row, measure) for measure in columns}}
        for row in table.rows
    ]


def _with_half(row: TableRow, measure: Measure) -> str:
    half = row.half_width(measure)
    return row.text(measure) if half is None else f"{row.text(measure)} ± {half}"


def _named(rows: Sequence[TableRow]) -> list[TableRow]:
    """Settings are named with their seeds where the table has them more than once."""
    names = [row.name for row in rows]
    return [
        TableRow(f"{row.name} (seed {row.seed})", row.measured, seed=row.seed)
        if names.count(row.name) > 1 and row.seed is not None
        else row
        for row in rows
    ]


def _best(rows: Sequence[TableRow], columns: Sequence[Measure]) -> dict[str, float]:
    """The best value of each column among training runs; nothing where there are none to choose from."""
    trained = [row for row in rows if row.seed is not None]
    if len(trained) < 2:
        return {}
    best = {}
    for measure in columns:
        values = [row.measured[measure.name].value for row in trained if measure.name in row.measured]
        if values:
            best[measure.name] = max(values) if measure.higher_is_better else min(values)
    return best


def _groups(columns: Sequence[Measure]) -> list[tuple[str, list[Measure]]]:
    return [(group, list(measures)) for group, measures in groupby(columns, key=lambda measure: measure.group)]


# --- text -----------------------------------------------------------------------------------------------------------


def _text(first_head: str, columns: Sequence[Measure], rows: Sequence[TableRow]) -> str:
    width = max(len(first_head), *(len(row.name) for row in rows))
    groups = [(label, _widths(label, measures, rows)) for label, measures in _groups(columns)]
    head, heads = " " * width, f"{first_head:<{width}}"
    for label, widths in groups:
        head += f"  {label:>{sum(widths.values())}}"
        heads += "  " + "".join(f"{measure.column:>{wide}}" for measure, wide in widths.items())
    lines = [line for line in (head.rstrip(), heads) if line]
    for row in rows:
        cells = "".join(
            "  " + "".join(f"{row.text(measure):>{wide}}" for measure, wide in widths.items()) for _, widths in groups
        )
        lines.append(f"{row.name:<{width}}{cells}")
        if row.has_intervals:
            halves = "".join(
                "  " + "".join(f"{_half_text(row, measure):>{wide}}" for measure, wide in widths.items())
                for _, widths in groups
            )
            lines.append(f"{'  ± 95%':<{width}}{halves}".rstrip())
    return "\n".join(lines)


def _widths(label: str, measures: Sequence[Measure], rows: Sequence[TableRow]) -> dict[Measure, int]:
    """Characters of each column of a group; the first one is as much wider as the group's heading needs."""
    widths = {}
    for measure in measures:
        texts = [measure.column, *(text for row in rows for text in (row.text(measure), _half_text(row, measure)))]
        widths[measure] = max(_WIDTH, 1 + max(map(len, texts)))
    widths[measures[0]] += max(0, len(label) - sum(widths.values()))
    return widths


def _half_text(row: TableRow, measure: Measure) -> str:
    half = row.half_width(measure)
    return "" if half is None else f"±{half}"


# --- HTML -----------------------------------------------------------------------------------------------------------


def _html(
    first_head: str,
    columns: Sequence[Measure],
    bodies: Sequence[Sequence[TableRow]],
    best: Mapping[str, float],
    note: str,
    approximate: Sequence[str] = (),
) -> Markup:
    """Our rows, bold where they are best, and published ones below; a line is drawn left of each group."""

    def cell(row: TableRow, measure: Measure) -> str:
        text = row.text(measure)
        found = row.measured.get(measure.name)
        if found is None:
            return text
        if row.seed is not None and found.value == best.get(measure.name):
            text = Markup("<b>{}</b>").format(text)
        if found.interval is None:
            return text
        low, high = found.interval
        return Markup("{}<small>{}–{}</small>").format(text, measure.text(low), measure.text(high))

    return render(
        "reports/measure_table.html",
        first_head=first_head,
        groups=_groups(columns),
        bodies=bodies,
        cell=cell,
        width=1 + len(columns),
        note=note,
        approximate=approximate,
    )


# --- what it was measured on ----------------------------------------------------------------------------------------


def _notes(columns: Sequence[Measure], rows: Sequence[TableRow]) -> list[str]:
    """What was measured over what, and how each measure is to be read."""
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    if len(protocols) == 1:
        about = f"{protocols[0][:1].upper()}{protocols[0][1:]}."
    else:
        listed = "; ".join(f"{row.name} {row.protocol}" for row in rows)
        about = f"Rows were measured on different data and cannot be compared: {listed}."
    return [about, *filter(None, dict.fromkeys(measure.rule for measure in columns))]


def _sources(rows: Sequence[TableRow]) -> str:
    return "; ".join(dict.fromkeys(row.source for row in rows))
