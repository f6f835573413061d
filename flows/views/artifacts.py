"""Artifacts of a run on Prefect's page, beside its progress bars: tables of its stages, and a card of results.

An artifact is found again by its key: a run that makes it anew adds a version. Only runs of flows make any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.params.experiment import RebuildParams
from flows.results import EvaluationResult, FailedShard, RebuildResult, StageSummary
from flows.views.markdown import code, escaped
from flows.views.progress import counts_text
from flows.views.result_card import evaluation_card, measures_note, rebuild_card, stage_rows, table_rows
from tasks.records import FIRST_TASK, Outcome, Stage
from tasks.reports.curves import runs_behind
from tasks.reports.long_texts import dropped_captions
from tasks.reports.measure_table import Table
from tasks.reports.run_warnings import run_warnings
from tasks.storage.root import Root

MOST_FAILED = 1_000
"""Rows of the table of failed shards: an artifact is one field of the server's database."""


def artifact_key(*parts: str) -> str:
    """A key such as `shards-download`: Prefect takes lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def stage_tables(summaries: Sequence[StageSummary]) -> None:
    """Tables of a stage that works shard by shard: its shards, the failed ones, and a download's outcomes."""
    stage = summaries[0].stage
    create_table_artifact(
        key=artifact_key("shards", stage),
        table=[_shards_row(summary) for summary in summaries],
        description=f"{stage.value.capitalize()}: what was done with the shards of each split",
    )
    if stage == Stage.DOWNLOAD:
        create_table_artifact(
            key="outcomes",
            table=[_outcomes_row(summary) for summary in summaries],
            description="What became of the rows of each split, as far as its shards are finished",
        )
    failed = [one for summary in summaries for one in summary.failed]
    if failed:
        first = f"; these are the first {MOST_FAILED:,}" if len(failed) > MOST_FAILED else ""
        create_table_artifact(
            key=artifact_key("failed-shards", stage),
            table=[_failed_row(one) for one in failed[:MOST_FAILED]],
            description=f"Shards that failed: {len(failed):,}{first}. Mend what the reason names, then run the same "
            "again or retry this run: it works on these and no others",
        )


def show_rebuild(params: RebuildParams, result: RebuildResult, tables: Sequence[Table]) -> None:
    """What was measured, what each stage did, and the card, of a whole experiment."""
    for number, table in enumerate(tables):
        create_table_artifact(
            key=FIRST_TASK if number == 0 else artifact_key(FIRST_TASK, table.qualifier),
            table=table_rows(table),
            description=f"{escaped(table.protocol)}. {measures_note(FIRST_TASK)}",
        )
    create_table_artifact(
        key="stages",
        table=[
            {**row, "holds": counts_text(summary.counts)}
            for row, summary in zip(stage_rows(result.stages), result.stages, strict=True)
        ],
        description="What was done by this run, and what was done before: shards, training runs and evaluations",
    )
    root = Root(params.root_uri)
    pretrained, finetuned = (
        [summary.name for summary in result.stages if summary.stage == stage]
        for stage in (Stage.PRETRAIN, Stage.FINETUNE)
    )
    create_markdown_artifact(
        key="result",
        markdown=rebuild_card(
            params,
            result,
            tables,
            run_warnings(root, pretrained),
            dropped_captions(root, [*pretrained, *finetuned]),
        ),
        description="What came of the experiment",
    )


def show_evaluation(root_uri: str, result: EvaluationResult) -> None:
    """Show the card of one evaluation."""
    row, root = result.row, Root(root_uri)
    create_markdown_artifact(
        key=artifact_key("result", row.name, row.dataset, row.split),
        markdown=evaluation_card(root_uri, result, run_warnings(root, runs_behind(root, row.run))),
        description=f"What came of scoring {code(row.run)}",
    )


def _shards_row(summary: StageSummary) -> dict[str, Any]:
    failed = len(summary.failed)
    return {
        "split": code(summary.name),
        "shards": summary.ran + summary.skipped + failed,
        "done now": summary.ran,
        "done before": summary.skipped,
        "failed": failed,
        "holds": counts_text(summary.counts),
    }


def _outcomes_row(summary: StageSummary) -> dict[str, Any]:
    rows, ok = sum(summary.counts.values()), summary.counts.get(Outcome.OK, 0)
    lost = {outcome: number for outcome, number in summary.counts.items() if outcome != Outcome.OK}
    return {
        "split": code(summary.name),
        "rows": rows,
        "with an image": ok,
        "share": f"{ok / rows:.1%}" if rows else "",
        "lost": counts_text(lost),
    }


def _failed_row(failed: FailedShard) -> dict[str, Any]:
    ref = failed.ref
    return {
        "split": code(f"{ref.dataset}/{ref.split}"),
        "shard": f"{ref.shard:05d}",
        "reason": escaped(failed.reason),
    }
