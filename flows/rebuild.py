"""All stages, end to end: rows in, retrieval table and report out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from prefect import flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.artifacts import show_rebuild
from flows.changes import Changes, with_changes
from flows.checks import check_rebuild
from flows.data_stages import make_data
from flows.deployed import begin_run
from flows.params import RebuildParams
from flows.results import EvaluationResult, RebuildResult, StageSummary
from flows.stage_texts import done_text, losses
from flows.trainings import Experiment, submit_experiments
from flows.world import rows_ready
from tasks.extractor import extractor_fingerprint
from tasks.launch import stopping_children
from tasks.records import CheckpointRef, Stage
from tasks.report import Scored, write_report
from tasks.reports.setting_row import SettingRow
from tasks.storage import Root, Stopwatch

log = logging.getLogger(__name__)


@flow(name="rebuild", flow_run_name="rebuild {params.name} in {params.root_uri}")
def rebuild(params: RebuildParams, changes: Changes | None = None) -> RebuildResult:
    """Download, extract, pretrain, finetune, evaluate every setting, report. What stands already is not done again."""
    begin_run()
    params = with_changes(params, changes)
    watch = Stopwatch()
    # Prefect does not hand tags down to subflows.
    with rows_ready(params) as ready, tags(*flow_run.tags):
        check_rebuild(ready)  # Not after days of downloading.
        return _run_stages(ready, watch)


def _run_stages(params: RebuildParams, watch: Stopwatch) -> RebuildResult:
    downloads, extractions = make_data(params)
    checkpoints, evaluations = _train_and_evaluate(params)
    outcomes = {summary.name: summary.counts for summary in downloads}
    tables = _tables(evaluations)
    result = RebuildResult(
        root_uri=params.root_uri,
        table=tables[0],
        outcomes=outcomes,
        stages=(
            *downloads,
            *extractions,
            *(_of_checkpoint(checkpoint) for checkpoint in checkpoints),
            *(_of_evaluation(evaluation) for evaluation in evaluations),
        ),
        report_path=report_task(params, evaluations, outcomes, losses([*downloads, *extractions])),
        seconds=watch.seconds,
    )
    show_rebuild(params, result, tables)
    log.info("done now: %s", done_text(result.stages))
    log.info("done before, skipped: %s", done_text(result.stages, skipped=True))
    return result


def _train_and_evaluate(params: RebuildParams) -> tuple[list[CheckpointRef], list[EvaluationResult]]:
    """Every training run and every evaluation, `params.max_trainings` processes at once."""
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=params.max_trainings)
    with runner, stopping_children():  # The runner waits for its threads, and they for their children.
        submitted = submit_experiments(runner, [Experiment(params, setting) for setting in params.settings])
        trained = [experiment.result() for experiment in submitted]
    checkpoints = {checkpoint.run: checkpoint for one in trained for checkpoint in one.checkpoints}
    return list(checkpoints.values()), [one.evaluation for one in trained]


@task(name="report", task_run_name="report", cache_policy=NO_CACHE)
def report_task(
    params: RebuildParams,
    evaluations: Sequence[EvaluationResult],
    outcomes: dict[str, dict[str, int]],
    lost: Sequence[str],
) -> str:
    """The page, with the gallery of the last evaluation."""
    extractor, _ = extractor_fingerprint(params.extractor)
    title = f"{params.name}/{params.evaluation_split}"
    path = write_report(
        Root(params.root_uri),
        title,
        _tables(evaluations),
        outcomes,
        params.model_dump(mode="json"),
        [Scored(evaluation.row, extractor) for evaluation in evaluations],
        lost,
    )
    log.info("report: %s", path)
    return path


def _tables(evaluations: Sequence[EvaluationResult]) -> list[tuple[SettingRow, ...]]:
    """Chance and every setting, a table for each protocol; that of the main one first."""
    main = (evaluations[0].chance, *(evaluation.table_row for evaluation in evaluations))
    others = zip(*(evaluation.also for evaluation in evaluations), strict=True)
    return [main, *((same[0].chance, *(table.row for table in same)) for same in others)]


def _of_checkpoint(checkpoint: CheckpointRef) -> StageSummary:
    return StageSummary(
        stage=checkpoint.stage,
        name=checkpoint.run,
        ran=int(not checkpoint.skipped),
        skipped=int(checkpoint.skipped),
        counts={"steps": checkpoint.step},
    )


def _of_evaluation(evaluation: EvaluationResult) -> StageSummary:
    return StageSummary(
        stage=Stage.EVALUATE,
        name=evaluation.row.setting,
        ran=int(not evaluation.skipped),
        skipped=int(evaluation.skipped),
        counts={"images": evaluation.table_row.images, "captions": evaluation.table_row.captions},
    )
