"""The table of a sweep, as variants of one experiment came out: for a terminal, as a page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup
from pydantic import Field

from model.downstream.retrieval.measures import DIRECTIONS, Direction
from tasks.errors import StageError
from tasks.evaluation.published.retrieval import AAAI, PUBLISHED, V1, PublishedRow, published_ablations
from tasks.evaluation.setting_row import SettingRow
from tasks.pages.charts import line_chart
from tasks.pages.page import minute, render
from tasks.records import Record
from tasks.reports.retrieval.recall_table import published_table, published_text, recall_table, table_text
from tasks.storage.paths import sweep_path
from tasks.storage.root import Root


class VariantRow(Record):
    """What came of one variant."""

    name: str = Field(description="such as 3 layers")
    value: int | str = Field(description="what was varied, in this variant")
    setting: str = Field(description="zero-shot, task-specific or pretrain+finetune")
    runs: tuple[str, ...] = Field(description="folders of the training runs it needed, in the order of their making")
    recalls: tuple[SettingRow, ...] = Field(description="one for each protocol, the main one first; none: it failed")
    error: str | None = Field(default=None, description="why it failed")


class Sweep(Record):
    """What came of all of them."""

    ablation: str = Field(description="layers, boxes or settings")
    name: str = Field(description="of its files under ROOT/sweeps")
    dataset: str = Field(description="that recall was measured on")
    split: str
    variants: tuple[VariantRow, ...]
    page_path: str
    created_at: str = Field(description="UTC, ISO 8601")

    @property
    def failed(self) -> list[VariantRow]:
        return [variant for variant in self.variants if variant.error is not None]


class VariantsFailedError(StageError):
    """Some variants of a sweep failed; the others stand in its table."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self.sweep = sweep

    def __str__(self) -> str:
        failed = self.sweep.failed
        first = f"{failed[0].name}: {failed[0].error}"
        return (
            f"{len(failed)} of {len(self.sweep.variants)} variants failed ({', '.join(one.name for one in failed)}); "
            f"the same command does only these again. {first}"
        )


def publish_sweep(root: Root, sweep: Sweep, params: Mapping[str, Any]) -> None:
    """Write ROOT/sweeps/NAME.html, and NAME.json beside it with the sweep and its parameters.

    Args:
        params: JSON-able, of the whole sweep.
    """
    content = json.dumps(sweep.model_dump(mode="json") | {"params": params}, indent=2, ensure_ascii=False)
    root.publish_bytes(sweep_path(sweep.name, "json"), f"{content}\n".encode())
    root.publish_bytes(sweep_path(sweep.name, "html"), _page(sweep, params).encode())


def sweep_text(sweep: Sweep) -> str:
    """The tables as aligned text, one for each protocol, then the published one, then what failed."""
    parts = [_about(sweep), *(table_text(rows) for rows in _tables(sweep))]
    published = _published(sweep)
    parts.append(f"{_published_title(published)}:\n{published_text(published)}")
    parts += [f"{variant.name} failed: {variant.error}" for variant in sweep.failed]
    return "\n\n".join(parts)


def _about(sweep: Sweep) -> str:
    """`Layers, pretrain+finetune on flickr30k/test, seed 0`: what all rows have in common."""
    seeds = sorted({row.seed for variant in sweep.variants for row in variant.recalls if row.seed is not None})
    settings = {variant.setting for variant in sweep.variants}
    of = ", ".join([sweep.ablation.capitalize(), *(settings if len(settings) == 1 else ())])
    return ", ".join([f"{of} on {sweep.dataset}/{sweep.split}", *(f"seed {seed}" for seed in seeds)])


def _tables(sweep: Sweep) -> list[list[SettingRow]]:
    """Rows named by variant, a table for each protocol."""
    tables: dict[str, list[SettingRow]] = {}
    for variant in sweep.variants:
        for row in variant.recalls:
            tables.setdefault(row.protocol, []).append(row.model_copy(update={"setting": variant.name}))
    return list(tables.values())


def _page(sweep: Sweep, params: Mapping[str, Any]) -> Markup:
    published = _published(sweep)
    return render(
        "reports/sweep.html",
        title=_about(sweep),
        note=f"Made at {minute(sweep.created_at)} UTC",
        tables=[recall_table(rows) for rows in _tables(sweep)],
        failed=sweep.failed,
        chart=_chart(sweep),
        published_title=_published_title(published),
        published=published_table(published),
        params=json.dumps(params, indent=2, ensure_ascii=False),
    )


def _chart(sweep: Sweep) -> Markup | None:
    """Recall@1 over the varied number, by the main protocol."""
    points: dict[Direction, list[tuple[float, float]]] = {direction: [] for direction, _ in DIRECTIONS}
    for variant in sweep.variants:
        if isinstance(variant.value, int) and variant.recalls:
            for direction, _ in DIRECTIONS:
                points[direction].append((variant.value, variant.recalls[0].recalls(direction)[1]))
    if len(points["image_to_text"]) < 2:
        return None
    series = {label: sorted(points[direction]) for direction, label in DIRECTIONS}
    return line_chart("recall@1", series, sweep.ablation, percent=True)


# --- what the paper has ---------------------------------------------------------------------------------------------


def _published(sweep: Sweep) -> list[PublishedRow]:
    """The paper's rows of this ablation. Layers and boxes were varied on one dataset only, whatever ours is."""
    if sweep.ablation == "settings":
        of_paper = [row for row in PUBLISHED if row.model in (V1, AAAI)]
        same = [row for row in of_paper if row.dataset == sweep.dataset]
        return same or [row for row in of_paper if row.dataset == "flickr30k"]
    found = published_ablations({"boxes": "regions"}.get(sweep.ablation, sweep.ablation))
    return [
        replace(one.row, model=f"{one.value} {sweep.ablation}, {one.row.model.removeprefix('Unicoder-VL, ')}")
        for one in found
    ]


def _published_title(published: Sequence[PublishedRow]) -> str:
    data = dict.fromkeys(f"{row.dataset} {row.protocol}" for row in published)
    return f"Published, on {' and '.join(data)}"
