"""The recall table: rows of settings, columns of both directions; as HTML for a page, as text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from model.downstream.retrieval.measures import DIRECTIONS
from model.downstream.retrieval.protocols import protocol_name
from tasks.evaluation.published.retrieval import PublishedRow
from tasks.evaluation.setting_row import SettingRow
from tasks.pages.page import NO_VALUE, render

_SUM = "recall_sum"
_RULE = "Recall@k in percent; a query ranks every candidate, and ties count against it."
_RANKS = "Median and mean are of ranks: 1 is best."
PRECISIONS = (("map_at_r", "mAP@R"), ("r_precision", "R-P"))
_PRECISION_RULE = (
    "Of a query with R true candidates, R-P is the share of true ones among its R best; mAP@R is the mean over queries "
    "of the sum of precisions at the true ones among these, divided by R."
)
_INTERVALS = "Small numbers are 95% bootstrap intervals."


@dataclass(frozen=True)
class _Column:
    """A column of numbers: `name` as in RetrievalMetrics, recalls by those of `flat()`."""

    name: str
    head: str
    is_rank: bool = False

    def text(self, value: float | None) -> str:
        if value is None:
            return NO_VALUE
        return f"{value:,.1f}" if self.is_rank else f"{100 * value:.1f}"


@dataclass(frozen=True)
class _Line:
    """A row of the table: its values by column, and whether it stands for a training run of ours."""

    name: str
    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    trained: bool
    source: str = ""


def recall_table(rows: Sequence[SettingRow], published: Sequence[PublishedRow] = ()) -> Markup:
    """The table as HTML. Of several training runs, the best value of each column is bold.

    Args:
        rows: ours, in the order shown.
        published: of the same data and protocol; they stand below ours under a line of their own.
    """
    if not rows:
        return Markup("<p>No evaluation yet.</p>")
    lines = _with_sums([*(_our_line(row, rows) for row in rows), *map(_published_line, published)])
    ours, theirs = lines[: len(rows)], lines[len(rows) :]
    groups = _column_groups(lines)
    columns = [column for _, group in groups for column in group]
    best = _best(ours, columns)
    notes = [_note(rows)]
    if any(column.is_rank for column in columns):
        notes.append(_RANKS)
    if any(line.intervals for line in ours):
        notes.append(_INTERVALS)
    if theirs:
        notes.append(f"Published: {_sources(theirs)}.")
    bodies = [ours, theirs] if theirs else [ours]
    approximate = dict.fromkeys(f"{row.setting}: {row.approximate}" for row in rows if row.approximate)
    return _table("setting", groups, bodies, best, " ".join(notes), list(approximate))


def published_table(published: Sequence[PublishedRow]) -> Markup:
    """Published rows alone, with their sources below."""
    lines = _with_sums([_published_line(row) for row in published])
    return _table("published", _column_groups(lines), [lines], {}, f"Sources: {_sources(lines)}.")


def table_text(rows: Sequence[SettingRow]) -> str:
    """The table as aligned text for a terminal, in percent, with the protocol below.

    Where there are intervals, half their width stands below each recall.
    """
    if not rows:
        return "no evaluation yet"
    warnings = [f"approximate: {row.approximate}" for row in rows if row.approximate]
    table = _text("setting", _with_sums([_our_line(row, rows) for row in rows]))
    return "\n".join([table, "", _note(rows), *dict.fromkeys(warnings)])


def published_text(published: Sequence[PublishedRow]) -> str:
    """`published_table` as aligned text for a terminal."""
    lines = _with_sums([_published_line(row) for row in published])
    return f"{_text('published', lines)}\n\nSources: {_sources(lines)}."


def _text(first_head: str, lines: Sequence[_Line]) -> str:
    groups = [
        (label, [column for column in group if not column.name.endswith("mean_rank")])
        for label, group in _column_groups(lines)
    ]
    width = max(len(first_head), *(len(line.name) for line in lines))
    head, columns = " " * width, f"{first_head:<{width}}"
    for label, group in groups:
        head += f"  {label:>{7 * len(group)}}"
        columns += "  " + "".join(f"{column.head:>7}" for column in group)
    text = [head.rstrip(), columns]
    for line in lines:
        cells = (
            "  " + "".join(f"{column.text(line.values.get(column.name)):>7}" for column in group) for _, group in groups
        )
        text.append(f"{line.name:<{width}}{''.join(cells)}")
        if line.intervals:
            halves = ("  " + "".join(_half_width(line, column) for column in group) for _, group in groups)
            text.append(f"{'  ± 95%':<{width}}{''.join(halves)}".rstrip())
    return "\n".join(text)


# --- lines and columns ----------------------------------------------------------------------------------------------


def _our_line(row: SettingRow, rows: Sequence[SettingRow]) -> _Line:
    """A setting, named with its seed where the table has that setting more than once."""
    repeated = sum(other.setting == row.setting for other in rows) > 1
    values = _recalls(row.image_to_text, row.text_to_image)
    for direction, _ in DIRECTIONS:
        for kind in ("median_rank", "mean_rank", *(kind for kind, _ in PRECISIONS)):
            value: float | None = getattr(row, f"{direction}_{kind}")
            if value is not None:
                values[f"{direction}_{kind}"] = value
    return _Line(
        name=f"{row.setting} (seed {row.seed})" if repeated and row.seed is not None else row.setting,
        values=values,
        intervals=row.intervals or {},
        trained=row.seed is not None,
    )


def _published_line(row: PublishedRow) -> _Line:
    return _Line(f"{row.model}, {row.setting}", _recalls(row.image_to_text, row.text_to_image), {}, False, row.source)


def _recalls(image_to_text: Mapping[int, float], text_to_image: Mapping[int, float]) -> dict[str, float]:
    values = {f"image_to_text_r{k}": recall for k, recall in image_to_text.items()}
    return values | {f"text_to_image_r{k}": recall for k, recall in text_to_image.items()}


def _with_sums(lines: Sequence[_Line]) -> list[_Line]:
    """The lines with the sum of their recalls, where none is missing: sums over other depths say nothing."""
    depths = _depths(lines)
    names = [f"{direction}_r{k}" for direction, _ in DIRECTIONS for k in depths]
    return [
        replace(line, values={**line.values, _SUM: sum(line.values[name] for name in names)})
        if all(name in line.values for name in names)
        else line
        for line in lines
    ]


def _depths(lines: Sequence[_Line]) -> list[int]:
    matches = (re.fullmatch(r".*_r(\d+)", name) for line in lines for name in line.values)
    return sorted({int(match[1]) for match in matches if match})


def _column_groups(lines: Sequence[_Line]) -> list[tuple[str, list[_Column]]]:
    """Columns by direction, then the sum; those of ranks where some line has them."""
    names = {name for line in lines for name in line.values}
    groups = []
    for direction, label in DIRECTIONS:
        columns = [_Column(f"{direction}_r{k}", f"R@{k}") for k in _depths(lines)]
        columns += [_Column(name, head) for kind, head in PRECISIONS if (name := f"{direction}_{kind}") in names]
        columns += [
            _Column(f"{direction}_{kind}_rank", kind, is_rank=True)
            for kind in ("median", "mean")
            if f"{direction}_{kind}_rank" in names
        ]
        groups.append((label, columns))
    return [*groups, ("", [_Column(_SUM, "sum")])]


def _best(lines: Sequence[_Line], columns: Sequence[_Column]) -> dict[str, float]:
    """The best value of each column among training runs; nothing where there are none to choose from."""
    trained = [line for line in lines if line.trained]
    if len(trained) < 2:
        return {}
    best = {}
    for column in columns:
        values = [line.values[column.name] for line in trained if column.name in line.values]
        if values:
            best[column.name] = min(values) if column.is_rank else max(values)
    return best


# --- HTML -----------------------------------------------------------------------------------------------------------


def _table(
    first_head: str,
    groups: Sequence[tuple[str, Sequence[_Column]]],
    bodies: Sequence[Sequence[_Line]],
    best: Mapping[str, float],
    note: str,
    approximate: Sequence[str] = (),
) -> Markup:
    """Our lines, bold where they are best, and published ones below; a line is drawn left of each group."""

    def cell(line: _Line, column: _Column) -> str:
        value = line.values.get(column.name)
        text = column.text(value)
        if line.trained and value is not None and value == best.get(column.name):
            text = Markup("<b>{}</b>").format(text)
        if column.name not in line.intervals:
            return text
        low, high = line.intervals[column.name]
        return Markup("{}<small>{}–{}</small>").format(text, column.text(low), column.text(high))

    return render(
        "reports/retrieval/recall_table.html",
        first_head=first_head,
        groups=groups,
        bodies=bodies,
        cell=cell,
        width=1 + sum(len(columns) for _, columns in groups),
        note=note,
        approximate=approximate,
    )


def _half_width(line: _Line, column: _Column) -> str:
    if column.name not in line.intervals:
        return " " * 7
    low, high = line.intervals[column.name]
    return f"{f'±{50 * (high - low):.1f}':>7}"


# --- what it was measured on ----------------------------------------------------------------------------------------


def protocol_of(row: SettingRow) -> str:
    """What was ranked over what, such as `1,000 images x 5,000 captions`; see `protocol_name`."""
    text = protocol_name(row.protocol, row.images, row.captions, row.folds, split_images=row.split_images)
    return text if row.positives is None else f"{text}; ground truth: {row.positives}"


def _note(rows: Sequence[SettingRow]) -> str:
    protocols = list(dict.fromkeys(protocol_of(row) for row in rows))
    rule = f"{_RULE} {_PRECISION_RULE}" if any(row.image_to_text_map_at_r is not None for row in rows) else _RULE
    if len(protocols) == 1:
        return f"{protocols[0][0].upper()}{protocols[0][1:]}. {rule}"
    listed = "; ".join(f"{row.setting} {protocol_of(row)}" for row in rows)
    return f"Rows were measured on different data and cannot be compared: {listed}. {rule}"


def _sources(lines: Sequence[_Line]) -> str:
    return "; ".join(dict.fromkeys(line.source for line in lines))
