"""Retrieval's part of reports: its tables of a sweep, and what the paper has beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from model.downstream.retrieval.measures import RECALL_SUM, mean_recall_of
from tasks.evaluation.retrieval.published import (
    AAAI,
    OBJECTIVES,
    OBJECTIVES_SOURCE,
    PUBLISHED,
    V1,
    PublishedRow,
    published_ablations,
)
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.reports.measure_table import Table, published_row
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
    if ablation == "objectives":
        return _published_objectives()
    rows = _published_rows(ablation, dataset)
    data = dict.fromkeys(f"{row.dataset} {row.protocol}" for row in rows)
    return f"Published, on {' and '.join(data)}", retrieval_table((), rows)


def _published_objectives() -> tuple[str, Table]:
    """The paper prints each direction's mean of recall@1, 5 and 10: their sum, times three, is the recall sum."""
    means = mean_recall_of("image_to_text"), mean_recall_of("text_to_image")
    rows = [
        published_row(
            one.objectives,
            {
                means[0]: one.image_to_text,
                means[1]: one.text_to_image,
                RECALL_SUM: 3 * (one.image_to_text + one.text_to_image),
            },
            OBJECTIVES_SOURCE,
        )
        for one in OBJECTIVES
    ]
    return "Published, on flickr30k/val, means of R@1, R@5 and R@10", Table((*means, RECALL_SUM), (), tuple(rows))


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
