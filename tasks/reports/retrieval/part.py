"""Retrieval's part of reports: its tables of a sweep, and what the paper has beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.evaluation.retrieval.published import AAAI, PUBLISHED, V1, PublishedRow, published_ablations
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.reports.measure_table import Table
from tasks.reports.parts import TaskPart
from tasks.reports.retrieval.tables import retrieval_table

if TYPE_CHECKING:
    from tasks.reports.sweeps import VariantRow


def _tables(variants: Sequence[VariantRow]) -> list[Table]:
    """Rows named by variant, a table for each protocol."""
    tables: dict[str, list[SettingRow]] = {}
    for variant in variants:
        for row in variant.recalls:
            tables.setdefault(row.protocol, []).append(row.model_copy(update={"setting": variant.name}))
    return [retrieval_table(rows) for rows in tables.values()]


def _published(ablation: str, dataset: str) -> tuple[str, Table]:
    rows = _published_rows(ablation, dataset)
    data = dict.fromkeys(f"{row.dataset} {row.protocol}" for row in rows)
    return f"Published, on {' and '.join(data)}", retrieval_table((), rows)


def _published_rows(ablation: str, dataset: str) -> list[PublishedRow]:
    """The paper's rows of an ablation. Layers and boxes were varied on one dataset only, whatever ours is."""
    if ablation == "settings":
        of_paper = [row for row in PUBLISHED if row.model in (V1, AAAI)]
        same = [row for row in of_paper if row.dataset == dataset]
        return same or [row for row in of_paper if row.dataset == "flickr30k"]
    found = published_ablations({"boxes": "regions"}.get(ablation, ablation))
    return [
        replace(one.row, model=f"{one.value} {ablation}, {one.row.model.removeprefix('Unicoder-VL, ')}")
        for one in found
    ]


PART = TaskPart(sweep_tables=_tables, sweep_published=_published)
