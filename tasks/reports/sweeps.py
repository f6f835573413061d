"""A sweep's table of variants: for a terminal, as a page and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from pydantic import Field

from model.downstream.measures import TaskMeasures
from model.downstream.tasks import measured_task
from tasks.errors import StageError
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.pages.charts import line_chart
from tasks.pages.page import minute, render
from tasks.records import FIRST_TASK, Record
from tasks.reports.measure_table import Table, published_html, published_text, table_html, table_text
from tasks.reports.parts import task_part
from tasks.storage.paths import sweep_path
from tasks.storage.root import Root


class VariantRow(Record):
    """What came of one variant: what it measured by each protocol, the main one first; nothing: it failed."""

    name: str = Field(description="such as 3 layers")
    value: int | str = Field(description="what was varied, in this variant")
    setting: str = Field(description="zero-shot, task-specific or pretrain+finetune")
    runs: tuple[str, ...] = Field(description="folders of the training runs it needed, in the order of their making")
    recalls: tuple[SettingRow, ...] = Field(default=(), description="of retrieval")
    measured: tuple[TaskMeasures, ...] = Field(default=(), description="of every other task")
    seed: int | None = Field(default=None, description="of the run that was measured; rows of `recalls` have their own")
    error: str | None = Field(default=None, description="why it failed")


class Sweep(Record):
    """The results of all variants."""

    task: str = Field(default=FIRST_TASK, description="that models were measured on")
    ablation: str = Field(description="layers, boxes, settings or objectives")
    name: str = Field(description="of its files under ROOT/sweeps")
    dataset: str = Field(description="that models were measured on")
    split: str
    variants: tuple[VariantRow, ...]
    page_path: str
    created_at: str = Field(description="UTC, ISO 8601")

    @property
    def failed(self) -> list[VariantRow]:
        return [variant for variant in self.variants if variant.error is not None]


class VariantsFailedError(StageError):
    """Some variants of a sweep failed; the others are in its table."""

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
    parts = [_about(sweep), *(table_text(table) for table in sweep_tables(sweep))]
    published = _published(sweep)
    if published is not None:
        title, table = published
        parts.append(f"{title}:\n{published_text(table)}")
    parts += [f"{variant.name} failed: {variant.error}" for variant in sweep.failed]
    return "\n\n".join(parts)


def sweep_tables(sweep: Sweep) -> list[Table]:
    """Rows named by variant, a table for each protocol, that of the main one first."""
    return task_part(sweep.task).sweep_tables(sweep.variants)


def _published(sweep: Sweep) -> tuple[str, Table] | None:
    return task_part(sweep.task).sweep_published(sweep.ablation, sweep.dataset)


def _about(sweep: Sweep) -> str:
    """`Layers, pretrain+finetune on flickr30k/test, seed 0`: what all rows have in common."""
    seeds = sorted({row.seed for table in sweep_tables(sweep) for row in table.rows if row.seed is not None})
    settings = {variant.setting for variant in sweep.variants}
    of = ", ".join([sweep.ablation.capitalize(), *(settings if len(settings) == 1 else ())])
    return ", ".join([f"{of} on {sweep.dataset}/{sweep.split}", *(f"seed {seed}" for seed in seeds)])


def _page(sweep: Sweep, params: Mapping[str, Any]) -> Markup:
    title, published = _published(sweep) or ("", None)
    return render(
        "reports/sweep.html",
        title=_about(sweep),
        note=f"Made at {minute(sweep.created_at)} UTC",
        tables=[table_html(table) for table in sweep_tables(sweep)],
        failed=sweep.failed,
        charts=_charts(sweep),
        published_title=title,
        published=None if published is None else published_html(published),
        params=json.dumps(params, indent=2, ensure_ascii=False),
    )


def _charts(sweep: Sweep) -> list[Markup]:
    """What the task shows in brief over the varied number, by the main protocol; measures of a unit in one chart."""
    task = measured_task(sweep.task)
    values = {variant.name: variant.value for variant in sweep.variants if isinstance(variant.value, int)}
    rows = [row for table in sweep_tables(sweep)[:1] for row in table.rows if row.name in values]
    charts = []
    for unit in dict.fromkeys(measure.unit for measure in task.brief):
        series = {
            measure.group or measure.label: sorted(
                (values[row.name], row.measured[measure.name].value) for row in rows if measure.name in row.measured
            )
            for measure in task.brief
            if measure.unit == unit
        }
        if all(len(points) > 1 for points in series.values()):
            charts.append(line_chart(task.brief_label or task.subject, series, sweep.ablation, unit == "percent"))
    return charts
