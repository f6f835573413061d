"""The stages of a whole experiment, for Prefect or this process alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flows.params.experiment import RebuildParams
from flows.results import RebuildResult, RetrievalResult, StageSummary
from flows.steps.data_stages import DataStages, make_data
from flows.steps.experiments import Experiment, Trainings, submit_experiments
from flows.views.stage_texts import done_text, losses
from tasks.evaluation.retrieval.setting_row import SettingRow
from tasks.extractor import extractor_fingerprint
from tasks.records import CheckpointRef, Stage
from tasks.reports.measure_table import Table
from tasks.reports.report import Scored, write_report
from tasks.reports.retrieval.sections import experiment_sections
from tasks.reports.retrieval.tables import retrieval_table
from tasks.storage.root import Root, Stopwatch

log = logging.getLogger("flows.rebuild")

Outcomes = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Steps:
    """The stages as functions. `report` writes the page, `show` is told the result in the end."""

    data: DataStages
    trainings: Trainings
    report: Callable[[RebuildParams, Sequence[RetrievalResult], Outcomes, Sequence[str]], str]
    show: Callable[[RebuildParams, RebuildResult, Sequence[Table]], None]


def run_rebuild(params: RebuildParams, steps: Steps) -> RebuildResult:
    """Download, extract, pretrain, finetune, evaluate every setting, report. What is finished is not done again."""
    watch = Stopwatch()
    downloads, extractions = make_data(params, steps.data)
    checkpoints, evaluations = _train_and_evaluate(params, steps.trainings)
    outcomes = {summary.name: summary.counts for summary in downloads if summary.stage == Stage.DOWNLOAD}
    tables = setting_tables(evaluations)
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
        report_path=steps.report(params, evaluations, outcomes, losses([*downloads, *extractions])),
        seconds=watch.seconds,
    )
    steps.show(params, result, [retrieval_table(rows) for rows in tables])
    log.info("done now: %s", done_text(result.stages))
    log.info("done before, skipped: %s", done_text(result.stages, skipped=True))
    return result


def _train_and_evaluate(
    params: RebuildParams, trainings: Trainings
) -> tuple[list[CheckpointRef], list[RetrievalResult]]:
    """Run all trainings and evaluations, `params.max_trainings` processes at once."""
    with trainings(params.max_trainings) as submit:
        submitted = submit_experiments(submit, [Experiment(params, setting) for setting in params.settings])
        trained = [experiment.result() for experiment in submitted]
    checkpoints = {checkpoint.run: checkpoint for one in trained for checkpoint in one.checkpoints}
    return list(checkpoints.values()), [one.evaluation for one in trained]


def write_rebuild_report(
    params: RebuildParams, evaluations: Sequence[RetrievalResult], outcomes: Outcomes, lost: Sequence[str]
) -> str:
    """Write the page, with the gallery of the last evaluation; return its full name."""
    extractor, _ = extractor_fingerprint(params.extractor)
    title = f"{params.name}/{params.evaluation_split}"
    root, scored = Root(params.root_uri), [Scored(evaluation.row, extractor) for evaluation in evaluations]
    own = experiment_sections(root, setting_tables(evaluations), scored[-1])
    path = write_report(root, title, own, outcomes, params.model_dump(mode="json"), scored, lost)
    log.info("report: %s", path)
    return path


def setting_tables(evaluations: Sequence[RetrievalResult]) -> list[tuple[SettingRow, ...]]:
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


def _of_evaluation(evaluation: RetrievalResult) -> StageSummary:
    return StageSummary(
        stage=Stage.EVALUATE,
        name=evaluation.row.setting,
        ran=int(not evaluation.skipped),
        skipped=int(evaluation.skipped),
        counts=evaluation.counts(),
    )
