"""Results of flows as JSON, for the next flow, the command line and Prefect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from model.downstream.tasks import measured_task
from tasks.evaluation.evaluate import PositivesTable, ProtocolTable
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.records import HistoryRow, Record, ShardRef, Stage
from tasks.reports.measure_table import Table
from tasks.reports.measures import measures_tables
from tasks.reports.retrieval.tables import retrieval_table

SHARD_FAILED = "shard_failed"
"""Among the counts of a summary: rows, or images, whose shard could not be made."""


class FailedShard(Record):
    """A shard that could not be made."""

    ref: ShardRef
    reason: str = Field(description="one line: what was wrong, and often what to do")


class StageSummary(Record):
    """One stage's work for one split, or for one run."""

    stage: Stage
    name: str = Field(description="dataset/split of shards; the run's folder, or the setting, of training and scoring")
    ran: int = Field(description="shards or runs worked on now")
    skipped: int = Field(description="shards or runs that were finished before")
    counts: dict[str, int] = Field(
        default={},
        description="rows by outcome, samples, steps: what the stage counts. shard_failed: those of failed shards",
    )
    failed: tuple[FailedShard, ...] = Field(
        default=(), description="shards that could not be made; what comes after goes on without them, or not at all"
    )


Tables = Callable[[Sequence[StageSummary]], None]
"""Shows what a stage has done for each split: see `flows.views.artifacts`."""


def no_tables(summaries: Sequence[StageSummary]) -> None:
    """Show no tables, where there is no Prefect page."""


class EvaluationResult(Record):
    """One evaluation of a task, by its main protocol."""

    row: HistoryRow
    fall: float | None = Field(
        description="by how much the task's watched measure (mean recall) is worse than that of the best earlier "
        "evaluation of this setting, data and protocol; negative: better; None: there is none"
    )
    comparison: str = Field(description="the same in words")
    report_path: str | None = Field(description="the page of this evaluation; None: none could be made")
    no_report: str | None = Field(default=None, description="why not")
    skipped: bool = Field(description="True where the scores were there before")

    def tables(self) -> list[Table]:
        """What each protocol measured, the main one's first."""
        return measures_tables([self.row])

    def other_tables(self) -> list[tuple[Table, str]]:
        """What else was measured, and what is to be said of it."""
        return []

    def of_variant(self) -> dict[str, Any]:
        """What a sweep keeps of it: fields of a `VariantRow`."""
        measures = measured_task(self.row.task).measures(self.row.metrics)
        return {"measured": tuple(measures), "seed": self.row.seed}

    def counts(self) -> dict[str, int]:
        """How many of what were measured."""
        return {"examples": measured_task(self.row.task).measures(self.row.metrics)[0].examples}


class RetrievalResult(EvaluationResult):
    """One evaluation of retrieval, by its main protocol and the others, and the chance it is to be compared with."""

    table_row: SettingRow
    chance: SettingRow
    also: tuple[ProtocolTable, ...] = Field(default=(), description="what the other protocols measured")
    positives: tuple[PositivesTable, ...] = Field(default=(), description="what other ground truths measured")

    def tables(self) -> list[Table]:
        rows = [(self.chance, self.table_row), *((one.chance, one.row) for one in self.also)]
        return [retrieval_table(shown) for shown in rows]

    def other_tables(self) -> list[tuple[Table, str]]:
        return [(retrieval_table([one.row]), one.unscored) for one in self.positives]

    def of_variant(self) -> dict[str, Any]:
        return {"recalls": (self.table_row, *(table.row for table in self.also))}

    def counts(self) -> dict[str, int]:
        return {"images": self.table_row.images, "captions": self.table_row.captions}


class RebuildResult(Record):
    """The result of a whole experiment."""

    root_uri: str
    table: tuple[SettingRow, ...] = Field(description="chance first")
    outcomes: dict[str, dict[str, int]] = Field(description="dataset/split -> rows by outcome; ok is what arrived")
    stages: tuple[StageSummary, ...]
    report_path: str
    seconds: float = Field(description="wall time, seconds")


class Made(Record):
    """One thing that `setup` checked on the Prefect server, and what it did about it."""

    kind: Literal["work pool", "deployment", "automation"]
    name: str
    done: Literal["made", "changed", "stands"]
    remark: str = ""
